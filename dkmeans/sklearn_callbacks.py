"""scikit-learn's callbacks in a fit of `dkmeans.sklearn`: the fit is a task, and so is each step.

scikit-learn has callbacks (`sklearn.callback`) from version 1.9 on. Estimators of earlier versions
have no `set_callbacks`, and nothing is called.

    with step_hooks(model, rows, sample_weight, max_steps) as hooks:
        engine.train(input_fn, hooks=hooks, max_steps=max_steps)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from dkmeans.extras import needs
from dkmeans.hooks.sessions import SessionRunContext, SessionRunHook, SessionRunValues

with needs("dkmeans.sklearn", "sklearn"):
    import sklearn  # noqa: F401

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9
    _F = TypeVar("_F", bound=Callable[..., Any])

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Base class of estimators without callbacks."""

    def with_callbacks(method: _F) -> _F:
        """Return the method."""
        return method


__all__ = ["CallbackSupportMixin", "step_hooks", "with_callbacks"]


@contextmanager
def step_hooks(
    model: Any, rows: Any, sample_weight: Any, max_steps: int
) -> Iterator[list[SessionRunHook]]:
    """Notify the callbacks of an estimator of the begin and the end of its fit.

    Call this in a method with `with_callbacks`.

    Yields:
        Hooks that notify the callbacks of each step; none if there are no callbacks.
    """
    if not hasattr(model, "set_callbacks"):
        yield []
        return
    fit = model._init_callback_context(max_subtasks=max_steps)
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    given = {"estimator": model, "X": rows, "metadata": metadata}
    fit.call_on_fit_task_begin(**given)
    yield [_StepHook(fit, given)] if hasattr(model, "_skl_callbacks") else []
    fit.call_on_fit_task_end(**given, reconstruction_attributes={})


class _StepHook(SessionRunHook):
    """Hook that makes each step a task. A callback whose task returns true ends the fit."""

    def __init__(self, fit: Any, given: dict[str, Any]) -> None:
        self._fit, self._given, self._step = fit, given, fit

    def before_run(self, run_context: SessionRunContext) -> None:
        """Begin the task of a step."""
        self._step = self._fit.subcontext(task_name="step")
        self._step.call_on_fit_task_begin(
            **self._given, reconstruction_attributes=_fitted(run_context)
        )

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """End the task of a step."""
        if self._step.call_on_fit_task_end(
            **self._given, reconstruction_attributes=_fitted(run_context)
        ):
            run_context.request_stop()


def _fitted(run_context: SessionRunContext) -> Callable[[], dict[str, Any]]:
    """Return a function that returns what a fitted estimator has; only some callbacks need it."""
    return lambda: {"cluster_centers_": run_context.session.run("clusters")}
