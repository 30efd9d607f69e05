/* The register tile of depthwise kernels whose taps are neighbours: four rows of outputs times up to two vectors.
 *
 * A load that crosses a cache line takes as long as four multiply-adds, and all taps of a row but one would need such a
 * load in every second vector. So a row of input is read once, in vectors side by side, and shifted in registers. */
#pragma once
#include "tile.h"

enum { DENSE_ROWS = 4, DENSE_VECTORS = 2 };

/* What a row of input adds to the rows `first` to `last` of a tile: for row t and column j of the taps, the weight is
 * weight[j * kh - t]. The second vector begins `far` columns after the first. */
VEC_FUNCTION void dense_meet(
    int first, int last, int vectors, const real *x, int64_t far, const real *weight, int64_t kh, int64_t kw,
    vec sums[DENSE_ROWS][DENSE_VECTORS])
{
    vec near[DENSE_VECTORS], middle[DENSE_VECTORS];
    for (int64_t taps = kw; taps > 0; taps -= LANES) {
        TILE_UNROLL
        for (int v = 0; v < vectors; v++) {
            near[v] = middle[v] = vec_load(x + v * far);
            if (taps > 1)
                middle[v] = vec_middle(near[v], vec_load(x + v * far + LANES));
        }
        TILE_UNROLL
        for (int s = 0; s < LANES; s++)
            if (s < taps) {
                vec shifted[DENSE_VECTORS];
                if (s == VEC_MIDDLE) {
                    /* not kept from above: the sums take half of the registers */
                    VEC_IN_ORDER;
                    TILE_UNROLL
                    for (int v = 0; v < vectors; v++)
                        near[v] = vec_load(x + v * far + LANES);
                }
                TILE_UNROLL
                for (int v = 0; v < vectors; v++)
                    shifted[v] = s < VEC_MIDDLE ? vec_shifted(near[v], middle[v], s)
                                                : vec_shifted(middle[v], near[v], s - VEC_MIDDLE);
                TILE_UNROLL
                for (int t = first; t <= last; t++) {
                    vec scale = vec_broadcast(weight[-t]);
                    TILE_UNROLL
                    for (int v = 0; v < vectors; v++)
                        sums[t][v] = vec_fma(scale, shifted[v], sums[t][v]);
                }
                weight += kh;
            }
        x += LANES;
    }
}

/* `few` is kh where that is less than DENSE_ROWS, else 0. */
VEC_FUNCTION void dense_tile(
    int few, int vectors, const real *x, int64_t row, int64_t plane, int64_t far, const real *weight, int64_t c,
    int64_t kh, int64_t kw, real bias, real *out, int64_t out_row, int64_t count)
{
    vec sums[DENSE_ROWS][DENSE_VECTORS];
    TILE_UNROLL
    for (int t = 0; t < DENSE_ROWS; t++)
        TILE_UNROLL
        for (int v = 0; v < vectors; v++)
            sums[t][v] = vec_zero();
    for (int64_t channel = 0; channel < c; channel++) {
        const real *line = x + channel * plane;
        int head = few ? few - 1 : DENSE_ROWS - 1;
        TILE_UNROLL
        for (int r = 0; r < head; r++, line += row)
            dense_meet(0, r, vectors, line, far, weight + r, kh, kw, sums);
        if (few) {
            TILE_UNROLL
            for (int r = head; r < DENSE_ROWS; r++, line += row)
                dense_meet(r - head, r, vectors, line, far, weight + r, kh, kw, sums);
        } else
            for (int64_t r = head; r < kh; r++, line += row)
                dense_meet(0, DENSE_ROWS - 1, vectors, line, far, weight + r, kh, kw, sums);
        TILE_UNROLL
        for (int t = DENSE_ROWS - head; t < DENSE_ROWS; t++, line += row)
            dense_meet(t, DENSE_ROWS - 1, vectors, line, far, weight + kh - 1 + t, kh, kw, sums);
        weight += kh * kw;
    }
    TILE_UNROLL
    for (int t = 0; t < DENSE_ROWS; t++)
        if (t < count)
            TILE_UNROLL
            for (int v = 0; v < vectors; v++)
                vec_store(out + t * out_row + v * far, sums[t][v] + vec_broadcast(bias));
}

VEC_FUNCTION void dense_rows(
    int few, int vectors, const real *x, int64_t row, int64_t plane, const real *weight, int64_t c, int64_t kh,
    int64_t kw, real bias, real *out, int64_t out_row, int64_t columns, int64_t count)
{
    int64_t width = vectors * LANES, far = columns < width ? columns - LANES : LANES;
    /* down the columns: what tiles read twice is in the first cache then */
    for (int64_t column = 0; column < columns; column += width) {
        /* the last tile may overlap the one before, or its vectors each other */
        int64_t at = column <= columns - width ? column : columns < width ? 0 : columns - width;
        for (int64_t top = 0; top < count; top += DENSE_ROWS)
            dense_tile(
                few, vectors, x + top * row + at, row, plane, far, weight, c, kh, kw, bias, out + top * out_row + at,
                out_row, count - top);
    }
}

/* out[t][u] = bias + sum over channel < c, i < kh, j < kw of weight[channel][j][i] * x[channel][t + i][u + j], in this
 * order but for columns innermost, for `count` rows and at least LANES columns. The input of whole tiles is read, and
 * whole vectors of it. */
static TILE_APART void depthwise_roll_dense(
    const real *x, int64_t row, int64_t plane, const real *weight, int64_t c, int64_t kh, int64_t kw, real bias,
    real *out, int64_t out_row, int64_t columns, int64_t count)
{
#define DENSE(few, vectors)                                                                                            \
    dense_rows(few, vectors, x, row, plane, weight, c, kh, kw, bias, out, out_row, columns, count)
    if (columns == LANES)
        switch (kh) {
        case 1: DENSE(1, 1); break;
        case 2: DENSE(2, 1); break;
        case 3: DENSE(3, 1); break;
        default: DENSE(0, 1);
        }
    else
        switch (kh) {
        case 1: DENSE(1, 2); break;
        case 2: DENSE(2, 2); break;
        case 3: DENSE(3, 2); break;
        default: DENSE(0, 2);
        }
#undef DENSE
}
