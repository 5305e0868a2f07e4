"""Feature columns, and a table with the input and output of these, that the tests share."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dkmeans import Dataset, RunConfig
from dkmeans.feature_columns import (
    bucketized_column,
    categorical_column_with_hash_bucket,
    categorical_column_with_identity,
    categorical_column_with_vocabulary_list,
    indicator_column,
    numeric_column,
)
from dkmeans.feature_columns.layout import Layout
from dkmeans.input_fn import read_input
from dkmeans.modes import ModeKeys


def dataset(features, *columns, mode=ModeKeys.EVAL):
    return read_input(lambda: features, mode, {}, RunConfig(), Layout.of(columns))


def rows(features, *columns):
    """Return the rows that feature columns make of some features."""
    found = dataset(features, *columns)
    return np.vstack([c.load(found.width) for batch in found.batches() for c in batch])


def vocabulary(key, words, **more):
    return indicator_column(categorical_column_with_vocabulary_list(key, words, **more))


def hashed(key, size, **more):
    return indicator_column(categorical_column_with_hash_bucket(key, size, **more))


def identity(key, size, *default):
    return indicator_column(categorical_column_with_identity(key, size, *default))


N = 50
RNG = np.random.default_rng(8)
TABLE = pd.DataFrame(
    {
        "x": RNG.normal(size=N),
        "town": RNG.choice(["Bern", "Basel", "Chur", None], N),
        "size": pd.Categorical(RNG.choice(["s", "m"], N)),
        "other": "ignored",
    }
)
ARRAYS = {name: TABLE[name].to_numpy() for name in TABLE}
COLUMNS = [
    numeric_column("x"),
    vocabulary("town", ["Bern", "Basel"]),
    hashed("size", 4),
    bucketized_column(numeric_column("x"), [0]),
]


def parquet(path, **more):
    table = pa.Table.from_pandas(TABLE, preserve_index=False)
    pq.write_table(table, path / "rows.parquet", row_group_size=20, **more)
    return Dataset.from_parquet(str(path))
