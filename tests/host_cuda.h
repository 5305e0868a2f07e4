// An emulation of CUDA for tests: with this header a C++ compiler compiles the kernels for the host.
//
// Blocks run one after the other. The threads of a block are coroutines on one real thread, each
// with a stack of its own, and they change only at __syncthreads(). Between two barriers the threads
// run in ascending or in descending order. A result that depends on this order, for example because
// a barrier is missing, differs between the two.

#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct Coordinates {
    unsigned x = 0;
};
static Coordinates blockIdx, threadIdx, gridDim, blockDim;

static inline double __longlong_as_double(long long bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
static T atomicAdd(T *place, T value) {
    T before = *place;
    *place += value;
    return before;
}

namespace host {

const std::size_t STACK_BYTES = 1 << 16;

// A coroutine. It runs threads of the block one after the other until a thread waits at a barrier.
// From then on it belongs to that thread. So a kernel without barriers needs one coroutine only.
struct Fiber {
    ucontext_t context;
    std::jmp_buf barrier;
    std::vector<char> stack = std::vector<char>(STACK_BYTES);
    unsigned thread = 0;
    bool begun = false, done = false;
};

static std::deque<Fiber> fibers;
static Fiber *running;
static std::jmp_buf scheduler;
static void (*work)(void **);
static void **work_arguments;
static unsigned begun;
static bool reversed;

static void run_threads() {
    while (begun < blockDim.x) {
        threadIdx.x = running->thread = reversed ? blockDim.x - 1 - begun : begun;
        ++begun;
        work(work_arguments);
    }
    running->done = true;
    _longjmp(scheduler, 1);
}

// Run a coroutine until its next barrier. `longjmp` changes the stack, because `swapcontext` would
// make a system call each time.
static void enter(Fiber &fiber) {
    running = &fiber;
    threadIdx.x = fiber.thread;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.barrier, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

static void wait() {
    if (!_setjmp(running->barrier)) _longjmp(scheduler, 1);
}

static Fiber &prepare(std::size_t number) {
    if (number == fibers.size()) fibers.emplace_back();
    Fiber &fiber = fibers[number];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    fiber.begun = fiber.done = false;
    makecontext(&fiber.context, run_threads, 0);
    return fiber;
}

// Run all threads of a block. Each round of the last loop runs every thread to its next barrier.
static void run_block() {
    std::size_t used = 0;
    for (begun = 0; begun < blockDim.x;) enter(prepare(used++));
    for (bool more = true; more;) {
        more = false;
        for (std::size_t number = 0; number < used; ++number) {
            if (!fibers[number].done) enter(fibers[number]);
            more |= !fibers[number].done;
        }
    }
}

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

static void launch(void (*kernel)(void **), unsigned blocks, unsigned count, bool backwards,
                   void **arguments) {
    work = kernel, work_arguments = arguments, reversed = backwards;
    gridDim.x = blocks, blockDim.x = count;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block();
}

}  // namespace host

static void __syncthreads() {
    host::wait();
}

// Make a kernel callable from Python. `at` has the address of each argument's value.
#define CALLABLE(NAME)                                                                      \
    extern "C" void host_##NAME(unsigned blocks, unsigned count, int backwards, void **at) { \
        host::launch(host::Kernel<NAME>::run, blocks, count, backwards, at);                \
    }
