"""Datasets: the methods of tf.data, compared with plain NumPy on the rows in order."""

from itertools import islice

import cloudpickle
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, Invalid, InvalidData, InvalidType, limit_epochs
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import MemoryRows

sizes = st.integers(1, 30)


def rows_of(n):
    return np.arange(2 * n, dtype=np.float64).reshape(n, 2)


def cut(source, size):
    """Return the rows of a source as chunks of this size."""
    starts = range(0, source.rows, size)
    return Batch.of(*(Chunk(source, start, min(start + size, source.rows)) for start in starts))


def dataset_of(n=20, chunk=6):
    """Return a dataset of n rows in several chunks."""
    return Dataset.of_table(lambda _: cut(MemoryRows(rows_of(n), "rows"), chunk))


def loaded(dataset, most=None):
    """Return the rows of each batch."""
    return [
        np.vstack([chunk.load(dataset.width) for chunk in batch])
        for batch in islice(dataset.batches(), most)
    ]


def split(rows, size):
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def same(batches, expected):
    return len(batches) == len(expected) and all(map(np.array_equal, batches, expected))


def by_row(batches):
    """Return the numbers of all rows of the batches, as in `rows_of`."""
    return [int(first) // 2 for first, _ in np.vstack(batches)]


# Methods.


def test_a_dataset_that_is_not_batched_is_one_batch_of_all_rows():
    assert same(loaded(dataset_of()), [rows_of(20)])


@given(sizes, sizes, sizes)
def test_batches_are_cut_across_chunks(n, chunk, size):
    assert same(loaded(dataset_of(n, chunk).batch(size)), split(rows_of(n), size))


@given(sizes, sizes, sizes, sizes)
def test_the_last_call_of_batch_decides(n, chunk, first, size):
    batches = loaded(dataset_of(n, chunk).batch(first).batch(size))
    assert same(batches, split(rows_of(n), size))


@given(sizes, sizes, sizes, st.integers(1, 3))
def test_batch_and_repeat_ends_every_epoch_with_the_rows_that_are_left(n, chunk, size, epochs):
    batches = loaded(dataset_of(n, chunk).batch(size).repeat(epochs))
    assert same(batches, split(rows_of(n), size) * epochs)


@given(sizes, sizes, sizes, st.integers(1, 3))
def test_repeat_and_batch_makes_batches_across_epochs(n, chunk, size, epochs):
    batches = loaded(dataset_of(n, chunk).repeat(epochs).batch(size))
    assert same(batches, split(np.vstack([rows_of(n)] * epochs), size))


@pytest.mark.parametrize("batched", [False, True])
def test_repeat_without_a_number_has_no_end(batched):
    dataset = dataset_of().repeat()
    expected = [rows_of(20)] * 50
    if batched:
        dataset, expected = dataset.batch(7), split(np.vstack(expected), 7)[:50]
    assert same(loaded(dataset, 50), expected)


def test_repeats_multiply():
    assert same(loaded(dataset_of().repeat(2).repeat(3)), [rows_of(20)] * 6)


@given(sizes, sizes, st.integers(0, 40), st.integers(0, 40))
def test_take_and_skip_count_rows_before_batch(n, chunk, first, second):
    dataset, rows = dataset_of(n, chunk), rows_of(n)
    cases = [
        (dataset.take(first), rows[:first]),
        (dataset.skip(first), rows[first:]),
        (dataset.skip(first).take(second), rows[first:][:second]),
        (dataset.take(first).skip(second), rows[:first][second:]),
        (dataset.skip(first).skip(second), rows[first:][second:]),
    ]
    for sliced, expected in cases:
        assert same(loaded(sliced), [expected] if len(expected) else [])
        assert sliced.rows == len(expected)


@given(sizes, sizes, sizes, st.integers(0, 10), st.integers(0, 10))
def test_take_and_skip_count_batches_after_batch(n, chunk, size, first, second):
    dataset, batches = dataset_of(n, chunk).batch(size), split(rows_of(n), size)
    assert same(loaded(dataset.take(first)), batches[:first])
    assert same(loaded(dataset.skip(first)), batches[first:])
    assert same(loaded(dataset.skip(first).take(second)), batches[first:][:second])


method_calls = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), st.integers(1, 25)),
        st.tuples(st.just("repeat"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["take", "skip"]), st.integers(0, 25)),
    ),
    max_size=5,
)


