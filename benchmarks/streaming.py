"""Time training on rows that are larger than the memory of all workers.

Writes a Zarr array. Then, by turns, two processes read the array with Zarr alone, and two workers
of little memory train on it. Rows come from the page cache as far as it holds them. With `--disk`
they come from the disk: a thread removes them from the page cache all the time. Prints the
throughput of both and the peak memory of a worker; see docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import zarr
from zarr.codecs import BloscCodec

COLUMNS, CHUNK_ROWS = 64, 65_536
_SAMPLE_SECONDS = 0.05
# Seconds between two removals of the rows from the page cache.
_EMPTY_SECONDS = 0.2
CODECS = {"none": None, "lz4": BloscCodec(cname="lz4", shuffle="shuffle")}


def write_rows(path: str, gigabytes: float, codec: str) -> None:
    """Write rows in chunks of 16.8 MB that all differ."""
    chunks = round(gigabytes * 1e9 / (4 * COLUMNS * CHUNK_ROWS))
    shape = (chunks * CHUNK_ROWS, COLUMNS)
    array = zarr.create_array(
        path, shape=shape, chunks=(CHUNK_ROWS, COLUMNS), dtype="f4", compressors=CODECS[codec]
    )
    block = np.random.default_rng(0).standard_normal((CHUNK_ROWS, COLUMNS), dtype=np.float32)
    for number in range(chunks):
        rows = np.roll(block, number, axis=1) * np.float32(1 + number % 7 / 10) + number % 11
        array[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS] = rows


def read_rows(path: str, first: int, step: int) -> int:
    """Read every `step`-th chunk, from number `first` on; return the size of the array in bytes."""
    array = zarr.open_array(path, mode="r")
    for start in range(first * CHUNK_ROWS, array.shape[0], step * CHUNK_ROWS):
        array[start : start + CHUNK_ROWS]
    return int(array.nbytes)


def plain_speed(path: str) -> float:
    """Return the bytes per second that two processes read with Zarr alone."""
    with get_context("spawn").Pool(2) as pool:
        pool.starmap(len, [("",), ("",)])  # start both processes before the clock
        began = time.perf_counter()
        size = pool.starmap(read_rows, [(path, 0, 2), (path, 1, 2)], chunksize=1)[0]
        return size / (time.perf_counter() - began)


def training_speed(path: str, clusters: int, steps: int) -> tuple[float, float]:
    """Return the bytes per second of all steps but the first, and the peak memory of a worker."""
    size = zarr.open_array(path, mode="r").nbytes
    with tempfile.TemporaryDirectory() as model_dir:
        command = [
            *(sys.executable, "-m", "dkmeans_jobs", "train", path, "--model-dir", model_dir),
            *("--num-clusters", str(clusters), "--seed", "1", "--steps", str(steps)),
            *("--cluster", "local", "--workers", "2", "--threads-per-worker", "1"),
            *("--memory-limit", "1GB", "--json"),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            peak = Peak(process.pid)
            seconds = [
                time.perf_counter()
                for line in process.stderr
                if b" step 1 " in line or b"took all" in line
            ]
            peak.join()
        assert process.returncode == 0
    per_step = (seconds[-1] - seconds[0]) / (steps - 1)
    return size / per_step, peak.bytes


class Peak(threading.Thread):
    """Peak memory of the largest child process, sampled until the parent process ends."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._process, self.bytes = psutil.Process(pid), 0
        self.start()

    def run(self) -> None:
        """Sample the memory of all child processes."""
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            for child in self._process.children(recursive=True):
                try:
                    self.bytes = max(self.bytes, child.memory_info().rss)
                except psutil.Error:
                    continue
            time.sleep(_SAMPLE_SECONDS)


@contextmanager
def uncached(path: str) -> Iterator[None]:
    """Remove the files below a path from the page cache again and again."""
    done = threading.Event()

    def empty() -> None:
        while not done.wait(_EMPTY_SECONDS):
            for file in filter(Path.is_file, Path(path).rglob("*")):
                number = os.open(file, os.O_RDONLY)
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(number)

    thread = threading.Thread(target=empty)
    thread.start()
    yield
    done.set()
    thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=16)
    parser.add_argument("--codec", choices=CODECS, default="none")
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--disk", action="store_true", help="do without the page cache")
    parser.add_argument("--directory", help="where to put the rows, or where they are already")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        path = f"{arguments.directory or folder}/rows-{arguments.codec}.zarr"
        if not Path(path).exists():
            write_rows(path, arguments.gigabytes, arguments.codec)
        os.sync()
        plain_speed(path)
        with uncached(path) if arguments.disk else nullcontext():
            speeds = [
                (plain_speed(path), *training_speed(path, arguments.clusters, 4))
                for _ in range(arguments.repeats)
            ]
    plain, training, peak = (statistics.median(each) for each in zip(*speeds, strict=True))
    ratio = statistics.median(trained / read for read, trained, _ in speeds)
    results = {"Zarr alone": plain, "dkmeans": training, "peak of a worker": peak}
    print(json.dumps({name: round(value / 1e9, 3) for name, value in results.items()}), end=" ")
    print(f"GB/s and GB; ratio {ratio:.2f}; codec {arguments.codec}, k = {arguments.clusters}")


if __name__ == "__main__":
    main()
