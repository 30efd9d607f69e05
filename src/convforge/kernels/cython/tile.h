/* The register tile of outer products.
 *
 * In C, for gcc keeps an array of accumulators in registers only if the loops over them are unrolled early, which takes
 * a pragma: they would pass through the stack before and after the sum, a quarter of the time at a depth of 16. */
#pragma once
#include "fetch.h"

#if defined(__clang__)
#define TILE_UNROLL _Pragma("clang loop unroll(full)")
#define TILE_APART __attribute__((noinline, unused))
#else
#define TILE_UNROLL _Pragma("GCC unroll 32")
/* inlined or cloned for one of its callers, a tile that needs every register may get fewer */
#define TILE_APART __attribute__((noipa, unused))
#endif

/* sums[row][column] = sum over p < depth of a[p][row] * b[p][column].
 *
 * a is [depth][ROWS] or, by_row, [rows][lda], or where offsets are given a[offsets[p] + row], for as many rows as the
 * tile has; b is [depth][ldb] and read in whole vectors; of them, tile_rows <= ROWS rows and some vectors count. Where
 * copy is not NULL, copy[depth][COLUMNS] receives what was read of b. */
VEC_FUNCTION void outer_sums(
    int tile_rows, int vectors, int by_row, int64_t depth, const real *a, int64_t lda, const int64_t *offsets,
    int64_t rows, const real *b, int64_t ldb, real *copy, const tile_fetch *ahead, vec sums[ROWS][VECTORS])
{
    vec row[VECTORS];
    const real *from[ROWS];
    tile_fetch fetch = *ahead;
    int64_t p = 0;
    /* rows past the last one repeat it, and their sums are dropped */
    TILE_UNROLL
    for (int i = 0; i < tile_rows; i++)
        from[i] = by_row ? a + (i < rows ? i : rows - 1) * lda : a + i;
    TILE_UNROLL
    for (int i = 0; i < tile_rows; i++)
        TILE_UNROLL
        for (int j = 0; j < vectors; j++)
            sums[i][j] = vec_zero();
#ifdef TILE_BY_HAND
    if (copy == NULL && offsets == NULL && tile_rows == ROWS && vectors > 1) {
        for (; p + TILE_BY_HAND <= depth; p += TILE_BY_HAND) {
            fetch_next(&fetch);
            if (by_row && vectors == 2)
                rows_by_hand_2(a + p, lda, b, ldb, sums);
            else if (by_row)
                rows_by_hand_3(a + p, lda, b, ldb, sums);
            else if (vectors == 2)
                tile_by_hand_2(a + p * ROWS, b, ldb, sums);
            else
                tile_by_hand_3(a + p * ROWS, b, ldb, sums);
            b += TILE_BY_HAND * ldb;
        }
    }
#endif
    for (; p < depth; p++) {
        if (p % FETCH_STEPS == 0)
            fetch_next(&fetch);
        TILE_UNROLL
        for (int j = 0; j < vectors; j++) {
            row[j] = vec_load(b + j * LANES);
            if (copy != NULL)
                vec_store(copy + p * COLUMNS + j * LANES, row[j]);
        }
        TILE_UNROLL
        for (int i = 0; i < tile_rows; i++) {
            vec scale = vec_broadcast(from[i][offsets != NULL ? offsets[p] : by_row ? p : p * ROWS]);
            TILE_UNROLL
            for (int j = 0; j < vectors; j++)
                sums[i][j] = vec_fma(scale, row[j], sums[i][j]);
        }
        b += ldb;
    }
}

/* c[rows][columns] = the same sums, plus c itself to accumulate, or else plus a bias per row where there is one.
 *
 * rows <= tile_rows and columns <= vectors * LANES may be fewer than the tile has, and only those are written. The
 * tile's size is a constant of each call. */
