"""Predictions in storage: written by the workers that compute them, and continued after a crash.

Each task owns one region of the output: a range of rows that is one storage chunk, or one Parquet
file, or one file in the folder of each cluster. Rows are cut at the regions' ends, whatever the
chunks of the input are, because two writers of one storage chunk would overwrite each other's rows.
A region is marked as done after all of it is durable. A later run of the same prediction writes
only the regions without a mark. The classes in `destinations` write the kinds of output.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from socket import gethostname
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dkmeans import storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.errors import Conflict, Invalid, InvalidData, counted
from dkmeans.prediction.destinations import (
    Destination,
    check_address,
    destination_for,
    is_parquet,
)
from dkmeans.prediction.identity import Prediction
from dkmeans.prediction.kept_columns import KeptColumns, digest_of, kept_of
from dkmeans.prediction.per_chunk import Task, predict, result_bytes
from dkmeans.prediction.regions import Region, file_of
from dkmeans.prediction.request import Request
from dkmeans.report import logger
from dkmeans.retry import first_line

# Target size of the results of a region, and the largest number of its rows.
_REGION_BYTES = 32 * 2**20
_REGION_ROWS = 2**20
# Target size of the rows of a region: wide rows are many times their results, and a region is
# computed by one thread.
_REGION_INPUT_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Output:
    """The predictions of a call in storage.

    Attributes:
        destination: The place, and the prediction that it is for.
        regions: All regions, each as one chunk of its rows, in order.
        kept: Columns of the input that are written too, and that the sources of the rows do not
            have; None if these sources have them, or if no columns are kept.
    """

    destination: Destination
    regions: tuple[Chunk, ...] = field(repr=False)
    kept: KeptColumns | None = field(repr=False)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.destination.prediction.rows


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """Value that all tasks of a prediction share: what to predict, and where to write it."""

    task: Task
    destination: Destination


@dataclass(frozen=True, slots=True)
class Written:
    """Content of an output that was begun earlier.

    Attributes:
        regions: Names of the regions that are done; none for a complete output whose marks have
            been removed.
        is_complete: True if the output is marked as complete. If regions have no marks but their
            files, it is True only if no file is missing either.
    """

    regions: frozenset[str]
    is_complete: bool


def plan_output(
    address: str, batch: Batch, checkpoint: Checkpoint, request: Request, table: Any = None
) -> Output:
    """Return an output: its destination, its regions and the columns to keep.

    These are columns of `table`, as in `kept_of`.

    Raises:
        Invalid: the address names no destination, the columns to keep cannot be written there or
            are missing, or there are too few centers.
        InvalidType: the input has no names, or its rows are not in order.
        InvalidData: a column to keep has another number of values than there are rows.
    """
    check_address(address, request.partition_by)
    kept = None
    if request.keep:
        _check_kept(address, request)
        kept = kept_of(batch, table, request.keep)
    k = len(checkpoint.state.centers)
    request.check(k)
    row_bytes = result_bytes(request.results, k, request.top)
    most = max(1, min(_REGION_ROWS, _REGION_BYTES // row_bytes))
    input_bytes = batch[0].source.width * np.dtype(np.float32).itemsize
    rows = min(most, max(1, _REGION_INPUT_BYTES // input_bytes))
    # A multiple of the first chunk's rows, if a region has room for that chunk. If all chunks have
    # that size, no two tasks then read the same chunk.
    unit = batch[0].rows
    rows = min(rows // unit * unit or rows, batch.rows)
    about = request.results, request.top, request.keep, request.partition_by
    prediction = replace(Prediction.of(checkpoint, batch, rows, *about), file_rows=most)
    if isinstance(kept, pa.Table):
        prediction = replace(prediction, kept_sha256=digest_of(kept))
    destination = destination_for(address, prediction)
    return Output(destination, tuple(destination.regions(batch)), kept)


def _check_kept(address: str, request: Request) -> None:
    """Refuse columns to keep that cannot be written.

    Raises:
        Invalid: the output is no Parquet, or a column has the name of a result.
    """
    if not is_parquet(address):
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
    destination = output.destination
    found = destination.identity()
    if found is None:
        destination.check_new()
        return False
    if destination.prediction.differences(found) or destination.lacks_arrays():
        return False
    return _written(output).is_complete


def prepare(output: Output) -> Written:
    """Make an output ready for writing, and return what it holds already.

    Regions that an earlier run of the same prediction has finished are kept. Predictions that
    differ in anything are replaced.

    Raises:
        Invalid: the output holds something else, or cannot be written to.
        Conflict: another process has removed what this one has just written.
    """
    destination = output.destination
    try:
        found = destination.identity()
        if found is None:
            destination.check_new()
        elif differences := destination.prediction.differences(found):
            destination.check_replaceable(output.regions)
            reason = f"it holds predictions that differ in {', '.join(differences)}"
            if not found:  # a driver was killed while it set the output up, or the file is damaged
                reason = "its identity is empty or damaged"
            logger.info("replacing the predictions at %s: %s", destination.address, reason)
        elif destination.lacks_arrays():
            destination.check_replaceable(output.regions)
            logger.info(
                "writing the predictions at %s anew: an array was removed", destination.address
            )
        else:
            return _found(output)
        destination.empty()
        destination.write_identity(destination.prediction.as_json())
    except FileNotFoundError as error:  # what was written a moment ago
        raise Conflict(
            f"another process has changed {destination.address} while this one set it up; run the "
            "same call again when the other one has ended"
        ) from error
    except storage.WRITE_ERRORS as error:
        raise Invalid(
            f"output must be writable, got {destination.address!r}: {first_line(error)}"
        ) from error
    return Written(frozenset(), is_complete=False)


def _found(output: Output) -> Written:
    """Return and log what an output holds; tidy a complete output, unmark an incomplete one."""
    destination, written = output.destination, _written(output)
    if written.is_complete:
        destination.tidy()  # a driver may have been killed after it marked the output as complete
        logger.info("nothing to do: %s is complete", destination.address)
        return written
    destination.unmark()  # a file may have been removed after the output was complete
    total, done = counted(len(output.regions), "region"), len(written.regions)
    logger.info("%s holds %d of %s: writing the others", destination.address, done, total)
    return written


def _written(output: Output) -> Written:
    """Return what the output holds of its prediction. Nothing is changed."""
    destination = output.destination
    done = frozenset(destination.done()) & frozenset(map(file_of, output.regions))
    has_all = destination.has_marks or len(done) == len(output.regions)
    return Written(done, has_all and destination.is_marked_complete())


def missing(output: Output, written: Written) -> list[Chunk]:
    """Return the regions that are still to be written, each as one chunk of its rows, in order."""
    return [region for region in output.regions if file_of(region) not in written.regions]


def write_region(loaded: LoadedChunk, writing: Writing) -> int:
    """Predict one region, write it, mark it as done, and return its number of rows.

    Runs on a worker.

    Raises:
        InvalidData: the rows are not finite, or the output is on a disk of another machine.
        Conflict: another run has replaced the output.
        Outage: the storage does not answer.
        Refusal: an object store refuses to write the region.
        OSError: the region cannot be written.
    """
    destination = writing.destination
    results = _results(loaded.chunk, writing.task)
    # Checked as late as possible. A task may outlive its driver, and a second driver may have
    # replaced the output since.
    found = destination.identity()
    if found is None:
        raise InvalidData(
            f"output must be at a place that all workers see; {gethostname()} does not see what "
            f"the driver made at {destination.address}. Give a shared disk or an object store"
        )
    if destination.prediction.differences(found):
        raise Conflict(f"another run has replaced {destination.address} while this one wrote to it")
    destination.write(loaded.chunk, results)
    return loaded.chunk.rows


def _results(region: Chunk, task: Task) -> dict[str, NDArray[Any]]:
    """Return the results of a region. One part of its rows is in memory at a time."""
    assert isinstance(region.source, Region)  # for the type checker
    parts = [predict(part.loaded(), task) for part in region.source.parts]
    return {name: np.concatenate([part[name] for part in parts]) for name in task.names}


def finish(output: Output) -> None:
    """Mark an output as complete, and remove the marks of regions and temporary files."""
    output.destination.mark_complete()
    output.destination.tidy()
