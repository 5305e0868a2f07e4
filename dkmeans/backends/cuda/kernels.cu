// The kernels: what NVRTC makes machine code of, once for SCALAR float (then SINGLE is defined) and
// once for double. SCALAR is the type of the rows and of their scores.
//
// `score` ranks each row's centers by |c|^2 / 2 - x.c, in tiles that are held in registers, and
// keeps the two least scores: nothing n x k is ever written. Where these two are closer than their
// rounding the row's number goes on a list, and `settle` decides it by exact distances
// (docs/decisions/001). `add_few` and `add_sorted` add up the rows that each center won, in
// float64 and in an order that the winners alone determine; `fold` adds up what these have written.
//
// Everything is compiled without contraction: a product is fused into a sum where `fused` says so,
// and nowhere else. Exact distances have NumPy's bits.

typedef SCALAR Scalar;
typedef long long Index;

#define THREADS 256
// Columns that are laid in shared memory at a time.
#define DEPTH 8
// NumPy adds up so many elements in eight parallel sums, and halves what is longer.
#define PAIRWISE_BLOCK 128
// Rows of so many columns, times 2^24, are more than any memory holds.
#define LEVELS 24
// Rows whose sum one block makes.
#define SLICE 512
// Centers whose sums fit in the shared memory of a block, one for each of its threads.
#define FEW 16
// By their bits: NVRTC has no headers that would name them.
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define NO_NUMBER __longlong_as_double(0x7ff8000000000000LL)
// The squared length below which a row counts as zero; `dkmeans.distance` has it too.
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

// What is added up for a row's squared length.
struct Squares {
    const Scalar *row;

    __device__ double operator()(Index j) const {
        double x = row[j];
        return x * x;
    }
};

// What is added up for the distance of a row to a center, which is a column of `exact`, (d, k).
struct Terms {
    const Scalar *row;
    const double *center;
    Index k;
    double scale;
    bool cosine;

    __device__ double operator()(Index j) const {
        double x = row[j], c = center[j * k];
        if (cosine) return (x * scale) * c;
        double apart = x - c;
        return apart * apart;
    }
};

// Adds up at most a block of terms, as NumPy adds up so many elements.
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

// Adds up terms in the order of NumPy's sum of a contiguous row: what is longer than a block is
// halved, and again. A sum that waits for its other half knows its depth, as a half to do does.
template <class Term>
static __device__ double sum_of(const Term &term, Index count) {
    if (count <= PAIRWISE_BLOCK) return sum_of_block(term, 0, count);
    Index starts[LEVELS + 1], stops[LEVELS + 1];
    double sums[LEVELS + 1];
    int depths[LEVELS + 1], waits[LEVELS + 1], to_do = 1, waiting = 0;
    starts[0] = 0, stops[0] = count, depths[0] = 0;
    while (to_do) {
        --to_do;
        Index start = starts[to_do], stop = stops[to_do];
        int depth = depths[to_do];
        if (stop - start > PAIRWISE_BLOCK) {
            Index half = start + (stop - start) / 2 / 8 * 8;
            starts[to_do] = half, stops[to_do] = stop, depths[to_do++] = depth + 1;
            starts[to_do] = start, stops[to_do] = half, depths[to_do++] = depth + 1;
            continue;
        }
        double total = sum_of_block(term, start, stop);
        for (; waiting && waits[waiting - 1] == depth; --depth) total = sums[--waiting] + total;
        sums[waiting] = total, waits[waiting++] = depth;
    }
    return sums[0];
}

static __device__ double distance(const Terms &terms, Index d) {
    double total = sum_of(terms, d);
    if (!terms.cosine) return total;
    total = 1.0 - total;
    return total < 0.0 ? 0.0 : total > 2.0 ? 2.0 : total;
}

