"""A sample of the rows of an evaluation, with their clusters, for indices that compare rows.

Each row has a key from its number and its weight, and the rows with the least keys are the sample:
rows are drawn without replacement, in proportion to their weights. The same rows are drawn whatever
the chunks are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dkmeans.backends.rounding import exact_rows
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import Distance
from dkmeans.initialization.draws import Seed
from dkmeans.state import FloatArray, IndexArray

# Rows of a sample: scikit-learn compares all pairs of them in less than a second.
SAMPLE_ROWS = 4096
_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class RowSample:
    """The rows with the least keys, in the order of these: a monoid under `+`.

    Attributes:
        keys: (m,) float64, m <= `SAMPLE_ROWS`.
        rows: (m, d) the rows.
        index: (m,) their clusters.
    """

    keys: FloatArray
    rows: FloatArray
    index: IndexArray

    @classmethod
    def zero(cls, width: int) -> RowSample:
        """Return a sample of no rows."""
        return cls(np.empty(0), np.empty((0, width), np.float32), np.empty(0, np.int64))

    def __add__(self, other: RowSample) -> RowSample:
        return RowSample(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.index, other.index]),
        )._at(slice(None))

    def _at(self, some: IndexArray | slice) -> RowSample:
        order = np.argsort(self.keys[some], kind="stable")[:SAMPLE_ROWS]
        return RowSample(*(part[some][order] for part in (self.keys, self.rows, self.index)))


def sample_of(loaded: LoadedChunk, index: IndexArray, batch: int) -> RowSample:
    """Return the sample of a chunk.

    A row of the weight w has the key -log(u) / w for a random u in (0, 1) (Efraimidis and Spirakis,
    Weighted random sampling with a reservoir, 2006).

    Args:
        loaded: The chunk, of a batch that is `numbered`.
        index: (n,) the clusters of its rows.
        batch: Number of the batch.
    """
    numbers = np.arange(len(loaded.points)) if loaded.kept is None else loaded.kept
    keys = -np.log(Seed(_SEED, (batch,)).uniform(loaded.chunk.number + numbers))
    if loaded.weights is not None:
        keys = keys / loaded.weights
    least = np.argpartition(keys, min(SAMPLE_ROWS, len(keys)) - 1)[:SAMPLE_ROWS]
    return RowSample(keys, loaded.points, index)._at(least)


def silhouette(sample: RowSample, distance: Distance) -> float:
    """Return the silhouette (Rousseeuw, 1987) of a sample; NaN if all rows are in one cluster."""
    from sklearn.metrics import silhouette_score  # noqa: PLC0415 an extra

    found = len(np.unique(sample.index))
    if not 1 < found < len(sample.index):
        return np.nan
    return float(silhouette_score(exact_rows(sample.rows, distance), sample.index))
