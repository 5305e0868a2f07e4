"""Storage: read, write, replace, list and remove files at an address.

An address is a local path or a URL. S3, Google Cloud Storage and Azure are reached through obstore,
which is configured by the environment variables of their own tools (AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, ...). All other URLs are reached through fsspec. `replace` is the one function
that detects a second driver; checkpoints are committed with it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import json
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import fsspec
import obstore
import zarr.storage
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.fsspec import FsspecStore
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import BaseZarrError

from dkmeans.errors import Conflict, Invalid, InvalidData, Outage, Refusal
from dkmeans.retry import MISSING_PAUSES_SECONDS, REQUESTS, first_line, mistake, with_retries

_AZURE = ("az", "abfs", "abfss", "azure")
_S3 = ("s3", "s3a")
_OBJECT_STORES = (*_S3, "gs", *_AZURE)
# Variables with the URL of a server of one's own, by scheme.
_ENDPOINTS = {
    **dict.fromkeys(_S3, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")),
    **dict.fromkeys(_AZURE, ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT")),
}
# Characters of a pattern, as a shell has them.
_PATTERN = re.compile(r"[*?\[]")
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
_FLUSHES_AT_ONCE = 8
# Folders that end with this process. Nobody reads them after a crash, so they are not flushed.
_temporary_folders: set[Path] = set()
# Operations of which the log has said that a file system refuses them.
_logged_operations: set[str] = set()
_logging = threading.Lock()

logger = logging.getLogger(__name__)

# Exceptions when something cannot be written: of the libraries above, and of `with_retries`.
WRITE_ERRORS = (OSError, BaseError, BaseZarrError, Refusal)


def unreachable(address: str, error: Exception) -> InvalidData:
    """Return the exception for a store that refuses a request or does not answer."""
    # `with_retries` examines the cause: after an outage the action is retried, or `Outage` raised.
    change = f"; {mistake(error)}" if mistake(error) else ""
    return InvalidData(f"{address} cannot be reached: {first_line(error)}{change}")


def is_local(address: str) -> bool:
    """Return whether the address is a path on this machine."""
    return "://" not in address or address.startswith("file://")


def temporary_folder() -> str:
    """Create a folder that is removed when this process ends."""
    folder, process = Path(tempfile.mkdtemp(prefix="dkmeans-")), os.getpid()

    def remove_folder() -> None:
        if os.getpid() == process:  # not at the end of a forked process
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove_folder)
    _temporary_folders.add(folder.resolve())
    return str(folder)


def join(address: str, *names: str) -> str:
    """Return the address of a name below another address."""
    return "/".join([address.rstrip("/") if address.strip("/") else address, *names])


def local_path(address: str) -> Path:
    """Return the absolute path of a local address."""
    return Path(address.removeprefix("file://")).expanduser().absolute()


def absolute(address: str) -> str:
    """Return the address in a form that is valid in any working directory.

    Of a chain of fsspec, such as `zip://rows.npy::archive.zip`, the last part may be a local file.
    """
    if is_local(address):
        return str(local_path(address))
    outer, chained, last = address.rpartition("::")
    if chained and is_local(last) and local_path(last).exists():
        return f"{outer}::{local_path(last)}"
    return address


def address_below(address: str, root: str, path: str) -> str:
    """Return the address of a file below another address.

    The address is extended, and not made of the path: a host, or the archive in which a file lies,
    is in the address only.

    Args:
        address: Address of a folder, or of the file itself.
        root: Path of `address` in its file system.
        path: Path of the file in the same file system.
    """
    if is_local(address):
        return path if "://" not in address else f"file://{path}"
    # Of a chain of fsspec, `path` belongs to the first part that is a URL.
    before, url, after = _first_url(absolute(address))
    root = root.rstrip("/")
    if root and path.startswith(root):
        return before + url.rstrip("/") + path.removeprefix(root) + after
    return before + (path if "://" in path else f"{_scheme(url)}://{path.lstrip('/')}") + after


def _first_url(address: str) -> tuple[str, str, str]:
    """Split a chain of fsspec before and after its first part that is a URL."""
    parts = address.split("::")
    place = next(i for i, part in enumerate(parts) if "://" in part)
    before = "".join(f"{part}::" for part in parts[:place])
    after = "".join(f"::{part}" for part in parts[place + 1 :])
    return before, parts[place], after


def natural_key(path: str) -> tuple[list[str | int], str]:
    """Return a key that sorts paths with the numbers in them compared as numbers.

    Dask sorts its files in the same way. `part.1` and `part.01` are compared as text.
    """
    # Text and numbers alternate, so two keys never compare a text with a number.
    parts = re.split("([0-9]+)", path)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path


def expand(address: str) -> list[str]:
    """Return the addresses that match a pattern with `*`, `?` or `[`, in natural order.

    An address without such characters, or of a file whose name has them, is returned as it is. A
    name that begins with `.` or `_` matches only a pattern that begins with the same character:
    Spark and Hive put metadata and unfinished files there.

    Raises:
        InvalidData: nothing matches.
        Refusal: an object store refuses the request.
        Outage: the storage does not answer.
    """
    _refuse_malformed(address)
    before, url, after = ("", address, "") if is_local(address) else _first_url(address)
    scheme, slashes, name = url.rpartition("://")
    pattern = _PATTERN.search(name)
    if pattern is None or scheme in ("http", "https"):
        return [address]
    fs, path = filesystem(address)
    if with_retries(address, lambda: fs.exists(path)):
        return [address]
    found = with_retries(address, lambda: fs.glob(path))
    hidden = {".", "_"} - {_last_name(path)[:1]}
    found = [match for match in found if _last_name(match)[:1] not in hidden]
    if not found:
        raise InvalidData(f"{address} must match a file or folder: nothing is there")
    # The last whole name before the pattern is the folder below which all matches are.
    folder = name[: pattern.start()].rpartition("/")[0]
    root = _PATTERN.split(path, maxsplit=1)[0].rpartition("/")[0]
    base = f"{before}{scheme}{slashes}{folder}{after}"
    return [address_below(base, root, match) for match in sorted(found, key=natural_key)]


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


def zarr_store(address: str, *, read_only: bool = False) -> Store:
    """Return the Zarr store at an address. Nothing is read or written yet."""
    _refuse_malformed(address)
    if is_local(address):
        return zarr.storage.LocalStore(local_path(address), read_only=read_only)
    if _scheme(address) in _OBJECT_STORES:
        # Zarr asks for many missing objects when a group is written: no pauses then.
        kind = _PatientStore if read_only else zarr.storage.ObjectStore
        return kind(_object_store(address), read_only=read_only)
    with _refuse_unsupported(address):
        return zarr.storage.FsspecStore.from_url(address, read_only=read_only)


class _PatientStore(zarr.storage.ObjectStore[Any]):
    """Object store that is asked again for an object which is said to be missing.

    Zarr takes fill values for a chunk that is missing, so one wrong answer of a busy server would
    give wrong rows.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the content of an object or a part of it; None if there is no object."""
        found = await super().get(key, prototype, byte_range)
        for pause in MISSING_PAUSES_SECONDS:
            if found is not None:
                break
            await asyncio.sleep(pause)
            found = await super().get(key, prototype, byte_range)
            if found is not None:
                logger.warning("%s of %s was missing, and is there when asked again", key, self)
        return found


def filesystem(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path within that file system."""
    _refuse_malformed(address)
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        check_not_forked(address)
        options = _store_options(_scheme(address))
        fs = FsspecStore(_scheme(address), **options)  # type: ignore[call-overload]
        return fs, address.partition("://")[2].rstrip("/")
    if is_local(address):
        return fsspec.filesystem("file"), str(local_path(address))
    with _refuse_unsupported(address):
        fs, path = fsspec.url_to_fs(address)
    return fs, str(path)


