"""What the native backend finds out about this processor."""

import llvmlite.binding as llvm
import pytest
from numba.core import config

from dkmeans.backends.native import processor

HOST = set(llvm.get_host_cpu_features().flatten().split(","))


def test_the_instruction_sets_are_those_that_numba_compiles_for(monkeypatch):
    assert processor.features() - {"+dotprod"} == HOST - {"+dotprod"}
    monkeypatch.setattr(config, "CPU_FEATURES", "+avx,-avx512f")
    assert processor.features() == {"+avx", "-avx512f"}
    assert processor.vector_bytes.__wrapped__() == 32


@pytest.mark.parametrize("has", [True, False])
def test_arm_processors_multiply_bytes_if_the_operating_system_reports_it(has, monkeypatch):
    monkeypatch.setattr(processor, "is_arm", lambda: True)
    monkeypatch.setattr(processor, "_has_dot_products", lambda: has)
    monkeypatch.setattr(processor, "features", processor._own_features.__wrapped__)
    assert processor.multiplies_bytes() is has
