"""Predictions as further arrays of a Zarr group that somebody else has made.

`output` calls this module for an output `store::group`. Nothing in the group but the arrays of the
predictions is changed. What tells whose they are is a file in the folder of `cluster_index`: the
attributes of the group belong to the user.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import zarr

from dkmeans import storage
from dkmeans.errors import Invalid
from dkmeans.prediction.per_chunk import CLUSTER_INDEX
from dkmeans.retry import with_retries

# File with the identity of the predictions, and the names of the arrays that are theirs.
IDENTITY_FILE = "_dkmeans_predictions"
ARRAYS = "arrays"
# Names of the second dimension of arrays, if the group names dimensions.
_SECOND_DIMENSIONS = {"all_distances": "cluster", "top_indices": "nearest"}
_SECOND_DIMENSIONS["top_distances"] = _SECOND_DIMENSIONS["top_indices"]


def split(address: str) -> tuple[str, str]:
    """Return the store and the path of a group in it, of an address `store::group`."""
    store, _, group = address.partition("::")
    return store.rstrip("/"), group.strip("/")


def check_group(address: str, names: Sequence[str]) -> None:
    """Refuse to add arrays where there is no group, or where it has others of these names.

    Args:
        address: Address of the group.
        names: Names of the arrays, none of which is of predictions.

    Raises:
        Invalid: there is no group of Zarr 3, or an array has one of the names.
    """
    about = storage.read_json(storage.join(address, "zarr.json"))
    if not isinstance(about, dict) or about.get("node_type") != "group":
        raise Invalid(f"output must be in a group of Zarr version 3, got {address}, which is none")
    for name in names:
        place = storage.join(address, name)
        others = set(storage.children(place)) - {IDENTITY_FILE}
        if others:
            raise Invalid(
                f"output must have no {name} that is not of predictions; {place} is there already"
            )


def row_dimension(address: str, rows: int) -> str | None:
    """Return the name of the dimension of rows that the arrays of a group have; None if none has.

    Args:
        address: Address of the group.
        rows: Number of rows.
    """
    group = zarr.open_group(storage.zarr_store(address, read_only=True), mode="r")
    for _, array in group.arrays():
        names = getattr(array.metadata, "dimension_names", None)
        if names and array.shape[0] == rows:
            return str(names[0])
    return None


def dimensions_of(name: str, rows: str | None, count: int) -> tuple[str, ...] | None:
    """Return the names of the dimensions of an array of predictions; None if the group has none.

    xarray opens no group in which some arrays have no such names.

    Args:
        name: Name of the array.
        rows: Name of the dimension of rows; None if the group has none.
        count: Number of dimensions.
    """
    return None if rows is None else (rows, _SECOND_DIMENSIONS.get(name, name))[:count]


def clear(address: str, names: Sequence[str]) -> None:
    """Remove arrays of predictions, but for the file that tells whose they are."""
    for name in names:
        if name == CLUSTER_INDEX:
            storage.clear(storage.join(address, name), keep=IDENTITY_FILE)
        else:
            storage.remove(storage.join(address, name))


def consolidate(address: str) -> None:
    """Have the metadata of all arrays, where a group around the predictions has that, with theirs.

    Readers of such metadata would not find the new arrays otherwise.
    """
    store, group = split(address)
    parts = group.split("/") if group else []
    for depth in range(len(parts) + 1):
        path = "/".join(parts[:depth])
        about = storage.read_json(
            storage.join(store, path, "zarr.json") if path else f"{store}/zarr.json"
        )
        if isinstance(about, dict) and about.get("consolidated_metadata"):
            renew = partial(zarr.consolidate_metadata, storage.zarr_store(store), path=path or None)
            with_retries(address, renew)


def content(identity: dict[str, Any], *, is_complete: bool, arrays: Sequence[str]) -> bytes:
    """Return the content of the file that tells whose the arrays are."""
    about = {IDENTITY_FILE[1:]: identity, "complete": is_complete, ARRAYS: list(arrays)}
    return json.dumps(about, indent=1).encode()
