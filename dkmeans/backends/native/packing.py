"""Packing: centers and work arrays in the layout that the kernels need on this processor.

`backend` takes packed centers from `PackedCentersCache` and work arrays from `ScratchPerThread`.
The scoring (`Scoring`) affects only the speed: cluster indices and sums have the same bits with
every scoring.
"""

from __future__ import annotations

import ctypes
import math
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from mmap import ACCESS_COPY, mmap
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.backends.native import eight_bits, matrix, processor
from dkmeans.backends.native.kernels import (
    ByteCenters,
    ByteScratch,
    PackedCenters,
    Scratch,
    Sums,
)
from dkmeans.backends.native.reassign import GroupedCenters
from dkmeans.backends.native.vectors import CACHE_LINE_BYTES, PROBED_PANELS, Tile
from dkmeans.backends.rounding import SLACK, Shifted, exact_rows, shifted
from dkmeans.distance import Centers, Distance
from dkmeans.exact import Grid
from dkmeans.state import FloatArray, IndexArray

# Registers and biases without a matrix unit.
NO_REGISTERS: tuple[FloatArray, FloatArray] = np.empty(0, np.int32), np.empty(0, np.float32)
# Centers as bytes, without first scores in 8 bits.
NO_BYTES = ByteCenters(np.empty(0, np.int32), np.empty(0, np.int32), np.float32(0), 0.0, 0.0, 0.0)
# With at least so many columns, and centers and products of the two, first scores in 8 bits were
# measured to save time: for vectors, and for a matrix unit. From so many columns on their sums may
# overflow.
_BYTE_COLUMNS, _TOO_MANY_COLUMNS = 16, 2**15
_BYTE_CENTERS, _BYTE_PRODUCTS = {False: 128, True: 512}, {False: 2**13, True: 2**16}
# Above these shares of scores that are computed again, other scores take less time in all.
_AGAIN_SHARE = {False: 0.05, True: 0.015}
# With at least so many centers and columns a matrix unit was measured to be faster than vectors.
_MATRIX_CENTERS, _MATRIX_COLUMNS = 64, 16
# Smaller chunks are not representative.
_REPRESENTATIVE_ROWS = 256
# Above this share of ambiguous rows the next scoring takes less time in all: its scores cost more,
# but it leaves fewer rows ambiguous.
_AMBIGUOUS_SHARE = 0.1
# A matrix unit treats the smallest numbers (subnormal ones) as zero, and factors of bytes may
# become such numbers. Both are used only if the length of the longest center is above this, and
# below the reciprocal of this.
_SMALLEST_NORM = 2.0**-60
# Entries of the stacks of `kernels`: more than the halvings of a row of any width.
STACK_DEPTH = 64
# Number of centers that are rounded at a time, about.
_CENTERS_AT_ONCE = 1024
# From so many values on, 16 MB as float32, centers are large: a copy in float64 is avoided.
_LARGE_CENTERS = 2**22
# A chunk with less than so many rows for each cluster leaves most of the clusters without rows.
_FEW_ROWS = 0.25
# Features of the smallest square that is transposed: not less than `kernels._SMALL_SIDE`.
_SMALLEST_TILE_FEATURES = 4

# The system call arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) of Linux.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


class Scoring(NamedTuple):
    """A method to compute scores.

    Attributes:
        dtype: The dtype of the scores.
        by_matrix: True if a matrix unit computes the scores where there is one; False if vectors
            do.
        in_bytes: True if the first scores are computed in 8 bits where that saves time, and some of
            them again in float32.
    """

    dtype: np.dtype[Any]
    by_matrix: bool
    in_bytes: bool = False


def scorings(dtype: np.dtype[Any]) -> tuple[Scoring, ...]:
    """Return the scorings for rows of a dtype, the fastest first.

    Each leaves fewer rows ambiguous than the one before.
    """
    float32 = np.dtype(np.float32)
    single = Scoring(float32, True, True), Scoring(float32, True), Scoring(float32, False)
    return (*single, Scoring(dtype, False)) if dtype == np.float64 else single


