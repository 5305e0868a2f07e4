"""Input functions: the parameters they may have and the values they may return."""

import copy
import functools
from itertools import count, islice

import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from dkmeans import Dataset, InvalidData, InvalidType, KMeans, ModeKeys, RunConfig, limit_epochs
from dkmeans.feature_columns import numeric_column
from dkmeans.feature_columns.layout import Layout
from dkmeans.input_fn import read_input

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
CONFIG = RunConfig()
PARAMS = {"num_clusters": 3}
TRAIN, EVAL, INFER = ModeKeys
in_every_mode = pytest.mark.parametrize("mode", [TRAIN, EVAL, INFER])


def read(given_, mode=EVAL):
    return read_input(lambda: given_, mode, PARAMS, CONFIG)


def loaded(dataset, most=None):
    return [
        np.vstack([chunk.load(dataset.width) for chunk in batch])
        for batch in islice(dataset.batches(), most)
    ]


def same(batches, expected):
    return len(batches) == len(expected) and all(map(np.array_equal, batches, expected))


# Parameters.


@in_every_mode
def test_mode_params_and_config_are_supplied_by_name(mode):
    seen = []

    def input_fn(config, mode, params):
        seen.append((mode, params, config))
        return ROWS

    read_input(input_fn, mode, PARAMS, CONFIG)
    assert seen == [(mode, PARAMS, CONFIG)]


def test_arguments_are_supplied_over_defaults_and_to_keywords():
    seen = []

    def input_fn(mode="none", *, config=None, other=7):
        seen.append((mode, config, other))
        return ROWS

    read_input(input_fn, TRAIN, PARAMS, CONFIG)
    assert seen == [(TRAIN, CONFIG, 7)]


def test_variadic_parameters_get_nothing():
    seen = []

    def input_fn(*args, **more):
        seen.append((args, more))
        return ROWS

    read_input(input_fn, TRAIN, PARAMS, CONFIG)
    assert seen == [((), {})]


def test_variadic_and_positional_parameters_get_nothing_whatever_their_names():
    def input_fn(mode="own", /, *params):
        return [np.full((3, 2), len(params) + (mode == "own"), np.float32)]

    dataset = read_input(input_fn, EVAL, PARAMS, CONFIG)
    assert same(loaded(dataset), [np.ones((3, 2), np.float32)])


def test_a_lambda_is_a_function():
    dataset = read_input(lambda params: ROWS * params["num_clusters"], EVAL, PARAMS, CONFIG)
    assert same(loaded(dataset), [ROWS * 3])


def test_a_partial_gets_its_remaining_arguments():
    def input_fn(scale, mode, params):
        return ROWS * scale + (mode == EVAL) + params["num_clusters"]

    for partial in (
        functools.partial(input_fn, 2),
        functools.partial(input_fn, scale=2, mode=EVAL),
    ):
        assert same(loaded(read_input(partial, EVAL, PARAMS, CONFIG)), [ROWS * 2 + 4])


def test_a_parameter_that_a_partial_has_set_is_not_overwritten():
    def input_fn(mode):
        return ROWS * (7 if mode == "own" else 1)

    partial = functools.partial(input_fn, mode="own")
    assert same(loaded(read_input(partial, EVAL, PARAMS, CONFIG)), [ROWS * 7])


def test_builtins_bound_methods_and_callable_objects_are_functions():
    bound_method = iter([ROWS, ROWS]).__next__
    assert same(loaded(read_input(bound_method, EVAL, PARAMS, CONFIG)), [ROWS])
    assert same(loaded(read_input(ROWS.copy, EVAL, PARAMS, CONFIG)), [ROWS])
    rows_of = {"rows": ROWS}.__getitem__
    partial = functools.partial(rows_of, "rows")
    assert same(loaded(read_input(partial, EVAL, PARAMS, CONFIG)), [ROWS])


@pytest.mark.parametrize(
    ("input_fn", "unknown"),
    [
        (lambda features: features, "features"),
        (lambda mode, path: path, "path"),
        (lambda *, size: size, "size"),
        (lambda a, b: a, "a', 'b"),
    ],
)
def test_other_parameters_are_a_type_error_that_names_them(input_fn, unknown):
    with pytest.raises(TypeError, match=r"mode, params and config") as caught:
        read_input(input_fn, TRAIN, PARAMS, CONFIG)
    assert f"['{unknown}']" in str(caught.value)


