// The CUDA kernels. NVRTC compiles this file twice: with SCALAR float (then SINGLE is defined too)
// and with SCALAR double. SCALAR is the type of the rows and of their scores. `launches.py` says
// which kernels run, in which order, and with which arrays.
//
// `score_N` computes the scores |c|^2 / 2 - x.c of each row and all centers. The scores stay in
// registers; only the two least are kept, so no n x k array exists. Where the two least scores are
// closer than their rounding error, the row is ambiguous and its number is written to a list.
// `resolve` finds the nearest centers of these rows by exact distances (docs/decisions/001).
// `add_few` and `add_sorted` add up each center's rows in float64, in an order that depends on the
// shapes and the nearest centers alone; `reduce` adds up the parts that these two write.
//
// The compiler must not contract products and sums into fused operations: exact distances must have
// NumPy's bits. Only `fused` makes a fused operation.

typedef SCALAR Scalar;
typedef long long Index;

// Threads of a block. `launches.py` has the same THREADS, SLICE_ROWS and FEW_CENTERS.
#define THREADS 256
// Columns that a block holds in shared memory at a time.
#define TILE_COLUMNS 8
// NumPy adds up at most this many elements in eight parallel sums, and halves longer arrays.
#define PAIRWISE_BLOCK 128
// Largest depth of the halving: a row of 128 * 2^24 columns takes 8 GiB and more.
#define MAX_DEPTH 24
// Rows that one block adds up.
#define SLICE_ROWS 512
// Largest number of centers for which each thread of a block holds a sum per center.
#define FEW_CENTERS 16
// Given by their bits, because NVRTC has no headers that define them.
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000LL)
// Squared length below which a row counts as zero. `dkmeans.distance` has the same constant.
#define SMALLEST_SQUARED_NORM 1e-12

static __device__ __forceinline__ Scalar fused(Scalar a, Scalar b, Scalar c) {
#ifdef SINGLE
    return fmaf(a, b, c);
#else
    return fma(a, b, c);
#endif
}

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

// The terms of the distance of a row to a center. The center is a column of `exact`, (d, k).
struct Terms {
    const Scalar *row;
    const double *center;
    Index k;
    double scale;
    bool cosine;

    __device__ double operator()(Index j) const {
        double x = row[j], c = center[j * k];
        if (cosine) return (x * scale) * c;
        double difference = x - c;
        return difference * difference;
    }
};

