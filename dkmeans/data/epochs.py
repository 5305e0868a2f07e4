"""Functions on the batches of an epoch: change, cut anew, slice.

The methods of `Dataset` call these functions. Each takes an iterator and yields batches lazily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dkmeans.data.batches import Batch


def changed(batches: Iterator[Batch], change: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """Yield changed batches: for the same batch again the same object."""
    before = after = Batch()
    for batch in batches:
        if batch is not before:
            before, after = batch, change(batch)
        yield after


def cut_anew(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """Yield batches of `rows` rows: each incoming batch is cut, and its rest begins the next."""
    gathered = Batch()
    for batch in batches:
        start = 0
        while start < batch.rows:
            stop = min(start + rows - gathered.rows, batch.rows)
            gathered += batch.rows_between(start, stop)
            start = stop
            if gathered.rows == rows:
                yield gathered
                gathered = Batch()
    if gathered.rows:
        yield gathered


def slice_rows(batches: Iterator[Batch], start: int, stop: int | None) -> Iterator[Batch]:
    """Yield the rows from number `start` to before `stop`, counted through all batches."""
    first = 0
    if stop == 0:
        return
    for batch in batches:
        low = max(start - first, 0)
        high = batch.rows if stop is None else min(stop - first, batch.rows)
        if low < high:
            yield batch.rows_between(low, high)
        first += batch.rows
        if stop is not None and first >= stop:  # without a look at the next batch
            return
