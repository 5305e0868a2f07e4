// --- Few centers, float32 rows ---

#ifdef SINGLE

// A warp finds the nearest centers of FEW_TILE neighboring rows at a time, and adds them up.
//
// 1. The rows are copied to shared memory, while the last ones are computed.
// 2. The tensor cores score them. Rows and centers are sums of two bfloat16 numbers; all four
//    products are added. The last bits of a score are replaced by the center's number.
// 3. The tensor cores add up the rows of each center, exactly: they multiply a matrix of bytes, which
//    is zero where a row does not belong to a center, with the bytes of the rows' values on the grid.
//
// Rows that are too close to two centers are resolved at once. Values that do not fit into two digits
// are corrected afterwards. Rows that are not finite, or whose scores may overflow, are added by one
// thread.

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
//   square_limit: rows whose squared length is not below this may have scores that overflow.
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

// The power of two that scales a column to its first digit: 2^-(exponent + 22). Zero, so that values
// have no digits, if it or another power that `Digits` needs is not a normal float32 number.
static __device__ __forceinline__ float digit_power(double power) {
    return power >= 0x1p-104 && power <= 0x1p104 ? (float)(power / DIGIT) : 0.0f;
}

// The two digits of a value, as float32 numbers with their integers in the last three bytes, and what
// is left of the value. `power` is that of `digit_power`. All steps are exact if the first digit,
// `whole`, is below 2^22. What is left keeps the scale of the value: in units of the grid a tiny value
// could underflow to zero.
struct Digits {
    unsigned high, low;
    float whole, rest;

    static __device__ __forceinline__ Digits of(float x, float power) {
        // One divided by a power of two.
        const float unit = __uint_as_float(0x7f000000u - __float_as_uint(power));
        const float high = fused(x, power, TO_INTEGER);
        const float whole = TO_INTEGER - high, part = fused(whole, unit, x);
        const float low = fused(part, power * DIGIT, TO_INTEGER);
        const float rest = fused(TO_INTEGER - low, unit * (1.0f / DIGIT), part);
        return Digits{__float_as_uint(high), __float_as_uint(low), whole, rest};
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

// Correct the sums for a value that two digits do not hold, or do: then nothing is added.
static __device__ __noinline__ void add_rest(float x, double power, int center, int column,
                                             Index number, const Sums &sums) {
    const Parts parts = split(x, power);
    sums.check(parts, number);
    const Index added = Digits::of(x, digit_power(power)).added();
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

// Find the nearest centers of float32 rows, and add the rows up, for at most WIDTH columns (8, 16 or
// 32) and CENTERS centers (8 or 16).
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

    // Rows of other widths are copied in units of 16 bytes, or of a value. A thread copies every 32nd
    // unit; the first one, and the way to the next.
    const bool chunked = d % CHUNK == 0;
    const int unit = chunked ? CHUNK : 1, units = d / unit;
    const int first_row = lane / units, first_unit = lane % units;
    const int row_step = WARP / units, unit_step = WARP % units;
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
            int row = first_row, in_row = first_unit;
            source += lane * unit;
#pragma unroll 1
            for (; row < count; source += WARP * unit) {
                float *to = target + row * STRIDE + in_row * unit;
                if (chunked)
                    copy_async(to, source);
                else
                    copy_async<4>(to, source);
                row += row_step, in_row += unit_step;
                if (in_row >= units) ++row, in_row -= units;
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
        powers[block] = digit_power(few.powers[8 * block + g]);
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
                float rest = 0.0f, largest = 0.0f;
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
                        // An instruction where a maximum would need two.
                        largest = fused(digits.whole, digits.whole, largest);
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
                const int column = 8 * block + g;
                // The negation: the values of rows that are left out need not be numbers.
                const bool corrects = !(rest == 0.0f && largest < DIGIT * DIGIT);
#pragma unroll 1
                for (int i = 0; corrects && i < 8 && column < d; ++i) {
                    const int place = 2 * t + i % 2 + i / 2 * 8;
                    const unsigned set = memberships[warp][0][8 * t + i] |
                                         memberships[warp][1][8 * t + i] << 8;
                    if (!set) continue;
                    add_rest(tile_rows[place * STRIDE + column], few.powers[column],
                             31 - __clz(set), column, (Index)tile * FEW_TILE + start + place, sums);
                }
                // The threads multiply together again. After the last block all of them have read the
                // memberships and scales that are overwritten next.
                __syncwarp();
            }
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
#endif
