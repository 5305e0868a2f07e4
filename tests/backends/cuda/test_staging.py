"""Staging: all values arrive in order, and no block is written while it is copied."""

import threading
import time

import numpy as np
import pytest

from dkmeans.backends.cuda import staging
from dkmeans.backends.cuda.staging import Staging, StagingBlock


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(staging, "BLOCK_BYTES", 64)
    monkeypatch.setattr(staging, "_LEAST_BLOCK_BYTES", 16)


class SlowCopy:
    """A copy to a device that is done only when somebody waits for it, and its own event.

    Attributes:
        pending: Target and source of a copy that was started.
    """

    def __init__(self):
        self.pending = None

    def record(self, target, source):
        assert self.pending is None, "the last copy from the block was not waited for"
        self.pending = target, source

    def synchronize(self):
        if self.pending is not None:
            target, source = self.pending
            target[...], self.pending = source, None


class Device:
    """Allocates blocks whose copies are slow.

    Attributes:
        blocks: All blocks.
        left: How many more may be allocated.
    """

    def __init__(self, left=1000):
        self.blocks, self.left = [], left

    def __call__(self, size):
        if not self.left:
            raise MemoryError("no more pages can be locked")
        self.left -= 1
        self.blocks.append(StagingBlock(np.zeros(size, np.uint8), SlowCopy()))
        return self.blocks[-1]

    def finish(self):
        for block in self.blocks:
            block.copied.synchronize()


def send(stage, values):
    """Start the copies of all blocks; return the target. The copies need not be done."""
    target = np.full_like(values, -1)
    for block, staged, place in stage.blocks(values):
        block.copied.record(target[place], staged)
    return target


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("size", [0, 1, 5, 17, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_values_arrive_and_no_block_is_overwritten_before_it_is_copied(threads, size, dtype):
    stage = Staging(device := Device(), threads)
    tables = [np.random.default_rng(n).normal(size=size).astype(dtype) for n in range(3)]
    targets = [send(stage, values) for values in tables]
    device.finish()
    for values, target in zip(tables, targets, strict=True):
        np.testing.assert_array_equal(target, values)
    assert len(device.blocks) <= 2 * threads + 4
    assert {len(block.memory) for block in device.blocks} <= {64}


def test_small_tables_are_cut_so_that_every_thread_fills_a_block():
    def sizes(nbytes, threads=4):
        stage = Staging(Device(), threads)
        found = []
        for block, staged, place in stage.blocks(np.zeros(nbytes, np.uint8)):
            found.append(staged.nbytes)
            block.copied.record(np.zeros_like(staged), staged)
            assert place.stop - place.start >= staged.nbytes
        return found

    assert sizes(16) == [16]
    assert sizes(40) == [16, 16, 8]
    assert sizes(128) == [32] * 4
    assert sizes(640) == [64] * 10


def test_threads_that_send_at_once_share_the_blocks():
    stage = Staging(device := Device(), 2)
    rng, lock = np.random.default_rng(0), threading.Lock()
    tables = [rng.normal(size=500) for _ in range(12)]
    targets = [np.zeros(500) for _ in tables]

    def work(values, target):
        for block, staged, place in stage.blocks(values):
            time.sleep(1e-5)
            with lock:
                block.copied.record(target[place], staged)

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(tables, targets, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    device.finish()
    np.testing.assert_array_equal(targets, tables)
    assert len(device.blocks) == 8


def test_a_caller_that_stops_early_gives_all_blocks_back():
    stage = Staging(device := Device(), 2)
    values = np.arange(100.0)
    for _ in range(5):
        blocks = stage.blocks(values)
        next(blocks)
        blocks.close()
    np.testing.assert_array_equal(send_all(stage, device, values), values)
    assert len(device.blocks) <= 8
    assert stage._free.qsize() == len(device.blocks)


def test_after_an_error_all_blocks_are_there_again():
    stage = Staging(device := Device(left=2), 2)
    values = np.arange(100.0)
    with pytest.raises(MemoryError):
        send(stage, values)
    assert stage._free.qsize() == 2
    device.left = 1000
    np.testing.assert_array_equal(send_all(stage, device, values), values)


def send_all(stage, device, values):
    target = send(stage, values)
    device.finish()
    return target
