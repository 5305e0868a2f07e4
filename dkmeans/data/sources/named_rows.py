"""Tables with named columns in storage: which columns are read, and how they make a row.

`parquet` and `arrow_dataset` derive their sources from `NamedRows`, and choose the columns of files
with a `Selector`. Missing values are refused, except where feature columns read a column by itself
(`NamedRows.column`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import Chunk, Leaf, Whole
from dkmeans.data.columns import described
from dkmeans.data.row_weights import RowWeights
from dkmeans.data.sources.arrow_values import (
    dtype_of,
    fill,
    hold_no_numbers,
    holds_numbers,
    holds_words,
    index_columns,
    is_list,
    type_name,
    values_of,
    with_gaps,
    with_nan,
    without_extension,
)
from dkmeans.data.sources.hive_folders import FolderValues
from dkmeans.data.sources.row_filter import RowFilter
from dkmeans.errors import Invalid, InvalidData, counted, expected


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRows(Whole, Leaf):
    """Rows of a table whose columns have names, and are read by them.

    Attributes:
        columns: Names of the columns to read, in the order that they have in a row.
        widths: Number of values of each column in a row: one, or the length of its lists.
        dtypes: Dtype of each column as a string of NumPy. Words are read as objects.
        rows: Number of rows.
        first: Number of this source's first row in its table.
        has_gaps: True if missing values are allowed. Missing numbers are read as NaN, missing words
            as None. Such a source has a single column.
        has_weights: True if the rows have weights: those of weight zero may lack values, which are
            read as NaN.
        unusable: Names and types of further columns, which hold neither numbers nor words, as long
            as no columns are chosen: `refuse_others` refuses a source with such columns.
        of_folder: Further columns, which have one value in all rows: the folder of a file names it.
    """

    columns: tuple[str, ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    rows: int = 0
    first: int = 0
    has_gaps: bool = False
    has_weights: bool = False
    unusable: tuple[tuple[str, str], ...] = ()
    of_folder: FolderValues = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """Name for messages."""

    @property
    @abstractmethod
    def file(self) -> str | None:
        """Address or path of the Parquet file that has the rows; None for another kind of file."""

    @abstractmethod
    def _schema(self) -> pa.Schema:
        """Return the types of all columns of the table."""

    @abstractmethod
    def _decoded(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns of all these rows in pieces.

        Raises:
            InvalidData: the table cannot be read, or has changed since it was described.
        """

    @abstractmethod
    def _changed(self, must: str, got: str) -> InvalidData:
        """Return the error for a table that is not as it was described."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, and of those of the folder."""
        return tuple(dict.fromkeys((*self.columns, *(name for name, _ in self.of_folder))))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype that can hold the values of all columns."""
        return np.result_type(*map(np.dtype, self.dtypes))

    @property
    def width(self) -> int:
        """Number of values in a row."""
        return sum(self.widths)

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes, with each column in its own dtype."""
        pairs = zip(self.dtypes, self.widths, strict=True)
        return sum(np.dtype(dtype).itemsize * width for dtype, width in pairs)

    @property
    def described(self) -> tuple[str, ...]:
        """Names of the columns, with the lengths of lists."""
        return described(self.columns, self.widths)

    def select(self, names: Sequence[str]) -> Self:
        """Return a source of the same rows with some of the columns, in this order.

        Args:
            names: Names of columns, with or without the lengths of lists; also names of columns
                that the folder names.

        Raises:
            InvalidType: a column holds neither numbers nor words.
        """
        if others := [each for each in self.unusable if each[0] in names]:
            raise hold_no_numbers(others, self.name)
        each = list(zip(self.columns, self.widths, self.dtypes, strict=True))
        known = {name: (name, 1, dtype_of(value.type).str) for name, value in self.of_folder}
        known |= dict(zip(self.described, each, strict=True)) | {c[0]: c for c in each}
        chosen = tuple(known[name] for name in names)
        columns, widths, dtypes = zip(*chosen, strict=True) if chosen else ((), (), ())
        return replace(self, columns=columns, widths=widths, dtypes=dtypes, unusable=())

    def column(self, name: str) -> Self:
        """Return a source of one of the columns, in which values may be missing."""
        return replace(self.select([name]), has_gaps=True)

    def read(self, start: int, stop: int) -> Any:
        """Return these rows."""
        if self.has_gaps:
            pieces = self._pieces(start, stop, self.columns)
            name, width = self.columns[0], self.width
            values = [
                values_of(piece.column(0), name, width, first, self.name, has_gaps=True)
                for piece, first in pieces
            ]
            return with_gaps(pa.concat_arrays(values)).reshape(-1, width)
        rows = np.empty((stop - start, self.width), self.dtype)
        missing = np.zeros(rows.shape, bool) if self.has_weights else None
        for piece, first in self._pieces(start, stop, self.columns):
            some = slice(first - start, first - start + len(piece))
            about = self.columns, self.widths, first, self.name
            fill(rows[some], piece, *about, None if missing is None else missing[some])
        return rows if missing is None else with_nan(rows, missing, self.name)

    def _pieces(
        self, start: int, stop: int, columns: Sequence[str]
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield columns of some of these rows in pieces, each with the number of its first row."""
        first = self.first
        for piece in self._decoded(columns):
            if first >= stop:
                return
            low, high = max(start - first, 0), min(stop - first, len(piece))
            if low < high:
                yield piece.slice(low, high - low), first + low
            first += len(piece)
        if first < stop:  # The caller's array would keep uninitialized rows.
            raise self._changed(f"{counted(self.rows, 'row')} to read", str(first - self.first))

    def table(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Return any columns of the table for these rows, with the types that they have there.

        Raises:
            Invalid: a column is missing.
            InvalidData: the table cannot be read, or has changed since it was described.
        """
        schema = self._schema()
        if missing := [name for name in names if name not in schema.names]:
            known = ", ".join(schema.names)
            raise Invalid(f"keep must be among the columns of {self.name} ({known}), got {missing}")
        pieces = [piece.select(list(names)) for piece, _ in self._pieces(start, stop, names)]
        return pa.Table.from_batches(pieces, pa.schema([schema.field(name) for name in names]))


def refuse_others(batch: Batch) -> Batch:
    """Refuse a batch with columns that hold no numbers; return any other batch unchanged.

    Raises:
        InvalidType: some columns hold words, or neither numbers nor words.
    """
    for source in batch.sources():
        if isinstance(source, NamedRows):
            pairs = zip(source.columns, source.dtypes, strict=True)
            words = [(column, "words") for column, dtype in pairs if dtype == "|O"]
            if others := [*words, *source.unusable]:
                raise hold_no_numbers(others, source.name)
    return batch


class Selection(NamedTuple):
    """The columns to read of files of one schema.

    Attributes:
        columns: Names of the columns.
        kinds: Types of the columns.
        widths: Number of values of each column in a row; None if a column holds lists, whose length
            may differ from file to file.
        dtypes: Dtypes of the columns as strings of NumPy.
        unusable: Names and types of further columns, which hold neither numbers nor words.
        condition: Filter that the rows must meet; None for all rows.
        left_out: Names of the columns that are not read, because they hold an index.
    """

    columns: tuple[str, ...]
    kinds: tuple[pa.DataType, ...]
    widths: tuple[int, ...] | None
    dtypes: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]
    condition: RowFilter | None
    left_out: list[str]


