"""Charts for TensorBoard: `SummarySaverHook`, and the event files that it writes.

The estimator adds the hook to each call of `train` (`RunConfig.save_summary_steps`) and writes the
results of `evaluate` with `EventFiles`. Every event file is written whole, because object stores
cannot append to a file. The package tensorboard is optional.
"""

from __future__ import annotations

import io
import logging
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

_FILE_INTERVAL_SECONDS = 120
# Points that wait for a directory which can be written again; older ones are dropped.
_MOST_WAITING = 10_000
# Numbers of the event files of this process, so that two files never have the same name.
_file_numbers = count()


def is_available() -> bool:
    """Return whether the package tensorboard is installed."""
    return find_spec("tensorboard") is not None


class EventFiles:
    """Points of charts, collected in memory and written to event files in a directory.

    TensorBoard reads the files of a directory in the order of their names, as one sequence. If a
    file cannot be written, the points wait for the next one; only the first failure is a warning.

    Args:
        directory: Path or URL of the directory.
        first_step: The first step of this run. TensorBoard then discards the points of this and
            later steps in older files: they come from a run that was cut off after its last
            checkpoint. None discards nothing.
    """

    def __init__(self, directory: str, first_step: int | None = None) -> None:
        self._directory, self._first_step = directory, first_step
        self._events: list[bytes] = []
        self._written_at = time.monotonic()
        self._failed = False

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add points, and write a file if the last write was two minutes ago or more.

        Args:
            step: The step of the points.
            values: Values by the name of their chart.
        """
        event, summary = _event(step), []
        for name, value in values.items():
            summary.append({"tag": name, "simple_value": float(value)})
        event.summary.MergeFrom(type(event.summary)(value=summary))
        self._events.append(event.SerializeToString())
        if time.monotonic() - self._written_at >= _FILE_INTERVAL_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the collected points to a new file, if there are any."""
        if not self._events:
            return
        # The name sorts by time. Host, process and number make it unique among all writers.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        address = storage.join(self._directory, f"{name}.{next(_file_numbers):06d}")
        data = _records([*self._first_events(), *self._events])
        if storage.write_or_log(address, data, logging.DEBUG if self._failed else logging.WARNING):
            # Only the first file of a run marks its start.
            self._events, self._first_step = [], None
        else:
            self._events, self._failed = self._events[-_MOST_WAITING:], True
        self._written_at = time.monotonic()

    def _first_events(self) -> list[bytes]:
        """Return the events at the start of a file: its version, and the mark of a new run."""
        version = _event(0)
        version.file_version = "brain.Event:2"
        if self._first_step is None:
            return [version.SerializeToString()]
        start = _event(self._first_step)
        start.session_log.status = start.session_log.START
        return [version.SerializeToString(), start.SerializeToString()]


def _event(step: int) -> Any:
    """Return an empty event (a protobuf message) with this step and the current time."""
    # The package is optional, and its import takes a quarter of a second.
    from tensorboard.compat.proto import event_pb2  # noqa: PLC0415

    return event_pb2.Event(wall_time=time.time(), step=step)


def _records(events: list[bytes]) -> bytes:
    """Return the content of a file of events, in TensorFlow's TFRecord format."""
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415 as above

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event)
    return buffer.getvalue()


class SummarySaverHook(SessionRunHook):
    """A hook that writes the points of charts for TensorBoard.

    The charts are `loss`, `average_loss`, `empty_clusters` and `global_step/sec`.

    `train` adds this hook itself, as set by `RunConfig.save_summary_steps`. Files are written every
    two minutes and at the end. A directory that cannot be written is refused before the first step.
    If a later write fails, the call goes on, with a warning.

    Args:
        save_steps: Steps between two points.
        save_secs: Seconds between two points, instead of steps.
        output_dir: Path or URL of the directory.

    Raises:
        ValueError: both or none is given, the number is not above zero, or the package tensorboard
            is missing.
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
        """Restart the interval, and start a new sequence of files at the next step.

        Raises:
            Invalid: no file can be written in the directory.
            Outage: the storage does not answer.
        """
        # Not in `begin`: the directory of a model is checked, and created, after that.
        storage.check_writable("output_dir", self._directory)
        self._interval.restart()
        self._files = EventFiles(self._directory, session.run("global_step") + 1)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the values."""
        return SessionRunArgs(["global_step", {name: name for name in self._NAMES}])

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Add a point to each chart if it is due."""
        step, values = run_values.results
        if self._interval.is_due(step):
            rate = self._interval.mark(step)
            rates = {} if rate is None else {"global_step/sec": rate}
            self._files.add(step, {**values, **rates})

    def end(self, session: Session) -> None:
        """Write the last points."""
        self._files.write()