// Add up at most PAIRWISE_BLOCK terms in NumPy's order.
template <class Term>
static __device__ double sum_of_block(const Term &term, Index start, Index stop) {
    double total = 0.0;
    Index whole = start + (stop - start) / 8 * 8;
    if (start < whole) {
        double parts[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) parts[i] = term(start + i);
        for (Index j = start + 8; j < whole; j += 8)
#pragma unroll
            for (int i = 0; i < 8; ++i) parts[i] += term(j + i);
        total = ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
                ((parts[4] + parts[5]) + (parts[6] + parts[7]));
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
template <class Term>
static __device__ double sum_of(const Term &term, Index count) {
    if (count <= PAIRWISE_BLOCK) return sum_of_block(term, 0, count);
    Index starts[MAX_DEPTH + 1], stops[MAX_DEPTH + 1];
    double sums[MAX_DEPTH + 1];
    int depths[MAX_DEPTH + 1], sum_depths[MAX_DEPTH + 1], num_ranges = 1, num_sums = 0;
    starts[0] = 0, stops[0] = count, depths[0] = 0;
    while (num_ranges) {
        --num_ranges;
        Index start = starts[num_ranges], stop = stops[num_ranges];
        int depth = depths[num_ranges];
        if (stop - start > PAIRWISE_BLOCK) {
            Index half = start + (stop - start) / 2 / 8 * 8;
            starts[num_ranges] = half, stops[num_ranges] = stop, depths[num_ranges++] = depth + 1;
            starts[num_ranges] = start, stops[num_ranges] = half, depths[num_ranges++] = depth + 1;
            continue;
        }
        double total = sum_of_block(term, start, stop);
        for (; num_sums && sum_depths[num_sums - 1] == depth; --depth)
            total = sums[--num_sums] + total;
        sums[num_sums] = total, sum_depths[num_sums++] = depth;
    }
    return sums[0];
}

static __device__ double distance(const Terms &terms, Index d) {
    double total = sum_of(terms, d);
    if (!terms.cosine) return total;
    total = 1.0 - total;
    return total < 0.0 ? 0.0 : total > 2.0 ? 2.0 : total;
}

// Compute the factor that scales each row to length one. A row whose square overflows gets NaN: it
// has no direction that could be computed, and must not count as a zero row.
extern "C" __global__ void find_scales(const Scalar *points, Index n, Index d, double *scales) {
    Index row = this_thread();
    if (row >= n) return;
    double square = sum_of(Squares{points + row * d}, d);
    if (square == INF) square = NOT_A_NUMBER;
    scales[row] = 1.0 / sqrt(square < SMALLEST_SQUARED_NORM ? SMALLEST_SQUARED_NORM : square);
}

// --- Nearest centers ---

// Rows as they are scored: scaled to length one for cosine, shifted otherwise.
struct Rows {
    const Scalar *points;
    Index n, d;
    const double *scales;
    const Scalar *shift;

    __device__ Scalar operator()(Index row, Index column) const {
        Scalar x = points[row * d + column];
        return scales ? (Scalar)(x * scales[row]) : x - shift[column];
    }
};

// The bound on the rounding error of two scores of a row: `factor` times (the row's length times
// `largest`, plus `half`), plus `floor`. If the size of the scores is not below
// `overflow_limit`, they may overflow; then the bound is infinite, and the row is ambiguous.
struct Rounding {
    double factor, floor, largest, half, overflow_limit;

    __device__ Scalar margin(Scalar square) const {
        double size = sqrt((double)square) * largest + half;
        return size < overflow_limit ? (Scalar)(factor * size + floor) : (Scalar)INF;
    }
};

// Four values that are loaded together: the alignment lets the compiler use wide loads.
struct alignas(4 * sizeof(Scalar)) Four {
    Scalar at[4];
};

// The least score so far, the second least, and the center of the least.
struct Ranked {
    Scalar least, second;
    int center;

    // NaN scores are skipped. Equal least scores make the row ambiguous, so either center may be
    // kept.
    __device__ __forceinline__ void take(Scalar score, int candidate) {
        if (score < least) {
            second = least;
            least = score;
            center = candidate;
        } else if (score < second) {
            second = score;
        }
    }
};

// Find the nearest centers of a tile of ROWS rows, and list the ambiguous rows.
//
// The block loops over panels of CENTERS centers, and in each over slices of TILE_COLUMNS columns,
// which it copies to shared memory (`tile`, `panel`). A thread holds the scores of R rows and C
// centers in registers. It takes rows and centers in groups of four neighbors, because four
// neighboring values are loaded together.
//
// Loads overlap with arithmetic: while a slice is multiplied, `fetch` loads the next one from
// global memory to registers, and `store` copies it to shared memory after the barrier. A slice in
// shared memory is read only between the second barrier of its step and the first barrier of the
// next step.
//
//   weights: (d, width), minus the shifted centers; width is a multiple of each kernel's CENTERS.
//   halves: (width,) |c|^2 / 2, 0 for cosine; infinity for the padding after the last center.
template <int ROWS, int CENTERS, int R, int C>
static __device__ __forceinline__ void
score_tile(const Rows &rows, const Scalar *weights, const Scalar *halves, Index width, Index k,
           const Rounding &rounding, Index *nearest, Scalar *limits, Index *ambiguous,
           unsigned long long *num_ambiguous) {
    const int ACROSS = CENTERS / C, DOWN = ROWS / R;
    static_assert(ACROSS * DOWN == THREADS, "each thread has a part of the tile");
    const int ROW_LOADS = ROWS * TILE_COLUMNS / THREADS;
    const int CENTER_LOADS = (CENTERS * TILE_COLUMNS + THREADS - 1) / THREADS;
    // Four elements of padding: the transposed writes of a warp then fall into different banks.
    alignas(32) __shared__ Scalar tile[TILE_COLUMNS][ROWS + 4];
    alignas(32) __shared__ Scalar panel[TILE_COLUMNS][CENTERS];
    __shared__ Ranked ranks[ROWS][ACROSS];

    const int thread = threadIdx.x, across = thread % ACROSS, down = thread / ACROSS;
    const Index first = (Index)blockIdx.x * ROWS;
    const Index slices = (rows.d + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const Index panels = (k + CENTERS - 1) / CENTERS;
    Scalar next_rows[ROW_LOADS], next_weights[CENTER_LOADS], square = 0;
    Ranked ranked[R];
#pragma unroll
    for (int i = 0; i < R; ++i) ranked[i] = Ranked{(Scalar)INF, (Scalar)INF, 0};

    // Zeros fill the places past the last row or column: they add nothing to a score. The host has
    // padded the centers.
    auto fetch = [&](Index slice, Index first_center) {
#pragma unroll
        for (int i = 0; i < ROW_LOADS; ++i) {
            int place = thread + i * THREADS;
            Index row = first + place / TILE_COLUMNS;
            Index column = slice * TILE_COLUMNS + place % TILE_COLUMNS;
            next_rows[i] = row < rows.n && column < rows.d ? rows(row, column) : (Scalar)0;
        }
#pragma unroll
        for (int i = 0; i < CENTER_LOADS; ++i) {
            int place = thread + i * THREADS;
            Index column = slice * TILE_COLUMNS + place / CENTERS;
            Index center = first_center + place % CENTERS;
            bool exists = place < TILE_COLUMNS * CENTERS && column < rows.d;
            next_weights[i] = exists ? weights[column * width + center] : (Scalar)0;
        }
    };
    auto store = [&]() {
#pragma unroll
        for (int i = 0; i < ROW_LOADS; ++i) {
            int place = thread + i * THREADS;
            tile[place % TILE_COLUMNS][place / TILE_COLUMNS] = next_rows[i];
        }
#pragma unroll
        for (int i = 0; i < CENTER_LOADS; ++i) {
            int place = thread + i * THREADS;
            if (place < TILE_COLUMNS * CENTERS)
                panel[place / CENTERS][place % CENTERS] = next_weights[i];
        }
    };

    fetch(0, 0);
    for (Index number = 0; number < panels; ++number) {
        const Index first_center = number * CENTERS;
        Scalar scores[R][C];
#pragma unroll
        for (int j = 0; j < C; ++j) {
            // Center j of this thread, in groups of four neighbors, 4 * ACROSS from one group to
            // the next, as loaded to `c` below.
            Scalar half = halves[first_center + j / 4 * 4 * ACROSS + across * 4 + j % 4];
#pragma unroll
            for (int i = 0; i < R; ++i) scores[i][j] = half;
        }
        for (Index slice = 0; slice < slices; ++slice) {
            __syncthreads();  // all threads have read the previous slice
            store();
            __syncthreads();
            if (slice + 1 < slices)
                fetch(slice + 1, first_center);
            else if (number + 1 < panels)
                fetch(0, first_center + CENTERS);
            // The squared lengths are the same for each panel: the first panel is enough.
            // Thread t holds the squared length of row t of the tile.
            if (number == 0 && thread < ROWS)
                for (int j = 0; j < TILE_COLUMNS; ++j)
                    square = fused(tile[j][thread], tile[j][thread], square);
#pragma unroll
            for (int column = 0; column < TILE_COLUMNS; ++column) {
                Four x[R / 4], c[C / 4];
#pragma unroll
                for (int i = 0; i < R / 4; ++i)
                    x[i] = *(const Four *)&tile[column][i * 4 * DOWN + down * 4];
#pragma unroll
                for (int j = 0; j < C / 4; ++j)
                    c[j] = *(const Four *)&panel[column][j * 4 * ACROSS + across * 4];
#pragma unroll
                for (int i = 0; i < R; ++i)
#pragma unroll
                    for (int j = 0; j < C; ++j)
                        scores[i][j] = fused(x[i / 4].at[i % 4], c[j / 4].at[j % 4], scores[i][j]);
            }
        }
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
            for (int j = 0; j < C; ++j)
                ranked[i].take(scores[i][j],
                               (int)first_center + j / 4 * 4 * ACROSS + across * 4 + j % 4);
    }

    // ACROSS threads have seen different centers of the same row: one thread merges their ranks.
#pragma unroll
    for (int i = 0; i < R; ++i) ranks[i / 4 * 4 * DOWN + down * 4 + i % 4][across] = ranked[i];
    __syncthreads();
    const Index row = first + thread;
    if (thread >= ROWS || row >= rows.n) return;
    Ranked all = ranks[thread][0];
    for (int i = 1; i < ACROSS; ++i) {
        Ranked other = ranks[thread][i];
        all.take(other.least, other.center);
        // `other.second` is not below `all.least`, so its center is never taken.
        all.take(other.second, other.center);
    }
    // `margin` is infinite if the row is not finite.
    Scalar limit = all.least + rounding.margin(square);
    nearest[row] = all.center;
    limits[row] = limit;
    // The negation makes a row ambiguous if the limit is NaN. The order of the list is not
    // deterministic. No result depends on the order: each row is resolved alone.
    if (!(all.second > limit)) ambiguous[atomicAdd(num_ambiguous, 1ull)] = row;
}

#define SCORE(ROWS, CENTERS, R, C)                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) score_##CENTERS(                         \
        const Scalar *points, Index n, Index d, const double *scales, const Scalar *shift,         \
        const Scalar *weights, const Scalar *halves, Index width, Index k, double factor,          \
        double floor, double largest, double half, double overflow_limit, Index *nearest,          \
        Scalar *limits, Index *ambiguous, unsigned long long *num_ambiguous) {                     \
        score_tile<ROWS, CENTERS, R, C>(Rows{points, n, d, scales, shift}, weights, halves, width, \
                                        k, Rounding{factor, floor, largest, half, overflow_limit}, \
                                        nearest, limits, ambiguous, num_ambiguous);                \
    }

SCORE(256, 16, 4, 4)
SCORE(128, 64, 4, 8)
#ifdef SINGLE
SCORE(128, 128, 8, 8)
#endif

// Find the nearest centers of the ambiguous rows, one block for each row. Only centers whose scores
// are not above the row's limit can be the nearest: of these the nearest center is the one at the
// least exact distance, and the lowest index among equals.
extern "C" __global__ void __launch_bounds__(THREADS)
resolve(const Scalar *points, Index n, Index d, const double *scales, const Scalar *shift,
        const Scalar *weights, const Scalar *halves, Index width, const double *exact, Index k,
        const Scalar *limits, const Index *ambiguous, const unsigned long long *num_ambiguous,
        Index *nearest) {
    __shared__ double leasts[THREADS];
    __shared__ Index centers[THREADS];
    const Rows rows{points, n, d, scales, shift};
    const int thread = threadIdx.x;
    for (Index place = blockIdx.x; place < (Index)*num_ambiguous; place += gridDim.x) {
        const Index row = ambiguous[place];
        double least = INF;
        Index least_center = k;
        for (Index center = thread; center < k; center += THREADS) {
            Scalar score = halves[center];
            for (Index j = 0; j < d; ++j)
                score = fused(rows(row, j), weights[j * width + center], score);
            if (score > limits[row]) continue;
            Terms terms{points + row * d, exact + center, k, scales ? scales[row] : 1.0,
                        scales != nullptr};
            double exact_distance = distance(terms, d);
            if (exact_distance < least) least = exact_distance, least_center = center;
        }
        leasts[thread] = least, centers[thread] = least_center;
        __syncthreads();
        for (int half = THREADS / 2; half; half /= 2) {
            if (thread < half) {
                double other = leasts[thread + half];
                Index center = centers[thread + half];
                if (other < leasts[thread] || (other == leasts[thread] && center < centers[thread]))
                    leasts[thread] = other, centers[thread] = center;
            }
            __syncthreads();
        }
        // A row that is not finite has no least distance: it is assigned to the first center.
        if (thread == 0) nearest[row] = centers[0] < k ? centers[0] : 0;
        __syncthreads();  // the next row overwrites `leasts` and `centers`
    }
}

// Compute each row's distance to its nearest center.
extern "C" __global__ void measure_nearest(const Scalar *points, Index n, Index d,
                                           const double *scales, const double *exact, Index k,
                                           const Index *nearest, double *distances) {
    Index row = this_thread();
    if (row >= n) return;
    Terms terms{points + row * d, exact + nearest[row], k, scales ? scales[row] : 1.0,
                scales != nullptr};
    distances[row] = distance(terms, d);
}

// Compute each row's distance to every center, (n, k).
extern "C" __global__ void measure_all(const Scalar *points, Index n, Index d, const double *scales,
                                       const double *exact, Index k, float *distances) {
    Index place = this_thread();
    if (place >= n * k) return;
    Index row = place / k;
    Terms terms{points + row * d, exact + place % k, k, scales ? scales[row] : 1.0,
                scales != nullptr};
    distances[place] = (float)distance(terms, d);
}

// --- Sums ---

// The value that a row adds to one column of its center's sum: its residual x - c, which float64
// holds almost always exactly for float32 rows and centers, or for cosine the row of length one.
static __device__ __forceinline__ double part_of(const Scalar *points, const double *scales,
                                                 const double *exact, Index k, Index d, Index row,
                                                 Index column, Index center) {
    double x = points[row * d + column];
    return scales ? x * scales[row] : x - exact[column * k + center];
}

// Add up one value of each thread of a block, in a tree of fixed shape. Threads whose numbers are
// equal modulo `columns_at_once` (a power of two) have values of the same column. The first
// `columns_at_once` threads return the sums. `room` has a place for each thread.
static __device__ double sum_across(double *room, double value, int columns_at_once) {
    const int thread = threadIdx.x;
    room[thread] = value;  // since the last barrier no other thread reads this place
    __syncthreads();
    for (int half = THREADS / 2; half >= columns_at_once; half /= 2) {
        if (thread < half) room[thread] += room[thread + half];
        __syncthreads();
    }
    return room[thread];
}

// `add_few` and `add_sorted` write `parts`, (any, d + 2), one row for each slice and center: the
// sums of the columns, the sum of the squares of all added values, and the number of rows. The
// parts of a center are neighbors. A block adds up `columns_at_once` columns at a time.

// Add up slices of neighboring rows, for at most FEW_CENTERS centers: each thread holds a sum for
// each center. Only the total of the squares over all centers is needed, so it is written to the
// part of the first center, and the others have 0.
extern "C" __global__ void __launch_bounds__(THREADS)
add_few(const Scalar *points, Index n, Index d, const double *scales, const double *exact, Index k,
        const Index *nearest, Index columns_at_once, double *parts) {
    __shared__ double sums[FEW_CENTERS][THREADS];
    __shared__ unsigned short counts[FEW_CENTERS][THREADS];
    __shared__ double room[THREADS];
    const int thread = threadIdx.x;
    const int row_place = thread / (int)columns_at_once;
    const int rows_at_once = THREADS / (int)columns_at_once;
    const Index start = (Index)blockIdx.x * SLICE_ROWS;
    const Index stop = start + SLICE_ROWS < n ? start + SLICE_ROWS : n;
    double squares = 0.0;
    for (int center = 0; center < k; ++center) counts[center][thread] = 0;
    // The parts of one center are `stride` values away from those of the next center.
    double *slice_parts = parts + (Index)blockIdx.x * (d + 2);
    const Index stride = (Index)gridDim.x * (d + 2);
    for (Index first = 0; first < d; first += columns_at_once) {
        const Index column = first + thread % (int)columns_at_once;
        for (int center = 0; center < k; ++center) sums[center][thread] = 0.0;
        for (Index row = start + row_place; row < stop && column < d; row += rows_at_once) {
            const int center = (int)nearest[row];
            double part = part_of(points, scales, exact, k, d, row, column, center);
            sums[center][thread] += part;
            squares += part * part;
            // Each row is counted once, by its thread of column 0.
            counts[center][thread] += column == 0;
        }
        for (int center = 0; center < k; ++center) {
            double total = sum_across(room, sums[center][thread], (int)columns_at_once);
            if (row_place == 0 && column < d) slice_parts[center * stride + column] = total;
        }
    }
    squares = sum_across(room, squares, 1);
    for (int center = 0; center < k; ++center) {
        double count = sum_across(room, counts[center][thread], 1);
        if (thread != 0) continue;
        slice_parts[center * stride + d] = center ? 0.0 : squares;
        slice_parts[center * stride + d + 1] = count;
    }
}

// Return the place of the last of the first k ascending numbers that is not above the value. The
// first number must not be above the value.
static __device__ Index last_not_above(const Index *numbers, Index k, Index value) {
    Index low = 0, high = k;
    while (high - low > 1) {
        Index middle = (low + high) / 2;
        if (numbers[middle] <= value)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// Add up slices of rows that are assigned to one center each. The host does not know the number of
// slices, so it launches enough blocks for the worst case; blocks past the last slice do nothing.
//   keys: (n,) nearest center * n + row, ascending.
//   bounds: (k + 1,) place in `keys` where the rows of each center begin.
//   firsts: (k + 1,) number of the first slice of each center.
extern "C" __global__ void __launch_bounds__(THREADS)
add_sorted(const Scalar *points, Index n, Index d, const double *scales, const double *exact,
           Index k, const Index *keys, const Index *bounds, const Index *firsts,
           Index columns_at_once, double *parts) {
    __shared__ double room[THREADS];
    const Index slice = blockIdx.x;
    if (slice >= firsts[k]) return;
    // A center without rows has the same first slice as the next center; the last of these equals
    // has the rows.
    const Index center = last_not_above(firsts, k, slice);
    const Index start = bounds[center] + (slice - firsts[center]) * SLICE_ROWS;
    const Index end = bounds[center + 1];
    const Index stop = start + SLICE_ROWS < end ? start + SLICE_ROWS : end;
    const int row_place = threadIdx.x / (int)columns_at_once;
    const int rows_at_once = THREADS / (int)columns_at_once;
    double squares = 0.0;
    for (Index first = 0; first < d; first += columns_at_once) {
        const Index column = first + threadIdx.x % (int)columns_at_once;
        double total = 0.0;
        for (Index place = start + row_place; place < stop && column < d; place += rows_at_once) {
            const Index row = keys[place] - center * n;
            double part = part_of(points, scales, exact, k, d, row, column, center);
            total += part;
            squares += part * part;
        }
        total = sum_across(room, total, (int)columns_at_once);
        if (row_place == 0 && column < d) parts[slice * (d + 2) + column] = total;
    }
    squares = sum_across(room, squares, 1);
    if (threadIdx.x != 0) return;
    parts[slice * (d + 2) + d] = squares;
    parts[slice * (d + 2) + d + 1] = (double)(stop - start);
}

// Add the parts of each center, (any, columns), to `sums`, (k, columns), one block for each center.
//   firsts: (k + 1,) number of the first part of each center.
extern "C" __global__ void __launch_bounds__(THREADS)
reduce(const double *parts, const Index *firsts, Index columns, Index columns_at_once,
       double *sums) {
    __shared__ double room[THREADS];
    const Index center = blockIdx.x;
    const int row_place = threadIdx.x / (int)columns_at_once;
    const int rows_at_once = THREADS / (int)columns_at_once;
    for (Index first = 0; first < columns; first += columns_at_once) {
        const Index column = first + threadIdx.x % (int)columns_at_once;
        double total = 0.0;
        for (Index part = firsts[center] + row_place; part < firsts[center + 1] && column < columns;
             part += rows_at_once)
            total += parts[part * columns + column];
        total = sum_across(room, total, (int)columns_at_once);
        if (row_place == 0 && column < columns) sums[center * columns + column] += total;
    }
}
