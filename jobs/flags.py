"""Every flag of the jobs: its name, the values that it takes, and its help.

`parser` gives each job its flags. A flag that a TOML file may set has the default None, which means
"not given". The jobs know the real defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from dkmeans_jobs.console import LOG_FORMATS
from dkmeans_jobs.export import FORMATS

from dkmeans.config import BACKENDS, CACHES
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.indices.quality import NAMES as INDICES
from dkmeans.initialization import NAMES, REPLACED
from dkmeans.prediction.per_chunk import CLUSTER_INDEX


def text(given: str) -> str:
    """Return a text; refuse an empty one, as from a variable of a shell that is not set."""
    if not given:
        raise argparse.ArgumentTypeError("must not be empty")
    return given


def integer(given: str) -> int:
    """Return the integer that a text is; refuse any other text."""
    try:
        return int(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be an integer, got {given!r}") from error


def number(given: str) -> float:
    """Return the number that a text is; refuse any other text."""
    try:
        return float(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {given!r}") from error


def initialization(name: str) -> str:
    """Return the name of a method for the first centers; refuse a method that was removed."""
    if name in REPLACED:
        advice = f"use --init {REPLACED[name]} instead"
        raise argparse.ArgumentTypeError(f"{name!r} was removed; {advice}")
    return name


class _Once(argparse.Action):
    """Store a value; refuse a second one, which argparse would take in place of the first."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "must be given once, with a comma between two names")
        setattr(namespace, self.dest, values)


def _switch(meaning: str) -> dict[str, Any]:
    """Return the settings of a flag without a value."""
    return {"action": "store_true", "default": None, "help": meaning}


def _names(meaning: str) -> dict[str, Any]:
    """Return the settings of a flag that takes names with a comma between two."""
    return {"type": text, "metavar": "A,B,C", "action": _Once, "help": meaning}


def _value(kind: Callable[[str], Any], metavar: str, meaning: str) -> dict[str, Any]:
    """Return the settings of a flag that takes a value of a kind."""
    return {"type": kind, "metavar": metavar, "help": meaning}


_text, _integer, _number = (partial(_value, kind) for kind in (text, integer, number))


