# Average pooling: sums over their divisors, and the gradient that gathers what they spread.

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