@given(sizes, sizes, method_calls)
def test_methods_in_any_order_do_the_same_as_to_lists_of_batches(n, chunk, calls):
    dataset, batches, is_batched, epochs = dataset_of(n, chunk), [rows_of(n)], False, 1
    for method, number in calls:
        if method == "batch":
            batches = split(np.vstack(batches), number) if batches else []
            is_batched = True
        elif method == "repeat":
            batches = batches * number
            epochs *= 1 if is_batched else number
        else:
            part = slice(number) if method == "take" else slice(number, None)
            if is_batched:
                batches = batches[part]
            elif epochs > 1:
                return  # rows of each epoch, or of all epochs: another test covers them
            else:
                batches = [rows[part] for rows in batches if len(rows[part])]
        dataset = getattr(dataset, method)(number)
    assert same(loaded(dataset), batches)


def test_take_and_skip_after_repeat_count_rows_across_epochs():
    twice = np.vstack([rows_of(20)] * 2)
    assert np.array_equal(np.vstack(loaded(dataset_of().repeat(2).take(25))), twice[:25])
    assert np.array_equal(np.vstack(loaded(dataset_of().repeat(2).skip(25))), twice[25:])
    assert np.array_equal(np.vstack(loaded(dataset_of().repeat(2).take(5))), twice[:5])


def test_methods_do_not_change_their_dataset():
    dataset = dataset_of()
    for method in (dataset.batch, dataset.repeat, dataset.take, dataset.skip, dataset.shuffle):
        method(3)
    assert same(loaded(dataset), [rows_of(20)])
    assert dataset.is_constant


def test_a_dataset_yields_the_same_batches_every_time():
    dataset = dataset_of().shuffle(1).repeat(2).batch(7)
    assert same(loaded(dataset), loaded(dataset))


# Shuffling.


@given(sizes, sizes, st.integers(0, 2**40), sizes)
def test_shuffled_rows_are_a_permutation_of_the_rows(n, chunk, seed, size):
    batches = loaded(dataset_of(n, chunk).shuffle(seed).batch(size))
    assert sorted(by_row(batches)) == list(range(n))
    assert [len(batch) for batch in batches] == [len(batch) for batch in split(rows_of(n), size)]


def test_the_same_seed_gives_the_same_order_and_another_seed_does_not():
    first, again, other = (by_row(loaded(dataset_of().shuffle(seed))) for seed in (4, 4, 5))
    assert first == again
    assert first != other
    assert first != list(range(20))


def test_every_epoch_has_an_order_of_its_own():
    epochs = loaded(dataset_of().shuffle(4).repeat(5))
    assert all(sorted(by_row([epoch])) == list(range(20)) for epoch in epochs)
    assert len({tuple(by_row([epoch])) for epoch in epochs}) == 5


def test_a_shuffle_after_repeat_has_an_order_for_every_epoch_too():
    epochs = loaded(dataset_of().repeat(5).shuffle(4))
    assert all(sorted(by_row([epoch])) == list(range(20)) for epoch in epochs)
    assert len({tuple(by_row([epoch])) for epoch in epochs}) == 5


