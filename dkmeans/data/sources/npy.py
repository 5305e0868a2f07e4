"""Rows of .npy files.

A local file is memory-mapped. A file in an object store is read by byte ranges, one for each chunk.
Only the header is read on the driver; see the NumPy documentation of `numpy.lib.format`.
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from obstore.exceptions import BaseError

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import Chunk, Leaf, even_rows
from dkmeans.errors import InvalidData
from dkmeans.storage import absolute, filesystem, is_local, local_path, unreachable

# Longest header that NumPy reads unless the caller trusts the file (`max_header_size`).
_HEADER_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class NpyRows(Leaf):
    """Rows of a 2-D .npy file in C order.

    Attributes:
        name: Absolute path or URL of the file.
        rows: Number of rows.
        width: Number of columns.
        dtype: Dtype of the file, as a string of NumPy.
        offset: Position of the first row in the file, in bytes.
        chunk_rows: Number of rows in a chunk.
    """

    name: str
    rows: int
    width: int
    dtype: str
    offset: int
    chunk_rows: int

    @property
    def first(self) -> int:
        """Number of the first row: 0."""
        return 0

    @property
    def key(self) -> Hashable | None:
        """The address; None for a local file, which the page cache of the system already caches."""
        return None if is_local(self.name) else self.name

    def read(self, start: int, stop: int) -> Any:
        """Return these rows."""
        dtype = np.dtype(self.dtype)
        row_bytes = dtype.itemsize * self.width
        first = self.offset + start * row_bytes
        if is_local(self.name):
            shape = (stop - start, self.width)
            rows: Any = np.memmap(local_path(self.name), dtype, "r", first, shape)
            # Without this advice the system would read the file page by page, at each first use.
            if hasattr(mmap, "MADV_WILLNEED"):
                rows.base.madvise(mmap.MADV_WILLNEED)
            return rows
        fs, path = filesystem(self.name)
        data = fs.cat_file(path, start=first, end=self.offset + stop * row_bytes)
        return np.frombuffer(data, dtype).reshape(stop - start, self.width)


def from_npy_file(address: str) -> Cut:
    """Return a function that cuts an .npy file into chunks. Its header is read now.

    Raises:
        InvalidData: the file cannot be read, is not an .npy file, or is not a 2-D array in C order.
    """
    fs, path = filesystem(address)
    try:
        size = fs.size(path)
        header = BytesIO(fs.cat_file(path, start=0, end=_HEADER_BYTES) if size else b"")
    except OSError as error:
        raise InvalidData(f"{address} must be an .npy file, and cannot be read: {error}") from error
    except BaseError as error:
        raise unreachable(address, error) from error
    try:
        version = np.lib.format.read_magic(header)
        # NumPy has no public reader for version (3, 0); its header differs from that of (2, 0) in
        # the encoding of field names only, and a table of numbers has no fields.
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(header)
    except ValueError as error:
        raise InvalidData(f"{address} must be an .npy file: {error}") from error
    # An array of one row or one column is in C order and in Fortran order at once.
    if len(shape) != 2 or shape[1] == 0 or (fortran and 1 not in shape) or dtype.hasobject:
        order = " in Fortran order" if fortran else ""
        raise InvalidData(
            f"{address} must hold a 2-D array of numbers, with at least one column and in C order, "
            f"got shape {shape} of {dtype}{order}"
        )
    rows, width = int(shape[0]), int(shape[1])
    file_bytes = header.tell() + rows * width * dtype.itemsize
    if size < file_bytes:
        raise InvalidData(f"{address} must be {file_bytes} bytes long, got {size}: it is cut short")
    table = (absolute(address), rows, width, dtype.str, header.tell())

    def cut(chunk_bytes: int | None) -> Batch:
        chunk_rows = even_rows(rows, dtype.itemsize * width, chunk_bytes=chunk_bytes)
        return Batch((Chunk(NpyRows(*table, chunk_rows), 0, rows),))

    return cut
