"""Where exports are written: a directory named by the time, whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from dkmeans import storage
from dkmeans.errors import Invalid, InvalidType, expected

_ASSETS = "assets.extra"


@contextmanager
def writable(name: str, given: object) -> Iterator[str]:
    """The full address that an argument gives, which is to be written to.

    Raises:
        TypeError: it is no path; Invalid: it cannot be written to.
    """
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise InvalidType(expected(name, "a path or URL", given))
    try:
        yield storage.absolute(os.fspath(given))
    except (*storage.WRITE_ERRORS, UnicodeError) as error:
        raise Invalid(f"{name} must be writable, got {os.fspath(given)!r}: {error}") from error


def write(base: str, files: Mapping[str, bytes]) -> str:
    """Write files to a new directory below a base; its full path or URL.

    On a disk they are written aside and renamed; elsewhere the last of them is written last.

    Args:
        base: Full path or URL.
        files: Their contents, by their names in the directory.
    """
    taken, stamp = set(storage.children(base)), int(time.time())
    while str(stamp) in taken:
        stamp += 1
    if not storage.is_local(base):
        address = storage.join(base, str(stamp))
        _write_all(address, files)
        return address
    aside = storage.join(base, f"temp-{stamp}-{uuid4().hex[:8]}")
    was_there = storage.local_path(base).exists()
    try:
        _write_all(aside, files)
        storage.flush(aside)
        return _renamed(storage.local_path(aside), stamp)
    except BaseException:
        shutil.rmtree(storage.local_path(aside), ignore_errors=True)
        if not was_there:
            with suppress(OSError):  # others may have written there meanwhile
                storage.local_path(base).rmdir()
        raise


def _write_all(address: str, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        storage.write(storage.join(address, *name.split("/")), data)


def _renamed(aside: Path, stamp: int) -> str:
    """Give a directory the first name from the stamp on that nobody else has taken meanwhile."""
    while True:
        place = aside.with_name(str(stamp))
        try:
            if not place.exists():
                aside.rename(place)
                return str(place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        stamp += 1


def assets(extra: Mapping[str, str] | None) -> dict[str, bytes]:
    """The files to put beside a model, by their names in its directory.

    Args:
        extra: For each name below `assets.extra`, the path or URL of the file.

    Raises:
        TypeError: it is no dict; ValueError: a file is not there, or a name leads out of the
            directory.
    """
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise InvalidType(expected("assets_extra", "a dict of names and paths, or None", extra))
    found = {}
    for name, path in extra.items():
        parts = str(name).split("/")
        if not isinstance(name, str) or not all(parts) or {".", ".."} & set(parts):
            raise Invalid(expected("assets_extra", "a dict of names below assets.extra", name))
        if not isinstance(path, str | os.PathLike):
            raise InvalidType(expected(f"assets_extra[{name!r}]", "a path or URL", path))
        try:
            asset = storage.read(storage.absolute(os.fspath(path)))
        except OSError:  # a directory
            asset = None
        if asset is None:
            raise Invalid(f"assets_extra must name files that are there, got {path!r} for {name!r}")
        found[f"{_ASSETS}/{name}"] = asset.data
    return found
