"""Dense columns: each makes some numbers of a row from one named column.

`layout` puts the numbers of several dense columns side by side. The columns give the numbers that
the columns of the same names in `tf.feature_column` give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from dkmeans.data.points import as_points
from dkmeans.errors import Invalid, InvalidData, InvalidType, check_integer, expected
from dkmeans.feature_columns.categorical import CategoricalColumn
from dkmeans.feature_columns.named import NamedValues, check_key
from dkmeans.state import FloatArray, IndexArray


@dataclass(frozen=True, slots=True)
class NumericColumn:
    """Result of `numeric_column`: numbers, normalised by a function if there is one.

    Attributes:
        key: Name of the column to read.
        shape: Shape of one row's values.
        default_value: Numbers that replace missing values, one for each value of a row; None:
            missing values are refused.
        dtype: Dtype that the rows need: float64, or any other for float32.
        normalizer_fn: Function of (n, *shape) arrays of floats, or None.
    """

    key: str
    shape: tuple[int, ...]
    default_value: tuple[float, ...] | None
    dtype: DTypeLike
    normalizer_fn: Callable[[NDArray[Any]], ArrayLike] | None

    @property
    def name(self) -> str:
        """Name of the column."""
        return self.key

    @property
    def width(self) -> int:
        """Number of values that the column makes of a row."""
        return prod(self.shape)

    @property
    def input_width(self) -> int:
        """Number of values to read from a row."""
        return self.width

    def rows(self, values: NamedValues) -> FloatArray:
        """Return the numbers of some rows, (n, width).

        Raises:
            InvalidType: the values are not numbers.
            InvalidData: a number is not finite, or the function fails.
        """
        numbers = values.numbers()
        if self.normalizer_fn is not None and numbers.dtype.kind in "iub":
            # Integers of few bits would overflow in the function; beside a null they are floats.
            numbers = numbers.astype(np.float64)
        if self.default_value is not None and numbers.dtype.kind == "f":
            # The defaults are float64; float32 numbers stay float32.
            dtype = np.result_type(numbers.dtype, np.float32)
            numbers = np.where(np.isnan(numbers), np.array(self.default_value), numbers).astype(
                dtype
            )
        points = self._points(self._normalized(numbers), values.name)
        wrong = ~np.isfinite(points)
        if self.normalizer_fn is None:
            values.refuse(wrong, "be finite")
        else:  # the message has the value that the function has returned
            replace(values, array=points).refuse(wrong, "be finite after normalizer_fn")
        return points

    def _normalized(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers after the user's function, (n, width).

        Raises:
            InvalidData: the function fails, or returns another shape.
        """
        if self.normalizer_fn is None:
            return numbers
        # A copy: the numbers may be in the user's own array, and the function may work in place.
        copied = numbers.reshape(-1, *self.shape).copy()
        try:
            result = np.asarray(self.normalizer_fn(copied))
        except Exception as error:  # the user's function may raise anything
            what = f"{type(error).__name__}: {error}"
            raise InvalidData(f"normalizer_fn of {self.key!r} has failed: {what}") from error
        if result.shape != (len(numbers), *self.shape):
            raise InvalidData(
                f"normalizer_fn of {self.key!r} must return the shape that it is given, "
                f"{(len(numbers), *self.shape)}, got {result.shape}"
            )
        return result.reshape(numbers.shape)

    def _points(self, numbers: NDArray[Any], name: str) -> FloatArray:
        """Return the numbers as float64 or float32, as the column's dtype needs."""
        if self.dtype == np.float64:
            return numbers.astype(np.float64)
        # A number too large for float32 becomes infinite; `rows` refuses infinite numbers.
        with np.errstate(over="ignore"):
            return as_points(numbers, name).astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class BucketizedColumn:
    """Result of `bucketized_column`: for each number, 1 at its interval and 0 elsewhere.

    Attributes:
        source_column: The numeric column to read.
        boundaries: First numbers of the intervals, ascending. The lowest interval has none.
    """

    source_column: NumericColumn
    boundaries: tuple[float, ...]

    dtype: ClassVar[DTypeLike] = np.float32

    @property
    def name(self) -> str:
        """Name of the column."""
        return f"{self.source_column.name}_bucketized"

    @property
    def key(self) -> str:
        """Name of the column to read."""
        return self.source_column.key

    @property
    def width(self) -> int:
        """Number of values that the column makes of a row."""
        return self.source_column.width * (len(self.boundaries) + 1)

    @property
    def input_width(self) -> int:
        """Number of values to read from a row."""
        return self.source_column.width

    def rows(self, values: NamedValues) -> FloatArray:
        """Return the indicators of some rows, (n, width) float32.

        Raises:
            Invalid: as `NumericColumn.rows` does.
        """
        points = self.source_column.rows(values)
        # Boundaries are rounded to the dtype of the numbers. Otherwise 0.7 in float32 would be
        # below the boundary 0.7.
        buckets = np.searchsorted(np.array(self.boundaries, points.dtype), points, side="right")
        # Each number of a row has a group of buckets of its own.
        ids = np.arange(points.shape[1]) * (len(self.boundaries) + 1) + buckets
        return _counts(ids.astype(np.int64), self.width)


