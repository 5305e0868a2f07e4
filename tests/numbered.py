"""A source in which the value of each row is its number, so that tests see which rows were read."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Numbers:
    """A source of one column, whose rows hold the numbers 0, 1, 2, ...

    A source with a key counts as stored data, which is worth caching. The size of the object does
    not depend on the number of rows.
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
