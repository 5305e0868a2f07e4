// The CUDA kernels. NVRTC compiles this file twice: with SCALAR float and with SCALAR double, the
// type of the rows. `nearest_centers.py` and `chunk_sums.py` say which kernels run, in which order,
// and with which arrays.
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
// Largest shape for `add_few`, and the rows that one of its blocks adds up.
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

// --- Exact distances ---

// The terms of a row's squared length.
struct Squares {
    const Scalar *row;

    __device__ double operator()(Index j) const {
        double x = row[j];
        return x * x;
    }
};

// The terms of the distance of a row to a center.
struct Terms {
    const Scalar *row;
    const double *center;
    double scale;
    bool cosine;

    __device__ double operator()(Index j) const {
        double x = row[j], c = center[j];
        if (cosine) return (x * scale) * c;
        double difference = x - c;
        return difference * difference;
    }
};

// Add up at most PAIRWISE_BLOCK terms in NumPy's order: eight parallel sums, added up in pairs, and
// what is left one after the other. LANES neighboring threads (1 or 8) share the parallel sums and
// read neighboring columns; all of them return the result.
template <int LANES, class Term>
static __device__ double sum_of_block(const Term &term, Index start, Index stop) {
    const int OWN = PARALLEL_SUMS / LANES, lane = LANES == 1 ? 0 : threadIdx.x % LANES;
    double total = 0.0;
    Index whole = start + (stop - start) / PARALLEL_SUMS * PARALLEL_SUMS;
    if (start < whole) {
        double parts[OWN];
#pragma unroll
        for (int i = 0; i < OWN; ++i) parts[i] = term(start + lane + i);
        for (Index j = start + PARALLEL_SUMS + lane; j < whole; j += PARALLEL_SUMS)
#pragma unroll
            for (int i = 0; i < OWN; ++i) parts[i] += term(j + i);
#pragma unroll
        for (int width = 1; width < OWN; width *= 2)
#pragma unroll
            for (int i = 0; i < OWN; i += 2 * width) parts[i] += parts[i + width];
        // Both threads of a pair get the same bits, because a + b is b + a.
#pragma unroll
        for (int mask = 1; mask < LANES; mask *= 2) parts[0] += shuffle_xor(parts[0], mask);
        total = parts[0];
    }
    for (Index j = whole; j < stop; ++j) total += term(j);
    return total;
}

// Add up terms in the order of NumPy's sum of a contiguous row.
//
// NumPy halves a range that is longer than a block, and halves the halves again. The ranges are a
// binary tree, and the loop below walks the tree without recursion. `starts`, `stops` and `depths`
// are the stack of ranges that are not added up yet. `sums` and `sum_depths` are the stack of left
// halves whose right half is not added up yet. If a new sum has the depth of the sum on top of
// this stack, it is the right sibling of that sum; the two are added, left plus right, to the sum
// one level higher.
template <int LANES, class Term>
static __device__ double sum_of(const Term &term, Index count) {
    if (count <= PAIRWISE_BLOCK) return sum_of_block<LANES>(term, 0, count);
    Index starts[MAX_DEPTH + 1], stops[MAX_DEPTH + 1];
    double sums[MAX_DEPTH + 1];
    int depths[MAX_DEPTH + 1], sum_depths[MAX_DEPTH + 1], num_ranges = 1, num_sums = 0;
    starts[0] = 0, stops[0] = count, depths[0] = 0;
    while (num_ranges) {
        --num_ranges;
        Index start = starts[num_ranges], stop = stops[num_ranges];
        int depth = depths[num_ranges];
        if (stop - start > PAIRWISE_BLOCK) {
            Index half = start + (stop - start) / 2 / PARALLEL_SUMS * PARALLEL_SUMS;
            starts[num_ranges] = half, stops[num_ranges] = stop, depths[num_ranges++] = depth + 1;
            starts[num_ranges] = start, stops[num_ranges] = half, depths[num_ranges++] = depth + 1;
            continue;
        }
        double total = sum_of_block<LANES>(term, start, stop);
        for (; num_sums && sum_depths[num_sums - 1] == depth; --depth)
            total = sums[--num_sums] + total;
        sums[num_sums] = total, sum_depths[num_sums++] = depth;
    }
    return sums[0];
}

static __device__ __forceinline__ double cosine_distance(double product) {
    const double result = 1.0 - product;
    return result < 0.0 ? 0.0 : result > 2.0 ? 2.0 : result;
}

template <int LANES> static __device__ double distance(const Terms &terms, Index d) {
    const double total = sum_of<LANES>(terms, d);
    return terms.cosine ? cosine_distance(total) : total;
}

// Return the factor that scales a row to length one, from its squared length. A row whose square
// overflows gets NaN: it has no direction that could be computed, and must not count as a zero row.
static __device__ double scale_of(double square) {
    if (square == INF) square = NOT_A_NUMBER;
    return 1.0 / sqrt(square < SMALLEST_SQUARED_NORM ? SMALLEST_SQUARED_NORM : square);
}

// Rows, and what they are compared by: exact rows are scaled to length one for cosine.
struct Rows {
    const Scalar *points;
    Index n, d;
    const double *scales;

    __device__ Terms terms(Index row, const double *center) const {
        return Terms{points + row * d, center, scales ? scales[row] : 1.0, scales != nullptr};
    }
};

#define ROW_ARGUMENTS const Scalar *points, Index n, Index d, const double *scales
#define THE_ROWS Rows{points, n, d, scales}

// The distance kernels give eight neighboring threads one row or pair. All threads of a warp must
// take part in the exchange of partial sums, so those past the end compute the last one again.
static __device__ __forceinline__ Index this_octet() {
    return this_thread() / PARALLEL_SUMS;
}

static __device__ __forceinline__ bool leads_octet() {
    return threadIdx.x % PARALLEL_SUMS == 0;
}

static __device__ __forceinline__ Index not_past(Index place, Index count) {
    return place < count ? place : count - 1;
}

// Convert centers to float64. CuPy's own conversion makes subnormal float32 numbers zero.
extern "C" __global__ void widen(const Scalar *values, Index count, double *result) {
    const Index place = this_thread();
    if (place < count) result[place] = values[place];
}

// Compute the factor that scales each row to length one.
extern "C" __global__ void find_scales(const Scalar *points, Index n, Index d, double *scales) {
    const Index place = this_octet(), row = not_past(place, n);
    const double scale = scale_of(sum_of<PARALLEL_SUMS>(Squares{points + row * d}, d));
    if (place < n && leads_octet()) scales[place] = scale;
}

// Compute each row's distance to its nearest center. `exact` is (k, d).
extern "C" __global__ void measure_nearest(ROW_ARGUMENTS, const double *exact, const Index *nearest,
                                           double *distances) {
    const Index place = this_octet(), row = not_past(place, n);
    const Terms terms = THE_ROWS.terms(row, exact + nearest[row] * d);
    const double result = distance<PARALLEL_SUMS>(terms, d);
    if (place < n && leads_octet()) distances[place] = result;
}

// Compute each row's distance to every center, (n, k).
extern "C" __global__ void measure_all(ROW_ARGUMENTS, const double *exact, Index k,
                                       float *distances) {
    const Index place = this_octet(), pair = not_past(place, n * k);
    const Terms terms = THE_ROWS.terms(pair / k, exact + pair % k * d);
    const double result = distance<PARALLEL_SUMS>(terms, d);
    if (place < n * k && leads_octet()) distances[place] = (float)result;
}

// --- Rows and centers in float16 ---

// Rows and centers are scaled by powers of two and rounded to float16: value * 2^exponent is `high`
// plus a rest, and with two digits the rest is `low` plus a smaller rest. The digits are stored as
// the tensor cores read them. A slab of 16 rows and 16 columns is four matrices of 8 rows and 8
// columns: columns 0 to 7 and 8 to 15 of the first 8 rows, and then those of the others. The slabs
// of 16 rows are neighbors; zeros fill the last ones.

// Rows of a slab, and columns; its size in words of two float16.
#define SLAB 16
#define SLAB_WORDS 128
// The largest value of a row is scaled to less than 2^15; the largest float16 is below 2^16.
#define TOP_EXPONENT 15
// Slabs that a warp reads once. `kernel_device.py` has it too.
#define KEPT_SLABS 8
// Exponents lie between these, so that 2^exponent is a normal float32.
#define LEAST_EXPONENT -126
#define MOST_EXPONENT 126
// The exponent of a row is above that of the centers by at most this, so that scores are finite.
#define MOST_APART 60
// Relative error of a score beside those of digits and tensor cores: at most 63 units in the last
// place for the number of the column, and the rounding of the shifted row, of |c|^2 / 2, of its
// product with the ratio, and of the sum.
#define SCORE_ERROR 0x1p-16f
// Relative error of one column in the accumulation, of 16 products and the old sum in one
// instruction. Each addend may be truncated to 24 bits of the largest one.
#define COLUMN_ERROR 0x1p-22f
// Covers the rounding errors of the bound itself.
#define SLACK 1.02f
// Rows with a larger value are resolved exactly: float32 rows that are not finite after the shift,
// and float64 rows whose squared length may overflow.
#ifdef SINGLE
#define LARGEST_VALUE 3.4e38f
#else
#define LARGEST_VALUE 1e150
#endif

// Neighboring values that are loaded together.
struct alignas(2 * sizeof(Scalar)) Two {
    Scalar at[2];
};

struct alignas(16) Chunk {
    Scalar at[16 / sizeof(Scalar)];
};

// The sum of the four bytes of a word.
static __device__ __forceinline__ unsigned sum_of_bytes(unsigned word) {
    word = (word & 0x00ff00ffu) + (word >> 8 & 0x00ff00ffu);
    return (word + (word >> 16)) & 0xffffu;
}