class Selector:
    """Selects the columns and rows to read of each file.

    Files of one schema share a selection: a folder may have very many of them.

    Args:
        columns: Names of the columns to read, in order; None for all of a file but an index.
        of_folders: Types of the columns that folders name.
        condition: Filter that the rows must meet, with values of these types; None for all rows.
    """

    def __init__(
        self,
        columns: Sequence[str] | None,
        of_folders: Mapping[str, pa.DataType],
        condition: RowFilter | None,
    ) -> None:
        self._columns, self._of_folders, self._condition = columns, of_folders, condition
        self._last: tuple[pa.Schema, Selection] | None = None
        self._met: dict[FolderValues, bool] = {}

    def may_meet(self, values: FolderValues) -> bool:
        """Return whether rows of a file may meet the filter, by the values of its folder."""
        if self._condition is None:
            return True
        if values not in self._met:
            self._met[values] = not self._condition.given(dict(values)).holds_never
        return self._met[values]

    def select(self, schema: pa.Schema, name: str) -> Selection:
        """Return the columns and rows to read of a file.

        Raises:
            Invalid: a column is missing or cannot be compared, or all are an index.
            InvalidType: one of the named columns cannot be read; or, if none are named, no column
                but those of an index can be read.
        """
        index = index_columns(schema) if self._columns is None else []
        last = self._last
        if last and last[0].equals(schema) and last[1].left_out == index:
            return last[1]
        selection = self._select(schema, index, name)
        self._last = schema, selection
        return selection

    def _select(self, schema: pa.Schema, index: list[str], name: str) -> Selection:
        columns, condition = self._columns, self._condition
        if index and len(index) == len(schema.names):
            raise Invalid(
                f"{name} must have columns that are not an index, got only {', '.join(index)}; "
                "name them with columns to read them"
            )
        kinds = {**self._of_folders, **{f.name: without_extension(f.type) for f in schema}}
        usual = [column for column in schema.names if column not in index]
        chosen = tuple(usual if columns is None else columns)
        missing = [column for column in chosen if column not in kinds]
        if missing or not chosen:
            names = ", ".join(dict.fromkeys((*schema.names, *kinds)))
            raise Invalid(
                f"columns must be among those of {name} ({names}), got "
                f"{', '.join(missing) or 'none'}"
            )
        if twice := [c for c in dict.fromkeys(chosen) if schema.names.count(c) > 1]:
            raise Invalid(
                f"columns of {name} must have different names, got {', '.join(twice)} several "
                "times; choose others with columns"
            )
        if condition is not None:
            condition.check_columns(kinds, name)
            self._check_one_type(condition, kinds, name)
            condition = condition.typed(kinds)
        unusable = tuple(
            (column, type_name(schema.field(column).type))
            for column in chosen
            if not is_usable(kinds[column])
        )
        if columns is None:  # a model, or feature columns, may choose others
            chosen = tuple(column for column in chosen if column not in dict(unusable))
        if unusable and (columns is not None or not chosen):
            raise hold_no_numbers(unusable, name)
        found = tuple(kinds[column] for column in chosen)
        widths = None if any(map(is_list, found)) else (1,) * len(found)
        dtypes = tuple(dtype_of(kind).str for kind in found)
        return Selection(chosen, found, widths, dtypes, unusable, condition, index)

    def _check_one_type(
        self, condition: RowFilter, kinds: Mapping[str, pa.DataType], name: str
    ) -> None:
        """Refuse to filter by a column that has one type in the folders and another in a file."""
        for column in condition.columns:
            of_folder, of_file = self._of_folders.get(column), kinds[column]
            if of_folder is not None and of_folder != of_file:
                raise Invalid(
                    f"filters must be of columns of one type, got {column!r}, which is {of_folder} "
                    f"in the names of folders and {of_file} in {name}"
                )


