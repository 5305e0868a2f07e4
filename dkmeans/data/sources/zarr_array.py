"""Rows of Zarr arrays, version 2 or 3, sharded or not.

A source pickles as the address and the metadata of its array. Chunks end where chunks or shards of
the storage end, so that each of those is read and decoded once in an epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from itertools import product
from math import prod
from pathlib import Path
from socket import gethostname
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
import obstore.store
import zarr
import zarr.errors
from numpy.typing import DTypeLike
from obstore.exceptions import BaseError
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, ZipStore

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import Chunk, Leaf, even_rows
from dkmeans.data.sources.cf_attributes import missing_values, refuse_missing, refuse_packed
from dkmeans.data.sources.memory import from_array
from dkmeans.errors import Invalid, InvalidData
from dkmeans.retry import with_retries
from dkmeans.storage import check_not_forked, unreachable, zarr_store

logger = logging.getLogger("dkmeans")

_LARGEST_SHARD_BYTES = 2**26
# Settings of obstore that identify a store.
_PLACES = ("account_name", "bucket", "container_name", "endpoint")
# Arrays of more objects are not counted: an object store lists 1000 objects in a request.
_MOST_COUNTED = 100_000
# Number of arrays of a group that a message names.
_MOST_NAMED = 20
# Name of the file with the metadata of an array, by version of Zarr.
_METADATA = {3: "zarr.json", 2: ".zarray"}
# Warnings about chunks that are not stored, each given once in a process.
_warned: set[tuple[Hashable, str]] = set()


@dataclass(frozen=True, slots=True, eq=False)
class ZarrRows(Leaf):
    """Rows of a stored Zarr array of one or two dimensions.

    Attributes:
        array: The Zarr array.
        name: Address of the array, for messages.
        chunk_rows: Number of rows in a chunk.
        key: Identity of the array: its store and its path in the store. It is made on the driver,
            so that it is the same on all workers.
        missing: Values that stand for missing ones.
    """

    array: Any
    name: str
    chunk_rows: int
    key: Hashable
    missing: tuple[Any, ...] = ()

    first: ClassVar[int] = 0

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

    def read(self, start: int, stop: int) -> Any:
        """Return these rows.

        Raises:
            InvalidData: the array's attributes declare one of the values to be a missing one, or
                the array has changed since it was described.
        """
        if isinstance(self.array.store, ObjectStore):
            check_not_forked(self.name)
        try:
            rows = self.array[start:stop].reshape(stop - start, self.width)
        except (ValueError, RuntimeError):  # Chunks of another array may not be decoded as these.
            _check_unchanged(self.array, self.name)
            raise
        # After the rows: if the metadata is the described one then, it was before.
        _check_unchanged(self.array, self.name)
        refuse_missing(rows, self.missing, start, self.name)
        return rows


def _place(store: Store) -> str:
    """Return a text that identifies a store, and no other one.

    The text of a store of an unknown kind is a new one for each call. What such a store prints may
    be the same for two of them, such as the name of its class or an address in memory.
    """
    if isinstance(store, LocalStore):
        return f"file://{Path(store.root).absolute()}"
    if isinstance(store, ZipStore):
        return f"zip://{Path(store.path).absolute()}"
    if isinstance(store, FsspecStore):
        try:
            described = store.fs.to_json()
        except (TypeError, ValueError):  # an option is an object without a text of its own
            return uuid4().hex
        # A digest, because the options may hold passwords.
        return f"{sha256(described.encode()).hexdigest()} {store.path}"
    inner: Any = getattr(store, "store", None)
    if isinstance(inner, obstore.store.HTTPStore):
        return f"HTTPStore {inner.url}"
    if isinstance(inner, obstore.store.LocalStore) and inner.prefix is not None:
        return f"file://{inner.prefix}"
    # The settings, because obstore raises an error when it prints a store of Azure that has no
    # account.
    config = getattr(inner, "config", {})
    if not isinstance(store, ObjectStore) or not config:
        return uuid4().hex
    named = sorted((key, config[key]) for key in _PLACES if key in config)
    return f"{type(inner).__name__} {named} {getattr(inner, 'prefix', None)}"


def _check_unchanged(array: zarr.Array[Any], name: str) -> None:
    """Refuse an array whose stored metadata is no longer that of `array`; more rows are no change.

    Zarr reads chunks that are not there as fill values, and decodes chunks as it knows them. So an
    array that was replaced, or a worker without access to the folder, would give wrong rows.

    Raises:
        FileNotFoundError: a local folder has no metadata of Zarr.
        InvalidData: another array is stored there.
    """
    file = _METADATA[array.metadata.zarr_format]
    content = _stored(array.store, f"{array.path}/{file}".lstrip("/"))
    if content is None:
        if isinstance(array.store, LocalStore):
            folder = array.store.root / array.path
            raise FileNotFoundError(f"there is no Zarr array at {folder} on {gethostname()}")
        return  # the metadata may be consolidated
    described, found = _Layout.of(array), _stored_layout(file, content)
    grown = found and found.rows >= described.rows and replace(found, rows=described.rows)
    if grown != described:
        raise InvalidData(
            f"{name} must be an array of {described}, as it was when it was first opened, got "
            f"{found or 'no metadata of Zarr'}: it has changed; run again"
        )


def _stored(store: Store, key: str) -> bytes | None:
    """Return the content of a key of a store; None if there is none."""
    if isinstance(store, LocalStore):  # without Zarr's event loop, which would take longer
        path = store.root / key
        return path.read_bytes() if path.exists() else None
    found = sync(store.get(key, default_buffer_prototype()))
    return None if found is None else found.to_bytes()


@dataclass(frozen=True, slots=True)
class _Layout:
    """What decides how the chunks of an array are read.

    Attributes:
        rows: Number of rows.
        row_shape: Shape of a row.
        dtype: Dtype of the values.
        chunks: Shape of a chunk.
        shards: Shape of a shard; None if there are none.
    """

    rows: int
    row_shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> _Layout:
        """Return the layout of an array."""
        dtype = np.dtype(array.dtype).str
        return cls(array.shape[0], array.shape[1:], dtype, array.chunks, array.shards)

    def __str__(self) -> str:
        shape, shards = (self.rows, *self.row_shape), f" in shards {self.shards}"
        text = f"shape {shape} of {np.dtype(self.dtype)} in chunks {self.chunks}"
        return text + (shards if self.shards else "")


@lru_cache
def _stored_layout(file: str, content: bytes) -> _Layout | None:
    """Return the layout that metadata describes; None if the metadata is not that of an array.

    Equal metadata of many reads is parsed once.
    """
    store = MemoryStore({file: default_buffer_prototype().buffer.from_bytes(content)})
    try:
        return _Layout.of(zarr.open_array(store, mode="r"))
    except (zarr.errors.BaseZarrError, FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def from_zarr_array(array: zarr.Array[Any], name: str) -> Cut:
    """Return a function that cuts a Zarr array of one or two dimensions into chunks.

    A warning says how many of the array's chunks are not stored.

    Raises:
        InvalidData: the array's attributes say that its numbers are packed.
        Outage: the storage does not answer.
    """
    refuse_packed(array, name)
    key = f"{_place(array.store)}/{array.path}"
    _report_lost_chunks(array, name, key)
    return partial(_cut, array, name, key)


def _cut(array: zarr.Array[Any], name: str, key: Hashable, chunk_bytes: int | None) -> Batch:
    """Return the chunks of a Zarr array, each of whole chunks or shards of the storage."""
    width = array.shape[1] if array.ndim == 2 else 1
    row_bytes = array.dtype.itemsize * width
    # Each request to an object store costs time, so a shard is read whole unless it is too large.
    largest = max(_LARGEST_SHARD_BYTES, chunk_bytes or 0)
    whole_shards = array.shards is not None and array.shards[0] * row_bytes <= largest
    unit = array.shards[0] if array.shards and whole_shards else array.chunks[0]
    size = even_rows(array.shape[0], row_bytes, unit, chunk_bytes)
    source = ZarrRows(array, name, size, key, missing_values(array))
    if _is_in_memory(array.store):  # Other processes cannot read it.
        return from_array(source.read(0, source.rows), name, chunk_bytes)
    return Batch((Chunk(source, 0, source.rows),))


def _is_in_memory(store: Store) -> bool:
    inner = getattr(store, "store", None)
    return isinstance(store, MemoryStore) or isinstance(inner, obstore.store.MemoryStore)


def _report_lost_chunks(array: zarr.Array[Any], name: str, key: Hashable) -> None:
    """Warn of chunks (of a sharded array: shards) that are not stored.

    Zarr reads such a chunk as fill values, whether nobody has written it or somebody has lost it.
    Very large arrays, and storage that cannot be listed, are not counted.

    Raises:
        Outage: the storage does not answer.
    """
    units = array.shards or array.chunks
    grid = [-(-size // unit) for size, unit in zip(array.shape, units, strict=True)]
    if prod(grid) > _MOST_COUNTED:
        logger.debug("not counting the stored chunks of %s: there are too many", name)
        return
    prefix = f"{array.path}/" if array.path else ""
    try:
        found = with_retries(name, lambda: sync(_names_below(array.store, prefix)))
    except (OSError, BaseError, NotImplementedError) as error:
        logger.debug("not counting the stored chunks of %s: %s", name, error)
        return
    # The metadata has been read. Storage that does not list it, as HTTP, lists nothing.
    if found.isdisjoint(_METADATA.values()):
        return
    # Version 3 of Zarr's metadata has no common type with version 2.
    encode: Any = array.metadata.encode_chunk_key
    stored = sum(encode(place) in found for place in product(*map(range, grid)))
    unit = "shards" if array.shards else "chunks"
    warning = f"{stored:,} of {prod(grid):,} {unit} are stored"
    if stored < prod(grid) and (key, warning) not in _warned:
        _warned.add((key, warning))
        logger.warning(
            "%s: %s; the rows of the others are read as the fill value %s",
            name,
            warning,
            array.fill_value,
        )


async def _names_below(store: Store, prefix: str) -> set[str]:
    """Return the names of all objects of a store that begin with a prefix, without the prefix."""
    return {key.removeprefix(prefix) async for key in store.list_prefix(prefix)}


def open_array(address: str) -> zarr.Array[Any]:
    """Open the array at `store` or `store::array`.

    Raises:
        InvalidData: there is no array, it cannot be read, or the address is that of a group.
    """
    node = _opened(address, "a Zarr array")
    if isinstance(node, zarr.Group):
        raise _is_group(address, address.partition("::")[0], node)
    return node


def open_group(address: str) -> zarr.Group:
    """Open the group at `store` or `store::group`.

    Raises:
        InvalidData: there is no group, or it cannot be read.
    """
    node = _opened(address, "a Zarr group")
    if isinstance(node, zarr.Array):
        raise InvalidData(f"{address} must be a Zarr group, got an array")
    return node


def _opened(address: str, kind: str) -> zarr.Array[Any] | zarr.Group:
    store, _, path = address.partition("::")
    try:
        return zarr.open(zarr_store(store, read_only=True), path=path or None, mode="r")
    except FileNotFoundError as error:
        raise InvalidData(f"{address} must be {kind}: nothing is there") from error
    except Invalid:  # of the address
        raise
    except (TimeoutError, zarr.errors.BaseZarrError, OSError, ValueError, KeyError) as error:
        raise InvalidData(f"{address} must be {kind}, and cannot be read: {error}") from error
    except BaseError as error:
        raise unreachable(address, error) from error


def _is_group(address: str, store: str, group: zarr.Group) -> InvalidData:
    """Return the error for the address of a group. It names arrays in the group or below it."""
    # Deeper ones are looked for only if there is no other: that may take many requests.
    names = sorted(array.path for _, array in group.arrays())
    if not names:
        below = group.members(max_depth=None)
        names = sorted(node.path for _, node in below if isinstance(node, zarr.Array))
    if not names:
        return InvalidData(f"{address} must be a Zarr array, got a group that holds none")
    shown = ", ".join(f"{store}::{name}" for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return InvalidData(
        f"{address} must be a Zarr array, got a group; give columns, or "
        f"name one of its arrays: {shown}{more}"
    )
