"""Rows made of feature columns: TensorFlow's rows, for each kind of input, on workers too."""

from pathlib import Path
from threading import Lock

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import Dataset, Invalid, InvalidData, InvalidType, KMeans, RunConfig
from dkmeans.data.chunks import TARGET_BYTES
from dkmeans.feature_columns import (
    bucketized_column,
    categorical_column_with_identity,
    numeric_column,
)
from dkmeans.feature_columns.layout import LARGEST_ROW_BYTES, Layout
from tests.feature_columns.example_columns import (
    ARRAYS,
    COLUMNS,
    TABLE,
    N,
    dataset,
    hashed,
    identity,
    parquet,
    rows,
    vocabulary,
)


def centered(values):
    return (values - 0.5) * 2


def test_rows_are_tensorflows_in_the_order_of_the_columns_names(recorded):
    features = {name[2:]: values for name, values in recorded.items() if name.startswith("f_")}
    columns = [
        numeric_column("x"),
        numeric_column("v", shape=3, normalizer_fn=centered),
        bucketized_column(numeric_column("edge"), [-1, 0.1, 0.3, 0.7]),
        bucketized_column(numeric_column("age"), [0, 18, 65]),
        bucketized_column(numeric_column("v", shape=3), [0.0]),
        identity("id", 5),
        identity("far", 6, 4),
        hashed("word", 11),
        vocabulary("two", ["a", "cat", "東京"], num_oov_buckets=3),
        hashed("number", 13, dtype=np.int64),
        vocabulary("code", [11, 5, -9], default_value=1),
    ]
    assert [column.name for column in Layout.of(columns).columns] == recorded["names"].tolist()
    found = rows(features, *columns)
    assert found.dtype == np.float32
    assert np.array_equal(found, recorded["rows"])


def test_rows_are_float64_where_a_numeric_column_is():
    column = numeric_column("x", dtype=np.float64)
    found = rows({"x": np.array([2**40 + 1]), "i": [0]}, column, identity("i", 1))
    assert (found.dtype, found.tolist()) == (np.float64, [[1, 2**40 + 1]])


# Inputs.


def zarr_words(path):
    array = zarr.create_array(path / "town.zarr", shape=(N,), dtype=str, chunks=(7,))
    array[:] = np.array([town if isinstance(town, str) else "" for town in TABLE["town"]], object)
    return {**ARRAYS, "town": zarr.open_array(path / "town.zarr", mode="r")}


INPUTS = {
    "arrays": lambda _: ARRAYS,
    "dask arrays": lambda _: {
        "x": da.from_array(ARRAYS["x"], chunks=13),
        "town": da.from_array(ARRAYS["town"], chunks=17),
        "size": ARRAYS["size"],
    },
    "a Zarr array of words": zarr_words,
    "pandas": lambda _: TABLE,
    "dask data frame": lambda _: dd.from_pandas(TABLE, npartitions=3),
    "Parquet": parquet,
    "(features, None)": lambda _: (ARRAYS, None),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_named_columns_gives_the_same_rows(kind, tmp_path):
    assert np.array_equal(rows(INPUTS[kind](tmp_path), *COLUMNS), rows(ARRAYS, *COLUMNS))


def test_batches_of_an_iterator_give_the_same_rows():
    batches = iter([TABLE[:20], ({name: a[20:] for name, a in ARRAYS.items()}, None)])
    assert np.array_equal(rows(batches, *COLUMNS), rows(ARRAYS, *COLUMNS))


def test_stored_rows_are_batched_and_shuffled_as_others_are(tmp_path):
    stored = parquet(tmp_path)
    expected = rows(ARRAYS, *COLUMNS)
    sizes = [batch.rows for batch in dataset(stored.batch(15), *COLUMNS).batches()]
    assert sizes == [15, 15, 15, 5]
    found = rows(stored.shuffle(3), *COLUMNS)
    assert not np.array_equal(found, expected)
    assert np.array_equal(np.unique(found, axis=0), np.unique(expected, axis=0))


def test_chunks_of_wide_rows_are_of_the_usual_size(tmp_path):
    features = {"i": np.arange(30_000) % 4096}
    (batch,) = dataset(features, identity("i", 4096)).batches()
    assert len(batch) == -(-30_000 // (TARGET_BYTES // (4 * 4096)))
    assert (batch.sizes() * 4 * 4096 <= TARGET_BYTES).all()
    pq.write_table(pa.table(features), tmp_path / "rows.parquet")
    stored = dataset(Dataset.from_parquet(str(tmp_path)).shuffle(1), identity("i", 4096))
    (shuffled,) = stored.batches()
    assert len(shuffled) == len(batch)
    last = shuffled[len(shuffled) - 1].load(stored.width)
    assert (last.sum(axis=1) == 1).all()


# Estimators.


def model(**more):
    return KMeans(3, None, "kmeans_plus_plus", seed=4, use_mini_batch=False, **more)


def test_an_estimator_gives_for_feature_columns_what_it_gives_for_their_rows(tmp_path):
    expected = rows(ARRAYS, *COLUMNS)
    plain = model().train(lambda: expected, steps=4)
    named = model(feature_columns=COLUMNS).train(lambda: TABLE, steps=4)
    assert np.array_equal(named.cluster_centers(), plain.cluster_centers())
    assert named.score(lambda: TABLE) == plain.score(lambda: expected)
    assert named.evaluate(lambda: TABLE) == plain.evaluate(lambda: expected)
    index = list(plain.predict_cluster_index(lambda: expected))
    assert list(named.predict_cluster_index(lambda: TABLE)) == index
    distances = list(plain.transform(lambda: expected))
    assert np.array_equal(list(named.transform(lambda: TABLE)), distances)
    assert named.write_predictions(lambda: parquet(tmp_path), tmp_path / "index.zarr") == N
    assert zarr.open(tmp_path / "index.zarr")["cluster_index"][:].tolist() == index


def test_workers_make_the_rows_and_train_to_the_same_centers(client, tmp_path):
    stored, expected = parquet(tmp_path), rows(ARRAYS, *COLUMNS)
    plain = model().train(lambda: expected, steps=3)
    for named in (lambda: stored.batch(N).repeat(), lambda: ARRAYS, lambda: TABLE):
        found = model(feature_columns=COLUMNS).train(named, steps=3)
        np.testing.assert_allclose(found.cluster_centers(), plain.cluster_centers(), rtol=1e-6)
    assert list(found.predict_cluster_index(lambda: stored)) == list(
        plain.predict_cluster_index(lambda: expected)
    )


def test_rows_are_made_once_where_they_are_cached():
    calls = []

    def normalizer(values):
        calls.append(len(values))
        return values

    column = numeric_column("x", normalizer_fn=normalizer)
    config = RunConfig(cache="memory")
    named = model(feature_columns=[column], config=config)
    named.train(lambda: {"x": ARRAYS["x"]}, steps=4)
    assert calls == [N]


def test_the_example_of_the_documentation_runs(capsys):
    page = Path(__file__).parents[2] / "docs" / "guide" / "feature-columns.md"
    code = page.read_text().split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert capsys.readouterr().out.strip() in ("0 0 1 1", "1 1 0 0")


# Refusals.


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: KMeans(2, feature_columns="x"), "feature_columns must be a list of columns"),
        (lambda: KMeans(2, feature_columns=[]), "feature_columns must have at least one column"),
        (lambda: KMeans(2, feature_columns=["x"]), "feature_columns must be made by"),
        (
            lambda: KMeans(2, feature_columns=[categorical_column_with_identity("x", 3)]),
            "feature_columns must be dense; wrap this one in indicator_column",
        ),
        (
            lambda: KMeans(2, feature_columns=[numeric_column("x"), numeric_column("x")]),
            "feature_columns must have different names, got 'x' twice",
        ),
    ],
)
def test_arguments_of_estimators_are_refused_by_name(make, text):
    with pytest.raises(Invalid, match=text):
        make()


