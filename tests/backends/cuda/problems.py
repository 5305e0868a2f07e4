"""Problems for the kernels, and the bits of a backend's answers to them."""

import numpy as np

from dkmeans.distance import Centers, Distance
from dkmeans.state import on_host


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
