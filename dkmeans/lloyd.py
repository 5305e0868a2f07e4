"""The algorithm (Lloyd, Least squares quantization in PCM, 1982), on one page.

Full batch and both kinds of mini-batch are one loop: `accumulate` the steps of an iteration against
the same centers (E), then `update` the centers (M). They differ in the number of batches of an
iteration, and in whether counts are kept after it: a `Schedule` holds both. Several starts are
trained side by side over the same chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import select, select_processor
from dkmeans.backends.weighted import weighted_squares
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import Centers, Computation, Distance, inertia, project, squared_norms
from dkmeans.empty_clusters import EmptyClusters, fill, sums_and_farthest
from dkmeans.errors import InvalidData
from dkmeans.exact_total import NOTHING, ExactTotal
from dkmeans.executors import Executor, Reduction
from dkmeans.grid import NotFinite
from dkmeans.schedule import Schedule
from dkmeans.skipping import by_bounds, by_movement
from dkmeans.state import FloatArray, PartialSums, SideBySide, TrainState

# A squared distance between rows is at most this many times the larger of their squared lengths.
_DISTANCE_OF_SQUARES = 4.0
# If the squares of all rows add up to less than this, no row is too long.
_SURELY_FINITE = float(np.finfo(np.float64).max) / (2 * _DISTANCE_OF_SQUARES)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules by which centers are computed.

    Attributes:
        computation: The distance, and the backend that computes it.
        schedule: When centers are updated, and whether their counts survive.
        empty_clusters: What happens to a center without rows.
        counts_first: True if the initial position of a center counts as one row, where counts are
            kept: as in TensorFlow, not in scikit-learn.
    """

    computation: Computation
    schedule: Schedule
    empty_clusters: EmptyClusters = EmptyClusters.KEEP
    counts_first: bool = True

    @property
    def first_count(self) -> int:
        """Count of a center before the first step."""
        return int(self.schedule.keeps_counts and self.counts_first)


@dataclass(frozen=True, slots=True, eq=False)
class StartCenters:
    """Centers of several starts, as sent to the workers.

    Attributes:
        centers: Centers of each start.
        with_farthest: True if the farthest rows are needed, to relocate empty clusters.
        with_squares: True if the squares of the rows are not known yet.
        with_bounds: True if the chunks are the same in each iteration, so that bounds of their rows
            save time.
    """

    centers: tuple[Centers, ...]
    with_farthest: bool
    with_squares: bool
    with_bounds: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(each.nbytes for each in self.centers)


@dataclass(frozen=True, slots=True)
class ShiftTolerance:
    """Largest shift of the centers at which a start has converged.

    Attributes:
        total: Sum of the squared shifts of all centers.
        steps: Number of steps over which the shift is measured: those of an epoch.
    """

    total: float
    steps: int = 1

    def holds(self, before: TrainState, after: TrainState) -> bool:
        """Return whether the squared shifts of all centers add up to at most `total`."""
        shifts = after.centers.astype(np.float64)
        shifts -= before.centers
        return float(np.square(shifts, out=shifts).sum()) <= self.total


def accumulate(
    loaded: LoadedChunk,
    centers: Centers,
    *,
    with_farthest: bool = False,
    with_squares: bool = True,
    start: int | None = None,
) -> PartialSums:
    """Return the partial sums of one chunk (the E step). Runs on a worker.

    Args:
        loaded: The chunk with its rows.
        centers: The centers.
        with_farthest: True if the farthest rows are needed too.
        with_squares: True if the squares of the rows are needed too.
        start: Number of the start, if the chunk is the same in each iteration; else None.

    Raises:
        InvalidData: the rows are not as wide as the centers, or not finite.
    """
    points, weights = loaded.of_width(centers.width), loaded.weights
    if not len(points):  # none of the rows has a weight
        return PartialSums.zero(centers.values.shape)
    backend = select(centers.backend)
    try:
        squares = squares_of(points, centers, weights) if with_squares else NOTHING
        if with_farthest:  # which needs all distances
            sums = sums_and_farthest(points, centers, weights)
        elif weights is None:
            functions = backend.sums_by_bounds, backend.partial_sums
            sums = by_bounds(loaded, points, centers, start, *functions)
        else:
            lookups = backend.nearest_by_bounds, backend.nearest_index
            index = by_bounds(loaded, points, centers, start, *lookups)
            sums = by_movement(loaded, points, weights, index, centers, start)
    except NotFinite:
        raise loaded.complaint() from None
    return replace(sums, squares=squares)


