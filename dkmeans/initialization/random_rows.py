"""First centers from successive batches: rows drawn at random, or returned by a user's function."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from dkmeans.data.batches import Batch
from dkmeans.data.points import as_dtype
from dkmeans.data.sources.memory import owned
from dkmeans.errors import Invalid, InvalidData, counted
from dkmeans.executors import Executor
from dkmeans.initialization.draws import Seed
from dkmeans.initialization.sample import fetch
from dkmeans.initialization.weighted_draws import draw_by_weight
from dkmeans.state import FloatArray

logger = logging.getLogger("dkmeans")

# Passes over the rows after which a function that returns no center is given up.
_MOST_PASSES_IN_VAIN = 10
# Number of seeds of the draws from one batch.
_SEEDS = 2**63

Initializer = Callable[[FloatArray, int], Any]


def collect(
    batches: Iterator[Batch],
    available: int | None,
    num_clusters: int,
    function: Initializer | None,
    seed: int | None,
    executor: Executor,
) -> tuple[FloatArray, list[Batch]]:
    """Collect centers from successive batches until there are enough.

    Args:
        batches: The batches, perhaps without end.
        available: Number of rows after which the batches repeat; None if it is not known. Further
            passes may give further centers: of a function, or rows that are drawn a second time.
        num_clusters: Number of centers.
        function: Returns centers for the rows of a batch and the number that is missing; None draws
            rows uniformly, or by their weights.
        seed: Seed of the random generator.
        executor: Where rows are read.

    Returns:
        The (k, d) centers, and the batches that were used.

    Raises:
        InvalidData: the batches give too few centers.
        Invalid: the function returns something that is not centers.
    """
    draw = partial(_drawn, np.random.default_rng(seed))
    if function is not None:
        draw = partial(_returned, function)
    if function is None and available is not None and available < num_clusters:
        logger.warning(
            "some first centers will be equal: num_clusters is %d, and the input has %s",
            num_clusters,
            counted(available, "row"),
        )
    found: list[FloatArray] = []
    seen: list[Batch] = []
    missing, rows, in_vain = num_clusters, 0, 0
    most_in_vain = math.inf if available is None else _MOST_PASSES_IN_VAIN * available
    while missing:
        batch = next(batches, None) if in_vain < most_in_vain else None
        if batch is None:
            has_weights = any(each.has_weights for each in seen)
            remark = " (rows of weight zero do not count)" if has_weights else ""
            raise InvalidData(
                f"initialization needs num_clusters = {counted(num_clusters, 'center')}, and the "
                f"input's {counted(min(rows, available or rows), 'row')} gave "
                f"{num_clusters - missing}{remark}"
            )
        seen.append(batch)
        found.append(draw(batch, missing, executor))
        missing, rows = missing - len(found[-1]), rows + batch.rows
        in_vain = 0 if len(found[-1]) else in_vain + batch.rows
        if missing:
            seen[-1] = owned(batch)
    return np.concatenate(found), seen


def _drawn(rng: np.random.Generator, batch: Batch, missing: int, executor: Executor) -> FloatArray:
    """Return up to `missing` different rows of a batch, drawn uniformly or by their weights."""
    if batch.has_weights:
        seed = Seed(int(rng.integers(_SEEDS)))
        return fetch(batch, draw_by_weight(batch, missing, seed, executor).numbers, executor)
    rows = batch.rows
    if rows <= missing:
        return fetch(batch, np.arange(rows), executor)
    return fetch(batch, rng.choice(rows, missing, replace=False), executor)


def _returned(function: Initializer, batch: Batch, missing: int, executor: Executor) -> FloatArray:
    """Return the centers that a user's function returns for a batch, after checking them."""
    numbers = np.arange(batch.rows)
    if batch.has_weights:  # the function gets no rows of weight zero
        numbers = draw_by_weight(batch, None, Seed(0), executor).numbers
    points = fetch(batch, numbers, executor)
    must = f"0 to {counted(missing, 'finite row')} of {counted(points.shape[1], 'column')}"
    returned = function(points, missing)
    try:
        given = np.asarray(returned)
    except ValueError as error:  # lists of different lengths
        raise Invalid(f"initial_clusters must return {must}, got {error}") from error
    given = given.reshape(0, points.shape[1]) if given.size == 0 else given
    if given.ndim != 2 or given.dtype.kind not in "fiub" or given.shape[1] != points.shape[1]:
        got = f"an array of shape {given.shape} and dtype {given.dtype}"
        raise Invalid(f"initial_clusters must return {must}, got {got}")
    if len(given) > missing:
        raise Invalid(f"initial_clusters must return {must}, got {counted(len(given), 'row')}")
    if not np.isfinite(given).all():
        raise Invalid(f"initial_clusters must return {must}, got values that are not finite")
    return as_dtype(given, points.dtype, "initial_clusters")
