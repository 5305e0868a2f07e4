"""The CUDA backend as `select` imports it, with a device of the host instead of a GPU."""

import importlib
import shutil
import sys
from types import ModuleType

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda import kernel_trial
from dkmeans.backends.cuda.fallback import Fault
from dkmeans.backends.weighted import weighted_squares
from dkmeans.distance import Centers, Distance
from dkmeans.state import on_host
from tests.backends.cuda.problems import assert_same_sums
from tests.exactly import same_sums
from tests.host_device import HostDevice

BACKEND = "dkmeans.backends.cuda.backend"
DEVICE = "dkmeans.backends.cuda.device"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


class Lost(RuntimeError):
    """A stand-in for CUDA's errors."""


class Gpu(HostDevice):
    """The host as a GPU that fails on demand.

    Attributes:
        errors: Errors of the next calls of `pieces`.
        made_room: How often it was asked to make room.
        piece_bytes: Largest size of a piece of rows with its results.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.errors, self.made_room, self.piece_bytes = [], 0, 2**30

    def pieces(self, points, max_rows):
        if self.errors:
            raise self.errors.pop(0)
        return super().pieces(points, max_rows)

    def fault_of(self, error):
        if isinstance(error, MemoryError):
            return Fault.OUT_OF_MEMORY
        return Fault.LOST if isinstance(error, Lost) else None

    def make_room(self):
        self.made_room += 1

    def abandon(self):
        pass


@pytest.fixture
def gpu(compiled):
    return Gpu(compiled)


@pytest.fixture
def load(monkeypatch, gpu):
    """Import a fresh CUDA backend on the device of the host, with these functions for checks."""

    def load_with(check_device=lambda: None, check=lambda implementation: None):
        device = ModuleType(DEVICE)
        device.Gpu, device.check_device = lambda: gpu, check_device
        device.describe_device = lambda: {"GPU": "the host"}
        device.share_of_cores = lambda: 12
        monkeypatch.setitem(sys.modules, DEVICE, device)
        monkeypatch.setattr(kernel_trial, "check", check, raising=False)
        monkeypatch.delitem(sys.modules, BACKEND, raising=False)
        return importlib.import_module(BACKEND)

    yield load_with
    sys.modules.pop(BACKEND, None)


def refusing(message):
    def check(*arguments):
        raise ImportError(message)

    return check


def assert_like_numpy(backend):
    """Check the functions of the module against NumPy's."""
    rows = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    centers = Centers(rows[:9].copy(), Distance.SQUARED_EUCLIDEAN)
    sums, index, distances = backend.assign(rows, centers)
    expected, expected_index, expected_distances = by_numpy.assign(rows, centers)
    assert index.tolist() == expected_index.tolist()
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-13, atol=1e-14)
    assert_same_sums(sums, expected)
    assert_same_sums(on_host(backend.partial_sums(rows, centers)), expected)
    assert backend.squares(rows) == by_numpy.squares(rows)
    assert backend.nearest(rows, centers)[0].tolist() == index.tolist()
    everything = by_numpy.distances(rows, centers)
    np.testing.assert_allclose(backend.distances(rows, centers), everything, rtol=1e-6, atol=1e-9)


def test_the_kernels_compute_after_their_trial(load, caplog):
    tried = []
    backend = load(check=tried.append)
    assert [type(implementation).__name__ for implementation in tried] == ["Launches"]
    assert backend.describe() == {"GPU": "the host"}
    assert backend.cores_per_gpu() == 12
    assert_like_numpy(backend)
    assert caplog.messages == []


def test_the_import_fails_with_the_reason_of_either_check(load):
    with pytest.raises(ImportError, match="sees no GPU"):
        load(check_device=refusing("CuPy is installed and sees no GPU"))
    with pytest.raises(ImportError, match="other answers than NumPy"):
        load(check=refusing("the kernels give other answers than NumPy"))


def test_out_of_memory_smaller_pieces_are_computed_and_then_the_processor(load, gpu, caplog):
    backend = load()
    gpu.errors = [MemoryError("full")]
    assert_like_numpy(backend)
    assert (gpu.made_room, caplog.messages) == (1, [])
    gpu.errors = [MemoryError("full"), MemoryError("full")]
    assert_like_numpy(backend)
    assert gpu.made_room == 2
    assert len(caplog.messages) == 1


def test_after_the_loss_of_the_gpu_the_processor_computes(load, gpu, caplog):
    backend = load()
    gpu.errors = [Lost("illegal address")] * 100
    assert_like_numpy(backend)
    assert len(gpu.errors) == 99
    assert caplog.messages == [
        "the GPU failed; this process computes on its processor from now on: illegal address"
    ]


@pytest.mark.parametrize("metric", list(Distance))
def test_the_two_nearest_centers_and_their_distances_have_the_bits_of_numpy(load, metric):
    backend = load()
    rows = np.random.default_rng(2).normal(size=(200, 4)).astype(np.float32)
    centers = Centers(rows[:30].copy(), metric)
    index, distances = backend.nearest_two(rows, centers)
    expected_index, expected = by_numpy.nearest_two(rows, centers)
    assert index.tolist() == expected_index.tolist()
    assert distances.tobytes() == expected.tobytes()
    sums, first, both = backend.assign_two(rows, centers)
    assert_same_sums(on_host(sums), by_numpy.partial_sums(rows, centers))
    assert first.tolist() == index[:, 0].tolist()
    assert np.ascontiguousarray(both.T).tobytes() == expected.tobytes()


@pytest.mark.parametrize("metric", list(Distance))
def test_rows_with_weights_are_assigned_by_the_kernels_and_added_up_by_the_processor(load, metric):
    backend = load()
    rng = np.random.default_rng(3)
    rows, weights = rng.normal(size=(200, 4)).astype(np.float32), rng.random(200)
    centers = Centers(rows[:6], metric)
    index = backend.nearest_index(rows, centers)
    assert index.tolist() == by_numpy.nearest_index(rows, centers).tolist()
    sums = [
        each.weighted_sums(rows, weights, index, centers, None)[0] for each in (backend, by_numpy)
    ]
    assert_same_sums(*sums)
    assert same_sums(sums[0].weights, sums[1].weights)
    total = on_host(backend.partial_sums(rows, centers) + sums[0])
    assert total.counts.tolist() == (2 * sums[0].counts).tolist()
    squares = [weighted_squares(each, rows, weights) for each in (backend, by_numpy)]
    assert squares[0] == squares[1]
