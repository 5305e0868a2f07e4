"""The rows that first centers are looked for in: those of a pass, some of them, a few by number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, finite_points
from dkmeans.data.views import Picked
from dkmeans.executors import Executor
from dkmeans.state import FloatArray, IndexArray

# A sample is of blocks of up to so many consecutive rows, so that few chunks are read for it, and
# of at least so many blocks, so that it is none of a few places only.
_BLOCK_ROWS = 2**13
_FEWEST_BLOCKS = 64


def one_pass(batches: Iterator[Batch], rows: int | None) -> tuple[Batch, list[Batch]]:
    """The `numbered` rows of one pass over the data, and the batches that were taken to see them.

    Args:
        batches: What training will go over, perhaps without end.
        rows: How many rows a pass has at the most. None where that is not known: then the first
            batch stands for all.
    """
    seen: list[Batch] = []
    found = 0
    for batch in batches:
        seen.append(batch)
        found += batch.rows
        if rows is None or found >= rows:
            break
    whole = Batch.joined(seen)
    return (whole if rows is None else whole.rows_between(0, rows)).numbered(), seen


def sample(rows: Batch, most: int | None, rng: np.random.Generator) -> Batch:
    """At most so many of a batch's rows, in blocks of consecutive ones drawn uniformly.

    What is drawn depends on the number of rows alone, not on how they are cut into chunks.
    """
    if most is None or rows.rows <= most:
        return rows
    size = max(1, min(_BLOCK_ROWS, most // _FEWEST_BLOCKS))
    drawn = np.sort(rng.choice(-(-rows.rows // size), most // size, replace=False))
    return Batch.joined(
        rows.rows_between(start, min(start + size, rows.rows)) for start in (drawn * size).tolist()
    )


def fetch(batch: Batch, numbers: IndexArray, executor: Executor) -> FloatArray:
    """The rows of a batch by their numbers, in the order asked for, in this process's memory."""
    starts = np.concatenate([[0], np.cumsum(batch.sizes())])
    order = np.argsort(numbers, kind="stable")
    wanted = numbers[order]
    picked = []
    for which in np.unique(np.searchsorted(starts, wanted, "right") - 1).tolist():
        chunk, (start, stop) = batch[which], starts[which : which + 2]
        low, high = np.searchsorted(wanted, [start, stop])
        if high - low == chunk.rows:
            picked.append(chunk)
        else:
            source = Picked(chunk, tuple((wanted[low:high] - start).tolist()))
            picked.append(Chunk(source, 0, source.rows))
    width = batch.source.width
    rows = np.concatenate(list(executor.map(finite_points, picked, width)))
    restored: FloatArray = np.empty_like(rows)
    restored[order] = rows
    return restored
