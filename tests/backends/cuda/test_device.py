"""The GPU as CuPy shows it: what `device` asks of CuPy, and what it makes of CuPy's errors.

Most tests replace CuPy by a stand-in. Those with the real CuPy run where it is installed.
"""

import importlib
import importlib.util
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from dkmeans.backends.cuda.fallback import Fault
from tests.programs import output_of

DEVICE = "dkmeans.backends.cuda.device"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
needs_cupy = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="CuPy is not installed"
)

# Prints the log of `select`, the backend that it returns, and the error for the CUDA backend.
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


class CudaError(RuntimeError):
    """A stand-in for the exception of CUDA's runtime."""

    def __init__(self, status):
        super().__init__(f"cudaError{status}")
        self.status = status


class DriverError(CudaError):
    """A stand-in for the exception of CUDA's driver."""


class Array(np.ndarray):
    """An array on the stand-in for the device."""

    def set(self, values, stream):
        self[...] = values

    def get(self, stream=None, out=None):
        if out is None:
            return np.array(self)
        out[...] = self
        return out


class Stream:
    """A stream on which everything is done at once. It is also its own event."""

    def __init__(self, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def record(self, stream=None):
        return self

    def synchronize(self):
        pass

    def wait_event(self, event):
        pass


class Module:
    """Loaded kernels, which record how they are launched."""

    launches: list  # set by `stand_in`, for each CuPy

    def load(self, code):
        self.code = code

    def get_function(self, name):
        def function(grid, block, arguments, shared):
            self.launches.append((name, grid, block, arguments, shared))

        function.ptr = name
        return function


def stand_in(*, count=1, driver=12090, library=12090, capability="90", memory=(80, 80)):
    """Make a module with the functions of CuPy that `device` calls, for arrays on the host.

    Attributes of the result:
        errors: Exceptions that the functions of these names will raise.
        launches: The launches of kernels.
        allowed: The functions that were allowed dynamic shared memory, and how much.
        freed: Names of the pools whose unused memory was freed.
        pinned: Sizes of the page-locked memory that was allocated.

    Args:
        count: Number of GPUs, or the exception that CUDA raises.
        driver: Version of CUDA that the driver supports, as CUDA's number.
        library: Version of CUDA's libraries.
        capability: Digits of the GPU's architecture.
        memory: Free and total memory of the GPU in bytes.
    """
    errors, launches, allowed, freed, pinned = {}, [], [], [], []

    def raising(name, function=lambda *arguments: None):
        def call(*arguments, **options):
            result = errors[name] if name in errors else function(*arguments, **options)
            if isinstance(result, Exception):
                raise result
            return result

        return call

    def pool(name):
        return SimpleNamespace(free_all_blocks=lambda: freed.append(name))

    properties = {"name": b"NVIDIA Test", "totalGlobalMem": 80 * 2**30}
    runtime = SimpleNamespace(
        CUDARuntimeError=CudaError,
        getDeviceCount=raising("getDeviceCount", lambda: count),
        deviceSynchronize=raising("deviceSynchronize"),
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: library,
        memGetInfo=raising("memGetInfo", lambda: memory),
        getDeviceProperties=lambda number: properties,
    )
    cuda_driver = SimpleNamespace(
        CUDADriverError=DriverError,
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
        CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT=9,
        funcSetAttribute=lambda *arguments: allowed.append(arguments),
    )
    cuda = SimpleNamespace(
        runtime=runtime,
        driver=cuda_driver,
        nvrtc="NVRTC",
        Device=lambda: SimpleNamespace(
            id=0, compute_capability=capability, attributes={"MultiProcessorCount": 132}
        ),
        Module=type("Module", (Module,), {"launches": launches}),
        Stream=Stream,
        Event=Stream,
        Memory=raising("Memory", lambda size: np.zeros(size, np.uint8)),
        MemoryPointer=lambda memory, offset: memory[offset:],
        alloc_pinned_memory=raising(
            "alloc_pinned_memory", lambda size: pinned.append(size) or np.zeros(size, np.uint8)
        ),
    )
    return SimpleNamespace(
        cuda=cuda,
        __version__="14.0.0",
        empty=raising("empty", Array),
        ndarray=lambda shape, dtype, memory: Array(shape, dtype, memory),
        get_default_memory_pool=lambda: pool("device"),
        get_default_pinned_memory_pool=lambda: pool("host"),
        errors=errors,
        launches=launches,
        allowed=allowed,
        freed=freed,
        pinned=pinned,
    )


def frozen(rows):
    """Make rows read-only, as the row cache does."""
    rows.flags.writeable = False
    return rows


def rows_of(gpu, points, max_rows=3):
    """Return the rows that arrive on the device, from all pieces."""
    return np.concatenate([np.array(piece) for piece in gpu.pieces(points, max_rows)])


@pytest.fixture
def load(monkeypatch):
    """Import a fresh `device` with a stand-in for CuPy, or without CuPy for None."""

    def load_with(cupy):
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.delitem(sys.modules, DEVICE, raising=False)
        return importlib.import_module(DEVICE)

    yield load_with
    sys.modules.pop(DEVICE, None)


def test_without_cupy_the_import_names_the_extras(load):
    with pytest.raises(ModuleNotFoundError, match=r"CuPy is missing; install dkmeans\[gpu-cuda12"):
        load(None)


def test_a_gpu_passes_the_check(load):
    load(stand_in()).check_device()


@pytest.mark.parametrize(
    ("cupy", "message"),
    [
        (stand_in(count=0), "CuPy is installed and sees no GPU"),
        (stand_in(count=CudaError(100)), "CuPy is installed and sees no GPU: cudaError100"),
        (
            stand_in(count=CudaError(35), driver=0),
            "CuPy is installed and sees no GPU: there is no NVIDIA driver",
        ),
        (
            stand_in(capability="75"),
            "the GPU must have compute capability 8.0 or more, got 7.5",
        ),
        (
            stand_in(count=CudaError(35), driver=12040, library=13000),
            "the NVIDIA driver must support CUDA 13.0, got one for CUDA 12.4; update it, or "
            "install dkmeans[gpu-cuda12] instead of dkmeans[gpu-cuda13]",
        ),
    ],
)
def test_the_error_says_why_no_gpu_can_be_used(load, cupy, message):
    device = load(cupy)
    with pytest.raises(ImportError) as raised:
        device.check_device()
    assert str(raised.value) == message


def test_the_description_has_the_gpu_and_the_versions(load):
    device = load(stand_in(driver=13010))
    assert device.describe_device() == {
        "GPU": "NVIDIA Test",
        "memory": "80 GiB",
        "CuPy": "14.0.0",
        "CUDA": "12.9, driver for 13.1",
    }


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [("80", "sm_80"), ("89", "sm_89"), ("90", "sm_90a"), ("103", "sm_103a"), ("120", "sm_120a")],
)
@pytest.mark.parametrize(
    ("dtype", "defines"),
    [("f4", ("-DSCALAR=float", "-DSINGLE")), ("f8", ("-DSCALAR=double",))],
)
def test_the_kernels_of_a_dtype_are_compiled_once_for_the_gpus_architecture(
    load, monkeypatch, capability, architecture, dtype, defines
):
    device, compiled = load(cupy := stand_in(capability=capability)), []
    monkeypatch.setattr(device, "cubin", lambda *arguments: compiled.append(arguments) or b"code")
    gpu = device.Gpu()
    for kernel in ("first", "second", "first"):
        gpu.launch(kernel, dtype, 7, "an argument")
    ((source, options, name, nvrtc),) = compiled
    assert "__global__" in source
    assert options == (*device.OPTIONS, *defines)
    assert (name, nvrtc) == (architecture, "NVRTC")
    assert cupy.launches[1] == ("second", (7,), (256,), ("an argument",), 0)
    assert cupy.allowed == []


