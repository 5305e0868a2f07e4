"""Output of a job: the log on standard error and the result on standard output.

`command` runs each job under `log_output` and prints its result with `print_result`. The library
logs through the logger `dkmeans`, and each iteration is one record that carries a `Progress`. The
log has three forms: one live line on a terminal, lines of text elsewhere, or JSON for programs.
"""

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

from dkmeans.report import Progress, RowProgress, progress_of

# Values of --log-format.
LOG_FORMATS = TEXT, JSON = ("text", "json")

# Without a terminal, progress is logged at most this often. Notable iterations are always logged.
_LINE_INTERVAL_SECONDS = 10.0
_HOUR_SECONDS = 3600
# Colors of messages on a terminal.
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}
_TRACEBACKS = logging.Formatter()

logger = logging.getLogger("dkmeans")


def _text_of(record: logging.LogRecord) -> str:
    """Return a record's message, with its level if it is a warning or an error."""
    text = record.getMessage()
    # The reason of the end has no level in front, like other errors of a command line.
    if record.levelno < logging.WARNING or hasattr(record, "exit_code"):
        return text
    return f"{record.levelname} {text}"


class _TextFormatter(logging.Formatter):
    """Formatter that puts the time before a message, and a traceback after it."""

    def format(self, record: logging.LogRecord) -> str:
        text = _text_of(record)
        if not hasattr(record, "exit_code"):
            text = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {text}"
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return text


class _TextHandler(logging.Handler):
    """Handler that writes records as lines of text.

    It writes records of level INFO or above, and at most every ten seconds the progress of a call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_TextFormatter())
        self._written_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if record.levelno < logging.INFO and (
            progress_of(record) is None or now - self._written_at < _LINE_INTERVAL_SECONDS
        ):
            return
        self._written_at = now
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201


class _LiveHandler(logging.Handler):
    """Handler that overwrites a line of a terminal with progress.

    A message ends that line: the last progress stays above the message, as it came before it.
    """

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live
        self._progress: Progress | RowProgress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        progress = progress_of(record)
        if progress is not None:
            self._progress = progress
            # `Text`: rich would read brackets in a str as markup.
            self._live.update(Text(with_time_left(progress)))
        elif record.levelno >= logging.INFO:
            self.end_line()
            style = _STYLES.get(record.levelno, "")
            self._live.console.print(Text(_text_of(record), style))
            if record.exc_info:
                self._live.console.print(Text(_TRACEBACKS.formatException(record.exc_info)))

    def end_line(self) -> None:
        """Print the last progress as a line that stays."""
        if self._progress is not None:
            self._live.update("", refresh=True)
            self._live.console.print(Text(str(self._progress)))
            self._progress = None


def with_time_left(progress: Progress | RowProgress) -> str:
    """Return the text of a progress, with the time that the call may still take if it is known."""
    seconds = progress.seconds_left
    if seconds is None:
        return str(progress)
    # Training may converge before its last step; rows end when all are done.
    how_long = "at most" if isinstance(progress, Progress) else "about"
    if seconds < _HOUR_SECONDS:
        minutes, rest = divmod(round(seconds), 60)
        return f"{progress}, {how_long} {minutes}:{rest:02} min left"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{progress}, {how_long} {hours}:{minutes:02} h left"


class _JsonFormatter(logging.Formatter):
    """Formatter that turns a record into one JSON object, with the numbers of an iteration."""

    def format(self, record: logging.LogRecord) -> str:
        timestamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": timestamp.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
        }
        progress = progress_of(record)
        if progress is not None:
            event = "iteration" if isinstance(progress, Progress) else "progress"
            fields |= {"event": event, **progress.numbers()}
        if hasattr(record, "exit_code"):
            fields["exit_code"] = record.exit_code
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class _JsonHandler(logging.StreamHandler[Any]):
    """Handler that writes every iteration, and every record of level INFO or above, as JSON."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(_JsonFormatter())
        self.addFilter(lambda r: progress_of(r) is not None or r.levelno >= logging.INFO)


@contextmanager
def log_output(log_format: str) -> Iterator[None]:
    """Write the library's log to standard error while the block runs.

    Args:
        log_format: One of `LOG_FORMATS`. Text is a live line if standard error is a terminal.
    """
    console = Console(stderr=True)
    if log_format == JSON:
        with _attach(_JsonHandler(), _warnings_handler()):
            yield
    elif console.is_terminal:
        # `transient`: the line is removed at the end, where `end_line` has printed it.
        # Standard output may be a pipe, and the console would write it to the terminal.
        with Live(console=console, transient=True, redirect_stdout=False) as live:
            handler = _LiveHandler(live)
            with _attach(handler):
                try:
                    yield
                finally:
                    handler.end_line()
    else:
        with _attach(_TextHandler()):
            yield


@contextmanager
def _attach(
    handler: logging.Handler, root_handler: logging.Handler | None = None
) -> Iterator[None]:
    """Attach handlers while the block runs, and restore the loggers after it.

    Args:
        handler: Gets every record of the library.
        root_handler: Gets the records of other libraries, and Python's warnings.
    """
    level, propagate = logger.level, logger.propagate
    # Most iterations are records of level DEBUG; the handlers select among them.
    logger.setLevel(logging.DEBUG)
    # Handlers of the root logger would write each record a second time.
    logger.propagate = False
    logger.addHandler(handler)
    if root_handler is not None:
        logging.getLogger().addHandler(root_handler)
        logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        if root_handler is not None:
            logging.captureWarnings(capture=False)
            logging.getLogger().removeHandler(root_handler)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _warnings_handler() -> logging.Handler:
    """Return a handler for warnings of other libraries: in a JSON log, every line must be JSON."""
    handler = _JsonHandler()
    handler.setLevel(logging.WARNING)
    return handler


def log_exit(text: str, exit_code: int, level: int = logging.ERROR) -> int:
    """Log why a job ends, as an error unless `level` is lower, and return the exit code."""
    name = "dkmeans: error" if level >= logging.ERROR else "dkmeans"
    logger.log(level, "%s: %s", name, text, extra={"event": "exit", "exit_code": exit_code})
    return exit_code


def print_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a job's result: one JSON object, or a line for each entry that is not empty."""
    if as_json:
        print(json.dumps(result))  # noqa: T201
        return
    width = max(map(len, result))
    for name, value in result.items():
        if value is not None and value != []:
            print(f"{name.replace('_', ' '):{width}}  {_shown(value)}")  # noqa: T201


def _shown(value: Any) -> str:
    """Return a value of a result for people."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)
