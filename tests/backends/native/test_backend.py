"""The native backend: the same answers for any memory layout, compiled once, cached, GIL-free."""

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from dkmeans import Invalid
from dkmeans.backends import numpy as by_numpy
from dkmeans.backends import select
from dkmeans.backends.native import backend as native
from dkmeans.backends.native import processor
from dkmeans.distance import Centers, Distance
from tests.exactly import same_partial_sums
from tests.programs import files_limited_to
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)

# `squares` needs a kernel that compiles in about a second, half the time of that of `distances`.
PROGRAM = textwrap.dedent(
    """
    import logging, sys
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("dkmeans").setLevel(logging.DEBUG)
    import numpy as np
    from dkmeans.backends import select
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    print("squares", float(select().squares(rows)))
    """
)


SQUARES = "squares 55.0\n"


def start(program, cache, **environment):
    """Start a program with a cache folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def centers_of(values, metric=Distance.SQUARED_EUCLIDEAN):
    return Centers(values, Distance(metric))


def layouts(rows):
    """Yield the same rows in other memory layouts."""
    n, d = rows.shape
    yield "columns first", np.asfortranarray(rows)
    yield "every other row", np.repeat(rows, 2, axis=0)[::2]
    yield "some columns of more", np.hstack([rows, rows])[:, :d]
    yield "backwards", rows[::-1].copy()[::-1]
    odd = np.empty(rows.nbytes + 1, np.uint8)[1:].view(rows.dtype).reshape(n, d)
    odd[:] = rows
    yield "at an odd address", odd
    frozen = rows.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_alignment_change_nothing(dtype):
    rows = np.random.default_rng(0).normal(size=(77, 19)).astype(dtype)
    centers = centers_of(rows[:9].copy())
    sums, (index, distance) = native.partial_sums(rows, centers), native.nearest(rows, centers)
    every, squares = native.distances(rows, centers), native.squares(rows)
    for layout, same in layouts(rows):
        assert np.array_equal(same, rows), layout
        assert same_partial_sums(native.partial_sums(same, centers), sums), layout
        assert native.squares(same) == squares, layout
        assert native.nearest(same, centers)[0].tolist() == index.tolist(), layout
        assert native.nearest(same, centers)[1].tolist() == distance.tolist(), layout
        assert native.distances(same, centers).tobytes() == every.tobytes(), layout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_sums_have_the_same_bits_on_every_kind_of_processor(metric, dtype, monkeypatch):
    rng = np.random.default_rng(3)
    rows, values = rng.normal(size=(999, 21)).astype(dtype), rng.normal(size=(70, 21)).astype(dtype)
    expected = native.partial_sums(rows, centers_of(values, metric))
    monkeypatch.setattr(processor, "matrix_unit", lambda: False)
    for width in (16, 32, 64):
        monkeypatch.setattr(processor, "vector_bytes", lambda width=width: width)
        assert same_partial_sums(native.partial_sums(rows, centers_of(values, metric)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "d"), [(64, 16), (65, 17), (33, 300), (130, 33), (257, 64)])
def test_many_centers_and_columns_give_the_cluster_indices_of_numpy(k, d, metric, dtype):
    rng = np.random.default_rng(k)
    values = rng.normal(size=(k, d)) + 3
    values[k // 2] = values[1]  # a tie for every row of that cluster
    values[k // 3] = values[2] + 1e-6 * rng.normal(size=d)  # nearly a tie
    rows = values[rng.integers(k, size=2001)] + rng.normal(size=(2001, d)) * rng.random((2001, 1))
    rows, centers = rows.astype(dtype), centers_of(values.astype(dtype), metric)
    index, distance = native.nearest(rows, centers)
    expected_index, expected_distance = by_numpy.nearest(rows, centers)
    assert index.tolist() == expected_index.tolist()
    assert distance.tolist() == expected_distance.tolist()
    sums, expected = native.partial_sums(rows, centers), by_numpy.partial_sums(rows, centers)
    assert same_partial_sums(sums, expected)
    assert native.squares(rows) == by_numpy.squares(rows)


def test_other_threads_run_while_a_kernel_does():
    rng = np.random.default_rng(2)
    rows, centers = (
        rng.normal(size=(200_000, 32)).astype("f"),
        centers_of(rng.normal(size=(1024, 32)).astype("f")),
    )
    native.partial_sums(rows[:1], centers)
    # Long enough that the system lets this thread run too, whatever else the machine does.
    kernel = threading.Thread(target=native.partial_sums, args=(rows, centers))
    kernel.start()
    turns = 0
    while kernel.is_alive():
        turns += 1
    assert turns > 1000


def test_processes_that_start_together_compile_once_and_the_next_one_loads(tmp_path):
    together = [start(PROGRAM, tmp_path) for _ in range(2)]
    outputs = [output_of(process) for process in together]
    (first,) = (output for output in outputs if "compiled the kernel" in output)
    assert "compiled the kernel 'square' for float32 in " in first
    assert f"cached in {tmp_path}" in first
    assert all(output.endswith(SQUARES) for output in outputs)
    next_one = output_of(start(PROGRAM, tmp_path))
    assert "loaded the compiled kernel 'square' for float32" in next_one
    assert next_one.endswith(SQUARES)


def test_a_full_disk_costs_the_cached_code_and_nothing_else(tmp_path):
    output = output_of(start(files_limited_to(1000) + PROGRAM, tmp_path))
    assert "the compiled kernel cannot be cached on disk" in output
    assert output.endswith(SQUARES)


def test_the_native_backend_is_the_default_and_numpy_runs_without_importing_numba(tmp_path):
    assert select() is select("native") is native
    program = PROGRAM.replace("select()", 'select("numpy")') + "assert 'numba' not in sys.modules"
    assert output_of(start(program, tmp_path)) == SQUARES


def test_where_numba_cannot_be_imported_numpy_computes_and_the_log_has_the_reason(tmp_path):
    missing = "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None\n"
    process = start(missing + PROGRAM, tmp_path)
    without_jit = start(PROGRAM, tmp_path, NUMBA_DISABLE_JIT="1")
    explicit = start(missing + PROGRAM.replace("select()", 'select("native")'), tmp_path)
    output = output_of(process)
    assert "\nbackend native cannot be used: " in output
    assert output.endswith(SQUARES)
    output = output_of(without_jit)
    assert "\nbackend native cannot be used: NUMBA_DISABLE_JIT is set" in output
    refused, _ = explicit.communicate(timeout=60)
    assert explicit.returncode != 0
    assert "Invalid: backend 'native' cannot be used on this machine: " in refused


def test_a_backend_that_does_not_exist_is_refused():
    with pytest.raises(Invalid, match="backend must be one of cuda, native, numpy, got 'cobol'"):
        select("cobol")
