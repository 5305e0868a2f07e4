"""Rows of a Zarr array, version 2 or 3, sharded or not."""

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
from dkmeans.storage import unreachable, zarr_store

_LARGEST_SHARD_BYTES = 2**26
# What tells one place of an object store from another, as obstore calls it.
_PLACES = ("account_name", "bucket", "container_name", "endpoint")


@dataclass(frozen=True, slots=True, eq=False)
class ZarrRows(Leaf):
    """A Zarr array of one or two dimensions; it pickles as its address and metadata."""

    array: Any
    name: str
    chunk_rows: int

    @property
    def first(self) -> int:
        """The number of its first row."""
        return 0

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return int(self.array.shape[0])

    @property
    def width(self) -> int:
        """How many columns it has."""
        return int(self.array.shape[1]) if self.array.ndim == 2 else 1

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of what it reads."""
        dtype: DTypeLike = self.array.dtype
        return dtype

    @property
    def key(self) -> Hashable:
        """The array's place."""
        return f"{_place(self.array.store)}/{self.array.path}"

    def read(self, start: int, stop: int) -> Any:
        """These rows."""
        if isinstance(self.array.store, LocalStore):
            _require(self.array.store.root / self.array.path)
        return self.array[start:stop].reshape(stop - start, self.width)


def _place(store: Store) -> str:
    """What tells a store from others; obstore cannot print those of Azure without their account."""
    if not isinstance(store, ObjectStore):
        return str(store)
    inner: Any = store.store
    config = getattr(inner, "config", {})
    named = sorted((key, config[key]) for key in _PLACES if key in config)
    return f"{type(inner).__name__} {named} {getattr(inner, 'prefix', None)}"


@cache
def _require(folder: Path) -> None:
    """Refuse a local array that this process cannot see: Zarr would read it as fill values."""
    if not any((folder / name).exists() for name in ("zarr.json", ".zarray")):
        raise FileNotFoundError(f"there is no Zarr array at {folder} on {gethostname()}")


def from_zarr_array(array: zarr.Array[Any], name: str) -> Batch:
    """Chunks of whole storage chunks, or shards, of about the size that the library likes."""
    width = array.shape[1] if array.ndim == 2 else 1
    row = array.dtype.itemsize * width
    # A shard is read whole, if it is not too large for that: to ask for it costs.
    whole = array.shards is not None and array.shards[0] * row <= _LARGEST_SHARD_BYTES
    unit = array.shards[0] if array.shards and whole else array.chunks[0]
    source = ZarrRows(array, name, even_rows(array.shape[0], row, unit))
    if isinstance(array.store, MemoryStore):  # other processes cannot read it
        return from_array(source.read(0, source.rows), name)
    return Batch((Chunk(source, 0, source.rows),))


def open_array(address: str) -> zarr.Array[Any]:
    """The array at `store` or `store::array`.

    Raises:
        InvalidData: there is none, it cannot be read, or the address means a group.
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
