"""Chunks: what counts as rows, how they are loaded, and views of them."""

import pickle
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans import Dataset, InvalidData, InvalidType
from dkmeans.chunks import (
    TARGET_BYTES,
    Chunk,
    Columns,
    Joined,
    Picked,
    Shuffled,
    as_points,
    cut,
    even_rows,
    finite_points,
    point_dtype,
    rows_per_chunk,
)
from dkmeans.sources.memory import MemoryRows

ROWS = np.random.default_rng(5).normal(size=(20, 3))
fast = settings(max_examples=40, deadline=None)


def chunk_of(array, name="rows", first=0):
    return Chunk(MemoryRows(array, name, first), first, first + len(array))


def chunks_of(dataset):
    return [chunk for batch in dataset.batches() for chunk in batch]


@st.composite
def spans(draw, length=20):
    start = draw(st.integers(0, length))
    return start, draw(st.integers(start, length))


# What counts as rows.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_are_rows_already_are_not_copied(dtype):
    rows = ROWS.astype(dtype)
    points = as_points(rows, "rows")
    assert points.dtype == dtype
    assert np.shares_memory(points, rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_other_byte_order_is_turned_round(dtype):
    points = as_points(ROWS.astype(np.dtype(dtype).newbyteorder("S")), "rows")
    assert points.dtype == np.dtype(dtype)
    assert points.dtype.isnative
    assert np.array_equal(points, ROWS.astype(dtype))


@pytest.mark.parametrize(
    "rows",
    [np.asfortranarray(ROWS), ROWS[::2], ROWS[:, ::-1], ROWS[:, :2]],
    ids=["Fortran", "every other row", "columns reversed", "some columns"],
)
def test_rows_in_any_layout_become_contiguous(rows):
    points = as_points(rows, "rows")
    assert points.flags.c_contiguous
    assert np.array_equal(points, rows)


@pytest.mark.parametrize(
    "dtype", ["f2", "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4"]
)
def test_other_real_numbers_become_float32(dtype):
    rows = np.arange(12).reshape(4, 3).astype(dtype)
    points = as_points(rows, "rows")
    assert points.dtype == np.float32
    assert points.dtype.isnative
    assert np.array_equal(points, rows)


def test_nested_lists_are_rows():
    assert np.array_equal(as_points([[1, 2], [3, 4]], "rows"), [[1, 2], [3, 4]])


@pytest.mark.parametrize("value", [2**24, -(2**24)])
def test_the_largest_exact_integer_is_taken(value):
    assert as_points(np.array([[value]]), "rows")[0, 0] == value


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("value", [2**24 + 1, -(2**24) - 1])
def test_an_integer_that_float32_lacks_is_refused_with_the_remedy(dtype, value):
    with pytest.raises(InvalidData, match=f"ages .*got {value}.*float64"):
        as_points(np.array([[1, value, 0]], dtype), "ages")


def test_the_extremes_of_64_bits_are_refused_by_their_values():
    with pytest.raises(InvalidData, match=f"got {2**64 - 1}"):
        as_points(np.array([[2**64 - 1]], np.uint64), "rows")
    with pytest.raises(InvalidData, match=f"got {-(2**63)}"):
        as_points(np.array([[-(2**63)]], np.int64), "rows")


def test_no_integers_at_all_are_no_rows():
    assert as_points(np.empty((0, 3), np.int64), "rows").shape == (0, 3)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((2, 2), complex),
        np.array([["a", "b"]]),
        np.array([[1, None]], object),
        np.array([["2020-01-01"]], "M8[D]"),
        np.array([[1]], "m8[s]"),
    ],
    ids=["complex", "text", "objects", "dates", "durations"],
)
def test_what_is_no_real_number_is_a_type_error(values):
    with pytest.raises(InvalidType, match=r"^rows must hold real numbers, got dtype") as caught:
        as_points(values, "rows")
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4)])
def test_other_than_two_dimensions_are_refused_by_their_shape(shape):
    with pytest.raises(InvalidData) as caught:
        as_points(np.zeros(shape), "rows")
    assert str(shape) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_ragged_lists_are_refused():
    with pytest.raises(InvalidData, match="rows must be a table of numbers"):
        as_points([[1, 2], [3]], "rows")


def test_only_float64_is_computed_in_float64():
    for dtype in ("f2", "f4", "i8", "?", ">f4"):
        assert point_dtype(dtype) == np.float32
    assert point_dtype(">f8") == np.float64
    assert point_dtype(">f8").isnative


# Chunks.


@fast
@given(st.data())
def test_a_part_of_a_part_is_what_slicing_says(data):
    chunk, rows = chunk_of(ROWS), ROWS
    for _ in range(data.draw(st.integers(0, 3))):
        start, stop = data.draw(spans(chunk.rows))
        chunk, rows = chunk.cut(start, stop), rows[start:stop]
    assert chunk.rows == len(rows)
    assert np.array_equal(chunk.load(3), rows)


@fast
@given(st.integers(1, 30))
def test_a_source_is_cut_without_a_gap(size):
    chunks = cut(MemoryRows(ROWS, "rows"), size)
    assert {chunk.rows for chunk in chunks[:-1]} <= {size}
    assert np.array_equal(np.vstack([chunk.load(3) for chunk in chunks]), ROWS)


