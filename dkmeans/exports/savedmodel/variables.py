"""Variables in TensorFlow's format: their bytes, and an index of offsets, shapes and dtypes.

`files` calls `bundle`. The index is a sorted table in LevelDB's format (doc/table_format.md in
LevelDB): blocks of keys and values, each with a checksum, then an index of the blocks, and a
footer. A model has two variables, so one block holds all entries.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np

from dkmeans.exports.savedmodel import protobuf

_MAGIC = 0xDB4775248B80FB57
# Size of the footer without the magic number.
_FOOTER_BYTES = 40
# LevelDB rotates a checksum and adds this number. Otherwise the checksum of data that contains
# checksums would be weak.
_MASK_DELTA = 0xA282EAD8
_UNCOMPRESSED = b"\0"


def bundle(variables: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the two files that hold some variables, NumPy arrays or scalars by name."""
    # TensorFlow reads the header at the empty key, which sorts before every name.
    data, entries = b"", [(b"", _header())]
    for name, value in sorted(variables.items()):
        array = np.asarray(value)
        # In the byte order of the header, on every machine.
        values = array.astype(array.dtype.newbyteorder("<"), order="C").tobytes()
        entry = protobuf.message(
            "BundleEntryProto",
            dtype=protobuf.data_type(array.dtype),
            shape=protobuf.shape(array.shape),
            offset=len(data),
            size=len(values),
            crc32c=_checksum(values),
        )
        entries.append((name.encode(), entry.SerializeToString()))
        data += values
    return {"variables.index": _table(entries), "variables.data-00000-of-00001": data}


def _header() -> bytes:
    header = protobuf.message("BundleHeaderProto", num_shards=1)
    header.version.producer = 1
    return bytes(header.SerializeToString())


def _table(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a table with one block of entries, which must be sorted by key.

    The table is: the block of entries, an empty block of metadata, the index with the handle of the
    block of entries under its last key, and the footer with the handles of the other two.
    """
    table, handles = b"", []
    for block in (_block(entries), _block([])):
        handles.append(_handle(len(table), len(block)))
        table += _sealed(block)
    entries_handle, metadata_handle = handles
    index = _block([(entries[-1][0], entries_handle)])
    footer = metadata_handle + _handle(len(table), len(index))
    return table + _sealed(index) + footer.ljust(_FOOTER_BYTES, b"\0") + struct.pack("<Q", _MAGIC)


def _block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a block of entries without shared key prefixes.

    The last two numbers say where a search may begin: at offset 0, and that this is the only place.
    """
    encoded = [
        _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value for key, value in entries
    ]
    return b"".join(encoded) + struct.pack("<II", 0, 1)


def _sealed(block: bytes) -> bytes:
    """Return a block with its compression type and checksum appended."""
    block += _UNCOMPRESSED
    return block + struct.pack("<I", _checksum(block))


def _handle(offset: int, size: int) -> bytes:
    """Return the encoded position of a block; the size does not include type and checksum."""
    return _varint(offset) + _varint(size)


def _varint(number: int) -> bytes:
    """Encode a number at 7 bits a byte, lowest bits first; the 8th bit marks that more follow."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _checksum(data: bytes) -> int:
    """Return the masked CRC-32C of some bytes."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
