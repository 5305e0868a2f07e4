"""What a running job notes beside the model's checkpoints: how it stands, and how it came there."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from dkmeans import Invalid, Outage, storage
from dkmeans.report import Progress

_STATUS, _HISTORY = "status.json", "history.json"
_SECONDS_BETWEEN_NOTES = 10.0
# Who has noted nothing for so long has been killed, or has lost its storage.
_SILENT_SECONDS = 90.0
# Of a history that is longer, every other iteration is forgotten.
_MOST_ITERATIONS = 10_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """How a job stands.

    Attributes:
        state: "running", "done", or the name of what ended it.
        host: The machine of the driver.
        process: The driver's number there.
        began: When it began, ISO 8601.
        noted: When this was noted.
        progress: The numbers of its last iteration.
    """

    state: str
    host: str
    process: int
    began: str
    noted: str
    progress: dict[str, Any] | None = None


class _Recorder(logging.Handler):
    """Notes the progress of a fit, now and then, from a thread of its own."""

    def __init__(self, model_dir: str, step: int) -> None:
        super().__init__()
        self._model_dir = model_dir
        self._iterations = [each for each in history(model_dir) if each["step"] <= step]
        self._status = Status("running", socket.gethostname(), os.getpid(), _now(), _now())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._note_now_and_then, daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        if isinstance(progress, Progress):
            numbers = progress.numbers()
            self._iterations.append({"time": _now(), **numbers})
            self._status = replace(self._status, progress=numbers)
            if len(self._iterations) > _MOST_ITERATIONS:
                self._iterations = self._iterations[::2]
            if not self._thread.is_alive() and not self._ended.is_set():
                self._thread.start()  # not before there is a model

    def end(self, state: str) -> None:
        """Note how it ended, if it has come so far as to begin."""
        self._ended.set()
        if self._status.progress is None:
            return
        self._thread.join()
        self._status = replace(self._status, state=state)
        self._note()

    def _note_now_and_then(self) -> None:
        self._note()
        while not self._ended.wait(_SECONDS_BETWEEN_NOTES):
            self._note()

    def _note(self) -> None:
        status = asdict(replace(self._status, noted=_now()))
        for name, value in ((_STATUS, status), (_HISTORY, list(self._iterations))):
            try:
                storage.write(storage.join(self._model_dir, name), json.dumps(value).encode())
            except (Outage, OSError, Invalid) as error:  # the fit itself must not suffer
                logger.debug("%s cannot be noted: %s", name, error)


@contextmanager
def noted(model_dir: str, step: int) -> Iterator[None]:
    """Note how training goes, from this step on, while the block runs, and how it ends."""
    recorder = _Recorder(model_dir, step)
    library = logging.getLogger("dkmeans")
    library.addHandler(recorder)
    state = "done"
    try:
        yield
    except BaseException as error:
        state = type(error).__name__
        raise
    finally:
        library.removeHandler(recorder)
        recorder.end(state)


def told(status: Status) -> str:
    """A status for people."""
    since = datetime.now(UTC) - datetime.fromisoformat(status.noted)
    ago = f"{since.total_seconds():,.0f} s ago"
    if status.state != "running":
        return f"{status.state}, {ago}"
    where = f"on {status.host} (process {status.process})"
    if since.total_seconds() > _SILENT_SECONDS:
        return f"was running {where}, and has noted nothing since {ago}"
    return f"running {where}, noted {ago}"


def status(model_dir: str) -> Status | None:
    """How the last job on a model stands; None where none has noted it."""
    found = storage.read(storage.join(model_dir, _STATUS))
    return None if found is None else Status(**json.loads(found.data))


def history(model_dir: str) -> list[dict[str, Any]]:
    """The iterations that jobs have noted, each with its numbers by name."""
    found = storage.read(storage.join(model_dir, _HISTORY))
    iterations: list[dict[str, Any]] = json.loads(found.data) if found else []
    return iterations


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
