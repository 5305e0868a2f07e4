"""Rows of Parquet files: columns of numbers or words (strings), or of lists of them.

A chunk is some consecutive row groups of one file. `arrow` makes rows of its columns. Missing
values are refused, except where feature columns read a column by itself (`ParquetRows.column`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
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
from dkmeans.data.sources.hive_folders import FolderValues, folder_columns
from dkmeans.data.sources.parquet_files import StoredFile, list_parquet_files
from dkmeans.data.sources.parquet_footers import Footers
from dkmeans.data.sources.requests import in_parallel
from dkmeans.data.sources.row_filter import RowFilter
from dkmeans.errors import Invalid, InvalidData, counted, expected
from dkmeans.retry import with_retries
from dkmeans.storage import address_below, filesystem, unreachable

logger = logging.getLogger("dkmeans")

T = TypeVar("T")

# Number of rows that are decoded at a time.
_PIECE_ROWS = 2**16


@dataclass(frozen=True, slots=True)
class ParquetRows(Whole, Leaf):
    """Rows of some row groups of a Parquet file, of which a filter may leave out rows.

    Attributes:
        address: Address of the file.
        groups: Numbers of the row groups, ascending.
        columns: Names of the columns to read, in the order that they have in a row.
        widths: Number of values of each column in a row: one, or the length of its lists.
        dtypes: Dtype of each column as a string of NumPy. Words are read as objects.
        rows: Number of rows that the filter leaves.
        first: Number of this source's first row, counted in the rows of the file that the filter
            leaves.
        has_gaps: True if missing values are allowed. Missing numbers are read as NaN, missing words
            as None. Such a source has a single column.
        unusable: Names and types of the columns that hold neither numbers nor words. No columns
            were chosen yet: the rows cannot be read before.
        of_folder: Columns that the folder of the file names, with their values.
        condition: The filter on columns of the file; None if all rows of the row groups meet it.
        stored: Number of the first stored row and number of stored rows, from the first to the last
            row group; None if these are all rows.
    """

    address: str
    groups: tuple[int, ...]
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    rows: int
    first: int
    has_gaps: bool = False
    unusable: tuple[tuple[str, str], ...] = ()
    of_folder: FolderValues = ()
    condition: RowFilter | None = None
    stored: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Address of the file, for messages; the numbers of rows count those that are left."""
        return f"the filtered rows of {self.address}" if self.condition else self.address

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
    def key(self) -> Hashable:
        """Identity of the rows: the file, its row groups and the columns, with their shape."""
        shape = self.widths, self.dtypes, self.rows, self.first, self.has_gaps
        return self.address, self.groups, self.columns, shape, self.condition

    @property
    def described(self) -> tuple[str, ...]:
        """Names of the columns, with the lengths of lists."""
        return described(self.columns, self.widths)

    def select(self, names: Sequence[str]) -> ParquetRows:
        """Return a source of the same rows with some of the columns, in this order.

        Args:
            names: Names of the columns, with or without the lengths of lists, or of those of the
                folder.

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
        """Return the types of columns of the file and its folder.

        Raises:
            Invalid: a column is missing.
        """
        with self._opened() as file:
            schema = file.schema_arrow.remove_metadata()
        for name, value in self.of_folder:
            schema = schema if name in schema.names else schema.append(pa.field(name, value.type))
        if missing := [name for name in names if name not in schema.names]:
            raise Invalid(
                f"columns must be among those of {self.address} ({', '.join(schema.names)}), got "
                f"{', '.join(missing)}"
            )
        return pa.schema([schema.field(name) for name in names])

    def _opened(self) -> pq.ParquetFile:
        fs, path = filesystem(self.address)
        return pq.ParquetFile(path, filesystem=fs)

    def _pieces(
        self, start: int, stop: int, columns: Sequence[str]
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield columns of these rows in pieces, each with the number of its first row.

        One piece is decoded at a time, because a whole decoded row group would need as much memory
        as the rows that are made of it.

        Raises:
            InvalidData: the file cannot be read, or has changed since it was described.
        """
        first = self.first
        try:
            with self._opened() as file:
                self._check_unchanged(file)
                for piece in self._meeting(file, self.groups, columns):
                    if first >= stop:
                        return
                    low, high = max(start - first, 0), min(stop - first, len(piece))
                    if low < high:
                        yield piece.slice(low, high - low), first + low
                    first += len(piece)
        except pa.ArrowException as error:
            raise InvalidData(f"{self.address} cannot be read: {error}") from error
        if first < stop:  # The caller's array would keep uninitialized rows.
            raise self._changed(f"{counted(self.rows, 'row')} to read", str(first - self.first))

    def _meeting(
        self, file: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows of some row groups that meet the filter."""
        stored, condition = file.schema_arrow.names, self.condition
        of_folder = [(n, v) for n, v in self.of_folder if n in columns and n not in stored]
        read = dict.fromkeys(columns if condition is None else (*columns, *condition.columns))
        in_file = [name for name in read if name not in dict(of_folder)]
        for piece in file.iter_batches(_PIECE_ROWS, list(groups), in_file):
            met = piece if condition is None else piece.filter(condition.expression)
            for name, value in of_folder:
                met = met.append_column(name, pa.repeat(value, len(met)))
            yield met.select(list(dict.fromkeys(columns)))

    def matches(self) -> list[int]:
        """Return the number of rows of each row group that meet the filter, which are read."""
        with self._opened() as file:
            return [sum(map(len, self._meeting(file, [group], ()))) for group in self.groups]

    def _check_unchanged(self, file: pq.ParquetFile) -> None:
        """Refuse a file in which these row groups do not have the described shape and dtypes.

        Raises:
            InvalidData: the file was replaced after it was described.
        """
        metadata, schema = file.metadata, file.schema_arrow
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        low, high = self.groups[0], self.groups[-1]
        first, rows = sum(sizes[:low]), sum(sizes[low : high + 1])
        its_first, its_rows = self.stored or (self.first, self.rows)
        if (first, rows) != (its_first, its_rows) or high >= len(sizes):
            raise self._changed(
                f"rows {its_first} to {its_first + its_rows - 1} in row groups {low} to {high}",
                f"rows {first} to {first + rows - 1}" if rows else "no rows",
            )
        for column, width, dtype in zip(self.columns, self.widths, self.dtypes, strict=True):
            places = schema.get_all_field_indices(column)
            if not places and column in dict(self.of_folder):
                continue
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
            f"{self.address} must have {must}, as it had when it was first opened, got {got}: the "
            "file has changed; run again"
        )


class _File(NamedTuple):
    """A file with rows.

    Attributes:
        table: All its rows.
        sizes: Number of rows of each row group.
        matches: Number of rows of each row group that a filter leaves; None without a filter.
        left_out: Names of the columns that are not read, because they hold an index.
    """

    table: ParquetRows
    sizes: list[int]
    matches: list[int] | None
    left_out: list[str]

    def chunks(self, chunk_bytes: int | None) -> Iterator[Chunk]:
        """Yield the rows in chunks of about so many bytes."""
        table, first = self.table, 0
        row_bytes = sum(
            np.dtype(dtype).itemsize * width
            for dtype, width in zip(table.dtypes, table.widths, strict=True)
        )
        matches = self.sizes if self.matches is None else self.matches
        for run in _grouped(matches, rows_per_chunk(row_bytes, chunk_bytes)):
            groups = tuple(i for i in run if matches[i])
            rows = sum(matches[i] for i in groups)
            if rows:
                stored = None if self.matches is None else self._stored(groups)
                source = replace(table, groups=groups, rows=rows, first=first, stored=stored)
                yield Chunk(source, first, first + rows)
            first += rows

    def _stored(self, groups: Sequence[int]) -> tuple[int, int]:
        """Return the number of stored rows before some row groups, and from first to last."""
        low, high = groups[0], groups[-1] + 1
        return sum(self.sizes[:low]), sum(self.sizes[low:high])


def from_parquet_files(
    addresses: Sequence[str],
    columns: Sequence[str] | None,
    weights: str | None = None,
    condition: RowFilter | None = None,
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
        condition: Filter that the rows must meet; None for all rows. The columns that it reads are
            read now, of row groups whose statistics do not decide it.

    Raises:
        InvalidData: nothing readable is there, or a table of another format, or the files have
            different columns.
        Invalid: a column is missing, or one of `columns` holds neither numbers nor words, or one
            cannot be compared as the filter does.
    """
    names = columns
    if columns is not None and weights is not None and weights not in columns:
        names = [*columns, weights]
    files = [file for address in addresses for file in _files_at(address, names, condition)]
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


def _files_at(
    address: str, columns: Sequence[str] | None, condition: RowFilter | None
) -> list[_File]:
    """Return the files with rows at an address, with the errors of `from_parquet_files`."""
    fs, root = filesystem(address)
    found = _asked(address, address, lambda: list_parquet_files(fs, root, address))
    folders = folder_columns(root, [file.path for file in found])
    selector = _Selector(columns, folders.kinds, condition and condition.typed(folders.kinds))
    footers = _asked(address, address, lambda: Footers.below(fs, root, found))

    def describe(each: tuple[StoredFile, FolderValues]) -> _File | None:
        file, values = each
        name = address_below(address, root, file.path)
        return _asked(name, address, lambda: _of_file(footers, file, name, selector, values))

    files = list(zip(found, folders.values, strict=True))
    if condition is not None:
        files = [(file, values) for file, values in files if selector.may_meet(values)]
    return [file for file in in_parallel(describe, files) if file]


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


class _Selector:
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
        self._last: tuple[pa.Schema, _Selection] | None = None
        self._met: dict[FolderValues, bool] = {}

    def may_meet(self, values: FolderValues) -> bool:
        """Return whether rows of a file may meet the filter, by the values of its folder."""
        if values not in self._met and self._condition is not None:
            self._met[values] = not self._condition.given(dict(values)).holds_never
        return self._met[values]

    def select(self, schema: pa.Schema, name: str) -> _Selection:
        """Return the columns and rows to read of a file.

        Args:
            schema: Columns of the file.
            name: Address of the file.

        Raises:
            Invalid: a column is missing or cannot be compared, or all are an index.
            InvalidType: no column that is left, or one of those named, can be read.
        """
        index = index_columns(schema) if self._columns is None else []
        last = self._last
        if last and last[0].equals(schema) and last[1].left_out == index:
            return last[1]
        selection = self._select(schema, index, name)
        self._last = schema, selection
        return selection

    def _select(self, schema: pa.Schema, index: list[str], name: str) -> _Selection:
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
            condition = condition.typed(kinds)
        unusable = tuple(
            (column, type_name(schema.field(column).type))
            for column in chosen
            if not _is_usable(kinds[column])
        )
        if columns is None:  # a model, or feature columns, may choose others
            chosen = tuple(column for column in chosen if column not in dict(unusable))
        if unusable and (columns is not None or not chosen):
            raise hold_no_numbers(unusable, name)
        found = tuple(kinds[column] for column in chosen)
        widths = None if any(map(is_list, found)) else (1,) * len(found)
        dtypes = tuple(dtype_of(kind).str for kind in found)
        return _Selection(chosen, found, widths, dtypes, unusable, condition, index)


def _of_file(
    footers: Footers, file: StoredFile, name: str, selector: _Selector, values: FolderValues
) -> _File | None:
    """Return one file; None if no rows are to be read.

    Args:
        footers: Footers of the files.
        file: The file.
        name: Address of the file.
        selector: Selects the columns and rows.
        values: Columns that the folder of the file names.
    """
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
    table = ParquetRows(name, (), *about, 0, 0, unusable=chosen.unusable, of_folder=values)
    if chosen.condition is None:
        return _File(table, sizes, None, chosen.left_out)
    left = chosen.condition.given(dict(values))
    if not left.holds_always:
        table = replace(table, condition=left)
    matches = _matches(table, footer, sizes)
    return _File(table, sizes, matches, chosen.left_out) if sum(matches) else None


def _matches(table: ParquetRows, footer: ds.ParquetFileFragment, sizes: list[int]) -> list[int]:
    """Return the number of rows of each row group that meet the filter of a table.

    Row groups whose statistics do not decide that are read.

    Args:
        table: The file.
        footer: The footer of the file.
        sizes: Number of rows of each row group.
    """
    condition, schema = table.condition, footer.physical_schema
    if condition is None:
        return sizes
    if condition.holds_never:
        return [0] * len(sizes)
    met, not_met = condition.expression, ~condition.expression
    matches = [0] * len(sizes)
    may_be_nan = condition.reads_floats({field.name: field.type for field in schema})
    if may_be_nan and condition.may_take_nan:
        possible = list(range(len(sizes)))
    else:
        possible = _group_numbers(footer.split_by_row_group(met, schema))
    for number in possible:
        matches[number] = sizes[number]
    doubtful = possible
    if not may_be_nan:
        others = set(_group_numbers(footer.split_by_row_group(not_met, schema)))
        doubtful = [number for number in possible if number in others]
    counts = replace(table, groups=tuple(doubtful)).matches()
    for number, count in zip(doubtful, counts, strict=True):
        matches[number] = count
    return matches


def _group_numbers(footers: Sequence[ds.ParquetFileFragment]) -> list[int]:
    return [group.id for footer in footers for group in footer.row_groups]


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