// What scales each row to length one; a row too long to square has no direction.
extern "C" __global__ void find_scales(const Scalar *points, Index n, Index d, double *scales) {
    Index row = this_thread();
    if (row >= n) return;
    double square = sum_of(Squares{points + row * d}, d);
    if (square == INF) square = NO_NUMBER;
    scales[row] = 1.0 / sqrt(square < SMALLEST_SQUARED_NORM ? SMALLEST_SQUARED_NORM : square);
}

// --- Winners ---

// Rows, and how they become what is scored: scaled where the distance is cosine, else shifted.
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

// How far apart two scores of a row must be to be told apart for sure: `factor` times (the row's
// length times `largest`, plus `half`), plus `floor`. Where that is not below `limit` scores may
// overflow, and none is sure.
struct Rounding {
    double factor, floor, largest, half, limit;

    __device__ Scalar margin(Scalar square) const {
        double bound = sqrt((double)square) * largest + half;
        return bound < limit ? (Scalar)(factor * bound + floor) : (Scalar)INF;
    }
};

struct alignas(4 * sizeof(Scalar)) Four {
    Scalar at[4];
};

// The least score so far, the second least, and whose the least is.
struct Ranked {
    Scalar least, second;
    int owner;

    __device__ __forceinline__ void take(Scalar score, int center) {
        if (score < least) {
            second = least;
            least = score;
            owner = center;
        } else if (score < second) {
            second = score;
        }
    }
};

