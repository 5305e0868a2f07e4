"""The kernels and their launches, run on the host, and compiled for GPUs.

tests/backends/test_backends.py tests that their answers are right for many more problems.
"""

import hashlib
import os
import re
import shutil
import subprocess
import textwrap
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda import launches
from dkmeans.backends.cuda.compiler import OPTIONS, cubin
from dkmeans.backends.cuda.launches import DEFINES, FEW_ROWS, DeviceSums, Launches
from dkmeans.backends.rounding import exact_rows
from dkmeans.distance import Centers, Distance
from dkmeans.exact import ExactTotal, FloatArray, NotFinite
from dkmeans.state import sum_up
from tests.backends.cuda.nvrtc import Nvrtc, library
from tests.backends.cuda.problems import assert_same_sums, bits, exact_sums, problem
from tests.host_device import SOURCE, HostDevice
from tests.programs import output_of
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


class Recording(HostDevice):
    """The host, which records all launches.

    Attributes:
        launched: Name and arguments of each kernel.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.launched = []

    def launch(self, kernel, dtype, blocks, *arguments, shared_bytes=0):
        super().launch(kernel, dtype, blocks, *arguments, shared_bytes=shared_bytes)
        self.launched.append((kernel, arguments))


@pytest.fixture(scope="module")
def device(compiled):
    return Recording(compiled)


@pytest.fixture(scope="module")
def on_host(device):
    return Launches(device)


def assert_nearest(backend, rows, centers):
    """Check that nearest centers and distances are those in float64, summed up in NumPy's order."""
    index, distances = backend.nearest(rows, centers)
    with np.errstate(all="ignore"):
        points = exact_rows(rows, centers.distance)[:, None]
        values = exact_rows(centers.values, centers.distance)
        if centers.distance is Distance.COSINE:
            every = np.clip(1 - (points * values).sum(axis=2), 0, 2)
        else:
            every = np.square(points - values).sum(axis=2)
    assert index.tolist() == every.argmin(axis=1).tolist()
    assert distances.tobytes() == every[np.arange(len(rows)), index].tobytes()


# --- Compiled for GPUs ---

# Kernels whose threads hold large tiles in registers.
LARGE_KERNELS = ("score_128", "score_256", "list_pairs_128", "list_pairs_256", "narrow")
# The compiler's number of the warning about functions that other architectures or dtypes call.
UNUSED_FUNCTION = "177"
# A thread can have this many registers.
MOST_REGISTERS = 255
_USED = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        ("sm_80", np.float32),
        ("sm_80", np.float64),
        ("sm_90a", np.float32),
        # Their kernels are those of sm_80, and their registers almost.
        pytest.param("sm_120", np.float32, marks=pytest.mark.long),
        pytest.param("sm_86", np.float32, marks=pytest.mark.long),
        pytest.param("sm_89", np.float32, marks=pytest.mark.long),
        pytest.param("sm_100", np.float32, marks=pytest.mark.long),
    ],
)
def test_the_kernels_compile_and_large_tiles_stay_in_registers(architecture, dtype, compiled):
    log = log_of_compiler(architecture, DEFINES[np.dtype(dtype)], compiled)
    warnings = re.findall(r"warning #(\d+)", log)
    assert set(warnings) <= {UNUSED_FUNCTION}, log[: log.index("ptxas info")]
    used = {name: list(map(int, numbers)) for name, *numbers in _USED.findall(log)}
    # Only one of the two compilations needs the kernels that read no rows.
    for name in LARGE_KERNELS if dtype is np.float32 else ["narrow"]:
        stored, loaded, registers = used[name]
        assert (name, stored, loaded) == (name, 0, 0)
        assert registers <= MOST_REGISTERS


def log_of_compiler(architecture, defines, folder):
    """Return the log of NVRTC or nvcc; the same source is compiled once, for all runs."""
    source, nvrtc = SOURCE.read_text(), library()
    if nvrtc is None and shutil.which("nvcc") is None:
        pytest.skip("neither NVRTC nor nvcc is installed")
    key = repr((source, OPTIONS, defines, architecture, nvrtc is None))
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.log"
    if not path.exists():
        by = _log_of_nvcc if nvrtc is None else partial(_log_of_nvrtc, Nvrtc(nvrtc))
        path.write_text(by(architecture, defines))
    return path.read_text()


