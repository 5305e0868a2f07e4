"""Output of a job: the log on standard error and the result on standard output.

`command` runs each job under `log_output` and prints its result with `print_result`. The library
logs through the logger `dkmeans`, and each iteration is one record that carries a `Progress`. The
log has three forms: one live line on a terminal, lines of text elsewhere (both of
`dkmeans.display`), or JSON for programs.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from dkmeans.display import TextHandler, attached, live_on_terminal, printable
from dkmeans.report import Progress, progress_of

# Values of --log-format.
LOG_FORMATS = TEXT, JSON = ("text", "json")

logger = logging.getLogger("dkmeans")


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
        with _warnings_as_json(), attached(_JsonHandler()):
            yield
    else:
        shown = live_on_terminal(console) if console.is_terminal else TextHandler()
        with shown as handler, attached(handler):
            yield


@contextmanager
def _warnings_as_json() -> Iterator[None]:
    """Log the warnings of other libraries and of Python: in a JSON log, every line must be JSON."""
    handler = _JsonHandler()
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        logging.getLogger().removeHandler(handler)


def log_exit(text: str, exit_code: int, level: int = logging.ERROR) -> int:
    """Log why a job ends, as an error unless `level` is lower, and return the exit code."""
    name = "dkmeans: error" if level >= logging.ERROR else "dkmeans"
    extra = {"event": "exit", "exit_code": exit_code, "is_plain": True}
    logger.log(level, "%s: %s", name, text, extra=extra)
    return exit_code


def print_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a job's result: one JSON object, or a line for each entry that is not empty."""
    if as_json:
        print(json.dumps(result))  # noqa: T201
        return
    width = max(map(len, result))
    for name, value in result.items():
        if value is not None and value != []:
            print(_in_one_line(f"{name.replace('_', ' '):{width}}  {_shown(value)}"))  # noqa: T201


def _in_one_line(text: str) -> str:
    """Return a text with escapes for what breaks lines, or standard output cannot show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def _shown(value: Any) -> str:
    """Return a value of a result for people."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)
