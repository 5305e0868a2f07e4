"""Columns of Parquet that are written beside the predictions, row by row, with their types."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import Dataset, Invalid, InvalidType, KMeans
from dkmeans.feature_columns import numeric_column
from dkmeans.prediction.kept import kept_columns

ROWS = np.random.default_rng(5).normal(size=(350, 2))
DAY = datetime.date(2020, 1, 1)
TABLE = pa.table(
    {
        "id": [f"n{number}" for number in range(350)],
        "x": ROWS[:, 0],
        "day": pa.array([DAY] * 349 + [None]),
        "y": ROWS[:, 1],
    }
)


@pytest.fixture
def stored(tmp_path):
    """A folder of two files, of small row groups."""
    (tmp_path / "in").mkdir()
    pq.write_table(TABLE[:130], tmp_path / "in" / "a.parquet", row_group_size=40)
    pq.write_table(TABLE[130:], tmp_path / "in" / "b.parquet", row_group_size=70)
    return str(tmp_path / "in")


@pytest.fixture
def trained(tmp_path):
    model = KMeans(3, str(tmp_path / "model"), initial_clusters=ROWS[:3])
    return model.train(lambda: {"x": ROWS[:, 0], "y": ROWS[:, 1]}, steps=2)


def written(folder):
    return pa.concat_tables(map(pq.read_table, sorted(folder.glob("*.parquet"))))


def test_kept_columns_are_those_of_their_rows(stored, trained, tmp_path, small_regions):
    dataset = Dataset.from_parquet(stored)
    trained.write_predictions(lambda: dataset, tmp_path / "o.parquet", keep=["id", "day", "x"])
    found = written(tmp_path / "o.parquet")
    assert found.column_names == ["id", "day", "x", "cluster_index"]
    assert found.drop_columns(["cluster_index"]).equals(TABLE.select(["id", "day", "x"]))
    expected = list(trained.predict_cluster_index(lambda: dataset))
    assert found["cluster_index"].to_pylist() == expected


def test_a_second_run_writes_what_is_missing_and_other_columns_replace_all(
    stored, trained, tmp_path, small_regions, new_log
):
    address = tmp_path / "o.parquet"

    def write(*keep):
        trained.write_predictions(lambda: Dataset.from_parquet(stored), address, keep=keep)
        return new_log()

    write("id")
    (address / "b-00001.parquet").unlink()
    (address / "_SUCCESS").unlink()
    assert "keeping 4 of 5 regions" in write("id")
    assert written(address)["id"].to_pylist() == TABLE["id"].to_pylist()
    assert "nothing to do" in write("id")
    assert "predictions that differ in kept" in write("day")


def test_rows_of_feature_columns_keep_columns_too(stored, tmp_path):
    model = KMeans(3, str(tmp_path / "m"), feature_columns=[numeric_column("y")])
    model.train(lambda: Dataset.from_parquet(stored), steps=1)
    model.write_predictions(
        lambda: Dataset.from_parquet(stored), tmp_path / "o.parquet", keep=["id"]
    )
    assert written(tmp_path / "o.parquet")["id"].to_pylist() == TABLE["id"].to_pylist()


def test_columns_that_cannot_be_kept_are_refused(stored, trained, tmp_path):
    def write(keep, output="o.parquet", rows=None):
        given = Dataset.from_parquet(stored) if rows is None else rows
        trained.write_predictions(lambda: given, tmp_path / output, keep=keep)

    with pytest.raises(Invalid, match=r"columns must be among those of .*, got name, z$"):
        write(["name", "id", "z"])
    with pytest.raises(Invalid, match=r"keep must come with an output that ends in \.parquet"):
        write(["id"], "o.zarr")
    for twice in (["id", "id"], ["cluster_index"]):
        with pytest.raises(Invalid, match=f"keep must have other names .*, got {twice[0]}"):
            write(twice)
    with pytest.raises(InvalidType, match="keep must come with rows of Parquet files"):
        write(["id"], rows=ROWS)
    for no_names in ("id", [1]):
        with pytest.raises(InvalidType, match="keep must be a list of names, got "):
            write(no_names)
    assert not (tmp_path / "o.parquet").exists()


def test_a_chunk_has_the_columns_of_its_rows(stored):
    chunk = next(iter(next(Dataset.from_parquet(stored).select(["x"]).batches())))
    assert kept_columns(chunk.cut(3, 7), ["day", "id"]).equals(TABLE.select(["day", "id"])[3:7])