def _log_of_nvrtc(compiler, architecture, defines):
    options = *OPTIONS, *defines, "--ptxas-options=-v"
    with pytest.MonkeyPatch.context() as environment, TemporaryDirectory() as folder:
        environment.setenv("CUPY_CACHE_DIR", folder)
        assert cubin(SOURCE.read_text(), options, architecture, compiler).startswith(b"\x7fELF")
    (log,) = compiler.logs
    return log


def _log_of_nvcc(architecture, defines):
    # Options that NVRTC alone knows are about functions without a mark.
    options = "-std=c++17", "-fmad=false", *defines, f"-arch={architecture}", "-Xptxas=-v"
    command = ["nvcc", "-cubin", "-o", os.devnull, *options, str(SOURCE)]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


# --- Right answers ---


# Numbers of centers and columns at the limits of slices, tiles, panels and stages.
SHAPES = [(1, 1), (3, 1), (16, 8), (17, 8), (64, 33), (128, 5), (129, 17), (257, 9), (5, 300)]


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_nearest_centers_distances_and_sums_have_the_bits_of_numpy(on_host, k, d, metric, dtype):
    rows, centers = problem(k, d, dtype, metric, n=300)
    assert_nearest(on_host, rows, centers)
    found = on_host.partial_sums(rows, centers).on_host()
    assert_same_sums(found, by_numpy.partial_sums(rows, centers))


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 5), (40, 40), (200, 9)])
def test_the_order_in_which_threads_run_changes_no_bits(device, on_host, k, d, dtype, monkeypatch):
    for metric in METRICS:
        rows, centers = problem(k, d, dtype, metric, n=130)
        expected = bits(on_host, rows, centers)
        for order in (1, 2):
            monkeypatch.setattr(device, "order", order)
            # The backend has prepared centers; another one prepares them in this order too.
            assert bits(Launches(device), rows, centers) == expected
        monkeypatch.undo()


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [4, 40])
def test_rows_may_come_in_any_number_of_pieces(device, on_host, k, metric):
    rows, centers = problem(k, 6, np.float32, metric, n=260)
    whole, (index, distances) = on_host.partial_sums(rows, centers), on_host.nearest(rows, centers)
    everything = on_host.distances(rows, centers)
    in_pieces = Launches(device, piece_bytes=7000)
    device.launched.clear()
    sums = in_pieces.partial_sums(rows, centers).on_host()
    assert [kernel for kernel, _ in device.launched].count("carry") > 3
    assert_same_sums(sums, whole.on_host())
    assert in_pieces.squares(rows) == on_host.squares(rows) == by_numpy.squares(rows)
    assert in_pieces.nearest(rows, centers)[0].tolist() == index.tolist()
    assert in_pieces.nearest(rows, centers)[1].tolist() == distances.tolist()
    assert in_pieces.distances(rows, centers).tobytes() == everything.tobytes()


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "d"), [(1, 4), (16, 5), (13, 32), (40, 9)])
def test_assign_has_the_bits_of_partial_sums_and_nearest(on_host, k, d, metric, dtype):
    rows, centers = problem(k, d, dtype, metric, n=300)
    sums, index, distances = on_host.assign(rows, centers)
    assert_same_sums(sums, on_host.partial_sums(rows, centers).on_host())
    nearest, least = on_host.nearest(rows, centers)
    assert (index.tobytes(), distances.tobytes()) == (nearest.tobytes(), least.tobytes())
    assert sums.counts.tolist() == np.bincount(index, minlength=k).tolist()


@needs_compiler
def test_prepared_centers_are_complete_before_another_thread_gets_them(compiled, monkeypatch):
    device = HostDevice(compiled)
    rows, centers = problem(40, 7, np.float32, "squared_euclidean", n=30)
    backend, waited = Launches(device), []
    prepared = backend._prepared(centers, rows.dtype)
    arrays = vars(prepared).keys()
    monkeypatch.setattr(device, "synchronize", lambda: waited.append(set(prepared.products)))
    assert {"few", "exact"} <= arrays
    backend.nearest(rows, centers)
    backend.nearest(rows, centers)
    # One wait for the only product that is made, and none when it is found.
    assert waited == [{1}]


# --- Sums ---

