"""Rows of the input: an epoch, a sample of it, or single rows by number.

First centers come from them, and plots show some.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.data.views import Picked
from dkmeans.errors import NO_BATCHES, InvalidData
from dkmeans.executors import Executor
from dkmeans.state import FloatArray, IndexArray

# A sample is drawn in blocks of up to this many consecutive rows, so that few chunks are read, and
# in at least this many blocks, so that it is not of a few places only.
_BLOCK_ROWS = 2**13
_FEWEST_BLOCKS = 64
# Number of rows that people look at.
_FEW_ROWS = 2000


def one_epoch(batches: Iterator[Batch], rows: int | None) -> tuple[Batch, list[Batch]]:
    """Return the `numbered` rows of one epoch, and the batches that were taken for them.

    Args:
        batches: The batches, perhaps without end.
        rows: Number of rows of an epoch; None if it is not known. The first batch then stands for
            all.
    """
    seen: list[Batch] = []
    taken = 0
    for batch in batches:
        seen.append(batch)
        taken += batch.rows
        if rows is None or taken >= rows:
            break
    whole = Batch.concatenated(seen)
    return (whole if rows is None else whole.rows_between(0, rows)).numbered(), seen


def sample(rows: Batch, most: int | None, rng: np.random.Generator) -> Batch:
    """Return at most `most` of a batch's rows, in blocks of consecutive rows drawn uniformly.

    The draw depends on the number of rows alone, not on their chunks.
    """
    if most is None or rows.rows <= most:
        return rows
    size = max(1, min(_BLOCK_ROWS, most // _FEWEST_BLOCKS))
    drawn = np.sort(rng.choice(-(-rows.rows // size), most // size, replace=False))
    return Batch.concatenated(
        rows.rows_between(start, min(start + size, rows.rows)) for start in (drawn * size).tolist()
    )


def few_rows(batches: Iterator[Batch], rows: int | None, executor: Executor) -> FloatArray:
    """Return up to 2,000 rows of an epoch, (m, d), in the driver's memory, the same in each call.

    Args:
        batches: The batches.
        rows: As in `one_epoch`.
        executor: Where rows are read.

    Raises:
        InvalidData: there are no rows.
    """
    epoch, _ = one_epoch(batches, rows)
    if not epoch.rows:
        raise InvalidData(NO_BATCHES)
    few = sample(epoch, _FEW_ROWS, np.random.default_rng(0))
    return fetch(few, np.arange(few.rows), executor)


def fetch(batch: Batch, numbers: IndexArray, executor: Executor) -> FloatArray:
    """Return rows of a batch by their numbers, (m, d), in the driver's memory.

    Args:
        batch: The batch.
        numbers: (m,) row numbers, in any order.
        executor: Where rows are read.

    Returns:
        The rows in the order of `numbers`.
    """
    batch = batch.without_weights()
    starts = np.concatenate([[0], np.cumsum(batch.sizes())])
    order = np.argsort(numbers, kind="stable")
    wanted = numbers[order]
    picked = []
    for which in np.unique(np.searchsorted(starts, wanted, "right") - 1).tolist():
        chunk, (start, stop) = batch[which], starts[which : which + 2]
        low, high = np.searchsorted(wanted, [start, stop])
        if high - low == chunk.rows:
            picked.append(chunk)
        else:  # so that only the picked rows travel
            source = Picked(chunk, tuple((wanted[low:high] - start).tolist()))
            picked.append(Chunk(source, 0, source.rows))
    width = batch.source.width
    # Not `np.empty`: the cast below warns of some values that memory may hold.
    restored, done = np.zeros((len(numbers), width), np.float32), 0
    for rows in executor.map(LoadedChunk.finite, picked, width):
        if not np.can_cast(rows.dtype, restored.dtype):
            restored = restored.astype(rows.dtype)
        restored[order[done : done + len(rows)]] = rows
        done += len(rows)
    return restored
