"""Bounds of a chunk's rows between iterations, by which most of the work is skipped.

`backend` calls `begin` for a chunk without bounds, and `advance` with those that the worker has
cached. The kernels are `reassign`, `reassign_few`, and `assign_all` where all pairs must be scored.
Bounds only save time: old ones, or none, give partial sums of the same bits (docs/decisions/022). A
pair, here, is a row and a group of 16 centers.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.backends.addition import grid_for, plus_rows
from dkmeans.backends.native import panels, processor, sum_vectors
from dkmeans.backends.native.all_pairs import GroupScratch, assign_all
from dkmeans.backends.native.exact_distances import new_distance_parts
from dkmeans.backends.native.group_vectors import GROUP
from dkmeans.backends.native.groups import Course, Stage, can_group
from dkmeans.backends.native.kernels import NO_SUMS, Sums
from dkmeans.backends.native.panels import aligned_empty, aligned_zeros
from dkmeans.backends.native.reassign import STRIP, BlockScratch, Movement, RowBounds, reassign
from dkmeans.backends.native.reassign_few import reassign_few
from dkmeans.backends.native.runner import run
from dkmeans.backends.native.scratch import ScratchPerThread, zero_sums
from dkmeans.backends.native.tile_vectors import Tile
from dkmeans.distance import Centers
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import FewValues, Grid, piece_slices
from dkmeans.state import FloatArray, IndexArray, PartialSums, sum_up

# Least number of centers, and of multiplications for each row (k * d), from which `reassign` is
# used: with fewer, a row is scored faster than its bounds are compared.
_FEWEST_CENTERS, _FEWEST_PRODUCTS = 2 * GROUP, 1000
# The same for a chunk (n * k * d): with fewer, the cache entry costs more than it saves.
_FEWEST_CHUNK_PRODUCTS = 2**24
# `reassign_few` is used for one group of centers, and for up to this many groups if k * d is less
# than `_FEWEST_PRODUCTS`.
_MOST_GROUPS = 8
# Least number of centers, and of rows in a chunk, from which `reassign_few` is used.
_FEWEST_OF_FEW, _FEWEST_ROWS_OF_FEW = 4, 2**14
# Iterations without bounds: in the first ones centers move so far that few rows are skipped. Bounds
# of few centers save less, so they begin later.
_FIRST_ITERATIONS, _FIRST_OF_FEW = 4, 10
# Bounds are dropped for some iterations, and each further time for twice as many, if the pairs that
# had to be scored took more than this share of the time of scoring all pairs.
_USELESS_SHARE = 0.6
# Time in which a matrix unit scores all pairs, relative to that of scoring them one by one.
_COST_WITH_MATRIX = 0.4
# Fixed cost of a row that is scored, in scored pairs.
_PAIRS_OF_ROW = 3
# A chunk gets no bounds for some iterations if many of its rows are added up slowly each time: rows
# far from the grid, and single values off the grid. In each piece they must be fewer than this
# share of its rows.
_MOST_SLOW = 0.05
# Bytes of the scored rows of a block, which should stay in the second-level cache, and limits of
# the number of these rows.
_BLOCK_BYTES, _MOST_ROWS, _FEWEST_ROWS = 3 * 2**18, 4096, 2 * STRIP
_SUM_BYTES = 8


@dataclass(frozen=True, slots=True)
class Waiting:
    """Number of iterations that a chunk waits for bounds.

    Attributes:
        left: Iterations that are left.
        pause: Iterations to wait if the bounds that are made then are of no use.
    """

    left: int = _FIRST_ITERATIONS
    pause: int = 2 * _FIRST_ITERATIONS

    nbytes: ClassVar[int] = 64  # about


@dataclass(frozen=True, slots=True, eq=False)
class MovingSums:
    """Sums of the rows of a piece by their clusters. Rows that change their cluster are moved.

    Attributes:
        grid: The grid of the sums.
        high, low: The planes of the sums of the rows, rounded to integers, as in `kernels.Sums`,
            without `sum_vectors.MAGIC_BITS`. The kernels overwrite them.
        few: What was rounded away. In place of clusters it has row numbers, so that rows may move:
            `FewValues.moved` replaces each row number by the present cluster of that row.
        far: (f,) int64. The rows that are far from the grid, and not in these sums.
        far_clusters: (f,) int32. Their clusters.
        far_sums: The sums of these rows; None if there are none.
    """

    grid: Grid
    high: IndexArray
    low: IndexArray
    few: FewValues
    far: IndexArray
    far_clusters: IndexArray
    far_sums: ExactSums | None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        of_far = () if self.far_sums is None else self.far_sums.planes.values()
        arrays = (self.high, self.low, self.far, self.far_clusters, *of_far)
        size: int = self.few.nbytes + sum(array.nbytes for array in arrays)
        return size


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Bounds of at most `PIECE_ROWS` rows.

    Attributes:
        rows: The bounds. The kernels overwrite them.
        sums: The sums of the rows; None for rows with weights, whose sums are computed elsewhere.
    """

    rows: RowBounds
    sums: MovingSums | None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        arrays = sum(array.nbytes for array in self.rows)
        return arrays + (self.sums.nbytes if self.sums is not None else 0)


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Bounds of the rows of a chunk.

    Attributes:
        stage: The centers for which the bounds hold.
        nearest: (n,) int32, the cluster of each row, of which the pieces have views. Once the
            bounds are cached, another task may overwrite it.
        pieces: Bounds of the pieces of the chunk.
        pause: As in `Waiting`.
        work: Work on the bounds since all pairs were scored, in units of scoring a pair.
    """

    stage: Stage
    nearest: IndexArray
    pieces: tuple[Piece, ...]
    pause: int
    work: int = 0

    @property
    def nbytes(self) -> int:
        """Size in bytes, without what all chunks share."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def sums(self) -> PartialSums:
        """The partial sums of the rows; all pieces must have sums."""
        d, parts = self.stage.grouped.exact.shape[1], []
        for piece in self.pieces:
            assert piece.sums is not None
            planes = {0: piece.sums.high[:, :d]}
            # For cosine the sums are of rounded directions: what plane -1 has does not count.
            if len(piece.sums.low) and not self.stage.grouped.cosine:
                planes[-1] = piece.sums.low[:, :d]
            few = piece.sums.few.moved(piece.rows.nearest)
            sums, of_far = ExactSums(piece.sums.grid, planes, few), piece.sums.far_sums
            sums = sums if of_far is None else sums + of_far
            parts.append(PartialSums(sums, piece.rows.sizes.copy()))
        # A copy, as another task may overwrite cached bounds. A sum of several pieces is in memory
        # of its own already.
        total = sum_up(parts)
        return replace(total, sums=total.sums.copied()) if len(parts) == 1 else total