// 128 in each byte that is zero, and 0 in the others.
static __device__ __forceinline__ unsigned zero_bytes(unsigned word) {
    return ~(((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) | word | 0x7f7f7f7fu);
}

// The exponent of a power of two that is above a value.
static __device__ __forceinline__ int exponent_above(double value) {
    return (int)(__double_as_longlong(value) >> 52 & 0x7ff) - 1022;
}

// 2^exponent, for normal numbers of float64.
static __device__ __forceinline__ double power_of_two(int exponent) {
    return __longlong_as_double((long long)(exponent + 1023) << 52);
}

static __device__ __forceinline__ int clamped(int value, int least, int most) {
    return value < least ? least : value > most ? most : value;
}

// Round rows to float16 and bound the errors of their scores.
//
// 16 rows are computed by `warps` (1, 2, 4 or 8) warps of a block, each with every so many slabs of
// columns. The four threads of a row in each warp share its maximum and sums. A thread keeps the
// values of its first KEPT_SLABS slabs in registers, and reads all others a second time.
//
//   list: (n,) the numbers of the rows; null for all rows 0 to n - 1.
//   slabs: number of slabs of 16 columns, from `d` up to a multiple of STAGE_COLUMNS.
//   scales: the factors of cosine; or null, and `shift`, (d,), is subtracted from the rows.
//   center_...: the exponent of the centers, and the largest lengths of the centers, of their rests
//     and of their `low`, scaled by 2^exponent, and |c|^2 / 2, scaled by 2^(2 exponent).
//   digits: 1 or 2. packed: (digits, tiles, slabs, SLAB_WORDS).
//   ratios: (n,) 2^(row's exponent - center's exponent).
//   margins: (n,) by how much two scores must differ to be certain; infinite if the row must be
//     resolved exactly.
//   lengths: null; or (n, 3), then the rows are the centers themselves, and only their lengths are
//     written: of the centers, of their rests, and of `low`.
extern "C" __global__ void __launch_bounds__(THREADS)
narrow(const Scalar *points, Index d, const double *scales, const Index *list, Index n, Index slabs,
       const Scalar *shift, Index center_exponent, float center_whole, float center_rest,
       float center_low, float center_half, Index digits, Index warps, unsigned *packed,
       float *ratios, float *margins, float *lengths) {
    __shared__ Scalar maxima[THREADS / WARP][SLAB];
    __shared__ float sums[THREADS / WARP][SLAB][3];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int share = warp % (int)warps, first_warp = warp - share;
    const Index tiles = (n + SLAB - 1) / SLAB;
    const Index tile = (Index)blockIdx.x * (THREADS / WARP / warps) + warp / warps;
    Index rows[2];
    double row_scales[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const Index place = tile * SLAB + g + 8 * i;
        rows[i] = place >= n ? -1 : list ? list[place] : place;
        row_scales[i] = scales && rows[i] >= 0 ? scales[rows[i]] : 1.0;
    }
    const bool even = d % 2 == 0;
    const Scalar *sources[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) sources[i] = points + (rows[i] < 0 ? 0 : rows[i]) * d;
    // The values 2j and 2j + 1 of this thread in a slab; 0 past the last row and column.
    auto load = [&](int i, Index slab, int j, Scalar *two) {
        const Index column = slab * SLAB + 2 * t + 8 * j;
        const bool first = rows[i] >= 0 && column < d, second = rows[i] >= 0 && column + 1 < d;
        two[0] = two[1] = 0;
        if (even) {
            if (first) *(Two *)two = *(const Two *)(sources[i] + column);
        } else {
            if (first) two[0] = sources[i][column];
            if (second) two[1] = sources[i][column + 1];
        }
    };
    // Scale or shift what was loaded.
    auto move = [&](int i, Index slab, int j, Scalar *two) {
        const Index column = slab * SLAB + 2 * t + 8 * j;
        const bool exists = rows[i] >= 0;
        if (scales) {
            two[0] = (Scalar)(two[0] * row_scales[i]), two[1] = (Scalar)(two[1] * row_scales[i]);
        } else {
            two[0] -= exists && column < d ? shift[column] : (Scalar)0;
            two[1] -= exists && column + 1 < d ? shift[column + 1] : (Scalar)0;
        }
    };

    alignas(16) Scalar kept[KEPT_SLABS][2][4];
    Scalar largest[2] = {0, 0}, factors[2];
    int exponents[2];
    auto enlarge = [&](const Scalar (&values)[2][4]) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                Scalar x = fabs(values[i][j]);
                x = x <= LARGEST_VALUE ? x : (Scalar)INF;  // NaN too
                largest[i] = x > largest[i] ? x : largest[i];
            }
    };
    auto load_slab = [&](Index slab, Scalar (&values)[2][4]) {
#pragma unroll
        for (int i = 0; i < 2; ++i) load(i, slab, 0, values[i]), load(i, slab, 1, values[i] + 2);
    };
    auto move_slab = [&](Index slab, Scalar (&values)[2][4]) {
#pragma unroll
        for (int i = 0; i < 2; ++i) move(i, slab, 0, values[i]), move(i, slab, 1, values[i] + 2);
    };
    // All loads start before the first value is used.
#pragma unroll
    for (int number = 0; number < KEPT_SLABS; ++number)
        load_slab(share + number * warps, kept[number]);
#pragma unroll
    for (int number = 0; number < KEPT_SLABS; ++number) {
        move_slab(share + number * warps, kept[number]);
        enlarge(kept[number]);
    }
    for (Index slab = share + KEPT_SLABS * warps; slab < slabs; slab += warps) {
        alignas(16) Scalar values[2][4];
        load_slab(slab, values);
        move_slab(slab, values);
        enlarge(values);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int mask = 1; mask < 4; mask *= 2) {
            const Scalar other = shuffle_xor(largest[i], mask);
            largest[i] = other > largest[i] ? other : largest[i];
        }
        if (t == 0) maxima[warp][g + 8 * i] = largest[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        for (int other = 0; other < warps; ++other) {
            const Scalar x = maxima[first_warp + other][g + 8 * i];
            largest[i] = x > largest[i] ? x : largest[i];
        }
        int exponent = TOP_EXPONENT - exponent_above((double)largest[i]);
        exponent = clamped(exponent, LEAST_EXPONENT, (int)center_exponent + MOST_APART);
        exponent = clamped(exponent, LEAST_EXPONENT, MOST_EXPONENT);
        exponents[i] = lengths ? (int)center_exponent : exponent;
        // Digits that are not used are zeros, not NaN.
        factors[i] = largest[i] < (Scalar)INF ? (Scalar)power_of_two(exponents[i]) : (Scalar)0;
    }

    float wholes[2] = {0, 0}, rests[2] = {0, 0}, lows[2] = {0, 0};
    auto round = [&](Index slab, const Scalar (&values)[2][4]) {
        unsigned short high[2][4], low[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const Scalar x = factors[i] > 0 ? values[i][j] * factors[i] : (Scalar)0;
                high[i][j] = half_bits((float)x), low[i][j] = 0;
                // Exact, because `high` has the leading bits of x.
                Scalar rest = x - (Scalar)half_value(high[i][j]);
                if (digits == 2) {
                    low[i][j] = half_bits((float)rest);
                    const float part = half_value(low[i][j]);
                    lows[i] = fused(part, part, lows[i]);
                    rest -= (Scalar)part;
                }
                wholes[i] = fused((float)x, (float)x, wholes[i]);
                rests[i] = fused((float)rest, (float)rest, rests[i]);
            }
        auto pair = [](const unsigned short *parts) -> unsigned {
            return (unsigned)parts[0] | (unsigned)parts[1] << 16;
        };
        unsigned *place = packed + (tile * slabs + slab) * SLAB_WORDS + lane;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                place[(2 * i + half) * WARP] = pair(high[i] + 2 * half);
                if (digits == 2)
                    place[tiles * slabs * SLAB_WORDS + (2 * i + half) * WARP] =
                        pair(low[i] + 2 * half);
            }
    };
    if (tile < tiles) {
#pragma unroll
        for (int number = 0; number < KEPT_SLABS; ++number)
            if (share + number * warps < slabs) round(share + number * warps, kept[number]);
        for (Index slab = share + KEPT_SLABS * warps; slab < slabs; slab += warps) {
            alignas(16) Scalar values[2][4];
            load_slab(slab, values);
            move_slab(slab, values);
            round(slab, values);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int mask = 1; mask < 4; mask *= 2) {
            wholes[i] += shuffle_xor(wholes[i], mask);
            rests[i] += shuffle_xor(rests[i], mask);
            lows[i] += shuffle_xor(lows[i], mask);
        }
        if (t != 0) continue;
        sums[warp][g + 8 * i][0] = wholes[i];
        sums[warp][g + 8 * i][1] = rests[i];
        sums[warp][g + 8 * i][2] = lows[i];
    }
    __syncthreads();
    if (share != 0 || t != 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const Index place = tile * SLAB + g + 8 * i;
        if (place >= n) continue;
        float whole = 0, rest = 0, low = 0;
        for (int other = 0; other < warps; ++other) {
            whole += sums[first_warp + other][g + 8 * i][0];
            rest += sums[first_warp + other][g + 8 * i][1];
            low += sums[first_warp + other][g + 8 * i][2];
        }
        whole = sqrtf(whole), rest = sqrtf(rest), low = sqrtf(low);
        if (lengths) {
            lengths[3 * place] = whole, lengths[3 * place + 1] = rest, lengths[3 * place + 2] = low;
            continue;
        }
        const int apart = exponents[i] - (int)center_exponent;
        const float ratio = apart < LEAST_EXPONENT ? 0.0f : (float)power_of_two(apart);
        const float size = whole * center_whole;
        const float crossed = low * center_whole + whole * center_low;
        float error = rest * center_whole + whole * center_rest + low * center_low;
        error += COLUMN_ERROR * (float)(slabs * SLAB) * (size + 2.0f * crossed);
        error += SCORE_ERROR * (size + center_half * ratio);
        // Exact distances are rounded too: (|x| + |c|)^2, and 1 - x.c for cosine, in the unit of
        // the scores.
        const double exact_size = (double)whole * whole / ratio + 2.0 * size +
                                  (double)center_whole * center_whole * ratio +
                                  (scales ? power_of_two(apart + 2 * (int)center_exponent) : 0.0);
        error += (float)(0x1p-52 * (double)(d + 4) * exact_size);
        ratios[place] = ratio;
        margins[place] = largest[i] < (Scalar)INF ? 2.0f * SLACK * error + 2.0f : (float)INF;
    }
}

// --- Nearest centers ---

// The least score so far, the second least, and the center of the least.
struct Ranked {
    float least, second;
    int center;

    // `other` has seen other centers. Equal least scores make a row ambiguous, so either center may
    // be kept. The scores of the padding after the last center are infinite or NaN, which `lesser`
    // skips; `greater` must not skip NaN, or the least score would be the second too.
    __device__ __forceinline__ void merge(const Ranked &other) {
        second = lesser(lesser(second, other.second), greater(least, other.least));
        center = other.least < least ? other.center : center;
        least = lesser(least, other.least);
    }
};

// What the blocks multiply.
//
//   rows, centers: packed by `narrow`; row_tiles, center_tiles: their numbers of tiles of 16, a
//     multiple of what a block reads at a time for centers.
//   parts: 1 for one digit. With two digits 3: low x high, high x low, and high x high.
//   halves: (16 center_tiles,) |c|^2 / 2, scaled by 2^(2 exponent); infinity for the padding.
struct Product {
    const uint4 *rows, *centers;
    Index row_tiles, center_tiles, slabs, parts;
    const float *halves, *ratios;
    Index n, k;
};

