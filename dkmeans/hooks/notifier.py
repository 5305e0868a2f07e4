"""One call's hooks and listeners, told what happens in the documented order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from dkmeans.checkpoints import Settings, variables
from dkmeans.data.batches import Batch
from dkmeans.errors import Invalid, InvalidType, expected
from dkmeans.hooks.sessions import (
    CheckpointSaverListener,
    Coordinator,
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)
from dkmeans.state import TrainState

logger = logging.getLogger(__name__)
T = TypeVar("T")


def check_hooks(name: str, given: Iterable[T] | None, kind: type[T]) -> tuple[T, ...]:
    """The hooks or listeners given, none where that is None.

    Raises:
        InvalidType: they are no list, or one is of another kind.
    """
    must = f"a list of dkmeans.hooks.{kind.__name__}"
    if given is None:
        return ()
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidType(expected(name, must, given))
    listed = tuple(given)
    for hook in listed:
        if not isinstance(hook, kind):
            raise InvalidType(f"{expected(name, must, hook)} among them")
    return listed


class Notifier:
    """Tells a call's hooks and listeners of it, and shows them the model as it goes.

    Attributes:
        failed: Whether one of them has raised an error.
    """

    def __init__(
        self,
        settings: Settings,
        hooks: Iterable[SessionRunHook] = (),
        listeners: Iterable[CheckpointSaverListener] = (),
    ) -> None:
        self.failed = False
        self._settings = settings
        self._hooks, self._listeners = tuple(hooks), tuple(listeners)
        self._coordinator = Coordinator()
        self._session = Session(self._value)
        self._context = SessionRunContext(self._session, self._coordinator)
        self._state: TrainState | None = None
        self._loss: float | None = None
        self._batch: Batch | None = None
        self._saved_step: int | None = None
        self._asked: list[SessionRunArgs | None] | None = None

    def should_stop(self) -> bool:
        """Whether someone has asked to stop."""
        return self._coordinator.should_stop()

    def begin(self) -> None:
        """The call begins."""
        with self._theirs():
            for listener in self._listeners:
                listener.begin()
            for hook in self._hooks:
                hook.begin()

    def created(self, state: TrainState) -> None:
        """The model is there."""
        self._state = state
        with self._theirs():
            for hook in self._hooks:
                hook.after_create_session(self._session, self._coordinator)

    def before_run(self, batch: Batch) -> None:
        """A step over this batch is next; nothing happens where that has been told."""
        if self._asked is not None:
            return
        self._batch = batch
        with self._theirs():
            self._asked = [_args(hook, hook.before_run(self._context)) for hook in self._hooks]

    def show(self, state: TrainState, loss: float | None = None) -> None:
        """This is where the model stands now; a batch's loss is given where no step was taken."""
        if loss is None:  # of several starts, one that rests has the loss with which it converged
            loss = state.losses[-1] if state.losses else state.inertia
        self._state, self._loss = state, loss

    @contextmanager
    def saving(self, state: TrainState) -> Iterator[None]:
        """A checkpoint of this state is written meanwhile; the second of a step is not told."""
        listeners = self._listeners if state.step != self._saved_step else ()
        self._state, self._saved_step = state, state.step
        with self._theirs():
            for listener in listeners:
                listener.before_save(self._session, state.step)
        yield
        with self._theirs():
            for listener in listeners:
                if listener.after_save(self._session, state.step):
                    logger.info("%r asks to stop at step %d", listener, state.step)
                    self._coordinator.request_stop()

    def after_run(self) -> None:
        """The step that was told of has been taken; nothing happens where none was."""
        if self._asked is None:
            return
        asked, self._asked = self._asked, None
        with self._theirs():
            for hook, args in zip(self._hooks, asked, strict=True):
                results = self._session.run(args.fetches) if args is not None else None
                hook.after_run(self._context, SessionRunValues(results))

    def end(self) -> None:
        """The call has ended, and what there was to save is saved."""
        step = self._state.step if self._state else 0
        with self._theirs():
            for listener in self._listeners:
                listener.end(self._session, step)
            for hook in self._hooks:
                hook.end(self._session)

    @contextmanager
    def _theirs(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.failed = True
            raise

    def _value(self, name: Any) -> Any:
        if not isinstance(name, str):
            raise InvalidType(expected("fetches", "names, or lists or dicts of them", name))
        if self._state is None:
            raise Invalid(f"there are no values before after_create_session, got {name!r}")
        plain = name.removesuffix(":0")
        if plain == "global_step":
            return self._state.step
        if plain == "empty_clusters":
            return self._state.empty_clusters
        if plain in ("loss", "average_loss") and self._loss is not None and self._batch:
            return self._loss if plain == "loss" else self._loss / self._batch.rows
        known = variables(self._state, self._settings)
        if plain in known:
            return known[plain]
        names = ", ".join(sorted({*known, "empty_clusters"}))
        raise Invalid(
            f"fetches must be among {names}, and after a step loss and average_loss, got {name!r}"
        )


def _args(hook: SessionRunHook, given: object) -> SessionRunArgs | None:
    if given is None or isinstance(given, SessionRunArgs):
        return given
    what = f"what {type(hook).__name__}.before_run returns"
    raise InvalidType(expected(what, "a dkmeans.hooks.SessionRunArgs or None", given))