// Finds the winners of a tile of rows, and which of them are in doubt.
//
// A thread has R rows and C centers of a tile and panel; it takes four at a time, that lie beside
// each other. The next slice of columns is on its way to registers while one is multiplied.
//   weights: (d, width), minus the shifted centers; width is a multiple of every panel's.
//   halves: (width,) |c|^2 / 2, 0 for cosine; infinity for what is no center.
template <int ROWS, int CENTERS, int R, int C>
static __device__ __forceinline__ void
score_tile(const Rows &rows, const Scalar *weights, const Scalar *halves, Index width, Index k,
           const Rounding &rounding, Index *winners, Scalar *limits, Index *doubts,
           unsigned long long *in_doubt) {
    const int ACROSS = CENTERS / C, DOWN = ROWS / R;
    static_assert(ACROSS * DOWN == THREADS, "each thread has a part of the tile");
    const int ROW_LOADS = ROWS * DEPTH / THREADS, LOADS = (CENTERS * DEPTH + THREADS - 1) / THREADS;
    // Four places more, so that the transposed writes meet different banks.
    alignas(32) __shared__ Scalar tile[DEPTH][ROWS + 4];
    alignas(32) __shared__ Scalar panel[DEPTH][CENTERS];
    __shared__ Ranked ranks[ROWS][ACROSS];

    const int thread = threadIdx.x, across = thread % ACROSS, down = thread / ACROSS;
    const Index first = (Index)blockIdx.x * ROWS;
    const Index slices = (rows.d + DEPTH - 1) / DEPTH, panels = (k + CENTERS - 1) / CENTERS;
    Scalar next_rows[ROW_LOADS], next_weights[LOADS], square = 0;
    Ranked own[R];
#pragma unroll
    for (int i = 0; i < R; ++i) own[i] = Ranked{(Scalar)INF, (Scalar)INF, 0};

    auto fetch = [&](Index slice, Index from) {
#pragma unroll
        for (int i = 0; i < ROW_LOADS; ++i) {
            int place = thread + i * THREADS;
            Index row = first + place / DEPTH, column = slice * DEPTH + place % DEPTH;
            next_rows[i] = row < rows.n && column < rows.d ? rows(row, column) : (Scalar)0;
        }
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            int place = thread + i * THREADS;
            Index column = slice * DEPTH + place / CENTERS, center = from + place % CENTERS;
            bool there = place < DEPTH * CENTERS && column < rows.d;
            next_weights[i] = there ? weights[column * width + center] : (Scalar)0;
        }
    };
    auto lay = [&]() {
#pragma unroll
        for (int i = 0; i < ROW_LOADS; ++i) {
            int place = thread + i * THREADS;
            tile[place % DEPTH][place / DEPTH] = next_rows[i];
        }
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            int place = thread + i * THREADS;
            if (place < DEPTH * CENTERS) panel[place / CENTERS][place % CENTERS] = next_weights[i];
        }
    };

    fetch(0, 0);
    for (Index number = 0; number < panels; ++number) {
        const Index from = number * CENTERS;
        Scalar scores[R][C];
#pragma unroll
        for (int j = 0; j < C; ++j) {
            Scalar half = halves[from + j / 4 * 4 * ACROSS + across * 4 + j % 4];
#pragma unroll
            for (int i = 0; i < R; ++i) scores[i][j] = half;
        }
        for (Index slice = 0; slice < slices; ++slice) {
            __syncthreads();  // all are done with the slice before
            lay();
            __syncthreads();
            if (slice + 1 < slices)
                fetch(slice + 1, from);
            else if (number + 1 < panels)
                fetch(0, from + CENTERS);
            if (number == 0 && thread < ROWS)
                for (int j = 0; j < DEPTH; ++j)
                    square = fused(tile[j][thread], tile[j][thread], square);
#pragma unroll
            for (int depth = 0; depth < DEPTH; ++depth) {
                Four x[R / 4], c[C / 4];
#pragma unroll
                for (int i = 0; i < R / 4; ++i)
                    x[i] = *(const Four *)&tile[depth][i * 4 * DOWN + down * 4];
#pragma unroll
                for (int j = 0; j < C / 4; ++j)
                    c[j] = *(const Four *)&panel[depth][j * 4 * ACROSS + across * 4];
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
                own[i].take(scores[i][j], (int)from + j / 4 * 4 * ACROSS + across * 4 + j % 4);
    }

#pragma unroll
    for (int i = 0; i < R; ++i) ranks[i / 4 * 4 * DOWN + down * 4 + i % 4][across] = own[i];
    __syncthreads();
    const Index row = first + thread;
    if (thread >= ROWS || row >= rows.n) return;
    Ranked all = ranks[thread][0];
    for (int i = 1; i < ACROSS; ++i) {
        Ranked other = ranks[thread][i];
        all.take(other.least, other.owner);
        all.take(other.second, other.owner);
    }
    Scalar bound = all.least + rounding.margin(square);
    winners[row] = all.owner;
    limits[row] = bound;
    // Written so that a score or a bound that is not a number counts as doubt. In which order rows
    // come on the list is chance; each of them is settled by itself.
    if (!(all.second > bound)) doubts[atomicAdd(in_doubt, 1ull)] = row;
}

#define SCORE(ROWS, CENTERS, R, C)                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) score_##CENTERS(                         \
        const Scalar *points, Index n, Index d, const double *scales, const Scalar *shift,         \
        const Scalar *weights, const Scalar *halves, Index width, Index k, double factor,          \
        double floor, double largest, double half, double limit, Index *winners, Scalar *limits,   \
        Index *doubts, unsigned long long *in_doubt) {                                             \
        score_tile<ROWS, CENTERS, R, C>(Rows{points, n, d, scales, shift}, weights, halves, width, \
                                        k, Rounding{factor, floor, largest, half, limit}, winners, \
                                        limits, doubts, in_doubt);                                 \
    }

SCORE(256, 16, 4, 4)
SCORE(128, 64, 4, 8)
#ifdef SINGLE
SCORE(128, 128, 8, 8)
#endif