VEC_FUNCTION void outer_tile(
    int tile_rows, int vectors, int by_row, int64_t depth, const real *a, int64_t lda, const int64_t *offsets,
    const real *b, int64_t ldb, real *copy, const tile_fetch *ahead, real *c, int64_t ldc, const real *bias,
    int64_t rows, int64_t columns, int accumulate)
{
    vec sums[ROWS][VECTORS], row[VECTORS];
    int64_t last = (vectors - 1) * LANES;
    outer_sums(tile_rows, vectors, by_row, depth, a, lda, offsets, rows, b, ldb, copy, ahead, sums);
    /* bias and c are added last, while nothing else needs registers */
    TILE_UNROLL
    for (int i = 0; i < tile_rows; i++) {
        if (i >= rows)
            break;
        real *target = c + i * ldc;
        if (accumulate) {
            TILE_UNROLL
            for (int j = 0; j < vectors - 1; j++)
                row[j] = vec_load(target + j * LANES);
            row[vectors - 1] = vec_load_partial(target + last, columns - last);
        } else {
            vec start = bias == NULL ? vec_zero() : vec_broadcast(bias[i]);
            TILE_UNROLL
            for (int j = 0; j < vectors; j++)
                row[j] = start;
        }
        TILE_UNROLL
        for (int j = 0; j < vectors - 1; j++)
            vec_store(target + j * LANES, sums[i][j] + row[j]);
        vec_store_partial(target + last, sums[i][vectors - 1] + row[vectors - 1], columns - last);
    }
}

VEC_FUNCTION void outer_tile_of(
    int tile_rows, int by_row, int64_t depth, const real *a, int64_t lda, const int64_t *offsets, const real *b,
    int64_t ldb, real *copy, const tile_fetch *ahead, real *c, int64_t ldc, const real *bias, int64_t rows,
    int64_t columns, int accumulate)
{
#define OUTER_TILE(vectors)                                                                                            \
    outer_tile(tile_rows, vectors, by_row, depth, a, lda, offsets, b, ldb, copy, ahead, c, ldc, bias, rows, columns,   \
               accumulate)
    if (columns > 2 * LANES)
        OUTER_TILE(3);
    else if (columns > LANES)
        OUTER_TILE(2);
    else
        OUTER_TILE(1);
#undef OUTER_TILE
}

/* outer_tile for any rows, of which it does at most ROWS, and at most COLUMNS columns: the tile is as low as the rows,
 * down to half of the whole one. */
VEC_FUNCTION void gemm(
    int by_row, int64_t depth, const real *a, int64_t lda, const int64_t *offsets, const real *b, int64_t ldb,
    const tile_fetch *ahead, real *c, int64_t ldc, const real *bias, int64_t rows, int64_t columns, int accumulate)
{
#define OUTER_TILE(tile_rows)                                                                                          \
    outer_tile_of(tile_rows, by_row, depth, a, lda, offsets, b, ldb, NULL, ahead, c, ldc, bias, rows, columns,         \
                  accumulate)
    if (rows >= ROWS)
        OUTER_TILE(ROWS);
    else if (rows == ROWS - 1)
        OUTER_TILE(ROWS - 1);
#if CF_ROWS == 8
    else if (rows == 6)
        OUTER_TILE(6);
    else if (rows == 5)
        OUTER_TILE(5);
#endif
    else
        OUTER_TILE(ROWS / 2);
#undef OUTER_TILE
}

static TILE_APART void gemm_ahead(
    int64_t depth, const real *a, const real *b, int64_t ldb, const tile_fetch *ahead, real *c, int64_t ldc,
    const real *bias, int64_t rows, int64_t columns, int accumulate)
{
    gemm(0, depth, a, 0, NULL, b, ldb, ahead, c, ldc, bias, rows, columns, accumulate);
}

/* The same of a[offsets[p] + row], for half of ROWS to ROWS rows. */
static TILE_APART void gemm_in_place(
    int64_t depth, const real *a, const int64_t *offsets, const real *b, int64_t ldb, const tile_fetch *ahead, real *c,
    int64_t ldc, int64_t rows, int64_t columns, int accumulate)
{
    gemm(0, depth, a, 0, offsets, b, ldb, ahead, c, ldc, NULL, rows, columns, accumulate);
}

/* The same of a[rows][lda]. */
static TILE_APART void gemm_by_row(
    int64_t depth, const real *a, int64_t lda, const real *b, int64_t ldb, const tile_fetch *ahead, real *c,
    int64_t ldc, const real *bias, int64_t rows, int64_t columns, int accumulate)
{
    gemm(1, depth, a, lda, NULL, b, ldb, ahead, c, ldc, bias, rows, columns, accumulate);
}

