"""The CUDA backend where there is no GPU: its kernels on the host, and what is said without one.

That the kernels' answers are right is tested with the other backends', in test_backends.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from dkmeans import Invalid
from dkmeans.backends import numpy as by_numpy
from dkmeans.backends import select
from dkmeans.backends.cuda import launches
from dkmeans.backends.cuda.launches import DEFINED, Launches
from dkmeans.backends.cuda.resident import Resident
from dkmeans.distance import Centers, Distance
from tests.host_device import SOURCE, HostDevice
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)
# Widths and numbers of centers at the borders of slices, tiles, and ways of adding up.
SHAPES = [(1, 1), (3, 1), (16, 7), (17, 8), (64, 33), (65, 9), (130, 17), (257, 64), (5, 300)]

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
needs_cupy = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="CuPy is not installed"
)


def problem(k, d, dtype, metric, n=1500):
    """Rows about centers of which some are equal, and two nearly; all far from zero."""
    rng = np.random.default_rng(k * d)
    values = rng.normal(size=(k, d)) + 30
    values[k // 2] = values[k // 3]
    values[k - 1] = values[max(k - 2, 0)]  # one thread scores both
    values[k // 4] = values[0] + 1e-7 * rng.normal(size=d)
    rows = values[rng.integers(k, size=n)] + rng.normal(size=(n, d)) * rng.random((n, 1))
    return rows.astype(dtype), Centers(values.astype(dtype), Distance(metric))


def bits(backend, rows, centers):
    """Everything that a backend computes of some rows."""
    sums, (index, apart) = backend.partial_sums(rows, centers), backend.nearest(rows, centers)
    apart_from_all = backend.distances(rows, centers)
    arrays = sums.sums, sums.counts, np.float64(sums.inertia), index, apart, apart_from_all
    return [array.tobytes() for array in arrays]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(scope="module")
def on_host(folder):
    return Launches(HostDevice(folder))


def nvrtc():
    """NVRTC, of the wheel that is installed; None where none is."""
    found = importlib.util.find_spec("nvidia")
    folders = map(Path, found.submodule_search_locations) if found else ()
    libraries = [each for folder in folders for each in folder.glob("*/lib/libnvrtc.so.1?")]
    return ctypes.CDLL(str(libraries[0])) if libraries else None


def compile_with(library, source, *options):
    """Whether NVRTC makes a program of a source, and what it says."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    handle, log_size = ctypes.byref(program), ctypes.byref(size)
    assert library.nvrtcCreateProgram(handle, source, b"kernels.cu", 0, None, None) == 0
    given = (ctypes.c_char_p * len(options))(*map(str.encode, options))
    code = library.nvrtcCompileProgram(program, len(options), given)
    library.nvrtcGetProgramLogSize(program, log_size)
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(handle)
    return code, log.value.decode()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_the_kernels_compile_for_gpus(architecture, dtype, tmp_path):
    options, source = DEFINED[np.dtype(dtype)], Path(str(SOURCE))
    if (library := nvrtc()) is not None:
        options = "-std=c++17", "--fmad=false", f"--gpu-architecture={architecture}", *options
        assert compile_with(library, source.read_bytes(), *options) == (0, "")
    elif shutil.which("nvcc") is not None:
        command = ["nvcc", "-cubin", f"-arch={architecture}", "-fmad=false", "-Werror=all-warnings"]
        command += ["-o", str(tmp_path / "kernels.cubin"), *options, str(source)]
        subprocess.run(command, check=True)
    else:
        pytest.skip("neither NVRTC nor nvcc is installed")


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "d"), SHAPES)
def test_winners_and_distances_have_the_bits_that_numpy_gives_them(on_host, k, d, metric, dtype):
    rows, centers = problem(k, d, dtype, metric)
    index, apart = on_host.nearest(rows, centers)
    expected, nearest = by_numpy.nearest(rows, centers)
    assert index.tolist() == expected.tolist()
    assert apart.tobytes() == nearest.tobytes()
    found, sums = on_host.partial_sums(rows, centers), by_numpy.partial_sums(rows, centers)
    assert found.counts.tolist() == sums.counts.tolist()
    np.testing.assert_allclose(found.sums, sums.sums, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(found.inertia, sums.inertia, rtol=1e-11, atol=1e-10)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 5), (16, 40), (17, 9), (130, 17)])
