"""One call of `train`: the iterations, when they stop, and what is saved and said on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from dkmeans import checkpoints
from dkmeans.batches import Batch
from dkmeans.checkpoints import Head, Settings, Stop
from dkmeans.config import RunConfig
from dkmeans.dataset import Dataset
from dkmeans.errors import Conflict, Outage
from dkmeans.executors import Executor
from dkmeans.hooks.watch import Watch
from dkmeans.initialization import Initialization
from dkmeans.lloyd import converged, iterate
from dkmeans.preflight import examine
from dkmeans.report import Progress, logger, report_progress
from dkmeans.state import StopReason, TrainState


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call of `train` is to do.

    Attributes:
        model_dir: Where the model is kept.
        last_step: The step to stop at; None: whatever else stops it.
        relative_tolerance: The relative change of the loss below which it has converged.
    """

    model_dir: str
    settings: Settings
    initialization: Initialization
    last_step: int | None
    relative_tolerance: float | None
    config: RunConfig


def train(
    plan: Plan,
    dataset: Dataset,
    start: TrainState | None,
    head: Head,
    executor: Executor,
    watch: Watch,
) -> StopReason:
    """Train until something stops it; the state is saved then, whatever it was.

    Args:
        plan: What to do.
        dataset: The batches to do it on.
        start: The state to continue from; None finds the first centers.
        head: The model's head, as read with that state.
        executor: Where the work is done.
        watch: Whom to tell of it.

    Returns:
        Why it stopped.

    Raises:
        ValueError: the rows cannot be clustered.
        Conflict: another driver trains in the same directory.
        Outage: storage or the cluster is gone; after a checkpoint, where that can be written.
        KeyboardInterrupt: after a checkpoint.
        Exception: what a hook raises; the last checkpoint stands.
    """
    watch.begin()
    checkpoints.prepare(plan.model_dir)
    saver = _Saver(plan, head, start, watch)
    batches = _examined(plan, dataset, executor)
    logger.info("%d clusters, on %s", plan.initialization.num_clusters, executor)
    if start is None:
        logger.info("finding the first centers")
        centers, batches = plan.initialization.find(batches, dataset.rows, executor)
        counts = np.full(len(centers), int(plan.settings.schedule.keeps_counts), np.int64)
        start = TrainState(centers, counts)
        saver.save(start)
    else:
        logger.info("going on from step %d", start.step)
        with watch.saving(start):
            pass  # its checkpoint is there
    watch.created(start)
    state, reason = start, None
    try:
        for state, reason in _until_stopped(plan, dataset, batches, start, executor, watch):
            if reason is None and state.step != plan.last_step and saver.is_due(state):
                saver.save(state)
            watch.after_run()
        assert reason is not None
        saver.save(state, Stop(reason, plan.relative_tolerance))
    except Conflict:  # the other driver's checkpoint stands
        raise
    except BaseException:
        if not watch.failed:
            saver.rescue(state)
        raise
    watch.end()
    logger.info("%s at step %d", reason.value, state.step)
    return reason


def _examined(plan: Plan, dataset: Dataset, executor: Executor) -> Iterator[Batch]:
    """The batches, after saying what they will ask of the machines."""
    batches = dataset.batches()
    first = next(batches, None)
    if first is None:
        return batches
    found = examine(first, dataset.rows, executor, plan.config.cache)
    for sentence in found.describe():
        logger.info("%s", sentence)
    for remark in found.remarks:
        logger.warning("%s", remark)
    return chain([first], batches)


def _until_stopped(
    plan: Plan,
    dataset: Dataset,
    batches: Iterator[Batch],
    start: TrainState,
    executor: Executor,
    watch: Watch,
) -> Iterator[tuple[TrainState, StopReason | None]]:
    """The state after each step; at the end, perhaps once more, with the reason why it is one."""
    schedule, distance = plan.settings.schedule, plan.settings.distance_metric
    limit = None if plan.last_step is None else plan.last_step - start.step
    iterations = schedule.iterations(batches, start.pending_steps, limit)
    fixed = dataset.is_constant and not plan.settings.use_mini_batch
    previous: TrainState | None = None
    state, began = start, time.perf_counter()
    while not watch.should_stop() and (taken := next(iterations, None)):
        before, reason = state, None
        watch.before_run(taken[0])
        steps = iterate(before, [taken], distance, schedule, executor, plan.config.backend)
        for batch, state in zip(taken, steps, strict=True):
            watch.before_run(batch)
            watch.show(state, state.losses[-1])
            if state.step == before.step + len(taken):
                now = time.perf_counter()
                _report(plan, state, previous, now - began)
                reason = _rest(plan, before, previous, state, fixed=fixed)
                previous, began = state, now
            yield state, reason
            if reason is not None:
                return
            if watch.should_stop():
                break
    yield state, _end(plan, state, watch)


