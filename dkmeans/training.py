"""One call of `train`: the iterations, when they stop, and what is saved and said on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from dkmeans import checkpoints
from dkmeans.checkpoints import Manifest, Settings, Stop
from dkmeans.config import RunConfig
from dkmeans.data.batches import Batch
from dkmeans.data.dataset import Dataset
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.errors import Conflict, Outage
from dkmeans.executors import Executor
from dkmeans.fit import Fit, Start
from dkmeans.hooks.notifier import Notifier
from dkmeans.initialization import Initialization
from dkmeans.lloyd import Rules, converged, iterate
from dkmeans.preflight import examine
from dkmeans.report import Effort, Progress, logger, report_progress
from dkmeans.state import StopReason, TrainState


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call of `train` is to do.

    Attributes:
        model_dir: Where the model is kept.
        last_step: The step to stop at; None: whatever else stops it.
        relative_tolerance: The relative change of the loss below which it has converged.
        num_restarts: How many starts are trained side by side.
        empty_clusters: What becomes of centers that win no row.
    """

    model_dir: str
    settings: Settings
    initialization: Initialization
    last_step: int | None
    relative_tolerance: float | None
    config: RunConfig
    num_restarts: int = 1
    empty_clusters: EmptyClusters = EmptyClusters.KEEP

    @property
    def rules(self) -> Rules:
        """How centers move."""
        settings = self.settings
        backend = self.config.backend
        return Rules(settings.distance_metric, settings.schedule, self.empty_clusters, backend)


