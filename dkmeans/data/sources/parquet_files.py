"""Names of the Parquet files below a folder, in natural order.

`from_parquet_files` of the module `parquet` calls `list_parquet_files` on the driver. No row is
left out in silence: a file is listed, or it is counted in a warning, or the folder is refused. Only
hidden files, and the files in which Spark, Hive and others keep metadata, are passed over silently.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from dkmeans.data.sources.requests import in_parallel
from dkmeans.errors import InvalidData, counted
from dkmeans.storage import filesystem, has_folder, natural_key

logger = logging.getLogger("dkmeans")

# Endings of the names of Parquet files, in lower case.
_ENDINGS = (".parquet", ".parq", ".pq")
# Names without rows that do not look hidden: ext4 puts the first at the root of each disk, and
# Hadoop marks folders in object stores with files that end in the second.
_LOST_AND_FOUND, _FOLDER_MARK = "lost+found", "_$folder$"
# Folders that make the folder around them a table of another format, with the format's name and the
# Python package that reads it.
_LOGS = {"_delta_log": ("Delta Lake", "deltalake"), ".hoodie": ("Hudi", "hudi")}


class StoredFile(NamedTuple):
    """A file in a file system.

    Attributes:
        path: Path of the file.
        size: Size in bytes; None if the file system does not say.
    """

    path: str
    size: int | None


def is_parquet_name(name: str) -> bool:
    """Return whether a file of this name, or path, counts as Parquet."""
    return name.lower().endswith(_ENDINGS)


def list_parquet_files(fs: Any, root: str, address: str) -> list[StoredFile]:
    """Return the Parquet files to read: `root` itself, or all below it.

    Files are in natural order: numbers in names are compared as numbers, so `part.2.parquet` comes
    before `part.10.parquet`. Folders that are links are read as well, each folder once.

    Files and folders whose name begins with `.` or `_` are left out: Spark and Hive put metadata
    and unfinished files there. A `_` with a `=` behind it is a folder of one value of a column.

    Raises:
        FileNotFoundError: nothing is at `root`.
        InvalidData: there is no Parquet file, a folder cannot be listed, or `root` is in a table of
            Delta Lake, Iceberg or Hudi, or has such a table below it.
    """
    if not has_folder(fs, root):
        return [StoredFile(root, fs.info(root)["size"])]
    root = root.rstrip("/") or root
    _refuse_part_of_table(fs, root)
    found: list[StoredFile] = []
    others: list[str] = []
    for file in _files_below(fs, root):
        if is_parquet_name(file.path):
            found.append(file)
        elif file.size != 0:
            others.append(file.path)
    count = counted(len(others), "file")
    endings = f"without a name that ends in {', '.join(_ENDINGS)}"
    example = min(others, key=natural_key, default="")
    if not found:
        but = f"; it holds {count} {endings}, such as {example}" if others else ""
        raise InvalidData(f"{address} must be a Parquet file or a folder that holds some{but}")
    if others:
        logger.warning("not reading %s below %s %s, such as %s", count, address, endings, example)
    return sorted(found, key=lambda file: natural_key(file.path))


def _files_below(fs: Any, root: str) -> Iterator[StoredFile]:
    """Yield the files below a folder that are not hidden. Folders are listed in parallel.

    `fs.find` does not do: it passes over folders that are links or cannot be listed.

    Raises:
        InvalidData: a folder cannot be listed, or it is a table of another format.
    """
    # Folders that are links come last, so that a folder that can be reached in two ways is read
    # under its own name, and links in a circle come to an end.
    folders, links = [root], deque[str]()
    is_local = isinstance(fs, LocalFileSystem)
    seen: set[str] = set()
    while folders or links:
        level: list[str] = []
        for folder in folders or [links.popleft()]:
            identity = os.path.realpath(folder) if is_local else folder
            if identity not in seen:
                seen.add(identity)
                level.append(folder)
        folders = []
        for folder, entries in zip(level, in_parallel(partial(_entries, fs), level), strict=True):
            for entry in entries:
                path = entry["name"].rstrip("/")
                name = path.rpartition("/")[2]
                # An object store has an object of the folder's own name if somebody made the
                # folder.
                if path == folder.rstrip("/"):
                    continue
                _refuse_table(folder, name)
                if _is_hidden(name):
                    continue
                if is_local and entry["islink"] and Path(path).is_dir():
                    links.append(path)
                elif entry["type"] == "directory":
                    folders.append(path)
                else:
                    yield StoredFile(path, entry["size"] if entry["type"] == "file" else None)


def _entries(fs: Any, folder: str) -> list[dict[str, Any]]:
    """Return what fsspec knows of the files and folders directly in a folder.

    Raises:
        InvalidData: the folder cannot be listed.
    """
    try:
        entries: list[dict[str, Any]] = fs.ls(folder, detail=True)
    except FileNotFoundError:  # SeaweedFS lists folders that have become empty
        return []
    except OSError as error:
        raise InvalidData(
            f"{folder} must be a folder that can be listed, as its rows would be left out: {error}"
        ) from error
    return entries


def _is_hidden(name: str) -> bool:
    if name.startswith("_"):
        return "=" not in name
    return name.startswith(".") or name == _LOST_AND_FOUND or name.endswith(_FOLDER_MARK)


def refuse_files_of_tables(addresses: Sequence[str]) -> None:
    """Refuse several files of one folder, if that is a table of another format.

    A single file is no table: whoever names it wants the rows of this file.

    Raises:
        InvalidData: it is such a table.
    """
    # Of a chain of fsspec, the folder is not the last part.
    folders = Counter(each.rpartition("/")[0] or "." for each in addresses if "::" not in each)
    for folder, files in folders.items():
        if files > 1:
            fs, root = filesystem(folder)
            _refuse_logs(fs, root)
            _refuse_part_of_table(fs, root)


def _refuse_logs(fs: Any, folder: str) -> None:
    """Refuse a folder that holds the log of a table of another format.

    Raises:
        InvalidData: it does.
    """
    for log in _LOGS:
        if fs.isdir(f"{folder}/{log}"):
            _refuse_table(folder, log)


def _refuse_table(folder: str, name: str) -> None:
    """Refuse a folder in which `name` tells that the folder is a table of another format.

    Raises:
        InvalidData: it is.
    """
    if name in _LOGS:
        raise _is_table(folder, *_LOGS[name])
    if folder.endswith("/metadata") and name.endswith(".metadata.json"):
        raise _is_table(folder.removesuffix("/metadata"), "Iceberg", "pyiceberg")


def _refuse_part_of_table(fs: Any, root: str) -> None:
    """Refuse a folder inside a table of another format: `data`, or one value of a column.

    Raises:
        InvalidData: it is.
    """
    folder, _, name = root.rpartition("/")
    while folder and ("=" in name or name == "data"):
        try:
            _refuse_logs(fs, folder)
            metadata = f"{folder}/metadata"
            if name == "data" and fs.isdir(metadata):
                for path in fs.ls(metadata, detail=False):
                    _refuse_table(metadata, path.rpartition("/")[2])
        except (PermissionError, PermissionDeniedError, UnauthenticatedError):
            return  # The rows may be readable where the folder around them is not.
        folder, _, name = folder.rpartition("/")


def _is_table(folder: str, kind: str, package: str) -> InvalidData:
    return InvalidData(
        f"{folder} must be a folder of plain Parquet files, got a table of {kind}, whose files "
        f"hold deleted and replaced rows as well; export its present rows as Parquet with {package}"
    )
