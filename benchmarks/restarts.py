"""Time several starts over shared reads, and the relocation of empty clusters.

Prints two Markdown tables of seconds per iteration: starts over stored rows that are not cached,
compared with separate fits, and relocation over rows in memory. See docs/benchmarks/index.md.
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
from dkmeans.distance import Computation, Distance
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.executors import Threads
from dkmeans.lloyd import Rules, iterate
from dkmeans.schedule import Schedule
from dkmeans.state import TrainState

ROWS, COLUMNS, STARTS, ROUNDS = 4_000_000, 64, 8, 5


def seconds(batch: Batch, states: list[TrainState], policy: str = "keep") -> float:
    """Return the median time of an iteration of these states; the first one is not counted."""
    rules = Rules(
        Computation(Distance.SQUARED_EUCLIDEAN), Schedule.full_batch(), EmptyClusters(policy)
    )
    times = []
    with Threads() as threads:
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            list(iterate(states, [batch], rules, threads))
            times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def states_of(rows: np.ndarray, k: int, number: int) -> list[TrainState]:
    """Return as many states, each with k rows drawn as first centers."""
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
    (in_memory,) = Dataset.from_array(rows[: ROWS // 4]).batches()
    for k in (8, 256, 1000):
        keep, relocate = (
            seconds(in_memory, states_of(rows, k, 1), policy) for policy in ("keep", "relocate")
        )
        print(f"| {k} | {keep:.3f} | {relocate:.3f} |")


if __name__ == "__main__":
    main()