def _refuse_malformed(address: str) -> None:
    """Refuse an empty address, and one of an object store without a bucket or with an empty name.

    Raises:
        Invalid: it is such an address; the text has the address that is probably meant.
    """
    if not address or "\0" in address:
        raise Invalid(f"a path or URL must be neither empty nor hold a null byte, got {address!r}")
    scheme, colon, rest = address.partition(":")
    place = rest.lstrip("/")
    if not colon or scheme not in _OBJECT_STORES:
        return
    if len(rest) - len(place) != len("//") or not place:
        raise Invalid(f"{address!r} must begin with {scheme}://BUCKET, as {scheme}://{place}")
    if "//" in place.rstrip("/"):
        meant = re.sub("/+", "/", place)
        raise Invalid(
            f"{address!r} must have no empty name (//), as {scheme}://{meant}: an object store "
            "keeps both apart"
        )


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
    """Refuse a URL whose scheme fsspec does not know, or whose server or archive it cannot open.

    Raises:
        Invalid: the scheme is unknown, or the package that reads it is not installed.
        InvalidData: the server or archive cannot be opened.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        raise Invalid(f"{address!r} must be a path, or a URL that can be read: {error}") from error
    except Exception as error:  # archives and clients of servers have exceptions of their own
        raise unreachable(address, error) from error


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


def read_json(address: str) -> Any:
    """Return the content of a JSON file that is for information only; None if there is no file.

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
        Invalid: an object store sends no ETag with the file, or refuses the request.
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
        if is_local(probe):  # `replace` itself compares there
            with_retries(probe, lambda: local_path(probe).write_bytes(b"1"))
            return True
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


