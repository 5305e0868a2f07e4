"""Columns side by side: the rows of a table whose columns are tables of their own.

`input_fn` joins the columns of a dict here, and `dataset` the arrays of a Zarr group. The columns
may be chunked differently; a chunk of the rows has equally many rows of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, Source
from dkmeans.errors import InvalidData


def side_by_side(columns: list[Batch], name: str, view: Callable[..., Source]) -> Batch:
    """Return the chunks whose rows are joined from several columns.

    Args:
        columns: The columns, each with the same number of rows.
        name: Name of the table, for messages.
        view: Called with one chunk of every column and `first`, the number of their first row;
            returns a source.

    Raises:
        InvalidData: the columns have different lengths.
    """
    rows = {column.rows for column in columns}
    if len(rows) > 1:
        raise InvalidData(f"the columns of {name} must be equally long, got {sorted(rows)} rows")
    pieces = list(_aligned(columns))
    # `firsts` has one entry more than `pieces`: the number of all rows.
    firsts = accumulate((piece[0].rows for piece in pieces), initial=0)
    return Batch.of(
        *(
            Chunk(view(piece, first=first), first, first + piece[0].rows)
            for piece, first in zip(pieces, firsts, strict=False)
        )
    )


def _aligned(columns: list[Batch]) -> Iterator[tuple[Chunk, ...]]:
    """Cut the chunks of several columns so that each piece has the same rows of all columns.

    Yields:
        One chunk of each column, of equal length.
    """
    # Stacks of the remaining chunks, the next one on top. All parts of a column are chunks; the
    # test is only for the type checker.
    remaining = [[c for c in reversed(column.parts) if isinstance(c, Chunk)] for column in columns]
    while all(remaining):
        rows = min(chunks[-1].rows for chunks in remaining)
        piece = []
        for chunks in remaining:
            chunk = chunks.pop()
            piece.append(chunk.cut(0, rows))
            if chunk.rows > rows:
                chunks.append(chunk.cut(rows, chunk.rows))
        yield tuple(piece)
