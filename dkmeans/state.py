"""The values that travel between workers, driver and checkpoints: frozen, and added up by `+`.

Workers compute the `PartialSums` of their chunks, executors add them up, and `lloyd.update` makes
the next `TrainState` of a start from the total. Values that are added up are exact monoids: `a + b`
is the value of the rows of both, and neither the order nor the grouping of additions changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from itertools import islice
from operator import add
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dkmeans.exact import ExactSums
from dkmeans.exact_grid import Grid
from dkmeans.exact_total import NOTHING, ExactTotal
from dkmeans.float_pairs import FloatArray, IndexArray

__all__ = ["FloatArray", "IndexArray"]  # of `float_pairs`, for the modules above this one


class StopReason(Enum):
    """Reasons for which a start or a call of `train` ends; the value is the text for users."""

    CONVERGED = "converged: the loss changed by less than the relative tolerance"
    UNCHANGED = "converged: no center moves any more"
    STILL = "converged: the centers moved by no more than the tolerance"
    MAX_STEPS = "took all the steps it was asked for"
    END_OF_INPUT = "the input ended"
    STOPPED = "a hook asked to stop"
    INTERRUPTED = "interrupted"

    # The name of UNCHANGED in earlier checkpoints.
    SETTLED = UNCHANGED

    @property
    def converged(self) -> bool:
        """True if the start ended because further steps would change little or nothing."""
        return self in (StopReason.CONVERGED, StopReason.UNCHANGED, StopReason.STILL)


class Cached(Protocol):
    """A result about some rows that a worker caches: cheaper to store than to compute again."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        ...


class Monoid(Protocol):
    """A value that can be added to another one of its kind, in any grouping."""

    def __add__(self, other: Self, /) -> Self: ...


M = TypeVar("M", bound=Monoid)


class Growing:
    """Base of monoids of several parts, some of which may be added up in place."""

    __slots__ = ()

    def __add__(self, other: Any) -> Self:
        return self._plus(other, add)

    def plus_in_place(self, other: Any) -> Self:
        """Return the sum in the memory of this value, which must be the result of `+`."""
        return self._plus(other, grown)

    def _plus(self, other: Any, plus: Callable[[Any, Any], Any]) -> Self:
        raise NotImplementedError


def on_host(value: M) -> M:
    """Return a value in the memory of the host.

    Called before a value leaves the thread that computed it. Sums that were added up on a GPU are
    copied to the host. Other sums are compacted for sending, and are writable afterwards.
    """
    move = getattr(value, "on_host", None)
    return value if move is None else cast(M, move())


def sum_up(parts: Iterable[M]) -> M:
    """Return the sum of `parts`, of which there is at least one.

    From the second addition on, the total grows in place where its type can do that: to get fresh
    memory takes several times as long as to add.

    Raises:
        TypeError: there are no parts.
    """
    rest = iter(parts)
    total = reduce(add, islice(rest, 2))
    for part in rest:
        total = grown(total, part)
        # Without this, sums of large centers stay in memory while the next ones are computed.
        del part
    return total


def grown(total: M, part: M) -> M:
    """Return `total + part`, in the memory of `total` if its type can do that.

    Nothing else may use `total`: its value may change.
    """
    grow = getattr(total, "plus_in_place", None)
    return total + part if grow is None else cast(M, grow(part))


