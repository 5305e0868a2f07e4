"""Predictions and scores for the driver, batch by batch, while hooks are notified.

The estimator's `evaluate`, `score`, `predict` and the methods built on them call this module.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkmeans.checkpoints import Checkpoint
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.columns import KnownColumns
from dkmeans.data.dataset import Dataset
from dkmeans.errors import NO_BATCHES, InvalidData, counted
from dkmeans.executors import Executor
from dkmeans.hooks.notifier import Notifier
from dkmeans.prediction import per_chunk
from dkmeans.prediction.measures import Measures, Measuring, measure
from dkmeans.prediction.per_chunk import Task
from dkmeans.report import RowReport

# Target size of the results of a chunk that is predicted row by row: a few such chunks of each
# thread wait for the caller.
_RESULT_BYTES = 8 * 2**20
# A batch of more chunks is scored in pieces, so that progress can be reported.
_MOST_CHUNKS_AT_ONCE = 16
# Threads are idle at the end of a piece. So the first piece has `_CHUNKS_PER_THREAD` chunks for
# each thread. After a piece that takes less than half of `_PIECE_SECONDS`, the size is doubled.
_CHUNKS_PER_THREAD = 4
_PIECE_SECONDS = 4.0


def scores(
    dataset: Dataset,
    checkpoint: Checkpoint,
    task: Measuring,
    executor: Executor,
    notifier: Notifier,
    steps: int | None,
) -> list[Measures]:
    """Return the measures of the first `steps` batches (None: all), of which hooks see the scores.

    Raises:
        InvalidData: there are no batches, or the rows cannot be used.
    """
    notifier.begin()
    notifier.created(checkpoint.state)
    found: list[Measures] = []
    # Of other datasets it is not known how often they repeat their rows.
    is_once = dataset.is_table and steps is None
    report = RowReport("evaluated", dataset.rows if is_once else None)
    for batch in dataset.batches():
        notifier.before_run(batch)
        of_batch = replace(task, batch=len(found))
        measured = _measured(batch.numbered(), of_batch, executor, report)
        found.append(measured)
        notifier.set_values(checkpoint.state, measured.score)
        notifier.after_run()
        if len(found) == steps or notifier.should_stop():
            break
    if not found:
        raise InvalidData(NO_BATCHES)
    notifier.end()
    return found


def _measured(batch: Batch, task: Measuring, executor: Executor, report: RowReport) -> Measures:
    """Return the measures of a batch, computed in pieces: rows are reported after each of them."""
    total, start, size = None, 0, len(batch)
    if size > _MOST_CHUNKS_AT_ONCE:
        size = _CHUNKS_PER_THREAD * executor.memory().threads
    while start < len(batch):
        began = time.perf_counter()
        piece = batch.chunks_between(start, min(start + size, len(batch)))
        (measured,) = executor.map_reduce(measure, [piece], task).totals
        total = measured if total is None else total + measured
        report.add(piece.rows)
        start += len(piece)
        if time.perf_counter() - began < _PIECE_SECONDS / 2:
            size *= 2
    return Measures.zero(task) if total is None else total


def predictions(
    dataset: Dataset,
    checkpoint: Checkpoint,
    task: Task,
    executor: Executor,
    notifier: Notifier,
    *,
    single: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the results of a task by name: if `single`, of each row, else of each batch.

    Raises:
        InvalidData: the rows cannot be used.
    """
    notifier.begin()
    notifier.created(checkpoint.state)
    for batch in dataset.batches():
        notifier.before_run(batch)
        if single:
            for results in executor.map(per_chunk.predict, _pieces(batch, task), task):
                for values in zip(*results.values(), strict=True):
                    yield dict(zip(results, values, strict=True))
        else:
            yield gathered(batch, task, executor)
        notifier.after_run()
        if notifier.should_stop():
            break
    notifier.end()


def _pieces(batch: Batch, task: Task) -> Iterator[Chunk]:
    """Yield the rows of a batch in chunks, cut where the results of a chunk would be large.

    The results of a row may be k numbers, and those of several chunks wait for the caller.
    """
    row_bytes = per_chunk.result_bytes(task.names, len(task.centers.values), task.top)
    rows = max(1, _RESULT_BYTES // row_bytes)
    for chunk in batch:
        for start in range(0, chunk.rows, rows):
            yield chunk.cut(start, min(start + rows, chunk.rows))


def gathered(batch: Batch, task: Task, executor: Executor) -> dict[str, NDArray[Any]]:
    """Return the results of a task for a whole batch, one array for each name."""
    parts = list(executor.map(per_chunk.predict, batch, task))
    return {name: np.concatenate([part[name] for part in parts]) for name in task.names}


def check_columns(dataset: Dataset, checkpoint: Checkpoint) -> None:
    """Refuse rows that do not have the columns that the centers have.

    Raises:
        InvalidData: the names of the columns are known to differ, or there are more or fewer.
    """
    KnownColumns(checkpoint.settings.columns).check(dataset.columns)
    rows, centers = dataset.width, checkpoint.state.centers.shape[1]
    if rows != centers:
        raise InvalidData(
            f"rows must have {counted(centers, 'column')}, as the centers have, got {rows}"
        )
