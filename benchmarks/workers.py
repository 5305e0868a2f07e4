"""Time fits on worker processes beside fits on as many threads of this process.

Prints a Markdown table: seconds of whole fits from a Zarr array, in turn, the least of some rounds,
and the share of the threads' speed that the workers keep. See docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path

import kernel
import numpy as np
import zarr
from distributed import Client, LocalCluster

import dkmeans

SHAPES = (
    ("flights", (327_346, 7, 100)),
    ("blobs", (1_000_000, 32, 256)),
    ("noise", (1_000_000, 64, 256)),
    ("embeddings", (200_000, 100, 1000)),
)
CHUNK_BYTES = 2**23


def seconds(path: Path, centers: np.ndarray, client: Client | None, *, steps: int) -> float:
    """Return the time of a fit, on a cluster or on the threads of this process."""
    with tempfile.TemporaryDirectory() as folder:
        model = dkmeans.KMeans(
            len(centers),
            folder,
            initial_clusters=centers,
            use_mini_batch=False,
            config=dkmeans.RunConfig(client=client),
        )
        dataset = dkmeans.Dataset.from_zarr(path)
        began = time.perf_counter()
        model.train(lambda: dataset, steps=steps)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # clusters without rows
    cores = os.cpu_count() or 1
    print(f"| rows | n, d, k | {cores} threads, s | {cores} workers, s | kept |")
    print("| --- | --- | --- | --- | --- |")
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=cores, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for name, shape in SHAPES:
            rows, centers = kernel.rows_of(name, shape, "float32")
            centers, path = np.asarray(centers, np.float32), Path(folder, f"{name}.zarr")
            # Equal chunks, equally many for each worker.
            chunks = cores * -(-np.asarray(rows).nbytes // (cores * CHUNK_BYTES))
            chunk = -(-len(rows) // chunks)
            zarr.create_array(path, data=np.asarray(rows), chunks=(chunk, shape[1]))
            # The first fit on a worker loads its kernels.
            seconds(path, centers, client, steps=1)
            rounds = [
                [seconds(path, centers, each, steps=options.steps) for each in (None, client)]
                for _ in range(options.rounds)
            ]
            threads, workers = (min(taken) for taken in zip(*rounds, strict=True))
            n, d, k = shape
            share = f"{100 * threads / workers:.0f} %"
            print(f"| {name} | {n:,}, {d}, {k:,} | {threads:.2f} | {workers:.2f} | {share} |")


if __name__ == "__main__":
    main()
