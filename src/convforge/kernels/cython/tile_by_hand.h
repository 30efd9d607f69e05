/* Four steps of the largest register tile, written out for AVX2, whose 16 registers it fills.
 *
 * What stands beside its multiplications costs nothing while a core has nothing else to do, but as much as they where
 * two threads share one. Unrolled by gcc or clang, the tile would pass through the stack in each round; in a loop of
 * single steps it has a sixth more instructions, and took up to a tenth longer on a shared core. */
#pragma once
#include "vectors.h"

#if defined(__AVX2__) && !defined(__AVX512F__) && CF_ROWS == 4 && CF_VECTORS == 3
#define TILE_BY_HAND 4
#if CF_REAL_BITS == 64
#define TILE_TYPE "d"
#define TILE_BYTES "8"
#else
#define TILE_TYPE "s"
#define TILE_BYTES "4"
#endif
#define TILE_ROW(row, a)                                                                                               \
    "vbroadcasts" TILE_TYPE " " a ",%%ymm15\n\t"                                                                       \
    "vfmadd231p" TILE_TYPE " %%ymm15,%%ymm12,%[s" #row "0]\n\t"                                                        \
    "vfmadd231p" TILE_TYPE " %%ymm15,%%ymm13,%[s" #row "1]\n\t"                                                        \
    "vfmadd231p" TILE_TYPE " %%ymm15,%%ymm14,%[s" #row "2]\n\t"
#define TILE_STEP(step, a, b0, b1, b2)                                                                                 \
    "vmovup" TILE_TYPE " " b0 ",%%ymm12\n\t"                                                                           \
    "vmovup" TILE_TYPE " " b1 ",%%ymm13\n\t"                                                                           \
    "vmovup" TILE_TYPE " " b2 ",%%ymm14\n\t"                                                                           \
    TILE_ROW(0, a(step, 0)) TILE_ROW(1, a(step, 1)) TILE_ROW(2, a(step, 2)) TILE_ROW(3, a(step, 3))
/* where a row's element of a step is read: packed, or each row by itself */
#define TILE_PACKED(step, row) TILE_BYTES "*(4*" #step "+" #row ")(%[a])"
#define TILE_BY_ROW(step, row) TILE_BYTES "*" #step TILE_ROW_##row
#define TILE_ROW_0 "(%[a])"
#define TILE_ROW_1 "(%[a],%[lda])"
#define TILE_ROW_2 "(%[a],%[lda],2)"
#define TILE_ROW_3 "(%[a],%%rcx)"
#define TILE_SUMS(sums)                                                                                                \
    [s00] "+x"(sums[0][0]), [s01] "+x"(sums[0][1]), [s02] "+x"(sums[0][2]), [s10] "+x"(sums[1][0]),                    \
    [s11] "+x"(sums[1][1]), [s12] "+x"(sums[1][2]), [s20] "+x"(sums[2][0]), [s21] "+x"(sums[2][1]),                    \
    [s22] "+x"(sums[2][2]), [s30] "+x"(sums[3][0]), [s31] "+x"(sums[3][1]), [s32] "+x"(sums[3][2])

#define TILE_LINES(a)                                                                                                  \
    TILE_STEP(0, a, "(%[b])", "32(%[b])", "64(%[b])")                                                                  \
    TILE_STEP(1, a, "(%[b],%[line])", "32(%[b],%[line])", "64(%[b],%[line])")                                          \
    TILE_STEP(2, a, "(%[b],%[line],2)", "32(%[b],%[line],2)", "64(%[b],%[line],2)")                                    \
    TILE_STEP(3, a, "(%[b],%[lines])", "32(%[b],%[lines])", "64(%[b],%[lines])")

/* sums[row][column] += sum over p < 4 of a[p][row] * b[p][column], in this order. */
VEC_FUNCTION void tile_by_hand(const real *a, const real *b, int64_t ldb, vec sums[ROWS][VECTORS])
{
    int64_t line = ldb * (int64_t)sizeof(real);
    __asm__(TILE_LINES(TILE_PACKED)
            : TILE_SUMS(sums)
            : [a] "r"(a), [b] "r"(b), [line] "r"(line), [lines] "r"(3 * line)
            : "xmm12", "xmm13", "xmm14", "xmm15", "memory");
}

/* The same of a[row][p], lda elements from one row to the next. */
VEC_FUNCTION void rows_by_hand(const real *a, int64_t lda, const real *b, int64_t ldb, vec sums[ROWS][VECTORS])
{
    int64_t line = ldb * (int64_t)sizeof(real), step = lda * (int64_t)sizeof(real);
    __asm__("leaq (%[lda],%[lda],2),%%rcx\n\t" TILE_LINES(TILE_BY_ROW)
            : TILE_SUMS(sums)
            : [a] "r"(a), [lda] "r"(step), [b] "r"(b), [line] "r"(line), [lines] "r"(3 * line)
            : "rcx", "xmm12", "xmm13", "xmm14", "xmm15", "memory");
}

/* The same of vectors that stand apart: vector j of step p is read from b[j] + offsets[p]. */
VEC_FUNCTION void windows_by_hand(
    const real *a, const real *const b[VECTORS], const int64_t *offsets, vec sums[ROWS][2 * VECTORS])
{
#define WINDOW(b) "(%[" b "],%%rcx," TILE_BYTES ")"
#define WINDOW_STEP(step)                                                                                              \
    "movq 8*" #step "(%[offsets]),%%rcx\n\t" TILE_STEP(step, TILE_PACKED, WINDOW("b0"), WINDOW("b1"), WINDOW("b2"))
    __asm__(WINDOW_STEP(0) WINDOW_STEP(1) WINDOW_STEP(2) WINDOW_STEP(3)
            : TILE_SUMS(sums)
            : [a] "r"(a), [b0] "r"(b[0]), [b1] "r"(b[1]), [b2] "r"(b[2]), [offsets] "r"(offsets)
            : "rcx", "xmm12", "xmm13", "xmm14", "xmm15", "memory");
#undef WINDOW_STEP
#undef WINDOW
}
#undef TILE_LINES
#undef TILE_SUMS
#undef TILE_STEP
#undef TILE_ROW_3
#undef TILE_ROW_2
#undef TILE_ROW_1
#undef TILE_ROW_0
#undef TILE_BY_ROW
#undef TILE_PACKED
#undef TILE_ROW
#undef TILE_BYTES
#undef TILE_TYPE
#endif
