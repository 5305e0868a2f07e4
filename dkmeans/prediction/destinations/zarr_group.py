"""Predictions as a Zarr group: an array for each result, whose chunks are the regions.

The identity is an attribute of the group, and so is `complete`. A region that is done has a mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import zarr

from dkmeans import storage
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.prediction.destinations import own_folder
from dkmeans.prediction.destinations.own_folder import IDENTITY, MARKS, METADATA
from dkmeans.prediction.identity import Prediction
from dkmeans.prediction.per_chunk import (
    ALL_DISTANCES,
    CLUSTER_INDEX,
    TOP_DISTANCES,
    TOP_INDICES,
    form_of,
)
from dkmeans.prediction.regions import file_of, numbered_regions
from dkmeans.prediction.request import ALL_RESULTS
from dkmeans.retry import with_retries

COMPLETE = "complete"
# Names of the dimensions of arrays: of the first, and of the second of those that have one.
ROWS = "row"
SECOND_DIMENSIONS = {
    ALL_DISTANCES: ("cluster",),
    TOP_INDICES: ("nearest",),
    TOP_DISTANCES: ("nearest",),
}


@dataclass(frozen=True, slots=True)
class ZarrGroup:
    """A Zarr group of its own, a `Destination`.

    Attributes:
        address: Absolute path or URL.
        prediction: The prediction that is written there.
    """

    address: str
    prediction: Prediction

    identity_file: ClassVar[str] = METADATA
    has_marks: ClassVar[bool] = True

    @property
    def marks(self) -> str:
        """Address of the marks of regions that are done.

        They lie in the folder of an array: in the folder of the group, readers would take them for
        Zarr nodes, and warn.
        """
        return storage.join(self.address, CLUSTER_INDEX, MARKS)

    def regions(self, batch: Batch) -> Iterable[Chunk]:
        """Return all rows in regions of the size of a chunk of the arrays."""
        return numbered_regions(batch, self.prediction.region_rows, "{}")

    def identity(self) -> dict[str, Any] | None:
        """Return the identity that is stored, empty if it is damaged; None if there is none."""
        attributes = self._attributes()
        return None if attributes is None else attributes[IDENTITY]

    def check_new(self) -> None:
        """Refuse a folder that is not empty."""
        own_folder.check_new(self.address, self.identity_file)

    def check_replaceable(self, _: Iterable[Chunk]) -> None:
        """Refuse to replace predictions beside which somebody else has put something."""
        own_folder.check_replaceable(self.address, {METADATA, *ALL_RESULTS}.__contains__)

    def lacks_arrays(self) -> bool:
        """Return whether somebody has removed an array that was set up."""
        return any(
            storage.read(storage.join(self.address, name, METADATA)) is None
            for name in self.prediction.results
        )

    def write_identity(self, identity: dict[str, Any]) -> None:
        """Write the identity, and mark the group as incomplete."""
        self._write_attributes(identity, is_complete=False)

    def empty(self) -> None:
        """Remove earlier predictions, their identity first, and create the arrays."""
        self.write_identity({})
        storage.clear(self.address, keep=self.identity_file)
        for name in self.prediction.results:
            self.create_array(name, (ROWS, *SECOND_DIMENSIONS.get(name, ())))
        storage.flush(self.address)

    def create_array(self, name: str, dimensions: tuple[str, ...] | None) -> None:
        """Create the array of a result, without rows.

        Without names of dimensions, xarray opens no array.
        """
        about = self.prediction
        width, dtype = form_of(name, about.num_clusters, about.top)
        # Created in memory, and its metadata written: for an array of a group Zarr asks the store
        # to create the group if absent, and a store that ignores the condition empties the
        # attributes of the group. Files that are in the array's folder stay.
        held: dict[str, Any] = {}
        zarr.create_array(
            zarr.storage.MemoryStore(held),
            shape=(about.rows, *width),
            dtype=dtype,
            chunks=(about.region_rows, *width),
            # No result has the fill value, so Zarr stores every chunk that is written.
            fill_value=-1 if dtype.kind == "i" else np.nan,
            dimension_names=dimensions,
            zarr_format=3,
        )
        storage.write(storage.join(self.address, name, METADATA), held[METADATA].to_bytes())

    def write(self, region: Chunk, results: dict[str, np.ndarray[Any, Any]]) -> None:
        """Write the results of one region, durably, and then mark the region as done."""
        write = partial(self._write, region, results)
        with_retries(f"region {file_of(region)} of {self.address}", write)

    def done(self) -> Iterable[str]:
        """Return the names of the marks."""
        return storage.files_below(self.marks)

    def is_marked_complete(self) -> bool:
        """Return whether the attribute `complete` is true."""
        return (self._attributes() or {}).get(COMPLETE) is True

    def mark_complete(self) -> None:
        """Set the attribute `complete`."""
        self._write_attributes(self.prediction.as_json(), is_complete=True)

    def unmark(self) -> None:
        """Do nothing: a group that lacks regions has no mark of completeness."""

    def tidy(self) -> None:
        """Remove the marks of regions and temporary files."""
        storage.remove(self.marks)
        storage.remove_temporary_files(self.address)

    def _attributes(self) -> dict[str, Any] | None:
        """Return the attributes of the group; None if it does not hold predictions."""
        seen = storage.read(storage.join(self.address, self.identity_file))
        if seen is None:
            return None
        try:
            content = json.loads(seen.data)
        except ValueError:
            return {IDENTITY: {}} if self._is_cut_off(seen.data) else None
        attributes = content.get("attributes") if isinstance(content, dict) else None
        return attributes if isinstance(attributes, dict) and IDENTITY in attributes else None

    def _is_cut_off(self, data: bytes) -> bool:
        """Return whether a damaged `zarr.json` is the beginning of one that dkmeans has written.

        Places other than local disks and object stores write a file piece by piece, and a disk that
        was not flushed may lose the end of a file.
        """
        beginning = _content({}, is_complete=False).partition(f'"{IDENTITY}"'.encode())
        # A shorter beginning may be of any file: it counts only if nothing else is there.
        return data.startswith(b"".join(beginning[:2])) or (
            beginning[0].startswith(data)
            and own_folder.holds_only(self.address, self.identity_file, (self.identity_file,))
        )

    def _write_attributes(self, identity: dict[str, Any], *, is_complete: bool) -> None:
        data = _content(identity, is_complete=is_complete)
        storage.write(storage.join(self.address, self.identity_file), data)

    def _write(self, region: Chunk, results: dict[str, np.ndarray[Any, Any]]) -> None:
        number = region.start // self.prediction.region_rows
        for name, array in results.items():
            node = zarr.open_array(storage.zarr_store(self.address), path=name, mode="r+")
            node[region.start : region.stop] = array
            # Zarr's key of this chunk; a folder if the array has two dimensions.
            storage.flush(storage.join(self.address, name, "c", str(number)))
            # Flushes the array's folder too, in which the first chunk creates the folder `c`.
            storage.flush(storage.join(self.address, name, METADATA))
        storage.write(storage.join(self.marks, file_of(region)), b"")


def _content(identity: dict[str, Any], *, is_complete: bool) -> bytes:
    """Return the content of the `zarr.json` of a group of predictions."""
    attributes = {IDENTITY: identity, COMPLETE: is_complete}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(group, indent=1).encode()
