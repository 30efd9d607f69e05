/* The register tile of direct convolution: output pixels in the lanes, read where they stand.
 *
 * In C for the same reasons as the tile of outer products. */
#pragma once
#include "tile.h"

/* LANES neighbouring pixels of an output row: where the first of them reads, where it is written, and how many are. */
typedef struct {
    int64_t source, to, lanes;
} tile_segment;

/* The sums of a tile, where not all lanes of its segments are outputs, or these are not side by side. */
static TILE_APART void store_segments(
    const real *sums, int vectors, const tile_segment *segments, real *out, int64_t out_k, int64_t out_w, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            vec_store_strided(
                out + i * out_k + segments[j].to, vec_load(sums + (i * 2 * VECTORS + j) * LANES), out_w,
                segments[j].lanes);
}

/* out[row][segment] = bias[row] + sum over p < depth of a[p][row] * b[segment.source + offsets[p]]. */
VEC_FUNCTION void window_tile(
    int tile_rows, int vectors, int64_t depth, const real *a, const real *b, const int64_t *offsets,
    const tile_segment *segments, upcoming *coming, real *out, int64_t out_k, int64_t out_w, const real *bias,
    int64_t rows)
{
    tile_fetch ahead = next_fetch(coming, fetch_along(a, 0));
    vec sums[ROWS][2 * VECTORS], row[2 * VECTORS], scale[ROWS];
    const real *from[2 * VECTORS];
    TILE_UNROLL
    for (int j = 0; j < vectors; j++)
        from[j] = b + segments[j].source;
    TILE_UNROLL
    for (int i = 0; i < tile_rows; i++)
        TILE_UNROLL
        for (int j = 0; j < vectors; j++)
            sums[i][j] = vec_zero();
    int64_t p = 0;
#ifdef TILE_BY_HAND
    if (tile_rows == ROWS && vectors == VECTORS)
        for (; p + TILE_BY_HAND <= depth; p += TILE_BY_HAND) {
            fetch_next(&ahead);
            windows_by_hand(a, from, offsets + p, sums);
            a += TILE_BY_HAND * ROWS;
        }
#endif
    for (; p < depth; p++) {
        int64_t at = offsets[p];
        if (p % FETCH_STEPS == 0)
            fetch_next(&ahead);
        /* the registers hold the shorter side of the tile and one vector of the other */
        if (tile_rows < vectors) {
            TILE_UNROLL
            for (int i = 0; i < tile_rows; i++)
                scale[i] = vec_broadcast(a[i]);
            TILE_UNROLL
            for (int j = 0; j < vectors; j++) {
                row[j] = vec_load(from[j] + at);
                TILE_UNROLL
                for (int i = 0; i < tile_rows; i++)
                    sums[i][j] = vec_fma(scale[i], row[j], sums[i][j]);
            }
        } else {
            TILE_UNROLL
            for (int j = 0; j < vectors; j++)
                row[j] = vec_load(from[j] + at);
            TILE_UNROLL
            for (int i = 0; i < tile_rows; i++) {
                scale[i] = vec_broadcast(a[i]);
                TILE_UNROLL
                for (int j = 0; j < vectors; j++)
                    sums[i][j] = vec_fma(scale[i], row[j], sums[i][j]);
            }
        }
        a += ROWS;
    }
    int whole = out_w == 1;
    TILE_UNROLL
    for (int j = 0; j < vectors; j++)
        whole &= segments[j].lanes >= LANES;
    real apart[ROWS][2 * VECTORS][LANES];
    TILE_UNROLL
    for (int i = 0; i < tile_rows; i++) {
        if (i >= rows)
            break;
        vec start = bias == NULL ? vec_zero() : vec_broadcast(bias[i]);
        TILE_UNROLL
        for (int j = 0; j < vectors; j++)
            vec_store(whole ? out + i * out_k + segments[j].to : apart[i][j], sums[i][j] + start);
    }
    if (!whole)
        store_segments(apart[0][0], vectors, segments, out, out_k, out_w, rows < tile_rows ? rows : tile_rows);
}

/* The segments in tiles of up to `most` vectors, the last two in equal shares. */
VEC_FUNCTION void window_tiles(
    int tile_rows, int most, int64_t depth, const real *a, const real *b, const int64_t *offsets,
    const tile_segment *segments, int64_t count, upcoming *coming, real *out, int64_t out_k, int64_t out_w,
    const real *bias, int64_t rows)
{
#define WINDOW_TILE(vectors) \
    window_tile(tile_rows, vectors, depth, a, b, offsets, segments, coming, out, out_k, out_w, bias, rows)
    while (count > 0) {
        int64_t vectors = count >= 2 * most || count == most ? most : count > most ? (count + 1) / 2 : count;
        if (vectors == most)
            WINDOW_TILE(most);
        else if (vectors == 1)
            WINDOW_TILE(1);
        else if (most == 3 || vectors == 2)
            WINDOW_TILE(2);
        else if (vectors == 3)
            WINDOW_TILE(3);
        else if (vectors == 4)
            WINDOW_TILE(4);
        else
            WINDOW_TILE(5);
        segments += vectors;
        count -= vectors;
    }
#undef WINDOW_TILE
}

/* One block of at most ROWS output channels over some segments. Few channels are as many rows of a tile, down to half
 * of the whole one; that has twice the vectors. */
static TILE_APART void window_rows(
    int64_t depth, const real *a, const real *b, const int64_t *offsets, const tile_segment *segments, int64_t count,
    upcoming *coming, real *out, int64_t out_k, int64_t out_w, const real *bias, int64_t rows)
{
#define WINDOW_TILES(tile_rows, most) \
    window_tiles(tile_rows, most, depth, a, b, offsets, segments, count, coming, out, out_k, out_w, bias, rows)
    if (rows >= ROWS)
        WINDOW_TILES(ROWS, VECTORS);
    else if (rows == ROWS - 1)
        WINDOW_TILES(ROWS - 1, VECTORS);
#if CF_ROWS == 8
    else if (rows == 6)
        WINDOW_TILES(6, VECTORS);
    else if (rows == 5)
        WINDOW_TILES(5, VECTORS);
#endif
    else
        WINDOW_TILES(ROWS / 2, 2 * VECTORS);
#undef WINDOW_TILES
}
