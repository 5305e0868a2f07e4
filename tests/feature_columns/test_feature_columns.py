"""Feature columns: TensorFlow's own rows, every kind of input, and what is refused."""

import pickle
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
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans import Dataset, Invalid, InvalidData, InvalidType, KMeans, RunConfig
from dkmeans.data.chunks import TARGET_BYTES
from dkmeans.feature_columns import (
    bucketized_column,
    categorical_column_with_hash_bucket,
    categorical_column_with_identity,
    categorical_column_with_vocabulary_file,
    categorical_column_with_vocabulary_list,
    indicator_column,
    numeric_column,
)
from dkmeans.feature_columns.layout import LARGEST_ROW_BYTES, Layout
from dkmeans.input_fn import read_input
from dkmeans.modes import ModeKeys

fast = settings(max_examples=30, deadline=None)


@pytest.fixture(scope="module")
def recorded():
    """Features, and the rows that TensorFlow 2.21 made of them."""
    with np.load(Path(__file__).parent / "tensorflow.npz") as data:
        return {name: data[name] for name in data.files}


def dataset(features, *columns, mode=ModeKeys.EVAL):
    return read_input(lambda: features, mode, {}, RunConfig(), Layout.of(columns))


def rows(features, *columns):
    found = dataset(features, *columns)
    return np.vstack([c.load(found.width) for batch in found.batches() for c in batch])


def vocabulary(key, words, **more):
    return indicator_column(categorical_column_with_vocabulary_list(key, words, **more))


def hashed(key, size, **more):
    return indicator_column(categorical_column_with_hash_bucket(key, size, **more))


def identity(key, size, *default):
    return indicator_column(categorical_column_with_identity(key, size, *default))


def centred(values):
    return (values - 0.5) * 2


# TensorFlow's numbers.