# Rows whose values are hard to add up, (n, d).
HARD_ROWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "offset": lambda rng, shape: rng.normal(size=shape) + 1e6,
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    # Nearly all values are left to the host.
    "log-uniform": lambda rng, shape: 10.0 ** rng.uniform(-20, 20, shape),
    "one huge column": lambda rng, shape: rng.normal(size=shape) * ([1e9] + [1] * (shape[1] - 1)),
    "one huge value in a column": lambda rng, shape: np.where(
        np.indices(shape)[0] == 1, 1e9, rng.normal(size=shape)
    ),
    "subnormal": lambda rng, shape: rng.normal(size=shape) * 1e-40,
    "large": lambda rng, shape: rng.normal(size=shape) * 1e18,
    "zeros": lambda rng, shape: np.zeros(shape),
    "integers": lambda rng, shape: rng.integers(-3, 4, shape).astype(float),
    # The grid sees every fifth row.
    "zero in the sample": lambda rng, shape: np.where(
        np.indices(shape)[0] % 5, rng.normal(size=shape) * 1e5, 0
    ),
}


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", HARD_ROWS)
def test_sums_and_squares_are_exact_for_rows_of_any_order_and_pieces_of_any_size(
    device, on_host, kind, dtype, monkeypatch
):
    monkeypatch.setattr(launches, "_LEFT_VALUES", 200)
    rng = np.random.default_rng(5)
    in_pieces = Launches(device, piece_bytes=5000)
    for k, d, metrics in [(5, 4, Distance), (20, 3, [Distance.SQUARED_EUCLIDEAN])]:
        rows = HARD_ROWS[kind](rng, (160, d)).astype(dtype)
        shuffled = rng.permutation(rows)
        assert on_host.squares(rows) == in_pieces.squares(shuffled) == by_numpy.squares(rows)
        for metric in metrics:
            centers = Centers(rows[:k].copy(), metric)
            expected = by_numpy.partial_sums(rows, centers)
            assert_same_sums(on_host.partial_sums(rows, centers).on_host(), expected)
            assert_same_sums(in_pieces.assign(shuffled, centers)[0], expected)


@needs_compiler
@pytest.mark.parametrize(("n", "d"), [(1, 1), (40_000, 1), (700, 33), (300, 257), (2, 700)])
def test_squares_of_any_shape_are_exact(on_host, n, d):
    rows = np.random.default_rng(n).normal(size=(n, d))
    assert on_host.squares(rows) == by_numpy.squares(rows)
    small = rows.astype(np.float32)
    assert on_host.squares(small) == by_numpy.squares(small)


@needs_compiler
@pytest.mark.parametrize(("k", "block_rows"), [(3, FEW_ROWS), (20, 512)])
def test_every_row_is_added_once_where_blocks_end(on_host, k, block_rows, monkeypatch):
    monkeypatch.setattr(launches, "_BLOCK_VALUES", 3 * 512)
    values = np.full((k, 3), 1e3, np.float32)
    values[0] = 9
    for n in (1, 255, block_rows - 1, block_rows, block_rows + 1, 2 * block_rows + 1):
        rows = np.random.default_rng(n).normal(size=(n, 3)).astype("f")
        centers = Centers(values, Distance.SQUARED_EUCLIDEAN)
        found = on_host.partial_sums(rows, centers).on_host()
        assert_same_sums(found, by_numpy.partial_sums(rows, centers))
        assert found.counts.tolist() == [n] + [0] * (k - 1)


