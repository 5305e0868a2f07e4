"""What the native backend finds out about this processor."""

import llvmlite.binding as llvm
from numba.core import config

from dkmeans.backends.native import processor


def test_the_instruction_sets_are_those_that_numba_compiles_for(monkeypatch):
    host = llvm.get_host_cpu_features().flatten().split(",")
    assert processor.features() == set(host)
    monkeypatch.setattr(config, "CPU_FEATURES", "+avx,-avx512f")
    assert processor.features() == {"+avx", "-avx512f"}
    assert processor.vector_bytes.__wrapped__() == 32
