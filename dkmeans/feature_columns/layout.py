"""Layout of rows that are made of feature columns, and the source that makes these rows.

`dkmeans.input_fn` calls this module. Each named column of the input is a source of its own.
`FeatureRows` reads the named columns and makes the rows only when a worker reads the chunk. All
other code sees rows of numbers (docs/decisions/012).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, ClassVar

import cloudpickle
import numpy as np
from numpy.typing import DTypeLike

from dkmeans.data.batches import Batch, Part
from dkmeans.data.chunks import Chunk, Source, rows_per_chunk
from dkmeans.data.columns import described
from dkmeans.data.points import as_array
from dkmeans.data.sources.named_rows import NamedRows
from dkmeans.errors import Invalid, InvalidData, InvalidType, counted, expected
from dkmeans.feature_columns.categorical import CategoricalColumn
from dkmeans.feature_columns.dense import DenseColumn
from dkmeans.feature_columns.named import NamedValues
from dkmeans.state import FloatArray

# 1 MiB: a chunk then holds eight rows. Rows are dense; larger ones would be mostly zeros.
LARGEST_ROW_BYTES = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The feature columns that make a row, in a fixed order.

    Attributes:
        columns: The columns in the order of their names.
        digest: Hash of the pickled columns. Workers of a fit identify the layout by it. A function
            of an installed module is pickled by name: its digest does not depend on its code.
    """

    columns: tuple[DenseColumn, ...] = field(repr=False)
    digest: str

    @classmethod
    def of(cls, feature_columns: Iterable[Any]) -> Layout:
        """Return the layout of feature columns given in any order.

        Raises:
            InvalidType: the argument is not a list of dense columns.
            Invalid: the list is empty, two columns have the same name, or rows would be larger
                than `LARGEST_ROW_BYTES`.
        """
        columns = tuple(sorted(_dense(feature_columns), key=lambda column: column.name))
        if not columns:
            raise Invalid("feature_columns must have at least one column, or be None")
        names = [column.name for column in columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Invalid(f"feature_columns must have different names, got {twice[0]!r} twice")
        # Pickled: the repr of a normalizer_fn holds an address, which differs between processes.
        layout = cls(columns, sha256(b"".join(map(_pickled, columns))).hexdigest())
        layout._refuse_large_rows()
        return layout

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, `described`, in the order in which they make a row."""
        widths = [column.width for column in self.columns]
        return described([column.name for column in self.columns], widths)

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the columns to read, each once."""
        return tuple(dict.fromkeys(column.key for column in self.columns))

    @property
    def width(self) -> int:
        """Number of values in a row."""
        return sum(column.width for column in self.columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows: float64 if any column needs float64, else float32."""
        wide = any(np.dtype(column.dtype) == np.float64 for column in self.columns)
        return np.dtype(np.float64 if wide else np.float32)

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes."""
        return self.width * self.dtype.itemsize

    def rows(self, values: Mapping[str, NamedValues]) -> FloatArray:
        """Return the rows that are made of some named values, (n, width).

        Args:
            values: Values of the same rows for each of `keys`.

        Raises:
            Invalid: a value cannot be used; the text names its row and the key.
        """
        return np.hstack(
            [column.rows(values[column.key]) for column in self.columns], dtype=self.dtype
        )

    def check_value_width(self, key: str, width: int, name: str) -> None:
        """Refuse a named column whose number of values in a row is not that of a feature column.

        Args:
            key: Name of the column.
            width: Number of values in a row.
            name: Name of the values, for the message.

        Raises:
            InvalidData: there are fewer or more values than a feature column reads.
        """
        for column in self.columns:
            if column.key == key and column.input_width not in (None, width):
                raise InvalidData(
                    f"{name} must have {counted(column.input_width or 1, 'value')} in a "
                    f"row, as the shape of its numeric_column says, got {width}"
                )

    def check_keys(self, keys: Iterable[str], name: str) -> None:
        """Refuse input that does not have each column of the layout exactly once.

        Args:
            keys: Names of the input's columns.
            name: Name of the input, for the message.

        Raises:
            Invalid: a column is missing or occurs twice; the text names the column.
        """
        present = list(keys)
        twice = [key for key in self.keys if present.count(key) > 1]
        if twice:
            raise Invalid(f"{name} must have each column once, got {twice[0]!r} twice")
        missing = [key for key in self.keys if key not in present]
        if missing:
            raise Invalid(
                f"{name} must have the columns that feature_columns read; "
                f"{', '.join(map(repr, missing))} is not among {', '.join(map(repr, present))}"
            )

    def _refuse_large_rows(self) -> None:
        """Refuse a layout whose rows are larger than `LARGEST_ROW_BYTES`."""
        if self.row_bytes <= LARGEST_ROW_BYTES:
            return
        largest = max(self.columns, key=lambda column: column.width)
        raise Invalid(
            f"feature_columns must make rows of at most {LARGEST_ROW_BYTES:,} bytes: rows are kept "
            f"dense, zeros too; got {counted(self.width, 'value')} x {self.dtype.itemsize} bytes = "
            f"{self.row_bytes:,} bytes a row, {self.row_bytes / 1e3:,.0f} GB for a million rows. "
            f"{largest.name!r} alone has {counted(largest.width, 'value')}: give it fewer buckets"
        )


def _pickled(column: DenseColumn) -> bytes:
    """Return a column as bytes.

    Raises:
        InvalidType: the column's function cannot be pickled.
    """
    try:
        pickled: bytes = cloudpickle.dumps(column)
    except Exception as error:  # objects that the user's function refers to may raise anything
        raise InvalidType(
            f"normalizer_fn of {column.key!r} must be a function that can be pickled, as workers "
            f"call it: {error}"
        ) from error
    return pickled


def _dense(feature_columns: Any) -> Iterable[DenseColumn]:
    """Return the dense columns in an argument, which may be a single one.

    Raises:
        InvalidType: the argument is not a list of dense columns.
    """
    if isinstance(feature_columns, DenseColumn):
        return [feature_columns]
    if isinstance(feature_columns, str | Mapping) or not isinstance(feature_columns, Iterable):
        raise InvalidType(expected("feature_columns", "a list of columns", feature_columns))
    columns = list(feature_columns)
    for column in columns:
        if isinstance(column, CategoricalColumn):
            must = "dense; wrap this one in indicator_column"
            raise InvalidType(expected("feature_columns", must, column))
        if not isinstance(column, DenseColumn):
            raise InvalidType(
                expected("feature_columns", "made by dkmeans.feature_columns", column)
            )
    return columns


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Source of rows that are made of named columns.

    Attributes:
        parts: The same rows of each named column, in the order of the layout's keys.
        layout: Layout of the rows.
        first: Number of the first row.
        table: Unique name, for cache keys, of the columns that one call of `input_fn` returned.
            None: the keys of the columns are used.
    """

    parts: tuple[Chunk, ...]
    layout: Layout
    first: int = 0
    table: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name for messages."""
        return " + ".join(dict.fromkeys(part.source.name for part in self.parts))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.parts[0].rows

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.layout.width

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the layout."""
        return self.layout.dtype

    @property
    def chunk_rows(self) -> int | None:
        """Smallest of the columns' chunk sizes and that of the rows; None if there is none."""
        sizes = [part.source.chunk_rows for part in self.parts]
        # Rows may be much larger than the values they are made of, such as one word.
        most = rows_per_chunk(self.layout.row_bytes)
        if most < self.rows:
            sizes.append(most)
        return min((size for size in sizes if size is not None), default=None)

    @property
    def key(self) -> Hashable | None:
        """Keys of the columns and of the layout; None if a column has no key.

        With a key, the rows are cached, and words are looked up once and not in every iteration.
        """
        if self.table is not None:
            # `first` tells the pieces of one table apart.
            return self.layout.digest, self.table, self.first
        keys = tuple((part.source.key, part.start, part.stop) for part in self.parts)
        return None if any(key is None for key, _, _ in keys) else (self.layout.digest, keys)

    # The columns retry their own reads, and the rest is the user's code.
    is_repeatable: ClassVar[bool] = False

    def read(self, start: int, stop: int) -> Any:
        """Return these rows, (stop - start, width)."""
        pieces = [part.cut(start - self.first, stop - self.first) for part in self.parts]
        return self.layout.rows(
            {
                key: NamedValues(_values(piece), key, piece.source.name, start)
                for key, piece in zip(self.layout.keys, pieces, strict=True)
            }
        )

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """Return this source with each leaf source that the columns read from changed."""
        parts = (replace(part, source=part.source.with_leaves(change)) for part in self.parts)
        return replace(self, parts=tuple(parts))


def _values(chunk: Chunk) -> Any:
    """Return the values of one named column, (n, w).

    Raises:
        InvalidData: the source returned another shape.
    """
    values, name = as_array(chunk.values(), chunk.source.name), chunk.source.name
    if values.shape != (chunk.rows, chunk.source.width):
        raise InvalidData(
            f"{name} must give {counted(chunk.rows, 'row')} of "
            f"{counted(chunk.source.width, 'value')}, got an array of shape {values.shape}"
        )
    return values


def rows_of_named_columns(layout: Layout, batch: Batch) -> Batch:
    """Return a batch of rows made of the named columns in a batch of stored rows.

    Raises:
        InvalidType: the columns have no names.
        Invalid: a column is missing, or has a wrong number of values in a row.
    """
    return Batch(tuple(_of_part(layout, part) for part in batch.parts))


def _of_part(layout: Layout, part: Part) -> Chunk:
    if not (isinstance(part, Chunk) and isinstance(part.source, NamedRows)):
        raise InvalidType(
            "the dataset must have columns with names, as feature_columns read them: return a "
            "dict, a data frame, or a Dataset.from_parquet"
        )
    source = part.source
    layout.check_keys(source.names, source.name)
    columns = [source.column(key) for key in layout.keys]
    for key, column in zip(layout.keys, columns, strict=True):
        layout.check_value_width(key, column.width, f"{key!r} of {source.name}")
    parts = tuple(Chunk(column, column.first, column.first + column.rows) for column in columns)
    rows = FeatureRows(parts, layout, source.first)
    return Chunk(rows, part.start, part.stop, weights=part.weights)
