"""Checks of the estimator's arguments.

`estimator` calls one function for each argument or group of arguments. Each function refuses values
that cannot be used, with a message that has the argument's name, the rule and the value.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dkmeans import storage
from dkmeans.data.points import as_array, as_float64, as_points
from dkmeans.errors import (
    Invalid,
    InvalidType,
    as_integer,
    check_integer,
    check_number,
    counted,
    expected,
)
from dkmeans.initialization import KMEANS_PARALLEL, NAMES, REPLACED

logger = logging.getLogger("dkmeans")

# Parameters of k-means|| with their defaults.
_OF_ROUNDS = {"oversampling": 1.0, "initialization_rounds": 3, "initialization_rows": None}

InitialClusters = str | npt.ArrayLike | Callable[[npt.NDArray[Any], int], npt.ArrayLike]


def check_steps(name: str, value: object) -> int | None:
    """Return a number of steps; refuse one that is not above zero. None is accepted.

    Raises:
        InvalidType: it is not an integer.
        Invalid: it is not above zero.
    """
    if value is None:
        return None
    number = as_integer(value)
    if number is None:
        raise InvalidType(expected(name, "an integer or None", value))
    if number <= 0:
        raise Invalid(f"Must specify {name} > 0, given: {number}")
    return number


def check_clusters(number: object, source: object) -> int:
    """Return the number of clusters: the number of centers, if `source` is an array of them.

    Raises:
        InvalidType: it is not an integer. None is accepted beside an array.
        Invalid: it is below one.
    """
    if isinstance(source, np.ndarray):
        given = len(source)
        if number is not None and check_integer("num_clusters", number, 1) != given:
            logger.warning(
                "num_clusters = %d is ignored: initial_clusters has %s",
                number,
                counted(given, "row"),
            )
        return given
    return check_integer("num_clusters", number, 1)


def check_tolerance(value: object) -> float | None:
    """Return a relative tolerance; refuse one below zero. None is accepted.

    Raises:
        InvalidType: it is not a number.
        Invalid: it is below zero.
    """
    check_number("relative_tolerance", value)
    if value is None:
        return None
    tolerance = float(cast(float, value))
    if not tolerance >= 0:
        raise Invalid(expected("relative_tolerance", ">= 0 or None", value))
    return tolerance


def check_initial_clusters(given: InitialClusters) -> Any:
    """Check the argument `initial_clusters`, and return it.

    Returns:
        A name or a function as it is; an array as a copy, (k, d), float32 or float64.

    Raises:
        Invalid: the name is unknown, or the array is empty, not 2-D or not finite.
        InvalidType: it is none of these, or the array does not hold real numbers.
    """
    must = f"{', '.join(map(repr, NAMES))}, a 2-D array, or a function"
    if given is None or (np.isscalar(given) and not isinstance(given, str)):
        raise InvalidType(expected("initial_clusters", must, given))
    if isinstance(given, str):
        if given in REPLACED:
            must += f"; {REPLACED[given]!r} has replaced {given!r}"
        if given not in NAMES:
            raise Invalid(expected("initial_clusters", must, given))
        return given
    if callable(given):
        return given
    values = as_array(given, "initial_clusters")
    # Integers that float32 may not hold: the rows, whose dtype the centers get, may be float64.
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2:
        values = as_float64(values, "initial_clusters")
    centers = as_points(values, "initial_clusters").copy()
    if 0 in centers.shape:
        raise Invalid(f"initial_clusters must have rows and columns, got shape {centers.shape}")
    if not np.isfinite(centers).all():
        raise Invalid("initial_clusters must be finite, got NaN or infinity")
    return centers


def check_predict_keys(given: object, names: list[str]) -> list[str]:
    """Return those of `names` that are asked for; all of them if none is asked for.

    Raises:
        InvalidType: it is neither a name, a list of names nor None.
        Invalid: none of the names is known.
    """
    if given is None:
        return names
    if not isinstance(given, Iterable):
        raise InvalidType(expected("predict_keys", "a name, a list of names or None", given))
    asked = [given] if isinstance(given, str) else list(given)
    # As the original does: no keys are all keys.
    found = [name for name in names if name in asked] if asked else names
    if not found:
        raise Invalid(expected("predict_keys", f"among {names}", asked))
    return found


def check_evaluation_name(name: object) -> None:
    """Refuse a name of an evaluation whose directory would not be one of the model.

    Raises:
        InvalidType: it is neither text nor None.
        Invalid: it leads out of the model's directory.
    """
    if name is not None and not isinstance(name, str):
        raise InvalidType(expected("name", "a str or None", name))
    if name and ("\0" in name or ".." in name.replace("\\", "/").split("/")):
        raise Invalid(expected("name", "a name without '..' or NUL", name))


def check_restarts(number: object, source: object) -> None:
    """Refuse a number of restarts below one, or above one if `source` is an array of centers.

    Raises:
        InvalidType: it is not an integer.
        Invalid: it is too small or too large.
    """
    check_integer("num_restarts", number, 1)
    if isinstance(source, np.ndarray) and number != 1:
        must = "1 where initial_clusters is an array, as all starts would be the same"
        raise Invalid(expected("num_restarts", must, number))


def check_rounds(oversampling: float, rounds: int, rows: int | None, source: object) -> None:
    """Refuse parameters of k-means|| that are not above zero. None is accepted for `rows`.

    A warning says which of them are ignored, because `source` is another one.

    Raises:
        InvalidType: a value is not a number, or not an integer where one is needed.
        Invalid: a number is not above zero, or `oversampling` is not finite.
    """
    must = "a finite number above zero"
    if isinstance(oversampling, bool) or not isinstance(oversampling, float | int | np.number):
        raise InvalidType(expected("oversampling", must, oversampling))
    if not 0 < oversampling < np.inf:
        raise Invalid(expected("oversampling", must, oversampling))
    check_integer("initialization_rounds", rounds, 1)
    if rows is not None:
        check_integer("initialization_rows", rows, 1)
    values = zip(_OF_ROUNDS.items(), (oversampling, rounds, rows), strict=True)
    ignored = [name for (name, default), value in values if value != default]
    if ignored and not (isinstance(source, str) and source == KMEANS_PARALLEL):
        logger.warning(
            "%s: ignored, because initial_clusters is not %r", ", ".join(ignored), KMEANS_PARALLEL
        )


def choose_model_dir(
    given: str | os.PathLike[str] | None, configured: str | os.PathLike[str] | None
) -> str:
    """Return the model directory of the argument or of the configuration.

    If neither is given, a temporary directory is created, which is removed when the process ends.

    Raises:
        Invalid: both are given and differ.
        InvalidType: one is not a path.
    """
    for directory in (given, configured):
        if directory is not None and not isinstance(directory, str | os.PathLike):
            raise InvalidType(expected("model_dir", "a path, a URL or None", directory))
    argument, config = (os.fspath(d) if d else "" for d in (given, configured))
    if argument and config and argument != config:
        raise Invalid(
            f"model_dir and config.model_dir must be equal, got {argument!r} and {config!r}"
        )
    return argument or config or storage.temporary_folder()