def test_rows_are_tensorflows_in_the_order_of_the_columns_names(recorded):
    features = {name[2:]: values for name, values in recorded.items() if name.startswith("f_")}
    columns = [
        numeric_column("x"),
        numeric_column("v", shape=3, normalizer_fn=centred),
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


def test_so_are_those_of_vocabulary_files(recorded, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("cat\nb\nZürich\n", encoding="utf-8")
    features = {"word": recorded["f_word"]}
    column = categorical_column_with_vocabulary_file("word", file)
    assert np.array_equal(rows(features, indicator_column(column)), recorded["rows_file"])
    column = categorical_column_with_vocabulary_file(
        "word", str(file), vocabulary_size=2, num_oov_buckets=2
    )
    assert np.array_equal(rows(features, indicator_column(column)), recorded["rows_file2"])


def test_and_those_of_values_outside_a_vocabulary(recorded):
    features = {"code": recorded["f_code"], "word": recorded["f_word"]}
    column = vocabulary("code", [11, 5], num_oov_buckets=4)
    assert np.array_equal(rows(features, column), recorded["rows_oovint"])
    assert np.array_equal(rows(features, vocabulary("word", ["b", "a"])), recorded["rows_plain"])


def test_the_fingerprint_is_tensorflows_for_words_of_any_length(recorded):
    column = categorical_column_with_hash_bucket("word", 2**62)
    assert column._hashes(recorded["words"].tolist()).tolist() == recorded["buckets"].tolist()


# What values mean.


@fast
@given(st.lists(st.floats(-10, 10, width=32), min_size=1), st.floats(-5, 5, width=32))
def test_a_boundary_begins_its_bucket(values, border):
    features = {"x": np.array(values, np.float32)}
    found = rows(features, bucketized_column(numeric_column("x"), [border]))
    assert np.array_equal(found[:, 1] == 1, features["x"] >= np.float32(border))
    assert (found.sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    "words",
    [
        ["b", "", "a", "b"],
        np.array(["b", "", "a", "b"]),
        np.array([b"b", b"", b"a", b"b"]),
        np.array(["b", None, "a", "b"], object),
        np.array(["b", np.nan, b"a", "b"], object),
        np.array(["b", "", "a", "b"], np.dtypes.StringDType()),
        pd.Series(["b", None, "a", "b"], dtype="string"),
        pd.Categorical(["b", None, "a", "b"]),
    ],
    ids=["list", "U", "S", "None", "NaN", "StringDType", "pandas", "categorical"],
)
def test_words_may_be_of_any_kind_and_missing(words):
    found = rows({"w": words}, vocabulary("w", ["a", b"b"]))
    assert found.tolist() == [[0, 1], [0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("kind", ["NumPy", "Dask", "Zarr"])
def test_words_of_numpys_own_dtype_may_be_anywhere(kind):
    words = np.array(["b", "c", "a"], np.dtypes.StringDType())
    if kind == "Dask":
        words = da.from_array(words, chunks=2)
    elif kind == "Zarr":
        words = zarr.create_array({}, data=words)
    found = rows({"w": words}, vocabulary("w", ["a", "b"]))
    assert found.tolist() == [[0, 1], [0, 0], [1, 0]]


def test_several_words_of_a_row_are_counted():
    words = np.array([["a", "a"], ["b", "a"], ["", "c"]])
    assert rows({"w": words}, vocabulary("w", ["a", "b"])).tolist() == [[2, 0], [1, 1], [0, 0]]


def test_integers_with_gaps_are_floats_and_the_gaps_are_missing():
    assert rows({"i": [1.0, np.nan, 0.0]}, identity("i", 2)).tolist() == [[0, 1], [0, 0], [1, 0]]


LARGE = 2**60 + 1


@pytest.mark.parametrize("kind", ["parquet", "pandas", "objects"])
def test_large_integers_are_exact_also_beside_gaps(kind, tmp_path):
    column = vocabulary("i", [LARGE, LARGE - 1])
    whole, gaps = [LARGE, LARGE], [LARGE, None]
    if kind == "parquet":
        given = {}
        for name, values in (("whole", whole), ("gaps", gaps)):
            pq.write_table(pa.table({"i": values}), tmp_path / name)
            given[name] = Dataset.from_parquet(str(tmp_path / name))
    elif kind == "pandas":
        given = {
            name: pd.DataFrame({"i": pd.array(values, dtype="Int64")})
            for name, values in (("whole", whole), ("gaps", gaps))
        }
    else:
        given = {"whole": {"i": whole}, "gaps": {"i": np.array(gaps, object)}}
    assert rows(given["whole"], column).tolist() == [[1, 0], [1, 0]]
    assert rows(given["gaps"], column).tolist() == [[1, 0], [0, 0]]


def test_numbers_of_parquet_that_are_true_or_missing_take_the_default(tmp_path):
    pq.write_table(pa.table({"f": [True, None, False]}), tmp_path / "f")
    dataset = Dataset.from_parquet(str(tmp_path / "f"))
    assert rows(dataset, numeric_column("f", default_value=7)).tolist() == [[1], [7], [0]]


def test_a_default_value_fills_what_is_missing():
    column = numeric_column("x", shape=2, default_value=[7, 8])
    table = np.array([[1, np.nan], [np.nan, 2]])
    assert rows({"x": table}, column).tolist() == [[1, 8], [7, 2]]
    gaps = np.array([1, None], object)
    assert rows({"x": gaps}, numeric_column("x", default_value=5)).tolist() == [[1], [5]]


def test_a_normalizer_sees_rows_of_the_shape_after_the_default():
    seen = []

    def normalizer(values):
        seen.append(values.shape)
        return values + 1

    column = numeric_column("x", (2, 3), default_value=0, normalizer_fn=normalizer)
    table = np.full((4, 2, 3), np.nan)
    assert rows({"x": table}, column).tolist() == [[1] * 6] * 4
    assert set(seen) == {(4, 2, 3)}


def test_a_normalizer_that_works_in_place_changes_nothing_but_the_rows():
    def halve(values):
        values /= 2
        return values

    own = np.array([2.0, 4.0], np.float32)
    assert rows({"x": own}, numeric_column("x", normalizer_fn=halve)).tolist() == [[1], [2]]
    assert own.tolist() == [2, 4]


def test_values_of_a_row_may_have_several_dimensions():
    column, table = numeric_column("x", (2, 2)), [[[1, 2], [3, 4]]]
    for values in (table, np.array(table), da.from_array(np.array(table))):
        assert rows({"x": values}, column).tolist() == [[1, 2, 3, 4]]
    stored = zarr.create_array({}, data=np.array(table))
    with pytest.raises(InvalidData, match=r"must be 1-D or 2-D in Zarr, got shape \(1, 2, 2\)"):
        rows({"x": stored}, column)


def test_a_normalizer_that_cannot_be_pickled_is_refused_by_its_key():
    lock = Lock()
    column = numeric_column("x", normalizer_fn=lambda values: (lock, values)[1])
    with pytest.raises(InvalidType, match="normalizer_fn of 'x' must be a function that can be"):
        KMeans(2, feature_columns=[column])


def test_rows_are_float64_where_a_numeric_column_is():
    column = numeric_column("x", dtype=np.float64)
    found = rows({"x": np.array([2**40 + 1]), "i": [0]}, column, identity("i", 1))
    assert (found.dtype, found.tolist()) == (np.float64, [[1, 2**40 + 1]])


def test_columns_are_values_that_can_be_pickled_and_compared():
    column = bucketized_column(numeric_column("x"), [1, 2])
    assert pickle.loads(pickle.dumps(column)) == column
    word = vocabulary("w", ["a"])
    assert pickle.loads(pickle.dumps(word)) == word


# Inputs.

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


def test_so_do_batches_of_an_iterator():
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


def test_a_parquet_number_may_be_missing_where_it_has_a_default(tmp_path):
    table = pa.table({"x": pa.array([1.5, None]), "i": pa.array([3, None], pa.int64())})
    pq.write_table(table, tmp_path / "rows.parquet")
    stored = Dataset.from_parquet(str(tmp_path))
    columns = numeric_column("x", default_value=9), identity("i", 4)
    assert rows(stored, *columns).tolist() == [[0, 0, 0, 1, 1.5], [0, 0, 0, 0, 9]]


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


def model(**more):
    return KMeans(3, None, "kmeans_plus_plus", seed=4, use_mini_batch=False, **more)


def test_an_estimator_does_with_columns_what_it_does_with_their_rows(tmp_path):
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


def test_words_are_looked_up_once_where_rows_are_kept():
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
    page = Path(__file__).parents[2] / "docs" / "feature-columns.md"
    code = page.read_text().split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert capsys.readouterr().out.strip() in ("0 0 1 1", "1 1 0 0")


# Refusals.


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: numeric_column(3), "key must be a str, got 3"),
        (lambda: numeric_column("x", 0), "shape must be an integer >= 1, got 0"),
        (lambda: numeric_column("x", ()), r"shape must be of one dimension at least, got \(\)"),
        (lambda: numeric_column("x", dtype=str), "dtype must be a real dtype, got"),
        (lambda: numeric_column("x", 2, [1, 2, 3]), "default_value must be one finite number, or"),
        (lambda: numeric_column("x", 1, "a"), "default_value must be a number or numbers, got 'a'"),
        (lambda: numeric_column("x", normalizer_fn=3), "normalizer_fn must be a function or None"),
        (lambda: bucketized_column("x", [1]), "source_column must be a numeric_column, got 'x'"),
        (
            lambda: bucketized_column(numeric_column("x", (2, 2)), [1]),
            r"source_column must be of one dimension, got shape \(2, 2\)",
        ),
        (lambda: bucketized_column(numeric_column("x"), [2, 1]), "boundaries must be ascending"),
        (lambda: bucketized_column(numeric_column("x"), []), "boundaries must be a list of finite"),
        (lambda: bucketized_column(numeric_column("x"), "a"), "boundaries must be a list of num"),
        (lambda: identity("x", 0), "num_buckets must be an integer >= 1, got 0"),
        (
            lambda: identity("x", 3, 3),
            r"default_value must be None or in \[0, 3\), a b",
        ),
        (lambda: vocabulary("x", []), r"vocabulary_list must be not empty, got \[\]"),
        (lambda: vocabulary("x", "ab"), "vocabulary_list must be a list, got 'ab'"),
        (lambda: vocabulary("x", ["a", 1]), "vocabulary_list must be all words or all integers"),
        (lambda: vocabulary("x", ["a", "a"]), "vocabulary_list must name nothing twice, got b'a'"),
        (lambda: vocabulary("x", ["a"], dtype=int), "dtype must be str, as vocabulary_list has"),
        (lambda: vocabulary("x", ["a"], default_value=1), "default_value must be -1 or a place in"),
        (lambda: vocabulary("x", ["a"], num_oov_buckets=-1), "num_oov_buckets must be an integer"),
        (
            lambda: vocabulary("x", ["a"], default_value=0, num_oov_buckets=1),
            "default_value and num_oov_buckets must not both be given, got 0 and 1",
        ),
        (lambda: hashed("x", 0), "hash_bucket_size must be an integer >= 1, got 0"),
        (lambda: hashed("x", 2, dtype=float), "dtype must be str or an integer dtype"),
        (lambda: indicator_column(numeric_column("x")), "categorical_column must be a categorical"),
        (
            lambda: categorical_column_with_vocabulary_file("x", "/nowhere/at/all"),
            "vocabulary_file must be a file, got /nowhere/at/all: nothing is there",
        ),
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
def test_arguments_are_refused_by_name(make, text):
    with pytest.raises(Invalid, match=text):
        make()


def test_rows_that_would_be_zeros_for_the_most_part_are_refused_with_the_arithmetic():
    with pytest.raises(Invalid) as refusal:
        KMeans(2, feature_columns=[hashed("town", 10**7), numeric_column("x")])
    assert str(refusal.value) == (
        "feature_columns must make rows of at most 1,048,576 bytes: rows are kept dense, zeros "
        "too; got 10,000,001 values x 4 bytes = 40,000,004 bytes a row, 40,000 GB for a million "
        "rows. 'town_indicator' alone has 10,000,000 values: give it fewer buckets"
    )
    KMeans(2, feature_columns=[hashed("town", LARGEST_ROW_BYTES // 4)])


@pytest.mark.parametrize(
    ("features", "column", "text"),
    [
        ({"y": [1]}, numeric_column("x"), "the features must have .* 'x' is not among 'y'"),
        ({"x": [[1, 2]]}, numeric_column("x"), r"the features\['x'\] must have 1 values in a row"),
        ({"x": [0, np.inf]}, numeric_column("x"), "'x' must be finite; row 1 of the features"),
        (
            {"x": [0, np.nan]},
            bucketized_column(numeric_column("x"), [0]),
            "finite; row 1 .* nan",
        ),
        ({"x": ["a"]}, numeric_column("x"), r"'x' of the features\['x'\] must hold numbers, got"),
        ({"x": [3, 7]}, identity("x", 5), "'x' must be below num_buckets, 5; row 1 of .* has 7"),
        (
            {"x": [2.0**60, np.nan]},
            identity("x", 5),
            "'x' must hold integers below 9007199254740992, as floats hold no others; row 0",
        ),
        (
            {"x": np.array([2**64 - 1], np.uint64)},
            identity("x", 5),
            r"'x' must hold integers below 2\*\*63; row 0 of .* has 18446744073709551615",
        ),
        ({"x": [0.5]}, identity("x", 5), "'x' must hold integers; row 0 of .* has 0.5"),
        ({"x": [1]}, vocabulary("x", ["a"]), "'x' of .* must hold words, got dtype int64"),
        ({"x": ["1"]}, vocabulary("x", [1]), "'x' of .* must hold numbers, got dtype <U1"),
        ({"x": np.array([1, {}], object)}, hashed("x", 3), "'x' of .* must hold words, got"),
        (np.ones((2, 2)), numeric_column("x"), "the features must be a dict of columns, a data"),
        (
            Dataset.from_array(np.ones((2, 2))),
            numeric_column("x"),
            "the dataset must have columns with names",
        ),
        (
            {"x": [1.0]},
            numeric_column("x", normalizer_fn=np.sum),
            "normalizer_fn of 'x' must return the shape that it is given",
        ),
        (
            {"x": [0.0]},
            numeric_column("x", normalizer_fn=lambda x: x.no_such),
            "normalizer_fn of 'x' has failed: AttributeError: 'numpy.ndarray' object has no",
        ),
        (
            pd.DataFrame([[1, 2]], columns=["x", "x"]),
            numeric_column("x"),
            "the features must have each column once, got 'x' twice",
        ),
        (
            {"x": [0.0]},
            numeric_column("x", normalizer_fn=lambda x: x + np.inf),
            "'x' must be finite after normalizer_fn; row 0",
        ),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_key_and_row(features, column, text):
    with pytest.raises(Invalid, match=text):
        rows(features, column)


def test_row_numbers_count_from_the_first_row_wherever_the_chunk_begins(tmp_path):
    towns = {"i": np.where(np.arange(45) == 44, 9, 0)}
    pq.write_table(pa.table(towns), tmp_path / "rows.parquet", row_group_size=10)
    stored = Dataset.from_parquet(str(tmp_path))
    with pytest.raises(InvalidData, match=r"row 44 of .*rows.parquet has 9"):
        rows(stored, identity("i", 9))


def test_a_width_that_is_not_the_models_is_refused_with_both_numbers():
    named = model(feature_columns=COLUMNS).train(lambda: TABLE, steps=1)
    narrow = KMeans(3, named.model_dir, feature_columns=[numeric_column("x"), identity("i", 1)])
    with pytest.raises(InvalidData, match="rows must have 9 columns, as the centers have, got 2"):
        narrow.score(lambda: {"x": [1.0], "i": [0]})


def test_words_that_no_feature_column_reads_are_refused(tmp_path):
    stored = parquet(tmp_path)
    with pytest.raises(Invalid, match=r"must hold numbers .* got words in town, size, other"):
        stored.batches()
    assert Dataset.from_parquet(str(tmp_path), ["x"]).batches()


def test_vocabulary_files_must_be_as_long_as_they_are_said_to_be(tmp_path):
    (tmp_path / "words").write_text("1\nb\n")
    with pytest.raises(Invalid, match="must have at least 3 lines, got 2"):
        categorical_column_with_vocabulary_file("x", tmp_path / "words", 3)
    with pytest.raises(Invalid, match="must have integers on its lines, as dtype says"):
        categorical_column_with_vocabulary_file("x", tmp_path / "words", dtype=int)
    with pytest.raises(InvalidType, match="vocabulary_file must be a path or a URL, got 3"):
        categorical_column_with_vocabulary_file("x", 3)
