"""Predictions written where they are computed: each task owns whole regions of the output.

Rows are cut at the output's own chunk borders, whatever the input's are, because two writers of one
chunk would lose each other's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
import zarr.errors

from dkmeans import storage
from dkmeans.batches import Batch
from dkmeans.chunks import Chunk
from dkmeans.errors import Invalid
from dkmeans.inference import ALL_DISTANCES, CLUSTER_INDEX, Task, run
from dkmeans.views import Joined

# A region of the output is about this large, and no larger in rows.
_REGION_BYTES = 32 * 2**20
_REGION_ROWS = 2**20
_MARK = "dkmeans_predictions"


@dataclass(frozen=True, slots=True)
class Output:
    """Where predictions go: a Zarr group or a folder of Parquet files.

    Attributes:
        address: Path or URL, ending in `.zarr` or `.parquet`.
        distances: Whether the distances to all centers are written too.
        region: How many rows a task writes.
    """

    address: str
    distances: bool
    region: int

    @property
    def is_zarr(self) -> bool:
        """Whether it is a Zarr group."""
        return self.address.rstrip("/").endswith(".zarr")


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """What a task needs beside its rows: what to compute, and where to put it."""

    task: Task
    output: Output


def plan_output(address: str, batch: Batch, num_clusters: int, *, distances: bool) -> Output:
    """Choose the regions of an output.

    Raises:
        Invalid: the address ends in neither `.zarr` nor `.parquet`.
    """
    if not address.rstrip("/").endswith((".zarr", ".parquet")):
        raise Invalid(f"output must end in .zarr or .parquet, got {address!r}")
    address = storage.absolute(address)
    row = 8 + 4 * num_clusters * distances
    rows = max(1, min(_REGION_ROWS, _REGION_BYTES // row))
    unit = batch[0].rows  # whole chunks of the input, where it has chunks of one size
    rows = rows // unit * unit or rows
    return Output(address, distances, min(rows, batch.rows))


def create(output: Output, rows: int, num_clusters: int, about: dict[str, Any]) -> None:
    """Set up an output before anything is written to it; one of an earlier run is replaced.

    Raises:
        Invalid: something else is there, or it cannot be written to.
    """
    try:
        if storage.children(output.address):
            if not _is_ours(output):
                raise Invalid(
                    f"output must be new, or predictions of an earlier run; {output.address} holds "
                    "something else"
                )
            storage.remove(output.address)
        if output.is_zarr:
            group = zarr.create_group(
                storage.zarr_store(output.address), attributes={_MARK: about, "complete": False}
            )
            for name, shape, dtype in _arrays(output, rows, num_clusters):
                group.create_array(
                    name, shape=shape, dtype=dtype, chunks=(output.region, *shape[1:])
                )
        else:
            storage.write(storage.join(output.address, f"_{_MARK}"), b"")
    except storage.WRITE_ERRORS as error:
        raise Invalid(f"output must be writable, got {output.address!r}: {error}") from error


def finish(output: Output) -> None:
    """Mark an output as whole."""
    if output.is_zarr:
        zarr.open_group(storage.zarr_store(output.address), mode="r+").attrs["complete"] = True
    else:
        storage.write(storage.join(output.address, "_SUCCESS"), b"")


def regions(batches: Iterable[Batch], rows: int) -> Iterator[Chunk]:
    """Cut rows, in order, into chunks of this many, numbered from the first row of all."""
    parts: list[Chunk] = []
    first, gathered = 0, 0
    for chunk in (chunk for batch in batches for chunk in batch):
        start = 0
        while start < chunk.rows:
            part = chunk.cut(start, min(start + rows - gathered, chunk.rows))
            parts.append(part)
            start, gathered = start + part.rows, gathered + part.rows
            if gathered == rows:
                yield _joined(parts, first)
                parts, first, gathered = [], first + gathered, 0
    if parts:
        yield _joined(parts, first)


def write_region(chunk: Chunk, writing: Writing) -> int:
    """Predict one region and write it; the number of its rows.

    Raises:
        InvalidData: rows that cannot be read, or are not finite.
        OSError: it cannot be written.
    """
    output = writing.output
    values = run(chunk, writing.task)
    if output.is_zarr:
        for name, array in values.items():
            node = zarr.open_array(storage.zarr_store(output.address), path=name, mode="r+")
            node[chunk.start : chunk.stop] = array
    else:
        _write_parquet(output, chunk.start // output.region, values)
    return chunk.rows


def _joined(parts: Sequence[Chunk], first: int) -> Chunk:
    source = Joined(tuple(parts), first)
    return Chunk(source, first, first + source.rows)


def _is_ours(output: Output) -> bool:
    if not output.is_zarr:
        return storage.read(storage.join(output.address, f"_{_MARK}")) is not None
    try:
        group = zarr.open_group(storage.zarr_store(output.address, read_only=True), mode="r")
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError):  # whatever it is
        return False
    return _MARK in group.attrs


def _arrays(output: Output, rows: int, k: int) -> list[tuple[str, tuple[int, ...], Any]]:
    arrays: list[tuple[str, tuple[int, ...], Any]] = [(CLUSTER_INDEX, (rows,), np.int64)]
    return arrays + [(ALL_DISTANCES, (rows, k), np.float32)] * output.distances


def _write_parquet(output: Output, number: int, values: dict[str, Any]) -> None:
    if not _is_ours(output):  # a folder of that name, but another machine's
        raise FileNotFoundError(f"{output.address} is not what the driver made, seen from here")
    columns = dict(values)
    if ALL_DISTANCES in columns:
        distances = columns[ALL_DISTANCES]
        flat = pa.array(distances.ravel())
        columns[ALL_DISTANCES] = pa.FixedSizeListArray.from_arrays(flat, distances.shape[1])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    name = f"part-{number:08d}.parquet"
    storage.write(storage.join(output.address, name), sink.getvalue().to_pybytes())
