"""The reference: k-means in plain float64 loops over rows and centers, slow and easy to check.

Tests compare the library with it. It imports nothing from the library. Rows and centers are
anything that NumPy can convert to 2-D, and a metric is "squared_euclidean" or "cosine". Among equal
distances the lowest cluster index is taken.
"""

import math

import numpy as np

COSINE = "cosine"
EUCLIDEAN = "squared_euclidean"
METRICS = (EUCLIDEAN, COSINE)


def unit(row):
    """Return the row scaled to length one; a zero row stays zero."""
    scale = 1.0 / math.sqrt(max(sum(x * x for x in row), 1e-12))
    return [x * scale for x in row]


def units(rows):
    """Return all rows, each scaled to length one."""
    return np.array([unit(row) for row in floats(rows)])


def floats(rows):
    """Return the rows as lists of Python floats, which are float64."""
    return np.asarray(rows, np.float64).tolist()


def distance(row, center, metric):
    """Return the squared Euclidean distance, or 1 - u.v clipped to [0, 2]."""
    if metric == COSINE:
        cosine = sum(x * y for x, y in zip(unit(row), unit(center), strict=True))
        return min(max(1.0 - cosine, 0.0), 2.0)
    return sum((x - y) * (x - y) for x, y in zip(row, center, strict=True))


def distances(rows, centers, metric):
    """Return the distance of each row to each center, (n, k)."""
    centers = floats(centers)
    return np.array([[distance(row, c, metric) for c in centers] for row in floats(rows)])


def nearest(rows, centers, metric):
    """Return each row's cluster index and its distance to that center, (n,) and (n,)."""
    indices, smallest = [], []
    for row in distances(rows, centers, metric).tolist():
        best = 0
        for j, distance_to_j in enumerate(row):
            if distance_to_j < row[best]:
                best = j
        indices.append(best)
        smallest.append(row[best])
    return np.array(indices, np.int64), np.array(smallest)


def loss(rows, centers, metric):
    """Return the sum of the distances to the nearest centers."""
    return math.fsum(nearest(rows, centers, metric)[1])


def partial_sums(rows, centers, metric):
    """Return each cluster's sum of rows (cosine: scaled to length one) and number of rows."""
    indices, _ = nearest(rows, centers, metric)
    points = [unit(row) for row in floats(rows)] if metric == COSINE else floats(rows)
    sums, counts = np.zeros(np.shape(centers)), np.zeros(len(centers), np.int64)
    for j in range(len(centers)):
        members = [point for point, index in zip(points, indices, strict=True) if index == j]
        counts[j] = len(members)
        for column in range(sums.shape[1]):
            sums[j, column] = math.fsum(point[column] for point in members)
    return sums, counts


def full_batch_step(rows, centers, metric):
    """Compute one Lloyd iteration; return the centers after it, and the loss before it."""
    sums, counts = partial_sums(rows, centers, metric)
    moved = np.array(floats(centers))
    for j, count in enumerate(counts):
        if count:
            mean = [x / count for x in sums[j]]
            moved[j] = unit(mean) if metric == COSINE else mean
    return moved, loss(rows, centers, metric)


def mini_batch_step(rows, centers, counts, metric):
    """Compute a step of running means; return centers and counts after it, and the loss before."""
    sums, assigned = partial_sums(rows, centers, metric)
    moved, counts = np.array(floats(centers)), np.array(counts)
    for j, m in enumerate(assigned):
        if m:
            moved[j] += (sums[j] - m * moved[j]) / (counts[j] + m)
            counts[j] += m
    return moved, counts, loss(rows, centers, metric)


def mini_batch_iteration(batches, centers, metric):
    """Compute N steps with the same centers; return the centers after them, and the losses."""
    moved, _ = full_batch_step(np.concatenate(batches), centers, metric)
    return moved, [loss(batch, centers, metric) for batch in batches]


def farthest(rows, centers, metric):
    """Return the distinct rows that differ from their centers, the farthest first.

    Rows at equal distances are sorted by their bytes. Each item is the row, its distance, its
    cluster index, and the number of its copies.
    """
    found = {}
    points = [unit(row) for row in floats(rows)] if metric == COSINE else floats(rows)
    for point, index, far in zip(points, *nearest(rows, centers, metric), strict=True):
        if far > (1e-14 if metric == COSINE else 0.0):
            point = tuple(x + 0.0 for x in point)
            copies = found[point][3] if point in found else 0
            found[point] = (np.array(point), far, int(index), copies + 1)
    return sorted(found.values(), key=lambda each: (-each[1], each[0].tobytes()))


def relocating_step(rows, centers, metric):
    """Compute a full-batch step that moves each empty cluster to the farthest row that is free.

    A row is free if its cluster also has rows that differ from it.
    """
    sums, counts = partial_sums(rows, centers, metric)
    empty = [j for j, count in enumerate(counts) if count == 0]
    for row, _, donor, copies in farthest(rows, centers, metric):
        if empty and counts[donor] > copies:
            receiver = empty.pop(0)
            sums[donor], counts[donor] = sums[donor] - copies * row, counts[donor] - copies
            sums[receiver], counts[receiver] = copies * row, copies
    moved = np.array(floats(centers))
    for j, count in enumerate(counts):
        if count:
            moved[j] = unit(sums[j] / count) if metric == COSINE else sums[j] / count
    return moved, counts