class PackedCentersCache:
    """Cache of packed centers; an entry lives as long as its `Centers`.

    All chunks of an iteration share an entry. The cache also chooses the scoring: after a chunk
    with many ambiguous rows, the next scoring is used for all problems of the same shape in this
    process.
    """

    def __init__(self) -> None:
        self._packed: WeakKeyDictionary[Centers, dict[Any, tuple[Tile, PackedCenters]]]
        self._packed = WeakKeyDictionary()
        # Not by centers: the next iteration has other centers, and mostly as many ambiguous rows.
        self._scoring_numbers: dict[Any, int] = {}
        self._lock = threading.Lock()

    def __call__(
        self, centers: Centers, dtype: np.dtype[Any], *, with_second: bool = False
    ) -> tuple[Tile, PackedCenters]:
        """Return the packed centers for rows of a dtype, and the tile that they are packed for.

        Args:
            centers: The centers.
            dtype: The dtype of the rows.
            with_second: True if the tile must also find second nearest centers, which first scores
                in 8 bits do not.
        """
        # Other threads wait here rather than pack the same centers again.
        with self._lock:
            left = scorings(dtype)[self._scoring_numbers.get(_problem(centers, dtype), 0) :]
            scoring = next(each for each in left if not (with_second and each.in_bytes))
            tile = tile_of(scoring.dtype)
            packed = self._packed.setdefault(centers, {})
            if (scoring, tile, dtype) not in packed:
                packed[scoring, tile, dtype] = _for_scores(centers, tile, scoring, dtype)
            found, packed_centers = packed[scoring, tile, dtype]
            return found._replace(second=(None,) * with_second), packed_centers

    def note_ambiguous(
        self, centers: Centers, dtype: np.dtype[Any], tile: Tile, *, rows: int, ambiguous: int,
        is_slow: bool = False,
    ) -> None:  # fmt: skip
        """Change to the next scoring if a chunk has shown that the scores are too coarse.

        Args:
            centers: The centers.
            dtype: The dtype of the rows.
            tile: The tile that the chunk was scored with.
            rows: Number of rows of the chunk.
            ambiguous: Number of rows that were ambiguous.
            is_slow: True if too many scores were computed again (see `takes_long_again`).
        """
        is_coarse = is_slow or ambiguous >= _AMBIGUOUS_SHARE * rows
        if rows < _REPRESENTATIVE_ROWS or not is_coarse:
            return
        with self._lock:
            tiles = {key[0]: found[0] for key, found in self._packed.get(centers, {}).items()}
            problem = _problem(centers, dtype)
            first = self._scoring_numbers.get(problem, 0)
            used = tile._replace(second=())
            # None if another thread has reported this scoring before: a scoring would be skipped.
            numbers = [
                number
                for number, scoring in enumerate(scorings(dtype))
                if number >= first and tiles.get(scoring) == used
            ]
            if numbers:
                last = len(scorings(dtype)) - 1
                self._scoring_numbers[problem] = min(numbers[-1] + 1, last)


def takes_long_again(tile: Tile, scratch: Scratch, rows: int) -> bool:
    """Return whether too many scores of some rows were in 8 bits first, and computed again."""
    scores = rows * len(scratch.in_bytes.minima)
    return int(scratch.scored_again[0]) > _AGAIN_SHARE[bool(tile.matrix_panels)] * scores


