"""Weights of rows: they stay beside their rows, and bad ones are named by their row."""

import pickle

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, InvalidData, KMeans
from dkmeans.data import row_weights
from dkmeans.data.batches import Batch
from dkmeans.data.cache import CacheBudget, cache_budget, row_cache
from dkmeans.data.chunks import Chunk
from dkmeans.data.row_weights import (
    RowWeights,
    weighted,
    weights_of,
)
from dkmeans.data.shuffling import shuffled
from dkmeans.data.sources.memory import MemoryRows, lent, owned
from dkmeans.data.sources.zarr_array import from_zarr_array
from tests.data.twenty_rows import ROWS
from tests.numbered import Numbers

WEIGHTS = np.arange(1.0, 21.0)


def table(values, sizes=(20,), name="table"):
    """Return the chunks of an array, each a source of its own."""
    values = np.asarray(values)
    values = values[:, None] if values.ndim == 1 else values
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    parts = [MemoryRows(values[a : a + n], name, a) for a, n in zip(starts, sizes, strict=True)]
    return Batch(tuple(Chunk(part, part.first, part.first + part.rows) for part in parts))


def batch_of(weights=WEIGHTS, sizes=(20,), weight_sizes=(20,)):
    return weighted(table(ROWS, sizes), table(weights, weight_sizes, "w"), "table")


def pairs(batch):
    """Return the first value and the weight of each row that is loaded."""
    loaded = [chunk.loaded() for chunk in batch]
    return [
        pair
        for each in loaded
        for pair in zip(each.points[:, 0].tolist(), each.weights.tolist(), strict=True)
    ]


EXPECTED = list(zip(ROWS[:, 0].tolist(), WEIGHTS.tolist(), strict=True))


@pytest.mark.parametrize("sizes", [(20,), (7, 13), (1, 18, 1)])
@pytest.mark.parametrize("weight_sizes", [(20,), (12, 8), (3, 3, 14)])
def test_weights_may_be_cut_differently_than_rows(sizes, weight_sizes):
    assert pairs(batch_of(sizes=sizes, weight_sizes=weight_sizes)) == EXPECTED


@given(st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_every_part_of_a_batch_keeps_its_weights(start, stop, is_shuffled):
    batch = batch_of(sizes=(7, 13))
    if is_shuffled:
        batch = shuffled(batch, (1, 2))
        assert sorted(pairs(batch)) == sorted(EXPECTED)
    start, stop = sorted((start, stop))
    everything = pairs(batch)
    assert pairs(batch.rows_between(start, stop)) == everything[start:stop]


def test_chunks_of_different_weights_are_not_joined():
    (one,), (other,) = table(ROWS), table(ROWS)
    parts = Batch.concatenated([Batch((one.cut(0, 5),)), Batch((one.cut(5, 9),))]).parts
    assert len(parts) == 1
    whole = batch_of()
    assert len(Batch.concatenated([whole.rows_between(0, 5), whole.rows_between(5, 9)]).parts) == 1
    assert one.joined(other) is None
    (with_weights,) = whole.rows_between(5, 9)
    unweighted = with_weights.source
    assert Chunk(unweighted, 0, 5).joined(with_weights) is None


def test_rows_of_weight_zero_are_left_out_whatever_they_hold():
    rows, weights = ROWS.copy(), WEIGHTS.copy()
    rows[3], weights[[3, 8]] = np.nan, 0
    (chunk,) = weighted(table(rows), table(weights), "table")
    loaded = chunk.loaded()
    assert loaded.kept.tolist() == [i for i in range(20) if i not in (3, 8)]
    assert loaded.finite(3).tolist() == rows[loaded.kept].tolist()
    assert loaded.weights.tolist() == weights[loaded.kept].tolist()
    (chunk,) = shuffled(weighted(table(rows), table(weights), "table"), (2,))
    assert sorted(chunk.loaded().finite(3)[:, 0]) == sorted(rows[loaded.kept, 0])
    rows[9, 1] = np.inf
    (chunk,) = shuffled(weighted(table(rows), table(weights), "table"), (2,))
    with pytest.raises(InvalidData, match=r"row 9 of table has inf in column 1"):
        chunk.loaded()
    (chunk,) = weighted(table(rows), table(weights), "table")
    with pytest.raises(InvalidData, match=r"row 9 of table has inf in column 1"):
        chunk.loaded().finite(3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (-1.0, r"weights must be finite and >= 0; row 17 of w has -1.0"),
        (np.nan, r"row 17 of w has nan"),
        (np.inf, r"row 17 of w has inf"),
    ],
)
def test_bad_weights_are_named_by_their_row(bad, message, tmp_path):
    weights = WEIGHTS.copy()
    weights[17] = bad
    zarr.create_array(tmp_path / "w.zarr", data=weights, chunks=(12,))
    stored = from_zarr_array(zarr.open_array(tmp_path / "w.zarr"), "w")(None)
    for kind in (table(weights, (12, 8), "w"), stored):
        batch = weighted(table(ROWS, (7, 13)), kind, "table")
        for each in (batch, shuffled(batch, (3,)), batch.rows_between(15, 20)):
            for _ in range(2):
                with pytest.raises(InvalidData, match=message):
                    pairs(each)


