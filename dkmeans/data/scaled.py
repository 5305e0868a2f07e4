"""Scaled rows: the view that standardizes rows by the scaling of a model, on the workers.

`Dataset.scaled` puts this view above all others, so that whatever reads rows for a model gets
standardized ones (docs/decisions/030).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import DTypeLike

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.points import as_points, point_dtype
from dkmeans.data.views import RowView
from dkmeans.scaling import Scaling


@dataclass(frozen=True, slots=True)
class ScaledRows(RowView):
    """The rows of a source, standardized.

    Attributes:
        scaling: Means and deviations of the columns.
    """

    scaling: Scaling

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.source.width

    @property
    def dtype(self) -> DTypeLike:
        """Dtype in which the rows of the source are computed."""
        return point_dtype(self.source.dtype)

    @property
    def key(self) -> Hashable | None:
        """Key of the source and of the scaling: standardized rows are cached in place of others."""
        return None if self.source.key is None else (self.scaling.digest, self.source.key)

    def read(self, start: int, stop: int) -> Any:
        """Return these rows, standardized."""
        # Not `load`, which would cache the rows of the source beside the standardized ones.
        rows = as_points(Chunk(self.source, start, stop).values(), self.name)
        return self.scaling.standardized(rows)


def scaled(batch: Batch, scaling: Scaling) -> Batch:
    """Return the rows of a batch, standardized."""
    return batch.with_view(partial(ScaledRows, scaling=scaling))
