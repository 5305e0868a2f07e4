"""Validation of a checkpoint: whether its arrays and numbers can be those of a saved fit.

`format.checkpoint_of` calls these functions before it makes values of a checkpoint. Digests find
damage, but whoever writes a checkpoint also writes its digests. Without these checks NumPy would
repeat an array that is too short, and exponents out of range would take all memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Prefixes of the arrays of further starts, and of planes with their number.
_START = re.compile(r"start_(0|[1-9][0-9]*)_")
_PLANE = re.compile(r"plane_(0|-?[1-9][0-9]?)")
# No grid has exponents beyond this, up or down.
_LARGEST_EXPONENT = 2000
# Dtypes of the arrays: rows have the first ones, and counts are numbers or sums of weights.
_ROWS, _FLOATS, _INTEGERS, _COUNTS = ("f4", "f8"), ("f8",), ("i8",), ("i8", "f8")


def check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays that no saved model has.

    Args:
        arrays: The arrays of a checkpoint by name, as `format` names them.

    Raises:
        KeyError: there are no centers.
        ValueError: an array has another shape or dtype, or values that cannot be right.
    """
    centers = arrays["centers"]
    _expect(centers.ndim == 2 and centers.size > 0, "centers must be 2-D and not empty")
    k, d = centers.shape
    for name, array in arrays.items():
        start = _START.match(name)
        prefix = start[0] if start else ""
        plain = name[len(prefix) :]
        shape, dtypes = _form(plain, k, d, _length(arrays.get(f"{prefix}pending_farthest_apart")))
        must = f"{shape} of {' or '.join(str(np.dtype(each)) for each in dtypes)}"
        is_right = array.shape == shape and any(array.dtype == each for each in dtypes)
        _expect(is_right, f"{name} must be {must}, got {array.shape} of {array.dtype}")
        _check_values(name, plain, array, k)


def check_numbers(numbers: Mapping[str, Any]) -> None:
    """Refuse numbers that no saved model, or start of one, has.

    Raises:
        KeyError: a number is missing.
        ValueError: one is of another type, or negative.
    """
    for name in ("step", "pending_steps", "empty_clusters"):
        value = numbers[name]
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        _expect(is_count, f"{name} must be an integer >= 0, got {value!r}")
    loss = numbers["inertia"]
    _expect(
        loss is None or isinstance(loss, int | float), f"inertia must be a number, got {loss!r}"
    )


def _length(array: NDArray[Any] | None) -> int:
    return 0 if array is None or array.ndim == 0 else len(array)


def _form(name: str, k: int, d: int, farthest: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the shape of an array, and the dtypes that it may have."""
    forms = {
        "centers": ((k, d), _ROWS),
        "counts": ((k,), _COUNTS),
        "means": ((k, d), _FLOATS),
        "epoch_centers": ((k, d), _ROWS),
        "column_means": ((d,), _FLOATS),
        "column_deviations": ((d,), _FLOATS),
        "pending_counts": ((k,), _COUNTS),
        "pending_sums": ((k, d), _FLOATS),
        "pending_plane": ((k, d), _INTEGERS),
        "pending_exponents": ((d,), _INTEGERS),
        "pending_weight_plane": ((k, 1), _INTEGERS),
        "pending_weight_exponents": ((1,), _INTEGERS),
        "pending_farthest_rows": ((farthest, d), _FLOATS),
        "pending_farthest_apart": ((farthest,), _FLOATS),
        "pending_farthest_winners": ((farthest,), _INTEGERS),
        "pending_farthest_copies": ((farthest,), _INTEGERS),
        "pending_farthest_weight_plane": ((farthest, 1), _INTEGERS),
        "pending_farthest_weight_exponents": ((1,), _INTEGERS),
    }
    key = _PLANE.sub("plane", name)
    _expect(key in forms, f"{name} must be the name of an array")
    return forms[key]


def _check_values(name: str, plain: str, array: NDArray[Any], k: int) -> None:
    """Refuse values of an array that cannot be right."""
    if array.dtype.kind == "f":
        _expect(bool(np.isfinite(array).all()), f"{name} must be finite")
    if plain.endswith("exponents"):
        is_inside = (array >= -_LARGEST_EXPONENT) & (array <= _LARGEST_EXPONENT)
        _expect(bool(is_inside.all()), f"{name} must be up to {_LARGEST_EXPONENT} in size")
    if plain.endswith("counts"):
        _expect(bool((array >= 0).all()), f"{name} must be >= 0")
    if plain == "pending_farthest_copies":
        _expect(bool((array >= 1).all()), f"{name} must be >= 1")
    if plain == "pending_farthest_winners":
        _expect(bool(((array >= 0) & (array < k)).all()), f"{name} must be numbers of centers")
    if plain == "column_deviations":
        _expect(bool((array > 0).all()), f"{name} must be > 0")


def _expect(is_right: bool, must: str) -> None:
    if not is_right:
        raise ValueError(must)
