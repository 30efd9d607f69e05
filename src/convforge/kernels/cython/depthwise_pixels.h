/* The register tile of depthwise kernels with channels in the lanes: pixels of a row side by side, a sum for each.
 *
 * It is C for the same reasons as the tile of outer products. */
#pragma once
#include "tile.h"

enum {
    DEPTHWISE_PIXELS = 8, /* at most: as many sums as hide the latency of a multiply-add */
    /* of a row, whose weights stay in registers beside the sums: with seven, 16 registers do not suffice */
    DEPTHWISE_SHARED_TAPS = CF_ROWS == 8 ? 7 : 5
};

/* Rows and columns of taps, the step from one pixel's first tap to the next one's, the vectors from one row or column
 * of taps to the next, and from one weight to the next. */
typedef struct {
    int64_t kh, kw, step, row, column, pitch;
} depthwise_pixel_taps;

VEC_FUNCTION void depthwise_store_pixels(int pixels, const vec *sums, vec bias, real *to)
{
    TILE_UNROLL
    for (int t = 0; t < pixels; t++)
        vec_store(to + t * LANES, sums[t] + bias);
}

VEC_FUNCTION void depthwise_pixels(
    int pixels, const depthwise_pixel_taps *taps, const real *x, const real *weight, vec bias, real *to)
{
    vec sums[DEPTHWISE_PIXELS];
    int64_t step = taps->step * LANES;
    TILE_UNROLL
    for (int t = 0; t < pixels; t++)
        sums[t] = vec_zero();
    for (int64_t i = 0; i < taps->kh; i++, x += taps->row * LANES) {
        const real *tap = x;
        for (int64_t j = 0; j < taps->kw; j++, tap += taps->column * LANES, weight += taps->pitch * LANES) {
            vec scale = vec_load(weight);
            TILE_UNROLL
            for (int t = 0; t < pixels; t++)
                sums[t] = vec_fma(scale, vec_load(tap + t * step), sums[t]);
        }
    }
    depthwise_store_pixels(pixels, sums, bias, to);
}

/* The same where the taps of a row, kw of them, are neighbours: what several pixels see is loaded once. */
VEC_FUNCTION void depthwise_sharing_pixels(
    int pixels, int step, int kw, const depthwise_pixel_taps *taps, const real *x, const real *weight, vec bias,
    real *to)
{
    vec sums[DEPTHWISE_PIXELS], scale[DEPTHWISE_SHARED_TAPS];
    TILE_UNROLL
    for (int t = 0; t < pixels; t++)
        sums[t] = vec_zero();
    for (int64_t i = 0; i < taps->kh; i++, x += taps->row * LANES) {
        TILE_UNROLL
        for (int j = 0; j < kw; j++, weight += taps->pitch * LANES)
            scale[j] = vec_keep(vec_load(weight));
        TILE_UNROLL
        for (int place = 0; place < (pixels - 1) * step + kw; place++) {
            vec seen = vec_keep(vec_load(x + place * LANES));
            TILE_UNROLL
            for (int t = 0; t < pixels; t++)
                if (place >= t * step && place < t * step + kw)
                    sums[t] = vec_fma(scale[place - t * step], seen, sums[t]);
        }
    }
    depthwise_store_pixels(pixels, sums, bias, to);
}

VEC_FUNCTION void depthwise_pixels_of(
    int step, int kw, int64_t pixels, const depthwise_pixel_taps *taps, const real *x, const real *weight, vec bias,
    real *to)
{
#define PIXELS(count)                                                                                                  \
    case count:                                                                                                        \
        if (kw)                                                                                                        \
            depthwise_sharing_pixels(count, step, kw, taps, x, weight, bias, to);                                      \
        else                                                                                                           \
            depthwise_pixels(count, taps, x, weight, bias, to);                                                        \
        break;
    switch (pixels) {
        PIXELS(1)
        PIXELS(2)
        PIXELS(3)
        PIXELS(4)
        PIXELS(5)
        PIXELS(6)
        PIXELS(7)
        PIXELS(8)
    }
#undef PIXELS
}

/* to[pixel] = bias + sum over i < kh, j < kw of weight[i * kw + j] * x[i * row + j * column + pixel * step], each of
 * them a vector; at most DEPTHWISE_PIXELS. */
static TILE_APART void depthwise_sum_pixels(
    int64_t pixels, const depthwise_pixel_taps *taps, const real *x, const real *weight, const real *bias, real *to)
{
    vec shift = vec_load(bias);
    int64_t neighbours = taps->column == 1 ? taps->kw : 0;
#define NEIGHBOURS(apart, count)                                                                                       \
    if (taps->step == apart && neighbours == count) {                                                                  \
        depthwise_pixels_of(apart, count, pixels, taps, x, weight, shift, to);                                         \
        return;                                                                                                        \
    }
    NEIGHBOURS(1, 3)
    NEIGHBOURS(1, 5)
    NEIGHBOURS(2, 3)
    NEIGHBOURS(2, 5)
#if CF_ROWS == 8
    NEIGHBOURS(1, 7)
    NEIGHBOURS(2, 7)
#endif
#undef NEIGHBOURS
    depthwise_pixels_of(0, 0, pixels, taps, x, weight, shift, to);
}