def is_usable(kind: pa.DataType) -> bool:
    """Return whether a column of a type can be read: it holds numbers or words."""
    return holds_numbers(kind) or holds_words(kind)


def with_column(columns: Sequence[str] | None, name: str | None) -> Sequence[str] | None:
    """Return the columns to read, with one of this name among them; None for all of a table."""
    if columns is None or name is None or name in columns:
        return columns
    return [*columns, name]


def with_weights(
    cut: Cut, tables: Sequence[NamedRows], columns: Sequence[str] | None, weights: str | None
) -> Cut:
    """Return a function that cuts tables into chunks, with the weights of a column beside them.

    Args:
        cut: Cuts the tables, with the column of the weights.
        tables: The tables, of the same columns.
        columns: Names of the columns of a row; None for all but the weights.
        weights: Name of the column with the weights; None if the rows have none.

    Raises:
        Invalid: there is no such column, or it holds no numbers, or there is no other column.
    """
    if weights is None or not tables:
        return cut
    table = tables[0]
    _check_weights(table, weights)
    rows = [name for name in table.columns if name != weights] if columns is None else columns
    if not rows:
        raise Invalid(f"{table.name} must have a column beside the weights, {weights!r}")
    return lambda chunk_bytes: Batch(
        tuple(_with_weights(chunk, rows, weights) for chunk in cut(chunk_bytes))
    )


def _check_weights(table: NamedRows, weights: str) -> None:
    """Refuse weights that are not a column of numbers.

    Raises:
        Invalid: there is no such column, or it holds words, lists or no numbers.
    """
    found = dict(table.unusable).get(weights)
    if weights not in table.columns and found is None:
        names = ", ".join(table.columns)
        raise Invalid(expected("weights", f"a column of {table.name} ({names})", weights))
    if found is None:
        column = table.select([weights])
        found = "words" if column.dtypes == ("|O",) else "lists" if column.widths != (1,) else None
    if found is not None:
        raise Invalid(
            f"weights must be a column of numbers, got {found} in {weights!r} of {table.name}"
        )


def _with_weights(chunk: Chunk, rows: Sequence[str], weights: str) -> Chunk:
    """Return a chunk of some columns, with the weights of another column beside them."""
    table = chunk.source
    assert isinstance(table, NamedRows)  # for the type checker
    column = replace(chunk, source=table.select([weights]))
    beside = RowWeights((column,), table.first, table.rows, table.chunk_rows)
    # Columns that hold no numbers are still to be left out, or refused.
    source = replace(table.select(rows), unusable=table.unusable, has_weights=True)
    return replace(chunk, source=source, weights=beside)


def grouped(sizes: Sequence[int], target: int) -> Iterable[tuple[int, ...]]:
    """Yield the numbers of consecutive row groups that together form a chunk.

    A chunk has at most `target` rows unless it is a single, larger row group.
    """
    run: list[int] = []
    for number, size in enumerate(sizes):
        if run and sum(sizes[i] for i in run) + size > target:
            yield tuple(run)
            run = []
        run.append(number)
    if run:
        yield tuple(run)
