"""A source whose rows tell their own numbers, so that a test sees which were read."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Numbers:
    """So many rows of one column, in chunks of a size; a key makes it one that takes time to read.

    What is known of it fits in a few bytes, however many rows there are.
    """

    rows: int
    chunk_rows: int | None = 1
    key: str | None = None
    first: int = 0
    name: str = "numbers"
    width: int = 1
    dtype: str = "float64"
    parts: tuple[()] = ()
    is_repeatable: bool = False

    def read(self, start, stop):
        return np.arange(start, stop, dtype=np.float64)[:, None]

    def with_leaves(self, change):
        return change(self)
