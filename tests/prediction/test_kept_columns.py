"""Columns of Parquet that are written beside the predictions, row by row, with their types."""

import datetime

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from dask import array as da

from dkmeans import Dataset, Invalid, InvalidType, KMeans
from dkmeans.feature_columns import numeric_column
from dkmeans.prediction.kept_columns import kept_columns

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
    assert "holds 4 of 5 regions" in write("id")
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


def as_group(folder):
    group = zarr.open_group(folder / "rows.zarr", mode="w")
    for name in ("x", "y"):
        group.create_array(name, data=TABLE[name].to_numpy(), chunks=(50,))
    group.create_array("id", data=TABLE["id"].to_numpy().astype("U8"), chunks=(50,))
    group.create_array("pair", data=ROWS, chunks=(70, 2))
    return str(folder / "rows.zarr")


def frame():
    return TABLE.to_pandas().assign(pair=list(ROWS))


NAMED = {
    "pandas": lambda folder: frame(),
    "polars": lambda folder: pl.DataFrame(frame().to_dict("list")),
    "dask": lambda folder: dd.from_pandas(frame().drop(columns="pair"), npartitions=3),
    "dict": lambda folder: {**{n: TABLE[n].to_numpy() for n in ("id", "x", "y")}, "pair": ROWS},
    "dict of dask": lambda folder: {
        **{n: da.from_array(TABLE[n].to_numpy(), chunks=80) for n in ("x", "y")},
        "id": TABLE["id"].to_numpy(),
        "pair": da.from_array(ROWS, chunks=(60, 2)),
    },
    "group": lambda folder: zarr.open_group(as_group(folder), mode="r"),
    "stored group": lambda folder: Dataset.from_zarr(as_group(folder), columns=["y", "x"]),
}


@pytest.mark.parametrize("made", NAMED.values(), ids=NAMED)
def test_every_input_with_names_keeps_columns(trained, tmp_path, small_regions, client, made):
    names = ["id", "x"] if made is NAMED["dask"] else ["id", "pair"]
    trained.write_predictions(lambda: made(tmp_path), tmp_path / "o.parquet", keep=names)
    found = written(tmp_path / "o.parquet")
    assert found["id"].to_pylist() == TABLE["id"].to_pylist()
    assert np.array_equal(
        np.array(found[names[1]].to_pylist()), ROWS if "pair" in names else ROWS[:, 0]
    )
    assert found["cluster_index"].to_pylist() == [*trained.predict_cluster_index(lambda: ROWS)]


def test_the_names_may_come_from_a_generator(trained, tmp_path):
    trained.write_predictions(frame, tmp_path / "o.parquet", keep=(name for name in ["id"]))
    assert written(tmp_path / "o.parquet")["id"].to_pylist() == TABLE["id"].to_pylist()


@pytest.mark.parametrize("is_lazy", [False, True])
def test_kept_columns_of_frames_have_their_zones_and_gaps(trained, tmp_path, is_lazy):
    few = pd.DataFrame({"x": ROWS[:9, 0], "y": ROWS[:9, 1]})
    few["time"] = pd.date_range("2024-03-30", periods=9, tz="Europe/Zurich")
    few["count"] = pd.array([1, None, 3] * 3, dtype="Int64")
    few["flag"] = pd.array([True, False, None] * 3, dtype="boolean")
    few["word"] = pd.array(["a", None, "b"] * 3, dtype="string")
    few["kind"] = pd.Categorical(["u", "v", "u"] * 3)
    kept = ["time", "count", "flag", "word", "kind"]
    given = dd.from_pandas(few, npartitions=2) if is_lazy else few
    trained.write_predictions(lambda: given, tmp_path / "o.parquet", keep=kept)
    found = written(tmp_path / "o.parquet")
    assert str(found.schema.field("time").type) == "timestamp[us, tz=Europe/Zurich]"
    assert found["time"].to_pylist() == [each.to_pydatetime() for each in few["time"]]
    assert found["count"].to_pylist() == [1, None, 3] * 3
    assert found["flag"].to_pylist() == [True, False, None] * 3
    assert found["word"].to_pylist() == ["a", None, "b"] * 3
    assert found["kind"].to_pylist() == ["u", "v", "u"] * 3


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["a", "b"])])
def test_categories_of_polars_are_kept(trained, tmp_path, dtype):
    words = pl.Series(["a", "b"] * 10, dtype=dtype)
    table = pl.DataFrame({"x": ROWS[:20, 0], "y": ROWS[:20, 1], "word": words})
    trained.write_predictions(lambda: table, tmp_path / "o.parquet", keep=["word"])
    assert written(tmp_path / "o.parquet")["word"].to_pylist() == ["a", "b"] * 10


