"""Inputs of an exported model: their names, widths and dtypes.

`dkmeans.model` calls `as_receiver` with the user's `serving_input_receiver_fn`, and the SavedModel
asks the receiver for its inputs. An estimator's receiver function in TensorFlow returns nodes of a
graph. Here it returns arrays, of which only names, shapes and dtypes are used.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dkmeans.data.columns import KnownColumns, Names
from dkmeans.data.points import as_array
from dkmeans.errors import Invalid, InvalidData, InvalidType, counted, expected

# TensorFlow's name for an input without a name.
_UNNAMED = "input"
# NumPy's kinds of dtype: floats, signed and unsigned integers, booleans.
_NUMERIC_KINDS = "fiub"


@dataclass(frozen=True, slots=True)
class Input:
    """One input of an exported model, for any number of rows.

    Attributes:
        name: Name of the input for callers.
        width: Number of columns, for input of shape (n, width); None: the shape is (n,).
        dtype: Dtype of the input.
    """

    name: str
    width: int | None
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True, eq=False)
class ServingInputReceiver:
    """Result of a `serving_input_receiver_fn`: example rows, as an `input_fn` returns them.

    Only names, widths and dtypes of the arrays are used. The arrays may have no rows, as
    `np.empty((0, 2), np.float32)`.

    Attributes:
        features: An array (n, d), or a dict of columns, each (n,) or (n, w).
        receiver_tensors: The same arrays in a dict, by the names that callers use, or the single
            array itself. Without a dict the names are those of `features`, and `input` for a single
            array.
    """

    features: Any
    receiver_tensors: Any = None

    def inputs(self, columns: Names = None) -> tuple[Input, ...]:
        """Return the inputs, in the order in which their columns form a row.

        Args:
            columns: Names of the columns of the model, in order; None if it has none.

        Raises:
            InvalidType: an array is not of numbers.
            InvalidData: an array has no columns, or a wrong shape, or the arrays are not the
                columns of the model.
            Invalid: the names do not fit the arrays.
        """
        features = self.features
        if not isinstance(features, Mapping):
            # A single name cannot collide with another, so names are checked only below.
            return (_input(self._names({_UNNAMED: features})[_UNNAMED], features, least_ndim=2),)
        if not features:
            raise InvalidData("features must have at least one column, got an empty dict")
        if not all(isinstance(key, str) for key in features):
            raise InvalidType(expected("the names in features", "str", list(features)))
        names = self._names(features)
        _check_names(names.values())
        # Sorted by key, as the columns of a dict are in training.
        keys = sorted(features)
        chosen = KnownColumns(columns).chosen(keys, "features") or keys
        return tuple(_input(names[key], features[key]) for key in chosen)

    def _names(self, features: Mapping[str, Any]) -> dict[str, str]:
        """Return the callers' name of each array, by its key in `features`."""
        tensors = self.receiver_tensors
        if tensors is None or any(tensors is array for array in features.values()):
            return {key: str(key) for key in features}  # None or the array itself, without a dict
        if not isinstance(tensors, Mapping):
            must = "a dict of the arrays in features, or None"
            raise InvalidType(expected("receiver_tensors", must, tensors))
        # By identity: equal arrays (all without rows) are different inputs.
        candidates = {
            key: [str(name) for name, other in tensors.items() if other is array]
            for key, array in features.items()
        }
        if len(tensors) != len(candidates) or any(len(names) != 1 for names in candidates.values()):
            wrong = next((key for key, names in candidates.items() if len(names) != 1), None)
            which = "the array" if wrong == _UNNAMED else repr(wrong)
            detail = "" if wrong is None else f", and for {which} {candidates[wrong] or 'none'}"
            raise Invalid(
                "receiver_tensors must have one name for each array in features, which must "
                "be different arrays, and give the same arrays (copies are others), as no code "
                "runs between them; "
                f"got {', '.join(map(repr, tensors))}{detail}"
            )
        return {key: names[0] for key, names in candidates.items()}


def as_receiver(function: Callable[[], Any] | None, name: str) -> ServingInputReceiver:
    """Call the function of the argument `name`; make a receiver of the rows if it returns rows.

    Raises:
        Invalid: the function is None.
        InvalidType: the argument is not a function.
    """
    if function is None:
        raise Invalid(f"{name} must be defined: a function that returns rows, got None")
    if not callable(function):
        raise InvalidType(expected(name, "a function that returns rows", function))
    result = function()
    # An input_fn may return (features, None).
    if isinstance(result, tuple) and len(result) == 2 and result[1] is None:
        result = result[0]
    if isinstance(result, ServingInputReceiver):
        return result
    return ServingInputReceiver(result)


def _check_names(names: Iterable[str]) -> None:
    """Refuse names that TensorFlow cannot tell apart or that are keywords of Python.

    TensorFlow makes a function of each signature and replaces characters such as spaces by `_`.

    Raises:
        Invalid: a name cannot be a parameter, or two names become the same parameter.
    """
    parameters = [re.sub(r"\W", "_", name) for name in names]
    wrong = [name for name in parameters if not name or keyword.iskeyword(name)]
    wrong += [name for name in parameters if parameters.count(name) > 1]
    if wrong:
        raise Invalid(
            f"names of inputs must differ as parameters of a function, got {wrong[0]!r}, which "
            "TensorFlow would not load; give others by receiver_tensors"
        )


def check_input_width(inputs: tuple[Input, ...], width: int) -> None:
    """Refuse inputs that do not have `width` columns together.

    Raises:
        InvalidData: the inputs have more or fewer columns.
    """
    # An input of shape (n,) is one column.
    got = sum(each.width or 1 for each in inputs)
    if got != width:
        raise InvalidData(
            f"features must have {counted(width, 'column')}, as the model has, got {got}"
        )


def _input(name: str, values: Any, least_ndim: int = 1) -> Input:
    """Return the input of an example array.

    Raises:
        InvalidType: the array is not of numbers.
        InvalidData: the shape is wrong.
    """
    array = as_array(values, name)
    if array.dtype == object:
        raise InvalidType(f"{name} must be an array of numbers, got {type(values).__name__}")
    # TensorFlow has no floats of more than 8 bytes.
    if array.dtype.kind not in _NUMERIC_KINDS or array.dtype.itemsize > 8:
        raise InvalidType(f"{name} must hold numbers, got dtype {array.dtype}")
    if not least_ndim <= array.ndim <= 2:
        shapes = "(n, d)" if least_ndim == 2 else "(n,) or (n, w)"
        raise InvalidData(f"{name} must have the shape {shapes}, got {array.shape}")
    if 0 in array.shape[1:]:
        raise InvalidData(f"{name} must have columns, got the shape {array.shape}")
    return Input(name, int(array.shape[1]) if array.ndim == 2 else None, array.dtype)
