"""What computes instead of a device that has too little memory or has failed.

`backend` wraps its implementation in `Guarded`. Out of memory, the device frees what it can and
computes the same rows again in smaller pieces. If they still do not fit, the processor computes
them. After any other error of the device its context is lost, and CUDA refuses every further call:
the processor computes from then on. A call that fails is computed again as a whole. Sums that were
on the device when it was lost raise `ResultLost`; the executors compute their chunks again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Protocol, TypeAlias, TypeVar

from dkmeans.backends.cuda.device_sums import DeviceSums
from dkmeans.backends.protocol import Implementation
from dkmeans.distance import Centers
from dkmeans.errors import ResultLost
from dkmeans.exact_total import ExactTotal
from dkmeans.state import FloatArray, IndexArray, PartialSums

logger = logging.getLogger("dkmeans")

Result = TypeVar("Result")


class Fault(Enum):
    """What can happen to a device."""

    OUT_OF_MEMORY = auto()
    LOST = auto()


class FallibleDevice(Protocol):
    """A device that explains its errors, and can free memory."""

    def fault_of(self, error: Exception) -> Fault | None:
        """Return which fault of the device an exception stands for; None for any other error."""
        ...

    def make_room(self) -> None:
        """Free all memory that is not needed by a computation in progress."""
        ...

    def abandon(self) -> None:
        """Give up the device, whose context is lost."""
        ...


# An implementation whose sums may still be on a device.
FallibleImplementation: TypeAlias = Implementation[PartialSums | DeviceSums]


class Guarded:
    """The functions of `Implementation`: on a device while it works, else on the processor.

    Args:
        device: The device.
        usual: The implementation on the device.
        smaller: Makes an implementation on the device that needs less memory.
        processor: Makes the implementation on the processor.
    """

    def __init__(
        self,
        device: FallibleDevice,
        usual: FallibleImplementation,
        smaller: Callable[[], FallibleImplementation],
        processor: Callable[[], Implementation[PartialSums]],
    ) -> None:
        self._device, self._usual = device, usual
        self._smaller, self._processor = smaller, processor
        self._seen: set[Fault] = set()
        self._lock = threading.Lock()

    def partial_sums(self, points: FloatArray, centers: Centers) -> PartialSums | GuardedSums:
        """Assign each of the (n, d) rows to its nearest center; return exact sums and counts."""
        sums = self._run(lambda backend: backend.partial_sums(points, centers))
        return GuardedSums(sums, self) if isinstance(sums, DeviceSums) else sums

    def squares(self, points: FloatArray) -> ExactTotal:
        """Return the exact sum of the squares of all values of the (n, d) rows."""
        return self._run(lambda backend: backend.squares(points))

    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """Return the results of `partial_sums` and `nearest` in one pass."""
        return self._run(lambda backend: backend.assign(points, centers))

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
        return self._run(lambda backend: backend.nearest(points, centers))

    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Return the distance of each row to every center, (n, k) float32."""
        return self._run(lambda backend: backend.distances(points, centers))

    def _run(self, function: Callable[[FallibleImplementation], Result]) -> Result:
        """Return the result of a function of an implementation, the first that can compute it."""
        result = self.attempt(lambda: function(self._usual))
        if result is Fault.OUT_OF_MEMORY:
            result = self.attempt(lambda: self._in_less_memory(function))
            if result is Fault.OUT_OF_MEMORY and self._is_first(result):
                logger.warning(
                    "the GPU has too little memory for some chunks; the processor computes them"
                )
        return function(self._processor()) if isinstance(result, Fault) else result

    def _in_less_memory(self, function: Callable[[FallibleImplementation], Result]) -> Result:
        self._device.make_room()
        return function(self._smaller())

    def attempt(self, compute: Callable[[], Result]) -> Result | Fault:
        """Return the result of a computation on the device, or the fault that prevented it."""
        if Fault.LOST in self._seen:
            return Fault.LOST
        try:
            return compute()
        except Exception as error:
            fault = self._device.fault_of(error)
            if fault is None:
                raise
            if fault is Fault.LOST and self._is_first(fault):
                logger.warning(
                    "the GPU failed; this process computes on its processor from now on: %s",
                    error,
                )
                self._device.abandon()
        # Only after the `except` block is the traceback gone, whose frames hold arrays on the
        # device. A second attempt inside the block would not have their memory.
        return fault

    def _is_first(self, fault: Fault) -> bool:
        with self._lock:
            first = fault not in self._seen
            self._seen.add(fault)
        return first


@dataclass(frozen=True, slots=True, eq=False)
class GuardedSums:
    """Sums on a device, which may be added to each other and to `PartialSums`.

    Attributes:
        sums: The sums.
        guard: What has computed them.
        squares: As in `PartialSums`; always on the host.
    """

    sums: DeviceSums
    guard: Guarded
    squares: ExactTotal = field(default_factory=ExactTotal)

    def __add__(self, other: GuardedSums | PartialSums) -> GuardedSums | PartialSums:
        if isinstance(other, PartialSums):  # another chunk was computed on the processor
            return self.on_host() + other
        total = self.guard.attempt(lambda: self.sums + other.sums)
        if total is Fault.OUT_OF_MEMORY:
            return self.on_host() + other.on_host()
        if not isinstance(total, DeviceSums):
            raise ResultLost("the GPU failed before its sums were copied to the host")
        return GuardedSums(total, self.guard, self.squares + other.squares)

    def on_host(self) -> PartialSums:
        """Return the same sums in the memory of the host.

        Raises:
            ResultLost: the device was lost.
        """
        result = self.guard.attempt(self.sums.on_host)
        if result is Fault.OUT_OF_MEMORY:  # of the host: the device only copies
            raise MemoryError("the sums of a chunk must fit in the memory of the host")
        if isinstance(result, Fault):
            raise ResultLost("the GPU failed before its sums were copied to the host")
        return replace(result, squares=self.squares + result.squares)
