"""The point that exported graphs subtract from rows and centers: near the mean, with few bits.

A squared distance is computed as |x|^2 - 2 x.c + |c|^2, which loses digits where the rows are far
from zero. `onnx_model` and `savedmodel.graph` subtract the middle of the centers first.
"""

from __future__ import annotations

import numpy as np

from dkmeans.state import FloatArray

# The unit of a column is the spread of its centers, halved so many times.
_BITS = 3


def middle_of(centers: FloatArray) -> FloatArray:
    """Return a point near the mean of the (k, d) centers, (1, d) float64.

    Each value is a multiple of a power of two that is about an eighth of its column's spread. So
    rows and centers of few digits have few digits after the subtraction too, and their distances
    are exact: a row that is as far from two centers stays so (docs/decisions/010).
    """
    values = np.asarray(centers, np.float64)
    mean = values.mean(axis=0, keepdims=True)
    with np.errstate(all="ignore"):
        spread = np.ptp(values, axis=0, keepdims=True)
        unit = np.ldexp(1.0, np.frexp(spread)[1] - 1 - _BITS)
        rounded = np.rint(mean / unit) * unit
    # Equal centers have no spread, and that of huge ones is infinite.
    return np.asarray(np.where((spread > 0) & np.isfinite(rounded), rounded, mean))
