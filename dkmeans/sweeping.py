"""Choosing the number of clusters: models of several k, trained over the same reads of the rows.

    found = dkmeans.sweep(lambda: dataset, [4, 8, 16], "models", seed=1)
    model = dkmeans.load(found["recommended_model"])

Every k has a model directory of its own, with the bits that `dkmeans train` makes with the same
settings. (`KMeans.train` may stop earlier: its tolerance is relative to 1 + the loss.) A second
call continues where the first one stopped (docs/decisions/024).
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from dkmeans import checkpoints, storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.config import NONE, RunConfig
from dkmeans.data.chunks import LoadedChunk
from dkmeans.data.dataset import Dataset
from dkmeans.distance import Centers
from dkmeans.errors import (
    Invalid,
    InvalidCheckpoint,
    InvalidType,
    check_integer,
    check_number,
    check_path,
    counted,
    expected,
)
from dkmeans.estimator import KMeans
from dkmeans.executors import open_executor
from dkmeans.executors.shared_reads import Participant, SharedReads
from dkmeans.extras import needs
from dkmeans.history import read_history
from dkmeans.indices.contingency import agreement
from dkmeans.indices.quality import as_json, indices_of
from dkmeans.input_fn import InputFn
from dkmeans.model import SWEEP_PLAN
from dkmeans.modes import ModeKeys
from dkmeans.prediction.identity import rows_sha256
from dkmeans.prediction.measures import Measures, Measuring, measure
from dkmeans.recommendation import recommend
from dkmeans.scaling import Scaling
from dkmeans.state import SideBySide

logger = logging.getLogger("dkmeans")

_RESULT_FILE = "sweep.json"
# Names of the models of a sweep.
_MODEL_FOLDER = re.compile(r"k\d+")
# Indices of each k. None of them needs a sample of the rows.
_JUDGED = ("silhouette", "davies_bouldin", "calinski_harabasz", "ambiguous", "cluster_sizes")

# The k of the model that the current thread trains.
_swept: ContextVar[int | None] = ContextVar("swept", default=None)


class _SweptModel(KMeans):
    """A model that is trained together with others.

    Attributes:
        shared_executor: Its executor.
        scaling: Means and deviations by which all models standardize rows; None if they do not.
    """

    # As on the command line: the tolerance is relative to the loss, whatever the unit of rows is.
    _loss_offset = 0.0
    shared_executor: Participant | None = None
    scaling: Scaling | None = None

    def _new_scaling(self, dataset: Dataset) -> Scaling | None:
        return self.scaling or super()._new_scaling(dataset)

    def _reducing_executor(self, cache: str = NONE) -> Any:
        return self.shared_executor or super()._reducing_executor(cache)


@dataclass(frozen=True, slots=True, eq=False)
class _Tasks:
    """Measurements of several models, which one epoch over the rows computes together."""

    each: tuple[Measuring, ...]


def sweep(
    input_fn: InputFn,
    num_clusters: Iterable[int],
    output: str | os.PathLike[str],
    *,
    distance_metric: str = "squared_euclidean",
    initial_clusters: str = "kmeans_plus_plus",
    seed: int | None = None,
    num_restarts: int = 2,
    max_steps: int = 300,
    relative_tolerance: float = 1e-4,
    config: RunConfig | None = None,
) -> dict[str, Any]:
    """Train a model for each number of clusters, judge them, and recommend one.

    All models share each read of the rows. The same call continues a sweep that was interrupted,
    and one with further numbers of clusters adds these to the models of the earlier calls.

    Args:
        input_fn: Returns the rows, all of which are taken in each step.
        num_clusters: Numbers of clusters, different ones.
        output: Path or URL of a directory for the models, `k4` and so on, and for `sweep.json`.
        distance_metric: As in `KMeans`.
        initial_clusters: Name of the method that finds the first centers, as in `KMeans`.
        seed: Seed of the random draws; None draws one for a new sweep.
        num_restarts: Number of starts of each model, at least two: how far the best two agree is
            the stability of the model.
        max_steps: Step at which a model stops.
        relative_tolerance: A start has converged when its loss changes by less than this, relative
            to the loss before.
        config: How to run.

    Returns:
        `models`: a dict for each k, also of earlier calls, with its `num_clusters`, `model_dir`,
        `loss`, `steps`, whether it has `converged`, the indices `silhouette`, `davies_bouldin`,
        `calinski_harabasz` and `ambiguous`, the number of `rows`, the size of the
        `smallest_cluster`, the `stability` of the model (the adjusted Rand index of the best two
        starts) and `seconds` (reading and computing of its iterations, as if it were alone).
        `recommended` is the k of one of them, None if no model can be judged, with
        `recommended_model`, `reason` and `against`, a list of what speaks against it. `seed` is
        that of the sweep, and the `seconds` beside it are those of this call.

    Raises:
        ValueError: an argument or the rows cannot be used, or `output` holds another sweep.
        TypeError: an argument has the wrong type.
    """
    began = time.monotonic()
    counts, address = _checked_counts(num_clusters), check_path("output", output)
    check_integer("num_restarts", num_restarts, 2)
    check_integer("max_steps", max_steps, 1)
    check_number("relative_tolerance", relative_tolerance)
    if not isinstance(initial_clusters, str):
        raise InvalidType(expected("initial_clusters", "the name of a method", initial_clusters))
    if not (config is None or isinstance(config, RunConfig)):
        raise InvalidType(expected("config", "a RunConfig or None", config))
    with needs("a sweep", "sklearn"):
        import scipy.optimize  # noqa: F401, PLC0415 an extra, needed after training
    options = {
        "distance_metric": str(distance_metric),
        "initial_clusters": initial_clusters,
        "num_restarts": int(num_restarts),
        "max_steps": int(max_steps),
        "relative_tolerance": None if relative_tolerance is None else float(relative_tolerance),
    }
    config = config or RunConfig()
    # The model of most clusters has the largest sums, and so the largest chunks.
    largest = _model(address, counts[-1], seed, options, config)
    dataset = largest._read(input_fn, ModeKeys.TRAIN, None)
    if not (dataset.is_endless and dataset.is_constant):
        raise Invalid("a sweep must have all rows in each step: give it an array or a Dataset")
    if dataset.rows is not None and max(counts) > dataset.rows:
        must = f"at most the number of rows, {dataset.rows:,}"
        raise Invalid(expected("num_clusters", must, max(counts)))
    # The size of chunks depends on GPUs and on the largest k, which a later call may not have. So
    # the digest is of chunks of the usual size.
    rows = rows_sha256(next(dataset.in_chunks_of(None).batches()))
    options["standardize"] = dataset.is_standardized
    seed = _agreed_seed(address, options, rows, seed)
    models = [_model(address, k, seed, options, config) for k in counts]
    scaling = _shared_scaling(models, dataset)
    for model in models:
        model.scaling = scaling
    on_gpu = largest._is_on_gpu(config)
    with open_executor(config.client, config.cache, on_gpu=on_gpu) as executor:
        _train_together(models, dataset, executor, max_steps)
        found = _with_earlier(address, _judged(models, dataset.scaled(scaling), executor))
    chosen = recommend(found)
    best = next((each for each in found if each["num_clusters"] == chosen.num_clusters), None)
    result = {
        "models": found,
        "recommended": chosen.num_clusters,
        "recommended_model": best and best["model_dir"],
        "reason": chosen.reason,
        "against": list(chosen.against),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 3),
    }
    storage.write(storage.join(address, _RESULT_FILE), json.dumps(result).encode())
    return result


def _checked_counts(given: Any) -> tuple[int, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidType(expected("num_clusters", "a list of integers >= 1", given))
    counts = tuple(check_integer("num_clusters", k, 1) for k in given)
    if not counts or len(set(counts)) < len(counts):
        raise Invalid(expected("num_clusters", "one or more different integers", list(counts)))
    return tuple(sorted(counts))


def _agreed_seed(address: str, options: dict[str, Any], rows: str, seed: int | None) -> int:
    """Return the seed of a sweep, and write its plan; an earlier sweep must have an equal plan.

    A sweep that has no model yet, for example because its rows were refused, may be begun anew
    with other options or rows.

    Raises:
        Invalid: the directory holds a sweep with other options, or of other rows, or models of
            which no plan says how they were made.
    """
    place = storage.join(address, SWEEP_PLAN)
    found, models = storage.read_json(place), _models_in(address)
    if isinstance(found, dict) and "seed" in found:
        asked = options if seed is None else {**options, "seed": seed}
        difference = _difference(found, asked, rows)
        if difference is None:
            return int(found["seed"])
        if models:
            raise Invalid(f"{difference}; give another output to begin anew ({address})")
    elif models:
        raise Invalid(
            f"output must be new, or hold a sweep, got {address}: it holds a model "
            f"({models[0] or 'itself'}), but no {SWEEP_PLAN} that says how it was made"
        )
    storage.check_writable("output", address)
    drawn = secrets.randbits(32) if seed is None else check_integer("seed", seed, 0)
    storage.write(place, json.dumps({**options, "rows_sha256": rows, "seed": drawn}).encode())
    return drawn


def _difference(found: dict[str, Any], asked: dict[str, Any], rows: str) -> str | None:
    """Return a sentence on how an earlier sweep differs first; None if it does not."""
    for name, value in asked.items():
        # Earlier versions did not write all of them.
        made = found.get(name, value)
        if made != value:
            return (
                f"{name} must be that of the sweep in output, {made!r}, to continue it, got "
                f"{value!r}"
            )
    if found.get("rows_sha256") != rows:
        return (
            "the rows must be those of the sweep in output, to continue it, got others (of another "
            "input, or with other columns, weights or filters)"
        )
    return None


def _models_in(address: str) -> list[str]:
    """Return the names of the folders in a directory that hold models of a sweep.

    The name is empty for the directory itself.
    """
    folders = ["", *filter(_MODEL_FOLDER.fullmatch, storage.children(address))]
    return [name for name in folders if _has_model(storage.join(address, name))]


def _has_model(address: str) -> bool:
    try:
        return checkpoints.Manifest.read(address).latest is not None
    except InvalidCheckpoint:  # a damaged manifest, of a model that may be recoverable
        return True


def _model(
    address: str, k: int, seed: int | None, options: dict[str, Any], config: RunConfig
) -> _SweptModel:
    return _SweptModel(
        k,
        storage.join(address, f"k{k}"),
        options["initial_clusters"],
        options["distance_metric"],
        seed,
        use_mini_batch=False,
        relative_tolerance=options["relative_tolerance"],
        config=config,
        num_restarts=options["num_restarts"],
    )


def _shared_scaling(models: Sequence[_SweptModel], dataset: Dataset) -> Scaling | None:
    """Return the means and deviations by which all models standardize rows; None if they do not."""
    begun = [checkpoints.latest(model.model_dir) for model in models]
    kept = [checkpoint.settings.scaling for checkpoint in begun if checkpoint is not None]
    return kept[0] if kept else models[0]._new_scaling(dataset)


def _train_together(
    models: Sequence[_SweptModel], dataset: Dataset, executor: Any, max_steps: int
) -> None:
    """Train the models that are not done yet, each in a thread, with shared reads.

    Raises:
        BaseException: the error of a model that failed. The others save first.
    """
    missing = [model for model in models if not _is_done(model, max_steps)]
    logger.info(
        "%s to train, %s done already, on %s",
        counted(len(missing), "model"),
        len(models) - len(missing),
        executor,
    )
    if not missing:
        return
    # Before the threads begin: an import by two of them at once may find a half-made module.
    import distributed  # noqa: F401, PLC0415 takes half a second

    shared = SharedReads(executor, len(missing))

    named = _Named(missing)

    def run(number: int, model: _SweptModel) -> None:
        k = model.params["num_clusters"]
        _swept.set(k)
        try:
            model.shared_executor = Participant(shared, number)
            model.train(lambda: dataset, max_steps=max_steps)
        finally:
            named.running.discard(k)
            model.shared_executor = None
            shared.leave()

    logger.addFilter(named)
    try:
        with ThreadPoolExecutor(len(missing)) as pool:
            pairs = enumerate(missing)
            tasks = [pool.submit(run, number, model) for number, model in pairs]
            try:
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()
            finally:
                shared.stop()
    finally:
        logger.removeFilter(named)


class _Named(logging.Filter):
    """Filter that names the model in the records of its training.

    Only the largest model that is still training updates the progress line.
    """

    def __init__(self, models: Sequence[KMeans]) -> None:
        super().__init__()
        self.running = {model.params["num_clusters"] for model in models}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True, and change the record of a training."""
        k = _swept.get()
        if k is not None:
            record.msg, record.args = f"k {k}: {record.getMessage()}", ()
            if k != max(self.running, default=k):
                record.__dict__.pop("progress", None)
        return True


