"""What a `map_reduce` returns: one total for each batch, and what it cost to compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dkmeans.retry import EventCount

T = TypeVar("T")

_SHORTEST_SECONDS = 1e-4


# Counts the distances that functions of chunks need not compute, if an executor has set it.
skips: ContextVar[EventCount | None] = ContextVar("skips", default=None)
# Number of the training that the current call is of, if several share their reads (`shared_reads`).
participant: ContextVar[int] = ContextVar("participant", default=0)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Work of a worker's threads: a monoid under `+`.

    Attributes:
        chunks: Number of chunks.
        seconds: Time that the threads needed for them, added up.
    """

    chunks: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Throughput) -> Throughput:
        return Throughput(self.chunks + other.chunks, self.seconds + other.seconds)

    @property
    def speed(self) -> float:
        """Number of chunks per second and thread."""
        return self.chunks / max(self.seconds, _SHORTEST_SECONDS)


@dataclass(frozen=True, slots=True)
class Cost:
    """Time that threads have spent, added up: a monoid under `+`.

    Attributes:
        read_seconds: Time that threads waited for rows.
        compute_seconds: Time that threads computed.
        retries: Number of retried requests to storage.
        skipped: Number of distances that were not computed, because bounds excluded them.
        throughputs: Throughput of each worker by its address; empty for threads of this process.
    """

    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    retries: int = 0
    skipped: int = 0
    throughputs: Mapping[str, Throughput] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        throughputs = dict(self.throughputs)
        for worker, throughput in other.throughputs.items():
            throughputs[worker] = throughputs.get(worker, Throughput()) + throughput
        return Cost(
            self.read_seconds + other.read_seconds,
            self.compute_seconds + other.compute_seconds,
            self.retries + other.retries,
            self.skipped + other.skipped,
            throughputs,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Reduction(Generic[T]):
    """Result of a `map_reduce`.

    Attributes:
        totals: One total for each batch, in order.
        cost: Cost of all of them.
        workers: Number of workers that took part; the threads of this process count as one.
        threads: Number of threads of those workers; 1 if one of them computed alone.
    """

    totals: Sequence[T]
    cost: Cost
    workers: int
    threads: int
