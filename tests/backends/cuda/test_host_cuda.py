"""The emulation of CUDA on the host (tests/host_cuda.h), tested with small kernels.

A fault in a kernel that would show on a GPU must show on the host too. So most kernels here have a
fault, and the tests check that the emulation finds it.
"""

import ctypes
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dkmeans.backends.cuda.kernel_device import THREADS
from tests.host_device import CHECKS, HostDevice, compile_kernels, kernel_names

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")

WARPS = THREADS // 32
POISON = 0xFFFFFFFF

KERNELS = r"""
#define THREADS 256
#ifndef ON_HOST
#error "the header did not define ON_HOST"
#endif
#define SHIFT_BY(LANES)                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) shift_by_##LANES(int *out) {        \
        out[threadIdx.x] = shuffle((int)threadIdx.x, threadIdx.x % 32 + LANES);               \
    }
SHIFT_BY(1)
SHIFT_BY(40)

// --- Kernels without a fault ---

// Warp w multiplies a[w], (16, depth), and b[w], (depth, 8).
extern "C" __global__ void __launch_bounds__((THREADS), 1)
multiply_matrices(const unsigned short *a, const unsigned short *b, int depth, float *product) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    a += warp * 16 * depth, b += warp * depth * 8, product += warp * 16 * 8;
    float sums[4] = {0, 0, 0, 0};
    for (int k = 0; k < depth; k += 16) {
        auto pair_of_a = [&](int row, int column) {
            return a[row * depth + k + column] | (unsigned)a[row * depth + k + column + 1] << 16;
        };
        auto pair_of_b = [&](int row) {
            return b[(k + row) * 8 + g] | (unsigned)b[(k + row + 1) * 8 + g] << 16;
        };
        const unsigned parts[4] = {pair_of_a(g, 2 * t), pair_of_a(g + 8, 2 * t),
                                   pair_of_a(g, 2 * t + 8), pair_of_a(g + 8, 2 * t + 8)};
        multiply(sums, parts, pair_of_b(2 * t), pair_of_b(2 * t + 8));
    }
    for (int i = 0; i < 4; ++i) product[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}

extern "C" __global__ void convert(const float *values, int n, unsigned short *halves,
                                   float *back) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    halves[i] = half_bits(values[i]);
    back[i] = half_value(halves[i]);
}

// Only the first warp adds up; the others wait at the barrier.
extern "C" __global__ void add_up(const double *values, double *totals) {
    double total = values[threadIdx.x];
    if (threadIdx.x < 32)
        for (int mask = 16; mask; mask /= 2) total += shuffle_xor(total, mask);
    __syncthreads();
    totals[threadIdx.x] = total;
}

extern "C" __global__ void copy_in_groups(const uint4 *from, uint4 *seen) {
    const int thread = threadIdx.x;
    uint4 *own = dynamic_memory + thread * 2;
    auto look = [&](int moment) {
        for (int i = 0; i < 2; ++i) seen[(moment * THREADS + thread) * 2 + i] = own[i];
    };
    own[0] = own[1] = uint4{7, 7, 7, 7};
    copy_async(own, from + thread * 2);
    commit_copies();
    copy_async(own + 1, from + thread * 2 + 1);
    wait_copies<0>();
    look(0);  // the second copy's group is still open
    commit_copies();
    wait_copies<1>();
    look(1);
    wait_copies<0>();
    look(2);
}

extern "C" __global__ void count(unsigned *total, unsigned *before, unsigned long long *least,
                                 unsigned long long *largest, int *last, int *any) {
    before[threadIdx.x] = atomicAdd(total, 1u);
    atomicMin(least, 1ull << threadIdx.x % 64);
    atomicMax(largest, 1ull << threadIdx.x % 64);
    any[threadIdx.x] = atomicExch(last, (int)threadIdx.x);
}

extern "C" __global__ void combine_bits(unsigned *bits) {
    atomicOr(bits + threadIdx.x / 32, 1u << threadIdx.x % 32);
}

extern "C" __global__ void multiply_wide(const unsigned long long *a, const unsigned long long *b,
                                         unsigned long long *upper) {
    upper[threadIdx.x] = __umul64hi(a[threadIdx.x], b[threadIdx.x]);
}

// Note the order in which the threads run, before and after a barrier.
extern "C" __global__ void note_order(unsigned *tickets, unsigned *threads) {
    threads[atomicAdd(&tickets[0], 1u)] = threadIdx.x;
    __syncthreads();
    threads[THREADS + atomicAdd(&tickets[1], 1u)] = threadIdx.x;
    __syncwarp();
    threads[2 * THREADS + atomicAdd(&tickets[2], 1u)] = threadIdx.x;
}

template <int N>
static __device__ int *array_of_template() {
    __shared__ int array[N];
    return array;
}

// --- Kernels with a fault that changes results ---

extern "C" __global__ void read_before_writing(unsigned *seen) {
    __shared__ unsigned array[THREADS];
    unsigned *arrays[3] = {array, (unsigned *)array_of_template<THREADS>(),
                           (unsigned *)dynamic_memory};
    for (int i = 0; i < 3; ++i) {
        seen[(blockIdx.x * 3 + i) * THREADS + threadIdx.x] = arrays[i][threadIdx.x];
        arrays[i][threadIdx.x] = 7;
    }
}

extern "C" __global__ void read_what_is_never_written(unsigned *seen) {
    __shared__ unsigned array[THREADS];
    seen[threadIdx.x] = array[threadIdx.x];
}

extern "C" __global__ void miss_barrier(unsigned *seen) {
    __shared__ unsigned array[THREADS];
    array[threadIdx.x] = threadIdx.x;
    seen[threadIdx.x] = array[THREADS - 1 - threadIdx.x];
}

// The warps meet themselves often enough, but not each other.
extern "C" __global__ void miss_barrier_between_warps(unsigned *seen) {
    __shared__ unsigned array[THREADS];
    array[threadIdx.x] = threadIdx.x;
    for (int i = 0; i < 3; ++i) __syncwarp();
    seen[threadIdx.x] = array[THREADS - 1 - threadIdx.x];
}

extern "C" __global__ void miss_warp_barrier(unsigned *seen) {
    __shared__ unsigned array[THREADS];
    array[threadIdx.x] = threadIdx.x;
    seen[threadIdx.x] = array[threadIdx.x ^ 31];
}

extern "C" __global__ void read_the_copy_of_another(const uint4 *from, uint4 *seen) {
    copy_async(dynamic_memory + threadIdx.x, from + threadIdx.x);
    commit_copies();
    wait_copies<0>();
    seen[threadIdx.x] = dynamic_memory[threadIdx.x ^ 1];
}

// --- Kernels with a fault that ends the process ---

extern "C" __global__ void exit_before_barrier(unsigned *) {
    if (threadIdx.x < 64) return;
    __syncthreads();
}
extern "C" __global__ void exit_before_shuffle(int *out) {
    if (threadIdx.x == 5) return;
    out[threadIdx.x] = shuffle_xor((int)threadIdx.x, 1);
}
extern "C" __global__ void shuffle_in_half_a_warp(int *out) {
    if (threadIdx.x < 16) out[threadIdx.x] = shuffle_xor((int)threadIdx.x, 1);
    __syncthreads();
}
extern "C" __global__ void meet_at_different_places(int *out) {
    if (threadIdx.x % 2)
        __syncwarp();
    else
        out[threadIdx.x] = shuffle(1, 0);
}
extern "C" __global__ void meet(int *) {
    __syncwarp();
}
extern "C" __global__ void copy_to_an_odd_place(const char *from) {
    copy_async((char *)dynamic_memory + 8, from);
}
extern "C" __global__ void copy_from_an_odd_place(const char *from) {
    copy_async(dynamic_memory, from + 4);
}
extern "C" __global__ void copy_to_global_memory(char *memory) {
    copy_async(memory, memory + 16);
}
extern "C" __global__ void write_past_shared_array(int *out) {
    __shared__ int array[THREADS];
    int *volatile place = array + threadIdx.x;  // hides the array's size from the compiler
    place[1] = 7;
    out[threadIdx.x] = array[threadIdx.x];
}
extern "C" __global__ void write_past_dynamic_memory(int *) {
    ((volatile int *)dynamic_memory)[threadIdx.x + 1] = 7;
}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuda") / "small.cu"
    path.write_text(KERNELS)
    return path


@pytest.fixture(scope="module")
def library(source):
    return compile_kernels(source.parent, np.dtype(np.float32), source=source)


@pytest.fixture(scope="module")
def launch(source, library):
    """Return a function that launches a kernel in an order of the threads."""
    device = HostDevice(source.parent, source=source)
    device._library = lambda dtype: ctypes.CDLL(str(library))

    def run(kernel, *arguments, order=0, blocks=1, shared_bytes=0):
        device.order = order
        device.launch(kernel, np.float32, blocks, *arguments, shared_bytes=shared_bytes)

    return run


def empty(*shape, dtype=np.uint32):
    return HostDevice.xp.empty(shape, dtype)


# --- Matrices ---


def product_of(launch, a, b):
    """Multiply float16 matrices, (8, 16, depth) and (8, depth, 8), one pair in each warp."""
    product = empty(WARPS, 16, 8, dtype=np.float32)
    launch("multiply_matrices", a, b, np.int32(a.shape[-1]), product)
    return product


@pytest.mark.parametrize("depth", [16, 128])
def test_small_whole_numbers_are_multiplied_exactly(launch, depth):
    rng = np.random.default_rng(0)
    a = rng.integers(-20, 20, (WARPS, 16, depth)).astype(np.float16)
    b = rng.integers(-20, 20, (WARPS, depth, 8)).astype(np.float16)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    assert product_of(launch, a, b).tolist() == expected.tolist()


@pytest.mark.parametrize("depth", [16, 128])
@pytest.mark.parametrize("exponents", [1, 8])
def test_the_error_of_a_product_is_below_its_bound(launch, depth, exponents):
    rng = np.random.default_rng(depth)
    scale = 2.0 ** rng.integers(-exponents, exponents, (WARPS, 16, depth))
    a = (rng.normal(size=(WARPS, 16, depth)) * scale).astype(np.float16)
    b = rng.normal(size=(WARPS, depth, 8)).astype(np.float16)
    exact, size = a.astype("d") @ b.astype("d"), abs(a.astype("d")) @ abs(b.astype("d"))
    error = abs(product_of(launch, a, b) - exact)
    assert (error <= depth * 2.0**-22 * size).all()
    assert error.max() > 0


def test_a_product_of_positive_numbers_is_never_too_large_and_mostly_too_small(launch):
    rng = np.random.default_rng(1)
    a = rng.random((WARPS, 16, 64)).astype(np.float16)
    b = rng.random((WARPS, 64, 8)).astype(np.float16)
    found, exact = product_of(launch, a, b), a.astype("d") @ b.astype("d")
    assert (found <= exact).all()
    assert (found < exact).mean() > 0.9
    assert product_of(launch, -a, b).tolist() == (-found).tolist()


def test_each_small_product_is_truncated_next_to_a_large_one(launch):
    # 15 products of 2^-24 are lost beside 1, though together they are 2^-20. The second half of
    # the products loses them beside the sum of the first half.
    a, b = np.full((WARPS, 16, 16), 2.0**-12, "e"), np.full((WARPS, 16, 8), 2.0**-12, "e")
    assert (product_of(launch, a, b) == 2.0**-20).all()
    a[..., 0] = b[:, 0] = 1
    assert (product_of(launch, a, b) == 1).all()


def test_a_product_of_numbers_that_are_not_finite_is_not_finite(launch):
    a, b = np.ones((WARPS, 16, 16), np.float16), np.ones((WARPS, 16, 8), np.float16)
    a[0, 3, 9], a[1, 2, 3], b[1, 3, 4] = np.inf, np.inf, 0
    found = product_of(launch, a, b)
    assert (found[0, 3] == np.inf).all()
    assert np.isnan(found[1, 2]).tolist() == [column == 4 for column in range(8)]
    assert np.isfinite(found[2:]).all()


def test_float16_numbers_are_converted_as_by_numpy(launch):
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    # Halfway between neighbors, and next to halfway.
    with np.errstate(invalid="ignore"):
        near = every * np.float32(1 + 2.0**-11)
    values = np.concatenate([every, near, np.nextafter(near, 0), np.nextafter(near, np.inf)])
    limits = [65504, 65519.996, 65520, 1e30, 2.0**-25, 2.0**-25 * 1.001, 1e-40]
    values = np.concatenate([values, np.array(limits, "f")])
    halves, back = empty(len(values), dtype=np.uint16), empty(len(values), dtype=np.float32)
    blocks = -(-len(values) // THREADS)
    launch("convert", values, np.int32(len(values)), halves, back, blocks=blocks)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    a_number = ~np.isnan(values)
    assert (np.isnan(halves.view(np.float16)) == ~a_number).all()
    assert (halves == expected.view(np.uint16))[a_number].all()
    assert back.tobytes() == halves.view(np.float16).astype(np.float32).tobytes()


# --- Warps and copies ---


@pytest.mark.parametrize("order", [0, 1, 2])
def test_shuffles_exchange_values_within_a_warp(launch, order):
    values, totals = np.arange(THREADS, dtype="d") ** 2, empty(THREADS, dtype=np.float64)
    launch("add_up", values, totals, order=order)
    assert totals.tolist() == [values[:32].sum()] * 32 + values[32:].tolist()
    threads, out = np.arange(THREADS), empty(THREADS, dtype=np.int32)
    for lanes in (1, 40):
        launch(f"shift_by_{lanes}", out, order=order)
        assert out.tolist() == (threads // 32 * 32 + (threads + lanes) % 32).tolist()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_copied_bytes_arrive_only_when_their_group_is_waited_for(launch, order):
    values = np.arange(THREADS * 2 * 4, dtype=np.uint32).reshape(THREADS, 2, 4)
    seen = np.zeros((3, *values.shape), np.uint32)
    launch("copy_in_groups", values, seen, order=order, shared_bytes=values.nbytes)
    assert (seen[:, :, 0] == values[:, 0]).all()
    assert (seen[:2, :, 1] == POISON).all()
    assert (seen[2, :, 1] == values[:, 1]).all()


def test_copied_bytes_of_another_thread_need_a_barrier(launch):
    values = np.arange(THREADS * 4, dtype=np.uint32).reshape(THREADS, 4)
    seen = [np.zeros_like(values) for _ in range(2)]
    for order in range(2):
        launch(
            "read_the_copy_of_another", values, seen[order], order=order, shared_bytes=values.nbytes
        )
    assert (seen[0][::2] == POISON).all()
    assert (seen[1][1::2] == POISON).all()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_atomic_functions_return_the_old_value(launch, order):
    total, before, last = np.zeros(1, np.uint32), empty(THREADS), np.full(1, -1, np.int32)
    least, largest = np.full(1, 2**64 - 1, np.uint64), np.zeros(1, np.uint64)
    others = empty(THREADS, dtype=np.int32)
    launch("count", total, before, least, largest, last, others, order=order)
    assert (total[0], least[0], largest[0]) == (THREADS, 1, 2**63)
    assert sorted(before) == list(range(THREADS))
    assert sorted([*others, last[0]]) == list(range(-1, THREADS))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_bits_are_combined_and_wide_products_have_upper_halves(launch, order):
    bits, upper = np.zeros(WARPS, np.uint32), empty(THREADS, dtype=np.uint64)
    launch("combine_bits", bits, order=order)
    assert (bits == 2**32 - 1).all()
    a, b = np.random.default_rng(0).integers(0, 2**64, (2, THREADS), np.uint64)
    launch("multiply_wide", a, b, upper, order=order)
    products = [x * y >> 64 for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert upper.tolist() == products


# --- Order ---


def orders(launch, order):
    threads = empty(3, THREADS)
    launch("note_order", np.zeros(3, np.uint32), threads, order=order)
    return threads.tolist()


def test_threads_run_in_the_order_that_is_asked_for(launch):
    ascending = list(range(THREADS))
    assert orders(launch, 0) == [ascending] * 3
    assert orders(launch, 1) == [ascending[::-1]] * 3
    drawn = [order for seed in (2, 3) for order in orders(launch, seed)]
    assert all(sorted(order) == ascending for order in drawn)
    assert len(set(map(tuple, drawn))) == len(drawn)
    assert orders(launch, 2) == orders(launch, 2)


@pytest.mark.parametrize(
    "kernel", ["miss_barrier", "miss_barrier_between_warps", "miss_warp_barrier"]
)
def test_a_missing_barrier_changes_results_between_orders(launch, kernel):
    results = [empty(THREADS) for _ in range(10)]
    for order, seen in enumerate(results):
        launch(kernel, seen, order=order)
    ascending, descending, *others = results
    assert (ascending == POISON).sum() == (descending == POISON).sum() == THREADS // 2
    assert (ascending != descending).all()
    assert len({seen.tobytes() for seen in others}) > len(others) / 2


# --- Uninitialized memory ---


def test_shared_memory_is_poison_at_the_start_of_every_block(launch):
    for _ in range(2):
        seen = np.zeros((3, 3, THREADS), np.uint32)
        launch("read_before_writing", seen, blocks=3, shared_bytes=THREADS * 4)
        assert (seen == POISON).all()
        seen = np.zeros(THREADS, np.uint32)
        launch("read_what_is_never_written", seen)
        assert (seen == POISON).all()


# --- Faults that end the process ---

CALL = """
import ctypes
import sys

