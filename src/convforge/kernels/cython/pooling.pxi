# Pooling, separable: the rows of a window are joined vertically into a row of scratch whose borders hold what changes
# nothing; the windows of that row are then joined horizontally, by shifted loads without masks.
#
# An item is a block of one plane's outputs. Rows of `count` elements are walked in whole vectors, the last of which
# overlaps the one before: only rows shorter than a vector are masked.
from libc.math cimport INFINITY


cdef struct pool_block:
    int64_t image, channel, row, column


cdef inline pool_block pool_block_of(
    int64_t item, int64_t channels, int64_t height, int64_t width, int64_t rows, int64_t columns
) noexcept nogil:
    # where the item lies, a plane of height x width being cut into blocks of rows x columns
    cdef pool_block b
    cdef int64_t across = ceil_div(width, columns), down = ceil_div(height, rows)
    b.column = item % across * columns
    b.row = item // across % down * rows
    b.channel = item // across // down % channels
    b.image = item // across // down // channels
    return b


cdef inline void pool_advance(
    pool_block *b, int64_t channels, int64_t height, int64_t width, int64_t rows, int64_t columns
) noexcept nogil:
    # to the next item; small planes would else spend their time on divisions
    b.column += columns
    if b.column >= width:
        b.column = 0
        b.row += rows
        if b.row >= height:
            b.row = 0
            b.channel += 1
            if b.channel == channels:
                b.channel = 0
                b.image += 1


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


# The same with each maximum's place in its window, as an exact number of the dtype: `places` beside the values.
# Of equals the first place wins, in whichever order they meet.

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


cdef void max_pool_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const max_pool_forward_args *a = <const max_pool_forward_args *>args
    cdef real *spare_values = <real *>scratch
    cdef real *spare_places = spare_values + a.width
    cdef real *values = spare_places + a.width
    cdef real *places = values + a.batch * a.width
    cdef int64_t item, i, row, top, columns, left, first, last, batch, low = 0, high = 0, known = -1
    cdef const real *x
    cdef real *out
    cdef int64_t *indices
    cdef pool_block b = pool_block_of(begin, a.c, a.oh, a.ow, a.rows, a.columns)
    for item in range(begin, end):
        columns = min(a.columns, a.ow - b.column)
        left = b.column * a.sw - a.pw
        if b.column != known:
            known = b.column
            low = max(<int64_t>0, -left)
            high = min(a.iw - left, (columns - 1) * a.sw + (a.kw - 1) * a.dw + 1)
            pool_fill(values, -INFINITY, a.batch * a.width)
            if a.indices:
                pool_fill(places, INFINITY, a.batch * a.width)
        row = b.row
        while row < min(b.row + a.rows, a.oh):
            batch = min(a.batch, a.oh - row, b.row + a.rows - row)
            for i in range(batch):
                top = (row + i) * a.sh - a.ph
                first = 0 if top >= 0 else ceil_div(-top, a.dh)
                last = a.kh if top + (a.kh - 1) * a.dh < a.ih else ceil_div(a.ih - top, a.dh)
                x = (
                    <const real *>a.x + b.image * a.x_n + b.channel * a.x_c + (top + first * a.dh) * a.x_h + left + low
                )
                if a.indices:
                    pool_rows_places(
                        last - first, x, a.dh * a.x_h, first * a.dh * a.iw, a.dh * a.iw, values + i * a.width + low,
                        places + i * a.width + low, high - low,
                    )
                else:
                    pool_rows(False, last - first, x, a.dh * a.x_h, values + i * a.width + low, high - low)
            for i in range(batch):
                out = <real *>a.out + b.image * a.out_n + b.channel * a.out_k + (row + i) * a.out_h + b.column
                if a.indices:
                    indices = (
                        <int64_t *>a.indices + b.image * a.indices_n + b.channel * a.indices_c + (row + i) * a.indices_h
                        + b.column
                    )
                    pool_columns_places(
                        a.kw, a.dw, a.sw, values + i * a.width, places + i * a.width, spare_values, spare_places, out,
                        indices, ((row + i) * a.sh - a.ph) * a.iw + left, columns,
                    )
                else:
                    pool_columns(
                        False, a.kw, a.dw, a.sw, values + i * a.width, spare_values, out, columns, NULL, 1
                    )
            row += batch
        pool_advance(&b, a.c, a.oh, a.ow, a.rows, a.columns)


