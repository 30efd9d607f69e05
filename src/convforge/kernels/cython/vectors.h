/* Vectors of CF_LANES reals of CF_REAL_BITS bits, in GNU C's vector extensions: + - * / work on them as they are.
 *
 * Nothing here touches memory that its comment does not name: the masked loads and stores of AVX-512 and AVX2 do not
 * fault on lanes that are off; elsewhere the lanes go one by one. */
#pragma once
#include <stdint.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if CF_REAL_BITS == 32
typedef float real;
typedef int32_t lane_bits;
#elif CF_REAL_BITS == 64
typedef double real;
typedef int64_t lane_bits;
#else
#error "CF_REAL_BITS is 32 or 64"
#endif

enum {
    LANES = CF_LANES,
    ROWS = CF_ROWS,       /* of the register tile, with */
    VECTORS = CF_VECTORS, /* vectors in each row, */
    COLUMNS = LANES * VECTORS,
    GROUP = LANES > ROWS ? LANES : ROWS, /* of rows, or of lanes, that are whole vectors and whole blocks of rows */
    /* and of the tile of dot products: the accumulators, one column of vectors and a temporary fit the registers */
#if defined(__AVX512F__) || defined(__aarch64__)
    DOT_ROWS = 6,
    DOT_COLUMNS = 4,
#elif defined(__FMA__)
    DOT_ROWS = 3,
    DOT_COLUMNS = 4,
#else
    DOT_ROWS = 3,
    DOT_COLUMNS = 3,
#endif
#if defined(__AVX512F__)
    MASKED_LOADS = 1, /* cost no more than whole ones */
#else
    MASKED_LOADS = 0,
#endif
#if defined(__AVX2__)
    MASK_INSTRUCTIONS = 1, /* else masked lanes go one by one */
#else
    MASK_INSTRUCTIONS = 0,
#endif
    DOT_GROUPS = (DOT_ROWS * DOT_COLUMNS + LANES - 1) / LANES /* of LANES accumulators, to be summed together */
};

_Static_assert(CF_VECTORS == 3, "tile.h has variants of 1, 2 and 3 vectors");
_Static_assert(CF_ROWS == 4 || CF_ROWS == 8, "tile.h has variants of half to all of them");

#define VEC_BYTES (CF_LANES * CF_REAL_BITS / 8)
typedef real vec __attribute__((vector_size(VEC_BYTES)));
typedef real vec_in_memory __attribute__((vector_size(VEC_BYTES), aligned(CF_REAL_BITS / 8), may_alias));
typedef lane_bits vec_bits __attribute__((vector_size(VEC_BYTES)));

#define VEC_FUNCTION static inline __attribute__((always_inline, unused))

/* Lanes picked by constant indices from the concatenation of a and b. */
#if defined(__clang__) || __GNUC__ >= 12
#define VEC_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VEC_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vec_bits){__VA_ARGS__})
#endif

#if CF_LANES == 2
#define VEC_LANE_NUMBERS 0, 1
#define VEC_FOLLOWING 1, 2
#define VEC_EVEN 0, 2
#define VEC_ODD 1, 3
#define VEC_LOW 0, 2
#define VEC_HIGH 1, 3
#elif CF_LANES == 4
#define VEC_LANE_NUMBERS 0, 1, 2, 3
#define VEC_FOLLOWING 1, 2, 3, 4
#define VEC_EVEN 0, 2, 4, 6
#define VEC_ODD 1, 3, 5, 7
#define VEC_LOW 0, 4, 1, 5
#define VEC_HIGH 2, 6, 3, 7
#elif CF_LANES == 8
#define VEC_LANE_NUMBERS 0, 1, 2, 3, 4, 5, 6, 7
#define VEC_FOLLOWING 1, 2, 3, 4, 5, 6, 7, 8
#define VEC_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define VEC_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define VEC_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define VEC_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif CF_LANES == 16
#define VEC_LANE_NUMBERS 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define VEC_FOLLOWING 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
#define VEC_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define VEC_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define VEC_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define VEC_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#else
#error "CF_LANES is 2, 4, 8 or 16"
#endif

