"""Saving checkpoints: written whole under a fresh name, then committed by the manifest.

`saving.FitSaver` calls `save`. The order is what makes a crash harmless: the sub-group is written
and flushed first, then the manifest is replaced, then the oldest checkpoints are removed.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from uuid import uuid4

from dkmeans import storage
from dkmeans.checkpoints import format as layout
from dkmeans.checkpoints.checkpoint import Settings, Stop
from dkmeans.checkpoints.manifest import Manifest, step_of
from dkmeans.checkpoints.zarr_files import METADATA, files_of, group_metadata
from dkmeans.errors import Invalid, Outage
from dkmeans.fit import Fit
from dkmeans.retry import first_line, with_retries

logger = logging.getLogger("dkmeans")

# Names of temporary files, of dkmeans and of Zarr, that a killed driver leaves.
_TEMPORARY_NAME = re.compile(
    r"\.probe-[0-9a-f]{8}|\.(.+\.json|events\.out\..+|\.probe-[0-9a-f]{8})\.[a-z0-9_]{8}"
    r"|.+\.[0-9a-f]{32}\.partial"
)


def prepare(model_dir: str) -> None:
    """Create the model's directory if needed, and probe its store for conditional writes.

    Raises:
        Invalid: the directory cannot be created or written to, or holds something else.
        Outage: the storage does not answer.
    """
    probe = storage.join(model_dir, f".probe-{uuid4().hex[:8]}")
    try:
        _open_directory(model_dir)
        safe = storage.supports_conditional_writes(probe)
    except storage.WRITE_ERRORS as error:
        raise Invalid(
            f"model_dir must be writable, got {model_dir!r}: {first_line(error)}"
        ) from error
    if not safe:
        logger.warning(
            "the store of %s ignores conditional writes: two drivers that train in this model_dir "
            "cannot be told apart and would overwrite each other's checkpoints. Start only one",
            model_dir,
        )


def new_name(step: int) -> str:
    """Return a name for a checkpoint of this step that no other checkpoint has."""
    return f"checkpoint-{step:08d}-{uuid4().hex[:8]}"


def save(
    model_dir: str,
    manifest: Manifest,
    fit: Fit,
    settings: Settings,
    stop: Stop | None,
    keep: int,
    name: str | None = None,
) -> Manifest:
    """Save a fit as the latest checkpoint, and remove all but the newest `keep`.

    Args:
        model_dir: Path or URL of the model's directory.
        manifest: The manifest that the last save returned; before the first save, the one that was
            read with the fit.
        fit: What to save.
        settings: The settings it was trained with.
        stop: Why training ended; None if it goes on.
        keep: How many checkpoints to keep; 0 keeps all.
        name: A name from `new_name`, by which the caller recognises the checkpoint; None makes one.

    Returns:
        The new manifest.

    Raises:
        Conflict: another driver has saved since `manifest` was read.
        Outage: the storage does not answer.
        OSError: the checkpoint cannot be written, and the earlier ones remain; or the checkpoint is
            committed, and an old one cannot be removed.
    """
    name = name or new_name(fit.step)
    address = storage.join(model_dir, name)
    try:
        with_retries(address, lambda: _write(address, fit, settings, stop))
        names = (*manifest.names, name)
        kept = names[-keep:] if keep else names
        replaced = manifest.commit(model_dir, kept)
    except Outage:  # unknown whether the manifest was replaced, so the sub-group must stay
        raise
    except BaseException:
        # An interrupt may arrive after the manifest was replaced and before the call returned.
        with suppress(Invalid, Outage, *storage.WRITE_ERRORS):  # they must not hide the interrupt
            if name not in Manifest.read(model_dir).names:
                storage.remove(address)
        raise
    for old in names[: len(names) - len(kept)]:
        storage.remove(storage.join(model_dir, old))
    return replaced


def orphans(model_dir: str, manifest: Manifest) -> list[str]:
    """Return what crashed drivers have left: checkpoints that do not count, and temporary files.

    Another driver may be writing one of them right now, of any step: it may have begun anew or gone
    back. Once this driver has committed a checkpoint, the other one cannot any more, and what it
    writes may be removed.
    """
    return [
        storage.join(model_dir, name)
        for name in storage.children(model_dir)
        if name not in manifest.names and (step_of(name) >= 0 or _TEMPORARY_NAME.fullmatch(name))
    ]


def _open_directory(model_dir: str) -> None:
    """Make the directory a Zarr group, unless it is one.

    Raises:
        Invalid: the directory is another kind of Zarr node, such as an array.
    """
    address = storage.join(model_dir, METADATA)
    # `read_json` returns None for a damaged file too, and logs a warning: the file is replaced.
    metadata = storage.read_json(address)
    if metadata is None:
        storage.write(address, group_metadata({}))
    elif not (isinstance(metadata, dict) and metadata.get("node_type") == "group"):
        raise Invalid(f"model_dir must be a group of Zarr or a new directory, got {model_dir!r}")


def _write(address: str, fit: Fit, settings: Settings, stop: Stop | None) -> None:
    arrays, attributes = layout.parts_of(fit, settings, stop)
    # A retry starts over, and writes over the files of the attempt before.
    storage.write_files(address, files_of(arrays, attributes))
