"""The algorithm (Lloyd, Least squares quantization in PCM, 1982), on one page.

Full batch and both kinds of mini-batch are one loop. An iteration adds up the rows of its steps,
cluster by cluster (E, `partial_sums`), and then moves the centers (M, `update`). Schedules differ
in the number of batches in an iteration, and in whether the counts of the centers survive an
iteration (`schedule`). Several starts are trained side by side over the same chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import select_processor
from dkmeans.data.batches import Batch
from dkmeans.distance import Computation, project
from dkmeans.empty_clusters import EmptyClusters, fill
from dkmeans.errors import InvalidData
from dkmeans.exact_total import ExactTotal
from dkmeans.executors import Executor, Reduction
from dkmeans.loss import inertia
from dkmeans.partial_sums import StartCenters, accumulate_starts
from dkmeans.schedule import Schedule
from dkmeans.state import FloatArray, PartialSums, SideBySide, TrainState


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules by which centers are computed.

    Attributes:
        computation: The distance, and the backend that computes it.
        schedule: When centers are updated, and whether their counts survive.
        empty_clusters: What happens to a center without rows.
    """

    computation: Computation
    schedule: Schedule
    empty_clusters: EmptyClusters = EmptyClusters.KEEP


def update(state: TrainState, rules: Rules) -> TrainState:
    """Return the state after an iteration, each center moved to the mean of its rows (the M step).

    A center without rows (if counts survive: without rows since the first step) stays or is
    relocated, by `rules.empty_clusters`. If counts survive, the old center has the weight of its
    count in the new mean, and a relocated center starts with the first count plus the rows moved to
    it. A row of the weight w counts as w rows.

    Raises:
        InvalidData: clusters are empty, and the rules forbid that; or the loss is not finite.
    """
    if state.pending is None:
        return state
    assigned, keeps_counts = state.pending.counts, rules.schedule.keeps_counts
    before = state.counts if keeps_counts else np.zeros_like(assigned)
    # A center that still has its first count has had no rows since the first step.
    empty = np.flatnonzero((before <= rules.schedule.first_count) & (assigned == 0))
    sums, relocated = fill(empty, state.pending, rules.empty_clusters, state.step)
    weight, totals = np.where(relocated, 0, before), sums.totals
    share = totals / np.where(sums.counts > 0, weight + totals, 1) if keeps_counts else None
    centers = np.empty_like(state.centers)
    keeps_means = keeps_counts and centers.dtype != np.float64
    means = np.empty(centers.shape) if keeps_means else centers
    backend = select_processor(rules.computation.backend)
    # Some clusters at a time: float64 copies of large centers would be most of the memory.
    for piece, piece_sums in sums.sums.pieces():
        row_means = piece_sums.means(sums.cluster_weights.clusters(piece), backend.quotients)
        is_used = sums.counts[piece] > 0
        means[piece] = _moved_centers(state, row_means, is_used, share, rules, piece)
        centers[piece] = means[piece]
    # The loss of an iteration of one step is that of the step.
    is_known = state.pending_steps == 1 and state.losses
    loss = state.losses[-1] if is_known else _loss(state, state.pending, rules)
    return replace(
        state,
        centers=centers,
        means=means if keeps_means else None,
        counts=weight + totals + relocated * rules.schedule.first_count,
        pending=None,
        pending_steps=0,
        grid=state.pending.sums.grid,
        inertia=loss,
        inertia_rows=totals.sum().item(),
        # Centers without rows in this iteration. `empty` differs if counts survive: it holds
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
    """Return the new positions of some centers, float64, by the float64 means of their rows.

    `is_used` is True for each of these that has rows. `share` is the weight of the iteration's rows
    in each new mean, (k,), if counts survive; else None.
    """
    before = (state.centers if state.means is None else state.means)[some].astype(np.float64)
    if share is not None:
        # As in TensorFlow's estimator, running means are not scaled to length one (cosine).
        part = share[some, None]
        # Of a center that has no rows yet, or is relocated, `means` itself: the sum would round it.
        means = np.where(part == 1, means, before + part * (means - before))
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
    numbers: tuple[int, ...] | None = None,
) -> Iterator[tuple[list[TrainState], Reduction[SideBySide[PartialSums]]]]:
    """Take the steps of one iteration, or a part of it, for several starts.

    All steps are computed together. After the last step of a whole iteration the centers have
    moved; before that, and after an incomplete iteration, the states have pending sums.

    Args:
        states: State of each start.
        batches: The batch of each step.
        rules: Rules by which centers are computed.
        executor: Where the steps are computed.
        squares: Sum of the squares of the rows, if it is known and all batches have the same rows;
            else None.
        numbers: Number of each start in its fit, by which workers find its cached bounds; None for
            no bounds. Bounds need the same batch, `numbered`, in every iteration of this call of
            `train`.

    Yields:
        The states after a step, and the reduction of all `batches`, the same object each time.

    Raises:
        InvalidData: the rows cannot be clustered, or `update` raises it.
    """
    centers = tuple(rules.computation.centers(state.centers, state.grid) for state in states)
    relocates = rules.empty_clusters is EmptyClusters.RELOCATE
    # Bounds skip most distances, and the farthest rows need all of them. So with bounds a second
    # reduction finds the farthest rows, only if clusters are empty, which is rare.
    with_bounds = numbers is not None
    starts = StartCenters(centers, relocates and not with_bounds, squares is None, numbers)
    reduction = executor.map_reduce(accumulate_starts, batches, starts)
    if relocates and with_bounds and _has_empty_clusters(reduction.totals):
        again = executor.map_reduce(accumulate_starts, batches, replace(starts, with_farthest=True))
        reduction = replace(again, cost=reduction.cost + again.cost)
    # `losses` and `rows` are of the steps that this call of `iterate` takes.
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
