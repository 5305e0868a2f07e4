"""Time a prediction job of dkmeans, dask-ml and Spark: 200 Parquet files to 200, with ids.

Each contender is a job of its own, from the start of its first process to the end of its last one:
it reads all files, finds the nearest of the same number of centers for each row, and writes a file
of ids and clusters for each file. It has two threads, or two worker processes of one thread. CPU
seconds are those of all processes of the job. A job of very few rows says what of it is the start.
The contenders take turns; the numbers are medians. Prints a Markdown table and writes it as JSON;
see docs/benchmarks/index.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cluster import spent
from report import Report

from dkmeans import KMeans

FILES, COLUMNS, CLUSTERS = 200, 32, 100
# Rows of a file: of the job that is measured, and of one that is nearly all start.
ROWS, FEW_ROWS = 25_000, 100
WHERE = {
    "2 threads": ("--cluster", "threads"),
    "2 processes": ("--cluster", "local", "--workers", "2", "--threads-per-worker", "1"),
}

DASK_ML = """
import sys, numpy as np, dask.dataframe as dd
from dask.distributed import Client, LocalCluster
from dask_ml.cluster import KMeans
if __name__ == "__main__":
    rows, folder, output = sys.argv[1:]
    centers = np.load(f"{folder}/centers.npy")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster):
            frame = dd.read_parquet(rows)
            # dask-ml fits at least one iteration; its centers are then replaced.
            model = KMeans(len(centers), init=centers, max_iter=1).fit(centers)
            model.cluster_centers_ = centers
            # dask-ml refuses arrays whose chunks have unknown lengths.
            found = model.predict(frame.drop(columns="id").to_dask_array(lengths=True))
            out = frame[["id"]].assign(cluster_index=found)
            out.to_parquet(output, write_index=False)
"""

SPARK = """
import sys
from pyspark.sql import SparkSession
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.clustering import KMeansModel
rows, folder, output = sys.argv[1:]
# A partition for each file: by default Spark joins small ones.
spark = (
    SparkSession.builder.master("local[2]").config("spark.driver.memory", "8g")
    .config("spark.ui.enabled", "false").config("spark.sql.files.maxPartitionBytes", "4m")
    .config("spark.sql.files.openCostInBytes", "4m").getOrCreate()
)
table = spark.read.parquet(rows)
names = [name for name in table.columns if name != "id"]
assembled = VectorAssembler(inputCols=names, outputCol="features").transform(table)
found = KMeansModel.load(f"{folder}/spark-model").transform(assembled)
found.select("id", "prediction").write.parquet(output)
"""

# Spark accepts no centers: a model of as many is fitted once and saved, as a user would have it.
SPARK_MODEL = """
import sys, numpy as np
from pyspark.sql import SparkSession
from pyspark.ml.linalg import Vectors
from pyspark.ml.clustering import KMeans
folder = sys.argv[1]
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
centers = [(Vectors.dense(row),) for row in np.load(f"{folder}/centers.npy").tolist()]
model = KMeans(k=len(centers), maxIter=1, seed=1).fit(spark.createDataFrame(centers, ["features"]))
model.save(f"{folder}/spark-model")
"""


def write_rows(folder: Path, rows: int) -> None:
    """Write the files, each of one row group."""
    rng, files = np.random.default_rng(7), folder / f"rows-{rows}"
    files.mkdir()
    for number in range(FILES):
        values = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
        columns = {f"c{i:02}": values[:, i] for i in range(COLUMNS)}
        columns["id"] = np.arange(number * rows, (number + 1) * rows)
        pq.write_table(pa.table(columns), files / f"part.{number}.parquet")


def write_models(folder: Path, peers: str | None) -> None:
    """Write the models of all contenders: centers that are drawn as the rows are."""
    centers = np.random.default_rng(8).standard_normal((CLUSTERS, COLUMNS), dtype=np.float32)
    np.save(folder / "centers.npy", centers)
    named = {f"c{i:02}": centers[:, i] for i in range(COLUMNS)}
    model = KMeans(CLUSTERS, folder / "model", initial_clusters=centers, use_mini_batch=False)
    model.train(lambda: named, steps=1)
    if peers:
        (folder / "spark-model.py").write_text(SPARK_MODEL)
        spent([peers, str(folder / "spark-model.py"), str(folder)])


def contenders(folder: Path, peers: str | None) -> dict[str, list[str]]:
    """Return the command line of each contender, without the input and the output."""
    own = [sys.executable, "-m", "dkmeans_jobs", "predict", "--model-dir", str(folder / "model")]
    found = {f"dkmeans, {name}": [*own, "--keep", "id", *where] for name, where in WHERE.items()}
    for name, script in (("dask-ml", DASK_ML), ("Spark MLlib", SPARK)) if peers else ():
        (folder / f"{name}.py").write_text(script)
        found[name] = [str(peers), str(folder / f"{name}.py")]
    return found


def job(command: list[str], folder: Path, rows: int) -> np.ndarray:
    """Run a job, check what it has written, and return its seconds and CPU seconds."""
    output = folder / "out.parquet"
    shutil.rmtree(output, ignore_errors=True)
    given, about = str(folder / f"rows-{rows}"), [str(folder), str(output)]
    is_own = "dkmeans_jobs" in command
    taken = spent([*command, given, "--output", about[1]] if is_own else [*command, given, *about])
    files = list(output.glob("*.parquet"))
    ids = np.sort(np.concatenate([pq.read_table(f, columns=["id"])["id"] for f in files]))
    # Dask joins small files of few columns: the 200 files of ids become 14.
    is_whole = len(files) == FILES or "dask-ml" in command[-1]
    if not is_whole or not np.array_equal(ids, np.arange(FILES * rows)):
        sys.exit(f"{command}: {len(files)} files of {len(ids):,} ids are not those of the input")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", help="the Python that has dask-ml and pyspark")
    parser.add_argument("--rows", type=int, default=ROWS, help="number of rows of a file")
    parser.add_argument("--results", type=Path, default=Path("build/benchmark"))
    arguments = parser.parse_args()
    report = Report("prediction", ["dkmeans", "dask", "distributed", "numpy", "pyarrow"])
    with tempfile.TemporaryDirectory() as name:
        folder, sizes = Path(name), (FEW_ROWS, arguments.rows)
        for rows in sizes:
            write_rows(folder, rows)
        write_models(folder, arguments.peers)
        commands = contenders(folder, arguments.peers)
        taken: dict[tuple[str, int], list[np.ndarray]] = {}
        for _ in range(arguments.repeats):
            for contender, command in commands.items():
                for rows in sizes:
                    found = job(command, folder, rows)
                    taken.setdefault((contender, rows), []).append(found)
    title = f"{FILES} files of {arguments.rows:,} x {COLUMNS} to {FILES} files with ids"
    ratio = ["best peer / dkmeans"] if arguments.peers else []
    report.table(f"{title}, k = {CLUSTERS}", ["", *commands, *ratio])
    for rows in reversed(sizes):
        of_few = "" if rows == arguments.rows else f", files of {rows} rows"
        for place, unit in enumerate(("seconds", "CPU seconds")):
            numbers = [float(np.median(taken[name, rows], axis=0)[place]) for name in commands]
            own, peers = numbers[: len(WHERE)], numbers[len(WHERE) :]
            report.row(f"{unit}{of_few}", [*numbers, *([min(peers) / min(own)] if peers else [])])
    report.write(arguments.results)


if __name__ == "__main__":
    main()