class Advanced(NamedTuple):
    """The bounds of a chunk in an iteration.

    Attributes:
        bounds: Bounds for the centers of this iteration.
        entry: What is to be cached: these bounds, or how long to go on without.
        skipped: Number of distances that were not computed.
    """

    bounds: Bounds
    entry: Bounds | Waiting
    skipped: int


class Courses:
    """The courses of all fits in this process. A course is kept as long as bounds refer to it."""

    def __init__(self) -> None:
        self._courses: WeakValueDictionary[Hashable, Course] = WeakValueDictionary()
        self._lock = threading.Lock()

    def __call__(self, start: Hashable, centers: Centers, dtype: np.dtype[Any]) -> Course:
        """Return the course of a start of a fit; a missing one is made from these centers."""
        key = start, centers.values.shape, centers.distance, dtype
        with self._lock:
            course = self._courses.get(key)
            if course is None:
                course = self._courses[key] = Course(centers, dtype)
            return course


class BlockScratchPerThread(threading.local):
    """Work arrays of each thread, for the last shape that the thread used."""

    def __init__(self) -> None:
        self._scratch: dict[Any, BlockScratch] = {}

    def __call__(self, groups: int, width: int, dtype: np.dtype[Any]) -> BlockScratch:
        """Return the calling thread's work arrays."""
        shape = groups, width, dtype
        if shape not in self._scratch:
            self._scratch = {shape: _new_scratch(groups, width, dtype)}
        return self._scratch[shape]


_courses, _scratch = Courses(), BlockScratchPerThread()
_tile_scratch = ScratchPerThread()


