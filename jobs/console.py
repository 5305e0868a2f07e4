"""What people see: progress while a job runs, and its result; or programs, as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dkmeans.report import Progress

# How a job's log is written: for people, or one JSON object a line.
LOG_FORMATS = TEXT, JSON = ("text", "json")

# Where there is no terminal a line is written at least this often.
_SECONDS_BETWEEN_LINES = 10.0

logger = logging.getLogger("dkmeans")


class _Lines(logging.Handler):
    """Progress as lines of a log: the notable ones, and one now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self._written = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if record.levelno < logging.INFO and now - self._written < _SECONDS_BETWEEN_LINES:
            return
        self._written = now
        text = record.getMessage() if hasattr(record, "exit_code") else self.format(record)
        print(text, file=sys.stderr, flush=True)  # noqa: T201


class _LiveLine(logging.Handler):
    """Progress as one line of a terminal that is written over; messages above it."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        if isinstance(progress, Progress):
            self._live.update(Text(f"{progress}{time_left(progress)}"))
        elif record.levelno >= logging.INFO:
            self._live.console.print(Text(record.getMessage()))


def time_left(progress: Progress) -> str:
    """How long it will take at most, where the last step is known."""
    if progress.last_step is None or progress.step >= progress.last_step:
        return ""
    seconds = (progress.last_step - progress.step) * progress.seconds / progress.steps
    minutes, hours = divmod(round(seconds), 60), divmod(round(seconds / 60), 60)
    if seconds < 3600:
        return f", at most {minutes[0]}:{minutes[1]:02} min left"
    return f", at most {hours[0]}:{hours[1]:02} h left"


class _Json(logging.Formatter):
    """A record as one JSON object: what it says, and its numbers by name."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
        }
        progress = getattr(record, "progress", None)
        if isinstance(progress, Progress):
            told |= {"event": "iteration", **progress.numbers()}
        if hasattr(record, "exit_code"):
            told["exit_code"] = record.exit_code
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class _JsonLines(logging.StreamHandler[Any]):
    """Every iteration, and every message of a level that people should see."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(_Json())
        self.addFilter(lambda r: hasattr(r, "progress") or r.levelno >= logging.INFO)


@contextmanager
def told(log_format: str) -> Iterator[None]:
    """Show what the library reports: a live line on a terminal, lines elsewhere, or JSON."""
    console = Console(stderr=True)
    if log_format == JSON:
        with _handled(_JsonLines(), _others()):
            yield
    elif console.is_terminal:
        with Live(console=console, auto_refresh=True) as live, _handled(_LiveLine(live)):
            yield
    else:
        with _handled(_Lines()):
            yield


@contextmanager
def _handled(handler: logging.Handler, others: logging.Handler | None = None) -> Iterator[None]:
    """Give a handler all records of the library, and perhaps one the others' warnings."""
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    if others is not None:
        logging.getLogger().addHandler(others)
        logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        if others is not None:
            logging.captureWarnings(capture=False)
            logging.getLogger().removeHandler(others)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _others() -> logging.Handler:
    handler = _JsonLines()
    handler.setLevel(logging.WARNING)
    return handler


def say(text: str, exit_code: int) -> int:
    """Tell why a job ends; its exit code."""
    logger.error("dkmeans: %s", text, extra={"event": "exit", "exit_code": exit_code})
    return exit_code


def print_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a job's result: one JSON object, or a line for each entry."""
    if as_json:
        print(json.dumps(result))  # noqa: T201
        return
    width = max(map(len, result))
    for name, value in result.items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        if isinstance(value, list):
            shown = ", ".join(map(str, value))
        print(f"{name.replace('_', ' '):{width}}  {shown}")  # noqa: T201
