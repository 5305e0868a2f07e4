"""The kernel `reassign`: finds nearest centers by the bounds of an earlier iteration.

Called by `bounds`. Each row has an upper bound of the distance to its own center, and for each
group of centers a lower bound of the distances to the others of the group (Ding et al., Yinyang
K-Means, 2015). Centers move, so bounds widen: the upper bound by the movement of the center, the
lower bound by the largest movement in the group. A row whose upper bound is below all its lower
bounds keeps its center, and is not read. The other groups of a row are suspect: only suspect pairs
of a row and a group are scored. The score of a row x and a center c is |c|^2 / 2 - x.c, half of
their squared distance without |x|^2.

The cluster indices have the same bits as those of `kernels.assign`: bounds are widened by more than
all rounding errors, a row is skipped only if they strictly exclude other centers, and a row whose
best scores are closer than their rounding error gets exact distances (docs/decisions/001).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends.native import group_vectors, llvm_code, sum_vectors
from dkmeans.backends.native.ambiguous_rows import NO_CENTER
from dkmeans.backends.native.compilation import compiled, inlined, kernel
from dkmeans.backends.native.exact_distances import DistanceParts, distance_to, row_scale
from dkmeans.backends.native.group_vectors import GROUP
from dkmeans.state import FloatArray, IndexArray

# Upper bounds are rounded up and lower bounds down, by more than the rounding of the operations
# that compute them.
_UP = np.float32(1 + 1e-6)
_DOWN = np.float32(1 - 1e-6)
# Distances below this are not told apart: float32 has few bits there.
_SMALLEST = np.float32(1e-36)
# Number of rows of a strip. The bounds of all of them are compared, and the suspect rows are
# prefetched, before the first one is read.
STRIP = 64
_INFINITE = np.float32(np.inf)


class GroupedCenters(NamedTuple):
    """Centers in groups of 16 neighbors, in the layout that the kernel reads.

    Attributes:
        weights: float32. The negative shifted centers, group by group, and in each group feature by
            feature; then four features of zeros, as the kernel reads four at a time.
        halves: (16 groups,) float32. |c|^2 / 2 of the shifted centers, 0 for cosine. Very large
            where a group has no center.
        members: (16 groups,) int64. The indices of the centers; -1 where there is none.
        group_of: (k,) int64. The group of each center.
        shift: (d,) in the rows' dtype. Subtracted from every row before scoring.
        values: (k, d padded to a multiple of 16) float32. The shifted centers.
        exact: (k, d) float64. The centers that exact distances are measured to.
        error_factor, error_floor, error_exact: As in `kernels.PackedCenters`.
        error_squares: Relative error of a row's squared length and distance.
        error_length: Error of a row's distance, relative to the lengths of row and center.
        slack: Added to the squared distances of upper bounds, so that a center that bounds exclude
            is farther by exact distances too. Above 0 for cosine only, where the rounding errors of
            exact distances are absolute.
        largest_norm: Largest |c| of the shifted centers.
        largest_half: Largest |c|^2 / 2.
        score_limit: As in `kernels.PackedCenters`.
        own_square: What |c|^2 adds to squared distances and not to scores: 1 for cosine, else 0.
        cosine: True if rows are scaled to length one.
        zero: (1, d) float64. A center at the origin.
    """

    weights: FloatArray
    halves: FloatArray
    members: IndexArray
    group_of: IndexArray
    shift: FloatArray
    values: FloatArray
    exact: FloatArray
    error_factor: float
    error_floor: float
    error_exact: float
    error_squares: float
    error_length: float
    slack: float
    largest_norm: float
    largest_half: float
    score_limit: float
    own_square: float
    cosine: bool
    zero: FloatArray


class Movement(NamedTuple):
    """How far centers have moved.

    A lower bound is stored as the bound plus the `added` of the iteration that makes the bound. The
    stored value minus the `reach` of a later iteration is a lower bound for the centers of that
    iteration. So stored values need not be written again when centers move.

    Attributes:
        of_centers: (k,) float32. The movement of each center since the upper bounds were made.
        added: (groups padded to a multiple of 16,) float32. The sum of the largest movements of the
            centers of each group, from the first iteration to this one.
        reach: Of the same shape. `added` rounded up, as it is subtracted from lower bounds.
    """

    of_centers: FloatArray
    added: FloatArray
    reach: FloatArray


class RowBounds(NamedTuple):
    """Clusters and bounds of n rows.

    Attributes:
        nearest: (n,) int32, the cluster of each row.
        sizes: (k,) int64, the number of rows of each cluster.
        upper: (n,) float32, upper bounds of the distances to these centers.
        lower: (n, groups) uint16, for each group a lower bound of the distances to its other
            centers, as the upper half of a float32. 16 more elements follow in memory, as
            kernels read whole vectors. For `reassign_few` it is the transposed view of an array
            (groups, n).
    """

    nearest: IndexArray
    sizes: IndexArray
    upper: FloatArray
    lower: IndexArray


class BlockScratch(NamedTuple):
    """Work arrays for blocks of b scored rows with d columns, g groups, and tiles of h rows.

    A block ends when its slots are used. Skipped rows use no slot. So the lists of a block are long
    enough to fill tiles, however many rows are skipped.

    Attributes:
        rows: (b, d padded to a multiple of 16) float32. Rows of a block that are scored: the slots.
        squares: (b,) float32. What is added to twice a score to make a squared distance.
        margins: (b,) float32. The error bound of a row's scores.
        scales: (1,) in the rows' dtype. The factor that gives a row the length one for cosine,
            else 1.
        exact_scales: (b,) float64. The factors of the rows in the slots.
        suspects: (b,) int64. Suspect rows: of one strip (`reassign`), or of many (`reassign_few`).
        slots: (b,) int64. The row in each slot.
        own: (b,) float32. The squared Euclidean distance of a row to its own center.
        scores_own: (b,) bool. True if the group of the row's own center is scored.
        best: (b,) float32. The least score of each row. Its last four bits are the number of the
            center in its group.
        best_group: (b,) int64. The group of that center; -1 for the row's own center.
        second: (b,) float32. The second least score.
        best_lower: (b,) uint16. A lower bound for the other centers of `best_group`.
        lists: (g, b) int16. Slots that are scored against each group.
        lengths: (g,) int64. Number of slots on each list.
        masks: (v + 1,) int64, where v is a 16th of the padded number of groups. Suspect groups of a
            row, 16 in each number; the last number is not 0 if there is any.
        tile: float32. Rows of a tile, as `group_vectors.copy_row` lays them.
        tile_slots: (16,) int64. The slots of the tile's rows.
        tile_squares: (16,) float32. Their `squares`.
        tile_margins: (16,) float32. Their `margins`.
        least: (2, 16) float32. The least and the second least score of each row of a tile.
        tile_lower: (2, 16) uint16. A lower bound for all centers of the group, and one for all but
            the nearest, of each row of a tile.
        scores: (16,) float32. The scores of one row and a group.
        as_bits: (2,) uint32, the memory of `as_floats`: to take a float32 apart. Element 0 is for
            bounds, element 1 for a score.
        as_floats: (2,) float32.
        distance_parts: For exact distances.
        counts: (2,) int64. Rows and pairs that the last call has scored.
    """

    rows: FloatArray
    squares: FloatArray
    margins: FloatArray
    scales: FloatArray
    exact_scales: FloatArray
    suspects: IndexArray
    slots: IndexArray
    own: FloatArray
    scores_own: IndexArray
    best: FloatArray
    best_group: IndexArray
    second: FloatArray
    best_lower: IndexArray
    lists: IndexArray
    lengths: IndexArray
    masks: IndexArray
    tile: FloatArray
    tile_slots: IndexArray
    tile_squares: FloatArray
    tile_margins: FloatArray
    least: FloatArray
    tile_lower: IndexArray
    scores: FloatArray
    as_bits: IndexArray
    as_floats: FloatArray
    distance_parts: DistanceParts
    counts: IndexArray


@inlined
def _root(square: Any) -> Any:
    """Return an upper bound of a length, given its square."""
    return np.float32(np.sqrt(square)) * _UP + _SMALLEST


@inlined
def _own_score(slot: int, scratch: Any) -> Any:
    """Return the score of a slot's row and its own center, by their distance."""
    return np.float32(0.5) * (scratch.own[slot] - scratch.squares[slot])


