"""Time whole jobs of dkmeans, dask-ml and Spark on the same rows.

The rows are written once, as Parquet, which all contenders can read. Each contender is a process
that reads the rows, keeps them in memory and trains with two worker processes or threads. The time
of an iteration is the difference between a long and a short job, divided by the difference of their
iterations. CPU seconds are those of all processes of the job. A contender that the Python of the
peers does not have is left out. Prints a Markdown table and writes it as JSON; see
docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from report import Report

ROWS, COLUMNS, CLUSTERS = 1_000_000, 64, 256
# Iterations of the short job, and of the long job of each contender. The long job of dkmeans has
# more of them: its iterations are too short to be measured by a few.
SHORT, LONG = 2, {"dkmeans": 122, "dask-ml": 12, "Spark": 12}
# Option of `prctl` of Linux (linux/prctl.h).
_PR_SET_CHILD_SUBREAPER = 36
# Iterations of the reported jobs.
WHOLE = (12, 100)

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


def spent(command: list[str]) -> np.ndarray:
    """Run a command; return its seconds and its CPU seconds; exit if it fails."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    # Spark leaves its Java process to whoever adopts it: only then its CPU time is counted.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began, before = time.perf_counter(), cpu_seconds()
    done = subprocess.run(command, check=False, capture_output=True, env=environment, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-2000:]}")
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return np.array([time.perf_counter() - began, cpu_seconds() - before])


def cpu_seconds() -> float:
    """Return the CPU seconds of all processes that this one, or their parents, have waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def contenders(folder: Path, peers: str | None) -> dict[str, Callable[[int], list[str]]]:
    """Return the function of each contender that makes its command for a number of iterations."""
    found: dict[str, Callable[[int], list[str]]] = {
        "dkmeans, 2 processes": lambda n: dkmeans(folder, n, "local"),
        "dkmeans, 2 threads": lambda n: dkmeans(folder, n, "threads"),
    }
    if peers:
        (folder / "peer_dask.py").write_text(DASK_ML)
        (folder / "peer_spark.py").write_text(SPARK)
        scripts = {"dask-ml": "peer_dask.py", "Spark MLlib": "peer_spark.py"}
        for name, script in scripts.items():
            command = [peers, str(folder / script), str(folder)]
            found[name] = lambda n, command=command: [*command, str(n)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", help="the Python that has dask-ml and pyspark")
    parser.add_argument("--results", type=Path, default=Path("build/benchmark"))
    arguments = parser.parse_args()
    report = Report("whole-jobs", ["dkmeans", "dask", "distributed", "numpy", "numba"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder)
        commands = contenders(folder, arguments.peers)
        # Of each round: seconds and CPU seconds of an iteration, and of the rest of the job.
        rounds: dict[str, list[np.ndarray]] = {name: [] for name in commands}
        for _ in range(arguments.repeats):
            for name, command in commands.items():
                long = next(count for start, count in LONG.items() if name.startswith(start))
                short_job, long_job = spent(command(SHORT)), spent(command(long))
                each = (long_job - short_job) / (long - SHORT)
                rounds[name].append(np.array([each, short_job - SHORT * each]))
    taken = [np.median(each, axis=0) for each in rounds.values()]
    title = f"{ROWS:,} x {COLUMNS} from Parquet, k = {CLUSTERS}"
    report.table(title, ["", *commands])
    report.row("ms per iteration", [1000 * each[0] for each, _ in taken])
    report.row("CPU ms per iteration", [1000 * each[1] for each, _ in taken])
    for count in WHOLE:
        jobs = [rest + count * each for each, rest in taken]
        report.row(f"CPU seconds of {count} iterations", [job[1] for job in jobs])
        report.row(f"seconds of {count} iterations", [job[0] for job in jobs])
    report.write(arguments.results)


if __name__ == "__main__":
    main()
