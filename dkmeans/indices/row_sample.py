"""A sample of the rows of an evaluation, with their clusters, for indices that compare rows.

Each row has a key from its number and its weight, and the rows with the least keys are the sample
(priority sampling: Duffield, Lund and Thorup, Priority sampling for estimation of arbitrary subset
sums, 2007): rows are drawn without replacement, in proportion to their weights, and each one stands
for a known weight. The same rows are drawn whatever the chunks are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dkmeans.backends.rounding import QUIET, exact_rows
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import Distance, squared_norms
from dkmeans.exact import in_pieces
from dkmeans.executors import cores
from dkmeans.initialization.draws import Seed
from dkmeans.state import FloatArray, IndexArray

# Rows of a sample: all pairs of them are compared in less than a second.
SAMPLE_ROWS = 4096
_SEED = 0
# A difference of weights below this part of the cluster's weight is a rounding error of zero.
_ROUNDING = 1e-12
# Bytes of the distances that are computed at a time.
_PIECE_BYTES = 2**23
# Squared distances below this share of the squared lengths of both rows are computed again, from
# differences. Those above have ten digits by a matrix product, even with hundreds of columns.
_SHORT = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class RowSample:
    """The rows with the least keys, sorted by key: a monoid under `+`.

    Attributes:
        keys: (m,) float64, m <= `SAMPLE_ROWS`.
        rows: (m, d) the rows.
        index: (m,) their clusters.
        weights: (m,) float64, their weights.
        next_key: The least key of the other rows; infinity if there are none.
        is_weighted: True if any row, of these and the others, has another weight than one.
    """

    keys: FloatArray
    rows: FloatArray
    index: IndexArray
    weights: FloatArray
    next_key: float = np.inf
    is_weighted: bool = False

    @classmethod
    def zero(cls, width: int) -> RowSample:
        """Return a sample of no rows."""
        rows = np.empty((0, width), np.float32)
        return cls(np.empty(0), rows, np.empty(0, np.int64), np.empty(0))

    def __add__(self, other: RowSample) -> RowSample:
        pairs = zip(self._arrays, other._arrays, strict=True)
        next_key = min(self.next_key, other.next_key)
        keys, rows, index, weights = (np.concatenate(pair) for pair in pairs)
        is_weighted = self.is_weighted or other.is_weighted
        return RowSample(keys, rows, index, weights, next_key, is_weighted)._least()

    @property
    def represented(self) -> FloatArray:
        """(m,) the weight that each row stands for: the larger of its own and 1 / `next_key`."""
        return np.maximum(self.weights, 1 / self.next_key)

    @property
    def _arrays(self) -> tuple[FloatArray, FloatArray, IndexArray, FloatArray]:
        return self.keys, self.rows, self.index, self.weights

    def _least(self) -> RowSample:
        order = np.argsort(self.keys, kind="stable")
        some, rest = order[:SAMPLE_ROWS], order[SAMPLE_ROWS:]
        next_key = min(self.next_key, self.keys[rest[0]]) if len(rest) else self.next_key
        keys, rows, index, weights = (array[some] for array in self._arrays)
        return RowSample(keys, rows, index, weights, float(next_key), self.is_weighted)


def sample_of(loaded: LoadedChunk, index: IndexArray, batch: int) -> RowSample:
    """Return the sample of a chunk: a row of the weight w has the key u / w for a random u.

    Args:
        loaded: The chunk, of a batch that is `numbered`.
        index: (n,) the clusters of its rows.
        batch: Number of the batch.
    """
    numbers = np.arange(len(loaded.points)) if loaded.kept is None else loaded.kept
    weights = np.ones(len(numbers)) if loaded.weights is None else loaded.weights
    keys = Seed(_SEED, (batch,)).uniform(loaded.chunk.number + numbers) / weights
    # One row more than the sample has: its key is `next_key`.
    least = np.argpartition(keys, min(SAMPLE_ROWS, len(keys) - 1))[: SAMPLE_ROWS + 1]
    few = loaded.points[least], index[least], weights[least].astype(np.float64)
    return RowSample(keys[least], *few, is_weighted=bool((weights != 1).any()))._least()


@QUIET
def silhouette(sample: RowSample, distance: Distance) -> float:
    """Return the silhouette (Rousseeuw, 1987) of a sample.

    A row of the weight w counts as w equal rows, each of which is compared with the others. A row
    that is alone in its cluster has the silhouette 0, as in scikit-learn.

    Returns:
        The silhouette; NaN if all rows are in one cluster, or each row is alone in its own.
    """
    order = np.argsort(sample.index, kind="stable")
    rows, weights = exact_rows(sample.rows[order], distance), sample.represented[order]
    _, firsts, own = np.unique(sample.index[order], return_index=True, return_inverse=True)
    totals = np.add.reduceat(weights, firsts) if len(firsts) else weights
    # The weight of the other rows of the cluster, and w - 1 for copies of the row itself.
    others = totals[own] - weights + sample.weights[order] - 1
    others[others < _ROUNDING * totals[own]] = 0.0
    if len(firsts) < 2 or not (others > 0).any():
        return np.nan

    def of_rows(distances: FloatArray, start: int) -> FloatArray:
        """Return the silhouettes of some rows, from their distances to all."""
        some = np.arange(start, start + len(distances))
        sums = np.add.reduceat(distances * weights, firsts, axis=1)
        place = np.arange(len(some)), own[some]
        is_alone = others[some] <= 0
        near = sums[place] / np.where(is_alone, np.inf, others[some])
        means = sums / totals
        means[place] = np.inf
        far = means.min(axis=1)
        largest = np.maximum(near, far)
        is_zero = is_alone | (largest == 0)
        return np.where(is_zero, 0.0, (far - near) / np.where(is_zero, 1.0, largest))

    pieces = [of_rows(distances, start) for start, distances in _distances(rows, firsts)]
    return float(np.average(np.concatenate(pieces), weights=weights))


def _distances(rows: FloatArray, firsts: IndexArray) -> Iterator[tuple[int, FloatArray]]:
    """Yield, block by block, the number of the first row and the distances of s rows to all.

    Distances are (s, m) float64. A matrix product loses digits of those that are small beside the
    lengths of the rows. So a median is subtracted first, which a few far rows do not move: that of
    all rows, or within a cluster that of its rows. Distances that are still small are computed from
    differences.

    Args:
        rows: (m, d) float64, the rows, cluster by cluster.
        firsts: Number of the first row of each cluster.
    """
    edges = [*firsts.tolist(), len(rows)]
    everywhere, within = _about_median(rows), rows.copy()
    for first, end in pairwise(edges):
        within[first:end] = _about_median(rows[first:end])
    size = max(1, _PIECE_BYTES // (8 * len(rows)))
    for start in range(0, len(rows), size):
        stop = min(start + size, len(rows))
        found, lengths = _squared_distances(everywhere[start:stop], everywhere)
        for first, end in pairwise(edges):
            low, high = max(first, start), min(end, stop)
            if low < high:
                block = slice(low - start, high - start), slice(first, end)
                found[block], lengths[block] = _squared_distances(
                    within[low:high], within[first:end]
                )
        one, other = np.nonzero(found < _SHORT * lengths)
        for some in in_pieces((one, other), max(1, _PIECE_BYTES // (8 * rows.shape[1]))):
            found[some] = squared_norms(rows[start + some[0]] - rows[some[1]])
        yield start, np.sqrt(found, out=found)


def _about_median(rows: FloatArray) -> FloatArray:
    return np.asarray(rows - np.median(rows, axis=0))


def _squared_distances(some: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return squared distances by a matrix product, and the squared lengths that it subtracts."""
    lengths = squared_norms(some)[:, None] + squared_norms(others)
    # The bits of a product depend on the number of BLAS's threads.
    with cores.computing:
        found = (-2.0 * some) @ others.T
    found += lengths
    return found, lengths
