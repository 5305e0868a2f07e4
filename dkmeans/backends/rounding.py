"""Centers prepared for scoring, and the bound on the rounding error of scores.

The score of a row x and a center c is |c|^2 / 2 - x.c, or -x.c for cosine, where both have length
one. The center of the least score is certainly the nearest center if the second least score is
larger by more than the rounding error of both. All backends score with the centers of `shifted`.
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

# All centers.
_ALL = slice(None)
# Number of centers whose lengths are computed at a time.
_CENTERS_AT_ONCE = 1024

# The bound itself is computed with rounding; this factor covers that.
SLACK = 1.02


class Rounding(NamedTuple):
    """The terms of a bound for a row x as scored.

    The bound is `factor * (|x| * largest + half) + floor + exact * (|x| + largest)^2`.

    The order of two scores is certain if they differ by more than the bound.

    A sum of m rounded products is off by at most m u sum |a b|, in any order of addition and with
    or without fused operations; u is half of the dtype's eps (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1). A score has d products and one first term. Rounding the row,
    the center and the first term adds three more u. The bound is twice that, for two scores.

    Attributes:
        factor: Relative error of the difference of two scores.
        floor: Absolute error: of subnormal numbers, and for cosine of the exact distances 1 - x.c,
            which are rounded to float64 too.
        largest: Length of the longest center, as scored.
        half: The largest |c|^2 / 2; 0 for cosine.
        exact: Relative error of two exact distances. It counts for rows that are so far away that
            the exact distances to several centers are equal, though their scores are not.
    """

    factor: float
    floor: float
    largest: float
    half: float
    exact: float


@dataclass(frozen=True, slots=True, eq=False)
class Shifted:
    """Centers prepared for scoring: minus their mean (Euclidean), or of length one (cosine).

    Without the shift, an offset that all rows share would make all scores large, and their rounding
    errors with them. Values in float64 are computed when they are asked for, also of some centers
    only: those of large centers would be most of the memory.

    Attributes:
        centers: The centers.
        shift: (d,) subtracted from every row before it is scored, in the rows' dtype; 0 for cosine.
        halves: (k,) float64, |c|^2 / 2, the first term of the scores; 0 for cosine.
        rounding: Bound on the rounding error.
    """

    centers: Centers
    shift: FloatArray
    halves: FloatArray
    rounding: Rounding

    @property
    def cosine(self) -> bool:
        """True if rows are scaled to length one."""
        return self.centers.distance is Distance.COSINE

    def exact(self, some: slice = _ALL) -> FloatArray:
        """Return centers for exact distances, (k, d) float64."""
        return exact_rows(self.centers.values[some], self.centers.distance)

    def values(self, some: slice = _ALL) -> FloatArray:
        """Return centers less the shift, (k, d) float64."""
        values = self.exact(some)
        values -= self.shift
        return values


def exact_rows(rows: FloatArray, distance: Distance) -> FloatArray:
    """Return the (n, d) rows in float64, scaled to length one for cosine.

    Exact distances are computed from rows and centers in this form.
    """
    return directions(rows) if distance is Distance.COSINE else rows.astype(np.float64)


def shifted(centers: Centers, dtype: np.dtype[Any]) -> Shifted:
    """Return the centers prepared for scoring rows of a dtype."""
    (k, d), cosine = centers.values.shape, centers.distance is Distance.COSINE
    # The shift is rounded to the rows' dtype first: rows and centers must move by the same vector.
    mean = np.zeros(d) if cosine else centers.values.mean(axis=0, dtype=np.float64)
    shift = mean.astype(dtype)
    limits, exact_error = np.finfo(dtype), (d + 4) * float(np.finfo(np.float64).eps)
    pieces = (centers.values[i : i + _CENTERS_AT_ONCE] for i in range(0, k, _CENTERS_AT_ONCE))
    values = (exact_rows(piece, centers.distance) - shift for piece in pieces)
    squares = np.concatenate(list(map(squared_norms, values)))
    halves = np.zeros(k) if cosine else 0.5 * squares
    rounding = Rounding(
        SLACK * (d + 4) * float(limits.eps),
        d * float(limits.tiny) + exact_error * cosine,
        float(np.sqrt(squares.max())),
        float(halves.max()),
        exact_error,
    )
    return Shifted(centers, shift, halves, rounding)
