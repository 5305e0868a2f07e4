"""Columns of the input that are written beside the predictions, such as the ids of the rows.

They are read again from the Parquet files of a region, with the types that they have there.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.named_rows import NamedRows
from dkmeans.data.views import Joined
from dkmeans.errors import InvalidType
from dkmeans.feature_columns.layout import FeatureRows


def check_kept(batch: Batch, names: Sequence[str]) -> None:
    """Refuse columns that the files of a batch do not have.

    Raises:
        InvalidType: the rows are not those of Parquet files, in order.
        Invalid: a column is missing.
    """
    kept_columns(batch[0].cut(0, 0), names)


def kept_columns(chunk: Chunk, names: Sequence[str]) -> pa.Table:
    """Return columns of the files of a chunk, as a table of the same rows.

    Raises:
        InvalidType: the rows are not those of Parquet files, in order.
        InvalidData: a file cannot be read, or has changed.
        Invalid: a column is missing.
    """
    source = chunk.source
    if isinstance(source, NamedRows):
        return source.table(names, chunk.start, chunk.stop)
    if isinstance(source, Joined):  # a region is a whole one
        tables = [kept_columns(part, names) for part in source.parts]
        return pa.concat_tables(tables, promote_options="permissive")
    if isinstance(source, FeatureRows):
        return kept_columns(_first_column(source, chunk), names)
    raise InvalidType(
        f"keep must come with rows of Parquet files, in order, got {source.name}; a Dask data "
        "frame keeps its columns with predict_dask"
    )


def _first_column(source: FeatureRows, chunk: Chunk) -> Chunk:
    return source.parts[0].cut(chunk.start - source.first, chunk.stop - source.first)
