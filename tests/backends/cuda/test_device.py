"""The GPU as CuPy shows it: the errors without CuPy, without a GPU, and with an old driver.

Most tests replace CuPy by a stand-in. Those with the real CuPy run where it is installed.
"""

import importlib
import importlib.util
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

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
    """A stand-in for CuPy's exception."""

    def __init__(self, status):
        super().__init__(f"cudaError{status}")
        self.status = status


def stand_in(*, count=1, driver=12090, library=12090):
    """Make a module with the functions of CuPy that `device` calls about the GPU.

    Args:
        count: Number of GPUs, or the exception that CUDA raises.
        driver: Version of CUDA that the driver supports, as CUDA's number.
        library: Version of CUDA's libraries.
    """

    def device_count():
        if isinstance(count, Exception):
            raise count
        return count

    properties = {"name": b"NVIDIA Test", "totalGlobalMem": 80 * 2**30}
    runtime = SimpleNamespace(
        CUDARuntimeError=CudaError,
        getDeviceCount=device_count,
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: library,
        getDeviceProperties=lambda number: properties,
    )
    cuda = SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0))
    return SimpleNamespace(cuda=cuda, __version__="14.0.0")


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
    assert device.describe_device(computes_by="its own kernels") == {
        "GPU": "NVIDIA Test",
        "memory": "80 GiB",
        "computes by": "its own kernels",
        "CuPy": "14.0.0",
        "CUDA": "12.9, driver for 13.1",
    }


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
