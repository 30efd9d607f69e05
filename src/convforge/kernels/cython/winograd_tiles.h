/* Winograd's transforms of one tile with channels in the lanes.
 *
 * In C, for the loops over a tile's rows and columns are not to be unrolled, which takes a pragma: half a tile is more
 * than the registers hold, so that a whole one in a single piece is no faster, and it takes the compiler longer. */
#pragma once
#include "tile.h"
#include "winograd_transforms.h"

#if defined(__clang__)
#define TILE_LOOP _Pragma("clang loop unroll(disable)")
#else
#define TILE_LOOP _Pragma("GCC unroll 1")
#endif

/* The digits of the code of an F(m, r): m, r and the stride; and the products of a tile, per axis. */
#define TILE_M(f) ((f) / 100 % 10)
#define TILE_SIDE(f) ((f) % 10 * TILE_M(f) + (f) / 10 % 10 - (f) % 10)
/* Where the i-th product of a shorter tile stands among those of a whole one: the last point is infinity. */
#define TILE_PLACE(f, part, i) ((i) < TILE_SIDE(part) - 1 ? (i) : TILE_SIDE(f) - 1)

/* B^T both ways on a tile of LANES channels, whose columns are `dilation` apart: to[alpha][alpha], `pitch` apart. The
 * tile is as high as `down` and as wide as `across`, each of them f or its shorter one. */
VEC_FUNCTION void winograd_channels_tile(
    int f, int down, int across, const real *const *rows, int64_t column, int64_t dilation, real *to, int64_t pitch)
{
    vec half[WINOGRAD_ALPHA][WINOGRAD_ALPHA], d[WINOGRAD_ALPHA], o[WINOGRAD_ALPHA];
    TILE_LOOP
    for (int j = 0; j < TILE_SIDE(across); j++) {
        TILE_UNROLL
        for (int i = 0; i < TILE_SIDE(down); i++)
            d[i] = vec_load(rows[i] + (column + j * dilation) * LANES);
        winograd_input(down, d, o);
        TILE_UNROLL
        for (int i = 0; i < TILE_SIDE(down); i++)
            half[i][j] = o[i];
    }
    TILE_LOOP
    for (int i = 0; i < TILE_SIDE(down); i++) {
        winograd_input(across, half[i], o);
        real *row = to + TILE_PLACE(f, down, i) * TILE_SIDE(f) * pitch;
        TILE_UNROLL
        for (int j = 0; j < TILE_SIDE(across); j++)
            vec_store(row + TILE_PLACE(f, across, j) * pitch, o[j]);
    }
}

/* A^T both ways on products p[alpha][alpha], `pitch` apart: `height` x `columns` outputs at most, plus a bias. The sum
 * of all is NaN or infinite if any is without a bias. */
VEC_FUNCTION vec winograd_channels_outputs(
    int f, int down, int across, const real *p, int64_t pitch, vec bias, int64_t height, int64_t columns, real *to,
    int64_t to_row, int64_t to_column)
{
    vec half[WINOGRAD_ALPHA][WINOGRAD_ALPHA], d[WINOGRAD_ALPHA], o[WINOGRAD_ALPHA], total = vec_zero();
    TILE_LOOP
    for (int j = 0; j < TILE_SIDE(across); j++) {
        const real *column = p + TILE_PLACE(f, across, j) * pitch;
        TILE_UNROLL
        for (int i = 0; i < TILE_SIDE(down); i++)
            d[i] = vec_load(column + TILE_PLACE(f, down, i) * TILE_SIDE(f) * pitch);
        winograd_output(down, d, o);
        TILE_UNROLL
        for (int i = 0; i < TILE_M(down); i++)
            half[i][j] = o[i];
    }
    TILE_LOOP
    for (int i = 0; i < TILE_M(down); i++) {
        if (i >= height)
            break;
        winograd_output(across, half[i], o);
        TILE_UNROLL
        for (int j = 0; j < TILE_M(across); j++)
            if (j < columns) {
                total = total + o[j];
                vec_store(to + (i * to_row + j * to_column) * LANES, o[j] + bias);
            }
    }
    return total;
}