@inlined
def _decoded(bound: Any, scratch: Any) -> Any:
    """Return a lower bound as float32."""
    scratch.as_bits[0] = np.uint32(bound) << np.uint32(16)
    return scratch.as_floats[0]


@inlined
def encoded(value: Any, scratch: Any) -> Any:
    """Return a bound that is not negative, rounded down to 16 bits."""
    scratch.as_floats[0] = value
    return np.uint16(scratch.as_bits[0] >> np.uint32(16))


@inlined
def lay(points: Any, row: int, slot: Any, cluster: Any, centers: Any, scratch: Any) -> Any:
    """Copy a row to a slot, with its distance to a center and the error bound of its scores.

    Returns:
        An upper bound of the distance.
    """
    scale = row_scale(points, row, centers, scratch.distance_parts)
    scratch.exact_scales[slot] = scratch.scales[0] = scale
    group_vectors.lay_row(
        points, row, scratch.scales, centers.shift, centers.values, cluster, slot, scratch.rows,
        scratch.squares, scratch.own,
    )  # fmt: skip
    square = np.float64(scratch.squares[slot])
    norm = np.sqrt(square)
    score_size = norm * centers.largest_norm + centers.largest_half
    error = centers.error_factor * score_size + centers.error_floor
    error += centers.error_exact * (norm + centers.largest_norm) ** 2
    error += centers.error_squares * square
    # The comparison is false for NaN. An infinite margin makes the lower bounds zero and the row
    # ambiguous: exact distances then decide.
    scratch.margins[slot] = error if score_size < centers.score_limit else np.inf
    scratch.squares[slot] = square + centers.own_square
    scratch.slots[slot] = row
    own = scratch.own[slot] * (1.0 + centers.error_squares) + centers.slack
    return _root(own) + np.float32(centers.error_length * (norm + centers.largest_norm))


