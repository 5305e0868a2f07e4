"""Retries: outages are retried for a while, other errors are raised at once."""

import errno
import logging

import dask.array as da
import numpy as np
import pytest
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem
from obstore.exceptions import GenericError, PermissionDeniedError

from dkmeans import Dataset, Invalid, InvalidData, Outage
from dkmeans.distance import Centers, Distance
from dkmeans.executors import Threads
from dkmeans.partial_sums import accumulate
from dkmeans.retry import is_outage, with_retries

RESPONSE = "Generic S3 error: Error performing GET - Server returned non-2xx status code: {}: x"

LOST = "Generic S3 error: error sending request\n failed to lookup address information"
NO_ROLE = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1 s"


class StatusError(Exception):
    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("dkmeans.retry._FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("dkmeans.retry._PATIENCE_SECONDS", 0.2)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("late"),
        ConnectionResetError("gone"),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        GenericError(RESPONSE.format("503 Service Unavailable")),
        GenericError(RESPONSE.format("429 Too Many Requests")),
        GenericError("Generic S3 error: HTTP error: error sending request"),
        GenericError(f"{LOST}: Temporary failure in name resolution"),
        StatusError(502),
        Outage("known for one"),
    ],
    ids=repr,
)
def test_these_are_outages(error):
    assert is_outage(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("an image that is truncated"),
        PermissionDeniedError(RESPONSE.format("403 Forbidden")),
        GenericError(RESPONSE.format("400 Bad Request")),
        GenericError(RESPONSE.format("501 Not Implemented")),
        GenericError("Generic S3 error: Missing bucket name"),
        GenericError(f"{NO_ROLE} - HTTP error: error sending request"),
        GenericError(f"{LOST}: Name or service not known"),
        StatusError(404),
        RuntimeError("error during blosc decompression: -1"),
        KeyError("status"),
    ],
    ids=repr,
)
def test_these_are_not_outages(error):
    assert not is_outage(error)


def test_invalid_data_is_an_outage_if_its_cause_is_one():
    error = InvalidData("x.npy cannot be read")
    assert not is_outage(error)
    error.__cause__ = ConnectionResetError()
    assert is_outage(error)


def failing(times, error):
    """Return a function that fails a number of times, and the list of its calls."""
    calls = []

    def action():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "read"

    return action, calls


def test_a_short_outage_is_retried_and_each_retry_is_logged(caplog):
    action, calls = failing(3, OSError(errno.ESTALE, "Stale file handle"))
    assert with_retries("rows 1 to 9 of x.npy", action) == "read"
    assert len(calls) == 4
    logged = [record.getMessage() for record in caplog.records]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert all("rows 1 to 9 of x.npy cannot be reached, trying again in" in text for text in logged)
    assert all("Stale file handle" in text for text in logged)


def test_a_long_failure_is_an_outage():
    action, calls = failing(10**6, TimeoutError("late"))
    with pytest.raises(Outage, match=r"x\.npy cannot be reached: late"):
        with_retries("x.npy", action)
    assert 3 < len(calls) < 100


@pytest.mark.parametrize("error", [FileNotFoundError("x"), Invalid("x"), Outage("x")], ids=repr)
def test_an_error_that_is_no_outage_is_not_retried(error):
    action, calls = failing(1, error)
    with pytest.raises(type(error)):
        with_retries("x.npy", action)
    assert len(calls) == 1


class Flaky(MemoryFileSystem):
    """A file system whose reads time out until no failures are left."""

    protocol = "flaky"
    store = MemoryFileSystem.store
    failures = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def cat_file(self, path, start=None, end=None, **more):
        if Flaky.failures:
            Flaky.failures -= 1
            raise OSError(errno.ETIMEDOUT, "Connection timed out")
        return super().cat_file(path, start, end, **more)


@pytest.fixture
def flaky():
    register_implementation("flaky", Flaky, clobber=True)
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    with MemoryFileSystem().open("/rows.npy", "wb") as file:
        np.save(file, rows)
    yield Dataset.from_npy("flaky://rows.npy"), rows
    Flaky.failures = 0


def chunk_of(dataset):
    return next(iter(next(iter(dataset.batches()))))


def test_rows_of_any_fsspec_url_are_read_again(flaky, caplog):
    dataset, rows = flaky
    Flaky.failures = 2
    np.testing.assert_array_equal(chunk_of(dataset).load(2), rows)
    assert caplog.text.count("rows 0 to 5 of flaky://rows.npy cannot be reached") == 2


def test_rows_that_stay_unreachable_are_an_outage_and_not_broken_data(flaky):
    dataset, _ = flaky
    Flaky.failures = 10**6
    with pytest.raises(Outage, match=r"rows 0 to 5 of flaky://rows.npy .*Connection timed out"):
        chunk_of(dataset).load(2)


def test_retries_are_counted_by_the_executor(flaky):
    dataset, rows = flaky
    Flaky.failures = 3
    with Threads(2) as threads:
        centers = Centers(rows[:1], Distance.SQUARED_EUCLIDEAN)
        first = threads.map_reduce(accumulate, list(dataset.batches()), centers)
        assert first.cost.retries == 3
        second = threads.map_reduce(accumulate, list(dataset.batches()), centers)
        assert second.cost.retries == 0


def test_opening_a_dataset_is_retried_too(flaky, caplog):
    Flaky.failures = 2
    assert Dataset.from_npy("flaky://rows.npy").rows == 6
    assert caplog.text.count("flaky://rows.npy cannot be reached, trying again in") == 2
    Flaky.failures = 10**6
    with pytest.raises(Outage, match=r"flaky://rows.npy cannot be reached: .*Connection timed out"):
        Dataset.from_npy("flaky://rows.npy")


def test_a_dask_graph_is_user_code_and_runs_once():
    runs = []

    def block(_):
        runs.append(1)
        raise ConnectionResetError("gone")

    rows = da.zeros((4, 2), chunks=(4, 2)).map_blocks(block, meta=np.zeros((0, 0)))
    dataset = Dataset.from_array(rows).shuffle(1)
    with pytest.raises(Outage, match=r"rows 0 to 3 of .*gone"):
        chunk_of(dataset).load(2)
    assert len(runs) == 1
