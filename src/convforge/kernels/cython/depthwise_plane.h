/* 3x3 kernels of stride 1 or 2 on a plane that is read in place: the tiles inside as they are, those that lack columns
 * through masks, those that lack lines through a list of lines. */
#pragma once
#include "depthwise_tile.h"

/* A plane of input that is read in place: `row` from one line to the next, of which `first` to `end` are there, and of
 * these the columns from `first_column` to `end_column`. All count from the first tap's of the first output, where x
 * points. Other lines and columns are zero; `zeros` is as wide as a line. */
typedef struct {
    const real *x, *zeros;
    int64_t row, first, end, first_column, end_column;
} depthwise_plane;

static const int64_t depthwise_neighbours[3] = {0, 1, 2};

/* Lanes that are there of what depthwise_load_3 loads, for the tile of outputs from column `at` on. */
VEC_FUNCTION void depthwise_masks_3x3(int stride, const depthwise_plane *plane, int64_t at, vec_mask *masks)
{
    for (int j = 0; j < 4; j++) {
        int64_t column = stride == 1 ? at + j : 2 * at + j / 2 * 2 + j % 2 * LANES;
        masks[j] = vec_lanes_between(plane->first_column - column, plane->end_column - column);
    }
}

/* What is below does, for a stride that the compiler knows. */
VEC_FUNCTION void depthwise_sides(
    int stride, const depthwise_plane *plane, const real *weight, real bias, real *out, int64_t out_row,
    int64_t columns, int64_t count, int64_t top, int64_t bottom, int64_t left, int64_t right)
{
    vec_mask masks[4];
    vec scale[9], start = vec_broadcast(bias);
    depthwise_weights_3x3(weight, scale);
    for (int64_t column = left > 0 ? 0 : right; column < columns;
         column = column + LANES == left ? right : column + LANES) {
        int64_t at = column < columns - LANES ? column : columns - LANES;
        depthwise_masks_3x3(stride, plane, at, masks);
        for (int64_t band = top; band < bottom; band += DEPTHWISE_TILE_ROWS)
            depthwise_tile_3x3(
                DEPTHWISE_TILE_ROWS, stride, stride == 2, 0, plane->x + band * stride * plane->row + stride * at,
                plane->row, NULL, 0, depthwise_neighbours, masks, scale, start, out + band * out_row + at, out_row,
                count - band);
    }
}

VEC_FUNCTION void depthwise_band(
    int stride, const depthwise_plane *plane, const real *const *lines, const real *weight, real bias, real *out,
    int64_t out_row, int64_t columns, int64_t count, int64_t left, int64_t right)
{
    vec_mask masks[4];
    vec scale[9], start = vec_broadcast(bias);
    depthwise_weights_3x3(weight, scale);
    for (int64_t column = 0; column < columns; column += LANES) {
        int64_t at = column < columns - LANES ? column : columns - LANES;
        if (column >= left && column < right) {
            depthwise_tile_3x3(
                DEPTHWISE_TILE_ROWS, stride, stride == 2, 0, NULL, 0, lines, stride * at, depthwise_neighbours, NULL,
                scale, start, out + at, out_row, count);
            continue;
        }
        depthwise_masks_3x3(stride, plane, at, masks);
        depthwise_tile_3x3(
            DEPTHWISE_TILE_ROWS, stride, stride == 2, 0, NULL, 0, lines, stride * at, depthwise_neighbours, masks,
            scale, start, out + at, out_row, count);
    }
}

/* Elements from one line to the next from where on lines are long: what tiles of four rows read and write may fall on
 * the same few lines of the first cache then, if that is a power of 2, and the CPU's own prefetching stops at each
 * page. Tiles of two rows fit always, and fetch what the next ones read (a Sobel filter of 1024x1024 takes a fifth
 * less). */
static const int64_t depthwise_long = 640 / sizeof(real);

/* Of a plane in place the tiles that begin in [top, bottom) x [left, right), where nothing lacks.
 *
 * With a stride of 2 a tile reads nine lines, more than the CPU follows on a narrow map: 96 channels of 112x112 take a
 * quarter less if they are fetched. With a stride of 1 short lines need not be. */
