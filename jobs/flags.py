"""The command line of every job: its own flags, after those that jobs share (`shared_flags`).

`command` and the demo call `parse`. A TOML file may set flags too (`config_file`). A flag that it
may set has the default None, which means "not given". The jobs know the real defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from dkmeans_jobs.config_file import as_flags
from dkmeans_jobs.export import FORMATS
from dkmeans_jobs.shared_flags import (
    add_cache,
    add_cluster,
    add_filter,
    add_init,
    add_input,
    add_job,
    add_metric,
    add_model_dir,
    add_seed,
    add_standardize,
    add_weights,
    integer,
    number,
)

from dkmeans import __version__
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.indices.quality import NAMES as INDICES
from dkmeans.prediction.per_chunk import CLUSTER_INDEX


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
    for name, value in vars(arguments).items():
        if value == "" or value == [""]:  # as from a variable of a shell that is not set
            flag = "INPUT" if name == "input" else f"--{name.replace('_', '-')}"
            parser.error(f"{arguments.job}: {flag} must not be empty")
    if getattr(arguments, "input", None) == []:
        parser.error(f"{arguments.job}: INPUT is missing")
    # Not `required=True`: the first parse must accept a command line whose file has these settings.
    for name in getattr(arguments, "needs", ()):
        if getattr(arguments, name) is None:
            parser.error(f"{arguments.job}: --{name.replace('_', '-')} is missing")
    return arguments


def _add_train(jobs: Any) -> None:
    train = add_job(
        jobs,
        "train",
        "train a model; run again to resume",
        "Train a model, or continue training the model in --model-dir. By default each step takes "
        "all rows, and training stops when the loss changes by less than 1e-4 times the loss, or "
        "after 300 steps. With --batch-rows and no other limit, training stops after one epoch.",
    )
    add_input(train)
    add_weights(train)
    model = train.add_argument_group("the model")
    model.add_argument("--num-clusters", type=integer, metavar="K", help="number of clusters")
    add_model_dir(model, "directory of the model")
    add_standardize(model)
    add_metric(model)
    add_init(model, "random")
    model.add_argument(
        "--oversampling",
        type=number,
        metavar="L",
        help="candidates drawn in each round of k-means||, as a multiple of K (default 1)",
    )
    model.add_argument(
        "--initialization-rounds",
        type=integer,
        metavar="R",
        help="rounds of k-means|| (default 3); each takes one epoch, and one more epoch follows",
    )
    model.add_argument(
        "--initialization-rows",
        type=integer,
        metavar="N",
        help="run k-means|| on N rows drawn at random (default all rows)",
    )
    add_seed(model, "model")
    model.add_argument(
        "--num-restarts",
        type=integer,
        metavar="R",
        help="number of starts, trained together; the best is the model (default 1)",
    )
    model.add_argument(
        "--empty-clusters",
        choices=tuple(map(str, EmptyClusters)),
        help="treatment of a center without rows: leave it where it is (keep), move it to the "
        "farthest row (relocate), or end the job with an error (error) (default keep)",
    )
    steps = train.add_argument_group("the steps")
    steps.add_argument(
        "--full-batch",
        action="store_true",
        default=None,
        help="take all rows in each step (the default)",
    )
    steps.add_argument(
        "--batch-rows",
        type=integer,
        metavar="R",
        help="take R rows in each step, in order (default all rows)",
    )
    steps.add_argument(
        "--steps-per-iteration",
        type=integer,
        metavar="N",
        help="update the centers every N steps, with --batch-rows (default 1)",
    )
    steps.add_argument(
        "--steps", type=integer, metavar="N", help="take N further steps (default no such limit)"
    )
    steps.add_argument(
        "--max-steps",
        type=integer,
        metavar="N",
        help="stop at step N, counted over all runs (default without another limit: 300, or with "
        "--batch-rows one epoch)",
    )
    steps.add_argument(
        "--relative-tolerance",
        type=number,
        metavar="T",
        help="stop when the loss changes by less than T times the loss (default 1e-4; with "
        "--batch-rows, --steps or --max-steps no tolerance)",
    )
    saved = train.add_argument_group("the checkpoints")
    saved.add_argument(
        "--from-checkpoint",
        metavar="DIR",
        help="checkpoint in --model-dir to go on from, in place of a latest one that is damaged "
        "(default the latest one)",
    )
    saved.add_argument(
        "--overwrite",
        action="store_true",
        default=None,
        help="begin anew, whatever --model-dir holds; the model that is there stands until the "
        "first checkpoint of the new one (default continue it)",
    )
    saving = saved.add_mutually_exclusive_group()
    saving.add_argument(
        "--save-checkpoints-secs",
        type=number,
        metavar="S",
        help="save every S seconds (default 600)",
    )
    saving.add_argument(
        "--save-checkpoints-steps",
        type=integer,
        metavar="N",
        help="save every N steps instead (default by seconds)",
    )
    train.add_argument(
        "--metrics-file",
        metavar="FILE",
        help="file ending in .prom to write metrics to, for Prometheus' node exporter (default "
        "none). It needs the extra prometheus",
    )
    train.add_argument(
        "--metrics-port",
        type=integer,
        metavar="PORT",
        help="port to serve metrics at while the job runs, for Prometheus (default none). It needs "
        "the extra prometheus",
    )
    train.add_argument(
        "--mlflow",
        metavar="EXPERIMENT",
        help="experiment of MLflow to record the run in, at the server of MLFLOW_TRACKING_URI "
        "(default none). It needs the extra mlflow",
    )
    add_cluster(train)
    add_cache(train)
    train.set_defaults(needs=("num_clusters", "model_dir"))


def _add_plan(jobs: Any) -> None:
    plan = add_job(
        jobs,
        "plan",
        "estimate what training would need",
        "Print the memory that training would need and about how long an iteration would take, "
        "measured on a few chunks. Nothing is written.",
    )
    add_input(plan)
    plan.add_argument("--num-clusters", type=integer, metavar="K", help="number of clusters")
    add_metric(plan)
    add_cluster(plan)
    add_cache(plan)
    plan.set_defaults(needs=("num_clusters",))


def _add_sweep(jobs: Any) -> None:
    sweep = add_job(
        jobs,
        "sweep",
        "train several numbers of clusters, and recommend one",
        "Train a model for each number of clusters over the same reads of the rows, judge them, "
        "and recommend one. Run again to resume, or with further numbers to add these. It "
        "needs the extra sklearn.",
    )
    add_input(sweep)
    add_weights(sweep)
    sweep.add_argument(
        "--num-clusters", metavar="K,K,K", help="numbers of clusters, with a comma between two"
    )
    sweep.add_argument(
        "--output",
        metavar="DIR",
        help="path or URL of a directory for the models, k4 and so on, and for sweep.json",
    )
    add_standardize(sweep)
    add_metric(sweep)
    add_init(sweep, "kmeans_plus_plus")
    add_seed(sweep, "sweep")
    sweep.add_argument(
        "--num-restarts",
        type=integer,
        metavar="R",
        help="number of starts of each model, at least 2: how far the best two agree is its "
        "stability (default 2)",
    )
    sweep.add_argument(
        "--max-steps",
        type=integer,
        metavar="N",
        help="stop each model at step N, counted over all runs (default 300)",
    )
    sweep.add_argument(
        "--relative-tolerance",
        type=number,
        metavar="T",
        help="stop a start when its loss changes by less than T times the loss (default 1e-4)",
    )
    add_cluster(sweep)
    add_cache(sweep)
    sweep.set_defaults(needs=("num_clusters", "output"))


def _add_evaluate(jobs: Any) -> None:
    evaluate = add_job(
        jobs,
        "evaluate",
        "compute the loss of a model, and how good its clusters are",
        "Print the loss of the latest checkpoint over the rows of INPUT, and with --indices how "
        "good its clusters are.",
    )
    add_input(evaluate)
    add_weights(evaluate)
    add_model_dir(evaluate, "directory of the model")
    evaluate.add_argument(
        "--indices",
        metavar="A,B,C",
        help="indices of the clustering to compute in the same pass, or all: "
        f"{', '.join(INDICES)} (default none)",
    )
    evaluate.add_argument(
        "--against",
        metavar="OTHER",
        help="directory of another model, or a checkpoint, to compare the clusters of the rows "
        "with (default none). It needs the extra sklearn",
    )
    add_cluster(evaluate)
    evaluate.set_defaults(needs=("model_dir",))


def _add_predict(jobs: Any) -> None:
    predict = add_job(
        jobs,
        "predict",
        "write the cluster index of each row",
        "Write the cluster index of each row to storage, in the order of the rows. The workers "
        "write in parallel. Run again to resume.",
    )
    add_input(predict)
    add_model_dir(predict, "directory of the model")
    predict.add_argument(
        "--output",
        metavar="OUT",
        help="path or URL ending in .zarr or .parquet to write to, or store::group to add arrays "
        "to a Zarr group",
    )
    predict.add_argument(
        "--distance",
        action="store_true",
        default=None,
        help="also write the distance to the own center (default the cluster index only)",
    )
    predict.add_argument(
        "--second",
        action="store_true",
        default=None,
        help="also write the next nearest center and the distance to it (default neither)",
    )
    predict.add_argument(
        "--top",
        type=integer,
        metavar="M",
        help="also write the M nearest centers and the distances to them (default none)",
    )
    predict.add_argument(
        "--keep",
        metavar="A,B,C",
        help="columns of the input, Parquet or a Zarr group, to write too, such as ids (default "
        "none)",
    )
    predict.add_argument(
        "--transform",
        action="store_true",
        default=None,
        help="also write the distances to all centers (default the cluster index only)",
    )
    predict.add_argument(
        "--partition-by",
        choices=(CLUSTER_INDEX,),
        help="write the rows of each cluster to a folder of its own, cluster_index=0 and so on "
        "(default no such folders)",
    )
    add_cluster(predict)
    predict.set_defaults(needs=("model_dir", "output"))


def _add_report(jobs: Any) -> None:
    report = add_job(
        jobs,
        "report",
        "write a page that says what the clusters are",
        "Write one HTML page about a model, for people: its clusters, charts and numbers. The page "
        "needs no network. It needs the extra plot.",
    )
    report.add_argument("model_dir", metavar="MODEL_DIR", help="directory of the model")
    report.add_argument(
        "--input",
        metavar="INPUT",
        help="path, URL or pattern of the rows that describe the clusters, as of the other jobs "
        "(default none: the page has only what the model knows)",
    )
    report.add_argument(
        "--columns",
        metavar="A,B,C",
        help="columns of a Parquet input to use (default those of the model)",
    )
    add_filter(report)
    add_weights(report)
    report.add_argument(
        "--output", metavar="PAGE", help="path or URL of the page, such as report.html"
    )
    add_cluster(report)
    report.set_defaults(needs=("output",))


def _add_export(jobs: Any) -> None:
    export = add_job(
        jobs,
        "export",
        "write a model for TensorFlow, ONNX or scikit-learn",
        "Write the centers of a checkpoint as a model for another library: a SavedModel of "
        "TensorFlow (in a new directory below OUT), an ONNX file, or a KMeans of scikit-learn in a "
        "joblib file.",
    )
    add_model_dir(export, "directory of the model")
    export.add_argument("--output", metavar="OUT", help="path or URL to write to")
    export.add_argument(
        "--format", choices=FORMATS, help="format to write. Each needs the extra of its name"
    )
    export.add_argument(
        "--checkpoint", metavar="DIR", help="checkpoint to export (default the latest)"
    )
    export.set_defaults(needs=("model_dir", "output", "format"))


def _add_info(jobs: Any) -> None:
    info = add_job(
        jobs,
        "info",
        "describe a model, or the backends of this machine",
        "Print a description of a model, or with --backends of the backends on this machine.",
    )
    subject = info.add_mutually_exclusive_group(required=True)
    subject.add_argument("model_dir", nargs="?", metavar="DIR", help="directory of the model")
    subject.add_argument(
        "--backends", action="store_true", help="describe each backend, or why it cannot be used"
    )


def _add_demo(jobs: Any) -> None:
    demo = add_job(
        jobs,
        "demo",
        "cluster real flights, from start to end",
        "Cluster the 336,776 flights that left New York City in 2013: prepare them, train on a "
        "local cluster, evaluate, predict, and describe the clusters.",
    )
    demo.add_argument(
        "--directory", default="demo", metavar="DIR", help="directory for all files (default demo)"
    )
