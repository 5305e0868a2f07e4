"""Checkpoints: saved fits, in the Zarr group that is a model's directory.

A checkpoint is a sub-group under a fresh name. It is written whole and then committed by replacing
one small file, the manifest, which lists the checkpoints that count. A crash at any point leaves
the earlier checkpoints as they were. Only the driver writes.

`commit` writes and `loading` reads. `manifest` is the small file, `format` says what a sub-group
holds, `validation` refuses what no fit has saved, and `checkpoint` has the values that all share.
"""

from dkmeans.checkpoints.checkpoint import Checkpoint, Settings, Stop, variables
from dkmeans.checkpoints.commit import new_name, orphans, prepare, save
from dkmeans.checkpoints.loading import Rollback, address_of, latest, load, open_latest, rollback_to
from dkmeans.checkpoints.manifest import Manifest

__all__ = [
    "Checkpoint",
    "Manifest",
    "Rollback",
    "Settings",
    "Stop",
    "address_of",
    "latest",
    "load",
    "new_name",
    "open_latest",
    "orphans",
    "prepare",
    "rollback_to",
    "save",
    "variables",
]
