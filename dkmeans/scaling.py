"""Scaling: the means and deviations of columns, by which a model standardizes rows.

`standardization` finds a scaling on the workers, a checkpoint keeps it, and `data.scaled` applies
it to the rows of every call. `exports` write it in front of the distances.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# Values that are scaled at a time: their float64 copies stay in the second-level cache.
_VALUES_AT_ONCE = 2**15


@dataclass(frozen=True, slots=True)
class Scaling:
    """Means and deviations of columns. Two of them are equal if they scale alike.

    Attributes:
        means: (d,) float64.
        deviations: (d,) float64, above zero; 1 for a column of one value.
        digest: Hash of both, the same in any process.
    """

    means: NDArray[np.float64] = field(compare=False, repr=False)
    deviations: NDArray[np.float64] = field(compare=False, repr=False)
    digest: str

    @classmethod
    def of(cls, means: NDArray[np.float64], deviations: NDArray[np.float64]) -> Self:
        """Return the scaling by some means and deviations, (d,) float64 each."""
        return cls(means, deviations, sha256(means.tobytes() + deviations.tobytes()).hexdigest())

    @np.errstate(over="ignore", invalid="ignore")
    def standardized(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return (n, d) rows less the means, divided by the deviations, in the dtype of the rows.

        Each value is computed in float64 and rounded once. Values that are not finite stay so.
        """
        scaled = np.empty(rows.shape, rows.dtype)
        size = max(1, _VALUES_AT_ONCE // rows.shape[1])
        for start in range(0, len(rows), size):
            block = rows[start : start + size].astype(np.float64)
            block -= self.means
            block /= self.deviations
            scaled[start : start + size] = block
        return scaled

    def original(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return (n, d) standardized rows in the units that they had before, float64."""
        return rows * self.deviations + self.means
