"""Addresses: a local path or the URL of an object store, and what can be done there.

S3, Google Cloud Storage and Azure are reached through obstore, configured by the variables their
own tools read (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...); any other URL through fsspec.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import obstore
import zarr.storage
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.fsspec import FsspecStore
from zarr.abc.store import Store
from zarr.errors import BaseZarrError

from dkmeans.errors import Conflict, InvalidData
from dkmeans.retry import REQUESTS, first_line, patiently

_OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "azure")


# What the stores below raise where something cannot be written.
WRITE_ERRORS = (OSError, BaseError, BaseZarrError)


def unreachable(address: str, error: Exception) -> InvalidData:
    """What to say of a store that does not answer, or refuses: the first line of its own words."""
    return InvalidData(f"{address} cannot be reached: {first_line(error)}")


def is_local(address: str) -> bool:
    """Whether the address is a path of this machine."""
    return "://" not in address or address.startswith("file://")


def join(address: str, *names: str) -> str:
    """The address of something below another address."""
    return "/".join([address.rstrip("/") if address.strip("/") else address, *names])


def local_path(address: str) -> Path:
    """The path that a local address means, absolute: a worker may stand in another folder."""
    return Path(address.removeprefix("file://")).expanduser().absolute()


def absolute(address: str) -> str:
    """The address as other processes understand it too."""
    return str(local_path(address)) if is_local(address) else address


def zarr_store(address: str, *, read_only: bool = False) -> Store:
    """The Zarr store at an address; nothing is read or written yet."""
    if is_local(address):
        return zarr.storage.LocalStore(local_path(address), read_only=read_only)
    if _scheme(address) in _OBJECT_STORES:
        return zarr.storage.ObjectStore(_object_store(address), read_only=read_only)
    return zarr.storage.FsspecStore.from_url(address, read_only=read_only)


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the address as that file system spells it."""
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        fs = FsspecStore(_scheme(address), retry_config=REQUESTS)  # type: ignore[call-overload]
        return fs, address.partition("://")[2]
    fs, path = fsspec.url_to_fs(str(local_path(address)) if is_local(address) else address)
    return fs, str(path)


@dataclass(frozen=True, slots=True)
class Versioned:
    """Some bytes, and the mark by which a store tells this version of them from another."""

    data: bytes
    version: str


def read(address: str) -> Versioned | None:
    """What stands at an address, or None where nothing does.

    Raises:
        InvalidData: an object store refuses; Outage: nobody answers.
    """
    return patiently(address, lambda: _read(address))


def replace(address: str, data: bytes, seen: Versioned | None) -> Versioned:
    """Put bytes where `seen` stood when last read, all at once or not at all.

    An object store compares and swaps. Locally the file is written aside, flushed to the disk and
    renamed, after a look at what is there: two drivers that look in the same instant both pass.

    Args:
        address: Where to put them.
        data: Bytes that nobody else would put there: they tell a write whose answer was lost.
        seen: What stood there; None for nothing.

    Raises:
        Conflict: something else stands there by now.
        Outage: nobody answers; the bytes may have been put there, or may not.
    """
    return patiently(address, lambda: _replace(address, data, seen))


def tells_writers_apart(probe: str) -> bool:
    """Whether `replace` is refused where it must be; some servers swap without comparing.

    Args:
        probe: An address where nothing stands, nor does afterwards.

    Raises:
        Outage: nobody answers.
    """
    try:
        first = replace(probe, b"1", None)
        again = _is_refused(probe, b"2", None)
        if again:
            replace(probe, b"3", first)
        return again and _is_refused(probe, b"4", first)
    finally:
        remove(probe)


def write(address: str, data: bytes) -> None:
    """Put bytes at an address, whatever stood there.

    Raises:
        Outage: nobody answers.
    """
    patiently(address, lambda: _write(address, data))


def children(address: str) -> list[str]:
    """The names of what stands directly below an address; none where there is nothing.

    Raises:
        Outage: nobody answers.
    """
    fs, path = filesystem(address)
    try:
        found = patiently(address, lambda: fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in found)


def remove(address: str) -> None:
    """Remove all that stands at and below an address; nothing there is no error.

    Raises:
        Outage: nobody answers.
    """
    fs, path = filesystem(address)
    with contextlib.suppress(FileNotFoundError):
        patiently(address, lambda: fs.rm(path, recursive=True))


def flush(address: str) -> None:
    """Have the disk hold all that is below a local address; elsewhere a write is kept when done."""
    if not is_local(address):
        return
    root = local_path(address)
    for path in [*root.rglob("*"), root, root.parent]:
        _sync(path)


@cache
def _object_store(address: str) -> Any:
    # An address is taken by the letter: what URLs quote, and end at, may be in a name.
    bucket, _, name = address.partition("://")[2].partition("/")
    url = f"{_scheme(address)}://{bucket}/{quote(name)}"
    return obstore.store.from_url(url, retry_config=REQUESTS)


def _scheme(address: str) -> str:
    return address.partition("://")[0]


def _read(address: str) -> Versioned | None:
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        folder, _, name = address.rpartition("/")
        try:
            found = obstore.get(_object_store(folder), name)
            return Versioned(bytes(found.bytes()), str(found.meta["e_tag"]))
        except (FileNotFoundError, NotFoundError):
            return None
        except BaseError as error:
            raise unreachable(address, error) from error
    fs, path = filesystem(address)
    try:
        return Versioned(fs.cat_file(path), "")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _replace(address: str, data: bytes, seen: Versioned | None) -> Versioned:
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        folder, _, name = address.rpartition("/")
        mode: Any = {"e_tag": seen.version} if seen else "create"
        try:
            done = obstore.put(_object_store(folder), name, data, mode=mode)
        except (PreconditionError, AlreadyExistsError) as error:
            now = _read(address)
            if now and now.data == data:  # put by a request whose answer was lost
                return now
            raise Conflict(_CONFLICT.format(address)) from error
        return Versioned(data, str(done["e_tag"]))
    now = _read(address)
    if (now and now.data) not in ((seen and seen.data), data):
        raise Conflict(_CONFLICT.format(address))
    _write(address, data)
    return Versioned(data, "")


def _is_refused(address: str, data: bytes, seen: Versioned | None) -> bool:
    try:
        replace(address, data, seen)
    except Conflict:
        return True
    return False


def _write(address: str, data: bytes) -> None:
    if is_local(address):
        local_path(address).parent.mkdir(parents=True, exist_ok=True)
        _write_durably(local_path(address), data)
    else:
        fs, path = filesystem(address)
        fs.pipe_file(path, data)


def _write_durably(path: Path, data: bytes) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there, and renames are journalled
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_CONFLICT = (
    "{} was changed by another driver since this one last looked: two of them are training in the "
    "same model directory. Stop one, and run the other's command again"
)
