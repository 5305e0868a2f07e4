"""A trained model in its directory: checkpoints, centers, variables and exports.

`Model` is the part of `KMeans` that needs no rows. The estimator inherits from it, and jobs that
only read a model use it alone. The checkpoint that was loaded or saved last is held in memory if it
is small, and used as long as it is the latest one of the directory.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from dkmeans import checkpoints, pictures, storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.errors import (
    Invalid,
    InvalidCheckpoint,
    InvalidData,
    InvalidType,
    Outage,
    check_path,
    counted,
    expected,
)
from dkmeans.exports import ServingInputReceiver, as_receiver, directories
from dkmeans.extras import needs
from dkmeans.feature_columns.layout import Layout
from dkmeans.history import losses_of_iterations, read_history, table_of
from dkmeans.modes import ModeKeys, check_mode
from dkmeans.plots import ModelPlots
from dkmeans.retry import first_line
from dkmeans.state import TrainState

ReceiverFn = Callable[[], Any]

# File in a directory of several models that `dkmeans.sweep` has trained.
SWEEP_PLAN = "sweep-plan.json"
# Checkpoints whose centers are larger are read for each call, which then takes longer anyway.
_MOST_HELD_BYTES = 2**25


@contextmanager
def naming_shutdown() -> Iterator[None]:
    """Explain the `RuntimeError` that thread pools raise after the main thread has ended.

    Raises:
        Invalid: the main thread has ended before the calling thread.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error) is not RuntimeError or threading.main_thread().is_alive():
            raise
        raise Invalid(
            "the main thread must wait for a thread that uses KMeans (Thread.join), and has ended "
            "before; the last checkpoint stands"
        ) from error


