"""Tables with named columns: selections of them, by names that later inputs know."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import Dataset, InvalidType
from dkmeans.data.sources.named_rows import Selector, grouped


def test_columns_are_selected_with_and_without_the_lengths_of_lists(tmp_path):
    pq.write_table(pa.table({"v": [[1.0, 2.0]], "a": [3]}), tmp_path / "rows.parquet")
    (source,) = next(Dataset.from_parquet(str(tmp_path)).batches()).sources()
    assert source.described == ("v[2]", "a")
    for name in ("v", "v[2]"):
        chosen = source.select(["a", name])
        assert (chosen.columns, chosen.width, chosen.row_bytes) == (("a", "v"), 3, 24)


def test_files_of_one_schema_share_a_selection_whatever_their_metadata_is():
    selector, schema = Selector(None, {}, None), pa.schema({"a": pa.int8()})
    first = selector.select(schema, "1")
    assert selector.select(schema.with_metadata({"written": "by another program"}), "2") is first
    with pytest.raises(InvalidType, match=r"'a' \(date32\[day\]\) of 3 hold no numbers"):
        selector.select(pa.schema({"a": pa.date32()}), "3")


def test_row_groups_are_gathered_up_to_a_number_of_rows():
    assert list(grouped([2, 3, 9, 1, 1], 5)) == [(0, 1), (2,), (3, 4)]
