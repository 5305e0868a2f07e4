"""Shares that a worker has computed, remembered so that a call can ask for them again.

The way of a task through client, scheduler and worker takes a good part of an iteration of a tenth
of a second. An iteration that is like the last one is therefore asked for by one call to each
worker, which names the last iteration and brings the new value. What a worker remembers only saves
time: shares that it does not know, or whose shipped rows Dask has released, are computed by tasks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import ref

from dkmeans.data.batches import Batch
from dkmeans.executors.chunk_runs import Run

# Number of iterations whose shares are remembered: the last one of several fits.
_MOST_CALLS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """The arguments of a task that has computed the share of its worker.

    Attributes:
        function: The function of a chunk and a value.
        runs: The runs, in order.
        chunks: Their chunks.
        reading: A `remote.ReadContext`: for which fit the rows are read.
        arrays: Weak references to the rows that were shipped beside the chunks.
    """

    function: Callable[[Any, Any], Any]
    runs: Sequence[Run]
    chunks: Batch
    reading: Any
    arrays: Sequence[ref[Any]]

    @property
    def number(self) -> int:
        """Number of the share among all shares."""
        return self.runs[0].share

    def rows(self) -> list[Any]:
        """Return the shipped rows.

        Raises:
            LookupError: Dask has released some of them.
        """
        arrays = [array() for array in self.arrays]
        if any(array is None for array in arrays):
            raise LookupError("shipped rows have been released")
        return arrays


class Shares:
    """The remembered shares of a process, by the call that asks for them. Safe for threads.

    A process may have several workers, as with `LocalCluster(processes=False)`.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._computed: OrderedDict[tuple[str, str], dict[int, Share]] = OrderedDict()

    def add(self, call: str, worker: str, share: Share) -> None:
        """Remember a share of a worker; forget those of its oldest call if it has too many."""
        with self._lock:
            self._computed.setdefault((call, worker), {})[share.number] = share
            self._computed.move_to_end((call, worker))
            own = [key for key in self._computed if key[1] == worker]
            for key in own[:-_MOST_CALLS]:
                del self._computed[key]

    def of(self, call: str, worker: str) -> list[Share]:
        """Return the shares that a call asks a worker for."""
        with self._lock:
            return list(self._computed.get((call, worker), {}).values())


computed = Shares()
