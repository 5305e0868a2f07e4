"""Views: rows read through other sources, compared with plain NumPy."""

import pickle
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, InvalidData
from dkmeans.data.chunks import Chunk
from dkmeans.data.shuffling import Shuffled
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.data.views import Columns, Joined, Picked, Selected
from tests.data.sources.rows import chunks_of
from tests.data.twenty_rows import ROWS, chunk_of, spans


def loaded(source, start, stop):
    return Chunk(source, start, stop).load(source.width)


@given(spans(), st.integers(0, 5))
def test_columns_side_by_side_are_as_stacked_by_numpy(span, offset):
    start, stop = span
    others = np.arange(50, dtype=np.float32).reshape(25, 2)
    parts = (chunk_of(ROWS), Chunk(MemoryRows(others, "others"), offset, offset + 20))
    source = Columns(parts)
    expected = np.hstack([ROWS, others[offset : offset + 20]])
    assert (source.rows, source.width, source.dtype) == (20, 5, np.float64)
    assert source.name == "rows + others"
    assert np.array_equal(loaded(source, start, stop), expected[start:stop])


def test_columns_of_small_types_are_float32_side_by_side():
    parts = (chunk_of(np.ones((3, 1), np.int8)), chunk_of(np.zeros((3, 1), np.float16)))
    source = Columns(parts)
    assert source.dtype == np.float32
    assert loaded(source, 0, 3).dtype == np.float32


@given(st.lists(st.integers(0, 14), max_size=10), st.data())
def test_picked_rows_are_as_indexed_by_numpy(numbers, data):
    source = Picked(chunk_of(ROWS).cut(5, 20), tuple(numbers))
    start, stop = data.draw(spans(len(numbers)))
    expected = ROWS[5:20][numbers][start:stop]
    assert (source.rows, source.width, source.dtype) == (len(numbers), 3, np.float64)
    assert np.array_equal(loaded(source, start, stop), expected)


def test_a_picked_row_that_is_not_finite_is_named_by_its_own_number():
    rows = ROWS.copy()
    rows[12, 1] = np.nan
    chunk = chunk_of(rows, "table", first=1000).cut(10, 20)
    with pytest.raises(InvalidData, match="row 1012 of table has nan in column 1"):
        loaded(Picked(chunk, (4, 2)), 0, 2)
    assert np.array_equal(loaded(Picked(chunk, (4, 1)), 0, 2), rows[[14, 11]])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 9), st.data())
def test_joined_chunks_are_as_concatenated_by_numpy(sizes, first, data):
    stops = np.cumsum([3, *sizes])
    rows = np.arange(3 * stops[-1], dtype=np.float32).reshape(-1, 3)
    source = Joined(tuple(chunk_of(rows).cut(a, b) for a, b in pairwise(stops)), first)
    start, stop = data.draw(spans(source.rows))
    assert (source.rows, source.width, source.dtype) == (sum(sizes), 3, np.float32)
    assert np.array_equal(loaded(source, first + start, first + stop), rows[3:][start:stop])


def test_joined_chunks_of_two_precisions_are_float64():
    source = Joined((chunk_of(ROWS.astype(np.float32)), chunk_of(ROWS)), 0)
    assert source.dtype == np.float64
    assert loaded(source, 0, 40).dtype == np.float64


def test_joined_rows_that_are_not_finite_are_named_by_their_source():
    bad = ROWS.copy()
    bad[4, 0] = np.inf
    source = Joined((chunk_of(ROWS, "good"), chunk_of(bad, "bad", 20)), 0)
    with pytest.raises(InvalidData, match="row 24 of bad has inf in column 0"):
        loaded(source, 0, 40)


def test_the_leaves_of_any_view_can_be_replaced():
    doubled = {}

    def change(source):
        return doubled.setdefault(source, MemoryRows(source.array * 2, source.name, source.first))

    leaf = chunk_of(ROWS)
    sides = Columns((leaf, leaf))
    views = [
        sides,
        Shuffled(Chunk(sides, 2, 18), (1, 2, 3)),
        Picked(Chunk(sides, 2, 18), (0, 3, 3)),
        Joined((Chunk(sides, 0, 5), Chunk(sides, 9, 12)), 0),
    ]
    for view in views:
        changed = view.with_leaves(change)
        assert np.array_equal(loaded(changed, 0, changed.rows), loaded(view, 0, view.rows) * 2)
    assert len(doubled) == 1


# Pickling.


def datasets(folder):
    rows = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    zarr.create_array(str(folder / "rows.zarr"), data=rows, chunks=(500, 8))
    np.save(folder / "rows.npy", rows)
    table = pa.table({f"column {i}": rows[:, i] for i in range(8)})
    pq.write_table(table, folder / "rows.parquet", row_group_size=500)
    return rows, {
        "zarr": Dataset.from_zarr(str(folder / "rows.zarr")),
        "npy": Dataset.from_npy(str(folder / "rows.npy")),
        "parquet": Dataset.from_parquet(str(folder / "rows.parquet")),
        "shuffled npy": Dataset.from_npy(str(folder / "rows.npy")).shuffle(1),
    }


def test_chunks_of_stored_tables_pickle_without_their_rows(tmp_path):
    rows, stored = datasets(tmp_path)
    for name, dataset in stored.items():
        for chunk in chunks_of(dataset):
            pickled = pickle.dumps(chunk)
            assert len(pickled) < 5000, name
            again = pickle.loads(pickled)
            assert np.array_equal(again.load(8), chunk.load(8))
            if "shuffled" not in name:
                assert np.array_equal(again.load(8), rows[chunk.start : chunk.stop])


def test_selected_values_keep_the_numbers_of_their_rows():
    source = MemoryRows(np.arange(12.0).reshape(4, 3), "rows", 7)
    view = Selected(source, (2, 0))
    assert (view.first, view.rows, view.width, view.chunk_rows) == (7, 4, 2, None)
    assert Chunk(view, 8, 10).load(2).tolist() == [[5, 3], [8, 6]]
    shipped = view.with_leaves(lambda leaf: MemoryRows(leaf.array * 2, leaf.name, leaf.first))
    assert Chunk(shipped, 8, 9).load(2).tolist() == [[10, 6]]


def test_integers_beside_float64_are_exact_or_refused():
    def beside(integers):
        parts = (np.array([[0.5], [1.5]]), np.array(integers)[:, None])
        chunks = tuple(Chunk(MemoryRows(part, "rows", 0), 0, 2) for part in parts)
        return loaded(Columns(chunks), 0, 2)

    assert beside([2**24 + 1, -(2**53)]).tolist() == [[0.5, 2**24 + 1], [1.5, -(2**53)]]
    for wrong in (2**53 + 1, 2**63 - 1):
        with pytest.raises(InvalidData, match=f"integers that float64 holds exactly; got {wrong}"):
            beside([1, wrong])