@inlined
def _scan(points: Any, start: int, stop: int, movement: Any, bounds: Any, scratch: Any) -> Any:
    """Widen the bounds of a strip of rows, and write those that have suspect groups to `suspects`.

    Returns:
        The number of suspects.
    """
    # A mask has 16 groups, as many as a group has centers.
    words, d, found = len(movement.reach) // GROUP, points.shape[1], 0
    line = llvm_code.CACHE_LINE_BYTES // points.itemsize
    for row in range(start, stop):
        upper = (bounds.upper[row] + movement.of_centers[bounds.nearest[row]]) * _UP
        bounds.upper[row] = upper
        group_vectors.find_suspects(bounds.lower, row, movement.reach, upper, words, scratch.masks)
        # Written for each row: the next row overwrites one that is not suspect.
        scratch.suspects[found] = row
        if scratch.masks[words] != 0:
            found += 1
            # The caller reads these rows next.
            for column in range(0, d, line):
                llvm_code.prefetch(points, row * d + column)
    return found


@inlined
def _collect(
    points: Any, first: int, centers: Any, movement: Any, bounds: Any, scratch: Any
) -> Any:
    """Fill the slots with rows that have suspect groups, and list these groups.

    Args:
        points: The rows.
        first: The first row that is looked at.
        centers: The centers.
        movement: Movement of the centers.
        bounds: The bounds.
        scratch: Work arrays.

    Returns:
        The number of slots that are used, and the row after the last one that was looked at.
    """
    words, n, start, used = len(movement.reach) // GROUP, len(points), first, 0
    while start < n and used + STRIP <= len(scratch.slots):
        stop = min(start + STRIP, n)
        suspects = _scan(points, start, stop, movement, bounds, scratch)
        for number in range(suspects):
            row = scratch.suspects[number]
            cluster = np.int64(bounds.nearest[row])
            bounds.upper[row] = lay(points, row, used, cluster, centers, scratch)
            # Many rows that are suspect by their widened upper bound are not suspect by the upper
            # bound that `lay` has computed from their distance.
            group_vectors.find_suspects(
                bounds.lower, row, movement.reach, bounds.upper[row], words, scratch.masks
            )
            if scratch.masks[words] == 0:
                continue
            _list_groups(used, centers.group_of[cluster], words, scratch)
            used += 1
        start = stop
    return used, start


@inlined
def _list_groups(slot: int, own_group: int, words: int, scratch: Any) -> None:
    """Put a slot on the lists of its suspect groups."""
    scores_own = False
    for word in range(words):
        mask = scratch.masks[word]
        while mask:
            group = GROUP * word + llvm_code.trailing_zeros(mask)
            mask &= mask - 1
            scratch.lists[group, scratch.lengths[group]] = slot
            scratch.lengths[group] += 1
            scores_own |= group == own_group
    scratch.scores_own[slot] = scores_own


