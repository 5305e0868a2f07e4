"""Rows in memory: arrays in chunks, and placeholders for arrays."""

import numpy as np
import pytest

from dkmeans.data.chunks import SMALLEST_BYTES
from dkmeans.data.sources.memory import MemoryRows, ShippedRows, from_array, lent, owned
from dkmeans.errors import InvalidData
from tests.data.sources.rows import ROWS


def test_chunks_of_an_array_are_views_of_it_and_of_about_the_same_size():
    array = np.arange(3 * SMALLEST_BYTES // 4, dtype=np.float32).reshape(-1, 4)
    chunks = list(from_array(array, "rows"))
    sizes = [chunk.rows for chunk in chunks]
    assert len(chunks) == 3
    assert max(sizes) - min(sizes) <= 1
    assert all(np.shares_memory(chunk.load(4), array) for chunk in chunks)
    assert np.array_equal(np.vstack([chunk.load(4) for chunk in chunks]), array)


def test_rows_in_memory_are_equal_only_to_themselves():
    source = MemoryRows(ROWS, "rows")
    assert source == source
    assert source != MemoryRows(ROWS, "rows")


def test_rows_that_are_lent_are_copied_to_be_kept_and_no_others():
    array = ROWS.copy()
    own = from_array(array, "rows")
    assert owned(own) is own
    batch = owned(lent(own))
    array[:] = 0
    assert np.array_equal(batch[0].load(ROWS.shape[1]), ROWS)
    assert owned(batch) is batch


def test_rows_that_were_not_shipped_with_their_task_are_named():
    source = ShippedRows(0, "the array", 50, 4, np.float32, 0)
    with pytest.raises(RuntimeError, match="the array was not shipped with the task"):
        source.read(0, 50)


def test_rows_that_arrive_must_have_the_shape_of_their_placeholder():
    placeholder = ShippedRows(0, "rows", 3, 2, "f4", 10)
    rows = np.arange(6, dtype="f4").reshape(3, 2)
    assert placeholder.filled(rows).read(11, 13).tolist() == [[2, 3], [4, 5]]
    with pytest.raises(
        InvalidData, match=r"\(3, 2\) for the one that begins at row 10, got \(4, 2"
    ):
        placeholder.filled(np.zeros((4, 2), "f4"))
