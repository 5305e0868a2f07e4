"""The algorithm (Lloyd, Least squares quantization in PCM, 1982), on one page.

Full batch and both kinds of mini-batch are one loop: `accumulate` the steps of an iteration against
the same centers, then `update` the centers. They differ in which batches make an iteration and in
whether counts outlive it, which is all that a `Schedule` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from dkmeans.backends import select
from dkmeans.batches import Batch
from dkmeans.chunks import Chunk
from dkmeans.distance import Centers, Distance, project
from dkmeans.executors import Executor
from dkmeans.schedule import Schedule
from dkmeans.state import PartialSums, TrainState


def accumulate(chunk: Chunk, centers: Centers) -> PartialSums:
    """The E step, on a worker: what a chunk's rows say to the centers.

    Raises:
        InvalidData: rows that cannot be read, are not as wide as the centers, or not finite.
    """
    points = chunk.load(centers.width)
    sums = select(centers.backend).partial_sums(points, centers)
    if not math.isfinite(sums.inertia):
        raise chunk.complaint(points)
    return sums


def update(state: TrainState, distance: Distance, schedule: Schedule) -> TrainState:
    """The M step: move each center to the mean of its rows; one that won none stays."""
    if state.pending is None:
        return state
    won = state.pending.counts
    weight = state.counts if schedule.keeps_counts else np.zeros_like(won)
    centers = state.centers.astype(np.float64)
    means = weight[:, None] * centers + state.pending.sums
    means /= np.maximum(weight + won, 1)[:, None]
    means = means if schedule.keeps_counts else project(means, distance)
    moved = np.where(won[:, None] > 0, means, centers).astype(state.centers.dtype)
    return replace(
        state,
        centers=moved,
        counts=weight + won,
        pending=None,
        pending_steps=0,
        inertia=state.pending.inertia,
        empty_clusters=int(np.count_nonzero(won == 0)),
    )


def iterate(
    state: TrainState,
    iterations: Iterable[tuple[Batch, ...]],
    distance: Distance,
    schedule: Schedule,
    executor: Executor,
    backend: str | None = None,
) -> Iterator[TrainState]:
    """The state after each step; those of an iteration are computed together."""
    for batches in iterations:
        centers = Centers(state.centers, distance, backend)
        steps = executor.map_reduce(accumulate, batches, centers)
        state = replace(state, losses=(), rows=0)
        # One after the other, so that stopping between any two and going on gives the same bits.
        for sums in steps:
            state = _add(state, sums)
            if state.pending_steps == schedule.steps_per_iteration:
                state = update(state, distance, schedule)
            yield state


def _add(state: TrainState, sums: PartialSums) -> TrainState:
    return replace(
        state,
        pending=sums if state.pending is None else state.pending + sums,
        pending_steps=state.pending_steps + 1,
        step=state.step + 1,
        losses=(*state.losses, sums.inertia),
        rows=state.rows + int(sums.counts.sum()),
    )


def converged(previous: TrainState, state: TrainState, relative_tolerance: float | None) -> bool:
    """Whether the loss of a whole iteration changed by too little to go on."""
    if relative_tolerance is None or previous.inertia is None or state.inertia is None:
        return False
    if state.pending is not None:  # the loss is still that of the iteration before
        return False
    change = abs(state.inertia - previous.inertia) / (1 + abs(previous.inertia))
    return change < relative_tolerance
