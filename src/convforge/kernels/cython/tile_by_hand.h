/* Four steps of the register tile, written out for AVX2, whose 16 registers the largest one fills.
 *
 * What stands beside its multiplications costs nothing while a core has nothing else to do, but as much as they where
 * two threads share one. Unrolled by gcc or clang, the tile would pass through the stack in each round; in a loop of
 * single steps it has a sixth more instructions, two fifths more with two vectors in a row, and took up to a tenth, or
 * a third, longer on a shared core. */
#pragma once
#include "vectors.h"

#if defined(__AVX2__) && !defined(__AVX512F__) && CF_ROWS == 4 && CF_VECTORS == 3
#define TILE_BY_HAND 4
#if CF_REAL_BITS == 64
#define TILE_TYPE "d"
#define TILE_BYTES "8"
#define TILE_LANES "4"
#else
#define TILE_TYPE "s"
#define TILE_BYTES "4"
#define TILE_LANES "8"
#endif
#define TILE_LOAD(to, b) "vmovup" TILE_TYPE " " b ",%%ymm" to "\n\t"
#define TILE_ADD(row, vector, from) "vfmadd231p" TILE_TYPE " %%ymm15,%%ymm" from ",%[s" #row #vector "]\n\t"
#define TILE_ROW_OF_2(row, a)                                                                                          \
    "vbroadcasts" TILE_TYPE " " a ",%%ymm15\n\t" TILE_ADD(row, 0, "12") TILE_ADD(row, 1, "13")
#define TILE_ROW_OF_3(row, a) TILE_ROW_OF_2(row, a) TILE_ADD(row, 2, "14")
#define TILE_ROWS(row, step, a) row(0, a(step, 0)) row(1, a(step, 1)) row(2, a(step, 2)) row(3, a(step, 3))
/* where a row's element of a step is read: packed, from whole vectors, or each row by itself */
#define TILE_PACKED(step, row) TILE_BYTES "*(4*" #step "+" #row ")(%[a])"
#define TILE_OF_LANES(step, row) TILE_BYTES "*(" TILE_LANES "*" #step "+" #row ")(%[a])"
#define TILE_BY_ROW(step, row) TILE_BYTES "*" #step TILE_ROW_##row
#define TILE_ROW_0 "(%[a])"
#define TILE_ROW_1 "(%[a],%[lda])"
#define TILE_ROW_2 "(%[a],%[lda],2)"
#define TILE_ROW_3 "(%[a],%%rcx)"
#define TILE_SUMS_OF_2(sums)                                                                                           \
    [s00] "+x"(sums[0][0]), [s01] "+x"(sums[0][1]), [s10] "+x"(sums[1][0]), [s11] "+x"(sums[1][1]),                    \
    [s20] "+x"(sums[2][0]), [s21] "+x"(sums[2][1]), [s30] "+x"(sums[3][0]), [s31] "+x"(sums[3][1])
#define TILE_SUMS_OF_3(sums)                                                                                           \
    TILE_SUMS_OF_2(sums), [s02] "+x"(sums[0][2]), [s12] "+x"(sums[1][2]), [s22] "+x"(sums[2][2]), [s32] "+x"(sums[3][2])

#define TILE_LINE_OF_2(b) TILE_LOAD("12", b) TILE_LOAD("13", "32" b)
#define TILE_LINE_OF_3(b) TILE_LINE_OF_2(b) TILE_LOAD("14", "64" b)
#define TILE_LINES(line, row, a)                                                                                       \
    line("(%[b])") TILE_ROWS(row, 0, a) line("(%[b],%[line])") TILE_ROWS(row, 1, a)                                    \
    line("(%[b],%[line],2)") TILE_ROWS(row, 2, a) line("(%[b],%[lines])") TILE_ROWS(row, 3, a)
