"""JSON text of results that have large tables of numbers.

The standard library takes most of a microsecond to write a number. Arrow writes the same digits in
a quarter of the time, but its import takes as long as some 300,000 numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Numbers of a table that Arrow writes, at least.
_LARGE = 2**18


def json_text(content: Mapping[str, Any]) -> str:
    """Return the JSON text of a dict with what `json.dumps` can write, and arrays.

    NaN in an array becomes null. A whole number in a large table has no point: 1 and not 1.0.
    """
    entries = (f"{json.dumps(name)}: {_text_of(value)}" for name, value in content.items())
    return f"{{{', '.join(entries)}}}"


def without_nan(values: NDArray[Any]) -> Any:
    """Return an array as the numbers and lists that JSON has; NaN becomes None."""
    if values.dtype.kind != "f" or not (is_nan := np.isnan(values)).any():
        return values.tolist()
    without: NDArray[Any] = values.astype(object)
    without[is_nan] = None
    return without.tolist()


def _text_of(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return json.dumps(value)
    is_table = value.ndim == 2 and value.dtype == np.float64
    is_large = is_table and value.size >= _LARGE
    return _table_text(value) if is_large else json.dumps(without_nan(value))


def _table_text(rows: NDArray[np.float64]) -> str:
    """Return the text of an (n, d) table."""
    import pyarrow as pa  # noqa: PLC0415 takes a while, and few results have large tables
    import pyarrow.compute as pc  # noqa: PLC0415

    n, d = rows.shape
    # As from pandas: NaN is null.
    numbers = pa.array(rows.reshape(-1), from_pandas=True).cast(pa.string())
    offsets = pa.array(np.arange(0, n * d + 1, d, dtype=np.int32))
    lines = pc.binary_join(pa.ListArray.from_arrays(offsets, pc.fill_null(numbers, "null")), ", ")
    return f"[[{'], ['.join(lines.to_pylist())}]]"
