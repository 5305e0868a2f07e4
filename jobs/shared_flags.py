"""Flags that several jobs have, and the types of their values.

`flags` adds them to the parsers of the jobs. A flag that a TOML file may set has the default
None, which means "not given".
"""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.console import LOG_FORMATS

from dkmeans.config import BACKENDS, CACHES
from dkmeans.initialization import NAMES, REPLACED


def add_job(jobs: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    """Add a job with the flags that every job has, and return its parser."""
    job: argparse.ArgumentParser = jobs.add_parser(name, help=summary, description=description)
    # A flag that a file may set has the default None: `as_flags` must know which were given.
    job.add_argument(
        "--json",
        action="store_true",
        default=None,
        help="print one JSON object (default lines for people)",
    )
    job.add_argument(
        "--log-format",
        choices=LOG_FORMATS,
        help="format of the log: text, or json with one object a line (default text)",
    )
    if name not in ("info", "demo"):
        job.add_argument(
            "--config",
            metavar="FILE",
            help="TOML file of flags; the command line has priority (default none)",
        )
    return job


def add_input(job: argparse.ArgumentParser) -> None:
    """Add INPUT and the flags that choose its columns and rows."""
    job.add_argument(
        "input",
        nargs="*",
        metavar="INPUT",
        help="path or URL of a .zarr array (store or store::array; store::a,b puts arrays side by "
        "side), an .npy file, or a .parquet file or directory; several of them, or a pattern such "
        "as 'part-*.npy', follow one another",
    )
    job.add_argument(
        "--columns",
        metavar="A,B,C",
        help="columns of a Parquet input to use (default all but the weights, an index of pandas "
        "or Dask, and those that folders name, as year=2024), or arrays of a Zarr group",
    )
    add_filter(job)


def add_filter(job: argparse.ArgumentParser) -> None:
    """Add the flag of terms that rows must meet."""
    job.add_argument(
        "--filter",
        action="append",
        metavar="TERM",
        help="term that the rows of a Parquet input must meet, as 'year >= 2024' or 'kind in a,b'; "
        "may be given several times, and all must be met (default all rows)",
    )


def add_weights(job: argparse.ArgumentParser) -> None:
    """Add the flag of the weights of rows."""
    job.add_argument(
        "--weights",
        metavar="COLUMN",
        help="column of a Parquet input with the weights of the rows; for another input, path or "
        "URL of an array of them, of the kind of INPUT (default each row counts once)",
    )


def add_standardize(job: Any) -> None:
    """Add the flag that standardizes columns."""
    job.add_argument(
        "--standardize",
        action="store_true",
        default=None,
        help="scale each column to the mean 0 and the deviation 1 first; the model does the same "
        "with the rows of evaluate, predict and exports (default columns as they are)",
    )


def add_metric(job: Any) -> None:
    """Add the flag of the distance metric."""
    job.add_argument(
        "--metric",
        choices=("squared_euclidean", "cosine"),
        help="distance metric (default squared_euclidean)",
    )


def add_init(job: Any, default: str) -> None:
    """Add the flag of the method that finds the first centers, described with its default."""
    job.add_argument(
        "--init",
        type=_init_name,
        choices=NAMES,
        help=f"method that finds the first centers (default {default})",
    )


def add_seed(job: Any, unit: str) -> None:
    """Add the flag of the seed; by default each model or sweep, the unit, has a new one."""
    job.add_argument(
        "--seed",
        type=integer,
        metavar="S",
        help=f"seed of the random generator (default a new one for each {unit})",
    )


def add_model_dir(job: Any, text: str) -> None:
    """Add the flag of a model's directory, described by a text."""
    job.add_argument("--model-dir", metavar="DIR", help=f"{text}: a path or URL")


def add_cluster(job: argparse.ArgumentParser) -> None:
    """Add the flags that say where the work is done."""
    cluster = job.add_argument_group("the cluster")
    cluster.add_argument(
        "--cluster",
        metavar="WHERE",
        help="threads (of this process), local (worker processes on this machine), local-cuda (one "
        "worker process for each GPU), or the address of a scheduler, tcp://... (default threads)",
    )
    cluster.add_argument(
        "--workers",
        type=integer,
        metavar="W",
        help="number of worker processes of a local cluster (default by the number of cores)",
    )
    cluster.add_argument(
        "--threads-per-worker",
        type=integer,
        metavar="T",
        help="threads of each worker of a local cluster (default so that each core has one; 2 for "
        "a GPU)",
    )
    cluster.add_argument(
        "--memory-limit",
        metavar="BYTES",
        help="memory of each worker of a local cluster, such as 4GB (default an equal share of "
        "this machine's memory)",
    )
    cluster.add_argument(
        "--backend",
        choices=BACKENDS,
        help="backend that computes: GPU, compiled code, or NumPy alone (default the first that a "
        "worker can use)",
    )


def add_cache(job: argparse.ArgumentParser) -> None:
    """Add the flag of what workers cache."""
    job.add_argument(
        "--cache",
        choices=CACHES,
        help="rows of storage that workers cache between iterations: as many as fit (auto), none, "
        "or all (memory) (default auto)",
    )


def integer(text: str) -> int:
    """Return an integer; refuse another text."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from error


def number(text: str) -> float:
    """Return a number; refuse another text."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from error


def _init_name(name: str) -> str:
    """Return the name of a method for the first centers; refuse a method that was removed."""
    if name in REPLACED:
        must = f"{name!r} was removed; use --init {REPLACED[name]} instead"
        raise argparse.ArgumentTypeError(must)
    return name
