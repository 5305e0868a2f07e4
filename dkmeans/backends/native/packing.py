"""Centers made ready for the kernels, and what these need beside them, for this processor."""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import llvmlite.binding as llvm
import numpy as np
from numba.core import config
from numpy.typing import DTypeLike

from dkmeans.backends.native import matrix
from dkmeans.backends.native.kernels import Packed, Scratch
from dkmeans.backends.native.vectors import CACHE_LINE, PROBED, Tile
from dkmeans.backends.rounding import shifted
from dkmeans.distance import Centers, Distance, directions
from dkmeans.state import FloatArray

_NO_MATRIX: FloatArray = np.empty(0, np.int32)
_NO_BIASES: FloatArray = np.empty(0, np.float32)
# From so many centers and columns on, a matrix unit was faster than vectors.
_MATRIX_CENTERS, _MATRIX_WIDTH = 64, 16
# Of so many rows or more, this part may be in doubt before a slower way of scoring is the faster.
_TELLING_ROWS, _MOST_IN_DOUBT = 256, 0.1
# A matrix unit takes the smallest numbers for zero: centers no longer than this are not for it.
_SMALLEST_MATRIX = 2.0**-60

# Linux's system call, and what it is asked: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


class Way(NamedTuple):
    """How scores are made: in which dtype, and by a matrix unit or by vectors."""

    dtype: np.dtype[Any]
    by_matrix: bool


def ways(dtype: np.dtype[Any]) -> tuple[Way, ...]:
    """The ways for rows of a dtype, the fastest first: each leaves fewer rows in doubt."""
    single = Way(np.dtype(np.float32), True), Way(np.dtype(np.float32), False)
    return (*single, Way(dtype, False)) if dtype == np.float64 else single


class Prepared:
    """Centers packed for scoring, for as long as they live: many chunks meet the same ones.

    Whichever way scores are made, labels and sums have the same bits. So a way that leaves many
    rows in doubt is left for the next one, for all problems of this shape.
    """

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Centers, dict[Any, tuple[Tile, Packed]]]
        self._kept = WeakKeyDictionary()
        self._left: dict[Any, int] = {}
        self._lock = threading.Lock()

    def __call__(self, centers: Centers, dtype: np.dtype[Any]) -> tuple[Tile, Packed]:
        """The packed centers for rows of this dtype, and the tiles they are packed for."""
        with self._lock:
            way = ways(dtype)[self._left.get(_kind(centers, dtype), 0)]
            tile = tile_of(way.dtype)
            kept = self._kept.setdefault(centers, {})
            if (way, tile, dtype) not in kept:
                kept[way, tile, dtype] = _for_scores(centers, tile, way, dtype)
            return kept[way, tile, dtype]

    def learn(self, centers: Centers, dtype: np.dtype[Any], rows: int, doubts: int) -> None:
        """Take note of how many rows their scores have left in doubt."""
        if rows < _TELLING_ROWS or doubts < _MOST_IN_DOUBT * rows:
            return
        with self._lock:
            kind = _kind(centers, dtype)
            self._left[kind] = min(self._left.get(kind, 0) + 1, len(ways(dtype)) - 1)


