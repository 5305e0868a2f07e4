"""Display of progress for people: one live line where a person looks, lines of text elsewhere.

The estimator shows a call with `shown` if `RunConfig.progress` asks for it, and the jobs attach the
same handlers for as long as they run. All of them show the library's log records; progress is in
those of `report` (docs/decisions/003). A display that fails is dropped: it never ends a call.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dkmeans.report import Progress, RowProgress, progress_of

logger = logging.getLogger("dkmeans")

# Without a live line, progress is written about this often.
_LINE_INTERVAL_SECONDS = 10.0
# A live line changes at most this often: iterations may take less than a millisecond.
_LIVE_INTERVAL_SECONDS = 0.2
_HOUR_SECONDS = 3600
# From this time after a message on, until progress comes, the time since the message is shown.
_LONG_SECONDS = 2
# Colors of messages.
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}
_TRACEBACKS = logging.Formatter()
# Control characters, separators of lines, controls of the direction of a text, and lone surrogates.
# Other characters without a glyph, such as joiners and wide spaces, are parts of words.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Heights of a curve, and the number of losses that it shows.
_HEIGHTS, _CURVE_LOSSES = "▁▂▃▄▅▆▇█", 24

# Held while a call is shown.
_is_shown = threading.Lock()


def text_of(record: logging.LogRecord) -> str:
    """Return a record's message, with its level if it is a warning or an error.

    A record with the attribute `is_plain` has no level in front.
    """
    text = printable(record.getMessage())
    if record.levelno < logging.WARNING or hasattr(record, "is_plain"):
        return text
    return f"{record.levelname} {text}"


def printable(text: str) -> str:
    """Return a text with escapes for what breaks lines, or moves the cursor of a terminal.

    Names of columns and files may hold anything.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _TextFormatter(logging.Formatter):
    """Formatter that puts the time before a message, and a traceback after it."""

    def format(self, record: logging.LogRecord) -> str:
        text = text_of(record)
        if not hasattr(record, "is_plain"):
            text = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {text}"
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return text


