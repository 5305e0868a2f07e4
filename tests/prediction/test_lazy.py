"""Lazy predictions: Dask collections of known form, computed by whoever computes them."""

import shutil
from uuid import uuid4

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import InvalidData, InvalidType, KMeans
from dkmeans.feature_columns import (
    categorical_column_with_vocabulary_list,
    indicator_column,
    numeric_column,
)

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(RNG.normal(size=(50, 3)) * [1, 10, 100], columns=list("bac"))
FRAME.index = pd.Index(range(100, 150), name="id")
ROWS = FRAME.to_numpy()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of 4 clusters of the columns b, a and c."""
    model = KMeans(4, str(tmp_path_factory.mktemp("model")), seed=1, use_mini_batch=False)
    return model.train(lambda: FRAME, steps=2)


@pytest.fixture(scope="module")
def known(model):
    """What `predict` returns for all rows."""
    (results,) = model.predict(lambda: FRAME, yield_single_examples=False)
    return results


def test_a_dask_array_gives_one_of_known_form(model, known):
    rows = da.from_array(ROWS, chunks=(20, 2))
    index = model.predict_dask(rows)
    assert (index.shape, index.dtype, index.chunks) == ((50,), np.int64, ((20, 20, 10),))
    np.testing.assert_array_equal(index, known["cluster_index"])
    distances = model.predict_dask(rows, "all_distances")
    assert (distances.shape, distances.dtype) == ((50, 4), np.float32)
    assert distances.chunks == ((20, 20, 10), (4,))
    np.testing.assert_array_equal(distances, known["all_distances"])


def test_blocks_of_unknown_size_and_without_rows_give_their_rows(model, known):
    rows = da.from_array(ROWS, chunks=(10, 3))
    many = rows[rows[:, 0] > np.sort(ROWS[:10, 0])[-1]]
    kept = ROWS[:, 0] > np.sort(ROWS[:10, 0])[-1]
    np.testing.assert_array_equal(model.predict_dask(many), known["cluster_index"][kept])


def test_a_dask_data_frame_gives_a_series_with_its_index(model, known):
    frame = dd.from_pandas(FRAME.assign(name="x")[["name", "c", "a", "b"]], npartitions=3)
    index = model.predict_dask(frame)
    assert (index.name, index.dtype, index.divisions) == ("cluster_index", "int64", frame.divisions)
    expected = pd.Series(known["cluster_index"], FRAME.index, name="cluster_index")
    pd.testing.assert_series_equal(index.compute(), expected)
    distances = model.predict_dask(frame, "all_distances")
    assert distances.dtypes.tolist() == ["float32"] * 4
    expected = pd.DataFrame(known["all_distances"], FRAME.index)
    pd.testing.assert_frame_equal(distances.compute(), expected)


def test_the_result_can_be_a_column_of_its_own_frame(model, known, tmp_path):
    for number in range(5):  # Dask reads several small files as one partition
        part = FRAME[number * 10 : number * 10 + 10].assign(name="x").reset_index()
        pq.write_table(pa.Table.from_pandas(part), tmp_path / f"{number}.parquet")
    frame = dd.read_parquet(tmp_path)
    frame["cluster"] = model.predict_dask(frame)
    assert frame.compute()["cluster"].tolist() == known["cluster_index"].tolist()
    sizes = frame.groupby("cluster")["name"].count().compute()
    assert sizes.sum() == 50


def test_the_centers_travel_and_not_their_address(known, tmp_path):
    model = KMeans(4, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: FRAME, steps=2)
    lazy = model.predict_dask(da.from_array(ROWS, chunks=(1, 3)))
    model.train(lambda: FRAME + 5, steps=3)
    shutil.rmtree(tmp_path / "m")
    np.testing.assert_array_equal(lazy, known["cluster_index"])


def test_workers_compute_it(model, known, client):
    frame = dd.from_pandas(FRAME, npartitions=2).persist()
    assert model.predict_dask(frame).compute().tolist() == known["cluster_index"].tolist()


def test_feature_columns_make_the_rows_of_partitions(tmp_path):
    town = categorical_column_with_vocabulary_list("town", ["a", "b"])
    columns = [numeric_column("x"), indicator_column(town)]
    model = KMeans(2, str(tmp_path), seed=1, feature_columns=columns, use_mini_batch=False)
    frame = pd.DataFrame({"town": ["a", "b", None, "b"], "x": [0.0, 1.0, 9.0, 8.0], "z": 1})
    model.train(lambda: frame, steps=2)
    lazy = model.predict_dask(dd.from_pandas(frame, npartitions=2))
    assert lazy.compute().tolist() == list(model.predict_cluster_index(lambda: frame))
    with pytest.raises(InvalidType, match=r"rows must be a Dask data frame, got .Array"):
        model.predict_dask(da.ones((2, 2)))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (ROWS, InvalidType, "rows must be a Dask array or data frame, got 'ndarray'"),
        (FRAME, InvalidType, "rows must be a Dask array or data frame, got 'DataFrame'"),
        (da.ones((4, 2)), InvalidData, "rows must have 3 columns, as the centers have, got 2"),
        (da.ones(4), InvalidData, r"rows must be 2-D .* got shape \(4,\)"),
        (da.ones((4, 3), dtype=complex), InvalidType, "rows must hold real numbers, got dtype"),
        (FRAME.rename(columns={"a": "A"}), InvalidData, r"data frame .*\(\['a'\] is missing\)"),
        (FRAME.assign(a="x"), InvalidType, r"columns 'a' \(string\) of the data frame hold no num"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_before_they_are_computed(model, rows, error, message):
    if isinstance(rows, pd.DataFrame) and "must be a Dask" not in message:
        rows = dd.from_pandas(rows, npartitions=1)
    with pytest.raises(error, match=message):
        model.predict_dask(rows)


def test_another_key_is_refused(model):
    with pytest.raises(ValueError, match=r"predict_key must be one of .* got 'score'"):
        model.predict_dask(da.ones((4, 3)), "score")


def test_a_row_that_is_not_finite_is_named(model):
    rows = da.from_array(
        np.where(np.arange(150).reshape(50, 3) == 100, np.nan, ROWS), chunks=(20, 3)
    )
    with pytest.raises(InvalidData, match="row 13 of block 1 of the rows has nan in column 1"):
        model.predict_dask(rows).compute(scheduler="sync")
    frame = dd.from_dask_array(rows, columns=["a", "b", "c"])
    with pytest.raises(InvalidData, match="row 13 of partition 1 of the data frame has no 'b'"):
        model.predict_dask(frame).compute(scheduler="sync")


def test_equal_predictions_have_equal_names(model):
    rows = da.from_array(ROWS, chunks=(20, 3), name=f"rows-{uuid4().hex}")
    assert dask.is_dask_collection(rows)
    assert model.predict_dask(rows).name == model.predict_dask(rows).name
