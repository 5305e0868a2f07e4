"""The layout of rows that are made of feature columns, and the view that makes them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import DTypeLike

from dkmeans.data.batches import Batch, Part
from dkmeans.data.chunks import Chunk, Source, rows_per_chunk
from dkmeans.data.points import as_array
from dkmeans.data.sources.parquet import ParquetRows
from dkmeans.errors import Invalid, InvalidData, InvalidType, expected
from dkmeans.feature_columns.categorical import HashedColumn, IdentityColumn, VocabularyColumn
from dkmeans.feature_columns.dense import (
    BucketizedColumn,
    DenseColumn,
    IndicatorColumn,
    NumericColumn,
)
from dkmeans.feature_columns.named import Named
from dkmeans.state import FloatArray

# A chunk holds eight such rows. Rows are dense here: wider ones would be zeros for the most part.
LARGEST_ROW_BYTES = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Dense columns in the order of their names: what a row is made of.

    Attributes:
        columns: The columns.
        digest: Tells layouts apart, wherever they are.
    """

    columns: tuple[DenseColumn, ...] = field(repr=False)
    digest: str

    @classmethod
    def of(cls, feature_columns: Iterable[Any]) -> Layout:
        """The layout of some feature columns, in any order.

        Raises:
            TypeError: they are none, or categorical; ValueError: there are none, two have one
                name, or rows would be larger than `LARGEST_ROW_BYTES`.
        """
        columns = tuple(sorted(_dense(feature_columns), key=lambda column: column.name))
        if not columns:
            raise Invalid("feature_columns must have at least one column, or be None")
        names = [column.name for column in columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Invalid(f"feature_columns must have different names, got {twice[0]!r} twice")
        layout = cls(columns, sha256(b"".join(map(_pickled, columns))).hexdigest())
        layout._refuse_large_rows()
        return layout

    @property
    def keys(self) -> tuple[str, ...]:
        """What is read, each once."""
        return tuple(dict.fromkeys(column.key for column in self.columns))

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return sum(column.width for column in self.columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float64 where that of any column is."""
        wide = any(np.dtype(column.dtype) == np.float64 for column in self.columns)
        return np.dtype(np.float64 if wide else np.float32)

    @property
    def row_bytes(self) -> int:
        """How large a row is."""
        return self.width * self.dtype.itemsize

    def rows(self, values: Mapping[str, Named]) -> FloatArray:
        """The rows that named values make, (n, width).

        Raises:
            ValueError: some cannot be used; the text names the row and the key.
        """
        return np.hstack(
            [column.rows(values[column.key]) for column in self.columns], dtype=self.dtype
        )

    def check_width(self, key: str, width: int, name: str) -> None:
        """Refuse values that are not as many in a row as a column reads.

        Raises:
            InvalidData: they are fewer or more.
        """
        for column in self.columns:
            if column.key == key and column.input_width not in (None, width):
                raise InvalidData(
                    f"{name} must have {column.input_width} values in a row, as the shape of its "
                    f"numeric_column says, got {width}"
                )

    def check_keys(self, keys: Iterable[str], name: str) -> None:
        """Refuse what lacks a key.

        Raises:
            Invalid: it does; the text names it.
        """
        found = list(keys)
        twice = [key for key in self.keys if found.count(key) > 1]
        if twice:
            raise Invalid(f"{name} must have each column once, got {twice[0]!r} twice")
        missing = [key for key in self.keys if key not in found]
        if missing:
            raise Invalid(
                f"{name} must have the columns that feature_columns read; "
                f"{', '.join(map(repr, missing))} is not among {', '.join(map(repr, found))}"
            )

    def _refuse_large_rows(self) -> None:
        if self.row_bytes <= LARGEST_ROW_BYTES:
            return
        largest = max(self.columns, key=lambda column: column.width)
        raise Invalid(
            f"feature_columns must make rows of at most {LARGEST_ROW_BYTES:,} bytes: rows are kept "
            f"dense, zeros too; got {self.width:,} values x {self.dtype.itemsize} bytes = "
            f"{self.row_bytes:,} bytes a row, {self.row_bytes / 1e3:,.0f} GB for a million rows. "
            f"{largest.name!r} alone has {largest.width:,} values: give it fewer buckets"
        )


def _pickled(column: DenseColumn) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(column)
    except Exception as error:  # whatever a function's own values raise
        raise InvalidType(
            f"normalizer_fn of {column.key!r} must be a function that can be pickled, as workers "
            f"call it: {error}"
        ) from error
    return pickled


def _dense(feature_columns: Any) -> Iterable[DenseColumn]:
    dense = NumericColumn | BucketizedColumn | IndicatorColumn
    if isinstance(feature_columns, dense):
        return [feature_columns]
    if isinstance(feature_columns, str | Mapping) or not isinstance(feature_columns, Iterable):
        raise InvalidType(expected("feature_columns", "a list of columns", feature_columns))
    columns = list(feature_columns)
    for column in columns:
        if isinstance(column, IdentityColumn | VocabularyColumn | HashedColumn):
            must = "dense; wrap this one in indicator_column"
            raise InvalidType(expected("feature_columns", must, column))
        if not isinstance(column, dense):
            raise InvalidType(
                expected("feature_columns", "made by dkmeans.feature_columns", column)
            )
    return columns


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Rows made of named columns, each of which is a source: the rows from number `first` on.

    Attributes:
        parts: The columns, in the order of the layout's keys.
        table: Tells the columns from others where they are in memory and will be gone over again;
            None: they tell themselves, or will not be.
    """

    parts: tuple[Chunk, ...]
    layout: Layout
    first: int = 0
    table: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What people call it."""
        return " + ".join(dict.fromkeys(part.source.name for part in self.parts))

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.parts[0].rows

    @property
    def width(self) -> int:
        """How many columns it has."""
        return self.layout.width

    @property
    def dtype(self) -> DTypeLike:
        """That of the layout."""
        return self.layout.dtype

    @property
    def chunk_rows(self) -> int | None:
        """As many as make chunks of the usual size, or fewer where the columns' are smaller."""
        sizes = [part.source.chunk_rows for part in self.parts]
        most = rows_per_chunk(self.layout.row_bytes)
        if most < self.rows:
            sizes.append(most)
        return min((size for size in sizes if size is not None), default=None)

    @property
    def key(self) -> Hashable | None:
        """The columns', where they all have one, and the layout's: words are not read twice."""
        if self.table is not None:
            return self.layout.digest, self.table, self.first
        keys = tuple((part.source.key, part.start, part.stop) for part in self.parts)
        return None if any(key is None for key, _, _ in keys) else (self.layout.digest, keys)

    @property
    def is_repeatable(self) -> bool:
        """What failed is asked of the columns again, each by itself."""
        return False

    def read(self, start: int, stop: int) -> Any:
        """These rows."""
        pieces = [part.cut(start - self.first, stop - self.first) for part in self.parts]
        return self.layout.rows(
            {
                key: Named(_values(piece), key, piece.source.name, start)
                for key, piece in zip(self.layout.keys, pieces, strict=True)
            }
        )

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """See `Source`."""
        parts = (replace(p, source=p.source.with_leaves(change)) for p in self.parts)
        return replace(self, parts=tuple(parts))


def _values(chunk: Chunk) -> Any:
    values, name = as_array(chunk.values(), chunk.source.name), chunk.source.name
    if values.shape != (chunk.rows, chunk.source.width):
        raise InvalidData(
            f"{name} must give {chunk.rows} rows of {chunk.source.width} values, got an array of "
            f"shape {values.shape}"
        )
    return values


def of_named(layout: Layout, batch: Batch) -> Batch:
    """The rows that a layout makes of stored ones whose columns have names.

    Raises:
        InvalidType: the columns have none; Invalid: one is missing.
    """
    return Batch(tuple(_of_part(layout, part) for part in batch.parts))


def _of_part(layout: Layout, part: Part) -> Chunk:
    if not (isinstance(part, Chunk) and isinstance(part.source, ParquetRows)):
        raise InvalidType(
            "the dataset must have columns with names, as feature_columns read them: return a "
            "dict, a data frame, or a Dataset.from_parquet"
        )
    source = part.source
    layout.check_keys(source.columns, source.name)
    columns = [source.column(key) for key in layout.keys]
    for key, column in zip(layout.keys, columns, strict=True):
        layout.check_width(key, column.width, f"{key!r} of {source.name}")
    parts = tuple(Chunk(column, column.first, column.first + column.rows) for column in columns)
    return Chunk(FeatureRows(parts, layout, source.first), part.start, part.stop)
