"""The plan of a fit: what it will read, cache and take, found before anything is trained.

`KMeans.plan` and the job `plan` call `plan_fit`, which examines the input and the workers and times
a few chunks. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dkmeans import pictures
from dkmeans.config import NUMPY
from dkmeans.data.dataset import Dataset
from dkmeans.distance import Computation
from dkmeans.errors import Invalid, InvalidData, Outage, expected, readable
from dkmeans.executors import Executor
from dkmeans.preflight import Preflight, examine, scale_remarks, seconds_per_iteration
from dkmeans.skipping import bounds_bytes


@dataclass(frozen=True, slots=True)
class FitPlan:
    """What a fit will read, cache and take.

    Attributes:
        preflight: The rows and the workers.
        bounds_bytes: Size in bytes of the bounds of all rows, for all starts, which full batch
            caches beside them; 0 if there are none.
        seconds_of_the_first_iteration: Its duration, with reading.
        seconds_of_a_later_one: The duration of later iterations, in which nothing is skipped yet.
        remarks: Sentences on what should be different, each with its remedy.
    """

    preflight: Preflight
    bounds_bytes: int
    seconds_of_the_first_iteration: float
    seconds_of_a_later_one: float
    remarks: tuple[str, ...]

    def numbers(self) -> dict[str, Any]:
        """Return the plan by name for programs, as JSON holds it: sizes in bytes, no units."""
        found = self.preflight
        return {
            "rows": found.rows,
            "columns": found.columns,
            "column_names": list(found.names),
            "dtype": found.dtype,
            "bytes": found.bytes,
            "chunks": found.chunks,
            "largest_chunk_bytes": found.chunk_bytes,
            "workers": found.memory.workers,
            "threads": found.memory.threads,
            "worker_memory_bytes": found.memory.limit,
            "cached_share": found.cached_share,
            "bounds_bytes": self.bounds_bytes,
            "seconds_of_the_first_iteration": self.seconds_of_the_first_iteration,
            "seconds_of_a_later_one": self.seconds_of_a_later_one,
            "remarks": list(self.remarks),
        }

    def facts(self) -> dict[str, Any]:
        """Return the plan by name for people, sizes with their units."""
        found = self.preflight
        cached = f"{found.cached_share:.0%}" if found.is_stored else "the rows are there already"
        return {
            "rows": found.rows,
            "columns": found.columns,
            "column_names": list(found.names),
            "dtype": found.dtype,
            "size": readable(found.bytes or 0),
            "chunks": found.chunks,
            "largest_chunk": readable(found.chunk_bytes),
            "workers": str(found.memory),
            "memory_of_a_worker": readable(found.memory.limit),
            "kept_in_memory": cached,
            "bounds": (
                f"{readable(self.bounds_bytes)} beside the rows, if there is room and they save "
                "time: later iterations of full batch skip most distances"
                if self.bounds_bytes
                else "none: every iteration computes all distances"
            ),
            "seconds_of_the_first_iteration": round(self.seconds_of_the_first_iteration, 3),
            "seconds_of_a_later_one": round(self.seconds_of_a_later_one, 3),
            "remarks": list(self.remarks),
        }

    def __repr__(self) -> str:
        lines = (f"{name}: {value}" for name, value in _shown(self.facts()).items())
        return "\n".join(["<Plan of a fit>", *lines, *(f"- {each}" for each in self.remarks)])

    def _repr_html_(self) -> str:
        """Return the plan as a table, with the remarks below it, for a notebook."""
        return pictures.table("Plan of a fit", _shown(self.facts()), notes=self.remarks)


def plan_fit(
    dataset: Dataset,
    num_clusters: int,
    computation: Computation,
    executor: Executor,
    cache: str,
    *,
    on_gpu: bool,
    num_starts: int = 1,
    mini_batches: int | None = None,
) -> FitPlan:
    """Return the plan of a fit, after timing a few chunks.

    The dataset has the chunks that the fit would read. `mini_batches` is the number of batches in
    an iteration; None for full batch.

    Raises:
        Invalid: there are fewer rows than centers.
        InvalidData: the rows cannot be used.
    """
    if dataset.rows is not None and dataset.rows < num_clusters:
        must = f"at most the number of rows, {dataset.rows}"
        raise Invalid(expected("num_clusters", must, num_clusters))
    # Without `Dataset.batch` a dataset is one batch of all its rows.
    batch = next(dataset.batches())
    found = examine(
        batch, dataset.rows, executor, cache, dataset.chunk_bytes, names=dataset.columns
    )
    rows = batch.rows * (mini_batches or 1)
    try:
        remarks = *found.remarks, *scale_remarks(batch, found, executor)
        seconds = seconds_per_iteration(
            found, batch, num_clusters, computation, executor, rows=rows, num_starts=num_starts
        )
    except (Invalid, Outage) as error:
        if isinstance(error, InvalidData) or not found.remarks:
            raise
        # Workers may have died of chunks that are too large, which is among the remarks.
        raise type(error)("; ".join([str(error), *found.remarks])) from error
    size = 0
    has_bounds = mini_batches is None and dataset.is_constant
    if has_bounds and not (on_gpu or computation.backend == NUMPY):
        of_start = bounds_bytes(batch.rows, num_clusters, with_weights=batch.has_weights)
        size = num_starts * of_start
    return FitPlan(found, size, *seconds, remarks)


def _shown(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what people see of the facts: words instead of names, and no remarks."""
    names = ", ".join(facts["column_names"]) or None
    shown = {**facts, "column_names": names, "remarks": None}
    return {
        name.replace("_", " "): f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in shown.items()
        if value is not None
    }
