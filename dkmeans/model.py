"""A trained model, by its directory: all that can be asked of it without rows."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from dkmeans import checkpoints, storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.errors import Invalid, InvalidCheckpoint, InvalidData, InvalidType, expected
from dkmeans.exports import ServingInputReceiver, as_receiver, directories, needs
from dkmeans.modes import ModeKeys

Receive = Callable[[], Any]


class Model:
    """See the module's docstring.

    Args:
        model_dir: Path or URL of the model.
    """

    CLUSTER_CENTERS_VAR_NAME = "clusters"

    def __init__(self, model_dir: str) -> None:
        self._model_dir = model_dir

    @property
    def model_dir(self) -> str:
        """Path or URL of the model."""
        return self._model_dir

    @property
    def _has_feature_columns(self) -> bool:
        """Whether rows are made of others: those that make them would have to be exported too."""
        return False

    def checkpoint(self, path: str | os.PathLike[str] | None = None) -> Checkpoint:
        """A checkpoint; None: the latest.

        Raises:
            InvalidCheckpoint: there is none, or it is damaged.
        """
        if path:
            return checkpoints.load(os.fspath(path))
        found = checkpoints.latest(self.model_dir)
        if found is None:
            raise InvalidCheckpoint(f"Could not find trained model in model_dir: {self.model_dir}.")
        return found

    def latest_checkpoint(self) -> str | None:
        """The full path of the latest checkpoint, or None."""
        name = checkpoints.Manifest.read(self.model_dir).latest
        return storage.join(self.model_dir, name) if name else None

    def eval_dir(self, name: str | None = None) -> str:
        """The directory of evaluations of this name; not made by this call."""
        return storage.join(self.model_dir, f"eval_{name}" if name else "eval")

    def cluster_centers(self) -> npt.NDArray[Any]:
        """The (k, d) centers of the latest checkpoint.

        Raises:
            ValueError: there is none.
        """
        centers: npt.NDArray[Any] = self.get_variable_value(self.CLUSTER_CENTERS_VAR_NAME)
        return centers

    def get_variable_names(self) -> list[str]:
        """The names of what a checkpoint holds, sorted.

        Raises:
            ValueError: there is no checkpoint.
        """
        return list(self.checkpoint().variables())

    def get_variable_value(self, name: str | Sequence[str]) -> Any:
        """The value of a variable of the latest checkpoint; for a list of names, a dict.

        Raises:
            ValueError: there is no checkpoint, or no such variable.
        """
        variables = self.checkpoint().variables()
        names = [name] if isinstance(name, str) else list(name)
        unknown = [n for n in names if n.removesuffix(":0") not in variables]
        if unknown:
            raise Invalid(f"name must be one of {', '.join(variables)}, got {unknown[0]!r}")
        values = {n: variables[n.removesuffix(":0")] for n in names}
        return values[name] if isinstance(name, str) else values

    def export_saved_model(
        self,
        export_dir_base: str | os.PathLike[str],
        serving_input_receiver_fn: Receive | None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
        experimental_mode: str = ModeKeys.PREDICT,
    ) -> bytes:
        """Write a SavedModel that TensorFlow and its servers load.

        To predict, its signatures are `serving_default` and `cluster_index`, (n,) int64, and
        `all_distances`, (n, k) float32, each with one output, `output`: those of `predict`.

        Args:
            export_dir_base: Path or URL; the model is written to a new directory below, named by
                the time, which appears when it is whole.
            serving_input_receiver_fn: Returns rows as an `input_fn` does, or a
                `ServingInputReceiver` of them; only their names, widths and dtypes count.
            assets_extra: Files to put into `assets.extra`: their paths by their names there.
            as_text: Whether the graph is written as text.
            checkpoint_path: The checkpoint to export; None: the latest.
            experimental_mode: Which of `ModeKeys` it is for. To train and to evaluate, the one
                signature gives the loss and the predictions of the rows; nothing is trained.

        Returns:
            The directory's path or URL, encoded.

        Raises:
            ValueError: there is no checkpoint or no receiver, what it returns does not fit the
                model, the mode is none, or an asset is missing.
        """
        if not isinstance(experimental_mode, str):
            raise InvalidType(expected("experimental_mode", "a str", experimental_mode))
        receivers = {experimental_mode: serving_input_receiver_fn}
        rest = assets_extra, as_text, checkpoint_path
        return self._export(export_dir_base, receivers, "serving_input_receiver_fn", *rest)

    def export_savedmodel(
        self,
        export_dir_base: str | os.PathLike[str],
        serving_input_receiver_fn: Receive | None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
        strip_default_attrs: bool = True,
    ) -> bytes:
        """`export_saved_model`, by its deprecated name. Default attributes are always stripped."""
        warnings.warn(
            "export_savedmodel is deprecated: call export_saved_model",
            DeprecationWarning,
            stacklevel=2,
        )
        if not strip_default_attrs:
            raise Invalid(expected("strip_default_attrs", "True", strip_default_attrs))
        return self.export_saved_model(
            export_dir_base, serving_input_receiver_fn, assets_extra, as_text, checkpoint_path
        )

    def experimental_export_all_saved_models(
        self,
        export_dir_base: str | os.PathLike[str],
        input_receiver_fn_map: Mapping[str, Receive],
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
    ) -> bytes:
        """Write a SavedModel with a graph for each mode that is asked for.

        Args:
            export_dir_base: See `export_saved_model`.
            input_receiver_fn_map: For each of `ModeKeys` what its graph is given.
            assets_extra: See there.
            as_text: See there.
            checkpoint_path: See there.

        Raises:
            ValueError: as `export_saved_model` does, or there are no modes.
        """
        given: Any = input_receiver_fn_map
        if not isinstance(given, Mapping):
            must = "a dict of modes and functions"
            raise InvalidType(expected("input_receiver_fn_map", must, given))
        rest = assets_extra, as_text, checkpoint_path
        return self._export(export_dir_base, input_receiver_fn_map, "input_receiver_fn", *rest)

    def _export(
        self,
        base: str | os.PathLike[str],
        functions: Mapping[str, Receive | None],
        name: str,
        assets_extra: Mapping[str, str] | None,
        as_text: bool,
        checkpoint_path: str | None,
    ) -> bytes:
        with needs("a SavedModel", "savedmodel"):
            from dkmeans.exports.savedmodel import files as saved_model  # noqa: PLC0415 an extra
        if not functions or not set(functions) <= set(ModeKeys):
            must = ", ".join(repr(str(mode)) for mode in ModeKeys)
            got = ", ".join(map(repr, functions)) or "none"
            raise Invalid(f"modes to export must be among {must}, got {got}")
        checkpoint = self.checkpoint(checkpoint_path)
        receivers = {
            ModeKeys(each): self._receiver(given, name) for each, given in functions.items()
        }
        files = saved_model.files(checkpoint, receivers, as_text=as_text)
        whole = {**directories.assets(assets_extra), **files}
        with directories.writable("export_dir_base", base) as address:
            return os.fsencode(directories.write(address, whole))

    def _receiver(self, function: Receive | None, name: str) -> ServingInputReceiver:
        receiver = as_receiver(function, name)
        if self._has_feature_columns and isinstance(receiver.features, Mapping):
            raise InvalidData(
                f"{name} must return the rows that feature_columns make, an array (n, d): they are "
                "not exported; got a dict of columns"
            )
        return receiver

    def export_onnx(self, path: str | os.PathLike[str], checkpoint_path: str | None = None) -> None:
        """Write an ONNX file: `rows`, (n, d), become `cluster_index` and `all_distances`.

        Args:
            path: Path or URL of the file, which appears when it is whole.
            checkpoint_path: The checkpoint to export; None: the latest.

        Raises:
            ValueError: there is no checkpoint, or the file would be larger than 2 GiB.
        """
        with needs("an ONNX file", "onnx"):
            from dkmeans.exports import onnx_model  # noqa: PLC0415 an extra
        data = onnx_model.model(self.checkpoint(checkpoint_path))
        with directories.writable("path", path) as address:
            storage.write_whole(address, data)

    def to_sklearn(self, checkpoint_path: str | None = None) -> Any:
        """A fitted `sklearn.cluster.KMeans`, which computes in the rows' dtype and around zero.

        For cosine, a pipeline of a `Normalizer` and one: its `transform` gives the distances of
        rows of length one. Neither has `labels_`.

        Args:
            checkpoint_path: The checkpoint to take the centers of; None: the latest.

        Raises:
            ValueError: there is no checkpoint.
        """
        with needs("to_sklearn", "sklearn"):
            from dkmeans.exports import sklearn_model  # noqa: PLC0415 an extra
        return sklearn_model.model(self.checkpoint(checkpoint_path))