@dataclass(frozen=True, slots=True, eq=False)
class Farthest:
    """The distinct rows that are farthest from their nearest centers: a monoid under `+`.

    Rows are in descending order of distance, and of equal distance by their bytes. Which rows these
    are depends on the rows alone, not on the chunks or the order in which they come. Equal rows are
    one entry with the number of copies. That number is exact: a chunk that has a copy of one of the
    farthest rows of all has that row among its own farthest rows too.

    Attributes:
        rows: (m, d) float64, m <= `most`: what one copy of each row adds to its center's sum.
        distances: (m,) float64, the distance to the nearest center.
        clusters: (m,) int64, the nearest center.
        copies: (m,) int64, the number of equal rows.
        most: Largest number of distinct rows.
        weights: (m, 1), the sum of the weights of the equal rows; None if every row has the weight
            one.
    """

    rows: FloatArray
    distances: FloatArray
    clusters: IndexArray
    copies: IndexArray
    most: int
    weights: ExactSums | None = None

    @classmethod
    def among(
        cls,
        rows: FloatArray,
        distances: FloatArray,
        clusters: IndexArray,
        copies: IndexArray,
        most: int,
        weights: ExactSums | None = None,
    ) -> Self:
        """Return the farthest of some rows, which come in any order and may be equal."""
        rows = np.ascontiguousarray(rows) + 0.0  # makes -0.0 and 0.0 the same bytes
        bits = rows.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0]
        order = np.argsort(bits, kind="stable")
        order = order[np.argsort(-distances[order], kind="stable")]
        bits, distance = bits[order], distances[order]
        is_new = np.ones(len(order), bool)
        is_new[1:] = (bits[1:] != bits[:-1]) | (distance[1:] != distance[:-1])
        firsts = np.flatnonzero(is_new)
        kept = order[firsts[:most]]
        totals = np.add.reduceat(copies[order], firsts) if len(firsts) else copies
        if weights is not None:
            weights = weights.gathered(order, firsts)
            weights = weights.gathered(np.arange(len(kept)), np.arange(len(kept)))
        return cls(rows[kept], distances[kept], clusters[kept], totals[:most], most, weights)

    def __len__(self) -> int:
        return len(self.distances)

    def __add__(self, other: Farthest) -> Farthest:
        has_weights = self.weights is not None or other.weights is not None
        weights = self.row_weights.followed_by(other.row_weights) if has_weights else None
        return Farthest.among(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.distances, other.distances]),
            np.concatenate([self.clusters, other.clusters]),
            np.concatenate([self.copies, other.copies]),
            self.most,
            weights,
        )

    @property
    def row_weights(self) -> ExactSums:
        """(m, 1), the weight of the equal rows; their number if rows have no weights."""
        return ExactSums.of_counts(self.copies) if self.weights is None else self.weights


