"""History of a model: the numbers of its iterations, in `history.json` beside its checkpoints.

`training` records them and writes the file with each checkpoint. `Model.history` reads it, as
programs that make plots do. The file is for information only: a failure to read or write it never
stops training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dkmeans import storage
from dkmeans.errors import Invalid, Outage
from dkmeans.report import Progress
from dkmeans.retry import first_line

logger = logging.getLogger("dkmeans")

_FILE = "history.json"
# Of a larger file every second iteration is dropped: it has some ten thousand.
_MOST_BYTES = 5_000_000
# Iterations that wait to be written; of more, every second one is dropped.
_MOST_WAITING = 10_000
# Size of the end of the file in which the last iteration is looked for; it takes some 500 bytes.
_END_BYTES = 2**12


class News(NamedTuple):
    """Iterations to write.

    Attributes:
        before: Iterations to write in place of those in the file; None keeps those.
        iterations: Iterations that follow.
    """

    before: tuple[dict[str, Any], ...] | None
    iterations: tuple[dict[str, Any], ...]


class History:
    """Numbers of the iterations of a model, which a call of `train` continues.

    Iterations are added to the file. Those in it are read only if some must go: a loop of calls of
    `train` takes as long for each of them, however long the history becomes.

    Args:
        model_dir: Path or URL of the model's directory.
        step: Step that training continues from; 0 for a new model. A file may have later
            iterations, which are computed again.
    """

    def __init__(self, model_dir: str, step: int) -> None:
        self._model_dir = model_dir
        self._before: tuple[dict[str, Any], ...] | None = ()
        self._waiting: list[dict[str, Any]] = []
        self._is_written, self._size = True, 0
        if step:
            self._continue(step)

    def _continue(self, step: int) -> None:
        last, self._size = _last_step(self._model_dir)
        if last is not None and last <= step:
            self._before = None
            return
        found = _history_to_continue(self._model_dir)
        self._before = tuple(each for each in found or () if each["step"] <= step)
        self._is_written = found is not None

    def add(self, progress: Progress) -> None:
        """Add the numbers of an iteration."""
        self._waiting.append({"time": time_now(), **progress.numbers()})
        if len(self._waiting) > _MOST_WAITING:
            self._waiting = self._waiting[::2]

    def news(self) -> News | None:
        """Return what must be written; None if there is nothing, or the file must not be."""
        if not (self._is_written and self._waiting):
            return None
        if self._before is None and self._size > _MOST_BYTES:
            # A file that cannot be read grows on: nothing of it may be lost.
            with suppress(*storage.WRITE_ERRORS, Outage, Invalid):
                self._before = tuple(read_history(self._model_dir)[::2]) or None
        return News(self._before, tuple(self._waiting))

    def note_written(self, news: News, size: int) -> None:
        """Note that news are written, as so many bytes; 0 if that has failed."""
        if size:
            self._size = size if news.before is not None else self._size + size
            self._before, last = None, news.iterations[-1]["step"]
            self._waiting = [each for each in self._waiting if each["step"] > last]


def write_history(model_dir: str, news: News) -> int:
    """Write news to the file of a model; return their size in bytes, 0 if that fails."""
    text = ", ".join(map(json.dumps, (*(news.before or ()), *news.iterations)))
    address = storage.join(model_dir, _FILE)
    start, usable = (", ", _size_before_bracket) if news.before is None else ("[", None)
    data = f"{start}{text}]".encode()
    return len(data) * storage.write_or_log(address, data, logging.DEBUG, usable)


def read_history(model_dir: str) -> list[dict[str, Any]]:
    """Return the recorded iterations of a model, each as its numbers by name.

    A file that is damaged counts as one without iterations.
    """
    return _iterations_in(storage.read_json(storage.join(model_dir, _FILE)))


def table_of(iterations: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Return iterations as columns by name, each with one entry for an iteration.

    A number that an iteration does not have is NaN.
    """
    names = dict.fromkeys(name for each in iterations for name in each)
    return {name: _column([each.get(name) for each in iterations]) for name in names}


def losses_of_iterations(
    history: Mapping[str, NDArray[Any]], steps: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the last step and the loss of each whole iteration of so many steps.

    A call may end within an iteration. The history is one that `table_of` returns.
    """
    if not history:
        return np.empty(0, np.int64), np.empty(0)
    is_whole = history["step"] % steps == 0
    return history["step"][is_whole], history["loss"][is_whole]


def _column(values: list[Any]) -> NDArray[Any]:
    if all(isinstance(value, str) for value in values):
        return np.array([value.removesuffix("Z") for value in values], "datetime64[ms]")
    return np.array([np.nan if value is None else value for value in values])


def _last_step(model_dir: str) -> tuple[int | None, int]:
    """Return the last step in the file of a model, and the size of the file in bytes.

    The step is None if there is no file, or it does not end as a list of iterations does.
    """
    size = 0
    with suppress(*storage.WRITE_ERRORS, Outage, ValueError):
        end, size = storage.read_end(storage.join(model_dir, _FILE), _END_BYTES)
        # An iteration holds no braces, and nothing else follows the last one.
        content = json.loads(b"[" + end[max(0, end.rfind(b"{")) :])
        if _iterations_in(content) == content:
            return content[-1]["step"], size
    return None, size


def _size_before_bracket(data: bytes) -> int:
    """Return the size of a list in JSON without its end; that of all data if it has none."""
    place = data.rfind(b"]")
    return len(data) if place < 0 else place


def _history_to_continue(model_dir: str) -> list[dict[str, Any]] | None:
    """Return the recorded iterations, to which those of a new call are added.

    A file that cannot be read, or holds anything else, is kept under another name, so that nothing
    in it is lost. What can be read of it is returned.

    Returns:
        The iterations; None if the file must not be written, because the old one is still there.
    """
    address = storage.join(model_dir, _FILE)
    kept = storage.join(model_dir, f"history-{uuid4().hex[:8]}.json")
    iterations: list[dict[str, Any]] = []
    try:
        found = storage.read(address)
        content = json.loads(found.data) if found else []
        iterations = _iterations_in(content)
        if iterations == content:
            return iterations
        reason = "not every entry is an iteration"
    except (*storage.WRITE_ERRORS, Outage, ValueError) as error:
        reason = first_line(error)
    try:
        storage.rename(address, kept)
    except (*storage.WRITE_ERRORS, Outage, Invalid) as error:
        logger.warning(
            "going on without a history: %s cannot be read (%s), nor renamed to %s (%s)",
            *(address, reason, kept, first_line(error)),
        )
        return None
    logger.warning("%s cannot be read (%s); it is kept as %s", address, reason, kept)
    return iterations


def _iterations_in(content: Any) -> list[dict[str, Any]]:
    """Return those entries of the content of a history that are iterations."""
    return list(filter(_is_iteration, content if isinstance(content, list) else []))


def _is_iteration(entry: Any) -> bool:
    """Return whether an entry of a history has a step, and no other values than those of one."""
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        return False
    numbers = dict(entry)
    try:
        datetime.fromisoformat(numbers.pop("time", time_now()))
    except (TypeError, ValueError):
        return False
    return all(value is None or isinstance(value, int | float) for value in numbers.values())


def time_now() -> str:
    """Return the present time in UTC, as ISO 8601 text."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
