"""Train on a Dask data frame that is far larger than the memory of the workers.

A function makes each partition, so that nothing is stored: by default 2,000 partitions of 25.6 MB,
51 GB together, for two worker processes of one thread and 1 GB each. The job is a process of its
own, and its memory and that of its workers is seen from outside. Prints one JSON object; see
docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import dask.dataframe as dd
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from streaming import Peak

from dkmeans import KMeans, RunConfig

COLUMNS = [f"c{i:02}" for i in range(32)]
# Rows of a partition are moved away from zero by up to this number of steps.
_GROUPS = 8


def partition(number: int, rows: int) -> pd.DataFrame:
    """Return a partition: uniform rows about one of a few places."""
    values = np.random.default_rng(number).random((len(COLUMNS), rows), dtype=np.float32)
    values += np.float32(number % _GROUPS)
    return pd.DataFrame(values.T, columns=COLUMNS)  # each column is contiguous, as in most frames


def train(partitions: int, rows: int, steps: int, memory_limit: str) -> dict[str, float]:
    """Train on the frame in this process, and return what was measured."""
    meta = partition(0, 1).iloc[:0]
    frame = dd.from_map(partition, range(partitions), rows=rows, meta=meta)
    workers = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": memory_limit}
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as model_dir,
        LocalCluster(**workers, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        config = RunConfig(client=client)
        model = KMeans(_GROUPS, model_dir, seed=1, use_mini_batch=False, config=config)
        model.train(lambda: frame, steps=steps)
        seconds = model.history["seconds"].tolist()
        loss = model.checkpoint().state.inertia
    return {
        "gigabytes": round(partitions * rows * len(COLUMNS) * 4 / 1e9, 1),
        "partitions": partitions,
        "seconds": round(time.perf_counter() - began, 1),
        "seconds of a step": round(min(seconds), 1),
        "loss": loss,
        "driver, peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=200_000, help="number of rows of a partition")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--memory-limit", default="1GB")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        sizes = arguments.partitions, arguments.rows, arguments.steps
        print(json.dumps(train(*sizes, arguments.memory_limit)))
        return
    command = [sys.executable, *sys.argv, "--job"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        peak = Peak(process.pid)
        printed = process.stdout.read()
        peak.join()
    if process.returncode:
        sys.exit(process.returncode)
    print(json.dumps({**json.loads(printed), "worker, peak MB": round(peak.bytes / 1e6)}))


if __name__ == "__main__":
    main()
