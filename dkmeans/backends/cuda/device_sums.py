"""Partial sums that stay on the device.

Chunks whose sums are on one grid are added up there, so that most sums never come to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dkmeans.backends.cuda.kernel_device import NULL, THREADS, KernelDevice
from dkmeans.exact import ExactSums
from dkmeans.grid import PLANE_BITS, Grid
from dkmeans.state import PartialSums

# Numbers of plane 1 below this are added to plane 0, which then stays below 2^62.
_FEW_CARRIED = 2**28


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
            carry(self.device, self.shape, values, (NULL, np.int64(1)))
        return replace(self, values=values, rest=_sum_of(self.rest, other.rest))

    def on_host(self) -> PartialSums:
        """Return the same sums in the memory of the host."""
        device, xp, size = self.device, self.device.xp, 3 * self.shape[0] * self.shape[1]
        with device.stream():
            upper, middle, lower = self.values[:size].reshape(3, *self.shape)
            ends = [end for plane in (upper, lower) for end in (plane.min(), plane.max())]
            least, most, *others = device.to_host(xp.stack(ends)).tolist()
            if max(-least, most) < _FEW_CARRIED and (least or most):
                # In place, because the memory may be full. The planes stand for the same sums.
                upper <<= PLANE_BITS
                middle += upper
                upper[...] = least = most = 0
            planes = {0: device.to_host(middle)}
            if least or most:
                planes[1] = device.to_host(upper)
            if any(others):
                planes[-1] = device.to_host(lower)
            counts = device.to_host(self.values[size:])
        sums = PartialSums(ExactSums(self.grid, planes), counts)
        return sums if self.rest is None else sums + self.rest


def carry(
    device: KernelDevice, shape: tuple[int, int], values: Any, copies: tuple[Any, Any]
) -> None:
    """Add up the copies of sums of (k, d) centers, in place, and make room for more rows."""
    k, d = map(np.int64, shape)
    blocks = -(-int(k * d + k) // THREADS)
    device.launch("carry", np.float32, blocks, k, d, values, *copies)


def _sum_of(one: PartialSums | None, other: PartialSums | None) -> PartialSums | None:
    """Return the sum of two parts that may be missing."""
    return other if one is None else one if other is None else one + other
