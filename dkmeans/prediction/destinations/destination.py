"""The type `Destination`, and the choice of a destination by its address."""

from __future__ import annotations

from typing import TypeAlias

from dkmeans import storage
from dkmeans.errors import Invalid, expected
from dkmeans.prediction.destinations.added_arrays import AddedArrays, split
from dkmeans.prediction.destinations.parquet_folder import ClusterFolders, ParquetFolder
from dkmeans.prediction.destinations.zarr_group import ZarrGroup
from dkmeans.prediction.identity import Prediction
from dkmeans.prediction.per_chunk import CLUSTER_INDEX

# A place for the results of one prediction. Regions that are done have marks (`has_marks`), or the
# file of a region is its mark. `done` may also return names that are of no region.
Destination: TypeAlias = ZarrGroup | ParquetFolder


def check_address(address: str, partition_by: str) -> None:
    """Refuse an address that names no destination, or not the one that `partition_by` needs.

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
    """Return the destination that an address names, which `check_address` has accepted."""
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
