"""Status and history of training, in two files beside the checkpoints of a model.

`train` writes the files with `recorded`. `status.json` holds the state of the last job. `info`
describes it, and a damaged one counts as none. `history.json` holds the numbers of every iteration
of all jobs. Both are for information only: a failure to read or write them never stops training.
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
from uuid import uuid4

from dkmeans_jobs.model_dir import read_json

from dkmeans import Invalid, Outage, storage
from dkmeans.report import IterationCost, Progress, progress_of
from dkmeans.retry import first_line

logger = logging.getLogger("dkmeans")

_STATUS_FILE, _HISTORY_FILE = "status.json", "history.json"
_WRITE_INTERVAL_SECONDS = 10.0
# A job that has written no status for this long was killed, or cannot reach its storage.
_SILENT_SECONDS = 90.0
# If the history is longer than this, every second iteration is dropped.
_MAX_ITERATIONS = 10_000


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
    `_iterations` and `_status`. The writing thread reads them without a lock, so the two files may
    be from different iterations.
    """

    def __init__(self, model_dir: str, step: int) -> None:
        super().__init__()
        self._model_dir = model_dir
        # Training continues from `step`. The history may have later iterations that no checkpoint
        # holds; they are computed again.
        history = _history_to_continue(model_dir)
        self._writes_history = history is not None
        self._iterations = [each for each in history or [] if each["step"] <= step]
        self._status = Status("running", socket.gethostname(), os.getpid(), _now(), _now())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_at_intervals, daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        progress = progress_of(record)
        if isinstance(progress, Progress):
            numbers = progress.numbers()
            self._iterations.append({"time": _now(), **numbers})
            self._status = replace(self._status, progress=numbers)
            if len(self._iterations) > _MAX_ITERATIONS:
                self._iterations = self._iterations[::2]
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
            self._write_files()
        except Exception:  # whatever it is, it must not end a fit
            logger.debug("the status cannot be written", exc_info=True)

    def _write_files(self) -> None:
        status = asdict(replace(self._status, noted=_now()))
        self._write_json(_STATUS_FILE, status)
        if self._writes_history:
            # A copy: the thread that trains may append to the list while it is converted.
            self._write_json(_HISTORY_FILE, list(self._iterations))

    def _write_json(self, name: str, value: Any) -> None:
        address = storage.join(self._model_dir, name)
        storage.write_or_log(address, json.dumps(value).encode(), logging.DEBUG)


@contextmanager
def recorded(model_dir: str, step: int) -> Iterator[None]:
    """Record the status and history of training in a block, and the reason why the block ended.

    Args:
        model_dir: Directory of the model.
        step: Step of the checkpoint that training continues from; 0 for a new model.
    """
    handler = _StatusHandler(model_dir, step)
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
    seconds = _age(status)
    ago = _duration(seconds) + " ago"
    if status.state != "running":
        return f"{status.state}, {ago}"
    driver = f"on {status.host} (process {status.process})"
    if seconds > _SILENT_SECONDS:
        return f"was running {driver}, and has noted nothing since {ago}"
    return f"running {driver}, noted {ago}"


def is_running(status: Status | None) -> bool:
    """Return whether a job is training the model now, as far as its status tells."""
    return status is not None and status.state == "running" and _age(status) <= _SILENT_SECONDS


def progress_in(status: Status) -> Progress | None:
    """Return the progress of the last iteration; None if another version wrote other numbers."""
    numbers = status.progress or {}
    try:
        cost = IterationCost(**{each.name: numbers[each.name] for each in fields(IterationCost)})
        own = {each.name: numbers[each.name] for each in fields(Progress) if each.name != "cost"}
    except KeyError:
        return None
    return Progress(**own, cost=cost)


def _age(status: Status) -> float:
    """Return the seconds since a status was written."""
    return (datetime.now(UTC) - datetime.fromisoformat(status.noted)).total_seconds()


def _duration(seconds: float) -> str:
    """Return a duration for people, such as "40 s" or "3 h"."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def read_status(model_dir: str) -> Status | None:
    """Return the status of the last job on a model; None if there is none, or it is damaged."""
    content = read_json(model_dir, _STATUS_FILE)
    try:
        return Status(**content) if isinstance(content, dict) else None
    except TypeError:  # other keys, of another version
        return None


def _history_to_continue(model_dir: str) -> list[dict[str, Any]] | None:
    """Return the recorded iterations, to which those of a new job are added.

    A file that cannot be read, or holds anything else, is kept under another name, so that nothing
    in it is lost. What can be read of it is returned.

    Returns:
        The iterations; None if the file must not be written, because the old one is still there.
    """
    address = storage.join(model_dir, _HISTORY_FILE)
    kept = storage.join(model_dir, f"history-{uuid4().hex[:8]}.json")
    iterations: list[dict[str, Any]] = []
    try:
        found = storage.read(address)
        content = json.loads(found.data) if found else []
        iterations = _iterations_in(content)
        if iterations == content:
            return iterations
        reason = "not every entry is an iteration"
    except (*storage.WRITE_ERRORS, Outage, ValueError) as error:
        reason = first_line(error)
    try:
        storage.rename(address, kept)
    except (*storage.WRITE_ERRORS, Outage, Invalid) as error:
        logger.warning(
            "going on without a history: %s cannot be read (%s), nor renamed to %s (%s)",
            *(address, reason, kept, first_line(error)),
        )
        return None
    logger.warning("%s cannot be read (%s); it is kept as %s", address, reason, kept)
    return iterations


def _iterations_in(content: Any) -> list[dict[str, Any]]:
    """Return those entries of the content of a history that are iterations."""
    entries = content if isinstance(content, list) else []
    return [
        each for each in entries if isinstance(each, dict) and isinstance(each.get("step"), int)
    ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
