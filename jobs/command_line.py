"""The command line: what each job is asked, from flags and from a TOML file."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dkmeans_jobs.console import LOG_FORMATS
from dkmeans_jobs.export import FORMATS

from dkmeans import Invalid, __version__
from dkmeans.config import BACKENDS, CACHES
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.initialization import NAMES

# Flags on the line that overrule an entry of another name, because the two exclude each other.
_RIVALS = {
    "full_batch": ("batch_rows",),
    "batch_rows": ("full_batch",),
    "steps_per_iteration": ("full_batch",),
    "steps": ("max_steps",),
    "max_steps": ("steps",),
    "save_checkpoints_secs": ("save_checkpoints_steps",),
    "save_checkpoints_steps": ("save_checkpoints_secs",),
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="dkmeans",
        description="k-means for data that does not fit on one machine, on Dask.",
        epilog="Exit codes: 0 done, 2 bad arguments or input, 75 try again (storage or the cluster "
        "is gone), 130 interrupted, 143 terminated (both after a checkpoint), 1 anything else.",
    )
    parser.add_argument("--version", action="version", version=f"dkmeans {__version__}")
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    _add_plan(jobs)
    _add_train(jobs)
    _add_evaluate(jobs)
    _add_predict(jobs)
    _add_export(jobs)
    _add_info(jobs)
    _add_demo(jobs)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a job: flags, then what its TOML file adds to them.

    Raises:
        Invalid: the file cannot be read, or has a key that the job does not know.
        SystemExit: with 2, after saying what is wrong with the flags.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    path = getattr(arguments, "config", None)
    if path is not None:
        flags = _as_flags(arguments, path)
        arguments = parser.parse_args([argv[0], *flags, *argv[1:]])
    if "input" in vars(arguments) and arguments.input is None:
        parser.error(f"{arguments.job}: INPUT is missing")
    for name in getattr(arguments, "needs", ()):
        if getattr(arguments, name) is None:
            parser.error(f"{arguments.job}: --{name.replace('_', '-')} is missing")
    return arguments


def _add_train(jobs: Any) -> None:
    train = _add_job(
        jobs,
        "train",
        "find clusters; run again to resume",
        "Train a model, or go on with the one in --model-dir. Without --full-batch or "
        "--batch-rows: full batch, until the loss changes by less than 1e-4 of 1 + the loss, at "
        "most 300 steps. With --batch-rows and no other end: once over the data.",
    )
    _add_input(train)
    model = train.add_argument_group("the model")
    model.add_argument("--num-clusters", type=int, metavar="K", help="how many clusters")
    _add_model_dir(model, "where the model is kept")
    model.add_argument("--metric", choices=("squared_euclidean", "cosine"), help="the distance")
    model.add_argument("--init", choices=NAMES, help="how the first centers are found")
    model.add_argument(
        "--oversampling",
        type=float,
        metavar="L",
        help="candidates that a round of k-means|| draws, as a multiple of K (default 1)",
    )
    model.add_argument(
        "--initialization-rounds",
        type=int,
        metavar="R",
        help="rounds of k-means|| (default 3): each goes over the rows, and so does their end",
    )
    model.add_argument(
        "--initialization-rows",
        type=int,
        metavar="N",
        help="look at so many rows only, drawn at random (k-means|| and afk-mc2)",
    )
    model.add_argument("--seed", type=int, metavar="S", help="of the random draws")
    model.add_argument(
        "--num-restarts",
        type=int,
        metavar="R",
        help="starts trained over the same reads, the best of which is kept; default 1",
    )
    model.add_argument(
        "--empty-clusters",
        choices=tuple(map(str, EmptyClusters)),
        help="what becomes of a center that wins no row: it stays (keep, the default), it moves to "
        "the farthest row, or the job ends with an error",
    )
    steps = train.add_argument_group("the steps")
    steps.add_argument(
        "--full-batch", action="store_true", default=None, help="each step takes all rows"
    )
    steps.add_argument(
        "--batch-rows", type=int, metavar="R", help="each step takes this many rows, in order"
    )
    steps.add_argument(
        "--steps-per-iteration",
        type=int,
        metavar="N",
        help="steps between two updates of the centers (with --batch-rows; default 1)",
    )
    steps.add_argument("--steps", type=int, metavar="N", help="take so many steps more")
    steps.add_argument(
        "--max-steps", type=int, metavar="N", help="stop at this step, counted over all runs"
    )
    steps.add_argument(
        "--relative-tolerance",
        type=float,
        metavar="T",
        help="stop when the loss changes by less than this part of 1 + the loss",
    )
    saving = train.add_argument_group("the checkpoints").add_mutually_exclusive_group()
    saving.add_argument(
        "--save-checkpoints-secs", type=float, metavar="S", help="seconds between two (default 600)"
    )
    saving.add_argument(
        "--save-checkpoints-steps", type=int, metavar="N", help="steps between two, instead"
    )
    train.add_argument(
        "--metrics-file",
        metavar="FILE",
        help="where to keep numbers for Prometheus' node exporter (a .prom file)",
    )
    _add_cluster(train)
    _add_cache(train)
    train.set_defaults(needs=("num_clusters", "model_dir"))


def _add_plan(jobs: Any) -> None:
    plan = _add_job(
        jobs,
        "plan",
        "what training on some rows would take",
        "Print what training would ask of the machines, and about how long an iteration would "
        "take, from a few chunks that are gone over. Nothing is written.",
    )
    _add_input(plan)
    plan.add_argument("--num-clusters", type=int, metavar="K", help="how many clusters")
    plan.add_argument("--metric", choices=("squared_euclidean", "cosine"), help="the distance")
    _add_cluster(plan)
    _add_cache(plan)
    plan.set_defaults(needs=("num_clusters",))


def _add_evaluate(jobs: Any) -> None:
    evaluate = _add_job(
        jobs,
        "evaluate",
        "how well a model fits some rows",
        "Print the loss of the latest checkpoint over some rows.",
    )
    _add_input(evaluate)
    _add_model_dir(evaluate, "where the model is kept")
    _add_cluster(evaluate)
    evaluate.set_defaults(needs=("model_dir",))


def _add_predict(jobs: Any) -> None:
    predict = _add_job(
        jobs,
        "predict",
        "write the cluster of each row",
        "Write the cluster of each row to storage, from the workers, in the order of the rows.",
    )
    _add_input(predict)
    _add_model_dir(predict, "where the model is kept")
    predict.add_argument(
        "--output", metavar="OUT", help="path or URL ending in .zarr or .parquet to write to"
    )
    predict.add_argument(
        "--transform",
        action="store_true",
        default=None,
        help="write the distances to all centers too",
    )
    _add_cluster(predict)
    predict.set_defaults(needs=("model_dir", "output"))


def _add_export(jobs: Any) -> None:
    export = _add_job(
        jobs,
        "export",
        "write a model for TensorFlow, ONNX or scikit-learn",
        "Write the centers of a checkpoint as a model that others run: a SavedModel of TensorFlow "
        "(a new directory below OUT), an ONNX file, or scikit-learn's KMeans in a joblib file.",
    )
    _add_model_dir(export, "where the model is kept")
    export.add_argument("--output", metavar="OUT", help="path or URL to write to")
    export.add_argument("--format", choices=FORMATS, help="what to write")
    export.add_argument(
        "--checkpoint", metavar="DIR", help="the checkpoint to export (default: the latest)"
    )
    export.set_defaults(needs=("model_dir", "output", "format"))


def _add_info(jobs: Any) -> None:
    info = _add_job(
        jobs,
        "info",
        "what is in a model, or what this machine computes with",
        "Print what is in a model's directory, or with --backends what this machine computes with.",
    )
    what = info.add_mutually_exclusive_group(required=True)
    what.add_argument("model_dir", nargs="?", metavar="DIR", help="where the model is kept")
    what.add_argument(
        "--backends", action="store_true", help="the backends, and why each can be used or not"
    )


def _add_demo(jobs: Any) -> None:
    demo = _add_job(
        jobs,
        "demo",
        "cluster real flights, from start to end",
        "Cluster the 336,776 flights that left New York City in 2013: prepare them, train on a "
        "local cluster, evaluate, predict, and say what the clusters are.",
    )
    demo.add_argument(
        "--directory", default="demo", metavar="DIR", help="where to put it all (default: demo)"
    )


def _add_job(jobs: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    job: argparse.ArgumentParser = jobs.add_parser(name, help=summary, description=description)
    job.add_argument("--json", action="store_true", default=None, help="print one JSON object")
    job.add_argument(
        "--log-format",
        choices=LOG_FORMATS,
        help="how progress and messages are written: for people (the default), or a JSON object a "
        "line",
    )
    if name not in ("info", "demo"):
        job.add_argument("--config", metavar="FILE", help="TOML file of flags; given ones win")
    return job


def _add_input(job: argparse.ArgumentParser) -> None:
    job.add_argument(
        "input",
        nargs="?",
        metavar="INPUT",
        help="path or URL of a .zarr array (store or store::array), an .npy file, or a .parquet "
        "file or folder",
    )
    job.add_argument("--columns", metavar="A,B,C", help="the columns of a Parquet input to use")


def _add_model_dir(job: Any, text: str) -> None:
    job.add_argument("--model-dir", metavar="DIR", help=f"{text}: a path or URL")


def _add_cluster(job: argparse.ArgumentParser) -> None:
    cluster = job.add_argument_group("the cluster")
    cluster.add_argument(
        "--cluster",
        metavar="WHERE",
        help="threads (of this process; the default), local (worker processes), local-cuda (one "
        "for each GPU), or the tcp://... of a scheduler",
    )
    cluster.add_argument("--workers", type=int, metavar="W", help="worker processes (local)")
    cluster.add_argument(
        "--threads-per-worker", type=int, metavar="T", help="threads of each (local)"
    )
    cluster.add_argument("--memory-limit", metavar="BYTES", help="memory of each, as 4GB (local)")
    cluster.add_argument(
        "--backend",
        choices=BACKENDS,
        help="what computes: a GPU, compiled code, or NumPy alone; by default the first that a "
        "worker can use",
    )


def _add_cache(job: argparse.ArgumentParser) -> None:
    job.add_argument(
        "--cache",
        choices=CACHES,
        help="whether workers keep stored rows in memory between iterations: what fits (auto, the "
        "default), none, or all (memory)",
    )


def _as_flags(arguments: argparse.Namespace, path: str) -> list[str]:
    """The entries of a TOML file as flags, but for those that flags on the line overrule."""
    try:
        entries = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(
            f"--config must be a TOML file, and {path} cannot be read: {error}"
        ) from error
    known = set(vars(arguments)) - {"job", "config", "needs"}
    flags: list[str] = []
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name not in known:
            allowed = ", ".join(sorted(k.replace("_", "-") for k in known))
            raise Invalid(f"{path} must have no other keys than {allowed}, got {key!r}")
        overruled = [name, *_RIVALS.get(name, ())]
        if value is False or any(getattr(arguments, n, None) is not None for n in overruled):
            continue
        if isinstance(value, dict):
            raise Invalid(f"{path}: {key} must be a value, got a table")
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if name == "input":
            flags.append(text)
        else:
            flags += [f"--{name.replace('_', '-')}"] + ([] if value is True else [text])
    return flags
