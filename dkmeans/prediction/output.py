"""Predictions in storage: written by the workers that compute them, and continued after a crash.

Each task owns one region of the output: a range of rows that is one storage chunk, or one Parquet
file, or one file in the folder of each cluster. Rows are cut at the regions' ends, whatever the
chunks of the input are, because two writers of one storage chunk would overwrite each other's rows.
A region is marked as done after all of it is durable. A later run of the same prediction writes
only the regions without a mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from socket import gethostname
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zarr

from dkmeans import storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.data.sources.hive_folders import folder_names
from dkmeans.data.sources.parquet_files import PARQUET_ENDINGS
from dkmeans.errors import Conflict, Invalid, InvalidData, counted, expected
from dkmeans.prediction import added
from dkmeans.prediction.identity import Prediction
from dkmeans.prediction.kept import KeptColumns, digest_of, kept_columns, kept_of, laden
from dkmeans.prediction.per_chunk import (
    ALL_DISTANCES,
    CLUSTER_INDEX,
    DISTANCE,
    SECOND_DISTANCE,
    SECOND_INDEX,
    TOP_DISTANCES,
    TOP_INDICES,
    Task,
    form_of,
    predict,
)
from dkmeans.prediction.regions import Region, numbered_regions, regions_by_file
from dkmeans.report import logger
from dkmeans.retry import first_line, with_retries

# Target size of a region, and the largest number of its rows.
_REGION_BYTES = 32 * 2**20
_REGION_ROWS = 2**20
_IDENTITY = "dkmeans_predictions"
_COMPLETE = "complete"
# Name of the file with the metadata of an array.
_METADATA = "zarr.json"
_SUCCESS = "_SUCCESS"
# Marks are files in the folder of an array. In the group's folder readers would take them for Zarr
# nodes, and warn.
_MARKS = (CLUSTER_INDEX, "_done")
# Number of names of others' files that a message shows.
_MOST_SHOWN = 3
# Of a region in the folders of several clusters. Readers of folders pass over such names.
_PARTITION_MARKS, _MARKED = "_done", ".done"


@dataclass(frozen=True, slots=True)
class Request:
    """What to write beside the cluster index of each row.

    Attributes:
        distance: True to write the distance to the own center.
        second: True to write the next nearest center and the distance to it.
        top: Number of nearest centers to write, with the distances to them; 0 for none.
        transform: True to write the distances to all centers.
        keep: Names of columns of the input to write.
        partition_by: `cluster_index` to write a folder for each cluster; empty for none.
    """

    distance: bool = False
    second: bool = False
    top: int = 0
    transform: bool = False
    keep: tuple[str, ...] = ()
    partition_by: str = ""

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the results, in the order in which they are written."""
        groups = (
            ((CLUSTER_INDEX,), True),
            ((DISTANCE,), self.distance),
            ((SECOND_INDEX, SECOND_DISTANCE), self.second),
            ((TOP_INDICES, TOP_DISTANCES), self.top),
            ((ALL_DISTANCES,), self.transform),
        )
        return tuple(name for names, is_asked in groups if is_asked for name in names)

    def check(self, k: int) -> None:
        """Refuse to write more centers than there are.

        Raises:
            Invalid: there are too few centers.
        """
        if self.second and k < 2:
            raise Invalid(f"second must come with at least 2 clusters, got {k}")
        if not 0 <= self.top <= k:
            raise Invalid(f"top must be from 1 to the number of clusters, {k}, got {self.top}")


# What predictions may have beside the cluster index.
_EVERYTHING = Request(distance=True, second=True, top=1, transform=True)


@dataclass(frozen=True, slots=True)
class Output:
    """A Zarr group or a folder of Parquet files for predictions.

    Attributes:
        address: Path or URL, ending in `.zarr` or `.parquet`; of a group of somebody else, its own.
        added_to: The group of somebody else as the user names it, `store::group`; else empty.
        prediction: The prediction that is written there.
        regions: All regions, each as one chunk of its rows, in order.
        kept: Columns of the input to write, which the sources of the rows do not have; None if
            there are none.
    """

    address: str
    prediction: Prediction
    regions: tuple[Chunk, ...] = field(default=(), repr=False)
    kept: KeptColumns | None = field(default=None, repr=False)
    added_to: str = ""

    @property
    def is_zarr(self) -> bool:
        """True for a Zarr group."""
        return bool(self.added_to) or self.address.rstrip("/").endswith(".zarr")

    @property
    def marks(self) -> str:
        """Address of the marks of regions that are done, where files are no marks themselves."""
        return storage.join(self.address, *(_MARKS if self.is_zarr else (_PARTITION_MARKS,)))

    @property
    def has_marks(self) -> bool:
        """True if a region is done when it is marked, and not when its file is there."""
        return self.is_zarr or bool(self.prediction.partition_by)

    @property
    def identity_file(self) -> str:
        """Name of the file that holds the identity of the prediction."""
        if self.added_to:
            return f"{CLUSTER_INDEX}/{added.IDENTITY_FILE}"
        return "zarr.json" if self.is_zarr else f"_{_IDENTITY}"


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """Value that all tasks of a prediction share: what to predict, and where to write it.

    Attributes:
        task: What to predict.
        output: The output, without its regions: a task gets one of them.
    """

    task: Task
    output: Output