def test_dynamic_shared_memory_is_allowed_once_and_never_lowered(load, monkeypatch):
    device = load(cupy := stand_in())
    monkeypatch.setattr(device, "cubin", lambda *arguments: b"code")
    gpu, sizes = device.Gpu(), [49152, 100_000, 100_000, 60_000, 200_000]
    for size in sizes:
        gpu.launch("score", np.float32, 1, shared_bytes=size)
    assert [launch[-1] for launch in cupy.launches] == sizes
    # Each time the cache of a processor gives way to shared memory too.
    assert [allowed for allowed in cupy.allowed if allowed[1] == 9] == [("score", 9, 100)] * 3
    assert [size for _, attribute, size in cupy.allowed if attribute == 8] == [
        49_152,
        100_000,
        200_000,
    ]


def test_rows_come_in_pieces_and_stay_on_the_gpu_if_they_cannot_change(load):
    gpu = load(stand_in(memory=(1000, 1000))).Gpu()
    rows = frozen(np.random.default_rng(0).normal(size=(10, 2)))
    for _ in range(2):
        np.testing.assert_array_equal(rows_of(gpu, rows), rows)
        assert gpu._resident.bytes == 160
    np.testing.assert_array_equal(rows_of(gpu, np.ones((10, 2))), np.ones((10, 2)))
    assert gpu._resident.bytes == 160


