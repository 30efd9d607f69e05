# Planes with channels in the lanes, and back.

cdef inline void transpose_in(
    const real *const *planes, int64_t at, int64_t columns, int64_t count, real *to
) noexcept nogil:
    """to[column][LANES] from ``columns`` of a row of each plane; ``count`` are a vector, or the last ones."""
    cdef vec v[LANES]
    cdef int64_t q = 0
    cdef int i
    if count < LANES:
        for i in range(LANES):
            v[i] = vec_load_partial(planes[i] + at, count)
        vec_transpose(LANES, v)
        for i in range(LANES):
            if i < count:
                vec_store(to + i * LANES, v[i])
        return
    while q < columns:
        q = min(q, columns - LANES)
        for i in range(LANES):
            v[i] = vec_load(planes[i] + at + q)
        vec_transpose(LANES, v)
        for i in range(LANES):
            vec_store(to + (q + i) * LANES, v[i])
        q += LANES


cdef inline void transpose_out(
    const real *source, int64_t pixels, int64_t channels, real *out, int64_t out_k
) noexcept nogil:
    """``channels`` lines of pixels from source[pixel][LANES], of which whole vectors are read."""
    cdef vec v[LANES]
    cdef int64_t q = 0
    cdef int i
    while q < pixels:
        if pixels >= LANES:
            q = min(q, pixels - LANES)
        for i in range(LANES):
            v[i] = vec_load(source + (q + i) * LANES)
        vec_transpose(LANES, v)
        if channels == LANES and pixels >= LANES:
            for i in range(LANES):
                vec_store(out + i * out_k + q, v[i])
        else:
            for i in range(LANES):
                if i < channels:
                    vec_store_partial(out + i * out_k + q, v[i], pixels)
        q += LANES
