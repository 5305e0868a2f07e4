"""The files of a Zarr group: what a checkpoint is in storage, for `commit` to write.

`loading` reads them with Zarr. Zarr's functions for writing hand each file to another thread and
wait for it, which takes longer than the rest of a small save. The format is version 3 of Zarr, with
arrays that are not compressed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

METADATA = "zarr.json"
# Larger arrays are stored in several pieces, of which one at a time is copied in memory.
_LARGEST_PIECE_BYTES = 2**25


def files_of(
    arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file of a group.

    The metadata of the group come last: without them there is no group.
    """
    for name, array in arrays.items():
        rows = max(1, min(len(array), _LARGEST_PIECE_BYTES // max(1, array[:1].nbytes)))
        size = rows * array[:1].nbytes
        yield f"{name}/{METADATA}", _encoded(_array_metadata(array, rows))
        for number, start in enumerate(range(0, len(array), rows)):
            piece = array[start : start + rows].astype(array.dtype.newbyteorder("<"), copy=False)
            # By dots, not by slashes: a small save is mostly the making of folders.
            place = ".".join(map(str, (number, *(0 for _ in array.shape[1:]))))
            # The last piece is filled up with zeros.
            yield f"{name}/c.{place}", piece.tobytes().ljust(size, b"\0")
    yield METADATA, group_metadata(attributes)


def group_metadata(attributes: Mapping[str, Any]) -> bytes:
    """Return the content of the file that makes a folder a group."""
    return _encoded({"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"})


def _array_metadata(array: NDArray[Any], rows: int) -> dict[str, Any]:
    codec: dict[str, Any] = {"name": "bytes"}
    if array.itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    return {
        "shape": array.shape,
        "data_type": array.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": (rows, *array.shape[1:])},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if array.dtype.kind == "b" else array.dtype.type(0).item(),
        "codecs": [codec],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _encoded(metadata: Mapping[str, Any]) -> bytes:
    return json.dumps(metadata).encode()