@pytest.mark.parametrize(
    ("max_rows", "copied", "resident"),
    [(1000, [5, 5, 2], [12]), (7, [5, 5, 2], [7, 5]), (3, [3, 3, 3, 3], [3, 3, 3, 3])],
)
def test_copied_rows_come_in_pieces_that_fit_a_buffer_and_resident_rows_in_larger_ones(
    load, monkeypatch, max_rows, copied, resident
):
    device = load(stand_in(memory=(1000, 1000)))
    monkeypatch.setattr(device, "_PIECE_ROW_BYTES", 5 * 16 + 15)
    monkeypatch.setattr(device, "_PIECE_ROW_SHARE", 1)
    gpu, rows = device.Gpu(), np.arange(24.0).reshape(12, 2)
    kept = frozen(rows.copy())
    # Copied, copied to where they stay, and resident.
    for points, sizes in [(rows, copied), (kept, copied), (kept, resident)]:
        pieces = [piece.copy() for piece in gpu.pieces(points, max_rows)]
        assert [len(piece) for piece in pieces] == sizes
        np.testing.assert_array_equal(np.concatenate(pieces), rows)
    assert gpu._resident.bytes == rows.nbytes
    (piece,) = gpu.pieces(np.ones((1, 40)), max_rows)  # a row that is larger than a piece
    assert piece.shape == (1, 40)


@pytest.mark.parametrize("resident", [True, False])
def test_a_piece_reaches_the_gpu_in_blocks_whatever_its_size(load, monkeypatch, resident):
    monkeypatch.setattr("dkmeans.backends.cuda.staging.BLOCK_BYTES", 64)
    monkeypatch.setattr("dkmeans.backends.cuda.staging._LEAST_BLOCK_BYTES", 16)
    gpu = load(cupy := stand_in(memory=(10**6, 10**6))).Gpu()
    rows = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    rows = frozen(rows) if resident else rows
    with ThreadPoolExecutor(8) as pool:
        for sent in pool.map(lambda _: rows_of(gpu, rows, 100), range(40)):
            np.testing.assert_array_equal(sent, rows)
    assert (gpu._resident.bytes > 0) is resident
    assert set(cupy.pinned) == {64}
    assert len(cupy.pinned) <= 2 * gpu._staging._threads + 4


@pytest.mark.parametrize(("n", "locked"), [(7, []), (8, [64]), (16, [128]), (17, [])])
def test_large_results_come_through_page_locked_memory(load, monkeypatch, n, locked):
    device = load(cupy := stand_in())
    monkeypatch.setattr(device, "_LEAST_LOCKED", 64)
    monkeypatch.setattr(device, "_MOST_LOCKED", 128)
    values = cupy.ndarray((n,), np.int64, np.arange(n).view(np.uint8))
    found = device.Gpu().to_host(values)
    assert found.tolist() == list(range(n))
    assert found.flags.writeable
    assert cupy.pinned == locked


def test_a_kernel_gets_the_bytes_of_a_structure(load, monkeypatch):
    device = load(cupy := stand_in())
    monkeypatch.setattr(device, "cubin", lambda *arguments: b"")
    content = np.arange(3.0).view("V24")[0]
    device.Gpu().launch("add_few", np.float32, 5, np.int64(7), content)
    ((name, grid, block, (number, structure), shared),) = cupy.launches
    assert (name, grid, block, number, shared) == ("add_few", (5,), (256,), 7, 0)
    # CuPy passes structures as arrays only.
    assert isinstance(structure, np.ndarray)
    assert structure.tobytes() == np.arange(3.0).tobytes()


def test_the_cores_of_a_machine_are_shared_out_among_its_gpus(load, monkeypatch):
    device = load(stand_in(count=4))
    monkeypatch.setattr(device, "usable_cores", lambda: 30)
    assert device.share_of_cores() == 7
    device.share_of_cores.cache_clear()
    monkeypatch.setattr(device, "usable_cores", lambda: 2)
    assert device.share_of_cores() == 1