// Tiles of 16 rows in 64 rows.
#define TILES_OF_64 4

// The products that a thread holds: ROWS rows and COLUMNS centers of its block's tile, which has
// 64 ACROSS centers and 512 / ACROSS rows. THREADS_OF_ROW threads hold the products of a row.
#ifdef WARPGROUPS
// A warpgroup, four warps, has 64 rows or twice 64 rows, and all centers.
template <int ACROSS> struct Fragment {
    static const int GROUPS = THREADS / WARP / 4, TILES = 8 / ACROSS / GROUPS;
    static const int ROWS = 2 * TILES, COLUMNS = 16 * ACROSS, THREADS_OF_ROW = 4;
    float sums[TILES][8 * ACROSS][4];

    static __device__ __forceinline__ int group() { return threadIdx.x / WARP / 4; }
    static __device__ __forceinline__ int row(int i) {
        const int warp = threadIdx.x / WARP % 4, lane = threadIdx.x % WARP;
        return (group() * TILES + i / 2) * 64 + warp * 16 + i % 2 * 8 + lane / 4;
    }
    static __device__ __forceinline__ int column(int j) {
        return j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2;
    }
    static __device__ __forceinline__ int place_in_row() { return threadIdx.x % 4; }
    __device__ __forceinline__ float at(int i, int j) const {
        return sums[i / 2][j / 2][i % 2 * 2 + j % 2];
    }
};
#else
// A warp has 64 rows and 64 centers; ACROSS warps side by side have different centers.
template <int ACROSS> struct Fragment {
    static const int ROWS = 8, COLUMNS = 16, THREADS_OF_ROW = 4 * ACROSS;
    float sums[TILES_OF_64][2 * TILES_OF_64][4];

    static __device__ __forceinline__ int across() { return threadIdx.x / WARP % ACROSS; }
    static __device__ __forceinline__ int down() { return threadIdx.x / WARP / ACROSS; }
    static __device__ __forceinline__ int row(int i) {
        return down() * 64 + i / 2 * 16 + i % 2 * 8 + threadIdx.x % WARP / 4;
    }
    static __device__ __forceinline__ int column(int j) {
        return across() * 64 + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2;
    }
    static __device__ __forceinline__ int place_in_row() {
        return across() * 4 + threadIdx.x % 4;
    }
    __device__ __forceinline__ float at(int i, int j) const {
        return sums[i / 2][j / 2][i % 2 * 2 + j % 2];
    }
};
#endif

// Compute the products of a block's rows and all centers, panel by panel. `take` gets the number of
// each panel and the thread's products.
//
// A stage is STAGE_COLUMNS columns of the block's rows and of a panel of centers. While one stage
// is multiplied, the next ones are copied. A stage in shared memory is overwritten only after a
// barrier that all threads reach when it has been read.
template <int ACROSS, class Take>
static __device__ __forceinline__ void multiply_tiles(const Product &product, Take take) {
    const int SLABS = STAGE_COLUMNS / SLAB, LINE = SLABS * WARP, AT_ONCE = THREADS / LINE;
    const int ROW_TILES = TILES_OF_64 * 8 / ACROSS, CENTER_TILES = TILES_OF_64 * ACROSS;
    const int STAGE = (ROW_TILES + CENTER_TILES) * LINE;
#ifdef WARPGROUPS
    // The products of the last stage may still be read from shared memory at the barrier.
    const int AHEAD = STAGES - 2;
#else
    const int AHEAD = STAGES - 1;
#endif
    const int stages = (int)product.slabs / SLABS, parts = (int)product.parts;
    const int panels = (int)product.center_tiles / CENTER_TILES;
    const Index tile_size = product.slabs * WARP;
    const Index row_plane = parts == 3 ? product.row_tiles * tile_size : 0;
    const Index center_plane = parts == 3 ? product.center_tiles * tile_size : 0;

    // What this thread copies: one place in the line of every so many tiles. In shared memory the
    // tiles of one slab are neighbors.
    const uint4 *row_sources[ROW_TILES / AT_ONCE];
    const int in_line = threadIdx.x % LINE, first_tile = threadIdx.x / LINE;
#pragma unroll
    for (int i = 0; i < ROW_TILES / AT_ONCE; ++i) {
        Index tile = (Index)blockIdx.x * ROW_TILES + i * AT_ONCE + first_tile;
        tile = tile < product.row_tiles ? tile : product.row_tiles - 1;
        row_sources[i] = product.rows + tile * tile_size + in_line;
    }
    const uint4 *center_source = product.centers + first_tile * tile_size + in_line;
    const int own = first_tile * WARP + in_line % WARP, slab_of_own = in_line / WARP;
    const int row_target = slab_of_own * ROW_TILES * WARP + own;
    const int center_target = ROW_TILES * LINE + slab_of_own * CENTER_TILES * WARP + own;

    // The next stage to copy: panel, part of the digits, and columns.
    int next_panel = 0, next_part = 0, next_stage = 0, next_slot = 0;
    // Past the last stage there is an empty group, so that the number of groups stays the same.
    auto start_next = [&]() {
        if (next_panel < panels) {
            uint4 *target = dynamic_memory + next_slot * STAGE;
            const Index row_offset = next_stage * LINE + (next_part == 0 ? row_plane : 0);
            const Index center_offset = next_stage * LINE + (next_part == 1 ? center_plane : 0);
#pragma unroll
            for (int i = 0; i < ROW_TILES / AT_ONCE; ++i)
                copy_async(target + row_target + i * AT_ONCE * WARP, row_sources[i] + row_offset);
#pragma unroll
            for (int i = 0; i < CENTER_TILES / AT_ONCE; ++i)
                copy_async(target + center_target + i * AT_ONCE * WARP,
                           center_source + i * AT_ONCE * tile_size + center_offset);
            if (++next_stage == stages) {
                next_stage = 0;
                if (++next_part == parts) {
                    next_part = 0, ++next_panel;
                    center_source += CENTER_TILES * tile_size;
                }
            }
        }
        next_slot = next_slot + 1 == STAGES ? 0 : next_slot + 1;
        commit_copies();
    };
    for (int i = 0; i < AHEAD; ++i) start_next();

    int slot = 0;
    Fragment<ACROSS> own_products;
    for (int panel = 0; panel < panels; ++panel) {
#ifndef WARPGROUPS
#pragma unroll
        for (int i = 0; i < TILES_OF_64; ++i)
#pragma unroll
            for (int j = 0; j < 2 * TILES_OF_64; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) own_products.sums[i][j][e] = 0.0f;
#endif
        for (int step = 0; step < stages * parts; ++step) {
            wait_copies<AHEAD - 1>();
#ifdef WARPGROUPS
            publish_copies();
#endif
            __syncthreads();
            const uint4 *rows = dynamic_memory + slot * STAGE;
            const uint4 *centers = rows + ROW_TILES * LINE;
            slot = slot + 1 == STAGES ? 0 : slot + 1;
#ifdef WARPGROUPS
            begin_products();
#pragma unroll
            for (int slab = 0; slab < SLABS; ++slab)
#pragma unroll
                for (int i = 0; i < Fragment<ACROSS>::TILES; ++i) {
                    const int tile = (Fragment<ACROSS>::group() * Fragment<ACROSS>::TILES + i) *
                                     TILES_OF_64;
                    multiply_group(own_products.sums[i],
                                   description(rows + (slab * ROW_TILES + tile) * WARP),
                                   description(centers + slab * CENTER_TILES * WARP),
                                   step + slab > 0);
                }
            commit_products();
            start_next();
            wait_products<1>();
#else
            rows += Fragment<ACROSS>::down() * TILES_OF_64 * WARP;
            centers += Fragment<ACROSS>::across() * TILES_OF_64 * WARP;
#pragma unroll
            for (int slab = 0; slab < SLABS; ++slab) {
                unsigned b[TILES_OF_64][4];
#pragma unroll
                for (int j = 0; j < TILES_OF_64; ++j)
                    load_matrices(b[j], centers + (slab * CENTER_TILES + j) * WARP);
#pragma unroll
                for (int i = 0; i < TILES_OF_64; ++i) {
                    unsigned a[4];
                    load_matrices(a, rows + (slab * ROW_TILES + i) * WARP);
                    const unsigned left[4] = {a[0], a[2], a[1], a[3]};
#pragma unroll
                    for (int j = 0; j < TILES_OF_64; ++j) {
                        multiply(own_products.sums[i][2 * j], left, b[j][0], b[j][1]);
                        multiply(own_products.sums[i][2 * j + 1], left, b[j][2], b[j][3]);
                    }
                }
                // The tensor cores have work while the next copies start.
                if (slab == 0) start_next();
            }
#endif
        }
#ifdef WARPGROUPS
        wait_products<0>();
        // The compiler does not know that the wait completes the sums: it must not read them before.
#pragma unroll
        for (auto &tile : own_products.sums)
#pragma unroll
            for (auto &four : tile)
#pragma unroll
                for (float &sum : four) asm volatile("" : "+f"(sum)::"memory");
#endif
        take(panel, own_products);
    }
    wait_copies<0>();
    __syncthreads();
}

// Find the centers of the least scores, and list the ambiguous rows.
//
//   list: (n,) the numbers of the rows, or null. nearest: the centers, at the rows' own numbers.
//   ambiguous, limits: the numbers of the ambiguous rows; a center may be the nearest if its score
//     is not above the limit.
//
// The order of the list of ambiguous rows is not deterministic. No result depends on it: each row
// is resolved alone.
template <int ACROSS>
static __device__ __forceinline__ void
score_tiles(const Product &product, const float *margins, const Index *list, Index *nearest,
            Index *ambiguous, float *limits, Bits *num_ambiguous) {
    typedef Fragment<ACROSS> Own;
    const int BLOCK_ROWS = 512 / ACROSS, BLOCK_CENTERS = 64 * ACROSS, COLUMNS = Own::COLUMNS;
    const Index first = (Index)blockIdx.x * BLOCK_ROWS;
    Ranked ranked[Own::ROWS];
    float ratios[Own::ROWS];
#pragma unroll
    for (int i = 0; i < Own::ROWS; ++i) {
        ranked[i] = Ranked{(float)INF, (float)INF, 0};
        const Index place = first + Own::row(i);
        ratios[i] = place < product.n ? product.ratios[place] : 0.0f;
    }

    multiply_tiles<ACROSS>(product, [&](int panel, const Own &products) {
        const float *halves = product.halves + panel * BLOCK_CENTERS;
        float least[Own::ROWS], second[Own::ROWS];
#pragma unroll
        for (int i = 0; i < Own::ROWS; ++i) least[i] = second[i] = (float)INF;
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const float half = halves[Own::column(j)];
#pragma unroll
            for (int i = 0; i < Own::ROWS; ++i) {
                // The last bits of a score are replaced by the number of its column.
                float score = fused(half, ratios[i], -products.at(i, j));
                score = __uint_as_float((__float_as_uint(score) & ~(COLUMNS - 1u)) | j);
                second[i] = lesser(second[i], greater(least[i], score));
                least[i] = lesser(least[i], score);
            }
        }
#pragma unroll
        for (int i = 0; i < Own::ROWS; ++i) {
            // The number of the panel, and then of the column.
            const int column = (int)(__float_as_uint(least[i]) & (COLUMNS - 1u));
            ranked[i].merge(Ranked{least[i], second[i], panel * COLUMNS + column});
        }
    });

    // Several threads have seen different centers of the same row: one thread merges their ranks.
    Ranked *ranks = (Ranked *)dynamic_memory;
    const int PLACES = Own::THREADS_OF_ROW;
