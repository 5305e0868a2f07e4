"""Contingency tables: how many rows have which clusters in two models, and how the models agree.

A worker counts the pairs of clusters of a chunk, and the sum of all tables is exact. A table has
entries only for pairs that occur.

    table = contingency_of(index, others, weights, (k, m), backend)
    found = agreement(table + more)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends.protocol import Backend
from dkmeans.backends.weighted import sums_of_weights
from dkmeans.errors import Invalid
from dkmeans.exact import ExactSums
from dkmeans.state import FloatArray, IndexArray

# The assignment problem needs all pairs of clusters: half a gigabyte of float64.
_MOST_PAIRS = 2**26


@dataclass(frozen=True, slots=True, eq=False)
class Contingency:
    """Numbers of rows for each pair of clusters of two models: a monoid under `+`.

    Attributes:
        shape: Number of clusters of each model.
        pairs: (p,) int64, rising: i m + j for cluster i of the first model and j of the second,
            which has m clusters.
        sums: (p, 1) the sums of the weights of the rows: their number without any.
        are_numbers: True if all weights are whole numbers, and so numbers of equal rows.
    """

    shape: tuple[int, int]
    pairs: IndexArray
    sums: ExactSums
    are_numbers: bool = True

    @classmethod
    def zero(cls, shape: tuple[int, int]) -> Contingency:
        """Return the table of no rows."""
        return cls(shape, np.empty(0, np.int64), ExactSums.of_counts(np.empty(0, np.int64)))

    def __add__(self, other: Contingency) -> Contingency:
        pairs = np.concatenate([self.pairs, other.pairs])
        order = np.argsort(pairs, kind="stable")
        firsts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
        sums = self.sums.followed_by(other.sums).gathered(order, firsts)
        are_numbers = self.are_numbers and other.are_numbers
        return Contingency(self.shape, pairs[order][firsts], sums, are_numbers)


def contingency_of(
    index: IndexArray,
    others: IndexArray,
    weights: FloatArray | None,
    shape: tuple[int, int],
    backend: Backend,
) -> Contingency:
    """Return the table of some rows.

    Args:
        index: (n,) the clusters of the rows in the first model.
        others: (n,) their clusters in the second model.
        weights: (n,) the weights of the rows, above zero; None if each is one.
        shape: Number of clusters of each model.
        backend: The backend that adds up weights.
    """
    numbers = index * shape[1] + others
    if shape[0] * shape[1] <= len(numbers):  # counting takes a tenth of the time of sorting
        every = np.bincount(numbers)
        pairs = np.flatnonzero(every)
        counts = every[pairs]
    else:
        pairs, counts = np.unique(numbers, return_counts=True)
    if weights is None:
        return Contingency(shape, pairs, ExactSums.of_counts(counts.astype(np.int64)))
    place = np.searchsorted(pairs, numbers)
    sums = sums_of_weights(backend, weights, place, len(pairs))
    return Contingency(shape, pairs, sums, bool((weights == np.rint(weights)).all()))


def check_pairs(shape: tuple[int, int]) -> None:
    """Refuse two models with too many clusters to be matched.

    Raises:
        Invalid: there are too many pairs of clusters.
    """
    if shape[0] * shape[1] > _MOST_PAIRS:
        must = f"at most {_MOST_PAIRS:,} pairs of clusters with the model"
        raise Invalid(f"against must have {must}, got {shape[0]:,} x {shape[1]:,}")


def agreement(table: Contingency) -> dict[str, Any]:
    """Return how far two models agree about the rows.

    Returns:
        `changed_share`: share of the rows that change their cluster, after clusters are matched so
        that the fewest do; `matching`: (k,) the cluster of the second model that matches each
        cluster of the first, -1 for none; `adjusted_rand`, 1 for the same clusters and about 0 for
        random ones (Hubert and Arabie, Comparing partitions, 1985); and `mutual_information` in
        nats.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 comes with an extra

    counts = table.sums.rounded()[:, 0].astype(np.float64)
    firsts, seconds = np.divmod(table.pairs, table.shape[1])
    dense = np.zeros(table.shape)
    dense[firsts, seconds] = counts
    rows, columns = linear_sum_assignment(dense, maximize=True)
    matching = np.full(table.shape[0], -1, np.int64)
    matching[rows] = columns
    total = float(counts.sum())
    of_first, of_second = dense.sum(axis=1), dense.sum(axis=0)
    return {
        "changed_share": max(0.0, 1.0 - float(dense[rows, columns].sum()) / total),
        "matching": matching,
        "adjusted_rand": _adjusted_rand(counts, of_first, of_second, are_numbers=table.are_numbers),
        "mutual_information": _mutual_information(counts, of_first[firsts], of_second[seconds]),
    }


def _adjusted_rand(
    counts: FloatArray, of_first: FloatArray, of_second: FloatArray, *, are_numbers: bool
) -> float:
    """Return the adjusted Rand index; 1 where both models put all rows into one cluster.

    Weights that are not whole numbers are no numbers of rows: then a row is paired with itself too,
    and the unit of the weights does not matter.
    """
    (together, first, second, everything) = (
        _pairs_in(sizes, are_numbers=are_numbers)
        for sizes in (counts, of_first, of_second, counts.sum())
    )
    chance = first * second / everything if everything else 0.0
    most = (first + second) / 2
    return 1.0 if most == chance else (together - chance) / (most - chance)


def _pairs_in(sizes: NDArray[Any], *, are_numbers: bool) -> float:
    """Return the number of pairs of rows within groups of these sizes."""
    others = sizes - 1 if are_numbers else sizes
    return float((sizes * others / 2).sum())


def _mutual_information(counts: FloatArray, of_first: FloatArray, of_second: FloatArray) -> float:
    """Return the mutual information of two clusterings, from the table's entries and their sums."""
    total = counts.sum()
    shares = counts / total
    ratios = np.log(shares) - np.log(of_first / total) - np.log(of_second / total)
    return max(0.0, float((shares * ratios).sum()))