def test_rows_are_mixed_within_their_chunks_and_chunks_as_a_whole():
    order = by_row(loaded(dataset_of(24, 6).shuffle(3)))
    chunks = [[row // 6 for row in order[start : start + 6]] for start in range(0, 24, 6)]
    assert all(len(set(chunk)) == 1 for chunk in chunks)
    assert [chunk[0] for chunk in chunks] != [0, 1, 2, 3]
    assert any(order[i] > order[i + 1] for i in range(5))


def test_batches_of_shuffled_rows_are_the_shuffled_rows_in_order():
    whole = loaded(dataset_of().shuffle(9))[0]
    assert same(loaded(dataset_of().shuffle(9).batch(7)), split(whole, 7))


def test_the_order_of_shuffled_rows_does_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr("dkmeans.data.chunks.TARGET_BYTES", 2**12)
    monkeypatch.setattr("dkmeans.data.chunks.SMALLEST_BYTES", 2**10)
    rows = Dataset.from_array(np.arange(60_000, dtype=np.float32).reshape(-1, 2))
    table, shuffled = (
        [d.in_chunks_for(2**22, threads, on_gpu=False) for threads in (1, 9)]
        for d in (rows, rows.shuffle(seed=1))
    )
    assert len(next(table[0].batches())) < len(next(table[1].batches()))
    orders = [next(each.batches())[0].load(2) for each in shuffled]
    assert orders[0].tolist() == orders[1].tolist()


def test_rows_taken_before_a_shuffle_are_the_first():
    assert sorted(by_row(loaded(dataset_of().take(9).shuffle(1)))) == list(range(9))


def test_rows_taken_after_a_shuffle_are_the_first_of_its_order():
    whole = loaded(dataset_of().shuffle(1))[0]
    assert same(loaded(dataset_of().shuffle(1).take(9)), [whole[:9]])


def test_a_shuffle_after_batch_is_refused_with_the_remedy():
    for dataset in (dataset_of().batch(3), dataset_of().batch(3).repeat(2)):
        with pytest.raises(ValueError, match=r"shuffle\(seed\) must come before batch\(rows\)"):
            dataset.shuffle(1)


# Properties.


def test_rows_and_width_are_those_of_one_epoch():
    dataset = dataset_of()
    assert (dataset.rows, dataset.width) == (20, 2)
    for same_rows in (dataset.batch(3), dataset.repeat(4), dataset.shuffle(1), dataset.repeat()):
        assert (same_rows.rows, same_rows.width) == (20, 2)
    assert dataset.take(7).rows == 7
    assert dataset.take(70).rows == 20
    assert dataset.skip(7).rows == 13
    assert dataset.skip(70).rows == 0


@pytest.mark.parametrize("change", [lambda d: d, lambda d: d.repeat(2), lambda d: d.take(3)])
def test_whole_epochs_of_the_same_rows_are_constant(change):
    assert change(dataset_of()).is_constant
    assert not change(dataset_of().batch(20)).is_constant


@pytest.mark.parametrize("change", [lambda d: d, lambda d: d.repeat(2), lambda d: d.shuffle(2)])
def test_a_constant_dataset_has_the_same_rows_in_every_batch(change):
    dataset = change(dataset_of())
    assert dataset.is_constant
    assert all(sorted(by_row([batch])) == list(range(20)) for batch in loaded(dataset.repeat(2)))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.batch(4),
        lambda d: d.shuffle(1),
        lambda d: d.repeat(),
        lambda d: d.repeat(1),
        lambda d: d.take(4),
        lambda d: d.skip(0),
    ],
)
def test_a_dataset_is_a_table_until_a_method_of_tf_data_is_added(change):
    table = Dataset.from_array(rows_of(7))
    assert table.is_table
    assert table.in_chunks_of(8).is_table
    assert not change(table).is_table


def test_a_dataset_has_no_end_after_a_repeat_without_a_number_and_until_a_take():
    table = Dataset.from_array(rows_of(7))
    endless = table.repeat()
    for dataset in (endless, endless.skip(3), endless.shuffle(1), endless.batch(2).repeat(2)):
        assert dataset.is_endless
    stream = Dataset.of_batches(table.width, table.batches()).repeat()
    for dataset in (table, table.repeat(2), endless.take(3), table.skip(7).repeat(), stream):
        assert not dataset.is_endless
        assert len(list(dataset.batches())) < 3


