"""Metrics for Prometheus: the numbers of training, in a file or at a port.

`PrometheusHook` writes a file for the node exporter. `MetricsServerHook` serves a port, which
Prometheus reads in pods. Both export what `_Metrics` collects; docs/operations.md lists it. The
package prometheus_client is optional.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dkmeans.errors import Invalid, check_integer, expected
from dkmeans.extras import needs
from dkmeans.hooks.interval import Interval
from dkmeans.hooks.sessions import (
    Coordinator,
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)
from dkmeans.report import Progress

logger = logging.getLogger("dkmeans")

# Values of a step, and their descriptions.
_OF_A_STEP = {
    "global_step": "Steps completed since initialization",
    "loss": "Sum of the distances to the nearest centers in the last step",
    "average_loss": "Mean distance to the nearest center in the last step",
    "empty_clusters": "Centers without rows in the last iteration",
}
# Numbers of the progress of an iteration, and their descriptions.
_OF_AN_ITERATION = {
    "change": "Change of the loss relative to the iteration before",
    "relocated_clusters": "Empty clusters that the last iteration has moved",
    "starts": "Starts that are trained",
    "workers": "Workers of the last iteration",
    "threads": "Threads of all workers of the last iteration",
    "rows_per_second": "Rows per second of the last iteration",
    "bytes_per_second": "Bytes of rows per second of the last iteration",
    "skipped": "Share of the distances that bounds have excluded in the last iteration",
}
# Values that exist also before the first step and after the closing checkpoint.
_OF_A_CALL = ("global_step", "progress", "checkpoint_time")
_LAST_PORT = 65_535


class _Metrics:
    """Collector of the numbers of a call, in the form that prometheus_client asks for.

    A thread that answers a request collects while another one trains, so `update` replaces the
    values all at once. A number that is not known yet is left out.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._retries = 0

    def update(self, values: dict[str, Any]) -> None:
        """Set values by name. The requests that were repeated are added up."""
        progress: Progress | None = values["progress"]
        if progress is not None and progress is not self._values.get("progress"):
            self._retries += progress.cost.retries
        self._values = {**self._values, **values}

    def collect(self) -> Iterator[Any]:
        """Yield each metric with its value."""
        # An optional package, which whoever collects has imported.
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        values, retries = self._values, self._retries
        progress: Progress | None = values.get("progress")
        numbers = progress.numbers() if progress is not None else {}
        for texts, known in ((_OF_A_STEP, values), (_OF_AN_ITERATION, numbers)):
            for name, text in texts.items():
                if known.get(name) is not None:
                    yield GaugeMetricFamily(f"dkmeans_{name}", text, known[name])
        if progress is not None:
            text = "Duration of the last iteration by part, of which other is messages and waiting"
            family = GaugeMetricFamily("dkmeans_iteration_seconds", text, labels=["part"])
            for part, seconds in _parts(progress).items():
                family.add_metric([part], seconds)
            yield family
            text = "Requests to storage that were repeated"
            yield CounterMetricFamily("dkmeans_retries", text, retries)
        if values.get("checkpoint_time") is not None:
            text = "Time of the state in the last checkpoint, in seconds since 1970"
            name = "dkmeans_checkpoint_timestamp_seconds"
            yield GaugeMetricFamily(name, text, values["checkpoint_time"])


def _parts(progress: Progress) -> dict[str, float]:
    """Return the seconds of an iteration by what was done."""
    cost = progress.cost
    parts = {
        "read": cost.read_seconds,
        "compute": cost.compute_seconds,
        "checkpoint": cost.checkpoint_seconds,
    }
    # Clocks of several threads may add up to a little more than the whole.
    return {**parts, "other": max(0.0, progress.seconds - sum(parts.values()))}


