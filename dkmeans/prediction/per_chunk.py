"""What fixed centers say of rows: functions of a chunk, for a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import select
from dkmeans.data.chunks import Chunk, finite_points
from dkmeans.data.sources.memory import in_memory
from dkmeans.distance import Centers
from dkmeans.state import FloatArray, IndexArray, Score

ALL_DISTANCES = "all_distances"
CLUSTER_INDEX = "cluster_index"


def cluster_index(chunk: Chunk, centers: Centers) -> IndexArray:
    """Each row's nearest center, (n,) int64.

    Raises:
        InvalidData: rows that cannot be read, are not as wide as the centers, or not finite.
    """
    points = chunk.load(centers.width)
    index, distance = select(centers.backend).nearest(points, centers)
    if not np.isfinite(distance).all():
        raise chunk.complaint(points)
    return index


def all_distances(chunk: Chunk, centers: Centers) -> FloatArray:
    """Each row's distance to every center, (n, k) float32.

    Raises:
        InvalidData: as `cluster_index` does.
    """
    return select(centers.backend).distances(finite_points(chunk, centers.width), centers)


def score(chunk: Chunk, centers: Centers) -> Score:
    """The sum of the rows' distances to their nearest centers.

    Raises:
        InvalidData: as `cluster_index` does.
    """
    points = chunk.load(centers.width)
    _, distance = select(centers.backend).nearest(points, centers)
    if not np.isfinite(distance).all():
        raise chunk.complaint(points)
    return Score(chunk.rows, float(distance.sum()))


_FUNCTIONS: dict[str, Callable[[Chunk, Centers], NDArray[Any]]] = {
    ALL_DISTANCES: all_distances,
    CLUSTER_INDEX: cluster_index,
}


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Centers, and the names of what to compute of rows with them."""

    centers: Centers
    names: tuple[str, ...]


def run(chunk: Chunk, task: Task) -> dict[str, NDArray[Any]]:
    """The results of a task, by name.

    Raises:
        InvalidData: as they do.
    """
    chunk = in_memory(chunk, task.centers.width)  # once, whatever the number of results
    return {name: _FUNCTIONS[name](chunk, task.centers) for name in task.names}
