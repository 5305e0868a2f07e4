// An emulation of CUDA for tests: with this header a C++ compiler compiles kernels for the host.
//
// Blocks run one after the other. The threads of a block are coroutines on one real thread, each
// with a stack of its own. They change only at a rendezvous: `__syncthreads()` for the block,
// `__syncwarp()`, `shuffle`, `shuffle_xor` and `multiply` for a warp. Between two rendezvous the
// order of the threads is ascending, descending or random. A result that depends on this order, for
// example because a barrier is missing, differs between the orders.
//
// Where CUDA leaves a result open, the emulation takes the worst case: shared memory is full of
// 0xFF bytes (NaN) when a block begins, `copy_async` delivers as late as possible, and `multiply`
// adds up as inaccurately as any tensor core that is known. The emulation ends the process with a
// message if threads diverge at a rendezvous.

// The checked `longjmp` refuses to change to another stack.
#undef _FORTIFY_SOURCE

#include <link.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

// The kernels leave out their GPU versions of the functions that this header defines.
#define ON_HOST

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)
// The thread-local variables of a library are neighbors, so `host::poison` finds all shared arrays.
// (The compiler ignores the section of a variable in a template, so a section would not do.) `used`
// forbids the compiler to assume that only the kernel writes them. The address sanitizer does not
// check thread-local arrays; so with the sanitizer they are static, and not full of 0xFF bytes.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local __attribute__((used))
#endif

struct Coordinates {
    unsigned x = 0;
};
static Coordinates blockIdx, threadIdx, gridDim, blockDim;

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

const int HOST_SHARED_BYTES = 227 * 1024;  // the most that a block of sm_90 can have
static uint4 dynamic_memory[HOST_SHARED_BYTES / sizeof(uint4)];

namespace host {

const std::size_t STACK_BYTES = 1 << 16;
const unsigned WARP_THREADS = 32, MAX_THREADS = 1024;
const int SLOT_BYTES = 64, DOUBLE_BIAS = 1023;
const unsigned char POISON = 0xFF;

[[noreturn]] static void fail(const char *message) {
    std::fprintf(stderr, "host_cuda.h: %s (block %u, thread %u)\n", message, blockIdx.x,
                 threadIdx.x);
    std::abort();
}

// --- Coroutines ---

// A coroutine. It runs a thread of a block to its end, and then waits for the next one. So a kernel
// without barriers needs one coroutine only.
struct Fiber {
    ucontext_t context;
    std::jmp_buf resume;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    bool begun = false;
};

// A copy of 4, 8 or 16 bytes that has not arrived yet.
struct Copy {
    void *shared;
    const void *global;
    unsigned group;
    int size;
};

struct Thread {
    Fiber *fiber = nullptr;
    // Name of the rendezvous where the thread waits; null if the thread has exited.
    const char *waits = nullptr;
    unsigned num_exchanges = 0, num_groups = 0;
    std::vector<Copy> copies;
};

static const char BLOCK_BARRIER[] = "__syncthreads()", WARP_BARRIER[] = "__syncwarp()",
                  SHUFFLE[] = "shuffle()", SHUFFLE_XOR[] = "shuffle_xor()",
                  MULTIPLY[] = "multiply()";

static std::deque<Fiber> fibers;
static std::vector<Fiber *> idle;
static std::vector<Thread> threads;
static Thread *running;
static std::jmp_buf scheduler;
static void (*work)(void **);
static void **work_arguments;

static void pause(Fiber &fiber) {
    if (!_setjmp(fiber.resume)) _longjmp(scheduler, 1);
}

static void run_threads() {
    for (;;) {
        work(work_arguments);
        idle.push_back(running->fiber);
        pause(*running->fiber);
    }
}

static Fiber *make_fiber() {
    fibers.emplace_back();
    Fiber &fiber = fibers.back();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_threads, 0);
    return &fiber;
}

