"""The saver of a call of `train`: writes checkpoints while training goes on.

`training` asks after each step whether a checkpoint is due, and saves the last state at the end, or
before an error is raised again.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context

from dkmeans import checkpoints, storage
from dkmeans.checkpoints import Checkpoint, Manifest, Stop
from dkmeans.errors import Conflict, Invalid, Outage
from dkmeans.fit import Fit
from dkmeans.history import History, News, write_history
from dkmeans.hooks.notifier import Notifier
from dkmeans.state import StopReason
from dkmeans.training_plan import Plan

logger = logging.getLogger("dkmeans")


class FitSaver(AbstractContextManager["FitSaver"]):
    """Saves a fit as often as the configuration says, and at the end of a call.

    A separate thread writes one checkpoint at a time, while training goes on. `_begin` waits for
    the previous write, and raises the error of a write that failed.

    Args:
        plan: What to do.
        manifest: Manifest of the model, as read together with the fit.
        fit: The fit that the call continues; None for a new one.
        notifier: Notifies listeners.

    Attributes:
        history: Numbers of the iterations, written with each checkpoint.
    """

    def __init__(self, plan: Plan, manifest: Manifest, fit: Fit | None, notifier: Notifier) -> None:
        self._plan = plan
        self._manifest = manifest
        self._notifier = notifier
        self._thread = ThreadPoolExecutor(1, "dkmeans-save")
        self._writing: Future[tuple[Manifest, News | None, int]] | None = None
        # Name and step of the last checkpoint that was begun.
        self._attempt, self._attempted_step = "", fit.step if fit else 0
        # Removed after the first save: until then another driver may still commit one of them.
        self._orphans = checkpoints.orphans(plan.model_dir, manifest)
        self._began_at = time.monotonic()
        self._saved_step = fit.step if fit else None
        self._seconds = 0.0
        self.history = History(plan.model_dir, fit.step if fit else 0)

    def __exit__(self, *error: object) -> None:
        # After an error in a hook a write may still be going on. It must not outlive `train`:
        # `exception` waits for the end of the write.
        if self._writing is not None and (failure := self._writing.exception()):
            logger.warning("step %d is not saved: %s", self._attempted_step, failure)
        self._thread.shutdown()

    def is_due(self, fit: Fit) -> bool:
        """Return True if a checkpoint is due: never within an iteration."""
        config = self._plan.config
        if fit.pending_steps or not config.saves_on_the_way:
            return False
        if config.save_checkpoints_steps is not None:
            return fit.step - self._attempted_step >= config.save_checkpoints_steps
        return time.monotonic() - self._began_at >= (config.save_checkpoints_secs or 0)

    def save(self, fit: Fit, stop: Stop | None = None) -> Checkpoint:
        """Save a checkpoint, and notify the listeners before and after."""
        with self._notifier.saving(fit.state):
            self._begin(fit, stop)
            self._finish()
        address = storage.join(self._plan.model_dir, self._attempt)
        return Checkpoint(address, fit.as_saved(), self._plan.settings, stop)

    def save_meanwhile(self, fit: Fit) -> None:
        """Begin to save a checkpoint while training goes on; with listeners, wait for the write."""
        with self._notifier.saving(fit.state):
            self._begin(fit, None)
            if self._notifier.has_listeners:
                self._finish()

    def _begin(self, fit: Fit, stop: Stop | None) -> None:
        """Wait for the end of the previous write, and begin to write a checkpoint."""
        self._finish()
        # Set before the write: an interrupt may come after the commit and before the write ends.
        self._attempt, self._attempted_step = checkpoints.new_name(fit.step), fit.step
        self._began_at = time.monotonic()
        orphans = self._orphans
        news, name, manifest = self.history.news(), self._attempt, self._manifest
        now = time.time()

        def write() -> tuple[Manifest, News | None, int]:
            plan, keep = self._plan, self._plan.config.keep_checkpoint_max or 0
            committed = checkpoints.save(
                plan.model_dir, manifest, fit, plan.settings, stop, keep, name
            )
            self._notifier.checkpoint_time = now
            for address in orphans:
                storage.remove(address)
            return committed, news, write_history(plan.model_dir, news) if news else 0

        self._writing = self._thread.submit(copy_context().run, write)

    def _finish(self) -> None:
        """Wait for the write that is going on, if there is one.

        Raises:
            Conflict, Outage, OSError: it has failed.
        """
        if self._writing is None:
            return
        began = time.monotonic()
        wait([self._writing])  # an interrupt ends the wait, not the write: `rescue` waits again
        self._seconds += time.monotonic() - began
        writing, self._writing = self._writing, None
        self._manifest, news, size = writing.result()
        self._orphans = []  # removed, as the write has not failed
        if news:
            self.history.note_written(news, size)
        self._saved_step = self._attempted_step

    def take_seconds(self) -> float:
        """Return the seconds that training has waited for checkpoints since the last such call."""
        taken, self._seconds = self._seconds, 0.0
        return taken

    def rescue(self, fit: Fit) -> None:
        """Save what has been computed, before an error or an interrupt is raised again.

        The checkpoint is marked as interrupted in both cases, unless all starts had ended.
        """
        try:
            # The failure of the previous write does not matter: `fit` is saved below.
            with suppress(Outage, *storage.WRITE_ERRORS):
                self._finish()
            if self._saved_step != fit.step:
                self._save_interrupted(fit)
        except (Conflict, Outage, Invalid, *storage.WRITE_ERRORS) as error:
            # Must not hide what stopped training.
            logger.warning(
                "step %d cannot be saved, the last checkpoint is of step %s: %s",
                fit.step,
                self._saved_step,
                error,
            )

    def _save_interrupted(self, fit: Fit) -> None:
        """Save a fit, unless the checkpoint that was begun last is of this step and committed."""
        current = Manifest.read(self._plan.model_dir)
        if current.latest == self._attempt:  # the interrupt came after the checkpoint was committed
            self._manifest = current
            # The committed step may be an earlier one; then this step is saved below.
            if fit.step == self._attempted_step:
                return
        # A fit that has ended is saved as ended: the interrupt came before the closing checkpoint.
        reason = fit.starts[fit.best].reason if not fit.running else None
        self._begin(fit, Stop(reason or StopReason.INTERRUPTED, self._plan.relative_tolerance))
        self._finish()
        logger.info("step %d is saved, from which the next call of train continues", fit.step)
