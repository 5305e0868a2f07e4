"""Several starts over shared reads against as many separate fits; and what relocation costs.

Prints Markdown tables: seconds per iteration over stored rows that are not kept, and over rows in
memory. See benchmarks/README.md.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from dkmeans import Dataset
from dkmeans.data.batches import Batch
from dkmeans.distance import Distance
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.executors import Threads
from dkmeans.lloyd import Rules, iterate
from dkmeans.schedule import Schedule
from dkmeans.state import TrainState

ROWS, COLUMNS, STARTS, ROUNDS = 4_000_000, 64, 8, 5


def seconds(batch: Batch, states: list[TrainState], policy: str = "keep") -> float:
    """How long an iteration of these states takes: the median of a few, after one."""
    rules = Rules(Distance.SQUARED_EUCLIDEAN, Schedule.full_batch(), EmptyClusters(policy))
    taken = []
    with Threads() as threads:
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            list(iterate(states, [batch], rules, threads))
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def states_of(rows: np.ndarray, k: int, number: int) -> list[TrainState]:
    rng = np.random.default_rng(1)
    drawn = (rows[rng.choice(len(rows), k, replace=False)] for _ in range(number))
    return [TrainState(centers, np.zeros(k, np.int64)) for centers in drawn]


def main() -> None:
    rows = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    print(f"| k | 1 start, s | {STARTS} starts together, s | {STARTS} separate fits, s |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.zarr")
        codec = BloscCodec(cname="lz4", shuffle="shuffle")
        zarr.create_array(path, data=rows, chunks=(65_536, COLUMNS), compressors=codec)
        (stored,) = Dataset.from_zarr(path).batches()
        for k in (8, 64):
            alone = seconds(stored, states_of(rows, k, 1))
            together = seconds(stored, states_of(rows, k, STARTS))
            print(f"| {k} | {alone:.2f} | {together:.2f} | {STARTS * alone:.2f} |")
    print("\n| k | keep, s | relocate, s |\n| --- | --- | --- |")
    (kept,) = Dataset.from_array(rows[: ROWS // 4]).batches()
    for k in (8, 256, 1000):
        plain, moving = (
            seconds(kept, states_of(rows, k, 1), policy) for policy in ("keep", "relocate")
        )
        print(f"| {k} | {plain:.3f} | {moving:.3f} |")


if __name__ == "__main__":
    main()
