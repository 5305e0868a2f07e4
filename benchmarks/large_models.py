"""Measure memory and messages of fits whose centers are large.

Scheduler, driver and workers are processes of their own, the workers real ones with stored rows.
Prints a Markdown table: the peak of each process's memory above that before the fit, in megabytes
and in copies of the centers, and the messages of the scheduler. Another fit comes first, which
compiles all kernels. The memory is looked at from the driver every 20 ms. See
docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
from distributed import Client, Worker
from many_workers import run_scheduler, serve, traffic_of

from dkmeans import Dataset, KMeans, RunConfig

_LOOK_SECONDS = 0.02


async def _worker(address: str, threads: int) -> None:
    worker = Worker(address, host="127.0.0.1", nthreads=threads, memory_limit=2**33)
    await worker
    await worker.finished()


@contextmanager
def cluster(workers: int, threads: int) -> Iterator[tuple[Client, dict[str, psutil.Process]]]:
    """Yield the client of a cluster, and all processes by their names."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:

        def start(*what: Any) -> psutil.Process:
            process = context.Process(target=serve, args=what)
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            return psutil.Process(process.pid)

        own, other = context.Pipe()
        processes = {"driver": psutil.Process(), "scheduler": start(run_scheduler, other)}
        address = own.recv()
        for number in range(workers):
            processes[f"worker {number}"] = start(_worker, address, threads)
        client = stack.enter_context(Client(address))
        client.wait_for_workers(workers, timeout=60)
        yield client, processes


def _own_memory(process: psutil.Process) -> int:
    """Return the memory of a process in bytes, without the pages of files that it reads."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


@contextmanager
def peaks(processes: Mapping[str, psutil.Process]) -> Iterator[dict[str, int]]:
    """Yield the most memory in bytes that each process has above that at the beginning."""
    before = {name: _own_memory(each) for name, each in processes.items()}
    found, ended = dict.fromkeys(before, 0), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            for name, each in processes.items():
                found[name] = max(found[name], _own_memory(each) - before[name])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the table of a fit."""
    shape, random = (arguments.clusters, arguments.width), np.random.default_rng(0)
    np.save(folder / "rows.npy", random.standard_normal((arguments.rows, shape[1]), np.float32))
    # As many rows as in the fit, so that every worker compiles.
    np.save(folder / "warm.npy", random.standard_normal((arguments.rows, shape[1]), np.float32))
    with cluster(arguments.workers, arguments.threads) as (client, processes):
        config = RunConfig(client=client, cache="none", save_checkpoints_steps=1)

        def fit(name: str, first: Any, steps: int) -> None:
            model = KMeans(
                len(first),
                str(folder / f"{name}-model"),
                first,
                config=config,
                use_mini_batch=False,
            )
            rows = Dataset.from_npy(str(folder / f"{name}.npy"))
            model.train(lambda: rows.repeat(), steps=steps)

        # Compiles, connects; with as many centers and steps, because other kernels are for few
        # centers, and for scores that have proved too coarse.
        fit("warm", random.standard_normal(shape, np.float32), arguments.steps)
        first = random.standard_normal(shape, np.float32)
        before = client.run_on_scheduler(traffic_of)
        began = time.perf_counter()
        with peaks(processes) as found:
            fit("rows", first, arguments.steps)
        seconds = time.perf_counter() - began
        traffic = client.run_on_scheduler(traffic_of)
    size = first.nbytes
    print(
        f"{shape[0]:,} x {shape[1]} float32, {size / 1e6:.0f} MB of centers; "
        f"{arguments.rows:,} rows, {arguments.steps} iterations in {seconds:.1f} s\n\n"
        "| process | MB more | copies of the centers |\n| --- | --- | --- |"
    )
    for name, peak in found.items():
        print(f"| {name} | {peak / 1e6:.0f} | {peak / size:.1f} |")
    sent = (traffic["bytes"] - before["bytes"]) / arguments.steps / 1e6
    largest = traffic["largest"] / 1e6
    print(f"\nScheduler: {sent:.2f} MB an iteration, largest message {largest:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    # As a nanny starts its worker: memory that is freed returns to the system. The C library looks
    # at these variables when a process starts.
    settings = dask.config.get("distributed.nanny.pre-spawn-environ")
    if not settings.keys() <= os.environ.keys():
        os.environ.update({name: str(value) for name, value in settings.items()})
        os.execv(sys.executable, [sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


if __name__ == "__main__":
    main()
