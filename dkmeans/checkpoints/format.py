"""The format of a checkpoint: how a fit becomes arrays and attributes of a Zarr group, and back.

The best start is saved in the arrays `centers`, `counts` and `pending_...`, exactly as a single
start would be, so that a reader of the centers need not know of the other starts. The arrays of the
other starts have the prefix `start_<number>_`. `column_means` and `column_deviations` are there if
rows are standardized. The attributes hold all numbers, the settings, why training ended, and the
sha256 of each array. Names in storage stay as they are when a name in the code changes. Pending
sums are saved as planes of integers; in format 1 they were one array of float64, and the loss came
with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import numpy as np

from dkmeans.checkpoints.checkpoint import Checkpoint, Settings, Stop
from dkmeans.checkpoints.validation import check_arrays, check_numbers
from dkmeans.data.columns import names_of_width
from dkmeans.distance import Centers, Distance
from dkmeans.errors import InvalidCheckpoint
from dkmeans.exact import ExactSums, of_rows
from dkmeans.exact_grid import Grid
from dkmeans.exact_total import ExactTotal
from dkmeans.fit import Fit, Start
from dkmeans.loss import exact_inertia
from dkmeans.scaling import Scaling
from dkmeans.state import Farthest, PartialSums, StopReason, TrainState

FORMAT = 2
_READABLE = (1, FORMAT)
_OTHER_FORMAT = f"must be of format {FORMAT}, got {{!r}}: another version of dkmeans wrote it"
_START_PREFIX = "start_{}_"
# From each attribute of `Farthest` to the name of its array, without the prefix
# `pending_farthest_`.
_FARTHEST = {"rows": "rows", "distances": "apart", "clusters": "winners", "copies": "copies"}


class OtherFormat(InvalidCheckpoint):
    """A file of another format: another version of dkmeans wrote it, and it is not damaged."""


def parts_of(
    fit: Fit, settings: Settings, stop: Stop | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is saved for a fit: the arrays by name, and the attributes."""
    arrays, numbers = _arrays(fit.state), _numbers(fit.state)
    if settings.scaling is not None:
        scaling = settings.scaling
        arrays |= {"column_means": scaling.means, "column_deviations": scaling.deviations}
    numbers["loss_before"] = fit.starts[fit.best].loss_before
    if len(fit.starts) > 1:
        numbers["starts"] = [_start_numbers(start) for start in fit.starts]
        for number, start in enumerate(fit.starts):
            if number != fit.best:
                prefix = _START_PREFIX.format(number)
                arrays |= {prefix + name: array for name, array in _arrays(start.state).items()}
    reason = stop and {"reason": stop.reason.name, "relative_tolerance": stop.relative_tolerance}
    attributes = {
        "format": FORMAT,
        **numbers,
        "settings": asdict(replace(settings, scaling=None)),
        "stop": reason,
        "sha256": {name: sha256(array) for name, array in arrays.items()},
    }
    return arrays, attributes


def checkpoint_of(
    address: str, arrays: Mapping[str, Any], attributes: Mapping[str, Any]
) -> Checkpoint:
    """Return the checkpoint that was saved as these arrays and attributes.

    Raises:
        KeyError: something is missing.
        ValueError: a value is not known, or cannot be that of a saved fit.
    """
    check_arrays(arrays)
    check_numbers(attributes)
    for each in attributes.get("starts", []):
        check_numbers(each)
    saved = attributes["settings"]
    # Checkpoints of earlier versions, and those of other models, have no means of columns.
    has_scaling = "column_means" in arrays
    settings = Settings(
        Distance(saved["distance_metric"]),
        saved["use_mini_batch"],
        saved["mini_batch_steps_per_iteration"],
        # Checkpoints of earlier versions have no names.
        names_of_width(tuple(saved.get("columns") or ()) or None, arrays["centers"].shape[1]),
        Scaling.of(arrays["column_means"], arrays["column_deviations"]) if has_scaling else None,
        saved.get("counts_first", True),
    )
    stop = attributes["stop"] and Stop(
        StopReason[attributes["stop"]["reason"]], attributes["stop"]["relative_tolerance"]
    )
    return Checkpoint(
        address, _fit_of(arrays, attributes, settings.distance_metric), settings, stop or None
    )


def check_format(address: str, found: object) -> None:
    """Refuse a format other than this one and those before.

    Raises:
        OtherFormat: the format is another one.
    """
    if found not in _READABLE:
        raise OtherFormat(f"{address} {_OTHER_FORMAT.format(found)}")