@pytest.mark.parametrize("method", ["take", "skip"])
def test_a_part_of_shuffled_rows_differs_in_every_epoch_and_is_not_constant(method):
    part = getattr(dataset_of().shuffle(1), method)(10)
    epochs = {tuple(sorted(by_row([epoch]))) for epoch in loaded(part.repeat(5))}
    assert len(epochs) > 1
    assert not part.is_constant


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 50), st.integers(1, 3))
def test_every_row_is_seen_once_in_each_epoch_for_all_chunks_and_batches(n, chunk, rows, epochs):
    shuffled = dataset_of(n, chunk).shuffle(seed=7).batch(rows)
    epoch = -(-n // rows)
    seen = [by_row([batch]) for batch in loaded(shuffled.repeat(epochs))]
    for number in range(epochs):
        in_epoch = [row for batch in seen[number * epoch : (number + 1) * epoch] for row in batch]
        assert sorted(in_epoch) == list(range(n))


def test_batches_of_a_stream_are_not_constant_and_their_rows_unknown():
    chunks = cut(MemoryRows(rows_of(6), "rows"), 3)
    dataset = Dataset.of_batches(2, iter([Batch((chunk,)) for chunk in chunks]))
    assert dataset.rows is None
    assert not dataset.is_constant
    assert same(loaded(dataset), split(rows_of(6), 3))


# Arrays.


@pytest.mark.parametrize("epochs", [1, 3])
def test_limit_epochs_is_a_batch_of_all_rows_an_epoch(epochs):
    dataset = limit_epochs(rows_of(20), epochs)
    assert same(loaded(dataset), [rows_of(20)] * epochs)
    assert dataset.is_constant
    assert dataset.rows == 20


def test_limit_epochs_without_a_number_has_no_end():
    assert limit_epochs(rows_of(7)).is_endless
    assert limit_epochs(rows_of(7), None).is_endless


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "2"])
def test_limit_epochs_refuses_a_bad_number_of_epochs(epochs):
    with pytest.raises(ValueError, match="must be an integer >= 1") as caught:
        limit_epochs(rows_of(20), epochs)
    assert repr(epochs) in str(caught.value)


@pytest.mark.parametrize("kind", [np.zeros, da.zeros, zarr.zeros], ids=["NumPy", "Dask", "Zarr"])
def test_an_array_without_rows_is_refused(kind):
    with pytest.raises(InvalidData, match="must have at least one row, got none"):
        Dataset.from_array(kind((0, 3)))


# Bad arguments.


def test_blocks_files_and_row_groups_without_rows_give_no_chunks(tmp_path):
    rows, none = rows_of(4), rows_of(0)
    files = [tmp_path / "none.npy", tmp_path / "rows.npy"]
    for path, content in zip(files, (none, rows), strict=True):
        np.save(path, content)
    tables = [pa.table({"a": part[:, 0], "b": part[:, 1]}) for part in (none, rows, none)]
    with pq.ParquetWriter(tmp_path / "rows.parquet", tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    datasets = [
        Dataset.from_npy(files),
        Dataset.from_parquet(tmp_path / "rows.parquet"),
        Dataset.from_array(da.concatenate(map(da.from_array, (rows, none)))),
    ]
    for dataset in datasets:
        (batch,) = dataset.shuffle(1).batch(4).batches()
        assert sorted(chunk.rows for chunk in batch) == [4]


@pytest.mark.parametrize(
    ("method", "name", "refused"),
    [
        ("batch", "rows", [0, -1, 2.0, "3", None]),
        ("repeat", "n", [0, -1, 2.0, "3"]),
        ("take", "n", [-1, 2.0, "3", None]),
        ("skip", "n", [-1, 2.0, "3", None]),
    ],
)
def test_a_bad_argument_is_named_together_with_the_rule(method, name, refused):
    for value in refused:
        with pytest.raises(Invalid, match=rf"^{name} must be an integer >= \d") as caught:
            getattr(dataset_of(), method)(value)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None])
def test_a_bad_seed_is_refused_when_it_is_given(seed):
    with pytest.raises(Invalid, match="seed must be an integer >= 0"):
        dataset_of().shuffle(seed)


@pytest.mark.parametrize("method", ["batch", "repeat", "take", "skip", "shuffle"])
def test_integers_of_numpy_are_integers(method):
    changed, expected = (getattr(dataset_of(), method)(n) for n in (np.int64(3), 3))
    assert same(loaded(changed), loaded(expected))


@pytest.mark.parametrize("method", ["batch", "repeat", "take", "skip", "shuffle"])
def test_a_bool_is_not_an_integer(method):
    with pytest.raises(Invalid, match="got True"):
        getattr(dataset_of(), method)(True)


