"""Footers of Parquet files: the columns of a file, and the rows and statistics of its row groups.

`from_parquet_files` of the module `parquet` reads them on the driver, many at a time. A footer is
the end of a file, so one request reads it where the size of the file is known. A folder may have
the footers of all its files in one file `_metadata`, as Dask and Spark write on demand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FSSpecHandler, PyFileSystem

from dkmeans.data.sources.parquet_files import StoredFile

if TYPE_CHECKING:
    import pyarrow.dataset as ds

logger = logging.getLogger("dkmeans")

# Name of the file with the footers of the other files of a folder.
_METADATA = "_metadata"
# Size of the end of a file that is read at first. Footers are rarely larger.
_TAIL_BYTES = 2**16
# The last bytes of a file: the length of the footer, four bytes, and a magic number.
_END_BYTES = 8


@dataclass(frozen=True, eq=False)
class Footer:
    """Footer of one file.

    Attributes:
        schema: Names and types of the columns.
        sizes: Number of rows of each row group.
        end: The end of the file, or its footer in `_metadata`.
    """

    schema: pa.Schema
    sizes: list[int]
    end: bytes | ds.ParquetFileFragment

    @property
    def fragment(self) -> ds.ParquetFileFragment:
        """The footer as Arrow compares it with filters. Its rows cannot be read."""
        if isinstance(self.end, bytes):
            return _format().make_fragment(pa.py_buffer(self.end))
        return self.end


@dataclass(frozen=True)
class Footers:
    """Footers of files in one file system.

    Attributes:
        fs: The fsspec file system.
        known: Footers that `_metadata` holds, by path.
    """

    fs: Any
    known: Mapping[str, ds.ParquetFileFragment]

    @classmethod
    def below(cls, fs: Any, root: str, files: Sequence[StoredFile]) -> Footers:
        """Return the footers of the listed files below a folder, or of a single file.

        Footers that `_metadata` does not hold are read from their files, one by one. Files that it
        names and that are not listed were removed: their footers are not used.
        """
        # A request for `_metadata` pays where it saves several.
        if len(files) < 2 or files[0].path == root:
            return cls(fs, {})
        path = f"{root.rstrip('/')}/{_METADATA}"
        if not fs.exists(path):
            return cls(fs, {})
        import pyarrow.dataset as ds  # noqa: PLC0415 it imports pandas

        try:
            table = ds.parquet_dataset(path, filesystem=PyFileSystem(FSSpecHandler(fs)))
        except pa.ArrowException as error:
            logger.warning(
                "reading the footers of all files, as %s cannot be read: %s", path, error
            )
            return cls(fs, {})
        return cls(fs, {fragment.path: fragment for fragment in table.get_fragments()})

    def read(self, file: StoredFile) -> Footer:
        """Return the footer of a file.

        Raises:
            ArrowException: it is no Parquet.
        """
        if file.path in self.known:
            fragment = self.known[file.path]
            sizes = [group.num_rows for group in fragment.row_groups]
            return Footer(fragment.physical_schema, sizes, fragment)
        size = self.fs.size(file.path) if file.size is None else file.size
        tail = self._end_of(file.path, size, _TAIL_BYTES)
        needed = int.from_bytes(tail[-_END_BYTES:][:4], "little") + _END_BYTES
        if len(tail) < needed <= size:
            tail = self._end_of(file.path, size, needed)
        with pq.ParquetFile(pa.BufferReader(tail)) as end:
            groups = map(end.metadata.row_group, range(end.num_row_groups))
            return Footer(end.schema_arrow, [group.num_rows for group in groups], tail)

    def _end_of(self, path: str, size: int, length: int) -> bytes:
        if not size:  # obstore refuses to read nothing
            return b""
        data: bytes = self.fs.cat_file(path, start=max(0, size - length), end=size)
        return data


@cache
def _format() -> Any:
    import pyarrow.dataset as ds  # noqa: PLC0415 it imports pandas

    return ds.ParquetFileFormat()