cdef void max_pool_backward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const max_pool_backward_args *a = <const max_pool_backward_args *>args
    cdef int64_t item, i, j, index
    cdef real *out
    cdef const real *y
    cdef const int64_t *indices
    for item in range(begin, end):
        out = <real *>a.out + item // a.c * a.out_n + item % a.c * a.out_k
        y = <const real *>a.y + item // a.c * a.y_n + item % a.c * a.y_k
        indices = <const int64_t *>a.indices + item // a.c * a.indices_n + item % a.c * a.indices_c
        for i in range(a.ih):
            for j in range(a.iw):
                out[i * a.out_h + j] = 0
        for i in range(a.oh):
            if a.out_h == a.iw:
                for j in range(a.ow):
                    out[indices[j]] += y[j]
            else:
                for j in range(a.ow):
                    index = indices[j]
                    out[index // a.iw * a.out_h + index % a.iw] += y[j]
            y += a.y_h
            indices += a.indices_h


cdef inline int64_t pool_counted(int64_t start, int64_t taps, int64_t first, int64_t end) noexcept nogil:
    # pixels of the window at start that lie in first ... end
    return min(start + taps, end) - max(start, first)


cdef void avg_pool_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const avg_pool_forward_args *a = <const avg_pool_forward_args *>args
    cdef real *spare = <real *>scratch
    cdef real *divisors = spare + a.width
    cdef real *sums = divisors + a.width
    cdef int64_t item, i, row, top, columns, left, first, last, batch, factor, low = 0, high = 0, known = -1
    cdef const real *x
    cdef pool_block b = pool_block_of(begin, a.c, a.oh, a.ow, a.rows, a.columns)
    for item in range(begin, end):
        columns = min(a.columns, a.ow - b.column)
        left = b.column * a.sw - a.pw
        if b.column != known:
            known = b.column
            low = max(<int64_t>0, -left)
            high = min(a.iw - left, (columns - 1) * a.sw + a.kw)
            pool_fill(sums, 0, a.batch * a.width)
            for i in range(columns):
                divisors[i] = a.divisor if a.divisor else pool_counted(left + i * a.sw, a.kw, a.w_first, a.w_end)
        row = b.row
        while row < min(b.row + a.rows, a.oh):
            batch = min(a.batch, a.oh - row, b.row + a.rows - row)
            for i in range(batch):
                top = (row + i) * a.sh - a.ph
                first = max(<int64_t>0, -top)
                last = min(a.kh, a.ih - top)
                x = <const real *>a.x + b.image * a.x_n + b.channel * a.x_c + (top + first) * a.x_h + left + low
                pool_rows(True, last - first, x, a.x_h, sums + i * a.width + low, high - low)
            for i in range(batch):
                top = (row + i) * a.sh - a.ph
                factor = 1 if a.divisor else pool_counted(top, a.kh, a.h_first, a.h_end)
                pool_columns(
                    True, a.kw, 1, a.sw, sums + i * a.width, spare,
                    <real *>a.out + b.image * a.out_n + b.channel * a.out_k + (row + i) * a.out_h + b.column, columns,
                    divisors, factor,
                )
            row += batch
        pool_advance(&b, a.c, a.oh, a.ow, a.rows, a.columns)


# The gradient of an average: every pixel gathers the shares of the windows that it is in, a share being y over the
# window's divisor. The shares of a row of windows are summed down the rows that see the pixel's, then spread `sw` apart
# between zeros, so that a pixel sums kw neighbours.

cdef inline vec pool_shares(
    const avg_pool_backward_args *a, const real *y, int64_t first, int64_t last, const real *divisors, int64_t count
) noexcept nogil:
    # up to LANES windows of the rows first ... last; lanes past count are zero
    cdef vec total = vec_zero()
    cdef int64_t row, factor
    for row in range(first, last):
        factor = 1 if a.divisor else pool_counted(row * a.sh - a.ph, a.kh, a.h_first, a.h_end)
        total = total + pool_load(y + row * a.y_h, count) / (vec_load(divisors) * vec_broadcast(<real>factor))
    return total


cdef inline void pool_spread(real *spread, vec shares, int64_t stride, int64_t count) noexcept nogil:
    # spread[l * stride] = shares[l]; what lies between is zero already, or becomes so
    cdef int64_t lane
    cdef real lanes[LANES]
    if stride == 1:
        vec_store(spread, shares)
    elif stride == 2:
        vec_store(spread, vec_low(shares, vec_zero()))
        vec_store(spread + LANES, vec_high(shares, vec_zero()))
    else:
        vec_store(lanes, shares)
        for lane in range(min(count, <int64_t>LANES)):
            spread[lane * stride] = lanes[lane]


cdef void avg_pool_backward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const avg_pool_backward_args *a = <const avg_pool_backward_args *>args
    cdef real *spread = <real *>scratch
    cdef real *divisors = spread + a.width
    cdef int64_t item, row, i, j, columns, first, last, known_first, known_last, known = -1
    cdef int64_t count = 0, start = 0, low = 0
    cdef const real *y
    cdef real *out
    cdef pool_block b = pool_block_of(begin, a.c, a.ih, a.iw, a.rows, a.columns)
    for item in range(begin, end):
        columns = min(a.columns, a.iw - b.column)
        if b.column != known:
            known = b.column
            # spread[j] is the share of the window that starts in padded column start + j
            start = b.column + a.pw - a.kw + 1
            low = max(<int64_t>0, ceil_div(start, a.sw))
            count = min(a.ow, (b.column + columns - 1 + a.pw) // a.sw + 1) - low
            pool_fill(spread, 0, a.width)
            pool_fill(divisors, 1, a.width)
            for j in range(count):
                divisors[j] = (
                    a.divisor if a.divisor else pool_counted((low + j) * a.sw - a.pw, a.kw, a.w_first, a.w_end)
                )
        known_first = known_last = -1
        for row in range(b.row, min(b.row + a.rows, a.ih)):
            first = max(<int64_t>0, ceil_div(row + a.ph - a.kh + 1, a.sh))
            last = min(a.oh, (row + a.ph) // a.sh + 1)
            out = <real *>a.out + b.image * a.out_n + b.channel * a.out_k + row * a.out_h + b.column
            if first == known_first and last == known_last:
                for j in range(columns):
                    out[j] = (out - a.out_h)[j]
            else:
                known_first = first
                known_last = last
                y = <const real *>a.y + b.image * a.y_n + b.channel * a.y_k + low
                for i in range(ceil_div(count, LANES)):
                    j = pool_vector(i, count)
                    pool_spread(
                        spread + (low + j) * a.sw - start,
                        pool_shares(a, y + j, first, last, divisors + j, count), a.sw, count - j,
                    )
                for i in range(ceil_div(columns, LANES)):
                    j = pool_vector(i, columns)
                    pool_store(out + j, pool_taps(True, a.kw, spread + j, 1), columns)
        pool_advance(&b, a.c, a.ih, a.iw, a.rows, a.columns)
