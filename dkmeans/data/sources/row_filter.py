"""Filters: conditions on columns that the rows of Parquet must meet.

A filter is written as pandas, Dask and pyarrow write it: `[("year", ">=", 2024), ("kind", "in",
["a", "b"])]` for terms that must all hold, or a list of such lists, of which one must hold.
`parquet` leaves out files by the values in the names of their folders. It and `arrow_dataset` leave
out row groups by their statistics, and the remaining rows one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dkmeans.data.sources.arrow_values import holds_words
from dkmeans.errors import Invalid, InvalidType, expected

if TYPE_CHECKING:
    import pyarrow.dataset as ds

# A column, a comparison and a value; several values where the comparison takes a list.
Term = tuple[str, str, Any]

_OF_LISTS = ("in", "not in")
_OF_OTHERS = ("!=", "not in")
COMPARISONS = ("=", "==", "!=", "<", "<=", ">", ">=", *_OF_LISTS)
_MUST = "a list of (column, comparison, value), or a list of such lists"


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A condition that is met if all terms of one of several alternatives hold.

    Attributes:
        alternatives: Terms of each alternative. A filter without alternatives holds for no row, and
            one with an alternative without terms for every row.
    """

    alternatives: tuple[tuple[Term, ...], ...]

    @classmethod
    def of(cls, filters: Any) -> RowFilter:
        """Return the filter that a user gives.

        Raises:
            InvalidType: it is no list of terms, or an empty one.
            Invalid: a comparison is unknown, or has no value.
        """
        if not isinstance(filters, list | tuple) or not filters:
            raise InvalidType(expected("filters", _MUST, filters))
        is_nested = all(isinstance(each, list) for each in filters)
        return cls(tuple(tuple(map(_term, each)) for each in (filters if is_nested else [filters])))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the filter reads, each once."""
        return tuple(dict.fromkeys(column for terms in self.alternatives for column, *_ in terms))

    @property
    def holds_always(self) -> bool:
        """True if every row meets the filter."""
        return () in self.alternatives

    @property
    def holds_never(self) -> bool:
        """True if no row meets the filter."""
        return not self.alternatives

    @property
    def expression(self) -> pc.Expression:
        """The filter as an expression of Arrow, if it holds neither always nor never."""
        return pq.filters_to_expression([list(terms) for terms in self.alternatives])

    def typed(self, kinds: Mapping[str, pa.DataType]) -> RowFilter:
        """Return the filter with text as a value of its column's type, such as a number or a date.

        Terms of columns that have no type in `kinds` stay as they are.

        Raises:
            Invalid: a column cannot be compared with a value.
        """
        return RowFilter(
            tuple(
                tuple(_typed(term, kinds[term[0]]) if term[0] in kinds else term for term in terms)
                for terms in self.alternatives
            )
        )

    def check_columns(self, names: Collection[str], name: str) -> None:
        """Refuse to filter by other columns than those of a file.

        Raises:
            Invalid: a column is missing.
        """
        if missing := [column for column in self.columns if column not in names]:
            must = f"of columns of {name} ({', '.join(names)})"
            raise Invalid(expected("filters", must, ", ".join(missing)))

    def given(self, values: Mapping[str, pa.Scalar]) -> RowFilter:
        """Return a typed filter without the terms of columns whose value is known for all rows.

        Alternatives with a known term that does not hold are left out.
        """
        alternatives = []
        for terms in self.alternatives:
            known = [term for term in terms if term[0] in values]
            if all(_holds(term, values[term[0]]) for term in known):
                alternatives.append(tuple(term for term in terms if term[0] not in values))
        return RowFilter(tuple(alternatives))

    def reads_floats(self, kinds: Mapping[str, pa.DataType]) -> bool:
        """Return whether a column has floats. Statistics do not tell whether some are NaN."""
        return any(pa.types.is_floating(kinds[name]) for name in self.columns)

    @property
    def may_take_nan(self) -> bool:
        """True if a term has `!=` or `not in`, which hold for NaN: NaN differs from all values."""
        return any(term[1] in _OF_OTHERS for terms in self.alternatives for term in terms)


def groups_by_statistics(
    condition: RowFilter, fragment: ds.ParquetFileFragment, schema: pa.Schema
) -> tuple[list[int], list[int]]:
    """Return the numbers of the row groups that must be read for a filter, by their statistics.

    The filter must be typed, and hold neither always nor never.

    Returns:
        The row groups that may have rows that meet the filter; and those of them that may also have
        rows that do not meet it.
    """
    met = condition.expression
    may_be_nan = condition.reads_floats({field.name: field.type for field in schema})
    if may_be_nan and condition.may_take_nan:
        possible = [group.id for group in fragment.row_groups]
    else:
        possible = _group_numbers(fragment.split_by_row_group(met, schema))
    if may_be_nan:
        return possible, possible
    # A row with a missing value may meet neither the filter nor its negation.
    others = set(_group_numbers(fragment.split_by_row_group(~met | met.is_null(), schema)))
    return possible, [number for number in possible if number in others]


def _group_numbers(fragments: Sequence[ds.ParquetFileFragment]) -> list[int]:
    return [group.id for fragment in fragments for group in fragment.row_groups]


def _term(given: Any) -> Term:
    """Return a term that a user gives.

    Raises:
        InvalidType: it does not consist of a name, a comparison and a value.
        Invalid: the comparison is unknown.
    """
    if not isinstance(given, list | tuple) or len(given) != 3 or not isinstance(given[0], str):
        raise InvalidType(expected("filters", _MUST, given))
    column, comparison, value = given
    if comparison not in COMPARISONS:
        raise Invalid(expected("filters", f"of comparisons {', '.join(COMPARISONS)}", comparison))
    if comparison in _OF_LISTS:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise InvalidType(
                expected(f"filters with {comparison!r}", "of a list of values", value)
            )
        # A set has another order in each process, and predictions know their rows by the filter.
        is_set = isinstance(value, Set)
        value = tuple(sorted(value, key=repr) if is_set else value)
    if value is None or (isinstance(value, tuple) and not value):  # it holds for no row or all
        raise Invalid(expected("filters", "of comparisons with values", given))
    return column, comparison, value


def _typed(term: Term, kind: pa.DataType) -> Term:
    """Return a term whose value can be compared with a column of a type.

    Raises:
        Invalid: it cannot be compared.
    """
    column, comparison, value = term
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    try:
        if pa.types.is_integer(kind):
            found = _term_of_integers(column, comparison, value, kind)
        elif comparison in _OF_LISTS:
            values = tuple(_of_kind(each, kind) for each in value)
            if pa.types.is_floating(kind) and 0 in values:
                # Arrow finds 0.0 and -0.0 different in lists, and statistics have either for both.
                values += (0.0, -0.0)
            found = column, comparison, values
        else:
            found = column, comparison, _of_kind(value, kind)
        _holds(found, pa.scalar(None, kind))
    except (pa.ArrowException, TypeError, ValueError, ArithmeticError) as error:
        must = f"comparisons of {column!r} with values of its type, {kind}"
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            must += ", such as '2024-01-31T00:00:00Z'"
        raise Invalid(expected("filters", must, value)) from error
    return found


def _term_of_integers(column: str, comparison: str, value: Any, kind: pa.DataType) -> Term:
    """Return a term that compares a column of integers with integers of its type.

    `rows < 2.5` is a question about integers too: it is `rows <= 2`. Arrow would compare floats,
    and fails if some integer is too large for them.

    Raises:
        TypeError: the value is no number.
        ValueError: it is NaN.
        ArithmeticError: its text is none.
    """
    limits = np.iinfo(kind.to_pandas_dtype())
    least, most = int(limits.min), int(limits.max)
    # Arrow takes the integers of Python for int64.
    as_value = np.uint64 if pa.types.is_uint64(kind) else int

    def integers(numbers: Iterable[Decimal]) -> tuple[Any, ...]:
        """Return those of some numbers that are integers of the type."""
        whole = [n for n in numbers if least <= n <= most and n == n.to_integral_value()]
        return tuple(as_value(int(n)) for n in whole)

    if comparison in _OF_LISTS:
        # No integer is NaN, the one value that differs from itself.
        given = [each for each in value if each is not None and each == each]
        numbers = (_number(each, exactly=True) for each in given)
        return column, comparison, integers(numbers) + (None,) * (None in value)
    # A number beyond the type is as good as the next one beyond: 1e999999999 has too many digits.
    number = min(max(_number(value, exactly=True), Decimal(least - 1)), Decimal(most + 1))
    never = column, "in", ()
    low, high = (int(number.to_integral_value(way)) for way in (ROUND_FLOOR, ROUND_CEILING))
    if comparison in ("<", "<="):
        bound = high - 1 if comparison == "<" else low
        return (column, "<=", as_value(min(bound, most))) if bound >= least else never
    if comparison in (">", ">="):
        bound = low + 1 if comparison == ">" else high
        return (column, ">=", as_value(max(bound, least))) if bound <= most else never
    if equal := integers([number]):
        return column, comparison, equal[0]
    # All integers differ from it; missing values do not.
    return (column, ">=", as_value(least)) if comparison == "!=" else never


def _number(value: Any, *, exactly: bool) -> Decimal:
    """Return a number, or the number that a text is, with all its digits.

    Args:
        value: The number or text.
        exactly: True for the exact value of a float; False for the one that people write, as 0.1.

    Raises:
        TypeError: the value is neither.
        ValueError: it is NaN.
        ArithmeticError: the text is no number.
    """
    is_number = isinstance(value, str | Number | Decimal) and not isinstance(value, bool | np.bool_)
    if not is_number:
        raise TypeError(value)
    if exactly and isinstance(value, float | np.floating):
        found = Decimal(float(value))
    else:
        found = Decimal(value.strip() if isinstance(value, str) else str(value))
    if found.is_nan():
        raise ValueError(value)
    return found


def _of_kind(value: Any, kind: pa.DataType) -> Any:
    """Return a value as Arrow compares a column of another type than integers with it."""
    # None stands in a list for missing values. Scalars were converted before.
    if value is None or isinstance(value, pa.Scalar) or holds_words(kind):
        return value
    if pa.types.is_decimal(kind):
        return _number(value, exactly=False)  # also with digits that the type has not
    if pa.types.is_floating(kind) and not isinstance(value, str):
        number = float(value)
        with np.errstate(over="ignore"):
            found = float(kind.to_pandas_dtype()(number))
        # A number beyond the largest float32 is none.
        return found if np.isinf(found) == np.isinf(number) else number
    if isinstance(value, str):
        found = pa.scalar(value.strip()).cast(kind)
        return found.as_py() if pa.types.is_floating(kind) else found
    if pa.types.is_timestamp(kind) and getattr(value, "nanosecond", 0):
        # Arrow takes a `Timestamp` of pandas without its nanoseconds.
        return pa.scalar(value, pa.timestamp("ns", kind.tz))
    # Of NumPy's units Arrow takes those from seconds on.
    is_date = pa.types.is_timestamp(kind) and isinstance(value, np.datetime64)
    is_coarse = is_date and np.datetime_data(value)[0] in "YMWDhm"
    return value.astype("datetime64[s]") if is_coarse else value


def _holds(term: Term, value: pa.Scalar) -> bool:
    """Return whether a term holds for a value of its column."""
    row = pa.table({term[0]: pa.array([value.as_py()], value.type)})
    return bool(row.filter(pq.filters_to_expression([term])).num_rows)
