"""The kernels and their launches, run on the host, and compiled for GPUs.

tests/backends/test_backends.py tests that their answers are right.
"""

import ctypes
import importlib.util
import shutil
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda import launches
from dkmeans.backends.cuda.launches import DEFINES, Launches
from dkmeans.distance import Centers, Distance
from tests.backends.cuda.problems import bits, problem
from tests.host_device import SOURCE, HostDevice
from tests.programs import output_of
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)
# Numbers of centers and columns at the limits of slices, tiles, and the kernels that add up.
SHAPES = [(1, 1), (3, 1), (16, 7), (17, 8), (64, 33), (65, 9), (130, 17), (257, 64), (5, 300)]

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(scope="module")
def on_host(folder):
    return Launches(HostDevice(folder))


def nvrtc():
    """Return the NVRTC library of the installed wheel; None if there is none."""
    package = importlib.util.find_spec("nvidia")
    folders = map(Path, package.submodule_search_locations) if package else ()
    libraries = [each for folder in folders for each in folder.glob("*/lib/libnvrtc.so.1?")]
    return ctypes.CDLL(str(libraries[0])) if libraries else None


def compile_with(library, source, *options):
    """Compile a source with NVRTC; return its error code and its messages."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    handle, log_size = ctypes.byref(program), ctypes.byref(size)
    assert library.nvrtcCreateProgram(handle, source, b"kernels.cu", 0, None, None) == 0
    encoded = (ctypes.c_char_p * len(options))(*map(str.encode, options))
    code = library.nvrtcCompileProgram(program, len(options), encoded)
    library.nvrtcGetProgramLogSize(program, log_size)
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(handle)
    return code, log.value.decode()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_the_kernels_compile_for_gpus(architecture, dtype, tmp_path):
    options, source = DEFINES[np.dtype(dtype)], Path(str(SOURCE))
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
def test_nearest_centers_and_distances_have_the_bits_of_numpy(on_host, k, d, metric, dtype):
    rows, centers = problem(k, d, dtype, metric)
    index, distances = on_host.nearest(rows, centers)
    expected, expected_distances = by_numpy.nearest(rows, centers)
    assert index.tolist() == expected.tolist()
    assert distances.tobytes() == expected_distances.tobytes()
    found, sums = on_host.partial_sums(rows, centers), by_numpy.partial_sums(rows, centers)
    assert found.counts.tolist() == sums.counts.tolist()
    np.testing.assert_allclose(found.sums, sums.sums, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(found.inertia, sums.inertia, rtol=1e-11, atol=1e-10)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 5), (16, 40), (17, 9), (130, 17)])
def test_the_order_in_which_threads_run_changes_no_bits(on_host, folder, k, d, dtype):
    backwards = Launches(HostDevice(folder, backwards=True))
    for metric in METRICS:
        rows, centers = problem(k, d, dtype, metric)
        assert bits(on_host, rows, centers) == bits(backwards, rows, centers)


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [4, 40])
def test_rows_may_come_in_any_number_of_pieces(on_host, k, metric, monkeypatch):
    rows, centers = problem(k, 6, np.float32, metric)
    whole, (index, distances) = on_host.partial_sums(rows, centers), on_host.nearest(rows, centers)
    everything = on_host.distances(rows, centers)
    monkeypatch.setattr(launches, "PIECE_BYTES", 7000)
    in_pieces = on_host.partial_sums(rows, centers)
    assert in_pieces.counts.tolist() == whole.counts.tolist()
    np.testing.assert_allclose(in_pieces.sums, whole.sums, rtol=1e-13, atol=1e-11)
    np.testing.assert_allclose(in_pieces.inertia, whole.inertia, rtol=1e-12, atol=1e-12)
    assert on_host.nearest(rows, centers)[0].tolist() == index.tolist()
    assert on_host.nearest(rows, centers)[1].tolist() == distances.tolist()
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


CHECKED = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from dkmeans.backends.cuda.launches import Launches
    from tests.host_device import CHECKS, HostDevice
    import numpy as np
    from tests.backends.cuda.problems import bits, problem

    backend = Launches(HostDevice(Path(sys.argv[1]), *CHECKS))
    for dtype in (np.float32, np.float64):
        for metric in ("squared_euclidean", "cosine"):
            for k, d in [(1, 1), (17, 8), (65, 9), (130, 17)]:
                bits(backend, *problem(k, d, dtype, metric, n=150))
    print("nothing found")
    """
)


@needs_compiler
def test_the_kernels_access_only_their_own_memory(tmp_path):
    runtime = subprocess.check_output(["g++", "-print-file-name=libasan.so"], text=True).strip()
    if not Path(runtime).is_absolute():
        pytest.skip("no address sanitizer")
    # Python's own allocator would hide accesses past the end of an array.
    environment = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    output = output_of(CHECKED, tmp_path, **environment)
    assert output.endswith("nothing found\n")
