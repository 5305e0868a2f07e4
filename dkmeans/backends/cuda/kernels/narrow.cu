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
        // A float64 row may be too large for any exponent: it is resolved exactly. A center that is
        // too large has infinite digits and lengths, so that all rows are.
        if (!lengths && exponent_above((double)largest[i]) + exponent > TOP_EXPONENT)
            largest[i] = (Scalar)INF;
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