// Run a coroutine until its thread waits or exits. `longjmp` changes the stack, because
// `swapcontext` would make a system call each time.
static void enter(Fiber &fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.resume, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

// Run a thread until it waits or exits.
static void run_thread(unsigned number) {
    Thread &thread = threads[number];
    if (!thread.fiber) {
        if (idle.empty()) idle.push_back(make_fiber());
        thread.fiber = idle.back();
        idle.pop_back();
    }
    running = &thread, threadIdx.x = number;
    thread.waits = nullptr;
    enter(*thread.fiber);
}

static void wait(const char *rendezvous) {
    running->waits = rendezvous;
    pause(*running->fiber);
}

// --- Order ---

// 0: ascending, 1: descending, else the seed of random orders.
static unsigned order;
static std::mt19937 generator;

// Draw a number below `count`.
static unsigned draw(unsigned count) {
    return generator() % count;
}

// Return the numbers below `count` in the order in which they run.
static std::vector<unsigned> arranged(unsigned count) {
    std::vector<unsigned> numbers(count);
    for (unsigned i = 0; i < count; ++i) numbers[i] = order == 1 ? count - 1 - i : i;
    if (order > 1)
        for (unsigned i = count; i > 1; --i) std::swap(numbers[i - 1], numbers[draw(i)]);
    return numbers;
}

// --- Blocks ---

static void require_same_rendezvous(unsigned first, unsigned second) {
    const char *one = threads[first].waits, *other = threads[second].waits;
    if (one == other) return;
    std::fprintf(stderr, "host_cuda.h: thread %u is at %s, but thread %u is at %s\n", first,
                 one ? one : "its end", second, other ? other : "its end");
    fail("threads diverge at a rendezvous");
}

// Run each thread of a warp to its next rendezvous, which must be the same for all; return it.
static const char *run_warp(unsigned warp) {
    const unsigned first = warp * WARP_THREADS;
    const unsigned count = std::min(WARP_THREADS, blockDim.x - first);
    for (unsigned lane : arranged(count)) run_thread(first + lane);
    for (unsigned lane = 1; lane < count; ++lane) require_same_rendezvous(first, first + lane);
    const char *rendezvous = threads[first].waits;
    if (rendezvous && rendezvous != BLOCK_BARRIER && count < WARP_THREADS)
        fail("a warp has less than 32 threads, but all of them must take part");
    return rendezvous;
}

// Run all threads of a block. Each round of the outer loop runs every warp to the next barrier of
// the block. Either each warp runs through all its rendezvous before the next warp begins, or, in
// half the rounds of a random order, the warps take turns.
static void run_block() {
    for (Thread &thread : threads) {
        thread.fiber = nullptr;
        thread.num_exchanges = thread.num_groups = 0;
        thread.copies.clear();
    }
    do {
        auto warps = arranged((blockDim.x + WARP_THREADS - 1) / WARP_THREADS);
        const bool take_turns = order > 1 && draw(2);
        while (!warps.empty()) {
            auto warp = warps.begin() + (take_turns ? draw(warps.size()) : 0);
            const char *rendezvous = run_warp(*warp);
            if (!rendezvous || rendezvous == BLOCK_BARRIER) warps.erase(warp);
        }
        for (unsigned number = 1; number < blockDim.x; ++number) require_same_rendezvous(0, number);
    } while (threads[0].waits);
}

// --- Shared memory ---

// The shared arrays of the calling thread: all thread-local variables of this library.
struct Region {
    unsigned char *start;
    std::size_t size;
};

#ifdef __SANITIZE_ADDRESS__
static Region shared_arrays() {
    return Region{nullptr, 0};
}
#else
static thread_local unsigned char one_of_them;

static int find_region(dl_phdr_info *library, std::size_t, void *found) {
    for (int i = 0; i < library->dlpi_phnum; ++i) {
        const auto &part = library->dlpi_phdr[i];
        auto *start = static_cast<unsigned char *>(library->dlpi_tls_data);
        if (part.p_type != PT_TLS || !start) continue;
        if (&one_of_them < start || &one_of_them >= start + part.p_memsz) continue;
        *static_cast<Region *>(found) = Region{start, part.p_memsz};
        return 1;
    }
    return 0;
}

static Region shared_arrays() {
    // Each thread has its own region, but the place of a variable in it is the same for all.
    static std::size_t offset, size;
    if (!size) {
        one_of_them = 0;  // the thread's region exists after the first access
        Region region;
        if (!dl_iterate_phdr(find_region, &region)) fail("there are no thread-local variables");
        offset = &one_of_them - region.start, size = region.size;
    }
    return Region{&one_of_them - offset, size};
}
#endif

// Fill all shared memory with 0xFF bytes. A kernel that reads it before writing it then gets NaN,
// not zero and not the values of the block before.
static void poison(std::size_t dynamic_bytes) {
    const Region arrays = shared_arrays();
    if (arrays.size) std::memset(arrays.start, POISON, arrays.size);
    std::memset(static_cast<void *>(dynamic_memory), POISON, dynamic_bytes);
    asm volatile("" ::: "memory");
}

static void require_shared(const void *place) {
    const Region arrays = shared_arrays();
    const std::less_equal<const void *> not_above;
    auto within = [&](const void *start, std::size_t size) {
        return not_above(start, place) && !not_above((const char *)start + size, place);
    };
    if (within(dynamic_memory, HOST_SHARED_BYTES) || !arrays.size) return;
    if (!within(arrays.start, arrays.size)) fail("copy_async() copies to shared memory only");
}

// --- Launches ---

template <class... Arguments, std::size_t... I>
static void call(void (*kernel)(Arguments...), void **values, std::index_sequence<I...>) {
    kernel(*static_cast<Arguments *>(values[I])...);
}

template <auto KERNEL>
struct Kernel;

template <class... Arguments, void (*KERNEL)(Arguments...)>
struct Kernel<KERNEL> {
    static void run(void **values) {
        call(KERNEL, values, std::index_sequence_for<Arguments...>());
    }
};

// The order is that of the blocks too: CUDA may start them in any order.
static void launch(void (*kernel)(void **), unsigned blocks, unsigned count, unsigned new_order,
                   std::size_t dynamic_bytes, void **arguments) {
    work = kernel, work_arguments = arguments;
    order = new_order, generator.seed(new_order);
    gridDim.x = blocks, blockDim.x = count;
    if (count == 0 || count > MAX_THREADS) fail("a block has 1 to 1024 threads");
    if (dynamic_bytes > HOST_SHARED_BYTES) fail("a block has at most 227 KB of shared memory");
    threads.resize(count);
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(dynamic_memory, HOST_SHARED_BYTES);
    __asan_poison_memory_region((char *)dynamic_memory + dynamic_bytes,
                                HOST_SHARED_BYTES - dynamic_bytes);
#endif
    for (unsigned block : arranged(blocks)) {
        blockIdx.x = block;
        poison(dynamic_bytes);
        run_block();
    }
}

// --- Exchange within a warp ---

// Each thread writes its value to a slot, waits for its warp, and then reads the slots of others.
// Two buffers alternate: a thread that is already at the next exchange writes the other buffer, and
// nobody gets to the exchange after that before all threads of the warp have read this one.
alignas(16) static unsigned char slots[2][MAX_THREADS][SLOT_BYTES];

// The values of the 32 threads of a warp.
template <class T>
struct Exchanged {
    const unsigned char (*first)[SLOT_BYTES];

    T operator[](unsigned lane) const {
        T value;
        std::memcpy(&value, first[lane], sizeof value);
        return value;
    }
};

template <class T>
static Exchanged<T> exchange(const T &value, const char *rendezvous) {
    static_assert(sizeof(T) <= SLOT_BYTES && std::is_trivially_copyable<T>::value, "no slot");
    auto &buffer = slots[running->num_exchanges++ % 2];
    std::memcpy(buffer[threadIdx.x], &value, sizeof value);
    wait(rendezvous);
    return Exchanged<T>{buffer + threadIdx.x / WARP_THREADS * WARP_THREADS};
}

template <class To, class From>
static To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

// --- Tensor cores ---

// A number for each of the 8 columns of a product. The host spends most of its time with tensor
// cores, so it computes a row at once.
const int COLUMNS = 8, DEPTH = 16;
typedef unsigned short Halves __attribute__((vector_size(2 * COLUMNS)));
typedef unsigned Words __attribute__((vector_size(4 * COLUMNS)));
typedef float Floats __attribute__((vector_size(4 * COLUMNS)));
typedef double Doubles __attribute__((vector_size(8 * COLUMNS)));
typedef long long Longs __attribute__((vector_size(8 * COLUMNS)));

// The matrices that a warp multiplies together: float16 numbers, and the sums.
struct Matrices {
    Halves a[16][DEPTH / COLUMNS], b[DEPTH];
    Floats sums[16], columns[DEPTH];
    bool added[16], converted, nothing, bfloats;
};
// Two alternate, as the slots of an exchange do.
static Matrices matrices[2][MAX_THREADS / WARP_THREADS];

// Convert float16 numbers; return whether all of them are finite.
static bool convert_halves(const Halves &halves, Floats &values) {
    const Words words = __builtin_convertvector(halves, Words), magnitudes = words & 0x7fff;
    const Words special = (Words)(magnitudes >= 0x7c00);
    // The product changes the bias of the exponent, and it is right for subnormal numbers too.
    const Words bits = (Words)((Floats)(magnitudes << 13) * 0x1p112f) | (special & 0x7f800000);
    values = (Floats)(bits | (words & 0x8000) << 16);
    unsigned any = 0;
    for (int column = 0; column < COLUMNS; ++column) any |= special[column];
    return !any;
}

// Convert bfloat16 numbers; return whether all of them are finite.
static bool convert_bfloats(const Halves &halves, Floats &values) {
    const Words words = __builtin_convertvector(halves, Words);
    values = (Floats)(words << 16);
    const Words special = (Words)((words & 0x7f80) == 0x7f80);
    unsigned any = 0;
    for (int column = 0; column < COLUMNS; ++column) any |= special[column];
    return !any;
}

// Add 8 products to each sum, as the least accurate tensor core does. The products are exact. Each
// of the 9 addends is truncated to a multiple of 2^(e - 23); e is the exponent of the largest addend.
// The addends are added exactly, and the total is truncated to float32. Truncation is toward zero.
//
// Exponents and powers of two are computed from the bits of float64 numbers.
static void add_products(Floats &sums, const float *a, const Floats *b) {
    const long long MAGNITUDE = ~(std::uint64_t)0 >> 1, BELOW_FLOAT = (1 << 29) - 1;
    const int NUM_PRODUCTS = 8, MANTISSA_BITS = 52;
    const Doubles old = __builtin_convertvector(sums, Doubles);
    Doubles products[NUM_PRODUCTS];
    Longs largest = {};
    for (int k = 0; k < NUM_PRODUCTS; ++k) {
        products[k] = __builtin_convertvector(b[k], Doubles) * (double)a[k];
        const Longs size = (Longs)products[k] & MAGNITUDE;
        largest = size > largest ? size : largest;
    }
    bool nothing = true, finite = true;
    for (int column = 0; column < COLUMNS; ++column) {
        nothing = nothing && largest[column] == 0;
        finite = finite && largest[column] >> MANTISSA_BITS <= DOUBLE_BIAS + 127 &&
                 std::isfinite(sums[column]);
    }
    if (nothing) return;
    if (!finite) {  // a row with an infinity or NaN is not inaccurate
        for (const Doubles &product : products) sums += __builtin_convertvector(product, Floats);
        return;
    }
    largest = ((Longs)old & MAGNITUDE) > largest ? (Longs)old & MAGNITUDE : largest;
    Longs exponents = (largest >> MANTISSA_BITS) - DOUBLE_BIAS;
    exponents = exponents < -126 ? Longs{} - 126 : exponents;  // the least number is 2^-149
    const Doubles per_unit = (Doubles)((23 - exponents + DOUBLE_BIAS) << MANTISSA_BITS);
    const Doubles unit = (Doubles)((exponents - 23 + DOUBLE_BIAS) << MANTISSA_BITS);
    // Each addend is less than 2^24 units, so the total is exact.
    Longs total = __builtin_convertvector(old * per_unit, Longs);
    for (const Doubles &product : products)
        total += __builtin_convertvector(product * per_unit, Longs);
    const Doubles exact = __builtin_convertvector(total, Doubles) * unit;
    sums = __builtin_convertvector((Doubles)((Longs)exact & ~BELOW_FLOAT), Floats);
}

// Add the products of a row of `a` and all columns of `b`.
static void add_row(Matrices &all, int row) {
    const auto convert = all.bfloats ? convert_bfloats : convert_halves;
    if (!all.converted) {
        all.converted = all.nothing = true;
        for (int k = 0; k < DEPTH; ++k) {
            convert(all.b[k], all.columns[k]);
            for (int column = 0; column < COLUMNS; ++column)
                all.nothing = all.nothing && (all.b[k][column] & 0x7fff) == 0;
        }
    }
    for (int half = 0; half < DEPTH / COLUMNS; ++half) {
        Floats a;
        const bool finite = convert(all.a[row][half], a);
        if (finite && all.nothing) continue;
        float values[COLUMNS];
        std::memcpy(values, &a, sizeof values);
        add_products(all.sums[row], values, all.columns + half * COLUMNS);
    }
    all.added[row] = true;
}

}  // namespace host

