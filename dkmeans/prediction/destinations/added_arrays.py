"""Predictions as further arrays of a Zarr group that somebody else has made: `store::group`.

Nothing in the group but the arrays of the predictions is changed. The identity is a file in the
folder of `cluster_index`: the attributes of the group belong to the user.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import zarr

from dkmeans import storage
from dkmeans.data.chunks import Chunk
from dkmeans.errors import Invalid
from dkmeans.prediction.destinations.own_folder import IDENTITY, IDENTITY_FILE, METADATA
from dkmeans.prediction.destinations.zarr_group import COMPLETE, ROWS, SECOND_DIMENSIONS, ZarrGroup
from dkmeans.prediction.per_chunk import CLUSTER_INDEX, form_of
from dkmeans.prediction.request import ALL_RESULTS
from dkmeans.retry import with_retries

_ARRAYS = "arrays"


@dataclass(frozen=True, slots=True)
class AddedArrays(ZarrGroup):
    """Arrays of predictions in a group of somebody else, a `Destination`.

    Attributes:
        store: Path or URL of the store.
        group: Path of the group in the store; empty for its root.
    """

    store: str
    group: str

    identity_file: ClassVar[str] = f"{CLUSTER_INDEX}/{IDENTITY_FILE}"

    def check_new(self) -> None:
        """Refuse a place that is no group, or a group with arrays of these names."""
        self._check_group(self.prediction.results)

    def check_replaceable(self, _: Iterable[Chunk]) -> None:
        """Refuse to replace arrays that are not of predictions."""
        own = self._arrays()
        self._check_group([name for name in self.prediction.results if name not in own])

    def empty(self) -> None:
        """Remove the arrays of earlier predictions, and create those of this one."""
        # The group is read first: if that fails, the identity of earlier predictions must be there.
        dimensions = self._dimensions()
        self.write_identity({})
        for name in self._arrays():
            place = storage.join(self.address, name)
            if name == CLUSTER_INDEX:
                storage.clear(place, keep=IDENTITY_FILE)
            else:
                storage.remove(place)
        for name in self.prediction.results:
            self.create_array(name, dimensions[name])
            storage.flush(storage.join(self.address, name))

    def mark_complete(self) -> None:
        """Mark the arrays as complete, and renew consolidated metadata of the groups around them.

        Readers of such metadata would not find the new arrays otherwise.
        """
        parts = self.group.split("/") if self.group else []
        for depth in range(len(parts) + 1):
            path = "/".join(parts[:depth])
            about = storage.read_json(storage.join(self.store, *parts[:depth], METADATA))
            if isinstance(about, dict) and about.get("consolidated_metadata"):
                store = storage.zarr_store(self.store)
                renew = partial(zarr.consolidate_metadata, store, path=path or None)
                with_retries(f"{self.store}::{self.group}", renew)
        # Last: a later call finds nothing to do then.
        self._write_attributes(self.prediction.as_json(), is_complete=True)

    def tidy(self) -> None:
        """Remove the marks of regions, and what a killed writer has left in the arrays."""
        storage.remove(self.marks)
        for name in self.prediction.results:
            storage.remove_temporary_files(storage.join(self.address, name))

    def _attributes(self) -> dict[str, Any] | None:
        seen = storage.read(storage.join(self.address, self.identity_file))
        if seen is None:
            return None
        try:
            content = json.loads(seen.data)
        except ValueError:
            content = None
        is_whole = isinstance(content, dict) and IDENTITY in content
        # Only predictions have a file of this name: the array around it is theirs, even if the
        # content is damaged.
        return content if is_whole else {IDENTITY: {}, _ARRAYS: [CLUSTER_INDEX]}

    def _write_attributes(self, identity: dict[str, Any], *, is_complete: bool) -> None:
        # An empty identity lists the earlier arrays too, which `empty` is about to remove.
        before = () if identity else self._arrays()
        arrays = list(dict.fromkeys((*before, *self.prediction.results)))
        about = {IDENTITY: identity, COMPLETE: is_complete, _ARRAYS: arrays}
        file = storage.join(self.address, self.identity_file)
        storage.write(file, json.dumps(about, indent=1).encode())

    def _arrays(self) -> list[str]:
        """Return the names of the arrays that are of predictions.

        Other names are left out: whoever wrote the file, nothing else is removed.
        """
        listed = (self._attributes() or {}).get(_ARRAYS)
        return [name for name in ALL_RESULTS if isinstance(listed, list) and name in listed]

    def _check_group(self, names: Sequence[str]) -> None:
        """Refuse to add arrays where there is no group, or where it has others of these names.

        Raises:
            Invalid: there is no group of Zarr 3, or an array has one of the names.
        """
        about = storage.read_json(storage.join(self.address, METADATA))
        if not isinstance(about, dict) or about.get("node_type") != "group":
            must = "output must be in a group of Zarr version 3"
            raise Invalid(f"{must}, got {self.address}, where there is none")
        for name in names:
            place = storage.join(self.address, name)
            if set(storage.children(place)) - {IDENTITY_FILE}:
                must = f"output must be a group without {name}, unless predictions added it there"
                raise Invalid(f"{must}; {place} was not added")

    def _dimensions(self) -> dict[str, tuple[str, ...] | None]:
        """Return the names of the dimensions of each array; None if the group names none.

        xarray opens no group in which some arrays have no such names, or in which a name stands for
        two sizes.
        """
        store, own = storage.zarr_store(self.address, read_only=True), self._arrays()
        sizes: dict[str, int] = {}
        of_rows: list[str] = []
        for name, array in zarr.open_group(store, mode="r").arrays():
            names: Any = getattr(array.metadata, "dimension_names", None) or ()
            if name in own or not any(names):
                continue
            sizes |= {each: size for each, size in zip(names, array.shape, strict=True) if each}
            if names[0] and array.shape[0] == self.prediction.rows:
                of_rows.append(names[0])
        if not sizes:
            return dict.fromkeys(self.prediction.results)
        row = of_rows[0] if of_rows else _free(ROWS, self.prediction.rows, sizes)
        found: dict[str, tuple[str, ...] | None] = {}
        for name in self.prediction.results:
            width, _ = form_of(name, self.prediction.num_clusters, self.prediction.top)
            second = zip(SECOND_DIMENSIONS.get(name, ()), width, strict=True)
            found[name] = (row, *(_free(each, size, sizes) for each, size in second))
        return found


def _free(name: str, size: int, sizes: Mapping[str, int]) -> str:
    """Return a name for a dimension that the group does not use for one of another size."""
    names = (name, *(f"{name}_{number}" for number in range(1, len(sizes) + 2)))
    return next(each for each in names if sizes.get(each, size) == size)


def split(address: str) -> tuple[str, str]:
    """Return the store and the path of a group in it, of an address `store::group`."""
    store, _, group = address.partition("::")
    return store.rstrip("/"), group.strip("/")
