// The CUDA kernels: sizes, and instructions of the GPU. `kernel_source.py` has the order of the files,
// which are compiled as one, twice: with SCALAR float and with SCALAR double, the type of the rows.
// `nearest_centers.py` and `chunk_sums.py` say which kernels run, in which order, and with which
// arrays.
//
// The nearest centers of rows are found in three steps (docs/decisions/016):
//   1. `narrow` rounds rows and centers to float16 and measures what the rounding lost. `score_N`
//      multiplies them on the tensor cores and keeps the two least scores |c|^2 / 2 - x.c of each
//      row. Where these two differ by more than their error, the nearest center is certain.
//   2. The other rows are ambiguous. `list_pairs_N` scores them again and lists each pair of a row
//      and a center that may be its nearest.
//   3. `measure_pairs` and `pick_pairs` decide by exact float64 distances (docs/decisions/001).
// The kernels `add_few_...` do all of it, and the sums, in one pass over narrow rows with few centers
// (docs/decisions/035). For all other shapes `count_rows` and `order_rows` put the rows in the order
// of their centers, and `add_rows` adds them up. All add whole numbers, in any order
// (docs/decisions/017); `carry` makes room for more rows. `add_squares` adds up squares.
//
// The compiler must not contract products and sums into fused operations: exact distances must have
// NumPy's bits. Only `fused` and the tensor cores fuse.

typedef SCALAR Scalar;
typedef long long Index;
typedef unsigned long long Bits;

// Threads of a block. `kernel_device.py` has THREADS, FEW_CENTERS, FEW_COLUMNS, FEW_ROWS, FEW_TILE,
// FEW_STAGES, FEW_GAP, COUNTED_ROWS, STAGE_COLUMNS and STAGES too.
#define THREADS 256
#define WARP 32
// NumPy adds up at most this many elements in eight parallel sums, and halves longer arrays.
#define PAIRWISE_BLOCK 128
#define PARALLEL_SUMS 8
// Largest depth of the halving: a row of 128 * 2^24 columns takes 8 GiB and more.
#define MAX_DEPTH 24
// Largest shape for the kernels of few centers, and the float64 rows that a block of them adds up.
#define FEW_CENTERS 16
#define FEW_COLUMNS 32
#define FEW_ROWS 4096
// Rows that a block counts and orders, and centers for which it has a counter of its own.
#define COUNTED_ROWS 4096
#define COUNTED_CENTERS 512
// Columns that a block multiplies between two barriers, and the number of such stages in shared
// memory: two or three of them are being copied.
#define STAGE_COLUMNS 32
#define STAGES 4
// Given by their bits, because NVRTC has no headers that define them.
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000LL)
// Squared length below which a row counts as zero. `dkmeans.distance` has the same constant.
#define SMALLEST_SQUARED_NORM 1e-12

// --- What the GPU has and C++ has not. The header of the tests replaces this section. ---

#ifndef ON_HOST
extern __shared__ uint4 dynamic_memory[];

template <class T> static __device__ __forceinline__ T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

// The lesser number; NaN is skipped, also a signaling one.
static __device__ __forceinline__ float lesser(float a, float b) {
    return fminf(a, b);
}

// The greater number; NaN if one of them is NaN.
static __device__ __forceinline__ float greater(float a, float b) {
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}

static __device__ __forceinline__ unsigned short half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

static __device__ __forceinline__ float half_value(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Add the product of a 16 x 16 and a 16 x 8 matrix of float16 to a 16 x 8 matrix of float32. The 32
// threads of a warp hold the matrices together, as PTX defines for `mma.m16n8k16`.
static __device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4],
                                                unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Add the product of two such matrices of bfloat16 to other sums.
static __device__ __forceinline__ void multiply_bfloats(float (&result)[4], const float (&sums)[4],
                                                        const unsigned (&a)[4], unsigned b0,
                                                        unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};"
        : "=f"(result[0]), "=f"(result[1]), "=f"(result[2]), "=f"(result[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(sums[0]),
          "f"(sums[1]), "f"(sums[2]), "f"(sums[3]));
}

// Round two numbers to bfloat16; the first has the lower bits.
static __device__ __forceinline__ unsigned bfloat_pair(float first, float second) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