@needs_compiler
@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("d", [2, 33])
def test_sums_of_many_large_values_are_carried(device, on_host, d, copies, monkeypatch):
    monkeypatch.setattr(launches, "_COPIES_BYTES", copies * (2 * d + 1) * 8)
    n, sampled = 3 * 2**16, 32
    # The rows in the sample are small. All others are at the top of the window: 2^16 of them are
    # almost 2^62 units of the grid.
    rows = np.full((n, d), 512 - 2.0**-15, np.float32)
    rows[:: n // sampled] = 1
    centers = Centers(rows[:1].copy(), Distance.SQUARED_EUCLIDEAN)
    device.launched.clear()
    sums = on_host.partial_sums(rows, centers)
    assert [kernel for kernel, _ in device.launched].count("carry") == -(-3 // copies)
    expected = sampled + (n - sampled) * Fraction(float(rows[1, 0]))
    assert exact_sums(sums.on_host()) == [expected] * d
    doubled = sum_up([sums] * 9)
    assert isinstance(doubled, DeviceSums)
    assert exact_sums(doubled.on_host()) == [9 * expected] * d
    assert doubled.on_host().counts.tolist() == [9 * n]
    # So many chunks that three planes are needed.
    for _ in range(20):
        doubled += doubled
    assert set(doubled.on_host().sums.planes) == {0, 1}
    assert exact_sums(doubled.on_host()) == [9 * 2**20 * expected] * d
    negative = on_host.partial_sums(-rows, centers)
    assert exact_sums((negative + negative).on_host()) == [-2 * expected] * d


@needs_compiler
@pytest.mark.parametrize("d", [3, 33])
def test_a_value_that_underflows_beside_huge_ones_is_added(on_host, d):
    rows = np.full((70, d), 1e300)
    rows[1, 2] = 1e-100
    centers = Centers(rows[:1].copy(), Distance.SQUARED_EUCLIDEAN)
    expected = by_numpy.partial_sums(rows, centers)
    assert_same_sums(on_host.partial_sums(rows, centers).on_host(), expected)
    assert on_host.squares(rows) == by_numpy.squares(rows)


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [5, 40])
def test_sums_of_similar_chunks_stay_on_the_device(on_host, k, metric):
    rows, centers = problem(k, 7, np.float32, metric, n=300)
    parts = [on_host.partial_sums(part, centers) for part in (rows[:130], rows[130:])]
    total = sum_up(parts)
    assert isinstance(total, DeviceSums)
    assert total.rest is None
    expected = by_numpy.partial_sums(rows, centers)
    assert_same_sums(total.on_host(), expected)
    assert_same_sums(total.on_host(), expected)
    assert_same_sums(parts[0].on_host() + parts[1].on_host(), expected)


@needs_compiler
def test_sums_of_chunks_of_different_sizes_are_added_on_the_host(on_host):
    rng = np.random.default_rng(0)
    chunks = [(rng.normal(size=(60, 5)) * scale).astype("f") for scale in (1, 1e6, 1e-9, 1)]
    # Values that are left to the host, too.
    chunks[0][3, 1] = chunks[1][4, 2] = 1e-30
    centers = Centers(np.concatenate(chunks)[::12].copy(), Distance.SQUARED_EUCLIDEAN)
    total = sum_up(on_host.partial_sums(chunk, centers) for chunk in chunks)
    assert isinstance(total, DeviceSums)
    expected = by_numpy.partial_sums(np.concatenate(chunks), centers)
    assert_same_sums(total.on_host(), expected)


@needs_compiler
def test_a_chunk_without_rows_has_zero_sums(on_host):
    rows, centers = problem(20, 3, np.float32, "squared_euclidean", n=5)
    sums = on_host.partial_sums(rows[:0], centers).on_host()
    assert (set(exact_sums(sums)), set(sums.counts.tolist())) == ({0}, {0})
    assert on_host.squares(rows[:0]) == ExactTotal()


# --- The bound of the error ---


class Scoring(NamedTuple):
    """What one launch of `score_N` got and found.

    Attributes:
        rows: The numbers of the rows.
        ratios: 2^(row's exponent - center's exponent) of each row.
        margins: By how much two scores must differ to be certain.
        limits: The least score plus the margin, of each ambiguous row by its number.
    """

    rows: list[int]
    ratios: FloatArray
    margins: FloatArray
    limits: dict[int, np.float32]


def scorings(device):
    """Yield what the launches of `score_N` got and found, in order."""
    for kernel, arguments in device.launched:
        if not kernel.startswith("score"):
            continue
        # The arguments of PRODUCT in kernels.cu come first: `ratios`, `n` and `k` are the last.
        ratios, n = arguments[7:9]
        margins, numbers, _, ambiguous, limits, count = arguments[10:]
        rows = numbers[:n].tolist() if isinstance(numbers, np.ndarray) else list(range(n))
        found = slice(int(count[0]))
        yield Scoring(
            rows, ratios, margins, dict(zip(ambiguous[found].tolist(), limits[found], strict=True))
        )


def nearest_with(device, backend, rows, centers, digits):
    """Check nearest centers, found with so many digits at first; return the centers' exponent."""
    prepared = backend._prepared(centers, rows.dtype)
    prepared.digits = digits
    device.launched.clear()
    assert_nearest(backend, rows, centers)
    return int(backend._prepared.product(prepared, digits).lengths[0])


# Rows whose scores have large errors, or are hard to bound.
KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "equal": lambda rng, shape: np.broadcast_to(rng.normal(size=shape[1]), shape),
    "ones": lambda rng, shape: np.ones(shape),
    # Sums of products of such rows cancel.
    "alternating": lambda rng, shape: rng.random(shape) * (-1.0) ** np.arange(shape[1]),
    "one huge column": lambda rng, shape: rng.normal(size=shape) * ([1e6] + [1] * (shape[1] - 1)),
    # Each rounds down to float16 by almost as much as possible.
    "rounded down": lambda rng, shape: np.full(shape, 1 + 2**-11 - 2**-20),
    # Beside the largest value: around the largest and the least float16 numbers, and half of it.
    "limits of float16": lambda rng, shape: rng.choice(
        [1, -65504 / 65536, 65519.9 / 65536, 2.0**-29, -(2.0**-39), 2.0**-40, 2.0**-41], shape
    ),
}
SCALES = (1e-39, 1e-37, 1e-20, 1.0, 1e5, 1e30)


