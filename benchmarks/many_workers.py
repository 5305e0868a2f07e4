"""Measure what an iteration costs scheduler and driver of a cluster of many workers.

The scheduler and the driver are processes of their own. The workers are real workers of Dask that
share a few processes, and a few threads: a machine has not as many cores as they would have. So
their chunks have one row each, the function that is mapped over the chunks does nothing, and the
time of an iteration is no measure. The CPU seconds, the memory and the messages of scheduler and
driver are. Prints a Markdown table; see docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import Any

import dask
import psutil
from distributed import Client, Scheduler, Worker
from distributed.comm import tcp
from scheduling import iterations

from dkmeans.executors import Dask
from dkmeans.executors.dask import cluster as view
from dkmeans.executors.dask import driver as driver_module

# Processes that the workers share, and the threads in which the tasks of such a process run.
_WORKER_PROCESSES, _TASK_THREADS = 2, 4
# Iterations before the first that is measured: in these the workers connect to each other.
_WARM_UP = 4
# Time in which the work of the idle scheduler is measured: heartbeats.
_IDLE_SECONDS = 5.0
_CONFIG = {
    # What each worker does all the time beside heartbeats would take all of the few cores.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "60s",
    "distributed.admin.system-monitor.interval": "60s",
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


def _traffic(dask_scheduler: Any) -> dict[str, int]:
    """Return the traffic of the scheduler so far; its largest message is that since the last call.

    Dask copies functions of this module to the scheduler, so the traffic is found there.
    """
    so_far = vars(dask_scheduler.traffic).copy()
    dask_scheduler.traffic.largest = 0
    return so_far


async def _scheduler(connection: Any) -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        scheduler.traffic = _counted()
        connection.send(scheduler.address)
        await scheduler.finished()


async def _workers(address: str, count: int, threads: int) -> None:
    options = {"host": "127.0.0.1", "nthreads": threads, "memory_limit": 2**33, "dashboard": False}
    pool = {"default": ThreadPoolExecutor(_TASK_THREADS)}
    workers = [Worker(address, executor=pool, **options) for _ in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


def _serve(server: Callable[..., Any], *arguments: Any) -> None:
    logging.disable()
    with dask.config.set(_CONFIG):
        asyncio.run(server(*arguments))


@contextmanager
def cluster(workers: int, threads: int) -> Iterator[tuple[Client, psutil.Process]]:
    """Yield the client of a cluster, and the process of its scheduler."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:

        def start(*what: Any) -> int:
            process = context.Process(target=_serve, args=what)
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            return process.pid or 0

        own, other = context.Pipe()
        scheduler = psutil.Process(start(_scheduler, other))
        address = own.recv()
        for number in range(_WORKER_PROCESSES):
            count = len(range(number, workers, _WORKER_PROCESSES))
            start(_workers, address, count, threads)
        stack.enter_context(dask.config.set(_CONFIG))
        client = stack.enter_context(Client(address))
        client.wait_for_workers(workers, timeout=300)
        yield client, scheduler


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(workers: int, threads: int, chunks: int, rounds: int, count: int) -> None:
    """Print a line of the table for each round of so many iterations."""
    driver = psutil.Process()
    # Workers that share a few cores send heartbeats and answer late, and are not frozen.
    view._SILENT_SECONDS = driver_module._CALL_SECONDS = 600
    with cluster(workers, threads) as (client, scheduler), Dask(client) as executor:
        iterations(executor, chunks, _WARM_UP)
        began_idle = _cpu_seconds(scheduler)
        time.sleep(_IDLE_SECONDS)
        idle = (_cpu_seconds(scheduler) - began_idle) / _IDLE_SECONDS
        for number in range(rounds):
            before = client.run_on_scheduler(_traffic)
            began = [_cpu_seconds(each) for each in (scheduler, driver)]
            seconds = sum(iterations(executor, chunks, count))
            spent = [_cpu_seconds(each) for each in (scheduler, driver)]
            now = client.run_on_scheduler(_traffic)
            cells = [
                f"{workers:,} x {threads}",
                f"{_WARM_UP + number * count + 1} to {_WARM_UP + (number + 1) * count}",
                *(f"{1000 * (b - a) / count:.0f}" for a, b in zip(began, spent, strict=True)),
                f"{1000 * idle:.0f}",
                f"{1000 * seconds / count:,.0f}",
                f"{(now['messages'] - before['messages']) / count:,.0f}",
                f"{(now['bytes'] - before['bytes']) / count / 1e6:.2f}",
                f"{now['largest'] / 1e6:.2f}",
                *(f"{each.memory_info().rss / 1e6:.0f}" for each in (scheduler, driver)),
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--iterations", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    versions = ", ".join(f"{each} {version(each)}" for each in ("dkmeans", "dask", "distributed"))
    print(
        f"{date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}; "
        f"{arguments.chunks:,} chunks\n\n"
        "| workers x threads | iterations | scheduler, CPU ms | driver, CPU ms "
        "| idle scheduler, CPU ms per s | ms, all processes "
        "| messages | MB | largest, MB | scheduler, MB | driver, MB |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for workers in arguments.workers:
        for threads in arguments.threads:
            measure(workers, threads, arguments.chunks, arguments.rounds, arguments.iterations)


if __name__ == "__main__":
    main()
