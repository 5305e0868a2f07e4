"""The kernels and their launches, run on the host, and compiled for GPUs.

tests/backends/test_backends.py tests that their answers are right for many more problems.
"""

import hashlib
import os
import re
import shutil
import subprocess
import textwrap
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda.compiler import OPTIONS, cubin
from dkmeans.backends.cuda.kernel_device import DEFINES
from dkmeans.backends.cuda.kernel_source import kernel_source
from dkmeans.backends.cuda.launches import Launches
from dkmeans.distance import Centers, Distance
from dkmeans.exact_grid import NotFinite
from tests.backends.cuda.nvrtc import Nvrtc, library
from tests.backends.cuda.problems import (
    DTYPES,
    assert_nearest,
    assert_same_sums,
    bits,
    needs_compiler,
    problem,
)
from tests.host_device import source_file
from tests.programs import output_of
from tests.reference import METRICS

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
    source, nvrtc = kernel_source(), library()
    if nvrtc is None and shutil.which("nvcc") is None:
        pytest.skip("neither NVRTC nor nvcc is installed")
    key = repr((source, OPTIONS, defines, architecture, nvrtc is None))
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.log"
    if not path.exists():
        by = partial(_log_of_nvrtc, Nvrtc(nvrtc)) if nvrtc else partial(_log_of_nvcc, folder)
        path.write_text(by(architecture, defines))
    return path.read_text()


def _log_of_nvrtc(compiler, architecture, defines):
    options = *OPTIONS, *defines, "--ptxas-options=-v"
    with pytest.MonkeyPatch.context() as environment, TemporaryDirectory() as folder:
        environment.setenv("CUPY_CACHE_DIR", folder)
        assert cubin(kernel_source(), options, architecture, compiler).startswith(b"\x7fELF")
    (log,) = compiler.logs
    return log


def _log_of_nvcc(folder, architecture, defines):
    # Options that NVRTC alone knows are about functions without a mark.
    options = "-std=c++17", "-fmad=false", *defines, f"-arch={architecture}", "-Xptxas=-v"
    command = ["nvcc", "-cubin", "-o", os.devnull, *options, str(source_file(folder))]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


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
        (17, 8, "f", COSINE), (9, 33, "d", EUCLIDEAN), (130, 5, "f", EUCLIDEAN),
        (5, 5, "d", COSINE), (11, 20, "f", EUCLIDEAN), (16, 7, "f", COSINE),
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
