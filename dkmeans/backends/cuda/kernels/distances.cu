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
