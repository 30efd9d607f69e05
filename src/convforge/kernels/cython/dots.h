/* Dot products of a few rows of weights with what one, two or four images' pixels read. */
#pragma once
#include "tile.h"

enum {
    DOT_IMAGES = 4, /* at most */
    DOT_SUMS = 8, /* accumulators, of 8, 4 or 2 rows of weights */
    DOT_SUM_GROUPS = (DOT_SUMS + LANES - 1) / LANES /* of LANES accumulators, to be summed together */
};

/* totals[row][images] = sum over tap of w[row][tap] * x[image * pitch + tap], of DOT_SUMS / images rows; those past
 * the last one repeat it. The number of images is a constant of each call. */
VEC_FUNCTION void dot_taps(
    int images, int64_t taps, const real *w, int64_t rows, const real *x, int64_t pitch, real *totals)
{
    vec sums[DOT_SUM_GROUPS * LANES], taken[DOT_IMAGES];
    const real *line[DOT_SUMS];
    int height = DOT_SUMS / images;
    int64_t p = 0;
    TILE_UNROLL
    for (int i = 0; i < height; i++)
        line[i] = w + (i < rows ? i : rows - 1) * taps;
    TILE_UNROLL
    for (int i = 0; i < DOT_SUM_GROUPS * LANES; i++)
        sums[i] = vec_zero();
    for (; p + LANES <= taps; p += LANES) {
        TILE_UNROLL
        for (int j = 0; j < images; j++)
            taken[j] = vec_load(x + j * pitch + p);
        TILE_UNROLL
        for (int i = 0; i < height; i++) {
            vec weight = vec_load(line[i] + p);
            TILE_UNROLL
            for (int j = 0; j < images; j++)
                sums[i * images + j] = vec_fma(weight, taken[j], sums[i * images + j]);
        }
    }
    if (p < taps) {
        TILE_UNROLL
        for (int j = 0; j < images; j++)
            taken[j] = vec_load_partial(x + j * pitch + p, taps - p);
        TILE_UNROLL
        for (int i = 0; i < height; i++) {
            vec weight = vec_load_partial(line[i] + p, taps - p);
            TILE_UNROLL
            for (int j = 0; j < images; j++)
                sums[i * images + j] = vec_fma(weight, taken[j], sums[i * images + j]);
        }
    }
    TILE_UNROLL
    for (int i = 0; i < DOT_SUM_GROUPS; i++)
        vec_store(totals + i * LANES, vec_sums(sums + i * LANES));
}