// --- CUDA's functions ---

static void __syncthreads() {
    host::wait(host::BLOCK_BARRIER);
}

static void __syncwarp() {
    host::wait(host::WARP_BARRIER);
}

static inline double __longlong_as_double(long long bits) {
    return host::bits_as<double>(bits);
}
static inline long long __double_as_longlong(double value) {
    return host::bits_as<long long>(value);
}
// Return the upper 64 bits of a product.
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ typedef unsigned __int128 Product;
    return (unsigned long long)((Product)a * b >> 64);
}
static inline float __uint_as_float(unsigned bits) {
    return host::bits_as<float>(bits);
}
static inline unsigned __float_as_uint(float value) {
    return host::bits_as<unsigned>(value);
}

template <class T>
static T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
static T max(T a, T b) {
    return a < b ? b : a;
}

static inline int __ffsll(long long value) {
    return __builtin_ffsll(value);
}
static inline int __clz(int value) {
    return __builtin_clz((unsigned)value);
}
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const unsigned long long bytes = (unsigned long long)high << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i)
        result |= (unsigned)(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
}

// The atomic functions return the old value. Like CUDA, they convert the second argument.
template <class T, class U>
static T atomicAdd(T *place, U value) {
    static_assert(std::is_same<T, int>::value || std::is_same<T, unsigned>::value ||
                      std::is_same<T, unsigned long long>::value,
                  "CUDA has no atomicAdd of this type, or its sum would depend on the order");
    return std::exchange(*place, *place + (T)value);
}
template <class T, class U>
static T atomicMin(T *place, U value) {
    static_assert(std::is_integral<T>::value, "CUDA compares integers only");
    return std::exchange(*place, std::min(*place, (T)value));
}
template <class T, class U>
static T atomicMax(T *place, U value) {
    static_assert(std::is_integral<T>::value, "CUDA compares integers only");
    return std::exchange(*place, std::max(*place, (T)value));
}
template <class T, class U>
static T atomicOr(T *place, U value) {
    static_assert(std::is_integral<T>::value, "CUDA combines the bits of integers only");
    return std::exchange(*place, *place | (T)value);
}
template <class T, class U>
static T atomicExch(T *place, U value) {
    return std::exchange(*place, (T)value);
}

