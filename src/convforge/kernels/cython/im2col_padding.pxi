# What the taps that fall on padding add: nothing, unless a weight is not finite. Products that leave padding out leave
# these out as well.

cdef void zero_products(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const zero_products_args *a = <const zero_products_args *>args
    cdef int64_t item, channel, i, j
    cdef const real *w
    cdef real *sums
    for item in range(begin, end):
        sums = <real *>a.sums + item * a.kh * a.kw
        for i in range(a.kh * a.kw):
            sums[i] = 0
        for channel in range(a.c):
            w = <const real *>a.w + item // a.k * a.w_g + item % a.k * a.w_k + channel * a.w_c
            for i in range(a.kh):
                for j in range(a.kw):
                    sums[i * a.kw + j] += 0 * w[i * a.w_h + j * a.w_w]


cdef void add_padding(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const add_padding_args *a = <const add_padding_args *>args
    cdef int64_t channels = a.g * a.k, item, tap, row, column, oh, ow
    cdef real added
    cdef real *out
    for item in range(begin, end):
        out = <real *>a.out + item // channels * a.out_n + item % channels * a.out_k
        for tap in range(a.kh * a.kw):
            added = (<const real *>a.sums)[item % channels * a.kh * a.kw + tap]
            if added == 0:
                continue
            for oh in range(a.oh):
                row = oh * a.sh - a.ph + tap // a.kw * a.dh
                for ow in range(a.ow):
                    column = ow * a.sw - a.pw + tap % a.kw * a.dw
                    if not (0 <= row < a.ih and 0 <= column < a.iw):
                        out[oh * a.out_h + ow * a.out_w] += added
