"""Contents of files at an address: read, write, append."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import obstore
from obstore.exceptions import BaseError
from zarr.errors import BaseZarrError

from dkmeans.errors import Invalid, Outage, Refusal
from dkmeans.retry import with_retries
from dkmeans.storage.addresses import (
    is_in_object_store,
    is_local,
    local_path,
    refuse_malformed,
)
from dkmeans.storage.disk import append_in_place, flush, read_end_of, write_in_one_step
from dkmeans.storage.stores import filesystem, store_and_name

logger = logging.getLogger("dkmeans")

# Exceptions when something cannot be written: of the disk, obstore and Zarr, and of `with_retries`.
WRITE_ERRORS = (OSError, BaseError, BaseZarrError, Refusal)


@dataclass(frozen=True, slots=True)
class Versioned:
    """Content of a file, and its version.

    Attributes:
        data: The content.
        version: The ETag of an object store; empty for other places.
    """

    data: bytes
    version: str


def read(address: str) -> Versioned | None:
    """Return the content of the file at an address; None if there is no file.

    Raises:
        Refusal: an object store refuses the request.
        Outage: the storage does not answer.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return with_retries(address, lambda: _read(address))
    return None


def read_end(address: str, size: int) -> tuple[bytes, int]:
    """Return the last `size` bytes of a file, and the size of the file; nothing if there is none.

    Raises:
        Refusal, Outage: as `read` does.
    """
    if not is_local(address):
        found = read(address)
        return (found.data[-size:], len(found.data)) if found else (b"", 0)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return with_retries(address, lambda: read_end_of(local_path(address), size))
    return b"", 0


def read_beginning(address: str, size: int) -> bytes:
    """Return the first `size` bytes of a file; none if there is no regular file.

    Raises:
        Refusal, Outage: as `read` does.
    """
    if not is_local(address):
        found = read(address)
        return found.data[:size] if found else b""
    path = local_path(address)
    if not path.is_file():  # a pipe would wait for a writer
        return b""
    with path.open("rb") as file:
        return file.read(size)


def read_json(address: str) -> Any:
    """Return the content of a JSON file; None if there is no file.

    A damaged file counts as none. A warning is logged then.

    Raises:
        Refusal, Outage: as `read` does.
    """
    found = read(address)
    try:
        return None if found is None else json.loads(found.data)
    except ValueError as error:
        logger.warning("ignoring %s, which is damaged: %s", address, error)
        return None


def write(address: str, data: bytes, *, durable: bool = True) -> None:
    """Write a file, replacing an existing one.

    Args:
        address: Address of the file.
        data: Its content.
        durable: False if the file may be lost in a power cut: a disk is faster then.

    Raises:
        Outage: the storage does not answer.
    """
    with_retries(address, lambda: _write(address, data, durable=durable))


def write_files(address: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files below an address. On a disk they are durable when all are written.

    A local file may be there in part after a crash: readers must not look at the folder before. A
    name may lie in further folders.
    """
    fs, path = filesystem(address)
    for name, data in files:
        if is_local(address):
            file = local_path(address).joinpath(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        else:
            fs.pipe_file(f"{path}/{name}", data)
    flush(address)


def append(address: str, data: bytes, usable: Callable[[bytes], int]) -> None:
    """Write data behind the content of a file, or a new file.

    A local file is changed in place, for programs that follow it. Other places cannot append: there
    the file is written anew. If two writers do so at the same moment, the data of one is lost.

    Args:
        address: Address of the file.
        data: The content to add.
        usable: Returns the size of the usable beginning of a content. What follows in the old one
            is cut off: the end of a list, or what a writer has left that was killed.

    Raises:
        Outage: the storage does not answer.
    """
    if is_local(address):
        with_retries(address, lambda: append_in_place(local_path(address), data, usable))
        return
    found = read(address)
    write(address, (found.data[: usable(found.data)] if found else b"") + data)


def write_or_log(
    address: str,
    data: bytes,
    level: int = logging.WARNING,
    usable: Callable[[bytes], int] | None = None,
) -> bool:
    """Write a file for information, which a power cut may take; return whether it is written.

    A failure is logged at `level`. With `usable` the data is appended, as `append` does.
    """
    try:
        if usable is None:
            write(address, data, durable=False)
        else:
            append(address, data, usable)
    except (*WRITE_ERRORS, Outage, Invalid) as error:
        logger.log(level, "going on without %s, which cannot be written: %s", address, error)
        return False
    return True


def write_whole(address: str, data: bytes) -> None:
    """Write a file, replacing an existing one; readers never see only a part of the content.

    In a place that is reached through fsspec, this holds if the file system renames in one step.
    """
    if is_local(address) or is_in_object_store(address):
        write(address, data)
        return
    fs, path = filesystem(address)
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{uuid4().hex[:8]}"
    fs.pipe_file(temporary, data)
    fs.mv(temporary, path)


def _read(address: str) -> Versioned:
    if is_in_object_store(address):
        store, name = store_and_name(address)
        response = obstore.get(store, name)
        return Versioned(bytes(response.bytes()), response.meta["e_tag"] or "")
    refuse_malformed(address)
    if is_local(address):
        return Versioned(local_path(address).read_bytes(), "")
    fs, path = filesystem(address)
    return Versioned(fs.cat_file(path), "")


def _write(address: str, data: bytes, *, durable: bool) -> None:
    if is_local(address):
        local_path(address).parent.mkdir(parents=True, exist_ok=True)
        write_in_one_step(local_path(address), data, durable=durable)
    else:
        fs, path = filesystem(address)
        fs.pipe_file(path, data)
