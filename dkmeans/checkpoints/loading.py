"""Loading checkpoints: the latest of a model, or the one at an address, verified by its digests."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import zarr
import zarr.errors

from dkmeans import storage
from dkmeans.checkpoints import format as layout
from dkmeans.checkpoints.checkpoint import Checkpoint
from dkmeans.checkpoints.manifest import FILE, WRONG_CONTENT, Manifest, step_of
from dkmeans.errors import InvalidCheckpoint, Outage
from dkmeans.retry import first_line, with_retries

logger = logging.getLogger("dkmeans")

# How often the latest checkpoint is looked for while a driver beside this reader replaces it.
_MOST_LOOKS = 100


def open_latest(
    model_dir: str, loaded: Checkpoint | None = None
) -> tuple[Manifest, Checkpoint | None]:
    """Return the manifest of a model and its latest checkpoint, None if there is none.

    Training that continues from the checkpoint saves with this very manifest. A driver that has
    saved in between is noticed by that. A checkpoint that is `loaded` already is not read again if
    it is still the latest.

    Raises:
        InvalidCheckpoint: the manifest or the latest checkpoint is damaged, or only the manifest is
            missing: the message names the newest checkpoint that is intact, and how to continue
            from it. Or they are of another version of dkmeans, or are replaced at each look.
        Outage: the storage does not answer.
    """
    for _ in range(_MOST_LOOKS):
        manifest = _read_manifest(model_dir)
        if manifest.latest is None:
            if not _has_lost_manifest(model_dir):
                return manifest, None
            if Manifest.read(model_dir).latest is not None:  # a driver has just begun
                continue
            lost = InvalidCheckpoint(f"{storage.join(model_dir, FILE)} is missing")
            raise _with_remedy(lost, model_dir, _names_in(model_dir))
        address = storage.join(model_dir, manifest.latest)
        # No two checkpoints have the same name, and none is changed.
        if loaded is not None and loaded.address == address:
            return manifest, loaded
        try:
            return manifest, load(address)
        except layout.OtherFormat:
            raise
        except InvalidCheckpoint as error:
            # A driver beside this reader may have saved another one, and removed this one.
            if Manifest.read(model_dir).latest != manifest.latest:
                continue
            raise _with_remedy(error, model_dir, manifest.names[:-1]) from error
    raise InvalidCheckpoint(
        f"{model_dir} has replaced its latest checkpoint {_MOST_LOOKS} times while it was read: "
        "train with a larger keep_checkpoint_max, or save less often"
    )


def latest(model_dir: str, loaded: Checkpoint | None = None) -> Checkpoint | None:
    """Return the latest checkpoint of a model, or None; `loaded` is as in `open_latest`.

    Raises:
        InvalidCheckpoint: as `open_latest` does.
    """
    return open_latest(model_dir, loaded)[1]


def address_of(model_dir: str, path: str) -> str:
    """Return the address of a checkpoint, which may be given by its name in the directory."""
    return storage.join(model_dir, path) if step_of(path.rstrip("/")) >= 0 else path


def load(address: str) -> Checkpoint:
    """Return the checkpoint at a path or URL.

    Raises:
        InvalidCheckpoint: there is none, or it is damaged.
        Outage: the storage does not answer.
    """
    try:
        arrays, attributes = with_retries(address, lambda: _read(address))
        layout.check_format(address, attributes["format"])
        layout.check_digests(address, arrays, attributes)
        return layout.checkpoint_of(address, arrays, attributes)
    except FileNotFoundError as error:
        raise InvalidCheckpoint(f"Could not find a checkpoint at: {address}") from error
    except MemoryError as error:
        must = "fit the memory of this machine; it may be damaged"
        raise InvalidCheckpoint(f"{address} must {must}: {first_line(error)}") from error
    except (zarr.errors.BaseZarrError, OSError, *WRONG_CONTENT) as error:
        if isinstance(error, InvalidCheckpoint):
            raise
        what = f"{type(error).__name__}: {first_line(error)}"
        raise InvalidCheckpoint(f"{address} is damaged or no checkpoint: {what}") from error


class Rollback(NamedTuple):
    """A return of a model to an earlier checkpoint, not yet committed.

    Attributes:
        checkpoint: The checkpoint.
        manifest: The manifest to save with: it ends with the checkpoint, and remembers it. It is
            committed by the first save, so that a call which fails before changes nothing.
    """

    checkpoint: Checkpoint
    manifest: Manifest

    def commit(self, model_dir: str) -> Manifest:
        """Make the checkpoint the latest again without a save; return the committed manifest.

        Raises:
            Conflict: another driver saves in the same directory.
            Outage: the storage does not answer.
        """
        return self.manifest.commit(model_dir, self.manifest.names)

    def report(self) -> None:
        """Log that the model goes back."""
        logger.warning(
            "going back to %s, without the checkpoints that were saved after it",
            self.checkpoint.address,
        )


def rollback_to(model_dir: str, path: str) -> Rollback | None:
    """Return the rollback to a checkpoint; None if the model has gone back to it already.

    So a job that is run again continues from what it has saved since. Nothing is changed. The path
    may also be the name of the checkpoint in the directory.

    Raises:
        InvalidCheckpoint: it is damaged, or no checkpoint of this model.
        Outage: the storage does not answer.
    """
    place, _, name = storage.absolute(address_of(model_dir, path)).rstrip("/").rpartition("/")
    try:
        manifest = Manifest.read(model_dir)
    except layout.OtherFormat:
        raise
    except InvalidCheckpoint:
        names = _names_in(model_dir)
        manifest = Manifest(names, storage.read(storage.join(model_dir, FILE)))
    if not manifest.names:
        manifest = replace(manifest, names=_names_in(model_dir))
    if place != storage.absolute(model_dir).rstrip("/") or step_of(name) < 0:
        raise InvalidCheckpoint(f"the checkpoint must be one of {model_dir}, got {path!r}")
    if name == manifest.went_back_to:
        return None
    checkpoint = load(storage.join(model_dir, name))
    if name not in manifest.names:
        must = ", ".join(manifest.names)
        raise InvalidCheckpoint(f"the checkpoint must be one of {model_dir} ({must}), got {path!r}")
    kept = manifest.names[: manifest.names.index(name) + 1]
    return Rollback(checkpoint, replace(manifest, names=kept, went_back_to=name))


def _has_lost_manifest(model_dir: str) -> bool:
    """Return whether a directory without a manifest has checkpoints that a manifest has named.

    A driver that is killed during its first save may leave a checkpoint of step 0, which no
    manifest names.
    """
    names = [name for name in _names_in(model_dir) if step_of(name) > 0]
    return _newest_intact(model_dir, names) is not None


def _read_manifest(model_dir: str) -> Manifest:
    """Return the manifest of a model.

    Raises:
        InvalidCheckpoint: it is damaged. The message names the newest checkpoint that is intact.
    """
    try:
        return Manifest.read(model_dir)
    except layout.OtherFormat:
        raise
    except InvalidCheckpoint as error:
        raise _with_remedy(error, model_dir, _names_in(model_dir)) from error


def _names_in(model_dir: str) -> tuple[str, ...]:
    """Return the names of all checkpoints in a directory, in the order of their steps."""
    found = [name for name in storage.children(model_dir) if step_of(name) >= 0]
    return tuple(sorted(found, key=step_of))


def _with_remedy(
    error: InvalidCheckpoint, model_dir: str, names: Sequence[str]
) -> InvalidCheckpoint:
    """Return the error with the newest intact one of `names`, and how to continue from it."""
    try:
        address = _newest_intact(model_dir, names)
    except Outage:
        return error
    if address is None:
        return InvalidCheckpoint(f"{error}. No other checkpoint in {model_dir} is intact")
    return InvalidCheckpoint(
        f"{error}. The newest intact checkpoint is {address}: go on from it with train "
        "--from-checkpoint, in Python with checkpoint_path"
    )


def _newest_intact(model_dir: str, names: Sequence[str]) -> str | None:
    """Return the address of the last of these checkpoints that can be loaded; None if none can.

    Raises:
        Outage: the storage does not answer.
    """
    for name in reversed(names):
        address = storage.join(model_dir, name)
        with suppress(InvalidCheckpoint):
            load(address)
            return address
    return None


def _read(address: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and the attributes of the checkpoint at an address.

    Raises:
        InvalidCheckpoint: the address is that of another group of Zarr.
    """
    group = zarr.open_group(storage.zarr_store(address, read_only=True), mode="r", zarr_format=3)
    attributes = dict(group.attrs)
    if "format" not in attributes:
        raise InvalidCheckpoint(
            f"{address} must be a checkpoint, as checkpoint-00000300-5c3d9a01 in the directory of "
            "a model, got another group of Zarr"
        )
    return {name: array[...] for name, array in group.arrays()}, attributes
