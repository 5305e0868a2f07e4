"""JSON text of results that have tables of numbers.

`KMeans.evaluate` writes such a result. `dkmeans evaluate` makes the text again from what it was
returned: if the file has the same text, it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray


def json_text(content: Mapping[str, Any]) -> bytes:
    """Return the JSON text, in UTF-8, of a dict of numbers, text, lists and arrays.

    An array has the text of its numbers in lists. What is not finite becomes null.
    """
    # The standard library takes some twenty times as long for a table (docs/decisions/024).
    return orjson.dumps(content, default=np.ndarray.tolist, option=orjson.OPT_SERIALIZE_NUMPY)


def numbers_of(values: NDArray[Any]) -> Any:
    """Return an array as the numbers and lists that JSON has; what is not finite becomes None."""
    if values.dtype.kind != "f" or (is_finite := np.isfinite(values)).all():
        return values.tolist()
    numbers: NDArray[Any] = values.astype(object)
    numbers[~is_finite] = None
    return numbers.tolist()
