# Rows of `count` elements in whole vectors, the last of which overlaps the one before: only rows shorter than a vector
# are masked.

cdef inline void pool_fill(real *row, real value, int64_t width) noexcept nogil:
    # width is a multiple of LANES
    cdef int64_t i
    for i in range(width // LANES):
        vec_store(row + i * LANES, vec_broadcast(value))


cdef inline int64_t pool_vector(int64_t i, int64_t count) noexcept nogil:
    # where the row's vector i starts
    return max(<int64_t>0, min(i * LANES, count - LANES))


cdef inline vec pool_load(const real *source, int64_t count) noexcept nogil:
    return vec_load(source) if count >= LANES else vec_load_partial(source, count)


cdef inline void pool_store(real *out, vec v, int64_t count) noexcept nogil:
    if count >= LANES:
        vec_store(out, v)
    else:
        vec_store_partial(out, v, count)
