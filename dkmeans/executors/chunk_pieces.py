"""Pieces of chunks: more of them than a table has chunks, so that no thread of a process is idle.

A table may have fewer chunks than a machine has cores: Parquet files have a million rows in a row
group, and Dask arrays blocks of 128 MB. A chunk is read whole, by one thread. From then on its rows
are in memory, and the threads of the process compute pieces of it. Sums are exact: they have the
same bits, however chunks are cut.

`Threads` and the workers of a Dask cluster cut the chunks that they reduce.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dkmeans.backends import cores_per_gpu
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import SMALLEST_BYTES, Chunk, Whole
from dkmeans.executors.value_sizes import size_of

# Chunks are cut if there are fewer than this for each thread: the last ones keep few threads busy.
_CHUNKS_PER_THREAD = 4
# The rows of a piece have at least this many times the bytes of the centers: each piece has sums of
# its own, of twice their bytes, which must be added up.
_ROWS_OF_CENTERS = 8
# Bytes of a value, about: most rows are float32.
_VALUE_BYTES = 4


def in_pieces(batches: Sequence[Batch], threads: int, value: Any) -> Sequence[Batch]:
    """Return the same batches, with their chunks cut if there are too few for the threads.

    Only chunks whose rows are in memory are cut: others would be read once for each piece. GPUs
    compute large chunks faster, so theirs are not cut.

    Args:
        batches: The batches.
        threads: Number of threads of this process that compute them.
        value: Value that the chunks are computed with, such as centers.
    """
    wanted = _CHUNKS_PER_THREAD * threads
    if threads == 1 or sum(map(len, batches)) >= wanted or cores_per_gpu() is not None:
        return batches
    rows = sum(batch.rows for batch in batches)
    smallest_bytes = max(SMALLEST_BYTES, _ROWS_OF_CENTERS * size_of(value))

    def cut(chunk: Chunk) -> Iterator[Chunk]:
        row_bytes = max(1, chunk.source.width * _VALUE_BYTES)
        count = min(-(-wanted * chunk.rows // rows), chunk.rows * row_bytes // smallest_bytes)
        if count < 2 or not _can_be_cut(chunk):
            yield chunk
            return
        size = -(-chunk.rows // count)
        for start in range(0, chunk.rows, size):
            yield chunk.cut(start, min(start + size, chunk.rows))

    return [Batch(tuple(piece for chunk in batch for piece in cut(chunk))) for batch in batches]


def _can_be_cut(chunk: Chunk) -> bool:
    """Return whether a part of the rows can be had in a part of the time, without reading."""
    # A view of a whole chunk, such as that of a shuffled one, makes all rows for any of them.
    is_whole_view = isinstance(chunk.source, Whole) and bool(chunk.source.parts)
    return chunk.is_at_hand and (chunk.source.key is not None or not is_whole_view)