/* vec_even, vec_odd: elements 0, 2, 4... and 1, 3, 5... of the concatenation of a and b; vec_low, vec_high: the halves
 * of a0 b0 a1 b1... vec_even_mixed, vec_odd_mixed: in another order, which vec_unmixed mends; one shuffle each. */
#if defined(__AVX2__) && !defined(__AVX512F__)
/* by name: two shuffles share their halves and take four instructions, of which gcc makes six slower ones */
#if CF_REAL_BITS == 32
#define VEC_AVX(name) _mm256_##name##_ps
#define VEC_EVEN_IN_HALVES(a, b) _mm256_shuffle_ps(a, b, 0x88)
#define VEC_ODD_IN_HALVES(a, b) _mm256_shuffle_ps(a, b, 0xdd)
#else
#define VEC_AVX(name) _mm256_##name##_pd
#define VEC_EVEN_IN_HALVES(a, b) _mm256_unpacklo_pd(a, b)
#define VEC_ODD_IN_HALVES(a, b) _mm256_unpackhi_pd(a, b)
#endif
VEC_FUNCTION vec vec_low_halves(vec a, vec b) { return VEC_AVX(permute2f128)(a, b, 0x20); }
VEC_FUNCTION vec vec_high_halves(vec a, vec b) { return VEC_AVX(permute2f128)(a, b, 0x31); }
VEC_FUNCTION vec vec_even(vec a, vec b) { return VEC_EVEN_IN_HALVES(vec_low_halves(a, b), vec_high_halves(a, b)); }
VEC_FUNCTION vec vec_odd(vec a, vec b) { return VEC_ODD_IN_HALVES(vec_low_halves(a, b), vec_high_halves(a, b)); }
VEC_FUNCTION vec vec_low(vec a, vec b) { return vec_low_halves(VEC_AVX(unpacklo)(a, b), VEC_AVX(unpackhi)(a, b)); }
VEC_FUNCTION vec vec_high(vec a, vec b) { return vec_high_halves(VEC_AVX(unpacklo)(a, b), VEC_AVX(unpackhi)(a, b)); }
VEC_FUNCTION vec vec_even_mixed(vec a, vec b) { return VEC_EVEN_IN_HALVES(a, b); }
VEC_FUNCTION vec vec_odd_mixed(vec a, vec b) { return VEC_ODD_IN_HALVES(a, b); }
VEC_FUNCTION vec vec_unmixed(vec v) { return (vec)_mm256_permute4x64_pd((__m256d)v, 0xd8); }
#else
VEC_FUNCTION vec vec_even(vec a, vec b) { return VEC_SHUFFLE(a, b, VEC_EVEN); }
VEC_FUNCTION vec vec_odd(vec a, vec b) { return VEC_SHUFFLE(a, b, VEC_ODD); }
VEC_FUNCTION vec vec_low(vec a, vec b) { return VEC_SHUFFLE(a, b, VEC_LOW); }
VEC_FUNCTION vec vec_high(vec a, vec b) { return VEC_SHUFFLE(a, b, VEC_HIGH); }
VEC_FUNCTION vec vec_even_mixed(vec a, vec b) { return vec_even(a, b); }
VEC_FUNCTION vec vec_odd_mixed(vec a, vec b) { return vec_odd(a, b); }
VEC_FUNCTION vec vec_unmixed(vec v) { return v; }
#endif

#if defined(__AVX2__)
#if defined(__AVX512F__) && CF_REAL_BITS == 32
#define VEC_IN_PLACE(name) _mm512_##name##_ps
#define VEC_QUARTERS _mm512_shuffle_f32x4
#elif defined(__AVX512F__)
#define VEC_IN_PLACE(name) _mm512_##name##_pd
#define VEC_QUARTERS _mm512_shuffle_f64x2
#else
#define VEC_IN_PLACE VEC_AVX
#endif
/* LANES x LANES transposed in place: within pieces of 16 bytes, pairs and then fours, and at last the pieces. On AVX2
 * that is half of the instructions of vec_transpose's shuffles, which cross the halves each time; with AVX-512 as many,
 * but none that overwrites an operand, which others still need. */