static TILE_APART void depthwise_inside_3x3(
    int64_t stride, const depthwise_plane *plane, const real *weight, real bias, real *out, int64_t out_row,
    int64_t count, int64_t top, int64_t bottom, int64_t left, int64_t right)
{
    const real *x = plane->x + stride * (top * plane->row + left);
    out += top * out_row + left;
    count = (bottom < count ? bottom : count) - top;
#define ROWS_3X3(rows, stride, fetch)                                                                                  \
    depthwise_rows_3x3(rows, stride, stride == 2, fetch, x, plane->row, depthwise_neighbours, weight, bias, out,       \
                       out_row, right - left, count)
    if (plane->row >= depthwise_long && stride == 1)
        ROWS_3X3(2, 1, 1);
    else if (plane->row >= depthwise_long)
        ROWS_3X3(2, 2, 1);
    else if (stride == 1)
        ROWS_3X3(DEPTHWISE_TILE_ROWS, 1, 0);
    else
        ROWS_3X3(DEPTHWISE_TILE_ROWS, 2, 1);
#undef ROWS_3X3
}

/* Beside them, the tiles that lack columns. */
static TILE_APART void depthwise_sides_3x3(
    int64_t stride, const depthwise_plane *plane, const real *weight, real bias, real *out, int64_t out_row,
    int64_t columns, int64_t count, int64_t top, int64_t bottom, int64_t left, int64_t right)
{
    if (stride == 1)
        depthwise_sides(1, plane, weight, bias, out, out_row, columns, count, top, bottom, left, right);
    else
        depthwise_sides(2, plane, weight, bias, out, out_row, columns, count, top, bottom, left, right);
}

/* A band of output rows above or below them, whose lines are given. */
static TILE_APART void depthwise_band_3x3(
    int64_t stride, const depthwise_plane *plane, const real *const *lines, const real *weight, real bias, real *out,
    int64_t out_row, int64_t columns, int64_t count, int64_t left, int64_t right)
{
    if (stride == 1)
        depthwise_band(1, plane, lines, weight, bias, out, out_row, columns, count, left, right);
    else
        depthwise_band(2, plane, lines, weight, bias, out, out_row, columns, count, left, right);
}

/* out[t][v] = bias + sum over i, j < 3 of weight[j][i] * x[t * stride + i][v * stride + j], of a plane in place, for
 * `count` rows and at least LANES columns; a stride of 1 or 2. */
static void depthwise_plane_3x3(
    int64_t stride, const depthwise_plane *plane, const real *weight, real bias, real *out, int64_t out_row,
    int64_t columns, int64_t count)
{
    const real *lines[(DEPTHWISE_TILE_ROWS - 1) * 2 + 3];
    int64_t tall = (DEPTHWISE_TILE_ROWS - 1) * stride + 3;
    int64_t wide = stride == 1 ? 2 + LANES : 2 + 2 * LANES; /* columns that a tile reads */
    int64_t most = (count + DEPTHWISE_TILE_ROWS - 1) / DEPTHWISE_TILE_ROWS * DEPTHWISE_TILE_ROWS;
    int64_t top = 0, bottom, left = 0, right;
    while (top < most && top * stride < plane->first)
        top += DEPTHWISE_TILE_ROWS;
    for (bottom = top; bottom < most && bottom * stride + tall <= plane->end;)
        bottom += DEPTHWISE_TILE_ROWS;
    while (left * stride < plane->first_column)
        left += LANES;
    for (right = left; right + LANES <= columns && right * stride + wide <= plane->end_column;)
        right += LANES;
    if (bottom > top && right > left)
        depthwise_inside_3x3(stride, plane, weight, bias, out, out_row, count, top, bottom, left, right);
    if (bottom > top)
        depthwise_sides_3x3(stride, plane, weight, bias, out, out_row, columns, count, top, bottom, left, right);
    for (int64_t band = top > 0 ? 0 : bottom; band < count;
         band = band + DEPTHWISE_TILE_ROWS == top ? bottom : band + DEPTHWISE_TILE_ROWS) {
        for (int r = 0; r < tall; r++) {
            int64_t line = band * stride + r;
            lines[r] = line < plane->first || line >= plane->end ? plane->zeros : plane->x + line * plane->row;
        }
        depthwise_band_3x3(
            stride, plane, lines, weight, bias, out + band * out_row, out_row, columns, count - band, left, right);
    }
}
