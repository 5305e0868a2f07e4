"""Retries: repeat an action while storage does not answer, for about a minute.

Whatever reads or writes storage calls `with_retries`: `storage`, `checkpoints`, the sources and
chunks of a dataset, the output of predictions. `is_outage` decides which errors are worth a retry
(docs/decisions/005). Object stores have two loops: obstore repeats single requests for some seconds
without a log message, which is enough for a busy server, and `with_retries` repeats the whole
action after that. An object that is said to be missing is asked for again, too, and a refusal is
raised as one line.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from obstore.exceptions import BaseError

from dkmeans.errors import Invalid, InvalidData, Outage, Refusal

if TYPE_CHECKING:
    from obstore.store import RetryConfig

R = TypeVar("R")

logger = logging.getLogger("dkmeans")

# Retries of single requests by obstore: after server errors, lost connections, and timeouts of
# requests that only read.
REQUESTS: RetryConfig = {
    "max_retries": 5,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)},
    "retry_timeout": timedelta(seconds=10),
}


# Texts of errors that every later request would meet too, and what the user has to change.
_MISTAKES = {
    r"lookup address information: (Name or service not|nodename nor servname|No address)": (
        "there is no host of this name"
    ),
    "Account must be specified": "set AZURE_STORAGE_ACCOUNT_NAME",
}


class EventCount:
    """A number of events, such as retries, which functions find in a context variable.

    Attributes:
        count: The number so far.
    """

    def __init__(self) -> None:
        self.count = 0


# Counts the retries of the current context, if an executor has set it.
retries: ContextVar[EventCount | None] = ContextVar("retries", default=None)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 16.0
# Total time from the first attempt to the last.
_PATIENCE_SECONDS = 60.0

# Errors of a network file system that does not reach its server. A bad disk also gives EIO; it is
# then retried in vain.
_OUTAGE_ERRNOS = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
    }
)
# HTTP statuses that are temporary: a later request may succeed.
_OUTAGE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# The servers that give credentials to machines in a cloud. obstore asks them if it finds none.
_CREDENTIALS_TEXT = re.compile(
    r"Generic (\w+) error: .*"
    r"(?:169\.254\.169\.254|169\.254\.170\.2|metadata\.google\.internal|/latest/api/token)"
)
# Where else credentials can be found, by the name that obstore has for the store.
_CREDENTIALS = {
    "S3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public "
    "bucket; AWS_PROFILE and the files of ~/.aws are not read",
    "GCS": "GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "MicrosoftAzure": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# S3's codes of errors that are temporary, whatever their status is.
_OUTAGE_CODES = frozenset(
    {
        "ConditionalRequestConflict",
        "IncompleteBody",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
    }
)
# S3's codes for credentials that have expired. Another process may have new ones, so these errors
# are outages too.
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
# Pauses before a missing object of an object store is asked for again: a server that is busy may
# not see an object that is there.
MISSING_PAUSES_SECONDS = (0.1, 0.3)
# Only the text of obstore's errors tells an outage from a mistake.
_STATUS_TEXT = re.compile(r"status code: ((\d{3})[^:\n]*)")
_ANSWER_TEXTS = re.compile(r"<(?:Code|Message)>([^<]*)</")
_MISSING_OBJECT_TEXT = "Object at location"
_LOST_CONNECTION_TEXT = re.compile(
    r"error sending request|response body error|timed out|connection (closed|reset)"
)


def is_outage(error: BaseException) -> bool:
    """Return whether storage or the network caused the error, so that a retry may succeed.

    Missing files, missing permissions and broken data are not outages. Of an `Invalid` the cause is
    examined: a source raises `InvalidData` for every file that it cannot open.
    """
    error = _cause(error)
    if mistake(error):
        return False
    if isinstance(error, Outage | TimeoutError | ConnectionError):
        return True
    if isinstance(error, BaseError):
        if _CREDENTIALS_TEXT.search(str(error)):
            return False
        status = _STATUS_TEXT.search(str(error))
        if status is None:
            return _LOST_CONNECTION_TEXT.search(str(error)) is not None
        codes = _OUTAGE_CODES | _EXPIRED_CODES
        return int(status[2]) in _OUTAGE_STATUSES or not codes.isdisjoint(_answer(error))
    if isinstance(error, OSError) and error.errno in _OUTAGE_ERRNOS:
        return True
    # The clients that fsspec uses raise errors of their own, with the HTTP status as an attribute.
    return any(getattr(error, name, None) in _OUTAGE_STATUSES for name in ("status", "status_code"))


def mistake(error: BaseException) -> str:
    """Return what the user has to change before a request can succeed; empty if that is unknown."""
    text = str(error) if isinstance(error, BaseError) else ""
    return next((change for pattern, change in _MISTAKES.items() if re.search(pattern, text)), "")


def with_retries(what: str, action: Callable[[], R]) -> R:
    """Call `action`, and call it again with growing pauses while storage does not answer.

    Args:
        what: Name of the rows or files, for messages.
        action: The function to call. It may be called after it has partly or wholly succeeded.

    Returns:
        The result of `action`.

    Raises:
        Outage: storage has not answered for about a minute, or the credentials have expired.
        InvalidData: an object store has found no credentials.
        Refusal: an object store refuses the request.
        FileNotFoundError: there is no such file, also after asking again.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    longest = _FIRST_PAUSE_SECONDS
    missing_pauses = iter(MISSING_PAUSES_SECONDS)
    while True:
        try:
            return action()
        except Outage:  # an inner call already retried; do not multiply the waiting time
            raise
        except FileNotFoundError as error:
            missing_pause = next(missing_pauses, None)
            if missing_pause is None or not _is_of_object_store(error):
                raise
            time.sleep(missing_pause)
            continue
        except Exception as error:
            _refuse_missing_credentials(what, _cause(error))
            reason = first_line(_cause(error))
            if not is_outage(error):
                if isinstance(error, BaseError):
                    change = mistake(error)
                    text = f"{what} cannot be read or written: {reason}"
                    raise Refusal(f"{text}; {change}" if change else text) from error
                raise
            if not _EXPIRED_CODES.isdisjoint(_answer(_cause(error))):
                raise Outage(
                    f"{what} cannot be reached: {reason}; renew the credentials"
                ) from error
            # All workers lose a server at the same moment. Random pauses spread their retries.
            pause = longest * random.uniform(0.5, 1)
            if time.monotonic() + pause > deadline:
                raise Outage(f"{what} cannot be reached: {reason}") from error
            logger.warning("%s cannot be reached, trying again in %.1f s: %s", what, pause, reason)
            counter = retries.get()
            if counter is not None:
                counter.count += 1
        time.sleep(pause)
        longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)