VEC_FUNCTION void vec_transpose_square(vec *v) {
    enum { PIECE = 16 / sizeof(real) };
    vec pairs[LANES], pieces[LANES];
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = VEC_IN_PLACE(unpacklo)(v[i], v[i + 1]);
        pairs[i + 1] = VEC_IN_PLACE(unpackhi)(v[i], v[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
#if CF_REAL_BITS == 32
        for (int j = 0; j < 2; j++) {
            pieces[i + 2 * j] = VEC_IN_PLACE(shuffle)(pairs[i + j], pairs[i + j + 2], 0x44);
            pieces[i + 2 * j + 1] = VEC_IN_PLACE(shuffle)(pairs[i + j], pairs[i + j + 2], 0xee);
        }
#else
        for (int j = 0; j < 4; j++)
            pieces[i + j] = pairs[i + j];
#endif
    }
    for (int i = 0; i < PIECE; i++) {
#if defined(__AVX512F__)
        vec even[2], odd[2];
        for (int j = 0; j < 2; j++) {
            const vec *from = pieces + 2 * j * PIECE + i;
            even[j] = VEC_QUARTERS(from[0], from[PIECE], 0x88);
            odd[j] = VEC_QUARTERS(from[0], from[PIECE], 0xdd);
        }
        v[i] = VEC_QUARTERS(even[0], even[1], 0x88);
        v[i + PIECE] = VEC_QUARTERS(odd[0], odd[1], 0x88);
        v[i + 2 * PIECE] = VEC_QUARTERS(even[0], even[1], 0xdd);
        v[i + 3 * PIECE] = VEC_QUARTERS(odd[0], odd[1], 0xdd);
#else
        v[i] = vec_low_halves(pieces[i], pieces[i + PIECE]);
        v[i + PIECE] = vec_high_halves(pieces[i], pieces[i + PIECE]);
#endif
    }
}
#endif

/* rows x LANES becomes LANES x rows in place, both row after row in the vectors: log2(rows) perfect shuffles. */
VEC_FUNCTION void vec_transpose(int rows, vec *v) {
    vec mixed[LANES > CF_ROWS ? LANES : CF_ROWS];
#if defined(__AVX2__)
    if (rows == LANES) {
        vec_transpose_square(v);
        return;
    }
#endif
    for (int done = 1; done < rows; done *= 2) {
        for (int i = 0; i < rows / 2; i++) {
            mixed[2 * i] = vec_low(v[i], v[i + rows / 2]);
            mixed[2 * i + 1] = vec_high(v[i], v[i + rows / 2]);
        }
        for (int i = 0; i < rows; i++)
            v[i] = mixed[i];
    }
}

/* Lanes 1, 2, ... of a, then lane 0 of b. */
VEC_FUNCTION vec vec_following(vec a, vec b) { return VEC_SHUFFLE(a, b, VEC_FOLLOWING); }

VEC_FUNCTION vec vec_zero(void) { return (vec){0}; }
/* x - {0}, not x + {0}, which is not x where x is -0 */
VEC_FUNCTION vec vec_broadcast(real x) { return x - (vec){0}; }
VEC_FUNCTION vec vec_load(const real *p) { return *(const vec_in_memory *)p; }
/* v, which now must be in a register: where these run short, compilers load again what they could keep. */
#if defined(__x86_64__)
VEC_FUNCTION vec vec_keep(vec v) {
    __asm__("" : "+v"(v));
    return v;
}
#else
VEC_FUNCTION vec vec_keep(vec v) { return v; }
#endif
/* Memory is read in the order of the source: what comes after this is not moved before it. */
#define VEC_IN_ORDER __asm__ volatile("" ::: "memory")
/* A hint that the cache line at p will be read; p may be anything. */
VEC_FUNCTION void vec_prefetch(const real *p) { __builtin_prefetch(p); }
VEC_FUNCTION void vec_store(real *p, vec v) { *(vec_in_memory *)p = v; }

/* a * b + c, rounded once where the instruction set can */
VEC_FUNCTION vec vec_fma(vec a, vec b, vec c) { return a * b + c; }

/* Sums of neighbouring pairs: those of a in the lower half, those of b in the upper half. */
VEC_FUNCTION vec vec_pair_sums(vec a, vec b) { return vec_even(a, b) + vec_odd(a, b); }

/* Sum of all lanes: pairs, then pairs of pairs... */
VEC_FUNCTION real vec_sum(vec v) {
    for (int lanes = LANES; lanes > 1; lanes /= 2)
        v = vec_pair_sums(v, v);
    return v[0];
}

/* Lane l is the sum of all lanes of v[l], for LANES vectors; the same sum, bit for bit, as vec_sum's. */
VEC_FUNCTION vec vec_sums_of_2(const vec *v) { return vec_pair_sums(v[0], v[1]); }
VEC_FUNCTION vec vec_sums_of_4(const vec *v) { return vec_pair_sums(vec_sums_of_2(v), vec_sums_of_2(v + 2)); }
VEC_FUNCTION vec vec_sums_of_8(const vec *v) { return vec_pair_sums(vec_sums_of_4(v), vec_sums_of_4(v + 4)); }
VEC_FUNCTION vec vec_sums_of_16(const vec *v) { return vec_pair_sums(vec_sums_of_8(v), vec_sums_of_8(v + 8)); }
VEC_FUNCTION vec vec_sums(const vec *v) {
    return LANES == 2   ? vec_sums_of_2(v)
           : LANES == 4 ? vec_sums_of_4(v)
           : LANES == 8 ? vec_sums_of_8(v)
                        : vec_sums_of_16(v);
}

/* A flag for each lane. vec_select: a where it is set, else b. vec_exceeds: a is larger than b, or NaN where b is not.
 * vec_maximum: NaN wins, and b where they are equal. */
#if defined(__AVX512F__)

typedef uint32_t vec_flags;

#if CF_REAL_BITS == 32
VEC_FUNCTION vec vec_select(vec_flags set, vec a, vec b) { return (vec)_mm512_mask_blend_ps((__mmask16)set, b, a); }
VEC_FUNCTION vec_flags vec_less(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
VEC_FUNCTION vec_flags vec_exceeds(vec a, vec b) {
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(b, b, _CMP_ORD_Q), a, b, _CMP_NLE_UQ);
}
VEC_FUNCTION vec vec_maximum(vec a, vec b) {
    return (vec)_mm512_mask_max_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a, b);
}
#else
VEC_FUNCTION vec vec_select(vec_flags set, vec a, vec b) { return (vec)_mm512_mask_blend_pd((__mmask8)set, b, a); }
VEC_FUNCTION vec_flags vec_less(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
VEC_FUNCTION vec_flags vec_exceeds(vec a, vec b) {
    return _mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(b, b, _CMP_ORD_Q), a, b, _CMP_NLE_UQ);
}
VEC_FUNCTION vec vec_maximum(vec a, vec b) {
    return (vec)_mm512_mask_max_pd(a, _mm512_cmp_pd_mask(a, a, _CMP_ORD_Q), a, b);
}
#endif