@dataclass(frozen=True, slots=True, eq=False)
class PartialSums(Growing):
    """Contribution of some rows to the next centers: a monoid under `+`.

    All parts are exact, so the value is a property of the rows and the centers alone.

    Attributes:
        sums: The sum of the rows assigned to each center; for cosine, of their directions.
        counts: (k,) int64, the number of those rows.
        squares: Sum of the squared lengths of all rows; zero for cosine. The loss follows from it
            (`loss.inertia`).
        farthest: The farthest rows; None if they are not needed.
        weights: (k, 1), the sum of the weights of the rows of each center; None if every row has
            the weight one. With weights, each row in `sums` and each squared length in `squares` is
            multiplied by the weight of the row.
    """

    sums: ExactSums
    counts: IndexArray
    squares: ExactTotal = NOTHING
    farthest: Farthest | None = None
    weights: ExactSums | None = None

    @property
    def cluster_weights(self) -> ExactSums:
        """(k, 1), the weight of the rows of each center; their number if rows have no weights."""
        return ExactSums.of_counts(self.counts) if self.weights is None else self.weights

    @property
    def totals(self) -> NDArray[Any]:
        """(k,) `cluster_weights`, rounded to float64; int64 if all are then small whole numbers."""
        return self.counts if self.weights is None else self.weights.rounded()[:, 0]

    @property
    def total(self) -> float:
        """Sum of the weights of all rows; their number if rows have no weights."""
        return float(self.counts.sum() if self.weights is None else self.weights.total())

    @property
    def means(self) -> FloatArray:
        """(k, d) float64, the means of the rows of each center, correctly rounded."""
        return self.sums.means(self.cluster_weights)

    def _plus(self, other: Any, plus: Callable[[Any, Any], Any]) -> PartialSums:
        if not isinstance(other, PartialSums):
            other = on_host(other)  # a GPU's sums: another chunk was computed on the processor
        farthest = self.farthest or other.farthest
        if self.farthest is not None and other.farthest is not None:
            farthest = self.farthest + other.farthest
        has_weights = self.weights is not None or other.weights is not None
        return PartialSums(
            plus(self.sums, other.sums),
            self.counts + other.counts,
            self.squares + other.squares,
            farthest,
            self.cluster_weights + other.cluster_weights if has_weights else None,
        )

    def on_host(self) -> PartialSums:
        """Return the same sums, compacted (`ExactSums.compacted`)."""
        return replace(self, sums=self.sums.compacted())

    @classmethod
    def zero(cls, shape: tuple[int, int]) -> PartialSums:
        """Return the sums of no rows, for centers of this (k, d) shape."""
        return cls(ExactSums.zero(shape), np.zeros(shape[0], np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class SideBySide(Growing, Generic[M]):
    """Several values, each added to its counterpart: a monoid under `+`."""

    parts: tuple[M, ...]

    def _plus(self, other: SideBySide[M], plus: Callable[[M, M], M]) -> SideBySide[M]:
        return SideBySide(tuple(map(plus, self.parts, other.parts)))

    def on_host(self) -> SideBySide[M]:
        """Return the same values in the memory of the host."""
        return SideBySide(tuple(map(on_host, self.parts)))


@dataclass(frozen=True, slots=True)
class Score:
    """Loss of fixed centers over some rows: a monoid under `+`.

    Attributes:
        weight: Sum of the weights of the rows: their number, if every row has the weight one.
        total: Sum of the rows' distances to their nearest centers, each times the row's weight.
    """

    weight: ExactTotal = NOTHING
    total: ExactTotal = NOTHING

    @property
    def inertia(self) -> float:
        """Sum of the rows' distances to their nearest centers, rounded once."""
        return float(self.total)

    @property
    def mean_distance(self) -> float:
        """Mean distance of a row to its nearest center; 0 if there are no rows."""
        return self.inertia / (float(self.weight) or 1.0)

    def __add__(self, other: Score) -> Score:
        return Score(self.weight + other.weight, self.total + other.total)


@dataclass(frozen=True, slots=True, eq=False)
class TrainState:
    """State of one start. Checkpoints save it, except for the attributes marked "not saved".

    Attributes:
        centers: (k, d) in the dtype of the data: the master copy.
        counts: (k,), the number of rows that each center is the mean of: rows of the last whole
            iteration. If counts survive iterations: all of its rows so far, plus
            `Schedule.first_count` for the first position of the center. A row of the weight w
            counts as w rows. Rounded to float64; int64 if all rounded counts are small whole
            numbers, with or without weights.
        step: Number of steps completed since initialization.
        pending: Sums of the steps of an unfinished iteration; None between iterations.
        pending_steps: Number of those steps.
        inertia: Loss of the last whole iteration, summed over its steps, before its update.
        inertia_rows: Number of rows that this loss is the sum over, or the sum of their weights.
        empty_clusters: Number of centers without rows in the last whole iteration.
        relocated_clusters: Number of those centers that were relocated.
        losses: Losses of the steps that the last call of `lloyd.iterate` has taken. Not saved.
        mean_distance: Mean distance of a row to its nearest center in the last of these steps. Not
            saved.
        rows: Number of rows of those steps. Not saved.
        means: (k, d) float64, the centers before they were rounded to float32, if they are float32
            and counts survive iterations; else None.
        grid: Grid of the sums of the last iteration, for the next one. Not saved.
        epoch_centers: (k, d), the centers at the start of the epoch, with which those at its end
            are compared if there is a `ShiftTolerance`; else None. Saved within an epoch only.
    """

    centers: FloatArray
    counts: NDArray[Any]
    step: int = 0
    pending: PartialSums | None = None
    pending_steps: int = 0
    inertia: float | None = None
    inertia_rows: float = 0
    empty_clusters: int = 0
    relocated_clusters: int = 0
    losses: tuple[float, ...] = ()
    mean_distance: float = 0.0
    rows: int = 0
    means: FloatArray | None = None
    grid: Grid | None = None
    epoch_centers: FloatArray | None = None

    def as_saved(self) -> TrainState:
        """Return the state without what is not saved."""
        return replace(self, losses=(), mean_distance=0.0, rows=0, grid=None)
