"""History of a model: the numbers of its iterations, in `history.json` beside its checkpoints.

`training` records them and writes the file with each checkpoint. `Model.history` reads it, as
programs that make plots do. The file is for information only: a failure to read or write it never
stops training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
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
# If the history is longer than this, every second iteration is dropped.
_MAX_ITERATIONS = 10_000


class _Written(NamedTuple):
    """A history that this process has written: calls of `train` in a loop need not parse it."""

    data: bytes
    iterations: Sequence[dict[str, Any]]


_last_written = _Written(b"", ())


class History:
    """Numbers of the iterations of a model, which a call of `train` continues.

    Args:
        model_dir: Path or URL of the model's directory.
        step: Step that training continues from; 0 for a new model. A file may have later
            iterations, which are computed again.
    """

    def __init__(self, model_dir: str, step: int) -> None:
        self._model_dir = model_dir
        found = _history_to_continue(model_dir) if step else []
        self._iterations = [each for each in found or [] if each["step"] <= step]
        self._is_written, self._has_news = found is not None, False

    def add(self, progress: Progress) -> None:
        """Add the numbers of an iteration."""
        self._iterations.append({"time": _now(), **progress.numbers()})
        self._has_news = True
        if len(self._iterations) > _MAX_ITERATIONS:
            self._iterations = self._iterations[::2]

    def news(self) -> tuple[dict[str, Any], ...]:
        """Return all iterations if one was added since the last call, to be written; else none."""
        if not (self._is_written and self._has_news):
            return ()
        self._has_news = False
        return tuple(self._iterations)


def write_history(model_dir: str, iterations: Sequence[dict[str, Any]]) -> None:
    """Write the file of a model, if there are iterations."""
    global _last_written
    if iterations:
        data = json.dumps(iterations).encode()
        storage.write_or_log(storage.join(model_dir, _FILE), data, logging.DEBUG)
        _last_written = _Written(data, iterations)


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


def _column(values: list[Any]) -> NDArray[Any]:
    if all(isinstance(value, str) for value in values):
        return np.array([value.removesuffix("Z") for value in values], "datetime64[ms]")
    return np.array([np.nan if value is None else value for value in values])


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
        if found and found.data == _last_written.data:
            return list(_last_written.iterations)
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
        datetime.fromisoformat(numbers.pop("time", _now()))
    except (TypeError, ValueError):
        return False
    return all(value is None or isinstance(value, int | float) for value in numbers.values())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
