"""What an exported model is given: its inputs, by name, width and dtype."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dkmeans.data.points import as_array
from dkmeans.errors import Invalid, InvalidData, InvalidType, expected

# What TensorFlow calls an input that nobody has named.
_UNNAMED = "input"
_KINDS = "fiub"


@dataclass(frozen=True, slots=True)
class Input:
    """One input: as many rows as are given, each with these columns.

    Attributes:
        name: What callers name it by.
        width: How many numbers a row has; None: one, and rows are given as (n,).
        dtype: Their dtype.
    """

    name: str
    width: int | None
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True, eq=False)
class ServingInputReceiver:
    """What a `serving_input_receiver_fn` returns: rows as an `input_fn` returns them.

    Only their names, widths and dtypes count; there may be none: `np.empty((0, 2), np.float32)`.

    Attributes:
        features: An array (n, d), or a dict of columns, (n,) or (n, w).
        receiver_tensors: Their names to callers: a dict of the same arrays. None: the dict's own
            names; an array is called `input`.
    """

    features: Any
    receiver_tensors: Any = None

    def inputs(self) -> tuple[Input, ...]:
        """The inputs, in the order in which their columns make a row.

        Raises:
            TypeError: they are no arrays of numbers; ValueError: they have no columns, or names of
                other arrays.
        """
        features = self.features
        if not isinstance(features, Mapping):
            return (_input(self._names({_UNNAMED: features})[_UNNAMED], features, least=2),)
        if not features:
            raise InvalidData("features must have at least one column, got an empty dict")
        if not all(isinstance(key, str) for key in features):
            raise InvalidType(expected("the names in features", "str", list(features)))
        names = self._names(features)
        _check_names(names.values())
        return tuple(_input(names[key], features[key]) for key in sorted(features))

    def _names(self, features: Mapping[str, Any]) -> dict[str, str]:
        """What callers name each array by."""
        named = self.receiver_tensors
        if named is None or any(named is array for array in features.values()):
            return {key: str(key) for key in features}
        if not isinstance(named, Mapping):
            must = "a dict of the arrays in features, or None"
            raise InvalidType(expected("receiver_tensors", must, named))
        found = {
            key: [str(name) for name, other in named.items() if other is array]
            for key, array in features.items()
        }
        if len(named) != len(found) or any(len(names) != 1 for names in found.values()):
            wrong = next((key for key, names in found.items() if len(names) != 1), None)
            lost = f", and for {wrong!r} {found[wrong] or 'none'}" if wrong is not None else ""
            raise Invalid(
                "receiver_tensors must have one name for each array in features, which must be "
                "different arrays, as no code runs between them; "
                f"got {', '.join(map(repr, named))}{lost}"
            )
        return {key: names[0] for key, names in found.items()}


def as_receiver(function: Callable[[], Any] | None, name: str) -> ServingInputReceiver:
    """Call an input receiver function, or take the rows that it returns as one's features.

    Raises:
        ValueError: it is None; TypeError: it is no function.
    """
    if function is None:
        raise Invalid(f"{name} must be defined: a function that returns rows, got None")
    if not callable(function):
        raise InvalidType(expected(name, "a function that returns rows", function))
    given = function()
    if isinstance(given, tuple) and len(given) == 2 and given[1] is None:  # as of an input_fn
        given = given[0]
    if isinstance(given, ServingInputReceiver):
        return given
    return ServingInputReceiver(given)


def _check_names(names: Iterable[str]) -> None:
    """Refuse names that TensorFlow makes no different parameters of.

    Raises:
        Invalid: some are no parameters, or become the same.
    """
    parameters = [re.sub(r"\W", "_", name) for name in names]
    wrong = [name for name in parameters if not name or keyword.iskeyword(name)]
    wrong += [name for name in parameters if parameters.count(name) > 1]
    if wrong:
        raise Invalid(
            f"names of inputs must differ as parameters of a function, got {wrong[0]!r}, which "
            "TensorFlow would not load; give others by receiver_tensors"
        )


def check_width(inputs: tuple[Input, ...], width: int) -> None:
    """Refuse inputs that do not make rows of a width.

    Raises:
        InvalidData: they make others; the text has both numbers.
    """
    got = sum(each.width or 1 for each in inputs)
    if got != width:
        raise InvalidData(f"features must have {width} columns, as the model has, got {got}")


def _input(name: str, values: Any, least: int = 1) -> Input:
    array = as_array(values, name)
    if array.dtype == object:
        raise InvalidType(f"{name} must be an array of numbers, got {type(values).__name__}")
    if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
        raise InvalidType(f"{name} must hold numbers, got dtype {array.dtype}")
    if not least <= array.ndim <= 2:
        shapes = "(n, d)" if least == 2 else "(n,) or (n, w)"
        raise InvalidData(f"{name} must have the shape {shapes}, got {array.shape}")
    if 0 in array.shape[1:]:
        raise InvalidData(f"{name} must have columns, got the shape {array.shape}")
    return Input(name, int(array.shape[1]) if array.ndim == 2 else None, array.dtype)
