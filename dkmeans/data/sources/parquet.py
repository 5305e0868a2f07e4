"""Rows of Parquet files: columns of numbers or words (strings), or of lists of them.

A chunk is some consecutive row groups of one file, which are decoded here. `NamedRows.read` makes
rows of the decoded columns, by the functions of `arrow_values`. Missing values are refused, except
where feature columns read a column by itself (`ParquetRows.column`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import Chunk, rows_per_chunk
from dkmeans.data.sources.arrow_values import (
    ROWS_AT_ONCE,
    dtype_of,
    is_list,
    list_width,
    without_extension,
)
from dkmeans.data.sources.hive_folders import FolderValues, folder_columns
from dkmeans.data.sources.named_rows import (
    NamedRows,
    Selector,
    grouped,
    is_usable,
    with_column,
    with_weights,
)
from dkmeans.data.sources.parquet_files import (
    StoredFile,
    list_parquet_files,
    refuse_files_of_tables,
)
from dkmeans.data.sources.parquet_footers import Footer, Footers
from dkmeans.data.sources.requests import in_parallel
from dkmeans.data.sources.row_filter import RowFilter, groups_by_statistics
from dkmeans.errors import InvalidData, counted, file_changed
from dkmeans.retry import with_retries
from dkmeans.storage import address_below, filesystem, unreachable

logger = logging.getLogger("dkmeans")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetRows(NamedRows):
    """Rows of some row groups of a Parquet file, of which a filter may leave out rows.

    Attributes:
        address: Address of the file.
        groups: Numbers of the row groups, ascending.
        condition: The filter on columns of the file; None if all rows of the row groups meet it.
        stored: Number of the first row in the file, and number of rows from the first to the last
            row group, both before filtering; None without a filter.
    """

    address: str
    groups: tuple[int, ...] = ()
    condition: RowFilter | None = None
    stored: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Name of the file for messages, whose row numbers count only rows that meet the filter."""
        return f"the filtered rows of {self.address}" if self.condition else self.address

    @property
    def file(self) -> str:
        """Address of the file."""
        return self.address

    @property
    def key(self) -> Hashable:
        """Identity of the rows: the file, its row groups and the columns, with their shape."""
        shape = self.widths, self.dtypes, self.rows, self.first, self.has_gaps, self.has_weights
        return self.address, self.groups, self.columns, shape, self.condition

    def _schema(self) -> pa.Schema:
        """Return the types of the columns of the file and its folder."""
        with self._opened() as file:
            schema = file.schema_arrow.remove_metadata()
        for name, value in self.of_folder:
            schema = schema if name in schema.names else schema.append(pa.field(name, value.type))
        return schema

    def _opened(self) -> pq.ParquetFile:
        fs, path = filesystem(self.address)
        return pq.ParquetFile(path, filesystem=fs)

    def _decoded(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        # One piece is decoded at a time: a whole decoded row group would need as much memory as the
        # rows that are made of it.
        try:
            with self._opened() as file:
                self._check_unchanged(file)
                yield from self._filtered(file, self.groups, columns)
        except pa.ArrowException as error:
            raise InvalidData(f"{self.address} cannot be read: {error}") from error

    def _filtered(
        self, file: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of some row groups, without the rows that do not meet the filter."""
        stored, condition = file.schema_arrow.names, self.condition
        of_folder = [(n, v) for n, v in self.of_folder if n in columns and n not in stored]
        read = dict.fromkeys(columns if condition is None else (*columns, *condition.columns))
        in_file = [name for name in read if name not in dict(of_folder)]
        expression = None if condition is None else condition.expression
        for piece in file.iter_batches(ROWS_AT_ONCE, list(groups), in_file):
            met = piece if expression is None else piece.filter(expression)
            for name, value in of_folder:
                met = met.append_column(name, pa.repeat(value, len(met)))
            yield met.select(list(dict.fromkeys(columns)))

    def matches(self) -> list[int]:
        """Return how many rows of each row group meet the filter; its columns are read for that."""
        with self._opened() as file:
            return [sum(map(len, self._filtered(file, [group], ()))) for group in self.groups]

    def _check_unchanged(self, file: pq.ParquetFile) -> None:
        """Refuse a file in which these row groups do not have the described shape and dtypes.

        Raises:
            InvalidData: the file was replaced after it was described.
        """
        metadata, schema = file.metadata, file.schema_arrow
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        low, high = self.groups[0], self.groups[-1]
        first, rows = sum(sizes[:low]), sum(sizes[low : high + 1])
        old_first, old_rows = self.stored or (self.first, self.rows)
        if (first, rows) != (old_first, old_rows) or high >= len(sizes):
            raise self._changed(
                f"rows {old_first} to {old_first + old_rows - 1} in row groups {low} to {high}",
                f"rows {first} to {first + rows - 1}" if rows else "no rows",
            )
        for column, width, dtype in zip(self.columns, self.widths, self.dtypes, strict=True):
            places = schema.get_all_field_indices(column)
            if not places and column in dict(self.of_folder):
                continue
            kind = without_extension(schema.field(places[0]).type) if len(places) == 1 else None
            is_same = kind is not None and is_usable(kind) and dtype_of(kind).str == dtype
            if not is_same or (width != 1 and not is_list(kind)):
                lists = f"lists of {counted(width, 'value')} of " if width != 1 else ""
                raise self._changed(
                    f"{lists}dtype {np.dtype(dtype)} in one column {column!r}",
                    str(kind or counted(len(places), "such column")),
                )

    def _changed(self, must: str, got: str) -> InvalidData:
        return file_changed(self.address, must, got)


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
        matches = self.sizes if self.matches is None else self.matches
        for run in grouped(matches, rows_per_chunk(table.row_bytes, chunk_bytes)):
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
    whole row groups. The metadata of the files is read now; of a column of lists without a fixed
    length also the first row. Without `columns`, columns that hold an index of pandas or Dask are
    left out, and one log message names them.

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
    refuse_files_of_tables(addresses)
    names = with_column(columns, weights)
    # Files of all addresses whose folders name the same columns share a selector.
    selectors: dict[tuple[tuple[str, pa.DataType], ...], Selector] = {}

    def selector(kinds: dict[str, pa.DataType]) -> Selector:
        new = Selector(names, kinds, condition and condition.typed(kinds))
        return selectors.setdefault(tuple(kinds.items()), new)

    requests = in_parallel(partial(_requests_at, selector=selector), addresses)
    found = in_parallel(lambda request: request(), list(chain.from_iterable(requests)))
    files = [file for file in found if file]
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

    return with_weights(cut, tables, columns, weights)


def _requests_at(
    address: str, selector: Callable[[dict[str, pa.DataType]], Selector]
) -> list[Callable[[], _File | None]]:
    """Return a request for each file at an address that may have rows to read.

    A request returns the file, or None if it has no such rows. Errors are those of
    `from_parquet_files`. `selector` is called with the types of the columns that folders name.
    """
    fs, root = filesystem(address)
    found = _asked(address, address, lambda: list_parquet_files(fs, root, address))
    folders = folder_columns(root, [file.path for file in found])
    footers = _asked(address, address, lambda: Footers.below(fs, root, found))
    chosen = selector(folders.kinds)

    def describe(file: StoredFile, values: FolderValues) -> _File | None:
        name = address_below(address, root, file.path)
        return _asked(name, address, lambda: _of_file(footers, file, name, chosen, values))

    files = zip(found, folders.values, strict=True)
    return [partial(describe, *each) for each in files if chosen.may_meet(each[1])]


def _asked(name: str, address: str, request: Callable[[], T]) -> T:
    """Return the result of a request, with retries; errors name the file, or the user's address.

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


def _of_file(
    footers: Footers, file: StoredFile, name: str, selector: Selector, values: FolderValues
) -> _File | None:
    """Return one file, with the columns that its folder names; None if no rows are to be read."""
    footer = footers.read(file)
    chosen, sizes = selector.select(footer.schema, name), footer.sizes
    if not sum(sizes):
        return None
    widths = chosen.widths or tuple(
        list_width(kind, _first_rows(footers.fs, file.path, column))
        for column, kind in zip(chosen.columns, chosen.kinds, strict=True)
    )
    table = ParquetRows(
        address=name,
        columns=chosen.columns,
        widths=widths,
        dtypes=chosen.dtypes,
        unusable=chosen.unusable,
        of_folder=values,
    )
    if chosen.condition is None:
        return _File(table, sizes, None, chosen.left_out)
    left = chosen.condition.given(dict(values))
    if not left.holds_always:
        table = replace(table, condition=left)
    matches = _matches(table, footer)
    return _File(table, sizes, matches, chosen.left_out) if sum(matches) else None


def _matches(table: ParquetRows, footer: Footer) -> list[int]:
    """Return the number of rows of each row group that meet the filter of a table.

    A row group is read if its statistics do not decide the filter.
    """
    condition, schema, sizes = table.condition, footer.schema, footer.sizes
    if condition is None:
        return sizes
    if condition.holds_never:
        return [0] * len(sizes)
    possible, doubtful = groups_by_statistics(condition, footer.fragment, schema)
    matches = [size * (number in possible) for number, size in enumerate(sizes)]
    counts = replace(table, groups=tuple(doubtful)).matches()
    for number, count in zip(doubtful, counts, strict=True):
        matches[number] = count
    return matches


def _first_rows(fs: Any, path: str, column: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a column of a file, one at a time."""
    with pq.ParquetFile(path, filesystem=fs) as file:
        yield from file.iter_batches(batch_size=1, columns=[column])
