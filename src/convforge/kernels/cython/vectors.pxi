# The vocabulary of vectors.h. Cython takes a vec for a scalar: + - * / work on it, but a number must be broadcast.
from libc.stdint cimport INT64_MAX, int64_t

cdef extern from "vectors.h" nogil:
    ctypedef float real
    ctypedef float vec
    ctypedef int64_t vec_flags
    ctypedef struct vec_mask:
        pass
    enum: LANES
    enum: ROWS
    enum: VECTORS
    enum: COLUMNS
    enum: GROUP
    enum: DOT_ROWS
    enum: DOT_COLUMNS
    enum: DOT_GROUPS
    enum: MASKED_LOADS
    enum: MASK_INSTRUCTIONS

    vec vec_zero()
    vec vec_broadcast(real x)
    vec vec_load(const real *p)
    vec vec_keep(vec v)
    vec vec_load_partial(const real *p, int64_t n)
    vec vec_load_window(const real *p, int64_t lo, int64_t hi)
    vec_mask vec_lanes_between(int64_t lo, int64_t hi)
    vec vec_load_masked(const real *p, vec_mask mask)
    void vec_store_masked(real *p, vec v, vec_mask mask)
    vec vec_load_strided(const real *p, int64_t step, int64_t lo, int64_t hi)
    void vec_prefetch(const real *p)
    void vec_store(real *p, vec v)
    void vec_store_partial(real *p, vec v, int64_t n)
    vec vec_fma(vec a, vec b, vec c)
    vec vec_maximum(vec a, vec b)
    vec vec_select(vec_flags set, vec a, vec b)
    vec_flags vec_exceeds(vec a, vec b)
    vec_flags vec_precedes(vec a, vec i, vec b, vec j)
    real vec_sum(vec v)
    vec vec_sums(const vec *v)
    vec vec_even(vec a, vec b)
    vec vec_following(vec a, vec b)
    vec vec_odd(vec a, vec b)
    vec vec_low(vec a, vec b)
    vec vec_high(vec a, vec b)
    void vec_transpose(int rows, vec *v)


cdef extern from "winograd_transforms.h" nogil:
    # element l of vector j of so many vectors is element l * count + j of their concatenation; and its inverse
    void vec_deinterleave(int count, const vec *d, vec *o)
    void vec_interleave(int count, const vec *d, vec *o)


cdef inline int64_t ceil_div(int64_t total, int64_t size) noexcept nogil:
    """How many pieces of ``size`` cover ``total``."""
    return (total + size - 1) // size


cdef inline char *aligned(char *scratch, void *end) noexcept nogil:
    """The next cache line of scratch memory after what ends at ``end``."""
    return scratch + ceil_div(<char *>end - scratch, 64) * 64
