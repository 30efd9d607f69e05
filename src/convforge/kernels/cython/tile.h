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
 * a is [depth][lda] or, by_row, [rows][lda], or where offsets are given a[offsets[p] + row * lda]; b is [depth][ldb]
 * and read in whole vectors, or where these are apart, so many elements from one to the next, they are [depth][LANES]
 * each. Of them, tile_rows <= ROWS rows and some vectors count. Where copy is not NULL, copy[depth][COLUMNS] receives
 * what was read of b. lda of [depth][lda] is ROWS or GROUP. After the depth there are more runs of it, each after as
 * many p that are skipped. */
VEC_FUNCTION void outer_sums(
    int tile_rows, int vectors, int by_row, int64_t depth, int64_t runs, int64_t skipped, const real *a, int64_t lda,
    const int64_t *offsets, int64_t rows, const real *b, int64_t ldb, int64_t apart, real *copy,
    const tile_fetch *ahead, vec sums[ROWS][VECTORS])
{
    vec row[VECTORS];
    const real *from[ROWS];
    tile_fetch fetch = *ahead;
    int64_t p = 0, end = depth;
    /* vectors that are apart are weights: where few tiles share them, or fetch in few of their steps, each has many */
    const int many = apart && (tile_rows <= ROWS / 2 || FETCH_STEPS > 1);
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
            if (many)
                fetch_lines(&fetch, vectors);
            else
                fetch_next(&fetch);
            if (apart && vectors == 2)
                apart_by_hand_2(a + p, lda, b, apart, sums);
            else if (apart)
                apart_by_hand_3(a + p, lda, b, apart, sums);
            else if (by_row && vectors == 2)
                rows_by_hand_2(a + p, lda, b, ldb, sums);
            else if (by_row)
                rows_by_hand_3(a + p, lda, b, ldb, sums);
            else if (lda == ROWS && vectors == 2)
                tile_by_hand_2(a + p * ROWS, b, ldb, sums);
            else if (lda == ROWS)
                tile_by_hand_3(a + p * ROWS, b, ldb, sums);
            else if (vectors == 2)
                sweep_by_hand_2(a + p * GROUP, b, ldb, sums);
            else
                sweep_by_hand_3(a + p * GROUP, b, ldb, sums);
            b += TILE_BY_HAND * ldb;
        }
    }
#endif
    for (int64_t run = 0; run < runs; run++) {
        for (; p < end; p++) {
            if (p % FETCH_STEPS == 0) {
                if (many)
                    fetch_lines(&fetch, vectors);
                else
                    fetch_next(&fetch);
            }
            TILE_UNROLL
            for (int j = 0; j < vectors; j++) {
                row[j] = vec_load(b + j * (apart ? apart : LANES));
                if (copy != NULL)
                    vec_store(copy + p * COLUMNS + j * LANES, row[j]);
            }
            TILE_UNROLL
            for (int i = 0; i < tile_rows; i++) {
                vec scale = vec_broadcast(from[i][offsets != NULL ? offsets[p] : by_row ? p : p * lda]);
                TILE_UNROLL
                for (int j = 0; j < vectors; j++)
                    sums[i][j] = vec_fma(scale, row[j], sums[i][j]);
            }
            b += ldb;
        }
        p += skipped;
        b += skipped * ldb;
        end += skipped + depth;
    }
}

/* c[rows][columns] = the same sums, plus c itself to accumulate, or else plus a bias per row where there is one.
 *
 * rows <= tile_rows and columns <= vectors * LANES may be fewer than the tile has, and only those are written. The
 * tile's size is a constant of each call. */
VEC_FUNCTION void outer_tile(
    int tile_rows, int vectors, int by_row, int64_t depth, int64_t runs, int64_t skipped, const real *a, int64_t lda,
    const int64_t *offsets, const real *b, int64_t ldb, int64_t apart, real *copy, const tile_fetch *ahead, real *c,
    int64_t ldc, const real *bias, int64_t rows, int64_t columns, int accumulate)
{
    vec sums[ROWS][VECTORS], row[VECTORS];
    int64_t last = (vectors - 1) * LANES;
    outer_sums(
        tile_rows, vectors, by_row, depth, runs, skipped, a, lda, offsets, rows, b, ldb, apart, copy, ahead, sums);
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
    int tile_rows, int by_row, int64_t depth, int64_t runs, int64_t skipped, const real *a, int64_t lda,
    const int64_t *offsets, const real *b, int64_t ldb, int64_t apart, real *copy, const tile_fetch *ahead, real *c,
    int64_t ldc, const real *bias, int64_t rows, int64_t columns, int accumulate)
{
#define OUTER_TILE(vectors)                                                                                            \
    outer_tile(tile_rows, vectors, by_row, depth, runs, skipped, a, lda, offsets, b, ldb, apart, copy, ahead, c, ldc,  \
               bias, rows, columns, accumulate)
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
    int by_row, int64_t depth, int64_t runs, int64_t skipped, const real *a, int64_t lda, const int64_t *offsets,
    const real *b, int64_t ldb, int64_t apart, const tile_fetch *ahead, real *c, int64_t ldc, const real *bias,
    int64_t rows, int64_t columns, int accumulate)
{
#define OUTER_TILE(tile_rows)                                                                                          \
    outer_tile_of(tile_rows, by_row, depth, runs, skipped, a, lda, offsets, b, ldb, apart, NULL, ahead, c, ldc, bias,  \
                  rows, columns, accumulate)
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
    gemm(0, depth, 1, 0, a, ROWS, NULL, b, ldb, 0, ahead, c, ldc, bias, rows, columns, accumulate);
}

