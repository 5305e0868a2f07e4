"""Rows in Parquet files of several folders, and the files of an output."""

import numpy as np
import pyarrow as pa

from dkmeans import storage

X = np.random.default_rng(3).normal(size=(500, 2))
TABLE = pa.table({"x": X[:, 0], "y": X[:, 1], "id": range(500)})
NAMES = {
    "year=2023/part-2.parquet": 0,
    "year=2023/part-10.parquet": 1,
    "year=2024/part-1.parquet": 2,
}


def files_of(folder):
    return [name for name in storage.files_below(str(folder)) if name.endswith(".parquet")]
