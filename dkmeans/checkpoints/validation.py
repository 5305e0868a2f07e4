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
_START = re.compile(r"start_\d+_")
_PLANE = re.compile(r"plane_(0|-?[1-9]\d?)")
# No grid has exponents beyond this, up or down.
_LARGEST_EXPONENT = 2000
_FLOATS, _INTEGERS, _NUMBERS = "f", "iu", "iuf"


def check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays that no saved model has.

    Args:
        arrays: The arrays of a checkpoint by name, as `format` names them.

    Raises:
        KeyError: there are no centers.
        ValueError: an array has another shape or kind of dtype, or values that cannot be right.
    """
    centers = arrays["centers"]
    _expect(centers.ndim == 2 and centers.size > 0, "centers must be 2-D and not empty")
    k, d = centers.shape
    for name, array in arrays.items():
        plain = _START.sub("", name, count=1)
        prefix = name.removesuffix(plain)
        shape, kinds = _form(plain, k, d, len(arrays.get(f"{prefix}pending_farthest_apart", ())))
        got = f"got {array.shape} of {array.dtype}"
        _expect(
            array.shape == shape and array.dtype.kind in kinds, f"{name} must be {shape}, {got}"
        )
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


def _form(name: str, k: int, d: int, farthest: int) -> tuple[tuple[int, ...], str]:
    """Return the shape of an array, and the kinds of its dtype."""
    forms = {
        "centers": ((k, d), _FLOATS),
        "counts": ((k,), _NUMBERS),
        "means": ((k, d), _FLOATS),
        "epoch_centers": ((k, d), _FLOATS),
        "column_means": ((d,), _FLOATS),
        "column_deviations": ((d,), _FLOATS),
        "pending_counts": ((k,), _NUMBERS),
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
    if plain.endswith("counts") or plain == "pending_farthest_copies":
        _expect(bool((array >= 0).all()), f"{name} must be >= 0")
    if plain == "pending_farthest_winners":
        _expect(bool(((array >= 0) & (array < k)).all()), f"{name} must be numbers of centers")
    if plain == "column_deviations":
        _expect(bool((array > 0).all()), f"{name} must be > 0")


def _expect(is_right: bool, must: str) -> None:
    if not is_right:
        raise ValueError(must)