def made(kind, folder, rows):
    """Return a dataset of rows in a kind of table that the library cuts into chunks itself."""
    if kind == "npy":
        np.save(folder / "rows.npy", rows)
        return Dataset.from_npy(str(folder / "rows.npy"))
    if kind == "zarr":
        zarr.create_array(folder / "rows.zarr", data=rows, chunks=(1000, rows.shape[1]))
        return Dataset.from_zarr(str(folder / "rows.zarr"))
    if kind == "parquet":
        table = pa.table({name: rows[:, n] for n, name in enumerate("abcd")})
        pq.write_table(table, folder / "rows.parquet", row_group_size=1000)
        return Dataset.from_parquet(str(folder / "rows.parquet"))
    return Dataset.from_array(rows)


@pytest.mark.parametrize("kind", ["array", "npy", "parquet", "zarr"])
def test_the_same_rows_in_chunks_of_another_size(kind, tmp_path):
    rows = np.random.default_rng(0).normal(size=(300_000, 4)).astype(np.float32)  # 4.8 MB
    usual = made(kind, tmp_path, rows)
    large, small = usual.repeat(2).in_chunks_of(10**9), usual.repeat(2).in_chunks_of(2 * 10**6)
    counts = []
    for dataset in (usual, large, small):
        first, *others = dataset.batches()
        assert np.array_equal(np.vstack([chunk.load(4) for chunk in first]), rows)
        # The same sources in each epoch: an executor sends rows in memory once.
        assert all(list(first.sources()) == list(other.sources()) for other in others)
        counts.append(len(first))
    assert counts[1] == 1
    assert counts[2] >= 3
    assert usual.in_chunks_of(None) is usual


def test_small_batches_keep_chunks_of_the_usual_size():
    def chunks(dataset, target):
        return sum(map(len, dataset.in_chunks_of(target).batches()))

    dataset = Dataset.from_array(np.zeros((400_000, 4), np.float32))  # 6.4 MB
    assert chunks(dataset, 10**9) == 1
    assert chunks(dataset.batch(400_000), 10**9) == chunks(dataset.batch(400_000), None) == 7
    assert chunks(dataset.batch(200_000), 8 * 10**5) == 8
    assert chunks(dataset.batch(100_000), 8 * 10**5) == chunks(dataset.batch(100_000), None)


def test_a_dataset_can_be_sent_to_another_process():
    rows = np.arange(12.0).reshape(6, 2)
    copied = cloudpickle.loads(cloudpickle.dumps(Dataset.from_array(rows)))
    (batch,) = copied.batches()
    np.testing.assert_array_equal(np.concatenate([chunk.load(2) for chunk in batch]), rows)


def test_a_notebook_shows_the_columns_the_size_and_the_chunks_of_a_dataset(tmp_path):
    pq.write_table(pa.table({"a": [0.5, 1.5], "b": ["x", "y"]}), tmp_path / "t.parquet")
    for dataset, texts in (
        (dataset_of(20, 6), ["20", "float64", "320 bytes", "4 chunks of 2 to 6 rows"]),
        (
            dataset_of().batch(5).repeat(),
            ["5 rows each", "320 bytes", "none, it repeats", "in the first batch"],
        ),
        (Dataset.from_parquet(tmp_path / "t.parquet"), ["a, b", "1 chunk of 2 rows"]),
    ):
        shown = dataset._repr_html_()
        assert [text for text in texts if text not in shown] == []
        assert shown.count("<svg") == 1


def test_a_notebook_uses_up_no_batch_of_an_iterator():
    (batch,) = dataset_of().batches()
    dataset = Dataset.of_batches(2, iter([batch, batch]))
    assert "<svg" not in dataset._repr_html_()
    assert len(loaded(dataset)) == 2


def test_a_dataset_is_printed_by_its_size_its_columns_and_its_batches():
    frame = pd.DataFrame(np.zeros((1200, 2)), columns=["age", "income"])
    dataset = Dataset.from_array(frame)
    assert repr(dataset) == "<Dataset: 1,200 rows of 2 columns (age, income)>"
    found = repr(Dataset.from_array(np.zeros((1, 1))).batch(8).repeat())
    assert found == "<Dataset: 1 row of 1 column in batches of 8, without end>"
    stream = Dataset.of_batches(3, iter([]))
    assert repr(stream) == "<Dataset: unknown rows of 3 columns>"
    wide = pd.DataFrame(np.zeros((1, 500)), columns=[f"c{number}" for number in range(500)])
    assert len(repr(Dataset.from_array(wide))) < 150


