/* Kernels of one row: sums along the rows of outputs.
 *
 * Each tap reads what the one before read, a column further on, and a load that crosses a cache line takes as long as
 * four multiply-adds. Where a line holds two vectors, the first is loaded for each tap, which seldom crosses, and the
 * second, whose loads would, is shifted in registers: a 1x9 filter of 1024x1024 takes 0.6 of the time. Loads of longer
 * vectors cross in each of them, those of shorter ones in few. */
#pragma once
#include "tile.h"

enum { ROW_VECTORS = 4, ROW_LINE = 64 };

/* out[u] = bias + sum over j < taps of weight[j] * x[u + j], for some vectors. */
VEC_FUNCTION void row_tile(int vectors, const real *x, const real *weight, int64_t taps, real bias, real *out)
{
    vec sums[ROW_VECTORS];
    TILE_UNROLL
    for (int v = 0; v < vectors; v++)
        sums[v] = vec_zero();
    for (int64_t j = 0; j < taps; j++)
        TILE_UNROLL
        for (int v = 0; v < vectors; v++)
            sums[v] = vec_fma(vec_broadcast(weight[j]), vec_load(x + v * LANES + j), sums[v]);
    TILE_UNROLL
    for (int v = 0; v < vectors; v++)
        vec_store(out + v * LANES, sums[v] + vec_broadcast(bias));
}

#if defined(__AVX2__) && !defined(__AVX512F__)
/* Elements s to s + LANES - 1 of a followed by b, by way of the upper half of a and the lower one of b. */
#define ROW_SHIFTED(a, between, b, s)                                                                                  \
    ((s) < LANES / 2 ? ROW_JOINED(a, between, s) : ROW_JOINED(between, b, (s) - LANES / 2))
#define ROW_JOINED(low, high, s)                                                                                       \
    (vec)_mm256_alignr_epi8((__m256i)(high), (__m256i)(low), (s) % (LANES / 2) * (int)sizeof(real))

/* The same for x at the start of a cache line, and ROW_VECTORS; up to a vector more than the taps need is read. */
VEC_FUNCTION void row_aligned_tile(const real *x, const real *weight, int64_t taps, real bias, real *out)
{
    vec sums[ROW_VECTORS], near[2], between[2], far[2];
    TILE_UNROLL
    for (int v = 0; v < ROW_VECTORS; v++)
        sums[v] = vec_zero();
    for (; taps > 0; taps -= LANES, x += LANES, weight += LANES) {
        TILE_UNROLL
        for (int v = 0; v < 2; v++) {
            near[v] = vec_load(x + (2 * v + 1) * LANES);
            far[v] = taps > 1 ? vec_load(x + (2 * v + 2) * LANES) : near[v];
            between[v] = (vec)_mm256_permute2f128_si256((__m256i)near[v], (__m256i)far[v], 0x21);
        }
#define ROW_TAP(s)                                                                                                     \
    if ((s) < LANES && (s) < taps) {                                                                                   \
        vec scale = vec_broadcast(weight[s]);                                                                          \
        TILE_UNROLL                                                                                                    \
        for (int v = 0; v < 2; v++) {                                                                                  \
            sums[2 * v] = vec_fma(scale, vec_load(x + 2 * v * LANES + (s)), sums[2 * v]);                              \
            sums[2 * v + 1] = vec_fma(scale, ROW_SHIFTED(near[v], between[v], far[v], s), sums[2 * v + 1]);            \
        }                                                                                                              \
    }
        ROW_TAP(0) ROW_TAP(1) ROW_TAP(2) ROW_TAP(3) ROW_TAP(4) ROW_TAP(5) ROW_TAP(6) ROW_TAP(7)
#undef ROW_TAP
    }
    TILE_UNROLL
    for (int v = 0; v < ROW_VECTORS; v++)
        vec_store(out + v * LANES, sums[v] + vec_broadcast(bias));
}
#undef ROW_SHIFTED
#undef ROW_JOINED
#else
VEC_FUNCTION void row_aligned_tile(const real *x, const real *weight, int64_t taps, real bias, real *out)
{
    row_tile(ROW_VECTORS, x, weight, taps, bias, out);
}
#endif

/* The same for `count` rows of at least ROW_VECTORS vectors of columns. */
static TILE_APART void depthwise_row(
    const real *x, int64_t row, const real *weight, int64_t taps, real bias, real *out, int64_t out_row,
    int64_t columns, int64_t count)
{
    for (int64_t t = 0; t < count; t++, x += row, out += out_row) {
        int64_t column = (int64_t)(-(uintptr_t)x % ROW_LINE / sizeof(real)), at;
        for (at = 0; at < column; at += 2 * LANES)
            row_tile(2, x + at, weight, taps, bias, out + at);
        for (; column + (ROW_VECTORS + 1) * LANES <= columns; column += ROW_VECTORS * LANES)
            row_aligned_tile(x + column, weight, taps, bias, out + column);
        for (; column < columns; column += 2 * LANES) {
            at = column < columns - 2 * LANES ? column : columns - 2 * LANES;
            row_tile(2, x + at, weight, taps, bias, out + at);
        }
    }
}
