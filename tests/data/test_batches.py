"""Batches: short descriptions of many chunks, against plain lists of row numbers."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.shuffling import shuffled
from tests.numbered import Numbers


def rows_of(chunk):
    return chunk.load(1)[:, 0].astype(int).tolist()


def chunks_of(batch):
    return [rows_of(chunk) for chunk in batch]


def flat(chunks):
    return [row for chunk in chunks for row in chunk]


@st.composite
def parts(draw):
    """A part of a source, and the chunks that it should have."""
    rows = draw(st.integers(1, 40))
    size = draw(st.none() | st.integers(1, 12))
    start = draw(st.integers(0, rows - 1))
    stop = draw(st.integers(start + 1, rows))
    borders = {start, stop} | (set(range(0, rows, size)) if size else set())
    borders = sorted(b for b in borders if start <= b <= stop)
    expected = [list(range(a, b)) for a, b in pairwise(borders)]
    return Chunk(Numbers(rows, size), start, stop), expected


@st.composite
def batches(draw):
    """A batch, plain or shuffled or both one after the other, and its chunks."""
    drawn = draw(st.lists(parts(), min_size=1, max_size=4))
    plain = Batch.of(*(part for part, _ in drawn))
    expected = [chunk for _, chunks in drawn for chunk in chunks]
    kind = draw(st.sampled_from(["plain", "shuffled", "both"]))
    if kind == "plain":
        return plain, expected
    mixed = shuffled(plain, (draw(st.integers(0, 9)),))
    order = chunks_of(mixed)
    assert sorted(flat(order)) == sorted(flat(expected))
    return (mixed, order) if kind == "shuffled" else (plain + mixed, expected + order)


@given(batches())
def test_a_batch_is_a_sequence_of_its_chunks(drawn):
    batch, expected = drawn
    assert chunks_of(batch) == expected
    assert len(batch) == len(expected)
    assert [rows_of(batch[i]) for i in range(len(batch))] == expected
    assert batch.rows == len(flat(expected))
    assert batch.sizes().tolist() == [len(chunk) for chunk in expected]
    with pytest.raises(IndexError):
        batch[len(batch)]


@given(batches(), st.data())
def test_chunks_between_two_numbers_are_a_slice_of_the_list(drawn, data):
    batch, expected = drawn
    start = data.draw(st.integers(0, len(batch)))
    stop = data.draw(st.integers(start, len(batch)))
    assert chunks_of(batch.chunks_between(start, stop)) == expected[start:stop]


@given(batches(), st.data())
def test_rows_between_two_numbers_are_a_slice_of_the_rows(drawn, data):
    batch, expected = drawn
    start = data.draw(st.integers(0, batch.rows))
    stop = data.draw(st.integers(start, batch.rows))
    found = batch.rows_between(start, stop)
    assert flat(chunks_of(found)) == flat(expected)[start:stop]
    assert all(chunks_of(found))
    # Chunks stay what they were, but for the first and the last.
    assert all(chunk in expected for chunk in chunks_of(found)[1:-1])


@given(batches(), st.data())
def test_a_part_of_a_part_is_what_slicing_twice_says(drawn, data):
    batch, expected = drawn
    rows = flat(expected)
    for _ in range(3):
        start = data.draw(st.integers(0, batch.rows))
        stop = data.draw(st.integers(start, batch.rows))
        batch, rows = batch.rows_between(start, stop), rows[start:stop]
    assert flat(chunks_of(batch)) == rows


@given(batches())
def test_a_batch_travels_as_its_parts(drawn):
    batch, expected = drawn
    assert len(batch), batch.rows  # stored in the batch, but they do not travel
    assert chunks_of(pickle.loads(pickle.dumps(batch))) == expected


def test_a_petabyte_is_described_in_a_few_bytes():
    batch = Batch.of(Chunk(Numbers(10**12, 10**6), 0, 10**12))
    assert len(batch) == 10**6
    assert rows_of(batch[10**6 - 1].cut(0, 2)) == [999_999_000_000, 999_999_000_001]
    half = batch.chunks_between(500_000, 10**6)
    assert len(half) == 500_000
    assert len(pickle.dumps(half)) < 1000
    assert batch.rows_between(5, 10**9 + 5).rows == 10**9


def test_parts_without_rows_are_left_out():
    empty, full = Chunk(Numbers(5, 2), 3, 3), Chunk(Numbers(5, 2), 3, 5)
    assert chunks_of(Batch.of(empty, full, empty)) == [[3], [4]]
    assert Batch.of(empty).rows == len(Batch.of(empty)) == 0
    assert chunks_of(shuffled(Batch(), (1,))) == []


# Numbers.


@st.composite
def mixed_batches(draw):
    """Some sources' rows in chunks of any size, perhaps shuffled."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        rows, size = draw(st.integers(1, 30)), draw(st.one_of(st.none(), st.integers(1, 7)))
        part = Batch((Chunk(Numbers(rows, size), 0, rows),))
        parts.append(shuffled(part, (1,)) if draw(st.booleans()) else part)
    return sum(parts, Batch())


@given(mixed_batches(), st.data())
def test_a_chunk_of_a_numbered_batch_knows_the_number_of_its_first_row(batch, data):
    numbered = batch.numbered()
    starts = np.cumsum([0, *batch.sizes()])[:-1].tolist()
    assert [chunk.number for chunk in numbered] == starts
    assert [numbered[i].number for i in range(len(numbered))] == starts
    assert chunks_of(numbered) == chunks_of(batch)
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, batch.rows)] * 2)))
    rows = flat(chunks_of(batch))
    for chunk in pickle.loads(pickle.dumps(numbered.rows_between(low, high))):
        assert rows_of(chunk) == rows[chunk.number : chunk.number + chunk.rows]
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(batch))] * 2)))
    some = numbered.chunks_between(first, last)
    assert [chunk.number for chunk in some] == starts[first:last]


@given(mixed_batches(), st.integers(1, 9))
def test_pieces_joined_are_the_rows_again_in_as_few_parts(batch, size):
    pieces = [batch.rows_between(at, at + size) for at in range(0, batch.rows, size)]
    joined = Batch.concatenated(pieces)
    assert flat(chunks_of(joined)) == flat(chunks_of(batch))
    if all(isinstance(part, Chunk) for part in batch.parts):
        assert len(joined.parts) == len(batch.parts)
