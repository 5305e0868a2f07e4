"""The estimator's arguments: what each must be, and what is said when it is not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans.data.points import as_points
from dkmeans.errors import Invalid, InvalidType, check_integer, expected
from dkmeans.initialization import NAMES

InitialClusters = str | npt.ArrayLike | Callable[[npt.NDArray[Any], int], npt.ArrayLike]


def check_steps(name: str, value: object) -> None:
    """Refuse a number of steps that is not above zero; None passes.

    Raises:
        InvalidType: it is no integer; Invalid: it is not above zero.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidType(expected(name, "an integer or None", value))
    if value <= 0:
        raise Invalid(f"Must specify {name} > 0, given: {value}")


def check_initial_clusters(given: InitialClusters) -> Any:
    """The documented kinds of initial centers, checked; arrays as a copy of float32 or float64.

    Raises:
        ValueError: another name, or an array that is not 2-D or not finite; TypeError: no numbers.
    """
    if isinstance(given, str):
        if given not in NAMES:
            must = f"{', '.join(map(repr, NAMES))}, a 2-D array, or a function"
            raise Invalid(expected("initial_clusters", must, given))
        return given
    if callable(given):
        return given
    centers = as_points(given, "initial_clusters").copy()
    if 0 in centers.shape:
        raise Invalid(f"initial_clusters must have rows and columns, got shape {centers.shape}")
    if not np.isfinite(centers).all():
        raise Invalid("initial_clusters must be finite, got NaN or infinity")
    return centers


def check_restarts(number: object, source: object) -> None:
    """Refuse a number of restarts below one, or above where the first centers are given.

    Raises:
        InvalidType: it is no integer; Invalid: it cannot be used.
    """
    check_integer("num_restarts", number, 1)
    if isinstance(source, np.ndarray) and number != 1:
        must = "1 where initial_clusters is an array, as all starts would be the same"
        raise Invalid(expected("num_restarts", must, number))


def check_rounds(oversampling: float, rounds: int, rows: int | None) -> None:
    """Refuse what k-means|| cannot go by.

    Raises:
        Invalid: a number is not above zero; InvalidType: one is no number.
    """
    must = "a finite number above zero"
    if isinstance(oversampling, bool) or not isinstance(oversampling, float | int | np.number):
        raise InvalidType(expected("oversampling", must, oversampling))
    if not 0 < oversampling < np.inf:
        raise Invalid(expected("oversampling", must, oversampling))
    check_integer("initialization_rounds", rounds, 1)
    if rows is not None:
        check_integer("initialization_rows", rows, 1)


def choose_model_dir(
    given: str | os.PathLike[str] | None, configured: str | os.PathLike[str] | None
) -> str:
    """The one model directory that an argument and a configuration name, or a new temporary one.

    Raises:
        Invalid: they name two; InvalidType: one is no path.
    """
    for directory in (given, configured):
        if directory is not None and not isinstance(directory, str | os.PathLike):
            raise InvalidType(expected("model_dir", "a path, a URL or None", directory))
    own, config = (os.fspath(d) if d else "" for d in (given, configured))
    if own and config and own != config:
        raise Invalid(f"model_dir and config.model_dir must be equal, got {own!r} and {config!r}")
    return own or config or tempfile.mkdtemp(prefix="dkmeans-")