def test_weights_in_memory_are_checked_once(monkeypatch):
    spans, check = [], row_weights._checked
    monkeypatch.setattr(row_weights, "_checked", lambda chunk: spans.append(chunk) or check(chunk))
    batch = batch_of(sizes=(7, 13), weight_sizes=(12, 8))
    assert pairs(batch) == pairs(batch) == EXPECTED
    assert len(spans) == 3


def test_weights_that_are_converted_are_held_once_for_any_cuts():
    weights = np.arange(1, 21)
    rows = weighted(table(ROWS, (20,)), table(weights, (20,), "w"), "table")
    (chunk,) = rows
    for start in range(15):
        found = chunk.weights.read(start, start + 5)
        assert found[:, 0].tolist() == list(range(start + 1, start + 6))
        assert found.base is chunk.weights.held[0][1]
    assert len(chunk.weights.held) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_weights_that_change_between_two_calls_are_read_and_checked_anew(dtype, tmp_path):
    weights = np.ones(20, dtype)
    dataset = Dataset.from_array(ROWS, weights)
    model = KMeans(1, str(tmp_path / "m"), initial_clusters=ROWS[:1], use_mini_batch=False)
    model.train(lambda: dataset, steps=1)
    weights[3] = 100
    assert model.evaluate(lambda: dataset)["average_loss"] == pytest.approx(
        np.average(np.square(ROWS - model.cluster_centers()).sum(axis=1), weights=weights)
    )
    weights[3] = -1
    with pytest.raises(InvalidData, match="weights must be finite and >= 0; row 3 of"):
        model.evaluate(lambda: dataset)


def test_zeros_are_looked_for_once_in_a_call_if_a_span_is_large(monkeypatch):
    looked, look = [], row_weights.have_no_zeros
    monkeypatch.setattr(row_weights, "have_no_zeros", lambda w: looked.append(len(w)) or look(w))
    weights = np.ones(10_000)
    (chunk,) = weighted(table(np.zeros(10_000), (10_000,)), table(weights, (10_000,)), "table")
    for _ in range(2):
        for part in (chunk, chunk.cut(0, 9_000), chunk.cut(5, 9)):
            assert part.loaded().kept is None
    assert looked == [10_000, 9_000, 4, 4]
    assert pickle.loads(pickle.dumps(chunk)).weights.positive == {}
    weights[7] = 0
    row_weights.begin_call()
    for _ in range(2):
        assert len(chunk.loaded().points) == 9_999
        assert chunk.cut(5, 9).loaded().kept.tolist() == [0, 1, 3]
    assert looked[4:] == [10_000, 4, 10_000, 4]


