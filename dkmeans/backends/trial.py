"""Whether a way of computing finds what NumPy finds, tried before it is trusted with rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np

from dkmeans.backends import Way
from dkmeans.backends import numpy as on_host
from dkmeans.distance import Centers, Distance

logger = logging.getLogger("dkmeans")

# Rows, columns, and numbers of centers for which kernels differ.
_ROWS, _COLUMNS, _CLUSTERS = 600, 5, (7, 40, 200)


def first_right(ways: Mapping[str, Callable[[], Way]]) -> tuple[str, Way]:
    """The first way of computing whose answers are right, and its name; the log says why not one.

    Args:
        ways: What makes each, by name, the best first.

    Raises:
        ImportError: there is none.
    """
    complaints = []
    for name, make in ways.items():
        try:
            way = make()
            wrong = _wrong(way)
        except Exception as error:  # of a compiler, a driver, or too little memory
            complaints.append(f"{name} cannot be used: {error}")
        else:
            if not wrong:
                return name, way
            complaints.append(f"{name} give other answers than NumPy ({wrong}); please report it")
        logger.warning("%s", complaints[-1])
    raise ImportError("; ".join(complaints))


def _wrong(way: Way) -> str | None:
    """The first problem that it solves otherwise than NumPy, in words."""
    rng = np.random.default_rng(0)
    for dtype, distance, k in product((np.float32, np.float64), Distance, _CLUSTERS):
        rows = rng.standard_normal((_ROWS, _COLUMNS)).astype(dtype)
        centers = Centers(rows[:k], distance)
        if not _agree(way.assign(rows, centers), on_host.assign(rows, centers)):
            return f"{np.dtype(dtype).name}, {distance}, {k} centers"
        some = rows[:50]
        found, expected = (each.distances(some, centers) for each in (way, on_host))
        if not np.allclose(found, expected, rtol=1e-5, atol=1e-6):
            return f"distances, {np.dtype(dtype).name}, {distance}, {k} centers"
    return None


def _agree(found: Any, expected: Any) -> bool:
    (sums, index, apart), (others, winners, least) = found, expected
    return bool(
        np.array_equal(index, winners)
        and np.array_equal(sums.counts, others.counts)
        and np.allclose(apart, least, rtol=1e-12, atol=1e-12)
        and np.allclose(sums.sums, others.sums, rtol=1e-12, atol=1e-11)
        and np.isclose(sums.inertia, others.inertia, rtol=1e-11, atol=1e-10)
    )
