"""The protocol `Destination`, and the choice of a destination by its address."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from dkmeans import storage
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.errors import Invalid, expected
from dkmeans.prediction.destinations.added_arrays import AddedArrays, split
from dkmeans.prediction.destinations.parquet_folder import ClusterFolders, ParquetFolder
from dkmeans.prediction.destinations.zarr_group import ZarrGroup
from dkmeans.prediction.identity import Prediction
from dkmeans.prediction.per_chunk import CLUSTER_INDEX


class Destination(Protocol):
    """A place for the results of one prediction."""

    @property
    def address(self) -> str:
        """Absolute path or URL."""
        ...

    @property
    def prediction(self) -> Prediction:
        """The prediction that is written there."""
        ...

    @property
    def has_marks(self) -> bool:
        """True if regions that are done have marks, which are removed in the end.

        False if the file of a region is its mark.
        """
        ...

    def regions(self, batch: Batch) -> Iterable[Chunk]:
        """Return all rows in regions, each as one chunk, in order."""
        ...

    def identity(self) -> dict[str, Any] | None:
        """Return the identity that is stored there, empty if it is damaged; None if there is none.

        An empty identity is that of no prediction, so nothing there counts as done.
        """
        ...

    def check_new(self) -> None:
        """Refuse a place without an identity that holds something else already.

        Raises:
            Invalid: the place holds something else.
        """
        ...

    def check_replaceable(self, regions: Iterable[Chunk]) -> None:
        """Refuse to replace predictions beside which somebody else has put something.

        Args:
            regions: The regions of this prediction.

        Raises:
            Invalid: the place holds files of somebody else.
        """
        ...

    def lacks_arrays(self) -> bool:
        """Return whether somebody has removed an array that was set up."""
        ...

    def write_identity(self, identity: dict[str, Any]) -> None:
        """Write the identity; an empty one is that of no prediction."""
        ...

    def empty(self) -> None:
        """Remove earlier predictions, their identity first, and create what regions are written to.

        A crash before the new identity is written leaves an empty one, with which no mark counts.
        """
        ...

    def write(self, region: Chunk, results: dict[str, np.ndarray[Any, Any]]) -> None:
        """Write the results of one region, durably, and then mark the region as done."""
        ...

    def done(self) -> Iterable[str]:
        """Return the names of the regions that are done. The caller passes over other names."""
        ...

    def is_marked_complete(self) -> bool:
        """Return whether the place is marked as complete."""
        ...

    def mark_complete(self) -> None:
        """Mark the place as complete, for readers."""
        ...

    def unmark(self) -> None:
        """Remove a mark of completeness, because a region is missing."""
        ...

    def tidy(self) -> None:
        """Remove what a complete output does not need."""
        ...


def check_address(address: str, partition_by: str) -> None:
    """Refuse an address that names no destination, or not the one that `partition_by` needs.

    Args:
        address: As in `destination_for`.
        partition_by: `cluster_index` for a folder for each cluster; empty for none.

    Raises:
        Invalid: the ending is unknown; or `partition_by` is another name, or comes with another
            ending than that of Parquet.
    """
    if not (is_parquet(address) or _ends(address, ".zarr") or _is_added(address)):
        must = "output must end in .zarr or .parquet, or be STORE.zarr::GROUP"
        raise Invalid(f"{must}, got {address!r}")
    if partition_by and not is_parquet(address):
        must = "partition_by must come with an output that ends in .parquet"
        raise Invalid(f"{must}, got {address!r}")
    if partition_by not in ("", CLUSTER_INDEX):
        raise Invalid(expected("partition_by", repr(CLUSTER_INDEX), partition_by))


def destination_for(address: str, prediction: Prediction) -> Destination:
    """Return the destination that an address names.

    Args:
        address: Path or URL that ends in `.zarr` or `.parquet`, or `store.zarr::group`.
        prediction: The prediction to write.
    """
    if _is_added(address):
        store, group = split(address)
        whole = "/".join(filter(None, (store, group)))
        return AddedArrays(storage.absolute(whole), prediction, store, group)
    place = storage.absolute(address)
    if _ends(address, ".zarr"):
        return ZarrGroup(place, prediction)
    return (ClusterFolders if prediction.partition_by else ParquetFolder)(place, prediction)


def is_parquet(address: str) -> bool:
    """Return whether an address names a folder of Parquet files."""
    return _ends(address, ".parquet") and not _is_added(address)


def _ends(address: str, ending: str) -> bool:
    return address.rstrip("/").endswith(ending)


def _is_added(address: str) -> bool:
    """Return whether an address is `store::group`."""
    store, colons, _ = address.partition("::")
    return bool(colons) and _ends(store, ".zarr")
