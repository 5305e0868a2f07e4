"""Prediction for one chunk: nearest centers, distances and scores. Runs on workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.backends import select
from dkmeans.backends.numpy import nearest_several
from dkmeans.backends.weighted import weighted_total
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import Centers, Distance
from dkmeans.errors import InvalidData
from dkmeans.exact_total import ExactTotal, total_of
from dkmeans.state import FloatArray, IndexArray, Score

# Names of results.
ALL_DISTANCES = "all_distances"
CLUSTER_INDEX = "cluster_index"
DISTANCE = "distance"
SECOND_INDEX, SECOND_DISTANCE = "second_index", "second_distance"
TOP_INDICES, TOP_DISTANCES = "top_indices", "top_distances"

_FLOAT32 = np.finfo(np.float32)
# Rows whose differences from the centers are computed at a time.
_SUSPECT_ROWS = 2**12
# Relative differences up to this count as rounding errors of centers: 4096 times float64's epsilon.
_SAME_VALUE = 2.0**-40


def all_distances(loaded: LoadedChunk, centers: Centers) -> FloatArray:
    """Return the distance of each row to every center, (n, k) float32.

    Raises:
        InvalidData: as `score` does, or float32 cannot hold the distances of a row.
    """
    points = loaded.finite(centers.width)
    distances = select(centers.backend).distances(points, centers)
    if centers.distance is Distance.SQUARED_EUCLIDEAN:  # cosine distances are 0 to 2
        _check_range(loaded, centers, points, distances)
    return distances


def _check_range(
    loaded: LoadedChunk, centers: Centers, points: FloatArray, distances: FloatArray
) -> None:
    """Refuse rows whose squared distances float32 cannot hold.

    A distance near zero beside larger ones of the same row is no mistake: its absolute error is
    small. A row is refused only if all its distances are too small for float32, so that their order
    is lost.

    Raises:
        InvalidData: a distance is infinite in float32, or all distances of a row are too small.
    """
    farthest = distances.max(axis=1)
    # The negation also selects distances that are NaN.
    suspects = np.flatnonzero(~((farthest >= _FLOAT32.tiny) & (farthest <= _FLOAT32.max)))
    for start in range(0, len(suspects), _SUSPECT_ROWS):
        some = suspects[start : start + _SUSPECT_ROWS]
        differences, sizes = _largest_differences(points[some], centers)
        # Rows that are equal to all centers, or nearly, are right at distance zero.
        is_equal = (farthest[some] < _FLOAT32.tiny) & (differences <= _SAME_VALUE * sizes)
        lost = np.flatnonzero(~is_equal)
        if len(lost):
            raise InvalidData(
                f"all_distances must be squares that float32 holds, {_FLOAT32.tiny:.3g} to "
                f"{_FLOAT32.max:.3g}; row {loaded.chunk.start + int(some[lost[0]])} of "
                f"{loaded.chunk.source.name} differs from a center by {differences[lost[0]]:.3g}. "
                "Scale the columns first, or predict cluster_index alone"
            )


def _largest_differences(points: FloatArray, centers: Centers) -> tuple[FloatArray, FloatArray]:
    """Return two numbers for each row: how far a value is from a center's, and the largest value.

    Returns:
        The largest |x_j - c_j| over all centers and columns, (n,) float64, and the largest absolute
        value of the row and of all centers, (n,) float64.
    """
    rows, largest = points.astype(np.float64), np.zeros(len(points))
    with np.errstate(over="ignore"):
        for center in centers.values.astype(np.float64):
            np.maximum(largest, np.abs(rows - center).max(axis=1), out=largest)
    sizes = np.maximum(np.abs(rows).max(axis=1), float(np.abs(centers.values).max()))
    return largest, np.asarray(sizes)


def score(loaded: LoadedChunk, centers: Centers) -> Score:
    """Return the sum of the rows' distances to their nearest centers, times their weights.

    Raises:
        InvalidData: the rows are not as wide as the centers, or not finite.
    """
    if not len(loaded.points):  # none of the rows has a weight
        return Score()
    _, distances = _nearest(loaded, centers)
    return score_of(loaded, distances, centers)


def score_of(loaded: LoadedChunk, distances: FloatArray, centers: Centers) -> Score:
    """Return the score of a chunk whose rows have these (n,) distances to their nearest centers."""
    if loaded.weights is None:
        return Score(ExactTotal.of(len(distances)), total_of(distances))
    total = weighted_total(select(centers.backend), distances, loaded.weights)
    return Score(total_of(loaded.weights), total)


def _nearest(loaded: LoadedChunk, centers: Centers) -> tuple[IndexArray, FloatArray]:
    points = loaded.of_width(centers.width)
    index, distances = select(centers.backend).nearest(points, centers)
    if not np.isfinite(distances).all():
        raise loaded.complaint()
    return index, distances


def _nearest_several(
    loaded: LoadedChunk, centers: Centers, most: int
) -> tuple[IndexArray, FloatArray]:
    """Return the `most` nearest centers of each row and the distances to them, the nearest first.

    Returns:
        The indices, (n, most) int64, and the distances, (n, most) float64.

    Raises:
        InvalidData: as `score` does.
    """
    points, backend = loaded.finite(centers.width), select(centers.backend)
    if most == 2:  # a backend may have a faster way
        index, distances = backend.nearest_two(points, centers)
    else:
        index, distances = nearest_several(points, centers, most, backend.distances)
    if not np.isfinite(distances).all():
        raise loaded.complaint()
    return index, distances


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Centers, and the results to compute with them.

    Attributes:
        centers: The centers.
        names: Names of the results.
        top: Number of centers in `top_indices` and `top_distances`.
    """

    centers: Centers
    names: tuple[str, ...]
    top: int = 0