def test_the_order_in_which_threads_run_shows_nowhere(on_host, folder, k, d, dtype):
    backwards = Launches(HostDevice(folder, backwards=True))
    for metric in METRICS:
        rows, centers = problem(k, d, dtype, metric)
        assert bits(on_host, rows, centers) == bits(backwards, rows, centers)


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [4, 40])
def test_rows_may_come_in_any_number_of_pieces(on_host, k, metric, monkeypatch):
    rows, centers = problem(k, 6, np.float32, metric)
    whole, (index, apart) = on_host.partial_sums(rows, centers), on_host.nearest(rows, centers)
    everything = on_host.distances(rows, centers)
    monkeypatch.setattr(launches, "PIECE_BYTES", 7000)
    in_pieces = on_host.partial_sums(rows, centers)
    assert in_pieces.counts.tolist() == whole.counts.tolist()
    np.testing.assert_allclose(in_pieces.sums, whole.sums, rtol=1e-13, atol=1e-11)
    np.testing.assert_allclose(in_pieces.inertia, whole.inertia, rtol=1e-12, atol=1e-12)
    assert on_host.nearest(rows, centers)[0].tolist() == index.tolist()
    assert on_host.nearest(rows, centers)[1].tolist() == apart.tolist()
    assert on_host.distances(rows, centers).tobytes() == everything.tobytes()


@needs_compiler
@pytest.mark.parametrize("k", [3, 20])
@pytest.mark.parametrize("n", [1, 511, 512, 513, 1024, 1025])
def test_every_row_is_added_once_where_slices_end(on_host, n, k):
    rows = np.random.default_rng(n).normal(size=(n, 3)).astype("f")
    centers = Centers(np.full((k, 3), 9, np.float32), Distance.SQUARED_EUCLIDEAN)
    found = on_host.partial_sums(rows, centers)
    assert found.counts.tolist() == [n] + [0] * (k - 1)
    np.testing.assert_allclose(found.sums[0], rows.sum(axis=0, dtype=np.float64), rtol=1e-12)
    assert not found.sums[1:].any()


# --- What stays on a device ---


def frozen(rows):
    rows.flags.writeable = False
    return rows


def test_rows_that_cannot_change_stay_until_the_host_lets_go_of_them():
    resident = Resident(lambda: 100, np.empty)
    rows = frozen(np.ones((3, 4), np.float32))
    assert resident.find(rows) is None
    room = resident.room(rows)
    room[...] = rows
    resident.keep(rows, room)
    assert resident.find(rows) is resident.find(rows[:]) is room
    assert resident.find(rows[1:]) is None
    assert resident.bytes == 48
    part = rows[:2]
    del rows
    assert resident.bytes == 48  # a part of them is still needed
    del part
    assert resident.bytes == 0


def test_rows_that_may_change_and_those_that_do_not_fit_are_sent_anew():
    resident = Resident(lambda: 100, np.empty)
    assert resident.room(np.ones((3, 4), np.float32)) is None
    assert resident.room(frozen(np.ones((30, 4), np.float32))) is None
    view = np.ones((3, 4), np.float32)[:2]
    assert resident.room(frozen(view)) is None  # who owns them may write to them
    assert resident.bytes == 0