// --- The functions whose GPU versions are in the kernels' source ---

// Return the value of the thread whose lane differs in the bits of `mask`.
template <class T>
static T shuffle_xor(T value, int mask) {
    return host::exchange(value, host::SHUFFLE_XOR)[(threadIdx.x ^ mask) % host::WARP_THREADS];
}

// Return the value of the thread in a lane.
template <class T>
static T shuffle(T value, int lane) {
    return host::exchange(value, host::SHUFFLE)[(unsigned)lane % host::WARP_THREADS];
}

// The lesser number; NaN is skipped. The C library would return a signaling NaN.
static inline float lesser(float a, float b) {
    return b != b || a < b ? a : b;
}

// The greater number; NaN if one of them is NaN.
static inline float greater(float a, float b) {
    return b != b || b > a ? b : a;
}

// Return the bits of the nearest float16 number, of two equally near the even one.
static unsigned short half_bits(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000;
    const unsigned magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;            // NaN
    if (magnitude >= __float_as_uint(65536)) return sign | 0x7c00;  // infinity
    // Below 2^-14 float16 numbers are multiples of 2^-24.
    if (magnitude < __float_as_uint(0x1p-14f))
        return sign | (unsigned)std::lrint(__uint_as_float(magnitude) * 0x1p24f);
    const unsigned rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return sign | (rounded - ((127 - 15) << 23)) >> 13;
}

