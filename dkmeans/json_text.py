"""JSON text of results that have tables of numbers.

`evaluate` writes such results, and the program compares them with what is written already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray


def json_text(content: Mapping[str, Any]) -> bytes:
    """Return the JSON text of a dict of numbers, text, lists and arrays; NaN becomes null.

    An array has the same text as its numbers in lists.
    """
    # The standard library takes 25 times as long for a table (docs/decisions/024).
    return orjson.dumps(content, default=np.ndarray.tolist, option=orjson.OPT_SERIALIZE_NUMPY)


def without_nan(values: NDArray[Any]) -> Any:
    """Return an array as the numbers and lists that JSON has; NaN becomes None."""
    if values.dtype.kind != "f" or not (is_nan := np.isnan(values)).any():
        return values.tolist()
    without: NDArray[Any] = values.astype(object)
    without[is_nan] = None
    return without.tolist()
