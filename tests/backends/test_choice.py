"""The choice of the backend: the fastest that this machine can use, unless one is named."""

import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from dkmeans.backends import choice
from dkmeans.config import BACKENDS


@pytest.fixture
def choose(monkeypatch):
    """Function that chooses on a machine where some backends cannot be imported."""

    def choose(unusable, name=None):
        def load(backend):
            if backend in unusable:
                raise ImportError("not here", name=unusable[backend])
            return backend

        monkeypatch.setattr(choice, "_load", load)
        return choice.select.__wrapped__(name)

    return choose


def test_the_first_backend_that_can_be_used_is_chosen(choose):
    assert BACKENDS == ("cuda", "native", "numpy")
    assert choose({}) == "cuda"
    assert choose({"cuda": "cupy"}) == "native"
    assert choose({"cuda": "cupy", "native": "numba"}) == "numpy"


def test_a_named_backend_is_chosen_before_a_faster_one(choose):
    assert choose({}, "numpy") == "numpy"


def test_without_a_gpu_the_fastest_of_the_other_backends_is_chosen(monkeypatch):
    monkeypatch.setattr(choice, "_load", lambda name: name)
    assert choice.select_processor.__wrapped__() == "native"

    def without_numba(name):
        if name == "native":
            raise ImportError("not here", name="numba")
        return name

    monkeypatch.setattr(choice, "_load", without_numba)
    assert choice.select_processor.__wrapped__() == "numpy"


def test_a_driver_without_numba_trains_with_workers_that_have_it(monkeypatch):
    def without_numba(name):
        if name == "native":
            raise ImportError("not here", name="numba")
        return name

    monkeypatch.setattr(choice, "_load", without_numba)
    assert choice.select_processor.__wrapped__("native") == "numpy"
    monkeypatch.setattr(choice, "_load", lambda name: name)
    chosen = [choice.select_processor.__wrapped__(name) for name in BACKENDS]
    assert chosen == ["native", "native", "numpy"]


def test_only_a_backend_that_should_be_usable_is_warned_of(choose, caplog):
    caplog.set_level(logging.DEBUG, "dkmeans")
    choose({"cuda": "cupy", "native": "numba"})
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.DEBUG, "backend cuda cannot be used: not here"),
        (logging.WARNING, "backend native cannot be used: not here"),
    ]


def test_a_process_chooses_once():
    assert choice.select() is choice.select()
    assert choice.select("numpy") is choice.select("numpy")


def test_only_the_cuda_backend_is_a_gpu_whose_cores_are_known(monkeypatch):
    module = ModuleType("dkmeans.backends.cuda.backend")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert choice.cores_per_gpu() is None  # another thread still imports it
    module.cores_per_gpu = lambda: 7
    assert choice.cores_per_gpu() == 7
    monkeypatch.setattr(choice, "select", lambda: module)
    assert choice.chooses_gpu()
    monkeypatch.setattr(choice, "select", lambda: sys)
    assert not choice.chooses_gpu()
    monkeypatch.delitem(sys.modules, module.__name__)
    assert choice.cores_per_gpu() is None


def test_threads_that_choose_at_once_import_a_backend_one_after_the_other(monkeypatch):
    importing, most = [], []

    def import_module(path):
        importing.append(path)
        time.sleep(0.01)
        most.append(len(importing))
        importing.remove(path)
        raise ImportError("not here", name="cupy")

    def fails():
        with pytest.raises(ImportError):
            choice._load("cuda")

    monkeypatch.setattr(choice.importlib, "import_module", import_module)
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(fails) for _ in range(4)]:
            each.result()
    assert most == [1] * 4
