"""Measure what an iteration costs scheduler and driver of a cluster of many workers.

The scheduler and the driver are processes of their own. The workers are real workers of Dask that
share a few processes, and a few threads: a machine has not as many cores as they would have. So
they return the totals of their shares at once, and an iteration is as short as the messages allow.
The CPU seconds, the memory and the messages of scheduler and driver are those of real clusters,
without heartbeats: what the idle scheduler needs is subtracted. Prints Markdown tables in the end,
and writes build/benchmark/many-workers.json; see docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import dask
import psutil
from distributed import Client, Scheduler, Worker
from distributed.comm import tcp
from report import Report
from scheduling import VALUE, batch_of, count_one

from dkmeans.data.batches import Batch
from dkmeans.executors import Cost, Dask
from dkmeans.executors.chunk_runs import Run, RunTotal, merged
from dkmeans.executors.dask import driver as driver_module
from dkmeans.executors.dask import frozen_workers, remote

# Processes that the workers share, and the threads in which the tasks of such a process run.
_WORKER_PROCESSES, _TASK_THREADS = 2, 4
# Iterations before the first that is measured: in these the workers connect to each other.
_WARM_UP = 4
# Time in which the work of the idle scheduler is measured: heartbeats.
_IDLE_SECONDS = 5.0
# Iterations by tasks that are measured.
_TASK_ITERATIONS = 3
# How often a worker leaves and another joins, and the iterations between two such events.
_EVENTS, _BETWEEN = 10, 3
_CONFIG = {
    # What each worker does all the time beside heartbeats would take all of the few cores.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "60s",
    "distributed.admin.system-monitor.interval": "60s",
    # Each worker would look at the memory of its process ten times a second.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.comm.timeouts.connect": "300s",  # all workers connect at once
}


@dataclass
class Traffic:
    """Messages that the scheduler has sent and received, and their size in bytes."""

    messages: int = 0
    bytes: int = 0
    largest: int = 0

    def add(self, frames: Sequence[Any]) -> None:
        """Count a message."""
        size = sum(memoryview(frame).nbytes for frame in frames)
        self.messages, self.bytes = self.messages + 1, self.bytes + size
        self.largest = max(self.largest, size)


def _counted() -> Traffic:
    """Make this process count its messages from now on."""
    traffic, send, receive = Traffic(), tcp.to_frames, tcp.from_frames

    async def to_frames(*arguments: Any, **options: Any) -> Any:
        frames = await send(*arguments, **options)
        traffic.add(frames)
        return frames

    async def from_frames(frames: Any, **options: Any) -> Any:
        traffic.add(frames)
        return await receive(frames, **options)

    tcp.to_frames, tcp.from_frames = to_frames, from_frames
    return traffic


def traffic_of(dask_scheduler: Any) -> dict[str, int]:
    """Return the traffic of the scheduler so far."""
    # Dask copies functions of this module to the scheduler, so the traffic is found there.
    return vars(dask_scheduler.traffic).copy()


async def run_scheduler(connection: Any) -> None:
    """Run a scheduler that counts its messages; its address is sent through the connection."""
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        scheduler.traffic = _counted()
        connection.send(scheduler.address)
        await scheduler.finished()


def _reduced_at_once(
    pool: Any, threads: int, function: Any, runs: Sequence[Run], chunks: Batch, value: Any
) -> list[RunTotal[int]]:
    """Return the totals of `scheduling.count_one`, without a look at the chunks."""
    return merged(RunTotal(run, run.size, Cost(compute_seconds=1e-3)) for run in runs)


class _SharedThreadPoolExecutor(ThreadPoolExecutor):
    """Threads that go on when one of the workers that share them is closed.

    Dask knows threads by the name of their class.
    """

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Do nothing: the process is killed in the end."""


async def _workers(address: str, count: int, threads: int, folder: str) -> None:
    options = {"host": "127.0.0.1", "nthreads": threads, "memory_limit": 2**33, "dashboard": False}
    remote.reduce_shared = _reduced_at_once
    pool = {"default": _SharedThreadPoolExecutor(_TASK_THREADS)}
    # In one folder, each worker would examine the folders of all others.
    workers = [
        Worker(address, executor=pool, local_directory=mkdtemp(dir=folder), **options)
        for _ in range(count)
    ]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


async def one_more(dask_worker: Any, threads: int, folder: str) -> None:
    """Start another worker in the process of a worker, and in its threads."""
    options = {"host": "127.0.0.1", "nthreads": threads, "memory_limit": 2**33, "dashboard": False}
    pool = {"default": dask_worker.executors["default"]}
    place = {"executor": pool, "local_directory": mkdtemp(dir=folder)}
    # Kept by the thread pool: nothing else refers to the worker.
    pool["default"].started = await Worker(dask_worker.scheduler.address, **place, **options)


def serve(server: Callable[..., Any], *arguments: Any) -> None:
    """Run a scheduler or workers in this process."""
    logging.disable()
    with dask.config.set(_CONFIG):
        asyncio.run(server(*arguments))