// Decides the rows in doubt, a block for each: of the centers whose scores are not above the row's
// bound, the one at the least exact distance, and of equals the first.
extern "C" __global__ void __launch_bounds__(THREADS)
settle(const Scalar *points, Index n, Index d, const double *scales, const Scalar *shift,
       const Scalar *weights, const Scalar *halves, Index width, const double *exact, Index k,
       const Scalar *limits, const Index *doubts, const unsigned long long *in_doubt,
       Index *winners) {
    __shared__ double leasts[THREADS];
    __shared__ Index owners[THREADS];
    const Rows rows{points, n, d, scales, shift};
    const int thread = threadIdx.x;
    for (Index place = blockIdx.x; place < (Index)*in_doubt; place += gridDim.x) {
        const Index row = doubts[place];
        double least = INF;
        Index owner = k;
        for (Index center = thread; center < k; center += THREADS) {
            Scalar score = halves[center];
            for (Index j = 0; j < d; ++j)
                score = fused(rows(row, j), weights[j * width + center], score);
            if (score > limits[row]) continue;
            Terms terms{points + row * d, exact + center, k, scales ? scales[row] : 1.0,
                        scales != nullptr};
            double apart = distance(terms, d);
            if (apart < least) least = apart, owner = center;
        }
        leasts[thread] = least, owners[thread] = owner;
        __syncthreads();
        for (int half = THREADS / 2; half; half /= 2) {
            if (thread < half) {
                double other = leasts[thread + half];
                Index whose = owners[thread + half];
                if (other < leasts[thread] || (other == leasts[thread] && whose < owners[thread]))
                    leasts[thread] = other, owners[thread] = whose;
            }
            __syncthreads();
        }
        // A row that is not finite has no least: the first center stands in.
        if (thread == 0) winners[row] = owners[0] < k ? owners[0] : 0;
        __syncthreads();
    }
}

// Each row's distance to its winner.
extern "C" __global__ void measure_winners(const Scalar *points, Index n, Index d,
                                           const double *scales, const double *exact, Index k,
                                           const Index *winners, double *apart) {
    Index row = this_thread();
    if (row >= n) return;
    Terms terms{points + row * d, exact + winners[row], k, scales ? scales[row] : 1.0,
                scales != nullptr};
    apart[row] = distance(terms, d);
}

// Each row's distance to every center, (n, k).
extern "C" __global__ void measure_all(const Scalar *points, Index n, Index d, const double *scales,
                                       const double *exact, Index k, float *found) {
    Index place = this_thread();
    if (place >= n * k) return;
    Index row = place / k;
    Terms terms{points + row * d, exact + place % k, k, scales ? scales[row] : 1.0,
                scales != nullptr};
    found[place] = (float)distance(terms, d);
}

// --- Sums ---

// What a row adds to a column of its center's sums: its residual, which is exact for float32 rows,
// or for cosine the row scaled to length one.
static __device__ __forceinline__ double part_of(const Scalar *points, const double *scales,
                                                 const double *exact, Index k, Index d, Index row,
                                                 Index column, Index center) {
    double x = points[row * d + column];
    return scales ? x * scales[row] : x - exact[column * k + center];
}

// Adds up what the threads of a block have for the same of `side` columns, in a fixed tree; the
// first `side` threads have the sums. `side` is a power of two.
static __device__ double sum_across(double *room, double mine, int side) {
    const int thread = threadIdx.x;
    room[thread] = mine;  // nobody else reads it any more since the last barrier
    __syncthreads();
    for (int half = THREADS / 2; half >= side; half /= 2) {
        if (thread < half) room[thread] += room[thread + half];
        __syncthreads();
    }
    return room[thread];
}

// Both of what follows write `parts`, (any, d + 2): of each slice and center the sums, and behind
// them the sum of the squares of all that was added, and the number of rows. The parts of a center
// lie beside each other. `side` columns are added up at a time, a power of two.

