"""Time the indices of an evaluation beside the evaluation alone, and a sweep beside its longest k.

Prints two Markdown tables of seconds of the processor, as all threads take them, beside seconds
that passed. The first is of `evaluate` over stored rows: how many more seconds of the processor it
takes with the silhouette, with all indices but `cluster_deviation`, and with that one too. The
second is of sweeps over eight numbers of clusters, beside the longest k alone: with rows that are
cached, and with rows that are read in each step. Each number is the least of several runs. See
docs/benchmarks/index.md.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zarr

import dkmeans
from dkmeans.indices.quality import DEVIATION, NAMES, SAMPLED

SHAPES = ((2_000_000, 8, 16), (500_000, 64, 256), (100_000, 384, 1000))
SWEPT = ((4, 8, 16, 32, 64, 128, 256, 512), tuple(range(4, 12)), tuple(range(20, 180, 20)))
SWEPT_ROWS, SWEPT_COLUMNS, SWEPT_STEPS = 500_000, 16, 10
CHUNK_BYTES, ROUNDS, SWEPT_ROUNDS = 2**23, 5, 2


def least(function: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the least seconds of the processor and the least seconds that a call takes."""
    processor, passed = [], []
    for _ in range(rounds):
        began = time.process_time(), time.perf_counter()
        function()
        processor.append(time.process_time() - began[0])
        passed.append(time.perf_counter() - began[1])
    return min(processor), min(passed)


def stored(folder: str, rows: int, columns: int, k: int) -> tuple[str, np.ndarray]:
    """Write rows about k centers as an array of Zarr; return its path and the centers."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(k, columns)).astype(np.float32) * 3
    path = str(Path(folder) / f"{rows}-{columns}.zarr")
    values = centers[rng.integers(0, k, rows)]
    values += rng.standard_normal(values.shape, np.float32)
    chunk = max(1, CHUNK_BYTES // values[0].nbytes)
    zarr.create_array(path, data=values, chunks=(chunk, columns))
    return path, centers


def evaluations(path: str, centers: np.ndarray, folder: str) -> list[tuple[float, float]]:
    """Return the seconds of an evaluation without indices, with one, with most and with all."""
    model = dkmeans.KMeans(len(centers), folder, initial_clusters=centers, use_mini_batch=False)
    dataset = dkmeans.Dataset.from_zarr(path)
    model.train(lambda: dataset, max_steps=1)
    most = [name for name in NAMES if name not in (DEVIATION, SAMPLED)]
    asked: Sequence[Sequence[str]] = ([], ["silhouette"], most, [*most, DEVIATION])
    return [
        least(lambda n=names: model.evaluate(lambda: dataset, indices=n), ROUNDS) for names in asked
    ]


def sweep(path: str, ks: Sequence[int], cache: str = "auto") -> None:
    """Train models of these k for so many steps, and judge them."""
    config = dkmeans.RunConfig(cache=cache)
    dataset = dkmeans.Dataset.from_zarr(path)
    options = {"initial_clusters": "random", "seed": 1, "max_steps": SWEPT_STEPS}
    with tempfile.TemporaryDirectory() as folder:
        dkmeans.sweep(lambda: dataset, ks, folder, config=config, relative_tolerance=0.0, **options)


def main() -> None:
    print("| rows x columns, k | alone, s | silhouette | all but deviations | all |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for rows, columns, k in SHAPES:
            path, centers = stored(folder, rows, columns, k)
            (alone, passed), *others = evaluations(path, centers, f"{folder}/{columns}")
            more = " | ".join(f"+{100 * (cpu / alone - 1):.0f} %" for cpu, _ in others)
            print(
                f"| {rows:,} x {columns}, {k} | {alone:.2f} ({passed:.2f}) | {more} |", flush=True
            )
        path, _ = stored(folder, SWEPT_ROWS, SWEPT_COLUMNS, 64)
        columns = "together, s | the longest alone, s | ratio | each alone / the longest"
        print(f"\n| k | {columns} | ratio without a cache |")
        print("| --- | --- | --- | --- | --- | --- |")
        for ks in SWEPT:
            alone = [least(lambda k=k: sweep(path, [k]), SWEPT_ROUNDS) for k in ks]
            together, passed = least(lambda ks=ks: sweep(path, ks), SWEPT_ROUNDS)
            longest, of_longest = alone[-1]
            ratio, separate = together / longest, sum(cpu for cpu, _ in alone) / longest
            times = f"{together:.2f} ({passed:.2f}) | {longest:.2f} ({of_longest:.2f})"
            streamed, one_streamed = (
                least(lambda some=some: sweep(path, some, "none"), SWEPT_ROUNDS)[0]
                for some in (ks, ks[-1:])
            )
            names = ", ".join(map(str, ks))
            ratios = f"{ratio:.1f} | {separate:.1f} | {streamed / one_streamed:.1f}"
            print(f"| {names} | {times} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