@dataclass(frozen=True, slots=True)
class Written:
    """Content of an output that was begun earlier.

    Attributes:
        files: Names of the regions that are done; empty if an output with marks is complete.
        is_complete: True if the output is marked as complete.
    """

    files: frozenset[str]
    is_complete: bool


def plan_output(
    address: str, batch: Batch, checkpoint: Checkpoint, request: Request, table: Any = None
) -> Output:
    """Choose the regions of an output.

    Args:
        address: Path or URL of the output.
        batch: All rows.
        checkpoint: The checkpoint to predict with.
        request: What to write.
        table: The data frame, dict or group with the columns to keep; None if the sources of the
            rows have them.

    Raises:
        Invalid: the address ends in neither `.zarr` nor `.parquet`, or the columns to keep cannot
            be written there, or the input does not have them.
    """
    store, colons, _ = address.partition("::")
    added_to = address if colons and store.rstrip("/").endswith(".zarr") else ""
    if not added_to and not address.rstrip("/").endswith((".zarr", ".parquet")):
        raise Invalid(f"output must end in .zarr or .parquet, got {address!r}")
    if request.partition_by and not address.rstrip("/").endswith(".parquet"):
        must = "partition_by must come with an output that ends in .parquet"
        raise Invalid(f"{must}, got {address!r}")
    if request.partition_by not in ("", CLUSTER_INDEX):
        raise Invalid(expected("partition_by", repr(CLUSTER_INDEX), request.partition_by))
    kept = None
    if request.keep:
        _check_kept(address, request)
        kept = kept_of(batch, table, request.keep)
    k = len(checkpoint.state.centers)
    request.check(k)
    forms = [form_of(name, k, request.top) for name in request.results]
    row_bytes = sum(prod(shape) * dtype.itemsize for shape, dtype in forms)
    rows = max(1, min(_REGION_ROWS, _REGION_BYTES // row_bytes))
    # Whole chunks of the input, if all have one size: then no two tasks read the same chunk.
    unit = batch[0].rows
    rows = min(rows // unit * unit or rows, batch.rows)
    about = request.results, request.top, request.keep, request.partition_by
    prediction = Prediction.of(checkpoint, batch, rows, *about)
    if isinstance(kept, pa.Table):
        prediction = replace(prediction, kept_sha256=digest_of(kept))
    place = storage.absolute("/".join(filter(None, added.split(address))) if added_to else address)
    output = Output(place, prediction, kept=kept, added_to=added_to)
    return replace(output, regions=tuple(_regions(output, batch)))


def _regions(output: Output, batch: Batch) -> Iterable[Chunk]:
    rows = output.prediction.region_rows
    if output.is_zarr:
        return numbered_regions(batch, rows, "{}")
    by_file = regions_by_file(batch, rows)
    return numbered_regions(batch, rows, "part-{}.parquet") if by_file is None else by_file


def _check_kept(address: str, request: Request) -> None:
    """Refuse columns to keep that cannot be written.

    Raises:
        Invalid: the output is no Parquet, or a column has the name of a result.
    """
    if not address.rstrip("/").endswith(".parquet"):
        raise Invalid(f"keep must come with an output that ends in .parquet, got {address!r}")
    names = [*request.results, *request.keep]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        must = f"other names than the results ({', '.join(request.results)}), each once"
        raise Invalid(f"keep must have {must}, got {', '.join(twice)}")


def is_complete(output: Output) -> bool:
    """Return whether an output holds all of its prediction. Nothing is changed.

    Raises:
        Invalid: the output holds something else.
    """
    found = _read_attributes(output)
    if found is None:
        _check_empty(output)
        return False
    if output.prediction.differences(found[_IDENTITY]) or _lacks_arrays(output):
        return False
    return _read_written(output, found).is_complete


def prepare(output: Output) -> Written:
    """Make an output ready for writing, and return what it holds already.

    Regions that an earlier run of the same prediction has finished are kept. Predictions that
    differ in anything are replaced.

    Raises:
        Invalid: the output holds something else, or cannot be written to.
    """
    try:
        found = _read_attributes(output)
        if found is None:
            _check_empty(output)
        elif output.prediction.differences(found[_IDENTITY]):
            _check_own(output)
            reason = _why_replaced(output, found[_IDENTITY])
            logger.info("replacing the predictions at %s: %s", output.address, reason)
        elif _lacks_arrays(output):
            _check_own(output)
            logger.info("writing the predictions at %s anew: an array is gone", output.address)
        else:
            return _find_written(output, found)
        _lay_out(output)
    except storage.WRITE_ERRORS as error:
        raise Invalid(
            f"output must be writable, got {output.address!r}: {first_line(error)}"
        ) from error
    return Written(frozenset(), is_complete=False)


def _check_own(output: Output) -> None:
    """Refuse to replace an output that has something of somebody else in its folder.

    Raises:
        Invalid: a name in the folder is none that predictions have.
    """
    if output.added_to:  # only the arrays are replaced
        return
    own = {output.identity_file, _METADATA, _SUCCESS, _PARTITION_MARKS, *_EVERYTHING.results}
    others = [
        name
        for name in storage.children(output.address)
        # A killed writer leaves temporary files, whose names begin with a dot.
        if name not in own and not name.startswith(".") and "=" not in name
        if not name.lower().endswith(PARQUET_ENDINGS)
    ]
    if others:
        shown = ", ".join(map(repr, others[:_MOST_SHOWN]))
        raise Invalid(
            f"output must hold nothing but predictions, which this call replaces; "
            f"{output.address} holds {shown}: move it away, or give another output"
        )


def _lacks_arrays(output: Output) -> bool:
    """Return whether somebody has removed an array of an output that says what it holds."""
    files = [storage.join(output.address, name, "zarr.json") for name in output.prediction.results]
    return output.is_zarr and any(storage.read(file) is None for file in files)


def missing(output: Output, written: Written) -> list[Chunk]:
    """Return the regions that are still to be written, each as one chunk of its rows, in order."""
    return [region for region in output.regions if _file_of(region) not in written.files]


def travelling(regions: Sequence[Chunk], output: Output) -> Iterator[Chunk]:
    """Yield regions with all that the tasks that write them need."""
    return laden(regions, output.kept)


def _file_of(region: Chunk) -> str:
    """Return the name of the file that a region is written to, or of its mark."""
    assert isinstance(region.source, Region)  # for the type checker
    return region.source.file


def write_region(loaded: LoadedChunk, writing: Writing) -> int:
    """Predict one region, write it, mark it as done, and return its rows. Runs on a worker.

    Raises:
        InvalidData: the rows are not finite, or the output is on a disk of another machine.
        Conflict: another run has replaced the output.
        Outage: the storage does not answer.
        Refusal: an object store refuses to write the region.
        OSError: the region cannot be written.
    """
    output, chunk = writing.output, loaded.chunk
    results = predict(loaded, writing.task)
    # Checked as late as possible. A task may outlive its driver, and a second driver may have
    # replaced the output since.
    found = _read_attributes(output)
    if found is None:
        raise InvalidData(
            f"output must be at a place that all workers see; on {gethostname()} there is nothing "
            f"of what the driver made at {output.address}. Give a shared disk or an object store"
        )
    if output.prediction.differences(found[_IDENTITY]):
        raise Conflict(f"another run has replaced {output.address} while this one wrote to it")
    file = _file_of(chunk)
    if output.is_zarr:
        write = partial(_write_zarr, output, chunk, results)
    else:
        of_folders = folder_names(file)
        kept = [name for name in output.prediction.kept if name not in of_folders]
        table = _table(results, kept_columns(chunk, kept) if kept else None)
        write = partial(_write_parquet, output, file, table)
    with_retries(f"region {file} of {output.address}", write)
    return chunk.rows


def finish(output: Output) -> None:
    """Mark an output as complete.

    The marks of a Zarr output are removed. They are no longer needed, and a reader who lists or
    copies the output is spared an object for each region.
    """
    if output.is_zarr:
        _write_attributes(output, output.prediction.as_json(), is_complete=True)
        if output.added_to:
            added.consolidate(output.added_to)
    else:
        storage.write(storage.join(output.address, _SUCCESS), b"")
    _tidy(output)


def _tidy(output: Output) -> None:
    """Remove what a complete output does not need."""
    if output.has_marks:
        storage.remove(output.marks)
    for address in _folders(output):
        storage.remove_temporary_files(address)


def _folders(output: Output) -> list[str]:
    """Return the folders of an output that hold nothing of somebody else."""
    if output.added_to:
        return [storage.join(output.address, name) for name in output.prediction.results]
    return [output.address]


def _check_empty(output: Output) -> None:
    if output.added_to:
        added.check_group(output.address, output.prediction.results)
        return
    # A driver that is killed while it writes the first identity leaves a temporary file.
    if not storage.is_empty(output.address) and not _holds_only(output, ()):
        raise Invalid(
            f"output must be new, or predictions of an earlier run; {output.address} holds "
            "something else"
        )


def _holds_only(output: Output, names: Sequence[str]) -> bool:
    """Return whether an output holds these names and temporary files of its identity only."""
    return all(
        name in names or storage.is_temporary_name(name, output.identity_file)
        for name in storage.children(output.address)
    )


def _why_replaced(output: Output, identity: dict[str, Any]) -> str:
    if not identity:  # its driver was killed while it set the output up, or the file is damaged
        return "it does not say what it holds"
    differences = ", ".join(output.prediction.differences(identity))
    return f"it holds predictions that differ in {differences}"


def _find_written(output: Output, found: dict[str, Any]) -> Written:
    """Return what is done of the same prediction, and log it.

    Removes a `_SUCCESS` that no longer holds.
    """
    written = _read_written(output, found)
    if written.is_complete:
        _tidy(output)  # a driver may have been killed after it marked the output as complete
        logger.info("nothing to do: %s is complete", output.address)
        return written
    if not output.is_zarr:  # a file may have been removed after the output was complete
        storage.remove(storage.join(output.address, _SUCCESS))
    total = counted(len(output.regions), "region")
    done = len(written.files)
    logger.info("keeping %d of %s that %s holds already", done, total, output.address)
    return written


def _read_written(output: Output, found: dict[str, Any]) -> Written:
    """Return what is done of the same prediction, by listing the output once."""
    is_marked = found.get(_COMPLETE) is True
    if not output.is_zarr:
        is_marked = _SUCCESS in storage.children(output.address)
    if output.has_marks:
        marks = storage.files_below(output.marks)
        return Written(_planned(output, (m.removesuffix(_MARKED) for m in marks)), is_marked)
    done = _planned(output, storage.files_below(output.address))
    return Written(done, is_marked and len(done) == len(output.regions))


def _planned(output: Output, names: Iterable[str]) -> frozenset[str]:
    """Return those of some names that regions of an output have."""
    return frozenset(names) & frozenset(map(_file_of, output.regions))


def _lay_out(output: Output) -> None:
    """Set up an output without any regions.

    The old identity is removed first and the new one written last. After a crash in between the
    output has no identity, and no mark in it counts.
    """
    before = (_read_attributes(output) or {}).get(added.ARRAYS, [])
    row_name = None
    if output.added_to:
        others = [name for name in output.prediction.results if name not in before]
        added.check_group(output.address, others)
        row_name = added.row_dimension(output.address, output.prediction.rows)
    arrays = list(dict.fromkeys((*before, *output.prediction.results)))
    _write_attributes(output, {}, is_complete=False, arrays=arrays)
    if not output.is_zarr:
        storage.remove(storage.join(output.address, _SUCCESS))
    if output.added_to:
        added.clear(output.address, arrays)
    else:
        storage.clear(output.address, keep=output.identity_file)
    if output.is_zarr:
        _create_arrays(output, row_name)
        for address in _folders(output):
            storage.flush(address)
    _write_attributes(output, output.prediction.as_json(), is_complete=False)


def _create_arrays(output: Output, row_name: str | None) -> None:
    """Create the arrays of a Zarr output; `row_name` is the name of their first dimension."""
    prediction = output.prediction
    for name in prediction.results:
        width, dtype = form_of(name, prediction.num_clusters, prediction.top)
        # Fill values are no possible results, so Zarr stores every chunk that is written.
        fill_value = -1 if dtype.kind == "i" else np.nan
        # Created in memory, and its metadata written: for an array of a group Zarr asks the store
        # to create the group if absent, and a store that ignores the condition empties the
        # attributes of the group. What is in the array's folder already stays.
        held: dict[str, Any] = {}
        zarr.create_array(
            zarr.storage.MemoryStore(held),
            shape=(prediction.rows, *width),
            dtype=dtype,
            chunks=(prediction.region_rows, *width),
            fill_value=fill_value,
            dimension_names=added.dimensions_of(name, row_name, 1 + len(width)),
            zarr_format=3,
        )
        address = storage.join(output.address, name, _METADATA)
        storage.write(address, held[_METADATA].to_bytes())


def _read_attributes(output: Output) -> dict[str, Any] | None:
    """Return the attributes of an output; None if `prepare` has not made it."""
    seen = storage.read(storage.join(output.address, output.identity_file))
    if seen is None:
        return None
    try:
        content = json.loads(seen.data)
    except ValueError:
        content = None
        if output.is_zarr and not output.added_to and _is_cut_off(output, seen.data):
            return {_IDENTITY: {}}
    # The file's name is ours, even if its content is damaged.
    if output.added_to:
        is_whole = isinstance(content, dict) and _IDENTITY in content
        return content if is_whole else {_IDENTITY: {}}
    if not output.is_zarr:
        return {_IDENTITY: content if isinstance(content, dict) else {}}
    attributes = content.get("attributes") if isinstance(content, dict) else None
    return attributes if isinstance(attributes, dict) and _IDENTITY in attributes else None


def _is_cut_off(output: Output, data: bytes) -> bool:
    """Return whether a damaged `zarr.json` is the beginning of one that `prepare` has written.

    Places other than local disks and object stores write a file piece by piece, and a disk that
    was not flushed may lose the end of a file.
    """
    beginning = _data(_content({})).partition(f'"{_IDENTITY}"'.encode())
    # A beginning that does not reach the name of the identity may be of any file, even an empty
    # one. Then nothing else may be there.
    return data.startswith(b"".join(beginning[:2])) or (
        beginning[0].startswith(data) and _holds_only(output, [output.identity_file])
    )


def _content(identity: dict[str, Any], *, is_complete: bool = False) -> dict[str, Any]:
    """Return the content of the `zarr.json` of a group of predictions."""
    attributes = {_IDENTITY: identity, _COMPLETE: is_complete}
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _data(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def _write_attributes(
    output: Output, identity: dict[str, Any], *, is_complete: bool, arrays: Sequence[str] = ()
) -> None:
    """Write the identity of an output.

    Args:
        output: The output.
        identity: The identity; empty while the output is not set up.
        is_complete: True if all is written.
        arrays: Names of the arrays in a group of somebody else that may be removed; those of the
            results if there are none.
    """
    if output.added_to:
        names = arrays or output.prediction.results
        data = added.content(identity, is_complete=is_complete, arrays=names)
    else:
        data = _data(_content(identity, is_complete=is_complete) if output.is_zarr else identity)
    storage.write(storage.join(output.address, output.identity_file), data)


def _write_zarr(output: Output, chunk: Chunk, results: dict[str, Any]) -> None:
    number = chunk.start // output.prediction.region_rows
    for name, array in results.items():
        node = zarr.open_array(storage.zarr_store(output.address), path=name, mode="r+")
        node[chunk.start : chunk.stop] = array
        # Zarr's key of this chunk; a folder if the array has two dimensions.
        storage.flush(storage.join(output.address, name, "c", str(number)))
        # Flushes the array's folder too, in which the first chunk creates the folder `c`.
        storage.flush(storage.join(output.address, name, _METADATA))
    storage.write(storage.join(output.marks, _file_of(chunk)), b"")


def _table(results: dict[str, Any], kept: pa.Table | None) -> pa.Table:
    """Return results as a table, after the columns of the input that are kept."""
    columns = {} if kept is None else dict(zip(kept.column_names, kept.columns, strict=True))
    for name, array in results.items():
        # Not `pa.array`, which imports pandas to tell what it is given.
        kind, values = pa.from_numpy_dtype(array.dtype), pa.py_buffer(np.ascontiguousarray(array))
        flat = pa.Array.from_buffers(kind, array.size, [None, values])
        is_list = array.ndim == 2
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1]) if is_list else flat
    return pa.table(columns)


def _write_parquet(output: Output, file: str, table: pa.Table) -> None:
    """Write a region as one file, which is its own mark, or as one file for each cluster."""
    name = output.prediction.partition_by
    if not name:
        _write_file(storage.join(output.address, file), table)
        return
    column, others = table[name], table.drop_columns([name])
    for value in pc.unique(column).to_pylist():
        rows = others.filter(pc.equal(column, value))
        _write_file(storage.join(output.address, f"{name}={value}", file), rows)
    storage.write(storage.join(output.marks, f"{file}{_MARKED}"), b"")


def _write_file(address: str, table: pa.Table) -> None:
    """Write a file of Parquet, which appears whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_whole(address, sink.getvalue().to_pybytes())
