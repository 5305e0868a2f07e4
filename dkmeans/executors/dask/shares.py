"""Shares of an iteration that a worker has done, and does again when it is called.

Of an iteration of a tenth of a second the way of its tasks through client, scheduler and worker is
a good part, so one that is like the last is asked for by a call instead. What a worker knows of a
share makes it faster, and no more: rows that have come with the share's task are Dask's, and where
it has let go of them, or the worker has never done the share, tasks do it as before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import ref

from dkmeans.data.batches import Batch
from dkmeans.executors.runs import Run

# Calls whose shares are known: some fits at a time, each with its last.
_MOST_CALLS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What a thread has been asked to fold.

    Attributes:
        function: Of a chunk and a value.
        runs: The runs, in order.
        chunks: Their chunks.
        reading: On whose behalf they are read.
        arrays: The rows that came beside the chunks, while they are there.
    """

    function: Callable[[Any, Any], Any]
    runs: Sequence[Run]
    chunks: Batch
    reading: Any
    arrays: Sequence[ref[Any]]

    @property
    def number(self) -> int:
        """Which of all shares it is."""
        return self.runs[0].share

    def rows(self) -> list[Any]:
        """The rows that came beside the chunks.

        Raises:
            LookupError: some are not there any more.
        """
        arrays = [array() for array in self.arrays]
        if any(array is None for array in arrays):
            raise LookupError("rows have been let go of")
        return arrays


class Shares:
    """The shares that a process has done, by the call that asks for them; safe for threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._done: OrderedDict[str, dict[int, Share]] = OrderedDict()

    def add(self, call: str, share: Share) -> None:
        """Remember a share; of calls, the latest are remembered."""
        with self._lock:
            self._done.setdefault(call, {})[share.number] = share
            self._done.move_to_end(call)
            while len(self._done) > _MOST_CALLS:
                self._done.popitem(last=False)

    def of(self, call: str) -> list[Share]:
        """The shares that this call asks for."""
        with self._lock:
            return list(self._done.get(call, {}).values())


done = Shares()