def test_rows_that_would_be_mostly_zeros_are_refused_with_the_arithmetic():
    with pytest.raises(Invalid) as refusal:
        KMeans(2, feature_columns=[hashed("town", 10**7), numeric_column("x")])
    assert str(refusal.value) == (
        "feature_columns must make rows of at most 1,048,576 bytes: rows are kept dense, zeros "
        "too; got 10,000,001 values x 4 bytes = 40,000,004 bytes a row, 40,000 GB for a million "
        "rows. 'town_indicator' alone has 10,000,000 values: give it fewer buckets"
    )
    KMeans(2, feature_columns=[hashed("town", LARGEST_ROW_BYTES // 4)])


def test_a_normalizer_that_cannot_be_pickled_is_refused_by_its_key():
    lock = Lock()
    column = numeric_column("x", normalizer_fn=lambda values: (lock, values)[1])
    with pytest.raises(InvalidType, match="normalizer_fn of 'x' must be a function that can be"):
        KMeans(2, feature_columns=[column])


@pytest.mark.parametrize(
    ("features", "column", "text"),
    [
        ({"y": [1]}, numeric_column("x"), "the features must have .* 'x' is not among 'y'"),
        ({"x": [[1, 2]]}, numeric_column("x"), r"the features\['x'\] must have 1 value in a row"),
        (np.ones((2, 2)), numeric_column("x"), "the features must be a dict of columns, a data"),
        (
            Dataset.from_array(np.ones((2, 2))),
            numeric_column("x"),
            "the dataset must have columns with names",
        ),
        (
            pd.DataFrame([[1, 2]], columns=["x", "x"]),
            numeric_column("x"),
            "the features must have each column once, got 'x' twice",
        ),
    ],
)
def test_input_that_lacks_a_column_or_has_another_shape_is_refused(features, column, text):
    with pytest.raises(Invalid, match=text):
        rows(features, column)


def test_row_numbers_count_from_the_first_row_wherever_the_chunk_begins(tmp_path):
    towns = {"i": np.where(np.arange(45) == 44, 9, 0)}
    pq.write_table(pa.table(towns), tmp_path / "rows.parquet", row_group_size=10)
    stored = Dataset.from_parquet(str(tmp_path))
    with pytest.raises(InvalidData, match=r"row 44 of .*rows.parquet has 9"):
        rows(stored, identity("i", 9))


def test_feature_columns_that_are_not_the_models_are_refused_by_their_names():
    named = model(feature_columns=COLUMNS).train(lambda: TABLE, steps=1)
    narrow = KMeans(3, named.model_dir, feature_columns=[numeric_column("x"), identity("i", 1)])
    with pytest.raises(
        InvalidData, match=r"columns .* must be those .* got \['i_indicator', 'x'\]"
    ):
        narrow.score(lambda: {"x": [1.0], "i": [0]})


def test_words_that_no_feature_column_reads_are_refused(tmp_path):
    stored = parquet(tmp_path)
    with pytest.raises(Invalid, match=r"'town' \(words\), 'size' .*, 'other' .* hold no numbers"):
        stored.batches()
    assert Dataset.from_parquet(str(tmp_path), ["x"]).batches()
    assert stored.select(["x"]).batches()
    with pytest.raises(Invalid, match=r"'town' \(words\) of .* hold no numbers"):
        next(stored.select(["x", "town"]).batches())
    named = model(feature_columns=[numeric_column("x")])
    assert (
        named.train(lambda: stored.select(["town", "x"]), steps=1).cluster_centers().shape[1] == 1
    )