/* The same of weights, in blocks of rows (lda is 0) or as they lie. */
VEC_FUNCTION void gemm_rows(
    int64_t depth, const real *a, int64_t lda, const real *b, int64_t ldb, const tile_fetch *ahead, real *c,
    int64_t ldc, const real *bias, int64_t rows, int64_t columns, int accumulate)
{
    if (lda == 0)
        gemm_ahead(depth, a, b, ldb, ahead, c, ldc, bias, rows, columns, accumulate);
    else
        gemm_by_row(depth, a, lda, b, ldb, ahead, c, ldc, bias, rows, columns, accumulate);
}

/* The same for whole blocks of rows, and copy[depth][COLUMNS] = b: waiting for far away rows is hidden behind the
 * multiplications. */
static TILE_APART void gemm_copying(
    int64_t depth, const real *a, int64_t lda, const real *b, int64_t ldb, real *copy, const tile_fetch *ahead, real *c,
    int64_t ldc, const real *bias, int64_t rows, int64_t columns, int accumulate)
{
    if (lda == 0)
        outer_tile_of(
            ROWS, 0, depth, a, 0, NULL, b, ldb, copy, ahead, c, ldc, bias, rows, columns, accumulate);
    else
        outer_tile_of(
            ROWS, 1, depth, a, lda, NULL, b, ldb, copy, ahead, c, ldc, bias, rows, columns, accumulate);
}

/* The tile for several blocks of rows and whole vectors: c[row][columns] = sum over p < depth of
 * a[row / ROWS][p][row % ROWS] * b[p][column], plus c itself to accumulate; b is [depth][vectors * LANES]. */
VEC_FUNCTION void sweep_tiles(
    int vectors, int64_t depth, int64_t blocks, const real *a, const real *b, real *c, int64_t ldc, int accumulate)
{
    for (int64_t block = 0; block < blocks; block++) {
        vec sums[ROWS][VECTORS];
        tile_fetch ahead = fetch_weights(a, 0);
        outer_sums(ROWS, vectors, 0, depth, a, 0, NULL, ROWS, b, vectors * LANES, NULL, &ahead, sums);
        TILE_UNROLL
        for (int i = 0; i < ROWS; i++)
            TILE_UNROLL
            for (int j = 0; j < vectors; j++) {
                real *to = c + i * ldc + j * LANES;
                vec_store(to, accumulate ? sums[i][j] + vec_load(to) : sums[i][j]);
            }
        a += depth * ROWS;
        c += ROWS * ldc;
    }
}

/* The same of one vector a row, for two blocks at a time: the sums of one would wait for each other. */
VEC_FUNCTION void sweep_pairs(
    int64_t depth, int64_t pairs, const real *a, const real *b, real *c, int64_t ldc, int accumulate)
{
    for (int64_t pair = 0; pair < pairs; pair++) {
        const real *lower = a + depth * ROWS;
        vec sums[2 * ROWS];
        TILE_UNROLL
        for (int i = 0; i < 2 * ROWS; i++)
            sums[i] = vec_zero();
        for (int64_t p = 0; p < depth; p++) {
            vec row = vec_load(b + p * LANES);
            vec_prefetch(a + 256 * ROWS);
            vec_prefetch(lower + 256 * ROWS);
            TILE_UNROLL
            for (int i = 0; i < ROWS; i++)
                sums[i] = vec_fma(vec_broadcast(a[i]), row, sums[i]);
            TILE_UNROLL
            for (int i = 0; i < ROWS; i++)
                sums[ROWS + i] = vec_fma(vec_broadcast(lower[i]), row, sums[ROWS + i]);
            a += ROWS;
            lower += ROWS;
        }
        TILE_UNROLL
        for (int i = 0; i < 2 * ROWS; i++)
            vec_store(c + i * ldc, accumulate ? sums[i] + vec_load(c + i * ldc) : sums[i]);
        a = lower;
        c += 2 * ROWS * ldc;
    }
}

static TILE_APART void gemm_sweep(
    int64_t columns, int64_t depth, int64_t blocks, const real *a, const real *b, real *c, int64_t ldc, int accumulate)
{
    if (columns == 3 * LANES)
        sweep_tiles(3, depth, blocks, a, b, c, ldc, accumulate);
    else if (columns == 2 * LANES)
        sweep_tiles(2, depth, blocks, a, b, c, ldc, accumulate);
    else {
        int64_t done = blocks / 2 * 2;
        sweep_pairs(depth, blocks / 2, a, b, c, ldc, accumulate);
        sweep_tiles(1, depth, blocks - done, a + done * depth * ROWS, b, c + done * ROWS * ldc, ldc, accumulate);
    }
}
