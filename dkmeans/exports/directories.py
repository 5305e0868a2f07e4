"""Writing exports: a file, or a new directory named by the time with files and the user's assets.

`dkmeans.model` and the job `export` call this module. A server may watch the base directory and
load whatever appears there, so an export must not be visible before it is complete. On a disk the
files go to a temporary directory, which is then renamed. An object store cannot rename: there the
file that servers look for is written last.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from dkmeans import storage
from dkmeans.errors import Invalid, InvalidType, expected
from dkmeans.retry import first_line

_ASSETS = "assets.extra"
# Bytes at the beginning of a file by which an earlier export is known.
_BEGINNING_BYTES = 64


@contextmanager
def writable(name: str, given: object) -> Iterator[str]:
    """Raise errors of writing as an `Invalid` that names the argument `name`.

    Yields:
        The full path or URL.

    Raises:
        InvalidType: the value is not a path.
        Invalid: the address cannot be written to.
    """
    if not isinstance(given, str | bytes | os.PathLike) or not os.fspath(given):
        raise InvalidType(expected(name, "a path or URL", given))
    path = os.fsdecode(given)
    try:
        yield storage.absolute(path)
    except (*storage.WRITE_ERRORS, UnicodeError) as error:
        raise Invalid(f"{name} must be writable, got {path!r}: {first_line(error)}") from error


def write_file(name: str, given: object, data: bytes, is_export: Callable[[bytes], bool]) -> None:
    """Write an export that is one file, which appears whole.

    An earlier export is replaced: `is_export` knows one by its first bytes.

    Raises:
        InvalidType: the value is not a path.
        Invalid: another file is there, or the address cannot be written to.
    """
    with writable(name, given) as address:
        beginning = storage.read_beginning(address, _BEGINNING_BYTES)
        if beginning and not is_export(beginning):
            must = "new, or an earlier export of the same format"
            raise Invalid(f"{expected(name, must, address)}, which holds something else")
        storage.write_whole(address, data)


def write(base: str, files: Mapping[str, bytes]) -> str:
    """Write files to a new directory below a base directory.

    Args:
        base: Full path or URL of the base directory.
        files: Contents by name, written in this order: the file that servers look for comes last.

    Returns:
        Full path or URL of the new directory.
    """
    taken, stamp = set(storage.children(base)), int(time.time())
    while str(stamp) in taken:
        stamp += 1
    if not storage.is_local(base):
        # Two exports of the same second can get the same name here: an object store cannot rename.
        address = storage.join(base, str(stamp))
        _write_all(address, files)
        return address
    # TensorFlow Serving loads only directories whose names are numbers.
    temporary = storage.join(base, f"temp-{stamp}-{uuid4().hex[:8]}")
    base_existed = storage.local_path(base).exists()
    try:
        _write_all(temporary, files)
        # The files must be on the disk before the name is: a crash could keep only the name.
        storage.flush(temporary)
        return _rename(storage.local_path(temporary), stamp)
    except BaseException:
        shutil.rmtree(storage.local_path(temporary), ignore_errors=True)
        if not base_existed:
            with suppress(OSError):  # not empty: another export was written there meanwhile
                storage.local_path(base).rmdir()
        raise


def _write_all(address: str, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        storage.write(storage.join(address, *name.split("/")), data)


def _rename(temporary: Path, stamp: int) -> str:
    """Rename a directory to the first free number from `stamp` on; return the new path.

    Another process may take a number between the check and the renaming. The renaming then fails,
    because a directory that is not empty cannot be replaced, and the next number is tried.
    """
    while True:
        target = temporary.with_name(str(stamp))
        try:
            if not target.exists():
                temporary.rename(target)
                return str(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        stamp += 1


def assets(extra: Mapping[str, str] | None) -> dict[str, bytes]:
    """Read the files that the user wants beside a model.

    Args:
        extra: Path or URL of each file, by its name below `assets.extra`; None: no files.

    Returns:
        Contents by name in the directory of the export.

    Raises:
        InvalidType: the argument is not a dict of paths.
        Invalid: a file does not exist, or a name leads out of the directory.
    """
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise InvalidType(expected("assets_extra", "a dict of names and paths, or None", extra))
    contents = {}
    for name, path in extra.items():
        # Slashes at an end or side by side make empty parts; ".." leads out of the directory.
        parts = str(name).split("/")
        if not isinstance(name, str) or not all(parts) or {".", ".."} & set(parts):
            raise Invalid(expected("assets_extra", "a dict of names below assets.extra", name))
        if not isinstance(path, str | os.PathLike):
            raise InvalidType(expected(f"assets_extra[{name!r}]", "a path or URL", path))
        try:
            asset = storage.read(storage.absolute(os.fspath(path)))
        except OSError:  # a directory, or not readable
            asset = None
        if asset is None:
            raise Invalid(f"assets_extra must name files that are there, got {path!r} for {name!r}")
        contents[f"{_ASSETS}/{name}"] = asset.data
    return contents
