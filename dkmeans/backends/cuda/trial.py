"""The trial of an implementation: its answers to small problems, compared with NumPy's.

The CUDA backend tries its implementations in each process before it computes with one, because a
compiler, a driver or a GPU that was never tested may give wrong answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np

from dkmeans.backends import Implementation
from dkmeans.backends import numpy as on_host
from dkmeans.distance import Centers, Distance

logger = logging.getLogger("dkmeans")

_ROWS, _COLUMNS = 600, 5
# Few, some and many centers: different kernels score these and add up their rows.
_CLUSTERS = (7, 40, 200)
# Rows whose distances to all centers are compared.
_DISTANCE_ROWS = 50


def first_correct(
    implementations: Mapping[str, Callable[[], Implementation]],
) -> tuple[str, Implementation]:
    """Return the first implementation with correct answers, and its name; log why others failed.

    Args:
        implementations: Functions that make the implementations, by name, the fastest first.

    Raises:
        ImportError: no implementation can be used.
    """
    complaints = []
    for name, make in implementations.items():
        try:
            implementation = make()
            difference = _first_difference(implementation)
        except Exception as error:  # of a compiler, a driver, or too little memory
            complaints.append(f"{name} cannot be used: {error}")
        else:
            if not difference:
                return name, implementation
            complaints.append(
                f"{name} give other answers than NumPy ({difference}); please report it"
            )
        logger.warning("%s", complaints[-1])
    raise ImportError("; ".join(complaints))


def _first_difference(implementation: Implementation) -> str | None:
    """Return the first problem with another answer than NumPy's; None if all answers agree."""
    rng = np.random.default_rng(0)
    for dtype, distance, k in product((np.float32, np.float64), Distance, _CLUSTERS):
        rows = rng.standard_normal((_ROWS, _COLUMNS)).astype(dtype)
        centers = Centers(rows[:k], distance)
        if not _agree(implementation.assign(rows, centers), on_host.assign(rows, centers)):
            return f"{np.dtype(dtype).name}, {distance}, {k} centers"
        some = rows[:_DISTANCE_ROWS]
        result, expected = (each.distances(some, centers) for each in (implementation, on_host))
        if not np.allclose(result, expected, rtol=1e-5, atol=1e-6):
            return f"distances, {np.dtype(dtype).name}, {distance}, {k} centers"
    return None


def _agree(result: Any, expected: Any) -> bool:
    """Return whether two results of `assign` agree: indices and counts exactly, sums to 1e-12."""
    (sums, index, distances), (expected_sums, expected_index, expected_distances) = result, expected
    return bool(
        np.array_equal(index, expected_index)
        and np.array_equal(sums.counts, expected_sums.counts)
        and np.allclose(distances, expected_distances, rtol=1e-12, atol=1e-12)
        and np.allclose(sums.sums, expected_sums.sums, rtol=1e-12, atol=1e-11)
        and np.isclose(sums.inertia, expected_sums.inertia, rtol=1e-11, atol=1e-10)
    )
