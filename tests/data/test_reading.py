"""How a table is read: cut once for each size, with columns that are selected."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import InvalidType
from dkmeans.data.arrays import cut_of
from dkmeans.data.reading import CutOnce, Select
from dkmeans.data.sources.parquet import from_parquet_files
from tests.data.sources.rows import loaded_batch

ROWS = np.arange(12.0).reshape(4, 3)


def test_a_table_is_cut_once_for_each_size():
    sizes = []

    def cut(chunk_bytes):
        sizes.append(chunk_bytes)
        return cut_of(ROWS, "rows")(chunk_bytes)

    whole = CutOnce(cut)
    assert whole(None) is whole(None)
    assert whole(24) is whole(24)
    assert sizes == [None, 24]


def test_a_copy_in_another_process_cuts_the_table_again():
    copy = pickle.loads(pickle.dumps(CutOnce(cut_of(ROWS, "rows"))))
    assert np.array_equal(loaded_batch(copy(None)), ROWS)


def test_columns_are_selected_by_their_places():
    batch = cut_of(ROWS, "rows")(None)
    select = Select(("c", "a"), ("a", "b", "c"))
    assert np.array_equal(loaded_batch(select(batch)), ROWS[:, [2, 0]])


def test_columns_of_words_may_be_selected_but_not_read(tmp_path):
    pq.write_table(pa.table({"a": [1.0], "word": ["x"]}), tmp_path / "rows.parquet")
    batch = from_parquet_files([str(tmp_path / "rows.parquet")], None, None, None)(None)
    select = Select(("word",), ("a", "word"))
    assert select.of(batch).source.width == 1
    with pytest.raises(InvalidType, match="word"):
        select(batch)