def suit(points: FloatArray, centers: Centers) -> bool:
    """Return whether bounds can save time for the (n, d) rows of a chunk with such centers."""
    k, d = centers.values.shape
    if _uses_few(centers):
        is_long = len(points) >= _FEWEST_ROWS_OF_FEW
        return k >= _FEWEST_OF_FEW and is_long and can_group(centers)
    is_large = k * d >= _FEWEST_PRODUCTS and len(points) * k * d >= _FEWEST_CHUNK_PRODUCTS
    # A plane of cached sums must not be larger than the rows.
    is_long = points.nbytes >= _SUM_BYTES * k * d
    return is_large and is_long and k >= _FEWEST_CENTERS and can_group(centers)


def waiting_for(centers: Centers) -> Waiting:
    """Return how long the chunks of a fit with such centers wait for their first bounds."""
    return Waiting(_FIRST_OF_FEW if _uses_few(centers) else _FIRST_ITERATIONS)


def _uses_few(centers: Centers) -> bool:
    """Return whether `reassign_few` is used."""
    k, d = centers.values.shape
    return bool(k <= GROUP or (k * d < _FEWEST_PRODUCTS and k <= _MOST_GROUPS * GROUP))


def begin(
    points: FloatArray, centers: Centers, waiting: Waiting, start: Hashable, *, with_sums: bool
) -> Advanced | Waiting:
    """Return bounds of a chunk that has none; a `Waiting` if adding up its rows is too slow.

    Args:
        points: (n, d) rows, as the kernels take them.
        centers: The centers.
        waiting: The chunk's entry, whose waiting is over.
        start: Name of the start of a fit that the centers belong to.
        with_sums: True if the sums of the rows are needed in each iteration.

    Raises:
        NotFinite: sums are needed, and a value is not finite, or for cosine a row is too long to
            have a direction.
    """
    stage = _courses(start, centers, points.dtype).stage(centers)
    pieces, nearest = [], _zeros(len(points), np.int32)
    for rows, clusters in zip(_cut(points), _cut(nearest), strict=True):
        piece = _first(rows, clusters, centers, stage, with_sums=with_sums)
        if piece is None:
            return Waiting(waiting.pause, 2 * waiting.pause)
        pieces.append(piece)
    bounds = Bounds(stage, nearest, tuple(pieces), waiting.pause)
    return Advanced(bounds, bounds, 0)


def advance(points: FloatArray, centers: Centers, found: Bounds) -> Advanced:
    """Return bounds of a chunk for the next centers.

    Args:
        points: (n, d) rows, as the kernels take them.
        centers: The centers.
        found: The bounds of an earlier iteration, which are overwritten.
    """
    stage = found.stage.course.stage(centers)
    movement, all_pairs = stage.movement_since(found.stage), len(points) * stage.groups
    is_few, with_matrix = _uses_few(centers), bool(stage.scoring()[0].matrix_panels)
    # Cost of scoring all pairs, in units of scoring a suspect pair. A matrix unit scores all pairs,
    # but not the suspect pairs of `reassign`. For `reassign_few` it scores both.
    cost = all_pairs * (_COST_WITH_MATRIX if with_matrix and not is_few else 1)
    parts = list(zip(_cut(points), found.pieces, strict=True))
    # Bounds become loose. They are made anew once updating them has cost as much as scoring all
    # pairs. Those of few centers are made anew for each row that is scored.
    if found.work > cost:  # never with few centers
        pieces = tuple(_made_anew(rows, centers, stage, movement, piece) for rows, piece in parts)
        bounds = Bounds(stage, found.nearest, pieces, found.pause)
        return Advanced(bounds, bounds, 0)
    changed = [_advanced(rows, centers, stage, movement, piece) for rows, piece in parts]
    scored_rows, pairs = sum(each[1] for each in changed), sum(each[2] for each in changed)
    k = len(centers.values)
    skipped = max(0, len(points) * k - pairs * min(GROUP, k))
    work = 0 if is_few else found.work + pairs + _PAIRS_OF_ROW * scored_rows
    bounds = replace(found, stage=stage, pieces=tuple(each[0] for each in changed), work=work)
    is_useless = pairs > _USELESS_SHARE * cost
    return Advanced(
        bounds, Waiting(found.pause, 2 * found.pause) if is_useless else bounds, skipped
    )


