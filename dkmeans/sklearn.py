"""scikit-learn's estimators: `KMeans` and `MiniBatchKMeans`, computed by dkmeans.

They have the methods, and most attributes and parameters, of `sklearn.cluster`, and pass its
checks. Rows are NumPy arrays, data frames of pandas or polars, or arrays and data frames of Dask.
Results about Dask rows are lazy Dask arrays::

    from dkmeans.sklearn import KMeans

    model = KMeans(n_clusters=8, random_state=0).fit(rows)
    model.labels_, model.cluster_centers_, model.predict(more_rows)

Fits run through `dkmeans.estimator`, so the result has the same bits on any cluster. As in
scikit-learn, a start converges by the shift of its centers, and first centers count as no row. A
fitted estimator holds its centers itself. This module needs the extra `sklearn`.
"""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self
from uuid import uuid4

import numpy as np

from dkmeans import estimator, storage
from dkmeans.config import AUTO, RunConfig
from dkmeans.convergence import ShiftTolerance
from dkmeans.data.arrays import array_chunks
from dkmeans.data.batches import Batch
from dkmeans.data.columns import Names
from dkmeans.data.dataset import Dataset
from dkmeans.data.points import as_array, as_dtype, has_masked, point_dtype
from dkmeans.data.sources.dask_array import is_dask_array
from dkmeans.data.sources.frames import is_dask_frame, rows_of
from dkmeans.distance import Centers, Distance
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.errors import (
    Invalid,
    InvalidData,
    InvalidType,
    check_integer,
    check_path,
    expected,
)
from dkmeans.executors import open_executor
from dkmeans.extras import needs
from dkmeans.initialization import KMEANS_PARALLEL, KMEANS_PLUS_PLUS, RANDOM
from dkmeans.lloyd import Rules, iterate
from dkmeans.loss import inertia
from dkmeans.partial_sums import accumulate
from dkmeans.prediction import lazy, per_chunk, stream
from dkmeans.sklearn_callbacks import CallbackSupportMixin, step_hooks, with_callbacks
from dkmeans.state import FloatArray, TrainState

with needs("dkmeans.sklearn", "sklearn"):
    from sklearn import get_config
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        ClusterMixin,
        TransformerMixin,
    )
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_is_fitted,
        validate_data,
    )

__all__ = ["KMeans", "MiniBatchKMeans"]

logger = logging.getLogger("dkmeans")

_REMEDY = "give another model_dir, or none, to begin anew"
# scikit-learn's names of initializations, and those of dkmeans.
_INITIALIZATIONS = {
    "k-means||": KMEANS_PARALLEL,
    "k-means++": KMEANS_PLUS_PLUS,
    "random": RANDOM,
}