@inlined
def _score_tile(
    d: int, count: int, group: int, centers: Any, movement: Any, bounds: Any, scratch: Any,
    height: Any,
) -> None:  # fmt: skip
    """Score the rows of the tile against a group, and merge the scores into those of the rows."""
    group_vectors.score_group(
        scratch.tile, centers.weights, centers.halves, group, d, scratch.tile_squares,
        scratch.tile_margins, movement.added, scratch.least, scratch.tile_lower, height,
    )  # fmt: skip
    for place in range(count):
        slot = scratch.tile_slots[place]
        least, second = scratch.least[0, place], scratch.least[1, place]
        bounds.lower[scratch.slots[slot], group] = scratch.tile_lower[0, place]
        # Scores that are NaN replace nothing.
        if least < scratch.best[slot]:
            other = min(scratch.best[slot], scratch.second[slot])
            scratch.second[slot] = min(other, second)
            scratch.best[slot], scratch.best_group[slot] = least, group
            scratch.best_lower[slot] = scratch.tile_lower[1, place]
        elif least < scratch.second[slot]:
            scratch.second[slot] = least


@inlined
def _score(d: int, centers: Any, movement: Any, bounds: Any, scratch: Any, height: Any) -> None:
    """Score the listed pairs of a block."""
    size = len(height)
    for group in range(len(scratch.lengths)):
        length = scratch.lengths[group]
        for start in range(0, length, size):
            count = min(size, length - start)
            for place in range(count):
                slot = np.int64(scratch.lists[group, start + place])
                group_vectors.copy_row(scratch.rows, slot, scratch.tile, place, height)
                scratch.tile_slots[place] = slot
                scratch.tile_squares[place] = scratch.squares[slot]
                scratch.tile_margins[place] = scratch.margins[slot]
            _score_tile(d, count, group, centers, movement, bounds, scratch, height)


@inlined
def _begin(used: int, scratch: Any) -> None:
    """Set the best score of each slot before any group is scored.

    A row's own center is a candidate by its distance, unless its group is scored anyway.
    """
    for slot in range(used):
        scratch.best[slot] = scratch.second[slot] = _INFINITE
        scratch.best_group[slot] = -1
        if not scratch.scores_own[slot]:
            scratch.best[slot] = _own_score(slot, scratch)


@compiled
def nearest_exactly(
    points: Any, slot: Any, candidate: Any, limit: float, centers: Any, movement: Any, bounds: Any,
    scratch: Any,
) -> Any:  # fmt: skip
    """Return the nearest center of a slot's row, found by exact distances.

    Args:
        points: The rows.
        slot: The slot.
        candidate: A center that may be nearest; `NO_CENTER` if there is none.
        limit: Other centers with scores above the limit are not nearest.
        centers: The centers.
        movement: Movement of the centers.
        bounds: The bounds. The lower bounds of all scored groups must be up to date. That of the
            nearest center's group is changed: it then bounds the other centers of the group.
        scratch: Work arrays.
    """
    row, scale, d = scratch.slots[slot], scratch.exact_scales[slot], points.shape[1]
    margin, square = scratch.margins[slot], scratch.squares[slot]
    # No center that is farther away than this has a score up to the limit.
    radius = _root(max(np.float32(0), square + np.float32(2) * (limit + margin)))
    cluster, least, nearest_group = np.int64(0), np.inf, -1
    if candidate >= 0:
        cluster = candidate
        least = distance_to(points, row, scale, centers, cluster, scratch.distance_parts)
    for group in range(len(scratch.lengths)):
        bound = _decoded(bounds.lower[row, group], scratch) - movement.reach[group]
        if bound > radius:
            continue
        group_vectors.score_row(
            scratch.rows, slot, centers.weights, centers.halves, group, d, scratch.scores
        )
        for number in range(GROUP):
            center = centers.members[group * GROUP + number]
            # The negation selects the center if its score or the limit is NaN.
            if center >= 0 and not scratch.scores[number] > limit:
                distance = distance_to(points, row, scale, centers, center, scratch.distance_parts)
                if distance < least or (distance == least and center < cluster):
                    cluster, least, nearest_group = center, distance, group
    if nearest_group >= 0:
        group_vectors.score_row(
            scratch.rows, slot, centers.weights, centers.halves, nearest_group, d, scratch.scores
        )
        other = _INFINITE
        for number in range(GROUP):
            if centers.members[nearest_group * GROUP + number] != cluster:
                other = min(other, scratch.scores[number])
        low = lower_of_score(other, slot, scratch)
        bounds.lower[row, nearest_group] = encoded(low + movement.added[nearest_group], scratch)
    return cluster