/* The same of a[offsets[p] + row * apart], with more runs of the depth, each after as many p that are skipped. */
static TILE_APART void gemm_in_place(
    int64_t depth, int64_t runs, int64_t skipped, const real *a, int64_t apart, const int64_t *offsets, const real *b,
    int64_t ldb, const tile_fetch *ahead, real *c, int64_t ldc, int64_t rows, int64_t columns, int accumulate)
{
    gemm(1, depth, runs, skipped, a, apart, offsets, b, ldb, 0, ahead, c, ldc, NULL, rows, columns, accumulate);
}

/* The same of a[rows][lda] and b[ceil(columns / LANES)][depth][LANES]. */
static TILE_APART void gemm_apart(
    int64_t depth, const real *a, int64_t lda, const real *b, const tile_fetch *ahead, real *c, int64_t ldc,
    int64_t rows, int64_t columns, int accumulate)
{
    gemm(1, depth, 1, 0, a, lda, NULL, b, LANES, depth * LANES, ahead, c, ldc, NULL, rows, columns, accumulate);
}

/* The same of a[rows][lda]. */
static TILE_APART void gemm_by_row(
    int64_t depth, const real *a, int64_t lda, const real *b, int64_t ldb, const tile_fetch *ahead, real *c,
    int64_t ldc, const real *bias, int64_t rows, int64_t columns, int accumulate)
{
    gemm(1, depth, 1, 0, a, lda, NULL, b, ldb, 0, ahead, c, ldc, bias, rows, columns, accumulate);
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
            ROWS, 0, depth, 1, 0, a, ROWS, NULL, b, ldb, 0, copy, ahead, c, ldc, bias, rows, columns, accumulate);
    else
        outer_tile_of(
            ROWS, 1, depth, 1, 0, a, lda, NULL, b, ldb, 0, copy, ahead, c, ldc, bias, rows, columns, accumulate);
}

/* Where a block of rows of weights begins, which are [ceil(k / GROUP)][depth][GROUP]. */
VEC_FUNCTION const real *sweep_rows(const real *a, int64_t depth, int64_t block)
{
    int64_t row = block * ROWS;
    return a + row / GROUP * GROUP * depth + row % GROUP;
}

/* What the sums of a block of rows fetch: each of the blocks that share lines its part of those that follow. */
VEC_FUNCTION tile_fetch sweep_ahead(const real *a, int64_t depth, int64_t block)
{
    return fetch_along(a + (block * depth + 256) * ROWS, ROWS);
}

/* The tile for several blocks of rows and whole vectors: c[row][columns] = sum over p < depth of
 * a[row / GROUP][p][row % GROUP] * b[p][column], plus c itself to accumulate; b is [depth][vectors * LANES]. */
VEC_FUNCTION void sweep_tiles(
    int vectors, int64_t depth, int64_t first, int64_t blocks, const real *a, const real *b, real *c, int64_t ldc,
    int accumulate)
{
    for (int64_t block = first; block < blocks; block++) {
        vec sums[ROWS][VECTORS];
        tile_fetch ahead = sweep_ahead(a, depth, block);
        outer_sums(
            ROWS, vectors, 0, depth, 1, 0, sweep_rows(a, depth, block), GROUP, NULL, ROWS, b, vectors * LANES, 0, NULL,
            &ahead, sums);
        TILE_UNROLL
        for (int i = 0; i < ROWS; i++)
            TILE_UNROLL
            for (int j = 0; j < vectors; j++) {
                real *to = c + (block * ROWS + i) * ldc + j * LANES;
                vec_store(to, accumulate ? sums[i][j] + vec_load(to) : sums[i][j]);
            }
    }
}

/* The same of one vector a row, for two blocks at a time: the sums of one would wait for each other. */
VEC_FUNCTION void sweep_pairs(
    int64_t depth, int64_t pairs, const real *a, const real *b, real *c, int64_t ldc, int accumulate)
{
    for (int64_t pair = 0; pair < pairs; pair++) {
        const real *upper = sweep_rows(a, depth, 2 * pair), *lower = sweep_rows(a, depth, 2 * pair + 1);
        const real *ahead = a + 2 * ROWS * (pair * depth + 128);
        vec sums[2 * ROWS];
        TILE_UNROLL
        for (int i = 0; i < 2 * ROWS; i++)
            sums[i] = vec_zero();
        for (int64_t p = 0; p < depth; p++) {
            vec row = vec_load(b + p * LANES);
            vec_prefetch(ahead + 2 * ROWS * p);
            TILE_UNROLL
            for (int i = 0; i < ROWS; i++)
                sums[i] = vec_fma(vec_broadcast(upper[i]), row, sums[i]);
            TILE_UNROLL
            for (int i = 0; i < ROWS; i++)
                sums[ROWS + i] = vec_fma(vec_broadcast(lower[i]), row, sums[ROWS + i]);
            upper += GROUP;
            lower += GROUP;
        }
        TILE_UNROLL
        for (int i = 0; i < 2 * ROWS; i++)
            vec_store(c + i * ldc, accumulate ? sums[i] + vec_load(c + i * ldc) : sums[i]);
        c += 2 * ROWS * ldc;
    }
}

static TILE_APART void gemm_sweep(
    int64_t columns, int64_t depth, int64_t blocks, const real *a, const real *b, real *c, int64_t ldc, int accumulate)
{
    if (columns == 3 * LANES)
        sweep_tiles(3, depth, 0, blocks, a, b, c, ldc, accumulate);
    else if (columns == 2 * LANES)
        sweep_tiles(2, depth, 0, blocks, a, b, c, ldc, accumulate);
    else {
        sweep_pairs(depth, blocks / 2, a, b, c, ldc, accumulate);
        sweep_tiles(1, depth, blocks / 2 * 2, blocks, a, b, c, ldc, accumulate);
    }
}
