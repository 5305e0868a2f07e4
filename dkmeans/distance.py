"""The two distances: what each asks of points and of centers.

Cosine distance is 1 - u.v over rows of length one, so all the rest of the library needs to know
of it is how rows become such rows (`directions`), and which centers the means become (`project`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dkmeans.state import FloatArray, IndexArray

# The squared length below which a row counts as zero: the documented estimator's.
SMALLEST_SQUARED_NORM = 1e-12


class Distance(StrEnum):
    """The documented names of the distances."""

    SQUARED_EUCLIDEAN = "squared_euclidean"
    COSINE = "cosine"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Centers:
    """Centers, and how rows choose among them.

    Attributes:
        values: (k, d).
        distance: By which distance.
        backend: The name of the backend that does the work; None leaves it to each worker.
    """

    values: FloatArray
    distance: Distance
    backend: str | None = None

    @property
    def width(self) -> int:
        """The number of columns, d."""
        return int(self.values.shape[1])


def squared_norms(rows: FloatArray) -> FloatArray:
    """|x|^2 of each of the (n, d) float64 rows, (n,): the same bits whatever rows are beside it.

    `einsum` would buffer wide rows across their ends, and BLAS deal them to threads.
    """
    return np.asarray(np.add.reduce(np.square(rows), axis=1))


def inverse_norms(rows: FloatArray) -> FloatArray:
    """1 / |x| of each of the (n, d) rows, (n,) float64: finite for a zero row, NaN for infinity."""
    squares = squared_norms(rows.astype(np.float64))
    squares[np.isinf(squares)] = np.nan  # a row too long to square has no direction, not none
    return np.asarray(1.0 / np.sqrt(np.maximum(squares, SMALLEST_SQUARED_NORM)))


def directions(rows: FloatArray) -> FloatArray:
    """The (n, d) rows scaled to length one, float64; a zero row stays zero."""
    rows = rows.astype(np.float64)
    return np.asarray(rows * inverse_norms(rows)[:, None])


def project(means: FloatArray, distance: Distance) -> FloatArray:
    """The (k, d) centers that stand for these means: for cosine, those of length one."""
    return directions(means) if distance is Distance.COSINE else means


def cosine_inertia(sums: FloatArray, counts: IndexArray, centers: Centers) -> float:
    """The sum of 1 - u.v over all rows, from the (k, d) sums of the rows u that each v won."""
    own = counts - np.einsum("ij,ij->i", sums, directions(centers.values))
    return float(np.sum(np.maximum(own, 0.0))) if np.isfinite(own).all() else float("nan")