#else

typedef vec_bits vec_flags;

VEC_FUNCTION vec vec_select(vec_flags set, vec a, vec b) {
    return (vec)((set & (vec_bits)a) | (~set & (vec_bits)b));
}
#if defined(__SSE2__) && !defined(__AVX2__)
/* by name: gcc compares doubles one by one without SSE4.2 (10 times slower) */
#if CF_REAL_BITS == 32
#define VEC_SSE(name) _mm_##name##_ps
#else
#define VEC_SSE(name) _mm_##name##_pd
#endif
VEC_FUNCTION vec_flags vec_less(vec a, vec b) { return (vec_flags)VEC_SSE(cmplt)(a, b); }
VEC_FUNCTION vec_flags vec_exceeds(vec a, vec b) {
    return (vec_flags)VEC_SSE(cmpnle)(a, b) & (vec_flags)VEC_SSE(cmpord)(b, b);
}
VEC_FUNCTION vec vec_maximum(vec a, vec b) { return VEC_SSE(or)(VEC_SSE(max)(a, b), VEC_SSE(cmpunord)(a, a)); }
#else
VEC_FUNCTION vec_flags vec_less(vec a, vec b) { return a < b; }
VEC_FUNCTION vec_flags vec_exceeds(vec a, vec b) { return (a > b) | ((a != a) & (b == b)); }
VEC_FUNCTION vec vec_maximum(vec a, vec b) { return vec_select((a > b) | (a != a), a, b); }
#endif

