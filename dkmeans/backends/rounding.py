"""What rows are scored by, and how far apart two scores must be to be told apart for sure.

A score is |c|^2 / 2 - x.c, or for cosine -x.c of rows and centers of length one: the least is that
of the nearest center.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dkmeans.distance import Centers, Distance, directions, squared_norms
from dkmeans.state import FloatArray

# Rows that are not finite, or too large to square, make NumPy warn. The caller looks for such rows
# and reports them, so the backends ignore the warnings.
QUIET = np.errstate(all="ignore")


class Rounding(NamedTuple):
    """The terms of the bound, `factor * (|x| * largest + half) + floor` for a row x as scored.

    A sum of m rounded products is off by at most m u sum |a b| (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), in any order of adding, fused or not; rounding the row, the
    center and the first term adds three more u. Twice that for two scores, and a little for the
    rounding of this bound itself.

    Attributes:
        factor: Of the sizes of what is added up.
        floor: What numbers too small to be normal may be off by.
        largest: The length of the longest center, as scored.
        half: The largest |c|^2 / 2; 0 for cosine.
    """

    factor: float
    floor: float
    largest: float
    half: float


@dataclass(frozen=True, slots=True, eq=False)
class Shifted:
    """Centers as they are scored: less their mean, so that an offset of all rows costs nothing.

    Attributes:
        exact: (k, d) float64, as exact distances are measured to them.
        shift: (d,) what is taken off every row before it is scored, in the rows' dtype.
        values: (k, d) float64, the centers less that.
        halves: (k,) float64, the scores' first term.
        rounding: How far apart scores must be.
        cosine: Whether rows are scaled to length one.
    """

    exact: FloatArray
    shift: FloatArray
    values: FloatArray
    halves: FloatArray
    rounding: Rounding
    cosine: bool


def shifted(centers: Centers, dtype: np.dtype[Any]) -> Shifted:
    """The centers as rows of a dtype are scored by them."""
    cosine = centers.distance is Distance.COSINE
    exact = directions(centers.values) if cosine else centers.values.astype(np.float64)
    d = exact.shape[1]
    shift = (np.zeros(d) if cosine else exact.mean(axis=0)).astype(dtype)
    values = exact - shift
    squares = squared_norms(values)
    halves = np.zeros(len(exact)) if cosine else 0.5 * squares
    about = np.finfo(dtype)
    rounding = Rounding(
        1.02 * (d + 4) * float(about.eps),
        d * float(about.tiny),
        float(np.sqrt(squares.max())),
        float(halves.max()),
    )
    return Shifted(exact, shift, values, halves, rounding, cosine)
