"""The notifier: calls the hooks and listeners of one call in the documented order.

`training` and `prediction.stream` report each event to it: `begin`, `created`, and for every step
`before_run`, `set_values` (not in predictions) and `after_run`; around each checkpoint `saving`;
last `end`, or `aborting` an error. Values are computed only when a hook requests them, so a call
without hooks costs almost nothing.
"""

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
from dkmeans.report import Progress
from dkmeans.state import Score, TrainState

logger = logging.getLogger("dkmeans")
T = TypeVar("T")


def check_hooks(name: str, given: Iterable[T] | None, kind: type[T]) -> tuple[T, ...]:
    """Return the hooks or listeners that the user passed, as a tuple.

    Args:
        name: Name of the argument.
        given: Value of the argument; None: no hooks.
        kind: Required base class.

    Raises:
        InvalidType: it is a string or not iterable, or an item is of another class.
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
    """Hooks and listeners of one call, and the values that they can request.

    Args:
        settings: Settings of the model; they decide which variables exist.
        hooks: The hooks, in the order in which they are called.
        listeners: The listeners, in the order in which they are called.

    Attributes:
        hook_failed: True if a hook or listener has raised an error. Training then saves no
            checkpoint.
        progress: Progress of the last iteration of a training call; None before the first.
        checkpoint_time: Time of the state in the last checkpoint, in seconds since 1970; None
            before training has one.
    """

    def __init__(
        self,
        settings: Settings,
        hooks: Iterable[SessionRunHook] = (),
        listeners: Iterable[CheckpointSaverListener] = (),
    ) -> None:
        self.hook_failed = False
        self.progress: Progress | None = None
        self.checkpoint_time: float | None = None
        self._settings = settings
        self._hooks, self._listeners = tuple(hooks), tuple(listeners)
        self._coordinator = Coordinator()
        self._session = Session(self._value)
        self._context = SessionRunContext(self._session, self._coordinator)
        self._state: TrainState | None = None
        self._loss: float | None = None
        self._average_loss = 0.0
        self._batch: Batch | None = None
        self._saved_step: int | None = None
        self._requests: list[SessionRunArgs | None] = []
        self._ended = 0

    @property
    def has_listeners(self) -> bool:
        """True if there are listeners, which expect a written checkpoint in `after_save`."""
        return bool(self._listeners)

    def should_stop(self) -> bool:
        """Return whether a hook or listener has requested a stop."""
        return self._coordinator.should_stop()

    def begin(self) -> None:
        """Report the start of the call."""
        with self._user_code():
            for listener in self._listeners:
                listener.begin()
            for hook in self._hooks:
                hook.begin()

    def created(self, state: TrainState) -> None:
        """Report that the model exists: it is loaded, or has its first centers."""
        self._state = state
        with self._user_code():
            for hook in self._hooks:
                hook.after_create_session(self._session, self._coordinator)

    def before_run(self, batch: Batch) -> None:
        """Report that a step over this batch comes next, and collect the requests of the hooks."""
        self._batch = batch
        with self._user_code():
            self._requests = [_args(hook, hook.before_run(self._context)) for hook in self._hooks]

    def set_values(self, state: TrainState, score: Score | None = None) -> None:
        """Set the state and the loss that hooks see from now on.

        Args:
            state: State of the model.
            score: Score of the current batch, from an evaluation; None takes the state's last loss.
        """
        self._state = state
        if score is not None:
            self._loss, self._average_loss = score.inertia, score.mean_distance
        elif state.losses:
            self._loss, self._average_loss = state.losses[-1], state.mean_distance
        else:
            # The best of several starts may have stopped in an earlier step. `losses` are not
            # saved: a loaded start that has stopped has only `inertia`.
            self._loss = state.inertia
            self._average_loss = (state.inertia or 0.0) / (state.inertia_rows or 1)

    @contextmanager
    def saving(self, state: TrainState) -> Iterator[None]:
        """Report a checkpoint of this state before and after the body, which writes it.

        Only the first checkpoint of a step is reported: the closing one may be of the same step as
        the one before it. If the body fails, `after_save` is not called.
        """
        listeners = self._listeners if state.step != self._saved_step else ()
        self._state, self._saved_step = state, state.step
        with self._user_code():
            for listener in listeners:
                listener.before_save(self._session, state.step)
        yield
        with self._user_code():
            for listener in listeners:
                if listener.after_save(self._session, state.step):
                    logger.info("%r asks to stop at step %d", listener, state.step)
                    self._coordinator.request_stop()

    def after_run(self) -> None:
        """Report that the step is done, and pass each hook the values that it requested."""
        with self._user_code():
            for hook, args in zip(self._hooks, self._requests, strict=True):
                results = self._session.run(args.fetches) if args is not None else None
                hook.after_run(self._context, SessionRunValues(results))

    def end(self) -> None:
        """Report the end of the call: after its closing checkpoint is saved, if there is one."""
        step = self._state.step if self._state else 0
        with self._user_code():
            for listener in self._listeners:
                listener.end(self._session, step)
            for hook in self._hooks:
                hook.end(self._session)
                self._ended += 1

    @contextmanager
    def aborting(self) -> Iterator[None]:
        """Report an error or an interrupt of the body to the hooks, and raise it again.

        Hooks whose `end` was called and returned are not called again: the call has ended for them.
        """
        try:
            yield
        except BaseException as error:
            for hook in self._hooks[self._ended :]:
                try:
                    hook.abort(error)
                except Exception:
                    logger.exception("%r cannot finish a call that ended with an error", hook)
            raise

    @contextmanager
    def _user_code(self) -> Iterator[None]:
        """Record in `hook_failed` that an error came from a hook or listener.

        Interrupts do not count: after Ctrl-C in a hook the steps so far are saved.
        """
        try:
            yield
        except Exception:
            self.hook_failed = True
            raise

    def _value(self, name: Any) -> Any:
        """Return one value by name; a name may end in ":0", as TensorFlow's tensors do."""
        if not isinstance(name, str):
            raise InvalidType(expected("fetches", "names, or lists or dicts of them", name))
        if self._state is None:
            raise Invalid(f"there are no values before after_create_session, got {name!r}")
        plain = name.removesuffix(":0")
        if plain == "global_step":
            return self._state.step
        if plain == "empty_clusters":
            return self._state.empty_clusters
        if plain == "progress":
            return self.progress
        if plain == "checkpoint_time":
            return self.checkpoint_time
        # There is no loss before the first batch, and of a batch without chunks (bool() is False).
        if plain in ("loss", "average_loss") and self._loss is not None and self._batch:
            return self._loss if plain == "loss" else self._average_loss
        # `known` has no loss: that exists only after a step.
        known = variables(self._state, self._settings)
        if plain in known:
            return known[plain]
        names = ", ".join(sorted({*known, "checkpoint_time", "empty_clusters", "progress"}))
        raise Invalid(
            f"fetches must be among {names}, and after a step loss and average_loss, got {name!r}"
        )


def _args(hook: SessionRunHook, given: object) -> SessionRunArgs | None:
    """Check what a hook's `before_run` returned, and return it."""
    if given is None or isinstance(given, SessionRunArgs):
        return given
    what = f"what {type(hook).__name__}.before_run returns"
    raise InvalidType(expected(what, "a dkmeans.hooks.SessionRunArgs or None", given))
