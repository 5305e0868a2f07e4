"""Hooks that tell of values, or keep them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
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
    """Logs values at level INFO, from the first step.

    Args:
        tensors: The names of the values, or a dict of what to call each.
        every_n_iter: Steps between two lines.
        every_n_secs: Seconds between two lines, instead.
        at_end: Whether the last values are logged once more; alone where neither of those is given.
        formatter: Makes a line of a dict of the values.

    Raises:
        ValueError: neither a number nor `at_end`, both numbers, or one not above zero.
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
        """Count anew."""
        if self._interval:
            self._interval.restart()

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Ask for the step, and for the values where they may be logged."""
        return SessionRunArgs(["global_step", self._names if self._interval else {}])

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Log them where it is time."""
        step, values = run_values.results
        if self._interval and self._interval.is_due(step):
            self._interval.mark(step)
            logger.info("%s", self._formatter(values))

    def end(self, session: Session) -> None:
        """Log the last ones."""
        if self._at_end:
            logger.info("%s", self._formatter(session.run(self._names)))


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


class HistoryHook(SessionRunHook):
    """Keeps the values of every step.

    Args:
        names: Which values beside `global_step`.

    Attributes:
        history: Of each name its values, step by step; `pandas.DataFrame(history)` is a table of
            numbers. Further calls add to it.
    """

    def __init__(self, names: Iterable[str] = ("loss",)) -> None:
        if isinstance(names, str):
            raise Invalid(f"names must be a list of names, got {names!r}")
        self.history: dict[str, list[Any]] = {name: [] for name in ("global_step", *names)}

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Ask for the values."""
        return SessionRunArgs({name: name for name in self.history})

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Keep them."""
        for name, value in run_values.results.items():
            self.history[name].append(value)


class PrometheusHook(SessionRunHook):
    """Writes where training stands to a file that Prometheus' node exporter picks up.

    Gauges `dkmeans_global_step`, `dkmeans_loss`, `dkmeans_average_loss` and
    `dkmeans_empty_clusters`. Needs the package prometheus_client (the extra `prometheus`).

    Args:
        path: The file, `.prom`, in the node exporter's textfile directory; replaced as a whole.
        every_n_secs: Seconds between two writings.

    Raises:
        ValueError: the package is missing, or the number is not above zero.
    """

    _NAMES = ("global_step", "loss", "average_loss", "empty_clusters")

    def __init__(self, path: str, every_n_secs: float = 15) -> None:
        try:
            # Needed here only, and not installed with the library.
            import prometheus_client  # noqa: PLC0415
        except ImportError as error:
            need = "PrometheusHook needs the package prometheus_client"
            raise Invalid(f"{need}: pip install 'dkmeans[prometheus]'") from error
        self._registry = prometheus_client.CollectorRegistry()
        self._gauges = {
            name: prometheus_client.Gauge(f"dkmeans_{name}", name, registry=self._registry)
            for name in self._NAMES
        }
        self._write: Callable[[], None] = partial(
            prometheus_client.write_to_textfile, str(path), self._registry
        )
        self._interval = Interval(None, every_n_secs)

    def begin(self) -> None:
        """Count anew."""
        self._interval.restart()

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Ask for the values."""
        return SessionRunArgs({name: name for name in self._NAMES})

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Note them, and write where it is time."""
        for name, value in run_values.results.items():
            self._gauges[name].set(value)
        if self._interval.is_due(run_values.results["global_step"]):
            self._interval.mark(run_values.results["global_step"])
            self._write()

    def end(self, session: Session) -> None:
        """Write the last ones."""
        self._write()
