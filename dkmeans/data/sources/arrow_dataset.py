"""Rows of datasets of pyarrow (`pyarrow.dataset.Dataset`), such as Delta Lake and Lance hand over.

A chunk is some row groups of a Parquet file, or all rows of another fragment. What opens a fragment
travels to the worker that reads it. The fragment knows which rows are deleted.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import Chunk, rows_per_chunk
from dkmeans.data.sources.arrow_values import ROWS_AT_ONCE, list_width
from dkmeans.data.sources.named_rows import (
    NamedRows,
    Selection,
    Selector,
    grouped,
    with_column,
    with_weights,
)
from dkmeans.data.sources.requests import in_parallel
from dkmeans.data.sources.row_filter import RowFilter, groups_by_statistics
from dkmeans.errors import Invalid, InvalidData
from dkmeans.extras import is_of

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_NAME = "the dataset of pyarrow"


@dataclass(frozen=True, slots=True, eq=False)
class _Fragment:
    """A fragment of a dataset, as it travels.

    pyarrow reads the footer of a Parquet file anew to pickle its fragment, so the parts of such a
    fragment travel instead.

    Attributes:
        given: The fragment; None for one of Parquet.
        parts: Format, path, file system and values of columns of a fragment of Parquet.
    """

    given: ds.Fragment | None
    parts: tuple[Any, ...] = ()

    def pieces(
        self,
        schema: pa.Schema,
        groups: Sequence[int],
        columns: Sequence[str],
        condition: RowFilter | None,
        rows: int = ROWS_AT_ONCE,
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows that meet a filter, about so many rows at a time."""
        read = list(dict.fromkeys(columns if condition is None else (*columns, *condition.columns)))
        expression = None if condition is None else condition.expression
        for piece in self._all_pieces(schema, groups, columns=read, batch_size=rows):
            # Not Arrow's own filter, which leaves out row groups that hold NaN beside other values.
            met = piece if expression is None else piece.filter(expression)
            yield met.select(list(columns))

    def _all_pieces(
        self, schema: pa.Schema, groups: Sequence[int], **options: Any
    ) -> Iterator[pa.RecordBatch]:
        if self.given is not None:
            yield from self.given.to_batches(**options)
            return
        kind, path, filesystem, values = self.parts
        # Row groups that are given to `make_fragment` itself lose their order.
        fragment = kind.make_fragment(path, filesystem, values).subset(row_group_ids=list(groups))
        yield from fragment.to_batches(
            schema=schema, batch_readahead=1, fragment_readahead=1, use_threads=False, **options
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FragmentRows(NamedRows):
    """Rows of a fragment, of which a filter may leave out rows.

    Attributes:
        fragment: The fragment.
        where: Path or number of the fragment, for messages.
        schema: Columns of the dataset.
        opened: Unique name of the dataset in cache keys.
        groups: Numbers of the row groups; empty for a fragment that is no Parquet.
        condition: The filter; None for all rows.
    """

    fragment: _Fragment
    where: str
    schema: pa.Schema
    opened: str
    groups: tuple[int, ...] = ()
    condition: RowFilter | None = None

    @property
    def name(self) -> str:
        """Name of the fragment for messages, whose row numbers count rows that meet the filter."""
        return f"the filtered rows of {self.where}" if self.condition else self.where

    @property
    def file(self) -> str | None:
        """Path of the Parquet file; None for another fragment."""
        return self.where if self.fragment.given is None else None

    @property
    def key(self) -> Hashable:
        """Identity of the rows: the fragment, its row groups and the columns."""
        return self.opened, self.where, self.groups, self.columns, self.has_gaps, self.has_weights

    def describe(self) -> str:
        """Return a text that tells these rows from others, the same for each opened dataset."""
        shape = self.columns, self.widths, self.dtypes, self.rows, self.first, self.has_gaps
        return repr((self.where, self.groups, self.condition, shape))

    def _schema(self) -> pa.Schema:
        return self.schema

    def _decoded(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return self.fragment.pieces(self.schema, self.groups, columns, self.condition)

    def _changed(self, must: str, got: str) -> InvalidData:
        return InvalidData(
            f"{self.name} must have {must}, as it had when the dataset was opened, got {got}: it "
            "has changed; open it again"
        )


def is_arrow_dataset(given: Any) -> bool:
    """Return whether an object is a dataset of pyarrow."""
    # A process that has not imported the module, which imports pandas, has no dataset.
    return is_of(given, "pyarrow.dataset", "Dataset")


def from_arrow_dataset(
    dataset: ds.Dataset,
    columns: Sequence[str] | None,
    weights: str | None = None,
    condition: RowFilter | None = None,
) -> Cut:
    """Return a function that cuts a dataset of pyarrow into chunks.

    The footers and, for a filter, its columns are read now, by many requests at a time. The other
    arguments are those of `from_parquet_files`.

    Raises:
        InvalidData: the dataset cannot be read.
        Invalid: it is filtered, or a column is missing, holds neither numbers nor words, or cannot
            be compared as the filter does.
    """
    names = with_column(columns, weights)
    try:
        fragments = list(dataset.get_fragments())
    except ValueError as error:
        must = "without a filter; give filters and columns to Dataset.from_arrow"
        raise Invalid(f"{_NAME} must be {must}: {error}") from error
    chosen = Selector(names, {}, condition).select(dataset.schema, _NAME)
    describe = partial(_of_fragment, schema=dataset.schema, chosen=chosen, opened=uuid4().hex)
    try:
        found = in_parallel(describe, list(enumerate(fragments)))
    except (OSError, pa.ArrowException) as error:
        raise InvalidData(f"{_NAME} cannot be read: {error}") from error
    tables = [table for table in found if table[1]]

    def cut(chunk_bytes: int | None) -> Batch:
        return Batch(tuple(chunk for table in tables for chunk in _chunks(*table, chunk_bytes)))

    return with_weights(cut, [table for table, _ in tables], columns, weights)


def _of_fragment(
    numbered: tuple[int, ds.Fragment], schema: pa.Schema, chosen: Selection, opened: str
) -> tuple[FragmentRows, dict[int, int]]:
    """Return the rows of a fragment, and the number of rows of each row group that is read.

    A fragment without row groups has one of all rows, with the number -1.
    """
    import pyarrow.dataset as ds  # noqa: PLC0415 it imports pandas

    number, fragment = numbered
    condition = chosen.condition
    if isinstance(fragment, ds.ParquetFileFragment):
        parts = fragment.format, fragment.path, fragment.filesystem, fragment.partition_expression
        source, where = _Fragment(None, parts), str(fragment.path)
        groups = {group.id: group.num_rows for group in fragment.row_groups}
        doubtful: list[int] = []
        if condition is not None:
            possible, doubtful = groups_by_statistics(condition, fragment, schema)
            groups = {group: groups[group] for group in possible}
    else:
        source, where = _Fragment(fragment), f"fragment {number} of {_NAME}"
        groups, doubtful = {-1: fragment.count_rows()}, [-1] * (condition is not None)
    for group in doubtful:
        groups[group] = sum(map(len, source.pieces(schema, [group], (), condition)))
    groups = {group: rows for group, rows in groups.items() if rows}
    first = next(iter(groups), 0)
    widths = chosen.widths or tuple(
        list_width(kind, source.pieces(schema, [first], [column], None, rows=1))
        for column, kind in zip(chosen.columns, chosen.kinds, strict=True)
    )
    rows = FragmentRows(
        fragment=source,
        where=where,
        schema=schema,
        opened=opened,
        condition=condition,
        columns=chosen.columns,
        widths=widths,
        dtypes=chosen.dtypes,
        unusable=chosen.unusable,
    )
    return rows, groups


def _chunks(
    table: FragmentRows, groups: dict[int, int], chunk_bytes: int | None
) -> Iterator[Chunk]:
    """Yield the rows of a fragment in chunks of about so many bytes."""
    numbers, sizes, first = list(groups), list(groups.values()), 0
    for run in grouped(sizes, rows_per_chunk(table.row_bytes, chunk_bytes)):
        rows = sum(sizes[i] for i in run)
        those = tuple(numbers[i] for i in run)
        yield Chunk(replace(table, groups=those, rows=rows, first=first), first, first + rows)
        first += rows
