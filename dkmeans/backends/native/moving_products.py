"""Cached sums of weighted rows: an iteration moves only the rows that changed their cluster.

`backend` calls `added` for sums of products, and `moved` for partial sums, which continues from the
cached sums of the iteration before (docs/decisions/018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np

from dkmeans.backends.addition import GridPerCenters, as_added
from dkmeans.backends.native.panels import aligned_zeros, padded
from dkmeans.backends.native.products import move_products, new_scratch
from dkmeans.backends.native.runner import kernel_array, run
from dkmeans.backends.weighted import partial_sums_of, plus_left, product_grid, with_ones
from dkmeans.distance import Centers, Distance
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import Grid, piece_slices
from dkmeans.state import FloatArray, IndexArray, PartialSums, sum_up

# Planes for products that float64 holds, and for those with rounding errors.
_PLANES, _PLANES_WITH_ERRORS = 2, 4
_OCTET = 8
# Planes that are larger than the rows by more than this factor are not cached.
_MOST_PLANES = 2
# Rows that a grid is made from.
_SAMPLED_ROWS = 32

_grids_of_products = GridPerCenters(1)


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Sums of at most `PIECE_ROWS` rows times their weights.

    Attributes:
        index: (n,) int32, the cluster of each row. `_moved` changes it, the planes and the bits.
        counts: (k,) int64, the number of rows of each cluster.
        planes: (p, k, d + 1 padded) int64.
        used_bits: (8,) int64, bits that were added to the last plane: usual products add none.
        left: (m,) int64, the rows that the planes do not hold.
        left_sums: The sums of these rows; None if there are none.
    """

    index: IndexArray
    counts: IndexArray
    planes: IndexArray
    used_bits: IndexArray
    left: IndexArray
    left_sums: ExactSums | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes, about."""
        return self.index.nbytes + self.planes.nbytes + self.left.nbytes

    def sums(self, grid: Grid) -> ExactSums:
        """Return the sums, (k, d + 1), which share the memory of the planes.

        Args:
            grid: The grid of the planes.
        """
        columns = len(grid.exponents)
        planes = {-m: plane[:, :columns] for m, plane in enumerate(self.planes)}
        if not self.used_bits.any():
            del planes[1 - len(planes)]
        sums = ExactSums(grid, planes)
        return sums if self.left_sums is None else sums + self.left_sums


@dataclass(frozen=True, slots=True, eq=False)
class MovingProducts:
    """Sums of the rows of a chunk times their weights, and of the weights.

    Attributes:
        grid: The grid of the sums, of d + 1 columns.
        wanted: `Centers.grid` when `grid` was chosen; None if there was none.
        pieces: The sums of pieces of the rows.
    """

    grid: Grid
    wanted: Grid | None
    pieces: tuple[_Piece, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes, about."""
        return sum(piece.nbytes for piece in self.pieces)


def added(points: FloatArray, weights: FloatArray, index: IndexArray, k: int) -> ExactSums:
    """Return the sums of (n, d) rows times their weights for each of k clusters, (k, d + 1).

    Raises:
        NotFinite: a value is not finite.
    """
    rows = _Rows(points, weights, _in_32_bits(index), Distance.SQUARED_EUCLIDEAN)
    return _added(rows, k, product_grid(points, weights))


def moved(
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: Centers,
    found: MovingProducts | None,
) -> tuple[PartialSums, MovingProducts | None]:
    """Return the partial sums of rows with weights, and the entry for the next iteration.

    With the entry, the next iteration moves only the rows that change. It is None if the planes
    take more than `_MOST_PLANES` times the bytes of the rows.

    Args:
        points: (n, d) rows.
        weights: (n,) float64, their weights, finite and above zero.
        index: (n,) integers, the cluster of each row.
        centers: The centers.
        found: The second result for the same rows in an earlier iteration, which must not be used
            again; None if there is none.

    Raises:
        NotFinite: a value is not finite, or for cosine a row is too long to have a direction.
    """
    rows = _Rows(points, weights, _in_32_bits(index), centers.distance)
    k = len(centers.values)
    if found is None or not _are_equal(found.wanted, centers.grid):
        grid = found.grid if found and _is_of(found.grid, centers) else _shared_grid(rows, centers)
        if found is None or not _are_equal(found.grid, grid):
            if rows.plane_bytes(k) > _MOST_PLANES * points.nbytes:
                counts = np.bincount(index, minlength=k).astype(np.int64, copy=False)
                return partial_sums_of(_added(rows, k, grid), counts), None
            found = MovingProducts(grid, None, tuple(part.none(k) for part in rows.pieces()))
        found = replace(found, wanted=centers.grid)
    pieces = [
        _advanced(piece, part, found.grid)
        for part, piece in zip(rows.pieces(), found.pieces, strict=True)
    ]
    parts = [partial_sums_of(piece.sums(found.grid), piece.counts) for piece in pieces]
    return _in_own_memory(parts), replace(found, pieces=tuple(pieces))


def _in_own_memory(parts: Sequence[PartialSums]) -> PartialSums:
    """Return the sum of parts that share the memory of pieces, in planes without gaps.

    Once a piece is cached, another task may change it. Over planes with gaps NumPy takes long.
    """
    total = sum_up(parts)
    if len(parts) > 1:
        return total
    assert total.weights is not None  # for the type checker
    return replace(total, sums=total.sums.copied(), weights=total.weights.copied())


