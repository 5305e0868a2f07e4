"""Prediction for one chunk: nearest centers, distances and scores. Runs on workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import select
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import Centers
from dkmeans.state import FloatArray, IndexArray, Score

ALL_DISTANCES = "all_distances"
CLUSTER_INDEX = "cluster_index"


def cluster_index(loaded: LoadedChunk, centers: Centers) -> IndexArray:
    """Return the nearest center of each row, (n,) int64.

    Raises:
        InvalidData: the rows are not as wide as the centers, or not finite.
    """
    return _nearest(loaded, centers)[0]


def all_distances(loaded: LoadedChunk, centers: Centers) -> FloatArray:
    """Return the distance of each row to every center, (n, k) float32.

    Raises:
        InvalidData: as `cluster_index` does.
    """
    return select(centers.backend).distances(loaded.finite(centers.width), centers)


def score(loaded: LoadedChunk, centers: Centers) -> Score:
    """Return the sum of the rows' distances to their nearest centers.

    Raises:
        InvalidData: as `cluster_index` does.
    """
    _, distances = _nearest(loaded, centers)
    return Score(loaded.chunk.rows, float(distances.sum()))


def _nearest(loaded: LoadedChunk, centers: Centers) -> tuple[IndexArray, FloatArray]:
    points = loaded.of_width(centers.width)
    index, distances = select(centers.backend).nearest(points, centers)
    if not np.isfinite(distances).all():
        raise loaded.complaint()
    return index, distances


_FUNCTIONS: dict[str, Callable[[LoadedChunk, Centers], NDArray[Any]]] = {
    ALL_DISTANCES: all_distances,
    CLUSTER_INDEX: cluster_index,
}


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Centers, and the results to compute with them.

    Attributes:
        centers: The centers.
        names: Names of the results: `cluster_index`, `all_distances` or both.
    """

    centers: Centers
    names: tuple[str, ...]


def predict(loaded: LoadedChunk, task: Task) -> dict[str, NDArray[Any]]:
    """Return the results of a task by name, each with one entry per row.

    Raises:
        InvalidData: as `cluster_index` does.
    """
    return {name: _FUNCTIONS[name](loaded, task.centers) for name in task.names}