def squares_of(
    points: FloatArray, centers: Centers, weights: FloatArray | None = None
) -> ExactTotal:
    """Return the sum of the squares of all values of the (n, d) rows; zero for cosine.

    The loss needs it.

    With weights, each square counts times the weight of its row, which is above 0. Whether a row is
    refused depends on the row alone, not on the chunk.

    Raises:
        NotFinite: a value is not finite, or a row is so long that squared distances may overflow.
    """
    if centers.distance is Distance.COSINE:
        return NOTHING
    backend = select(centers.backend)
    if weights is None:
        squares, least = backend.squares(points), 1.0
    else:
        squares, least = weighted_squares(backend, points, weights), float(weights.min())
    if float(squares) > min(1.0, least) * _SURELY_FINITE and _has_too_long_row(points):
        raise NotFinite
    return squares


@np.errstate(over="ignore")
def _has_too_long_row(points: FloatArray) -> bool:
    lengths = squared_norms(points.astype(np.float64))
    return not np.isfinite(_DISTANCE_OF_SQUARES * lengths).all()


def accumulate_starts(loaded: LoadedChunk, starts: StartCenters) -> SideBySide[PartialSums]:
    """Return the partial sums of one chunk for each start. Runs on a worker.

    Raises:
        InvalidData: as `accumulate` does.
    """
    parts: list[PartialSums] = []
    for number, centers in enumerate(starts.centers):
        sums = accumulate(
            loaded,
            centers,
            with_farthest=starts.with_farthest,
            with_squares=starts.with_squares and not parts,
            start=number if starts.with_bounds else None,
        )
        # All starts have the same rows, and so the same squares.
        parts.append(replace(sums, squares=parts[0].squares) if parts else sums)
    return SideBySide(tuple(parts))


def update(state: TrainState, rules: Rules) -> TrainState:
    """Return the state after an iteration, each center moved to the mean of its rows (the M step).

    A center without rows (if counts are kept: without rows since the first step) stays or is
    relocated, by `rules.empty_clusters`. If counts are kept, the old center has the weight of its
    count in the new mean, and a relocated center starts with the first count plus the rows moved to
    it. Rows with weights count as their weights do.

    Raises:
        InvalidData: clusters are empty, and the rules forbid that.
    """
    if state.pending is None:
        return state
    assigned, keeps_counts = state.pending.counts, rules.schedule.keeps_counts
    before = state.counts if keeps_counts else np.zeros_like(assigned)
    # A center that still has its first count has had no rows since the first step.
    empty = np.flatnonzero((before <= rules.first_count) & (assigned == 0))
    sums, relocated = fill(empty, state.pending, rules.empty_clusters, state.step)
    weight, totals = np.where(relocated, 0, before), sums.totals
    share = totals / np.where(sums.counts > 0, weight + totals, 1) if keeps_counts else None
    centers = np.empty_like(state.centers)
    keeps_means = keeps_counts and centers.dtype != np.float64
    means = np.empty(centers.shape) if keeps_means else centers
    backend = select_processor(rules.computation.backend)
    # Some clusters at a time: float64 copies of large centers would be most of the memory.
    for some, of_some in sums.sums.pieces():
        of_rows = of_some.means(sums.cluster_weights.clusters(some), backend.quotients)
        is_used = sums.counts[some] > 0
        means[some] = _moved_centers(state, of_rows, is_used, share, rules, some)
        centers[some] = means[some]
    # After a single step the loss is known.
    is_known = state.pending_steps == 1 and state.losses
    loss = state.losses[-1] if is_known else _loss(state, state.pending, rules)
    return replace(
        state,
        centers=centers,
        means=means if keeps_means else None,
        counts=weight + totals + relocated * rules.first_count,
        pending=None,
        pending_steps=0,
        grid=state.pending.sums.grid,
        inertia=loss,
        inertia_rows=totals.sum().item(),
        # Centers without rows in this iteration. `empty` differs if counts are kept: it holds
        # centers without rows since the first step.
        empty_clusters=int(np.count_nonzero(assigned == 0)),
        relocated_clusters=int(np.count_nonzero(relocated)),
    )


def _moved_centers(
    state: TrainState,
    means: FloatArray,
    is_used: NDArray[np.bool_],
    share: FloatArray | None,
    rules: Rules,
    some: slice,
) -> FloatArray:
    """Return where some of the centers move to, float64.

    Args:
        state: The state before.
        means: The means of the rows of these clusters, float64.
        is_used: True for each of them that has rows.
        share: (k,) weight of the iteration's rows in each new mean, if counts are kept; else None.
        rules: Rules by which centers are computed.
        some: The clusters.
    """
    before = (state.centers if state.means is None else state.means)[some].astype(np.float64)
    if share is not None:
        # As in TensorFlow's estimator, running means are not scaled to length one (cosine).
        means = before + share[some, None] * (means - before)
    else:
        means = project(means, rules.computation.distance)
    # A center without rows has no mean.
    return np.where(is_used[:, None], means, before)


