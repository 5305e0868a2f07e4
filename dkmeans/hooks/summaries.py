"""Charts for TensorBoard: `SummarySaverHook`, and the event file that it writes.

The estimator adds the hook to each call of `train` (`RunConfig.save_summary_steps`) and writes the
results of `evaluate` with `EventFile`. All calls append to the one event file of a directory. The
package tensorboard is optional.
"""

from __future__ import annotations

import io
import logging
import struct
import time
from collections.abc import Mapping
from importlib.util import find_spec
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

# TensorBoard reads the files of a directory in the order of their names. This one comes after those
# of earlier versions, which have a number in place of "dkmeans".
_FILE = "events.out.tfevents.dkmeans"
_WRITE_INTERVAL_SECONDS = 120
# Points that wait for a directory which can be written again; older ones are dropped.
_MOST_WAITING = 10_000
# Of a record in TFRecord format: the size of its data, and the checksums around the data.
_RECORD_SIZE, _CHECKSUM_BYTES = struct.Struct("<Q"), 4


def is_available() -> bool:
    """Return whether the package tensorboard is installed."""
    return find_spec("tensorboard") is not None


class EventFile:
    """Points of charts, collected in memory and appended to the event file of a directory.

    If the file cannot be written, the points wait for the next write; only the first failure is a
    warning.

    Args:
        directory: Path or URL of the directory.
        first_step: The first step of this run. TensorBoard then discards the points of this and
            later steps that are in the file: they come from a run that was cut off after its last
            checkpoint. None discards nothing.
    """

    def __init__(self, directory: str, first_step: int | None = None) -> None:
        self._directory, self._first_step = directory, first_step
        self._events: list[bytes] = []
        self._written_at = time.monotonic()
        self._failed = False

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add points by the names of their charts; write if the last write was two minutes ago."""
        event, summary = _event(step), []
        for name, value in values.items():
            summary.append({"tag": name, "simple_value": float(value)})
        event.summary.MergeFrom(type(event.summary)(value=summary))
        self._events.append(event.SerializeToString())
        if time.monotonic() - self._written_at >= _WRITE_INTERVAL_SECONDS:
            self.write()

    def write(self) -> None:
        """Append the collected points to the file, if there are any."""
        if not self._events:
            return
        address = storage.join(self._directory, _FILE)
        data = _records([*self._first_events(), *self._events])
        level = logging.DEBUG if self._failed else logging.WARNING
        if storage.write_or_log(address, data, level, _size_of_whole_records):
            # Only the first write of a run marks its start.
            self._events, self._first_step = [], None
        else:
            self._events, self._failed = self._events[-_MOST_WAITING:], True
        self._written_at = time.monotonic()

    def _first_events(self) -> list[bytes]:
        """Return the events before the points: the version of the format, and a new run's mark."""
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


def _size_of_whole_records(data: bytes) -> int:
    """Return the size of the beginning of a file that consists of whole records."""
    size = 0
    while size + _RECORD_SIZE.size <= len(data):
        (length,) = _RECORD_SIZE.unpack_from(data, size)
        end = size + _RECORD_SIZE.size + _CHECKSUM_BYTES + length + _CHECKSUM_BYTES
        if end > len(data):
            break
        size = end
    return size


class SummarySaverHook(SessionRunHook):
    """A hook that writes the points of charts for TensorBoard.

    The charts are `loss`, `average_loss`, `empty_clusters` and `global_step/sec`.

    `train` adds this hook itself, as set by `RunConfig.save_summary_steps`. The points are written
    every two minutes and at the end. A directory that cannot be written is refused before the first
    step. If a later write fails, the call goes on, with a warning.

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
        self._file = EventFile(output_dir)

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """Restart the interval, and mark the start of a new run at the next step.

        Raises:
            Invalid: no file can be written in the directory.
            Outage: the storage does not answer.
        """
        # Not in `begin`: the directory of a model is checked, and created, after that.
        storage.check_writable("output_dir", self._directory)
        self._interval.restart()
        self._file = EventFile(self._directory, session.run("global_step") + 1)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the values."""
        return SessionRunArgs(["global_step", {name: name for name in self._NAMES}])

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Add a point to each chart if it is due."""
        step, values = run_values.results
        if self._interval.is_due(step):
            rate = self._interval.mark(step)
            rates = {} if rate is None else {"global_step/sec": rate}
            self._file.add(step, {**values, **rates})

    def end(self, session: Session) -> None:
        """Write the last points."""
        self._file.write()

    def abort(self, error: BaseException) -> None:
        """Write the points of the steps that were taken."""
        self._file.write()
