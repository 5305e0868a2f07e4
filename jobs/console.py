"""What people see: progress while a job runs, and its result."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dkmeans.report import Progress

# Where there is no terminal a line is written at least this often.
_SECONDS_BETWEEN_LINES = 10.0


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
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201


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


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show what the library reports: a live line on a terminal, plain lines elsewhere."""
    logger = logging.getLogger("dkmeans")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    console = Console(stderr=True)
    live = Live(console=console, auto_refresh=True) if console.is_terminal else None
    handler = _LiveLine(live) if live else _Lines()
    logger.addHandler(handler)
    if live:
        live.start()
    try:
        yield
    finally:
        if live:
            live.stop()
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


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