def _problem(centers: Centers, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    return (*centers.values.shape, centers.distance, dtype)


class ScratchPerThread(threading.local):
    """Work arrays of each thread, for the last two shapes that it used.

    The first access to new memory is many times slower than later ones. Predictions use two shapes:
    one for the nearest centers and one for all distances.
    """

    def __init__(self) -> None:
        self._scratch: dict[Any, Scratch] = {}

    def __call__(self, tile: Tile, packed: PackedCenters | GroupedCenters) -> Scratch:
        """Return the calling thread's work arrays for such tiles and centers."""
        dtype, row_dtype = packed.weights.dtype, packed.shift.dtype
        # Cosine writes to `exact_scales`, which must stay 1 for the other distance.
        (k, d), has_panels = packed.exact.shape, bool(tile.in_bytes)
        shape = tile, dtype, row_dtype, d, packed.cosine, k * has_panels
        if shape not in self._scratch:
            last = list(self._scratch.items())[-1:]
            new = _new_scratch(tile, dtype, row_dtype, packed.exact.shape)
            self._scratch = dict([*last, (shape, new)])
        return self._scratch[shape]


def _new_scratch(
    tile: Tile, dtype: np.dtype[Any], row_dtype: np.dtype[Any], shape: tuple[int, int]
) -> Scratch:
    k, d = shape
    size, centers = len(tile.lanes) * len(tile.vectors), len(tile.centers)
    ranked, integers = np.empty((6, size), dtype), np.dtype(f"i{dtype.itemsize}")
    # Vectors store distances of one panel, a matrix unit the scores of two groups of panels.
    scores = centers * size * max(1, 2 * len(tile.matrix_panels))
    return Scratch(
        rows=aligned_empty(max(d, _SMALLEST_TILE_FEATURES) * size, dtype),
        indices=np.empty(size, np.int64),
        exact_scales=np.ones(size),
        scales=np.ones(size, row_dtype),
        margins=np.empty(size, dtype),
        ranked=ranked,
        ranked_bits=ranked.view(integers),
        panels=np.empty((3, size), integers),
        nearest=np.empty(size, np.int64),
        probe_scores=np.empty(PROBED_PANELS * centers, dtype),
        scores=aligned_empty(scores, dtype),
        octet_sums=np.empty(8),
        spans=np.empty((STACK_DEPTH, 3), np.int64),
        span_sums=np.empty(STACK_DEPTH),
        span_depths=np.empty(STACK_DEPTH, np.int64),
        # Zeros: the lines that fill up the last group are never written, but they are multiplied.
        pairs=aligned(np.zeros(_pair_lines(d) * size * bool(tile.matrix_panels), np.int32)),
        matrix_config=_matrix_config(),
        ambiguous=np.zeros(1, np.int64),
        scored_again=np.zeros(1, np.int64),
        num_rest=np.zeros(1, np.int64),
        in_bytes=_byte_scratch(
            size,
            -(-k // centers),
            d,
            is_used=bool(tile.in_bytes),
            with_matrix=bool(tile.matrix_panels),
        ),
    )


def _byte_scratch(
    size: int, panels: int, d: int, *, is_used: bool, with_matrix: bool
) -> ByteScratch:
    size *= is_used
    least = np.empty(2, np.float32)
    quads, products = -(-d // eight_bits.QUAD), 0
    if with_matrix:
        # It multiplies whole groups of quads, and whole groups of panels.
        quads = -(-quads // matrix.GROUP_QUADS) * matrix.GROUP_QUADS
        panels = -(-panels // matrix.PANELS) * matrix.PANELS
        products = 2 * 2 * matrix.LINES * size
    return ByteScratch(
        # Zeros, as these quads are not written.
        quads=aligned(np.zeros(quads * size, np.int32)),
        products=aligned_empty(products, np.int32),
        steps=np.empty(size, np.float32),
        losses=np.empty(size, np.float32),
        margins=np.empty(size, np.float32),
        minima=np.empty((panels, size), np.float32),
        limits=np.empty(size, np.float32),
        rows=np.empty((size, d), np.float32),
        again=np.empty((2, size), np.float32),
        least=least,
        least_bits=least.view(np.int32),
        mask=np.empty(1, np.int64),
    )


def _matrix_config() -> FloatArray:
    """Return the configuration of the matrix unit: palette 1, eight registers of full size."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32].view(np.uint16)[:] = CACHE_LINE_BYTES
    config[48:56] = matrix.LINES
    return config


def aligned_empty(size: int, dtype: DTypeLike) -> FloatArray:
    """Return memory aligned to a cache line: loads that touch two lines take twice as long."""
    spare = np.empty(size + CACHE_LINE_BYTES // np.dtype(dtype).itemsize, dtype)
    begin = -spare.ctypes.data % CACHE_LINE_BYTES // spare.itemsize
    return spare[begin : begin + size]


def aligned(values: FloatArray) -> FloatArray:
    """Return a copy in one dimension, aligned to a cache line."""
    return _joined([values], values.size, values.dtype)


def _joined(pieces: Iterable[FloatArray], size: int, dtype: DTypeLike) -> FloatArray:
    """Return pieces of this size in total as one array, aligned to a cache line."""
    joined, start = aligned_empty(size, dtype), 0
    for piece in pieces:
        stop = start + piece.size
        joined[start:stop].reshape(piece.shape)[...] = piece
        start = stop
    return joined


@cache
def matrix_unit() -> bool:
    """Ask Linux for the registers of the matrix unit; return whether this process may use it."""
    if (
        not {"+amx-tile", "+amx-bf16", "+avx512f"} <= processor.features()
        or sys.platform != "linux"
    ):
        return False
    refused = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return bool(refused == 0)


def multiplies_bytes() -> bool:
    """Return whether the vectors of this processor multiply bytes, as in `eight_bits`."""
    needed = "+avx512vnni" if processor.vector_bytes() == 64 else "+avxvnni"
    return processor.vector_bytes() > 16 and needed in processor.features()


def tile_of(dtype: DTypeLike) -> Tile:
    """Return the tile whose scores fit the vector registers, with room for rows and centers.

    Processors with AVX-512 and ARM processors have 32 of these registers, others have 16.
    """
    has_32 = processor.vector_bytes() == 64 or platform.machine().lower() in ("aarch64", "arm64")
    count, centers = (2, 8) if has_32 else (3, 4)
    lanes = processor.vector_bytes() // np.dtype(dtype).itemsize
    return Tile((None,) * lanes, (None,) * count, (None,) * centers)


def _for_scores(
    centers: Centers, tile: Tile, scoring: Scoring, dtype: np.dtype[Any]
) -> tuple[Tile, PackedCenters]:
    """Pack centers for scores |c|^2 / 2 - x.c, on data shifted to the centers' mean.

    Returns:
        The tile, with `matrix_panels` if a matrix unit computes the scores, and the centers.
    """
    prepared, cosine = shifted(centers, dtype), centers.distance is Distance.COSINE
    (k, d), rounding = centers.values.shape, prepared.rounding
    limits = np.finfo(scoring.dtype)
    factor = error_factor(d, len(tile.centers), float(limits.eps))
    if scoring.by_matrix:
        tile = tile_for(k, d, rounding.largest)
    if scoring.in_bytes and _suits_bytes(tile, k, d, rounding.largest):
        tile = tile._replace(in_bytes=(None,))

    def negative() -> Iterator[FloatArray]:
        for some in some_at_a_time(k, tile):
            values = prepared.values(some)
            yield np.negative(values, dtype=scoring.dtype, casting="same_kind")

    # Centers that fill up a panel get a score so large that they are never the nearest.
    halves = _pad_to_panels(prepared.halves, tile, float(limits.max) / 4).astype(scoring.dtype)
    registers, biases = NO_REGISTERS
    in_bytes = NO_BYTES
    if tile.in_bytes:
        in_bytes = _in_bytes(negative, (k, d), rounding.largest, tile)
    elif tile.matrix_panels:
        factor = matrix_error_factor(d, matrix.PANELS * len(tile.centers))
        registers, biases = registers_of(negative(), halves, d, tile)
    packed = PackedCenters(
        weights=_in_panels(negative(), (k, d), scoring.dtype, tile),
        halves=halves,
        shift=prepared.shift,
        exact=_exact(prepared, tile),
        error_factor=factor,
        # Exact distances 1 - x.c are rounded too, whatever the size of the scores.
        error_floor=d * float(limits.tiny) + rounding.exact * cosine,
        error_exact=rounding.exact,
        largest_norm=rounding.largest,
        largest_half=rounding.half,
        score_limit=float(limits.max) / 16,
        cosine=cosine,
        zero=np.zeros((1, d)),
        registers=registers,
        biases=biases,
        in_bytes=in_bytes,
    )
    return tile, packed


def error_factor(d: int, panel: int, eps: float) -> float:
    """Return the relative part of the bound on the rounding error of two scores.

    A sum of m rounded products is off by at most m u sum |a b| in any order of adding, fused or not
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Four more u come from the
    rounding of the row, its scale, the center and the bias. The number of the center in the last
    bits of a score adds as many eps as a panel has centers. The factor is twice that, as it is for
    two scores, and `SLACK` more.
    """
    return SLACK * (d + 5 + 2 * panel) * eps


def matrix_error_factor(d: int, panel: int) -> float:
    """Return the same for the scores of a matrix unit.

    The unit adds up three times as many products: the terms are 3 d + 5; 10 is rounded up, and
    safe. It leaves out what is below 2^-16 of a row, of a center, and of the product of the two:
    three times 2^-16, for two scores 3 * 2^-15.
    """
    eps = float(np.finfo(np.float32).eps)
    return SLACK * ((matrix.PRODUCTS * d + 10 + 2 * panel) * eps + 3.1 * 2.0**-15)


def tile_for(k: int, d: int, largest_norm: float) -> Tile:
    """Return the tile of float32 scores with such centers: for a matrix unit if one is faster."""
    tile = tile_of(np.float32)
    if _is_in_range(largest_norm) and _suits_matrix(tile, k, d):
        return tile._replace(matrix_panels=(None,) * matrix.PANELS)
    return tile


def registers_of(
    pieces: Iterable[FloatArray], halves: FloatArray, d: int, tile: Tile
) -> tuple[FloatArray, FloatArray]:
    """Return negative centers and their halves for a matrix unit: registers, biases.

    Args:
        pieces: The (k, d) negative centers, as `some_at_a_time` cuts them.
        halves: (k,) their halves.
        d: Number of columns.
        tile: The shape of a tile.
    """
    padded = _pad_to_panels(halves, tile, float(np.finfo(np.float32).max) / 4)
    biases = np.repeat(padded.astype(np.float32), matrix.LINES)
    registers = (_in_registers(piece, tile) for piece in pieces)
    return _joined(registers, len(padded) * _pair_lines(d), np.int32), aligned(biases)


def _suits_matrix(tile: Tile, k: int, d: int) -> bool:
    """Return whether a matrix unit can score such tiles, and is worth its configuration."""
    return len(tile.lanes) == matrix.LINES and matrix_unit() and _is_large(k, d)


def _is_large(k: int, d: int) -> bool:
    return k >= _MATRIX_CENTERS and d >= _MATRIX_COLUMNS


def _is_in_range(largest_norm: float) -> bool:
    return _SMALLEST_NORM < largest_norm < 1 / _SMALLEST_NORM


def _suits_bytes(tile: Tile, k: int, d: int, largest_norm: float) -> bool:
    """Return whether first scores of such centers can be computed in 8 bits, and save time."""
    has_products = "+amx-int8" in processor.features() if tile.matrix_panels else multiplies_bytes()
    is_possible = d < _TOO_MANY_COLUMNS and _is_in_range(largest_norm) and has_products
    return is_possible and _gains_by_bytes(k, d, with_matrix=bool(tile.matrix_panels))


def _gains_by_bytes(k: int, d: int, *, with_matrix: bool) -> bool:
    is_large = k >= _BYTE_CENTERS[with_matrix] and k * d >= _BYTE_PRODUCTS[with_matrix]
    return is_large and d >= _BYTE_COLUMNS


def _in_bytes(
    negative: Callable[[], Iterator[FloatArray]],
    shape: tuple[int, int],
    largest_norm: float,
    tile: Tile,
) -> ByteCenters:
    """Round negative centers to bytes.

    Args:
        negative: Returns the (k, d) negative centers, as `some_at_a_time` cuts them.
        shape: (k, d).
        largest_norm: Length of the longest center.
        tile: The shape of a tile.
    """
    step = np.float32(max(float(np.abs(piece).max()) for piece in negative()))
    step /= np.float32(eight_bits.LARGEST)
    offsets: list[NDArray[np.int32]] = []
    largest_loss = 0.0

    def quads() -> Iterator[NDArray[np.int32]]:
        nonlocal largest_loss
        for piece in negative():
            unpadded = np.rint(piece / step)
            losses = np.linalg.norm(piece - unpadded.astype(np.float64) * step, axis=1)
            largest_loss = max(largest_loss, float(losses.max()))
            rounded = _pad_to_panels(unpadded.astype(np.int8), tile, 0)
            offsets.append(-eight_bits.OFFSET * rounded.sum(axis=1, dtype=np.int32))
            yield _in_quads(rounded, tile)

    # The last bits of a score have the number of its center in its panel. Less than eight more
    # roundings are of the center, the row, the factors, the product and the sum.
    rounding = (2 * len(tile.centers) + 16) * float(np.finfo(np.float32).eps)
    return ByteCenters(
        quads=_joined(quads(), _padded_count(shape[0], tile) * _quads(shape[1], tile), np.int32),
        offsets=np.concatenate(offsets),
        step=step,
        largest_norm=SLACK * largest_norm,
        largest_loss=SLACK * largest_loss,
        rounding=SLACK * rounding,
    )


def _quads(d: int, tile: Tile) -> int:
    """Return the number of quads of features of a center: a matrix unit has whole groups."""
    group = matrix.GROUP_QUADS if tile.matrix_panels else 1
    return -(-d // (eight_bits.QUAD * group)) * group


def _in_quads(rounded: NDArray[np.int8], tile: Tile) -> NDArray[np.int32]:
    """Return (k, d) int8 centers, in whole panels, as int32 in the order of the kernel's loads."""
    quads = _quads(rounded.shape[1], tile)
    features = eight_bits.QUAD * quads - rounded.shape[1]
    in_quads = np.pad(rounded, ((0, 0), (0, features))).view(np.int32)
    if not tile.matrix_panels:
        return _panels_of(in_quads, tile)
    group = matrix.GROUP_QUADS
    return in_quads.reshape(-1, 2, matrix.LINES, quads // group, group).transpose(0, 3, 1, 2, 4)


def _exact(prepared: Shifted, tile: Tile) -> FloatArray:
    """Return centers for exact distances: float64, but large float32 centers as they are.

    Not all float32 centers, because kernels are compiled for each of the two: cosine needs float64.
    """
    values = prepared.centers.values
    if values.dtype == np.float32 and values.size >= _LARGE_CENTERS and not prepared.cosine:
        values = np.require(values, requirements=["C", "A"]).view()
        values.flags.writeable = False
        return values
    exact = np.empty(values.shape)
    for some in some_at_a_time(len(values), tile):
        exact[some] = prepared.exact(some)
    return exact


def some_at_a_time(k: int, tile: Tile) -> list[slice]:
    """Cut k centers: temporary arrays of all large centers would be ten copies of them."""
    size = _group_of(tile) * max(1, _CENTERS_AT_ONCE // _group_of(tile))
    return [slice(start, start + size) for start in range(0, k, size)]


def for_distances(centers: Centers, tile: Tile) -> PackedCenters:
    """Pack centers in float64 and without a shift, for `kernels.measure`."""
    exact = np.ascontiguousarray(exact_rows(centers.values, centers.distance))
    k, d = exact.shape
    pieces = (exact[some] for some in some_at_a_time(k, tile))
    return PackedCenters(
        weights=_in_panels(pieces, (k, d), exact.dtype, tile),
        halves=np.empty(0),
        shift=np.zeros(d),
        exact=exact,
        error_factor=0.0,
        error_floor=0.0,
        error_exact=0.0,
        largest_norm=0.0,
        largest_half=0.0,
        score_limit=0.0,
        cosine=centers.distance is Distance.COSINE,
        zero=np.zeros((1, d)),
        registers=NO_REGISTERS[0],
        biases=NO_REGISTERS[1],
        in_bytes=NO_BYTES,
    )


def _in_registers(weights: FloatArray, tile: Tile) -> FloatArray:
    """Split (k, d) float32 into sums h + l of two bfloat16, in the order of a matrix unit's loads.

    The outer order is panels of 32 centers. In each panel come the groups of 32 features, h and
    then l, and after them the rest of the features: h, l and h side by side. Each block of
    32 columns takes two registers, one for each half of the centers.
    """
    d, group = weights.shape[1], matrix.GROUP_FEATURES
    high = _to_bfloat16(weights)
    parts = [part.view(np.uint32) >> 16 for part in (high, _to_bfloat16(weights - high))]
    whole = d // group * group
    blocks = [part[:, i : i + group] for i in range(0, whole, group) for part in parts]
    if d > whole:
        # The unit multiplies pairs of features: an odd number of features gets one more, of zeros.
        padded_rest = np.pad(np.stack(parts)[:, :, whole:], ((0, 0), (0, 0), (0, d % 2)))
        rest = np.hstack([padded_rest[0], padded_rest[1], padded_rest[0]])
        blocks.append(np.pad(rest, ((0, 0), (0, -rest.shape[1] % group))))
    features = _pad_to_panels(np.hstack(blocks), tile, 0).astype(np.uint16)
    registers = features.reshape(-1, 2, matrix.LINES, features.shape[1] // group, group)
    return registers.view(np.int32).transpose(0, 3, 1, 2, 4)


def _to_bfloat16(values: FloatArray) -> FloatArray:
    """Round float32 to the nearest bfloat16, returned as float32."""
    # Half of the last place is added, then the lower 16 bits are cut: a tie moves away from zero.
    return ((values.view(np.uint32) + np.uint32(2**15)) & np.uint32(2**32 - 2**16)).view(np.float32)


def _pair_lines(d: int) -> int:
    """Return the number of lines that a tile's pairs of features take for a matrix unit."""
    whole, rest = divmod(d, matrix.GROUP_FEATURES)
    rest_lines = matrix.PRODUCTS * ((rest + 1) // 2)
    return matrix.GROUP_LINES * whole + -(-rest_lines // matrix.LINES) * matrix.LINES


def zero_sums(shape: tuple[int, int], grid: Grid, points: FloatArray) -> Sums:
    """Return sums of no rows, for (k, d) centers and for the given rows, at most `PIECE_ROWS`."""
    k, d = shape
    padded = -(-d // 8) * 8
    low_shape = (k, padded) if points.dtype == np.float64 else (0, padded)
    return Sums(
        grid=padded_scales(grid),
        counts=np.zeros(k, np.int64),
        high=_zeros((k, padded), len(points)),
        low=_zeros(low_shape, len(points)),
        rest=np.empty((len(points), 2), np.int64),
    )


def _zeros(shape: tuple[int, int], rows: int) -> IndexArray:
    """Return int64 zeros for sums of so many rows; few rows use little memory of many clusters."""
    if rows >= _FEW_ROWS * shape[0] or math.prod(shape) < _LARGE_CENTERS:
        return np.zeros(shape, np.int64)
    # NumPy asks for pages of 2 MB, which have the sums of so many clusters that all would be used.
    memory = mmap(-1, 8 * math.prod(shape), access=ACCESS_COPY)
    return np.frombuffer(memory, np.int64).reshape(shape)


def padded(count: int) -> int:
    """Return the least multiple of eight that is not below a number."""
    return -(-count // 8) * 8


def padded_scales(grid: Grid) -> FloatArray:
    """Return the factors of a grid, filled up with zeros to a multiple of eight columns."""
    scales = np.zeros(padded(len(grid.exponents)))  # `pad` would take ten times as long
    scales[: len(grid.exponents)] = grid.scales
    return scales


def _in_panels(
    pieces: Iterable[FloatArray], shape: tuple[int, int], dtype: DTypeLike, tile: Tile
) -> FloatArray:
    """Return (k, d) rows in one dimension: panel by panel, and in each feature by feature.

    Args:
        pieces: The rows, as `some_at_a_time` cuts them.
        shape: (k, d).
        dtype: The dtype of the rows.
        tile: The shape of a tile.
    """
    panels = (_panels_of(_pad_to_panels(piece, tile, 0), tile) for piece in pieces)
    return _joined(panels, _padded_count(shape[0], tile) * shape[1], dtype)


def _panels_of(rows: FloatArray, tile: Tile) -> FloatArray:
    """Return (k, d) rows of whole panels: panel by panel, and in each feature by feature."""
    return rows.reshape(-1, len(tile.centers), rows.shape[1]).swapaxes(1, 2)


def _group_of(tile: Tile) -> int:
    """Return the number of centers in `PROBED_PANELS` panels."""
    return PROBED_PANELS * len(tile.centers)


def _padded_count(k: int, tile: Tile) -> int:
    """Return a number of centers, filled up to whole groups of `PROBED_PANELS` panels."""
    group = _group_of(tile)
    return -(-k // group) * group


def _pad_to_panels(rows: FloatArray, tile: Tile, value: float) -> FloatArray:
    """Append rows of this value until there are whole groups of `PROBED_PANELS` panels."""
    padded = np.full((_padded_count(len(rows), tile), *rows.shape[1:]), value, rows.dtype)
    padded[: len(rows)] = rows
    return padded
