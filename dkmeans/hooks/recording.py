"""Hooks that record values: in the log, in a dict, or in a file for Prometheus.

The user passes them to `train`, `evaluate` or `predict`. Each hook requests its values by name
before a step and gets them after the step.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dkmeans.errors import Invalid
from dkmeans.hooks.interval import Interval
from dkmeans.hooks.sessions import (
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)

logger = logging.getLogger(__name__)


class LoggingTensorHook(SessionRunHook):
    """A hook that logs values at level INFO, from the first step on.

    Args:
        tensors: Names of the values, or a dict of labels to names.
        every_n_iter: Steps between two lines.
        every_n_secs: Seconds between two lines, instead of steps.
        at_end: True to log the last values at the end of the call. Without one of the intervals
            nothing else is logged.
        formatter: Function that makes a line from a dict of labels to values.

    Raises:
        ValueError: neither an interval nor `at_end` is given, or both intervals are, or a number is
            not above zero.
    """

    def __init__(
        self,
        tensors: Mapping[str, str] | Iterable[str],
        every_n_iter: int | None = None,
        every_n_secs: float | None = None,
        at_end: bool = False,
        formatter: Callable[[dict[str, Any]], str] | None = None,
    ) -> None:
        self._names = dict(tensors) if isinstance(tensors, Mapping) else {n: n for n in tensors}
        only_at_end = at_end and every_n_iter is None and every_n_secs is None
        self._interval = None if only_at_end else Interval(every_n_iter, every_n_secs)
        self._at_end, self._formatter = at_end, formatter or _line

    def begin(self) -> None:
        """Restart the interval."""
        if self._interval:
            self._interval.restart()

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the step, and the values if they are logged during the call."""
        return SessionRunArgs(["global_step", self._names if self._interval else {}])

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Log the values if they are due."""
        step, values = run_values.results
        if self._interval and self._interval.is_due(step):
            self._interval.mark(step)
            logger.info("%s", self._formatter(values))

    def end(self, session: Session) -> None:
        """Log the last values if `at_end` is set."""
        if self._at_end:
            logger.info("%s", self._formatter(session.run(self._names)))


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


class HistoryHook(SessionRunHook):
    """A hook that stores the values of every step.

    Args:
        names: Names of the values, in addition to `global_step`.

    Attributes:
        history: Lists of values by name, with one value for each step. Further calls append to
            them. `pandas.DataFrame(hook.history)` makes a table of numbers.
    """

    def __init__(self, names: Iterable[str] = ("loss",)) -> None:
        if isinstance(names, str):  # it would be read as a list of letters
            raise Invalid(f"names must be a list of names, got {names!r}")
        self.history: dict[str, list[Any]] = {name: [] for name in ("global_step", *names)}

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the values."""
        return SessionRunArgs({name: name for name in self.history})

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Append the values to the history."""
        for name, value in run_values.results.items():
            self.history[name].append(value)


class PrometheusHook(SessionRunHook):
    """A hook that writes the state of training to a file for Prometheus' node exporter.

    The gauges are `dkmeans_global_step`, `dkmeans_loss`, `dkmeans_average_loss` and
    `dkmeans_empty_clusters`. The hook needs the package prometheus_client (the extra `prometheus`).
    A file that cannot be written is refused when a call begins. If a later write fails, the call
    goes on, with a warning.

    Args:
        path: Path of a `.prom` file in the textfile directory of the node exporter. Every write
            replaces the whole file.
        every_n_secs: Seconds between two writes.

    Raises:
        ValueError: the package is missing, or the number is not above zero.
    """

    _NAMES = ("global_step", "loss", "average_loss", "empty_clusters")

    def __init__(self, path: str, every_n_secs: float = 15) -> None:
        try:
            # An optional package, which only this hook needs.
            import prometheus_client  # noqa: PLC0415
        except ImportError as error:
            need = "PrometheusHook needs the package prometheus_client"
            raise Invalid(f"{need}: pip install 'dkmeans[prometheus]'") from error
        # A registry of its own: the default one refuses the same names from a second hook.
        self._registry = prometheus_client.CollectorRegistry()
        self._gauges = {
            name: prometheus_client.Gauge(f"dkmeans_{name}", name, registry=self._registry)
            for name in self._NAMES
        }
        self._path = Path(path)
        self._replace_file: Callable[[], None] = partial(
            prometheus_client.write_to_textfile, str(path), self._registry
        )
        self._interval = Interval(None, every_n_secs)
        self._has_warned = False

    def begin(self) -> None:
        """Restart the interval, and refuse a file that cannot be written.

        Raises:
            Invalid: the file is a folder, or no file can be created beside it.
        """
        try:
            if self._path.is_dir():
                raise IsADirectoryError("it is a folder")
            # `write_to_textfile` creates a file of this name and renames that file.
            beside = Path(f"{self._path}.{os.getpid()}.{threading.get_ident()}")
            beside.touch()
            beside.unlink()
        except (OSError, ValueError) as error:
            # The whole text would name the file beside it.
            reason = getattr(error, "strerror", None) or error
            raise Invalid(
                f"the metrics file must be writable, got {str(self._path)!r}: {reason}"
            ) from error
        self._has_warned = False
        self._interval.restart()

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the values."""
        return SessionRunArgs({name: name for name in self._NAMES})

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Set the gauges, and write the file if it is due."""
        for name, value in run_values.results.items():
            self._gauges[name].set(value)
        if self._interval.is_due(run_values.results["global_step"]):
            self._interval.mark(run_values.results["global_step"])
            self._write()

    def end(self, session: Session) -> None:
        """Write the last values."""
        self._write()

    def _write(self) -> None:
        """Write the file; warn about the first failure of a call."""
        try:
            self._replace_file()
        except OSError as error:
            if not self._has_warned:
                logger.warning(
                    "going on without the metrics file %s, which cannot be written: %s",
                    self._path,
                    error.strerror or error,
                )
            self._has_warned = True