class _Display(logging.Handler):
    """Base of the handlers that show records to people. After an error they show none any more.

    At the end of a `with` block the last progress is written as a line that stays.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):
            self._end_line()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        try:
            self._show(record)
        except Exception:  # a closed terminal, for instance
            logger.removeHandler(self)

    def _show(self, record: logging.LogRecord) -> None:
        raise NotImplementedError

    def _end_line(self) -> None:
        raise NotImplementedError


class TextHandler(_Display):
    """Handler that writes records as lines of text on standard error.

    It writes all messages of level INFO or above. Of progress it writes the first record, then one
    every ten seconds, and the last one before a message or the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_TextFormatter())
        self._written_at = -math.inf
        self._unwritten: logging.LogRecord | None = None

    def _show(self, record: logging.LogRecord) -> None:
        if progress_of(record) is not None:
            self._unwritten = record
            if time.monotonic() - self._written_at >= _LINE_INTERVAL_SECONDS:
                self._written_at = time.monotonic()
                self._end_line()
        elif record.levelno >= logging.INFO:
            self._end_line()
            self._write(record)

    def _end_line(self) -> None:
        if self._unwritten is not None:
            self._write(self._unwritten)
            self._unwritten = None

    def _write(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201


class _Terminal:
    """A terminal on which standard error is shown."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def add(self, text: Text) -> None:
        self._live.console.print(text)

    def update(self, line: Any) -> None:
        self._live.update(line, refresh=True)


class _Notebook:
    """The output of a cell of a notebook, which shows all lines as one text.

    Args:
        display: IPython's function of this name.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._lines: list[Text] = []
        self._handle = display(Text(), display_id=True)

    def add(self, text: Text) -> None:
        self._lines.append(text)
        self.update("")

    def update(self, line: Any) -> None:
        lines = [*self._lines, *([line] if isinstance(line, Text) else [])]
        self._handle.update(Text("\n").join(lines))


class _Waiting:
    """Line with the time since the last message, for as long as no progress comes."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def __rich__(self) -> Text:
        seconds = int(time.monotonic() - self._since)
        return Text("" if seconds < _LONG_SECONDS else f"... {seconds} s")


class LiveHandler(_Display):
    """Handler that overwrites a line with progress.

    A message ends that line: the last progress stays above the message, as it came before it.

    Args:
        screen: Where the lines are shown.
        with_curve: True if the screen can show the characters of a curve.
    """

    def __init__(self, screen: _Terminal | _Notebook, *, with_curve: bool) -> None:
        super().__init__()
        self._screen, self._with_curve = screen, with_curve
        self._progress: Progress | RowProgress | None = None
        self._losses: deque[float] = deque(maxlen=_CURVE_LOSSES)
        self._updated_at = 0.0

    def _show(self, record: logging.LogRecord) -> None:
        progress = progress_of(record)
        if progress is not None:
            self._progress = progress
            if isinstance(progress, Progress):
                self._losses.append(progress.loss)
            now = time.monotonic()
            if now - self._updated_at >= _LIVE_INTERVAL_SECONDS:
                self._updated_at = now
                # `Text`: rich would read brackets in a str as markup.
                self._screen.update(Text(self._line(progress)))
        elif record.levelno >= logging.INFO:
            self._end_line()
            style = _STYLES.get(record.levelno, "")
            self._screen.add(Text(text_of(record), style))
            if record.exc_info:
                self._screen.add(Text(_TRACEBACKS.formatException(record.exc_info)))
            self._screen.update(_Waiting())

    def _line(self, progress: Progress | RowProgress) -> str:
        line = with_time_left(progress)
        if isinstance(progress, Progress) and self._with_curve:
            line += f"  {curve(self._losses)}"
        return line

    def _end_line(self) -> None:
        self._screen.update("")
        self._updated_at = 0.0
        if self._progress is not None:
            self._screen.add(Text(str(self._progress)))
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


def curve(values: Collection[float]) -> str:
    """Return a curve of some values: one character for each, as high as its value."""
    low, high = min(values), max(values)
    scale = (len(_HEIGHTS) - 1) / (high - low) if high > low else 0.0
    return "".join(_HEIGHTS[round((value - low) * scale)] for value in values)


@contextmanager
def live_on_terminal(console: Console) -> Iterator[LiveHandler]:
    """Yield a handler that shows a live line on a terminal until the block ends."""
    # `transient`: the live line is removed at the end, as the handler prints the last progress.
    # `redirect_stdout`: rich would send standard output, which may be a pipe, to the terminal.
    live = Live(console=console, transient=True, redirect_stdout=False)
    is_unicode = console.encoding.lower().startswith("utf")
    handler = LiveHandler(_Terminal(live), with_curve=is_unicode)
    with suppress(Exception):  # another live display may be on the terminal
        live.start()
    try:
        with handler:
            yield handler
    finally:
        with suppress(Exception):
            live.stop()


@contextmanager
def attached(*handlers: logging.Handler) -> Iterator[None]:
    """Send every record of the library to these handlers, until the block ends.

    Handlers of the root logger get none; others of the library's logger get what they get without
    this.
    """
    level, propagate, others = logger.level, logger.propagate, list(logger.handlers)
    lowest = logger.getEffectiveLevel()

    def is_theirs(record: logging.LogRecord) -> bool:
        return record.levelno >= lowest

    for handler in others:
        handler.addFilter(is_theirs)
    # Most iterations are records of level DEBUG; the handlers select among them.
    logger.setLevel(logging.DEBUG)
    # Handlers of the root logger would write each record a second time.
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        for handler in others:
            handler.removeFilter(is_theirs)
        logger.setLevel(level)
        logger.propagate = propagate


class _Forwarding(logging.Handler):
    """Handler that sends records to the handlers of the user that would get them otherwise."""

    def __init__(self) -> None:
        super().__init__(logger.getEffectiveLevel())
        self._parent = logger.parent if logger.propagate else None

    def emit(self, record: logging.LogRecord) -> None:
        if self._parent is not None and self._parent.hasHandlers():
            self._parent.callHandlers(record)


def _for_people() -> AbstractContextManager[logging.Handler]:
    """Return the handler for the place where standard error is shown."""
    console = Console(stderr=True)
    if console.is_jupyter:
        from IPython.display import display  # noqa: PLC0415 rich has found IPython

        return LiveHandler(_Notebook(display), with_curve=True)
    return live_on_terminal(console) if console.is_terminal else TextHandler()


@contextmanager
def shown() -> Iterator[None]:
    """Show the progress of the block to people."""
    # Calls that overlap share the display of the first one.
    if not _is_shown.acquire(blocking=False):
        yield
        return
    try:
        with _for_people() as handler, attached(handler, _Forwarding()):
            yield
    finally:
        _is_shown.release()
