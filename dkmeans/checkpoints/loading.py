"""Loading checkpoints: the latest of a model, or the one at an address, verified by its digests."""

from __future__ import annotations

from typing import Any

import zarr
import zarr.errors

from dkmeans import storage
from dkmeans.checkpoints import format as layout
from dkmeans.checkpoints.checkpoint import Checkpoint
from dkmeans.checkpoints.manifest import Manifest
from dkmeans.errors import InvalidCheckpoint
from dkmeans.retry import with_retries


def open_latest(model_dir: str) -> tuple[Manifest, Checkpoint | None]:
    """Return the manifest of a model and its latest checkpoint, None if there is none.

    Training that continues from the checkpoint saves with this very manifest. A driver that has
    saved in between is noticed by that.

    Raises:
        InvalidCheckpoint: as `load` does.
    """
    manifest = Manifest.read(model_dir)
    name = manifest.latest
    return manifest, load(storage.join(model_dir, name)) if name else None


def latest(model_dir: str) -> Checkpoint | None:
    """Return the latest checkpoint of a model, or None.

    Raises:
        InvalidCheckpoint: as `load` does.
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


def _read(address: str) -> tuple[dict[str, Any], dict[str, Any]]:
    group = zarr.open_group(storage.zarr_store(address, read_only=True), mode="r")
    return {name: array[...] for name, array in group.arrays()}, dict(group.attrs)