def _is_done(model: KMeans, max_steps: int) -> bool:
    """Return whether a model has converged or has taken all its steps."""
    checkpoint = checkpoints.latest(model.model_dir)
    if checkpoint is None:
        return False
    is_converged = checkpoint.stop is not None and checkpoint.stop.reason.converged
    return is_converged or checkpoint.state.step >= max_steps


def _measure_each(loaded: LoadedChunk, tasks: _Tasks) -> SideBySide[Measures]:
    """Return the measures of a chunk for each model. Runs on a worker."""
    return SideBySide(tuple(measure(loaded, task) for task in tasks.each))


def _judged(models: Sequence[_SweptModel], dataset: Dataset, executor: Any) -> list[dict[str, Any]]:
    """Return the results of each model, measured in one epoch for all of them."""
    found = [model.checkpoint() for model in models]
    tasks = []
    for model, checkpoint in zip(models, found, strict=True):
        centers = [
            Centers(start.state.centers, checkpoint.settings.distance_metric, model.config.backend)
            for start in sorted(checkpoint.fit.starts, key=lambda start: start.mean_distance)
        ]
        # The agreement of the best two starts is the stability of the model.
        tasks.append(Measuring(centers[0], with_moments=True, against=centers[1]))
    batch = next(dataset.batches())
    logger.info("judging %s", counted(len(models), "model"))
    (total,) = executor.map_reduce(_measure_each, [batch], _Tasks(tuple(tasks))).totals
    rows = zip(models, found, tasks, total.parts, strict=True)
    return [_described(model, checkpoint, task, part) for model, checkpoint, task, part in rows]


