"""Progress of a running fit: one record per iteration, written by several log handlers.

`training` logs a `Progress` after each iteration, as a line of text for people and as the record's
`progress` attribute for programs. The terminal line, the JSON log and the status file of the jobs
all take their numbers from that record: every derived number is computed here, once.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

logger = logging.getLogger("dkmeans")

_SHORTEST_SECONDS = 1e-9


@dataclass(frozen=True, slots=True)
class IterationCost:
    """Cost of one iteration.

    Attributes:
        bytes: Size of the rows that were read, in the dtype they are computed in.
        read_seconds: Time that a thread waited for rows, averaged over the threads.
        compute_seconds: Time that a thread computed, averaged over the threads.
        checkpoint_seconds: Time spent on checkpoints before the iteration.
        workers: Number of workers; the threads of this process count as one.
        threads: Number of threads of all workers.
        retries: Number of retried requests to storage.
    """

    bytes: int = 0
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    workers: int = 1
    threads: int = 1
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a fit after an iteration; the `progress` attribute of a log record.

    Attributes:
        step: Number of steps completed since initialization.
        last_step: Step at which training stops at the latest; None if there is no limit.
        loss: Loss of the iteration, before its update; that of the best start.
        change: Change of the loss relative to 1 + the loss of the iteration before; None for the
            first iteration of a call.
        empty_clusters: Number of centers that no row was assigned to in the iteration.
        steps: Number of steps in the iteration.
        rows: Number of rows in the iteration.
        seconds: Duration of the iteration.
        relocated_clusters: Number of empty clusters that were relocated.
        starts: Number of starts that were moved.
        cost: Cost of the iteration.
    """

    step: int
    last_step: int | None
    loss: float
    change: float | None
    empty_clusters: int
    steps: int
    rows: int
    seconds: float
    relocated_clusters: int = 0
    starts: int = 1
    cost: IterationCost = IterationCost()

    @property
    def rows_per_second(self) -> float:
        """Number of rows per second."""
        return self.rows / max(self.seconds, _SHORTEST_SECONDS)

    @property
    def seconds_left(self) -> float | None:
        """Longest time until training stops at its last step; None if there is no limit."""
        if self.last_step is None or self.step >= self.last_step:
            return None
        return (self.last_step - self.step) * self.seconds / self.steps

    def numbers(self) -> dict[str, Any]:
        """Return all numbers by name, for programs."""
        numbers = asdict(self)
        numbers |= numbers.pop("cost")
        numbers["rows_per_second"] = self.rows_per_second
        numbers["bytes_per_second"] = self.cost.bytes / max(self.seconds, _SHORTEST_SECONDS)
        return numbers

    def __str__(self) -> str:
        parts = [f"step {self.step}" + (f" of {self.last_step}" if self.last_step else "")]
        parts.append(f"loss {self.loss:.6g}")
        if self.change is not None:
            parts.append(f"change {self.change:.1e}")
        parts.append(f"{self.rows_per_second:,.0f} rows/s")
        if self.empty_clusters:
            parts.append(f"{self.empty_clusters} empty clusters")
        if self.relocated_clusters:
            parts.append(f"{self.relocated_clusters} relocated")
        if self.starts > 1:
            parts.append(f"{self.starts} starts")
        return ", ".join(parts)


def report_progress(progress: Progress, *, notable: bool) -> None:
    """Log the progress of a fit: at level INFO if it is notable, else at DEBUG."""
    level = logging.INFO if notable else logging.DEBUG
    logger.log(level, "%s", progress, extra={"progress": progress})


def progress_of(record: logging.LogRecord) -> Progress | None:
    """Return the progress that a log record carries; None for any other record."""
    progress = getattr(record, "progress", None)
    return progress if isinstance(progress, Progress) else None
