"""Progress of long calls: log records with numbers, written by several log handlers.

`training` logs a `Progress` after each iteration; `evaluate` and `write_predictions` log a
`RowProgress` after some of the rows. Both are a line of text for people, and numbers for programs
in the record's `progress` attribute. The terminal line, the JSON log and the status file of the
jobs take their numbers from that record: every derived number is computed here, once.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from dkmeans.errors import counted

logger = logging.getLogger("dkmeans")

_SHORTEST_SECONDS = 1e-9
# A smaller share of skipped distances is not shown.
_SHOWN_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class IterationCost:
    """Cost of one iteration.

    Attributes:
        bytes: Size of the rows that were read, in the dtype they are computed in.
        read_seconds: Time that a thread waited for rows, averaged over the threads.
        compute_seconds: Time that a thread computed, averaged over the threads.
        checkpoint_seconds: Time that training waited for checkpoints before the iteration.
        workers: Number of workers; the threads of this process count as one.
        threads: Number of threads of all workers; 1 if one thread computed alone.
        retries: Number of retried requests to storage.
        skipped: Share of the distances that were not computed, because bounds excluded them.
    """

    bytes: int = 0
    read_seconds: float = 0.0
    compute_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    workers: int = 1
    threads: int = 1
    retries: int = 0
    skipped: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a fit after an iteration; the `progress` attribute of a log record.

    Attributes:
        step: Number of steps completed since initialization.
        last_step: Step at which training stops at the latest; None if there is no limit.
        loss: Loss of the iteration, before its update; that of the best start.
        change: Change of the loss relative to the `loss_offset` of the plan + the loss of the
            iteration before; None for the first iteration of a call.
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
            parts.append(counted(self.empty_clusters, "empty cluster"))
        if self.relocated_clusters:
            parts.append(f"{self.relocated_clusters} relocated")
        if self.starts > 1:
            parts.append(counted(self.starts, "start"))
        if self.cost.skipped >= _SHOWN_SHARE:
            # Rounded down: 100 % would say that nothing was computed.
            parts.append(f"{math.floor(1000 * self.cost.skipped) / 10:.1f} % skipped")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class RowProgress:
    """Progress of an evaluation or a prediction; the `progress` attribute of a log record.

    Attributes:
        work: What was done with the rows, such as "evaluated".
        rows_done: Number of rows that are done, by this call or an earlier one.
        rows: Number of all rows; None if it is not known.
        new_rows: Number of rows that this call has done.
        seconds: Time since the call began to compute.
    """

    work: str
    rows_done: int
    rows: int | None
    new_rows: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Number of rows per second."""
        return self.new_rows / max(self.seconds, _SHORTEST_SECONDS)

    @property
    def seconds_left(self) -> float | None:
        """Time until all rows are done at this speed; None if it is unknown, or at the end."""
        if self.rows is None or self.rows_done >= self.rows:
            return None
        return (self.rows - self.rows_done) / self.rows_per_second

    def numbers(self) -> dict[str, Any]:
        """Return all numbers by name, for programs."""
        return asdict(self) | {"rows_per_second": self.rows_per_second}

    def __str__(self) -> str:
        done = f"{self.work} {self.rows_done:,}"
        if self.rows:
            done += f" of {counted(self.rows, 'row')} ({self.rows_done / self.rows:.0%})"
        else:
            done = f"{self.work} {counted(self.rows_done, 'row')}"
        return f"{done}, {self.rows_per_second:,.0f} rows/s"


class RowReport:
    """Reports the progress of a call over rows.

    Args:
        work: What is done with the rows, such as "evaluated".
        rows: Number of all rows; None if it is not known.
        rows_done: Number of rows that an earlier call has done.
    """

    def __init__(self, work: str, rows: int | None, rows_done: int = 0) -> None:
        self._work, self._rows, self._earlier = work, rows, rows_done
        self._new, self._began = 0, time.perf_counter()

    def add(self, rows: int) -> None:
        """Report that so many more rows are done. The first and the last report are notable."""
        is_first, self._new = self._new == 0, self._new + rows
        done, seconds = self._earlier + self._new, time.perf_counter() - self._began
        progress = RowProgress(self._work, done, self._rows, self._new, seconds)
        report_progress(progress, notable=is_first or done == self._rows)


def report_progress(progress: Progress | RowProgress, *, notable: bool) -> None:
    """Log the progress of a call: at level INFO if it is notable, else at DEBUG."""
    level = logging.INFO if notable else logging.DEBUG
    logger.log(level, "%s", progress, extra={"progress": progress})


def progress_of(record: logging.LogRecord) -> Progress | RowProgress | None:
    """Return the progress that a log record carries; None for any other record."""
    progress = getattr(record, "progress", None)
    return progress if isinstance(progress, Progress | RowProgress) else None
