"""The states of a fit as what a checkpoint holds, arrays and numbers, and back.

Of several starts the best is saved as one start alone would be, so whoever wants the centers need
not know of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dkmeans.state import Farthest, Fit, PartialSums, Start, StopReason, TrainState

# The arrays of all starts but the best have names that begin so.
_PREFIX = "start_{}_"
_FARTHEST = ("rows", "apart", "winners", "copies")


def parts_of(state: TrainState, starts: Sequence[Start]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays by name, and the numbers, that a state is saved as.

    Args:
        state: That of the best start.
        starts: All starts, where there are several.
    """
    arrays, numbers = _arrays(state), _numbers(state)
    if len(starts) > 1:
        numbers["starts"] = [_about(start) for start in starts]
        for number, start in enumerate(starts):
            if start.state is not state:
                prefix, own = _PREFIX.format(number), _arrays(start.state)
                arrays |= {prefix + name: array for name, array in own.items()}
    return arrays, numbers


def fit_of(arrays: dict[str, Any], numbers: dict[str, Any]) -> Fit:
    """The fit that was saved as these.

    Raises:
        KeyError: something is missing.
    """
    starts = tuple(
        _start(arrays, about, _PREFIX.format(number))
        for number, about in enumerate(numbers.get("starts", []))
    )
    return Fit(starts or (Start(_state(arrays, numbers), steps=numbers["step"]),))


def _arrays(state: TrainState) -> dict[str, Any]:
    """The arrays that a state is saved as."""
    arrays = {"centers": state.centers, "counts": state.counts}
    pending = state.pending
    if pending is not None:
        arrays |= {"pending_sums": pending.sums, "pending_counts": pending.counts}
        if pending.farthest is not None:
            arrays |= {
                f"pending_farthest_{name}": getattr(pending.farthest, name) for name in _FARTHEST
            }
    return arrays


def _numbers(state: TrainState) -> dict[str, Any]:
    """The rest of a state."""
    numbers = {
        "step": state.step,
        "inertia": state.inertia,
        "empty_clusters": state.empty_clusters,
        "pending_steps": state.pending_steps,
        "pending_inertia": state.pending.inertia if state.pending else None,
    }
    if state.relocated_clusters:
        numbers["relocated_clusters"] = state.relocated_clusters
    return numbers


def _about(start: Start) -> dict[str, Any]:
    """What is saved of one of several starts, beside its arrays."""
    return {
        **_numbers(start.state),
        "inertia_rows": start.state.inertia_rows,
        "reason": start.reason.name if start.reason else None,
        "steps": start.steps,
    }


def _start(arrays: dict[str, Any], about: dict[str, Any], prefix: str) -> Start:
    """One of several starts: the one without arrays of its own is the best."""
    names = [name for name in arrays if name.startswith(prefix)]
    own = {name.removeprefix(prefix): arrays[name] for name in names}
    state = replace(_state(own or arrays, about), inertia_rows=about["inertia_rows"])
    return Start(state, StopReason[about["reason"]] if about["reason"] else None, about["steps"])


def _state(arrays: dict[str, Any], about: dict[str, Any]) -> TrainState:
    return TrainState(
        centers=arrays["centers"],
        counts=arrays["counts"],
        step=about["step"],
        pending=_pending(arrays, about["pending_inertia"]),
        pending_steps=about["pending_steps"],
        inertia=about["inertia"],
        empty_clusters=about["empty_clusters"],
        relocated_clusters=about.get("relocated_clusters", 0),
    )


def _pending(arrays: dict[str, Any], inertia: float) -> PartialSums | None:
    if "pending_sums" not in arrays:
        return None
    farthest = None
    if "pending_farthest_rows" in arrays:
        found = {name: arrays[f"pending_farthest_{name}"] for name in _FARTHEST}
        farthest = Farthest(**found, most=len(arrays["centers"]))
    return PartialSums(arrays["pending_sums"], arrays["pending_counts"], inertia, farthest)