class _MetricsHook(SessionRunHook):
    """Base class of the hooks that export `_Metrics`."""

    def __init__(self) -> None:
        with needs(type(self).__name__, "prometheus"):
            import prometheus_client  # noqa: PLC0415 it is optional
        self._client = prometheus_client
        # A registry of its own: the default one refuses the same names from a second hook.
        self._registry = self._client.CollectorRegistry()
        self._metrics = _Metrics()
        self._registry.register(self._metrics)

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """Set the values from before the first step, which may take long."""
        self._metrics.update(session.run({name: name for name in _OF_A_CALL}))

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the values."""
        return SessionRunArgs({name: name for name in (*_OF_A_STEP, *_OF_A_CALL)})

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Set the values of the step."""
        self._metrics.update(run_values.results)

    def end(self, session: Session) -> None:
        """Set the values from after the closing checkpoint."""
        self._metrics.update(session.run({name: name for name in _OF_A_CALL}))


class PrometheusHook(_MetricsHook):
    """A hook that writes the state of training to a file for Prometheus' node exporter.

    docs/operations.md lists the metrics. The hook needs the package prometheus_client (the extra
    `prometheus`). A file that cannot be written is refused when a call begins. If a later write
    fails, the call goes on, with a warning.

    Args:
        path: Path of a `.prom` file in the textfile directory of the node exporter. Every write
            replaces the whole file.
        every_n_secs: Seconds between two writes.

    Raises:
        ValueError: the package is missing, or the number is not above zero.
    """

    def __init__(self, path: str, every_n_secs: float = 15) -> None:
        super().__init__()
        self._path = Path(path)
        self._interval = Interval(None, every_n_secs)
        self._has_warned = self._is_behind = False

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
        self._has_warned = self._is_behind = False
        self._interval.restart()

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Set the values of the step, and write the file if it is due."""
        super().after_run(run_context, run_values)
        step, self._is_behind = run_values.results["global_step"], True
        if self._interval.is_due(step):
            self._interval.mark(step)
            self._write()

    def end(self, session: Session) -> None:
        """Write the last values."""
        super().end(session)
        self._write()

    def abort(self, error: BaseException) -> None:
        """Write the values of the last step, unless none was taken or they are written."""
        if self._is_behind:
            self._write()

    def _write(self) -> None:
        """Write the file; warn about the first failure of a call."""
        self._is_behind = False
        try:
            self._client.write_to_textfile(str(self._path), self._registry)
        except OSError as error:
            if not self._has_warned:
                logger.warning(
                    "going on without the metrics file %s, which cannot be written: %s",
                    self._path,
                    error.strerror or error,
                )
            self._has_warned = True


class MetricsServerHook(_MetricsHook):
    """A hook that serves the state of training over HTTP, as OpenMetrics, for Prometheus.

        with MetricsServerHook(8789) as server:
            model.train(input_fn, hooks=[server])

    The port answers from the construction of the hook until `close`, so that Prometheus can read
    the last values after a call too. Anyone who can connect to the port can read the metrics, which
    contain no rows. docs/operations.md lists the metrics. The hook needs the package
    prometheus_client (the extra `prometheus`).

    Args:
        port: Port to listen at, on all addresses of this machine; 0 takes any free one.

    Attributes:
        port: Port that the hook listens at.

    Raises:
        ValueError: the package is missing, or the port is none or taken.
        TypeError: the port is not an integer.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        if check_integer("the metrics port", port, 0) > _LAST_PORT:
            raise Invalid(expected("the metrics port", f"at most {_LAST_PORT}", port))
        try:
            server, thread = self._client.start_http_server(int(port), registry=self._registry)
        except OSError as error:
            reason = error.strerror or error
            raise Invalid(f"the metrics port must be free to use, got {port}: {reason}") from error
        self.port: int = server.server_port
        # A hook that nobody holds any more frees its port too.
        self._stop = weakref.finalize(self, _stop, server, thread)
        self._stop.atexit = False  # the process frees the port
        logger.info("metrics are served at port %d", self.port)

    def __enter__(self) -> MetricsServerHook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the port. A further call does nothing."""
        self._stop()


def _stop(server: Any, thread: threading.Thread) -> None:
    # The garbage collector may run in any thread, and a thread cannot wait for itself.
    if thread is not threading.current_thread():
        server.shutdown()
        thread.join()
    server.server_close()
