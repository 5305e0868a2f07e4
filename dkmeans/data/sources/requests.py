"""Requests to storage, many at a time: a request takes milliseconds of waiting, and no work.

The modules that describe many files on the driver call `in_parallel`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Number of requests that are under way at a time.
MOST_REQUESTS = 64
# Beginning of the names of the threads that make requests.
_THREADS = "dkmeans-request"


def in_parallel(request: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return the results of a request for each item, in order.

    The error of the first item that has one is raised, and requests that have not begun are not
    made. A request that makes several requests makes them one after another.
    """
    is_request = threading.current_thread().name.startswith(_THREADS)
    if len(items) < 2 or is_request:
        return list(map(request, items))
    with ThreadPoolExecutor(min(MOST_REQUESTS, len(items)), _THREADS) as threads:
        return list(threads.map(request, items))