static float half_value(unsigned short bits) {
    const unsigned sign = (unsigned)(bits & 0x8000) << 16, magnitude = (bits & 0x7fff) << 13;
    if (magnitude >= 0x7c00 << 13) return __uint_as_float(sign | 0x7f800000 | magnitude);
    // The product changes the bias of the exponent, and it is right for subnormal numbers too.
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p112f));
}

// Multiply two matrices and add the product: result = sums + a * b, with the 32 threads of a warp.
//
// The places are those of PTX's `mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32`, and of that for
// bf16. The first thread that needs a row of the sums computes it, also for the other threads.
static void multiply(float (&result)[4], const float (&sums)[4], const unsigned (&a)[4],
                     unsigned b0, unsigned b1, bool bfloats) {
    const int warp = threadIdx.x / host::WARP_THREADS, lane = threadIdx.x % host::WARP_THREADS;
    const int g = lane / 4, t = lane % 4;
    auto &all = host::matrices[host::running->num_exchanges++ % 2][warp];
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 2; ++j) all.a[g + i % 2 * 8][i / 2][2 * t + j] = a[i] >> 16 * j & 0xffff;
    for (int j = 0; j < 2; ++j) {
        all.b[2 * t + j][g] = b0 >> 16 * j & 0xffff;
        all.b[2 * t + 8 + j][g] = b1 >> 16 * j & 0xffff;
    }
    for (int i = 0; i < 4; ++i) all.sums[g + i / 2 * 8][2 * t + i % 2] = sums[i];
    all.added[g] = all.added[g + 8] = all.converted = false;
    all.bfloats = bfloats;
    host::wait(host::MULTIPLY);
    for (int row : {g, g + 8})
        if (!all.added[row]) host::add_row(all, row);
    for (int i = 0; i < 4; ++i) result[i] = all.sums[g + i / 2 * 8][2 * t + i % 2];
}

