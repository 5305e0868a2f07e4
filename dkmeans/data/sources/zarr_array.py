"""Rows of Zarr arrays, version 2 or 3, sharded or not.

A source pickles as the address and the metadata of its array. Chunks end where chunks or shards of
the storage end, so that each of those is read and decoded once in an epoch.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from socket import gethostname
from typing import Any

import zarr
import zarr.errors
from numpy.typing import DTypeLike
from obstore.exceptions import BaseError
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore, ObjectStore

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, Leaf, even_rows
from dkmeans.data.sources.memory import from_array
from dkmeans.errors import InvalidData
from dkmeans.storage import check_not_forked, unreachable, zarr_store

_LARGEST_SHARD_BYTES = 2**26
# Settings of obstore that identify a store.
_PLACES = ("account_name", "bucket", "container_name", "endpoint")


@dataclass(frozen=True, slots=True, eq=False)
class ZarrRows(Leaf):
    """Rows of a stored Zarr array of one or two dimensions.

    Attributes:
        array: The Zarr array.
        name: Address of the array, for messages.
        chunk_rows: Number of rows in a chunk.
    """

    array: Any
    name: str
    chunk_rows: int

    @property
    def first(self) -> int:
        """Number of the first row: 0."""
        return 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.array.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.array.shape[1]) if self.array.ndim == 2 else 1

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the array."""
        dtype: DTypeLike = self.array.dtype
        return dtype

    @property
    def key(self) -> Hashable:
        """Identity of the array: its store and its path in the store."""
        return f"{_place(self.array.store)}/{self.array.path}"

    def read(self, start: int, stop: int) -> Any:
        """Return these rows."""
        if isinstance(self.array.store, LocalStore):
            _check_present(self.array.store.root / self.array.path)
        elif isinstance(self.array.store, ObjectStore):
            check_not_forked(self.name)
        return self.array[start:stop].reshape(stop - start, self.width)


def _place(store: Store) -> str:
    """Return a text that identifies a store.

    It is built from the settings of an object store, because obstore raises an error when it prints
    a store of Azure that has no account.
    """
    if not isinstance(store, ObjectStore):
        return str(store)
    inner: Any = store.store
    config = getattr(inner, "config", {})
    named = sorted((key, config[key]) for key in _PLACES if key in config)
    return f"{type(inner).__name__} {named} {getattr(inner, 'prefix', None)}"


@cache
def _check_present(folder: Path) -> None:
    """Refuse a local array that is not on the disks of this machine.

    Zarr reads chunks that are not there as fill values, so a worker without access to the folder
    would compute with wrong rows and raise no error.

    Raises:
        FileNotFoundError: the folder has no metadata of Zarr.
    """
    if not any((folder / name).exists() for name in ("zarr.json", ".zarray")):
        raise FileNotFoundError(f"there is no Zarr array at {folder} on {gethostname()}")


def from_zarr_array(array: zarr.Array[Any], name: str, chunk_bytes: int | None = None) -> Batch:
    """Return the chunks of a Zarr array, each of whole chunks or shards of the storage.

    Args:
        array: The array, of one or two dimensions.
        name: Name of the array, for messages.
        chunk_bytes: Target size of a chunk; None for the usual size.
    """
    width = array.shape[1] if array.ndim == 2 else 1
    row_bytes = array.dtype.itemsize * width
    # Each request to an object store costs time, so a shard is read whole unless it is too large.
    largest = max(_LARGEST_SHARD_BYTES, chunk_bytes or 0)
    whole_shards = array.shards is not None and array.shards[0] * row_bytes <= largest
    unit = array.shards[0] if array.shards and whole_shards else array.chunks[0]
    source = ZarrRows(array, name, even_rows(array.shape[0], row_bytes, unit, chunk_bytes))
    if isinstance(array.store, MemoryStore):  # Other processes cannot read it.
        return from_array(source.read(0, source.rows), name, chunk_bytes)
    return Batch((Chunk(source, 0, source.rows),))


def open_array(address: str) -> zarr.Array[Any]:
    """Open the array at `store` or `store::array`.

    Raises:
        InvalidData: there is no array, it cannot be read, or the address is that of a group.
    """
    store, _, path = address.partition("::")
    try:
        node = zarr.open(zarr_store(store, read_only=True), path=path or None, mode="r")
    except FileNotFoundError as error:
        raise InvalidData(f"{address} must be a Zarr array: nothing is there") from error
    except (TimeoutError, zarr.errors.BaseZarrError, OSError, ValueError, KeyError) as error:
        raise InvalidData(f"{address} must be a Zarr array, and cannot be read: {error}") from error
    except BaseError as error:
        raise unreachable(address, error) from error
    if isinstance(node, zarr.Group):
        names = ", ".join(f"{store}::{name}" for name, _ in sorted(node.arrays()))
        raise InvalidData(
            f"{address} must be a Zarr array, got a group; name one of its arrays: {names}"
            if names
            else f"{address} must be a Zarr array, got a group that holds none"
        )
    return node
