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
from dkmeans.exact import ExactSums, of_rows
from dkmeans.state import Farthest, FloatArray, IndexArray, PartialSums

# A row of one column: `_relocate` adds multiples of it to the weights of clusters.
_ONE = np.ones(1)
# Number of empty clusters that an error names.
_NAMED_CLUSTERS = 10
# Factor by which more rows are looked at if too many of the farthest rows are equal.
_MORE_ROWS = 4


class EmptyClusters(StrEnum):
    """Policies for a center that no row is assigned to."""

    KEEP = "keep"
    RELOCATE = "relocate"
    ERROR = "error"


def sums_and_farthest(
    points: FloatArray, centers: Centers, weights: FloatArray | None = None
) -> PartialSums:
    """Return the sums of the (n, d) rows, and in the same pass their `farthest_rows`."""
    backend = select(centers.backend)
    if weights is None:
        sums, index, distances = backend.assign(points, centers)
    else:
        index, distances = backend.nearest(points, centers)
        sums = backend.weighted_sums(points, weights, index, centers, None)[0]
    return replace(sums, farthest=farthest_rows(points, index, distances, centers, weights))


def farthest_rows(
    points: FloatArray,
    index: IndexArray,
    distances: FloatArray,
    centers: Centers,
    weights: FloatArray | None = None,
) -> Farthest:
    """Return the k distinct rows that are farthest from their nearest centers, or fewer.

    That many rows are enough: each relocation takes one row, and each center with rows may have to
    keep one.

    Args:
        points: (n, d) rows.
        index: (n,) the nearest center of each row.
        distances: (n,) the distance to it.
        centers: The centers.
        weights: (n,) the weights of the rows, above zero; None if each is one.
    """
    n, most = len(points), len(centers.values)
    cosine = centers.distance is Distance.COSINE
    # Rows at the place of their center are never worth a relocation.
    least, size = SAME_DIRECTION if cosine else 0.0, most
    while True:
        limit = np.partition(distances, n - size)[n - size] if size < n else least
        far = np.flatnonzero((distances >= limit) & (distances > least))
        rows = as_added(points[far], centers.distance)
        copies, row_weights = np.ones(len(far), np.int64), None
        if weights is not None:  # as exact sums, (m, 1)
            row_weights = of_rows(weights[far, None], np.arange(len(far)), len(far))
        found = Farthest.among(rows, distances[far], index[far], copies, most, row_weights)
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
            f"every cluster must be assigned a row, as empty_clusters is 'error'; {len(empty)} of "
            f"{len(sums.counts)} got none in the iteration that ends at step {step}: {named}"
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
    moved, weights, counts, taken = sums.sums, sums.weights, sums.counts.copy(), 0
    for i, (giver, copies) in enumerate(zip(farthest.clusters, farthest.copies, strict=True)):
        if taken == len(empty):
            break
        if counts[giver] > copies:  # else the giver would be empty
            taker, taken = empty[taken], taken + 1
            for cluster, sign in ((giver, -1), (taker, 1)):
                counts[cluster] += sign * copies
                for term in farthest.row_weights.terms(i):
                    moved = _plus_row(moved, cluster, farthest.rows[i], sign * term)
                    weights = weights and _plus_row(weights, cluster, _ONE, sign * term)
    return replace(sums, sums=moved, counts=counts, weights=weights), empty[:taken]


def _plus_row(sums: ExactSums, cluster: int, row: FloatArray, factor: float) -> ExactSums:
    """Return the sums with a row times a factor added to a cluster."""
    columns = np.arange(len(row))
    return sums.plus_products(np.full(len(row), cluster), columns, row, np.full(len(row), factor))
