"""Columns of Arrow: types that hold numbers or words, widths, and missing values."""

import numpy as np
import pyarrow as pa
import pytest

from dkmeans import InvalidData
from dkmeans.data.sources.arrow_values import (
    dtype_of,
    fill,
    holds_numbers,
    holds_words,
    index_columns,
    values_of,
    with_gaps,
)

NUMBERS = {
    pa.float16(): "f2",
    pa.uint8(): "u1",
    pa.int64(): "i8",
    pa.bool_(): "?",
    pa.decimal128(9, 2): "f8",
    pa.list_(pa.float32()): "f4",
    pa.dictionary(pa.int8(), pa.int32()): "i4",
    pa.list_(pa.dictionary(pa.int8(), pa.float64()), 3): "f8",
}


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_types_of_numbers_have_a_dtype(kind):
    assert holds_numbers(kind)
    assert not holds_words(kind)
    assert dtype_of(kind) == np.dtype(NUMBERS[kind])


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_binary(), pa.list_(pa.string_view())], ids=str
)
def test_types_of_words_are_objects(kind):
    assert holds_words(kind)
    assert not holds_numbers(kind)
    assert dtype_of(kind) == np.dtype(object)


@pytest.mark.parametrize(
    "kind", [pa.timestamp("s"), pa.null(), pa.list_(pa.list_(pa.int8()))], ids=str
)
def test_other_types_hold_neither(kind):
    assert not holds_numbers(kind)
    assert not holds_words(kind)


def test_columns_are_written_side_by_side_in_the_order_of_their_names():
    piece = pa.record_batch({"a": [1, 2], "b": [[0.5, 1.5], [2.5, 3.5]]})
    rows = np.empty((2, 4))
    fill(rows, piece, ("b", "a", "a"), (2, 1, 1), 0, "table")
    assert rows.tolist() == [[0.5, 1.5, 1, 1], [2.5, 3.5, 2, 2]]


@pytest.mark.parametrize(
    ("values", "width", "message"),
    [
        ([1, None], 1, "row 8 of table has no 'a'"),
        ([[1.0], [None]], 1, "row 8 of table has a gap in 'a'"),
        ([[1.0], None], 1, "row 8 of table has no 'a'"),
        ([[1.0, 2.0], [3.0]], 2, "'a' must all have 2 values.* row 8 of table has 1"),
    ],
)
def test_missing_values_are_refused_by_row_and_column(values, width, message):
    with pytest.raises(InvalidData, match=message):
        values_of(pa.array(values), "a", width, 7, "table")


def test_integers_that_floats_would_round_are_refused_by_their_column():
    piece = pa.record_batch({"a": [0.5, 1.5], "id": [2**53 + 1, 2]})
    with pytest.raises(InvalidData, match="column 'id' of table must hold integers that float64"):
        fill(np.empty((2, 2)), piece, ("a", "id"), (1, 1), 0, "table")


def test_gaps_are_nan_or_none_and_large_integers_stay_exact():
    column = values_of(pa.array([1, None]), "a", 1, 0, "table", has_gaps=True)
    assert np.isnan(with_gaps(column)[1])
    assert with_gaps(pa.array([2**60 + 1, None])).tolist() == [2**60 + 1, None]


def test_an_index_is_known_by_metadata_or_by_its_name():
    schema = pa.schema({"id": pa.int8(), "x": pa.int8(), "__index_level_0__": pa.int8()})
    assert index_columns(schema) == ["__index_level_0__"]
    schema = schema.with_metadata({"pandas": '{"index_columns": ["id", {"kind": "range"}]}'})
    assert index_columns(schema) == ["id", "__index_level_0__"]
    assert index_columns(schema.with_metadata({"pandas": "damaged"})) == ["__index_level_0__"]
