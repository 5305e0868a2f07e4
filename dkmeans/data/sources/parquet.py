"""Rows of Parquet files: columns of numbers or words (strings), or of lists of them.

A chunk is some consecutive row groups of one file. `arrow` makes rows of its columns. Missing
values are refused, except where feature columns read a column by itself (`ParquetRows.column`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import Chunk, Leaf, Whole, rows_per_chunk
from dkmeans.data.columns import described
from dkmeans.data.row_weights import RowWeights
from dkmeans.data.sources.arrow import (
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
    without_extension,
)
from dkmeans.data.sources.parquet_files import StoredFile, list_parquet_files
from dkmeans.data.sources.parquet_footers import Footers
from dkmeans.data.sources.requests import in_parallel
from dkmeans.errors import Invalid, InvalidData, counted, expected
from dkmeans.retry import with_retries
from dkmeans.storage import address_below, filesystem, unreachable

logger = logging.getLogger("dkmeans")

T = TypeVar("T")

# Number of rows that are decoded at a time.
_PIECE_ROWS = 2**16


@dataclass(frozen=True, slots=True)
class ParquetRows(Whole, Leaf):
    """Rows of some consecutive row groups of a Parquet file.

    Attributes:
        name: Address of the file.
        groups: Numbers of the row groups.
        columns: Names of the columns to read, in the order that they have in a row.
        widths: Number of values of each column in a row: one, or the length of its lists.
        dtypes: Dtype of each column as a string of NumPy. Words are read as objects.
        rows: Number of rows.
        first: Number of this source's first row, counted in the file.
        has_gaps: True if missing values are allowed. Missing numbers are read as NaN, missing words
            as None. Such a source has a single column.
        unusable: Names and types of the columns that hold neither numbers nor words. No columns
            were chosen yet: the rows cannot be read before.
    """

    name: str
    groups: tuple[int, ...]
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    rows: int
    first: int
    has_gaps: bool = False
    unusable: tuple[tuple[str, str], ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype that can hold the values of all columns."""
        return np.result_type(*map(np.dtype, self.dtypes))

    @property
    def width(self) -> int:
        """Number of values in a row."""
        return sum(self.widths)

    @property
    def key(self) -> Hashable:
        """Identity of the rows: the file, its row groups and the columns, with their shape."""
        shape = self.widths, self.dtypes, self.rows, self.first, self.has_gaps
        return self.name, self.groups, self.columns, shape

    @property
    def described(self) -> tuple[str, ...]:
        """Names of the columns, with the lengths of lists."""
        return described(self.columns, self.widths)

    def select(self, names: Sequence[str]) -> ParquetRows:
        """Return a source of the same rows with some of the columns, in this order.

        Args:
            names: Names of the columns, with or without the lengths of lists.

        Raises:
            InvalidType: a column holds neither numbers nor words.
        """
        if others := [each for each in self.unusable if each[0] in names]:
            raise hold_no_numbers(others, self.name)
        places = [
            (self.columns if name in self.columns else self.described).index(name) for name in names
        ]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in places),
            widths=tuple(self.widths[place] for place in places),
            dtypes=tuple(self.dtypes[place] for place in places),
            unusable=(),
        )

    def column(self, name: str) -> ParquetRows:
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
        for piece, first in self._pieces(start, stop, self.columns):
            place = rows[first - start : first - start + len(piece)]
            fill(place, piece, self.columns, self.widths, first, self.name)
        return rows

    def table(self, names: Sequence[str], start: int, stop: int) -> pa.Table:
        """Return any columns of the file for these rows, with the types that they have there.

        Raises:
            Invalid: a column is missing.
            InvalidData: the file cannot be read, or has changed since it was described.
        """
        schema = self._schema_of(names)
        pieces = [piece.select(list(names)) for piece, _ in self._pieces(start, stop, names)]
        return pa.Table.from_batches(pieces, schema)

    def _schema_of(self, names: Sequence[str]) -> pa.Schema:
        """Return the types of columns of the file.

        Raises:
            Invalid: a column is missing.
        """
        fs, path = filesystem(self.name)
        with pq.ParquetFile(path, filesystem=fs) as file:
            schema = file.schema_arrow.remove_metadata()
        if missing := [name for name in names if name not in schema.names]:
            raise Invalid(
                f"columns must be among those of {self.name} ({', '.join(schema.names)}), got "
                f"{', '.join(missing)}"
            )
        return pa.schema([schema.field(name) for name in names])

    def _pieces(
        self, start: int, stop: int, columns: Sequence[str]
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield columns of these rows in pieces, each with the number of its first row.

        One piece is decoded at a time, because a whole decoded row group would need as much memory
        as the rows that are made of it.

        Raises:
            InvalidData: the file cannot be read, or has changed since it was described.
        """
        fs, path = filesystem(self.name)
        first = self.first
        try:
            with pq.ParquetFile(path, filesystem=fs) as file:
                self._check_unchanged(file)
                for piece in file.iter_batches(_PIECE_ROWS, list(self.groups), list(columns)):
                    if first >= stop:
                        return
                    low, high = max(start - first, 0), min(stop - first, len(piece))
                    if low < high:
                        yield piece.slice(low, high - low), first + low
                    first += len(piece)
        except pa.ArrowException as error:
            raise InvalidData(f"{self.name} cannot be read: {error}") from error
        if first < stop:  # The caller's array would keep uninitialized rows.
            raise self._changed(f"{counted(self.rows, 'row')} to read", str(first - self.first))

    def _check_unchanged(self, file: pq.ParquetFile) -> None:
        """Refuse a file in which these row groups do not have the described shape and dtypes.

        Raises:
            InvalidData: the file was replaced after it was described.
        """
        metadata, schema = file.metadata, file.schema_arrow
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        low, high = self.groups[0], self.groups[-1]
        first, rows = sum(sizes[:low]), sum(sizes[low : high + 1])
        if (first, rows) != (self.first, self.rows) or high >= len(sizes):
            raise self._changed(
                f"rows {self.first} to {self.first + self.rows - 1} in row groups {low} to {high}",
                f"rows {first} to {first + rows - 1}" if rows else "no rows",
            )
        for column, width, dtype in zip(self.columns, self.widths, self.dtypes, strict=True):
            places = schema.get_all_field_indices(column)
            kind = without_extension(schema.field(places[0]).type) if len(places) == 1 else None
            is_same = kind is not None and _is_usable(kind) and dtype_of(kind).str == dtype
            if not is_same or (width != 1 and not is_list(kind)):
                lists = f"lists of {counted(width, 'value')} of " if width != 1 else ""
                raise self._changed(
                    f"{lists}dtype {np.dtype(dtype)} in one column {column!r}",
                    str(kind or counted(len(places), "such column")),
                )

    def _changed(self, must: str, got: str) -> InvalidData:
        """Return the error for a file that is not as it was described."""
        return InvalidData(
            f"{self.name} must have {must}, as it had when it was first opened, got {got}: the "
            "file has changed; run again"
        )


class _File(NamedTuple):
    """A file with rows.

    Attributes:
        table: All its rows.
        sizes: Number of rows of each row group.
        left_out: Names of the columns that are not read, because they hold an index.
    """

    table: ParquetRows
    sizes: list[int]
    left_out: list[str]

    def chunks(self, chunk_bytes: int | None) -> Iterator[Chunk]:
        """Yield the rows in chunks of about so many bytes."""
        table, first = self.table, 0
        row_bytes = sum(
            np.dtype(dtype).itemsize * width
            for dtype, width in zip(table.dtypes, table.widths, strict=True)
        )
        for groups in _grouped(self.sizes, rows_per_chunk(row_bytes, chunk_bytes)):
            rows = sum(self.sizes[i] for i in groups)
            if rows:
                source = replace(table, groups=groups, rows=rows, first=first)
                yield Chunk(source, first, first + rows)
            first += rows


def from_parquet_files(
    addresses: Sequence[str], columns: Sequence[str] | None, weights: str | None = None
) -> Cut:
    """Return a function that cuts Parquet into chunks: files, or all files below folders.

    The files of a folder follow one another in natural order (`parquet_files`). A chunk consists of
    whole row groups. Only the metadata of the files is read, and that is read now. Without
    `columns`, columns that hold an index of pandas or Dask are left out, and one log message names
    them.

    Args:
        addresses: Paths or URLs of the files or folders.
        columns: Names of the columns to read, in order; None reads all but an index and the
            weights.
        weights: Name of the column with the weights of the rows; None if they have none.

    Raises:
        InvalidData: nothing readable is there, or a table of another format, or the files have
            different columns.
        Invalid: a column is missing, or one of `columns` holds neither numbers nor words.
    """
    names = columns
    if columns is not None and weights is not None and weights not in columns:
        names = [*columns, weights]
    selector = _Selector(names)
    files = [file for address in addresses for file in _files_at(address, selector)]
    index = sorted({column for file in files for column in file.left_out})
    if index:
        logger.info(
            "not reading the index of %s (%s); name it with columns to read it",
            ", ".join(addresses),
            ", ".join(index),
        )
    tables = [file.table for file in files]
    for table in tables:
        if (table.columns, table.widths) != (tables[0].columns, tables[0].widths):
            raise InvalidData(
                f"all files below {', '.join(addresses)} must have the same columns; "
                f"{tables[0].name} has {', '.join(tables[0].described)}, {table.name} "
                f"{', '.join(table.described)}"
            )

    def cut(chunk_bytes: int | None) -> Batch:
        return Batch(tuple(chunk for file in files for chunk in file.chunks(chunk_bytes)))

    if weights is None or not tables:
        return cut
    _check_weights(tables[0], weights)
    rows = [name for name in tables[0].columns if name != weights] if columns is None else columns
    if not rows:
        raise Invalid(f"{tables[0].name} must have a column beside the weights, {weights!r}")
    return lambda chunk_bytes: Batch(
        tuple(_with_weights(chunk, rows, weights) for chunk in cut(chunk_bytes))
    )


def _check_weights(table: ParquetRows, weights: str) -> None:
    """Refuse weights that are not a column of numbers.

    Raises:
        Invalid: there is no such column, or it holds words or lists.
    """
    names = ", ".join(table.columns)
    if weights not in table.columns:
        raise Invalid(expected("weights", f"a column of {table.name} ({names})", weights))
    column = table.select([weights])
    if column.dtypes == ("|O",) or column.widths != (1,):
        found = "words" if column.dtypes == ("|O",) else "lists"
        raise Invalid(
            f"weights must be a column of numbers, got {found} in {weights!r} of {table.name}"
        )


def _with_weights(chunk: Chunk, rows: Sequence[str], weights: str) -> Chunk:
    """Return a chunk of some columns, with the weights of another column beside them."""
    table = chunk.source
    assert isinstance(table, ParquetRows)  # for the type checker
    column = replace(chunk, source=table.select([weights]))
    beside = RowWeights((column,), table.first, table.rows, table.chunk_rows)
    # Columns that hold no numbers are still to be left out, or refused.
    source = replace(table.select(rows), unusable=table.unusable)
    return replace(chunk, source=source, weights=beside)


def _files_at(address: str, selector: _Selector) -> list[_File]:
    """Return the files with rows at an address, with the errors of `from_parquet_files`."""
    fs, root = filesystem(address)

    def describe(file: StoredFile) -> _File | None:
        name = address_below(address, root, file.path)
        return _asked(name, address, lambda: _of_file(footers, file, name, selector))

    found = _asked(address, address, lambda: list_parquet_files(fs, root, address))
    footers = _asked(address, address, lambda: Footers.below(fs, root, found))
    return [file for file in in_parallel(describe, found) if file]


def _asked(name: str, address: str, request: Callable[[], T]) -> T:
    """Return the result of a request for a file, which is named in errors, with retries.

    Args:
        name: Address of the file.
        address: Address that the user gave.
        request: The function to call.

    Raises:
        InvalidData: nothing is there, or it cannot be read.
        Outage: the storage does not answer.
    """

    def named() -> T:
        try:
            return request()
        except FileNotFoundError as error:
            must = "a Parquet file or folder: nothing is there"
            raise InvalidData(f"{name} must be {must}") from error
        except (OSError, pa.ArrowException) as error:
            raise InvalidData(f"{name} must be Parquet, and cannot be read: {error}") from error
        except BaseError as error:
            raise unreachable(address, error) from error

    return with_retries(name, named)


def refuse_others(batch: Batch) -> Batch:
    """Refuse a batch with columns that hold no numbers; return any other batch unchanged.

    Raises:
        InvalidType: some columns hold words, or neither numbers nor words.
    """
    for source in batch.sources():
        if isinstance(source, ParquetRows):
            pairs = zip(source.columns, source.dtypes, strict=True)
            words = [(column, "words") for column, dtype in pairs if dtype == "|O"]
            if others := [*words, *source.unusable]:
                raise hold_no_numbers(others, source.name)
    return batch


class _Selection(NamedTuple):
    """The columns to read of files of one schema.

    Attributes:
        columns: Names of the columns.
        kinds: Types of the columns.
        widths: Number of values of each column in a row; None if files must be asked, for lists.
        dtypes: Dtypes of the columns as strings of NumPy.
        unusable: Names and types of further columns, which hold neither numbers nor words.
        left_out: Names of the columns that are not read, because they hold an index.
    """

    columns: tuple[str, ...]
    kinds: tuple[pa.DataType, ...]
    widths: tuple[int, ...] | None
    dtypes: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]
    left_out: list[str]


class _Selector:
    """Selects the columns to read of each file.

    Files of one schema share a selection: a folder may have very many of them.

    Args:
        columns: Names of the columns to read, in order; None for all but an index.
    """

    def __init__(self, columns: Sequence[str] | None) -> None:
        self._columns = columns
        self._last: tuple[pa.Schema, _Selection] | None = None

    def select(self, schema: pa.Schema, name: str) -> _Selection:
        """Return the columns to read of a file.

        Args:
            schema: Columns of the file.
            name: Address of the file.

        Raises:
            Invalid: a column is missing, or all are an index.
            InvalidType: no column that is left, or one of those named, can be read.
        """
        index = index_columns(schema) if self._columns is None else []
        last = self._last
        if last and last[0].equals(schema) and last[1].left_out == index:
            return last[1]
        selection = _select(schema, index, self._columns, name)
        self._last = schema, selection
        return selection


def _select(
    schema: pa.Schema, index: list[str], columns: Sequence[str] | None, name: str
) -> _Selection:
    """Return the columns to read of a file, with the errors of `_Selector.select`."""
    if index and len(index) == len(schema.names):
        raise Invalid(
            f"{name} must have columns that are not an index, got only {', '.join(index)}; "
            "name them with columns to read them"
        )
    usual = [column for column in schema.names if column not in index]
    chosen = tuple(usual if columns is None else columns)
    missing = [column for column in chosen if column not in schema.names]
    if missing or not chosen:
        raise Invalid(
            f"columns must be among those of {name} ({', '.join(schema.names)}), got "
            f"{', '.join(missing) or 'none'}"
        )
    if twice := [c for c in dict.fromkeys(chosen) if schema.names.count(c) > 1]:
        raise Invalid(
            f"columns of {name} must have different names, got {', '.join(twice)} several "
            "times; choose others with columns"
        )
    unusable = tuple(
        (column, type_name(schema.field(column).type))
        for column in chosen
        if not _is_usable(without_extension(schema.field(column).type))
    )
    if columns is None:  # a model, or feature columns, may choose others
        chosen = tuple(column for column in chosen if column not in dict(unusable))
    if unusable and (columns is not None or not chosen):
        raise hold_no_numbers(unusable, name)
    kinds = tuple(without_extension(schema.field(column).type) for column in chosen)
    widths = None if any(map(is_list, kinds)) else (1,) * len(kinds)
    dtypes = tuple(dtype_of(kind).str for kind in kinds)
    return _Selection(chosen, kinds, widths, dtypes, unusable, index)


def _of_file(footers: Footers, file: StoredFile, name: str, selector: _Selector) -> _File | None:
    """Return one file; None if it has no rows. `name` is the address of the file."""
    footer = footers.read(file)
    chosen = selector.select(footer.physical_schema, name)
    sizes = [group.num_rows for group in footer.row_groups]
    if not sum(sizes):
        return None
    widths = chosen.widths or tuple(
        _width(footers.fs, file.path, column, kind)
        for column, kind in zip(chosen.columns, chosen.kinds, strict=True)
    )
    about = chosen.columns, widths, chosen.dtypes
    table = ParquetRows(name, (), *about, sum(sizes), 0, unusable=chosen.unusable)
    return _File(table, sizes, chosen.left_out)


def _grouped(sizes: Sequence[int], target: int) -> Iterable[tuple[int, ...]]:
    """Yield the numbers of consecutive row groups that together form a chunk.

    A chunk has at most `target` rows unless it is a single, larger row group.

    Args:
        sizes: Number of rows of each row group.
        target: Number of rows that a chunk should have at most.
    """
    run: list[int] = []
    for number, size in enumerate(sizes):
        if run and sum(sizes[i] for i in run) + size > target:
            yield tuple(run)
            run = []
        run.append(number)
    if run:
        yield tuple(run)


def _width(fs: Any, path: str, column: str, kind: pa.DataType) -> int:
    """Return the number of values in a row of a column: for lists, the length of the first list."""
    if not is_list(kind):
        return 1
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    with pq.ParquetFile(path, filesystem=fs) as file:
        first = next(file.iter_batches(batch_size=1, columns=[column]))
    length = first.column(0).value_lengths()[0].as_py()
    return int(length or 0)


def _is_usable(kind: pa.DataType) -> bool:
    return holds_numbers(kind) or holds_words(kind)