path, kernel, threads, shared_bytes = sys.argv[1:]
memory = (ctypes.c_uint64 * 4096)()
address = ctypes.c_void_p(ctypes.addressof(memory) // 16 * 16 + 16)
places = (ctypes.c_void_p * 1)(ctypes.addressof(address))
run = getattr(ctypes.CDLL(path), f"host_{kernel}")
run(1, int(threads), 0, ctypes.c_size_t(int(shared_bytes)), places)
"""


def call(library, kernel, threads=THREADS, shared_bytes=1024, **environment):
    """Call a kernel in a process of its own."""
    command = [sys.executable, "-c", CALL, library, kernel, threads, shared_bytes]
    return subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("exit_before_barrier", "thread 0 is at its end, but thread 64 is at __syncthreads()"),
        ("exit_before_shuffle", "thread 0 is at shuffle_xor(), but thread 5 is at its end"),
        (
            "shuffle_in_half_a_warp",
            "thread 0 is at shuffle_xor(), but thread 16 is at __syncthreads()",
        ),
        ("meet_at_different_places", "thread 0 is at shuffle(), but thread 1 is at __syncwarp()"),
        ("copy_to_an_odd_place", "copy_async() needs addresses that are multiples of the size"),
        ("copy_from_an_odd_place", "copy_async() needs addresses that are multiples of the size"),
        ("copy_to_global_memory", "copy_async() copies to shared memory only"),
    ],
)
def test_a_fault_ends_the_process_with_a_message(library, kernel, message):
    process = call(library, kernel)
    assert process.returncode == -signal.SIGABRT
    assert message in process.stderr


def test_a_warp_of_fewer_threads_cannot_meet(library):
    assert call(library, "meet").returncode == 0
    process = call(library, "meet", threads=40)
    assert process.returncode == -signal.SIGABRT
    assert "a warp has less than 32 threads" in process.stderr


def test_accesses_past_shared_memory_are_found(source, tmp_path):
    runtime = subprocess.check_output(["g++", "-print-file-name=libasan.so"], text=True).strip()
    if not Path(runtime).is_absolute():
        pytest.skip("no address sanitizer")
    library = compile_kernels(tmp_path, np.dtype(np.float32), *CHECKS, source=source)
    environment = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    assert call(library, "miss_barrier", **environment).returncode == 0
    for kernel in ("write_past_shared_array", "write_past_dynamic_memory"):
        process = call(library, kernel, **environment)
        assert process.returncode != 0
        assert f"in {kernel}" in process.stderr


# --- The device ---


def test_kernels_are_found_also_where_macros_define_them(source):
    names = kernel_names(source)
    assert len(names) == KERNELS.count("__global__") + 1
    assert {"shift_by_1", "shift_by_40", "multiply_matrices", "convert"} <= set(names)


def test_a_missing_kernel_is_named(launch):
    with pytest.raises(AssertionError, match="has no kernel 'absent' for float32 rows"):
        launch("absent")
