"""Storage: read, write, replace, list and remove files at an address.

An address is a local path or a URL. S3, Google Cloud Storage and Azure are reached through obstore,
which is configured by the environment variables of their own tools (AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, ...). All other URLs are reached through fsspec. `replace` is the one function
that detects a second driver; checkpoints are committed with it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
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

from dkmeans.errors import Conflict, Invalid, InvalidData, Outage
from dkmeans.retry import REQUESTS, first_line, mistake, with_retries

_AZURE = ("az", "abfs", "abfss", "azure")
_OBJECT_STORES = ("s3", "s3a", "gs", *_AZURE)
# Names of the temporary files that this module and Zarr write before they rename them.
_TEMPORARY_NAME = re.compile(r"\..+\.[a-z0-9_]{8}|.+\.[0-9a-f]{32}\.partial")

# Errors of file systems that cannot flush a file or folder, or change its mode: some mounts of NFS,
# of SMB and of Windows disks in WSL.
_UNSUPPORTED_ERRNOS = frozenset(
    {
        errno.EINVAL,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EACCES,
        errno.ENOSYS,
        errno.ENOTTY,
        errno.EBADF,
    }
)
# Operations of which the log has said that a file system refuses them.
_logged_operations: set[str] = set()

logger = logging.getLogger(__name__)

# Exceptions of the libraries above when something cannot be written.
WRITE_ERRORS = (OSError, BaseError, BaseZarrError)


def unreachable(address: str, error: Exception) -> InvalidData:
    """Return the exception for a store that refuses a request or does not answer."""
    # `with_retries` looks at the cause: if it is an outage, it retries and raises `Outage`.
    change = f"; {mistake(error)}" if mistake(error) else ""
    return InvalidData(f"{address} cannot be reached: {first_line(error)}{change}")


def is_local(address: str) -> bool:
    """Return whether the address is a path on this machine."""
    return "://" not in address or address.startswith("file://")


def join(address: str, *names: str) -> str:
    """Return the address of a name below another address."""
    return "/".join([address.rstrip("/") if address.strip("/") else address, *names])


def local_path(address: str) -> Path:
    """Return the absolute path of a local address."""
    return Path(address.removeprefix("file://")).expanduser().absolute()


def absolute(address: str) -> str:
    """Return the address in a form that is valid in any working directory."""
    return str(local_path(address)) if is_local(address) else address


def zarr_store(address: str, *, read_only: bool = False) -> Store:
    """Return the Zarr store at an address. Nothing is read or written yet."""
    if is_local(address):
        return zarr.storage.LocalStore(local_path(address), read_only=read_only)
    if _scheme(address) in _OBJECT_STORES:
        return zarr.storage.ObjectStore(_object_store(address), read_only=read_only)
    with _refuse_unsupported(address):
        return zarr.storage.FsspecStore.from_url(address, read_only=read_only)


def filesystem(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path within that file system."""
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        check_not_forked(address)
        fs = FsspecStore(_scheme(address), retry_config=REQUESTS)  # type: ignore[call-overload]
        return fs, address.partition("://")[2]
    with _refuse_unsupported(address):
        fs, path = fsspec.url_to_fs(str(local_path(address)) if is_local(address) else address)
    return fs, str(path)


def check_not_forked(address: str) -> None:
    """Refuse an object store in a process that was forked after object stores had been used.

    The threads of obstore stay in the parent process: a request of the child would wait for ever.

    Raises:
        Invalid: this process was forked too late.
    """
    if _first_process() != os.getpid():
        raise Invalid(
            f"{address} must be used by a process that was not forked after object storage had "
            "been used, got one that was; start processes with multiprocessing's method 'spawn' "
            "or 'forkserver'"
        )


@cache
def _first_process() -> int:
    """Return the process that has used an object store first; a forked process inherits that."""
    return os.getpid()


@contextlib.contextmanager
def _refuse_unsupported(address: str) -> Iterator[None]:
    """Refuse a URL whose scheme fsspec does not know.

    Raises:
        Invalid: the scheme is unknown, or the package that reads it is not installed.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        raise Invalid(f"{address!r} must be a path, or a URL that can be read: {error}") from error


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
        InvalidData: an object store refuses the request.
        Outage: the storage does not answer.
    """
    return with_retries(address, lambda: _read(address))