#pragma unroll
    for (int i = 0; i < Own::ROWS; ++i) {
        const int column = ranked[i].center % COLUMNS;
        ranked[i].center = ranked[i].center / COLUMNS * BLOCK_CENTERS + Own::column(column);
        ranks[Own::row(i) * PLACES + Own::place_in_row()] = ranked[i];
    }
    __syncthreads();
    for (int place = threadIdx.x; place < BLOCK_ROWS && first + place < product.n;
         place += THREADS) {
        Ranked all = ranks[place * PLACES];
        for (int i = 1; i < PLACES; ++i) all.merge(ranks[place * PLACES + i]);
        const Index row = list ? list[first + place] : first + place;
        const float limit = all.least + margins[first + place];
        nearest[row] = all.center < product.k ? all.center : 0;
        // The negation makes a row ambiguous if the limit is NaN.
        if (all.second > limit) continue;
        const Bits target = atomicAdd(num_ambiguous, (Bits)1);
        ambiguous[target] = row, limits[target] = limit;
    }
}

// List the pairs of rows and centers whose scores are not above the rows' limits. Rows whose pairs
// find no room, and rows that must be resolved exactly, are marked as `dropped`.
template <int ACROSS>
static __device__ __forceinline__ void
list_pairs(const Product &product, const float *limits, Index capacity, uint2 *pairs,
           Bits *num_pairs, unsigned *dropped) {
    typedef Fragment<ACROSS> Own;
    const Index first = (Index)blockIdx.x * (512 / ACROSS);
    float ratios[Own::ROWS], highest[Own::ROWS];
#pragma unroll
    for (int i = 0; i < Own::ROWS; ++i) {
        const Index place = first + Own::row(i);
        ratios[i] = place < product.n ? product.ratios[place] : 0.0f;
        highest[i] = place < product.n ? limits[place] : (float)-INF;
        if (highest[i] < (float)INF) continue;
        dropped[place] = 1, highest[i] = (float)-INF;
    }
    multiply_tiles<ACROSS>(product, [&](int panel, const Own &products) {
        const int first_center = panel * 64 * ACROSS;
        // Bits of the thread's columns. A branch for each score would take longer than the scores.
        static_assert(Own::COLUMNS <= 64, "a bit for each column");
        Bits found[Own::ROWS] = {};
#pragma unroll
        for (int j = 0; j < Own::COLUMNS; ++j) {
            const float half = product.halves[first_center + Own::column(j)];
#pragma unroll
            for (int i = 0; i < Own::ROWS; ++i) {
                const float score = fused(half, ratios[i], -products.at(i, j));
                if (score <= highest[i]) found[i] |= (Bits)1 << j;
            }
        }
#pragma unroll
        for (int i = 0; i < Own::ROWS; ++i)
            for (; found[i]; found[i] &= found[i] - 1) {
                const int center = first_center + Own::column(__ffsll(found[i]) - 1);
                if (center >= product.k) continue;
                const Index place = first + Own::row(i);
                const Bits target = atomicAdd(num_pairs, (Bits)1);
                if (target < (Bits)capacity)
                    pairs[target] = uint2{(unsigned)place, (unsigned)center};
                else
                    dropped[place] = 1;
            }
    });
}

#define PRODUCT                                                                                    \
    const uint4 *rows, const uint4 *centers, Index row_tiles, Index center_tiles, Index slabs,     \
        Index parts, const float *halves, const float *ratios, Index n, Index k
#define THE_PRODUCT                                                                                \
    Product{rows, centers, row_tiles, center_tiles, slabs, parts, halves, ratios, n, k}
#define SCORE(CENTERS)                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) score_##CENTERS(                      \
        PRODUCT, const float *margins, const Index *list, Index *nearest, Index *ambiguous,        \
        float *limits, Bits *num_ambiguous) {                                                      \
        score_tiles<CENTERS / 64>(THE_PRODUCT, margins, list, nearest, ambiguous, limits,          \
                                  num_ambiguous);                                                  \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) list_pairs_##CENTERS(                 \
        PRODUCT, const float *limits, Index capacity, uint2 *pairs, Bits *num_pairs,               \
        unsigned *dropped) {                                                                       \
        list_pairs<CENTERS / 64>(THE_PRODUCT, limits, capacity, pairs, num_pairs, dropped);        \
    }

// The digits of float64 rows are float16 too.
#ifdef SINGLE
SCORE(128)
SCORE(256)
#endif

// Compute the exact distance of each pair, and the least distance of each row of the list. A
// distance is not negative, so distances are ordered as their bits are.
//
//   list: the numbers of the rows that the pairs' first numbers are places in.
//   least: (any,) the bits of infinity at first.
extern "C" __global__ void __launch_bounds__(THREADS)
measure_pairs(ROW_ARGUMENTS, const Index *list, const double *exact, const uint2 *pairs,
              Index capacity, const Bits *num_pairs, double *distances, Bits *least) {
    const Index count = (Index)*num_pairs < capacity ? (Index)*num_pairs : capacity;
    const Index at_once = (Index)gridDim.x * (THREADS / PARALLEL_SUMS);
    // All threads of a warp make the same number of steps: the four octets of a warp are neighbors.
    const Index octet = this_octet(), octets = WARP / PARALLEL_SUMS;
    for (Index start = octet / octets * octets; start < count; start += at_once) {
        const Index place = start + octet % octets, pair = not_past(place, count);
        const Index row = list[pairs[pair].x];
        const Terms terms = THE_ROWS.terms(row, exact + pairs[pair].y * d);
        const double result = distance<PARALLEL_SUMS>(terms, d);
        if (place >= count || !leads_octet()) continue;
        distances[place] = result;
        atomicMin(least + pairs[place].x, (Bits)__double_as_longlong(result));
    }
}

// Find the lowest of the centers at the least distance.
//
//   best: (any,) at least k at first.
extern "C" __global__ void __launch_bounds__(THREADS)
pick_pairs(const uint2 *pairs, Index capacity, const Bits *num_pairs, const double *distances,
           const Bits *least, Bits *best) {
    const Index count = (Index)*num_pairs < capacity ? (Index)*num_pairs : capacity;
    for (Index place = this_thread(); place < count; place += (Index)gridDim.x * THREADS)
        if ((Bits)__double_as_longlong(distances[place]) == least[pairs[place].x])
            atomicMin(best + pairs[place].x, (Bits)pairs[place].y);
}

// Set the nearest centers of listed rows, and list those that were dropped. A row without a pair is
// listed too: its center of the least score should be one.
extern "C" __global__ void __launch_bounds__(THREADS)
place_pairs(const Index *list, Index count, Index k, const Bits *best, const unsigned *dropped,
            Index *nearest, Index *left, Bits *num_left) {
    const Index place = this_thread();
    if (place >= count) return;
    if (dropped[place] || best[place] >= (Bits)k)
        left[atomicAdd(num_left, (Bits)1)] = list[place];
    else
        nearest[list[place]] = (Index)best[place];
}

// Find the nearest centers of listed rows by the exact distances to all centers, a block for each
// row. The octets of a block have different centers.
extern "C" __global__ void __launch_bounds__(THREADS)
resolve(ROW_ARGUMENTS, const Index *list, const double *exact, Index k, Index *nearest) {
    const int OCTETS = THREADS / PARALLEL_SUMS;
    __shared__ double leasts[OCTETS];
    __shared__ Index centers[OCTETS];
    const Index row = list[blockIdx.x];
    const int octet = threadIdx.x / PARALLEL_SUMS;
    double least = INF;
    Index least_center = k;
    for (Index start = 0; start < k; start += OCTETS) {
        const Index center = start + octet;
        const Terms terms = THE_ROWS.terms(row, exact + not_past(center, k) * d);
        const double result = distance<PARALLEL_SUMS>(terms, d);
        if (center < k && result < least) least = result, least_center = center;
    }
    if (leads_octet()) leasts[octet] = least, centers[octet] = least_center;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < OCTETS; ++i)
        if (leasts[i] < least || (leasts[i] == least && centers[i] < least_center))
            least = leasts[i], least_center = centers[i];
    // A row that is not finite has no least distance: it is assigned to the first center.
    nearest[row] = least_center < k ? least_center : 0;
}

// --- Sums ---

// Sums are whole numbers, so their order changes no bit. A value of column j counts multiples of
// 2^exponent_j in plane 0, of 46 bits and a sign, and of 2^(exponent_j - 32) in plane -1. For cosine
// it is the nearest multiple of 2^-45 in plane 0. A value with more bits above or below is left to
// the host, which is told the number of the row. `dkmeans.exact` has the same planes and sizes.
#define WINDOW 0x1p46
#define OF_DIRECTIONS 0x1p45
#define PLANE_BITS 32
#define PLANE_MASK 0xffffffffLL
// Sums from here on are carried to the next plane. A smaller sum has room for 2^30 numbers of 32 bits.
#define CARRIED (1LL << 61)

// What a value adds to planes 0 and -1; nothing if it is left.
struct Parts {
    Index high, low;
    bool left;
};

// Split a value; `power` is 2^-exponent of its column. `high` is the nearest integer, so `low` may
// have the other sign.
static __device__ __forceinline__ Parts split(double x, double power) {
    // Added to a number, this makes its last bits those of the nearest integer.
    const double TO_NEAREST = 0x1.8p52;
    const Parts nothing{0, 0, true};
    const double scaled = x * power, sum = scaled + TO_NEAREST;
    if (!(fabs(scaled) < WINDOW)) return nothing;  // NaN too
    const Index high = __double_as_longlong(sum) - __double_as_longlong(TO_NEAREST);
    const double rest = (scaled - (sum - TO_NEAREST)) * 0x1p32;
    Index low = 0;
    // Nearly all float32 values have no rest.
    if (rest != 0.0) {
        low = (Index)rest;
        if ((double)low != rest) return nothing;
    }
    // An underflow leaves no rest.
    return scaled == 0.0 && x != 0.0 ? nothing : Parts{high, low, false};
}

