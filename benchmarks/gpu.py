"""Check the answers of the CUDA backend, then compare its speed with the limits of the GPU.

Needs an NVIDIA GPU, and CuPy. The checks compare every kernel with float64 arithmetic on random
rows, with the GPU's free memory full of NaN. The times are those of one iteration with the rows on
the GPU and with the rows on the host, of the GPU's copies and matrix products, and of PyTorch and
flash-kmeans where they are installed. Prints a Markdown table. The exit code is 1 if an answer is
wrong.

    python benchmarks/gpu.py [--only checks|times] [--seed S]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from dkmeans import Invalid
from dkmeans.backends import numpy as by_numpy
from dkmeans.backends import select
from dkmeans.distance import Centers, Distance

Shape = tuple[int, int, int]

# Rows, columns, centers: at the limits of tiles, of the kernels that add up, and of their copies.
CHECKED: list[Shape] = [
    (1, 1, 1),
    (1000, 3, 1),
    (70_001, 8, 16),
    (70_001, 7, 17),
    (50_003, 33, 64),
    (50_003, 64, 65),
    (20_011, 130, 300),
    (5_003, 700, 1025),
]
TIMED: list[Shape] = [
    (100_000_000, 8, 16),
    (20_000_000, 16, 4),
    (10_000_000, 32, 16),
    (1_000_000, 64, 256),
    (341_479, 100, 1000),
    (10_000_000, 128, 4096),
    (10_000_000, 768, 10_000),
]
ROUNDS = 3


def main() -> int:
    arguments = parsed()
    try:
        backend = select("cuda")
    except Invalid as error:
        print(f"no GPU to measure: {error}", file=sys.stderr)
        return 2
    about = ", ".join(f"{key} {value}" for key, value in backend.describe().items())
    print(f"{about}; {platform.platform()}, NumPy {np.__version__}, seed {arguments.seed}\n")
    if arguments.only != "times" and not check_all(arguments.seed):
        return 1
    if arguments.only != "checks":
        times(backend, arguments.seed)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", choices=["checks", "times"])
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    return parser.parse_args()


# --- Checks ---


def check_all(seed: int) -> bool:
    """Check the kernels and print a line for each problem; return whether all is right."""
    from dkmeans.backends.cuda.device import Gpu  # noqa: PLC0415 where there is a GPU
    from dkmeans.backends.cuda.launches import Launches  # noqa: PLC0415

    gpu = Gpu()
    backend = Launches(gpu, gpu.piece_bytes)
    rng = np.random.default_rng(seed)
    right = True
    for shape in CHECKED:
        for dtype in (np.float32, np.float64):
            for distance in Distance:
                poison(gpu)
                wrong = complaints(backend, *problem(rng, shape, dtype, distance))
                name = f"{shape[0]} x {shape[1]}, k = {shape[2]}, {dtype.__name__}, {distance}"
                print(f"{'WRONG' if wrong else 'right'}: {name} {'; '.join(wrong)}".rstrip())
                right = right and not wrong
    print()
    return right


def problem(
    rng: np.random.Generator, shape: Shape, dtype: Any, distance: Distance
) -> tuple[np.ndarray, Centers]:
    """Draw centers far from zero, some equal and two almost equal, and rows around them."""
    n, d, k = shape
    values = rng.normal(size=(k, d)) + 30
    values[k // 2] = values[k // 3]
    values[k - 1] = values[max(k - 2, 0)]  # the same thread scores both
    values[k // 4] = values[0] + 1e-7 * rng.normal(size=d)
    rows = values[rng.integers(k, size=n)] + rng.normal(size=(n, d)) * rng.random((n, 1))
    return rows.astype(dtype), Centers(values.astype(dtype), distance)


def poison(gpu: Any) -> None:
    """Fill the memory that CuPy's pool will give out next to the backend with NaN.

    The pool keeps the memory of each stream apart, so the backend's own stream must be current.
    """
    import cupy  # noqa: PLC0415

    with gpu.stream():
        held = [cupy.full(2**size, np.nan) for size in range(6, 26)]
        cupy.cuda.Device().synchronize()
        del held


def complaints(backend: Any, rows: np.ndarray, centers: Centers) -> list[str]:
    """Return the names of a backend's results that differ from NumPy's."""
    index, distances = backend.nearest(rows, centers)
    expected, expected_distances = by_numpy.nearest(rows, centers)
    found, again = (backend.partial_sums(rows, centers).on_host() for _ in range(2))
    sums = by_numpy.partial_sums(rows, centers)
    some = slice(0, 200)
    every = backend.distances(rows[some], centers)
    verdicts = {
        "nearest centers": np.array_equal(index, expected),
        "distances to nearest centers": distances.tobytes() == expected_distances.tobytes(),
        "counts": np.array_equal(found.counts, sums.counts),
        # Exact sums have the same means to the bit.
        "sums": np.array_equal(found.sums.means(found.counts), sums.sums.means(sums.counts)),
        "squares": backend.squares(rows) == by_numpy.squares(rows),
        "distances": np.allclose(
            every, by_numpy.distances(rows[some], centers), rtol=1e-6, atol=1e-9
        ),
        "the same sums twice": np.array_equal(
            found.sums.means(found.counts), again.sums.means(again.counts)
        ),
    }
    return [name for name, good in verdicts.items() if not good]


# --- Times ---


def times(backend: Any, seed: int) -> None:
    """Time all shapes and print one table."""
    copied, multiplied, sent = copy_rate(), multiply_rate(), send_rate()
    print(
        f"copies {copied / 1e9:.0f} GB/s, multiplies {multiplied / 1e12:.1f} TFLOP/s in float32 "
        f"(TF32 {multiply_rate(tf32=True) / 1e12:.0f}), "
        f"host to device {sent / 1e9:.1f} GB/s\n"
    )
    peers = installed_peers()
    heads = ["rows x d, k", "dkmeans ms", "Mrows/s", "GB/s", "of copy", "TFLOP/s", "of float32"]
    heads += ["from host ms", "of host to device", *(f"{name} ms" for name in peers)]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for shape in TIMED:
        print(f"| {' | '.join(line(backend, shape, seed, peers, (copied, multiplied, sent)))} |")


def line(
    backend: Any,
    shape: Shape,
    seed: int,
    peers: dict[str, Callable[[Any, Any], float]],
    ceilings: tuple[float, float, float],
) -> list[str]:
    """Return the table's cells of a shape.

    The rows count once as bytes, and a multiplication with its addition as two operations.
    """
    import cupy  # noqa: PLC0415

    cells, rows, centers = own_cells(backend, shape, seed, ceilings)
    for iteration in peers.values():
        cupy.get_default_memory_pool().free_all_blocks()
        try:
            cells.append(ms(iteration(rows, centers)))
        except Exception as error:  # the cell has the error, and the table goes on
            cells.append(type(error).__name__)
    return cells


def own_cells(
    backend: Any, shape: Shape, seed: int, ceilings: tuple[float, float, float]
) -> tuple[list[str], Any, Any]:
    """Return the cells of dkmeans, and the rows and centers on the GPU for its peers."""
    import cupy  # noqa: PLC0415

    (n, d, k), (copied, multiplied, sent) = shape, ceilings
    rows = random_rows(n, d, seed)
    values = rows[:k].copy()

    def step() -> object:
        # New centers, as in each iteration: preparing them belongs to it.
        return backend.partial_sums(rows, Centers(values, Distance.SQUARED_EUCLIDEAN))

    from_host = seconds(step)
    rows.flags.writeable = False  # read-only rows stay on the GPU until the host frees them
    on_device = seconds(step)
    read, done = rows.nbytes / on_device, 2.0 * n * d * k / on_device
    cells = [f"{n:,} x {d}, {k:,}", ms(on_device), f"{n / on_device / 1e6:.0f}"]
    cells += [f"{read / 1e9:.0f}", f"{read / copied:.0%}"]
    cells += [f"{done / 1e12:.1f}", f"{done / multiplied:.0%}"]
    cells += [ms(from_host), f"{rows.nbytes / from_host / sent:.0%}"]
    return cells, cupy.asarray(rows), cupy.asarray(values)


def random_rows(n: int, d: int, seed: int) -> np.ndarray:
    """Draw normal float32 rows on the GPU, which is faster, and return them on the host."""
    import cupy  # noqa: PLC0415

    rows, random = np.empty((n, d), np.float32), cupy.random.RandomState(seed % 2**32)
    at_once = max(1, 2**28 // d)
    for start in range(0, n, at_once):
        part = rows[start : start + at_once]
        part[...] = random.standard_normal(part.shape, dtype=np.float32).get()
    cupy.get_default_memory_pool().free_all_blocks()
    return rows


def ms(duration: float) -> str:
    return f"{1000 * duration:.3g}"


def seconds(step: Callable[[], object]) -> float:
    """Return the median time of a step, after two steps that are not timed."""
    import cupy  # noqa: PLC0415

    taken = []
    for _ in range(ROUNDS + 2):
        cupy.cuda.Device().synchronize()
        began = time.perf_counter()
        step()
        cupy.cuda.Device().synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def copy_rate() -> float:
    """Return the bytes per second of copies on the GPU; bytes read and written both count."""
    import cupy  # noqa: PLC0415

    source, target = cupy.ones(2**28, np.float32), cupy.empty(2**28, np.float32)
    return 2 * source.nbytes / seconds(lambda: cupy.copyto(target, source))


def send_rate() -> float:
    """Return the bytes per second of copies from page-locked memory to the GPU."""
    import cupy  # noqa: PLC0415
    import cupyx  # noqa: PLC0415

    source, target = cupyx.empty_pinned(2**28, np.float32), cupy.empty(2**28, np.float32)
    source[:] = 1
    return float(source.nbytes / seconds(lambda: target.set(source)))


def multiply_rate(*, tf32: bool = False) -> float:
    """Return the operations per second of a large float32 matrix product."""
    import cupy  # noqa: PLC0415
    from cupy._core import _routines_linalg as products  # noqa: PLC0415

    side = 8192
    left, right = (cupy.random.random((side, side), np.float32) for _ in range(2))
    before = products.get_compute_type(np.float32)
    products.set_compute_type(
        np.float32, products.COMPUTE_TYPE_TF32 if tf32 else products.COMPUTE_TYPE_FP32
    )
    try:
        return 2.0 * side**3 / seconds(lambda: left @ right)
    finally:
        products.set_compute_type(np.float32, before)


def torch_iteration(rows: Any, centers: Any) -> float:
    """Return the seconds of an iteration with PyTorch's own functions, in float32."""
    import torch  # noqa: PLC0415

    points, means = torch.from_dlpack(rows), torch.from_dlpack(centers)

    def step() -> object:
        sums, halves = torch.zeros_like(means), 0.5 * (means * means).sum(dim=1)
        counts = torch.zeros(len(means), dtype=torch.int64, device=means.device)
        for block in points.split(max(1, 2**28 // len(means))):
            index = torch.addmm(halves, block, means.T, alpha=-1).argmin(dim=1)
            sums.index_add_(0, index, block)
            counts += torch.bincount(index, minlength=len(means))
        return sums, counts

    return seconds(step)


def flash_iteration(rows: Any, centers: Any, *, half: bool = False) -> float:
    """Return the seconds of an iteration with flash-kmeans, whose input is a batch of problems.

    It multiplies float32 rows in TF32, and float16 rows in float16. The time is the difference of
    seven and two iterations, so what a fit does once does not count.
    """
    import torch  # noqa: PLC0415
    from flash_kmeans import batch_kmeans_Euclid  # noqa: PLC0415

    dtype = torch.float16 if half else torch.float32
    points, means = (torch.from_dlpack(array)[None].to(dtype) for array in (rows, centers))

    def of(iterations: int) -> float:
        return seconds(
            lambda: batch_kmeans_Euclid(
                points, len(centers), max_iters=iterations, init_centroids=means
            )
        )

    return (of(7) - of(2)) / 5


def installed_peers() -> dict[str, Callable[[Any, Any], float]]:
    """Return functions that time an iteration of the other libraries that are installed."""
    peers = {
        "PyTorch": ("torch", torch_iteration),
        "flash-kmeans, TF32": ("flash_kmeans", flash_iteration),
        "flash-kmeans, float16": ("flash_kmeans", partial(flash_iteration, half=True)),
    }
    return {name: function for name, (module, function) in peers.items() if find_spec(module)}


if __name__ == "__main__":
    sys.exit(main())
