"""One call of `train`: its iterations, when they stop, and what is saved and reported on the way.

The estimator makes a `Plan` and calls `train`. The algorithm itself is in `lloyd`; this module
drives it step by step, notifies hooks, and has checkpoints saved (`saving`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from dkmeans import checkpoints
from dkmeans.checkpoints import Checkpoint, Manifest, Stop
from dkmeans.continuing import save_origin
from dkmeans.convergence import with_epoch_centers, with_epoch_stop_reasons, with_stop_reasons
from dkmeans.data.batches import Batch
from dkmeans.data.dataset import Dataset
from dkmeans.data.epochs import changed
from dkmeans.data.sources.memory import owned
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.errors import Conflict, counted
from dkmeans.executors import Executor, Reduction
from dkmeans.fit import Fit
from dkmeans.hooks.notifier import Notifier
from dkmeans.initialization import of_dtype
from dkmeans.interrupts import noticed_interrupts
from dkmeans.preflight import center_scale_remarks, examine
from dkmeans.report import IterationCost, Progress, report_progress
from dkmeans.restarts import first_starts, iteration
from dkmeans.saving import FitSaver
from dkmeans.state import StopReason, TrainState
from dkmeans.training_plan import Plan

logger = logging.getLogger("dkmeans")


def train(
    plan: Plan,
    dataset: Dataset,
    fit: Fit | None,
    manifest: Manifest,
    executor: Executor,
    notifier: Notifier,
) -> Checkpoint | None:
    """Train until a limit, convergence, a hook or the end of the input, and save the last state.

    Args:
        plan: What to do.
        dataset: The batches to train on.
        fit: The fit to continue; None finds the first centers.
        manifest: Manifest of the model, as read together with the fit.
        executor: Where the work is done.
        notifier: Notifies hooks and listeners.

    Returns:
        The checkpoint that was saved at the end; None if the centers would not have moved.

    Raises:
        ValueError: the rows cannot be clustered.
        Conflict: another driver trains in the same directory.
        Outage: storage or the cluster is lost. A checkpoint is saved first, if that is possible.
        KeyboardInterrupt: after a checkpoint, if training has begun.
        Exception: raised by a hook or listener. The state after the last checkpoint is not saved.
    """
    _report_missing_limits(plan, dataset)
    notifier.begin()
    checkpoints.prepare(plan.model_dir)
    # `FitSaver` also removes what crashed drivers left in the directory.
    with (
        FitSaver(plan, manifest, fit, notifier) as saver,
        noticed_interrupts() as raise_if_interrupted,
    ):
        return _train(plan, dataset, fit, executor, notifier, saver, raise_if_interrupted)


def _train(
    plan: Plan,
    dataset: Dataset,
    fit: Fit | None,
    executor: Executor,
    notifier: Notifier,
    saver: FitSaver,
    raise_if_interrupted: Callable[[], None],
) -> Checkpoint | None:
    """Train with a saver, as `train` describes."""
    batches = _examined_batches(plan, dataset, executor)
    logger.info("%s, on %s", counted(plan.initialization.num_clusters, "cluster"), executor)
    if fit is None:
        fit, batches = first_starts(plan, batches, dataset.rows, executor)
        for remark in center_scale_remarks(fit.state.centers, plan.settings.columns):
            logger.warning("%s", remark)
        saver.save(fit)
        # After the save: if two drivers begin the same model, `save` has refused the second one.
        save_origin(plan)
    else:
        batches = of_dtype(batches, fit.state.centers.dtype, "the continued model's")
        logger.info("continuing from step %d", fit.step)
        notifier.checkpoint_time = time.time()  # the model on storage is as new as that in memory
        with notifier.saving(fit.state):
            pass  # only to notify the listeners: the checkpoint was saved by an earlier call
    notifier.created(fit.state)
    first_step = fit.step
    # Not for an input that has an end: such a call takes at least one step, even if no center would
    # move.
    if plan.may_be_unchanged and dataset.is_endless and _has_same_rows(plan, dataset):
        is_unchanged, batches = _is_unchanged(plan, fit, batches, executor)
        if is_unchanged:
            notifier.end()
            _report_end(plan, fit, StopReason.UNCHANGED, first_step)
            return None
    steps = _steps_until_stop(
        plan, dataset, batches, fit, executor, saver, notifier, raise_if_interrupted
    )
    try:
        # The loop variable is `fit` itself, so that `rescue` saves the last step that was yielded.
        for fit in steps:
            # The last state is saved below, with the reason why training stopped.
            if fit.running and fit.step != plan.last_step and saver.is_due(fit):
                saver.save_meanwhile(fit)
            notifier.after_run()
        reason = _stop_reason(plan, fit, notifier)
        saved = saver.save(fit, Stop(reason, plan.relative_tolerance))
    except Conflict:  # another driver's checkpoint must not be overwritten
        raise
    except BaseException:
        # After an error in a hook nothing is saved, as documented (docs/decisions/011).
        if not notifier.hook_failed:
            saver.rescue(fit)
        raise
    notifier.end()
    for sentence in fit.describe():
        logger.info("%s", sentence)
    _report_end(plan, fit, reason, first_step)
    return saved


def _has_same_rows(plan: Plan, dataset: Dataset) -> bool:
    """Return whether every iteration has the same rows."""
    return dataset.is_constant and not plan.settings.use_mini_batch


def _report_missing_limits(plan: Plan, dataset: Dataset) -> None:
    """Log, before the first step, that a call has no limit; warn if nothing at all can end it."""
    # With the same rows in every iteration, a call ends by itself when no center moves any more.
    if plan.describe_limits() or _has_same_rows(plan, dataset) or not dataset.is_endless:
        return
    if plan.has_hooks:
        logger.info("the input has no end: only a hook or listener can end this call")
        return
    logger.warning(
        "nothing will end this call of train, because its input has no end: give it steps, "
        "max_steps or a hook that stops, or give KMeans a relative_tolerance"
    )


def _report_end(plan: Plan, fit: Fit, reason: StopReason, first_step: int) -> None:
    """Log why a call ended; warn if the input ended before a limit, or if clusters are empty."""
    # A call without limits that took no step gets "a first step" as its limit: the warning that
    # follows is then logged. It is not logged for a call without limits that took steps.
    steps = fit.step - first_step
    limits = plan.describe_limits() or ("" if steps else "a first step")
    if reason is StopReason.END_OF_INPUT and limits:
        logger.warning(
            "the input ended after %s of this call, at step %d, before %s was reached%s",
            counted(steps, "step"),
            fit.step,
            limits,
            "; Dataset.repeat() makes an input that does not end" if steps else "",
        )
    else:
        logger.info("%s at step %d", reason.value, fit.step)
    if fit.pending_steps >= steps > 0:  # all steps of this call are in one unfinished iteration
        # Short calls may be intended. An input that is shorter than an iteration is not.
        level = logging.WARNING if reason is StopReason.END_OF_INPUT else logging.INFO
        logger.log(
            level,
            "no center has moved in this call: step %d of the %d of an iteration is done "
            "(mini_batch_steps_per_iteration), and the next call continues it",
            fit.pending_steps,
            plan.settings.schedule.steps_per_iteration,
        )
    empty, k = _empty_clusters(plan, fit.state), len(fit.state.centers)
    if empty:
        keeps = plan.settings.schedule.keeps_counts
        when = "since the first step" if keeps else "in the last iteration"
        remedy = "train fewer clusters"
        if plan.empty_clusters is EmptyClusters.KEEP:
            remedy = f"give empty_clusters={str(EmptyClusters.RELOCATE)!r}, or {remedy}"
        logger.warning("%d of %s got no rows %s: %s", empty, counted(k, "cluster"), when, remedy)


def _empty_clusters(plan: Plan, state: TrainState) -> int:
    """Return the number of centers without rows that were not relocated.

    It is 0 before the first whole iteration.
    """
    if state.inertia is None:
        return 0
    schedule = plan.settings.schedule
    if schedule.keeps_counts:
        # A batch may be a small part of the rows. A center that still has its first count has had
        # no rows since the first step.
        return int(np.count_nonzero(state.counts <= schedule.first_count))
    return state.empty_clusters - state.relocated_clusters


def _examined_batches(plan: Plan, dataset: Dataset, executor: Executor) -> Iterator[Batch]:
    """Return all batches, after logging what training needs from the machines."""
    batches = dataset.batches()
    first = next(batches, None)
    if first is None:
        return batches
    cache, names = plan.config.cache, dataset.columns
    preflight = examine(first, dataset.rows, executor, cache, dataset.chunk_bytes, names)
    for sentence in preflight.describe():
        logger.info("%s", sentence)
    for remark in preflight.remarks:
        logger.warning("%s", remark)
    return chain([first], batches)


def _steps_until_stop(
    plan: Plan,
    dataset: Dataset,
    batches: Iterator[Batch],
    fit: Fit,
    executor: Executor,
    saver: FitSaver,
    notifier: Notifier,
    raise_if_interrupted: Callable[[], None],
) -> Iterator[Fit]:
    """Yield the fit after each step.

    Two loops are nested, because the steps of an iteration are computed together. Hooks are still
    notified of each step in order: `before_run` of an iteration's first step comes before the
    computation, `before_run` of a later step after it. The caller notifies `after_run` between two
    steps, and may save there. Progress is reported after the last step of an iteration, and starts
    can converge only there. The loops end when no start is running, a hook asks to stop, the
    batches end or the last step is reached.
    """
    limit = None if plan.last_step is None else plan.last_step - fit.step
    schedule, numbered = plan.settings.schedule, changed(batches, Batch.numbered)
    # All batches of an iteration are in memory at once. An iterator may refill the array of a batch
    # for the next batch: such rows are copied.
    coming = map(owned, numbered) if schedule.steps_per_iteration > 1 else numbered
    iterations = schedule.iterations(coming, fit.pending_steps, limit)
    same_rows = _has_same_rows(plan, dataset)
    with_bounds = same_rows and dataset.is_in_order
    saver.take_seconds()  # drops the time of the opening checkpoint
    is_first, began = True, time.perf_counter()
    squares, shift = None, plan.shift_tolerance
    fit = with_epoch_centers(shift, fit)
    while not notifier.should_stop() and (step_batches := next(iterations, None)):
        raise_if_interrupted()  # Python drops an interrupt that arrives within a finalizer
        before = fit
        notifier.before_run(step_batches[0])
        steps = iteration(plan, before, step_batches, executor, squares, with_bounds=with_bounds)
        for number, (fit, reduction) in enumerate(steps):
            if number > 0:
                notifier.before_run(step_batches[number])
            notifier.set_values(fit.state)
            if number == len(step_batches) - 1:
                # Hooks and a checkpoint after the last step of an iteration, which run while this
                # generator waits at `yield`, count in the seconds of the next iteration.
                now = time.perf_counter()
                cost = _cost(fit, reduction, saver)
                progress = _progress(plan, fit, None if is_first else before, now - began, cost)
                saver.history.add(progress)
                notifier.progress = progress
                _report(plan, progress, is_first=is_first)
                limits = plan.relative_tolerance, plan.loss_offset
                fit = with_stop_reasons(before, fit, *limits, same_rows=same_rows)
                if shift is not None and fit.step % shift.steps == 0:
                    fit = with_epoch_stop_reasons(shift, fit)
                is_first, began = False, now
                # The squares of the same rows are the same: workers add them up only once. All
                # starts have the same rows, so those of any start will do.
                if same_rows and squares is None:
                    squares = reduction.totals[-1].parts[0].squares
            yield fit
            if not fit.running:
                return
            if notifier.should_stop():  # the steps computed after this one are dropped
                break
        # The sums are released before the next iteration: centers may be large.
        del reduction


def _stop_reason(plan: Plan, fit: Fit, notifier: Notifier) -> StopReason:
    """Return why training stopped."""
    reason = fit.starts[fit.best].reason
    if not fit.running and reason is not None:
        return reason
    if notifier.should_stop():
        return StopReason.STOPPED
    at_limit = plan.last_step is not None and fit.step >= plan.last_step
    return StopReason.MAX_STEPS if at_limit else StopReason.END_OF_INPUT


def _is_unchanged(
    plan: Plan, fit: Fit, batches: Iterator[Batch], executor: Executor
) -> tuple[bool, Iterator[Batch]]:
    """Return whether an iteration would leave all centers of all starts in place, and the batches.

    The batch that was read for the test is the first of the returned batches.
    """
    first = next(batches, None)
    if first is None:
        return False, batches
    ((moved, _),) = iteration(plan, fit, [first], executor, None)
    pairs = zip(fit.starts, moved.starts, strict=True)
    unmoved = all(np.array_equal(a.state.centers, b.state.centers) for a, b in pairs)
    return unmoved, chain([first], batches)


def _cost(fit: Fit, reduction: Reduction[Any], saver: FitSaver) -> IterationCost:
    """Return the cost of the iteration that led to this fit."""
    # All running starts have used the same rows.
    state, threads = fit.starts[fit.running[0]].state, reduction.threads
    distances = state.rows * len(state.centers) * len(fit.running)
    return IterationCost(
        bytes=state.rows * state.centers.shape[1] * state.centers.itemsize,
        read_seconds=reduction.cost.read_seconds / threads,
        compute_seconds=reduction.cost.compute_seconds / threads,
        checkpoint_seconds=saver.take_seconds(),
        workers=reduction.workers,
        threads=threads,
        retries=reduction.cost.retries,
        skipped=reduction.cost.skipped / max(1, distances),
    )


def _progress(
    plan: Plan, fit: Fit, before: Fit | None, seconds: float, cost: IterationCost
) -> Progress:
    """Return the progress of an iteration that led to `fit`; `before` is None in the first one."""
    state, previous = fit.state, before.starts[fit.best].state if before else None
    # `rows` and the number of steps are taken from a running start: the best start may have stopped
    # earlier, and then has those of an earlier iteration.
    running = fit.starts[fit.running[0]].state
    is_whole = state.pending is None
    # A whole iteration has set `inertia`; an incomplete one has only the losses of its steps.
    loss = sum(state.losses) if state.inertia is None or not is_whole else state.inertia
    change = None
    if is_whole and previous is not None and previous.inertia is not None:
        scale = plan.loss_offset + abs(previous.inertia)
        change = (loss - previous.inertia) / scale if scale else 0.0
    return Progress(
        step=state.step,
        last_step=plan.last_step,
        loss=loss,
        change=change,
        empty_clusters=state.empty_clusters if is_whole else 0,
        relocated_clusters=state.relocated_clusters if is_whole else 0,
        steps=len(running.losses),
        rows=running.rows,
        seconds=seconds,
        starts=len(fit.running),
        cost=cost,
    )


def _report(plan: Plan, progress: Progress, *, is_first: bool) -> None:
    """Log an iteration.

    It is notable if it is the first one of a call, or reaches a multiple of `log_step_count_steps`.
    """
    every, step = plan.config.log_step_count_steps, progress.step
    is_notable = is_first or step // every > (step - progress.steps) // every
    report_progress(progress, notable=is_notable)
