"""Addresses: local paths and URLs, as text.

Nothing here opens a file or asks a server.
"""

from __future__ import annotations

import re
from pathlib import Path

from dkmeans.errors import Invalid

# Schemes of object stores.
AZURE = ("az", "abfs", "abfss", "azure")
S3 = ("s3", "s3a")
_OBJECT_STORES = (*S3, "gs", *AZURE)


def is_local(address: str) -> bool:
    """Return whether the address is a path on this machine."""
    return "://" not in address or address.startswith("file://")


def is_in_object_store(address: str) -> bool:
    """Return whether the address is in a store that is reached through obstore."""
    return "://" in address and scheme_of(address) in _OBJECT_STORES


def join(address: str, *names: str) -> str:
    """Return the address of a name below another address."""
    return "/".join([address.rstrip("/") if address.strip("/") else address, *names])


def local_path(address: str) -> Path:
    """Return the absolute path of a local address.

    Raises:
        Invalid: it begins with `~` and the name of a user who does not exist.
    """
    path = Path(address.removeprefix("file://"))
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        user = path.parts[0].removeprefix("~")
        raise Invalid(f"{address!r} must be a path, and there is no user {user!r}") from error


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
    before, url, after = first_url(absolute(address))
    root = root.rstrip("/")
    if root and path.startswith(root):
        return before + url.rstrip("/") + path.removeprefix(root) + after
    return before + (path if "://" in path else f"{scheme_of(url)}://{path.lstrip('/')}") + after


def first_url(address: str) -> tuple[str, str, str]:
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


def refuse_malformed(address: str) -> None:
    """Refuse an empty address, and one of an object store that names no object.

    An object store has neither empty names nor `.` and `..`, and each of its names is in a bucket.

    Raises:
        Invalid: it is such an address; the text has the address that is probably meant.
    """
    if not address or "\0" in address:
        raise Invalid(f"a path or URL must be neither empty nor hold a null byte, got {address!r}")
    scheme, colon, rest = address.partition(":")
    place = rest.lstrip("/")
    if not colon or scheme not in _OBJECT_STORES:
        return
    if not place:
        raise Invalid(f"{address!r} must begin with {scheme}://BUCKET")
    if len(rest) - len(place) != len("//"):
        raise Invalid(f"{address!r} must begin with {scheme}://BUCKET, as {scheme}://{place}")
    if "//" in place.rstrip("/"):
        meant = re.sub("/+", "/", place)
        raise Invalid(
            f"{address!r} must have no empty name (//), as {scheme}://{meant}: an object store "
            "keeps both apart"
        )
    if {".", ".."}.intersection(place.split("/")):
        raise Invalid(f"{address!r} must have no name . or ..: an object store has no such folders")


def without_user(address: str) -> str:
    """Return an address without the user and the password in its URL: to be written to files."""
    if scheme_of(address) in AZURE:  # the name before @ is a container
        return address
    return re.sub(r"://[^/?#]*@", "://", address)


def last_name(path: str) -> str:
    """Return the last name of a path."""
    return path.rstrip("/").rpartition("/")[2]


def scheme_of(address: str) -> str:
    """Return the scheme of a URL."""
    return address.partition("://")[0]
