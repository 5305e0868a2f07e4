"""Results of futures in order, a little ahead of whoever takes them and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

# Chunks that are worked on ahead of the one the caller waits for, per thread.
_AHEAD_PER_THREAD = 2


def in_order(
    futures: Iterator[Any],
    threads: int,
    result_of: Callable[[Any], Any],
    cancel: Callable[[Iterable[Any]], None],
) -> Iterator[Any]:
    """The results of futures; these are drawn, and so submitted, a few at a time."""
    window = threads * _AHEAD_PER_THREAD
    waiting = deque(islice(futures, window))
    try:
        while waiting:
            result = result_of(waiting.popleft())
            waiting.extend(islice(futures, 1))
            yield result
    finally:
        cancel(waiting)