def _with_earlier(address: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results of this call and of earlier ones, by rising k.

    The plan of the sweep ensures that all of them are about the same rows.
    """
    earlier = storage.read_json(storage.join(address, _RESULT_FILE))
    models = earlier.get("models") if isinstance(earlier, dict) else None
    both = {}
    for each in models if isinstance(models, list) else ():
        k = each.get("num_clusters") if isinstance(each, dict) else None
        if not isinstance(k, int):
            logger.warning("ignoring a model of %s, which is damaged", _RESULT_FILE)
            continue
        # The directory of the sweep may have been moved.
        both[k] = each | {"model_dir": storage.join(address, f"k{k}")}
    both |= {each["num_clusters"]: each for each in found}
    return [both[k] for k in sorted(both) if _is_there(both[k])]


def _is_there(found: dict[str, Any]) -> bool:
    """Return whether the model of a result can be loaded; warn if not."""
    try:
        if checkpoints.latest(found["model_dir"]) is not None:
            return True
        why = f"its model is gone: {found['model_dir']}"
    except InvalidCheckpoint as error:
        why = str(error)
    logger.warning("leaving out k = %d: %s", found["num_clusters"], why)
    return False


def _described(
    model: _SweptModel, checkpoint: Checkpoint, task: Measuring, measures: Measures
) -> dict[str, Any]:
    assert measures.moments is not None
    assert measures.contingency is not None
    indices = as_json(indices_of(measures.moments, task.centers, _JUDGED))
    sizes = indices.pop("cluster_sizes")
    # The reason of the best start: another one may have taken all its steps without converging.
    reason = checkpoint.fit.starts[checkpoint.fit.best].reason
    spent = [
        each.get("read_seconds", 0.0) + each.get("compute_seconds", 0.0)
        for each in read_history(model.model_dir)
    ]
    return {
        "num_clusters": len(task.centers.values),
        "model_dir": model.model_dir,
        "loss": measures.score.inertia,
        "steps": checkpoint.state.step,
        "converged": reason is not None and reason.converged,
        **indices,
        "rows": sum(sizes),
        "smallest_cluster": min(sizes),
        "stability": agreement(measures.contingency)["adjusted_rand"],
        "seconds": round(sum(spent), 3),
    }