@pytest.mark.parametrize("columns", ["a", 3, [0], {"a", "b"}, {"a": 1}])
def test_what_is_no_list_of_names_is_refused_as_columns(columns, tmp_path):
    with pytest.raises(TypeError, match="columns must be a list of names, or None, got"):
        Dataset.from_parquet(tmp_path, columns)


def lists(dataset):
    return [rows.tolist() for rows in loaded(dataset)]


def test_columns_are_selected_by_name_before_and_after_other_methods():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0]})
    dataset = Dataset.from_array(frame).select(["c", "a"])
    assert (dataset.width, dataset.columns) == (2, ("c", "a"))
    assert lists(dataset.batch(1)) == [[[5.0, 1.0]], [[6.0, 2.0]]]
    assert lists(Dataset.from_array(frame).batch(1).select(["b"])) == [[[3.0]], [[4.0]]]
    # A second selection is one of the columns of the first.
    assert lists(dataset.select(["a"])) == [[[1.0], [2.0]]]
    with pytest.raises(ValueError, match=r"columns must be among .* \['c', 'a'\], got \['b'\]"):
        dataset.select(["b"])
    with pytest.raises(ValueError, match="columns must be among"):
        Dataset.from_array(frame.to_numpy()).select(["a"])
    for names in ("ca", []):
        with pytest.raises(ValueError, match=r"columns must be (a list of names|among those)"):
            dataset.select(names)


WEIGHTS = np.arange(20) / 4


def weighted_pairs(dataset):
    """Return the rows of a dataset that have a weight, and their weights."""
    loaded = [chunk.loaded() for batch in dataset.batches() for chunk in batch]
    return (
        np.concatenate([each.points for each in loaded]),
        np.concatenate([each.weights for each in loaded]),
    )


def weighted_datasets(folder):
    """Return datasets of the same 20 rows and weights, of every kind."""
    rows = np.arange(60.0).reshape(20, 3)
    frame = pd.DataFrame({"a": rows[:, 0], "b": rows[:, 1], "c": rows[:, 2], "w": WEIGHTS})
    zarr.create_array(f"{folder}/store.zarr", name="rows", data=rows, chunks=(6, 3))
    zarr.create_array(f"{folder}/store.zarr", name="w", data=WEIGHTS, chunks=(9,))
    for name, part in (("1", slice(0, 8)), ("2", slice(8, 20))):
        np.save(f"{folder}/rows-{name}.npy", rows[part])
        pq.write_table(
            pa.Table.from_pandas(frame[part]), f"{folder}/rows-{name}.parquet", row_group_size=5
        )
    np.save(f"{folder}/w-1.npy", WEIGHTS[:5])
    np.save(f"{folder}/w-2.npy", WEIGHTS[5:, None])
    blocks = da.from_array(rows, chunks=(7, 2))
    yield Dataset.from_array(rows, WEIGHTS)
    yield Dataset.from_array(rows.tolist(), WEIGHTS.tolist())
    yield Dataset.from_array(frame, weights="w")
    yield Dataset.from_array(pl.DataFrame(frame), weights="w")
    yield Dataset.from_array(dd.from_pandas(frame, npartitions=3), weights="w")
    yield Dataset.from_array(blocks, weights=da.from_array(WEIGHTS, chunks=6))
    yield Dataset.from_array(zarr.open_array(f"{folder}/store.zarr", path="rows"), frame["w"])
    yield Dataset.from_zarr(f"{folder}/store.zarr::rows", weights=f"{folder}/store.zarr::w")
    yield Dataset.from_npy(f"{folder}/rows-*.npy", weights=f"{folder}/w-*.npy")
    yield Dataset.from_parquet(f"{folder}/rows-*.parquet", weights="w")
    yield Dataset.from_parquet(f"{folder}/rows-*.parquet", ["a", "b", "c"], weights="w")


