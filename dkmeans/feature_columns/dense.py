"""Dense columns: what a named column gives each row.

What is documented of those of the same names in `tf.feature_column` holds here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from dkmeans.data.points import as_points
from dkmeans.errors import Invalid, InvalidData, InvalidType, check_integer, expected
from dkmeans.feature_columns.categorical import (
    CategoricalColumn,
    HashedColumn,
    IdentityColumn,
    VocabularyColumn,
)
from dkmeans.feature_columns.named import Named, check_key
from dkmeans.state import FloatArray, IndexArray


class DenseColumn(Protocol):
    """What gives each row some numbers."""

    @property
    def name(self) -> str:
        """What it is called: columns stand in the order of their names."""
        ...

    @property
    def key(self) -> str:
        """The column that it reads."""
        ...

    @property
    def width(self) -> int:
        """How many numbers it gives a row."""
        ...

    @property
    def input_width(self) -> int | None:
        """How many values it reads of a row; None: as many as there are."""
        ...

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of the numbers, float32 or float64."""
        ...

    def rows(self, values: Named) -> FloatArray:
        """The numbers, (n, width).

        Raises:
            ValueError: the values cannot be used; the text names a row and the key.
        """
        ...


@dataclass(frozen=True, slots=True)
class NumericColumn:
    """Numbers as they are, or normalised. See `numeric_column`."""

    key: str
    shape: tuple[int, ...]
    default_value: tuple[float, ...] | None
    dtype: DTypeLike
    normalizer_fn: Callable[[NDArray[Any]], ArrayLike] | None

    @property
    def name(self) -> str:
        """See `DenseColumn`."""
        return self.key

    @property
    def width(self) -> int:
        """See `DenseColumn`."""
        return prod(self.shape)

    @property
    def input_width(self) -> int:
        """See `DenseColumn`."""
        return self.width

    def rows(self, values: Named) -> FloatArray:
        """See `DenseColumn`."""
        numbers = values.numbers()
        if self.default_value is not None and numbers.dtype.kind == "f":
            numbers = np.where(np.isnan(numbers), np.array(self.default_value), numbers).astype(
                numbers.dtype
            )
        points = self._points(self._normalized(numbers), values.name)
        after = " after normalizer_fn" if self.normalizer_fn else ""
        values.refuse(~np.isfinite(points), f"be finite{after}")
        return points

    def _normalized(self, numbers: NDArray[Any]) -> NDArray[Any]:
        if self.normalizer_fn is None:
            return numbers
        # A copy: these may be the user's own, and a function may compute in place.
        own = numbers.reshape(-1, *self.shape).copy()
        try:
            given = np.asarray(self.normalizer_fn(own))
        except Exception as error:  # whatever it raises
            what = f"{type(error).__name__}: {error}"
            raise InvalidData(f"normalizer_fn of {self.key!r} has failed: {what}") from error
        if given.shape != (len(numbers), *self.shape):
            raise InvalidData(
                f"normalizer_fn of {self.key!r} must return the shape that it is given, "
                f"{(len(numbers), *self.shape)}, got {given.shape}"
            )
        return given.reshape(numbers.shape)

    def _points(self, numbers: NDArray[Any], name: str) -> FloatArray:
        if self.dtype == np.float64:
            return numbers.astype(np.float64)
        # A number beyond float32 becomes an infinity, and is refused as one.
        with np.errstate(over="ignore"):
            return as_points(numbers, name).astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class BucketizedColumn:
    """Numbers as indicators of intervals. See `bucketized_column`."""

    source_column: NumericColumn
    boundaries: tuple[float, ...]

    @property
    def name(self) -> str:
        """See `DenseColumn`."""
        return f"{self.source_column.name}_bucketized"

    @property
    def key(self) -> str:
        """See `DenseColumn`."""
        return self.source_column.key

    @property
    def width(self) -> int:
        """See `DenseColumn`."""
        return self.source_column.width * (len(self.boundaries) + 1)

    @property
    def input_width(self) -> int:
        """See `DenseColumn`."""
        return self.source_column.width

    @property
    def dtype(self) -> DTypeLike:
        """See `DenseColumn`."""
        return np.float32

    def rows(self, values: Named) -> FloatArray:
        """See `DenseColumn`."""
        points = self.source_column.rows(values)
        # In the dtype of the numbers: 0.7 is on the border of its bucket in float32 too.
        buckets = np.searchsorted(np.array(self.boundaries, points.dtype), points, side="right")
        places = np.arange(points.shape[1]) * (len(self.boundaries) + 1) + buckets
        return _counted(places.astype(np.int64), self.width)