@inlined
def upper_bound(
    points: Any, row: int, scale: float, cluster: Any, centers: Any, scratch: Any
) -> Any:
    """Return an upper bound of the distance of a row and a center, by their exact distance."""
    distance = distance_to(points, row, scale, centers, cluster, scratch.distance_parts)
    square = 2.0 * distance if centers.cosine else distance
    return _root(square + centers.slack)


@inlined
def upper_of_score(score: Any, slot: int, centers: Any, scratch: Any) -> Any:
    """Return an upper bound of the distance that belongs to a score."""
    square = scratch.squares[slot] + np.float32(2) * (score + scratch.margins[slot])
    return _root(max(np.float32(0), square + np.float32(centers.slack)))


@inlined
def lower_of_score(score: Any, slot: int, scratch: Any) -> Any:
    """Return a lower bound of the distance that belongs to a score; 0 for NaN."""
    square = scratch.squares[slot] + np.float32(2) * (score - scratch.margins[slot])
    return np.sqrt(square) * _DOWN if square > 0 else np.float32(0)


@inlined
def _resolve(points: Any, slot: int, centers: Any, movement: Any, bounds: Any, scratch: Any) -> Any:
    """Write the nearest center of a slot's row and its bounds.

    Returns:
        The center that the row was assigned to before.
    """
    row = scratch.slots[slot]
    before = np.int64(bounds.nearest[row])
    best, cluster = scratch.best[slot], before
    limit = best + scratch.margins[slot]
    if scratch.second[slot] > limit:
        group = scratch.best_group[slot]
        if group >= 0:
            # The number of the center is in the last bits of the score.
            scratch.as_floats[1] = best
            number = np.int64(scratch.as_bits[1] & np.uint32(GROUP - 1))
            cluster = centers.members[group * GROUP + number]
            bounds.lower[row, group] = scratch.best_lower[slot]
    else:
        # The former center is also a candidate if its group was not scored.
        cluster = nearest_exactly(
            points, slot, NO_CENTER if scratch.scores_own[slot] else before, limit, centers,
            movement, bounds, scratch,
        )  # fmt: skip
    if cluster == before:
        return before
    bounds.upper[row] = upper_bound(
        points, row, scratch.exact_scales[slot], cluster, centers, scratch
    )
    bounds.nearest[row] = cluster
    bounds.sizes[before] -= 1
    bounds.sizes[cluster] += 1
    if not scratch.scores_own[slot]:
        # The group of the old center was not scored: its bound did not include that center.
        group = centers.group_of[before]
        low = lower_of_score(_own_score(slot, scratch), slot, scratch)
        low += movement.added[group]
        if low < _decoded(bounds.lower[row, group], scratch):
            bounds.lower[row, group] = encoded(low, scratch)
    return before


@kernel
def reassign(
    points: Any,
    centers: GroupedCenters,
    movement: Movement,
    height: Any,
    scratch: BlockScratch,
    bounds: RowBounds,
    sums: Any,
) -> None:
    """Find the nearest center of each row by bounds, and bring bounds and sums up to date.

    Args:
        points: (n, d) S, C-contiguous.
        centers: The centers.
        movement: How far the centers have moved.
        height: Its length is the number of rows in a tile.
        scratch: Work arrays.
        bounds: The clusters and bounds of the rows.
        sums: Sums of the rows by the clusters in `bounds`, in which rows that change their cluster
            are moved; or `kernels.NO_SUMS`.
    """
    (n, d), groups = points.shape, len(scratch.lengths)
    for number in range(len(scratch.counts)):
        scratch.counts[number] = 0
    start = 0
    while start < n:
        for group in range(groups):
            scratch.lengths[group] = 0
        used, start = _collect(points, start, centers, movement, bounds, scratch)
        scratch.counts[0] += used
        for group in range(groups):
            scratch.counts[1] += scratch.lengths[group]
        _begin(used, scratch)
        _score(d, centers, movement, bounds, scratch, height)
        for slot in range(used):
            before = _resolve(points, slot, centers, movement, bounds, scratch)
            row = scratch.slots[slot]
            after = np.int64(bounds.nearest[row])
            if after != before and len(sums.high):
                sum_vectors.move_row(
                    points, row, scratch.exact_scales[slot], before, after, centers.cosine,
                    sums.grid, sums.high, sums.low,
                )  # fmt: skip
