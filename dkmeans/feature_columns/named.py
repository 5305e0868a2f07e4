"""Values of one named column for some rows, converted to numbers, integers or ids of words.

The dense and the categorical columns read their input through `NamedValues`. The array may come
from NumPy, pandas or Parquet, so the same value has several forms. A missing value is NaN, None or
a null. For categorical columns the empty word and the integer -1 are missing values too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dkmeans.data.sources.arrow_values import LARGEST_EXACT
from dkmeans.errors import InvalidData, InvalidType, expected
from dkmeans.state import IndexArray

# A missing value among integers, as in TensorFlow, and the id of a value without a bucket.
MISSING = -1


@dataclass(frozen=True, slots=True, eq=False)
class NamedValues:
    """Values of one named column for some rows.

    Attributes:
        array: The values, (n, w) of any dtype.
        key: Name of the column.
        name: Name of the source of the values, for messages.
        first: Number of the first row in the source.
    """

    array: NDArray[Any]
    key: str
    name: str
    first: int

    def refuse(self, wrong: NDArray[np.bool_], must: str) -> None:
        """Refuse the values if any of them is marked as wrong.

        Args:
            wrong: True for each wrong value, (n, w).
            must: What a value must be, for the message.

        Raises:
            InvalidData: a value is wrong; the text names its row and the key.
        """
        if not wrong.any():
            return
        row, column = (int(numbers[0]) for numbers in np.nonzero(wrong))
        raise InvalidData(
            f"{self.key!r} must {must}; row {self.first + row} of {self.name} has "
            f"{self.array[row, column]!s}"
        )

    def numbers(self) -> NDArray[Any]:
        """Return the values as (n, w) real numbers, missing values as NaN.

        Raises:
            InvalidType: the values are not real numbers.
        """
        if self.array.dtype.kind in "fiub":
            return self.array
        if self.array.dtype.kind == "O":
            # Arrow infers one type for all objects, and makes NaN of None.
            inferred = self._arrow(None)
            if pa.types.is_boolean(inferred.type):
                inferred = inferred.cast(pa.int8())  # NumPy has no booleans with NaN
            if not (pa.types.is_string(inferred.type) or pa.types.is_binary(inferred.type)):
                numbers: NDArray[Any] = inferred.to_numpy(zero_copy_only=False)
                if numbers.dtype.kind in "fiub":
                    return numbers.reshape(self.array.shape)
                if pa.types.is_null(inferred.type):
                    return np.full(self.array.shape, np.nan)
        raise self._wrong_type("numbers")

    def integers(self) -> IndexArray:
        """Return the values as (n, w) int64, missing values as -1.

        Raises:
            InvalidType: the values are not numbers.
            InvalidData: a value is not an integer.
        """
        if self.array.dtype.kind == "O":
            # Integers beside None stay exact this way; as floats, large ones would be rounded.
            inferred = self._arrow(None)
            if pa.types.is_integer(inferred.type):
                filled = inferred.fill_null(MISSING).to_numpy(zero_copy_only=False)
                return self._signed(filled.reshape(self.array.shape))
        numbers = self.numbers()
        if numbers.dtype.kind == "f":
            # pandas and Parquet give integers as floats if some are missing.
            numbers = np.where(np.isnan(numbers), MISSING, numbers)
            inexact = np.abs(numbers) >= LARGEST_EXACT
            self.refuse(inexact, f"hold integers below {LARGEST_EXACT}, as floats hold no others")
            self.refuse(numbers != numbers.astype(np.int64), "hold integers")
        return self._signed(numbers)

    def _signed(self, numbers: NDArray[Any]) -> IndexArray:
        """Return integers as int64.

        Raises:
            InvalidData: an unsigned integer is too large.
        """
        if numbers.dtype == np.uint64:
            self.refuse(numbers > np.iinfo(np.int64).max, "hold integers below 2**63")
        return numbers.astype(np.int64)

    def ids(self, ids: Callable[[Sequence[Any]], IndexArray], *, is_integer: bool) -> IndexArray:
        """Return the ids of the values, (n, w) int64; -1 for missing values.

        Args:
            ids: Function from a list of distinct integers, or of distinct words as bytes, to their
                ids. It is called once: its loop in Python runs over distinct values only.
            is_integer: True if the values are integers, False if they are words.

        Raises:
            InvalidType: the values are of another type.
            InvalidData: a value is not an integer.
        """
        return self._integer_ids(ids) if is_integer else self._word_ids(ids)

    def _word_ids(self, ids: Callable[[Sequence[bytes]], IndexArray]) -> IndexArray:
        if self.array.dtype.kind not in "OUST":
            raise self._wrong_type("words")
        words = self._arrow(pa.binary()).dictionary_encode()
        distinct = words.dictionary.to_pylist()
        distinct_ids = np.append(ids(distinct), MISSING)  # the last is the id of a null
        # The empty word is a missing value, as in TensorFlow.
        distinct_ids[[index for index, word in enumerate(distinct) if not word]] = MISSING
        indices = words.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        all_ids: IndexArray = distinct_ids[indices].reshape(self.array.shape)
        return all_ids

    def _integer_ids(self, ids: Callable[[Sequence[int]], IndexArray]) -> IndexArray:
        values = self.integers()
        distinct, indices = np.unique(values, return_inverse=True)
        distinct_ids = ids(distinct.tolist())
        return np.where(values == MISSING, MISSING, distinct_ids[indices.reshape(values.shape)])

    def _arrow(self, of_type: Any) -> Any:
        """Return the values as a flat Arrow array; `of_type` None infers the type.

        Raises:
            InvalidType: the values are not of this type, or of more than one type.
        """
        flat = self.array.ravel()
        # Arrow converts NumPy's own text dtypes only as objects.
        if flat.dtype.kind in "TU":
            flat = flat.astype(object)
        try:
            # from_pandas: NaN is a null.
            return pa.array(flat, type=of_type, from_pandas=True)
        except (pa.ArrowException, TypeError) as error:
            raise self._wrong_type("words" if of_type else "numbers") from error

    def _wrong_type(self, what: str) -> InvalidType:
        """Return the error of values that are not `what`."""
        dtype = self.array.dtype
        got = f"dtype {dtype}" if dtype.kind != "O" else repr(self.array.ravel()[:3].tolist())
        return InvalidType(f"{self.key!r} of {self.name} must hold {what}, got {got}")


def check_key(key: object) -> None:
    """Refuse a key that is not the name of a column.

    Raises:
        InvalidType: the key is not a str.
    """
    if not isinstance(key, str):
        raise InvalidType(expected("key", "a str", key))
