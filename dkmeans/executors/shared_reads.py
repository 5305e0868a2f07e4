"""Shared reads: several trainings on one executor, which reads each chunk once for all of them.

Each training runs in a thread of its own and has a `Participant` as its executor. A `map_reduce`
waits until every participant has made its call or has left. The calls over equal batches are then
computed together: each chunk is loaded once, and every function is applied to it. The results have
the bits of separate calls. `sweeping` uses this module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass, replace
from operator import add
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.executors.budget import Memory
from dkmeans.executors.reduction import Reduction, participant, skips
from dkmeans.state import M, on_host

if TYPE_CHECKING:
    from dkmeans.executors import Executor

R = TypeVar("R")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, eq=False)
class _Together:
    """Calls that are computed together: number of the participant, function and value of each."""

    calls: tuple[tuple[int, Callable[[LoadedChunk, Any], Any], Any], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Results:
    """Results of calls that are computed together: a monoid under `+`.

    Attributes:
        parts: The result of each call.
        seconds: Time that each call computed.
        skipped: Number of distances that each call did not compute.
    """

    parts: tuple[Any, ...]
    seconds: tuple[float, ...]
    skipped: tuple[int, ...]

    def __add__(self, other: _Results) -> _Results:
        return _Results(
            tuple(map(add, self.parts, other.parts)),
            tuple(map(add, self.seconds, other.seconds)),
            tuple(map(add, self.skipped, other.skipped)),
        )

    def on_host(self) -> _Results:
        """Return the same results in the memory of the host."""
        return replace(self, parts=tuple(map(on_host, self.parts)))


def _apply_all(loaded: LoadedChunk, together: _Together) -> _Results:
    """Return the results of all calls for one chunk. Runs on a worker."""
    parts, seconds, skipped = [], [], []
    counter = skips.get()
    for number, function, value in together.calls:
        began, before = perf_counter(), counter.count if counter else 0
        token = participant.set(number)
        try:
            parts.append(function(loaded, value))
        finally:
            participant.reset(token)
        seconds.append(perf_counter() - began)
        skipped.append(counter.count - before if counter else 0)
    return _Results(tuple(parts), tuple(seconds), tuple(skipped))


class _Call:
    """A `map_reduce` of a participant, and its outcome."""

    def __init__(self, function: Callable[..., Any], batches: Sequence[Batch], value: Any) -> None:
        self.function, self.batches, self.value = function, batches, value
        self.reduction: Reduction[Any] | None = None
        self.error: BaseException | None = None

    def suits(self, other: _Call) -> bool:
        """Return whether both calls are over the same chunks."""
        pairs = zip(self.batches, other.batches, strict=False)
        same_count = len(self.batches) == len(other.batches)
        return same_count and all(a is b or a.parts == b.parts for a, b in pairs)


class SharedReads:
    """An executor that several participants share.

    Args:
        executor: Where the work is done.
        count: Number of participants that will take part. Each must leave in the end.
    """

    def __init__(self, executor: Executor, count: int) -> None:
        self.executor, self._active = executor, count
        self._calls: dict[int, _Call] = {}
        self._changed, self._serial = threading.Condition(), threading.Lock()
        self._stopped = False
        # What is computed together has the context of the creator: its log records name no model.
        self._context = copy_context()

    def stop(self) -> None:
        """End all participants: their calls raise KeyboardInterrupt, so that they save first."""
        self._stopped = True
        with self._changed:
            self._changed.notify_all()

    def leave(self) -> None:
        """Remove a participant: the others no longer wait for it."""
        with self._changed:
            self._active -= 1
            self._serve_if_complete()

    def map_reduce(
        self, number: int, function: Callable[..., Any], batches: Sequence[Batch], value: Any
    ) -> Reduction[Any]:
        """Return the result of a participant's call, computed together with others like it.

        Calls are alike if they are over the same chunks.
        """
        call = _Call(function, batches, value)
        with self._changed:
            self._calls[number] = call
            self._serve_if_complete()
            self._changed.wait_for(lambda: call.reduction or call.error or self._stopped)
        if call.reduction is not None:
            return call.reduction
        raise call.error or KeyboardInterrupt

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> list[R]:
        """Return the result of a function for each chunk, for one participant at a time."""
        with self._serial:
            return self._context.run(lambda: list(self.executor.map(function, chunks, value)))

    def _serve_if_complete(self) -> None:
        """Compute the calls if every participant waits for one."""
        if self._stopped or not self._calls or len(self._calls) < self._active:
            return
        # Sorted by number, so that calls come in the same order in each iteration: Dask then deals
        # the same chunks to the same workers.
        waiting, self._calls = dict(sorted(self._calls.items())), {}
        while waiting:
            first = next(iter(waiting.values()))
            group = {number: call for number, call in waiting.items() if call.suits(first)}
            self._serve(group)
            waiting = {number: call for number, call in waiting.items() if number not in group}
        self._changed.notify_all()

    def _serve(self, group: dict[int, _Call]) -> None:
        calls = tuple((number, call.function, call.value) for number, call in group.items())
        (first, *_) = group.values()
        try:
            with self._serial:
                reduction = self._context.run(
                    self.executor.map_reduce, _apply_all, first.batches, _Together(calls)
                )
        except BaseException as error:
            for call in group.values():
                call.error = error
            return
        for place, call in enumerate(group.values()):
            cost = replace(
                reduction.cost,
                compute_seconds=sum(total.seconds[place] for total in reduction.totals),
                skipped=sum(total.skipped[place] for total in reduction.totals),
            )
            totals = [total.parts[place] for total in reduction.totals]
            call.reduction = replace(reduction, totals=totals, cost=cost)


class Participant(AbstractContextManager["Participant"]):
    """The executor of one of several trainings that share their reads."""

    def __init__(self, shared: SharedReads, number: int) -> None:
        self._shared, self._number = shared, number

    def __str__(self) -> str:
        return str(self._shared.executor)

    def __exit__(self, *error: object) -> None:
        return

    def memory(self) -> Memory:
        """Return the memory of the shared executor."""
        return self._shared.executor.memory()

    def map_reduce(
        self, function: Callable[[LoadedChunk, V], M], batches: Sequence[Batch], value: V
    ) -> Reduction[M]:
        """Apply a function to each chunk of each batch, and add up the results of each batch."""
        return self._shared.map_reduce(self._number, function, batches, value)

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """Yield the result of a function for each chunk, in order."""
        return iter(self._shared.map(function, chunks, value))
