"""The command line: which flags each job has, and the arguments that a user gives.

`command` and the demo call `parse`. The flags themselves are in `flags`; those that a TOML file
sets come from `config_file`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from dkmeans_jobs.config_file import as_flags
from dkmeans_jobs.flags import FLAGS, text

from dkmeans import __version__

_INPUT = ("input", "--columns", "--filter")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a job, from the flags and from the TOML file of `--config`.

    The entries of the file become flags in front of those of the command line. So argparse checks
    both in the same way, and of two equal flags the one of the command line counts.

    Args:
        argv: Arguments without the program's name; the first is the name of the job.

    Raises:
        Invalid: the file cannot be read, or has a key that the job does not know.
        SystemExit: the flags are wrong; with code 2, after printing the error.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    path = getattr(arguments, "config", None)
    if path is not None:
        flags = as_flags(arguments, path)
        arguments = parser.parse_args([argv[0], *flags, *argv[1:]])
    if getattr(arguments, "input", None) == []:
        parser.error(f"{arguments.job}: INPUT is missing")
    # Not `required=True`: the first parse must accept a command line whose file has these settings.
    for name in getattr(arguments, "needs", ()):
        if getattr(arguments, name) is None:
            parser.error(f"{arguments.job}: --{name.replace('_', '-')} is missing")
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command, with one sub-parser for each job."""
    parser = argparse.ArgumentParser(
        prog="dkmeans",
        description="k-means for data that does not fit on one machine, on Dask.",
        epilog="Exit codes: 0 done, 2 bad arguments or input, 75 storage or cluster does not "
        "answer (try again), 130 interrupted, 129, 138 or 143 terminated (after a checkpoint), 1 "
        "any other error.",
    )
    parser.add_argument("--version", action="version", version=f"dkmeans {__version__}")
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    _add_plan(jobs)
    _add_train(jobs)
    _add_sweep(jobs)
    _add_evaluate(jobs)
    _add_predict(jobs)
    _add_report(jobs)
    _add_export(jobs)
    _add_info(jobs)
    _add_demo(jobs)
    return parser


def _add_plan(jobs: Any) -> None:
    plan = _add_job(
        jobs,
        "plan",
        "estimate what training would need",
        "Print the memory that training would need and about how long an iteration would take, "
        "measured on a few chunks. Nothing is written.",
        needs=("num_clusters",),
    )
    _add(plan, *_INPUT, "--num-clusters", "--metric")
    _add_cluster(plan)
    _add(plan, "--cache")


def _add_train(jobs: Any) -> None:
    train = _add_job(
        jobs,
        "train",
        "train a model; run again to resume",
        "Train a model, or continue training the model in --model-dir. By default each step takes "
        "all rows, and training stops when the loss changes by less than 1e-4 times the loss, or "
        "after 300 steps. With --batch-rows and no other limit, training stops after one epoch.",
        needs=("num_clusters", "model_dir"),
    )
    _add(train, *_INPUT, "--weights")
    model = train.add_argument_group("the model")
    _add(model, "--num-clusters", "--model-dir", "--standardize", "--metric", "--init")
    _add(model, "--oversampling", "--initialization-rounds", "--initialization-rows", "--seed")
    _add(model, "--num-restarts", "--empty-clusters")
    steps = train.add_argument_group("the steps")
    _add(steps, "--full-batch", "--batch-rows", "--steps-per-iteration", "--steps", "--max-steps")
    _add(steps, "--relative-tolerance")
    saved = train.add_argument_group("the checkpoints")
    _add(saved, "--from-checkpoint", "--overwrite")
    saving = saved.add_mutually_exclusive_group()
    _add(saving, "--save-checkpoints-secs", "--save-checkpoints-steps")
    _add(train, "--metrics-file", "--metrics-port", "--mlflow")
    _add_cluster(train)
    _add(train, "--cache")


def _add_sweep(jobs: Any) -> None:
    sweep = _add_job(
        jobs,
        "sweep",
        "train several numbers of clusters, and recommend one",
        "Train a model for each number of clusters over the same reads of the rows, judge them, "
        "and recommend one. Run again to resume, or with further numbers to add these. It "
        "needs the extra sklearn.",
        needs=("num_clusters", "output"),
    )
    _add(sweep, *_INPUT, "--weights")
    numbers = "numbers of clusters, with a comma between two"
    _add(sweep, "--num-clusters", type=str, metavar="K,K,K", help=numbers)
    models = "path or URL of a directory for the models, k4 and so on, and for sweep.json"
    _add(sweep, "--output", metavar="DIR", help=models)
    _add(sweep, "--standardize", "--metric")
    first = "method that finds the first centers (default kmeans_plus_plus)"
    _add(sweep, "--init", help=first)
    _add(sweep, "--seed", help="seed of the random generator (default a new one for each sweep)")
    starts = (
        "number of starts of each model, at least 2: how far the best two agree is its stability "
        "(default 2)"
    )
    _add(sweep, "--num-restarts", help=starts)
    limit = "stop each model at step N, counted over all runs (default 300)"
    _add(sweep, "--max-steps", help=limit)
    tolerance = "stop a start when its loss changes by less than T times the loss (default 1e-4)"
    _add(sweep, "--relative-tolerance", help=tolerance)
    _add_cluster(sweep)
    _add(sweep, "--cache")


