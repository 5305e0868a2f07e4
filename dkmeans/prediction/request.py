"""What to write beside the cluster index of each row."""

from __future__ import annotations

from dataclasses import dataclass

from dkmeans.errors import Invalid
from dkmeans.prediction.per_chunk import (
    ALL_DISTANCES,
    CLUSTER_INDEX,
    DISTANCE,
    SECOND_DISTANCE,
    SECOND_INDEX,
    TOP_DISTANCES,
    TOP_INDICES,
)


@dataclass(frozen=True, slots=True)
class Request:
    """What to write beside the cluster index of each row.

    Attributes:
        distance: True to write the distance to the own center.
        second: True to write the next nearest center and the distance to it.
        top: Number of nearest centers to write, with the distances to them; 0 for none.
        transform: True to write the distances to all centers.
        keep: Names of columns of the input to write.
        partition_by: `cluster_index` to write a folder for each cluster; empty for none.
    """

    distance: bool = False
    second: bool = False
    top: int = 0
    transform: bool = False
    keep: tuple[str, ...] = ()
    partition_by: str = ""

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the results, in the order in which they are written."""
        groups = (
            ((CLUSTER_INDEX,), True),
            ((DISTANCE,), self.distance),
            ((SECOND_INDEX, SECOND_DISTANCE), self.second),
            ((TOP_INDICES, TOP_DISTANCES), self.top),
            ((ALL_DISTANCES,), self.transform),
        )
        return tuple(name for names, is_asked in groups if is_asked for name in names)

    def check(self, k: int) -> None:
        """Refuse to write more centers than there are.

        Raises:
            Invalid: there are too few centers.
        """
        if self.second and k < 2:
            raise Invalid(f"second must come with at least 2 clusters, got {k}")
        if self.top > k:
            raise Invalid(f"top must be at most the number of clusters, {k}, got {self.top}")


# Names of all results that can be written.
ALL_RESULTS = Request(distance=True, second=True, top=1, transform=True).results
