"""Restarts: several starts of one fit, which are begun one after another and trained side by side.

`training` calls `first_starts` for a new model, and `iteration` for each iteration. All starts take
part in each read of the rows. `fit.Fit.best` says which of them is the model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dkmeans.data.batches import Batch
from dkmeans.exact_total import ExactTotal
from dkmeans.executors import Executor, Reduction
from dkmeans.fit import Fit, Start
from dkmeans.lloyd import iterate
from dkmeans.state import TrainState
from dkmeans.training_plan import Plan

logger = logging.getLogger("dkmeans")


def first_starts(
    plan: Plan, batches: Iterator[Batch], rows: int | None, executor: Executor
) -> tuple[Fit, Iterator[Batch]]:
    """Return a fit whose starts have their first centers, and all batches.

    The batches that the search for centers has read come again: training needs them too.

    Raises:
        InvalidData: the rows cannot be used, or are too few.
    """
    starts: list[Start] = []
    for number in range(plan.num_restarts):
        logger.info("finding the first centers%s", f" of start {number}" if number else "")
        initialization = plan.initialization.of_start(number)
        centers, batches = initialization.find(batches, rows, executor)
        counts = np.full(len(centers), plan.settings.schedule.first_count, np.int64)
        starts.append(Start(TrainState(centers, counts)))
    return Fit(tuple(starts)), batches


def iteration(
    plan: Plan,
    fit: Fit,
    batches: Sequence[Batch],
    executor: Executor,
    squares: ExactTotal | None,
    *,
    with_bounds: bool = False,
) -> Iterator[tuple[Fit, Reduction[Any]]]:
    """Yield the fit after each step of an iteration of the running starts.

    Raises:
        RuntimeError: the main thread has ended, so no thread can be started to save the fit.
    """
    if not threading.main_thread().is_alive():
        raise RuntimeError("cannot train after the main thread has ended")
    states = [fit.starts[number].state for number in fit.running]
    # Cached bounds are found by the number of a start in the fit. Its place among the running
    # starts would change when another start ends.
    numbers = fit.running if with_bounds else None
    iterating = iterate(states, batches, plan.rules, executor, squares, numbers)
    for moved, reduction in iterating:
        fit = _moved(fit, dict(zip(fit.running, moved, strict=True)))
        yield fit, reduction


def _moved(fit: Fit, moved: dict[int, TrainState]) -> Fit:
    """Return the fit after a step, by the new states of running starts; others only count it."""
    starts = list(fit.starts)
    for number, start in enumerate(fit.starts):
        state = moved.get(number) or replace(start.state, step=start.state.step + 1)
        starts[number] = replace(start, state=state, steps=start.steps + (number in moved))
    return Fit(tuple(starts))
