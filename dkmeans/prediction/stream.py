"""What a checkpoint's centers say of some rows, batch by batch, while hooks are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkmeans.checkpoints import Checkpoint
from dkmeans.data.batches import Batch
from dkmeans.data.dataset import Dataset
from dkmeans.distance import Centers
from dkmeans.errors import InvalidData
from dkmeans.executors import Executor
from dkmeans.hooks.notifier import Notifier
from dkmeans.prediction import per_chunk
from dkmeans.prediction.per_chunk import Task
from dkmeans.state import Score


def scores(
    dataset: Dataset,
    checkpoint: Checkpoint,
    centers: Centers,
    executor: Executor,
    watch: Notifier,
    steps: int | None,
) -> list[Score]:
    """The score of each of the first batches.

    Args:
        dataset: The rows.
        checkpoint: What the centers are of.
        centers: The centers.
        executor: Where the rows are read.
        watch: Whom to tell.
        steps: How many batches; None: all.

    Raises:
        InvalidData: there are none, or rows that cannot be used.
    """
    watch.begin()
    watch.created(checkpoint.state)
    found: list[Score] = []
    for batch in dataset.batches():
        watch.before_run(batch)
        found += executor.map_reduce(per_chunk.score, [batch], centers)
        watch.show(checkpoint.state, found[-1].inertia)
        watch.after_run()
        if len(found) == steps or watch.should_stop():
            break
    if not found:
        raise InvalidData("the input must have at least one batch of rows, got none")
    watch.end()
    return found


def predictions(
    dataset: Dataset,
    checkpoint: Checkpoint,
    task: Task,
    executor: Executor,
    watch: Notifier,
    *,
    single: bool,
) -> Iterator[dict[str, Any]]:
    """The results of a task, by name: for each row, or for each batch.

    Raises:
        InvalidData: rows that cannot be used.
    """
    watch.begin()
    watch.created(checkpoint.state)
    for batch in dataset.batches():
        watch.before_run(batch)
        if single:
            for part in executor.map(per_chunk.run, batch, task):
                for values in zip(*part.values(), strict=True):
                    yield dict(zip(part, values, strict=True))
        else:
            yield gathered(batch, task, executor)
        watch.after_run()
        if watch.should_stop():
            break
    watch.end()


def gathered(batch: Batch, task: Task, executor: Executor) -> dict[str, NDArray[Any]]:
    """What a task says of a batch, as one array for each name."""
    parts = list(executor.map(per_chunk.run, batch, task))
    return {name: np.concatenate([part[name] for part in parts]) for name in task.names}


def check_width(dataset: Dataset, checkpoint: Checkpoint) -> None:
    """Refuse rows that are not as wide as the centers.

    Raises:
        InvalidData: naming both widths.
    """
    rows, centers = dataset.width, checkpoint.state.centers.shape[1]
    if rows != centers:
        raise InvalidData(f"rows must have {centers} columns, as the centers have, got {rows}")
