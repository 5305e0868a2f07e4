"""Variables as TensorFlow stores them: an index of their places, and their bytes.

The index is a sorted table of LevelDB's format (its doc/table_format.md): blocks of keys and
values, each with its checksum, then an index of the blocks, and a footer. One block holds all.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np

from dkmeans.exports.savedmodel import protobuf

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 40
# What is added to checksums, so that those of data with checksums in them are no special case.
_MASK = 0xA282EAD8
_UNCOMPRESSED = b"\0"


def bundle(variables: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that hold some variables, NumPy arrays or scalars by name."""
    data, entries = b"", [(b"", _header())]
    for name, value in sorted(variables.items()):
        array = np.asarray(value)
        piece = array.astype(array.dtype.newbyteorder("<"), order="C").tobytes()
        entry = protobuf.bundle_entry(
            dtype=protobuf.data_type(array.dtype),
            shape=protobuf.shape(array.shape),
            offset=len(data),
            size=len(piece),
            crc32c=_checksum(piece),
        )
        entries.append((name.encode(), entry.SerializeToString()))
        data += piece
    return {"variables.index": _table(entries), "variables.data-00000-of-00001": data}


def _header() -> bytes:
    header = protobuf.bundle_header(num_shards=1)
    header.version.producer = 1
    return bytes(header.SerializeToString())


def _table(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A table of one block of entries, sorted by key."""
    table, found = b"", []
    for block in (_block(entries), _block([])):
        found.append(_handle(len(table), len(block)))
        table += _sealed(block)
    entries_at, nothing_at = found
    index = _block([(entries[-1][0], entries_at)])
    footer = nothing_at + _handle(len(table), len(index))
    return table + _sealed(index) + footer.ljust(_FOOTER_BYTES, b"\0") + struct.pack("<Q", _MAGIC)


def _block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Entries that share no prefixes, and the one place to begin to read at."""
    pieces = [
        _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value for key, value in entries
    ]
    return b"".join(pieces) + struct.pack("<II", 0, 1)


def _sealed(block: bytes) -> bytes:
    block += _UNCOMPRESSED
    return block + struct.pack("<I", _checksum(block))


def _handle(offset: int, size: int) -> bytes:
    return _varint(offset) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more come."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _checksum(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