class Model:
    """Trained model in a directory.

    The documented variables are `clusters`, `global_step` and others of mini-batch training
    (`get_variable_names`).

    Args:
        model_dir: Path or URL of the model's directory.
    """

    CLUSTER_CENTERS_VAR_NAME = "clusters"

    # Layout of the feature columns that make rows; None for none. It cannot be exported.
    _layout: Layout | None = None

    def __init__(self, model_dir: str) -> None:
        # Absolute: the program may change its working directory later.
        self._model_dir = storage.absolute(model_dir)
        self._loaded: Checkpoint | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    @property
    def model_dir(self) -> str:
        """Path or URL of the model's directory."""
        return self._model_dir

    def _repr_html_(self) -> str:
        """Return the parameters and the state of the model, with pictures, for a notebook."""
        title = type(self).__name__
        try:
            checkpoint, history = self.checkpoint(), self.history
        except (Invalid, Outage, *storage.WRITE_ERRORS) as error:
            return pictures.table(title, {**self._parameters(), "state": first_line(error)})
        state = checkpoint.state
        facts = {
            **self._parameters(),
            "clusters": f"{len(state.centers):,}",
            "columns": f"{state.centers.shape[1]:,}",
            "distance": checkpoint.settings.distance_metric,
            "step": f"{state.step:,}",
            "loss": None if state.inertia is None else f"{state.inertia:.6g}",
            "stopped": checkpoint.stop.reason.value if checkpoint.stop else None,
            "clusters without rows": state.empty_clusters or None,
            "checkpoint": checkpoint.address,
        }
        steps = checkpoint.settings.schedule.steps_per_iteration
        losses = losses_of_iterations(history, steps)[1]
        return pictures.table(title, facts, _pictures(state, losses))

    def _parameters(self) -> dict[str, object]:
        """Return the parameters that the directory does not hold, by name, for people."""
        return {}

    @naming_shutdown()
    def checkpoint(self, path: str | os.PathLike[str] | None = None) -> Checkpoint:
        """Load a checkpoint.

        Args:
            path: Path or URL of the checkpoint, or its name in the model's directory; None: the
                latest of the model.

        Raises:
            InvalidCheckpoint: there is no checkpoint, or it is damaged.
        """
        if path is not None:
            path = check_path("checkpoint_path", path)
            return checkpoints.load(checkpoints.address_of(self.model_dir, path))
        latest = checkpoints.latest(self.model_dir, self._loaded)
        if latest is None:
            raise InvalidCheckpoint(
                f"Could not find trained model in model_dir: {self.model_dir}.{self._remedy()}"
            )
        self._hold(latest)
        return latest

    def _remedy(self) -> str:
        """Return where the models are, if the directory holds a sweep; otherwise nothing."""
        if storage.read(storage.join(self.model_dir, SWEEP_PLAN)) is None:
            return ""
        model = storage.join(self.model_dir, "kN")
        return f" It holds a sweep: give the directory of one of its models, {model} for N clusters"

    def _hold(self, checkpoint: Checkpoint | None) -> None:
        """Hold a checkpoint in memory for later calls, if it is small; else hold none."""
        starts = checkpoint.fit.starts if checkpoint else ()
        size = sum(start.state.centers.nbytes for start in starts)
        self._loaded = checkpoint if size <= _MOST_HELD_BYTES else None

    def latest_checkpoint(self) -> str | None:
        """Return the full path or URL of the latest checkpoint; None if there is none."""
        name = checkpoints.Manifest.read(self.model_dir).latest
        return storage.join(self.model_dir, name) if name else None

    @property
    def history(self) -> dict[str, npt.NDArray[Any]]:
        """Numbers of the iterations up to the latest checkpoint, one column for each name.

        Columns are `step`, `loss`, `change`, `rows`, `seconds`, `empty_clusters`, `time` and
        others; `pandas.DataFrame(model.history)` makes a table. A call that ends within an
        iteration adds a line for its steps. Of a history larger than 5 MB,
        some 10,000 iterations, every second one is dropped. It is empty before the first iteration.
        """
        return table_of(read_history(self.model_dir))

    @property
    def plot(self) -> ModelPlots:
        """Plots through matplotlib (extra `plot`): `loss`, `sizes` and `centers`."""
        return ModelPlots(self)

    def eval_dir(self, name: str | None = None) -> str:
        """Return the directory of the evaluations of this name. It is not created here."""
        return storage.join(self.model_dir, f"eval_{name}" if name else "eval")

    def evaluation_file(self, step: int, name: str | None = None) -> str:
        """Return the address of the file with the result of an evaluation at a step."""
        return storage.join(self.eval_dir(name), f"evaluation-{step:08d}.json")

    def cluster_centers(self) -> npt.NDArray[Any]:
        """Return the (k, d) centers of the latest checkpoint, in the units that distances use.

        If the model standardizes rows, its centers are standardized too
        (`centers_in_original_units` returns them in the units of the given rows).

        Raises:
            ValueError: there is no checkpoint.
        """
        centers: npt.NDArray[Any] = self.get_variable_value(self.CLUSTER_CENTERS_VAR_NAME)
        return centers

    def centers_in_original_units(self) -> npt.NDArray[Any]:
        """Return the (k, d) centers in the units of the rows that users give.

        They differ from `cluster_centers` where rows are standardized (`Dataset.standardize`): each
        center is multiplied by the deviations, and the means are added. For the cosine distance
        they are points in the direction of the centers, seen from the means.

        Raises:
            ValueError: there is no checkpoint.
        """
        centers: npt.NDArray[Any] = self.checkpoint().original_centers
        return centers

    def get_variable_names(self) -> list[str]:
        """Return the names of the variables of the latest checkpoint, sorted.

        Raises:
            ValueError: there is no checkpoint.
        """
        return list(self.checkpoint().variables())

    def get_variable_value(self, name: str | Sequence[str]) -> Any:
        """Return the value of a variable of the latest checkpoint.

        Args:
            name: Name of the variable, as in `get_variable_names` or followed by `:0`; or a list of
                names.

        Returns:
            A NumPy array or scalar; for a list of names, a dict of them.

        Raises:
            ValueError: there is no checkpoint, or no such variable.
            TypeError: it is no name and no list of names.
        """
        variables = self.checkpoint().variables()
        is_list = isinstance(name, Iterable) and not isinstance(name, str)
        names: list[Any] = list(name) if is_list else [name]
        if not all(isinstance(n, str) for n in names):
            raise InvalidType(expected("name", "a name or a list of names", name))
        # In TensorFlow, `clusters:0` is the tensor of the variable `clusters`.
        unknown = [n for n in names if n.removesuffix(":0") not in variables]
        if unknown:
            raise Invalid(f"name must be one of {', '.join(variables)}, got {unknown[0]!r}")
        values = {n: variables[n.removesuffix(":0")] for n in names}
        return values[name] if isinstance(name, str) else values

    def export_saved_model(
        self,
        export_dir_base: str | bytes | os.PathLike[str],
        serving_input_receiver_fn: ReceiverFn | None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
        experimental_mode: str = ModeKeys.PREDICT,
    ) -> bytes:
        """Write a SavedModel that TensorFlow and its servers load.

        For prediction, the signatures are `serving_default` and `cluster_index`, (n,) int64, and
        `all_distances`, (n, k) float32. Each has one output named `output`, with the values that
        `predict` returns.

        Args:
            export_dir_base: Path or URL of a base directory. The model is written to a new
                directory below it, named by the time, which appears when it is complete.
            serving_input_receiver_fn: Function that returns rows as an `input_fn` does, or a
                `ServingInputReceiver`. Only names, widths and dtypes of the arrays are used.
            assets_extra: Files to copy: for each name below `assets.extra`, a path or URL.
            as_text: Write the graph as text.
            checkpoint_path: The checkpoint to export; None: the latest.
            experimental_mode: The mode, one of `ModeKeys`. For training and evaluation there is
                one signature, with the loss and the predictions of the rows. It trains nothing.

        Returns:
            Path or URL of the new directory, encoded.

        Raises:
            ValueError: there is no checkpoint or no function, the rows do not fit the model, the
                mode is unknown, or an asset does not exist.
            TypeError: an argument has the wrong type.
        """
        mode = check_mode("experimental_mode", experimental_mode)
        receivers = {mode: self._receiver(serving_input_receiver_fn, "serving_input_receiver_fn")}
        return self._export(export_dir_base, receivers, assets_extra, as_text, checkpoint_path)

    def export_savedmodel(
        self,
        export_dir_base: str | bytes | os.PathLike[str],
        serving_input_receiver_fn: ReceiverFn | None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
        strip_default_attrs: bool = False,
    ) -> bytes:
        """Write a SavedModel, as `export_saved_model` does: the deprecated name of that method.

        `strip_default_attrs` changes nothing: default attributes are always stripped.
        """
        warnings.warn(
            "export_savedmodel is deprecated: call export_saved_model",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.export_saved_model(
            export_dir_base, serving_input_receiver_fn, assets_extra, as_text, checkpoint_path
        )

    def experimental_export_all_saved_models(
        self,
        export_dir_base: str | bytes | os.PathLike[str],
        input_receiver_fn_map: Mapping[str, ReceiverFn],
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
    ) -> bytes:
        """Write a SavedModel with a graph for each of several modes.

        Args:
            export_dir_base: As in `export_saved_model`.
            input_receiver_fn_map: For each mode, one of `ModeKeys`, a function as in
                `export_saved_model`.
            assets_extra: As in `export_saved_model`.
            as_text: As in `export_saved_model`.
            checkpoint_path: As in `export_saved_model`.

        Returns:
            Path or URL of the new directory, encoded.

        Raises:
            ValueError: as `export_saved_model` does, or there are no modes.
            TypeError: an argument has the wrong type.
        """
        given: Any = input_receiver_fn_map
        if not isinstance(given, Mapping):
            must = "a dict of modes and functions"
            raise InvalidType(expected("input_receiver_fn_map", must, given))
        if not given:
            raise Invalid("input_receiver_fn_map must have at least one mode, got none")
        receivers = {
            check_mode("a mode of input_receiver_fn_map", mode): self._receiver(
                function, f"input_receiver_fn_map[{str(mode)!r}]"
            )
            for mode, function in given.items()
        }
        return self._export(export_dir_base, receivers, assets_extra, as_text, checkpoint_path)

    def _export(
        self,
        base: str | bytes | os.PathLike[str],
        receivers: Mapping[ModeKeys, ServingInputReceiver],
        assets_extra: Mapping[str, str] | None,
        as_text: bool,
        checkpoint_path: str | None,
    ) -> bytes:
        """Write a SavedModel with a graph for each mode."""
        with needs("a SavedModel", "savedmodel"):
            from dkmeans.exports.savedmodel import files as saved_model  # noqa: PLC0415 an extra
        checkpoint = self.checkpoint(checkpoint_path)
        files = saved_model.files(checkpoint, receivers, as_text=as_text)
        # The model's own files come last: in an object store the last file completes the export.
        with_assets = {**directories.assets(assets_extra), **files}
        with directories.writable("export_dir_base", base) as address:
            return os.fsencode(directories.write(address, with_assets))

    def _receiver(self, function: ReceiverFn | None, name: str) -> ServingInputReceiver:
        """Return the receiver that a function returns.

        Raises:
            InvalidData: the function returns named columns, for feature columns.
        """
        receiver = as_receiver(function, name)
        if self._layout is not None and isinstance(receiver.features, Mapping):
            raise InvalidData(
                f"{name} must return the rows that feature_columns make, an array (n, d): they are "
                "not exported; got a dict of columns"
            )
        return receiver

    def export_onnx(self, path: str | os.PathLike[str], checkpoint_path: str | None = None) -> None:
        """Write an ONNX file that runtimes of other languages and devices load.

        The input is `rows`, (n, d) in the model's dtype. The outputs are `cluster_index`, (n,)
        int64, and `all_distances`, (n, k) float32.

        Args:
            path: Path or URL of the file, which appears when it is complete. An earlier export is
                replaced.
            checkpoint_path: The checkpoint to export; None: the latest.

        Raises:
            ValueError: there is no checkpoint, the file would be larger than 2 GiB, or the path
                cannot be written to or holds another file.
        """
        with needs("an ONNX file", "onnx"):
            from dkmeans.exports import onnx_model  # noqa: PLC0415 an extra
        data = onnx_model.model(self.checkpoint(checkpoint_path))
        directories.write_file("path", path, data, onnx_model.is_export)

    def to_sklearn(self, checkpoint_path: str | None = None) -> Any:
        """Return a fitted `sklearn.cluster.KMeans` with the model's centers.

        Where the model standardizes rows, return a pipeline that begins with a `StandardScaler`.
        For the cosine distance, return a pipeline of a `Normalizer` and a `KMeans`. Its `transform`
        returns Euclidean distances of rows of length one. Neither estimator has `labels_`. Only one
        whose centers no longer moved, in full batches, has `inertia_`: of other models the last
        loss is that of the centers before the last step.
        scikit-learn computes in the dtype of the rows, and loses digits where rows are far from 0.

        Args:
            checkpoint_path: The checkpoint with the centers; None: the latest.

        Raises:
            ValueError: there is no checkpoint.
        """
        with needs("to_sklearn", "sklearn"):
            from dkmeans.exports import sklearn_model  # noqa: PLC0415 an extra
        return sklearn_model.model(self.checkpoint(checkpoint_path))


def comparable(name: str, address: str, checkpoint: Checkpoint) -> Checkpoint:
    """Return the latest checkpoint of another model, or a checkpoint by its own address.

    Raises:
        InvalidCheckpoint: there is none, or its columns differ.
    """
    try:
        is_model = checkpoints.Manifest.read(address).latest is not None
        other = Model(address).checkpoint() if is_model else checkpoints.load(address)
    except Invalid as error:
        must = "the directory of a model, or a checkpoint"
        raise InvalidCheckpoint(f"{expected(name, must, address)}: {error}") from error
    own, others = (each.settings.columns for each in (checkpoint, other))
    if own is not None and others is not None and own != others:
        raise InvalidCheckpoint(
            f"{name} must be a model of the same columns, {list(own)}, got {list(others)}"
        )
    width, other_width = (each.state.centers.shape[1] for each in (checkpoint, other))
    if width != other_width:
        must = f"a model of {counted(width, 'column')}"
        raise InvalidCheckpoint(f"{name} must be {must}, got {other_width} ({address})")
    if checkpoint.settings.scaling != other.settings.scaling:
        raise InvalidCheckpoint(
            f"{name} must be a model whose rows are standardized by the same means and deviations, "
            f"or not at all, as those of this model: got another ({address})"
        )
    return other


def _pictures(state: TrainState, losses: npt.NDArray[Any]) -> Iterator[str]:
    """Yield the curve of the losses and the sizes of the clusters, as far as there are any."""
    if len(losses):
        span = f"{losses[0]:.4g} in the first, {losses[-1]:.4g} in the last"
        yield pictures.line(f"Loss of {counted(len(losses), 'iteration')}: {span}", losses)
    if state.inertia is not None:
        low, high = state.counts.min(), state.counts.max()
        sizes = f"{low:,} to {high:,} in a cluster"
        yield pictures.bars(
            f"Sizes of {counted(len(state.counts), 'cluster')}: {sizes}", state.counts
        )
