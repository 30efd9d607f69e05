/* What the tiles fetch while they sum: it comes from far and will be needed later, and the CPU's own prefetching stops
 * at each page. */
#pragma once
#include "tile_by_hand.h"

/* A tile fetches once in so many steps. */
#ifdef TILE_BY_HAND
#define FETCH_STEPS TILE_BY_HAND
#else
#define FETCH_STEPS 1
#endif
#define CACHE_LINE (64 / (int64_t)sizeof(real))

/* Elements `step` apart; after `left` of them, and then after every `run`, `jump` elements are left out. */
typedef struct {
    const real *at;
    int64_t step, left, run, jump;
} tile_fetch;

VEC_FUNCTION void fetch_next(tile_fetch *fetch)
{
    vec_prefetch(fetch->at);
    fetch->at += fetch->step;
    if (--fetch->left == 0) {
        fetch->left = fetch->run;
        fetch->at += fetch->jump;
    }
}

/* So many lines, one after the other, of what is fetched at a time. */
VEC_FUNCTION void fetch_lines(tile_fetch *fetch, int lines)
{
    for (int i = 0; i < lines; i++)
        vec_prefetch(fetch->at + i * CACHE_LINE);
    fetch->at += fetch->step;
}

/* `elements` in each step of the tile, one after the other; of more than a cache line at a time, a part. */
VEC_FUNCTION tile_fetch fetch_along(const real *first, int64_t elements)
{
    tile_fetch fetch = {first, FETCH_STEPS * elements, INT64_MAX, 0, 0};
    return fetch;
}

/* The weights that follow, in blocks of rows (lda is 0), or the rows below. */
VEC_FUNCTION tile_fetch fetch_weights(const real *a, int64_t lda)
{
    return fetch_along(a + ROWS * (lda == 0 ? 256 : lda), ROWS);
}

/* Input that is read next: rows of some channels, each in a run of cache lines, row after row. Some of the tiles on the
 * way there, evenly spread, fetch it: of bursts between tiles most is lost, for a CPU waits for few lines at a time. */
typedef struct {
    const real *first;
    int64_t x_c, rows, row_step, run;
    int64_t a_row, fetched;           /* lines of a row of all channels, and those of them that tiles fetched */
    int64_t each, wanted, tiles, due; /* lines that a tile fetches, and tiles that are wanted, of how many */
} upcoming;

/* What so many tiles of so many steps fetch: rows of so many elements of the channels. */
VEC_FUNCTION upcoming fetched_by(
    int64_t tiles, int64_t steps, const real *first, int64_t channels, int64_t x_c, int64_t rows, int64_t row_step,
    int64_t elements)
{
    int64_t run = elements / CACHE_LINE + 1; /* rows begin anywhere in a line */
    int64_t each = (steps + FETCH_STEPS - 1) / FETCH_STEPS, a_row = channels * run;
    upcoming coming = {first, x_c, rows, row_step, run, a_row, 0, each, (rows * a_row + each - 1) / each, tiles, 0};
    return coming;
}

VEC_FUNCTION upcoming fetched_by_none(void)
{
    upcoming coming = {0};
    return coming;
}

/* What the next tile fetches, or else `otherwise`. */
VEC_FUNCTION tile_fetch next_fetch(upcoming *coming, tile_fetch otherwise)
{
    if (coming->rows <= 0)
        return otherwise;
    coming->due += coming->wanted;
    if (coming->due < coming->tiles)
        return otherwise;
    coming->due -= coming->tiles;
    int64_t channel = coming->fetched / coming->run, line = coming->fetched - channel * coming->run;
    tile_fetch fetch = {
        coming->first + channel * coming->x_c + line * CACHE_LINE, CACHE_LINE, coming->run - line, coming->run,
        coming->x_c - coming->run * CACHE_LINE};
    coming->fetched += coming->each;
    if (coming->fetched >= coming->a_row) {
        coming->first += coming->row_step;
        coming->rows--;
        coming->fetched = 0;
    }
    return fetch;
}