def test_few_spans_without_zeros_are_remembered_and_shared_with_other_leaves(monkeypatch):
    monkeypatch.setattr(row_weights, "_LARGE_SPAN", 1)
    monkeypatch.setattr(row_weights, "_MOST_SPANS", 3)
    (chunk,) = weighted(table(ROWS, (20,)), table(WEIGHTS, (20,)), "table")
    for start in range(10):
        assert chunk.cut(start, 20).loaded().kept is None
        assert 1 <= len(chunk.weights.positive) <= 3
    changed = chunk.with_leaves(lambda source: source)
    assert changed.weights.positive is chunk.weights.positive
    assert changed.weights.held == {}


def test_weights_that_are_held_do_not_travel_and_are_not_those_of_a_copy():
    weights = np.arange(20.0)
    batch = lent(batch_of(weights))
    pairs(batch)
    (chunk,) = batch
    assert len(chunk.weights.held) == 1
    assert len(pickle.loads(pickle.dumps(chunk.weights)).held) == 0
    copy = owned(batch)
    weights[:] = 7
    assert [weight for _, weight in pairs(copy)] == list(range(1, 20))


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float16, np.bool_])
def test_weights_may_be_numbers_of_any_kind(dtype):
    weights = (np.arange(20) % 2 + (dtype is not np.bool_)).astype(dtype)
    found = pairs(batch_of(weights))
    assert [weight for _, weight in found] == [weight for weight in weights.tolist() if weight]


def test_large_whole_weights_are_exact_or_refused():
    weights = np.full(20, 2**53)
    assert pairs(batch_of(weights))[0][1] == 2**53
    weights[4] += 1
    with pytest.raises(InvalidData, match=r"at most 2\^53 = 9,007.*, as integers; row 4 of w has"):
        pairs(batch_of(weights))
    with pytest.raises(InvalidData, match="finite and >= 0; row 3 of w has -1"):
        pairs(batch_of(np.where(np.arange(20) == 3, -1, 1)))


def test_weights_of_words_are_refused():
    with pytest.raises(TypeError, match=r"weights must be numbers, got .* in w"):
        batch_of(np.full(20, "x"))


def test_there_is_one_weight_for_each_row():
    with pytest.raises(InvalidData, match=r"one for each row of table, 20, got 19"):
        weighted(table(ROWS), table(WEIGHTS[:19], (19,)), "table")
    with pytest.raises(InvalidData, match=r"weights must be one column, got 3 in w"):
        weighted(table(ROWS), table(ROWS, name="w"), "table")


def test_weights_of_a_batch_are_rows_of_one_column():
    batch = shuffled(batch_of(sizes=(7, 13)), (5,))
    column = np.concatenate([chunk.loaded().points for chunk in weights_of(batch)])
    assert column[:, 0].tolist() == [weight for _, weight in pairs(batch)]
    ones = weights_of(batch.without_weights())
    assert [chunk.loaded().points.sum() for chunk in ones] == batch.sizes().tolist()
    assert batch.has_weights
    assert not batch.without_weights().has_weights
    assert all(chunk.loaded().weights is None for chunk in batch.without_weights())


def test_a_pickled_batch_has_its_weights():
    batch = shuffled(batch_of(sizes=(7, 13)), (5,))
    assert pairs(pickle.loads(pickle.dumps(batch))) == pairs(batch)


def test_stored_weights_are_cached_beside_their_rows():
    budget = CacheBudget("weights", 10_000, 10**12)
    column = Numbers(20, chunk_rows=20, key="stored")
    rows = table(ROWS)
    token = cache_budget.set(budget)
    try:
        batch = weighted(rows, Batch((Chunk(column, 0, 20),)), "table")
        (chunk,) = batch
        assert not chunk.is_at_hand
        assert chunk.loaded().weights.tolist() == list(range(1, 20))
        assert chunk.is_at_hand
        assert row_cache.bytes == 20 * 8
    finally:
        row_cache.evict_fit("weights")
        cache_budget.reset(token)


def test_a_table_in_memory_has_weights_without_a_key():
    (chunk,) = batch_of()
    assert isinstance(chunk.weights, RowWeights)
    assert chunk.weights.key is None


