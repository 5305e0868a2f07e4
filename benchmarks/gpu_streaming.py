"""Time training on a GPU with rows that are read from storage in every iteration.

Writes Zarr arrays of float32, uncompressed and compressed by Zarr's default, and prints for each:

    decoding    GB/s that the reading threads decode, with nothing else to do
    PCIe        GB/s of copies from page-locked memory to the GPU, with nothing else to do
    training    GB/s of a full-batch iteration without a cache
    ratio       training beside the slower of the other two

The files are in the page cache as far as it holds them: the first decoding is not timed. Without a
GPU, `--backend native` runs the same on the processor, without the column PCIe.

    python benchmarks/gpu_streaming.py [--gigabytes 8] [--clusters 256] [--backend cuda]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dkmeans import Dataset, KMeans, RunConfig
from dkmeans.backends import cores_per_gpu, select
from dkmeans.data.chunks import GPU_TARGET_BYTES
from dkmeans.hooks import SessionRunHook
from dkmeans.machine import usable_cores

COLUMNS = 128
CODECS: dict[str, Any] = {"none": None, "default": "auto"}


def main() -> None:
    arguments = parsed()
    about = select(arguments.backend).describe()
    readers = cores_per_gpu() or usable_cores()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{arguments.gigabytes} GB x 2, k = {arguments.clusters}, {readers} reading threads\n")
    copied = pcie_rate() if arguments.backend == "cuda" else None
    print("| codec | stored GB | decoding | PCIe | training | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for codec in CODECS:
        # One array at a time: both would need more of the page cache.
        with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
            path = f"{folder}/rows.zarr"
            write_rows(path, arguments, codec, readers)
            decoded = decoding_rate(path, readers)
            trained = training_rate(path, folder, arguments)
            stored = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
        limit = min(rate for rate in (decoded, copied) if rate is not None)
        rates = [decoded, copied, trained]
        cells = [codec, f"{stored / 1e9:.2f}", *map(gb_per_second, rates), f"{trained / limit:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gigabytes", type=float, default=8, help="size of an array, decoded")
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5, help="iterations; the first is not timed")
    parser.add_argument("--backend", default="cuda", choices=["cuda", "native", "numpy"])
    parser.add_argument("--chunk-megabytes", type=float, default=GPU_TARGET_BYTES / 2**20)
    parser.add_argument("--directory", help="folder for the arrays; by default a temporary one")
    arguments = parser.parse_args()
    arguments.chunk_rows = max(1, int(arguments.chunk_megabytes * 2**20) // (4 * COLUMNS))
    return arguments


def gb_per_second(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e9:.1f}"


def write_rows(path: str, arguments: argparse.Namespace, codec: str, threads: int) -> None:
    """Write rows around some centers, with few digits: the compressed rows need half the space."""
    chunk_rows = arguments.chunk_rows
    chunks = max(1, round(arguments.gigabytes * 1e9 / (4 * COLUMNS * chunk_rows)))
    array = zarr.create_array(
        path,
        shape=(chunks * chunk_rows, COLUMNS),
        chunks=(chunk_rows, COLUMNS),
        dtype="f4",
        compressors=CODECS[codec],
    )
    rng = np.random.default_rng(0)
    centers = 4 * rng.standard_normal((64, COLUMNS), dtype=np.float32)
    block = centers[rng.integers(64, size=chunk_rows)]
    block = np.round(block + rng.standard_normal(block.shape, dtype=np.float32), 2)

    def write(number: int) -> None:
        start = number * chunk_rows
        array[start : start + chunk_rows] = np.roll(block, number, axis=1)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(chunks)))


def decoding_rate(path: str, threads: int) -> float:
    """Return the bytes per second that some threads read with Zarr alone."""
    array = zarr.open_array(path, mode="r")
    starts = range(0, array.shape[0], array.chunks[0])

    def read(start: int) -> None:
        array[start : start + array.chunks[0]]

    def read_all() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, starts))

    return float(array.nbytes / median_seconds(read_all, rounds=2))


def pcie_rate() -> float:
    """Return the bytes per second of copies from page-locked memory to the GPU."""
    import cupy  # noqa: PLC0415 where there is a GPU
    import cupyx  # noqa: PLC0415

    source, target = cupyx.empty_pinned(2**28, np.uint8), cupy.empty(2**28, np.uint8)
    source[:] = 1
    stream = cupy.cuda.Stream(non_blocking=True)

    def copy() -> None:
        target.set(source, stream=stream)
        stream.synchronize()

    return float(source.nbytes / median_seconds(copy, rounds=10))


def median_seconds(step: Callable[[], object], rounds: int) -> float:
    """Return the median time of a step, after one that is not timed."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


class Stamps(SessionRunHook):
    """Records when each step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Record the time."""
        self.times.append(time.perf_counter())


def training_rate(path: str, folder: str, arguments: argparse.Namespace) -> float:
    """Return the bytes per second of an iteration, the median of all iterations but the first."""
    array, stamps = zarr.open_array(path, mode="r"), Stamps()
    first_centers = array[: arguments.clusters]
    kmeans = KMeans(
        len(first_centers),
        f"{folder}/model",
        first_centers,
        use_mini_batch=False,
        config=RunConfig(backend=arguments.backend, cache="none"),
    )
    # Without a relative tolerance training stops early only if no center moves.
    kmeans.train(lambda: Dataset.from_zarr(path).repeat(), [stamps], steps=arguments.steps)
    return float(array.nbytes / statistics.median(np.diff(stamps.times)))


if __name__ == "__main__":
    main()