// Adds up slices of rows that lie beside each other, for few centers: each thread has a sum of its
// own for each. The squares are only needed altogether; those of the first center are those of all.
extern "C" __global__ void __launch_bounds__(THREADS)
add_few(const Scalar *points, Index n, Index d, const double *scales, const double *exact, Index k,
        const Index *winners, Index side, double *parts) {
    __shared__ double sums[FEW][THREADS];
    __shared__ unsigned short won[FEW][THREADS];
    __shared__ double room[THREADS];
    const int thread = threadIdx.x, lane = thread / (int)side, lanes = THREADS / (int)side;
    const Index start = (Index)blockIdx.x * SLICE, stop = start + SLICE < n ? start + SLICE : n;
    double square = 0.0;
    for (int center = 0; center < k; ++center) won[center][thread] = 0;
    double *mine = parts + (Index)blockIdx.x * (d + 2);
    const Index apart = (Index)gridDim.x * (d + 2);
    for (Index first = 0; first < d; first += side) {
        const Index column = first + thread % (int)side;
        for (int center = 0; center < k; ++center) sums[center][thread] = 0.0;
        for (Index row = start + lane; row < stop && column < d; row += lanes) {
            const int center = (int)winners[row];
            double part = part_of(points, scales, exact, k, d, row, column, center);
            sums[center][thread] += part;
            square += part * part;
            won[center][thread] += column == 0;
        }
        for (int center = 0; center < k; ++center) {
            double total = sum_across(room, sums[center][thread], (int)side);
            if (lane == 0 && column < d) mine[center * apart + column] = total;
        }
    }
    square = sum_across(room, square, 1);
    for (int center = 0; center < k; ++center) {
        double count = sum_across(room, won[center][thread], 1);
        if (thread != 0) continue;
        mine[center * apart + d] = center ? 0.0 : square;
        mine[center * apart + d + 1] = count;
    }
}

// The number of the last of k + 1 ascending numbers that is not above a value.
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

// Adds up slices of rows of one center each. A block whose number is past the last slice has none.
//   order: (n,) winner * n + row, ascending.
//   bounds: (k + 1,) where in `order` the rows of each center begin.
//   firsts: (k + 1,) the number of each center's first slice.
extern "C" __global__ void __launch_bounds__(THREADS)
add_sorted(const Scalar *points, Index n, Index d, const double *scales, const double *exact,
           Index k, const Index *order, const Index *bounds, const Index *firsts, Index side,
           double *parts) {
    __shared__ double room[THREADS];
    const Index slice = blockIdx.x;
    if (slice >= firsts[k]) return;
    const Index center = last_not_above(firsts, k, slice);
    const Index start = bounds[center] + (slice - firsts[center]) * SLICE;
    const Index end = bounds[center + 1], stop = start + SLICE < end ? start + SLICE : end;
    const int lane = threadIdx.x / (int)side, lanes = THREADS / (int)side;
    double square = 0.0;
    for (Index first = 0; first < d; first += side) {
        const Index column = first + threadIdx.x % (int)side;
        double total = 0.0;
        for (Index place = start + lane; place < stop && column < d; place += lanes) {
            const Index row = order[place] - center * n;
            double part = part_of(points, scales, exact, k, d, row, column, center);
            total += part;
            square += part * part;
        }
        total = sum_across(room, total, (int)side);
        if (lane == 0 && column < d) parts[slice * (d + 2) + column] = total;
    }
    square = sum_across(room, square, 1);
    if (threadIdx.x != 0) return;
    parts[slice * (d + 2) + d] = square;
    parts[slice * (d + 2) + d + 1] = (double)(stop - start);
}

// Adds up the parts of each center, (any, wide), a block for each, to what its `sums` are already.
//   firsts: (k + 1,) the number of each center's first part.
extern "C" __global__ void __launch_bounds__(THREADS)
fold(const double *parts, const Index *firsts, Index wide, Index side, double *sums) {
    __shared__ double room[THREADS];
    const Index center = blockIdx.x;
    const int lane = threadIdx.x / (int)side, lanes = THREADS / (int)side;
    for (Index first = 0; first < wide; first += side) {
        const Index column = first + threadIdx.x % (int)side;
        double total = 0.0;
        for (Index part = firsts[center] + lane; part < firsts[center + 1] && column < wide;
             part += lanes)
            total += parts[part * wide + column];
        total = sum_across(room, total, (int)side);
        if (lane == 0 && column < wide) sums[center * wide + column] += total;
    }
}