@st.composite
def values_of_any_kind(draw, d):
    """Draw a function that returns n rows."""
    kind, scale = draw(st.sampled_from(sorted(KINDS))), draw(st.sampled_from(SCALES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return lambda n: KINDS[kind](rng, (n, d)) * scale


def assert_errors_within_margins(device, backend, rows, center, digits):
    """Check the least scores of rows with exact ones; return the largest error in margins.

    The centers are copies of one center and of its opposite. So their mean is zero, and all rows
    are ambiguous: the launch of `score_N` returns limits for them, and so their least scores.
    """
    centers = Centers(np.tile([center, -center], (64, 1)), Distance.SQUARED_EUCLIDEAN)
    exponent = nearest_with(device, backend, rows, centers, digits)
    factors = [Fraction(float(c)) for c in center]
    half = sum(c * c for c in factors) / 2
    largest = 0.0
    scoring = next(scorings(device))
    for row, ratio, margin in zip(scoring.rows, scoring.ratios, scoring.margins, strict=True):
        limit = scoring.limits[row]
        if not np.isfinite(margin):
            continue
        products = (Fraction(float(x)) * c for x, c in zip(rows[row], factors, strict=True))
        unit = Fraction(float(ratio)) * Fraction(2) ** (2 * exponent)
        exact = (half - abs(sum(products))) * unit
        error = abs(Fraction(float(limit)) - Fraction(float(margin)) - exact)
        # The sum of score and margin is rounded to float32.
        error -= Fraction(float(abs(limit) + margin)) / 2**24
        largest = max(largest, float(error / Fraction(float(margin))))
    assert largest <= 0.5, "two scores may be wrong by more than the margin"
    return largest


@needs_compiler
@given(st.data(), st.integers(1, 40), st.sampled_from([1, 2]), st.sampled_from(DTYPES))
def test_the_error_of_two_scores_is_within_the_margin(device, on_host, data, d, digits, dtype):
    rows = data.draw(values_of_any_kind(d))(12).astype(dtype)
    center = data.draw(values_of_any_kind(d))(1)[0].astype(dtype)
    assert_errors_within_margins(device, on_host, rows, center, digits)


@needs_compiler
@pytest.mark.parametrize(("digits", "share"), [(1, 0.4), (2, 0.001)])
def test_the_margin_is_not_much_larger_than_the_largest_error(device, on_host, digits, share):
    rows = KINDS["rounded down"](None, (4, 32)).astype("f")
    assert assert_errors_within_margins(device, on_host, rows, rows[0], digits) > share


@needs_compiler
@given(st.data(), st.integers(1, 40), st.sampled_from([1, 2]), st.sampled_from(DTYPES))
def test_a_row_that_is_not_ambiguous_has_its_nearest_center(
    device, on_host, data, d, digits, dtype
):
    # Rows halfway between centers, almost halfway, and anywhere.
    values, noise = (data.draw(values_of_any_kind(d)) for _ in range(2))
    centers = values(128)
    rows = np.concatenate([centers[:16], noise(4), (centers[:12] + centers[1:13]) / 2])
    rows[20:26] += noise(6) * data.draw(st.sampled_from([0, 1e-6, 1e-3, 1]))
    centers = Centers(centers.astype(dtype), Distance(data.draw(st.sampled_from(METRICS))))
    nearest_with(device, on_host, rows.astype(dtype), centers, digits)


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [7, 100, 128, 200, 256, 300])
def test_rows_near_one_of_distant_centers_are_not_ambiguous(device, on_host, k, metric):
    rng = np.random.default_rng(k)
    values = rng.normal(size=(k, 24))
    rows = (np.repeat(values, 2, axis=0) + rng.normal(size=(2 * k, 24)) / 100).astype("f")
    nearest_with(device, on_host, rows, Centers(values, Distance(metric)), 1)
    assert [len(scoring.limits) for scoring in scorings(device)] == [0]


# --- Rows that are resolved exactly ---


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("equal", [2, 130])
def test_rows_with_more_equal_centers_than_there_is_room_for_are_right(
    device, on_host, equal, metric, monkeypatch
):
    monkeypatch.setattr(launches, "_PAIRS_PER_ROW", 1)
    monkeypatch.setattr(launches, "_FEWEST_PAIRS", 8)
    rng = np.random.default_rng(equal)
    values = rng.normal(size=(130, 5)).astype("f")
    values[-equal:] = values[-1]
    rows = (values[rng.integers(130, size=90)] + rng.normal(size=(90, 5)) / 50).astype("f")
    nearest_with(device, on_host, rows, Centers(values, Distance(metric)), 1)
    kernels = [kernel for kernel, _ in device.launched]
    if equal == 130:
        assert kernels.count("score_256") == 2
        assert kernels[-2] == "resolve"


@needs_compiler
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [3, 40])
def test_a_row_that_is_not_finite_is_assigned_to_the_first_center(on_host, k, metric, bad):
    rows, centers = problem(k, 6, np.float32, metric, n=70)
    expected = by_numpy.nearest(rows, centers)
    wrong = [0, 17, 33, 69]
    rows[wrong, [0, 5, 2, 3]] = bad
    others = np.setdiff1d(np.arange(70), wrong)
    index, distances = on_host.nearest(rows, centers)
    assert index[wrong].tolist() == [0] * 4
    assert not np.isfinite(distances[wrong]).any()
    assert index[others].tolist() == expected[0][others].tolist()
    assert distances[others].tobytes() == expected[1][others].tobytes()
    for function in (on_host.partial_sums, on_host.assign):
        with pytest.raises(NotFinite):
            function(rows, centers)
    with pytest.raises(NotFinite):
        on_host.squares(rows)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [5, 40])
