"""Storage that does not answer: what counts as that, and trying again for about a minute.

Object stores are tried again twice over. obstore repeats a single request for some seconds, which
is all that a busy server asks for; what outlasts that is told, and tried again here, like the
failures of any other place that rows and models are kept in.
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

# How obstore repeats a request: server errors, lost connections, and timeouts of what only reads.
REQUESTS: RetryConfig = {
    "max_retries": 5,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)},
    "retry_timeout": timedelta(seconds=10),
}


class Retries:
    """How often something has been tried again."""

    def __init__(self) -> None:
        self.count = 0


# Where it is set, it counts what is tried again on behalf of whoever has set it.
retries: ContextVar[Retries | None] = ContextVar("retries", default=None)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 16.0
_PATIENCE_SECONDS = 60.0

# What a network file system says of a server that it does not reach; a bad disk says EIO too.
_ERRNOS = frozenset(
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
_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# obstore has one class for all that a store says beside "not there" and "not allowed".
_STATUS = re.compile(r"status code: (\d{3})")
_LOST = re.compile(r"error sending request|response body error|timed out|connection (closed|reset)")


def is_outage(error: BaseException) -> bool:
    """Whether storage, or the way to it, is at fault, so that it may go well another time.

    Nothing there, no permission and broken data are none. Of an `Invalid` it is the cause that
    counts: who opens a file says that it cannot be read, whatever the reason.
    """
    error = _culprit(error)
    if isinstance(error, Outage | TimeoutError | ConnectionError):
        return True
    if isinstance(error, GenericError):
        status = _STATUS.search(str(error))
        return int(status[1]) in _STATUSES if status else _LOST.search(str(error)) is not None
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    # What the clients below fsspec raise for an answer that is an error has its status.
    return any(getattr(error, name, None) in _STATUSES for name in ("status", "status_code"))


def with_retries(what: str, action: Callable[[], R]) -> R:
    """Do something with storage; where storage does not answer, do it again, later and later.

    Args:
        what: What is read or written, for messages.
        action: What to do; it must bear being done twice.

    Raises:
        Outage: storage has not answered for about a minute.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    longest = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except Outage:  # another loop has been patient already
            raise
        except Exception as error:
            if not is_outage(error):
                raise
            # Many workers lose the same server at the same time: they must not come back as one.
            pause, reason = longest * random.uniform(0.5, 1), first_line(_culprit(error))
            if time.monotonic() + pause > deadline:
                raise Outage(f"{what} cannot be reached: {reason}") from error
            logger.warning("%s cannot be reached, trying again in %.1f s: %s", what, pause, reason)
            counted = retries.get()
            if counted is not None:
                counted.count += 1
        time.sleep(pause)
        longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)


def _culprit(error: BaseException) -> BaseException:
    return (isinstance(error, Invalid) and error.__cause__) or error


def first_line(error: BaseException) -> str:
    """What an error says, without what it goes on to say."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