// Add the product of a 16 x 32 and a 32 x 8 matrix of bytes to a 16 x 8 matrix of whole numbers,
// exactly. The threads of a warp hold the matrices as PTX defines for `mma.m16n8k32`.
static __device__ __forceinline__ void multiply_bytes(int (&sums)[4], const unsigned (&a)[4],
                                                      unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Start to copy 4, 8 or 16 bytes to shared memory.
template <int SIZE = 16>
static __device__ __forceinline__ void copy_async(void *shared, const void *global) {
    const unsigned target = (unsigned)__cvta_generic_to_shared(shared);
    // Copies of 16 bytes can pass by the first-level cache.
    if constexpr (SIZE == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(global)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(global),
                     "n"(SIZE)
                     : "memory");
}

// End a group of copies.
static __device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Wait for all groups of this thread's copies but the last N.
template <int N> static __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Load four matrices of 8 rows and 8 columns that follow each other in shared memory: thread
// 4 g + t of a warp gets columns 2t and 2t + 1 of row g of each.
static __device__ __forceinline__ void load_matrices(unsigned (&words)[4], const uint4 *matrices) {
    const unsigned source =
        (unsigned)__cvta_generic_to_shared(matrices + threadIdx.x % WARP);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(source)
                 : "memory");
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// The H100's tensor cores multiply for four warps together, and read both factors from shared
// memory.
#define WARPGROUPS

// Describe tiles of 16 rows and 16 columns that follow each other: 8 rows of 16 bytes are a matrix,
// the next 8 columns begin 128 bytes later, and the next 8 rows 256.
static __device__ __forceinline__ Bits description(const uint4 *tiles) {
    const Bits address = (Bits)__cvta_generic_to_shared(tiles);
    return (address & 0x3ffff) >> 4 | (Bits)(128 >> 4) << 16 | (Bits)(256 >> 4) << 32;
}

// Make what other threads' copies have written visible to the tensor cores.
static __device__ __forceinline__ void publish_copies() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Begin a group of products, after the sums were used otherwise.
static __device__ __forceinline__ void begin_products() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Wait for all groups of products but the last N.
template <int N> static __device__ __forceinline__ void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// The product of 64 rows and 128 centers.
static __device__ __forceinline__ void multiply_group(float (&sums)[16][4], Bits a, Bits b,
                                                      int adds) {
    asm volatile(
        "{.reg .pred adds; setp.ne.b32 adds, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, adds, 1, 1, 0, 0;}\n"
        : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]),
          "+f"(sums[1][0]), "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3]),
          "+f"(sums[2][0]), "+f"(sums[2][1]), "+f"(sums[2][2]), "+f"(sums[2][3]),
          "+f"(sums[3][0]), "+f"(sums[3][1]), "+f"(sums[3][2]), "+f"(sums[3][3]),
          "+f"(sums[4][0]), "+f"(sums[4][1]), "+f"(sums[4][2]), "+f"(sums[4][3]),
          "+f"(sums[5][0]), "+f"(sums[5][1]), "+f"(sums[5][2]), "+f"(sums[5][3]),
          "+f"(sums[6][0]), "+f"(sums[6][1]), "+f"(sums[6][2]), "+f"(sums[6][3]),
          "+f"(sums[7][0]), "+f"(sums[7][1]), "+f"(sums[7][2]), "+f"(sums[7][3]),
          "+f"(sums[8][0]), "+f"(sums[8][1]), "+f"(sums[8][2]), "+f"(sums[8][3]),
          "+f"(sums[9][0]), "+f"(sums[9][1]), "+f"(sums[9][2]), "+f"(sums[9][3]),
          "+f"(sums[10][0]), "+f"(sums[10][1]), "+f"(sums[10][2]), "+f"(sums[10][3]),
          "+f"(sums[11][0]), "+f"(sums[11][1]), "+f"(sums[11][2]), "+f"(sums[11][3]),
          "+f"(sums[12][0]), "+f"(sums[12][1]), "+f"(sums[12][2]), "+f"(sums[12][3]),
          "+f"(sums[13][0]), "+f"(sums[13][1]), "+f"(sums[13][2]), "+f"(sums[13][3]),
          "+f"(sums[14][0]), "+f"(sums[14][1]), "+f"(sums[14][2]), "+f"(sums[14][3]),
          "+f"(sums[15][0]), "+f"(sums[15][1]), "+f"(sums[15][2]), "+f"(sums[15][3])
        : "l"(a), "l"(b), "r"(adds));
}

