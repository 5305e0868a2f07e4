"""Which batches make an iteration, and what is left of it for the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dkmeans.data.batches import Batch


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many steps are accumulated before they are synced to the master copy.

    Attributes:
        steps_per_iteration: That number.
        keeps_counts: Whether a center's count survives the iteration and weighs against the rows
            to come, so that its center is the mean of all it ever won, its first place included.
    """

    steps_per_iteration: int
    keeps_counts: bool

    @classmethod
    def full_batch(cls) -> Schedule:
        """Every batch is treated as the whole data set."""
        return cls(1, keeps_counts=False)

    @classmethod
    def mini_batch(cls, steps_per_iteration: int) -> Schedule:
        """One step to the iteration: running means. Several: an iteration is one Lloyd update."""
        return cls(steps_per_iteration, keeps_counts=steps_per_iteration == 1)

    def iterations(
        self, batches: Iterator[Batch], pending_steps: int, limit: int | None
    ) -> Iterator[tuple[Batch, ...]]:
        """Deal batches into iterations; the first completes one that has `pending_steps` already.

        The last may stay incomplete, when the batches or the `limit` of steps ends within it.
        """
        left = limit
        while True:
            wanted = self.steps_per_iteration - pending_steps
            taken = tuple(islice(batches, wanted if left is None else min(wanted, left)))
            if not taken:
                return
            left = None if left is None else left - len(taken)
            pending_steps = 0
            yield taken