def form_of(name: str, k: int, top: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape of a result for one row, and its dtype; `top` is that of a `Task`."""
    forms: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
        ALL_DISTANCES: ((k,), np.float32),
        CLUSTER_INDEX: ((), np.int64),
        DISTANCE: ((), np.float64),
        SECOND_INDEX: ((), np.int64),
        SECOND_DISTANCE: ((), np.float64),
        TOP_INDICES: ((top,), np.int64),
        TOP_DISTANCES: ((top,), np.float64),
    }
    shape, dtype = forms[name]
    return shape, np.dtype(dtype)


def result_bytes(names: Sequence[str], k: int, top: int) -> int:
    """Return the size in bytes of the results of one row, as `form_of` describes each."""
    forms = [form_of(name, k, top) for name in names]
    return sum(prod(shape) * dtype.itemsize for shape, dtype in forms)


def predict(loaded: LoadedChunk, task: Task) -> dict[str, NDArray[Any]]:
    """Return the results of a task by name, each with one entry per row.

    Raises:
        InvalidData: as `score` and `all_distances` do.
    """
    found: dict[str, NDArray[Any]] = {}
    most = max(task.top, 2 * (SECOND_INDEX in task.names))
    if most:
        index, distances = _nearest_several(loaded, task.centers, most)
        found = {TOP_INDICES: index[:, : task.top], TOP_DISTANCES: distances[:, : task.top]}
        found |= {CLUSTER_INDEX: index[:, 0], DISTANCE: distances[:, 0]}
        if SECOND_INDEX in task.names:
            found |= {SECOND_INDEX: index[:, 1], SECOND_DISTANCE: distances[:, 1]}
    elif task.names != (ALL_DISTANCES,):
        index, distances = _nearest(loaded, task.centers)
        found = {CLUSTER_INDEX: index, DISTANCE: distances}
    if ALL_DISTANCES in task.names:
        found[ALL_DISTANCES] = all_distances(loaded, task.centers)
    return {name: found[name] for name in task.names}
