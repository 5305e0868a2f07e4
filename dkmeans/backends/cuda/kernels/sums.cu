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

// Count the rows `start` to `stop` of each of k centers, at most COUNTED_CENTERS, in shared memory.
// All threads of the block must call this.
static __device__ __forceinline__ void count_in_block(const Index *nearest, Index start, Index stop,
                                                      Index k, unsigned *counts) {
    for (int center = threadIdx.x; center < k; center += THREADS) counts[center] = 0;
    __syncthreads();
    for (Index row = start + threadIdx.x; row < stop; row += THREADS)
        atomicAdd(counts + nearest[row], 1u);
    __syncthreads();
}

// Count the rows of each center. counts: (k,).
extern "C" __global__ void __launch_bounds__(THREADS)
count_rows(const Index *nearest, Index n, Index k, Bits *counts) {
    __shared__ unsigned own[COUNTED_CENTERS];
    const Index start = (Index)blockIdx.x * COUNTED_ROWS;
    const Index stop = start + COUNTED_ROWS < n ? start + COUNTED_ROWS : n;
    if (k > COUNTED_CENTERS) {
        for (Index row = start + threadIdx.x; row < stop; row += THREADS)
            atomicAdd(counts + nearest[row], (Bits)1);
        return;
    }
    count_in_block(nearest, start, stop, k, own);
    for (int center = threadIdx.x; center < k; center += THREADS)
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
    const Index start = (Index)blockIdx.x * COUNTED_ROWS;
    const Index stop = start + COUNTED_ROWS < n ? start + COUNTED_ROWS : n;
    const bool shares = k <= COUNTED_CENTERS;
    if (shares) {
        count_in_block(nearest, start, stop, k, own);
        for (int center = threadIdx.x; center < k; center += THREADS)
            if (own[center]) own[center] = (unsigned)atomicAdd(places + center, (Bits)own[center]);
        __syncthreads();
    }
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
