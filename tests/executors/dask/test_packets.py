"""Values that travel in packets."""

from dataclasses import replace

import numpy as np
import pytest

from dkmeans.executors.dask import packets as module
from dkmeans.executors.dask.packets import Incoming, packets
from dkmeans.state import PartialSums


@pytest.mark.parametrize("size", [7, 64, 10**6])
def test_a_value_is_put_together_from_packets_of_limited_size(size, monkeypatch):
    monkeypatch.setattr(module, "PACKET_BYTES", size)
    random = np.random.default_rng(0)
    value = {
        "sums": replace(PartialSums.zero((3, 5)), counts=np.arange(3)),
        "wide": random.normal(size=(5, 4)).T,
        "cut": random.normal(size=(8, 6))[::2, 1:],
        "none": np.empty((0, 2), np.float32),
        "text": "text",
    }
    sent = list(packets(value))
    assert all(sum(len(piece[2]) for piece in packet.pieces) <= size for packet in sent)
    incoming = Incoming(sent[-1])
    for packet in sent:
        assert not incoming.is_whole
        incoming.add(packet)
    assert incoming.is_whole
    found = incoming.value()
    assert found["sums"].counts.tolist() == [0, 1, 2]
    for name in ("wide", "cut", "none"):
        assert np.array_equal(found[name], value[name])
        assert found[name].dtype == value[name].dtype
    found["wide"][0, 0] = 1  # as writable as the value was


def test_a_value_without_arrays_is_one_packet():
    (packet,) = packets("text")
    assert Incoming(packet).value() == "text"
