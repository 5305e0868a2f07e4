"""Empty clusters: what becomes of a center that no row is nearest to.

It may be relocated to one of the rows that are farthest from the centers that won them. That row,
with all rows equal to it, then belongs to it and no longer to the cluster that gave it, which must
have others: so no cluster is emptied, and no row taken twice (as Intel's DAAL does in distributed
full batch; Pedregosa et al., Scikit-learn, 2011, does the same within one process).
"""

from __future__ import annotations

import math
from dataclasses import replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import select
from dkmeans.distance import Centers, Distance, directions
from dkmeans.errors import InvalidData
from dkmeans.state import Farthest, FloatArray, IndexArray, PartialSums

# Rounding a center's direction to float32 parts it by less from the row that it is.
_SAME_DIRECTION = 1e-14
# An error names so many empty clusters.
_NAMED = 10


class EmptyClusters(StrEnum):
    """What becomes of a center that has won no row."""

    KEEP = "keep"
    RELOCATE = "relocate"
    ERROR = "error"


def sums_and_farthest(points: FloatArray, centers: Centers) -> PartialSums:
    """The sums of the (n, d) rows, and in the same pass which of them are the farthest."""
    sums, index, apart = select(centers.backend).assign(points, centers)
    if not math.isfinite(sums.inertia):  # the caller finds out why
        return sums
    return replace(sums, farthest=farthest_rows(points, index, apart, centers))


def farthest_rows(
    points: FloatArray, index: IndexArray, apart: FloatArray, centers: Centers
) -> Farthest:
    """As many different rows as there are centers, those farthest from the centers that won them.

    So many are enough: each relocation takes one, and each center that has won rows may have to
    keep one.

    Args:
        points: (n, d) rows.
        index: (n,) which center won each.
        apart: (n,) its distance to it.
        centers: The centers.
    """
    n, most = len(points), len(centers.values)
    cosine = centers.distance is Distance.COSINE
    least, size = _SAME_DIRECTION if cosine else 0.0, most
    while True:
        limit = np.partition(apart, n - size)[n - size] if size < n else least
        chosen = np.flatnonzero((apart >= limit) & (apart > least))
        rows = directions(points[chosen]) if cosine else points[chosen].astype(np.float64)
        copies = np.ones(len(chosen), np.int64)
        found = Farthest.among(rows, apart[chosen], index[chosen], copies, most)
        if len(found) == most or limit <= least:
            return found
        size *= 4  # equal rows are one


def fill(
    empty: IndexArray, sums: PartialSums, policy: EmptyClusters, step: int
) -> tuple[PartialSums, NDArray[np.bool_]]:
    """What is done about empty clusters at the end of an iteration.

    Args:
        empty: (e,) int64 their numbers.
        sums: Of the iteration, with its farthest rows where they are wanted.
        policy: What is to be done.
        step: The iteration's last, to name where it cannot go on.

    Returns:
        The sums by which centers are to move, and whether each center, (k,), begins anew.

    Raises:
        InvalidData: there are such clusters, and must not be.
    """
    if policy is EmptyClusters.ERROR and len(empty):
        named = ", ".join(map(str, empty[:_NAMED])) + (", ..." if len(empty) > _NAMED else "")
        raise InvalidData(
            f"every cluster must win a row, as empty_clusters is 'error'; {len(empty)} of "
            f"{len(sums.counts)} have won none in the iteration that ends at step {step}: {named}"
        )
    begun = np.zeros(len(sums.counts), bool)
    if policy is EmptyClusters.RELOCATE and sums.farthest is not None:
        sums, takers = _relocate(empty, sums, sums.farthest)
        begun[takers] = True
    return sums, begun


def _relocate(
    empty: IndexArray, sums: PartialSums, farthest: Farthest
) -> tuple[PartialSums, IndexArray]:
    """The sums as they would be if empty clusters had won the farthest rows, one each.

    Returns:
        The sums, and the numbers of the clusters that took a row: the first ones, where there are
        not so many different rows that can be given away.
    """
    moved, counts, taken = sums.sums.copy(), sums.counts.copy(), 0
    for row, giver, copies in zip(farthest.rows, farthest.clusters, farthest.copies, strict=True):
        if taken == len(empty):
            break
        if counts[giver] > copies:  # else it would be empty now
            taker, taken = empty[taken], taken + 1
            for cluster, change in ((giver, -copies), (taker, copies)):
                moved[cluster] += change * row
                counts[cluster] += change
    return PartialSums(moved, counts, sums.inertia), empty[:taken]