def test_every_kind_of_table_may_have_weights(tmp_path):
    for dataset in weighted_datasets(tmp_path):
        for way in (dataset, dataset.in_chunks_of(100), dataset.batch(7), dataset.skip(0)):
            rows, weights = weighted_pairs(way)
            assert rows.tolist() == np.arange(60.0).reshape(20, 3)[1:].tolist(), dataset
            assert weights.tolist() == WEIGHTS[1:].tolist()
        rows, weights = weighted_pairs(dataset.shuffle(1).batch(3).take(4))
        assert len(weights) >= 11
        assert (rows[:, 0] == weights * 4 * 3).all()
        assert dataset.width == 3


def test_a_column_of_weights_may_be_a_column_of_the_rows_too(tmp_path):
    pq.write_table(pa.table({"a": [1.0, 2.0], "w": [3.0, 5.0]}), tmp_path / "x.parquet")
    rows, weights = weighted_pairs(Dataset.from_parquet(tmp_path / "x.parquet", ["w", "a"], "w"))
    assert rows.tolist() == [[3.0, 1.0], [5.0, 2.0]]
    assert weights.tolist() == [3.0, 5.0]
    assert Dataset.from_parquet(tmp_path / "x.parquet", weights="w").columns == ("a",)


def test_columns_without_numbers_are_refused_beside_weights_too(tmp_path):
    table = {"a": [1.0], "w": [3.0], "when": pa.array([0], pa.date32())}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    dataset = Dataset.from_parquet(tmp_path / "x.parquet", weights="w")
    assert dataset.columns == ("a", "when")
    with pytest.raises(
        InvalidType, match=r"columns 'when' \(date32\[day\]\) of .* hold no numbers"
    ):
        dataset.batches()
    rows, weights = weighted_pairs(dataset.select(["a"]))
    assert (rows.tolist(), weights.tolist()) == ([[1.0]], [3.0])
    must = r"weights must be a column of numbers, got date32\[day\] in 'when'"
    with pytest.raises(Invalid, match=must):
        Dataset.from_parquet(tmp_path / "x.parquet", weights="when")


def test_unusable_weights_are_refused_by_name(tmp_path):
    table = {"a": [1.0, 2.0], "city": ["x", "y"], "pair": [[1, 2], [3, 4]], "gap": [1.0, None]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    rows, path = np.zeros((4, 2)), tmp_path / "x.parquet"

    def parquet(weights, columns=("a",)):
        return Dataset.from_parquet(path, list(columns), weights)

    refused = {
        r"weights must be a column of numbers, got words in 'city'": lambda: parquet("city"),
        r"weights must be a column of numbers, got lists in 'pair'": lambda: parquet("pair"),
        r"columns must be among those of .*, got missing": lambda: parquet("missing"),
        r"weights must be a column of .*, got 'missing'": lambda: Dataset.from_parquet(
            path, weights="missing"
        ),
        r"weights must be the name of a column, or None, got 3": lambda: parquet(3),
        r"must have a column beside the weights, 'a'": lambda: _only_weights(tmp_path),
        r"row 1 of .*x.parquet has no 'gap'": lambda: weighted_pairs(parquet("gap")),
        r"one for each row of the array, 4, got 3": lambda: Dataset.from_array(rows, np.ones(3)),
        r"weights must be one column, got 2": lambda: Dataset.from_array(rows, rows),
        r"or the name of a column of a data frame, got 'w'": lambda: Dataset.from_array(rows, "w"),
        r"row 2 of the weights has -1": lambda: weighted_pairs(
            Dataset.from_array(rows, [1, 0, -1, 2])
        ),
    }
    for message, make in refused.items():
        with pytest.raises(ValueError, match=message):
            make()


def _only_weights(folder):
    pq.write_table(pa.table({"a": [1.0, 2.0]}), folder / "one.parquet")
    return Dataset.from_parquet(folder / "one.parquet", weights="a")


def test_a_notebook_shows_the_dtype_of_the_selected_columns(tmp_path):
    columns = {"a": [0.5, 1.5], "b": pa.array([1, 2], pa.float32()), "w": ["x", "y"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    whole = Dataset.from_parquet(tmp_path / "t.parquet")
    assert "dtype" not in whole._repr_html_()  # not known before columns are chosen
    shown = whole.select(["b"])._repr_html_()
    assert "float32" in shown
    assert "8 bytes" in shown
