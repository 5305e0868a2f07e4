"""Partial sums that stay on the device.

Chunks whose sums are on one grid are added up there, so that most sums never come to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dkmeans.backends.cuda.kernel_device import THREADS, KernelDevice
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import PLANE_BITS, Grid
from dkmeans.state import PartialSums

# Numbers of plane 1 below this are added to plane 0, which then stays below 2^62.
_FEW_CARRIED = 2**28
# Values of this size or less are copied to the host at once: asking for a part takes as long.
_COPIED_WHOLE = 2**18


@dataclass(frozen=True, slots=True, eq=False)
class DeviceSums:
    """Partial sums that stay on the device until they are needed on the host.

    Attributes:
        values: (3 k d + k,) int64 on the device: planes 1, 0 and -1 of the sums, each (k, d), and
            the counts. The numbers are below 2^62.
        grid: The exponents of plane 0.
        shape: (k, d).
        device: The device.
        rest: Sums that are on the host already, of other rows and values; None if there are none.
    """

    values: Any
    grid: Grid
    shape: tuple[int, int]
    device: KernelDevice
    rest: PartialSums | None = None

    def __add__(self, other: DeviceSums) -> DeviceSums:
        if not np.array_equal(self.grid.exponents, other.grid.exponents):
            return replace(self, rest=_sum_of(self.rest, other.on_host()))
        with self.device.stream():
            values = self.values + other.values
            carry(self.device, self.shape, values)
        return replace(self, values=values, rest=_sum_of(self.rest, other.rest))

    def on_host(self) -> PartialSums:
        """Return the same sums in the memory of the host."""
        with self.device.stream():
            if self.values.nbytes <= _COPIED_WHOLE:
                values = self.device.to_host(self.values).copy()
                sums = self._split(values, np, lambda part: part)
            else:
                sums = self._split(self.values, self.device.xp, self.device.to_host)
        return sums if self.rest is None else sums + self.rest

    def _split(self, values: Any, xp: Any, to_host: Callable[[Any], Any]) -> PartialSums:
        """Return the planes that are not zero, and the counts.

        Args:
            values: The values, which may be changed: the planes stand for the same sums.
            xp: Namespace of the values.
            to_host: Copies a part of the values to the host.
        """
        size = 3 * self.shape[0] * self.shape[1]
        upper, middle, lower = values[:size].reshape(3, *self.shape)
        ends = [end for plane in (upper, lower) for end in (plane.min(), plane.max())]
        least, most, *others = to_host(xp.stack(ends)).tolist()
        if max(-least, most) < _FEW_CARRIED and (least or most):
            # In place, because the memory may be full.
            upper <<= PLANE_BITS
            middle += upper
            upper[...] = least = most = 0
        planes = {0: to_host(middle)}
        if least or most:
            planes[1] = to_host(upper)
        if any(others):
            planes[-1] = to_host(lower)
        return PartialSums(ExactSums(self.grid, planes), to_host(values[size:]))


def carry(device: KernelDevice, shape: tuple[int, int], values: Any) -> None:
    """Make room for more rows in the sums of (k, d) centers, in place."""
    k, d = map(np.int64, shape)
    device.launch("carry", np.float32, -(-int(k * d) // THREADS), k, d, values)


def _sum_of(one: PartialSums | None, other: PartialSums | None) -> PartialSums | None:
    """Return the sum of two parts that may be missing."""
    return other if one is None else one if other is None else one + other
