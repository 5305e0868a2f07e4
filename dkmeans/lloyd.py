"""The algorithm (Lloyd, Least squares quantization in PCM, 1982), on one page.

Full batch and both kinds of mini-batch are one loop: `accumulate` the steps of an iteration against
the same centers, then `update` the centers. They differ in which batches make an iteration and in
whether counts outlive it, which is all that a `Schedule` says. Several starts go over the same
chunks side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dkmeans.backends import select
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import in_memory
from dkmeans.distance import Centers, Distance, project
from dkmeans.empty_clusters import EmptyClusters, fill, sums_and_farthest
from dkmeans.executors import Executor
from dkmeans.schedule import Schedule
from dkmeans.state import PartialSums, SideBySide, TrainState


@dataclass(frozen=True, slots=True)
class Rules:
    """How centers move.

    Attributes:
        distance: By which distance rows choose among them.
        schedule: When they move, and whether they remember.
        empty_clusters: What becomes of those that no row has chosen.
        backend: The name of the backend that does the work; None leaves it to each worker.
    """

    distance: Distance
    schedule: Schedule
    empty_clusters: EmptyClusters = EmptyClusters.KEEP
    backend: str | None = None


def accumulate(chunk: Chunk, centers: Centers, *, farthest: bool = False) -> PartialSums:
    """The E step, on a worker: what a chunk's rows say to the centers.

    Args:
        chunk: The rows.
        centers: The centers.
        farthest: Whether to say too which rows are the farthest.

    Raises:
        InvalidData: rows that cannot be read, are not as wide as the centers, or not finite.
    """
    points = chunk.load(centers.width)
    say = sums_and_farthest if farthest else select(centers.backend).partial_sums
    sums = say(points, centers)
    if not math.isfinite(sums.inertia):
        raise chunk.complaint(points)
    return sums


@dataclass(frozen=True, slots=True, eq=False)
class Starts:
    """The centers of several starts, and whether their farthest rows are wanted."""

    centers: tuple[Centers, ...]
    farthest: bool


def accumulate_each(chunk: Chunk, starts: Starts) -> SideBySide[PartialSums]:
    """The E step of several starts: the chunk is read once.

    Raises:
        InvalidData: as `accumulate` does.
    """
    chunk = in_memory(chunk, starts.centers[0].width)
    return SideBySide(
        tuple(accumulate(chunk, each, farthest=starts.farthest) for each in starts.centers)
    )


def update(state: TrainState, rules: Rules) -> TrainState:
    """The M step: move each center to the mean of its rows; one that won none stays.

    Or it is relocated, and begins anew at its row, as the first centers did at theirs.

    Raises:
        InvalidData: clusters are empty, and must not be.
    """
    if state.pending is None:
        return state
    won, keeps = state.pending.counts, rules.schedule.keeps_counts
    before = state.counts if keeps else np.zeros_like(won)
    empty = np.flatnonzero(before + won <= keeps)
    sums, begun = fill(empty, state.pending, rules.empty_clusters, state.step)
    weight = np.where(begun, 0, before)
    centers = state.centers.astype(np.float64)
    means = weight[:, None] * centers + sums.sums
    means /= np.maximum(weight + sums.counts, 1)[:, None]
    means = means if keeps else project(means, rules.distance)
    moved = np.where(sums.counts[:, None] > 0, means, centers).astype(state.centers.dtype)
    return replace(
        state,
        centers=moved,
        counts=weight + sums.counts + begun * keeps,
        pending=None,
        pending_steps=0,
        inertia=sums.inertia,
        inertia_rows=int(won.sum()),
        empty_clusters=int(np.count_nonzero(won == 0)),
        relocated_clusters=int(np.count_nonzero(begun)),
    )


def iterate(
    states: Sequence[TrainState], batches: Sequence[Batch], rules: Rules, executor: Executor
) -> Iterator[list[TrainState]]:
    """One iteration of several starts: the state of each after every step.

    The steps are computed together. After the last the centers have moved, or sums are pending.

    Raises:
        InvalidData: the rows cannot be clustered, or as `update` does.
    """
    centers = tuple(Centers(state.centers, rules.distance, rules.backend) for state in states)
    starts = Starts(centers, rules.empty_clusters is EmptyClusters.RELOCATE)
    steps = executor.map_reduce(accumulate_each, batches, starts)
    states = [replace(state, losses=(), rows=0) for state in states]
    # One after the other, so that stopping between any two and going on gives the same bits.
    for step in steps:
        own = zip(states, step.parts, strict=True)
        states = [_after(state, sums, rules) for state, sums in own]
        yield states


def _after(state: TrainState, sums: PartialSums, rules: Rules) -> TrainState:
    state = replace(
        state,
        pending=sums if state.pending is None else state.pending + sums,
        pending_steps=state.pending_steps + 1,
        step=state.step + 1,
        losses=(*state.losses, sums.inertia),
        rows=state.rows + int(sums.counts.sum()),
    )
    whole = state.pending_steps == rules.schedule.steps_per_iteration
    return update(state, rules) if whole else state


def converged(previous: TrainState, state: TrainState, relative_tolerance: float | None) -> bool:
    """Whether the loss of a whole iteration changed by too little to go on."""
    if relative_tolerance is None or previous.inertia is None or state.inertia is None:
        return False
    if state.pending is not None:  # the loss is still that of the iteration before
        return False
    change = abs(state.inertia - previous.inertia) / (1 + abs(previous.inertia))
    return change < relative_tolerance
