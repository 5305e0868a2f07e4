"""Charts for TensorBoard: points, in files of events beside the model."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import count
from typing import Any

from dkmeans import storage
from dkmeans.errors import Invalid
from dkmeans.hooks.interval import Interval
from dkmeans.hooks.sessions import (
    Coordinator,
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)

_SECONDS_BETWEEN_FILES = 120
_numbers = count()


def is_available() -> bool:
    """Whether the package that writes them is installed."""
    return find_spec("tensorboard") is not None


class EventFiles:
    """Points of charts, written as whole files: object stores cannot append to one.

    TensorBoard reads the files of a directory in the order of their names, as one.

    Args:
        directory: Path or URL of the directory.
        first_step: The first step to come: points at it or beyond that are there already, from a
            run that was cut off after its last checkpoint, are given up. None gives up none.
    """

    def __init__(self, directory: str, first_step: int | None = None) -> None:
        self._directory, self._first_step = directory, first_step
        self._events: list[bytes] = []
        self._written_at = time.monotonic()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each chart at this step; written when there has been no file for a while."""
        event, summary = _event(step), []
        for name, value in values.items():
            summary.append({"tag": name, "simple_value": float(value)})
        event.summary.MergeFrom(type(event.summary)(value=summary))
        self._events.append(event.SerializeToString())
        if time.monotonic() - self._written_at >= _SECONDS_BETWEEN_FILES:
            self.write()

    def write(self) -> None:
        """Write a file of the points that are in none."""
        if not self._events:
            return
        # Names sort by time, and no two writers have the same.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        address = storage.join(self._directory, f"{name}.{next(_numbers):06d}")
        storage.write(address, _records([*self._opening(), *self._events]))
        self._events, self._first_step, self._written_at = [], None, time.monotonic()

    def _opening(self) -> list[bytes]:
        version = _event(0)
        version.file_version = "brain.Event:2"
        if self._first_step is None:
            return [version.SerializeToString()]
        start = _event(self._first_step)
        start.session_log.status = start.session_log.START
        return [version.SerializeToString(), start.SerializeToString()]


def _event(step: int) -> Any:
    # Optional, and a quarter of a second.
    from tensorboard.compat.proto import event_pb2  # noqa: PLC0415

    return event_pb2.Event(wall_time=time.time(), step=step)


def _records(events: list[bytes]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415 as above

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event)
    return buffer.getvalue()


class SummarySaverHook(SessionRunHook):
    """Draws charts of `loss`, `average_loss`, `empty_clusters` and `global_step/sec`.

    Training has one by itself, as `RunConfig.save_summary_steps` says. Files are written every two
    minutes, and at the end.

    Args:
        save_steps: Steps between two points.
        save_secs: Seconds between two points, instead.
        output_dir: Path or URL of the directory.

    Raises:
        ValueError: both or none is given, it is not above zero, or the package tensorboard is
            missing.
    """

    _NAMES = ("loss", "average_loss", "empty_clusters")

    def __init__(
        self, save_steps: int | None = None, save_secs: float | None = None, *, output_dir: str
    ) -> None:
        if not is_available():
            need = "SummarySaverHook needs the package tensorboard"
            raise Invalid(f"{need}: pip install 'dkmeans[tensorboard]'")
        self._interval = Interval(save_steps, save_secs, ("save_steps", "save_secs"))
        self._directory = output_dir
        self._files = EventFiles(output_dir)

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """Begin a file, and count anew."""
        self._interval.restart()
        self._files = EventFiles(self._directory, session.run("global_step") + 1)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Ask for the values."""
        return SessionRunArgs(["global_step", {name: name for name in self._NAMES}])

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Add a point where it is time."""
        step, values = run_values.results
        if self._interval.is_due(step):
            speed = self._interval.mark(step)
            extra = {} if speed is None else {"global_step/sec": speed}
            self._files.add(step, {**values, **extra})

    def end(self, session: Session) -> None:
        """Write the last points."""
        self._files.write()