@pytest.mark.parametrize(("free", "stays"), [(409, False), (410, True)])
def test_rows_stay_only_if_a_quarter_of_the_memory_remains_free(load, free, stays):
    gpu = load(stand_in(memory=(free, 1000))).Gpu()
    rows = frozen(np.ones((10, 2)))
    np.testing.assert_array_equal(rows_of(gpu, rows), rows)
    assert (gpu._resident.bytes == 160) is stays


def test_rows_do_not_stay_if_their_memory_cannot_be_allocated(load):
    gpu = load(cupy := stand_in(memory=(1000, 1000))).Gpu()
    cupy.errors["Memory"] = CudaError(2)
    rows = frozen(np.ones((10, 2)))
    np.testing.assert_array_equal(rows_of(gpu, rows), rows)
    assert gpu._resident.bytes == 0
    cupy.errors["Memory"] = CudaError(700)
    with pytest.raises(CudaError, match="700"):
        rows_of(gpu, rows)


def test_rows_that_did_not_arrive_do_not_count(load):
    gpu = load(cupy := stand_in(memory=(1000, 1000))).Gpu()
    rows = frozen(np.ones((10, 2)))
    cupy.errors["alloc_pinned_memory"] = MemoryError("full")
    with pytest.raises(MemoryError):
        rows_of(gpu, rows)
    assert gpu._resident.bytes == 0
    cupy.errors.clear()
    pieces = gpu.pieces(rows, 3)
    next(pieces)
    pieces.close()
    assert gpu._resident.bytes == 0


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (MemoryError("CuPy's exception is one"), Fault.OUT_OF_MEMORY),
        (CudaError(2), Fault.OUT_OF_MEMORY),
        (DriverError(2), Fault.OUT_OF_MEMORY),
        (CudaError(700), Fault.LOST),
        (DriverError(719), Fault.LOST),
        (ValueError("a mistake"), None),
        (RuntimeError("of a library"), None),
    ],
)
def test_errors_of_cuda_are_faults_of_the_gpu(load, error, fault):
    assert load(stand_in()).Gpu().fault_of(error) is fault


def test_any_error_is_a_loss_if_cuda_cannot_be_called_any_more(load):
    gpu = load(cupy := stand_in()).Gpu()
    cupy.errors["deviceSynchronize"] = CudaError(700)
    assert gpu.fault_of(RuntimeError("radix_sort failed")) is Fault.LOST


def test_making_room_frees_rows_buffers_and_pools(load):
    gpu = load(cupy := stand_in(memory=(1000, 1000))).Gpu()
    rows = frozen(np.ones((10, 2)))
    rows_of(gpu, rows)
    rows_of(gpu, np.ones((10, 2)))
    assert gpu._streams._buffers
    gpu.make_room()
    assert gpu._resident.bytes == 0
    assert not gpu._streams._buffers
    assert cupy.freed == ["device", "host"]
    np.testing.assert_array_equal(rows_of(gpu, rows), rows)


def test_an_abandoned_gpu_is_not_touched(load):
    gpu = load(cupy := stand_in(memory=(1000, 1000))).Gpu()
    rows_of(gpu, rows := frozen(np.ones((10, 2))))
    gpu.abandon()
    del rows
    assert cupy.freed == []


def test_where_cupy_is_not_installed_only_the_debug_log_mentions_it():
    missing = "import sys; sys.modules['cupy'] = None\n"
    why = "CuPy is missing; install dkmeans[gpu-cuda12] or dkmeans[gpu-cuda13]"
    assert output_of(missing + SELECTS).splitlines() == [
        f"DEBUG backend cuda cannot be used: {why}",
        "dkmeans.backends.native.backend",
        f"backend 'cuda' cannot be used on this machine: {why}",
    ]


@needs_cupy
def test_where_cupy_sees_no_gpu_a_warning_is_logged_and_the_processor_computes():
    import cupy  # noqa: PLC0415 half a second, where it is installed

    if cupy.cuda.is_available():
        pytest.skip("there is a GPU")
    first, backend, refused = output_of(SELECTS).splitlines()
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
def test_the_error_for_an_old_driver_differs_from_that_for_none(tmp_path):
    (tmp_path / "driver.cpp").write_text(OLD_DRIVER)
    command = ["g++", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.cpp"]
    subprocess.run(command, check=True)
    first, backend, _ = output_of(SELECTS, LD_LIBRARY_PATH=str(tmp_path)).splitlines()
    assert "the NVIDIA driver must support CUDA 1" in first
    assert "got one for CUDA 11.4; update it, or install dkmeans[gpu-cuda12]" in first
    assert backend == "dkmeans.backends.native.backend"
