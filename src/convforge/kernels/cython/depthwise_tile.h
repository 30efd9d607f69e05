/* The register tile of depthwise 3x3 kernels: one vector of four rows of outputs, or of two, all weights in registers.
 *
 * A row of input is read once for all the rows of outputs that see it, and a sum takes a register only for as many
 * rows. It is C for the same reasons as the tile of outer products. */
#pragma once
#include "tile.h"

/* DEPTHWISE_VECTORS: of a tile of kernels of other sizes, with four rows. With a third one 16 registers do not suffice:
 * sums would pass through the stack in each step (5x5: 23 cycles a vector, with two 14). */
enum { DEPTHWISE_TILE_ROWS = 4, DEPTHWISE_VECTORS = CF_ROWS == 8 ? 3 : 2 };

/* What the three taps of a row read, from the line's column of the first tap of the first output on.
 *
 * Pairs: a stride of 2 in place, even and odd columns of two vectors and then those after the even ones; mixed. Where
 * there are masks, loads keep to their lanes: one for each tap, or for each vector of two pairs. */
VEC_FUNCTION void depthwise_load_3(
    int pairs, const real *line, const int64_t *offsets, const vec_mask *masks, vec *a)
{
    vec pair[4];
    if (!pairs) {
        TILE_UNROLL
        for (int j = 0; j < 3; j++)
            a[j] = masks == NULL ? vec_load(line + offsets[j]) : vec_load_masked(line + offsets[j], masks[j]);
        return;
    }
    TILE_UNROLL
    for (int j = 0; j < 4; j++) {
        const real *p = line + j / 2 * 2 + j % 2 * LANES;
        pair[j] = masks == NULL ? vec_load(p) : vec_load_masked(p, masks[j]);
    }
    a[0] = vec_even_mixed(pair[0], pair[1]);
    a[1] = vec_odd_mixed(pair[0], pair[1]);
    a[2] = vec_even_mixed(pair[2], pair[3]);
}

/* Line r of the input is x + r * row, or lines[r] + at where lines are given. With `fetch` the lines that the tile
 * below reads are fetched. */
VEC_FUNCTION void depthwise_tile_3x3(
    int rows, int step, int pairs, int fetch, const real *x, int64_t row, const real *const *lines, int64_t at,
    const int64_t *offsets, const vec_mask *masks, const vec *scale, vec bias, real *out, int64_t out_row,
    int64_t count)
{
    vec sums[3], a[3];
    TILE_UNROLL
    for (int r = 0; r < (rows - 1) * step + 3; r++) {
        depthwise_load_3(pairs, lines == NULL ? x : lines[r] + at, offsets, masks, a);
        if (fetch && r >= 3 - step)
            vec_prefetch(x + rows * step * row);
        TILE_UNROLL
        for (int i = 2; i >= 0; i--) {
            /* this is row i of the taps for row t of the outputs */
            int t = (r - i) / step;
            if (r < i || (r - i) % step != 0 || t >= rows)
                continue;
            vec sum = scale[i] * a[0];
            if (i > 0)
                sum = vec_fma(scale[i], a[0], sums[t % 3]);
            TILE_UNROLL
            for (int j = 1; j < 3; j++)
                sum = vec_fma(scale[3 * j + i], a[j], sum);
            sums[t % 3] = sum;
            if (i == 2 && t < count)
                vec_store(out + t * out_row, (pairs ? vec_unmixed(sum) : sum) + bias);
        }
        x += row;
        /* loads of later rows, moved up, would need registers that are taken */
        VEC_IN_ORDER;
    }
}

VEC_FUNCTION void depthwise_weights_3x3(const real *weight, vec *scale)
{
    TILE_UNROLL
    for (int i = 0; i < 9; i++)
        scale[i] = vec_keep(vec_broadcast(weight[i]));
}

VEC_FUNCTION void depthwise_rows_3x3(
    int rows, int step, int pairs, int fetch, const real *x, int64_t row, const int64_t *offsets, const real *weight,
    real bias, real *out, int64_t out_row, int64_t columns, int64_t count)
{
    vec scale[9], start = vec_broadcast(bias);
    int64_t columns_of[3] = {offsets[0], offsets[1], offsets[2]};
    depthwise_weights_3x3(weight, scale);
    for (int64_t top = 0; top < count; top += rows) {
        /* the last vector may overlap the one before */
        for (int64_t column = 0; column < columns; column += LANES) {
            int64_t at = column < columns - LANES ? column : columns - LANES;
            depthwise_tile_3x3(
                rows, step, pairs, fetch, x + (pairs ? 2 * at : at), row, NULL, 0, columns_of, NULL, scale, start,
                out + at, out_row, count - top);
        }
        x += rows * step * row;
        out += rows * out_row;
    }
}

/* out[t][v] = bias + sum over i, j < 3 of weight[j][i] * x[t * step + i][offsets[j] + v], for `count` rows and at least
 * LANES columns; a step of 1 or 2. The input of whole tiles is read. */
static TILE_APART void depthwise_roll_3x3(
    int64_t step, const real *x, int64_t row, const int64_t *offsets, const real *weight, real bias, real *out,
    int64_t out_row, int64_t columns, int64_t count)
{
    if (step == 1)
        depthwise_rows_3x3(DEPTHWISE_TILE_ROWS, 1, 0, 0, x, row, offsets, weight, bias, out, out_row, columns, count);
    else
        depthwise_rows_3x3(DEPTHWISE_TILE_ROWS, 2, 0, 0, x, row, offsets, weight, bias, out, out_row, columns, count);
}
