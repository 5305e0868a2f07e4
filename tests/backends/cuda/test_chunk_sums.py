"""Sums and squares of rows that are hard to add up."""

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda import chunk_sums
from dkmeans.backends.cuda.chunk_sums import ChunkSums
from dkmeans.backends.cuda.device_centers import DeviceCenters
from dkmeans.backends.cuda.kernel_device import COUNTED_ROWS, FEW_ROWS, NULL
from dkmeans.backends.cuda.launches import Launches
from dkmeans.backends.cuda.pieces import DevicePiece
from dkmeans.distance import Centers, Distance
from tests.backends.cuda.problems import DTYPES, assert_same_sums, needs_compiler

# Centers for which a block counts its rows, as in `kernels/instructions.cu`.
COUNTED_CENTERS = 512

# Rows whose values are hard to add up, (n, d).
HARD_ROWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "offset": lambda rng, shape: rng.normal(size=shape) + 1e6,
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    # Nearly all values are left to the host.
    "log-uniform": lambda rng, shape: 10.0 ** rng.uniform(-20, 20, shape),
    "one huge column": lambda rng, shape: rng.normal(size=shape) * ([1e9] + [1] * (shape[1] - 1)),
    "one huge value in a column": lambda rng, shape: np.where(
        np.indices(shape)[0] == 1, 1e9, rng.normal(size=shape)
    ),
    "subnormal": lambda rng, shape: rng.normal(size=shape) * 1e-40,
    "large": lambda rng, shape: rng.normal(size=shape) * 1e18,
    "zeros": lambda rng, shape: np.zeros(shape),
    "integers": lambda rng, shape: rng.integers(-3, 4, shape).astype(float),
    # The grid sees every fifth row.
    "zero in the sample": lambda rng, shape: np.where(
        np.indices(shape)[0] % 5, rng.normal(size=shape) * 1e5, 0
    ),
}


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", HARD_ROWS)
def test_sums_and_squares_are_exact_for_rows_of_any_order_and_pieces_of_any_size(
    device, on_host, kind, dtype, monkeypatch
):
    monkeypatch.setattr(chunk_sums, "_LEFT_VALUES", 200)
    rng = np.random.default_rng(5)
    in_pieces = Launches(device, piece_bytes=5000)
    for k, d, metrics in [(5, 4, Distance), (20, 3, [Distance.SQUARED_EUCLIDEAN])]:
        rows = HARD_ROWS[kind](rng, (160, d)).astype(dtype)
        shuffled = rng.permutation(rows)
        assert on_host.squares(rows) == in_pieces.squares(shuffled) == by_numpy.squares(rows)
        for metric in metrics:
            centers = Centers(rows[:k].copy(), metric)
            expected = by_numpy.partial_sums(rows, centers)
            assert_same_sums(on_host.partial_sums(rows, centers).on_host(), expected)
            assert_same_sums(in_pieces.assign(shuffled, centers)[0], expected)


@needs_compiler
@pytest.mark.parametrize(("n", "d"), [(1, 1), (40_000, 1), (700, 33), (300, 257), (2, 700)])
def test_squares_of_any_shape_are_exact(on_host, n, d):
    rows = np.random.default_rng(n).normal(size=(n, d))
    assert on_host.squares(rows) == by_numpy.squares(rows)
    small = rows.astype(np.float32)
    assert on_host.squares(small) == by_numpy.squares(small)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "block_rows"), [(3, FEW_ROWS), (20, COUNTED_ROWS)])
def test_every_row_is_added_once_where_blocks_end(on_host, k, block_rows, dtype):
    values = np.full((k, 3), 1e3, dtype)
    values[0], values[1] = 9, -9
    for n in (1, 255, block_rows - 1, block_rows, block_rows + 1, 2 * block_rows + 1):
        rows = np.random.default_rng(n).normal(size=(n, 3)).astype(dtype)
        centers = Centers(values, Distance.SQUARED_EUCLIDEAN)
        found = on_host.partial_sums(rows, centers).on_host()
        assert_same_sums(found, by_numpy.partial_sums(rows, centers))
        assert found.counts.sum() == n


@needs_compiler
@pytest.mark.parametrize("k", [COUNTED_CENTERS, COUNTED_CENTERS + 1])
@pytest.mark.parametrize("d", [1, 100, 256, 300])
def test_rows_of_any_number_of_centers_and_columns_are_ordered_and_added(device, d, k):
    rng = np.random.default_rng(d)
    # Sums of such rows have no rounding error.
    rows = np.round(64 * rng.normal(size=(COUNTED_ROWS + 100, d))).astype("f") / 64
    nearest = rng.integers(k, size=len(rows))
    nearest[100:200] = 7
    centers = DeviceCenters(Centers(rows[:k], Distance.SQUARED_EUCLIDEAN), rows.dtype, device)
    sums = ChunkSums(device, rows, centers)
    sums.add(DevicePiece(rows, NULL), nearest)
    found = sums.with_rest(sums.left_rows(), nearest[:0]).on_host()
    assert found.counts.tolist() == np.bincount(nearest, minlength=k).tolist()
    expected = np.zeros((k, d))
    np.add.at(expected, nearest, rows.astype(float))
    assert found.sums.means(np.ones(k, np.int64)).tolist() == expected.tolist()


@needs_compiler
@pytest.mark.parametrize("d", [3, 33])
def test_a_value_that_underflows_beside_huge_ones_is_added(on_host, d):
    rows = np.full((70, d), 1e300)
    rows[1, 2] = 1e-100
    centers = Centers(rows[:1].copy(), Distance.SQUARED_EUCLIDEAN)
    expected = by_numpy.partial_sums(rows, centers)
    assert_same_sums(on_host.partial_sums(rows, centers).on_host(), expected)
    assert on_host.squares(rows) == by_numpy.squares(rows)