def check_digests(address: str, arrays: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Refuse arrays whose digests are not those in the attributes.

    Raises:
        InvalidCheckpoint: an array is damaged.
        KeyError: an array is missing.
    """
    for name, written in attributes["sha256"].items():
        if sha256(arrays[name]) != written:
            raise InvalidCheckpoint(f"{address} is damaged: {name} is not what was written")


def sha256(array: Any) -> str:
    """Return the SHA-256 digest of an array's dtype, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _arrays(state: TrainState) -> dict[str, Any]:
    arrays = {"centers": state.centers, "counts": state.counts}
    if state.means is not None:
        arrays["means"] = state.means
    if state.epoch_centers is not None and state.epoch_centers is not state.centers:
        arrays["epoch_centers"] = state.epoch_centers
    pending = state.pending
    if pending is not None:
        arrays |= _sums_arrays("pending_", pending.sums)
        arrays |= _sums_arrays("pending_weight_", pending.weights)
        arrays["pending_counts"] = pending.counts
        if pending.farthest is not None:
            arrays |= {
                f"pending_farthest_{name}": getattr(pending.farthest, attribute)
                for attribute, name in _FARTHEST.items()
            }
            arrays |= _sums_arrays("pending_farthest_weight_", pending.farthest.weights)
    return arrays


def _sums_arrays(prefix: str, sums: ExactSums | None) -> dict[str, Any]:
    """Return the arrays of some sums; none of those that are None."""
    if sums is None:
        return {}
    planes = {f"{prefix}plane_{m}": plane for m, plane in sums.in_planes().planes.items()}
    return {**planes, f"{prefix}exponents": sums.grid.exponents}


def _sums_of(arrays: Mapping[str, Any], prefix: str) -> ExactSums | None:
    """Return the sums that `_sums_arrays` made arrays of; None if there are none."""
    planes = f"{prefix}plane_"
    exponents = arrays.get(f"{prefix}exponents")
    if exponents is None:
        return None
    return ExactSums(
        Grid(exponents),
        {
            int(name.removeprefix(planes)): array
            for name, array in arrays.items()
            if name.startswith(planes)
        },
    )


def _numbers(state: TrainState) -> dict[str, Any]:
    numbers = {
        "step": state.step,
        "inertia": state.inertia,
        "empty_clusters": state.empty_clusters,
        "pending_steps": state.pending_steps,
        "pending_squares": hex(state.pending.squares.units) if state.pending else None,
    }
    if state.relocated_clusters:
        numbers["relocated_clusters"] = state.relocated_clusters
    return numbers


def _start_numbers(start: Start) -> dict[str, Any]:
    return {
        **_numbers(start.state),
        "inertia_rows": start.state.inertia_rows,
        "reason": start.reason.name if start.reason else None,
        "steps": start.steps,
        "loss_before": start.loss_before,
    }


def _fit_of(arrays: Mapping[str, Any], attributes: Mapping[str, Any], distance: Distance) -> Fit:
    starts = tuple(
        _start(arrays, numbers, _START_PREFIX.format(number), distance)
        for number, numbers in enumerate(attributes.get("starts", []))
    )
    if starts:
        return Fit(starts)
    state = _state(arrays, attributes, distance)
    return Fit((Start(state, None, attributes["step"], _loss_before(attributes)),))


def _start(
    arrays: Mapping[str, Any], numbers: Mapping[str, Any], prefix: str, distance: Distance
) -> Start:
    """Return one of several starts; the start without arrays of its own is the best."""
    own = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    state = _state(own or arrays, numbers, distance)
    state = replace(state, inertia_rows=numbers["inertia_rows"])
    reason = StopReason[numbers["reason"]] if numbers["reason"] else None
    return Start(state, reason, numbers["steps"], _loss_before(numbers))


def _loss_before(numbers: Mapping[str, Any]) -> float | None:
    """Return the loss to compare with; older checkpoints have only that of the last iteration."""
    found: float | None = numbers.get("loss_before", numbers["inertia"])
    return found


def _state(arrays: Mapping[str, Any], numbers: Mapping[str, Any], distance: Distance) -> TrainState:
    return TrainState(
        centers=arrays["centers"],
        counts=arrays["counts"],
        step=numbers["step"],
        pending=_pending(arrays, numbers, distance),
        pending_steps=numbers["pending_steps"],
        inertia=numbers["inertia"],
        empty_clusters=numbers["empty_clusters"],
        relocated_clusters=numbers.get("relocated_clusters", 0),
        means=arrays.get("means"),
        epoch_centers=arrays.get("epoch_centers"),
    )


def _pending(
    arrays: Mapping[str, Any], numbers: Mapping[str, Any], distance: Distance
) -> PartialSums | None:
    if "pending_counts" not in arrays:
        return None
    farthest = None
    if "pending_farthest_rows" in arrays:
        found = {key: arrays[f"pending_farthest_{name}"] for key, name in _FARTHEST.items()}
        weights = _sums_of(arrays, "pending_farthest_weight_")
        farthest = Farthest(**found, most=len(arrays["centers"]), weights=weights)
    counts = arrays["pending_counts"]
    if "pending_sums" in arrays:
        pending = _of_format_1(arrays, numbers["pending_inertia"], distance)
        return replace(pending, farthest=farthest)
    sums, weights = (_sums_of(arrays, prefix) for prefix in ("pending_", "pending_weight_"))
    if sums is None:
        raise KeyError("pending_exponents")
    squares = ExactTotal(int(numbers["pending_squares"], 16))
    return PartialSums(sums, counts, squares, farthest, weights)


def _of_format_1(arrays: Mapping[str, Any], loss: float, distance: Distance) -> PartialSums:
    """Return pending sums of format 1: float64 sums, and the loss that belongs to them."""
    values = arrays["pending_sums"]
    sums = PartialSums(
        of_rows(values, np.arange(len(values)), len(values)), arrays["pending_counts"]
    )
    # The loss is the squares plus what follows from the sums.
    centers = Centers(arrays["centers"], distance)
    squares = ExactTotal.of(Fraction(loss)) - exact_inertia(sums, centers)
    return replace(sums, squares=squares)
