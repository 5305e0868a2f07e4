"""Rows of Parquet files: columns of numbers or words (strings), or of lists of them.

A chunk is some consecutive row groups of one file. Lists of a column must have equal lengths; such
a column gives several values to each row. Missing values are refused, except where feature columns
read a column by itself (`ParquetRows.column`): they decide what a missing value becomes.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from obstore.exceptions import BaseError

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import Chunk, Leaf, Whole, rows_per_chunk
from dkmeans.data.row_weights import RowWeights
from dkmeans.data.sources.parquet_files import list_parquet_files
from dkmeans.errors import Invalid, InvalidData, counted, expected
from dkmeans.state import FloatArray
from dkmeans.storage import address_below, filesystem, unreachable

logger = logging.getLogger("dkmeans")

# Number of rows that are decoded at a time.
_PIECE_ROWS = 2**16
# Below this integer float64 represents every integer exactly.
LARGEST_EXACT = 2**53
# Names that pandas and Dask give to an index without a name.
_INDEX_NAME = re.compile(r"__index_level_[0-9]+__|__null_dask_index__")


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
    """

    name: str
    groups: tuple[int, ...]
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    rows: int
    first: int
    has_gaps: bool = False

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

    def column(self, name: str) -> ParquetRows:
        """Return a source of one of the columns, in which values may be missing."""
        return replace(self.select([name]), has_gaps=True)

    def select(self, names: Sequence[str]) -> ParquetRows:
        """Return a source of some of the columns, in this order."""
        places = [self.columns.index(name) for name in names]
        return replace(
            self,
            columns=tuple(names),
            widths=tuple(self.widths[place] for place in places),
            dtypes=tuple(self.dtypes[place] for place in places),
        )

    def read(self, start: int, stop: int) -> Any:
        """Return these rows."""
        if self.has_gaps:
            pieces = self._pieces(start, stop)
            name, width = self.columns[0], self.width
            values = [self._values(piece.column(0), name, width, first) for piece, first in pieces]
            return _with_gaps(pa.concat_arrays(values)).reshape(-1, width)
        rows = np.empty((stop - start, self.width), self.dtype)
        for piece, first in self._pieces(start, stop):
            self._fill(rows[first - start : first - start + len(piece)], piece, first)
        return rows

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield these rows in pieces, each with the number of its first row.

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
                for piece in file.iter_batches(_PIECE_ROWS, list(self.groups), list(self.columns)):
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
            kind = _without_extension(schema.field(places[0]).type) if len(places) == 1 else None
            is_same = kind is not None and _is_usable(kind) and _dtype(kind).str == dtype
            if not is_same or (width != 1 and not _is_list(kind)):
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

    def _fill(self, rows: FloatArray, piece: pa.RecordBatch, start: int) -> None:
        """Write a piece of the file into `rows`. `start` is the number of its first row."""
        left = 0
        for column, width in zip(self.columns, self.widths, strict=True):
            values = self._values(piece.column(column), column, width, start)
            values = values.to_numpy(zero_copy_only=False).reshape(-1, width)
            rows[:, left : left + width] = values
            left += width

    def _values(self, values: pa.Array, name: str, width: int, start: int) -> pa.Array:
        """Return a column's values, row after row; refuse lists of wrong length and missing values.

        Args:
            values: The column of one piece.
            name: Name of the column.
            width: Number of values that each row must have.
            start: Number of the first row of the piece, for messages.

        Raises:
            InvalidData: a list has another length or no values, or a value is missing.
        """
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        # A gap is a missing number or word. A missing list is refused even where gaps are allowed.
        if values.null_count and not (self.has_gaps and not _is_list(values.type)):
            row = start + int(np.flatnonzero(values.is_null())[0])
            raise InvalidData(f"rows must be whole; row {row} of {self.name} has no {name!r}")
        if _is_list(values.type):
            lengths = values.value_lengths().to_numpy(zero_copy_only=False)
            if (lengths != width).any():
                row = int(np.flatnonzero(lengths != width)[0])
                raise InvalidData(
                    f"the lists of column {name!r} must all have {counted(width, 'value')}, as the "
                    f"first has; that of row {start + row} of {self.name} has {lengths[row]}"
                )
            if not width:
                raise InvalidData(
                    f"the lists of column {name!r} must have values, those of {self.name} are empty"
                )
            values = values.flatten()
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            if values.null_count and not self.has_gaps:
                row = start + int(np.flatnonzero(values.is_null())[0]) // width
                raise InvalidData(
                    f"rows must be whole; row {row} of {self.name} has a gap in {name!r}"
                )
        if pa.types.is_decimal(values.type):
            # By way of words: Arrow's direct cast is wrong in the last bit of many values.
            values = values.cast(pa.string()).cast(pa.float64())
        return values


