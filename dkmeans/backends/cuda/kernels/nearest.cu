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
        // No score is below NaN, not even one that has overflowed.
        highest[i] = place < product.n ? limits[place] : (float)NOT_A_NUMBER;
        if (place >= product.n || highest[i] < (float)INF) continue;
        dropped[place] = 1, highest[i] = (float)NOT_A_NUMBER;
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
