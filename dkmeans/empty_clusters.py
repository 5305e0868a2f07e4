"""Empty clusters: what happens to a center that no row is assigned to.

`lloyd.update` calls `fill`. A relocated center takes one of the rows that are farthest from their
nearest centers, together with all rows equal to it. The cluster that gives the row must have other
rows, so no cluster is emptied by that and no row is taken twice. (Intel's DAAL does the same in
distributed full batch; Pedregosa et al., Scikit-learn, 2011, within one process.)
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import select
from dkmeans.backends.addition import as_added
from dkmeans.distance import SAME_DIRECTION, Centers, Distance
from dkmeans.errors import InvalidData
from dkmeans.state import Farthest, FloatArray, IndexArray, PartialSums

# Number of empty clusters that an error names.
_NAMED_CLUSTERS = 10
# Factor by which more rows are looked at if too many of the farthest rows are equal.
_MORE_ROWS = 4


class EmptyClusters(StrEnum):
    """Policies for a center that no row is assigned to."""

    KEEP = "keep"
    RELOCATE = "relocate"
    ERROR = "error"


def sums_and_farthest(points: FloatArray, centers: Centers) -> PartialSums:
    """Return the sums of the (n, d) rows, and in the same pass the farthest of these rows."""
    sums, index, distances = select(centers.backend).assign(points, centers)
    return replace(sums, farthest=farthest_rows(points, index, distances, centers))


def farthest_rows(
    points: FloatArray, index: IndexArray, distances: FloatArray, centers: Centers
) -> Farthest:
    """Return as many distinct rows as there are centers, the farthest from their nearest centers.

    That many rows are enough: each relocation takes one row, and each center with rows may have to
    keep one.

    Args:
        points: (n, d) rows.
        index: (n,) the nearest center of each row.
        distances: (n,) the distance to it.
        centers: The centers.
    """
    n, most = len(points), len(centers.values)
    cosine = centers.distance is Distance.COSINE
    # Rows at the place of their center are never worth a relocation.
    least, size = SAME_DIRECTION if cosine else 0.0, most
    while True:
        limit = np.partition(distances, n - size)[n - size] if size < n else least
        far = np.flatnonzero((distances >= limit) & (distances > least))
        rows = as_added(points[far], centers.distance)
        copies = np.ones(len(far), np.int64)
        found = Farthest.among(rows, distances[far], index[far], copies, most)
        if len(found) == most or limit <= least:
            return found
        size *= _MORE_ROWS  # equal rows are one entry of the result


def fill(
    empty: IndexArray, sums: PartialSums, policy: EmptyClusters, step: int
) -> tuple[PartialSums, NDArray[np.bool_]]:
    """Treat the empty clusters at the end of an iteration as the policy says.

    Args:
        empty: (e,) int64, the numbers of the empty clusters.
        sums: Sums of the iteration, with its farthest rows if clusters are relocated.
        policy: What happens to empty clusters.
        step: Last step of the iteration, for the error message.

    Returns:
        The sums by which the centers move, and for each center, (k,), True if it was relocated.

    Raises:
        InvalidData: there are empty clusters, and the policy is ERROR.
    """
    if policy is EmptyClusters.ERROR and len(empty):
        more = ", ..." if len(empty) > _NAMED_CLUSTERS else ""
        named = ", ".join(map(str, empty[:_NAMED_CLUSTERS])) + more
        raise InvalidData(
            f"every cluster must win a row, as empty_clusters is 'error'; {len(empty)} of "
            f"{len(sums.counts)} have won none in the iteration that ends at step {step}: {named}"
        )
    relocated = np.zeros(len(sums.counts), bool)
    if policy is EmptyClusters.RELOCATE and sums.farthest is not None:
        sums, takers = _relocate(empty, sums, sums.farthest)
        relocated[takers] = True
    return sums, relocated


def _relocate(
    empty: IndexArray, sums: PartialSums, farthest: Farthest
) -> tuple[PartialSums, IndexArray]:
    """Move one of the farthest rows from its cluster to each empty cluster.

    Returns:
        The sums as if those rows had been assigned to the empty clusters, and the numbers of the
        clusters that got a row: the first ones, if there are too few rows to give away.
    """
    moved, counts, taken = sums.sums, sums.counts.copy(), 0
    columns = np.arange(farthest.rows.shape[1])
    for row, giver, copies in zip(farthest.rows, farthest.clusters, farthest.copies, strict=True):
        if taken == len(empty):
            break
        if counts[giver] > copies:  # else the giver would be empty
            taker, taken = empty[taken], taken + 1
            for cluster, change in ((giver, -copies), (taker, copies)):
                clusters = np.full(len(row), cluster)
                moved = moved.plus_values(clusters, columns, row, times=change)
                counts[cluster] += change
    return replace(sums, sums=moved, counts=counts), empty[:taken]