def test_columns_are_selected_before_and_after_weights_are_dropped():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0]})
    dataset = Dataset.from_array(frame, weights=np.array([1.0, 2.0]))
    for few in (
        dataset.select(["b", "c"]).without_weights().select(["c"]),
        dataset.without_weights().select(["b", "c"]).select(["c"]),
    ):
        (batch,) = few.batches()
        assert batch[0].load(1).tolist() == [[5.0], [6.0]]
        assert not batch.has_weights


def test_datasets_without_weights_have_the_same_rows():
    dataset = Dataset.from_array(ROWS, weights=WEIGHTS)
    (batch,) = dataset.without_weights().batches()
    assert not batch.has_weights
    assert batch.rows == 20


def with_holes(dtype):
    """Return rows and weights, which are zero where a row lacks a value or has an infinite one."""
    frame = pd.DataFrame(ROWS[:, :2], columns=["x", "y"]).round().astype(dtype)
    frame.loc[3, "x"] = frame.loc[[5, 7], "y"] = pd.NA if dtype == "Int32" else np.nan
    if dtype == "float32":
        frame.loc[8, "y"] = np.inf
    weights = frame.notna().all(axis=1).to_numpy(float)
    weights[8] = 0
    return frame, weights


TABLES = {
    "pandas": lambda frame, weights, path: Dataset.from_array(frame, weights),
    "polars": lambda frame, weights, path: Dataset.from_array(pl.from_pandas(frame), weights),
    "Dask": lambda frame, weights, path: (
        dd.from_pandas(frame, npartitions=2),
        {"weights": weights},
    ),
    "Parquet": lambda frame, weights, path: Dataset.from_parquet(
        stored(frame.assign(w=weights), path), weights="w"
    ),
    "Arrow": lambda frame, weights, path: Dataset.from_arrow(
        pyarrow.dataset.dataset(stored(frame.assign(w=weights), path)), weights="w"
    ),
    "iterator": lambda frame, weights, path: iter([(frame, {"weights": weights})]),
}


def stored(frame, path):
    frame.to_parquet(path / "rows.parquet")
    return str(path / "rows.parquet")


@pytest.mark.parametrize("dtype", ["float32", "Int32"])
@pytest.mark.parametrize("made", TABLES.values(), ids=TABLES)
def test_rows_of_weight_zero_may_lack_values_in_every_kind_of_table(made, dtype, tmp_path):
    frame, weights = with_holes(dtype)
    given = made(frame, weights, tmp_path)
    first = np.array([[0, 1], [12, 13]], np.float32)
    model = KMeans(2, None, first, use_mini_batch=False).train(lambda: given, steps=1)
    whole = frame[weights > 0].to_numpy(np.float32)
    expected = KMeans(2, None, first, use_mini_batch=False).train(lambda: whole, steps=1)
    assert model.cluster_centers().dtype == np.float32
    assert np.array_equal(model.cluster_centers(), expected.cluster_centers())


@pytest.mark.parametrize("made", [TABLES[name] for name in ("pandas", "Dask", "Parquet")])
@pytest.mark.parametrize("has_gap", [False, True])
def test_integers_that_would_be_rounded_are_refused_with_weights_as_without(
    made, has_gap, tmp_path
):
    frame = pd.DataFrame({"x": [0, 1, 2**24 + 1, 7], "y": [0, 1, 2, 2]}, dtype="Int64")
    weights = np.array([1.0, 1.0, 1.0, 0.0])
    if has_gap:
        frame.loc[3, "y"] = pd.NA
    with pytest.raises(InvalidData, match="integers that float32 holds exactly"):
        KMeans(2, None, use_mini_batch=False).train(lambda: made(frame, weights, tmp_path), steps=1)


@pytest.mark.parametrize(
    ("made", "where"),
    [
        (made, "'y'" if kind in ("Parquet", "Arrow") else "column 1")
        for kind, made in TABLES.items()
    ],
    ids=TABLES,
)
def test_rows_that_count_must_not_lack_values(made, where, tmp_path):
    frame, weights = with_holes("Int32")
    weights[5] = 2
    given = made(frame, weights, tmp_path)
    with pytest.raises(InvalidData, match=f"rows must be finite; row 5 of .* has nan in {where}"):
        KMeans(2, None, use_mini_batch=False).train(lambda: given, steps=1)
