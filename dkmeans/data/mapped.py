"""Mapped rows: the rows that a user's function makes of others, chunk by chunk, on the workers.

`Dataset.map` calls `row_function` once, on the driver: it tries the function on the first rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.points import as_array, point_dtype
from dkmeans.data.views import RowView
from dkmeans.errors import Invalid, InvalidData, InvalidType, counted, expected

# Number of rows on which a function is tried.
_TRIED_ROWS = 100
# Relative difference of results that is taken for rounding.
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class RowFunction:
    """A function of rows, (n, d) to (n, e), and what it returned for the first ones.

    Attributes:
        function: The function.
        digest: Digest of the pickled function, which stands for it in identities of predictions.
        width: Number of columns that it returns.
        dtype: Dtype of the rows that are made of what it returns.
    """

    function: Callable[[NDArray[Any]], Any] = field(repr=False)
    digest: str
    width: int
    dtype: DTypeLike

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return what the function returns for some rows.

        Raises:
            InvalidData: it returns another shape than for the first rows.
        """
        made = _result_of(self.function, rows)
        if made.shape != (len(rows), self.width):
            raise InvalidData(
                f"the function of Dataset.map must return {counted(len(rows), 'row')} of "
                f"{counted(self.width, 'column')}, got an array of shape {made.shape}"
            )
        return made


@dataclass(frozen=True, slots=True)
class MappedRows(RowView):
    """The rows that a function makes of those of a source.

    Attributes:
        function: The function.
    """

    function: RowFunction

    @property
    def name(self) -> str:
        """Name of the source, for messages."""
        return f"{self.source.name}, mapped"

    @property
    def width(self) -> int:
        """Number of columns that the function returns."""
        return self.function.width

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the rows that are made."""
        return self.function.dtype

    def read(self, start: int, stop: int) -> Any:
        """Return these rows as the function makes them."""
        return self.function(self.source_rows(start, stop))


def row_function(function: Any, first: Chunk) -> RowFunction:
    """Return a function of rows, after trying it on some of the first chunk.

    Raises:
        InvalidType: it is no function, or cannot be pickled, or returns no numbers.
        Invalid: it returns another number of rows, or what it returns for a row depends on others.
    """
    if not callable(function):
        raise InvalidType(expected("function", "a function of rows (n, d)", function))
    try:
        digest = sha256(cloudpickle.dumps(function)).hexdigest()
    except Exception as error:  # objects raise anything when they are pickled
        must = "a function that can be pickled, to be sent to the workers"
        raise InvalidType(f"function must be {must}: {error}") from error
    rows = first.cut(0, min(first.rows, _TRIED_ROWS)).load(first.source.width)
    made = _result_of(function, rows)
    if made.ndim != 2 or len(made) != len(rows) or not made.shape[1]:
        must = f"function must return rows, ({len(rows)}, e) for {counted(len(rows), 'row')}"
        raise Invalid(f"{must}, got an array of shape {made.shape}")
    if made.dtype.kind not in "fiub":
        raise InvalidType(f"function must return real numbers, got dtype {made.dtype}")
    part = _result_of(function, rows[: len(rows) // 2 or 1])
    if not np.allclose(part, made[: len(part)], rtol=_ROUNDING, equal_nan=True):
        raise Invalid(
            "function must return for a row what depends on that row alone, as it is called chunk "
            f"by chunk; got other values for {counted(len(part), 'row')} than for these and others"
        )
    return RowFunction(function, digest, made.shape[1], point_dtype(made.dtype))


def _result_of(function: Callable[[NDArray[Any]], Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Return what a function returns for some rows.

    The function may not change the rows: they may be the user's own array, or cached.

    Raises:
        InvalidData: it returns masked values, or rows of different lengths.
    """
    fixed = rows.view()
    fixed.flags.writeable = False
    return as_array(function(fixed), "the result of the function of Dataset.map")


def mapped(batch: Batch, function: RowFunction) -> Batch:
    """Return the rows that a function makes of those of a batch."""
    return batch.with_view(partial(MappedRows, function=function))
