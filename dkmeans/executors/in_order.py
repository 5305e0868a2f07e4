"""Results of futures in the order of submission, a few of them ahead of the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

# Number of submitted chunks per thread, the one included that the caller waits for.
_AHEAD_PER_THREAD = 2


def in_order(
    futures: Iterator[Any],
    threads: int,
    result_of: Callable[[Any], Any],
    cancel: Callable[[Iterable[Any]], None],
) -> Iterator[Any]:
    """Yield the results of futures.

    Args:
        futures: The futures. Drawing one submits it; they are drawn a few at a time.
        threads: Number of threads that compute.
        result_of: Waits for a future and returns its result.
        cancel: Cancels the futures that are left when the caller stops early.
    """
    window = threads * _AHEAD_PER_THREAD
    waiting = deque(islice(futures, window))
    try:
        while waiting:
            result = result_of(waiting.popleft())
            waiting.extend(islice(futures, 1))
            yield result
    finally:
        cancel(waiting)
