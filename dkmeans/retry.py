"""Retries: repeat an action while storage does not answer, for about a minute.

`storage`, `checkpoints` and the chunks of a dataset call `with_retries`. `is_outage` decides which
errors are worth a retry (docs/decisions/005). Object stores have two loops: obstore repeats single
requests for some seconds without a log message, which is enough for a busy server, and
`with_retries` repeats the whole action after that.
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

from obstore.exceptions import GenericError

from dkmeans.errors import Invalid, Outage

if TYPE_CHECKING:
    from obstore.store import RetryConfig

R = TypeVar("R")

logger = logging.getLogger(__name__)

# Retries of single requests by obstore: after server errors, lost connections, and timeouts of
# requests that only read.
REQUESTS: RetryConfig = {
    "max_retries": 5,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)},
    "retry_timeout": timedelta(seconds=10),
}


# Texts of lost connections that no later request will get, and what the user has to change.
_MISTAKES = {
    r"lookup address information: (Name or service not|nodename nor servname|No address)": (
        "there is no host of this name"
    ),
    # Clouds have a server that gives credentials to their machines. Other machines have none.
    r"performing \w+ https?://(169\.254\.169\.254|metadata\.google\.internal)": (
        "there are no credentials in the environment, and this machine has no role"
    ),
}


class Retries:
    """A counter of retries.

    Attributes:
        count: Number of retries so far.
    """

    def __init__(self) -> None:
        self.count = 0


# The counter of the current context, if an executor has set one.
retries: ContextVar[Retries | None] = ContextVar("retries", default=None)

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
# HTTP statuses that a later request may not get.
_OUTAGE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# obstore raises `GenericError` for most failures, so only the text tells an outage from a mistake.
_STATUS_TEXT = re.compile(r"status code: (\d{3})")
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
    if isinstance(error, GenericError):
        status = _STATUS_TEXT.search(str(error))
        return (
            int(status[1]) in _OUTAGE_STATUSES
            if status
            else _LOST_CONNECTION_TEXT.search(str(error)) is not None
        )
    if isinstance(error, OSError) and error.errno in _OUTAGE_ERRNOS:
        return True
    # The clients that fsspec uses raise errors of their own, with the HTTP status as an attribute.
    return any(getattr(error, name, None) in _OUTAGE_STATUSES for name in ("status", "status_code"))


def mistake(error: BaseException) -> str:
    """Return what the user has to change before a request can succeed; empty if that is unknown."""
    text = str(error) if isinstance(error, GenericError) else ""
    return next((change for pattern, change in _MISTAKES.items() if re.search(pattern, text)), "")


def with_retries(what: str, action: Callable[[], R]) -> R:
    """Call `action`, and call it again with growing pauses while storage does not answer.

    Args:
        what: Name of the rows or files, for messages.
        action: The function to call. It may be called after it has partly or wholly succeeded.

    Returns:
        The result of `action`.

    Raises:
        Outage: storage has not answered for about a minute.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    longest = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except Outage:  # an inner call already retried; do not multiply the waiting time
            raise
        except Exception as error:
            if not is_outage(error):
                raise
            # All workers lose a server at the same moment. Random pauses spread their retries.
            pause, reason = longest * random.uniform(0.5, 1), first_line(_cause(error))
            if time.monotonic() + pause > deadline:
                raise Outage(f"{what} cannot be reached: {reason}") from error
            logger.warning("%s cannot be reached, trying again in %.1f s: %s", what, pause, reason)
            counter = retries.get()
            if counter is not None:
                counter.count += 1
        time.sleep(pause)
        longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)


def _cause(error: BaseException) -> BaseException:
    """Return the cause of an `Invalid`, or the error itself."""
    return (isinstance(error, Invalid) and error.__cause__) or error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if there is no text."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