/* of vectors that are apart */
#define TILE_APART_2(step)                                                                                             \
    TILE_LOAD("12", "32*" #step "(%[b])") TILE_LOAD("13", "32*" #step "(%[b],%[apart])")
#define TILE_APART_3(step) TILE_APART_2(step) TILE_LOAD("14", "32*" #step "(%[b],%[apart],2)")
#define TILE_LINES_APART(line, row, a)                                                                                 \
    line(0) TILE_ROWS(row, 0, a) line(1) TILE_ROWS(row, 1, a) line(2) TILE_ROWS(row, 2, a) line(3) TILE_ROWS(row, 3, a)

/* For 2 and 3 vectors. tile_by_hand: sums[row][column] += sum over p < 4 of a[p][row] * b[p][column], in this order.
 * sweep_by_hand: the same of a[p][LANES]. rows_by_hand: of a[row][p], lda elements from one row to the next.
 * apart_by_hand: likewise, and column j of b[j / LANES][p][j % LANES], `apart` elements from vector to vector. */
#define TILE_PACKED_OF(name, vectors, a_of)                                                                            \
    VEC_FUNCTION void name(const real *a, const real *b, int64_t ldb, vec sums[ROWS][VECTORS])                         \
    {                                                                                                                  \
        int64_t line = ldb * (int64_t)sizeof(real);                                                                    \
        __asm__(TILE_LINES(TILE_LINE_OF_##vectors, TILE_ROW_OF_##vectors, a_of)                                        \
                : TILE_SUMS_OF_##vectors(sums)                                                                         \
                : [a] "r"(a), [b] "r"(b), [line] "r"(line), [lines] "r"(3 * line)                                      \
                : "xmm12", "xmm13", "xmm14", "xmm15", "memory");                                                       \
    }
#define TILE_OF(vectors)                                                                                               \
    TILE_PACKED_OF(tile_by_hand_##vectors, vectors, TILE_PACKED)                                                       \
    TILE_PACKED_OF(sweep_by_hand_##vectors, vectors, TILE_OF_LANES)                                                    \
    VEC_FUNCTION void rows_by_hand_##vectors(                                                                          \
        const real *a, int64_t lda, const real *b, int64_t ldb, vec sums[ROWS][VECTORS])                               \
    {                                                                                                                  \
        int64_t line = ldb * (int64_t)sizeof(real), step = lda * (int64_t)sizeof(real);                                \
        __asm__("leaq (%[lda],%[lda],2),%%rcx\n\t" TILE_LINES(                                                         \
                    TILE_LINE_OF_##vectors, TILE_ROW_OF_##vectors, TILE_BY_ROW)                                        \
                : TILE_SUMS_OF_##vectors(sums)                                                                         \
                : [a] "r"(a), [lda] "r"(step), [b] "r"(b), [line] "r"(line), [lines] "r"(3 * line)                     \
                : "rcx", "xmm12", "xmm13", "xmm14", "xmm15", "memory");                                                \
    }                                                                                                                  \
    VEC_FUNCTION void apart_by_hand_##vectors(                                                                         \
        const real *a, int64_t lda, const real *b, int64_t apart, vec sums[ROWS][VECTORS])                             \
    {                                                                                                                  \
        int64_t step = lda * (int64_t)sizeof(real);                                                                    \
        __asm__("leaq (%[lda],%[lda],2),%%rcx\n\t" TILE_LINES_APART(                                                   \
                    TILE_APART_##vectors, TILE_ROW_OF_##vectors, TILE_BY_ROW)                                         \
                : TILE_SUMS_OF_##vectors(sums)                                                                         \
                : [a] "r"(a), [lda] "r"(step), [b] "r"(b), [apart] "r"(apart * (int64_t)sizeof(real))                  \
                : "rcx", "xmm12", "xmm13", "xmm14", "xmm15", "memory");                                                \
    }
TILE_OF(2)
TILE_OF(3)

/* The same of 3 vectors that stand apart: vector j of step p is read from b[j] + offsets[p]. */
VEC_FUNCTION void windows_by_hand(
    const real *a, const real *const b[VECTORS], const int64_t *offsets, vec sums[ROWS][2 * VECTORS])
{
#define WINDOW(b) "(%[" b "],%%rcx," TILE_BYTES ")"
#define WINDOW_STEP(step)                                                                                              \
    "movq 8*" #step "(%[offsets]),%%rcx\n\t" TILE_LOAD("12", WINDOW("b0")) TILE_LOAD("13", WINDOW("b1"))               \
        TILE_LOAD("14", WINDOW("b2")) TILE_ROWS(TILE_ROW_OF_3, step, TILE_PACKED)
    __asm__(WINDOW_STEP(0) WINDOW_STEP(1) WINDOW_STEP(2) WINDOW_STEP(3)
            : TILE_SUMS_OF_3(sums)
            : [a] "r"(a), [b0] "r"(b[0]), [b1] "r"(b[1]), [b2] "r"(b[2]), [offsets] "r"(offsets)
            : "rcx", "xmm12", "xmm13", "xmm14", "xmm15", "memory");
#undef WINDOW_STEP
#undef WINDOW
}
#undef TILE_OF
#undef TILE_PACKED_OF
#undef TILE_LINES_APART
#undef TILE_APART_3
#undef TILE_APART_2
#undef TILE_LINES
#undef TILE_LINE_OF_3
#undef TILE_LINE_OF_2
#undef TILE_SUMS_OF_3
#undef TILE_SUMS_OF_2
#undef TILE_ROW_3
#undef TILE_ROW_2
#undef TILE_ROW_1
#undef TILE_ROW_0
#undef TILE_BY_ROW
#undef TILE_OF_LANES
#undef TILE_PACKED
#undef TILE_ROWS
#undef TILE_ROW_OF_3
#undef TILE_ROW_OF_2
#undef TILE_ADD
#undef TILE_LOAD
#undef TILE_BYTES
#undef TILE_LANES
#undef TILE_TYPE
#endif