def replace(address: str, data: bytes, seen: Versioned | None) -> Versioned:
    """Replace a file in one step, but only if it is still the version that was last read.

    Object stores compare and write in one request. In other places the file is compared first and
    then replaced, a local file by a rename, so two drivers that compare at the same moment can both
    succeed.

    Args:
        address: Address of the file.
        data: The new content. No other writer may write the same bytes: equal bytes are taken for
            an earlier attempt of this call whose response was lost.
        seen: The file as it was last read; None if there was no file.

    Returns:
        The new version.

    Raises:
        Conflict: the file is another version now.
        Outage: the storage does not answer. The file may have been replaced or not.
    """
    return with_retries(address, lambda: _replace(address, data, seen))


def supports_conditional_writes(probe: str) -> bool:
    """Return whether `replace` detects a changed file; some servers ignore the condition.

    Both conditions are tried: "there is no file" and "the file has this ETag".

    Args:
        probe: Address of a file that does not exist. The file is removed at the end.

    Raises:
        Outage: the storage does not answer.
    """
    try:
        # Other bytes each time: `replace` takes equal bytes for its own earlier attempt.
        first = replace(probe, b"1", None)
        creates_once = _is_refused(probe, b"2", None)
        if creates_once:
            replace(probe, b"3", first)
        return creates_once and _is_refused(probe, b"4", first)
    finally:
        remove(probe)


def write(address: str, data: bytes) -> None:
    """Write a file, replacing an existing one.

    Raises:
        Outage: the storage does not answer.
    """
    with_retries(address, lambda: _write(address, data))


def write_or_log(address: str, data: bytes, level: int = logging.WARNING) -> bool:
    """Write a file that is not needed to go on; return whether it is written.

    A failure is logged at `level`.
    """
    try:
        write(address, data)
    except (*WRITE_ERRORS, Outage, Invalid) as error:
        logger.log(level, "going on without %s, which cannot be written: %s", address, error)
        return False
    return True


def check_writable(what: str, address: str) -> None:
    """Refuse a directory in which no file can be written.

    Args:
        what: Name of the argument, for the message.
        address: Path or URL of the directory. It is created if needed.

    Raises:
        Invalid: no file can be written there.
        Outage: the storage does not answer.
    """
    probe = join(address, f".probe-{uuid4().hex[:8]}")
    try:
        write(probe, b"")
        remove(probe)
    except WRITE_ERRORS as error:
        raise Invalid(f"{what} must be writable, got {address!r}: {first_line(error)}") from error


def write_whole(address: str, data: bytes) -> None:
    """Write a file, replacing an existing one; readers never see only a part of the content.

    In a place that is reached through fsspec, this holds if the file system renames in one step.
    """
    if is_local(address) or _scheme(address) in _OBJECT_STORES:
        write(address, data)
        return
    fs, path = filesystem(address)
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{uuid4().hex[:8]}"
    fs.pipe_file(temporary, data)
    fs.mv(temporary, path)


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
    return sorted(map(_last_name, found))


def is_empty(address: str) -> bool:
    """Return whether nothing is below an address (in an object store: no files)."""
    if is_local(address) or _scheme(address) not in _OBJECT_STORES:
        return not children(address)
    # SeaweedFS lists folders that have become empty; `obstore.list` returns files only.
    return not next(iter(obstore.list(_object_store(address))), [])


def remove(address: str) -> None:
    """Remove the file at an address and all files below it, if there are any.

    Raises:
        Outage: the storage does not answer.
    """
    fs, path = filesystem(address)
    with contextlib.suppress(FileNotFoundError):
        with_retries(address, lambda: fs.rm(path, recursive=True))


def clear(address: str, keep: str) -> None:
    """Remove everything below an address, except `keep`, a name directly below it."""
    fs, path = filesystem(address)
    try:
        found = [each for each in fs.ls(path, detail=True) if _last_name(each["name"]) != keep]
    except FileNotFoundError:
        return
    files = [each["name"] for each in found if each["type"] != "directory"]
    if files:
        fs.rm(files)  # one call, so that an object store removes many at a time
    for each in found:
        if each["type"] == "directory":
            with contextlib.suppress(FileNotFoundError):  # SeaweedFS lists removed folders
                fs.rm(each["name"], recursive=True)


