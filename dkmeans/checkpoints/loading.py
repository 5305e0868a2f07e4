"""Loading checkpoints: the latest of a model, or the one at an address, verified by its digests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import zarr
import zarr.errors

from dkmeans import storage
from dkmeans.checkpoints import format as layout
from dkmeans.checkpoints.checkpoint import Checkpoint
from dkmeans.checkpoints.manifest import FILE, Manifest, step_of
from dkmeans.errors import InvalidCheckpoint, Outage
from dkmeans.retry import with_retries


def open_latest(model_dir: str) -> tuple[Manifest, Checkpoint | None]:
    """Return the manifest of a model and its latest checkpoint, None if there is none.

    Training that continues from the checkpoint saves with this very manifest. A driver that has
    saved in between is noticed by that.

    Raises:
        InvalidCheckpoint: the manifest or the latest checkpoint is damaged. The message names the
            newest checkpoint that is intact, and how to continue from it.
    """
    try:
        manifest = Manifest.read(model_dir)
    except layout.OtherFormat:
        raise
    except InvalidCheckpoint as error:
        # Without a manifest the only order is that of the steps.
        found = [name for name in storage.children(model_dir) if step_of(name) >= 0]
        raise _with_remedy(error, model_dir, sorted(found, key=step_of)) from error
    if manifest.latest is None:
        return manifest, None
    try:
        return manifest, load(storage.join(model_dir, manifest.latest))
    except layout.OtherFormat:
        raise
    except InvalidCheckpoint as error:
        raise _with_remedy(error, model_dir, manifest.names[:-1]) from error


def latest(model_dir: str) -> Checkpoint | None:
    """Return the latest checkpoint of a model, or None.

    Raises:
        InvalidCheckpoint: as `open_latest` does.
    """
    return open_latest(model_dir)[1]


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
    except (zarr.errors.BaseZarrError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidCheckpoint):
            raise
        raise InvalidCheckpoint(f"{address} is damaged or no checkpoint: {error!r}") from error


def _with_remedy(
    error: InvalidCheckpoint, model_dir: str, names: Sequence[str]
) -> InvalidCheckpoint:
    """Return the error with the newest intact checkpoint added, and how to continue from it.

    Args:
        error: The error of the manifest or of the latest checkpoint.
        model_dir: Path or URL of the model's directory.
        names: Names of the other checkpoints, the newest last.
    """
    for number in reversed(range(len(names))):
        address = storage.join(model_dir, names[number])
        try:
            load(address)
        except (InvalidCheckpoint, Outage):
            continue
        content = json.dumps({"format": layout.FORMAT, "checkpoints": names[: number + 1]})
        return InvalidCheckpoint(
            f"{error}. The newest intact checkpoint is {address}: evaluate, predict and "
            "write_predictions take it as checkpoint_path. To continue from it, stop all drivers "
            f"and replace the content of {storage.join(model_dir, FILE)} by {content}"
        )
    return InvalidCheckpoint(f"{error}. No other checkpoint in {model_dir} is intact")


def _read(address: str) -> tuple[dict[str, Any], dict[str, Any]]:
    group = zarr.open_group(storage.zarr_store(address, read_only=True), mode="r")
    return {name: array[...] for name, array in group.arrays()}, dict(group.attrs)
