"""Time whole jobs of dkmeans, dask-ml and Spark on the same rows.

The rows are written once, as Parquet, which all contenders can read. Each contender is a process
that reads the rows, keeps them in memory and trains with two worker processes or threads. The time
of an iteration is the difference between a long and a short job, divided by the difference of their
iterations. Prints a Markdown table; see docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, COLUMNS, CLUSTERS = 1_000_000, 64, 256
# Iterations of the short job, of the reported job, and of the long job of each contender. The long
# job of dkmeans has more of them: its iterations are too short to be measured by a few.
SHORT, WHOLE, LONG = 2, 12, {"dkmeans": 122, "dask-ml": 12, "Spark": 12}

DASK_ML = """
import sys, numpy as np, dask.dataframe as dd
from dask.distributed import Client, LocalCluster
from dask_ml.cluster import KMeans
if __name__ == "__main__":
    folder, iterations = sys.argv[1], int(sys.argv[2])
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster):
            rows = dd.read_parquet(f"{folder}/rows.parquet").to_dask_array(lengths=True).persist()
            first = np.load(f"{folder}/first.npy")
            KMeans(len(first), init=first, max_iter=iterations, tol=0).fit(rows)
"""

SPARK = """
import sys, numpy as np
from pyspark.sql import SparkSession
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.clustering import KMeans
folder, iterations = sys.argv[1], int(sys.argv[2])
spark = (
    SparkSession.builder.master("local[2]").config("spark.driver.memory", "8g")
    .config("spark.ui.enabled", "false").getOrCreate()
)
table = spark.read.parquet(f"{folder}/rows.parquet")
rows = VectorAssembler(inputCols=table.columns, outputCol="features").transform(table)
rows = rows.select("features").cache()
rows.count()
k = len(np.load(f"{folder}/first.npy"))
# Spark accepts no first centers. With one step of seeding, nearly all time is in the iterations.
KMeans(k=k, maxIter=iterations, tol=0.0, seed=1, initSteps=1).fit(rows)
"""


def write_rows(folder: Path) -> None:
    """Write rows in 32 row groups. Their clusters overlap, so that no fit converges early."""
    rng = np.random.default_rng(7)
    means = 1.5 * rng.standard_normal((CLUSTERS, COLUMNS), dtype=np.float32)
    rows = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    rows += means[rng.integers(CLUSTERS, size=ROWS)]
    np.save(folder / "first.npy", rows[rng.choice(ROWS, CLUSTERS, replace=False)])
    table = pa.table({f"c{i:02}": rows[:, i] for i in range(COLUMNS)})
    (folder / "rows.parquet").mkdir()
    for number in range(8):
        part = table.slice(number * ROWS // 8, ROWS // 8)
        pq.write_table(part, folder / "rows.parquet" / f"{number}.parquet", row_group_size=31_250)


def dkmeans(folder: Path, iterations: int, where: str) -> list[str]:
    """Return the command line of a job of dkmeans."""
    name = f"{where}-{iterations}-{time.monotonic_ns()}"
    return [
        *(sys.executable, "-m", "dkmeans_jobs", "train", str(folder / "rows.parquet")),
        *("--num-clusters", str(CLUSTERS), "--seed", "1", "--model-dir", str(folder / name)),
        *("--max-steps", str(iterations), "--cluster", where),
        *(("--workers", "2", "--threads-per-worker", "1") if where == "local" else ()),
    ]


def seconds(command: list[str]) -> float:
    """Run a command and return how many seconds it took; exit if it fails."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    began = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, env=environment, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder)
        commands = {
            "dkmeans, 2 worker processes": lambda n: dkmeans(folder, n, "local"),
            "dkmeans, 2 threads": lambda n: dkmeans(folder, n, "threads"),
            "dask-ml": lambda n: [
                arguments.peers,
                str(folder / "peer_dask.py"),
                str(folder),
                str(n),
            ],
            "Spark MLlib": lambda n: [
                arguments.peers,
                str(folder / "peer_spark.py"),
                str(folder),
                str(n),
            ],
        }
        (folder / "peer_dask.py").write_text(DASK_ML)
        (folder / "peer_spark.py").write_text(SPARK)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(arguments.repeats):
            for name, command in commands.items():
                long = next(count for start, count in LONG.items() if name.startswith(start))
                short_seconds, long_seconds = seconds(command(SHORT)), seconds(command(long))
                each = (long_seconds - short_seconds) / (long - SHORT)
                times[name].append((each, short_seconds + each * (WHOLE - SHORT)))
    print(f"{platform.machine()}, {date.today()}, dkmeans {version('dkmeans')}")
    print(f"\n{ROWS:,} rows x {COLUMNS}, k = {CLUSTERS}; {WHOLE} iterations in all\n")
    print("| | ms per iteration | whole job, s |\n| --- | --- | --- |")
    for name, taken in times.items():
        each, whole = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"| {name} | {each * 1000:.0f} | {whole:.1f} |")
    print(json.dumps(times))


if __name__ == "__main__":
    main()
