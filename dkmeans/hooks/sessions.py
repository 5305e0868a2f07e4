"""Base classes of hooks and listeners, and the objects that the library passes to them.

The names are those of TensorFlow 1. A hook derives from `SessionRunHook`, requests values by name
with `SessionRunArgs`, and gets them as `SessionRunValues`. `notifier` calls the methods.

    class PrintLoss(SessionRunHook):
        def before_run(self, run_context):
            return SessionRunArgs("loss")

        def after_run(self, run_context, run_values):
            print(run_values.results)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class Coordinator:
    """The stop flag of a call, shared by all its hooks and listeners."""

    def __init__(self) -> None:
        self._stop = False

    def request_stop(self) -> None:
        """Request that the call stops, after the current step if there is one."""
        self._stop = True

    def should_stop(self) -> bool:
        """Return whether a stop has been requested."""
        return self._stop


@dataclass(frozen=True, slots=True)
class Session:
    """Current values of the model, by name."""

    _value: Callable[[str], Any]

    def run(self, fetches: Any) -> Any:
        """Return the values of these names.

        Args:
            fetches: A name, or a list, tuple or dict of names, nested to any depth. Names are the
                model's variables (`global_step`, int; `clusters`, (k, d); and the others in
                `get_variable_names`); `empty_clusters`, int; and for the last step or batch
                `loss`, the sum of its rows' distances, and `average_loss`, their mean, both float.
                In training also `progress`, the numbers of the last iteration, and
                `checkpoint_time`, the time of the state in the last checkpoint, in seconds since
                1970; both are None before the first. If there are several starts, the values are
                those of the best start so far.

        Returns:
            The argument, with values in place of the names. Arrays are copies.

        Raises:
            ValueError: there is no such value, or not yet.
            TypeError: a name is not a string.
        """
        if isinstance(fetches, Mapping):
            return {key: self.run(fetch) for key, fetch in fetches.items()}
        if isinstance(fetches, list | tuple):
            values = [self.run(fetch) for fetch in fetches]
            return values if isinstance(fetches, list) else tuple(values)
        return self._value(fetches)


@dataclass(frozen=True, slots=True)
class SessionRunArgs:
    """A hook's request for values after a step.

    Attributes:
        fetches: Names of the values, in any form that `Session.run` accepts.
    """

    fetches: Any


@dataclass(frozen=True, slots=True)
class SessionRunValues:
    """The values that a hook has requested.

    Attributes:
        results: The values, in the form of the request; None if the hook requested none.
    """

    results: Any


@dataclass(frozen=True, slots=True)
class SessionRunContext:
    """Context of a step: the current values, and the request to stop.

    Attributes:
        session: Values of the model, from before the step in `before_run` and from after it in
            `after_run`.
    """

    session: Session
    _coordinator: Coordinator

    def request_stop(self) -> None:
        """Request that the call stops after this step."""
        self._coordinator.request_stop()

    @property
    def stop_requested(self) -> bool:
        """True if this hook or another one has requested a stop."""
        return self._coordinator.should_stop()


class SessionRunHook:
    """Base class of hooks. Derived classes override the methods that they need.

    A step is one batch. If an iteration has several steps, they are computed together, but hooks
    are called for each step, in order and with its loss, and may stop after any step.

    An error in a hook ends the call at once. The last checkpoint stays as it is.

    A call of `train` that has begun ends with either `end` or `abort`. TensorFlow's hooks have no
    `abort`.
    """

    def begin(self) -> None:
        """Prepare for a call. There are no values yet."""

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """Prepare for the first step. The model is loaded, or has its first centers."""

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """Prepare for a step, and request values.

        Returns:
            The request for values that `after_run` gets; None requests nothing.
        """

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Use the values after a step."""

    def end(self, session: Session) -> None:
        """Finish a call that ended without an error."""

    def abort(self, error: BaseException) -> None:
        """Finish a call of `train` that ended with an error or an interrupt, after its checkpoint.

        An error that this method raises is logged, and does not replace the one of the call.
        """


class CheckpointSaverListener:
    """Base class of listeners, which are called before and after a checkpoint is saved.

    They are called for the opening checkpoint, which an earlier call may have written, for the
    checkpoints on the way, and for the closing one, but only once for each step.
    """

    def begin(self) -> None:
        """Prepare for a call of `train`. There are no values yet."""

    def before_save(self, session: Session, global_step_value: int) -> None:
        """Prepare for a checkpoint of this step, before it is written."""

    def after_save(self, session: Session, global_step_value: int) -> bool | None:
        """Use the checkpoint of this step, after it is written.

        Returns:
            True if training should stop.
        """

    def end(self, session: Session, global_step_value: int) -> None:
        """Finish a call that ended at this step without an error."""
