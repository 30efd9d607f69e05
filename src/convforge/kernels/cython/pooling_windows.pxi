# The windows of a row joined to their sums or maxima, separably: the rows of the windows into a row of scratch whose
# borders hold what changes nothing, and then the windows of that row, by shifted loads without masks.

cdef inline vec pool_join(bint average, vec new, vec old) noexcept nogil:
    # of equals the old one stays
    return new + old if average else vec_maximum(new, old)


cdef inline vec pool_taps(bint average, int64_t taps, const real *source, int64_t step) noexcept nogil:
    cdef vec joined = vec_load(source)
    cdef int64_t i
    for i in range(1, taps):
        joined = pool_join(average, vec_load(source + i * step), joined)
    return joined


cdef inline void pool_rows_of(
    bint average, int64_t taps, const real *x, int64_t step, real *out, int64_t count
) noexcept nogil:
    cdef int64_t i, t, j
    cdef vec joined
    for i in range(ceil_div(count, LANES)):
        j = pool_vector(i, count)
        joined = pool_load(x + j, count)
        for t in range(1, taps):
            joined = pool_join(average, pool_load(x + t * step + j, count), joined)
        pool_store(out + j, joined, count)


cdef inline void pool_rows(
    bint average, int64_t taps, const real *x, int64_t step, real *out, int64_t count
) noexcept nogil:
    # out[j] = x[j], x[step + j], ... joined
    if taps == 3:
        pool_rows_of(average, 3, x, step, out, count)
    elif taps == 2:
        pool_rows_of(average, 2, x, step, out, count)
    else:
        pool_rows_of(average, taps, x, step, out, count)


cdef inline void pool_columns_of(
    bint average, int64_t taps, int64_t dilation, int64_t stride, const real *row, real *out, int64_t count,
    const real *divisors, real factor,
) noexcept nogil:
    cdef int64_t i, j
    cdef vec joined
    for i in range(ceil_div(count, LANES)):
        j = pool_vector(i, count)
        if stride == 1:
            joined = pool_taps(average, taps, row + j, dilation)
        elif stride == 2:
            joined = vec_even(
                pool_taps(average, taps, row + 2 * j, dilation),
                pool_taps(average, taps, row + 2 * j + LANES, dilation),
            )
        else:
            joined = vec_load_strided(row + j * stride, stride, 0, count - j)
        if average:
            joined = joined / (vec_load(divisors + j) * vec_broadcast(factor))
        pool_store(out + j, joined, count)


cdef inline void pool_whole(
    bint average, int64_t taps, const real *row, real *out, const real *divisors, real factor
) noexcept nogil:
    # one window: its elements in the lanes; past the taps the row holds what changes nothing
    cdef vec joined = vec_load(row)
    cdef int64_t i
    cdef int lanes = LANES
    for i in range(1, ceil_div(taps, LANES)):
        joined = pool_join(average, vec_load(row + i * LANES), joined)
    while lanes > 1:
        joined = pool_join(average, vec_odd(joined, joined), vec_even(joined, joined))
        lanes //= 2
    if average:
        joined = joined / vec_broadcast(divisors[0] * factor)
    vec_store_partial(out, joined, 1)


cdef inline void pool_columns(
    bint average, int64_t taps, int64_t dilation, int64_t stride, const real *row, real *spare, real *out,
    int64_t count, const real *divisors, real factor,
) noexcept nogil:
    # out[j] = row[j * stride], row[j * stride + dilation], ... joined; an average over divisors[j] * factor.
    # Windows are joined at every element of the row. A stride of 2 drops half of them on the way; for others they go to
    # `spare`, where those wanted are picked.
    cdef int64_t i = 0
    if count == 1 and dilation == 1:
        pool_whole(average, taps, row, out, divisors, factor)
    elif stride == 1 and taps == 3:
        pool_columns_of(average, 3, dilation, 1, row, out, count, divisors, factor)
    elif stride == 1:
        pool_columns_of(average, taps, dilation, 1, row, out, count, divisors, factor)
    elif stride == 2 and taps == 3:
        pool_columns_of(average, 3, dilation, 2, row, out, count, divisors, factor)
    elif stride == 2 and taps == 2:
        pool_columns_of(average, 2, dilation, 2, row, out, count, divisors, factor)
    elif stride == 2:
        pool_columns_of(average, taps, dilation, 2, row, out, count, divisors, factor)
    else:
        while i <= (count - 1) * stride:
            vec_store(spare + i, pool_taps(average, taps, row + i, dilation))
            i += max(stride, <int64_t>LANES)
        pool_columns_of(average, 1, 1, stride, spare, out, count, divisors, factor)