class KMeans(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    BaseEstimator,
):
    """k-means as scikit-learn's estimator, on the threads of this process or a Dask cluster.

    Args:
        n_clusters: Number of clusters.
        init: `"k-means||"`, `"k-means++"`, `"random"`, a (k, d) array, or a function of `(X,
            n_clusters, random_state)` that returns one. The function gets the rows of the first
            batch.
        n_init: Number of starts, which are trained side by side; the best one is the result. If
            `init` is an array, other numbers than 1 are refused. `"auto"` is scikit-learn's choice:
            10 starts, or 3 of `MiniBatchKMeans`, if `init` is `"random"` or a function, and 1
            otherwise.
        max_iter: Largest number of iterations, or of epochs with `batch_size`.
        tol: A start has converged when the sum of the squared moves of its centers, in an iteration
            or in an epoch with `batch_size`, is at most `tol` times the mean variance of the
            columns, as in scikit-learn; here the variance counts weights too. It takes one more
            pass over the rows, except with `tol` = 0. For `"cosine"` no variance is computed:
            1 / d is used, the largest that rows of length one may have.
        metric: `"squared_euclidean"` or `"cosine"`.
        random_state: Seed: an integer, a `numpy.random.RandomState`, or None for a new seed.
        batch_size: Number of rows in a batch: the centers move after each batch, by running means.
            None trains on all rows in each iteration.
        empty_clusters: What happens to a center without rows: `"relocate"` moves it to the row that
            is farthest from its center, `"keep"` leaves it where it is, and `"error"` stops.
        model_dir: Path or URL of a directory for checkpoints. `fit` continues the model that it
            finds there, with a warning. None saves nothing; use it in searches, where each fit has
            other rows.
        client: The `distributed.Client` to run on; None: the active client, or the threads of this
            process if there is no active client. Clones share it, and pickles leave it out.
        backend: Backend of the workers, as in `dkmeans.RunConfig`.
        verbose: 1 shows the progress of `fit`, as `progress` of `dkmeans.RunConfig` does; 0 does
            not.

    Attributes:
        cluster_centers_: Centers, (k, d). For `"cosine"` they have length one, unless
            `batch_size` is given.
        labels_: Nearest center of each row, (n,) int64; a lazy Dask array for Dask rows.
        inertia_: Sum of the rows' distances to their nearest centers, each times the row's weight.
        n_iter_: Number of iterations, or of epochs with `batch_size`.
        n_features_in_: Number of columns.
        feature_names_in_: Names of the columns, if the rows of `fit` had names that are text.
    """

    # Number of starts from first centers that vary much, with n_init="auto".
    _automatic_starts = 10

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means||",
        n_init: int | Literal["auto"] = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        metric: str = "squared_euclidean",
        random_state: Any = None,
        batch_size: int | None = None,
        empty_clusters: str = EmptyClusters.RELOCATE.value,
        model_dir: str | os.PathLike[str] | None = None,
        client: Any = None,
        backend: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.metric = metric
        self.random_state = random_state
        self.batch_size = batch_size
        self.empty_clusters = empty_clusters
        self.model_dir = model_dir
        self.client = client
        self.backend = backend
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Train on the rows, and assign them to the centers.

        Callbacks (`set_callbacks`, scikit-learn 1.9 or newer) are notified of the fit and of each
        step: an iteration, or with `batch_size` a batch. They may stop it.

        Args:
            X: Rows, (n, d).
            y: Not used.
            sample_weight: Weights of the rows, (n,), finite and >= 0; None weighs each row one.

        Raises:
            ValueError: an argument, or a parameter of the estimator, cannot be used.
            TypeError: one has the wrong type.
            KeyboardInterrupt: after a checkpoint, if there is a `model_dir`.
        """
        self._check_parameters()
        rows = self._rows(X, reset=True)
        # A model in `model_dir` finds its columns by name in other tables.
        table = _table(rows, sample_weight).named(getattr(self, "feature_names_in_", None))
        self._check_fits(table)
        steps = self._steps_per_epoch(table.rows)
        max_steps = self.max_iter * steps
        with step_hooks(self, rows, sample_weight, max_steps) as hooks:
            with _directory(self.model_dir) as directory:
                engine = self._engine(directory, ShiftTolerance(self._tolerance(table), steps))
                if engine.step:
                    self._check_continues(engine, table.columns)
                    logger.warning(
                        "fit continues the model of step %d in %s, as if the rows were those of "
                        "before; init is not used, and random_state only to order the batches of "
                        "batch_size; %s (in a search, each fit would continue the one before)",
                        *(engine.step, directory, _REMEDY),
                    )
                batches = self._batches(table, engine)
                engine.train(lambda: batches, hooks=hooks, max_steps=max_steps)
                fit = engine.checkpoint().fit
            best = fit.starts[fit.best]
            self.n_iter_ = -(-best.steps // steps)
            self._keep(best.state)
            self._label(rows, table)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the nearest center of each row, (n,) int64; a lazy Dask array for Dask rows.

        Raises:
            ValueError: the estimator is not fitted, or the rows cannot be used.
        """
        return self._results(self._rows_to_predict(X), per_chunk.CLUSTER_INDEX)

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the distance of each row to every center, (n, k), in the dtype of the rows.

        As in scikit-learn, Euclidean distances are not squared. They have the precision of float32.

        Raises:
            ValueError: as `predict` does, or float32 cannot hold the squared distances of a row, or
                `set_output` asks for a data frame for Dask rows.
        """
        rows = self._rows_to_predict(X)
        own = getattr(self, "_sklearn_output_config", {}).get("transform")
        output = own or get_config()["transform_output"]
        if is_dask_array(rows) and output != "default":
            must = "'default' for Dask rows, whose distances are a lazy Dask array"
            raise Invalid(expected("set_output(transform=...)", must, output))
        distances = self._results(rows, per_chunk.ALL_DISTANCES)
        if self.metric == Distance.SQUARED_EUCLIDEAN:
            distances = np.sqrt(distances)
        return distances.astype(point_dtype(rows.dtype))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Return minus the sum of the distances of the rows to their nearest centers, by weight.

        As in scikit-learn, the sum is negative, so that the larger score is the better one.

        Args:
            X: Rows, (n, d).
            y: Not used.
            sample_weight: Weights of the rows, (n,), finite and >= 0; None weighs each row one.

        Raises:
            ValueError: as `predict` does.
        """
        return -self._inertia(_table(self._rows_to_predict(X), sample_weight))

    @property
    def _n_features_out(self) -> int:
        """Number of columns that `transform` returns; scikit-learn makes names for them."""
        return len(self.cluster_centers_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __sklearn_clone__(self) -> Self:
        # The copy has no client, as pickles have none: a connection cannot be copied.
        clone: Self = super(KMeans, copy.copy(self)).__sklearn_clone__()
        clone.client = self.client
        return clone

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {**state, "client": None}

    def _check_parameters(self) -> None:
        """Refuse parameters that cannot be used; `_engine` checks the others.

        Raises:
            Invalid: a value is not allowed.
            InvalidType: a value has the wrong type.
        """
        self._config()
        for name in ("n_clusters", "max_iter"):
            check_integer(name, getattr(self, name), 1)
        if not isinstance(self.verbose, bool | np.bool_):
            check_integer("verbose", self.verbose, 0)
        if isinstance(self.n_init, str) and self.n_init != "auto":
            raise Invalid(expected("n_init", "'auto' or an integer >= 1", self.n_init))
        if self.n_init != "auto":
            check_integer("n_init", self.n_init, 1)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, 1)
        tol: Any = self.tol
        if isinstance(tol, bool) or not isinstance(tol, float | int | np.integer | np.floating):
            raise InvalidType(expected("tol", "a number >= 0", tol))
        if not tol >= 0:
            raise Invalid(expected("tol", "a number >= 0", tol))
        if self.metric not in tuple(Distance):
            must = " or ".join(repr(str(distance)) for distance in Distance)
            raise Invalid(expected("metric", must, self.metric))
        if isinstance(self.init, str) and self.init not in _INITIALIZATIONS:
            must = f"{', '.join(map(repr, _INITIALIZATIONS))}, an array or a function"
            raise Invalid(expected("init", must, self.init))
        if isinstance(self.init, str) or callable(self.init):
            return
        init = as_array(self.init, "init")
        if init.ndim != 2 or init.shape[0] != self.n_clusters:
            must = f"an array (n_clusters = {self.n_clusters}, d), a name or a function"
            got = f"shape {init.shape}" if init.ndim else repr(self.init)
            raise Invalid(f"init must be {must}, got {got}")
        _check_centers("hold", init)
        if self._starts() != 1:
            must = "1 where init is an array, as all starts would be the same"
            raise Invalid(expected("n_init", must, self.n_init))

    def _starts(self) -> int:
        """Return the number of starts."""
        if self.n_init != "auto":
            return self.n_init
        varies = callable(self.init) or (isinstance(self.init, str) and self.init == "random")
        return self._automatic_starts if varies else 1

    def _check_fits(self, table: Dataset) -> None:
        """Refuse rows that are too few, or not as wide as given first centers."""
        rows = table.rows
        if rows is not None and rows < self.n_clusters:
            must = f"at least n_clusters = {self.n_clusters} rows"
            raise Invalid(f"X must have {must}, got n_samples = {rows}")
        if not (isinstance(self.init, str) or callable(self.init)):
            width = np.shape(self.init)[1]
            if width != table.width:
                raise Invalid(f"init must have the columns of X, {table.width}, got {width}")

    def _check_continues(self, engine: _Engine, columns: Names) -> None:
        """Refuse to continue a model in `model_dir` that other parameters or columns have made."""
        found = engine.checkpoint()
        its = found.settings
        if columns and its.columns and columns != its.columns:
            must = f"those of the model in model_dir, {list(its.columns)}, to continue it"
            raise Invalid(f"{expected('columns of X', must, list(columns))}; {_REMEDY}")
        for name, own, saved in (
            ("n_clusters", self.n_clusters, len(found.state.centers)),
            ("metric", str(self.metric), str(its.distance_metric)),
            ("n_init", self._starts(), len(found.fit.starts)),
        ):
            if own != saved:
                must = f"that of the model in model_dir, {saved!r}, to continue it"
                raise Invalid(f"{expected(name, must, own)}; {_REMEDY} ({engine.model_dir})")
        if its.use_mini_batch != (self.batch_size is not None):
            began = "mini-batches" if its.use_mini_batch else "full batches"
            raise Invalid(
                f"the model in model_dir must be continued with {began}, as it began; {_REMEDY} "
                f"({engine.model_dir})"
            )

    def _rows(self, given: Any, *, reset: bool) -> Any:
        """Return rows as a NumPy array or a Dask array.

        With `reset` the number and names of the columns are recorded, else they are compared.

        Raises:
            ValueError: the rows cannot be used, or have other columns than those of `fit`.
        """
        is_frame = is_dask_frame(given)
        if not (is_frame or is_dask_array(given)):
            if has_masked(given):  # scikit-learn ignores masks
                raise InvalidData("X must have no masked values; fill them first")
            dtypes = [np.float64, np.float32]
            return validate_data(self, given, reset=reset, dtype=dtypes, order="C")
        # scikit-learn needs only the columns' names: it gets an empty pandas frame with them.
        named = given.columns.to_frame().T.iloc[:0] if is_frame else given
        validate_data(self, named, reset=reset, skip_check_array=True)
        rows = rows_of(given, "X")[0] if is_frame else given
        if rows.ndim != 2:
            raise InvalidData(f"X must be 2-D (rows, columns), got shape {rows.shape}")
        if np.isnan(rows.shape[1]):
            must = "a known number of columns; X.compute_chunk_sizes() counts them"
            raise InvalidData(f"X must have {must}")
        if rows.dtype.kind == "c":
            raise InvalidData(f"X must hold real numbers, got dtype {rows.dtype}")
        # As `validate_data` does with rows in memory.
        return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)

    def _rows_to_predict(self, given: Any) -> Any:
        check_is_fitted(self)
        return self._rows(given, reset=False)

    def _seed(self) -> int | None:
        """Return the seed of the engine; None leaves it to the engine."""
        if self.random_state is None:
            return None
        try:
            random = check_random_state(self.random_state)
        except ValueError as error:
            must = "an integer from 0 to 2**32 - 1, a numpy.random.RandomState or None"
            raise Invalid(expected("random_state", must, self.random_state)) from error
        return int(random.randint(2**31 - 1))

    def _tolerance(self, table: Dataset) -> float:
        """Return the sum of squared moves up to which a start has converged."""
        if self.tol == 0:
            return 0.0
        if self.metric == Distance.COSINE:
            return float(self.tol) / table.width
        return float(self.tol) * self._variance(table)

    def _variance(self, table: Dataset) -> float:
        """Return the variance of a column, averaged over the columns, by weight.

        It is the loss of a single center, the mean of all rows, divided by the weight of all rows
        and by the number of columns.
        """
        zero = Centers(np.zeros((1, table.width)), Distance.SQUARED_EUCLIDEAN, self.backend)
        with open_executor(self.client) as executor:
            (sums,) = executor.map_reduce(accumulate, list(table.batches()), zero).totals
        loss = inertia(sums, replace(zero, values=sums.means))
        return loss / (_some_weight(float(sums.totals[0])) * table.width)

    def _steps_per_epoch(self, rows: int | None) -> int:
        return 1 if self.batch_size is None or rows is None else -(-rows // self.batch_size)

    def _batches(self, table: Dataset, engine: _Engine) -> Dataset:
        """Return the batches that the engine trains on, from its first step on."""
        if self.batch_size is None:
            return table
        # Seed 0 without a `random_state`: a continued fit must go on in the same order.
        shuffled = table.shuffle(engine.seed or 0)
        return shuffled.batch(self.batch_size).repeat().skip(engine.step)

    def _engine(self, model_dir: str, tolerance: ShiftTolerance) -> _Engine:
        """Return the estimator that trains, in a directory."""
        init, seed = self.init, self._seed()
        if isinstance(init, str):
            init = _INITIALIZATIONS[init]
        elif callable(init):
            # One generator for all starts: each draws other rows.
            init = partial(_call_init, init, check_random_state(seed))
        else:
            init = np.asarray(init)
        return _Engine(
            self.n_clusters,
            model_dir,
            initial_clusters=init,
            distance_metric=self.metric,
            seed=seed,
            use_mini_batch=self.batch_size is not None,
            # With the first, 2 + log k candidates at each pick, as in scikit-learn.
            kmeans_plus_plus_num_retries=1 + int(math.log(self.n_clusters)),
            config=self._config(),
            num_restarts=self._starts(),
            empty_clusters=self.empty_clusters,
            tolerance=tolerance,
        )

    def _config(self) -> RunConfig:
        progress = AUTO if self.verbose else None
        config = RunConfig(client=self.client, backend=self.backend, progress=progress)
        if self.model_dir is not None:
            return config
        # The place in memory is removed after the fit, and charts and checkpoints with it.
        return config.replace(save_summary_steps=None, save_checkpoints_secs=0)

    def _keep(self, state: TrainState) -> None:
        """Set the attributes of the fitted estimator that come from the state of a start."""
        self.cluster_centers_ = state.centers

    def _label(self, rows: Any, table: Dataset) -> None:
        """Set `labels_` and `inertia_`: the nearest centers of the rows, and the loss."""
        self.labels_ = self._results(rows, per_chunk.CLUSTER_INDEX)
        self.inertia_ = self._inertia(table)

    def _centers(self) -> Centers:
        return Centers(self.cluster_centers_, Distance(self.metric), self.backend)

    def _results(self, rows: Any, name: str) -> Any:
        """Return the result `name` of `per_chunk` for all rows: NumPy, or a lazy Dask array."""
        task = per_chunk.Task(self._centers(), (name,))
        if is_dask_array(rows):
            return lazy.of_array(rows, lazy.Block(task))
        with open_executor(self.client) as executor:
            return stream.gathered(array_chunks(rows, "X"), task, executor)[name]

    def _inertia(self, table: Dataset) -> float:
        """Return the sum of the distances of rows to their nearest centers."""
        with open_executor(self.client) as executor:
            batches = list(table.batches())
            (score,) = executor.map_reduce(per_chunk.score, batches, self._centers()).totals
        _some_weight(float(score.weight))
        return score.inertia


class MiniBatchKMeans(KMeans):
    """k-means on batches of the rows, in random order; for data that arrives in parts as well.

    The parameters and attributes are those of `KMeans`, with other defaults. `partial_fit` takes
    one step.
    """

    _automatic_starts = 3

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means||",
        n_init: int | Literal["auto"] = 1,
        max_iter: int = 10,
        tol: float = 1e-4,
        metric: str = "squared_euclidean",
        random_state: Any = None,
        batch_size: int = 1024,
        empty_clusters: str = EmptyClusters.RELOCATE.value,
        model_dir: str | os.PathLike[str] | None = None,
        client: Any = None,
        backend: str | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            n_clusters,
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            metric=metric,
            random_state=random_state,
            batch_size=batch_size,
            empty_clusters=empty_clusters,
            model_dir=model_dir,
            client=client,
            backend=backend,
            verbose=verbose,
        )

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Take one step with the rows as one batch; the first call finds the first centers in them.

        There is a single start, whatever `n_init` is. The estimator holds the state between the
        calls, and after `fit`: pickle the estimator to keep it.

        Args:
            X: Rows, (n, d).
            y: Not used.
            sample_weight: Weights of the rows, (n,), finite and >= 0; None weighs each row one.

        Raises:
            ValueError: an argument, or a parameter of the estimator, cannot be used.
            TypeError: one has the wrong type.
        """
        self._check_parameters()
        if self.model_dir is not None:
            must = "None for partial_fit, which saves no checkpoints"
            raise Invalid(expected("model_dir", must, self.model_dir))
        state: TrainState | None = getattr(self, "_state", None)
        rows = self._rows(X, reset=state is None)
        if state is not None:
            rows = self._continuing(rows, state)
            if not np.array_equal(self.cluster_centers_, state.centers):
                state = replace(state, centers=self._assigned(state.centers), means=None)
        table = _table(rows, sample_weight)
        (batch,) = table.batches()
        engine = self._engine("memory://", ShiftTolerance(0.0))
        with open_executor(self.client) as executor:
            if state is None:
                self._check_fits(table)
                state = engine.first_state(batch, executor)
            (((state,), _),) = iterate([state], [batch], engine.rules, executor)
        self._keep(state)
        self._label(rows, table)
        return self

    def _assigned(self, before: FloatArray) -> FloatArray:
        """Return the centers that the user has assigned to `cluster_centers_`, as a copy.

        Raises:
            ValueError: they are not finite numbers, or have another shape than those before.
        """
        centers = as_array(self.cluster_centers_, "cluster_centers_")
        if centers.shape != before.shape or centers.dtype.kind not in "biuf":
            must = f"an array of numbers {before.shape}"
            raise Invalid(f"cluster_centers_ must be {must}, got {centers.shape} {centers.dtype}")
        if not np.isfinite(centers).all():
            raise Invalid("cluster_centers_ must be finite, got NaN or infinity")
        return as_dtype(centers, before.dtype, "cluster_centers_").copy()

    def _continuing(self, rows: Any, state: TrainState) -> Any:
        """Return rows in the dtype of the centers.

        Raises:
            Invalid: `n_clusters` or `metric` has been changed since the first call.
            InvalidData: a number is too large for the dtype.
        """
        if len(state.centers) != self.n_clusters:
            must = f"{len(state.centers)}, as at the first call; a clone begins anew"
            raise Invalid(expected("n_clusters", must, self.n_clusters))
        if self._metric != self.metric:
            must = f"{self._metric!r}, as at the first call; a clone begins anew"
            raise Invalid(expected("metric", must, self.metric))
        dtype = state.centers.dtype
        # Dask rows are converted when they are computed.
        return rows.astype(dtype) if is_dask_array(rows) else as_dtype(rows, dtype, "X")

    def _keep(self, state: TrainState) -> None:
        super()._keep(state)
        # The epoch of a fit has ended: `partial_fit` has none.
        # A copy: the user may write to `cluster_centers_`, which `partial_fit` looks for.
        self._state = replace(state, centers=state.centers.copy(), epoch_centers=None)
        self._metric = self.metric

    def _check_parameters(self) -> None:
        check_integer("batch_size", self.batch_size, 1)
        super()._check_parameters()


class _Engine(estimator.KMeans):
    """The estimator that trains, with the parts of it that scikit-learn's interface needs."""

    # As in scikit-learn, first centers count as no row: weights may have any scale.
    _counts_first = False

    def __init__(self, *arguments: Any, tolerance: ShiftTolerance, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._shift_tolerance = tolerance

    @property
    def seed(self) -> int | None:
        """Seed of the random generator."""
        return self._initialization.seed

    @property
    def step(self) -> int:
        """Step of the latest checkpoint; 0 if there is none."""
        return self.checkpoint().state.step if self.latest_checkpoint() else 0

    @property
    def rules(self) -> Rules:
        """Rules by which centers are computed."""
        computation = self._initialization.computation
        return Rules(computation, self._settings.schedule, self._empty_clusters)

    def first_state(self, batch: Batch, executor: Any) -> TrainState:
        """Return the state with the first centers, found in a batch."""
        centers, _ = self._initialization.find(iter([batch]), batch.rows, executor)
        return TrainState(
            centers, np.full(len(centers), self._settings.schedule.first_count, np.int64)
        )


@contextmanager
def _directory(model_dir: str | os.PathLike[str] | None) -> Iterator[str]:
    """Yield the directory of a fit; without one, a place in memory, which is cleared at the end."""
    if model_dir is not None:
        yield check_path("model_dir", model_dir)
        return
    address = f"memory://dkmeans-{uuid4().hex}"
    try:
        yield address
    finally:
        storage.remove(address)


def _call_init(function: Callable[..., Any], random: Any, rows: Any, clusters: int) -> Any:
    """Return the centers of a function with the arguments that scikit-learn passes."""
    centers = function(rows, clusters, random_state=random)
    shape = clusters, rows.shape[1]
    if np.shape(centers) != shape:
        raise Invalid(f"init must return an array {shape}, got shape {np.shape(centers)}")
    _check_centers("return", np.asarray(centers))
    return centers


def _check_centers(verb: str, centers: np.ndarray) -> None:
    """Refuse first centers that are not finite real numbers; the verb says what `init` does."""
    if centers.dtype.kind not in "biuf":
        raise InvalidType(f"init must {verb} real numbers, got dtype {centers.dtype}")
    if not np.isfinite(centers).all():
        raise Invalid(f"init must {verb} finite numbers, got NaN or infinity")


def _some_weight(total: float) -> float:
    """Return the weight of all rows; refuse 0, which weights of Dask rows may add up to."""
    if not total:
        raise InvalidData("sample_weight must not be zero for all rows")
    return total


def _table(rows: Any, weights: Any) -> Dataset:
    """Return rows as a table to train or score on, with their weights if there are any.

    Weights of rows in memory are left out if all are one: as in scikit-learn, the result is that of
    rows without weights.

    Raises:
        ValueError: the weights cannot be used.
    """
    if has_masked(weights):
        raise InvalidData("sample_weight must have no masked values; fill them first")
    if weights is not None and not is_dask_array(rows):
        checked = _check_sample_weight(weights, rows, ensure_non_negative=True)
        weights = None if (checked == 1).all() else checked
    return Dataset.from_array(rows, weights)
