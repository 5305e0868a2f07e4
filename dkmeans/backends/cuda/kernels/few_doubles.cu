// --- Few centers, float64 rows ---

#ifndef SINGLE
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
