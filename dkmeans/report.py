"""What a running fit tells: records of the log, for people, and with their numbers for programs."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

logger = logging.getLogger("dkmeans")


@dataclass(frozen=True, slots=True)
class Effort:
    """What an iteration has cost.

    Attributes:
        bytes: How large the rows were that it went over, as they are computed with.
        read_seconds: What a thread waited for rows, on average.
        compute_seconds: What a thread computed, on average.
        checkpoint_seconds: How long the checkpoints took that came before it.
        workers: How many workers did it; the threads of this process count as one.
        threads: How many threads they have.
        retries: How often storage was asked again.
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
    """Where a fit stands after an iteration. The log record's `progress` attribute.

    Attributes:
        step: Steps completed since initialization.
        last_step: The step at which it will stop at the latest; None where nothing says.
        loss: The iteration's loss, before its update.
        change: The loss's change relative to the iteration before; None for a first one.
        empty_clusters: How many centers won no row in the iteration.
        steps: How many steps the iteration took.
        rows: How many rows it went over.
        seconds: How long it took.
        relocated_clusters: How many of the empty ones were given one of the farthest rows.
        starts: How many starts it moved. The loss is that of the best.
        effort: What it has cost.
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
    effort: Effort = Effort()

    @property
    def rows_per_second(self) -> float:
        """The speed of the iteration."""
        return self.rows / max(self.seconds, 1e-9)

    def numbers(self) -> dict[str, Any]:
        """All of it by name, for programs."""
        numbers = asdict(self)
        numbers |= numbers.pop("effort")
        numbers["rows_per_second"] = self.rows_per_second
        numbers["bytes_per_second"] = self.effort.bytes / max(self.seconds, 1e-9)
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
    """Log where a fit stands: at level INFO where that is notable, else at DEBUG."""
    level = logging.INFO if notable else logging.DEBUG
    logger.log(level, "%s", progress, extra={"progress": progress})