static void multiply(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply(sums, sums, a, b0, b1, false);
}

static void multiply_bfloats(float (&result)[4], const float (&sums)[4], const unsigned (&a)[4],
                             unsigned b0, unsigned b1) {
    multiply(result, sums, a, b0, b1, true);
}

// Return two numbers as bfloat16, of two equally near ones the even one; the first has the lower bits.
static unsigned bfloat_pair(float first, float second) {
    unsigned result = 0;
    for (float value : {second, first}) {
        const unsigned bits = __float_as_uint(value);
        const bool nan = (bits & 0x7fffffff) > 0x7f800000;
        result = result << 16 | (nan ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    return result;
}

// Add the product of two matrices of bytes to the sums, with the 32 threads of a warp. The places are
// those of PTX's `mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32`.
static void multiply_bytes(int (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct Words {
        unsigned a[4], b[2];
    };
    const auto all = host::exchange(Words{{a[0], a[1], a[2], a[3]}, {b0, b1}}, host::MULTIPLY);
    const int lane = threadIdx.x % host::WARP_THREADS, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i)
        for (int other = 0; other < 4; ++other) {
            const Words row = all[4 * g + other], column = all[4 * (2 * t + i % 2) + other];
            for (int half = 0; half < 2; ++half)
                for (int byte = 0; byte < 4; ++byte)
                    sums[i] += (int)(row.a[2 * half + i / 2] >> 8 * byte & 0xff) *
                               (int)(column.b[half] >> 8 * byte & 0xff);
        }
}

// Copy 4, 8 or 16 bytes to shared memory in the background. They arrive when `wait_copies` waits for
// their group. Until then the target has 0xFF bytes.
template <int SIZE = 16>
static void copy_async(void *shared, const void *global) {
    static_assert(SIZE == 4 || SIZE == 8 || SIZE == 16, "CUDA copies 4, 8 or 16 bytes");
    if ((std::uintptr_t)shared % SIZE || (std::uintptr_t)global % SIZE)
        host::fail("copy_async() needs addresses that are multiples of the size");
    host::require_shared(shared);
    std::memset(shared, host::POISON, SIZE);
    host::running->copies.push_back(host::Copy{shared, global, host::running->num_groups, SIZE});
}

// Load four 8 x 8 matrices of float16 that follow each other, as `ldmatrix` does: thread 4 g + t gets
// columns 2t and 2t + 1 of row g of each.
static void load_matrices(unsigned (&words)[4], const uint4 *matrices) {
    for (unsigned i = 0; i < 4; ++i)
        words[i] = ((const unsigned *)matrices)[i * 32 + threadIdx.x % 32];
}

// Close the group of the copies that this thread has started.
static void commit_copies() {
    ++host::running->num_groups;
}

// Wait until at most the N newest groups of this thread have not arrived.
template <int N>
static void wait_copies() {
    auto &copies = host::running->copies;
    auto copy = copies.begin();
    for (; copy != copies.end() && copy->group + N < host::running->num_groups; ++copy)
        std::memcpy(copy->shared, copy->global, copy->size);
    copies.erase(copies.begin(), copy);
}

// Make a kernel callable from Python. `at` has the address of each argument's value.
#define CALLABLE(NAME)                                                                     \
    extern "C" void host_##NAME(unsigned blocks, unsigned count, unsigned order,           \
                                std::size_t shared_bytes, void **at) {                     \
        host::launch(host::Kernel<::NAME>::run, blocks, count, order, shared_bytes, at);   \
    }
