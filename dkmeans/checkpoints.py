"""Checkpoints: saved states, in a Zarr group that is the model's directory.

A checkpoint is a sub-group under a fresh name, written whole and then made the latest by replacing
one small file that lists those that count. A crash at any point leaves the ones before it; what it
was writing is listed nowhere, and removed later. Only the driver writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self
from uuid import uuid4

import numpy as np
import zarr
import zarr.errors

from dkmeans import saved, storage
from dkmeans.distance import Distance
from dkmeans.errors import Invalid, InvalidCheckpoint, Outage
from dkmeans.retry import patiently
from dkmeans.schedule import Schedule
from dkmeans.state import Fit, PartialSums, Start, StopReason, TrainState

logger = logging.getLogger(__name__)

FORMAT = 1
_POINTER = "checkpoints.json"
_NAME = re.compile(r"checkpoint-(\d+)-[0-9a-f]{8}")
# Arrays larger than this are stored in several pieces: object stores limit one object's size.
_LARGEST_PIECE = 2**28
_OTHER_FORMAT = f"must be of format {FORMAT}, got {{!r}}: another version of dkmeans wrote it"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a model is of, beside its numbers: resuming with others would be another model."""

    distance_metric: Distance
    use_mini_batch: bool
    mini_batch_steps_per_iteration: int

    @property
    def schedule(self) -> Schedule:
        """The schedule that these settings mean."""
        if not self.use_mini_batch:
            return Schedule.full_batch()
        return Schedule.mini_batch(self.mini_batch_steps_per_iteration)


@dataclass(frozen=True, slots=True)
class Stop:
    """How the call of `train` that saved a checkpoint ended, and what it was asked for."""

    reason: StopReason
    relative_tolerance: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A saved state, as loaded.

    Attributes:
        address: Its full path or URL.
        fit: Its starts, one or more.
        stop: Set where it is the closing checkpoint of a call of `train`.
    """

    address: str
    fit: Fit
    settings: Settings
    stop: Stop | None

    @property
    def state(self) -> TrainState:
        """That of the start which fits best."""
        return self.fit.state

    def to_continue(self) -> Fit:
        """The fit to go on with.

        The starts that had converged rest on where training was cut short. Where it had come to
        its end, whoever goes on wants more of all of them.
        """
        cut_short = self.stop is None or self.stop.reason is StopReason.INTERRUPTED
        if cut_short and self.fit.running:
            return self.fit
        return Fit(tuple(replace(start, reason=None) for start in self.fit.starts))

    def variables(self) -> dict[str, Any]:
        """The documented variables by name, each a NumPy array or scalar."""
        return variables(self.state, self.settings)


def variables(state: TrainState, settings: Settings) -> dict[str, Any]:
    """The documented variables of a state by name, each a NumPy array or scalar."""
    found: dict[str, Any] = {
        "clusters": state.centers.copy(),
        "global_step": np.int64(state.step),
        "initialized": np.True_,
    }
    if settings.use_mini_batch and settings.mini_batch_steps_per_iteration == 1:
        found["Variable"] = state.counts.copy()
    elif settings.use_mini_batch:
        pending = state.pending or PartialSums.zero(state.centers.shape)
        won = pending.counts[:, None]
        means = pending.sums / np.maximum(won, 1)
        working = np.where(won > 0, means, state.centers).astype(state.centers.dtype)
        found["Variable"] = pending.counts.copy()
        found["clusters_updated"] = working
        found["update_in_steps"] = np.int64(state.pending_steps)
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Head:
    """Which checkpoints of a model count, as last seen: the newest is the last."""

    names: tuple[str, ...]
    seen: storage.Versioned | None

    @classmethod
    def read(cls, model_dir: str) -> Self:
        """The head of a model; one without names where there is no model.

        Raises:
            InvalidCheckpoint: the file is not one that this version writes.
        """
        seen = storage.read(storage.join(model_dir, _POINTER))
        if seen is None:
            return cls((), None)
        try:
            content = json.loads(seen.data)
            if content["format"] != FORMAT:
                raise InvalidCheckpoint(f"{model_dir} {_OTHER_FORMAT.format(content['format'])}")
            names = tuple(content["checkpoints"])
            if not all(_step(name) >= 0 for name in names):
                raise ValueError(f"{names!r} are no names of checkpoints")
            return cls(names, seen)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidCheckpoint):
                raise
            address = storage.join(model_dir, _POINTER)
            raise InvalidCheckpoint(f"{address} is damaged: {error}") from error

    @property
    def latest(self) -> str | None:
        """The name of the newest checkpoint."""
        return self.names[-1] if self.names else None


def prepare(model_dir: str) -> None:
    """Make the model's directory, if it is not there, and see what its place can do.

    Raises:
        Invalid: it cannot be made or written to.
        Outage: nobody answers there.
    """
    probe = storage.join(model_dir, f".probe-{uuid4().hex[:8]}")
    try:
        patiently(model_dir, lambda: _open_directory(model_dir))
        safe = storage.tells_writers_apart(probe)
    except storage.WRITE_ERRORS as error:
        raise Invalid(f"model_dir must be writable, got {model_dir!r}: {error}") from error
    if not safe:
        logger.warning(
            "the store of %s ignores conditional writes: two drivers that train in this model_dir "
            "will not be told apart, and spoil each other's checkpoints. Start only one",
            model_dir,
        )


def open_latest(model_dir: str) -> tuple[Head, Checkpoint | None]:
    """The newest checkpoint of a model, or None, and the head that named it.

    Whoever goes on from the checkpoint saves with that very head: then a driver that has saved in
    between is noticed.

    Raises:
        InvalidCheckpoint: as `load` does.
    """
    head = Head.read(model_dir)
    return head, load(storage.join(model_dir, head.latest)) if head.latest else None


def latest(model_dir: str) -> Checkpoint | None:
    """The newest checkpoint of a model, or None.

    Raises:
        InvalidCheckpoint: as `load` does.
    """
    return open_latest(model_dir)[1]


def load(address: str) -> Checkpoint:
    """The checkpoint at this path or URL.

    Raises:
        InvalidCheckpoint: there is none, or it is not what was written.
        Outage: nobody answers there.
    """
    try:
        arrays, about = patiently(address, lambda: _read(address))
        if about["format"] != FORMAT:
            raise InvalidCheckpoint(f"{address} {_OTHER_FORMAT.format(about['format'])}")
        for name, written in about["sha256"].items():
            if sha256(arrays[name]) != written:
                raise InvalidCheckpoint(f"{address} is damaged: {name} is not what was written")
        return _from_parts(address, arrays, about)
    except FileNotFoundError as error:
        raise InvalidCheckpoint(f"Could not find a checkpoint at: {address}") from error
    except (zarr.errors.BaseZarrError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidCheckpoint):
            raise
        raise InvalidCheckpoint(f"{address} is damaged or no checkpoint: {error!r}") from error


def new_name(step: int) -> str:
    """A name that no checkpoint has had."""
    return f"checkpoint-{step:08d}-{uuid4().hex[:8]}"


def save(
    model_dir: str,
    head: Head,
    state: TrainState,
    settings: Settings,
    stop: Stop | None,
    keep: int,
    name: str | None = None,
    starts: Sequence[Start] = (),
) -> Head:
    """Save a state, make it the latest, and keep no more than the newest `keep` (0: all).

    Args:
        model_dir: Where the model is kept.
        head: The model's head, as read with the state that was gone on from, or as last saved.
        state: What to save.
        settings: What it is of.
        stop: How training stopped, where it has.
        keep: How many checkpoints are kept.
        name: A new name for the checkpoint, by which its writer can tell it; None makes one.
        starts: All starts of the fit, where the state is that of the best of several.

    Raises:
        Conflict: another driver has saved since `head` was read.
        Outage: nobody answers there; OSError: it cannot be written. The checkpoints before it
            stand.
    """
    name = name or new_name(state.step)
    address = storage.join(model_dir, name)
    try:
        patiently(address, lambda: _write(address, state, settings, stop, starts))
        names = (*head.names, name)
        kept = names[-keep:] if keep else names
        content = {"format": FORMAT, "checkpoints": kept}
        data = json.dumps(content, indent=1).encode()
        seen = storage.replace(storage.join(model_dir, _POINTER), data, head.seen)
    except Outage:  # what was written is listed nowhere, and nobody is there to ask about it
        raise
    except BaseException:
        # An interrupt may come between the replacing of the file and its return.
        if name not in Head.read(model_dir).names:
            storage.remove(address)
        raise
    for old in names[: len(names) - len(kept)]:
        storage.remove(storage.join(model_dir, old))
    return Head(kept, seen)


def sweep(model_dir: str, head: Head) -> None:
    """Remove what crashed drivers left half-written.

    Only what is older than the latest checkpoint: another may be being written right now.
    """
    if head.latest is None:
        return
    newest = _step(head.latest)
    for name in storage.children(model_dir):
        if _NAME.fullmatch(name) and name not in head.names and _step(name) < newest:
            storage.remove(storage.join(model_dir, name))


def _open_directory(model_dir: str) -> None:
    zarr.open_group(storage.zarr_store(model_dir), mode="a", zarr_format=3)


def sha256(array: Any) -> str:
    """The sum of an array's values, dtype and shape."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _step(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else -1


