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
    arrays = sums.sums, sums.counts, np.float64(sums.inertia), index, least, distances
    return [array.tobytes() for array in arrays]