def _cut(array: NDArray[Any]) -> Iterable[NDArray[Any]]:
    return (array[some] for some in piece_slices(len(array)))


def _first(
    rows: FloatArray, nearest: IndexArray, centers: Centers, stage: Stage, *, with_sums: bool
) -> Piece | None:
    """Return the bounds of rows that had none, with sums if these are needed.

    Fills `nearest`, which must be zeros. Returns None if too many rows would be added up slowly.
    """
    upper = _zeros(len(rows), np.float32)
    lower = _zeros(len(rows) * stage.groups, np.uint16).reshape(len(rows), stage.groups)
    sizes: IndexArray = np.zeros(len(centers.values), np.int64)
    sizes[0] = len(rows)  # `nearest` is 0 for every row before the first assignment
    bounds, movement = RowBounds(nearest, sizes, upper, lower), stage.movement_since(stage)
    if not with_sums:
        _assign_all(rows, stage, movement, bounds, NO_SUMS)
        return Piece(_in_kernel_layout(bounds, centers), None)
    grid = grid_for(rows, centers)
    sums = zero_sums(centers.values.shape, grid, rows)
    num_rest = _assign_all(rows, stage, movement, bounds, sums)
    if num_rest > _MOST_SLOW * len(rows):
        return None
    extra = sums.counts[:, None] * np.int64(sum_vectors.MAGIC_BITS)
    low = sums.low - extra if len(sums.low) else sums.low
    others, clusters = sums.rest[:num_rest].T
    # Of a far row, the list has ~cluster (`sum_vectors.add_rows`).
    far, near = others[clusters < 0], others[clusters >= 0]
    few = grid.rounded_away(rows[near]).moved(near)
    if len(few) + len(far) > _MOST_SLOW * len(rows):
        return None
    far_clusters = bounds.nearest[far]
    far_sums = _sums_of_far(rows[far], far_clusters, centers, grid)
    moving = MovingSums(grid, sums.high - extra, low, few, far, far_clusters, far_sums)
    return Piece(_in_kernel_layout(bounds, centers), moving)


def _in_kernel_layout(bounds: RowBounds, centers: Centers) -> RowBounds:
    """Return the bounds in the layout of the kernel: group by group for `reassign_few`."""
    if not _uses_few(centers):
        return bounds
    n, groups = bounds.lower.shape
    by_group = np.zeros((groups, n + GROUP), np.uint16)
    by_group[:, :n] = bounds.lower.T
    return bounds._replace(lower=by_group[:, :n].T)