// Round a value of a row that is scaled to length one. Only values that are not finite are left.
static __device__ __forceinline__ Parts split_direction(double x, double scale) {
    const double rounded = rint((x * scale) * OF_DIRECTIONS);
    return fabs(rounded) < WINDOW ? Parts{(Index)rounded, 0, false} : Parts{0, 0, true};
}

// Where rows are added: threads add up values in registers, and then add the result here.
//
//   powers: (d,) 2^-exponent of each column; null for cosine.
//   values: planes 1, 0 and -1 of the sums, each (k, d), and the counts, (k,).
//   first: the number of the first row in the chunk.
//   left: a word that is not zero if values are left, and then a bit for each row of the chunk.
struct Sums {
    Index k, d;
    const double *powers;
    Bits *values;
    Index first;
    unsigned *left;

    // Add to the sum of a center and a column. What is above 32 bits is added to plane 1, so that
    // planes have room for 2^30 rows of 46 bits, however they are distributed.
    __device__ void add(Index center, Index column, Index high, Index low) const {
        Bits *place = values + center * d + column;
        const Bits upper = (Bits)(high >> PLANE_BITS), lower = (Bits)(high & PLANE_MASK);
        if (upper) atomicAdd(place, upper);
        if (lower) atomicAdd(place + k * d, lower);
        // Nearly all values of float32 rows have no part in plane -1.
        if (low) atomicAdd(place + 2 * k * d, (Bits)low);
    }

    __device__ void count(Index center, Index rows) const {
        if (rows) atomicAdd(values + 3 * k * d + center, (Bits)rows);
    }

    // Tell the host if values of a row are left.
    __device__ void check(const Parts &parts, Index row) const {
        if (!parts.left) return;
        const Index number = first + row;
        atomicOr(left + 1 + number / WARP, 1u << number % WARP);
        left[0] = 1;
    }
};

#define SUM_ARGUMENTS                                                                              \
    Index k, const double *powers, Bits *values, Index first, unsigned *left
#define THE_SUMS Sums{k, d, powers, values, first, left}

// Count the rows of each center. counts: (k,).
extern "C" __global__ void __launch_bounds__(THREADS)
count_rows(const Index *nearest, Index n, Index k, Bits *counts) {
    __shared__ unsigned own[COUNTED_CENTERS];
    const bool shares = k <= COUNTED_CENTERS;
    for (int center = threadIdx.x; shares && center < k; center += THREADS) own[center] = 0;
    __syncthreads();
    const Index start = (Index)blockIdx.x * COUNTED_ROWS;
    const Index stop = start + COUNTED_ROWS < n ? start + COUNTED_ROWS : n;
    for (Index row = start + threadIdx.x; row < stop; row += THREADS)
        if (shares)
            atomicAdd(own + nearest[row], 1u);
        else
            atomicAdd(counts + nearest[row], (Bits)1);
    __syncthreads();
    for (int center = threadIdx.x; shares && center < k; center += THREADS)
        if (own[center]) atomicAdd(counts + center, (Bits)own[center]);
}

// Order the rows by their centers. The rows of a center are in any order, as sums may be.
//
//   places: (k,) the first place of each center's rows; moved past the last one.
//   order: (n,) the numbers of the rows.
extern "C" __global__ void __launch_bounds__(THREADS)
order_rows(const Index *nearest, Index n, Index k, Bits *places, unsigned *order) {
    // The number of a center's rows in the block, and then the place of the next one.
    __shared__ unsigned own[COUNTED_CENTERS];
    const bool shares = k <= COUNTED_CENTERS;
    for (int center = threadIdx.x; shares && center < k; center += THREADS) own[center] = 0;
    __syncthreads();
    const Index start = (Index)blockIdx.x * COUNTED_ROWS;
    const Index stop = start + COUNTED_ROWS < n ? start + COUNTED_ROWS : n;
    for (Index row = start + threadIdx.x; shares && row < stop; row += THREADS)
        atomicAdd(own + nearest[row], 1u);
    __syncthreads();
    for (int center = threadIdx.x; shares && center < k; center += THREADS)
        if (own[center]) own[center] = (unsigned)atomicAdd(places + center, (Bits)own[center]);
    __syncthreads();
    for (Index row = start + threadIdx.x; row < stop; row += THREADS) {
        const Index center = nearest[row];
        const Index place = shares ? (Index)atomicAdd(own + center, 1u)
                                   : (Index)atomicAdd(places + center, (Bits)1);
        order[place] = (unsigned)row;
    }
}

// Add ordered rows to the sums of their centers. A thread adds up a column of `run` neighbors of the
// order, at most 2^16; neighboring threads have neighboring columns.
extern "C" __global__ void __launch_bounds__(THREADS)
add_rows(ROW_ARGUMENTS, const Index *nearest, const unsigned *order, Index run, SUM_ARGUMENTS) {
    const int AT_ONCE = 4;
    const Sums sums = THE_SUMS;
    const int columns = d < THREADS ? (int)d : THREADS, runs = THREADS / columns;
    const unsigned groups = ((unsigned)d + columns - 1) / columns;
    const Index column = blockIdx.x % groups * columns + threadIdx.x % columns;
    const int own_run = threadIdx.x / columns;
    const Index start = ((Index)(blockIdx.x / groups) * runs + own_run) * run;
    const Index stop = start + run < n ? start + run : n;
    if (own_run >= runs || column >= d || start >= stop) return;
    const double power = scales ? 1.0 : powers[column];
    Index center = nearest[order[start]], high = 0, low = 0;
    for (Index place = start; place < stop; place += AT_ONCE) {
        // Several rows are loaded before the first is added.
        Index rows[AT_ONCE], centers[AT_ONCE];
        double values[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) rows[i] = order[not_past(place + i, stop)];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i)
            values[i] = points[rows[i] * d + column], centers[i] = nearest[rows[i]];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (place + i >= stop) break;
            if (centers[i] != center) {
                sums.add(center, column, high, low);
                center = centers[i], high = low = 0;
            }
            const Parts parts = scales ? split_direction(values[i], scales[rows[i]])
                                       : split(values[i], power);
            sums.check(parts, rows[i]);
            high += parts.high, low += parts.low;
        }
    }
    sums.add(center, column, high, low);
}

// Move what is above 32 bits to the next plane.
static __device__ __forceinline__ void carry_to(Index &upper, Index &sum) {
    // The shift rounds down, so the lower bits are a positive number.
    upper += sum >> PLANE_BITS, sum &= PLANE_MASK;
}

// Carry large sums, so that planes 0 and -1 have room for as many rows again. Plane 1 has room for
// 2^48 rows.
extern "C" __global__ void __launch_bounds__(THREADS) carry(Index k, Index d, Index *values) {
    const Index place = this_thread(), size = k * d;
    if (place >= size) return;
    Index *own = values + place;
    Index upper = 0, middle = own[size], lower = own[2 * size];
    const Index before[2] = {middle, lower};
    if (lower >= CARRIED || lower < -CARRIED) carry_to(middle, lower);
    if (middle >= CARRIED || middle < -CARRIED) carry_to(upper, middle);
    // Nothing is written for most sums.
    if (upper) own[0] += upper;
    if (middle != before[0]) own[size] = middle;
    if (lower != before[1]) own[2 * size] = lower;
}

// A sum of products of 64 bits, in 128 bits.
struct Wide {
    Bits low, high;

    __device__ __forceinline__ void add(Bits a, Bits b) {
        const Bits product = a * b;
        low += product;
        high += __umul64hi(a, b) + (low < product);
    }
};

// Add up the squares of the values of each column. A value is (high 2^32 + low) 2^(exponent - 32),
// so its square has three products. A thread adds up every so many of `block_rows` rows of one
// column.
//   digits: (3, 4, d) sums of the 32-bit digits of the sums of high^2, high low and low^2.
extern "C" __global__ void __launch_bounds__(THREADS)
add_squares(const Scalar *points, Index n, Index d, Index block_rows, const double *powers,
            Index first, Bits *digits, unsigned *left) {
    const int columns = d < THREADS ? (int)d : THREADS, rows_at_once = THREADS / columns;
    const unsigned groups = ((unsigned)d + columns - 1) / columns;
    const Index column = blockIdx.x % groups * columns + threadIdx.x % columns;
    const int row_place = threadIdx.x / columns;
    if (row_place >= rows_at_once || column >= d) return;
    const Index start = (Index)(blockIdx.x / groups) * block_rows;
    const Index stop = start + block_rows < n ? start + block_rows : n;
    const double power = powers[column];
    Wide sums[3] = {};
#pragma unroll 4
    for (Index row = start + row_place; row < stop; row += rows_at_once) {
        const Parts parts = split(points[row * d + column], power);
        Sums{0, d, powers, nullptr, first, left}.check(parts, row);
        // Two parts that are not negative, of the value without its sign.
        const bool negative = parts.high < 0 || (parts.high == 0 && parts.low < 0);
        const Index whole = negative ? -parts.high : parts.high;
        const Index rest = negative ? -parts.low : parts.low;
        const Bits high = (Bits)(rest < 0 ? whole - 1 : whole);
        const Bits low = (Bits)(rest & PLANE_MASK);
        sums[0].add(high, high);
        if (low) sums[1].add(high, low), sums[2].add(low, low);
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        const Bits words[2] = {sums[i].low, sums[i].high};
#pragma unroll
        for (int digit = 0; digit < 4; ++digit) {
            const Bits value = words[digit / 2] >> digit % 2 * PLANE_BITS & (Bits)PLANE_MASK;
            if (value) atomicAdd(digits + (i * 4 + digit) * d + column, value);
        }
    }
}

#ifdef SINGLE
// --- Few centers: float32 rows ---

// A warp finds the nearest centers of FEW_TILE neighboring rows at a time, and adds them up.
//
// 1. The rows are copied to shared memory, while the last ones are computed.
// 2. The tensor cores score them. Rows and centers are sums of two bfloat16 numbers; all four
//    products are added. The last bits of a score are replaced by the center's number.
// 3. The tensor cores add up the rows of each center, exactly: they multiply a matrix of bytes, which
//    is zero where a row does not belong to a center, with the bytes of the rows' values on the grid.
//
// Rows that are too close to two centers are resolved at once. Rows with values that may not fit
// into two digits are added by a thread, one value after the other.

