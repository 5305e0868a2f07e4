"""The functions of the CUDA backend: kernels on the GPU, or what replaces them after an error.

The import fails with ImportError where no GPU can be used, where the kernels do not compile, and
where they give other answers than NumPy; `dkmeans.backends.select` catches it. Errors of the GPU
after the import are the matter of `fallback`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from dkmeans.backends.choice import select_processor
from dkmeans.backends.cuda.device import Gpu, check_device, describe_device, share_of_cores
from dkmeans.backends.cuda.fallback import Guarded, GuardedSums
from dkmeans.backends.cuda.kernel_trial import check
from dkmeans.backends.cuda.launches import Launches
from dkmeans.distance import Centers
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import BoolArray
from dkmeans.exact_total import ExactTotal
from dkmeans.state import Cached, FloatArray, IndexArray, PartialSums

# Largest size of a piece of rows with its results where the GPU had too little memory: a part of
# one of the library's own chunks.
_SMALL_PIECE_BYTES = 32 * 2**20


def _guarded() -> Guarded:
    """Return the kernels on the GPU, tried on small problems, with what replaces them."""
    check_device()
    gpu = Gpu()
    kernels = Launches(gpu, gpu.piece_bytes)
    check(kernels)
    return Guarded(
        gpu,
        kernels,
        smaller=lambda: Launches(gpu, _SMALL_PIECE_BYTES),
        processor=select_processor,
    )


_implementation = _guarded()


def partial_sums(points: FloatArray, centers: Centers) -> PartialSums | GuardedSums:
    """Assign each of the (n, d) rows to its nearest center; return exact sums and counts.

    The sums may stay on the GPU; `dkmeans.state.on_host` copies them.
    """
    return _implementation.partial_sums(points, centers)


def sums_by_bounds(
    points: FloatArray, centers: Centers, found: Cached | None, start: Hashable
) -> tuple[PartialSums | GuardedSums, None, int]:
    """Return the results of `partial_sums`; this backend has no bounds."""
    return partial_sums(points, centers), None, 0


def nearest_by_bounds(
    points: FloatArray, centers: Centers, found: Cached | None, start: Hashable
) -> tuple[IndexArray, None, int]:
    """Return the results of `nearest_index`; this backend has no bounds."""
    return nearest_index(points, centers), None, 0


def squares(points: FloatArray) -> ExactTotal:
    """Return the exact sum of the squares of all values of the (n, d) rows."""
    return _implementation.squares(points)


def assign(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """Return the results of `partial_sums` and `nearest` in one pass."""
    return _implementation.assign(points, centers)


def nearest(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
    return _implementation.nearest(points, centers)


def nearest_two(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Return each row's two nearest centers and distances, (n, 2) each, found by the processor.

    The kernels find second nearest centers only among all distances, (n, k), which would have to be
    copied to the host.
    """
    return select_processor().nearest_two(points, centers)


def assign_two(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """Return the results of `partial_sums`, and the distances to two centers, by the processor."""
    return select_processor().assign_two(points, centers)


def distances(points: FloatArray, centers: Centers) -> FloatArray:
    """Return the distance of each row to every center, (n, k) float32."""
    return _implementation.distances(points, centers)


def add_products(points: FloatArray, weights: FloatArray, index: IndexArray, k: int) -> ExactSums:
    """Return the exact sums of rows times their weights, computed by the processor."""
    return select_processor().add_products(points, weights, index, k)


def total_of_products(values: FloatArray, weights: FloatArray, *, of_squares: bool) -> ExactTotal:
    """Return the exact sum of rows, or their squares, times their weights, by the processor."""
    return select_processor().total_of_products(values, weights, of_squares=of_squares)


def weighted_sums(
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: Centers,
    found: Cached | None,
) -> tuple[PartialSums, Cached | None]:
    """Return the partial sums of rows with weights, which the processor adds up."""
    return select_processor().weighted_sums(points, weights, index, centers, found)


def add_squares(
    points: FloatArray, weights: FloatArray, index: IndexArray, centers: Centers
) -> ExactSums:
    """Return the sums of squared differences from the centers, computed by the processor."""
    return select_processor().add_squares(points, weights, index, centers)


def add_measures(
    distances: FloatArray, weights: FloatArray, index: IndexArray, k: int, factor: float
) -> tuple[ExactSums, FloatArray]:
    """Return the sums of the rows' measures, and the largest lengths, computed by the processor."""
    return select_processor().add_measures(distances, weights, index, k, factor)


def quotients(sums: ExactSums, weights: ExactSums) -> tuple[FloatArray, BoolArray]:
    """Return the quotients of sums and weights, computed by the processor."""
    return select_processor().quotients(sums, weights)


def terms(
    sums: ExactSums, weights: ExactSums, centers: FloatArray, factor: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return the sums of the terms of a loss, computed by the processor."""
    return select_processor().terms(sums, weights, centers, factor)


def nearest_index(points: FloatArray, centers: Centers) -> IndexArray:
    """Return each row's nearest center, (n,) int64."""
    return nearest(points, centers)[0]


def cores_per_gpu() -> int:
    """Return the number of cores that this process may use for each GPU that it sees."""
    return share_of_cores()


def describe() -> dict[str, Any]:
    """Return the GPU and the versions of its software."""
    return describe_device()
