"""Time what an iteration costs beside the computation.

The chunks have one row each, and the function that is mapped over them does nothing. Prints
Markdown tables: the time by the number of chunks; memory during a thousand iterations; and real
iterations on two worker processes, compared with two threads. `many_workers.py` measures clusters
of hundreds of workers. See docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from distributed import Client, LocalCluster

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.distance import Centers, Distance
from dkmeans.executors import Dask, Threads
from dkmeans.partial_sums import accumulate

# Sent to the workers in each iteration, as large as real centers.
VALUE = Centers(np.zeros((1000, 64), np.float32), Distance.SQUARED_EUCLIDEAN)


@dataclass(frozen=True)
class Blank:
    """A source of chunks of one row that no task reads."""

    rows: int
    name: str = "blank"
    first: int = 0
    width: int = 1
    dtype: str = "float32"
    chunk_rows: int = 1
    key: None = None
    parts: tuple[()] = ()
    is_repeatable: bool = False

    def read(self, start: int, stop: int) -> Any:
        """Return rows of zeros."""
        return np.zeros((stop - start, 1), np.float32)

    def with_leaves(self, change: Any) -> Any:
        """Return the changed source."""
        return change(self)


def count_one(loaded: LoadedChunk, value: Any) -> int:
    """Return 1, so that the sum over all chunks is their number."""
    return 1


def batch_of(chunks: int) -> Batch:
    return Batch.of(Chunk(Blank(chunks), 0, chunks))


def iterations(executor: Dask, chunks: int, count: int) -> list[float]:
    """Return the seconds that each iteration takes."""
    batch, times = batch_of(chunks), []
    for _ in range(count):
        began = time.perf_counter()
        (counted,) = executor.map_reduce(count_one, [batch], VALUE).totals
        times.append(time.perf_counter() - began)
        assert counted == chunks
    return times


def by_chunks() -> None:
    """Print the time of an iteration by the number of chunks."""
    print("| chunks | ms per iteration |\n| --- | --- |")
    with cluster(2) as workers, Client(workers) as client, Dask(client) as executor:
        for chunks in (100, 1000, 10_000, 100_000, 1_000_000):
            times = iterations(executor, chunks, 20 if chunks < 10**6 else 5)
            print(f"| {chunks:,} | {statistics.median(times) * 1000:.0f} |", flush=True)


def soak(count: int) -> None:
    """Print the memory of driver and workers during many iterations."""
    print("| iterations | driver and scheduler, MB | workers, MB |\n| --- | --- | --- |")
    with cluster(2) as workers, Client(workers) as client, Dask(client) as executor:
        processes = [psutil.Process(pid) for pid in client.run(_pid).values()]
        for done in range(0, count + 1, count // 10):
            if done:
                iterations(executor, 10_000, count // 10)
            sizes = [f"{each.memory_info().rss / 1e6:.0f}" for each in processes]
            driver_mb = psutil.Process().memory_info().rss / 1e6
            print(f"| {done:,} | {driver_mb:.0f} | {', '.join(sizes)} |", flush=True)


def processes() -> None:
    """Print the time of real iterations on two processes and on two threads, rows in 64 chunks."""
    print("| rows | threads, ms | processes, ms | ratio |\n| --- | --- | --- | --- |")
    random = np.random.default_rng(0)
    for rows in (1_000_000, 2_000_000, 4_000_000):
        sources = [
            MemoryRows(random.standard_normal((rows // 64, 64), np.float32), "rows", i * rows // 64)
            for i in range(64)
        ]
        batch = Batch(tuple(Chunk(s, s.first, s.first + s.rows) for s in sources))
        centers = Centers(sources[0].array[:256], Distance.SQUARED_EUCLIDEAN)
        with (
            cluster(2) as workers,
            Client(workers) as client,
            Threads(2) as threads,
            Dask(client) as executor,
        ):
            pairs = [
                [lloyd(each, batch, centers) for each in (threads, executor)] for _ in range(3)
            ]
        one, two = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(f"| {rows:,} | {one * 1000:.0f} | {two * 1000:.0f} | {one / two:.2f} |", flush=True)


def lloyd(executor: Dask | Threads, batch: Batch, centers: Centers) -> float:
    """Return the median time of ten iterations, after two that are not counted."""
    times = []
    for _ in range(12):
        began = time.perf_counter()
        executor.map_reduce(accumulate, [batch], centers)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def cluster(workers: int) -> LocalCluster:
    """Return a cluster of worker processes of one thread."""
    return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)


def _pid() -> int:
    return psutil.Process().pid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("chunks", "soak", "processes"))
    arguments = parser.parse_args()
    for name, part in (
        ("chunks", by_chunks),
        ("soak", lambda: soak(1000)),
        ("processes", processes),
    ):
        if arguments.only in (None, name):
            part()
            print()


if __name__ == "__main__":
    main()