def test_the_library_cuts_whole_storage_chunks_of_about_the_target():
    assert rows_per_chunk(8) == TARGET_BYTES // 8
    assert rows_per_chunk(8, unit=1000) % 1000 == 0
    assert 8 * rows_per_chunk(8, unit=1000) <= TARGET_BYTES
    assert rows_per_chunk(10 * TARGET_BYTES) == 1
    assert rows_per_chunk(8, unit=TARGET_BYTES) == TARGET_BYTES
    assert rows_per_chunk(0) == TARGET_BYTES


def test_tables_are_shared_out_evenly_among_eight_threads():
    def chunks(rows, bytes_per_row):
        return -(-rows // even_rows(rows, bytes_per_row))

    assert chunks(1_000_000, 12) == 8
    assert chunks(1_000_000, 256) == 32
    assert chunks(1000, 400) == 1
    assert chunks(0, 400) == 0
    for rows in (341_479, 10_000_019):
        size = even_rows(rows, 400)
        assert size * 400 <= TARGET_BYTES
        assert rows - (chunks(rows, 400) - 1) * size > 0.95 * size


def test_rows_of_another_width_than_the_centers_are_refused():
    with pytest.raises(InvalidData, match=r"^table must give rows of 2 columns.*\(20, 3\)"):
        chunk_of(ROWS, "table").load(2)


def test_a_source_that_gives_too_few_rows_is_refused():
    with pytest.raises(InvalidData, match=r"\(20, 3\) for 25 rows"):
        Chunk(MemoryRows(ROWS, "rows"), 0, 25).load(3)


def test_whatever_a_source_raises_names_the_rows_and_the_source(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, ROWS)
    (chunk,) = chunks_of(Dataset.from_npy(str(path)))
    path.unlink()
    with pytest.raises(
        InvalidData, match=f"rows 3 to 6 of {path} cannot be read: FileNotFoundError"
    ) as caught:
        chunk.cut(3, 7).load(3)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_row_column_and_source(value):
    rows = ROWS.copy()
    rows[7, 2] = rows[9, 0] = value
    chunk = chunk_of(rows, "table", first=100)
    with pytest.raises(InvalidData) as caught:
        finite_points(chunk, 3)
    message = str(caught.value)
    assert "row 107 of table" in message
    assert f"{value} in column 2" in message
    assert "2 such rows among rows 100 to 119" in message
    assert "row 109 of table" in str(chunk.cut(8, 20).complaint(rows[8:]))


def test_finite_rows_are_given_as_they_are():
    assert np.array_equal(finite_points(chunk_of(ROWS), 3), ROWS)


def test_values_too_large_to_square_are_named():
    rows = ROWS.copy()
    rows[3, 1] = -1e200
    complaint = chunk_of(rows, "table").complaint(rows)
    assert "table has values up to 1e+200" in str(complaint)
    assert "scale" in str(complaint)


# Views: what plain NumPy says.


def loaded(source, start, stop):
    return Chunk(source, start, stop).load(source.width)


@fast
@given(spans(), st.integers(0, 5))
def test_columns_side_by_side_are_what_hstack_says(span, offset):
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


@fast
@given(spans(), spans(), st.integers(0, 2**63))
def test_shuffled_rows_are_the_same_permutation_however_they_are_sliced(inner, span, seed):
    chunk = chunk_of(ROWS).cut(*inner)
    source = Shuffled(chunk, (seed, 0, 1))
    start, stop = (min(number, chunk.rows) for number in span)
    rows = ROWS[slice(*inner)]
    whole = loaded(source, 0, source.rows)
    assert np.array_equal(np.sort(whole, axis=0), np.sort(rows, axis=0))
    assert np.array_equal(loaded(source, start, stop), whole[start:stop])
    assert (source.rows, source.width, source.dtype) == (len(rows), 3, np.float64)


def test_another_key_gives_another_order():
    orders = {
        loaded(Shuffled(chunk_of(ROWS), key), 0, 20).tobytes()
        for key in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    }
    assert len(orders) == 4


@fast
@given(st.lists(st.integers(0, 14), max_size=10), st.data())
def test_picked_rows_are_what_indexing_says(numbers, data):
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


@fast
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 9), st.data())
def test_joined_chunks_are_what_concatenate_says(sizes, first, data):
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


def test_the_leaves_of_any_view_can_be_exchanged():
    double = {}

    def change(source):
        return double.setdefault(source, MemoryRows(source.array * 2, source.name, source.first))

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
    assert len(double) == 1


# What travels.


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


def test_chunks_of_what_is_stored_travel_without_their_rows(tmp_path):
    rows, stored = datasets(tmp_path)
    for name, dataset in stored.items():
        for chunk in chunks_of(dataset):
            pickled = pickle.dumps(chunk)
            assert len(pickled) < 5000, name
            again = pickle.loads(pickled)
            assert np.array_equal(again.load(8), chunk.load(8))
            if "shuffled" not in name:
                assert np.array_equal(again.load(8), rows[chunk.start : chunk.stop])