// The product of 64 rows and 256 centers.
static __device__ __forceinline__ void multiply_group(float (&sums)[32][4], Bits a, Bits b,
                                                      int adds) {
    asm volatile(
        "{.reg .pred adds; setp.ne.b32 adds, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, "
        "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, "
        "%120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, adds, 1, 1, 0, 0;}\n"
        : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3]),
          "+f"(sums[1][0]), "+f"(sums[1][1]), "+f"(sums[1][2]), "+f"(sums[1][3]),
          "+f"(sums[2][0]), "+f"(sums[2][1]), "+f"(sums[2][2]), "+f"(sums[2][3]),
          "+f"(sums[3][0]), "+f"(sums[3][1]), "+f"(sums[3][2]), "+f"(sums[3][3]),
          "+f"(sums[4][0]), "+f"(sums[4][1]), "+f"(sums[4][2]), "+f"(sums[4][3]),
          "+f"(sums[5][0]), "+f"(sums[5][1]), "+f"(sums[5][2]), "+f"(sums[5][3]),
          "+f"(sums[6][0]), "+f"(sums[6][1]), "+f"(sums[6][2]), "+f"(sums[6][3]),
          "+f"(sums[7][0]), "+f"(sums[7][1]), "+f"(sums[7][2]), "+f"(sums[7][3]),
          "+f"(sums[8][0]), "+f"(sums[8][1]), "+f"(sums[8][2]), "+f"(sums[8][3]),
          "+f"(sums[9][0]), "+f"(sums[9][1]), "+f"(sums[9][2]), "+f"(sums[9][3]),
          "+f"(sums[10][0]), "+f"(sums[10][1]), "+f"(sums[10][2]), "+f"(sums[10][3]),
          "+f"(sums[11][0]), "+f"(sums[11][1]), "+f"(sums[11][2]), "+f"(sums[11][3]),
          "+f"(sums[12][0]), "+f"(sums[12][1]), "+f"(sums[12][2]), "+f"(sums[12][3]),
          "+f"(sums[13][0]), "+f"(sums[13][1]), "+f"(sums[13][2]), "+f"(sums[13][3]),
          "+f"(sums[14][0]), "+f"(sums[14][1]), "+f"(sums[14][2]), "+f"(sums[14][3]),
          "+f"(sums[15][0]), "+f"(sums[15][1]), "+f"(sums[15][2]), "+f"(sums[15][3]),
          "+f"(sums[16][0]), "+f"(sums[16][1]), "+f"(sums[16][2]), "+f"(sums[16][3]),
          "+f"(sums[17][0]), "+f"(sums[17][1]), "+f"(sums[17][2]), "+f"(sums[17][3]),
          "+f"(sums[18][0]), "+f"(sums[18][1]), "+f"(sums[18][2]), "+f"(sums[18][3]),
          "+f"(sums[19][0]), "+f"(sums[19][1]), "+f"(sums[19][2]), "+f"(sums[19][3]),
          "+f"(sums[20][0]), "+f"(sums[20][1]), "+f"(sums[20][2]), "+f"(sums[20][3]),
          "+f"(sums[21][0]), "+f"(sums[21][1]), "+f"(sums[21][2]), "+f"(sums[21][3]),
          "+f"(sums[22][0]), "+f"(sums[22][1]), "+f"(sums[22][2]), "+f"(sums[22][3]),
          "+f"(sums[23][0]), "+f"(sums[23][1]), "+f"(sums[23][2]), "+f"(sums[23][3]),
          "+f"(sums[24][0]), "+f"(sums[24][1]), "+f"(sums[24][2]), "+f"(sums[24][3]),
          "+f"(sums[25][0]), "+f"(sums[25][1]), "+f"(sums[25][2]), "+f"(sums[25][3]),
          "+f"(sums[26][0]), "+f"(sums[26][1]), "+f"(sums[26][2]), "+f"(sums[26][3]),
          "+f"(sums[27][0]), "+f"(sums[27][1]), "+f"(sums[27][2]), "+f"(sums[27][3]),
          "+f"(sums[28][0]), "+f"(sums[28][1]), "+f"(sums[28][2]), "+f"(sums[28][3]),
          "+f"(sums[29][0]), "+f"(sums[29][1]), "+f"(sums[29][2]), "+f"(sums[29][3]),
          "+f"(sums[30][0]), "+f"(sums[30][1]), "+f"(sums[30][2]), "+f"(sums[30][3]),
          "+f"(sums[31][0]), "+f"(sums[31][1]), "+f"(sums[31][2]), "+f"(sums[31][3])
        : "l"(a), "l"(b), "r"(adds));
}
#endif
#endif

static __device__ __forceinline__ float fused(float a, float b, float c) {
    return fmaf(a, b, c);
}

#ifndef SINGLE
static __device__ __forceinline__ double fused(double a, double b, double c) {
    return fma(a, b, c);
}
#endif

static __device__ __forceinline__ Index this_thread() {
    return (Index)blockIdx.x * blockDim.x + threadIdx.x;
}
