"""The CUDA backend's choice of an implementation, with devices of the host instead of a GPU."""

import importlib
import shutil
import sys
from types import ModuleType

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.distance import Centers, Distance
from tests.array_device import NumpyDevice
from tests.host_device import HostDevice

BACKEND = "dkmeans.backends.cuda.backend"
DEVICE = "dkmeans.backends.cuda.device"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture
def load(monkeypatch):
    """Import a fresh CUDA backend whose devices are made by the given functions."""

    def load_with(gpu, arrays=NumpyDevice, check=lambda: None):
        device = ModuleType(DEVICE)
        device.Gpu, device.GpuArrays, device.check_device = gpu, arrays, check
        device.describe_device = lambda *, computes_by: {"computes by": computes_by}
        monkeypatch.setitem(sys.modules, DEVICE, device)
        monkeypatch.delitem(sys.modules, BACKEND, raising=False)
        return importlib.import_module(BACKEND)

    yield load_with
    sys.modules.pop(BACKEND, None)


def broken():
    raise RuntimeError("no compiler")


def assert_like_numpy(backend):
    """Check the functions of the module against NumPy's."""
    rows = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    centers = Centers(rows[:9].copy(), Distance.SQUARED_EUCLIDEAN)
    sums, index, distances = backend.assign(rows, centers)
    expected, expected_index, expected_distances = by_numpy.assign(rows, centers)
    assert index.tolist() == expected_index.tolist()
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-13, atol=1e-14)
    for result in (sums, backend.partial_sums(rows, centers)):
        assert result.counts.tolist() == expected.counts.tolist()
        np.testing.assert_allclose(result.sums, expected.sums, rtol=1e-12, atol=1e-12)
    assert backend.nearest(rows, centers)[0].tolist() == index.tolist()
    everything = by_numpy.distances(rows, centers)
    np.testing.assert_allclose(backend.distances(rows, centers), everything, rtol=1e-6, atol=1e-9)


@needs_compiler
def test_the_kernels_compute_if_their_answers_are_correct(load, tmp_path, caplog):
    backend = load(lambda: HostDevice(tmp_path))
    assert backend.describe() == {"computes by": "its own kernels"}
    assert caplog.messages == []
    assert_like_numpy(backend)


def test_cupys_functions_compute_if_the_kernels_cannot_be_used(load, caplog):
    backend = load(broken)
    assert backend.describe() == {"computes by": "CuPy's functions"}
    assert caplog.messages == ["its own kernels cannot be used: no compiler"]
    assert_like_numpy(backend)


def test_the_import_fails_if_nothing_can_compute_or_there_is_no_gpu(load):
    with pytest.raises(ImportError, match="no compiler; CuPy's functions cannot be used: no comp"):
        load(broken, broken)

    def no_gpu():
        raise ImportError("CuPy is installed and sees no GPU")

    with pytest.raises(ImportError, match="sees no GPU"):
        load(broken, check=no_gpu)
