"""Pieces of chunks: more of them than a table has chunks, so that no thread of a process is idle.

A table may have fewer chunks than a machine has cores: Parquet files have a million rows in a row
group, and Dask arrays blocks of 128 MB. A chunk is read whole, by one thread. From then on its rows
are in memory, and the threads of the process compute pieces of it, about as large as the chunks of
an array would be (`Chunk.piece_rows`). Sums are exact: they have the same bits, however chunks are
cut.

`Threads` and the workers of a Dask cluster cut the chunks that they reduce.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from dkmeans.data.batches import Batch
from dkmeans.data.cache import row_cache
from dkmeans.data.chunks import Chunk, Source
from dkmeans.data.row_weights import RowWeights
from dkmeans.data.scaled import ScaledRows
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.data.views import Columns, Selected

# Chunks are cut if there are fewer than this for each thread: the last ones keep few threads busy.
_CHUNKS_PER_THREAD = 4


def in_pieces(batches: Sequence[Batch], threads: int) -> Sequence[Batch]:
    """Return the same batches, with large chunks cut if there are too few for the threads.

    Only chunks whose rows are in memory are cut: others would be read once for each piece.

    Args:
        batches: The batches.
        threads: Number of threads of this process that compute them.
    """
    if threads == 1 or sum(map(len, batches)) >= _CHUNKS_PER_THREAD * threads:
        return batches
    return [Batch(tuple(piece for chunk in batch for piece in _cut(chunk))) for batch in batches]


def num_pieces(batch: Batch) -> int:
    """Return the number of chunks of a batch, once its rows are in memory and large ones are cut.

    The batch has few chunks.
    """
    return sum(map(_num_pieces, batch))


def _cut(chunk: Chunk) -> Iterator[Chunk]:
    count = _num_pieces(chunk)
    is_cut = count > 1 and chunk.is_at_hand
    if count > 1:
        row_cache.note_cut(chunk.number, chunk.rows, is_cut=is_cut)
    if not is_cut:
        yield chunk
        return
    ends = (chunk.rows * number // count for number in range(count + 1))
    yield from (chunk.cut(start, stop) for start, stop in pairwise(ends))


def _num_pieces(chunk: Chunk) -> int:
    size = chunk.piece_rows
    if size is None or not _has_slices(chunk.source):
        return 1
    if chunk.weights is not None and not _has_slices(chunk.weights):
        return 1
    return max(1, round(chunk.rows / size))


def _has_slices(source: Source) -> bool:
    """Return whether a slice of cached rows takes a part of the time, and has the same values.

    Rows that a user's function has mapped do not: a matrix product rounds differently for another
    number of rows. Those of a shuffled chunk are all made for any of them.
    """
    if isinstance(source, Columns | Selected | ScaledRows | RowWeights):
        return all(_has_slices(part.source) for part in source.parts)
    return source.key is not None or isinstance(source, MemoryRows)