// Rows of a tile, and tiles that a warp holds: one is computed, the others are copied.
#define FEW_TILE 64
#define FEW_STAGES 2
// Neighboring rows are so many values further apart than they are long: so threads that read the
// same column of every second row use different banks.
#define FEW_GAP 4
// A value on the grid has two digits of 22 bits and a sign: multiples of 2^22 units, and the rest.
#define DIGIT 0x1p22f
#define DIGIT_BITS 22
// Added to a digit, this makes its float32 number an integer in the last three bytes, plus 2^22.
#define TO_INTEGER 0x1.8p23f
// For cosine a value has 46 bits and a sign; this makes it an integer in the last six bytes, plus
// 2^47.
#define TO_LONG_INTEGER (0x1.8p52 + 0x1p47)
// Bytes of a value.
#define VALUE_BYTES 6

// The centers as an argument of the kernel: zeros after column d, and huge halves after center k.
//
//   weights: minus the shifted centers. halves: |c|^2 / 2. shift: subtracted from the rows.
//   powers: 2^-exponent of each column; not used for cosine.
//   margin_per_square, margin: two scores of a row are certain if they differ by more than
//     `margin`, plus `margin_per_square` times the row's squared length after the shift.
//   square_limit: rows whose squared length is not below this may have scores that overflow, or
//     values with more than two digits.
template <int WIDTH, int CENTERS> struct FewCenters {
    double powers[WIDTH];
    float weights[CENTERS][WIDTH], halves[CENTERS], shift[WIDTH];
    float margin_per_square, margin, square_limit;
};

// Two numbers as sums of two bfloat16 numbers: the first words have the rounded numbers, the second
// what rounding has left of them.
static __device__ __forceinline__ void to_bfloats(float first, float second, unsigned &high,
                                                  unsigned &low) {
    high = bfloat_pair(first, second);
    low = bfloat_pair(first - __uint_as_float(high << 16),
                      second - __uint_as_float(high & 0xffff0000u));
}

// Split the numbers of four rows into words of four neighboring bytes: the last bytes of the
// numbers, the bytes before them, and those before.
static __device__ __forceinline__ void to_bytes(const unsigned (&numbers)[4], unsigned (&words)[3]) {
    const unsigned one = __byte_perm(numbers[0], numbers[1], 0x5140);
    const unsigned two = __byte_perm(numbers[2], numbers[3], 0x5140);
    words[0] = __byte_perm(one, two, 0x5410);
    words[1] = __byte_perm(one, two, 0x7632);
    words[2] = __byte_perm(__byte_perm(numbers[0], numbers[1], 0x0062),
                           __byte_perm(numbers[2], numbers[3], 0x0062), 0x5410);
}

// The two digits of a value, as float32 numbers with their integers in the last three bytes, and
// what is left of the value. `power` is 2^-(exponent + 22) of its column. All steps are exact. What
// is left keeps the scale of the value: in units of the grid a tiny value could underflow to zero.
struct Digits {
    unsigned high, low;
    float rest;

    static __device__ __forceinline__ Digits of(float x, float power) {
        // One divided by a power of two.
        const float unit = __uint_as_float(0x7f000000u - __float_as_uint(power));
        const float high = fused(x, power, TO_INTEGER);
        const float part = fused(TO_INTEGER - high, unit, x);
        const float low = fused(part, power * DIGIT, TO_INTEGER);
        const float rest = fused(TO_INTEGER - low, unit * (1.0f / DIGIT), part);
        return Digits{__float_as_uint(high), __float_as_uint(low), rest};
    }

    // The number that the tensor cores add for this value.
    __device__ Index added() const {
        const Index upper = (Index)(high & 0xffffffu) - (1 << DIGIT_BITS);
        const Index lower = (Index)(low & 0xffffffu) - (1 << DIGIT_BITS);
        return upper * (1 << DIGIT_BITS) + lower;
    }
};

// The next two functions are called rarely. They are not inlined, because their registers would be
// those of the whole kernel, and sums would be spilled.

// Find the nearest center of a row by exact distances: 0 if the row is not finite. Add the row too,
// as number `number`, unless it `fits`.
static __device__ __noinline__ int treat_alone(const Terms row, const double *exact, int k, int d,
                                               const double *powers, bool fits, Index number,
                                               const Sums &sums) {
    double least = INF;
    int nearest = 0;
    for (int center = 0; center < k; ++center) {
        const Terms terms{row.row, exact + center * d, row.scale, row.cosine};
        double total = sum_of_block<1>(terms, 0, d);
        if (row.cosine) total = cosine_distance(total);
        if (total < least) least = total, nearest = center;
    }
    if (fits) return nearest;
    for (int j = 0; j < d; ++j) {
        const Parts parts = row.cosine ? split_direction(row.row[j], row.scale)
                                       : split(row.row[j], powers[j]);
        sums.check(parts, number);
        sums.add(nearest, j, parts.high, parts.low);
    }
    sums.count(nearest, 1);
    return nearest;
}

// Correct the sums for a value that has more than two digits.
static __device__ __noinline__ void add_rest(float x, double power, int center, int column,
                                             Index number, const Sums &sums) {
    const Parts parts = split(x, power);
    sums.check(parts, number);
    const Index added = Digits::of(x, (float)(power / DIGIT)).added();
    sums.add(center, column, parts.high - added, parts.low);
}

// The two least scores of a row, of which the center's number is a part, and its squared length.
struct FewRanked {
    float least, second, square;

    __device__ __forceinline__ void take(float score) {
        second = lesser(second, greater(least, score)), least = lesser(least, score);
    }

    // Merge what two threads know of two rows. This one keeps the first row, or the second one if
    // `second_row`; the other thread, whose lane differs by `mask`, keeps the other row.
    static __device__ __forceinline__ FewRanked exchanged(const FewRanked &first,
                                                          const FewRanked &other, bool second_row,
                                                          int mask) {
        FewRanked all{second_row ? other.least : first.least,
                      second_row ? other.second : first.second,
                      second_row ? other.square : first.square};
        const float least = shuffle_xor(second_row ? first.least : other.least, mask);
        all.second = lesser(all.second, shuffle_xor(second_row ? first.second : other.second, mask));
        all.take(least);
        all.square += shuffle_xor(second_row ? first.square : other.square, mask);
        return all;
    }
};

template <int WIDTH, int CENTERS, bool COSINE>
static __device__ __forceinline__ void
add_few(const Rows &rows, const FewCenters<WIDTH, CENTERS> &few, const double *exact,
        const Sums &sums) {
    const int WARPS = THREADS / WARP, BLOCKS = WIDTH / 8, GROUPS = CENTERS / 8, CHUNK = 4;
    const int STRIDE = WIDTH + FEW_GAP, STAGE = FEW_TILE * STRIDE, OWN = 4;
    // Bits 0 to 7 and 8 to 15 of a row's bit set, that of its center. The bytes that a thread of the
    // tensor cores reads at a time are neighbors.
    alignas(8) __shared__ unsigned char memberships[WARPS][2][WARP];
    __shared__ double row_scales[COSINE ? WARPS : 1][COSINE ? WARP : 1];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const int d = (int)rows.d, k = (int)sums.k;
    float *stages = (float *)dynamic_memory + warp * (FEW_STAGES * STAGE);
    const int tiles = (int)((rows.n + FEW_TILE - 1) / FEW_TILE), whole = (int)(rows.n / FEW_TILE);
    const int step = gridDim.x * WARPS, first_tile = blockIdx.x * WARPS + warp;

    // The columns after d are zeros, and stay so.
    if (d < WIDTH)
        for (int place = lane; place < FEW_STAGES * STAGE; place += WARP) stages[place] = 0.0f;
    __syncwarp();

    // Past the last tile there is an empty group, so that the number of groups stays the same.
    auto start_copies = [&](int tile, float *target) {
        const float *source = rows.points + (Index)tile * (FEW_TILE * d);
        if (d == WIDTH && tile < whole) {
            const int PER_ROW = WIDTH / CHUNK;
            target += lane / PER_ROW * STRIDE + lane % PER_ROW * CHUNK, source += lane * CHUNK;
#pragma unroll
            for (int i = 0; i < FEW_TILE * PER_ROW / WARP; ++i)
                copy_async(target + i * (WARP / PER_ROW) * STRIDE, source + i * WARP * CHUNK);
        } else if (tile < tiles) {
            const int count = tile < whole ? FEW_TILE : (int)(rows.n % FEW_TILE);
            const bool chunked = d % CHUNK == 0;
            const int unit = chunked ? CHUNK : 1, units = d / unit;
#pragma unroll 1
            for (int place = lane; place < count * units; place += WARP) {
                float *to = target + place / units * STRIDE + place % units * unit;
                if (chunked)
                    copy_async(to, source + place * unit);
                else
                    copy_async<4>(to, source + place);
            }
        }
        commit_copies();
    };
    start_copies(first_tile, stages);

    // What the tensor cores' threads hold of the centers: two columns of each block of 8, for one
    // center of each group of 8, and the halves and numbers of two centers.
    unsigned weights[BLOCKS][GROUPS][2];
    float halves[GROUPS][4], shift[BLOCKS][2], powers[BLOCKS];
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
        const int column = 8 * block + 2 * t;
        shift[block][0] = few.shift[column], shift[block][1] = few.shift[column + 1];
        powers[block] = (float)(few.powers[8 * block + g] / DIGIT);
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
            const float *own = few.weights[8 * group + g] + column;
            to_bfloats(own[0], own[1], weights[block][group][0], weights[block][group][1]);
        }
    }
#pragma unroll
    for (int group = 0; group < GROUPS; ++group)
#pragma unroll
        for (int i = 0; i < 4; ++i) halves[group][i] = few.halves[8 * group + 2 * t + i % 2];
    // Not a constant: the compiler would need two instructions for a mask and a number.
    const unsigned number_mask = ~(blockDim.x / (THREADS / FEW_CENTERS) - 1u);
    // The first row that the thread scores; the others follow every 8 rows. And the one of these that
    // it decides, and where the tensor cores expect it.
    const int first_scored = g % 4 * 2 + g / 4, decided = t % 2 * 2 + t / 2;
    const int place_of_own = g % 4 * 8 + decided * 2 + g / 4;

    // The sums of each byte, and the numbers of rows, times 2^(center % 8).
    int totals[BLOCKS][VALUE_BYTES][4] = {}, counts[4] = {};
    float *stage = stages, *next_stage = stages + STAGE;
