"""Chunks: they are loaded whole or in part, and bad rows are named."""

from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, InvalidData
from dkmeans.data.cache import CacheBudget, cache_budget, row_cache
from dkmeans.data.chunks import (
    GPU_TARGET_BYTES,
    TARGET_BYTES,
    Chunk,
    chunk_bytes_for,
    even_rows,
    finite_points,
    rows_per_chunk,
)
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.data.views import Columns
from tests.data.sources.rows import chunks_of
from tests.data.twenty_rows import ROWS, chunk_of, spans
from tests.numbered import Numbers


@given(st.data())
def test_a_part_of_a_part_is_what_slicing_says(data):
    chunk, rows = chunk_of(ROWS), ROWS
    for _ in range(data.draw(st.integers(0, 3))):
        start, stop = data.draw(spans(chunk.rows))
        chunk, rows = chunk.cut(start, stop), rows[start:stop]
    assert chunk.rows == len(rows)
    assert np.array_equal(chunk.load(3), rows)


def test_a_chunk_is_of_about_the_target():
    assert rows_per_chunk(8) == TARGET_BYTES // 8
    assert rows_per_chunk(10 * TARGET_BYTES) == 1
    assert rows_per_chunk(0) == TARGET_BYTES


def test_chunks_are_of_whole_units_of_storage():
    assert even_rows(10**8, 8, unit=1000) % 1000 == 0
    assert 0.9 * TARGET_BYTES < 8 * even_rows(10**8, 8, unit=1000) <= TARGET_BYTES
    assert even_rows(10**8, 8, unit=TARGET_BYTES) == TARGET_BYTES
    assert even_rows(25_000, 256, unit=1000) == 3000  # 6.4 MB: a part for each of eight threads


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


def test_chunks_for_large_models_have_more_rows_than_sums():
    assert chunk_bytes_for(128 * 1000, None, 4) is None
    assert chunk_bytes_for(1000 * 384, None, 4) == 8 * 8 * 1000 * 384
    assert chunk_bytes_for(10_000 * 768, 2**40, 4) == 32 * 2**20
    # Enough of them that all threads have some.
    assert chunk_bytes_for(10_000 * 768, 2**29, 8) == 2**24
    assert chunk_bytes_for(10_000 * 768, 2**29, 4) == 2**25
    assert chunk_bytes_for(10_000 * 768, 2**29, 16) is None


def test_chunks_for_gpus_are_large_and_small_tables_still_have_some():
    def chunks(rows, bytes_per_row=400):
        size = even_rows(rows, bytes_per_row, chunk_bytes=GPU_TARGET_BYTES)
        assert size * bytes_per_row <= GPU_TARGET_BYTES
        return -(-rows // size)

    assert rows_per_chunk(8, GPU_TARGET_BYTES) == GPU_TARGET_BYTES // 8
    assert chunks(10_000_000) == 32
    assert chunks(1_000_000) == 8
    assert chunks(100_000) == 5
    assert chunks(25_000) == 2
    assert chunks(20_000) == 1


def test_a_chunk_of_another_size_of_the_same_rows_is_another_one_in_the_cache(tmp_path):
    path = str(tmp_path / "rows.zarr")
    rows = np.arange(40.0).reshape(20, 2)
    zarr.create_array(path, data=rows, chunks=(5, 2))
    (part,) = next(Dataset.from_zarr(path).batches()).parts
    token = cache_budget.set(CacheBudget("two sizes", 10**6, 10**12))
    try:
        for size in (5, 20, 5):
            whole = replace(part, source=replace(part.source, chunk_rows=size))
            np.testing.assert_array_equal(np.vstack([c.load(2) for c in whole.chunks()]), rows)
            assert whole.chunk(0).is_at_hand
    finally:
        cache_budget.reset(token)
        row_cache.evict_fit("two sizes")


def test_a_chunk_of_columns_is_at_hand_when_these_very_rows_are_cached():
    stored = (Chunk(Numbers(20, chunk_rows=5, key=name), 0, 20) for name in "xy")
    chunks = list(Chunk(Columns(tuple(stored)), 0, 20).chunks())
    token = cache_budget.set(CacheBudget("columns", 10**6, 10**12))
    try:
        assert [chunk.is_at_hand for chunk in chunks] == [False] * 4
        chunks[0].load(2)
        assert [chunk.is_at_hand for chunk in chunks] == [True, False, False, False]
        assert not Chunk(chunks[0].source, 0, 10).is_at_hand  # the second half is not
    finally:
        cache_budget.reset(token)
        row_cache.evict_fit("columns")


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
    assert "values of table are up to 1e+200, too large" in str(complaint)
    assert "scale" in str(complaint)


def test_a_loaded_chunk_has_its_rows_and_refuses_another_width():
    rows = np.arange(12.0).reshape(4, 3)
    loaded = Chunk(MemoryRows(rows, "the rows"), 1, 3).loaded()
    np.testing.assert_array_equal(loaded.of_width(3), rows[1:3])
    with pytest.raises(InvalidData, match="the rows must give rows of 2 columns"):
        loaded.of_width(2)


def test_a_loaded_chunk_names_its_first_row_that_is_not_finite():
    rows = np.ones((4, 3))
    rows[2, 1] = np.nan
    loaded = Chunk(MemoryRows(rows, "the rows"), 1, 4).loaded()
    with pytest.raises(InvalidData, match="row 2 of the rows has nan in column 1"):
        loaded.finite(3)
