"""The schedule of a fit: which batches make an iteration, and whether counts survive it.

Full batch and both kinds of mini-batch are the same algorithm under three schedules (`lloyd`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dkmeans.data.batches import Batch


@dataclass(frozen=True, slots=True)
class Schedule:
    """Number of steps in an iteration, and whether counts survive it.

    Attributes:
        steps_per_iteration: Number of steps that are accumulated before the centers are updated.
        keeps_counts: True if a center's count survives the iteration. The center is then the mean
            of all rows ever assigned to it, and of its initial position if `counts_first`.
        counts_first: True if the initial position counts as one row, as in TensorFlow but not in
            scikit-learn.
    """

    steps_per_iteration: int
    keeps_counts: bool
    counts_first: bool = True

    @classmethod
    def full_batch(cls) -> Schedule:
        """Return the schedule in which every batch is the whole data set."""
        return cls(1, keeps_counts=False)

    @classmethod
    def mini_batch(cls, steps_per_iteration: int, *, counts_first: bool = True) -> Schedule:
        """Return the schedule of mini-batches.

        With one step per iteration the centers are running means. With several steps an iteration
        is one update of Lloyd's algorithm over the rows of its steps.
        """
        return cls(steps_per_iteration, steps_per_iteration == 1, counts_first)

    @property
    def first_count(self) -> int:
        """Count of a center before the first step."""
        return int(self.keeps_counts and self.counts_first)

    def iterations(
        self, batches: Iterator[Batch], pending_steps: int, limit: int | None
    ) -> Iterator[tuple[Batch, ...]]:
        """Yield the batches of each iteration.

        Args:
            batches: All batches, one per step.
            pending_steps: Number of steps that the first iteration has completed already.
            limit: Largest number of steps; None for no limit.

        Yields:
            The batches of one iteration. The last iteration may be incomplete, if the batches end
            or the limit is reached within it.
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
