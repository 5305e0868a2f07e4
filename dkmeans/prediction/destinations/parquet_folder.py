"""Predictions as a folder of Parquet files, or as a folder of such files for each cluster.

The identity is a file whose name begins with `_`, so that readers of folders pass over it. The file
`_SUCCESS` marks the folder as complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dkmeans import storage
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.hive_folders import folder_names
from dkmeans.data.sources.parquet_files import is_parquet_name
from dkmeans.prediction.destinations import own_folder
from dkmeans.prediction.destinations.own_folder import IDENTITY, IDENTITY_FILE, MARKS, SUCCESS
from dkmeans.prediction.identity import Prediction
from dkmeans.prediction.kept_columns import kept_columns
from dkmeans.prediction.regions import file_of, numbered_regions, regions_by_file
from dkmeans.retry import with_retries

# Names of regions that have no file of the input (`regions.numbered_regions`).
_NUMBERED = "part-{}.parquet"
_IS_NUMBERED = re.compile(r"part-\d{8,}\.parquet")
# Bytes at the end of a file of Parquet that have its metadata, with the mark of predictions.
_END_BYTES = 2**16
# End of the name of the mark of a region whose rows are in the folders of several clusters.
_MARKED = ".done"


@dataclass(frozen=True, slots=True)
class ParquetFolder:
    """A folder with a Parquet file for each region, a `Destination`.

    Attributes:
        address: Absolute path or URL.
        prediction: The prediction that is written there.
    """

    address: str
    prediction: Prediction

    identity_file: ClassVar[str] = IDENTITY_FILE
    has_marks: ClassVar[bool] = False

    def regions(self, batch: Batch) -> Iterable[Chunk]:
        """Return a region for each file of the input; numbered ones for rows that have no files."""
        by_file = regions_by_file(batch, self.prediction.file_rows)
        if by_file is not None:
            return by_file
        return numbered_regions(batch, self.prediction.region_rows, _NUMBERED)

    def identity(self) -> dict[str, Any] | None:
        """Return the identity that is stored, empty if it is damaged; None if there is none."""
        seen = storage.read(storage.join(self.address, self.identity_file))
        if seen is None:
            return None
        try:
            content = json.loads(seen.data)
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def check_new(self) -> None:
        """Refuse a folder that is not empty."""
        own_folder.check_new(self.address, self.identity_file)

    def check_replaceable(self, regions: Iterable[Chunk]) -> None:
        """Refuse to replace predictions beside which somebody else has put something."""
        files = set(map(file_of, regions))
        folders = {file.partition("/")[0] for file in files}

        def is_own(name: str) -> bool:
            if name in (self.identity_file, SUCCESS, MARKS):
                return True
            # Folders of clusters and of values of columns have "="; others have names of the input.
            if "=" in name or name in folders - files:
                below = storage.files_below(storage.join(self.address, name))
                return all(self._is_own_file(f"{name}/{each}", files) for each in below)
            return self._is_own_file(name, files)

        own_folder.check_replaceable(self.address, is_own)

    def lacks_arrays(self) -> bool:
        """Return False: a folder has no arrays."""
        return False

    def write_identity(self, identity: dict[str, Any]) -> None:
        """Write the identity of what is there."""
        data = json.dumps(identity, indent=1).encode()
        storage.write(storage.join(self.address, self.identity_file), data)

    def empty(self) -> None:
        """Remove earlier predictions: first their identity, then the mark of completeness."""
        self.write_identity({})
        self.unmark()
        storage.clear(self.address, keep=self.identity_file)

    def write(self, region: Chunk, results: dict[str, np.ndarray[Any, Any]]) -> None:
        """Write the results of one region, after the columns of the input that are kept."""
        # Columns that folders of the input name are in the paths of the output already.
        of_folders = folder_names(file_of(region))
        kept = [name for name in self.prediction.kept if name not in of_folders]
        table = _table(results, kept_columns(region, kept) if kept else None)
        write = partial(self._write_table, file_of(region), table)
        with_retries(f"region {file_of(region)} of {self.address}", write)

    def done(self) -> Iterable[str]:
        """Return the names of all files: a file appears only when it is complete."""
        return storage.files_below(self.address)

    def is_marked_complete(self) -> bool:
        """Return whether the folder holds `_SUCCESS`."""
        return SUCCESS in storage.children(self.address)

    def mark_complete(self) -> None:
        """Write `_SUCCESS`."""
        storage.write(storage.join(self.address, SUCCESS), b"")

    def unmark(self) -> None:
        """Remove `_SUCCESS`."""
        storage.remove(storage.join(self.address, SUCCESS))

    def tidy(self) -> None:
        """Remove what a killed writer has left."""
        storage.remove_temporary_files(self.address)

    def _is_own_file(self, path: str, files: Container[str]) -> bool:
        """Return whether a file is of predictions, or what a killed writer has left.

        Any file that is named as a numbered region, with eight digits or more, counts as one of
        predictions.

        Args:
            path: Path of the file in the folder.
            files: Paths of the files of this prediction, as they are below the folder of a cluster.
        """
        name = path.rpartition("/")[2]
        if not is_parquet_name(name):
            return storage.is_temporary_name(name)
        if path in files or path.partition("/")[2] in files or _IS_NUMBERED.fullmatch(name):
            return True
        # A region of other rows: its name is that of another input's file.
        end, _ = storage.read_end(storage.join(self.address, path), _END_BYTES)
        return IDENTITY.encode() in end

    def _write_table(self, file: str, table: pa.Table) -> None:
        _write_file(storage.join(self.address, file), table)


@dataclass(frozen=True, slots=True)
class ClusterFolders(ParquetFolder):
    """A folder with a folder for each cluster, `cluster_index=0` and so on, a `Destination`.

    The rows of a region are in the folders of several clusters. So a region has a mark.
    """

    has_marks: ClassVar[bool] = True

    @property
    def marks(self) -> str:
        """Address of the marks of regions that are done."""
        return storage.join(self.address, MARKS)

    def done(self) -> Iterator[str]:
        """Yield the names of the regions that have marks."""
        return (mark.removesuffix(_MARKED) for mark in storage.files_below(self.marks))

    def tidy(self) -> None:
        """Remove the marks, and what a killed writer has left."""
        storage.remove(self.marks)
        storage.remove_temporary_files(self.address)

    def _write_table(self, file: str, table: pa.Table) -> None:
        name = self.prediction.partition_by
        column, others = table[name], table.drop_columns([name])
        for value in pc.unique(column).to_pylist():
            rows = others.filter(pc.equal(column, value))
            _write_file(storage.join(self.address, f"{name}={value}", file), rows)
        storage.write(storage.join(self.marks, f"{file}{_MARKED}"), b"")


def _table(results: dict[str, np.ndarray[Any, Any]], kept: pa.Table | None) -> pa.Table:
    """Return results as a table, after the columns of the input that are kept."""
    columns = {} if kept is None else dict(zip(kept.column_names, kept.columns, strict=True))
    for name, array in results.items():
        # Not `pa.array`, which imports pandas to tell what it is given.
        kind, values = pa.from_numpy_dtype(array.dtype), pa.py_buffer(np.ascontiguousarray(array))
        flat = pa.Array.from_buffers(kind, array.size, [None, values])
        is_list = array.ndim == 2
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1]) if is_list else flat
    return pa.table(columns)


def _write_file(address: str, table: pa.Table) -> None:
    """Write a file of Parquet, which appears whole or not at all, with a mark of predictions."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({IDENTITY: ""}), sink)
    storage.write_whole(address, sink.getvalue().to_pybytes())
