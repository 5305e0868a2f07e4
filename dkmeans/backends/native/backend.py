"""The native backend: compiled kernels, called on one chunk at a time. They run without the GIL.

`dkmeans.backends.select` imports this module on machines with Numba. The first call for a dtype
compiles a kernel, which takes seconds. The machine code is cached on disk for later processes, and
of several processes that start together only one compiles.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from numba.core import config

from dkmeans.backends import moments
from dkmeans.backends.addition import grid_for, plus_rounded_away, plus_rows, rest_of_squares
from dkmeans.backends.moments import MOMENT_PLANES
from dkmeans.backends.native import (
    bounds,
    kernels,
    mean_and_loss,
    moment_sums,
    moving_products,
    packed_centers,
    packing,
    panels,
    processor,
    product_totals,
    sum_vectors,
)
from dkmeans.backends.native.runner import kernel_array, run
from dkmeans.backends.native.scratch import ScratchPerThread, zero_sums
from dkmeans.backends.rounding import QUIET, exact_rows
from dkmeans.distance import Centers, Distance
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import Grid, digit_places, piece_slices, total_of_digits
from dkmeans.exact_total import NOTHING, ExactTotal
from dkmeans.state import Cached, FloatArray, IndexArray, PartialSums, sum_up

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")


# Sums of so many numbers, 1 MB, mostly stay in the caches of a core, beside the rows.
_CACHED_SUMS = 2**17
# The order of rows that are added as they come.
_AS_THEY_COME = np.empty(0, np.int64)
# Number of clusters whose sums are copied at a time.
_CLUSTERS_AT_ONCE = 1024


class _Outputs(NamedTuple):
    """What `kernels.assign` writes for each row, beside the sums; each may be empty."""

    clusters: IndexArray
    distances: FloatArray
    second: kernels.Second | tuple[()] = ()

    def rows(self, some: slice) -> _Outputs:
        """Return those of some rows."""
        second = self.second
        if second:
            second = kernels.Second(second.clusters[some], second.distances[some])
        return _Outputs(self.clusters[some], self.distances[some], second)


_NO_OUTPUTS = _Outputs(np.empty(0, np.int64), np.empty(0))


def _new_outputs(rows: int) -> _Outputs:
    return _Outputs(np.empty(rows, np.int64), np.empty(rows))


@QUIET
def partial_sums(points: FloatArray, centers: Centers) -> PartialSums:
    """Assign each of the (n, d) rows to its nearest center; return exact sums and counts.

    For cosine, rows of length one are added, rounded to the grid of directions.
    """
    return _add_up(points, centers, _NO_OUTPUTS)


@QUIET
def sums_by_bounds(
    points: FloatArray, centers: Centers, found: Cached | None, start: Hashable
) -> tuple[PartialSums, Cached | None, int]:
    """Return the results of `partial_sums`, and bounds by which the next call may skip rows.

    The third result is the number of distances that were not computed.
    """
    result = _by_bounds(points, centers, found, start, with_sums=True)
    if not isinstance(result, bounds.Advanced):
        return partial_sums(points, centers), result, 0
    return result.bounds.sums, result.entry, result.skipped


@QUIET
def nearest_by_bounds(
    points: FloatArray, centers: Centers, found: Cached | None, start: Hashable
) -> tuple[IndexArray, Cached | None, int]:
    """Return the results of `nearest_index`, and what `sums_by_bounds` returns beside the sums.

    With bounds the indices are int32, in the memory of the bounds.
    """
    result = _by_bounds(points, centers, found, start, with_sums=False)
    if not isinstance(result, bounds.Advanced):
        return nearest_index(points, centers), result, 0
    return result.bounds.nearest, result.entry, result.skipped


def _by_bounds(
    points: FloatArray,
    centers: Centers,
    found: Cached | None,
    start: Hashable,
    *,
    with_sums: bool,
) -> bounds.Advanced | bounds.Waiting | None:
    """Return the bounds of the rows; a `Waiting` to cache instead; None if bounds save no time."""
    if not bounds.suit(points, centers):
        return None
    if isinstance(found, bounds.Bounds):
        return bounds.advance(kernel_array(points), centers, found)
    waiting = found if isinstance(found, bounds.Waiting) else bounds.waiting_for(centers)
    if waiting.left > 0:
        return replace(waiting, left=waiting.left - 1)
    return bounds.begin(kernel_array(points), centers, waiting, start, with_sums=with_sums)


@QUIET
def assign(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """Return the results of `partial_sums` and `nearest` in one pass."""
    found = _new_outputs(len(points))
    return _add_up(points, centers, found), found.clusters, found.distances


@QUIET
def squares(points: FloatArray) -> ExactTotal:
    """Return the exact sum of the squares of all values of the (n, d) rows."""
    points, grid, found = kernel_array(points), Grid.of(points), NOTHING
    scales, products = panels.padded_scales(grid), len(digit_places(points.dtype))
    for piece in (points[some] for some in piece_slices(len(points))):
        sums = np.zeros((products * (products + 1) // 2, len(scales)), np.int64)
        block, is_left = np.empty(sums.shape), np.empty(len(piece), np.uint8)
        run(kernels.square, (piece.dtype,), piece, scales, block, sums, is_left)
        found += total_of_digits(sums[:, : points.shape[1]], grid, points.dtype)
        if is_left.any():
            found += rest_of_squares(piece[np.flatnonzero(is_left)].ravel())
    return found


@QUIET
def nearest(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
    found = _new_outputs(len(points))
    _assign(points, centers, found, kernels.NO_SUMS)
    return found.clusters, found.distances


@QUIET
def nearest_index(points: FloatArray, centers: Centers) -> IndexArray:
    """Return each row's nearest center, (n,) int64."""
    found = _NO_OUTPUTS._replace(clusters=np.empty(len(points), np.int64))
    _assign(points, centers, found, kernels.NO_SUMS)
    return found.clusters


