"""Rows of .npy files.

A local file is memory-mapped. A file in an object store is read by byte ranges, one for each chunk.
Only the header is read on the driver; see the NumPy documentation of `numpy.lib.format`. Each read
on a worker reads the header again, because the file may have been replaced while the job runs.
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from io import SEEK_END, BytesIO
from tokenize import TokenError
from typing import Any, ClassVar, NamedTuple

import numpy as np
from obstore.exceptions import BaseError

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import Chunk, Leaf, even_rows
from dkmeans.errors import InvalidData, file_changed
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

    first: ClassVar[int] = 0

    @property
    def key(self) -> Hashable | None:
        """Address and shape; None for a local file, which the system's page cache caches."""
        table = self.name, self.rows, self.width, self.dtype, self.offset
        return None if is_local(self.name) else table

    def read(self, start: int, stop: int) -> Any:
        """Return these rows.

        Raises:
            InvalidData: the file has changed since it was described.
        """
        dtype = np.dtype(self.dtype)
        row_bytes = dtype.itemsize * self.width
        first, end = self.offset + start * row_bytes, self.offset + stop * row_bytes
        if is_local(self.name):
            # Header and rows come from one open file: another may get its name in between.
            with local_path(self.name).open("rb") as file:
                self._check_unchanged(file.read(self.offset))
                self._check_size(file.seek(0, SEEK_END), end)
                rows: Any = np.memmap(file, dtype, "r", first, (stop - start, self.width))
            # Without this advice the system would read the file page by page, at each first use.
            if hasattr(mmap, "MADV_WILLNEED"):
                rows.base.madvise(mmap.MADV_WILLNEED)
            return rows
        fs, path = filesystem(self.name)
        # The header is read after the rows: a header that is unchanged then was unchanged when the
        # rows were read. One request for both (`get_ranges`) would make obstore panic where the
        # file has become shorter.
        try:
            data = fs.cat_file(path, start=first, end=end)
        except BaseError:  # A file that has become shorter does not have these bytes.
            self._check_unchanged(fs.cat_file(path, start=0, end=self.offset))
            self._check_size(fs.size(path), end)
            raise
        self._check_unchanged(fs.cat_file(path, start=0, end=self.offset))
        self._check_size(first + len(data), end)
        return np.frombuffer(data, dtype).reshape(stop - start, self.width)

    def _check_unchanged(self, data: bytes) -> None:
        """Refuse a header that does not have the described shape and dtype.

        Args:
            data: The bytes of the file before its first row.

        Raises:
            InvalidData: the file was replaced after it was described.
        """
        must = f"shape ({self.rows}, {self.width}) of {np.dtype(self.dtype)}"
        try:
            header = _header_of(bytes(data))
        except ValueError as error:
            raise file_changed(self.name, must, f"no header of .npy: {error}") from error
        described = (self.rows, self.width), np.dtype(self.dtype), self.offset
        if (header.table_shape, header.dtype, header.offset) != described or header.is_transposed:
            raise file_changed(self.name, must, str(header))

    def _check_size(self, size: int, least: int) -> None:
        """Refuse a file of fewer than `least` bytes.

        Raises:
            InvalidData: the file was cut short after it was described.
        """
        if size < least:
            raise file_changed(self.name, f"at least {least} bytes", str(size))


class _Header(NamedTuple):
    """Header of an .npy file.

    Attributes:
        shape: Shape of the array.
        dtype: Dtype of the array.
        is_fortran: True if the array is stored in Fortran order.
        offset: Number of bytes of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    offset: int

    @property
    def table_shape(self) -> tuple[int, ...]:
        """Shape of the array; of a 1-D array, its shape as a table of one column."""
        return (*self.shape, 1) if len(self.shape) == 1 else self.shape

    @property
    def is_transposed(self) -> bool:
        """True if the values are not in C order."""
        # An array of one row or one column is in C order and in Fortran order at once.
        return self.is_fortran and 1 not in self.shape

    def __str__(self) -> str:
        order = " in Fortran order" if self.is_fortran else ""
        return f"shape {self.shape} of {self.dtype}{order}"


def _read_header(data: bytes) -> _Header:
    """Return the header with which the bytes of an .npy file begin.

    Raises:
        ValueError: they begin with none.
    """
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    # NumPy has no public reader for version (3, 0); its header differs from that of (2, 0) in the
    # encoding of field names only, and a table of numbers has no fields.
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    start = file.tell()
    try:
        shape, is_fortran, dtype = read(file)
    except (TypeError, SyntaxError, TokenError) as error:  # NumPy parses the header as Python
        raise ValueError(f"its header cannot be read: {error}") from error
    except SystemError:
        # NumPy parses the header as Python. Python before 3.11.8 counts the depth of what it parses
        # for all threads together, and may fail while another thread parses
        # (github.com/python/cpython/issues/106905).
        file.seek(start)
        shape, is_fortran, dtype = read(file)
    return _Header(shape, dtype, is_fortran, file.tell())


# Equal headers of many reads are parsed once.
_header_of = lru_cache(_read_header)


def _remedy(header: _Header) -> str:
    """Return what to save instead of the array of this header, if that is plain."""
    if header.dtype.kind == "V" and not header.dtype.fields:
        return "; save bfloat16 as float32"  # np.save loses the dtypes of other libraries
    # `to_numpy` of a DataFrame is in this order.
    return "; save numpy.ascontiguousarray(rows)" if header.is_transposed else ""


def from_npy_file(address: str, *, allow_1d: bool = False) -> Cut:
    """Return a function that cuts an .npy file into chunks. Its header is read now.

    With `allow_1d` a 1-D array is accepted, as a table of one column.

    Raises:
        InvalidData: the file cannot be read, is not an .npy file, or is not a 2-D array in C order.
    """
    fs, path = filesystem(address)
    try:
        size = fs.size(path)
        start = bytes(fs.cat_file(path, start=0, end=_HEADER_BYTES)) if size else b""
    except OSError as error:
        raise InvalidData(f"{address} must be an .npy file, and cannot be read: {error}") from error
    except BaseError as error:
        raise unreachable(address, error) from error
    try:
        header = _read_header(start)
    except ValueError as error:
        raise InvalidData(f"{address} must be an .npy file: {error}") from error
    shape, dtype = header.table_shape if allow_1d else header.shape, header.dtype
    is_table = len(shape) == 2 and min(shape) >= 0 and shape[1] > 0 and not header.is_transposed
    if not is_table or dtype.kind not in "fiub":
        raise InvalidData(
            f"{address} must hold a 2-D array of numbers, with at least one column and in C order, "
            f"got {header}{_remedy(header)}"
        )
    rows, width = int(shape[0]), int(shape[1])
    file_bytes = header.offset + rows * width * dtype.itemsize
    if size < file_bytes:
        raise InvalidData(f"{address} must be {file_bytes} bytes long, got {size}: it is cut short")
    table = (absolute(address), rows, width, dtype.str, header.offset)

    def cut(chunk_bytes: int | None) -> Batch:
        chunk_rows = even_rows(rows, dtype.itemsize * width, chunk_bytes=chunk_bytes)
        return Batch((Chunk(NpyRows(*table, chunk_rows), 0, rows),))

    return cut
