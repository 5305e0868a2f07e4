"""Problems for the kernels, and the bits of a backend's answers to them."""

import shutil

import numpy as np
import pytest

from dkmeans.backends.rounding import exact_rows
from dkmeans.distance import Centers, Distance
from dkmeans.state import on_host

DTYPES = (np.float32, np.float64)

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def problem(k, d, dtype, metric, n=1100):
    """Draw centers far from zero, some equal and two almost equal, and rows around them."""
    rng = np.random.default_rng(k * d)
    values = rng.normal(size=(k, d)) + 30
    values[k // 2] = values[k // 3]
    values[k - 1] = values[max(k - 2, 0)]  # the same thread scores both
    values[k // 4] = values[0] + 1e-7 * rng.normal(size=d)
    rows = values[rng.integers(k, size=n)] + rng.normal(size=(n, d)) * rng.random((n, 1))
    return rows.astype(dtype), Centers(values.astype(dtype), Distance(metric))


def bits(backend, rows, centers):
    """Return the bits of all results of a backend for some rows."""
    sums = on_host(backend.partial_sums(rows, centers))
    index, least = backend.nearest(rows, centers)
    distances = backend.distances(rows, centers)
    arrays = sums.counts, index, least, distances
    exact = exact_sums(sums), backend.squares(rows)
    return *exact, *(array.tobytes() for array in arrays)


def exact_sums(sums):
    """Return the sum of each center and column as a fraction."""
    return [sums.sums.exact(*place) for place in np.ndindex(*sums.sums.shape)]


def assert_same_sums(one, other):
    """Check that two sums on the host are equal, whatever their grids."""
    assert one.counts.tolist() == other.counts.tolist()
    assert exact_sums(one) == exact_sums(other)


def assert_nearest(backend, rows, centers):
    """Check that nearest centers and distances are those in float64, summed up in NumPy's order."""
    index, distances = backend.nearest(rows, centers)
    with np.errstate(all="ignore"):
        points = exact_rows(rows, centers.distance)[:, None]
        values = exact_rows(centers.values, centers.distance)
        if centers.distance is Distance.COSINE:
            every = np.clip(1 - (points * values).sum(axis=2), 0, 2)
        else:
            every = np.square(points - values).sum(axis=2)
    assert index.tolist() == every.argmin(axis=1).tolist()
    assert distances.tobytes() == every[np.arange(len(rows)), index].tobytes()
