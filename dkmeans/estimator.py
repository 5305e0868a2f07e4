"""The estimator: `KMeans` with its public methods, and `load`.

The methods check their arguments and call the other parts: `training` trains, `evaluating` and
`prediction` evaluate and predict. The base class in `model` has the methods that need no rows. The
centers are stored in `model_dir`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import checkpoints, evaluating, storage
from dkmeans.arguments import (
    InitialClusters,
    check_clusters,
    check_evaluation_name,
    check_initial_clusters,
    check_predict_keys,
    check_restarts,
    check_rounds,
    check_steps,
    check_tolerance,
    choose_model_dir,
)
from dkmeans.checkpoints import Checkpoint, Settings
from dkmeans.config import NONE, RunConfig
from dkmeans.continuing import check_same_centers, check_same_model, report_ignored
from dkmeans.convergence import ShiftTolerance
from dkmeans.data.arrays import array_chunks
from dkmeans.data.batches import Batch
from dkmeans.data.columns import NO_LISTS, KnownColumns
from dkmeans.data.dataset import Dataset
from dkmeans.data.sources.dask_array import is_dask_array
from dkmeans.data.sources.frames import is_dask_frame, names_of
from dkmeans.data.sources.memory import owned
from dkmeans.distance import Centers, Computation, Distance, project
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.errors import (
    NO_BATCHES,
    Invalid,
    InvalidData,
    InvalidType,
    NoRows,
    check_bool,
    check_integer,
    check_path,
    counted,
    expected,
)
from dkmeans.executors import Dask, Executor, Threads, computes_on_gpu, open_executor, threads_of
from dkmeans.feature_columns.dense import DenseColumn
from dkmeans.feature_columns.layout import Layout
from dkmeans.hooks import CheckpointSaverListener, SessionRunHook, SummarySaverHook, summaries
from dkmeans.hooks.notifier import Notifier, check_hooks
from dkmeans.indices.quality import as_json, check_indices
from dkmeans.initialization import RANDOM, Initialization, Rounds
from dkmeans.initialization.sample import few_rows
from dkmeans.input_fn import InputFn, read_input
from dkmeans.json_text import json_text
from dkmeans.model import Model, naming_shutdown
from dkmeans.modes import EstimatorSpec, ModeKeys, check_mode
from dkmeans.planning import FitPlan, plan_fit
from dkmeans.plots import EstimatorPlots, Sample
from dkmeans.prediction import lazy, per_chunk, stream
from dkmeans.prediction import output as outputs
from dkmeans.prediction.kept_columns import with_columns
from dkmeans.prediction.measures import Measures, Measuring
from dkmeans.prediction.request import Request
from dkmeans.prediction.stream import check_columns
from dkmeans.report import RowReport
from dkmeans.scaling import Scaling
from dkmeans.standardization import find_scaling
from dkmeans.training import train
from dkmeans.training_plan import Plan

logger = logging.getLogger("dkmeans")


class KMeans(Model):
    """k-means as `tf.compat.v1.estimator.experimental.KMeans` documents it, on Dask.

    The work is done by the client in `config`, or the active `distributed.Client`, or else the
    threads of this process. All of them compute the same bits.

    Args:
        num_clusters: Number of clusters, k. Ignored, and may be None, if `initial_clusters` is an
            array.
        model_dir: Path or URL of the model, from which training continues. None takes
            `config.model_dir`, or else a new temporary directory, which is removed when the process
            ends.
        initial_clusters: `"random"`, `"kmeans_plus_plus"`, `"k-means||"`, a (k, d) array, or a
            function of a batch's (n, d) rows and the number of centers that are still missing,
            which returns up to that many. k-means++ uses the first batch. k-means|| uses all rows
            of an epoch, a few times, on the workers; of an iterator of batches it uses the first.
        distance_metric: `"squared_euclidean"` or `"cosine"`.
        seed: Seed of the random draws of initialization. None takes `config.tf_random_seed`, or
            else a new random seed.
        use_mini_batch: True if a batch is a part of the data, False if each batch is treated as all
            of the data.
        mini_batch_steps_per_iteration: Number of steps that are accumulated before they are synced
            to the master copy of the centers.
        kmeans_plus_plus_num_retries: Number of additional candidates at each pick of k-means++; a
            negative number means 2 + floor(ln k) additional ones.
        relative_tolerance: Training stops when the loss changes by less than this, relative to
            1 + the loss before; with 0, when it does not change. None for no tolerance.
        config: How to run.
        feature_columns: Columns of `dkmeans.feature_columns`, in any order, that make rows from
            named columns. None uses all columns in the order of their names.
        num_restarts: Number of starts that are trained side by side over the same reads. The model
            is the start with the least mean distance of a row in its last iteration. Start r finds
            the first centers of a single start with the seed `seed + r * 2**32`. Each start ends
            when it has converged.
        empty_clusters: What happens to a center that no row is assigned to in an iteration (in
            mini-batches with one step per iteration: since the first step): `"keep"` leaves it
            where it is, `"relocate"` moves it to the row that is farthest from its center, and
            `"error"` stops.
        oversampling: Expected number of candidates of a round of k-means||, as a multiple of k.
        initialization_rounds: Largest number of rounds of k-means||. Each takes an epoch. At least
            one more epoch follows, and further ones if fewer than k candidates were found.
        initialization_rows: Number of rows that k-means|| uses, in blocks of consecutive rows drawn
            uniformly. None for all.

    Raises:
        ValueError: an argument has a value that is not allowed.
        TypeError: an argument has the wrong type.
    """

    ALL_DISTANCES = per_chunk.ALL_DISTANCES
    CLUSTER_INDEX = per_chunk.CLUSTER_INDEX
    COSINE_DISTANCE = "cosine"
    KMEANS_PLUS_PLUS_INIT = "kmeans_plus_plus"
    RANDOM_INIT = "random"
    SCORE = "score"
    SQUARED_EUCLIDEAN_DISTANCE = "squared_euclidean"

    # As in TensorFlow, changes of the loss are relative to 1 + the loss before.
    _loss_offset = 1.0
    _shift_tolerance: ShiftTolerance | None = None
    _counts_first = True

    def __init__(
        self,
        num_clusters: int | None,
        model_dir: str | os.PathLike[str] | None = None,
        initial_clusters: InitialClusters = RANDOM,
        distance_metric: str = "squared_euclidean",
        seed: int | None = None,
        use_mini_batch: bool = True,
        mini_batch_steps_per_iteration: int = 1,
        kmeans_plus_plus_num_retries: int = 2,
        relative_tolerance: float | None = None,
        config: RunConfig | None = None,
        feature_columns: Iterable[DenseColumn] | None = None,
        *,
        num_restarts: int = 1,
        empty_clusters: str = EmptyClusters.KEEP,
        oversampling: float = 1.0,
        initialization_rounds: int = 3,
        initialization_rows: int | None = None,
    ) -> None:
        if config is not None and not isinstance(config, RunConfig):
            raise InvalidType(expected("config", "a RunConfig or None", config))
        check_integer("mini_batch_steps_per_iteration", mini_batch_steps_per_iteration, 1)
        check_integer("kmeans_plus_plus_num_retries", kmeans_plus_plus_num_retries)
        if seed is not None:
            check_integer("seed", seed, 0)
        check_bool("use_mini_batch", use_mini_batch)
        self._relative_tolerance = check_tolerance(relative_tolerance)
        if distance_metric not in tuple(Distance):
            must = " or ".join(repr(str(distance)) for distance in Distance)
            raise Invalid(expected("distance_metric", must, distance_metric))
        source = check_initial_clusters(initial_clusters)
        check_rounds(oversampling, initialization_rounds, initialization_rows, source)
        num_clusters = check_clusters(num_clusters, source)
        check_restarts(num_restarts, source)
        if empty_clusters not in tuple(EmptyClusters):
            must = " or ".join(repr(str(policy)) for policy in EmptyClusters)
            raise Invalid(expected("empty_clusters", must, empty_clusters))
        self._layout = None if feature_columns is None else Layout.of(feature_columns)
        self._num_restarts = int(num_restarts)
        self._empty_clusters = EmptyClusters(empty_clusters)
        config = config or RunConfig()
        super().__init__(choose_model_dir(model_dir, config.model_dir))
        self._config = config.replace(model_dir=self.model_dir)
        self._held_centers: Centers | None = None
        self._settings = Settings(
            Distance(distance_metric),
            bool(use_mini_batch),
            int(mini_batch_steps_per_iteration),
            counts_first=self._counts_first,
        )
        seed = seed if seed is not None else config.tf_random_seed
        self._initialization = Initialization(
            source,
            num_clusters,
            Computation(self._settings.distance_metric, config.backend),
            int(kmeans_plus_plus_num_retries),
            None if seed is None else int(seed),
            Rounds(float(oversampling), int(initialization_rounds)),
            None if initialization_rows is None else int(initialization_rows),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_held_centers": None}

    def __repr__(self) -> str:
        return (
            f"KMeans({self._initialization.num_clusters}, {self.model_dir!r}, "
            f"distance_metric={str(self._settings.distance_metric)!r})"
        )

    def _parameters(self) -> dict[str, object]:
        source, settings = self._initialization.source, self._settings
        steps = counted(settings.mini_batch_steps_per_iteration, "step")
        return {
            "model_dir": self.model_dir,
            "clusters": f"{self._initialization.num_clusters:,}",
            "distance": settings.distance_metric,
            "batches": f"mini-batches, {steps} per iteration"
            if settings.use_mini_batch
            else "full",
            "first centers": source if isinstance(source, str) else type(source).__name__,
            "seed": self._initialization.seed,
            "relative tolerance": self._relative_tolerance,
            "starts": self._num_restarts,
            "empty clusters": self._empty_clusters,
        }

    @property
    def plot(self) -> EstimatorPlots:
        """Plots through matplotlib (extra `plot`): `loss`, `sizes`, `centers` and `rows`."""
        return EstimatorPlots(self, self._sampled)

    @property
    def config(self) -> RunConfig:
        """Copy of the configuration, with `model_dir` filled in."""
        return self._config.replace()

    @property
    def params(self) -> dict[str, Any]:
        """Copy of the `params` that are passed to an `input_fn`."""
        return {
            "num_clusters": self._initialization.num_clusters,
            "distance_metric": str(self._settings.distance_metric),
        }

    @property
    def model_fn(self) -> Callable[[Any, Any, str, RunConfig | None], EstimatorSpec]:
        """Function of `(features, labels, mode, config)` that evaluates the latest checkpoint.

        `features` are rows as an `input_fn` returns them. `labels` must be None or weights,
        `{"weights": w}`; with `ModeKeys.PREDICT` any labels are ignored. `config` says where the
        work is done; None takes this estimator's. The function returns an `EstimatorSpec` of
        values, the same in each mode, and trains nothing.
        """
        return self._specify

    @naming_shutdown()
    def plan(self, input_fn: InputFn) -> FitPlan:
        """Estimate what `train` would read and cache and how long it would take, without training.

        A few chunks are read and timed.

        Args:
            input_fn: As for `train`.

        Raises:
            ValueError: the rows cannot be used, or there are fewer rows than centers.
            TypeError: `input_fn` returns something else than rows.
        """
        dataset, initialization = self._read(input_fn, ModeKeys.TRAIN, None), self._initialization
        steps = self._settings.mini_batch_steps_per_iteration
        with self._reducing_executor() as executor:
            return plan_fit(
                dataset,
                initialization.num_clusters,
                initialization.computation,
                executor,
                self._config.cache,
                on_gpu=self._is_on_gpu(self._config),
                num_starts=self._num_restarts,
                mini_batches=steps if self._settings.use_mini_batch else None,
            )

    @naming_shutdown()
    def train(
        self,
        input_fn: InputFn,
        hooks: Iterable[SessionRunHook] | None = None,
        steps: int | None = None,
        max_steps: int | None = None,
        saving_listeners: Iterable[CheckpointSaverListener] | None = None,
        *,
        checkpoint_path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
    ) -> KMeans:
        """Train from the latest checkpoint, if there is one, and save.

        Training stops after `steps` steps, at step `max_steps`, at the end of the input, or when
        the loss has converged. Full-batch training on an array also ends when no center moves any
        more, and a further call without `steps` then takes no step. A warning is logged before the
        first step if nothing can end the call, and at the end if the input ended before the steps
        or the tolerance were reached.

        Args:
            input_fn: Returns the rows. An array, a dict of named columns, and a `Dataset` without
                `batch`, `shuffle`, `repeat`, `take` or `skip` are repeated without end. Another
                `Dataset`, or an iterator of batches, is used as it is. One step consumes one batch.
            hooks: Notified of every step. They may stop training after it.
            steps: Number of steps to take.
            max_steps: Step, counted over all calls, at which to stop. A call of a model that has
                reached it does nothing.
            saving_listeners: Notified of every checkpoint. They may stop training after it.
            checkpoint_path: A checkpoint of this model to continue from, for example because the
                latest one is damaged. The first save removes the later checkpoints. If this call is
                run again with the same `checkpoint_path`, it continues from the latest checkpoint,
                not from this one: a job that failed can be run again without a change.
            overwrite: True to begin anew, whatever `model_dir` holds. The model that is there is
                replaced by the first checkpoint of the new one. Every such call begins anew.

        Returns:
            This estimator.

        Raises:
            ValueError: the arguments or the rows cannot be used, or `model_dir` holds a model with
                other settings.
            TypeError: a hook or listener has the wrong type.
            KeyboardInterrupt: after a checkpoint.
        """
        if steps is not None and max_steps is not None:
            raise Invalid("Can not provide both steps and max_steps.")
        if check_bool("overwrite", overwrite) and checkpoint_path is not None:
            raise Invalid("overwrite and checkpoint_path must not both be given")
        steps, max_steps = check_steps("steps", steps), check_steps("max_steps", max_steps)
        run_hooks = check_hooks("hooks", hooks, SessionRunHook)
        listeners = check_hooks("saving_listeners", saving_listeners, CheckpointSaverListener)
        notifier = self._notifier(run_hooks, listeners)
        manifest, found, rollback = self._opened(checkpoint_path, overwrite=overwrite)
        has_hooks = bool(run_hooks or listeners)
        plan = self._plan_of_call(found, steps, max_steps, has_hooks=has_hooks)
        if found is not None:
            done = found.state.step
            check_same_model(plan, found)
            report_ignored(plan, done)
            if found.settings.scaling is not None:
                logger.info("rows are standardized by the model's own means and deviations")
            if rollback is not None:
                rollback.report()
            if max_steps is not None and done >= max_steps:
                if rollback is not None:
                    rollback.commit(self.model_dir)
                logger.info("nothing to do: step %d of %d is done", done, max_steps)
                return self
        with self._shown():
            dataset = self._read(input_fn, ModeKeys.TRAIN, found)
            saved = self._train(plan, dataset, found, manifest, notifier)
            if saved is None and rollback is not None:
                rollback.commit(self.model_dir)
        self._hold(saved or found)
        return self

    def _opened(
        self, checkpoint_path: str | os.PathLike[str] | None, *, overwrite: bool
    ) -> tuple[checkpoints.Manifest, Checkpoint | None, checkpoints.Rollback | None]:
        """Return the manifest, the checkpoint to continue from, and the rollback to it if any.

        Raises:
            Invalid: there is no model, and the directory holds something else.
        """
        if checkpoint_path is not None:
            earlier = check_path("checkpoint_path", checkpoint_path)
            if rollback := checkpoints.rollback_to(self.model_dir, earlier):
                return rollback.manifest, rollback.checkpoint, rollback
        found: Checkpoint | None = None
        if overwrite:
            manifest = checkpoints.Manifest.of_new_model(self.model_dir)
        else:
            manifest, found = checkpoints.open_latest(self.model_dir, self._loaded)
        if found is None and (remedy := self._remedy()):
            must = "model_dir must be that of a model, or a new directory"
            raise Invalid(f"{must}, got {self.model_dir!r}.{remedy}")
        return manifest, found, None

    def _plan_of_call(
        self, found: Checkpoint | None, steps: int | None, max_steps: int | None, *, has_hooks: bool
    ) -> Plan:
        """Return what a call of `train` is to do, which continues `found`."""
        done = found.state.step if found else 0
        return Plan(
            self.model_dir,
            self._settings,
            self._initialization,
            done + steps if steps is not None else max_steps,
            self._relative_tolerance,
            self._config,
            self._num_restarts,
            self._empty_clusters,
            has_hooks=has_hooks,
            may_be_unchanged=steps is None and found is not None and found.is_unchanged,
            loss_offset=self._loss_offset,
            shift_tolerance=self._shift_tolerance,
        )

    @naming_shutdown()
    def evaluate(
        self,
        input_fn: InputFn,
        steps: int | None = None,
        hooks: Iterable[SessionRunHook] | None = None,
        checkpoint_path: str | None = None,
        name: str | None = None,
        *,
        indices: Iterable[str] | str | None = None,
        against: str | os.PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """Return the loss of the centers over some rows, and write it below `eval_dir(name)`.

        The directory has a JSON file for each step that was evaluated. If training draws charts for
        TensorBoard, so does an evaluation. If that directory cannot be written, the result is
        returned with a warning.

        Args:
            input_fn: Returns the rows. They are read once.
            steps: Number of batches to evaluate; None for all.
            hooks: Notified of every batch. They may stop the evaluation after it.
            checkpoint_path: The checkpoint to evaluate; None for the latest.
            name: Name of the evaluation's directory, if there are several.
            indices: Names of indices of the clustering to return too, or `"all"`
                (docs/guide/evaluation.md). All are computed in the same pass over the rows.
            against: Path or URL of another model, or of a checkpoint, to compare the clusters of
                the rows with.

        Returns:
            `loss` and `score`: the sum of the distances to the nearest center, averaged over the
            batches; `average_loss`: the mean distance of a row; `global_step`. With `indices`, each
            of them by its name: a number, or a list with one entry for each cluster; None if it is
            not defined or not finite. With `against`, also `changed_share`, `matching`,
            `adjusted_rand` and `mutual_information`.

        Raises:
            ValueError: there is no checkpoint, or the arguments or the rows cannot be used.
        """
        steps = check_steps("steps", steps)
        run_hooks = check_hooks("hooks", hooks, SessionRunHook)
        names = check_indices(indices)
        check_evaluation_name(name)
        checkpoint = self.checkpoint(checkpoint_path)
        task = evaluating.measuring(self._centers(checkpoint), names, checkpoint, against)
        found = self._scores(input_fn, checkpoint, steps, run_hooks, task)
        result = evaluating.result_of(found, task, names, checkpoint)
        address = self.evaluation_file(checkpoint.state.step, name)
        if storage.write_or_log(address, json_text(result)) and self._draws_charts:
            evaluating.draw(result, self.eval_dir(name))
        return as_json(result)

    @naming_shutdown()
    def score(self, input_fn: InputFn) -> float:
        """Return the sum of the distances to the nearest center over the first batch.

        It is positive, unlike the score of scikit-learn.

        Raises:
            ValueError: there is no checkpoint, or the rows cannot be used.
        """
        checkpoint = self.checkpoint()
        (found,) = self._scores(input_fn, checkpoint, 1, (), Measuring(self._centers(checkpoint)))
        return found.score.inertia

    def predict(
        self,
        input_fn: InputFn,
        predict_keys: str | Sequence[str] | None = None,
        hooks: Iterable[SessionRunHook] | None = None,
        checkpoint_path: str | None = None,
        yield_single_examples: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """Return the cluster of each row, and its distance to every center.

        Args:
            input_fn: Returns the rows. They are read once.
            predict_keys: Names of the results, `cluster_index` or `all_distances`; None or an empty
                list for both.
            hooks: Notified of every batch, before its first row and after its last. They may stop
                the prediction at both times.
            checkpoint_path: The checkpoint to predict with; None for the latest.
            yield_single_examples: True to yield a dict for each row, False for each batch.

        Yields:
            For each row `cluster_index`, int64, and `all_distances`, (k,) float32: squared
            Euclidean or cosine distances. For each batch these are (n,) and (n, k). Nothing if the
            input has no rows.

        Raises:
            ValueError: there is no checkpoint, or the keys or the rows cannot be used.
        """
        names = check_predict_keys(predict_keys, [self.ALL_DISTANCES, self.CLUSTER_INDEX])
        run_hooks = check_hooks("hooks", hooks, SessionRunHook)
        single = check_bool("yield_single_examples", yield_single_examples)
        checkpoint = self.checkpoint(checkpoint_path)
        return self._predict(input_fn, checkpoint, names, run_hooks, single=single)

    def predict_cluster_index(self, input_fn: InputFn) -> Iterator[np.int64]:
        """Yield the index of each row's nearest center.

        Raises:
            ValueError: as `predict` does.
        """
        for row in self.predict(input_fn, self.CLUSTER_INDEX):
            yield row[self.CLUSTER_INDEX]

    def transform(self, input_fn: InputFn) -> Iterator[npt.NDArray[np.float32]]:
        """Yield each row's distance to every center, (k,) float32: squared Euclidean or cosine.

        Raises:
            ValueError: as `predict` does.
        """
        for row in self.predict(input_fn, self.ALL_DISTANCES):
            yield row[self.ALL_DISTANCES]

    def predict_dask(
        self,
        rows: Any,
        predict_key: str = CLUSTER_INDEX,
        checkpoint_path: str | None = None,
    ) -> Any:
        """Return the cluster of each row as a lazy collection of Dask.

        The result can be used as any other collection, as in
        `frame["cluster"] = model.predict_dask(frame)`. It holds a copy of the centers: training the
        model further, or removing its directory, does not change the result.

        Args:
            rows: A Dask array, (n, d), or a Dask data frame. Its columns are found by name.
            predict_key: Name of the result, `cluster_index` or `all_distances`.
            checkpoint_path: The checkpoint to predict with; None for the latest.

        Returns:
            For an array, a Dask array with the blocks of the rows: (n,) int64, or (n, k) float32.
            For a data frame, a series `cluster_index` or a data frame with a column for each
            center, both with the index and the divisions of the rows.

        Raises:
            ValueError: there is no checkpoint, the key is another one, or the rows do not have the
                columns of the model.
            TypeError: the rows are no collection of Dask, or do not hold numbers.
        """
        names = [self.ALL_DISTANCES, self.CLUSTER_INDEX]
        if predict_key not in names:
            raise Invalid(expected("predict_key", f"one of {names}", predict_key))
        checkpoint = self.checkpoint(checkpoint_path)
        task = per_chunk.Task(self._centers(checkpoint), (predict_key,))
        block = lazy.Block(task, checkpoint.settings.scaling)
        if is_dask_array(rows) and self._layout is None:
            return lazy.of_array(rows, block)
        if not is_dask_frame(rows):
            must = "a Dask array or data frame" if self._layout is None else "a Dask data frame"
            raise InvalidType(expected("rows", must, type(rows).__name__))
        columns = KnownColumns(checkpoint.settings.columns, allows_surplus=True)
        if self._layout is not None:
            columns.check(self._layout.names)
            return lazy.of_features(rows, block, self._layout)
        return lazy.of_frame(rows, block, columns.chosen(names_of(rows), "the data frame"))

    @naming_shutdown()
    def write_predictions(
        self,
        input_fn: InputFn,
        output: str | os.PathLike[str],
        *,
        transform: bool = False,
        distance: bool = False,
        second: bool = False,
        top: int | None = None,
        keep: Sequence[str] = (),
        partition_by: str | None = None,
        checkpoint_path: str | None = None,
    ) -> int:
        """Write the cluster of each row to storage, from the workers that compute it.

        A second call continues a call that was interrupted: finished regions are kept, and only
        missing ones are written. The two calls must have the same checkpoint with the same centers,
        input of the same name, shape and dtype, and the same results. Rows in memory must have
        the same values, a Dask array the same names of its blocks. Stored rows that were changed in
        place are not noticed: use another output then, or remove this one.

        Args:
            input_fn: Returns the rows. They are read once. All batches are listed before the first
                one is read: the input must end, and the batches of an iterator are all in memory
                then.
            output: Path or URL. If it ends in `.zarr`, it names a Zarr group, which gets an array
                for each result. `store::group` adds these arrays to an existing group. If it ends
                in `.parquet`, it names a folder of files, with a column for each result: if the
                rows are those of Parquet files, a file of the same name for each of them. The
                results are `cluster_index` (n,) int64, and those below. Predictions of other rows,
                or by another checkpoint, are replaced. The output is complete if the group's
                attribute `complete` is true, or the folder holds `_SUCCESS`.
            transform: True to write the distances to all centers, `all_distances` (n, k) float32.
            distance: True to write the distance to the nearest center, `distance` (n,) float64.
            second: True to write the next nearest center, `second_index` (n,) int64, and the
                distance to it, `second_distance` (n,) float64.
            top: Number of nearest centers to write, `top_indices` (n, top) int64, with the
                distances to them, `top_distances` (n, top) float64; None for none.
            keep: Names of columns of the input to write too, such as ids. The input must have
                names and its rows be in order, and the output must end in `.parquet`.
            partition_by: `"cluster_index"` to write the rows of each cluster to a folder of its
                own, `cluster_index=0` and so on, instead of this column; None for no such folders.
            checkpoint_path: The checkpoint to predict with; None for the latest.

        Returns:
            The number of rows, written by this call or an earlier one.

        Raises:
            ValueError: there is no checkpoint, the rows cannot be used, the output has another
                ending or holds something else, or there are fewer than `top` centers.
            TypeError: an argument has the wrong type.
        """
        address = check_path("output", output)
        is_list = isinstance(keep, Iterable) and not isinstance(keep, NO_LISTS)
        kept = tuple(keep) if is_list else ()
        if not is_list or not all(isinstance(name, str) for name in kept):
            raise InvalidType(expected("keep", "a list of names", keep))
        num_nearest = 0 if top is None else check_integer("top", top, 1)
        flags = {"distance": distance, "second": second, "transform": transform}
        asked = {name: check_bool(name, value) for name, value in flags.items()}
        request = Request(**asked, top=num_nearest, keep=kept, partition_by=partition_by or "")
        checkpoint = self.checkpoint(checkpoint_path)
        centers = self._centers(checkpoint)
        dataset = self._read(input_fn, ModeKeys.PREDICT, checkpoint)
        if dataset.is_endless:
            raise Invalid("the rows to write predictions for must end, got a dataset without end")
        whole = Batch.chained(map(owned, dataset.batches()))
        if not whole.rows:
            raise InvalidData(NO_BATCHES)
        table = dataset.table if dataset.is_table else None
        place = outputs.plan_output(address, whole, checkpoint, request, table)
        written = outputs.prepare(place)
        if not written.is_complete:
            task = per_chunk.Task(centers, request.results, request.top)
            writing = outputs.Writing(task, place.destination)
            missing = outputs.missing(place, written)
            rows, left = place.rows, sum(region.rows for region in missing)
            with self._shown(), open_executor(self._config.client) as executor:
                _log_begin("predicting", checkpoint, executor)
                regions = with_columns(missing, place.kept)
                report = RowReport("predicted", rows, rows - left)
                for region_rows in executor.map(outputs.write_region, regions, writing):
                    report.add(region_rows)
            outputs.finish(place)
        return place.rows

    def _shown(self) -> AbstractContextManager[None]:
        """Return a context in which progress is shown, if the configuration says so."""
        if self._config.progress is None:
            return nullcontext()
        from dkmeans.display import shown  # noqa: PLC0415 importing rich takes time

        return shown()

    def _train(
        self,
        plan: Plan,
        dataset: Dataset,
        found: Checkpoint | None,
        manifest: checkpoints.Manifest,
        notifier: Notifier,
    ) -> Checkpoint | None:
        """Train by a plan, from the checkpoint `found` if there is one.

        Return the checkpoint saved at the end; None if no center would have moved.
        """
        # An older model without names of columns takes those of the new rows.
        names = found.settings.columns if found else None
        scaling = found.settings.scaling if found else self._new_scaling(dataset)
        if found is None:
            dataset = dataset.scaled(scaling)
        own, columns = self._settings, names or dataset.columns
        counts_first = found.settings.counts_first if found else own.counts_first
        settings = replace(own, columns=columns, scaling=scaling, counts_first=counts_first)
        plan = replace(plan, settings=settings)
        with self._reducing_executor(self._config.cache) as executor:
            fit = found.to_continue() if found else None
            with notifier.aborting():
                return train(plan, dataset, fit, manifest, executor, notifier)

    def _reducing_executor(self, cache: str = NONE) -> Threads | Dask:
        """Return an executor for `map_reduce`."""
        return open_executor(self._config.client, cache, on_gpu=self._is_on_gpu(self._config))

    def _is_on_gpu(self, config: RunConfig) -> bool:
        """Return whether GPUs compute, with the client of a configuration and this backend."""
        return computes_on_gpu(config.client, self._config.backend)

    @property
    def _draws_charts(self) -> bool:
        return bool(self._config.save_summary_steps) and summaries.is_available()

    def _notifier(
        self,
        hooks: tuple[SessionRunHook, ...],
        listeners: tuple[CheckpointSaverListener, ...],
    ) -> Notifier:
        """Return the notifier of a training call, with the hook that draws charts."""
        if listeners and not self._config.saves_on_the_way:
            raise Invalid(
                "saving_listeners need checkpoints to report: set one of "
                "RunConfig.save_checkpoints_steps and RunConfig.save_checkpoints_secs, got 0"
            )
        if self._draws_charts:
            every = self._config.save_summary_steps
            hooks = (*hooks, SummarySaverHook(every, output_dir=self.model_dir))
        return Notifier(self._settings, hooks, listeners)

    def _read(
        self,
        input_fn: InputFn,
        mode: str,
        found: Checkpoint | None,
        config: RunConfig | None = None,
        sums_per_value: int = 1,
    ) -> Dataset:
        """Return the rows of an `input_fn`, with the columns of the model in the model's order.

        If `found` is of a model that standardizes, its scaling is applied to the rows.

        The size of chunks suits the processors that compute them. Chunks of predictions have one
        size on all machines, because another machine may continue the predictions.

        Args:
            input_fn: Returns the rows.
            mode: Purpose of the rows.
            found: The checkpoint that the rows are for; None for a new model.
            config: Where the work is done; None takes this estimator's.
            sums_per_value: Number of sums of one cluster that each value of a row may be added to
                (`in_chunks_for` gets k times this); 0 if rows are only compared with the centers.

        Raises:
            Invalid: the rows cannot be used, or do not have the columns of the model.
        """
        columns = KnownColumns(found.settings.columns if found else None, mode != ModeKeys.TRAIN)
        options = self._layout, columns
        client = (config or self._config).client
        # Rows of Dask are counted on the cluster that does the rest of the work.
        with nullcontext() if client is None else client.as_current():
            dataset = read_input(input_fn, mode, self.params, self._config, *options)
        # Chunks are measured by their stored values. Feature columns make much larger rows of
        # them, so their chunks keep the usual size.
        if self._layout is None and mode != ModeKeys.PREDICT:
            k = len(found.state.centers) if found else self._initialization.num_clusters
            on_gpu, threads = self._is_on_gpu(config or self._config), threads_of(client)
            dataset = dataset.in_chunks_for(k * sums_per_value, threads, on_gpu=on_gpu)
        if found is None:
            return dataset
        check_columns(dataset, found)
        return dataset.scaled(found.settings.scaling)

    def _new_scaling(self, dataset: Dataset) -> Scaling | None:
        """Return the scaling by which a new model standardizes its rows; None if it does not."""
        if not dataset.is_standardized:
            return None
        batches = list(dataset.batches_to_standardize_by())
        # Without a cache: training caches the standardized rows.
        with self._reducing_executor() as executor:
            return find_scaling(batches, dataset.columns, executor, self._config.backend)

    def _sampled(self, input_fn: InputFn) -> Sample:
        """Return some rows of an `input_fn`, with their clusters."""
        checkpoint = self.checkpoint()
        dataset = self._read(input_fn, ModeKeys.PREDICT, checkpoint)
        centers, settings = self._centers(checkpoint), checkpoint.settings
        task = per_chunk.Task(centers, (self.CLUSTER_INDEX,))
        with open_executor(self._config.client) as executor:
            points = few_rows(dataset.batches(), dataset.rows, executor)
            index = stream.gathered(array_chunks(points, "the sample"), task, executor)
        points = project(points, centers.distance)
        about = settings.columns, settings.scaling is not None
        return Sample(points, index[self.CLUSTER_INDEX], centers.values, *about)

    def _centers(self, checkpoint: Checkpoint) -> Centers:
        """Return the centers of a checkpoint.

        All calls with the checkpoint in memory get the same object, so that backends pack the
        centers once.

        Raises:
            InvalidCheckpoint: the checkpoint is of a model with other parameters.
        """
        check_same_centers(self._initialization.num_clusters, self._settings, checkpoint)
        values, held = checkpoint.state.centers, self._held_centers
        if held is None or held.values is not values:
            held = Centers(values, checkpoint.settings.distance_metric, self._config.backend)
        self._held_centers = held if checkpoint is self._loaded else None
        return held

    def _scores(
        self,
        input_fn: InputFn,
        checkpoint: Checkpoint,
        steps: int | None,
        hooks: Sequence[SessionRunHook],
        task: Measuring,
    ) -> list[Measures]:
        """Return the measures of the first `steps` batches.

        Raises:
            InvalidData: all rows have the weight zero.
        """
        sums = task.sums_per_value
        dataset = self._read(input_fn, ModeKeys.EVAL, checkpoint, sums_per_value=sums)
        if dataset.is_endless and steps is None and not hooks:
            logger.warning(
                "nothing will end this evaluation, because its input has no end: give it steps"
            )
        notifier = Notifier(checkpoint.settings, hooks)
        with self._shown(), self._reducing_executor() as executor:
            _log_begin("evaluating", checkpoint, executor)
            found = stream.scores(dataset, checkpoint, task, executor, notifier, steps)
        if not any(each.score.weight.units for each in found):
            raise InvalidData("the rows must not all have the weight zero, to be evaluated")
        return found

    def _predict(
        self,
        input_fn: InputFn,
        checkpoint: Checkpoint,
        names: Sequence[str],
        hooks: Sequence[SessionRunHook],
        *,
        single: bool,
    ) -> Iterator[dict[str, Any]]:
        try:
            dataset = self._read(input_fn, ModeKeys.PREDICT, checkpoint)
        except NoRows:
            return
        task = per_chunk.Task(self._centers(checkpoint), tuple(names))
        notifier = Notifier(checkpoint.settings, hooks)
        with naming_shutdown(), open_executor(self._config.client) as executor:
            yield from stream.predictions(
                dataset, checkpoint, task, executor, notifier, single=single
            )

    def _specify(
        self, features: Any, labels: Any, mode: str, config: RunConfig | None
    ) -> EstimatorSpec:
        check_mode("mode", mode)
        if config is None:
            config = self._config
        if not isinstance(config, RunConfig):
            raise InvalidType(expected("config", "a RunConfig or None", config))
        checkpoint = self.checkpoint()
        dataset = self._read(lambda: (features, labels), mode, checkpoint, config)
        batch = next(dataset.batches(), Batch())
        if not batch.rows:
            raise InvalidData("the features must have at least one row, got none")
        task = per_chunk.Task(self._centers(checkpoint), (self.ALL_DISTANCES, self.CLUSTER_INDEX))
        with open_executor(config.client) as executor:
            predictions = stream.gathered(batch.without_weights(), task, executor)
            (score,) = executor.map_reduce(per_chunk.score, [batch], task.centers).totals
        exported = {name: {"output": values} for name, values in predictions.items()}
        exported["serving_default"] = exported[self.CLUSTER_INDEX]
        return EstimatorSpec(
            mode, predictions, score.inertia, {self.SCORE: score.inertia}, exported
        )


def load(model_dir: str | os.PathLike[str], *, config: RunConfig | None = None) -> KMeans:
    """Return the estimator of a trained model, with the settings of its latest checkpoint.

    The estimator is ready to predict, and `train` continues the model. Feature columns are not
    saved: give a model that was trained with them the rows that the columns make.

    Args:
        model_dir: Path or URL of the model's directory.
        config: How to run.

    Raises:
        InvalidCheckpoint: there is no model, or its latest checkpoint is damaged.
        TypeError: an argument has the wrong type.
    """
    address = check_path("model_dir", model_dir)
    checkpoint = Model(address).checkpoint()
    settings = checkpoint.settings
    return KMeans(
        len(checkpoint.state.centers),
        address,
        distance_metric=settings.distance_metric,
        use_mini_batch=settings.use_mini_batch,
        mini_batch_steps_per_iteration=settings.mini_batch_steps_per_iteration,
        config=config,
        num_restarts=len(checkpoint.fit.starts),
    )


def _log_begin(what: str, checkpoint: Checkpoint, executor: Executor) -> None:
    """Log that a call over rows begins, with its checkpoint, its clusters and its executor."""
    clusters = counted(len(checkpoint.state.centers), "cluster")
    logger.info("%s with step %d, %s, on %s", what, checkpoint.state.step, clusters, executor)