def _write(
    address: str,
    state: TrainState,
    settings: Settings,
    stop: Stop | None,
    starts: Sequence[Start] = (),
) -> None:
    arrays, numbers = saved.parts_of(state, starts)
    about = {
        "format": FORMAT,
        **numbers,
        "settings": asdict(settings),
        "stop": {"reason": stop.reason.name, "relative_tolerance": stop.relative_tolerance}
        if stop
        else None,
        "sha256": {name: sha256(array) for name, array in arrays.items()},
    }
    # Another attempt begins afresh.
    group = zarr.create_group(storage.zarr_store(address), overwrite=True, zarr_format=3)
    for name, array in arrays.items():
        rows = max(1, _LARGEST_PIECE // max(1, array[:1].nbytes))
        chunks = (max(1, min(len(array), rows)), *array.shape[1:])
        group.create_array(name, data=array, chunks=chunks, compressors=None)
    # Last: with each array Zarr creates the group too, if it is not there, and a store that ignores
    # conditional writes puts an empty one over it.
    group.update_attributes(about)
    storage.flush(address)


def _read(address: str) -> tuple[dict[str, Any], dict[str, Any]]:
    group = zarr.open_group(storage.zarr_store(address, read_only=True), mode="r")
    return {name: array[...] for name, array in group.arrays()}, dict(group.attrs)


def _from_parts(address: str, arrays: dict[str, Any], about: dict[str, Any]) -> Checkpoint:
    chosen = {field.name: about["settings"][field.name] for field in fields(Settings)}
    settings = Settings(**chosen | {"distance_metric": Distance(chosen["distance_metric"])})
    stop = about["stop"] and Stop(
        StopReason[about["stop"]["reason"]], about["stop"]["relative_tolerance"]
    )
    return Checkpoint(address, saved.fit_of(arrays, about), settings, stop or None)
