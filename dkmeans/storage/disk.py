"""The local disk: files that a crash leaves whole, temporary files and folders, flushing."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import NamedTuple

from dkmeans.storage.addresses import is_local, local_path

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
# Files that this process has appended to. Others are not remembered beyond so many.
_MOST_APPENDED = 256

logger = logging.getLogger("dkmeans")


class _Appended(NamedTuple):
    """A file after an append of this process.

    Attributes:
        state: Its `_state_of`.
        usable: Size of its usable beginning.
    """

    state: tuple[int, ...]
    usable: int


_appended: dict[Path, _Appended] = {}


# Bits that new files of this process do not get. To read them is to set them: that is done at the
# import, as another thread could create a file in between.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def temporary_folder() -> str:
    """Create a folder that is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="dkmeans-"))
    # Unlike `atexit`, it runs at the end of this process alone, also if multiprocessing forked it.
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=0)
    _temporary_folders.add(folder.resolve())
    return str(folder)


def is_temporary_name(name: str, of: str | None = None) -> bool:
    """Return whether a name is that of a temporary file, which a killed writer may have left.

    The writer was to replace the file `of`; None for any.
    """
    begins = of is None or name.startswith(f".{of}.")
    return begins and _TEMPORARY_NAME.fullmatch(name) is not None


def remove_temporary_files(address: str) -> None:
    """Remove all files with names of temporary files below a local address.

    No writer may be at work there.
    """
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
    for _ in _flushers().map(_sync, [*root.rglob("*"), root, root.parent]):
        pass


@cache
def _flushers() -> ThreadPoolExecutor:
    """Return the threads that flush, which live on: to start them takes as long as to flush."""
    return ThreadPoolExecutor(_FLUSHES_AT_ONCE, "dkmeans-flush")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_flushers.cache_clear)  # threads stay with the parent


def append_in_place(path: Path, data: bytes, usable: Callable[[bytes], int]) -> None:
    """Replace what a local file has behind its usable beginning, as `contents.append` does.

    The file is read only at the first append of this process, and after another process has changed
    it. So each of many small appends takes the same time, however long the file becomes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "x+b") as file:
        known = _appended.pop(path, None)
        if known is None or known.state != _state_of(file.fileno()):
            known = _Appended((), usable(file.read()))
        file.seek(known.usable)
        file.write(data)
        file.truncate()  # after the write: a reader never sees less than there was
        if len(_appended) >= _MOST_APPENDED:
            _appended.clear()
        _appended[path] = _Appended(_state_of(file.fileno()), known.usable + usable(data))


def read_end_of(path: Path, size: int) -> tuple[bytes, int]:
    """Return the last `size` bytes of a local file, and the size of the file."""
    with path.open("rb") as file:
        whole = file.seek(0, os.SEEK_END)
        file.seek(max(0, whole - size))
        return file.read(), whole


def _state_of(handle: int) -> tuple[int, ...]:
    """Return numbers of an open file that are others after each change."""
    found = os.fstat(handle)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def write_in_one_step(path: Path, data: bytes, *, durable: bool) -> None:
    """Write a local file so that readers see either the old or the new content.

    Args:
        path: The file.
        data: Its new content.
        durable: True if readers must see one of the two after a power cut too. The temporary file
            is then flushed before the rename, and the folder after it: without the first flush, the
            rename may reach the disk before the content does.
    """
    path = path.resolve()  # Replace the target of a symbolic link, not the link.
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is there, and is no file that could be replaced")
    # `mkstemp` creates files that only their owner can read.
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_UMASK
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                _fsync(file.fileno(), path)
        with _go_on_without("chmod", path):
            Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
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
    if not _temporary_folders:  # `resolve` takes longer than all else about a small file
        return False
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
