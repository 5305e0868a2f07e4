"""Columns in the names of folders: read where they are named."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dkmeans import Dataset, InvalidType, KMeans
from dkmeans.data.sources.hive_folders import folder_columns
from tests.data.sources.rows import loaded

TABLE = pa.table(
    {
        "x": np.arange(6, dtype=np.float64),
        "year": [2023, 2023, 2024, 2024, 10, 10],
        "kind": ["a b", "a b", "c/d", "c/d", "a b", "a b"],
    }
)


@pytest.fixture
def folder(tmp_path):
    """A folder that pyarrow has written, of integers and words."""
    kinds = ds.partitioning(pa.schema([("year", pa.int64()), ("kind", pa.string())]), flavor="hive")
    ds.write_dataset(TABLE, tmp_path / "rows", format="parquet", partitioning=kinds)
    return str(tmp_path / "rows")


def test_columns_of_folders_are_read_by_name_alone(folder):
    plain = Dataset.from_parquet(folder)
    assert (plain.columns, plain.by_name) == (("x",), ("year", "kind"))
    # In natural order of the folders' names.
    assert loaded(plain)[:, 0].tolist() == [4, 5, 0, 1, 2, 3]
    named = Dataset.from_parquet(folder, ["year", "x"])
    years = [10, 10, 2023, 2023, 2024, 2024]
    assert loaded(named).tolist() == [
        list(pair) for pair in zip(years, [4, 5, 0, 1, 2, 3], strict=True)
    ]
    with pytest.raises(InvalidType, match=r"columns 'kind' \(words\) of .* hold no numbers"):
        loaded(Dataset.from_parquet(folder, ["kind"]))


def test_a_model_finds_columns_of_folders_again_and_predictions_keep_them(folder, tmp_path):
    model = KMeans(2, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: Dataset.from_parquet(folder, ["year", "x"]), steps=2)
    assert model.checkpoint().settings.columns == ("year", "x")
    output = tmp_path / "o.parquet"
    model.write_predictions(lambda: Dataset.from_parquet(folder), output, keep=["kind", "year"])
    found = pq.read_table(output)
    assert found["year"].to_pylist() == [10, 10, 2023, 2023, 2024, 2024]
    assert found["kind"].to_pylist() == ["a b"] * 4 + ["c/d"] * 2
    rows = np.array([[10, 4], [10, 5], [2023, 0], [2023, 1], [2024, 2], [2024, 3]], float)
    assert found["cluster_index"].to_pylist() == [*model.predict_cluster_index(lambda: rows)]


def test_values_have_one_type_and_missing_ones_are_null():
    paths = ["r/a=1/b=x%20y/0.parquet", "r/a=x/b=__HIVE_DEFAULT_PARTITION__/0", "r/a=2/0.parquet"]
    found = folder_columns("r", paths)
    assert found.kinds == {"a": pa.string(), "b": pa.string()}
    assert [[value.as_py() for _, value in values] for values in found.values] == [
        ["1", "x y"],
        ["x", None],
        ["2", None],
    ]
    assert folder_columns("r", paths[:1]).kinds["a"] == pa.int64()
