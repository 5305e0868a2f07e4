"""Named values: what rows have under a key, as numbers, as integers or as words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dkmeans.data.sources.parquet import LARGEST_EXACT
from dkmeans.errors import InvalidData, InvalidType, expected
from dkmeans.state import IndexArray

# What stands for no value: in integers as TensorFlow has it, and as an id.
MISSING = -1


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Values under a key, (n, w), of any dtype.

    Attributes:
        array: The values.
        key: The key.
        name: What people call their source, for messages.
        first: The number of the first row in it.
    """

    array: NDArray[Any]
    key: str
    name: str
    first: int

    def refuse(self, wrong: NDArray[np.bool_], must: str) -> None:
        """Refuse the values where any is wrong.

        Raises:
            InvalidData: one is; the text names its row and the key.
        """
        if not wrong.any():
            return
        row, place = (int(numbers[0]) for numbers in np.nonzero(wrong))
        raise InvalidData(
            f"{self.key!r} must {must}; row {self.first + row} of {self.name} has "
            f"{self.array[row, place]!s}"
        )

    def numbers(self) -> NDArray[Any]:
        """The values as (n, w) real numbers, those that are missing as NaN.

        Raises:
            InvalidType: they are something else.
        """
        if self.array.dtype.kind in "fiub":
            return self.array
        if self.array.dtype.kind == "O":
            found = self._arrow(None)
            if pa.types.is_boolean(found.type):
                found = found.cast(pa.int8())
            if not (pa.types.is_string(found.type) or pa.types.is_binary(found.type)):
                numbers: NDArray[Any] = found.to_numpy(zero_copy_only=False)
                if numbers.dtype.kind in "fiub":
                    return numbers.reshape(self.array.shape)
                if pa.types.is_null(found.type):
                    return np.full(self.array.shape, np.nan)
        raise self._wrong_type("numbers")

    def integers(self) -> IndexArray:
        """The values as (n, w) int64, those that are missing as -1.

        Raises:
            InvalidType: they are no numbers; InvalidData: one is no integer.
        """
        if self.array.dtype.kind == "O":
            found = self._arrow(None)
            if pa.types.is_integer(found.type):
                filled = found.fill_null(MISSING).to_numpy(zero_copy_only=False)
                return self._signed(filled.reshape(self.array.shape))
        numbers = self.numbers()
        if numbers.dtype.kind == "f":
            # So are integers kept where some are missing, in pandas as in Parquet.
            numbers = np.where(np.isnan(numbers), MISSING, numbers)
            inexact = np.abs(numbers) >= LARGEST_EXACT
            self.refuse(inexact, f"hold integers below {LARGEST_EXACT}, as floats hold no others")
            self.refuse(numbers != numbers.astype(np.int64), "hold integers")
        return self._signed(numbers)

    def _signed(self, numbers: NDArray[Any]) -> IndexArray:
        if numbers.dtype == np.uint64:
            self.refuse(numbers > np.iinfo(np.int64).max, "hold integers below 2**63")
        return numbers.astype(np.int64)

    def ids(self, ids: Callable[[Sequence[Any]], IndexArray], *, is_integer: bool) -> IndexArray:
        """The ids of the values, (n, w); -1 for those that are missing.

        Args:
            ids: Gives different integers, or words as bytes, their ids.
            is_integer: Whether they are integers.

        Raises:
            InvalidType: they are neither; InvalidData: one is no integer.
        """
        return self._integer_ids(ids) if is_integer else self._word_ids(ids)

    def _word_ids(self, ids: Callable[[Sequence[bytes]], IndexArray]) -> IndexArray:
        if self.array.dtype.kind not in "OUST":
            raise self._wrong_type("words")
        words = self._arrow(pa.binary()).dictionary_encode()
        distinct = words.dictionary.to_pylist()
        found = np.append(ids(distinct), MISSING)  # the last is that of no value
        found[[place for place, word in enumerate(distinct) if not word]] = MISSING
        places = words.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        chosen: IndexArray = found[places].reshape(self.array.shape)
        return chosen

    def _integer_ids(self, ids: Callable[[Sequence[int]], IndexArray]) -> IndexArray:
        values = self.integers()
        distinct, places = np.unique(values, return_inverse=True)
        found = ids(distinct.tolist())
        return np.where(values == MISSING, MISSING, found[places.reshape(values.shape)])

    def _arrow(self, kind: Any) -> Any:
        flat = self.array.ravel()
        if flat.dtype.kind in "TU":
            flat = flat.astype(object)
        try:
            return pa.array(flat, type=kind, from_pandas=True)
        except (pa.ArrowException, TypeError) as error:
            raise self._wrong_type("words" if kind else "numbers") from error

    def _wrong_type(self, what: str) -> InvalidType:
        dtype = self.array.dtype
        got = f"dtype {dtype}" if dtype.kind != "O" else repr(self.array.ravel()[:3].tolist())
        return InvalidType(f"{self.key!r} of {self.name} must hold {what}, got {got}")


def check_key(key: object) -> None:
    """Refuse what is no name of a column.

    Raises:
        InvalidType: it is no text.
    """
    if not isinstance(key, str):
        raise InvalidType(expected("key", "a str", key))