@pytest.mark.parametrize("input_fn", [ROWS, None, "rows.zarr", [ROWS]])
def test_a_value_that_is_not_callable_is_a_type_error_with_the_remedy(input_fn):
    with pytest.raises(TypeError, match=r"input_fn must be a function \(lambda: rows\)"):
        read_input(input_fn, TRAIN, PARAMS, CONFIG)


def test_an_error_in_an_input_fn_is_raised():
    def input_fn():
        raise ConnectionError("the database is down")

    with pytest.raises(ConnectionError, match="the database is down"):
        read_input(input_fn, TRAIN, PARAMS, CONFIG)


def test_every_method_calls_its_input_fn_once_with_its_mode(tmp_path):
    calls = []

    def input_fn(mode, params, config):
        calls.append((mode, params["num_clusters"], type(config)))
        return ROWS

    model = KMeans(2, str(tmp_path / "model"), use_mini_batch=False)
    model.train(input_fn, steps=2)
    model.evaluate(input_fn)
    model.score(input_fn)
    list(model.predict(input_fn))
    list(model.predict_cluster_index(input_fn))
    list(model.transform(input_fn))
    assert [mode for mode, _, _ in calls] == [TRAIN, EVAL, EVAL, INFER, INFER, INFER]
    assert {call[1:] for call in calls} == {(2, RunConfig)}


# Arrays.

ARRAYS = {
    "NumPy": lambda rows: rows,
    "Dask": lambda rows: da.from_array(rows, chunks=(3, 2)),
    "Zarr": lambda rows: zarr.array(rows, chunks=(3, 2)),
    "dict": lambda rows: {"b": rows[:, 1:], "a": rows[:, 0]},
}
of_every_kind = pytest.mark.parametrize("kind", ARRAYS.values(), ids=ARRAYS)


@of_every_kind
def test_arrays_repeat_without_end_to_train_and_are_one_epoch_otherwise(kind):
    assert same(loaded(read(kind(ROWS), TRAIN), 30), [ROWS] * 30)
    assert read(kind(ROWS), TRAIN).is_constant
    for mode in (EVAL, INFER):
        assert same(loaded(read(kind(ROWS), mode)), [ROWS])


@in_every_mode
@of_every_kind
def test_a_tuple_of_features_and_none_means_the_features(kind, mode):
    assert same(loaded(read((kind(ROWS), None), mode), 1), [ROWS])


@of_every_kind
def test_labels_are_refused_except_for_prediction(kind):
    for mode in (TRAIN, EVAL):
        for labels in (np.zeros(4), [0, 1], 0, "label"):
            with pytest.raises(ValueError, match="labels must be None"):
                read((kind(ROWS), labels), mode)
    assert same(loaded(read((kind(ROWS), np.zeros(4)), INFER)), [ROWS])


@in_every_mode
@pytest.mark.parametrize("size", [0, 1, 3])
def test_tuples_of_another_size_are_a_type_error(size, mode):
    with pytest.raises(TypeError, match=rf"\(features, None\), got a tuple of {size}"):
        read((ROWS,) * size, mode)


