"""The values that travel: frozen, and all there is to know of a fit at rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import repeat
from operator import add
from typing import Any, Generic, Protocol, Self, TypeVar

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
class Farthest:
    """The different rows that are farthest from the centers that won them: a monoid under `+`.

    Farther rows come first, and equally far ones in the order of their bytes: which rows these are
    is a property of the rows alone, however they are cut into chunks and in whatever order they
    come. Equal rows are one, with its number of copies, which is exact: whoever sees a copy of a
    row that is among the farthest of all sees it among its own farthest.

    Attributes:
        rows: (m, d) float64, m <= `most`: what a copy of each adds to its center's sum.
        distances: (m,) float64, their distances.
        clusters: (m,) int64, the centers that won them.
        copies: (m,) int64, how many rows each is.
        most: How many different rows are kept.
    """

    rows: FloatArray
    distances: FloatArray
    clusters: IndexArray
    copies: IndexArray
    most: int

    @classmethod
    def among(
        cls,
        rows: FloatArray,
        distances: FloatArray,
        clusters: IndexArray,
        copies: IndexArray,
        most: int,
    ) -> Self:
        """The farthest of some rows, in any order, of which some may be equal."""
        rows = np.ascontiguousarray(rows) + 0.0  # -0.0 is 0.0
        bits = rows.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0]
        order = np.argsort(bits, kind="stable")
        order = order[np.argsort(-distances[order], kind="stable")]
        bits, distance = bits[order], distances[order]
        is_new = np.ones(len(order), bool)
        is_new[1:] = (bits[1:] != bits[:-1]) | (distance[1:] != distance[:-1])
        firsts = np.flatnonzero(is_new)
        chosen = order[firsts[:most]]
        totals = np.add.reduceat(copies[order], firsts) if len(firsts) else copies
        return cls(rows[chosen], distances[chosen], clusters[chosen], totals[:most], most)

    def __len__(self) -> int:
        return len(self.distances)

    def __add__(self, other: Farthest) -> Farthest:
        return Farthest.among(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.distances, other.distances]),
            np.concatenate([self.clusters, other.clusters]),
            np.concatenate([self.copies, other.copies]),
            self.most,
        )


@dataclass(frozen=True, slots=True, eq=False)
class PartialSums:
    """What some rows say to the centers: a monoid under `+`.

    Attributes:
        sums: (k, d) float64, the sum of the rows that each center won.
        counts: (k,) int64, how many it won.
        inertia: The sum of the rows' distances to the centers that won them.
        farthest: The rows that are farthest; None where nobody asked for them.
    """

    sums: FloatArray
    counts: IndexArray
    inertia: float
    farthest: Farthest | None = None

    def __add__(self, other: PartialSums) -> PartialSums:
        farthest = self.farthest or other.farthest
        if self.farthest is not None and other.farthest is not None:
            farthest = self.farthest + other.farthest
        return PartialSums(
            self.sums + other.sums,
            self.counts + other.counts,
            self.inertia + other.inertia,
            farthest,
        )

    @classmethod
    def zero(cls, shape: tuple[int, int]) -> PartialSums:
        """The sums of no rows, for centers of this (k, d) shape."""
        return cls(np.zeros(shape), np.zeros(shape[0], np.int64), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class SideBySide(Generic[M]):
    """Values of one kind, each added to its counterpart: a monoid under `+`."""

    parts: tuple[M, ...]

    def __add__(self, other: SideBySide[M]) -> SideBySide[M]:
        return SideBySide(tuple(map(add, self.parts, other.parts)))


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
        inertia_rows: How many rows that loss is of.
        empty_clusters: How many centers won no row in the last whole iteration.
        relocated_clusters: How many of these were given one of the farthest rows.
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
    inertia_rows: int = 0
    empty_clusters: int = 0
    relocated_clusters: int = 0
    losses: tuple[float, ...] = ()
    rows: int = 0
