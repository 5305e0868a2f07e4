"""Shares that a worker remembers: those of the last calls, as long as their rows exist."""

from weakref import ref

import numpy as np
import pytest

from dkmeans.data.batches import Batch
from dkmeans.executors.chunk_runs import Run
from dkmeans.executors.dask.shares import Share, Shares


def share_of(number, *arrays):
    return Share(max, (Run(0, 0, 2, number),), Batch(), None, tuple(map(ref, arrays)))


def test_the_shares_of_a_call_are_found_by_its_name():
    shares, (one, two) = Shares(), (share_of(1), share_of(2))
    shares.add("call", "worker", one)
    shares.add("call", "worker", two)
    assert shares.of("call", "worker") == [one, two]
    assert shares.of("another", "worker") == []
    assert shares.of("call", "another worker") == []
    assert (one.number, two.number) == (1, 2)


def test_a_share_that_is_computed_again_replaces_itself():
    shares, (old, new) = Shares(), (share_of(1), share_of(1))
    shares.add("call", "worker", old)
    shares.add("call", "worker", new)
    assert shares.of("call", "worker") == [new]


def test_the_oldest_call_is_forgotten():
    shares = Shares()
    for number in range(8):
        shares.add(f"call {number}", "worker", share_of(0))
    shares.add("call 0", "worker", share_of(1))  # now the newest
    shares.add("call 8", "worker", share_of(0))
    assert shares.of("call 1", "worker") == []
    assert len(shares.of("call 0", "worker")) == 2
    assert all(len(shares.of(f"call {number}", "worker")) == 1 for number in range(2, 9))


def test_shipped_rows_are_not_kept_in_memory():
    array = np.ones(3)
    share = share_of(0, array)
    assert share.rows() == [array]
    del array
    with pytest.raises(LookupError, match="shipped rows have been released"):
        share.rows()
