"""Measure whether thousands of iterations leave driver and workers as large as they were.

Trains on mini-batches on a local cluster of two worker processes, in calls of 100 steps with a
checkpoint each, and looks at memory, descriptors, threads and the model's folder after each call.
Does so with Dask's profiler and without: a worker keeps a profile of each second, of the last
thousand. Prints Markdown tables, and writes build/benchmark/soak.json; see
docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import psutil
from distributed import Client, LocalCluster
from report import Report

from dkmeans import Dataset, KMeans, RunConfig

_STEPS = 100
_COLUMNS = (
    *("iterations", "driver and scheduler, MB", "workers, MB", "driver's descriptors"),
    *("workers' descriptors", "driver's threads", "workers' threads", "files of the model"),
)


def measured(rounds: int, model_dir: str) -> Iterator[list[float]]:
    """Yield the numbers after each round of steps."""
    rows = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    dataset = Dataset.from_array(rows).batch(1000).repeat()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        config = RunConfig(client=client, save_checkpoints_steps=_STEPS)
        model = KMeans(20, model_dir, seed=1, config=config)
        driver = [psutil.Process()]
        workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        for _ in range(rounds):
            model.train(lambda: dataset, steps=_STEPS)
            groups = driver, workers
            memory = [sum(p.memory_info().rss for p in group) / 1e6 for group in groups]
            descriptors = [sum(p.num_fds() for p in group) for group in groups]
            threads = [sum(p.num_threads() for p in group) for group in groups]
            files = sum(len(names) for _, _, names in os.walk(model_dir))
            yield [*memory, *descriptors, *threads, files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of 100 steps")
    rounds = parser.parse_args().rounds
    report = Report("soak", ["dkmeans", "numpy", "dask", "distributed"])
    for title, has_profiler in (("", False), (", with Dask's profiler", True)):
        report.curve(f"Mini-batches on two workers{title}", _COLUMNS)
        with (
            tempfile.TemporaryDirectory() as folder,
            dask.config.set({"distributed.worker.profile.enabled": has_profiler}),
        ):
            for number, numbers in enumerate(measured(rounds, folder), 1):
                report.row(f"{number * _STEPS:,}", numbers)
    report.write(Path("build/benchmark"))


if __name__ == "__main__":
    main()