class _Rows(NamedTuple):
    """Rows to add: (n, d), their (n,) weights and int32 clusters, and the distance."""

    points: FloatArray
    weights: FloatArray
    clusters: IndexArray
    distance: Distance

    def some(self, which: slice | IndexArray) -> _Rows:
        """Return some of the rows."""
        return _Rows(self.points[which], self.weights[which], self.clusters[which], self.distance)

    def pieces(self) -> Iterator[_Rows]:
        """Return the rows in pieces."""
        return map(self.some, piece_slices(len(self.points)))

    @property
    def values(self) -> FloatArray:
        """Values that are added up: the rows, or for cosine their directions, float64."""
        is_cosine = self.distance is Distance.COSINE
        return as_added(self.points, self.distance) if is_cosine else self.points

    @property
    def num_planes(self) -> int:
        """Number of planes that products of such rows and weights need."""
        is_short = self.points.dtype == np.float32 and self.distance is not Distance.COSINE
        has_errors = not (is_short and np.array_equal(self.weights, self.weights.astype("f4")))
        return _PLANES_WITH_ERRORS if has_errors else _PLANES

    def plane_bytes(self, k: int) -> int:
        """Return the size in bytes of all planes for k clusters."""
        pieces = sum(1 for _ in self.pieces())
        return 8 * pieces * self.num_planes * k * padded(self.points.shape[1] + 1)

    def none(self, k: int) -> _Piece:
        """Return a piece for these rows, with none added yet."""
        shape = self.num_planes, k, padded(self.points.shape[1] + 1)
        return _Piece(
            np.full(len(self.points), -1, np.int32),
            np.zeros(k, np.int64),
            aligned_zeros(shape, np.int64),
            np.zeros(_OCTET, np.int64),
            np.zeros(0, np.int64),
        )


def _added(rows: _Rows, k: int, grid: Grid) -> ExactSums:
    """Return the sums of rows on a grid, piece by piece to save memory."""
    parts = (_advanced(part.none(k), part, grid).sums(grid) for part in rows.pieces())
    return (
        reduce(add, parts) if len(rows.points) else ExactSums.zero((k, len(grid.exponents)), grid)
    )


def _shared_grid(rows: _Rows, centers: Centers) -> Grid:
    """Return a grid for the products: that of earlier sums, or of another chunk, if it suits them.

    Sums of chunks on the same grid are added without a shift, and the next iteration goes on from
    them: on another grid all rows would be added anew.
    """
    # A few rows are enough: to compute the directions of all takes as long as the sums.
    some = rows.some(slice(None, None, -(-len(rows.points) // _SAMPLED_ROWS)))
    own = product_grid(some.values, some.weights)
    if centers.grid is None:
        return _grids_of_products(centers, own)
    if not Grid(own.exponents[:-1]).suits(centers.grid):
        return own
    return Grid(np.concatenate([centers.grid.exponents, own.exponents[-1:]]))


def _advanced(piece: _Piece, rows: _Rows, grid: Grid) -> _Piece:
    """Return a piece after all changed rows were moved to their new clusters.

    Raises:
        NotFinite: a value is not finite.
    """
    if rows.distance is Distance.COSINE:
        # Directions are computed only of rows that change.
        changes = np.flatnonzero(piece.index != rows.clusters)
        # A slice copies nothing, if all rows change.
        some = changes if len(changes) < len(rows.clusters) else slice(None)
        changed, before = rows.some(some), piece.index[some]
        piece, others = _moved(piece, changed, before, grid)
        piece.index[some] = before
        others = changes[others]
    else:
        piece, others = _moved(piece, rows, piece.index, grid)
    if not len(others):
        return piece
    # The first call finds all rows that the planes do not hold, a later one those of them that have
    # moved. Then the sums of all of them are computed anew.
    left = piece.left if len(piece.left) else others
    rest, zero = rows.some(left), ExactSums.zero((len(piece.counts), len(grid.exponents)), grid)
    points = with_ones(rest.values)
    left_sums = plus_left(zero, points, *rest[1:3], np.ones(points.shape, bool))
    return replace(piece, left=left, left_sums=left_sums)


def _moved(piece: _Piece, rows: _Rows, before: IndexArray, grid: Grid) -> tuple[_Piece, IndexArray]:
    """Return a piece with its planes up to date, and the changed rows that the planes do not hold.

    Args:
        piece: The sums of a piece.
        rows: Rows of the piece, among them all that change their cluster.
        before: (n,) int32, the clusters whose sums hold these rows. Overwritten by the new ones.
        grid: The grid of the planes.
    """
    width, last, counts = piece.planes.shape[2], len(grid.exponents) - 1, piece.counts.copy()
    scales, unit = np.ones(width), np.zeros(width)
    scales[: last + 1], unit[last] = grid.scales, 1.0
    values, weights, after = map(kernel_array, (rows.values, rows.weights, rows.clusters))
    # The length of a tuple is a constant of the compiled code.
    errors, left = (None,) * (len(piece.planes) > _PLANES), np.empty(len(values), np.int64)
    arrays = values, weights, before, after, counts, scales, unit, piece.planes
    variant = values.dtype, errors
    options = errors, piece.used_bits, left, new_scratch()
    num_left = run(move_products, variant, *arrays, *options)
    return replace(piece, counts=counts), left[:num_left]


def _in_32_bits(index: IndexArray) -> IndexArray:
    found: IndexArray = index.astype(np.int32, copy=False)
    return found


def _is_of(grid: Grid, centers: Centers) -> bool:
    """Return whether a grid of products and weights is that of the sums that made the centers."""
    return _are_equal(Grid(grid.exponents[:-1]), centers.grid)


def _are_equal(a: Grid | None, b: Grid | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.array_equal(a.exponents, b.exponents))