@dataclass(frozen=True, slots=True)
class IndicatorColumn:
    """Result of `indicator_column`: the number of values of a row in each bucket.

    Attributes:
        categorical_column: The column that gives each value a bucket.
    """

    categorical_column: CategoricalColumn

    dtype: ClassVar[DTypeLike] = np.float32
    # A row may have any number of values.
    input_width: ClassVar[None] = None

    @property
    def name(self) -> str:
        """Name of the column."""
        return f"{self.key}_indicator"

    @property
    def key(self) -> str:
        """Name of the column to read."""
        return self.categorical_column.key

    @property
    def width(self) -> int:
        """Number of values that the column makes of a row."""
        return self.categorical_column.num_buckets

    def rows(self, values: NamedValues) -> FloatArray:
        """Return the counts of some rows, (n, width) float32.

        Raises:
            Invalid: a value cannot be used.
        """
        return _counts(self.categorical_column.ids(values), self.width)


# A column that makes `width` numbers of each row.
DenseColumn: TypeAlias = NumericColumn | BucketizedColumn | IndicatorColumn


def _counts(ids: IndexArray, width: int) -> FloatArray:
    """Return how often each id occurs in each row, (n, width); negative ids are not counted."""
    counts = np.zeros((len(ids), width), np.float32)
    # Column by column: within one column no row occurs twice, so `+=` misses no id.
    for column in ids.T:
        rows = np.flatnonzero(column >= 0)
        counts[rows, column[rows]] += 1
    return counts


def numeric_column(
    key: str,
    shape: int | Iterable[int] = (1,),
    default_value: float | Iterable[float] | None = None,
    dtype: DTypeLike = np.float32,
    normalizer_fn: Callable[[NDArray[Any]], ArrayLike] | None = None,
) -> NumericColumn:
    """Return a column of numbers, normalised by a function if one is given.

    Args:
        key: Name of the column to read.
        shape: Shape of one row's values; an integer is the length of a vector.
        default_value: Number that replaces missing values (NaN and nulls), or an array of them of
            shape `shape`. None: missing values are refused.
        dtype: float64 makes float64 rows; every other real dtype makes float32 rows.
        normalizer_fn: Function of the values of some rows, an array `(n, *shape)`, that returns
            an array of the same shape. It is called with some rows at a time, so the result of a
            row must not depend on other rows.

    Raises:
        ValueError: an argument has a wrong value.
        TypeError: an argument has the wrong type.
    """
    check_key(key)
    real = _real_dtype(dtype)
    sizes = _shape(shape)
    if normalizer_fn is not None and not callable(normalizer_fn):
        raise InvalidType(expected("normalizer_fn", "a function or None", normalizer_fn))
    return NumericColumn(key, sizes, _default(default_value, sizes), real, normalizer_fn)


def bucketized_column(
    source_column: NumericColumn, boundaries: Sequence[float]
) -> BucketizedColumn:
    """Return a column that makes of each number 1 for its interval and 0 for all others.

    Args:
        source_column: A numeric column of one dimension.
        boundaries: Ascending numbers. Each begins an interval: [0, 1] makes (-inf, 0), [0, 1) and
            [1, inf).

    Raises:
        ValueError: there are no boundaries, they are not ascending or not finite, or the source
            column has more dimensions.
        TypeError: an argument has the wrong type.
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
    """Return a column with the number of a row's values in each bucket: 0 or 1 for one value.

    Args:
        categorical_column: Result of one of the functions `categorical_column_with_...`.

    Raises:
        TypeError: the argument is something else.
    """
    if not isinstance(categorical_column, CategoricalColumn):
        raise InvalidType(
            expected("categorical_column", "a categorical_column_with_...", categorical_column)
        )
    return IndicatorColumn(categorical_column)


def _real_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return a dtype if it is of real numbers.

    Raises:
        InvalidType: the dtype is another.
    """
    try:
        real = np.dtype(dtype)
    except TypeError:
        real = np.dtype(object)  # refused below
    if real.kind not in "fiu":
        raise InvalidType(expected("dtype", "a real dtype", dtype))
    return real


def _shape(shape: int | Iterable[int]) -> tuple[int, ...]:
    """Return a shape as a tuple of sizes.

    Raises:
        Invalid: a size is below 1 or no integer, or there is none.
    """
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    for size in sizes:
        check_integer("shape", size, 1)
    if not sizes:
        raise Invalid(expected("shape", "of one dimension at least", shape))
    return tuple(int(size) for size in sizes)


def _default(value: Any, shape: tuple[int, ...]) -> tuple[float, ...] | None:
    """Return the default of each value of a row, flattened; None if there is no default.

    Raises:
        InvalidType: the default is not of numbers.
        Invalid: a number is not finite, or the shape is another.
    """
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