# The settings of each flag, as `add_argument` of `argparse` takes them. `parser` has the settings
# in which a job differs.
FLAGS: dict[str, dict[str, Any]] = {
    # Of every job.
    "--json": _switch("print one JSON object (default lines for people)"),
    "--log-format": {
        "choices": LOG_FORMATS,
        "help": "format of the log: text, or json with one object a line (default text)",
    },
    "--config": _text("FILE", "TOML file of flags; the command line has priority (default none)"),
    # The rows.
    "input": {
        "type": text,
        "nargs": "*",
        "metavar": "INPUT",
        "help": "path or URL of a .zarr array (store or store::array; store::a,b puts arrays side "
        "by side), an .npy file, or a .parquet file or directory; several of them, or a pattern "
        "such as 'part-*.npy', follow one another",
    },
    "--columns": _names(
        "columns of a Parquet input to use (default all but the weights, an index of pandas or "
        "Dask, and those that folders name, as year=2024), or arrays of a Zarr group; a name with "
        "a comma is in double quotes",
    ),
    "--filter": {
        "type": text,
        "action": "append",
        "metavar": "TERM",
        "help": "term that the rows of a Parquet input must meet, as 'year >= 2024' or "
        "'kind in a,b'; may be given several times, and all must be met (default all rows)",
    },
    "--weights": _text(
        "COLUMN",
        "column of a Parquet input with the weights of the rows; for another input, path or URL of "
        "an array of them, of the kind of INPUT (default each row counts once)",
    ),
    # The model.
    "model_dir": _text("MODEL_DIR", "directory of the model"),
    "--model-dir": _text("DIR", "directory of the model: a path or URL"),
    "--num-clusters": _integer("K", "number of clusters"),
    "--standardize": _switch(
        "scale each column to the mean 0 and the deviation 1 first; the model does the same with "
        "the rows of evaluate, predict and exports (default columns as they are)"
    ),
    "--metric": {
        "choices": ("squared_euclidean", "cosine"),
        "help": "distance metric (default squared_euclidean)",
    },
    "--init": {
        "type": initialization,
        "choices": NAMES,
        "help": "method that finds the first centers (default random)",
    },
    "--oversampling": _number(
        "L", "candidates drawn in each round of k-means||, as a multiple of K (default 1)"
    ),
    "--initialization-rounds": _integer(
        "R", "rounds of k-means|| (default 3); each takes one epoch, and one more epoch follows"
    ),
    "--initialization-rows": _integer(
        "N", "run k-means|| on N rows drawn at random (default all rows)"
    ),
    "--seed": _integer("S", "seed of the random generator (default a new one for each model)"),
    "--num-restarts": _integer(
        "R", "number of starts, trained together; the best is the model (default 1)"
    ),
    "--empty-clusters": {
        "choices": tuple(map(str, EmptyClusters)),
        "help": "treatment of a center without rows: leave it where it is (keep), move it to the "
        "farthest row (relocate), or end the job with an error (error) (default keep)",
    },
    # The steps.
    "--full-batch": _switch("take all rows in each step (the default)"),
    "--batch-rows": _integer("R", "take R rows in each step, in order (default all rows)"),
    "--steps-per-iteration": _integer(
        "N", "update the centers every N steps, with --batch-rows (default 1)"
    ),
    "--steps": _integer("N", "take N further steps (default no such limit)"),
    "--max-steps": _integer(
        "N",
        "stop at step N, counted over all runs (default without another limit: 300, or with "
        "--batch-rows one epoch)",
    ),
    "--relative-tolerance": _number(
        "T",
        "stop when the loss changes by less than T times the loss (default 1e-4; with "
        "--batch-rows, --steps or --max-steps no tolerance)",
    ),
    # The checkpoints.
    "--from-checkpoint": _text(
        "DIR",
        "checkpoint in --model-dir to go on from, in place of a latest one that is damaged "
        "(default the latest one)",
    ),
    "--overwrite": _switch(
        "begin anew, whatever --model-dir holds; the model that is there stands until the first "
        "checkpoint of the new one (default continue it)"
    ),
    "--save-checkpoints-secs": _number("S", "save every S seconds (default 600)"),
    "--save-checkpoints-steps": _integer("N", "save every N steps instead (default by seconds)"),
    # What watches the training.
    "--metrics-file": _text(
        "FILE",
        "file ending in .prom to write metrics to, for Prometheus' node exporter (default none). "
        "It needs the extra prometheus",
    ),
    "--metrics-port": _integer(
        "PORT",
        "port to serve metrics at while the job runs, for Prometheus (default none). It needs the "
        "extra prometheus",
    ),
    "--mlflow": _text(
        "EXPERIMENT",
        "experiment of MLflow to record the run in, at the server of MLFLOW_TRACKING_URI (default "
        "none). It needs the extra mlflow",
    ),
    # How good the clusters are.
    "--indices": _names(
        "indices of the clustering to compute in the same pass, or all: "
        f"{', '.join(INDICES)} (default none)",
    ),
    "--against": _text(
        "OTHER",
        "directory of another model, or a checkpoint, to compare the clusters of the rows with "
        "(default none). It needs the extra sklearn",
    ),
    # What is written.
    "--output": _text("OUT", "path or URL to write to"),
    "--distance": _switch(
        "also write the distance to the own center (default the cluster index only)"
    ),
    "--second": _switch(
        "also write the next nearest center and the distance to it (default neither)"
    ),
    "--top": _integer(
        "M", "also write the M nearest centers and the distances to them (default none)"
    ),
    "--keep": _names(
        "columns of the input, Parquet or a Zarr group, to write too, such as ids (default none)",
    ),
    "--transform": _switch(
        "also write the distances to all centers (default the cluster index only)"
    ),
    "--partition-by": {
        "choices": (CLUSTER_INDEX,),
        "help": "write the rows of each cluster to a folder of its own, cluster_index=0 and so on "
        "(default no such folders)",
    },
    "--format": {
        "choices": FORMATS,
        "help": "format to write. Each needs the extra of its name",
    },
    "--checkpoint": _text("DIR", "checkpoint of --model-dir to export (default the latest)"),
    "--backends": _switch("describe each backend, or why it cannot be used"),
    "--directory": _text("DIR", "directory for all files (default demo)") | {"default": "demo"},
    # The cluster.
    "--cluster": _text(
        "WHERE",
        "threads (of this process), local (worker processes on this machine), local-cuda (one "
        "worker process for each GPU), or the address of a scheduler, tcp://... (default threads)",
    ),
    "--workers": _integer(
        "W", "number of worker processes of a local cluster (default by the number of cores)"
    ),
    "--threads-per-worker": _integer(
        "T",
        "threads of each worker of a local cluster (default so that each core has one; 2 for a "
        "GPU)",
    ),
    "--memory-limit": _text(
        "BYTES",
        "memory of each worker of a local cluster, such as 4GB (default an equal share of this "
        "machine's memory)",
    ),
    "--backend": {
        "choices": BACKENDS,
        "help": "backend that computes: GPU, compiled code, or NumPy alone (default the first that "
        "a worker can use)",
    },
    "--cache": {
        "choices": CACHES,
        "help": "rows of storage that workers cache between iterations: as many as fit (auto), "
        "none, or all (memory) (default auto)",
    },
}
