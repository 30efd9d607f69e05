/* The register tile of depthwise 3x3 kernels: one vector of four rows of outputs, all weights in registers.
 *
 * A row of input is read once for all the rows of outputs that see it, and a sum takes a register only for as many
 * rows. It is C for the same reasons as the tile of outer products. */
#pragma once
#include "tile.h"

enum { DEPTHWISE_TILE_ROWS = 4 };

/* Line r of the input is x + r * row, or lines[r] where these are given; where masks are, tap j reads their lanes. */
VEC_FUNCTION void depthwise_tile_3x3(
    int step, const real *x, int64_t row, const real *const *lines, const int64_t *offsets, const vec_mask *masks,
    const vec *scale, vec bias, real *out, int64_t out_row, int64_t count)
{
    vec sums[3], a[3];
    TILE_UNROLL
    for (int r = 0; r < (DEPTHWISE_TILE_ROWS - 1) * step + 3; r++) {
        const real *line = lines == NULL ? x : lines[r];
        TILE_UNROLL
        for (int j = 0; j < 3; j++)
            a[j] = masks == NULL ? vec_load(line + offsets[j]) : vec_load_masked(line + offsets[j], masks[j]);
        TILE_UNROLL
        for (int i = 2; i >= 0; i--) {
            /* this is row i of the taps for row t of the outputs */
            int t = (r - i) / step;
            if (r < i || (r - i) % step != 0 || t >= DEPTHWISE_TILE_ROWS)
                continue;
            vec sum = scale[i] * a[0];
            if (i > 0)
                sum = vec_fma(scale[i], a[0], sums[t % 3]);
            TILE_UNROLL
            for (int j = 1; j < 3; j++)
                sum = vec_fma(scale[3 * j + i], a[j], sum);
            sums[t % 3] = sum;
            if (i == 2 && t < count)
                vec_store(out + t * out_row, sum + bias);
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
    int step, const real *x, int64_t row, const int64_t *offsets, const real *weight, real bias, real *out,
    int64_t out_row, int64_t columns, int64_t count)
{
    vec scale[9], start = vec_broadcast(bias);
    int64_t columns_of[3] = {offsets[0], offsets[1], offsets[2]};
    depthwise_weights_3x3(weight, scale);
    for (int64_t top = 0; top < count; top += DEPTHWISE_TILE_ROWS) {
        /* the last vector may overlap the one before */
        for (int64_t column = 0; column < columns; column += LANES) {
            int64_t at = column < columns - LANES ? column : columns - LANES;
            depthwise_tile_3x3(
                step, x + at, row, NULL, columns_of, NULL, scale, start, out + at, out_row, count - top);
        }
        x += DEPTHWISE_TILE_ROWS * step * row;
        out += DEPTHWISE_TILE_ROWS * out_row;
    }
}

/* out[t][v] = bias + sum over i, j < 3 of weight[j][i] * x[t * step + i][offsets[j] + v], for `count` rows and at least
 * LANES columns; a step of 1 or 2. The input of whole tiles is read. */
static TILE_APART void depthwise_roll_3x3(
    int64_t step, const real *x, int64_t row, const int64_t *offsets, const real *weight, real bias, real *out,
    int64_t out_row, int64_t columns, int64_t count)
{
    if (step == 1)
        depthwise_rows_3x3(1, x, row, offsets, weight, bias, out, out_row, columns, count);
    else
        depthwise_rows_3x3(2, x, row, offsets, weight, bias, out, out_row, columns, count);
}

/* A plane of input that is read in place: `row` from one line to the next, of which `first` to `end` are there, and of
 * these the columns from `first_column` to `end_column`. All count from the first tap's of the first output, where x
 * points. Other lines and columns are zero; `zeros` is as wide as a line. */
typedef struct {
    const real *x, *zeros;
    int64_t row, first, end, first_column, end_column;
} depthwise_plane;

static const int64_t depthwise_neighbours[3] = {0, 1, 2};

/* Lanes of taps 0, 1 and 2 whose columns are there, for outputs from column `at` on. */
VEC_FUNCTION void depthwise_masks_3x3(const depthwise_plane *plane, int64_t at, vec_mask *masks)
{
    for (int j = 0; j < 3; j++)
        masks[j] = vec_lanes_between(plane->first_column - at - j, plane->end_column - at - j);
}

/* Bands of output rows from `top` to `bottom`, whose lines are all there: the tiles that lack columns, those that begin
 * before `left` or from `right` on. */
static TILE_APART void depthwise_sides_3x3(
    const depthwise_plane *plane, const real *weight, real bias, real *out, int64_t out_row, int64_t columns,
    int64_t count, int64_t top, int64_t bottom, int64_t left, int64_t right)
{
    vec_mask masks[3];
    vec scale[9], start = vec_broadcast(bias);
    depthwise_weights_3x3(weight, scale);
    for (int64_t column = 0; column < columns; column = column + LANES == left ? right : column + LANES) {
        int64_t at = column < columns - LANES ? column : columns - LANES;
        depthwise_masks_3x3(plane, at, masks);
        for (int64_t band = top; band < bottom; band += DEPTHWISE_TILE_ROWS)
            depthwise_tile_3x3(
                1, plane->x + band * plane->row + at, plane->row, NULL, depthwise_neighbours, masks, scale, start,
                out + band * out_row + at, out_row, count - band);
    }
}

/* A band of output rows whose lines are given; again those tiles lack columns that begin outside of [left, right). */
static TILE_APART void depthwise_band_3x3(
    const depthwise_plane *plane, const real *const *lines, const real *weight, real bias, real *out,
    int64_t out_row, int64_t columns, int64_t count, int64_t left, int64_t right)
{
    vec_mask masks[3];
    vec scale[9], start = vec_broadcast(bias);
    depthwise_weights_3x3(weight, scale);
    for (int64_t column = 0; column < columns; column += LANES) {
        int64_t at = column < columns - LANES ? column : columns - LANES, taps[3] = {at, at + 1, at + 2};
        if (column >= left && column < right) {
            depthwise_tile_3x3(1, NULL, 0, lines, taps, NULL, scale, start, out + at, out_row, count);
            continue;
        }
        depthwise_masks_3x3(plane, at, masks);
        depthwise_tile_3x3(1, NULL, 0, lines, taps, masks, scale, start, out + at, out_row, count);
    }
}

/* out[t][v] as above, with a step of 1 and taps that are neighbours, of a plane in place; at least LANES columns. */
static TILE_APART void depthwise_bordered_3x3(
    const depthwise_plane *plane, const real *weight, real bias, real *out, int64_t out_row, int64_t columns,
    int64_t count)
{
    const real *lines[DEPTHWISE_TILE_ROWS + 2];
    /* tiles that begin in [top, bottom) x [left, right) read what is there */
    int64_t most = (count + DEPTHWISE_TILE_ROWS - 1) / DEPTHWISE_TILE_ROWS * DEPTHWISE_TILE_ROWS;
    int64_t top = 0, bottom, left = 0, right;
    while (top < most && top < plane->first)
        top += DEPTHWISE_TILE_ROWS;
    for (bottom = top; bottom < most && bottom + DEPTHWISE_TILE_ROWS + 2 <= plane->end;)
        bottom += DEPTHWISE_TILE_ROWS;
    while (left < plane->first_column)
        left += LANES;
    for (right = left; right + LANES <= columns && right + LANES + 2 <= plane->end_column;)
        right += LANES;
    if (bottom > top && right > left)
        depthwise_roll_3x3(
            1, plane->x + top * plane->row + left, plane->row, depthwise_neighbours, weight, bias,
            out + top * out_row + left, out_row, right - left, (bottom < count ? bottom : count) - top);
    if (bottom > top)
        depthwise_sides_3x3(plane, weight, bias, out, out_row, columns, count, top, bottom, left, right);
    for (int64_t band = top > 0 ? 0 : bottom; band < count;
         band = band + DEPTHWISE_TILE_ROWS == top ? bottom : band + DEPTHWISE_TILE_ROWS) {
        for (int r = 0; r < DEPTHWISE_TILE_ROWS + 2; r++) {
            int64_t line = band + r;
            lines[r] = line < plane->first || line >= plane->end ? plane->zeros : plane->x + line * plane->row;
        }
        depthwise_band_3x3(
            plane, lines, weight, bias, out + band * out_row, out_row, columns, count - band, left, right);
    }
}
