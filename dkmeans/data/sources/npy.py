"""Rows of an .npy file: memory-mapped where it is local, read by byte ranges where it is not."""

from __future__ import annotations

import mmap
from collections.abc import Hashable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from obstore.exceptions import BaseError

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, Leaf, even_rows
from dkmeans.errors import InvalidData
from dkmeans.storage import absolute, filesystem, is_local, local_path, unreachable

# The longest header that NumPy itself reads without being told to trust the file.
_HEADER_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class NpyRows(Leaf):
    """An .npy file of two dimensions in C order."""

    name: str
    rows: int
    width: int
    dtype: str
    offset: int
    chunk_rows: int

    @property
    def first(self) -> int:
        """The number of its first row."""
        return 0

    @property
    def key(self) -> Hashable | None:
        """The file; a local one is mapped, and the system keeps what it has memory for."""
        return None if is_local(self.name) else self.name

    def read(self, start: int, stop: int) -> Any:
        """These rows."""
        dtype = np.dtype(self.dtype)
        row = dtype.itemsize * self.width
        first = self.offset + start * row
        if is_local(self.name):
            shape = (stop - start, self.width)
            rows: Any = np.memmap(local_path(self.name), dtype, "r", first, shape)
            if hasattr(mmap, "MADV_WILLNEED"):  # all at once, before the first is asked for
                rows.base.madvise(mmap.MADV_WILLNEED)
            return rows
        fs, path = filesystem(self.name)
        data = fs.cat_file(path, start=first, end=self.offset + stop * row)
        return np.frombuffer(data, dtype).reshape(stop - start, self.width)


def from_npy_file(address: str) -> Batch:
    """Chunks of an .npy file.

    Raises:
        InvalidData: it cannot be read, is no .npy file, or is not a 2-D array in C order.
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
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(header)
    except ValueError as error:
        raise InvalidData(f"{address} must be an .npy file: {error}") from error
    if len(shape) != 2 or shape[1] == 0 or (fortran and 1 not in shape) or dtype.hasobject:
        order = " in Fortran order" if fortran else ""
        raise InvalidData(
            f"{address} must hold a 2-D array of numbers, with at least one column and in C order, "
            f"got shape {shape} of {dtype}{order}"
        )
    rows, width = int(shape[0]), int(shape[1])
    whole = header.tell() + rows * width * dtype.itemsize
    if size < whole:
        raise InvalidData(f"{address} must be {whole} bytes long, got {size}: it is cut short")
    chunk_rows = even_rows(rows, dtype.itemsize * width)
    source = NpyRows(absolute(address), rows, width, dtype.str, header.tell(), chunk_rows)
    return Batch((Chunk(source, 0, rows),))
