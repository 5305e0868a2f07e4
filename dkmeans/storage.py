"""Addresses: a local path or the URL of an object store, and what can be done there.

S3, Google Cloud Storage and Azure are reached through obstore, configured by the variables their
own tools read (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...); any other URL through fsspec.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import fsspec
import obstore
import zarr.storage
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.fsspec import FsspecStore
from zarr.abc.store import Store
from zarr.errors import BaseZarrError

from dkmeans.errors import Conflict, Invalid, InvalidData
from dkmeans.retry import REQUESTS, first_line, with_retries

_AZURE = ("az", "abfs", "abfss", "azure")
_OBJECT_STORES = ("s3", "s3a", "gs", *_AZURE)
# How this module and Zarr call a file that is not yet under its own name.
_ASIDE = re.compile(r"\..+\.[a-z0-9_]{8}|.+\.[0-9a-f]{32}\.partial")


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
    with _known(address):
        return zarr.storage.FsspecStore.from_url(address, read_only=read_only)


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the address as that file system spells it."""
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        fs = FsspecStore(_scheme(address), retry_config=REQUESTS)  # type: ignore[call-overload]
        return fs, address.partition("://")[2]
    with _known(address):
        fs, path = fsspec.url_to_fs(str(local_path(address)) if is_local(address) else address)
    return fs, str(path)


@contextlib.contextmanager
def _known(address: str) -> Iterator[None]:
    """Refuse an address of a kind that nothing here can read.

    Raises:
        Invalid: it is one, or what reads it is not installed.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        raise Invalid(f"{address!r} must be a path, or a URL that can be read: {error}") from error


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
    return with_retries(address, lambda: _read(address))


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
    return with_retries(address, lambda: _replace(address, data, seen))


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
    with_retries(address, lambda: _write(address, data))


def write_whole(address: str, data: bytes) -> None:
    """Put bytes at an address, whatever stood there: nobody finds only some of them, ever."""
    if is_local(address) or _scheme(address) in _OBJECT_STORES:
        write(address, data)
        return
    fs, path = filesystem(address)
    folder, _, name = path.rpartition("/")
    aside = f"{folder}/.{name}.{uuid4().hex[:8]}"
    fs.pipe_file(aside, data)
    fs.mv(aside, path)


def children(address: str) -> list[str]:
    """The names of what stands directly below an address; none where there is nothing.

    Raises:
        Outage: nobody answers.
    """
    fs, path = filesystem(address)
    try:
        found = with_retries(address, lambda: fs.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(map(_last, found))


def is_empty(address: str) -> bool:
    """Whether nothing stands at or below an address; folders of an object store are nothing."""
    if is_local(address) or _scheme(address) not in _OBJECT_STORES:
        return not children(address)
    return not next(iter(obstore.list(_object_store(address))), [])


def remove(address: str) -> None:
    """Remove all that stands at and below an address; nothing there is no error.

    Raises:
        Outage: nobody answers.
    """
    fs, path = filesystem(address)
    with contextlib.suppress(FileNotFoundError):
        with_retries(address, lambda: fs.rm(path, recursive=True))


def clear(address: str, keep: str) -> None:
    """Remove all that stands below an address, but for what has this name directly there."""
    fs, path = filesystem(address)
    try:
        found = [each for each in fs.ls(path, detail=True) if _last(each["name"]) != keep]
    except FileNotFoundError:
        return
    files = [each["name"] for each in found if each["type"] != "directory"]
    if files:
        fs.rm(files)  # together: an object store is asked about many at once
    for each in found:
        if each["type"] == "directory":
            with contextlib.suppress(FileNotFoundError):  # SeaweedFS shows folders that are gone
                fs.rm(each["name"], recursive=True)


def remove_asides(address: str) -> None:
    """Remove what writers that were killed have left aside below a local address."""
    if is_local(address):
        for path in local_path(address).rglob("*"):
            if _ASIDE.fullmatch(path.name):
                path.unlink(missing_ok=True)


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
    # Named, where it is known: obstore cannot print a store of Azure otherwise, and Zarr prints it.
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    named: Any = {"config": {"account_name": account}} if account and _is_azure(address) else {}
    return obstore.store.from_url(url, retry_config=REQUESTS, **named)


def _is_azure(address: str) -> bool:
    return _scheme(address) in _AZURE


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


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
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is there, and is no file that could be replaced")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(mode)
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