#pragma unroll 1
    for (int tile = first_tile; tile < tiles; tile += step) {
        wait_copies<0>();
        // All threads have read the last stage, which is overwritten now.
        __syncwarp();
        start_copies(tile + step, next_stage);
#pragma unroll 1
        for (int start = 0; start < FEW_TILE; start += WARP) {
            const float *tile_rows = stage + start * STRIDE;
            const int count = tile < whole ? WARP : (int)(rows.n % FEW_TILE) - start;
            if (COSINE) {
                const double square = sum_of_block<1>(Squares{tile_rows + lane * STRIDE}, 0, d);
                row_scales[warp][lane] = scale_of(square);
                __syncwarp();
            }
            const float *scored = tile_rows + first_scored * STRIDE + 2 * t;
            // The scores of a thread: for two of 16 rows, two of 8 centers.
            float scores[2][GROUPS][4];
            FewRanked ranked[OWN];
#pragma unroll
            for (int i = 0; i < OWN; ++i) ranked[i].square = 0.0f;
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
                unsigned values[2][4];
#pragma unroll
                for (int i = 0; i < OWN; ++i) {
                    const float2 two = *(const float2 *)(scored + 8 * i * STRIDE + 8 * block);
                    float x = two.x, y = two.y;
                    if (COSINE) {
                        const double scale = row_scales[warp][first_scored + 8 * i];
                        x = (float)(x * scale), y = (float)(y * scale);
                    } else {
                        x -= shift[block][0], y -= shift[block][1];
                    }
                    ranked[i].square = fused(y, y, fused(x, x, ranked[i].square));
                    to_bfloats(x, y, values[i / 2][i % 2], values[i / 2][2 + i % 2]);
                }
#pragma unroll
                for (int part = 0; part < 2; ++part)
#pragma unroll
                    for (int i = 0; i < 2; ++i)
#pragma unroll
                        for (int group = 0; group < GROUPS; ++group) {
                            float(&own)[4] = scores[i][group];
                            const unsigned(&weight)[2] = weights[block][group];
                            const bool begins = block == 0 && part == 0;
                            multiply_bfloats(own, begins ? halves[group] : own, values[i],
                                             weight[part], weight[1 - part]);
                        }
            }
#pragma unroll
            for (int i = 0; i < OWN; ++i)
#pragma unroll
                for (int j = 0; j < 2 * GROUPS; ++j) {
                    const unsigned bits =
                        __float_as_uint(scores[i / 2][j / 2][i % 2 * 2 + j % 2]);
                    const float score = __uint_as_float((bits & number_mask) | 8 * (j / 2) | j % 2);
                    FewRanked &row = ranked[i];
                    if (j == 0)
                        row.least = score;
                    else if (j == 1)
                        row.second = greater(row.least, score), row.least = lesser(row.least, score);
                    else
                        row.take(score);
                }
            // What is the same for all scores of a thread is set last.
#pragma unroll
            for (FewRanked &row : ranked)
                row.least = __uint_as_float(__float_as_uint(row.least) | 2 * t);
            // Four threads have scores of the same four rows. Each gets all that is known of one row.
            const auto one = FewRanked::exchanged(ranked[0], ranked[2], t % 2, 1);
            const auto other = FewRanked::exchanged(ranked[1], ranked[3], t % 2, 1);
            const auto all = FewRanked::exchanged(one, other, t / 2, 2);

            const int row = first_scored + 8 * decided;
            unsigned center = __float_as_uint(all.least) & (FEW_CENTERS - 1u);
            bool is_member = row < count;
            const float limit = all.least + fused(all.square, few.margin_per_square, few.margin);
            // The negations are true if a number is NaN.
            const bool fits = all.square < few.square_limit;
            if (!(fits && all.second > limit) && is_member) {
                const Terms terms{tile_rows + row * STRIDE, exact,
                                  COSINE ? row_scales[warp][row] : 1.0, COSINE};
                const Index number = (Index)tile * FEW_TILE + start + row;
                center = treat_alone(terms, exact, k, d, few.powers, fits, number, sums);
                is_member = fits;
            }
            const unsigned membership = is_member ? 1u << center : 0u;
            memberships[warp][0][place_of_own] = (unsigned char)membership;
            memberships[warp][1][place_of_own] = (unsigned char)(membership >> 8);
            __syncwarp();
            // Thread 4 g + t has column g of the rows 2t and 2t + 1, and so on every 8 rows.
            const uint2 members[2] = {*(const uint2 *)&memberships[warp][0][8 * t],
                                      *(const uint2 *)&memberships[warp][1][8 * t]};
            const unsigned mine = 0x01010101u << g;
            const unsigned belongs[4] = {members[0].x & mine, members[1].x & mine,
                                         members[0].y & mine, members[1].y & mine};
            multiply_bytes(counts, belongs, 0x01010101u, 0x01010101u);
            const float *column_of_rows = tile_rows + 2 * t * STRIDE + g;
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
                unsigned high[2][4], low[2][4];
                float rest = 0.0f;
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    const float x = column_of_rows[(i % 2 + i / 2 * 8) * STRIDE + 8 * block];
                    if (COSINE) {
                        const double scale = row_scales[warp][2 * t + i % 2 + i / 2 * 8];
                        const double sum = ((double)x * scale) * OF_DIRECTIONS + TO_LONG_INTEGER;
                        const Bits bits = (Bits)__double_as_longlong(sum);
                        high[i / 4][i % 4] = (unsigned)(bits >> 24);
                        low[i / 4][i % 4] = (unsigned)bits;
                    } else {
                        const Digits digits = Digits::of(x, powers[block]);
                        high[i / 4][i % 4] = digits.high, low[i / 4][i % 4] = digits.low;
                        rest += fabsf(digits.rest);
                    }
                }
                unsigned words[2][2][3];
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    to_bytes(low[half], words[half][0]), to_bytes(high[half], words[half][1]);
#pragma unroll
                for (int byte = 0; byte < VALUE_BYTES; ++byte)
                    multiply_bytes(totals[block][byte], belongs, words[0][byte / 3][byte % 3],
                                   words[1][byte / 3][byte % 3]);
                // The rest of rows that are left out need not be a number.
                if (rest == 0.0f) continue;
                const int column = 8 * block + g;
#pragma unroll 1
                for (int i = 0; i < 8 && column < d; ++i) {
                    const int place = 2 * t + i % 2 + i / 2 * 8;
                    const unsigned set = memberships[warp][0][8 * t + i] |
                                         memberships[warp][1][8 * t + i] << 8;
                    if (!set) continue;
                    add_rest(tile_rows[place * STRIDE + column], few.powers[column],
                             31 - __clz(set), column, (Index)tile * FEW_TILE + start + place, sums);
                }
            }
            // All threads have read the memberships and scales that are overwritten next.
            __syncwarp();
        }
        float *computed = stage;
        stage = next_stage, next_stage = computed;
    }
    wait_copies<0>();

    // A warp has added at most 2^16 rows: a sum has at most 62 bits.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int center = g + i / 2 * 8;
        if (center >= k) continue;
        const Index count = counts[i] >> g;
        if (t == 0 && i % 2 == 0) sums.count(center, count);
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            const int column = 8 * block + 2 * t + i % 2;
            if (column >= d) continue;
            Index digits[2];
#pragma unroll
            for (int digit = 0; digit < 2; ++digit) {
                Index bytes[3];
#pragma unroll
                for (int byte = 0; byte < 3; ++byte)
                    bytes[byte] = totals[block][3 * digit + byte][i] >> g;
                digits[digit] = (bytes[2] << 16) + (bytes[1] << 8) + bytes[0];
            }
            // Unsigned, because parts of the sum may be larger than the sum.
            Bits total;
            if (COSINE)
                total = ((Bits)digits[1] << 24) + (Bits)digits[0] - ((Bits)count << 47);
            else
                total = ((Bits)(digits[1] - (count << DIGIT_BITS)) << DIGIT_BITS) +
                        (Bits)(digits[0] - (count << DIGIT_BITS));
            sums.add(center, column, (Index)total, 0);
        }
    }
}

// BLOCKS blocks fit a processor at a time, which limits their registers.
#define ADD_FEW_OF(NAME, WIDTH, CENTERS, COSINE, BLOCKS)                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(                            \
        ROW_ARGUMENTS, const __grid_constant__ FewCenters<WIDTH, CENTERS> few,                     \
        const double *exact, SUM_ARGUMENTS) {                                                      \
        add_few<WIDTH, CENTERS, COSINE>(THE_ROWS, few, exact, THE_SUMS);                           \
    }