def test_almost_zero_rows_and_centers_are_right_by_cosine(on_host, k, dtype):
    rng = np.random.default_rng(k)
    lengths = np.array([0.0, 1e-39, 1e-20, 1e-8, 1e-6, 2e-6, 1.0, 1e15])
    values, rows = (
        rng.normal(size=(n, 4)) * lengths[np.arange(n) % len(lengths), None] for n in (k, 80)
    )
    rows, centers = rows.astype(dtype), Centers(values.astype(dtype), Distance.COSINE)
    assert_nearest(on_host, rows, centers)
    found = on_host.partial_sums(rows, centers).on_host()
    assert_same_sums(found, by_numpy.partial_sums(rows, centers))


@needs_compiler
@pytest.mark.parametrize("scale", [1e151, 1e200])
def test_rows_of_very_large_numbers_are_resolved_exactly(device, on_host, scale):
    rng = np.random.default_rng(1)
    values, rows = rng.normal(size=(128, 5)), rng.normal(size=(60, 5))
    centers = Centers(values * scale, Distance.SQUARED_EUCLIDEAN)
    nearest_with(device, on_host, rows * scale, centers, 1)
    assert "resolve" in [kernel for kernel, _ in device.launched]
    # One large row beside others.
    rows[7] *= scale
    nearest_with(device, on_host, rows, Centers(values, Distance.SQUARED_EUCLIDEAN), 1)
    assert 7 in next(scorings(device)).limits


# --- Memory ---


CHECKED = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np
    from dkmeans.backends.cuda.launches import Launches
    from tests.backends.cuda.problems import bits, problem
    from tests.host_device import CHECKS, HostDevice

    backend = Launches(HostDevice(Path(sys.argv[1]), *CHECKS))
    EUCLIDEAN, COSINE = "squared_euclidean", "cosine"
    for k, d, dtype, metric in [
        (17, 8, "f", COSINE), (9, 33, "d", EUCLIDEAN), (130, 5, "f", EUCLIDEAN), (5, 5, "d", COSINE)
    ]:
        rows, centers = problem(k, d, dtype, metric, n=70)
        rows[[33, 69], 1] = 1e-25  # left to the host
        bits(backend, rows, centers)
    print("nothing found")
    """
)


@needs_compiler
def test_the_kernels_access_only_their_own_memory(compiled):
    runtime = subprocess.check_output(["g++", "-print-file-name=libasan.so"], text=True).strip()
    if not Path(runtime).is_absolute():
        pytest.skip("no address sanitizer")
    # Python's own allocator would hide accesses past the end of an array.
    environment = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    output = output_of(CHECKED, compiled, **environment)
    assert output.endswith("nothing found\n")
