"""What a hook is, what it sees of a call, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class Coordinator:
    """Whether a call is to stop: one for all its hooks."""

    def __init__(self) -> None:
        self._stop = False

    def request_stop(self) -> None:
        """Have the call stop: after the step that is under way, where there is one."""
        self._stop = True

    def should_stop(self) -> bool:
        """Whether someone has asked to stop."""
        return self._stop


@dataclass(frozen=True, slots=True)
class Session:
    """The model as it stands, whenever it is asked: values by name."""

    _value: Callable[[str], Any]

    def run(self, fetches: Any) -> Any:
        """The values of these names.

        Args:
            fetches: A name, or a list, tuple or dict of names, nested as you like. Names are the
                model's variables (`global_step`, int; `clusters`, (k, d); and those that
                `get_variable_names` lists), `empty_clusters`, int, and of the last step or batch
                `loss`, the sum of its rows' distances, and `average_loss`, their mean, both float.
                Of several starts they are those of the best so far.

        Returns:
            The same, with values in the place of names. Arrays are copies.

        Raises:
            ValueError: there is no such value, or not yet; TypeError: that is no name.
        """
        if isinstance(fetches, Mapping):
            return {key: self.run(fetch) for key, fetch in fetches.items()}
        if isinstance(fetches, list | tuple):
            values = [self.run(fetch) for fetch in fetches]
            return values if isinstance(fetches, list) else tuple(values)
        return self._value(fetches)


@dataclass(frozen=True, slots=True)
class SessionRunArgs:
    """What a hook wants to know after a step.

    Attributes:
        fetches: Names, as `Session.run` takes them.
    """

    fetches: Any


@dataclass(frozen=True, slots=True)
class SessionRunValues:
    """What a hook has asked for.

    Attributes:
        results: The values, as `Session.run` gives them; None where it asked for none.
    """

    results: Any


@dataclass(frozen=True, slots=True)
class SessionRunContext:
    """A step, as a hook sees it.

    Attributes:
        session: The model as it stands: before the step in `before_run`, after it in `after_run`.
    """

    session: Session
    _coordinator: Coordinator

    def request_stop(self) -> None:
        """Have the call stop after this step."""
        self._coordinator.request_stop()

    @property
    def stop_requested(self) -> bool:
        """Whether this hook or another one has asked to stop."""
        return self._coordinator.should_stop()


class SessionRunHook:
    """Something to be told of a call's steps. Derive from it, and override what you need.

    A step is one batch. Where several steps make an iteration they are computed together: a hook is
    still told of each, in order and with its loss, and may stop after any.

    What a hook raises ends the call at once, and the last checkpoint stands.
    """

    def begin(self) -> None:
        """The call begins; there are no values yet."""

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """The model is there, trained so far or with its first centers."""

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """A step is about to be taken.

        Returns:
            What `after_run` is to be given; None: nothing.
        """

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """The step has been taken."""

    def end(self, session: Session) -> None:
        """The call has ended, and not by an error."""


class CheckpointSaverListener:
    """Something to be told of a training call's checkpoints: each step's once.

    Those are the opening one, which may be there from an earlier call, those on the way, and the
    closing one.
    """

    def begin(self) -> None:
        """The call begins; there are no values yet."""

    def before_save(self, session: Session, global_step_value: int) -> None:
        """A checkpoint of this step is about to be written."""

    def after_save(self, session: Session, global_step_value: int) -> bool | None:
        """A checkpoint of this step stands.

        Returns:
            Whether training is to stop.
        """

    def end(self, session: Session, global_step_value: int) -> None:
        """Training has ended at this step, and not by an error."""