def write_files(address: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files below an address. On a disk they are durable when all are written.

    A local file may be there in part after a crash: readers must not look at the folder before.

    Args:
        address: Path or URL of the folder.
        files: Name and content of each file; a name may lie in further folders.
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
    the file is written anew, so that of two writers at the same moment only one succeeds.

    Args:
        address: Address of the file.
        data: The content to add.
        usable: Returns the size of the usable beginning of the old content. What follows is cut
            off: a writer was killed while it appended.

    Raises:
        Outage: the storage does not answer.
    """
    found = read(address)
    old = found.data[: usable(found.data)] if found else b""
    if is_local(address):
        with_retries(address, lambda: _write_behind(local_path(address), len(old), data))
    else:
        write(address, old + data)


def write_or_log(
    address: str,
    data: bytes,
    level: int = logging.WARNING,
    usable: Callable[[bytes], int] | None = None,
) -> bool:
    """Write a file that is not needed to go on; return whether it is written.

    A failure is logged at `level`. With `usable` the data is appended, as `append` does.
    """
    try:
        if usable is None:
            write(address, data)
        else:
            append(address, data, usable)
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


def rename(address: str, new: str) -> None:
    """Rename a file or folder; the new address is in the same store. An object store copies it."""
    fs, path = filesystem(address)
    fs.mv(path, filesystem(new)[1], recursive=True)


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
    if _scheme(address) in _OBJECT_STORES:  # without the object that marks a folder
        found = [each for each in found if each.rstrip("/") != path.rstrip("/")]
    return sorted(map(_last_name, found))


def is_empty(address: str) -> bool:
    """Return whether nothing is below an address (in an object store: no files)."""
    if is_local(address) or _scheme(address) not in _OBJECT_STORES:
        return not children(address)

    # SeaweedFS lists folders that have become empty; `obstore.list` returns files only. The one
    # without a name marks a folder that somebody has made.
    def has_no_file() -> bool:
        pages = obstore.list(_object_store(address))
        return not any(each["path"] for page in pages for each in page)

    return with_retries(address, has_no_file)


def remove(address: str) -> None:
    """Remove the file at an address and all files below it, if there are any.

    Raises:
        Outage: the storage does not answer.
    """
    fs, path = filesystem(address)
    with contextlib.suppress(FileNotFoundError):
        with_retries(address, lambda: fs.rm(path, recursive=True))


def clear(address: str, keep: str) -> None:
    """Remove everything below an address, except `keep`, a name directly below it.

    Raises:
        Outage: the storage does not answer.
    """
    with_retries(address, lambda: _clear(address, keep))


def _clear(address: str, keep: str) -> None:
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
    root = local_path(address)
    if not is_local(address) or _is_temporary(root):
        return
    # The parent folder holds the name of `root`. A disk takes flushes at the same time together,
    # and one after the other many times as long.
    with ThreadPoolExecutor(_FLUSHES_AT_ONCE) as pool:
        for _ in pool.map(_sync, [*root.rglob("*"), root, root.parent]):
            pass


def _object_store(address: str) -> Any:
    _refuse_malformed(address)
    check_not_forked(address)
    return _opened_object_store(address)


@cache
def _opened_object_store(address: str) -> Any:
    # A name may contain characters such as "?", "#" and "%", which have a meaning in a URL.
    bucket, _, name = address.partition("://")[2].partition("/")
    url = f"{_scheme(address)}://{bucket}/{quote(name.rstrip('/'))}"
    # Zarr needs the repr of a store, which obstore cannot make for Azure without the account name.
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    options = _store_options(_scheme(address))
    if account and _is_azure(address):
        options["config"] = {"account_name": account}
    return obstore.store.from_url(url, **options)


def _store_and_name(address: str) -> tuple[Any, str]:
    """Return the store of the folder that a file is in, and the name of the file."""
    _refuse_malformed(address)
    folder, _, name = address.rpartition("/")
    return _object_store(folder), name


def _store_options(scheme: str) -> dict[str, Any]:
    """Return the options of a store of obstore."""
    options: dict[str, Any] = {"retry_config": REQUESTS}
    # obstore refuses http unless another variable allows it. The user has written http.
    endpoints = [os.environ.get(name, "") for name in _ENDPOINTS.get(scheme, ())]
    if any(endpoint.startswith("http://") for endpoint in endpoints):
        options["client_options"] = {"allow_http": True}
    return options


def _is_azure(address: str) -> bool:
    return _scheme(address) in _AZURE


def _last_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _scheme(address: str) -> str:
    return address.partition("://")[0]


def _read(address: str) -> Versioned:
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        store, name = _store_and_name(address)
        response = obstore.get(store, name)
        return Versioned(bytes(response.bytes()), response.meta["e_tag"] or "")
    fs, path = filesystem(address)
    return Versioned(fs.cat_file(path), "")


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
    # A server may also refuse a PUT although the file still holds the bytes of `seen`: nobody has
    # replaced it. The PUT is then sent again, with the ETag that the file has now.
    #
    # Elsewhere there is no conditional write. The bytes that were read take the place of the ETag,
    # and equal bytes are again our own. Between the comparison and the rename another driver may
    # replace the file unnoticed.
    if not is_local(address) and _scheme(address) in _OBJECT_STORES:
        store, name = _store_and_name(address)
        mode: Any = {"e_tag": seen.version} if seen else "create"
        try:
            result = obstore.put(store, name, data, mode=mode)
            return Versioned(data, result["e_tag"] or "")
        except (PreconditionError, AlreadyExistsError) as error:
            refusal: BaseError = error
        except GenericError as error:
            if not _NO_ETAG_TEXT.search(str(error)):
                raise
            refusal = error
        current = read(address)
        if current and not current.version:
            raise Invalid(_NO_ETAG.format(address)) from refusal
        if current and current.data == data:
            return current
        if (current and current.data) != (seen and seen.data):
            raise Conflict(_CONFLICT.format(address)) from refusal
        if current and seen and current.version != seen.version:
            return _replace(address, data, current)
        raise ConnectionError(f"{first_line(refusal)}, although no other driver has written it")
    current = read(address)
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


def _write_behind(path: Path, size: int, data: bytes) -> None:
    """Replace what a local file has after its first `size` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(data)
        file.flush()
        _fsync(file.fileno(), path)


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
            _fsync(file.fileno(), path)
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
            _fsync(handle, path)
        finally:
            os.close(handle)


def _fsync(handle: int, path: Path) -> None:
    """Flush an open file or folder, unless it ends with this process."""
    if not _is_temporary(path):
        with _go_on_without("fsync", path):
            os.fsync(handle)


def _is_temporary(path: Path) -> bool:
    """Return whether a file or folder ends with this process."""
    path = path.resolve()
    return any(path.is_relative_to(folder) for folder in _temporary_folders)


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
        with _logging:  # several threads flush
            is_new = operation not in _logged_operations
            _logged_operations.add(operation)
        if is_new:
            logger.debug("going on without %s, which is refused for %s: %s", operation, path, error)


_NO_ETAG_TEXT = re.compile("ETag Header missing", re.IGNORECASE)
_NO_ETAG = (
    "{} must have an ETag, by which drivers notice each other's checkpoints, and the server sends "
    "none. Keep the model in another store"
)
_CONFLICT = (
    "{} was changed by another driver since this one last looked: two of them are training in the "
    "same model directory. Stop one, and run the other's command again"
)
