"""The compiled kernels: the same answers for any memory layout, compiled once, kept, and free."""

import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans import Invalid
from dkmeans.backends import numpy as by_numpy
from dkmeans.backends import select
from dkmeans.backends.native import backend as native
from dkmeans.backends.native import kernels, matrix, packing, vectors
from dkmeans.distance import Centers, Distance
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)

PROGRAM = textwrap.dedent(
    """
    import logging, sys
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("dkmeans").setLevel(logging.DEBUG)
    import numpy as np
    from dkmeans.backends import select
    from dkmeans.distance import Centers, Distance
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    sums = select().partial_sums(rows, Centers(rows[::3].copy(), Distance.SQUARED_EUCLIDEAN))
    print("counts", sums.counts.tolist())
    """
)


def start(program, cache, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def of(values, metric=Distance.SQUARED_EUCLIDEAN):
    return Centers(values, Distance(metric))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@given(width=st.integers(1, 700), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_distances_have_the_bits_that_numpy_gives_them(metric, dtype, width, seed):
    rows = np.random.default_rng(seed).normal(size=(13, width)).astype(dtype)
    centers = of(rows[:5] + dtype(0.5), metric)
    index, apart = native.nearest(rows, centers)
    expected_index, expected = by_numpy.nearest(rows, centers)
    assert index.tolist() == expected_index.tolist()
    assert apart.tobytes() == expected.tobytes()


def layouts(rows):
    """The same rows as memory may hold them."""
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
    centers = of(rows[:9].copy())
    sums, (index, apart) = native.partial_sums(rows, centers), native.nearest(rows, centers)
    every = native.distances(rows, centers)
    for layout, same in layouts(rows):
        assert np.array_equal(same, rows), layout
        own = native.partial_sums(same, centers)
        assert own.sums.tobytes() == sums.sums.tobytes(), layout
        assert own.inertia == sums.inertia, layout
        assert native.nearest(same, centers)[0].tolist() == index.tolist(), layout
        assert native.nearest(same, centers)[1].tolist() == apart.tolist(), layout
        assert native.distances(same, centers).tobytes() == every.tobytes(), layout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_sums_have_the_same_bits_on_every_kind_of_processor(metric, dtype, monkeypatch):
    rng = np.random.default_rng(3)
    rows, values = rng.normal(size=(999, 21)).astype(dtype), rng.normal(size=(70, 21)).astype(dtype)
    expected = native.partial_sums(rows, of(values, metric))
    monkeypatch.setattr(packing, "matrix_unit", lambda: False)
    for width in (16, 32, 64):
        monkeypatch.setattr(packing, "vector_bytes", lambda width=width: width)
        found = native.partial_sums(rows, of(values, metric))
        assert found.sums.tobytes() == expected.sums.tobytes()
        assert found.counts.tolist() == expected.counts.tolist()
        assert found.inertia == expected.inertia


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_a_thread_that_changes_its_shapes_keeps_nothing_of_the_last(metric, dtype):
    rng = np.random.default_rng(1)
    problems = []
    for n, d, k in ((50, 3, 4), (9, 130, 2), (70, 17, 60), (33, 3, 5)):
        rows = rng.normal(size=(n, d)).astype(dtype)
        problems.append((rows, of(rows[:k].copy(), metric)))
    first = [native.partial_sums(*problem) for problem in problems]
    again = [native.partial_sums(*problem) for problem in reversed(problems)]
    for one, other in zip(first, reversed(again), strict=True):
        assert one.sums.tobytes() == other.sums.tobytes()
        assert one.counts.tolist() == other.counts.tolist()


def test_other_threads_run_while_a_kernel_does():
    rng = np.random.default_rng(2)
    rows, centers = rng.normal(size=(60_000, 32)).astype("f"), of(rng.normal(size=(512, 32)))
    native.partial_sums(rows[:1], centers)
    kernel = threading.Thread(target=native.partial_sums, args=(rows, centers))
    kernel.start()
    turns = 0
    while kernel.is_alive():
        turns += 1
    assert turns > 1000


def test_the_first_process_compiles_and_says_so_and_the_next_one_loads(tmp_path):
    first = said(start(PROGRAM, tmp_path))
    assert "compiled the kernel 'assign' for float32 in " in first
    assert f"kept in {tmp_path}" in first
    second = said(start(PROGRAM, tmp_path))
    assert "loaded the compiled kernel 'assign' for float32" in second
    assert first.splitlines()[-1] == second.splitlines()[-1] == "counts [2, 4]"


def test_processes_that_start_together_compile_once(tmp_path):
    together = [start(PROGRAM, tmp_path) for _ in range(3)]
    outputs = [said(process) for process in together]
    assert sum("compiled the kernel" in output for output in outputs) == 1
    assert all(output.endswith("counts [2, 4]\n") for output in outputs)


def test_a_full_disk_costs_the_kept_code_and_nothing_else(tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    output = said(start(full + PROGRAM, tmp_path))
    assert "the compiled kernel cannot be kept on disk" in output
    assert output.endswith("counts [2, 4]\n")


def test_the_compiled_backend_is_the_default_and_numpy_runs_without_any_of_it(tmp_path):
    assert select() is select("native") is native
    program = PROGRAM.replace("select()", 'select("numpy")') + "assert 'numba' not in sys.modules"
    assert said(start(program, tmp_path)) == "counts [2, 4]\n"


def test_where_numba_cannot_be_imported_numpy_computes_and_the_log_says_why(tmp_path):
    missing = "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None\n"
    output = said(start(missing + PROGRAM, tmp_path))
    assert "\nbackend native cannot be used: " in output
    assert output.endswith("counts [2, 4]\n")
    output = said(start(PROGRAM, tmp_path, NUMBA_DISABLE_JIT="1"))
    assert "\nbackend native cannot be used: NUMBA_DISABLE_JIT is set" in output
    asked = missing + PROGRAM.replace("select()", 'select("native")')
    process = start(asked, tmp_path)
    refused, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Invalid: backend 'native' cannot be used on this machine: " in refused


def test_the_kept_code_goes_stale_with_the_intrinsics_it_is_made_of():
    files = [Path(module.__file__).read_bytes() for module in (vectors, matrix)]
    assert hashlib.sha256(b"".join(files)).hexdigest()[:12] == kernels.INTRINSICS


def test_a_backend_that_does_not_exist_is_refused():
    with pytest.raises(Invalid, match="backend must be one of cuda, native, numpy, got 'cobol'"):
        select("cobol")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("k", "d"), [(64, 16), (65, 17), (33, 300), (130, 33), (257, 64)])
def test_many_centers_and_columns_give_the_labels_that_numpy_gives(k, d, metric, dtype):
    rng = np.random.default_rng(k)
    values = rng.normal(size=(k, d)) + 3
    values[k // 2] = values[1]  # a tie for every row of that cluster
    values[k // 3] = values[2] + 1e-6 * rng.normal(size=d)  # and nearly one
    rows = values[rng.integers(k, size=2001)] + rng.normal(size=(2001, d)) * rng.random((2001, 1))
    rows, centers = rows.astype(dtype), of(values.astype(dtype), metric)
    index, apart = native.nearest(rows, centers)
    expected, nearest = by_numpy.nearest(rows, centers)
    assert index.tolist() == expected.tolist()
    assert apart.tolist() == nearest.tolist()
    sums, others = native.partial_sums(rows, centers), by_numpy.partial_sums(rows, centers)
    assert sums.counts.tolist() == others.counts.tolist()
    np.testing.assert_allclose(sums.sums, others.sums, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(sums.inertia, others.inertia, rtol=1e-11)


def test_a_matrix_unit_is_used_for_large_problems_only():
    if not packing.matrix_unit():
        pytest.skip("this processor has no matrix unit")

    def used(k, d, dtype, scale=1.0):
        centers = of((np.random.default_rng(0).normal(size=(k, d)) * scale).astype(dtype))
        return bool(native._prepared(centers, np.dtype(dtype))[0].matrix)

    assert used(64, 16, np.float32)
    assert not used(63, 16, np.float32)
    assert not used(64, 15, np.float32)
    assert used(64, 16, np.float64)
    assert not used(64, 16, np.float32, scale=1e-30)


@pytest.mark.parametrize("metric", METRICS)
def test_every_way_of_scoring_gives_the_same_bits(metric, monkeypatch):
    rng = np.random.default_rng(4)
    values = rng.normal(size=(80, 20)) + 1e3
    rows = values[rng.integers(80, size=700)] + rng.normal(size=(700, 20))
    found = []
    for way in packing.ways(np.dtype(np.float64)):
        monkeypatch.setattr(packing, "ways", lambda dtype, way=way: (way,))
        sums = native.partial_sums(rows, of(values.copy(), metric))
        index, apart = native.nearest(rows, of(values.copy(), metric))
        found.append((sums.sums.tobytes(), sums.inertia, index.tolist(), apart.tolist()))
    assert found[0] == found[1] == found[2]


def test_a_way_of_scoring_that_leaves_many_rows_in_doubt_is_left():
    rng = np.random.default_rng(5)
    far = np.repeat([[1e6, 0.0], [-1e6, 0.0]], 20, axis=0)
    values = far + rng.normal(size=(40, 2))
    rows = np.tile(far, (20, 1)) + rng.normal(size=(800, 2))
    prepared = packing.Prepared()
    centers, dtype = of(values), np.dtype(np.float64)
    expected = by_numpy.nearest(rows, centers)[0].tolist()
    assert prepared(centers, dtype)[1].weights.dtype == np.float32
    prepared.learn(centers, dtype, 800, 79)
    prepared.learn(centers, dtype, 255, 255)
    assert prepared(centers, dtype)[1].weights.dtype == np.float32
    for _ in range(3):
        prepared.learn(centers, dtype, 800, 81)
    assert prepared(centers, dtype)[1].weights.dtype == np.float64
    for _ in range(3):
        assert native.nearest(rows, of(values))[0].tolist() == expected
    assert native._prepared(of(values), dtype)[1].weights.dtype == np.float64
