"""Regions: the rows that one task writes, and the file of the output that holds them.

`output` cuts the rows of a prediction into regions on the driver. Where the input and the output
are Parquet, a region is a file of the input, or a part of a very large one. Its file has the name
of the input's file (of a part with a number). So both can be joined by position, unless a
filter leaves out rows of the input. All other regions are numbered, and have one size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, takewhile

import numpy as np
from numpy.typing import NDArray

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, Source
from dkmeans.data.epochs import cut_anew
from dkmeans.data.sources.named_rows import NamedRows
from dkmeans.data.sources.parquet_files import is_parquet_name
from dkmeans.data.views import Joined, RowView
from dkmeans.feature_columns.layout import FeatureRows


@dataclass(frozen=True, slots=True)
class Region(Joined):
    """Rows that one task writes.

    A region has no columns, so that an executor loads nothing: `output.write_region` loads the
    parts one after another, because all rows of a region may be much larger than its results.

    Attributes:
        file: Name of the file that holds them, below the output; for Zarr, name of the mark.
        kept: Columns of the input that are written too, which the sources of the rows do not have:
            as a stream of Arrow, or as chunks of each column by name.
    """

    file: str
    kept: bytes | tuple[tuple[str, Batch], ...] = field(default=(), repr=False)

    @property
    def width(self) -> int:
        """Zero."""
        return 0

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return these rows, without columns."""
        return np.empty((stop - start, 0), np.float32)

    def with_leaves(self, change: Callable[[Source], Source]) -> Region:
        """Return the same rows, and columns that are kept, of changed sources."""
        parts = tuple(part.with_leaves(change) for part in self.parts)
        kept = self.kept
        if not isinstance(kept, bytes):
            kept = tuple((name, column.with_leaves(change)) for name, column in kept)
        return replace(self, parts=parts, kept=kept)


def file_of(region: Chunk) -> str:
    """Return the name of the file that a region is written to, or of its mark."""
    assert isinstance(region.source, Region)  # for the type checker
    return region.source.file


def numbered_regions(batch: Batch, rows: int, name: str) -> Iterator[Chunk]:
    """Yield all rows in regions of `rows` rows, each as one chunk.

    The names of the files are `name` with the number of the region in place of `{}`.
    """
    first = 0
    for number, piece in enumerate(cut_anew(iter([batch]), rows)):
        yield _region(piece, first, name.format(f"{number:08d}"))
        first += piece.rows


def regions_by_file(batch: Batch, rows: int) -> list[Chunk] | None:
    """Return all rows in a region for each file of the input, each as one chunk.

    A file of more rows than a region may have gets several: `part-0.parquet` becomes
    `part-0-00000.parquet`, `part-0-00001.parquet` and so on.

    Returns:
        The regions; None if the rows are not those of Parquet files, each once and in order, or if
        two regions would get the same name, or one that readers of folders pass over.
    """
    runs = [(file, list(chunks)) for file, chunks in groupby(batch, _parquet_file_of)]
    files = [file for file, _ in runs if file is not None]
    if len(set(files)) < len(runs):
        return None
    regions: dict[str, Chunk] = {}
    first = count = 0
    for name, (_, chunks) in zip(_relative(files), runs, strict=True):
        pieces = list(cut_anew(iter([Batch(tuple(chunks))]), rows))
        stem, ending = _split(name)
        for number, piece in enumerate(pieces):
            file = name if len(pieces) == 1 else f"{stem}-{number:05d}{ending}"
            regions[file] = _region(piece, first, file)
            first, count = first + regions[file].rows, count + 1
    is_usable = len(regions) == count and all(map(_is_visible, regions))
    return list(regions.values()) if is_usable else None


def _parquet_file_of(chunk: Chunk) -> str | None:
    """Return the address of the Parquet file that a chunk is of; None if it is of no such file."""
    source = chunk.source
    if isinstance(source, FeatureRows | RowView):
        return _parquet_file_of(source.parts[0])
    return source.file if isinstance(source, NamedRows) else None


def _relative(files: list[str]) -> list[str]:
    """Return the names of files below the folder that holds all of them.

    Folders that name columns, as `year=2024`, are parts of the names.
    """
    paths = [file.split("/") for file in files]
    levels = zip(*(path[:-1] for path in paths), strict=False)
    shared = takewhile(lambda names: len(set(names)) == 1 and "=" not in names[0], levels)
    depth = len(list(shared))
    return ["/".join(path[depth:]) for path in paths]


def _split(name: str) -> tuple[str, str]:
    """Return the name of a file before its ending, and the ending."""
    stem, dot, ending = name.rpartition(".")
    return stem, dot + ending


def _is_visible(name: str) -> bool:
    """Return whether readers of folders read a file of this name."""
    hidden = any(each.startswith((".", "_")) for each in name.split("/"))
    return not hidden and is_parquet_name(name)


def _region(rows: Batch, first: int, file: str) -> Chunk:
    return Chunk(Region(tuple(rows), first, file), first, first + rows.rows)
