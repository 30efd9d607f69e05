# Maxima of windows, as in pooling_windows.pxi, each with its place in its window, as an exact number of the dtype:
# `places` beside the values. Of equals the first place wins, in whichever order they meet.

cdef inline void pool_first(vec *value, vec *place, vec new_value, vec new_place) noexcept nogil:
    cdef vec_flags wins = vec_precedes(new_value, new_place, value[0], place[0])
    value[0] = vec_select(wins, new_value, value[0])
    place[0] = vec_select(wins, new_place, place[0])


cdef inline void pool_rows_places(
    int64_t taps, const real *x, int64_t step, int64_t first, int64_t pitch, real *values, real *places, int64_t count
) noexcept nogil:
    # as pool_rows; x[i * step + j] has the place first + i * pitch
    cdef int64_t i, t, j
    cdef vec value, place, new, tap
    cdef vec_flags exceeds
    for i in range(ceil_div(count, LANES)):
        j = pool_vector(i, count)
        value = pool_load(x + j, count)
        place = tap = vec_broadcast(<real>first)
        for t in range(1, taps):
            new = pool_load(x + t * step + j, count)
            tap = tap + vec_broadcast(<real>pitch)
            exceeds = vec_exceeds(new, value)
            value = vec_select(exceeds, new, value)
            place = vec_select(exceeds, tap, place)
        pool_store(values + j, value, count)
        pool_store(places + j, place, count)


cdef inline void pool_taps_places(
    int64_t taps, int64_t dilation, const real *values, const real *places, vec *value, vec *place
) noexcept nogil:
    cdef int64_t t
    value[0] = vec_load(values)
    place[0] = vec_load(places)
    for t in range(1, taps):
        pool_first(
            value, place, vec_load(values + t * dilation),
            vec_load(places + t * dilation) + vec_broadcast(<real>(t * dilation)),
        )


cdef inline void pool_columns_places(
    int64_t taps, int64_t dilation, int64_t stride, const real *values, const real *places, real *spare_values,
    real *spare_places, real *out, int64_t *indices, int64_t index, int64_t count,
) noexcept nogil:
    # as pool_columns; window j's indices count from index + j * stride
    cdef int64_t i = 0, j, lane
    cdef vec value, place, next_value, next_place
    cdef real lanes[LANES]
    if stride > 2:
        while i <= (count - 1) * stride:
            pool_taps_places(taps, dilation, values + i, places + i, &value, &place)
            vec_store(spare_values + i, value)
            vec_store(spare_places + i, place)
            i += max(stride, <int64_t>LANES)
    for i in range(ceil_div(count, LANES)):
        j = pool_vector(i, count)
        if stride == 1:
            pool_taps_places(taps, dilation, values + j, places + j, &value, &place)
        elif stride == 2:
            pool_taps_places(taps, dilation, values + 2 * j, places + 2 * j, &value, &place)
            pool_taps_places(
                taps, dilation, values + 2 * j + LANES, places + 2 * j + LANES, &next_value, &next_place
            )
            value = vec_even(value, next_value)
            place = vec_even(place, next_place)
        else:
            value = vec_load_strided(spare_values + j * stride, stride, 0, count - j)
            place = vec_load_strided(spare_places + j * stride, stride, 0, count - j)
        pool_store(out + j, value, count)
        vec_store(lanes, place)
        if count >= LANES:
            for lane in range(LANES):
                indices[j + lane] = index + (j + lane) * stride + <int64_t>lanes[lane]
        else:
            for lane in range(count):
                indices[lane] = index + lane * stride + <int64_t>lanes[lane]
