"""Workers without heartbeats are taken for frozen, and get shares again when they send some."""

import pytest

from dkmeans.executors.dask.frozen_workers import FrozenWorkers


class Heartbeats:
    """A client of a cluster of which one worker has been silent for some seconds."""

    def __init__(self, number):
        self.number, self.seconds = number, 0

    def scheduler_info(self, n_workers):
        seen = [100.0, 100.0 - self.seconds, *[95.0] * (self.number - 2)]
        return {"workers": {str(place): {"last_seen": at} for place, at in enumerate(seen)}}


@pytest.mark.parametrize(("number", "seconds"), [(2, 9), (1000, 21)])
def test_the_more_workers_there_are_the_longer_they_may_be_silent(number, seconds):
    client = Heartbeats(number)
    frozen = FrozenWorkers(client)
    client.seconds = seconds
    assert frozen.silent() == {"1"}
    client.seconds = seconds - 2
    assert frozen.silent() == frozenset()


def test_a_worker_that_came_back_may_be_silent_for_longer_the_next_time(caplog):
    caplog.set_level("INFO", "dkmeans")
    client = Heartbeats(2)
    frozen = FrozenWorkers(client)
    for longest in (8, 16, 32, 64, 64):
        client.seconds = longest
        assert not frozen.silent()
        client.seconds = longest + 1
        frozen.add(frozen.silent())
        frozen.readmit(["0", "1"])
        assert frozen.addresses == {"1"}
        client.seconds = 0
        frozen.readmit(["0", "1"])
        assert not frozen.addresses
    assert caplog.messages == ["1 sends heartbeats again, and gets a share of the rows"] * 5


def test_a_frozen_worker_that_has_left_is_forgotten_without_a_word(caplog):
    caplog.set_level("INFO", "dkmeans")
    frozen = FrozenWorkers(Heartbeats(2))
    frozen.add(["gone"])
    frozen.readmit(["0", "1"])
    assert not frozen.addresses
    assert not caplog.messages
