"""Values and rows of any size for hypothesis, and exact totals as fractions."""

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from dkmeans.exact_total import UNIT

finite = st.floats(allow_nan=False, allow_infinity=False)
usual = st.floats(-100, 100)
dtypes = st.sampled_from([np.float32, np.float64])


def fraction(total):
    return total.units * Fraction(2) ** UNIT


@st.composite
def rows_of_clusters(draw):
    """Draw rows, most of one size and some of any, and the cluster of each."""
    n, d, k = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dtype = draw(dtypes)
    anything = st.floats(allow_nan=False, allow_infinity=False, width=np.dtype(dtype).itemsize * 8)
    values = draw(st.lists(usual | usual | anything, min_size=n * d, max_size=n * d))
    index = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    return np.reshape(values, (n, d)).astype(dtype), np.array(index), k
