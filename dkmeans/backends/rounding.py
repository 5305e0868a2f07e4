"""How far apart two scores of a row must be to be told apart for sure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Rounding(NamedTuple):
    """The terms of the bound, `factor * (|x| * largest + half) + floor` for a row x as scored.

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


def rounding(dtype: np.dtype[Any], d: int, square: float, *, cosine: bool) -> Rounding:
    """The bound for scores of d columns in a dtype, |c|^2 / 2 - x.c, or -x.c for cosine.

    A sum of m rounded products is off by at most m u sum |a b| (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), in any order of adding, fused or not; rounding the row, the
    center and the first term adds three more u. Twice that for two scores, and a little for the
    rounding of this bound itself.

    Args:
        dtype: What scores are computed in.
        d: How many columns there are.
        square: The squared length of the longest center, as scored.
        cosine: Whether the first term is missing.
    """
    about = np.finfo(dtype)
    return Rounding(
        1.02 * (d + 4) * float(about.eps),
        d * float(about.tiny),
        float(np.sqrt(square)),
        0.0 if cosine else 0.5 * square,
    )