def iterate(
    states: Sequence[TrainState],
    batches: Sequence[Batch],
    rules: Rules,
    executor: Executor,
    squares: ExactTotal | None = None,
    *,
    with_bounds: bool = False,
) -> Iterator[tuple[list[TrainState], Reduction[SideBySide[PartialSums]]]]:
    """Take the steps of one iteration, or a part of it, for several starts.

    All steps are computed together. After the last step of a whole iteration the centers have
    moved; before that, and after an incomplete iteration, the states have pending sums.

    Args:
        states: State of each start.
        batches: The batch of each step.
        rules: Rules by which centers are computed.
        executor: Where the steps are computed.
        squares: Sum of the squares of the rows of each batch; None if it is not known.
        with_bounds: True if every iteration of this call of `train` has the same batch, `numbered`.

    Yields:
        The states after a step, and the reduction of all `batches`, the same object each time.

    Raises:
        InvalidData: the rows cannot be clustered, or `update` raises it.
    """
    centers = tuple(rules.computation.centers(state.centers, state.grid) for state in states)
    relocates = rules.empty_clusters is EmptyClusters.RELOCATE
    # With bounds, most distances are not known. The farthest rows are then looked for only if there
    # are empty clusters, which is rare.
    starts = StartCenters(centers, relocates and not with_bounds, squares is None, with_bounds)
    reduction = executor.map_reduce(accumulate_starts, batches, starts)
    if relocates and with_bounds and _has_empty_clusters(reduction.totals):
        again = executor.map_reduce(accumulate_starts, batches, replace(starts, with_farthest=True))
        reduction = replace(again, cost=reduction.cost + again.cost)
    # `losses` and `rows` are of the steps of this call only.
    states = [replace(state, losses=(), rows=0) for state in states]
    for step in reduction.totals:
        parts = step.parts
        if squares is not None:
            parts = tuple(replace(sums, squares=squares) for sums in parts)
        pairs = zip(states, parts, strict=True)
        states = [_after_step(state, sums, rules) for state, sums in pairs]
        yield states, reduction


def _has_empty_clusters(totals: Sequence[SideBySide[PartialSums]]) -> bool:
    return any((sums.counts == 0).any() for step in totals for sums in step.parts)


def _after_step(state: TrainState, sums: PartialSums, rules: Rules) -> TrainState:
    loss = _loss(state, sums, rules)
    state = replace(
        state,
        pending=sums if state.pending is None else state.pending + sums,
        pending_steps=state.pending_steps + 1,
        step=state.step + 1,
        losses=(*state.losses, loss),
        mean_distance=loss / (sums.total or 1),
        rows=state.rows + int(sums.counts.sum()),
    )
    is_whole = state.pending_steps == rules.schedule.steps_per_iteration
    return update(state, rules) if is_whole else state


def _loss(state: TrainState, sums: PartialSums, rules: Rules) -> float:
    """Return the loss of the state's centers over the rows of `sums`.

    Raises:
        InvalidData: float64 cannot hold it.
    """
    backend = select_processor(rules.computation.backend)
    loss = inertia(sums, rules.computation.centers(state.centers), backend.terms)
    if not math.isfinite(loss):
        raise InvalidData(
            "rows and centers are too far apart, or too large, for squared distances to be finite; "
            "scale the columns, or the weights, first"
        )
    return loss


def converged(
    loss_before: float | None,
    state: TrainState,
    relative_tolerance: float | None,
    offset: float = 1.0,
) -> bool:
    """Return True if the loss of a whole iteration changed less than the tolerance, or not at all.

    Args:
        loss_before: Loss of the whole iteration before; None if there is none to compare with.
        state: State after the iteration.
        relative_tolerance: Change of the loss, relative to `offset` + the loss before, below which
            a start has converged; None for no tolerance.
        offset: 1 as in TensorFlow; with 0 the unit of the rows does not matter.
    """
    if relative_tolerance is None or loss_before is None or state.inertia is None:
        return False
    if state.pending is not None:  # unfinished: `inertia` is that of the iteration before
        return False
    change, scale = abs(state.inertia - loss_before), offset + abs(loss_before)
    return change == 0 or (scale > 0 and change / scale < relative_tolerance)