def _refuse_missing_credentials(what: str, error: BaseException) -> None:
    """Refuse to go on if an object store has found no credentials.

    Raises:
        InvalidData: it has found none.
    """
    found = _CREDENTIALS_TEXT.search(str(error)) if isinstance(error, BaseError) else None
    if found:
        raise InvalidData(
            f"{what} cannot be reached without credentials: the environment has none, and no "
            f"server of a cloud gives any; set {_CREDENTIALS.get(found[1], 'them')}"
        ) from error


def _cause(error: BaseException) -> BaseException:
    """Return the cause of an `Invalid`, or the error itself."""
    return (isinstance(error, Invalid) and error.__cause__) or error


def first_line(error: BaseException) -> str:
    """Return one line for an error: what a server answered, or the first line of the text.

    An error without text is described by the name of its class.
    """
    status = _STATUS_TEXT.search(str(error)) if _is_of_object_store(error) else None
    if status is None:
        lines = map(str.strip, str(error).splitlines())
        return next(filter(None, lines), type(error).__name__)
    details = ": ".join(_answer(error))
    return f"the server answered {status[1]}" + (f" ({details})" if details else "")


def _answer(error: BaseException) -> list[str]:
    """Return the code and the message of an error in which a server gave some."""
    # obstore repeats the answer below, in what it prints for debugging.
    text = str(error).partition("Debug source:")[0] if _is_of_object_store(error) else ""
    found = _ANSWER_TEXTS.findall(text)
    return [" ".join(text.split()) for text in found]


def _is_of_object_store(error: BaseException) -> bool:
    # For an object that is missing obstore raises Python's own error.
    return isinstance(error, BaseError) or str(error).startswith(_MISSING_OBJECT_TEXT)