def test_an_untouched_dataset_repeats_without_end_to_train_and_is_one_epoch_otherwise(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    for dataset in (Dataset.from_array(ROWS), Dataset.from_npy(str(tmp_path / "rows.npy"))):
        assert same(loaded(read(dataset, TRAIN), 30), [ROWS] * 30)
        assert same(loaded(read((dataset, None), TRAIN), 30), [ROWS] * 30)
        assert read(dataset, TRAIN).is_constant
        for mode in (EVAL, INFER):
            assert same(loaded(read(dataset, mode)), [ROWS])


@in_every_mode
def test_a_dataset_with_methods_is_taken_as_it_is(mode):
    assert same(loaded(read(limit_epochs(ROWS, 2), mode)), [ROWS] * 2)
    dataset = Dataset.from_array(ROWS).batch(3)
    assert read(dataset, mode) is dataset
    assert read((dataset, None), mode) is dataset


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i1", "u2", "i4", "i8", "?"])
def test_any_real_numbers_are_features(dtype):
    rows = np.arange(12).reshape(4, 3).astype(dtype)
    assert same(loaded(read(rows)), [rows])


@in_every_mode
def test_a_pandas_data_frame_is_an_array(mode):
    frame = pd.DataFrame(ROWS, columns=["c", "a", "b"])
    assert same(loaded(read(frame, mode), 1), [ROWS])


@in_every_mode
@pytest.mark.parametrize("given_", ["rows.zarr", b"rows", 3, 2.5, None, object(), len])
def test_a_value_without_rows_is_a_type_error_that_names_the_usable_types(given_, mode):
    with pytest.raises(TypeError, match="input_fn must return an array, a dict of arrays") as error:
        read(given_, mode)
    assert type(given_).__name__ in str(error.value)


@in_every_mode
@pytest.mark.parametrize("kind", [np.zeros, da.zeros, zarr.zeros], ids=["NumPy", "Dask", "Zarr"])
def test_a_one_dimensional_array_is_refused_with_its_shape(kind, mode):
    with pytest.raises(ValueError, match=r"must be 2-D \(rows, columns\).*\(4,\)"):
        read(kind((4,)), mode)


def test_an_array_without_rows_is_refused():
    with pytest.raises(InvalidData, match="features must have at least one row"):
        read(np.empty((0, 3)))


# Dicts.

COLUMNS = {
    "b": np.arange(10, dtype=np.float32),
    "a": np.arange(20, dtype=np.float32).reshape(10, 2) + 100,
    "c": np.arange(10, dtype=np.float32)[:, None] + 200,
}
TABLE = np.column_stack([COLUMNS["a"], COLUMNS["b"], COLUMNS["c"]])


@in_every_mode
def test_columns_are_in_the_order_of_their_names(mode):
    assert same(loaded(read(COLUMNS, mode), 1), [TABLE])
    assert read(COLUMNS, mode).width == 4


def test_names_without_an_order_are_refused():
    with pytest.raises(InvalidType, match=r"names in the features must be of one type.*\[1, 'a'\]"):
        read({1: np.zeros(2), "a": np.zeros(2)}, ModeKeys.EVAL)


kinds = st.sampled_from(["NumPy", "Dask", "Zarr"])


@given(st.lists(st.tuples(kinds, st.integers(1, 10)), min_size=3, max_size=3), st.integers(1, 11))
def test_columns_of_any_kind_may_be_chunked_differently(choices, size):
    def column(name, kind, chunk):
        values = COLUMNS[name]
        chunks = (chunk, 1)[: values.ndim]
        if kind == "Dask":
            return da.from_array(values, chunks=chunks)
        return zarr.array(values, chunks=chunks) if kind == "Zarr" else values

    given_ = {name: column(name, *choice) for name, choice in zip("abc", choices, strict=True)}
    assert same(loaded(read(given_)), [TABLE])
    batches = [TABLE[start : start + size] for start in range(0, 10, size)]
    assert same(loaded(read(given_).batch(size)), batches)


def test_columns_of_a_zarr_store_may_have_different_chunks(tmp_path):
    n = 3_000_000  # enough for several chunks of each
    narrow, wide = np.arange(n, dtype=np.float32), np.ones((n, 2), np.float32)
    wide[:, 0] = narrow
    group = zarr.create_group(tmp_path / "table.zarr")
    group.create_array("n", data=narrow, chunks=(1_000_000,), compressors=None)
    group.create_array("w", data=wide, chunks=(300_000, 2), compressors=None)
    dataset = read({"narrow": group["n"], "wide": group["w"]})
    (batch,) = dataset.batches()
    assert len(batch) > 2
    assert dataset.rows == n
    first = 0
    for chunk in batch:
        expected = narrow[first : first + chunk.rows]
        points = chunk.load(3)
        assert np.array_equal(points[:, 0], expected)
        assert np.array_equal(points[:, 1], expected)
        first += chunk.rows
    assert first == n


def test_columns_of_unknown_chunk_sizes_are_joined_with_others():
    narrow, wide = (da.from_array(COLUMNS[name], chunks=3) for name in "ba")
    selected = COLUMNS["b"] % 5 > 1
    given_ = {"b": narrow[selected], "a": wide[selected], "c": COLUMNS["c"][selected]}
    assert same(loaded(read(given_)), [TABLE[selected]])


def test_lists_are_columns_too():
    assert same(
        loaded(read({"a": [1, 2], "b": [[3.0, 4.0], [5.0, 6.0]]})), [[[1, 3, 4], [2, 5, 6]]]
    )


def test_columns_of_pandas_are_columns():
    frame = pd.DataFrame({"b": [1.0, 2.0], "a": [3, 4]})
    assert same(loaded(read({name: frame[name] for name in frame})), [[[3, 1], [4, 2]]])


@pytest.mark.parametrize("kind", [dict, pd.DataFrame])
def test_columns_of_several_dtypes_are_of_numpys_common_dtype(kind):
    narrow = np.ones(3, np.float32)
    for other, dtype in [("f8", "f8"), ("i8", "f8"), ("i2", "f4"), ("?", "f4")]:
        rows = read(kind({"a": narrow, "b": np.ones(3, other)}))
        assert loaded(rows)[0].dtype == np.dtype(dtype)
    assert loaded(read(kind({"a": [1], "b": [2]})))[0].dtype == np.float32


@pytest.mark.parametrize("kind", [np.zeros, da.zeros, zarr.zeros], ids=["NumPy", "Dask", "Zarr"])
def test_columns_of_unequal_lengths_are_refused_with_their_lengths(kind):
    with pytest.raises(ValueError, match=r"equally long, got \[4, 5\] rows"):
        read({"a": kind((4,)), "b": kind((5,))})


@in_every_mode
def test_an_empty_dict_is_refused(mode):
    with pytest.raises(InvalidData, match="at least one column, got an empty dict"):
        read({}, mode)


def test_a_dict_of_empty_columns_is_refused():
    with pytest.raises(InvalidData, match="at least one row"):
        read({"a": np.empty(0), "b": np.empty((0, 2))})


def test_a_column_of_three_dimensions_is_refused_by_its_name():
    with pytest.raises(InvalidData, match=r"the features\['b'\] must be 2-D.*\(2, 2, 2\)"):
        read({"a": np.ones(2), "b": np.ones((2, 2, 2))})


@pytest.mark.parametrize("values", [["x", "y"], np.array([1j, 2])], ids=["text", "complex"])
def test_a_column_without_numbers_is_refused_by_its_name(values):
    with pytest.raises(TypeError, match=r"columns 'city' \(.*\) of the features hold no num"):
        loaded(read({"age": np.ones(2), "city": values}))


def test_a_ragged_column_is_refused_by_its_name():
    with pytest.raises(InvalidData, match=r"the features\['b'\]"):
        loaded(read({"a": np.ones(2), "b": [[1, 2], [3]]}))


def test_a_number_for_a_column_is_refused_by_its_name():
    with pytest.raises(InvalidData, match=r"the features\['a'\] must be 2-D"):
        read({"a": 3.0})


# Iterators.

BATCHES = [ROWS, ROWS[:2] + 50, ROWS[1:] + 90]


@in_every_mode
@pytest.mark.parametrize(
    "make",
    [iter, list, lambda batches: (batch for batch in batches), lambda b: map(np.copy, b)],
    ids=["iterator", "list", "generator", "map"],
)
def test_batches_are_taken_in_order_and_once(make, mode):
    dataset = read(make(BATCHES), mode)
    assert same(loaded(dataset), BATCHES)
    assert dataset.rows is None
    assert not dataset.is_constant


def test_a_generator_function_is_an_input_fn():
    def input_fn(mode):
        yield from BATCHES

    assert same(loaded(read_input(input_fn, TRAIN, PARAMS, CONFIG)), BATCHES)


@in_every_mode
@pytest.mark.parametrize("kind", [da.from_array, zarr.array, pd.DataFrame])
def test_batches_may_be_of_any_kind(kind, mode):
    assert same(loaded(read(map(kind, BATCHES), mode)), BATCHES)


@in_every_mode
def test_batches_may_be_dicts(mode):
    batches = ({"b": rows[:, 2], "a": rows[:, :2]} for rows in BATCHES)
    assert same(loaded(read(batches, mode)), BATCHES)


@pytest.mark.parametrize("kind", [dict, pd.DataFrame])
def test_batches_with_other_columns_than_those_before_them_are_refused(kind):
    given = [kind({"a": [1.0], "b": [2.0]}), kind({"a": [1.0], "c": [2.0]})]
    batches = read(iter(given), TRAIN).batches()
    next(batches)
    with pytest.raises(
        ValueError, match=r"columns of batch 1 must be .*\['a', 'b'\], got \['a', 'c"
    ):
        next(batches)


def test_rows_of_named_columns_know_their_names():
    frame = pd.DataFrame({"b": [1.0], "a": [2.0]})
    assert read(frame).columns == ("b", "a")
    assert read({"b": [[1.0]], "a": [[2.0]]}).columns == ("a", "b")
    assert read(iter([frame])).columns == ("b", "a")
    assert read(Dataset.from_array(frame).batch(1)).columns == ("b", "a")
    for unnamed in (ROWS, {1: [[1.0]]}, pd.DataFrame(ROWS), iter([ROWS])):
        assert read(unnamed).columns is None


@in_every_mode
def test_batches_may_be_tuples_of_features_and_none(mode):
    assert same(loaded(read(((rows, None) for rows in BATCHES), mode)), BATCHES)
    assert same(loaded(read((({"a": rows}, None) for rows in BATCHES), mode)), BATCHES)


def test_labels_of_batches_are_refused_except_for_prediction():
    def labelled():
        return ((rows, np.zeros(len(rows))) for rows in BATCHES)

    for mode in (TRAIN, EVAL):
        with pytest.raises(ValueError, match="labels must be None"):
            read(labelled(), mode)
    assert same(loaded(read(labelled(), INFER)), BATCHES)


def test_labels_of_a_later_batch_are_refused_when_it_is_read():
    batches = read(iter([(ROWS, None), (ROWS, ROWS)]), TRAIN).batches()
    next(batches)
    with pytest.raises(ValueError, match="labels must be None"):
        next(batches)


@in_every_mode
def test_empty_batches_are_skipped(mode):
    empty = np.empty((0, 3))
    frame = pd.DataFrame({"a": [], "b": pd.Series([], dtype=object)})
    batches = [empty, BATCHES[0], frame, empty, *BATCHES[1:], {"a": []}]
    assert same(loaded(read(iter(batches), mode)), BATCHES)


@in_every_mode
@pytest.mark.parametrize("batches", [[], [np.empty((0, 3))] * 3])
def test_an_input_of_only_empty_batches_is_refused(batches, mode):
    with pytest.raises(InvalidData, match="at least one batch of rows, got none"):
        read(iter(batches), mode)


def test_only_the_batches_that_are_used_are_read():
    taken = []
    dataset = read(taken.append(n) or ROWS for n in count())
    assert len(taken) == 1
    assert len(loaded(dataset, 3)) == 3
    assert len(taken) <= 4


def test_a_list_of_rows_is_refused_as_a_list_of_batches():
    for rows in ([[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0], iter([[1, 2]])):
        with pytest.raises(TypeError, match=r"batch 0 must be an array of rows.*np.array\(rows\)"):
            read(rows)
    with pytest.raises(ValueError, match=r"batch 0 must be 2-D.*\(3,\)"):
        read(list(ROWS))


@pytest.mark.parametrize("given", [lambda m: m, lambda m: iter([m])], ids=["matrix", "batches"])
def test_a_sparse_matrix_is_refused_with_the_remedy(given):
    with pytest.raises(TypeError, match=r"must be dense, as its toarray\(\) is, got .* csr_matrix"):
        read(given(sparse.csr_matrix(ROWS)))


PARTS = [np.full((6, 2), 10 * n, np.float32) + np.arange(6)[:, None] for n in range(3)]
REFILLED = {
    "an array": lambda buffer: buffer,
    "a part of an array": lambda buffer: buffer[:, :2],
    "a dict": lambda buffer: {"x": buffer[:, 0], "y": buffer[:, 1]},
    "Dask with weights": lambda buffer: (
        da.from_array(buffer[:, :2].copy()),
        {"weights": buffer[:, 2]},
    ),
    "with weights": lambda buffer: (buffer[:, :2], {"weights": buffer[:, 2]}),
}


def refilling(made):
    """Yield batches in the memory of one array, as loops that spare memory do."""
    buffer = np.zeros((6, 2 if made is REFILLED["an array"] else 3), np.float32)
    for part in PARTS:
        buffer[:, :2] = part
        buffer[:, 2:] = part[:, :1] + 1
        yield made(buffer)


@pytest.mark.parametrize("made", REFILLED.values(), ids=REFILLED)
@pytest.mark.parametrize(
    "options",
    [
        {"mini_batch_steps_per_iteration": 3, "initial_clusters": np.float32([[0, 0], [20, 20]])},
        {"mini_batch_steps_per_iteration": 2, "num_clusters": 9},  # of the rows of two batches
        {"num_clusters": 17, "seed": 3},  # of the rows of all three
        {"initial_clusters": lambda rows, missing: rows[:1], "num_clusters": 3},
    ],
    ids=["steps", "random and steps", "random", "function"],
)
def test_an_iterator_may_refill_one_array_for_its_batches(options, made):
    options = {"num_clusters": 2, "seed": 1, **options}
    found = KMeans(**options).train(lambda: refilling(made))
    expected = KMeans(**options).train(lambda: iter(list(map(copy.deepcopy, refilling(made)))))
    assert found.cluster_centers().tolist() == expected.cluster_centers().tolist()


def test_predictions_of_batches_in_one_array_are_those_of_each(tmp_path):
    model = KMeans(3, None, np.float32([[0, 0], [12, 12], [24, 24]]))
    model.train(lambda: np.vstack(PARTS), steps=1)
    path = tmp_path / "out.parquet"
    model.write_predictions(lambda: refilling(REFILLED["an array"]), path)
    expected = list(model.predict_cluster_index(lambda: np.vstack(PARTS)))
    assert pq.read_table(path)["cluster_index"].to_pylist() == expected


def test_an_invalid_batch_is_named_by_its_number():
    batches = read(iter([ROWS, "rows"]), TRAIN).batches()
    next(batches)
    with pytest.raises(InvalidType, match="batch 1 must be a NumPy, Dask, Zarr or CuPy array"):
        next(batches)


def test_a_batch_of_another_width_is_refused_when_it_is_used(tmp_path):
    batches = [ROWS, ROWS[:, :2]]
    model = KMeans(2, str(tmp_path / "model"), use_mini_batch=True)
    with pytest.raises(InvalidData, match="batch 1 must give rows of 3 columns"):
        model.train(lambda: iter(batches), steps=2)


@in_every_mode
def test_a_dict_of_dicts_is_refused(mode):
    with pytest.raises((TypeError, ValueError), match=r"the features\['a'\]"):
        loaded(read({"a": {"b": ROWS}}, mode), 1)


def weights_in(dataset):
    return [chunk.loaded().weights for batch in dataset.batches() for chunk in batch]


@pytest.mark.parametrize("kind", ["array", "dict", "frame", "dask"])
def test_weights_come_in_place_of_labels(kind):
    features = {
        "array": ROWS,
        "dict": {"a": ROWS[:, 0], "b": ROWS[:, 1:]},
        "frame": pd.DataFrame(ROWS),
        "dask": da.from_array(ROWS, chunks=(3, 2)),
    }[kind]
    weights = np.arange(1.0, len(ROWS) + 1)
    dataset = read((features, {"weights": weights}), EVAL)
    assert np.concatenate(weights_in(dataset)).tolist() == weights.tolist()
    train = read((features, {"weights": weights.tolist()}), TRAIN).take(len(ROWS) + 1)
    assert np.concatenate(weights_in(train)).tolist() == [*weights, 1.0]
    infer = read((features, {"weights": "ignored"}), INFER)
    assert set(weights_in(infer)) == {None}


def test_batches_of_an_iterator_may_have_weights_or_not():
    batches = [(ROWS[:2], {"weights": [1, 0]}), ROWS[2:3], (ROWS[3:], None)]
    found = weights_in(read(iter(batches), TRAIN))
    assert found[0].tolist() == [1.0]
    assert found[1:] == [None] * len(found[1:])


def test_other_labels_than_weights_are_refused():
    for labels in ({"weight": ROWS}, {"weights": [1], "label": [2]}, {}, ROWS[:, 0]):
        with pytest.raises(ValueError, match=r'labels must be None, or \{"weights": w\}'):
            read((ROWS, labels), TRAIN)
    with pytest.raises(ValueError, match=r"weights of a Dataset must be given where it is made"):
        read((Dataset.from_array(ROWS), {"weights": [1]}), TRAIN)
    with pytest.raises(ValueError, match=r"one for each row of the features, \d+, got 1"):
        read((ROWS, {"weights": [1]}), TRAIN)
    for number in (3, "w"):
        with pytest.raises(ValueError, match=r"the weights must be one number for each row, got"):
            read((ROWS, {"weights": number}), TRAIN)


def test_columns_that_feature_columns_read_may_have_weights(tmp_path):
    table = pa.table({"a": [1.0, 2.0, 3.0], "w": [0.5, 0.0, 2.0]})
    pq.write_table(table, tmp_path / "x.parquet")
    layout = Layout.of([numeric_column("a")])
    dataset = Dataset.from_parquet(tmp_path / "x.parquet", weights="w")
    for given_ in (dataset, ({"a": np.array([1.0, 2.0, 3.0])}, {"weights": [0.5, 0.0, 2.0]})):
        (batch,) = read_input(lambda given_=given_: given_, EVAL, PARAMS, CONFIG, layout).batches()
        loaded = batch[0].loaded()
        assert loaded.points.tolist() == [[1.0], [3.0]]
        assert loaded.weights.tolist() == [0.5, 2.0]