#endif

/* a at place i goes before b at place j: it exceeds b, or neither exceeds the other and its place is the lower one. */
VEC_FUNCTION vec_flags vec_precedes(vec a, vec i, vec b, vec j) {
    return vec_exceeds(a, b) | (vec_less(i, j) & ~vec_exceeds(b, a));
}

VEC_FUNCTION int64_t vec_clamp_lanes(int64_t n) { return n < 0 ? 0 : n > LANES ? LANES : n; }

#if defined(__AVX512F__)

typedef uint32_t vec_mask;

VEC_FUNCTION vec_mask vec_first_lanes(int64_t n) { return (1u << vec_clamp_lanes(n)) - 1; }
VEC_FUNCTION vec_mask vec_lanes_between(int64_t lo, int64_t hi) { return vec_first_lanes(hi) & ~vec_first_lanes(lo); }

#if CF_REAL_BITS == 32
VEC_FUNCTION vec vec_load_masked(const real *p, vec_mask m) { return (vec)_mm512_maskz_loadu_ps((__mmask16)m, p); }
VEC_FUNCTION void vec_store_masked(real *p, vec v, vec_mask m) { _mm512_mask_storeu_ps(p, (__mmask16)m, (__m512)v); }
#else
VEC_FUNCTION vec vec_load_masked(const real *p, vec_mask m) { return (vec)_mm512_maskz_loadu_pd((__mmask8)m, p); }
VEC_FUNCTION void vec_store_masked(real *p, vec v, vec_mask m) { _mm512_mask_storeu_pd(p, (__mmask8)m, (__m512d)v); }
#endif

#elif defined(__AVX2__)

typedef vec_bits vec_mask;

VEC_FUNCTION vec_mask vec_first_lanes(int64_t n) {
    return (vec_bits){VEC_LANE_NUMBERS} < (lane_bits)vec_clamp_lanes(n) - (vec_bits){0};
}
VEC_FUNCTION vec_mask vec_lanes_between(int64_t lo, int64_t hi) { return vec_first_lanes(hi) & ~vec_first_lanes(lo); }

#if CF_REAL_BITS == 32
VEC_FUNCTION vec vec_load_masked(const real *p, vec_mask m) { return (vec)_mm256_maskload_ps(p, (__m256i)m); }
VEC_FUNCTION void vec_store_masked(real *p, vec v, vec_mask m) { _mm256_maskstore_ps(p, (__m256i)m, (__m256)v); }
#else
VEC_FUNCTION vec vec_load_masked(const real *p, vec_mask m) { return (vec)_mm256_maskload_pd(p, (__m256i)m); }
VEC_FUNCTION void vec_store_masked(real *p, vec v, vec_mask m) { _mm256_maskstore_pd(p, (__m256i)m, (__m256d)v); }
#endif

#else

typedef struct {
    int64_t lo, hi;
} vec_mask;