def _rest(
    plan: Plan, before: TrainState, previous: TrainState | None, state: TrainState, *, fixed: bool
) -> StopReason | None:
    """Why an iteration should be the last; `previous` is the one before it in this call."""
    if previous is not None and converged(previous, state, plan.relative_tolerance):
        return StopReason.CONVERGED
    if fixed and np.array_equal(before.centers, state.centers):
        return StopReason.SETTLED
    return None


def _end(plan: Plan, state: TrainState, watch: Watch) -> StopReason:
    """Why there are no more steps."""
    if watch.should_stop():
        return StopReason.STOPPED
    at_limit = plan.last_step is not None and state.step >= plan.last_step
    return StopReason.MAX_STEPS if at_limit else StopReason.END_OF_INPUT


def _report(plan: Plan, state: TrainState, previous: TrainState | None, seconds: float) -> None:
    whole = state.pending is None
    loss = state.inertia if whole and state.inertia else sum(state.losses)
    change = None
    if whole and previous is not None and previous.inertia is not None:
        change = (loss - previous.inertia) / (1 + abs(previous.inertia))
    every, steps = plan.config.log_step_count_steps, len(state.losses)
    progress = Progress(
        step=state.step,
        last_step=plan.last_step,
        loss=loss,
        change=change,
        empty_clusters=state.empty_clusters if whole else 0,
        steps=steps,
        rows=state.rows,
        seconds=seconds,
    )
    notable = previous is None or state.step // every > (state.step - steps) // every
    report_progress(progress, notable=notable)


class _Saver:
    """Saves states as often as the configuration says, and once at the end."""

    def __init__(self, plan: Plan, head: Head, start: TrainState | None, watch: Watch) -> None:
        self._plan = plan
        self._head = head
        self._watch = watch
        self._attempt, self._attempted_step = "", -1
        checkpoints.sweep(plan.model_dir, self._head)
        self._saved_at = time.monotonic()
        self._saved_step = start.step if start else None

    def is_due(self, state: TrainState) -> bool:
        config = self._plan.config
        if state.pending is not None or not config.saves_on_the_way:
            return False
        if config.save_checkpoints_steps is not None:
            return state.step - (self._saved_step or 0) >= config.save_checkpoints_steps
        return time.monotonic() - self._saved_at >= (config.save_checkpoints_secs or 0)

    def save(self, state: TrainState, stop: Stop | None = None) -> None:
        with self._watch.saving(state):
            self._write(state, stop)

    def _write(self, state: TrainState, stop: Stop | None) -> None:
        plan, keep = self._plan, self._plan.config.keep_checkpoint_max or 0
        self._attempt, self._attempted_step = checkpoints.new_name(state.step), state.step
        self._head = checkpoints.save(
            plan.model_dir, self._head, state, plan.settings, stop, keep, self._attempt
        )
        self._saved_at, self._saved_step = time.monotonic(), state.step

    def rescue(self, state: TrainState) -> None:
        """Save what has been computed before an error or an interrupt goes on its way."""
        if self._saved_step == state.step:
            return
        try:
            self._save_last(state)
        except Outage as error:  # which must not hide what stopped training
            logger.warning(
                "step %d cannot be saved, the last checkpoint is of step %s: %s",
                *(state.step, self._saved_step, error),
            )

    def _save_last(self, state: TrainState) -> None:
        now = Head.read(self._plan.model_dir)
        if now.latest == self._attempt:  # the interrupt came when the save was as good as done
            self._head = now
            if state.step == self._attempted_step:
                return
        self._write(state, Stop(StopReason.INTERRUPTED, self._plan.relative_tolerance))
        logger.info("stopped short; step %d is saved", state.step)