@dataclass(frozen=True, slots=True)
class IndicatorColumn:
    """How often each bucket of a categorical column occurs. See `indicator_column`."""

    categorical_column: CategoricalColumn

    @property
    def name(self) -> str:
        """See `DenseColumn`."""
        return f"{self.key}_indicator"

    @property
    def key(self) -> str:
        """See `DenseColumn`."""
        return self.categorical_column.key

    @property
    def width(self) -> int:
        """See `DenseColumn`."""
        return self.categorical_column.num_buckets

    @property
    def input_width(self) -> None:
        """See `DenseColumn`."""
        return None

    @property
    def dtype(self) -> DTypeLike:
        """See `DenseColumn`."""
        return np.float32

    def rows(self, values: Named) -> FloatArray:
        """See `DenseColumn`."""
        return _counted(self.categorical_column.ids(values), self.width)


def _counted(ids: IndexArray, width: int) -> FloatArray:
    """How often each id occurs in each row; negative ones are none."""
    counts = np.zeros((len(ids), width), np.float32)
    for place in ids.T:
        rows = np.flatnonzero(place >= 0)
        counts[rows, place[rows]] += 1
    return counts


def numeric_column(
    key: str,
    shape: int | Iterable[int] = (1,),
    default_value: float | Iterable[float] | None = None,
    dtype: DTypeLike = np.float32,
    normalizer_fn: Callable[[NDArray[Any]], ArrayLike] | None = None,
) -> NumericColumn:
    """Numbers, as they are or normalised.

    Args:
        key: The column to read.
        shape: Of each row's values; an integer is the length of a vector.
        default_value: What a missing value, NaN or a null, is taken for: one number, or one for
            each place of `shape`. None: missing values are refused.
        dtype: float64 makes rows of float64; every other real dtype makes float32.
        normalizer_fn: Of a NumPy array of some rows' values, (n, *shape); returns as many. It is
            called on some rows at a time, so a row's result must not depend on the others.

    Raises:
        ValueError: an argument's value is not one of those it must be; TypeError: an argument is
            not of the type it must be.
    """
    check_key(key)
    kind = _real_dtype(dtype)
    sizes = _shape(shape)
    if normalizer_fn is not None and not callable(normalizer_fn):
        raise InvalidType(expected("normalizer_fn", "a function or None", normalizer_fn))
    return NumericColumn(key, sizes, _default(default_value, sizes), kind, normalizer_fn)


def bucketized_column(
    source_column: NumericColumn, boundaries: Sequence[float]
) -> BucketizedColumn:
    """Numbers as indicators of the intervals they are in.

    Args:
        source_column: A numeric column, of one dimension.
        boundaries: Ascending. Each begins an interval: [0, 1] makes (-inf, 0), [0, 1), [1, inf).

    Raises:
        ValueError: the boundaries do not ascend, are not finite or are none, or the source has
            more dimensions; TypeError: an argument is not of the type it must be.
    """
    if not isinstance(source_column, NumericColumn):
        raise InvalidType(expected("source_column", "a numeric_column", source_column))
    if len(source_column.shape) > 1:
        must = f"of one dimension, got shape {source_column.shape}"
        raise Invalid(f"source_column must be {must}")
    try:
        borders = np.array(boundaries, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidType(expected("boundaries", "a list of numbers", boundaries)) from error
    if borders.ndim != 1 or not len(borders) or not np.isfinite(borders).all():
        raise Invalid(expected("boundaries", "a list of finite numbers", boundaries))
    if (np.diff(borders) <= 0).any():
        raise Invalid(expected("boundaries", "ascending", boundaries))
    return BucketizedColumn(source_column, tuple(borders.tolist()))


def indicator_column(categorical_column: CategoricalColumn) -> IndicatorColumn:
    """How often each bucket of a categorical column occurs in a row: 0 or 1 for one value.

    Args:
        categorical_column: What the functions `categorical_column_with_...` return.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(categorical_column, IdentityColumn | VocabularyColumn | HashedColumn):
        must = "a categorical_column_with_..."
        raise InvalidType(expected("categorical_column", must, categorical_column))
    return IndicatorColumn(categorical_column)


def _real_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if kind.kind not in "fiu":
        raise InvalidType(expected("dtype", "a real dtype", dtype))
    return kind


def _shape(shape: int | Iterable[int]) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    for size in sizes:
        check_integer("shape", size, 1)
    if not sizes:
        raise Invalid(expected("shape", "of one dimension at least", shape))
    return tuple(int(size) for size in sizes)


def _default(value: Any, shape: tuple[int, ...]) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidType(expected("default_value", "a number or numbers", value)) from error
    if numbers.shape not in ((), shape) or not np.isfinite(numbers).all():
        must = f"one finite number, or those of shape {shape}"
        raise Invalid(expected("default_value", must, value))
    return tuple(np.broadcast_to(numbers, shape).ravel().tolist())