def train(
    plan: Plan,
    dataset: Dataset,
    fit: Fit | None,
    head: Manifest,
    executor: Executor,
    watch: Notifier,
) -> StopReason:
    """Train until something stops it; the state is saved then, whatever it was.

    Args:
        plan: What to do.
        dataset: The batches to do it on.
        fit: Where to continue from; None finds the first centers.
        head: The model's head, as read with that fit.
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
    saver = _Saver(plan, head, fit, watch)
    batches = _examined(plan, dataset, executor)
    logger.info("%d clusters, on %s", plan.initialization.num_clusters, executor)
    if fit is None:
        fit, batches = _begun(plan, batches, dataset.rows, executor)
        saver.save(fit)
    else:
        logger.info("going on from step %d", fit.step)
        with watch.saving(fit.state):
            pass  # its checkpoint is there
    watch.created(fit.state)
    start, reason = fit, None
    try:
        for fit, reason in _until_stopped(plan, dataset, batches, start, executor, saver, watch):
            if reason is None and fit.step != plan.last_step and saver.is_due(fit):
                saver.save(fit)
            watch.after_run()
        assert reason is not None
        saver.save(fit, Stop(reason, plan.relative_tolerance))
    except Conflict:  # the other driver's checkpoint stands
        raise
    except BaseException:
        if not watch.failed:
            saver.rescue(fit)
        raise
    watch.end()
    for sentence in fit.describe():
        logger.info("%s", sentence)
    logger.info("%s at step %d", reason.value, fit.step)
    return reason


def _begun(
    plan: Plan, batches: Iterator[Batch], rows: int | None, executor: Executor
) -> tuple[Fit, Iterator[Batch]]:
    """The first centers of each start, and all the batches."""
    starts: list[Start] = []
    for number in range(plan.num_restarts):
        logger.info("finding the first centers%s", f" of start {number}" if number else "")
        initialization = plan.initialization.of_start(number)
        centers, batches = initialization.find(batches, rows, executor)
        counts = np.full(len(centers), int(plan.settings.schedule.keeps_counts), np.int64)
        starts.append(Start(TrainState(centers, counts)))
    return Fit(tuple(starts)), batches


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
    fit: Fit,
    executor: Executor,
    saver: _Saver,
    watch: Notifier,
) -> Iterator[tuple[Fit, StopReason | None]]:
    """The fit after each step; at the end, perhaps once more, with the reason why it is one."""
    limit = None if plan.last_step is None else plan.last_step - fit.step
    iterations = plan.settings.schedule.iterations(batches, fit.pending_steps, limit)
    fixed = dataset.is_constant and not plan.settings.use_mini_batch
    saver.take_seconds()  # of what was saved before the first iteration
    first, began = True, time.perf_counter()
    while not watch.should_stop() and (taken := next(iterations, None)):
        previous = fit
        watch.before_run(taken[0])
        for batch, fit in zip(taken, _steps(plan, previous, taken, executor), strict=True):
            watch.before_run(batch)
            watch.show(fit.state)
            if fit.step == previous.step + len(taken):
                now = time.perf_counter()
                effort = _effort(fit, executor, saver)
                _report(plan, fit, None if first else previous, now - began, effort)
                fit = _rested(plan, previous, fit, first=first, fixed=fixed)
                first, began = False, now
            if not fit.running:
                yield fit, fit.starts[fit.best].reason
                return
            yield fit, None
            if watch.should_stop():
                break
    yield fit, _end(plan, fit, watch)


def _end(plan: Plan, fit: Fit, watch: Notifier) -> StopReason:
    """Why there are no more steps."""
    if watch.should_stop():
        return StopReason.STOPPED
    at_limit = plan.last_step is not None and fit.step >= plan.last_step
    return StopReason.MAX_STEPS if at_limit else StopReason.END_OF_INPUT


def _steps(plan: Plan, fit: Fit, batches: Sequence[Batch], executor: Executor) -> Iterator[Fit]:
    """The fit after each step of an iteration of the starts that go on."""
    states = [fit.starts[number].state for number in fit.running]
    for moved in iterate(states, batches, plan.rules, executor):
        fit = _moved(fit, dict(zip(fit.running, moved, strict=True)))
        yield fit


def _moved(fit: Fit, moved: dict[int, TrainState]) -> Fit:
    """The fit after a step in which these starts moved."""
    starts = list(fit.starts)
    for number, start in enumerate(fit.starts):
        state = moved.get(number) or replace(start.state, step=start.state.step + 1)
        starts[number] = replace(start, state=state, steps=start.steps + (number in moved))
    return Fit(tuple(starts))


def _rested(plan: Plan, previous: Fit, fit: Fit, *, first: bool, fixed: bool) -> Fit:
    """The fit, in which those starts go no further that have converged."""
    starts = list(fit.starts)
    for number in fit.running:
        before, state = previous.starts[number].state, fit.starts[number].state
        reason = None
        if not first and converged(before, state, plan.relative_tolerance):
            reason = StopReason.CONVERGED
        elif fixed and np.array_equal(before.centers, state.centers):
            reason = StopReason.SETTLED
        starts[number] = replace(fit.starts[number], reason=reason)
        if reason is not None and len(starts) > 1:
            logger.info("start %d %s at step %d", number, reason.value, state.step)
    return Fit(tuple(starts))


def _effort(fit: Fit, executor: Executor, saver: _Saver) -> Effort:
    """What the iteration has cost that led to this fit."""
    state, spent, threads = fit.starts[fit.running[0]].state, executor.spent, executor.threads
    return Effort(
        bytes=state.rows * state.centers.shape[1] * state.centers.itemsize,
        read_seconds=spent.read / threads,
        compute_seconds=spent.compute / threads,
        checkpoint_seconds=saver.take_seconds(),
        workers=executor.workers,
        threads=threads,
        retries=spent.retries,
    )


def _report(plan: Plan, fit: Fit, before: Fit | None, seconds: float, effort: Effort) -> None:
    state, previous = fit.state, before.starts[fit.best].state if before else None
    latest = fit.starts[fit.running[0]].state
    whole = state.pending is None
    loss = state.inertia if whole and state.inertia else sum(state.losses)
    change = None
    if whole and previous is not None and previous.inertia is not None:
        change = (loss - previous.inertia) / (1 + abs(previous.inertia))
    every, steps = plan.config.log_step_count_steps, len(latest.losses)
    progress = Progress(
        step=state.step,
        last_step=plan.last_step,
        loss=loss,
        change=change,
        empty_clusters=state.empty_clusters if whole else 0,
        relocated_clusters=state.relocated_clusters if whole else 0,
        steps=steps,
        rows=latest.rows,
        seconds=seconds,
        starts=len(fit.running),
        effort=effort,
    )
    notable = previous is None or state.step // every > (state.step - steps) // every
    report_progress(progress, notable=notable)


class _Saver:
    """Saves states as often as the configuration says, and once at the end."""

    def __init__(self, plan: Plan, head: Manifest, fit: Fit | None, watch: Notifier) -> None:
        self._plan = plan
        self._head = head
        self._watch = watch
        self._attempt, self._attempted_step = "", -1
        checkpoints.remove_orphans(plan.model_dir, self._head)
        self._saved_at = time.monotonic()
        self._saved_step = fit.step if fit else None
        self._seconds = 0.0

    def is_due(self, fit: Fit) -> bool:
        config = self._plan.config
        if fit.pending_steps or not config.saves_on_the_way:
            return False
        if config.save_checkpoints_steps is not None:
            return fit.step - (self._saved_step or 0) >= config.save_checkpoints_steps
        return time.monotonic() - self._saved_at >= (config.save_checkpoints_secs or 0)

    def save(self, fit: Fit, stop: Stop | None = None) -> None:
        with self._watch.saving(fit.state):
            self._write(fit, stop)

    def _write(self, fit: Fit, stop: Stop | None) -> None:
        plan, keep = self._plan, self._plan.config.keep_checkpoint_max or 0
        began = time.monotonic()
        self._attempt, self._attempted_step = checkpoints.new_name(fit.step), fit.step
        self._head = checkpoints.save(
            *(plan.model_dir, self._head, fit, plan.settings, stop, keep, self._attempt)
        )
        self._saved_at, self._saved_step = time.monotonic(), fit.step
        self._seconds += self._saved_at - began

    def take_seconds(self) -> float:
        """How long saving has taken since this was last asked."""
        taken, self._seconds = self._seconds, 0.0
        return taken

    def rescue(self, fit: Fit) -> None:
        """Save what has been computed before an error or an interrupt goes on its way."""
        if self._saved_step == fit.step:
            return
        try:
            self._save_last(fit)
        except Outage as error:  # which must not hide what stopped training
            logger.warning(
                "step %d cannot be saved, the last checkpoint is of step %s: %s",
                *(fit.step, self._saved_step, error),
            )

    def _save_last(self, fit: Fit) -> None:
        now = Manifest.read(self._plan.model_dir)
        if now.latest == self._attempt:  # the interrupt came when the save was as good as done
            self._head = now
            if fit.step == self._attempted_step:
                return
        self._write(fit, Stop(StopReason.INTERRUPTED, self._plan.relative_tolerance))
        logger.info("stopped short; step %d is saved", fit.step)