def _with_gaps(values: pa.Array) -> NDArray[Any]:
    """Return values as an array in which missing ones are NaN or None.

    Integers with gaps become float64, or objects if float64 may not represent them exactly.
    """
    if values.null_count and pa.types.is_integer(values.type):
        extremes = pc.min_max(values).as_py()
        largest = max(abs(extremes["min"] or 0), abs(extremes["max"] or 0))
        if largest >= LARGEST_EXACT:
            return np.array(values.to_pylist(), object)
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array


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
        Invalid: a column is missing, or holds neither numbers nor words.
    """
    names = columns
    if columns is not None and weights is not None and weights not in columns:
        names = [*columns, weights]
    files = [file for address in addresses for file in _files_at(address, names)]
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
                f"{tables[0].name} has {', '.join(described_columns(tables[0]))}, {table.name} "
                f"{', '.join(described_columns(table))}"
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
    return replace(chunk, source=table.select(rows), weights=beside)


def _files_at(address: str, columns: Sequence[str] | None) -> list[_File]:
    """Return the files with rows at an address, with the errors of `from_parquet_files`."""
    fs, root = filesystem(address)
    files: list[_File] = []
    name = address
    try:
        for path in list_parquet_files(fs, root, address):
            name = address_below(address, root, path)
            file = _of_file(fs, path, name, columns)
            files += [file] if file else []
    except FileNotFoundError as error:
        raise InvalidData(f"{name} must be a Parquet file or folder: nothing is there") from error
    except (OSError, pa.ArrowException) as error:
        raise InvalidData(f"{name} must be Parquet, and cannot be read: {error}") from error
    except BaseError as error:
        raise unreachable(address, error) from error
    return files


def refuse_words(batch: Batch) -> Batch:
    """Refuse a batch with columns of words; return any other batch unchanged.

    Raises:
        Invalid: some columns hold words.
    """
    for source in batch.sources():
        if isinstance(source, ParquetRows) and "|O" in source.dtypes:
            pairs = zip(source.columns, source.dtypes, strict=True)
            words = ", ".join(column for column, dtype in pairs if dtype == "|O")
            raise Invalid(
                f"columns of {source.name} must hold numbers or lists of them where no "
                f"feature_columns read them, got words in {words}; choose others with columns"
            )
    return batch


def _of_file(fs: Any, path: str, name: str, columns: Sequence[str] | None) -> _File | None:
    """Return one file; None if it has no rows. `path` is the path in `fs`, `name` the address."""
    with pq.ParquetFile(path, filesystem=fs) as file:
        schema, metadata = file.schema_arrow, file.metadata
        index = _index_columns(schema) if columns is None else []
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
        if not metadata.num_rows:
            return None
        types = [_without_extension(schema.field(column).type) for column in chosen]
        refused = [c for c, t in zip(chosen, types, strict=True) if not _is_usable(t)]
        if refused:
            described = ", ".join(f"{c} ({schema.field(c).type})" for c in refused)
            raise Invalid(
                f"columns of {name} must hold numbers, words or lists of them, got {described}; "
                "choose others with columns"
            )
        widths = tuple(_width(file, c, t) for c, t in zip(chosen, types, strict=True))
        dtypes = tuple(_dtype(t).str for t in types)
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    groups = tuple(range(len(sizes)))
    table = ParquetRows(name, groups, chosen, widths, dtypes, sum(sizes), first=0)
    return _File(table, sizes, index)


def _index_columns(schema: pa.Schema) -> list[str]:
    """Return the names of the columns that hold an index of pandas or Dask.

    The metadata `pandas` of the schema names them; an index that is a range is no column but a
    dict there. Other programs that rewrite a file keep the column and lose the metadata, so names
    that only pandas and Dask give count too.
    """
    try:
        named = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
        named = [name for name in named if isinstance(name, str)]
    except (ValueError, AttributeError, TypeError):  # not what pandas writes
        named = []
    return [name for name in schema.names if name in named or _INDEX_NAME.fullmatch(name)]


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


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _without_extension(kind: pa.DataType) -> pa.DataType:
    """Return the list type in which a column of vectors (1-D tensors) is stored, or another type.

    Tensors of more dimensions stay as they are: they may be stored in any order.
    """
    is_vector = isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 1
    return kind.storage_type if is_vector else kind


def _is_usable(kind: pa.DataType) -> bool:
    if _is_list(kind):  # of lists only the values are read, so these must not be lists again
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_number = any(
        test(kind) for test in (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
    )
    return bool(is_number or pa.types.is_boolean(kind) or _is_words(kind))


def _is_words(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    bytes_tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in (*tests, *bytes_tests))


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the single values in lists and dictionaries."""
    while _is_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    """Return the dtype that a column is read as. `as_points` converts integers later."""
    value = _value_type(kind)
    if _is_words(value):
        return np.dtype(object)
    if pa.types.is_decimal(value):
        return np.dtype(np.float64)
    if pa.types.is_boolean(value):
        return np.dtype(np.bool_)
    # Not `to_pandas_dtype`: some versions of Arrow need pandas for it.
    letter = "f" if pa.types.is_floating(value) else "i"
    letter = "u" if pa.types.is_unsigned_integer(value) else letter
    return np.dtype(f"{letter}{value.bit_width // 8}")


def _width(file: pq.ParquetFile, column: str, kind: pa.DataType) -> int:
    """Return the number of values in a row of a column: for lists, the length of the first list."""
    if not _is_list(kind):
        return 1
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    first = next(file.iter_batches(batch_size=1, columns=[column]))
    length = first.column(0).value_lengths()[0].as_py()
    return int(length or 0)


def described_columns(source: ParquetRows) -> list[str]:
    """Return the names of the columns of a source, with the lengths of lists."""
    pairs = zip(source.columns, source.widths, strict=True)
    return [name if width == 1 else f"{name}[{width}]" for name, width in pairs]
