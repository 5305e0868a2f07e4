"""Folders at an address: their names, patterns, what is removed below them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import obstore
from fsspec.implementations.local import LocalFileSystem
from obstore.fsspec import FsspecStore

from dkmeans.errors import Invalid, InvalidData
from dkmeans.retry import first_line, with_retries
from dkmeans.storage.addresses import (
    address_below,
    first_url,
    is_in_object_store,
    is_local,
    join,
    last_name,
    natural_key,
    refuse_malformed,
)
from dkmeans.storage.contents import WRITE_ERRORS, write
from dkmeans.storage.stores import filesystem, object_store

# Characters of a pattern, as a shell has them.
_PATTERN = re.compile(r"[*?\[]")


def expand(address: str) -> list[str]:
    """Return the addresses that match a pattern with `*`, `?` or `[`, in natural order.

    An address without such characters, or of a file whose name has them, is returned as it is. A
    name of a file or folder that begins with `.` or `_` matches only a name of the pattern that
    begins with the same character: Spark and Hive put metadata and unfinished files there.

    Raises:
        InvalidData: nothing matches.
        Refusal: an object store refuses the request.
        Outage: the storage does not answer.
    """
    refuse_malformed(address)
    before, url, after = ("", address, "") if is_local(address) else first_url(address)
    scheme, slashes, name = url.rpartition("://")
    pattern = _PATTERN.search(name)
    if pattern is None or scheme in ("http", "https"):
        return [address]
    fs, path = filesystem(address)
    if with_retries(address, lambda: fs.exists(path)):
        return [address]
    found = with_retries(address, lambda: fs.glob(path))
    # The last whole name before the pattern is the folder below which all matches are.
    folder = name[: pattern.start()].rpartition("/")[0]
    root = _PATTERN.split(path, maxsplit=1)[0].rpartition("/")[0]
    asked = path.removeprefix(root).split("/")
    found = [match for match in found if not _is_hidden(match.removeprefix(root).split("/"), asked)]
    if not found:
        raise InvalidData(f"{address} must match a file or folder: nothing is there")
    base = f"{before}{scheme}{slashes}{folder}{after}"
    return [address_below(base, root, match) for match in sorted(found, key=natural_key)]


def _is_hidden(names: Sequence[str], asked: Sequence[str]) -> bool:
    """Return whether a name of a match is hidden, and the pattern does not ask for hidden ones.

    Args:
        names: Names of the match, from folder to folder.
        asked: Names of the pattern; `**` stands for any number of folders.
    """
    firsts = {each[:1] for each in asked}
    pairs = [(name, firsts) for name in names]
    if "**" not in asked:
        pairs = [(name, {each[:1]}) for name, each in zip(names, asked, strict=False)]
    return any(name[:1] in (".", "_") and name[:1] not in allowed for name, allowed in pairs)


def is_folder(address: str) -> bool:
    """Return whether a folder is at an address. A bucket is a folder.

    Raises:
        Refusal: an object store refuses the request.
        Outage: the storage does not answer.
    """
    fs, path = filesystem(address)
    return bool(with_retries(address, lambda: has_folder(fs, path)))


def has_folder(fs: Any, path: str) -> bool:
    """Return whether a file system has a folder at a path. A bucket is a folder."""
    is_bucket = isinstance(fs, FsspecStore) and "/" not in path.strip("/")
    return is_bucket or bool(fs.isdir(path))


def children(address: str) -> list[str]:
    """Return the sorted names directly below an address; an empty list if there are none.

    Raises:
        Outage: the storage does not answer.
    """
    fs, path = filesystem(address)
    try:
        found = with_retries(address, lambda: fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    if is_in_object_store(address):  # without the object that marks a folder
        found = [each for each in found if each.rstrip("/") != path.rstrip("/")]
    return sorted(map(last_name, found))


def files_below(address: str) -> list[str]:
    """Return the sorted names of all files below an address, relative to the address.

    Raises:
        Outage: the storage does not answer.
    """
    fs, path = filesystem(address)
    found = with_retries(address, lambda: fs.find(path))
    names = (each.removeprefix(path.rstrip("/")).lstrip("/") for each in found)
    return sorted(name for name in names if name)


def is_empty(address: str) -> bool:
    """Return whether nothing is below an address (in an object store: no files)."""
    if not is_in_object_store(address):
        return not children(address)

    # SeaweedFS lists folders that have become empty; `obstore.list` returns files only. The one
    # without a name marks a folder that somebody has made.
    def has_no_file() -> bool:
        pages = obstore.list(object_store(address))
        return not any(each["path"] for page in pages for each in page)

    return with_retries(address, has_no_file)


def rename(address: str, new: str) -> None:
    """Rename a file; the new address is in the same store. An object store copies it."""
    fs, path = filesystem(address)
    _, new_path = filesystem(new)
    if isinstance(fs, LocalFileSystem):
        fs.mv(path, new_path)
        return
    # The `mv` of other file systems would take names for patterns.
    fs.cp_file(path, new_path)
    fs.rm_file(path)


def remove(address: str) -> None:
    """Remove the file at an address and all files below it, if there are any.

    Raises:
        Outage: the storage does not answer.
    """
    fs, path = filesystem(address)
    with contextlib.suppress(FileNotFoundError):
        with_retries(address, lambda: _remove(fs, path))


def clear(address: str, keep: str) -> None:
    """Remove everything below an address, except `keep`, a name directly below it.

    Raises:
        Outage: the storage does not answer.
    """
    with_retries(address, lambda: _clear(address, keep))


def _clear(address: str, keep: str) -> None:
    fs, path = filesystem(address)
    try:
        found = [each for each in fs.ls(path, detail=True) if last_name(each["name"]) != keep]
    except FileNotFoundError:
        return
    files = [each["name"] for each in found if each["type"] != "directory"]
    if plain := [name for name in files if not _PATTERN.search(name)]:
        fs.rm(plain)  # one call, so that an object store removes many at a time
    others = [name for name in files if _PATTERN.search(name)]
    folders = [each["name"] for each in found if each["type"] == "directory"]
    for name in (*others, *folders):
        with contextlib.suppress(FileNotFoundError):  # SeaweedFS lists removed folders
            _remove(fs, name)


def _remove(fs: Any, path: str) -> None:
    """Remove a file, or a folder with all files below it."""
    if isinstance(fs, LocalFileSystem) or not _PATTERN.search(path):
        fs.rm(path, recursive=True)
        return
    # Other file systems would take the name for a pattern, and remove all that matches it.
    found = fs.find(path, withdirs=True, detail=True)
    for name in sorted(found, reverse=True):  # what is in a folder before the folder
        if found[name].get("type") != "directory":
            fs.rm_file(name)
        elif not isinstance(fs, FsspecStore):  # an object store has no folders
            with contextlib.suppress(FileNotFoundError):  # nor has one in memory always
                fs.rmdir(name)


def check_writable(what: str, address: str) -> None:
    """Refuse a directory in which no file can be written. It is created if needed.

    Raises:
        Invalid: no file can be written there.
        Outage: the storage does not answer.
    """
    probe = join(address, f".probe-{uuid4().hex[:8]}")
    try:
        write(probe, b"", durable=False)
        remove(probe)
    except WRITE_ERRORS as error:
        raise Invalid(f"{what} must be writable, got {address!r}: {first_line(error)}") from error
