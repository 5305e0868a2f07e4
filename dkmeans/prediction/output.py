"""Predictions written where they are computed: each task owns whole regions of the output.

Rows are cut at the output's own chunk borders, whatever the input's are, because two writers of one
chunk would lose each other's rows.

A region is marked as done after all of it is durable, so a run that was cut off, wherever and
however, is gone on with by the next: what is marked is whole, what is not is written again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from dkmeans import storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.views import Joined
from dkmeans.errors import Invalid
from dkmeans.prediction.identity import Prediction
from dkmeans.prediction.per_chunk import ALL_DISTANCES, CLUSTER_INDEX, Task, run
from dkmeans.report import logger

# A region of the output is about this large, and no larger in rows.
_REGION_BYTES = 32 * 2**20
_REGION_ROWS = 2**20
_ABOUT = "dkmeans_predictions"
_COMPLETE = "complete"
_SUCCESS = "_SUCCESS"
# In an array's folder nobody looks for Zarr nodes: in the group's, readers would warn of it.
_MARKS = (CLUSTER_INDEX, "_done")
_MARK = re.compile(r"(\d{8,})")
_PART = re.compile(r"part-(\d{8,})\.parquet")


@dataclass(frozen=True, slots=True)
class Output:
    """Where predictions go: a Zarr group or a folder of Parquet files.

    Attributes:
        address: Path or URL, ending in `.zarr` or `.parquet`.
        prediction: What goes there.
    """

    address: str
    prediction: Prediction

    @property
    def is_zarr(self) -> bool:
        """Whether it is a Zarr group."""
        return self.address.rstrip("/").endswith(".zarr")

    @property
    def document(self) -> str:
        """The name of the file that says what the output is of."""
        return "zarr.json" if self.is_zarr else f"_{_ABOUT}"


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """What a task needs beside its rows: what to compute, and where to put it."""

    task: Task
    output: Output


@dataclass(frozen=True, slots=True)
class Written:
    """What an output holds already.

    Attributes:
        regions: The numbers of the regions that are done.
        is_complete: Whether nothing is left to do.
    """

    regions: frozenset[int]
    is_complete: bool


def plan_output(
    address: str, batch: Batch, checkpoint: Checkpoint, results: tuple[str, ...]
) -> Output:
    """Choose the regions of an output.

    Raises:
        Invalid: the address ends in neither `.zarr` nor `.parquet`.
    """
    if not address.rstrip("/").endswith((".zarr", ".parquet")):
        raise Invalid(f"output must end in .zarr or .parquet, got {address!r}")
    row = 8 + 4 * len(checkpoint.state.centers) * (ALL_DISTANCES in results)
    rows = max(1, min(_REGION_ROWS, _REGION_BYTES // row))
    unit = batch[0].rows  # whole chunks of the input, where it has chunks of one size
    rows = min(rows // unit * unit or rows, batch.rows)
    return Output(storage.absolute(address), Prediction.of(checkpoint, batch, rows, results))


def prepare(output: Output) -> Written:
    """Make an output ready to be written to.

    What an earlier run of the same prediction has finished is kept; predictions that differ in
    anything are replaced.

    Raises:
        Invalid: something else is there, or it cannot be written to.
    """
    try:
        found = _read_attributes(output)
        if found is None:
            _check_empty(output)
        elif output.prediction.differences(found[_ABOUT]):
            logger.info("replacing what is at %s: %s", output.address, _why(output, found[_ABOUT]))
        else:
            return _kept(output, found)
        _lay_out(output)
    except storage.WRITE_ERRORS as error:
        raise Invalid(f"output must be writable, got {output.address!r}: {error}") from error
    return Written(frozenset(), is_complete=False)


def missing(batch: Batch, output: Output, written: Written) -> Iterator[Chunk]:
    """Rows, in order, in chunks of one region each: those of the regions still to be written."""
    rows = output.prediction.region_rows
    return (c for c in _regions(batch, rows) if c.start // rows not in written.regions)


def write_region(chunk: Chunk, writing: Writing) -> None:
    """Predict one region, write it, and mark it as done.

    Raises:
        InvalidData: rows that cannot be read, or are not finite.
        OSError: it cannot be written.
    """
    output = writing.output
    values = run(chunk, writing.task)
    # Looked at as late as can be: the task may have outlived its driver, and another replaced all.
    found = _read_attributes(output)
    if found is None or output.prediction.differences(found[_ABOUT]):
        raise FileNotFoundError(f"{output.address} is not what the driver made, seen from here")
    number = chunk.start // output.prediction.region_rows
    if output.is_zarr:
        _write_zarr(output, number, chunk, values)
    else:
        _write_parquet(output, number, values)


def finish(output: Output) -> None:
    """Mark an output as whole.

    The marks of its regions go: from here on nobody asks them, and whoever lists or copies the
    output is spared an object for each.
    """
    if output.is_zarr:
        _write_attributes(output, output.prediction.as_json(), is_complete=True)
        storage.remove(storage.join(output.address, *_MARKS))
    else:
        storage.write(storage.join(output.address, _SUCCESS), b"")
    storage.remove_temporary_files(output.address)


def _check_empty(output: Output) -> None:
    if not storage.is_empty(output.address):
        raise Invalid(
            f"output must be new, or predictions of an earlier run; {output.address} holds "
            "something else"
        )


def _why(output: Output, about: dict[str, Any]) -> str:
    if not about:  # cut off while it was set up, or damaged
        return "it does not say what it holds"
    differences = ", ".join(output.prediction.differences(about))
    return f"it holds predictions that differ in {differences}"


def _kept(output: Output, found: dict[str, Any]) -> Written:
    """What is done of the same prediction, by one listing."""
    total = output.prediction.regions
    if output.is_zarr:
        is_complete = found.get(_COMPLETE) is True
        done = _numbers(_MARK, storage.children(storage.join(output.address, *_MARKS)))
    else:
        names = storage.children(output.address)
        done = _numbers(_PART, names)
        is_complete = _SUCCESS in names and len(done) == total
        if not is_complete:  # a file may have been removed since
            storage.remove(storage.join(output.address, _SUCCESS))
    if is_complete:
        logger.info("nothing to do: %s holds all %d regions", output.address, total)
    else:
        logger.info(
            "keeping %d of %d regions that %s holds already", len(done), total, output.address
        )
    return Written(done, is_complete)


def _numbers(pattern: re.Pattern[str], names: Sequence[str]) -> frozenset[int]:
    matches = (pattern.fullmatch(name) for name in names)
    return frozenset(int(match[1]) for match in matches if match)


def _lay_out(output: Output) -> None:
    """Set up an output of which nothing is written.

    What stands there is disowned first, and the new prediction named last: cut off in between, the
    output is of none, and no mark in it counts.
    """
    _write_attributes(output, {}, is_complete=False)
    if not output.is_zarr:
        storage.remove(storage.join(output.address, _SUCCESS))
    storage.clear(output.address, keep=output.document)
    if output.is_zarr:
        _create_arrays(output)
        storage.flush(output.address)
    _write_attributes(output, output.prediction.as_json(), is_complete=False)


def _create_arrays(output: Output) -> None:
    prediction = output.prediction
    group = zarr.open_group(storage.zarr_store(output.address), mode="r+", zarr_format=3)
    kinds: dict[str, tuple[tuple[int, ...], Any, float]] = {
        CLUSTER_INDEX: ((), np.int64, -1),
        ALL_DISTANCES: ((prediction.num_clusters,), np.float32, np.nan),
    }
    for name in prediction.results:
        width, dtype, unwritten = kinds[name]  # no row has such a result: all chunks are stored
        group.create_array(
            name,
            shape=(prediction.rows, *width),
            dtype=dtype,
            chunks=(prediction.region_rows, *width),
            fill_value=unwritten,
        )


def _read_attributes(output: Output) -> dict[str, Any] | None:
    """What an output says of itself; None where it is not one that `prepare` has made."""
    seen = storage.read(storage.join(output.address, output.document))
    if seen is None:
        return None
    try:
        content = json.loads(seen.data)
    except ValueError:
        content = None
    if not output.is_zarr:  # its name tells whose it is, even if it is damaged
        return {_ABOUT: content if isinstance(content, dict) else {}}
    attributes = content.get("attributes") if isinstance(content, dict) else None
    return attributes if isinstance(attributes, dict) and _ABOUT in attributes else None


def _write_attributes(output: Output, about: dict[str, Any], *, is_complete: bool) -> None:
    content = about
    if output.is_zarr:
        attributes = {_ABOUT: about, _COMPLETE: is_complete}
        content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    data = json.dumps(content, indent=1).encode()
    storage.write(storage.join(output.address, output.document), data)


def _regions(batch: Batch, rows: int) -> Iterator[Chunk]:
    """Cut rows, in order, into chunks of this many, numbered from the first row of all."""
    parts: list[Chunk] = []
    first, gathered = 0, 0
    for chunk in batch:
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


def _joined(parts: Sequence[Chunk], first: int) -> Chunk:
    source = Joined(tuple(parts), first)
    return Chunk(source, first, first + source.rows)


def _write_zarr(output: Output, number: int, chunk: Chunk, values: dict[str, Any]) -> None:
    for name, array in values.items():
        node = zarr.open_array(storage.zarr_store(output.address), path=name, mode="r+")
        node[chunk.start : chunk.stop] = array
        storage.flush(storage.join(output.address, name, "c", str(number)))
        # With its array's metadata, the folder that holds the first chunk's folder is flushed.
        storage.flush(storage.join(output.address, name, "zarr.json"))
    storage.write(storage.join(output.address, *_MARKS, f"{number:08d}"), b"")


def _write_parquet(output: Output, number: int, values: dict[str, Any]) -> None:
    """The file is its own mark: under its name it stands whole or not at all."""
    columns = dict(values)
    if ALL_DISTANCES in columns:
        distances = columns[ALL_DISTANCES]
        flat = pa.array(distances.ravel())
        columns[ALL_DISTANCES] = pa.FixedSizeListArray.from_arrays(flat, distances.shape[1])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    name = f"part-{number:08d}.parquet"
    storage.write_whole(storage.join(output.address, name), sink.getvalue().to_pybytes())