def test_other_categories_of_the_same_codes_replace_the_output(trained, tmp_path):
    codes = np.arange(20) % 2
    for words in (["red", "blue"], ["new", "old"]):
        kept = pd.Categorical.from_codes(codes, words)
        table = pd.DataFrame({"x": ROWS[:20, 0], "y": ROWS[:20, 1], "word": kept})
        trained.write_predictions(lambda t=table: t, tmp_path / "o.parquet", keep=["word"])
        found = written(tmp_path / "o.parquet")["word"].to_pylist()
        assert found == [words[code] for code in codes]


def test_columns_of_a_labeled_array_and_of_any_order_of_bytes_are_kept(trained, tmp_path):
    labeled = xr.DataArray(ROWS[:20], dims=("row", "axis"), coords={"axis": ["x", "y"]})
    trained.write_predictions(lambda: labeled, tmp_path / "a.parquet", keep=["y"])
    assert written(tmp_path / "a.parquet")["y"].to_pylist() == ROWS[:20, 1].tolist()
    table = {
        "x": ROWS[:20, 0],
        "y": ROWS[:20, 1],
        "id": np.arange(20, dtype=">i4"),
        "took": np.arange(20).astype("m8[ns]"),
        "wave": ROWS[:20, 0] * 1j,
    }
    pair = [numeric_column("x"), numeric_column("y")]
    model = KMeans(3, str(tmp_path / "pair"), ROWS[:3], feature_columns=pair)
    model.train(lambda: table, steps=1)
    model.write_predictions(lambda: table, tmp_path / "b.parquet", keep=["id", "took"])
    found = written(tmp_path / "b.parquet")
    assert found["id"].to_pylist() == list(range(20))
    assert pa.types.is_duration(found.schema.field("took").type)
    with pytest.raises(InvalidType, match="keep must be of columns of numbers, words"):
        model.write_predictions(lambda: table, tmp_path / "c.parquet", keep=["wave"])


def test_a_kept_column_in_memory_with_other_values_replaces_the_output(trained, tmp_path, new_log):
    logs = []
    for ids in (range(350), range(350), range(1, 351)):
        rows = {"x": ROWS[:, 0], "y": ROWS[:, 1], "id": np.array(ids)}
        dataset = Dataset.from_array(pd.DataFrame(rows))
        trained.write_predictions(lambda d=dataset: d, tmp_path / "o.parquet", keep=["id"])
        logs.append(new_log())
    assert "nothing to do" in logs[1]
    assert "kept_sha256" in logs[2]
    assert written(tmp_path / "o.parquet")["id"].to_pylist() == [*range(1, 351)]


def test_mapped_rows_keep_columns_and_files_too(stored, tmp_path):
    rows = Dataset.from_parquet(stored, ["x", "y"]).map(np.exp)
    model = KMeans(3, str(tmp_path / "m"), seed=1).train(lambda: rows, steps=1)
    model.write_predictions(lambda: rows, tmp_path / "o.parquet", keep=["id"])
    assert written(tmp_path / "o.parquet")["id"].to_pylist() == TABLE["id"].to_pylist()
    assert (tmp_path / "o.parquet/b.parquet").exists()


def test_columns_that_cannot_be_kept_are_refused(stored, trained, tmp_path):
    def write(keep, output="o.parquet", rows=None):
        given = Dataset.from_parquet(stored) if rows is None else rows
        trained.write_predictions(lambda: given, tmp_path / output, keep=keep)

    with pytest.raises(
        Invalid, match=r"keep must be among the columns of .*, got \['name', 'z'\]$"
    ):
        write(["name", "id", "z"])
    with pytest.raises(Invalid, match=r"keep must come with an output that ends in \.parquet"):
        write(["id"], "o.zarr")
    for twice in (["id", "id"], ["cluster_index"]):
        with pytest.raises(Invalid, match=f"keep must have other names .*, got {twice[0]}"):
            write(twice)
    with pytest.raises(
        InvalidType, match="keep must come with rows whose columns have names, not shuffled"
    ):
        write(["id"], rows=ROWS)
    named = Dataset.from_array(pd.DataFrame({"x": ROWS[:, 0], "y": ROWS[:, 1]}))
    with pytest.raises(
        InvalidType, match="keep must come with rows whose columns have names, not shuffled"
    ):
        write(["x"], rows=named.shuffle(1))
    with pytest.raises(Invalid, match=r"keep must be among the columns .* \(x, y\), got \['id'\]"):
        write(["id"], rows=named)
    for no_names in ("id", [1], 5):
        with pytest.raises(InvalidType, match="keep must be a list of names, got "):
            write(no_names)
    assert not (tmp_path / "o.parquet").exists()


def test_a_chunk_has_the_columns_of_its_rows(stored):
    chunk = next(iter(next(Dataset.from_parquet(stored).select(["x"]).batches())))
    assert kept_columns(chunk.cut(3, 7), ["day", "id"]).equals(TABLE.select(["day", "id"])[3:7])