def _zeros(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return `count` zeros, followed in memory by 16 more: the kernels read whole vectors."""
    return np.zeros(count + GROUP, dtype)[:count]


def _sums_of_far(
    rows: FloatArray, clusters: IndexArray, centers: Centers, grid: Grid
) -> ExactSums | None:
    """Return the sums of rows that are far from the grid; None for no rows."""
    if not len(rows):
        return None
    zero = ExactSums.zero(centers.values.shape, grid)
    return plus_rows(zero, rows, clusters, centers.distance)


def _made_anew(
    rows: FloatArray, centers: Centers, stage: Stage, movement: Movement, piece: Piece
) -> Piece:
    """Return the piece with sums up to date and new bounds."""
    _assign_all(rows, stage, movement, piece.rows, _kernel_sums(piece))
    return _with_far(rows, centers, piece)


def _advanced(
    rows: FloatArray, centers: Centers, stage: Stage, movement: Movement, piece: Piece
) -> tuple[Piece, int, int]:
    """Return bounds and sums brought up to date, and the numbers of scored rows and pairs."""
    scratch = _scratch(stage.groups, rows.shape[1], rows.dtype)
    if _uses_few(centers):
        tile, arguments = _for_tiles(rows, stage, movement, piece.rows)
        lower, variant = piece.rows.lower.base, (rows.dtype, tile, stage.groups == 1)
        run(reassign_few, variant, rows, *arguments, lower, _kernel_sums(piece))
    else:
        arguments = movement, _height(), scratch, piece.rows, _kernel_sums(piece)
        run(reassign, (rows.dtype,), rows, stage.grouped, *arguments)
    scored_rows, pairs = scratch.counts.tolist()
    return _with_far(rows, centers, piece), scored_rows, pairs


def _kernel_sums(piece: Piece) -> Sums:
    """Return the sums of a piece, for kernels that only move rows."""
    if piece.sums is None:
        return NO_SUMS
    scales = panels.padded_scales(piece.sums.grid)
    return NO_SUMS._replace(grid=scales, high=piece.sums.high, low=piece.sums.low)


def _with_far(rows: FloatArray, centers: Centers, piece: Piece) -> Piece:
    """Return the piece with the sums of the rows that are far from the grid brought up to date."""
    sums = piece.sums
    if sums is None or not len(sums.far):
        return piece
    clusters = piece.rows.nearest[sums.far]
    if np.array_equal(clusters, sums.far_clusters):
        return piece
    far_sums = _sums_of_far(rows[sums.far], clusters, centers, sums.grid)
    return replace(piece, sums=replace(sums, far_clusters=clusters, far_sums=far_sums))


def _assign_all(
    rows: FloatArray, stage: Stage, movement: Movement, bounds: RowBounds, sums: Sums
) -> int:
    """Call `all_pairs.assign_all`; return the number of rows that `sums.rest` lists."""
    tile, arguments = _for_tiles(rows, stage, movement, bounds)
    run(assign_all, (rows.dtype, tile), rows, *arguments, sums)
    return int(_tile_scratch(tile, stage.grouped).num_rest[0])


def _for_tiles(
    rows: FloatArray, stage: Stage, movement: Movement, bounds: RowBounds
) -> tuple[Tile, tuple[Any, ...]]:
    """Return the shape of tiles, and the further arguments of `assign_all` and `reassign_few`."""
    tile, scoring = stage.scoring()
    scratch, size = _tile_scratch(tile, stage.grouped), len(tile.lanes) * len(tile.vectors)
    block = _scratch(stage.groups, rows.shape[1], rows.dtype)
    lower = np.empty((stage.groups + stage.groups % 2, size), np.uint16)
    group_scratch = GroupScratch(np.empty(size, np.float32), lower)
    return tile, (stage.grouped, scoring, movement, tile, scratch, group_scratch, block, bounds)


def _height() -> tuple[None, ...]:
    """Return the number of rows in a tile, as the length of a tuple (see `tile_vectors.Tile`).

    Each row of a tile takes registers for its 16 scores.
    """
    return (None,) * (16 if processor.vector_bytes() == 64 else 6)


def _new_scratch(groups: int, width: int, dtype: np.dtype[Any]) -> BlockScratch:
    pitch = -(-width // GROUP) * GROUP
    size = min(_MOST_ROWS, max(_FEWEST_ROWS, _BLOCK_BYTES // (4 * pitch)))
    floats = np.empty(2, np.float32)
    return BlockScratch(
        rows=aligned_empty((size, pitch), np.float32),
        squares=np.empty(size, np.float32),
        margins=np.empty(size, np.float32),
        scales=np.empty(1, dtype),
        exact_scales=np.empty(size),
        suspects=np.empty(size, np.int64),
        slots=np.empty(size, np.int64),
        own=np.empty(size, np.float32),
        scores_own=np.empty(size, np.bool_),
        best=np.empty(size, np.float32),
        best_group=np.empty(size, np.int64),
        second=np.empty(size, np.float32),
        best_lower=np.empty(size, np.uint16),
        lists=np.empty((groups, size), np.int16),
        lengths=np.empty(groups, np.int64),
        masks=np.empty(-(-groups // GROUP) + 1, np.int64),
        # Zeros: places without a row are computed too.
        tile=aligned_zeros((GROUP * pitch,), np.float32),
        tile_slots=np.zeros(GROUP, np.int64),
        tile_squares=np.zeros(GROUP, np.float32),
        tile_margins=np.zeros(GROUP, np.float32),
        least=np.empty((2, GROUP), np.float32),
        tile_lower=np.empty((2, GROUP), np.uint16),
        scores=np.empty(GROUP, np.float32),
        as_bits=floats.view(np.uint32),
        as_floats=floats,
        distance_parts=new_distance_parts(width),
        counts=np.zeros(2, np.int64),
    )
