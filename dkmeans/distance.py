"""The two distances, and the centers that rows are compared with.

Cosine distance is 1 - u.v over rows of length one. The rest of the library needs to know only how
rows become such rows (`directions`) and which centers the means become (`project`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dkmeans.exact_grid import Grid
from dkmeans.state import FloatArray

# Rows with a squared length below this count as zero, as in the documented estimator.
SMALLEST_SQUARED_NORM = 1e-12
# Squares of smaller numbers are no normal float64 numbers.
LEAST_SQUARED = 2.0**-511
# Cosine distances up to this are rounding errors between rows of the same direction. The distance
# between a direction and its float32 rounding is smaller.
SAME_DIRECTION = 2.0**-46


class Distance(StrEnum):
    """The documented names of the distances."""

    SQUARED_EUCLIDEAN = "squared_euclidean"
    COSINE = "cosine"


@dataclass(frozen=True, slots=True)
class Computation:
    """Distance and backend of a fit: the one place that holds them, and makes its `Centers`.

    Attributes:
        distance: The distance between rows and centers.
        backend: Name of the backend; None leaves the choice to each worker.
    """

    distance: Distance
    backend: str | None = None

    def centers(self, values: FloatArray, grid: Grid | None = None) -> Centers:
        """Return the (k, d) values as centers of this computation."""
        return Centers(values, self.distance, self.backend, grid)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Centers:
    """Centers as they travel to the workers, with all that is needed to compare rows with them.

    Attributes:
        values: (k, d) float32 or float64.
        distance: The distance between rows and centers.
        backend: Name of the backend; None leaves the choice to each worker.
        grid: Grid of sums of the same rows, if there are any; it affects only the speed.
    """

    values: FloatArray
    distance: Distance
    backend: str | None = None
    grid: Grid | None = None

    @property
    def width(self) -> int:
        """Number of columns, d."""
        return int(self.values.shape[1])


def squared_norms(rows: FloatArray) -> FloatArray:
    """Return |x|^2 of each of the (n, d) rows, (n,), in their dtype.

    The bits of a row's result do not depend on the other rows. That is why neither `einsum` nor
    BLAS is used: `einsum` buffers wide rows across their ends, and BLAS splits rows over threads.
    """
    return np.asarray(np.add.reduce(np.square(rows), axis=1))


def inverse_norms(rows: FloatArray) -> FloatArray:
    """Return 1 / |x| of each of the (n, d) rows, (n,) float64.

    The result is finite for a zero row, and NaN for a row whose squared length is infinite: its
    direction cannot be computed.
    """
    squares = squared_norms(rows.astype(np.float64))
    squares[np.isinf(squares)] = np.nan
    return np.asarray(1.0 / np.sqrt(np.maximum(squares, SMALLEST_SQUARED_NORM)))


def directions(rows: FloatArray) -> FloatArray:
    """Return the (n, d) rows scaled to length one, float64; a zero row stays zero."""
    rows = rows.astype(np.float64)
    return np.asarray(rows * inverse_norms(rows)[:, None])


def project(means: FloatArray, distance: Distance) -> FloatArray:
    """Return the (k, d) centers that belong to these means: for cosine, the means' directions."""
    return directions(means) if distance is Distance.COSINE else means
