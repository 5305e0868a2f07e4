"""Status of training: the state of the last job, in `status.json` beside a model's checkpoints.

`train` writes the file with `recorded`, and `info` reads it. The file is for information only: a
failure to write it never stops training, and a damaged file counts as none.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from dkmeans import storage
from dkmeans.history import time_now
from dkmeans.report import IterationCost, Progress, progress_of

logger = logging.getLogger("dkmeans")

_STATUS_FILE = "status.json"
# What people read of a state that is the end of a job.
_ENDS = {"done": "done", "KeyboardInterrupt": "interrupted", "Outage": "stopped by an outage"}
_WRITE_INTERVAL_SECONDS = 10.0
# A job that has written no status for this long was killed, or cannot reach its storage.
_SILENT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Status:
    """State of a job. The attributes are the keys of `status.json`.

    Attributes:
        state: "running", "done", or the name of the exception that ended the job.
        host: Name of the machine of the driver.
        process: Process number of the driver on that machine.
        began: Time at which the job began, ISO 8601.
        noted: Time at which this status was written, ISO 8601.
        progress: Numbers of the last iteration, by name; None before the first.
    """

    state: str
    host: str
    process: int
    began: str
    noted: str
    progress: dict[str, Any] | None = None


class _StatusHandler(logging.Handler):
    """Handler that collects the progress of a fit and writes it at intervals.

    A thread writes, so that slow storage does not slow the fit. The thread starts with the first
    iteration: before it, the model directory may not exist. Only the thread that trains changes
    `_status`, which the writing thread reads.
    """

    def __init__(self, model_dir: str) -> None:
        super().__init__()
        self._address = storage.join(model_dir, _STATUS_FILE)
        self._status = Status("running", socket.gethostname(), os.getpid(), time_now(), time_now())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_at_intervals, daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        progress = progress_of(record)
        if isinstance(progress, Progress):
            self._status = replace(self._status, progress=progress.numbers())
            # After `end` the thread is no longer alive, and a thread cannot start twice.
            if not self._thread.is_alive() and not self._ended.is_set():
                self._thread.start()

    def end(self, state: str) -> None:
        """Stop the thread and write the last state, unless there was no iteration."""
        self._ended.set()
        if self._status.progress is None:
            return
        self._thread.join()
        self._status = replace(self._status, state=state)
        self._write()

    def _write_at_intervals(self) -> None:
        self._write()
        while not self._ended.wait(_WRITE_INTERVAL_SECONDS):
            self._write()

    def _write(self) -> None:
        try:
            status = asdict(replace(self._status, noted=time_now()))
            storage.write_or_log(self._address, json.dumps(status).encode(), logging.DEBUG)
        except Exception:  # whatever it is, it must not end a fit
            logger.debug("the status cannot be written", exc_info=True)


@contextmanager
def recorded(model_dir: str) -> Iterator[None]:
    """Record the status of training in a block, and the reason why the block ended."""
    handler = _StatusHandler(model_dir)
    library = logging.getLogger("dkmeans")
    library.addHandler(handler)
    state = "done"
    try:
        yield
    except BaseException as error:
        state = type(error).__name__
        raise
    finally:
        library.removeHandler(handler)
        handler.end(state)


def describe(status: Status) -> str:
    """Return a status as text for people."""
    seconds = _seconds_since(status.noted)
    ago = _duration(seconds) + " ago"
    if status.state != "running":
        return f"{_ENDS.get(status.state, f'failed ({status.state})')}, {ago}"
    driver = f"on {status.host} (process {status.process})"
    if seconds > _SILENT_SECONDS:
        return f"was running {driver}, and has noted nothing since {ago}"
    return f"running {driver}, noted {ago}"


def is_running(status: Status | None) -> bool:
    """Return whether a job is training the model now, as far as its status tells."""
    return (
        status is not None
        and status.state == "running"
        and _seconds_since(status.noted) <= _SILENT_SECONDS
    )


def progress_in(status: Status) -> Progress | None:
    """Return the progress of the last iteration; None if another version wrote other numbers."""
    numbers = status.progress or {}
    try:
        cost = IterationCost(**{each.name: numbers[each.name] for each in fields(IterationCost)})
        own = {each.name: numbers[each.name] for each in fields(Progress) if each.name != "cost"}
    except KeyError:
        return None
    return Progress(**own, cost=cost)


def _seconds_since(time: str) -> float:
    """Return the seconds since a time, ISO 8601."""
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def _duration(seconds: float) -> str:
    """Return a duration for people, such as "40 s" or "3 h"."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def read_status(model_dir: str) -> Status | None:
    """Return the status of the last job on a model; None if there is none, or it is damaged."""
    content = storage.read_json(storage.join(model_dir, _STATUS_FILE))
    return Status(**content) if _is_whole(content) else None


def _is_whole(content: Any) -> bool:
    """Return whether the content of a file has the keys of a status, with values of their types."""
    if not isinstance(content, dict) or content.keys() != {each.name for each in fields(Status)}:
        return False
    try:
        _seconds_since(content["noted"])
    except (TypeError, ValueError):
        return False
    progress = {} if content["progress"] is None else content["progress"]
    return isinstance(content["state"], str) and (
        isinstance(progress, dict)
        and all(value is None or isinstance(value, int | float) for value in progress.values())
    )
