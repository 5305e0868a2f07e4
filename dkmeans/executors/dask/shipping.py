"""Shipping: rows and values travel from the driver to the workers, rows only once per fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Source
from dkmeans.data.sources.dask_array import DaskRows, FutureRows
from dkmeans.data.sources.memory import MemoryRows, ShippedRows
from dkmeans.errors import InvalidData
from dkmeans.executors.dask import internals, remote
from dkmeans.executors.dask.cluster import Cluster
from dkmeans.executors.dask.packets import packets

# A value travels with each task if all its copies together are smaller than this.
_SMALL_BYTES = 2**20
# After this many bytes Dask's logs of sent messages are dropped.
_LOGGED_BYTES = 2**26
# Time in which a worker must have received a packet of a large value.
_PACKET_SECONDS = 10


class Shipping:
    """Sends rows and values to the workers as results of tasks.

    Unlike what `scatter` places, the result of a task can be computed again when its worker is
    lost.

    Args:
        cluster: The cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._client = cluster, cluster.client
        self._shipped: WeakKeyDictionary[Source, Any] = WeakKeyDictionary()
        self._sent_bytes = 0

    @property
    def futures(self) -> list[Any]:
        """Futures of all rows that have been shipped."""
        return list(self._shipped.values())

    def forget(self) -> None:
        """Release all shipped rows; they are shipped again when a task needs them."""
        self._shipped.clear()

    def values(self, value: Any, owners: Sequence[str | None]) -> list[Any]:
        """Return a value as an argument of each of some tasks: itself if it is small, else futures.

        Args:
            value: The value.
            owners: Preferred worker of each task; none of them is frozen.
        """
        size = size_of(value)
        if len(owners) * size < _SMALL_BYTES:
            self._count(len(owners) * size)
            return [value] * len(owners)
        self._count(size)
        workers = sorted({*filter(None, owners)})
        first = self.future(value, workers)
        copies = dict(self._copies(first, workers))
        return [copies.get(owner or "", first) for owner in owners]

    def _copies(self, source: Any, workers: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Yield some workers, each with a copy of a value that is for at most `FAN_IN` workers.

        The copies are made from each other, as a tree. If all workers asked one worker for the
        value, those that it refuses, because it is busy, would wait for longer and longer.
        """
        if len(workers) <= remote.FAN_IN:
            yield from ((each, source) for each in workers)
            return
        parts = min(remote.FAN_IN, -(-len(workers) // remote.FAN_IN))
        size = -(-len(workers) // parts)
        for start in range(0, len(workers), size):
            part = workers[start : start + size]
            copy = self._client.submit(remote.unchanged, source, **preferring(part[0]), pure=False)
            yield from self._copies(copy, part)

    def future(self, value: Any, workers: Sequence[str] = ()) -> Any:
        """Return the future of a task whose result is the value, on one of some workers.

        A large value is sent to its worker directly. A task takes it from there. The task fails
        with `ValueLost` if it runs on another worker, or a second time.
        """
        if workers and size_of(value) >= _SMALL_BYTES and self._cluster.is_reachable:
            name, first = uuid4().hex, list(workers[:1])
            if self._has_sent(value, name, first):
                return self._client.submit(remote.take, name, **preferring(*first), pure=False)
        return self._client.submit(remote.unchanged, value, **preferring(*workers), pure=False)

    def _has_sent(self, value: Any, name: str, receiver: list[str]) -> bool:
        """Send a value to a worker, which holds it under a name; return whether all has arrived."""
        hold = partial(
            internals.call_directly, self._client, receiver, _PACKET_SECONDS, remote.hold
        )
        return all(hold(name, packet) for packet in packets(value))

    def rows(self, chunks: Batch, where: Mapping[str, Any]) -> tuple[Batch, list[Any]]:
        """Return the chunks as they travel, and the futures of the rows beside them.

        Rows in the driver's memory, and rows that are futures, are replaced by `ShippedRows`. Each
        has the number of the task argument that brings its rows. Futures are arguments of their
        own: Dask does not find them inside other objects.

        Args:
            chunks: Chunks of any sources.
            where: Keywords of `Client.submit` that say which worker should hold the rows.
        """
        futures: dict[Source, tuple[int, Any]] = {}

        def ship(source: Source) -> Source:
            if not (
                isinstance(source, MemoryRows | FutureRows)
                or (isinstance(source, DaskRows) and source.carries_rows)
            ):
                return source
            new = len(futures), self._future_of(source, where)
            number, _ = futures.setdefault(source, new)
            table = (source.rows, source.width, source.dtype)
            return ShippedRows(number, source.name, *table, source.first)

        chunks = chunks.with_leaves(ship)
        return chunks, [future for _, future in futures.values()]

    def _future_of(self, source: Source, where: Mapping[str, Any]) -> Any:
        if isinstance(source, FutureRows):
            self._check_cluster(source)
            return source.future
        if source not in self._shipped:
            rows = source.array if isinstance(source, MemoryRows) else source
            self._count(getattr(rows, "nbytes", 0))
            self._shipped[source] = self._client.submit(remote.unpack, rows, **where, pure=False)
        return self._shipped[source]

    def _check_cluster(self, source: FutureRows) -> None:
        own, other = self._client.scheduler.address, source.future.client.scheduler.address
        if own != other:
            raise InvalidData(
                f"{source.name} must be in the memory of the cluster that computes, {own}, got "
                f"rows of the cluster at {other}"
            )

    def _count(self, size: int) -> None:
        self._sent_bytes += size
        if self._sent_bytes > _LOGGED_BYTES:
            self._sent_bytes = 0
            internals.forget_messages(self._client)


def preferring(*workers: str | None) -> dict[str, Any]:
    """Return the keywords of `Client.submit` for a task that should run on one of some workers."""
    addresses = list(filter(None, workers))
    return {"workers": addresses, "allow_other_workers": True} if addresses else {}


def size_of(value: Any) -> int:
    """Return the size of a value in bytes: of a dataclass or a tuple, that of all its parts."""
    if is_dataclass(value) and not isinstance(value, type):
        return sum(size_of(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, tuple):
        return sum(map(size_of, value))
    return int(getattr(value, "nbytes", 0) or sys.getsizeof(value))
