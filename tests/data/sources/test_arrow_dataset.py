"""Datasets of pyarrow, such as Delta Lake and Lance hand over: their rows and columns by name."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from distributed import Client

from dkmeans import Dataset, Invalid, InvalidData, InvalidType, KMeans, RunConfig
from dkmeans.data.sources.arrow_dataset import is_arrow_dataset
from tests.data.sources.rows import chunks_of, loaded

X = np.arange(90, dtype=np.float32)
TABLE = pa.table(
    {
        "id": [f"r{i}" for i in range(90)],
        "x": X,
        "v": pa.array([[i, -i] for i in range(90)], pa.list_(pa.float32())),
        "w": [i % 3 for i in range(90)],
        "when": pa.array(range(90), pa.timestamp("ms")),
        "year": [2023] * 30 + [2024] * 60,
    }
)


@pytest.fixture
def dataset(tmp_path):
    """Three files in folders of two years, of row groups of ten rows."""
    for number in range(3):
        part = tmp_path / f"year={2023 + min(number, 1)}"
        part.mkdir(exist_ok=True)
        rows = TABLE[30 * number : 30 * number + 30].drop_columns(["year"])
        pq.write_table(rows, part / f"{number}.parquet", row_group_size=10)
    return ds.dataset(tmp_path, partitioning="hive")


def test_rows_weights_and_filters_are_those_of_the_dataset(dataset):
    assert is_arrow_dataset(dataset)
    plain = Dataset.from_arrow(dataset, ["year", "v"], "w")
    assert plain.columns == ("year", "v[2]")
    assert np.array_equal(loaded(plain), np.column_stack([TABLE["year"], X, -X]))
    filters = [[("year", "=", "2024"), ("x", "<", 45)], [("id", "in", ["r3"])]]
    some = Dataset.from_arrow(dataset, ["x"], filters=filters)
    assert loaded(some)[:, 0].tolist() == [3, *range(30, 45)]
    assert [chunk.source.groups for chunk in chunks_of(some)] == [(0,), (0, 1)]
    small = chunks_of(Dataset.from_arrow(dataset, ["x"]).in_chunks_of(40))
    assert [chunk.rows for chunk in small] == [10] * 9
    with pytest.raises(InvalidType, match=r"columns 'id' \(words\), 'when' \(timestamp\[ms\]\)"):
        loaded(Dataset.from_arrow(dataset))


@pytest.mark.parametrize("columns", [["x"], ["v", "x"]])
def test_row_groups_keep_their_order(tmp_path, columns):
    # Arrow has taken some row groups in the order of a set of Python, such as 3, 35, 7, 39.
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=1)
    dataset = ds.dataset(tmp_path / "a.parquet")
    assert loaded(Dataset.from_arrow(dataset, columns))[:, -1].tolist() == X.tolist()
    every_fourth = list(range(3, 40, 4))
    some = Dataset.from_arrow(dataset, columns, filters=[("x", "in", every_fourth)])
    assert loaded(some)[:, -1].tolist() == every_fourth


def test_a_model_takes_its_columns_and_keeps_others_on_the_workers(dataset, tmp_path, cluster):
    rows = {"x": X, "year": TABLE["year"].to_numpy()}
    with Client(cluster, set_as_default=False) as client:
        model = KMeans(3, str(tmp_path / "m"), seed=1, config=RunConfig(client=client))
        model.train(lambda: rows, steps=2)
        for _ in range(2):  # the second time everything is there, by the names of the files
            model.write_predictions(lambda: dataset, tmp_path / "o.parquet", keep=["id", "when"])
        found = pq.read_table(tmp_path / "o.parquet")
        assert found.select(["id", "when"]).equals(TABLE.select(["id", "when"]))
        assert found["cluster_index"].to_pylist() == [*model.predict_cluster_index(lambda: rows)]
        assert model.evaluate(lambda: dataset) == model.evaluate(lambda: rows)


def test_fragments_that_are_no_parquet_are_chunks(tmp_path):
    for number in range(2):
        part = TABLE[45 * number : 45 * number + 45].drop_columns(["id", "when"])
        feather.write_feather(part, tmp_path / f"{number}.feather")
    some = Dataset.from_arrow(
        ds.dataset(tmp_path, format="feather"), ["v"], filters=[("w", ">", 0)]
    )
    assert [chunk.rows for chunk in chunks_of(some)] == [30, 30]
    assert loaded(some)[:, 0].tolist() == [x for x in range(90) if x % 3]


def test_datasets_that_cannot_be_used_are_refused(dataset, tmp_path):
    with pytest.raises(InvalidType, match=r"dataset must be a pyarrow\.dataset\.Dataset, got"):
        Dataset.from_arrow(TABLE)
    with pytest.raises(Invalid, match="must be without a filter; give filters and columns"):
        Dataset.from_arrow(dataset.filter(ds.field("x") > 3))
    opened = Dataset.from_arrow(dataset, ["x"])
    pq.write_table(TABLE[:3], next(tmp_path.glob("*/2.parquet")))
    with pytest.raises(InvalidData, match=r"2\.parquet"):
        loaded(opened)
    next(tmp_path.glob("*/1.parquet")).write_bytes(b"")
    broken = ds.dataset(tmp_path, schema=TABLE.schema, partitioning="hive")
    with pytest.raises(InvalidData, match="the dataset of pyarrow cannot be read"):
        Dataset.from_arrow(broken)