@contextmanager
def cluster(
    workers: int, threads: int
) -> Iterator[tuple[Client, psutil.Process, Callable[[], object]]]:
    """Yield the client of a cluster, the process of its scheduler, and what adds a worker."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:

        def start(*what: Any) -> int:
            process = context.Process(target=serve, args=what)
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            return process.pid or 0

        folder = stack.enter_context(TemporaryDirectory())
        own, other = context.Pipe()
        scheduler = psutil.Process(start(run_scheduler, other))
        address = own.recv()
        for number in range(_WORKER_PROCESSES):
            count = len(range(number, workers, _WORKER_PROCESSES))
            start(_workers, address, count, threads, folder)
        stack.enter_context(dask.config.set(_CONFIG))
        client = stack.enter_context(Client(address))
        client.wait_for_workers(workers, timeout=300)

        def add_worker() -> None:
            first = min(client.nthreads())
            client.run(one_more, threads=threads, folder=folder, workers=[first])

        yield client, scheduler, add_worker


@dataclass(frozen=True)
class Usage:
    """What scheduler and driver have used so far; differences are what they used in between."""

    seconds: float
    scheduler: float
    driver: float
    messages: int
    bytes: int

    def __sub__(self, before: Usage) -> Usage:
        pairs = zip(astuple(self), astuple(before), strict=True)
        return Usage(*(now - then for now, then in pairs))


def _wait_for(client: Client, workers: int) -> None:
    while len(client.nthreads()) != workers:
        time.sleep(0.05)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# Columns of the tables after the number of workers, with what each is per iteration.
_COLUMNS = (
    *("scheduler, CPU ms", "driver, CPU ms", "ms", "messages", "MB"),
    *("heartbeats, ms per s", "scheduler, MB", "driver, MB"),
)
_BY_CALLS, _BY_TASKS = "Iterations by calls", "Iterations by tasks"
_CHANGES = "Iterations while workers leave and join, ms"
_EVENTS_AND_BETWEEN = ("a worker has left", "it is still away", "a worker joined", "all are there")


def measured(
    workers: int, threads: int, chunks: int, rounds: int, count: int
) -> Iterator[tuple[str, str, list[float]]]:
    """Yield a table's title, a label and numbers: of rounds of iterations, and of single ones."""
    # Workers that share a few cores send heartbeats and answer late, and are not frozen.
    frozen_workers._SILENT_SECONDS = driver_module._CALL_SECONDS = 600
    with cluster(workers, threads) as (client, scheduler, add_worker), Dask(client) as executor:

        def usage() -> Usage:
            traffic = client.run_on_scheduler(traffic_of)
            cpu = _cpu_seconds(scheduler), _cpu_seconds(psutil.Process())
            return Usage(time.perf_counter(), *cpu, traffic["messages"], traffic["bytes"])

        def used(batches: Sequence[Batch]) -> Usage:
            before = usage()
            for batch in batches:
                assert executor.map_reduce(count_one, [batch], VALUE).totals == [chunks]
            return usage() - before

        def numbers(spent: Usage, iterations: int = 1) -> list[float]:
            # What the scheduler has done in that time beside heartbeats.
            own = spent.scheduler - idle.scheduler / idle.seconds * spent.seconds
            messages = spent.messages - idle.messages / idle.seconds * spent.seconds
            found = [1000 * max(0.0, own), 1000 * spent.driver, 1000 * spent.seconds]
            found += [max(0.0, messages), spent.bytes / 1e6]
            sizes = [each.memory_info().rss / 1e6 for each in (scheduler, psutil.Process())]
            beats = 1000 * idle.scheduler / idle.seconds
            return [*(each / iterations for each in found), beats, *sizes]

        name, same = f"{workers:,} x {threads}", batch_of(chunks)
        used([same] * _WARM_UP)
        before = usage()
        time.sleep(_IDLE_SECONDS)
        idle = usage() - before
        for number in range(rounds):
            label = f"{name}, {number * count + 1} to {(number + 1) * count}"
            yield _BY_CALLS, label, numbers(used([same] * count), count)
        # A new batch is no iteration that workers remember.
        new = [batch_of(chunks) for _ in range(_TASK_ITERATIONS)]
        yield _BY_TASKS, name, numbers(used(new), _TASK_ITERATIONS)
        used([same] * 2)
        found: dict[str, list[Usage]] = {event: [] for event in _EVENTS_AND_BETWEEN}

        def look(event: str, between: str) -> None:
            found[event].append(used([same]))
            found[between].extend(used([same]) for _ in range(_BETWEEN))

        for number in range(_EVENTS):
            leaving = sorted(client.nthreads())[(number + workers // 2) % workers]
            client.retire_workers([leaving])
            _wait_for(client, workers - 1)
            look(*_EVENTS_AND_BETWEEN[:2])
            add_worker()
            _wait_for(client, workers)
            look(*_EVENTS_AND_BETWEEN[2:])
        seconds = [statistics.median(each.seconds for each in spent) for spent in found.values()]
        yield _CHANGES, name, [1000 * each for each in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--iterations", type=int, default=20, help="of a round")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    report = Report("many-workers", ["dkmeans", "dask", "distributed"])
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for workers, threads in product(arguments.workers, arguments.threads):
        print(f"measuring {workers:,} workers of {threads} threads", file=sys.stderr)
        scale = workers, threads, arguments.chunks, arguments.rounds, arguments.iterations
        for title, label, numbers in measured(*scale):
            found.setdefault(title, []).append((label, numbers))
    for title, rows in found.items():
        is_of_changes = title == _CHANGES
        begin = report.table if is_of_changes else report.curve
        columns = _EVENTS_AND_BETWEEN if is_of_changes else _COLUMNS
        begin(title, ("workers x threads", *columns))
        for label, numbers in rows:
            report.row(label, numbers)
    report.write(Path("build/benchmark"))


if __name__ == "__main__":
    main()
