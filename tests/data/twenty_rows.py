"""Give the tests of chunks and of views one array, its chunks, and spans of its rows."""

import numpy as np
from hypothesis import strategies as st

from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import MemoryRows

ROWS = np.random.default_rng(5).normal(size=(20, 3))


def chunk_of(array, name="rows", first=0):
    """Return rows in memory, shape (n, d), as one chunk whose first row is number `first`."""
    return Chunk(MemoryRows(array, name, first), first, first + len(array))


@st.composite
def spans(draw, length=20):
    """Draw a start and a stop, with 0 <= start <= stop <= length."""
    start = draw(st.integers(0, length))
    return start, draw(st.integers(start, length))