def test_of_two_threads_that_send_the_same_rows_the_first_ones_stay():
    resident, rows = Resident(lambda: 100, np.empty), frozen(np.ones((3, 4), np.float32))
    first, second = resident.room(rows), resident.room(rows)
    assert resident.bytes == 96
    resident.keep(rows, first)
    resident.keep(rows, second)
    assert resident.find(rows) is first
    assert resident.bytes == 48
    failed = resident.room(frozen(np.zeros((3, 4), np.float32)))
    resident.give_back(failed)
    assert resident.bytes == 48


CHECKED = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from dkmeans.backends.cuda.launches import Launches
    from tests.host_device import CHECKS, HostDevice
    from tests.test_cuda import DTYPES, METRICS, bits, problem

    backend = Launches(HostDevice(Path(sys.argv[1]), *CHECKS))
    for dtype in DTYPES:
        for metric in METRICS:
            for k, d in [(1, 1), (17, 8), (65, 9), (130, 17)]:
                bits(backend, *problem(k, d, dtype, metric, n=150))
    print("nothing found")
    """
)


@needs_compiler
def test_the_kernels_touch_no_memory_but_theirs(tmp_path):
    runtime = subprocess.check_output(["g++", "-print-file-name=libasan.so"], text=True).strip()
    if not Path(runtime).is_absolute():
        pytest.skip("no address sanitizer")
    # NumPy's own allocator would hide what lies behind an array.
    environment = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    output = said(CHECKED, tmp_path, **environment)
    assert output.endswith("nothing found\n")


# --- Where there is no GPU ---

SELECTS = textwrap.dedent(
    """
    import logging, sys
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    logging.getLogger("dkmeans").setLevel(logging.DEBUG)
    from dkmeans.backends import select
    print(select().__name__)
    try:
        select("cuda")
    except ValueError as error:
        print(error)
    """
)


def run(program, *arguments, **environment):
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def said(program, *arguments, **environment):
    process = run(program, *arguments, **environment)
    assert process.returncode == 0, process.stdout
    return process.stdout


def test_where_cupy_is_not_installed_nobody_hears_of_it_but_who_asks():
    missing = "import sys; sys.modules['cupy'] = None\n"
    why = "CuPy is missing; install dkmeans[gpu-cuda12] or dkmeans[gpu-cuda13]"
    assert said(missing + SELECTS).splitlines() == [
        f"DEBUG backend cuda cannot be used: {why}",
        "dkmeans.backends.native.backend",
        f"backend 'cuda' cannot be used on this machine: {why}",
    ]


@needs_cupy
def test_where_cupy_sees_no_gpu_the_log_says_so_and_the_processor_computes():
    import cupy  # noqa: PLC0415 half a second, where it is installed

    if cupy.cuda.is_available():
        pytest.skip("there is a GPU")
    first, backend, refused = said(SELECTS).splitlines()
    assert first.startswith(
        "WARNING backend cuda cannot be used: CuPy is installed and sees no GPU"
    )
    assert backend == "dkmeans.backends.native.backend"
    assert refused.startswith(
        "backend 'cuda' cannot be used on this machine: CuPy is installed and"
    )


OLD_DRIVER = """
extern "C" int cuInit(unsigned) { return 0; }
extern "C" int cuDriverGetVersion(int *version) { *version = 11040; return 0; }
"""


@needs_cupy
@needs_compiler
def test_a_driver_that_is_too_old_is_told_from_none(tmp_path):
    (tmp_path / "driver.cpp").write_text(OLD_DRIVER)
    command = ["g++", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.cpp"]
    subprocess.run(command, check=True)
    first, backend, _ = said(SELECTS, LD_LIBRARY_PATH=str(tmp_path)).splitlines()
    assert "the NVIDIA driver must support CUDA 1" in first
    assert "got one for CUDA 11.4; update it, or install dkmeans[gpu-cuda12]" in first
    assert backend == "dkmeans.backends.native.backend"


def test_a_backend_asked_for_by_name_is_never_another():
    with pytest.raises(Invalid, match="backend 'cuda' cannot be used on this machine: "):
        select("cuda")