@QUIET
def nearest_two(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Return each row's two nearest centers, (n, 2) int64, and distances, (n, 2) float64."""
    first = _new_outputs(len(points))
    second = kernels.Second(np.empty(len(points), np.int64), np.empty(len(points)))
    _assign(points, centers, first._replace(second=second), kernels.NO_SUMS)
    index = np.stack((first.clusters, second.clusters), axis=1)
    return index, np.stack((first.distances, second.distances), axis=1)


@QUIET
def assign_two(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """Return the results of `partial_sums`, and the distances to two centers, (2, n)."""
    index, distances = np.empty(len(points), np.int64), np.empty((2, len(points)))
    second = kernels.Second(np.empty(0, np.int64), distances[1])
    return _add_up(points, centers, _Outputs(index, distances[0], second)), index, distances


@QUIET
def distances(points: FloatArray, centers: Centers) -> FloatArray:
    """Return the distance of each row to every center, (n, k) float32."""
    points, tile = kernel_array(points), panels.tile_of(np.float64)
    result = np.empty((len(points), len(centers.values)), np.float32)
    packed = packing.for_distances(centers, tile)
    variant = points.dtype, tile
    run(kernels.measure, variant, points, packed, tile, _scratch(tile, packed), result)
    return result


@QUIET
def add_products(points: FloatArray, weights: FloatArray, index: IndexArray, k: int) -> ExactSums:
    """Return the exact sums of rows times their weights and of the weights, (k, d + 1)."""
    return moving_products.added(kernel_array(points), kernel_array(weights), index, k)


@QUIET
def total_of_products(values: FloatArray, weights: FloatArray, *, of_squares: bool) -> ExactTotal:
    """Return the exact sum of the (n, d) values, or their squares, times the (n,) weights."""
    return product_totals.total(values, weights, of_squares=of_squares)


@QUIET
def weighted_sums(
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: Centers,
    found: Cached | None,
) -> tuple[PartialSums, Cached | None]:
    """Return the partial sums of rows with weights, and an entry by which the next call is short.

    With the entry, the next call moves only the rows that have changed their cluster.
    """
    assert found is None or isinstance(found, moving_products.MovingProducts)
    rows = kernel_array(points), kernel_array(weights)
    return moving_products.moved(*rows, index, centers, found)


@QUIET
def add_squares(
    points: FloatArray, weights: FloatArray, index: IndexArray, centers: Centers
) -> ExactSums:
    """Return the sums of squared differences from the centers for each cluster, (k, d)."""
    points = moments.judged_rows(points, centers)
    points, weights, index = map(kernel_array, (points, weights, index))
    values = kernel_array(exact_rows(centers.values, centers.distance))
    (k, d), grid = values.shape, moments.square_grid(points, weights, index, values, centers)
    # Sums that fit the caches take rows in any order; others take them cluster by cluster. Small
    # integers are sorted in a tenth of the time.
    is_large = MOMENT_PLANES * k * panels.padded(d) > _CACHED_SUMS
    numbers = index.astype(np.uint16) if k <= 2**16 else index

    def of_piece(some: slice) -> ExactSums:
        rows, factors, clusters = points[some], weights[some], index[some]
        order = np.argsort(numbers[some], kind="stable") if is_large else _AS_THEY_COME
        added = panels.aligned_zeros((k * MOMENT_PLANES, panels.padded(d)), np.int64)
        is_left = np.empty(len(rows), np.uint8)
        arguments = factors, clusters, order, values, grid.scales, added, is_left
        run(moment_sums.add_squares, (points.dtype,), rows, *arguments)
        planes = added.reshape(k, MOMENT_PLANES, -1)[:, :, :d]
        sums = ExactSums(grid, {-m: planes[:, m] for m in range(MOMENT_PLANES)})
        left = np.flatnonzero(is_left)
        if not len(left):
            return sums
        return moments.plus_squares(sums, rows[left], factors[left], clusters[left], values)

    return sum_up(map(of_piece, piece_slices(len(points))))


@QUIET
def add_measures(
    distances: FloatArray, weights: FloatArray, index: IndexArray, k: int, factor: float
) -> tuple[ExactSums, FloatArray]:
    """Return the sums of the rows' measures for each cluster, (k, 4), and the largest lengths."""
    grid, lengths = moments.measure_grid(distances, weights, factor), np.zeros(k)
    weights, index = map(kernel_array, (weights, index))

    def of_piece(some: slice) -> ExactSums:
        found, factors, clusters = kernel_array(distances[:, some]), weights[some], index[some]
        added = panels.aligned_zeros((k, moment_sums.MEASURE_SUMS), np.int64)
        is_left = np.empty(panels.padded(len(factors)), np.uint8)
        arguments = found, factors, clusters, factor, grid.scales, added, is_left
        run(moment_sums.add_measures, (), *arguments)
        np.maximum(lengths, moment_sums.lengths_of(added), out=lengths)
        sums = ExactSums(grid, moment_sums.planes_of(added, has_second=len(found) > 1))
        left = np.flatnonzero(is_left[: len(factors)])
        if not len(left):
            return sums
        others = found[:, left], factors[left], clusters[left]
        return moments.plus_measures(sums, *others, factor)

    return sum_up(map(of_piece, piece_slices(len(index)))), lengths


def _add_up(points: FloatArray, centers: Centers, found: _Outputs) -> PartialSums:
    """Return the partial sums, and fill the outputs."""
    (k, d), grid, start = centers.values.shape, grid_for(points, centers), 0
    parts, counts, rest = [], np.zeros(k, np.int64), []
    for piece in (points[some] for some in piece_slices(len(points))):
        part = zero_sums((k, d), grid, piece)
        rows = slice(start, start + len(piece))
        num_rest = _assign(piece, centers, found.rows(rows), part)
        parts.append(_planes(part, grid, centers))
        counts += part.counts
        if num_rest:
            rest.append(part.rest[:num_rest] + np.array([start, 0]))
        start = rows.stop
    sums = sum_up(parts)
    if rest:
        others, clusters = np.concatenate(rest).T
        near, far = clusters >= 0, clusters < 0
        sums = plus_rounded_away(sums, points[others[near]], clusters[near])
        if far.any():
            counts += np.bincount(~clusters[far], minlength=k)
            sums = plus_rows(sums, points[others[far]], ~clusters[far], centers.distance)
    return PartialSums(sums, counts)


def _planes(sums: kernels.Sums, grid: Grid, centers: Centers) -> ExactSums:
    """Return the sums of the rows that the kernel has added up."""
    d = centers.width
    planes = {0: sums.high[:, :d]}
    # For cosine, plane -1 has what was rounded away.
    if len(sums.low) and centers.distance is not Distance.COSINE:
        planes[-1] = sums.low[:, :d]
    for plane in planes.values():
        _take_magic_off(plane, sums.counts)
    return ExactSums(grid, planes)


def _take_magic_off(plane: IndexArray, counts: IndexArray) -> None:
    """Subtract from a plane what every row has added to every sum beside its own integers."""
    # The difference wraps around like the sums.
    extra = counts[:, None] * np.int64(sum_vectors.MAGIC_BITS)
    if 2 * np.count_nonzero(counts) > len(counts):
        plane -= extra
        return
    # Memory of clusters without rows stays untouched: where centers are many, that is most of it.
    used = np.flatnonzero(counts)
    for start in range(0, len(used), _CLUSTERS_AT_ONCE):
        some = used[start : start + _CLUSTERS_AT_ONCE]
        plane[some] -= extra[some]


def _assign(points: FloatArray, centers: Centers, found: _Outputs, sums: kernels.Sums) -> int:
    """Call `kernels.assign`; its arguments and its result are described there."""
    points = kernel_array(points)
    with_second = bool(found.second)
    tile, packed, byte_centers = _packed_centers(centers, points.dtype, with_second=with_second)
    scratch, in_bytes = _scratch(tile, packed), _scratch.in_bytes(tile, packed)
    variant = points.dtype, packed.weights.dtype, packed.exact.dtype, tile
    arguments = packed, byte_centers, tile, scratch, in_bytes, *found, sums
    num_rest: int = run(kernels.assign, variant, points, *arguments)
    rows, ambiguous = len(points), int(scratch.ambiguous[0])
    is_slow = packed_centers.takes_long_again(tile, scratch, in_bytes, points.shape)
    _packed_centers.note_ambiguous(
        centers, points.dtype, tile, rows=rows, ambiguous=ambiguous, is_slow=is_slow
    )
    return num_rest


def describe() -> dict[str, Any]:
    """Return the processor, the width of its vectors and the cache of kernels, for display."""
    return {
        "processor": config.CPU_NAME or llvm.get_host_cpu_name(),
        "vectors": f"{8 * processor.vector_bytes()} bits",
        "matrix unit": "AMX, for float32" if processor.matrix_unit() else "none",
        "compiled code kept in": str(
            kernels.assign.stats.cache_path or "memory: no folder can be written to"
        ),
    }


quotients, terms = mean_and_loss.quotients, mean_and_loss.terms

_packed_centers = packed_centers.PackedCentersCache()
_scratch = ScratchPerThread()
