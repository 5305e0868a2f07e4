"""The kernels of few centers: their limits, and rows that need more than their digits."""

from fractions import Fraction

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda.device_centers import DeviceCenters
from dkmeans.backends.cuda.few_centers import _PARTS_ERROR, FewCenters
from dkmeans.backends.cuda.kernel_device import FEW_TILE
from dkmeans.backends.cuda.launches import Launches
from dkmeans.distance import Centers, Distance
from tests.backends.cuda.problems import (
    DTYPES,
    assert_nearest,
    assert_same_sums,
    needs_compiler,
    problem,
)
from tests.reference import METRICS


def few_of(device, k, d, dtype, metric="squared_euclidean"):
    """Return k centers of d columns as their kernel reads them; None if another kernel has them."""
    values = np.random.default_rng(k).normal(size=(k, d))
    return DeviceCenters(Centers(values, Distance(metric)), np.dtype(dtype), device).few


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_few_narrow_centers_have_these_kernels(device, dtype):
    for k, d in [(1, 1), (16, 32), (16, 1), (1, 32)]:
        few: FewCenters = few_of(device, k, d, dtype)
        assert few.shared_bytes <= device.shared_bytes
    assert few_of(device, 17, 32, dtype) is None
    assert few_of(device, 16, 33, dtype) is None


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 7, 8, 12, 16, 31, 32])
@pytest.mark.parametrize("k", [1, 2, 8, 9, 16])
def test_tiles_may_have_any_number_of_rows(on_host, k, d, metric):
    for n in (1, 31, 33, FEW_TILE, 8 * FEW_TILE + 1, 16 * FEW_TILE + 40):
        rows, centers = problem(k, d, np.float32, metric, n=n)
        expected = by_numpy.partial_sums(rows, centers)
        assert_same_sums(on_host.partial_sums(rows, centers).on_host(), expected)


@needs_compiler
@pytest.mark.parametrize(("dtype", "scale"), [(np.float64, 1e60), (np.float32, 1e17)])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_padding_after_the_last_center_is_never_the_nearest(on_host, k, dtype, scale):
    rows = (np.random.default_rng(k).normal(size=(300, 6)) * scale).astype(dtype)
    centers = Centers(rows[:k].copy(), Distance.SQUARED_EUCLIDEAN)
    expected = by_numpy.partial_sums(rows, centers)
    assert_same_sums(on_host.partial_sums(rows, centers).on_host(), expected)


@needs_compiler
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("d", [8, 30])
def test_the_order_of_threads_changes_no_sum(device, d, order, monkeypatch):
    monkeypatch.setattr(device, "order", order)
    for metric in METRICS:
        rows, centers = problem(16, d, np.float32, metric, n=700)
        expected = by_numpy.partial_sums(rows, centers)
        assert_same_sums(Launches(device).partial_sums(rows, centers).on_host(), expected)


# Values that need more bits than the tensor cores add, or fewer than the grid has: in units of the
# usual size of a value.
HARD_VALUES = {
    "the largest that are added": [63.9, -63.9],
    "larger": [64.1, -300.0, 1e6, -3e38],
    "with bits below the grid": [3e-6, -7e-6, 1e-9, -1e-12],
    "left to the host": [1e-30, -1e-38],
    "subnormal": [1e-41, -1e-45],
    "zeros": [0.0, -0.0],
}


@needs_compiler
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e12])
@pytest.mark.parametrize("kind", HARD_VALUES)
def test_values_of_any_size_are_added_exactly(on_host, kind, scale):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(400, 5)).astype("f") * np.float32(scale)
    places = rng.choice(rows.size, 300, replace=False)
    with np.errstate(all="ignore"):
        hard = (np.resize(HARD_VALUES[kind], 300) * scale).astype("f")
    rows.flat[places] = np.where(np.isfinite(hard), hard, np.float32(3e38))
    centers = Centers(rows[:11].copy(), Distance.SQUARED_EUCLIDEAN)
    found = on_host.partial_sums(rows, centers).on_host()
    assert_same_sums(found, by_numpy.partial_sums(rows, centers))
    total = sum(map(Fraction, map(float, rows[:, 2])))
    assert sum(found.sums.exact(center, 2) for center in range(11)) == total


@needs_compiler
@pytest.mark.parametrize("scales", [[1, 30, 1e3, 1e5], [1, 1e-3, 1e-25, 1e-40], [1e30, 1, 1, 1e9]])
def test_columns_may_have_any_scales(on_host, scales):
    rows = (np.random.default_rng(6).normal(size=(300, 4)) * scales).astype("f")
    centers = Centers(rows[:7].copy(), Distance.SQUARED_EUCLIDEAN)
    found = on_host.partial_sums(rows, centers).on_host()
    assert_same_sums(found, by_numpy.partial_sums(rows, centers))


def test_two_bfloat16_numbers_leave_no_more_than_the_bound_allows():
    """The bound has the errors of a row and of a center."""
    x = np.arange(2**23, 2**24, dtype=np.float32)
    left = np.abs(x - bfloat16(x) - bfloat16(x - bfloat16(x))).astype(float)
    assert 0.99 * _PARTS_ERROR < 2 * (left / x).max() <= _PARTS_ERROR


def bfloat16(values):
    """Return float32 values rounded to bfloat16, of two equally near ones to the even one."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


@needs_compiler
@pytest.mark.parametrize("scale", [1e-36, 1e-18, 1.0, 1e15])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_almost_equally_near_centers_are_told_apart(on_host, offset, scale):
    rng = np.random.default_rng(4)
    values = (rng.normal(size=(16, 6)) + offset) * scale
    values[8:] = values[:8] * (1 + 2.0**-22 * rng.integers(-2, 3, size=(8, 6)))
    rows = values[rng.integers(16, size=500)] + rng.normal(size=(500, 6)) * scale * 1e-6
    rows, centers = rows.astype("f"), Centers(values.astype("f"), Distance.SQUARED_EUCLIDEAN)
    assert_nearest(on_host, rows, centers)
    expected = by_numpy.partial_sums(rows, centers)
    assert_same_sums(on_host.partial_sums(rows, centers).on_host(), expected)
