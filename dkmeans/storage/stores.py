"""Stores: the file system, the Zarr store or the object store that an address is in.

S3, Google Cloud Storage and Azure are reached through obstore, which is configured by the
environment variables of their own tools (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...). All other URLs
are reached through fsspec.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

import fsspec
import obstore
import zarr.storage
from obstore.fsspec import FsspecStore
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from dkmeans.errors import Invalid, InvalidData, expected
from dkmeans.retry import MISSING_PAUSES_SECONDS, REQUESTS, first_line, mistake
from dkmeans.storage.addresses import (
    AZURE,
    S3,
    is_in_object_store,
    is_local,
    local_path,
    refuse_malformed,
    scheme_of,
)

# Variables with the URL of a server of one's own, by scheme.
_ENDPOINTS = {
    **dict.fromkeys(S3, ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")),
    **dict.fromkeys(AZURE, ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT")),
}

# Stores that are held open: each has its own connections.
_MOST_STORES = 64

logger = logging.getLogger("dkmeans")


def unreachable(address: str, error: Exception) -> InvalidData:
    """Return the exception for a store that refuses a request or does not answer."""
    # `with_retries` examines the cause: after an outage the action is retried, or `Outage` raised.
    change = f"; {mistake(error)}" if mistake(error) else ""
    return InvalidData(f"{address} cannot be reached: {first_line(error)}{change}")


def zarr_store(address: str, *, read_only: bool = False) -> Store:
    """Return the Zarr store at an address. Nothing is read or written yet."""
    refuse_malformed(address)
    if is_local(address):
        return zarr.storage.LocalStore(local_path(address), read_only=read_only)
    if is_in_object_store(address):
        # Zarr asks for many missing objects when a group is written: no pauses then.
        kind = _PatientStore if read_only else zarr.storage.ObjectStore
        return kind(object_store(address), read_only=read_only)
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
    refuse_malformed(address)
    if is_in_object_store(address):
        check_not_forked(address)
        options = _store_options(scheme_of(address))
        fs = FsspecStore(scheme_of(address), **options)  # type: ignore[call-overload]
        return fs, address.partition("://")[2].rstrip("/")
    if is_local(address):
        return fsspec.filesystem("file"), str(local_path(address))
    with _refuse_unsupported(address):
        fs, path = fsspec.url_to_fs(address)
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


def object_store(address: str) -> Any:
    """Return the store of obstore at an address."""
    refuse_malformed(address)
    check_not_forked(address)
    return _opened_object_store(address)


@lru_cache(_MOST_STORES)
def _opened_object_store(address: str) -> Any:
    # A name may contain characters such as "?", "#" and "%", which have a meaning in a URL.
    bucket, _, name = address.partition("://")[2].partition("/")
    url = f"{scheme_of(address)}://{bucket}/{quote(name.rstrip('/'))}"
    # Zarr needs the repr of a store, which obstore cannot make for Azure without the account name.
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    options = _store_options(scheme_of(address))
    if account and scheme_of(address) in AZURE:
        options["config"] = {"account_name": account}
    return obstore.store.from_url(url, **options)


def store_and_name(address: str) -> tuple[Any, str]:
    """Return the store of the folder that a file is in, and the name of the file."""
    refuse_malformed(address)
    folder, _, name = address.rpartition("/")
    return object_store(folder), name


def _is_url(endpoint: str) -> bool:
    """Return whether the address of a server is a URL with a host and a valid port."""
    try:
        parts = urlsplit(endpoint)
        has_port = parts.port != 0  # raises for what is no port
    except ValueError:
        return False
    is_http = parts.scheme in ("http", "https") and not any(map(str.isspace, endpoint))
    return bool(is_http and parts.hostname and has_port)


def _store_options(scheme: str) -> dict[str, Any]:
    """Return the options of a store of obstore.

    Raises:
        Invalid: the environment has an endpoint that is no URL, which would make obstore panic.
    """
    options: dict[str, Any] = {"retry_config": REQUESTS}
    endpoints = {name: os.environ.get(name) for name in _ENDPOINTS.get(scheme, ())}
    for name, endpoint in endpoints.items():
        if endpoint is not None and not _is_url(endpoint):
            must = "a URL that begins with http:// or https://, or not set"
            raise Invalid(expected(name, must, endpoint))
    # obstore refuses http unless another variable allows it. The user has written http.
    if any(endpoint and endpoint.startswith("http://") for endpoint in endpoints.values()):
        options["client_options"] = {"allow_http": True}
    return options
