"""The values that travel: frozen, and all there is to know of a fit at rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import repeat
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]
IndexArray = NDArray[np.int64]


class StopReason(Enum):
    """Why a call of `train` ended, each with the sentence shown to people."""

    CONVERGED = "converged: the loss changed by less than the relative tolerance"
    SETTLED = "converged: no center moves any more"
    MAX_STEPS = "took all the steps it was asked for"
    END_OF_INPUT = "the input ended"
    STOPPED = "a hook asked to stop"
    INTERRUPTED = "interrupted"

    @property
    def converged(self) -> bool:
        """Whether more steps over the same rows would be to no purpose."""
        return self in (StopReason.CONVERGED, StopReason.SETTLED)


class Monoid(Protocol):
    """A value that can be added to another of its kind, in any grouping."""

    def __add__(self, other: Self, /) -> Self: ...


M = TypeVar("M", bound=Monoid)


def fold(parts: Iterable[M], sizes: Iterable[int] = repeat(1)) -> M:
    """Add up `parts` in a binary tree whose shape depends on their number alone.

    The tree splits at the largest power of two below the number of parts. So what was folded of
    aligned runs of 2^j parts, for any j that may differ from run to run, folds to the same bits
    as the parts themselves; only the last run may be shorter.

    Args:
        parts: What to add up, in order.
        sizes: Of how many parts each is the fold already.

    Raises:
        ValueError: there is nothing to add.
    """
    stack: list[tuple[int, M]] = []
    for part, size in zip(parts, sizes, strict=False):
        while stack and stack[-1][0] == size:
            size, part = 2 * size, stack.pop()[1] + part
        stack.append((size, part))
    if not stack:
        raise ValueError("fold needs at least one part")
    total = stack.pop()[1]
    while stack:
        total = stack.pop()[1] + total
    return total


@dataclass(frozen=True, slots=True, eq=False)
class PartialSums:
    """What some rows say to the centers: a monoid under `+`.

    Attributes:
        sums: (k, d) float64, the sum of the rows that each center won.
        counts: (k,) int64, how many it won.
        inertia: The sum of the rows' distances to the centers that won them.
    """

    sums: FloatArray
    counts: IndexArray
    inertia: float

    def __add__(self, other: PartialSums) -> PartialSums:
        return PartialSums(
            self.sums + other.sums, self.counts + other.counts, self.inertia + other.inertia
        )

    @classmethod
    def zero(cls, shape: tuple[int, int]) -> PartialSums:
        """The sums of no rows, for centers of this (k, d) shape."""
        return cls(np.zeros(shape), np.zeros(shape[0], np.int64), 0.0)


@dataclass(frozen=True, slots=True)
class Score:
    """How well fixed centers fit some rows: a monoid under `+`."""

    rows: int
    inertia: float

    def __add__(self, other: Score) -> Score:
        return Score(self.rows + other.rows, self.inertia + other.inertia)


@dataclass(frozen=True, slots=True, eq=False)
class TrainState:
    """Everything there is to save of a fit.

    Attributes:
        centers: (k, d) in the data's dtype: the master copy.
        counts: (k,) int64, the rows each center stands for: those it won in the last whole
            iteration, or, where counts survive iterations, one and all it ever won.
        step: How many steps have been completed since initialization.
        pending: The sums of the current iteration's steps so far; None between iterations.
        pending_steps: How many steps those are.
        inertia: The loss of the last whole iteration: summed over its steps, before its update.
        empty_clusters: How many centers won no row in the last whole iteration.
        losses: The loss of each step that this call has taken of the iteration, this one last. Not
            saved.
        rows: How many rows those steps went over. Not saved.
    """

    centers: FloatArray
    counts: IndexArray
    step: int = 0
    pending: PartialSums | None = None
    pending_steps: int = 0
    inertia: float | None = None
    empty_clusters: int = 0
    losses: tuple[float, ...] = ()
    rows: int = 0