def _add_evaluate(jobs: Any) -> None:
    evaluate = _add_job(
        jobs,
        "evaluate",
        "compute the loss of a model, and how good its clusters are",
        "Print the loss of the latest checkpoint over the rows of INPUT, and with --indices how "
        "good its clusters are. The numbers are also written to eval/ in the model's directory.",
        needs=("model_dir",),
    )
    _add(evaluate, *_INPUT, "--weights", "--model-dir", "--indices", "--against")
    _add_cluster(evaluate)


def _add_predict(jobs: Any) -> None:
    predict = _add_job(
        jobs,
        "predict",
        "write the cluster index of each row",
        "Write the cluster index of each row to storage, in the order of the rows. The workers "
        "write in parallel. Run again to resume.",
        needs=("model_dir", "output"),
    )
    _add(predict, *_INPUT, "--model-dir")
    output = (
        "path or URL ending in .zarr or .parquet to write to, or store::group to add arrays to a "
        "Zarr group"
    )
    _add(predict, "--output", help=output)
    _add(predict, "--distance", "--second", "--top", "--keep", "--transform", "--partition-by")
    _add_cluster(predict)


def _add_report(jobs: Any) -> None:
    report = _add_job(
        jobs,
        "report",
        "write a page that says what the clusters are",
        "Write one HTML page about a model, for people: its clusters, charts and numbers. The page "
        "needs no network. It needs the extra plot.",
        needs=("output",),
    )
    _add(report, "model_dir")
    rows = (
        "path, URL or pattern of the rows that describe the clusters, as of the other jobs "
        "(default none: the page has only what the model knows)"
    )
    report.add_argument("--input", type=text, metavar="INPUT", help=rows)
    columns = "columns of a Parquet input to use (default those of the model)"
    _add(report, "--columns", help=columns)
    _add(report, "--filter", "--weights")
    page = "path or URL of the page, such as report.html"
    _add(report, "--output", metavar="PAGE", help=page)
    _add_cluster(report)


def _add_export(jobs: Any) -> None:
    export = _add_job(
        jobs,
        "export",
        "write a model for TensorFlow, ONNX or scikit-learn",
        "Write the centers of a checkpoint as a model for another library: a SavedModel of "
        "TensorFlow (in a new directory below OUT), an ONNX file, or a KMeans of scikit-learn in a "
        "joblib file.",
        needs=("model_dir", "output", "format"),
    )
    _add(export, "--model-dir", "--output", "--format", "--checkpoint")


def _add_info(jobs: Any) -> None:
    info = _add_job(
        jobs,
        "info",
        "describe a model, or the backends of this machine",
        "Print a description of a model, or with --backends of the backends on this machine.",
        has_file=False,
    )
    subject = info.add_mutually_exclusive_group(required=True)
    _add(subject, "model_dir", nargs="?", metavar="DIR")
    _add(subject, "--backends")


def _add_demo(jobs: Any) -> None:
    demo = _add_job(
        jobs,
        "demo",
        "cluster real flights, from start to end",
        "Cluster the 336,776 flights that left New York City in 2013: prepare them, train on a "
        "local cluster, evaluate, predict, and describe the clusters.",
        has_file=False,
    )
    _add(demo, "--directory")


def _add_job(
    jobs: Any,
    name: str,
    summary: str,
    description: str,
    needs: Sequence[str] = (),
    *,
    has_file: bool = True,
) -> argparse.ArgumentParser:
    """Add a job with the flags that every job has, and return its parser.

    Args:
        jobs: The sub-parsers.
        name: Name of the job.
        summary: Its line in the help of the whole command.
        description: The first lines of its own help.
        needs: Names of the arguments that must be given, here or in the TOML file.
        has_file: True if a TOML file may set the flags.
    """
    job: argparse.ArgumentParser = jobs.add_parser(name, help=summary, description=description)
    _add(job, "--json", "--log-format")
    if has_file:
        _add(job, "--config")
    job.set_defaults(needs=needs)
    return job


def _add_cluster(job: argparse.ArgumentParser) -> None:
    """Add the flags that say where the work is done."""
    cluster = job.add_argument_group("the cluster")
    _add(cluster, "--cluster", "--workers", "--threads-per-worker", "--memory-limit", "--backend")


def _add(group: Any, *names: str, **otherwise: Any) -> None:
    """Add flags to a job or a group of flags; `otherwise` replaces some of their settings."""
    for name in names:
        group.add_argument(name, **{**FLAGS[name], **otherwise})