#define ADD_FEW(WIDTH, BLOCKS)                                                                     \
    ADD_FEW_OF(add_few_##WIDTH##_8, WIDTH, 8, false, BLOCKS)                                       \
    ADD_FEW_OF(add_few_##WIDTH##_16, WIDTH, 16, false, BLOCKS)                                     \
    ADD_FEW_OF(add_few_cosine_##WIDTH##_16, WIDTH, 16, true, BLOCKS)
ADD_FEW(8, 2)
ADD_FEW(16, 2)
ADD_FEW(32, 1)
#else
// --- Few centers: float64 rows ---

// The bound on the rounding error of two scores of a row: `factor` times (the row's length times
// `largest`, plus `half`), plus `floor`, plus `exact` times (the row's length plus `largest`)^2. If
// the size of the scores is not below `overflow_limit`, they may overflow.
struct Bound {
    Scalar factor, floor, largest, half, exact, overflow_limit;
};

// Find the nearest centers of narrow rows, and add up slices of FEW_ROWS neighboring rows, for at
// most FEW_CENTERS centers and FEW_COLUMNS columns.
//
// A block reads 256 rows at a time, once. Each thread scores one row. Then the rows are sorted by
// center, and each thread adds up one column of the rows of its own center. The scores and their
// error are those of the processor's backends (`dkmeans.backends.rounding`); rows whose least
// scores are too close are resolved at once.
//
//   weights: (FEW_CENTERS, COLUMNS) minus the shifted centers, zeros after column d and center k.
//   halves: (FEW_CENTERS,) |c|^2 / 2, infinity after center k. shift: (COLUMNS,), zeros after d.
//   stride: how many values two rows of a tile are apart. If a row is whole chunks of 16 bytes, the
//     stride is an odd number of chunks, otherwise an odd number of values. Then threads that read
//     the same column of different rows use different banks.
//   columns_at_once, centers_at_once: powers of two that are not below d and k.
template <int COLUMNS, bool COSINE>
static __device__ __forceinline__ void
add_near(const Rows &rows, const double *exact, const Scalar *shift, const Scalar *weights,
         const Scalar *halves, const Bound &bound, int stride, int columns_at_once,
         int centers_at_once, const Sums &sums) {
    const int AT_ONCE = 4, CHUNK = 16 / sizeof(Scalar), SEGMENT = THREADS / FEW_CENTERS;
    __shared__ Scalar firsts[FEW_CENTERS];
    alignas(32) __shared__ Scalar panel[FEW_CENTERS * COLUMNS], origin_of_rows[COLUMNS];
    __shared__ unsigned counts[FEW_CENTERS];
    __shared__ int totals[FEW_CENTERS], first_places[FEW_CENTERS + 1];
    alignas(16) __shared__ unsigned char nearest[THREADS];
    alignas(16) __shared__ unsigned char found_rows[FEW_CENTERS][SEGMENT];
    // Places of the sorted rows' first values in the tile, and for cosine the rows' numbers.
    __shared__ unsigned short sorted[THREADS];
    __shared__ unsigned char sorted_rows[COSINE ? THREADS : 1];
    const int thread = threadIdx.x, d = (int)rows.d, k = (int)sums.k;
    const int group = thread / SEGMENT, segment = thread % SEGMENT;
    // The centers, for cosine a factor for each row, and two tiles of rows as they are. One tile is
    // copied while the other is computed.
    double *origins = (double *)dynamic_memory, *row_scales = origins + k * d;
    // The tiles begin at a multiple of 16 bytes.
    Scalar *tiles = (Scalar *)(row_scales + (COSINE ? THREADS : 0) + k * d % 2);
    // Each thread adds up one column of one center, or of OWN centers, and of those every so many
    // rows: the thread's place among those with the same column, and their number.
    const int OWN = COLUMNS == FEW_COLUMNS ? FEW_CENTERS * FEW_COLUMNS / THREADS : 1;
    const int column = thread % columns_at_once, share = thread / columns_at_once;
    const int shares = THREADS / columns_at_once;
    const int first_center = share % centers_at_once, part = share / centers_at_once;
    const int num_parts = shares > centers_at_once ? shares / centers_at_once : 1;
    for (int place = thread; place < FEW_CENTERS * COLUMNS; place += THREADS)
        panel[place] = weights[place];
    for (int place = thread; place < k * d; place += THREADS) origins[place] = exact[place];
    if (thread < COLUMNS) origin_of_rows[thread] = shift[thread];
    if (thread < FEW_CENTERS) firsts[thread] = halves[thread], counts[thread] = 0;
    // At most FEW_ROWS values of 46 bits do not overflow.
    Index highs[OWN] = {}, lows[OWN] = {};
    const Index start = (Index)blockIdx.x * FEW_ROWS;
    const Index stop = start + FEW_ROWS < rows.n ? start + FEW_ROWS : rows.n;
    // What this thread copies of each tile: every so many units, whose places are known.
    const bool chunked = d % CHUNK == 0;
    const int unit = chunked ? CHUNK : 1, units = d / unit;
    const int first_row = thread / units, first_unit = thread % units;
    const int row_step = THREADS / units, unit_step = THREADS % units;

    auto start_copies = [&](Index first, int half) {
        Scalar *tile = tiles + half * (THREADS * stride);
        const int count = stop - first < THREADS ? (int)(stop - first) : THREADS;
        const Scalar *source = rows.points + first * d + thread * unit;
        int row = first_row, in_row = first_unit;
        for (; row < count; source += THREADS * unit) {
            Scalar *target = tile + row * stride + in_row * unit;
            if (chunked)
                copy_async(target, source);
            else
                copy_async<sizeof(Scalar)>(target, source);
            row += row_step, in_row += unit_step;
            if (in_row >= units) ++row, in_row -= units;
        }
        commit_copies();
    };
    start_copies(start, 0);
    int half = 0;
    for (Index first = start; first < stop; first += THREADS, half ^= 1) {
        const int count = stop - first < THREADS ? (int)(stop - first) : THREADS;
        const Scalar *tile = tiles + half * (THREADS * stride);
        // All threads have added up the tile that is overwritten now.
        __syncthreads();
        start_copies(first + THREADS < stop ? first + THREADS : stop, half ^ 1);
        wait_copies<1>();
        __syncthreads();
        int center = FEW_CENTERS;
        if (thread < count) {
            const Scalar *row = tile + thread * stride;
            double scale = 1.0;
            if (COSINE) row_scales[thread] = scale = scale_of(sum_of_block<1>(Squares{row}, 0, d));
            Scalar values[COLUMNS], square = 0;
            if (chunked) {
#pragma unroll
                for (int j = 0; j < COLUMNS; j += CHUNK) {
                    const Chunk chunk = j < d ? *(const Chunk *)(row + j) : Chunk{};
#pragma unroll
                    for (int e = 0; e < CHUNK; ++e) values[j + e] = chunk.at[e];
                }
            } else {
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) values[j] = j < d ? row[j] : (Scalar)0;
            }
#pragma unroll
            for (int j = 0; j < COLUMNS; j += CHUNK) {
                const Chunk moved = *(const Chunk *)&origin_of_rows[j];
#pragma unroll
                for (int e = 0; e < CHUNK; ++e) {
                    Scalar &x = values[j + e];
                    x = COSINE ? (Scalar)(x * scale) : x - moved.at[e];
                    square = fused(x, x, square);
                }
            }
            Scalar least = (Scalar)INF, second = (Scalar)INF;
            center = 0;
            // Several centers at a time: a product waits for the last sum of its own center.
            for (int base = 0; base < k; base += AT_ONCE) {
                Scalar scores[AT_ONCE];
#pragma unroll
                for (int i = 0; i < AT_ONCE; ++i) scores[i] = firsts[base + i];
#pragma unroll
                for (int j = 0; j < COLUMNS; j += CHUNK)
#pragma unroll
                    for (int i = 0; i < AT_ONCE; ++i) {
                        const Chunk chunk = *(const Chunk *)&panel[(base + i) * COLUMNS + j];
#pragma unroll
                        for (int e = 0; e < CHUNK; ++e)
                            scores[i] = fused(values[j + e], chunk.at[e], scores[i]);
                    }
#pragma unroll
                for (int i = 0; i < AT_ONCE; ++i) {
                    const Scalar score = scores[i];
                    center = score < least ? base + i : center;
                    second = score < least ? least : score < second ? score : second;
                    least = score < least ? score : least;
                }
            }
            const Scalar length = sqrt(square), size = length * bound.largest + bound.half;
            // Exact distances are rounded too; for cosine `floor` covers that.
            const Scalar exact_size = length + bound.largest;
            const Scalar margin = bound.factor * size + bound.floor +
                                  bound.exact * exact_size * exact_size;
            // The negations make a row ambiguous if a score or the margin is not a number.
            if (k > 1 && !(size < bound.overflow_limit && second > least + margin)) {
                double least_distance = INF;
                center = 0;
                for (int other = 0; other < k; ++other) {
                    const Terms terms{row, origins + other * d, scale, COSINE};
                    double total = sum_of_block<1>(terms, 0, d);
                    if (COSINE) total = cosine_distance(total);
                    if (total < least_distance) least_distance = total, center = other;
                }
            }
        }
        nearest[thread] = (unsigned char)center;
        __syncthreads();
        // Sort the rows of the tile by center, and by number for each center: thread (center,
        // segment) counts and then places its center's rows in 16 neighboring rows.
        const uint4 own = ((const uint4 *)nearest)[segment];
        const unsigned words[4] = {own.x, own.y, own.z, own.w};
        unsigned is_own[4], found = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            is_own[i] = zero_bytes(words[i] ^ (unsigned)group * 0x01010101u);
            found += sum_of_bytes(is_own[i] >> 7);
        }
        found_rows[group][segment] = (unsigned char)found;
        __syncthreads();
        const uint4 all = *(const uint4 *)found_rows[group];
        const unsigned found_words[4] = {all.x, all.y, all.z, all.w};
        unsigned before = 0, total = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int bytes = segment - 4 * i;
            const unsigned here = bytes <= 0 ? 0 : bytes >= 4 ? ~0u : (1u << 8 * bytes) - 1;
            before += sum_of_bytes(found_words[i] & here);
            total += sum_of_bytes(found_words[i]);
        }
        if (segment == 0) totals[group] = (int)total, counts[group] += total;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < FEW_CENTERS - 1; ++i) before += i < group ? (unsigned)totals[i] : 0u;
        if (segment == 0) first_places[group] = (int)before;
        if (thread == 0) first_places[FEW_CENTERS] = count;
#pragma unroll
        for (int i = 0; i < SEGMENT; ++i)
            if (is_own[i / 4] >> i % 4 * 8 & 128) {
                const int row = segment * SEGMENT + i;
                if (COSINE) sorted_rows[before] = (unsigned char)row;
                sorted[before++] = (unsigned short)(row * stride);
            }
        __syncthreads();
        if (column >= d) continue;
        // Loaded for each tile: a register that lives on would be spilled.
        const double power = COSINE ? 1.0 : sums.powers[column];
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            center = first_center + i * shares;
            if (center >= k) break;
            const int end = first_places[center + 1];
#pragma unroll 4
            for (int place = first_places[center] + part; place < end; place += num_parts) {
                const double x = tile[sorted[place] + column];
                const Parts parts = COSINE ? split_direction(x, row_scales[sorted_rows[place]])
                                           : split(x, power);
                sums.check(parts, first + sorted[place] / stride);
                highs[i] += parts.high, lows[i] += parts.low;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        const int center = first_center + i * shares;
        if (column < d && center < k) sums.add(center, column, highs[i], lows[i]);
    }
    if (thread < k) sums.count(thread, counts[thread]);
}

// A block of float64 rows has a processor for itself, so that it need not spill registers.
#define ADD_FEW_OF(NAME, COLUMNS, COSINE)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) NAME(                                 \
        ROW_ARGUMENTS, const double *exact, const Scalar *shift, const Scalar *weights,            \
        const Scalar *halves, double factor, double floor, double largest, double half,            \
        double exact_error, double overflow_limit, Index stride, Index columns_at_once,            \
        Index centers_at_once, SUM_ARGUMENTS) {                                                    \
        const Bound bound{factor, floor, largest, half, exact_error, overflow_limit};              \
        add_near<COLUMNS, COSINE>(THE_ROWS, exact, shift, weights, halves, bound, (int)stride,     \
                                  (int)columns_at_once, (int)centers_at_once, THE_SUMS);           \
    }
#define ADD_FEW(COLUMNS)                                                                           \
    ADD_FEW_OF(add_few_##COLUMNS, COLUMNS, false)                                                  \
    ADD_FEW_OF(add_few_cosine_##COLUMNS, COLUMNS, true)
ADD_FEW(8)
ADD_FEW(16)
ADD_FEW(32)
#endif
