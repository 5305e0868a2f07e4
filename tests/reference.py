"""k-means in plain float64 loops, row by row and center by center: slow, and easy to believe.

It knows nothing of the library. Rows and centers are anything NumPy can make 2-D, a metric is
"squared_euclidean" or "cosine", and of equal centers the lowest index wins.
"""

import math

import numpy as np

COSINE = "cosine"
EUCLIDEAN = "squared_euclidean"
METRICS = (EUCLIDEAN, COSINE)


def unit(row):
    """The row scaled to length one; a zero row stays zero."""
    scale = 1.0 / math.sqrt(max(sum(x * x for x in row), 1e-12))
    return [x * scale for x in row]


def units(rows):
    """Every row scaled to length one."""
    return np.array([unit(row) for row in floats(rows)])


def floats(rows):
    """Rows as lists of Python floats, which are float64."""
    return np.asarray(rows, np.float64).tolist()


def distance(row, center, metric):
    """Squared Euclidean distance, or 1 - u.v kept within [0, 2]."""
    if metric == COSINE:
        cosine = sum(x * y for x, y in zip(unit(row), unit(center), strict=True))
        return min(max(1.0 - cosine, 0.0), 2.0)
    return sum((x - y) * (x - y) for x, y in zip(row, center, strict=True))


def distances(rows, centers, metric):
    """The distance of each row to each center, (n, k)."""
    centers = floats(centers)
    return np.array([[distance(row, c, metric) for c in centers] for row in floats(rows)])


def nearest(rows, centers, metric):
    """Each row's nearest center and its distance to it, (n,) and (n,)."""
    index, least = [], []
    for row in distances(rows, centers, metric).tolist():
        best = 0
        for j, apart in enumerate(row):
            if apart < row[best]:
                best = j
        index.append(best)
        least.append(row[best])
    return np.array(index, np.int64), np.array(least)


def loss(rows, centers, metric):
    """The sum of the distances to the nearest center."""
    return math.fsum(nearest(rows, centers, metric)[1])


def partial_sums(rows, centers, metric):
    """What each center won: the sums of its rows (cosine: of length one), and their number."""
    index, _ = nearest(rows, centers, metric)
    points = [unit(row) for row in floats(rows)] if metric == COSINE else floats(rows)
    sums, counts = np.zeros(np.shape(centers)), np.zeros(len(centers), np.int64)
    for j in range(len(centers)):
        own = [point for point, winner in zip(points, index, strict=True) if winner == j]
        counts[j] = len(own)
        for column in range(sums.shape[1]):
            sums[j, column] = math.fsum(point[column] for point in own)
    return sums, counts


def full_batch_step(rows, centers, metric):
    """One Lloyd iteration: the centers after it, and the loss before it."""
    sums, counts = partial_sums(rows, centers, metric)
    moved = np.array(floats(centers))
    for j, won in enumerate(counts):
        if won:
            mean = [x / won for x in sums[j]]
            moved[j] = unit(mean) if metric == COSINE else mean
    return moved, loss(rows, centers, metric)


def mini_batch_step(rows, centers, counts, metric):
    """One step of running means: centers and counts after it, and the loss before it."""
    sums, won = partial_sums(rows, centers, metric)
    moved, counts = np.array(floats(centers)), np.array(counts)
    for j, m in enumerate(won):
        if m:
            moved[j] += (sums[j] - m * moved[j]) / (counts[j] + m)
            counts[j] += m
    return moved, counts, loss(rows, centers, metric)


def mini_batch_iteration(batches, centers, metric):
    """N steps against the same centers: the centers after them, and each step's loss."""
    moved, _ = full_batch_step(np.concatenate(batches), centers, metric)
    return moved, [loss(batch, centers, metric) for batch in batches]


def farthest(rows, centers, metric):
    """The different rows that are not at their centers, the farthest first, equally far ones by
    their bytes: each with its distance, its center, and how many are equal to it."""
    found = {}
    points = [unit(row) for row in floats(rows)] if metric == COSINE else floats(rows)
    for point, winner, apart in zip(points, *nearest(rows, centers, metric), strict=True):
        if apart > (1e-14 if metric == COSINE else 0.0):
            point = tuple(x + 0.0 for x in point)
            copies = found[point][3] if point in found else 0
            found[point] = (np.array(point), apart, int(winner), copies + 1)
    return sorted(found.values(), key=lambda each: (-each[1], each[0].tobytes()))


def relocating_step(rows, centers, metric):
    """A full-batch step that gives each empty cluster the farthest row that can be spared."""
    sums, counts = partial_sums(rows, centers, metric)
    empty = [j for j, won in enumerate(counts) if won == 0]
    for row, _, giver, copies in farthest(rows, centers, metric):
        if empty and counts[giver] > copies:
            taker = empty.pop(0)
            sums[giver], counts[giver] = sums[giver] - copies * row, counts[giver] - copies
            sums[taker], counts[taker] = copies * row, copies
    moved = np.array(floats(centers))
    for j, won in enumerate(counts):
        if won:
            moved[j] = unit(sums[j] / won) if metric == COSINE else sums[j] / won
    return moved, counts