def _kind(centers: Centers, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    return (*centers.values.shape, centers.distance, dtype)


class Rooms(threading.local):
    """Room that a thread keeps: the first touch of fresh memory costs many times a reuse."""

    def __init__(self) -> None:
        self._kept: dict[Any, Scratch] = {}

    def __call__(self, tile: Tile, packed: Packed) -> Scratch:
        """The calling thread's room for such tiles, and for centers like these."""
        dtype, wide = packed.weights.dtype, packed.shift.dtype
        kind = tile, dtype, wide, packed.exact.shape[1], packed.cosine
        if kind not in self._kept:
            self._kept = {kind: _room(tile, dtype, wide, packed.exact.shape[1])}
        return self._kept[kind]


def _room(tile: Tile, dtype: np.dtype[Any], wide: np.dtype[Any], d: int) -> Scratch:
    size, centers = len(tile.lanes) * len(tile.vectors), len(tile.centers)
    values, integers = np.empty((4, size), dtype), np.dtype(f"i{dtype.itemsize}")
    scores = centers * size * max(1, 2 * len(tile.matrix))
    return Scratch(
        rows=_aligned(np.empty(max(d, 4) * size, dtype)),
        numbers=np.empty(size, np.int64),
        exact_scales=np.ones(size),
        scales=np.ones(size, wide),
        margins=np.empty(size, dtype),
        values=values,
        tags=values.view(integers),
        owners=np.empty((2, size), integers),
        winners=np.empty(size, np.int64),
        probed=np.empty(PROBED * centers, dtype),
        scores=_aligned(np.empty(scores, dtype)),
        eight=np.empty(8),
        squares=np.empty(8),
        spans=np.empty((64, 3), np.int64),
        sums=np.empty(64),
        depths=np.empty(64, np.int64),
        # Zeros, as what fills up the last group is never written.
        pairs=_aligned(np.zeros(_pair_lines(d) * size * bool(tile.matrix), np.int32)),
        config=_matrix_config(),
        doubts=np.zeros(1, np.int64),
    )


def _matrix_config() -> FloatArray:
    """How the matrix unit is set up (palette 1): eight registers, all of their lines whole."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32].view(np.uint16)[:] = CACHE_LINE
    config[48:56] = matrix.LINES
    return config


def _aligned(values: FloatArray) -> FloatArray:
    """A copy that begins a cache line: loads that straddle two take twice as long."""
    spare = np.empty(values.size + CACHE_LINE // values.itemsize, values.dtype)
    begin = -spare.ctypes.data % CACHE_LINE // values.itemsize
    aligned = spare[begin : begin + values.size]
    aligned[:] = values
    return aligned


@cache
def vector_bytes() -> int:
    """How wide this processor's vectors are, in bytes."""
    features = _features()
    return 64 if "+avx512f" in features else 32 if "+avx" in features else 16


@cache
def matrix_unit() -> bool:
    """Whether this process may use a matrix unit: Linux has to be asked for its registers."""
    if not {"+amx-tile", "+amx-bf16", "+avx512f"} <= _features() or sys.platform != "linux":
        return False
    asked = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return bool(asked == 0)


def _features() -> set[str]:
    found = config.CPU_FEATURES
    return set((llvm.get_host_cpu_features().flatten() if found is None else found).split(","))


def tile_of(dtype: DTypeLike) -> Tile:
    """The shape of tiles: their sums fill the vector registers.

    Of these there are 32 with AVX-512 and on ARM, and else 16.
    """
    many = vector_bytes() == 64 or platform.machine().lower() in ("aarch64", "arm64")
    count, centers = (2, 8) if many else (3, 4)
    lanes = vector_bytes() // np.dtype(dtype).itemsize
    return Tile((None,) * lanes, (None,) * count, (None,) * centers)


def _exact(centers: Centers) -> FloatArray:
    """The (k, d) centers as exact distances want them, float64."""
    cosine = centers.distance is Distance.COSINE
    exact = directions(centers.values) if cosine else centers.values.astype(np.float64)
    return np.ascontiguousarray(exact)


def _for_scores(
    centers: Centers, tile: Tile, way: Way, dtype: np.dtype[Any]
) -> tuple[Tile, Packed]:
    """Pack centers so that |c|^2 / 2 - x.c is a score, on data shifted to the centers' mean.

    A sum of m rounded products is off by at most m u sum |a b| (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), in any order of adding, with or without fused multiply-add;
    rounding the row, its scale, the center and the bias adds four more u, and the number of the
    center in the last bits as many eps as a panel has centers. Twice that for two scores, and a
    little for the rounding of the bound itself. A matrix unit adds up three times as many products,
    and leaves out what is below 2^-16 of a row, of a center, and of the product of the two.
    """
    made = shifted(centers, dtype)
    (k, d), cosine = made.values.shape, made.cosine
    largest, limits = made.rounding.largest, np.finfo(way.dtype)
    factor = (d + 5 + 2 * len(tile.centers)) * float(limits.eps)
    ordinary = _SMALLEST_MATRIX < largest < 1 / _SMALLEST_MATRIX
    if way.by_matrix and ordinary and _suits_matrix(tile, k, d):
        tile = tile._replace(matrix=(None,) * matrix.PANELS)
        width = matrix.PANELS * len(tile.centers)
        factor = (3 * d + 10 + 2 * width) * float(limits.eps) + 3.1 * 2.0**-15
    halves = _filled(made.halves, tile, float(limits.max) / 4).astype(way.dtype)
    packed = Packed(
        weights=_in_panels(-made.values, tile).astype(way.dtype),
        halves=halves,
        shift=made.shift,
        exact=made.exact,
        factor=1.02 * factor,
        floor=d * float(limits.tiny),
        largest=largest,
        half=made.rounding.half,
        limit=float(limits.max) / 16,
        cosine=cosine,
        zero=np.zeros((1, d)),
        origins=in_octets(np.zeros((k, d), dtype) if cosine else _origins(centers, dtype)),
        matrix=_in_registers(-made.values.astype(np.float32), tile) if tile.matrix else _NO_MATRIX,
        biases=_aligned(np.repeat(halves, matrix.LINES)) if tile.matrix else _NO_BIASES,
    )
    return tile, packed


def _suits_matrix(tile: Tile, k: int, d: int) -> bool:
    """Whether there is a matrix unit for such tiles, and work enough to be worth setting it up."""
    return len(tile.lanes) == matrix.LINES and matrix_unit() and _is_large(k, d)


def _is_large(k: int, d: int) -> bool:
    return k >= _MATRIX_CENTERS and d >= _MATRIX_WIDTH


def for_distances(centers: Centers, tile: Tile) -> Packed:
    """Pack centers as they are, in float64."""
    exact = _exact(centers)
    d = exact.shape[1]
    return Packed(
        weights=_in_panels(exact, tile),
        halves=np.empty(0),
        shift=np.zeros(d),
        exact=exact,
        factor=0.0,
        floor=0.0,
        largest=0.0,
        half=0.0,
        limit=0.0,
        cosine=centers.distance is Distance.COSINE,
        zero=np.zeros((1, d)),
        origins=exact,
        matrix=_NO_MATRIX,
        biases=_NO_BIASES,
    )


def _in_registers(weights: FloatArray, tile: Tile) -> FloatArray:
    """(k, d) float32 as sums of two bfloat16, in the order in which a matrix unit loads them.

    By panels of 32 centers: groups of 32 features, h and l, and then h, l and h of the others side
    by side; and in all of these the two halves of the centers.
    """
    d, side = weights.shape[1], 2 * matrix.LINES
    high = _rounded(weights)
    parts = [part.view(np.uint32) >> 16 for part in (high, _rounded(weights - high))]
    whole = d // side * side
    columns = [part[:, i : i + side] for i in range(0, whole, side) for part in parts]
    if d > whole:
        even = np.pad(np.stack(parts)[:, :, whole:], ((0, 0), (0, 0), (0, d % 2)))
        rest = np.hstack([even[0], even[1], even[0]])
        columns.append(np.pad(rest, ((0, 0), (0, -rest.shape[1] % side))))
    features = _filled(np.hstack(columns), tile, 0).astype(np.uint16)
    registers = features.reshape(-1, 2, matrix.LINES, features.shape[1] // side, side)
    return _aligned(registers.transpose(0, 3, 1, 2, 4).ravel().view(np.int32))


def _rounded(values: FloatArray) -> FloatArray:
    """float32 to the nearest bfloat16, as float32."""
    return ((values.view(np.uint32) + np.uint32(2**15)) & np.uint32(2**32 - 2**16)).view(np.float32)


def _pair_lines(d: int) -> int:
    """How many lines a tile's pairs of features take up for a matrix unit."""
    rest = 3 * ((d % 32 + 1) // 2)
    return 32 * (d // 32) + -(-rest // matrix.LINES) * matrix.LINES


def _origins(centers: Centers, dtype: np.dtype[Any]) -> FloatArray:
    """The centers as narrow as they are without loss: the kernel is bound by reading them."""
    wide = np.result_type(dtype, centers.values.dtype)
    return np.ascontiguousarray(centers.values, wide)


def in_octets(rows: FloatArray) -> FloatArray:
    """(k, d) rows, each filled up with zeros to whole octets."""
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8)))


def _in_panels(rows: FloatArray, tile: Tile) -> FloatArray:
    """(k, d) rows, filled up, panel by panel, and in each feature by feature, in one dimension."""
    filled = _filled(rows, tile, 0.0).reshape(-1, len(tile.centers), rows.shape[1])
    return np.ascontiguousarray(filled.swapaxes(1, 2)).ravel()


def _filled(rows: FloatArray, tile: Tile, value: float) -> FloatArray:
    """Rows, and below them as many of this value as make whole groups of panels."""
    group = PROBED * len(tile.centers)
    filled = np.full((-(-len(rows) // group) * group, *rows.shape[1:]), value)
    filled[: len(rows)] = rows
    return filled