VEC_FUNCTION vec_mask vec_first_lanes(int64_t n) { return (vec_mask){0, vec_clamp_lanes(n)}; }
VEC_FUNCTION vec_mask vec_lanes_between(int64_t lo, int64_t hi) {
    return (vec_mask){vec_clamp_lanes(lo), vec_clamp_lanes(hi)};
}
VEC_FUNCTION vec vec_load_masked(const real *p, vec_mask m) {
    if (m.lo == 0 && m.hi == LANES)
        return vec_load(p);
    real lanes[LANES] = {0};
    for (int64_t l = m.lo; l < m.hi; l++)
        lanes[l] = p[l];
    return vec_load(lanes);
}
VEC_FUNCTION void vec_store_masked(real *p, vec v, vec_mask m) {
    real lanes[LANES];
    vec_store(lanes, v);
    for (int64_t l = m.lo; l < m.hi; l++)
        p[l] = lanes[l];
}

#endif

/* Lanes below n, which are not all. */
#if defined(__AVX2__) && !defined(__AVX512F__)
/* by powers of two: a masked store of AVX2 takes AMD's cores 18 cycles, these 4 to 10 */
VEC_FUNCTION void vec_store_some(real *p, vec v, int64_t n) {
    __m128 part = (__m128)VEC_AVX(extractf128)(v, 0);
    if (n <= 0)
        return;
    if (n & (LANES / 2)) {
        __builtin_memcpy(p, &part, 16);
        part = (__m128)VEC_AVX(extractf128)(v, 1);
        p += LANES / 2;
    }
#if CF_REAL_BITS == 32
    if (n & 2) {
        __builtin_memcpy(p, &part, 8);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
#endif
    if (n & 1)
        __builtin_memcpy(p, &part, sizeof(real));
}
#else
VEC_FUNCTION void vec_store_some(real *p, vec v, int64_t n) { vec_store_masked(p, v, vec_first_lanes(n)); }
#endif

/* Lanes below n (clamped to 0..LANES) from memory, the others 0; stored, the others left alone. Most often all of them
 * are named. */
VEC_FUNCTION vec vec_load_partial(const real *p, int64_t n) {
    return !MASKED_LOADS && n >= LANES ? vec_load(p) : vec_load_masked(p, vec_first_lanes(n));
}
VEC_FUNCTION void vec_store_partial(real *p, vec v, int64_t n) {
    if (!MASKED_LOADS && n >= LANES)
        vec_store(p, v);
    else
        vec_store_some(p, v, n);
}

/* The first n lanes, `step` apart. */
VEC_FUNCTION void vec_store_strided(real *p, vec v, int64_t step, int64_t n) {
    if (step == 1) {
        vec_store_partial(p, v, n);
        return;
    }
    real lanes[LANES];
    vec_store(lanes, v);
    for (int64_t l = 0; l < n && l < LANES; l++)
        p[l * step] = lanes[l];
}

/* Lanes lo <= l < hi read p[l], the others are 0. p may point before its array. */
VEC_FUNCTION vec vec_load_window(const real *p, int64_t lo, int64_t hi) {
    return vec_load_masked(p, vec_lanes_between(lo, hi));
}

/* Lanes lo <= l < hi read p[l * step], the others are 0. With a step of 2 what lies between may be read too. */
VEC_FUNCTION vec vec_load_strided(const real *p, int64_t step, int64_t lo, int64_t hi) {
    lo = vec_clamp_lanes(lo);
    hi = vec_clamp_lanes(hi);
    if (step == 1)
        return vec_load_window(p, lo, hi);
    if (step == 2) {
        vec lower = vec_load_window(p, 2 * lo, 2 * hi - 1);
        vec upper = vec_load_window(p + LANES, 2 * lo - LANES, 2 * hi - 1 - LANES);
        return vec_even(lower, upper);
    }
    real lanes[LANES] = {0};
    for (int64_t l = lo; l < hi; l++)
        lanes[l] = p[l * step];
    return vec_load(lanes);
}