def is_temporary_name(name: str, of: str) -> bool:
    """Return whether a name is that of a temporary file, written in place of the file `of`."""
    return name.startswith(f".{of}.") and _TEMPORARY_NAME.fullmatch(name) is not None


def remove_temporary_files(address: str) -> None:
    """Remove the temporary files that killed writers left below a local address."""
    if is_local(address):
        for path in local_path(address).rglob("*"):
            if _TEMPORARY_NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)


def flush(address: str) -> None:
    """Flush all files and folders below a local address to the disk.

    Other places need no flush: there a write is durable when it returns.
    """
    if not is_local(address):
        return
    root = local_path(address)
    # The parent folder holds the name of `root`.
    for path in [*root.rglob("*"), root, root.parent]:
        _sync(path)


def _object_store(address: str) -> Any:
    check_not_forked(address)
    return _opened_object_store(address)


@cache
def _opened_object_store(address: str) -> Any:
    # A name may contain characters such as "?", "#" and "%", which have a meaning in a URL.
    bucket, _, name = address.partition("://")[2].partition("/")
    url = f"{_scheme(address)}://{bucket}/{quote(name)}"
    # Zarr needs the repr of a store, which obstore cannot make for Azure without the account name.
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    options: Any = {"config": {"account_name": account}} if account and _is_azure(address) else {}
    return obstore.store.from_url(url, retry_config=REQUESTS, **options)


def _is_azure(address: str) -> bool:
    return _scheme(address) in _AZURE


def _last_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _scheme(address: str) -> str:
    return address.partition("://")[0]


def _read(address: str) -> Versioned | None:
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        folder, _, name = address.rpartition("/")
        try:
            response = obstore.get(_object_store(folder), name)
            return Versioned(bytes(response.bytes()), str(response.meta["e_tag"]))
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
    # Compare, then put. On an object store both are one conditional PUT: it succeeds only if the
    # ETag is that of `seen`, or, without `seen`, if there is no file. So of two drivers that have
    # read the same version, only one can replace it.
    #
    # The response of a PUT may be lost after the store has applied it. `with_retries`, or obstore
    # itself, then sends the PUT again, and the store refuses the second one, because the first has
    # changed the ETag. Therefore a refusal is a conflict only if the file holds other bytes. Equal
    # bytes come from our own first PUT, because no other writer writes them (docs/decisions/005).
    # Without this check a lost response would end training with a false conflict.
    #
    # Elsewhere there is no conditional write. The bytes that were read take the place of the ETag,
    # and equal bytes are again our own. Between the comparison and the rename another driver may
    # replace the file unnoticed.
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        folder, _, name = address.rpartition("/")
        mode: Any = {"e_tag": seen.version} if seen else "create"
        try:
            result = obstore.put(_object_store(folder), name, data, mode=mode)
        except (PreconditionError, AlreadyExistsError) as error:
            current = _read(address)
            if current and current.data == data:
                return current
            raise Conflict(_CONFLICT.format(address)) from error
        return Versioned(data, str(result["e_tag"]))
    current = _read(address)
    # Neither unchanged since `seen`, nor already replaced by this call. None stands for no file.
    if (current and current.data) not in ((seen and seen.data), data):
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
    """Write a local file so that a crash leaves either the old or the new content.

    The temporary file is flushed before the rename and the folder after it: a rename alone may
    reach the disk before the content does.
    """
    path = path.resolve()  # Replace the target of a symbolic link, not the link.
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is there, and is no file that could be replaced")
    # `mkstemp` creates files that only their owner can read.
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            with _go_on_without("fsync", path):
                os.fsync(file.fileno())
        with _go_on_without("chmod", path):
            Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    # On Windows neither files nor folders are flushed here: folders cannot be opened there, and the
    # file system journals renames.
    if os.name == "nt":
        return
    with _go_on_without("fsync", path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _go_on_without(operation: str, path: Path) -> Iterator[None]:
    """Ignore that a file system does not support an operation on a file or folder.

    The content is written all the same; only after a power cut it may be lost. The log says so once
    for each operation.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED_ERRNOS:
            raise
        if operation not in _logged_operations:
            _logged_operations.add(operation)
            logger.debug("going on without %s, which is refused for %s: %s", operation, path, error)


_CONFLICT = (
    "{} was changed by another driver since this one last looked: two of them are training in the "
    "same model directory. Stop one, and run the other's command again"
)
