"""Replace a file only if it is still the version that was read: how a second driver is noticed.

Checkpoints are committed with `replace`.
"""

from __future__ import annotations

import re
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError

from dkmeans.errors import Conflict, Invalid
from dkmeans.retry import first_line, with_retries
from dkmeans.storage.addresses import is_in_object_store, is_local, local_path
from dkmeans.storage.contents import Versioned, read, write
from dkmeans.storage.folders import remove
from dkmeans.storage.stores import store_and_name

_NO_ETAG_TEXT = re.compile("ETag Header missing", re.IGNORECASE)
_NO_ETAG = (
    "{} must have an ETag, by which drivers notice each other's checkpoints, and the server sends "
    "none. Keep the model in another store"
)
_CONFLICT = (
    "{} was changed by another driver since this one last looked: two of them are training in the "
    "same model directory. Stop one, and run the other's command again"
)


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

    Both conditions are tried: "there is no file" and "the file has this ETag". The probe is a file
    that does not exist; it is removed at the end.

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
    if is_in_object_store(address):
        store, name = store_and_name(address)
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
    write(address, data)
    return Versioned(data, "")


def _is_refused(address: str, data: bytes, seen: Versioned | None) -> bool:
    try:
        replace(address, data, seen)
    except Conflict:
        return True
    return False
