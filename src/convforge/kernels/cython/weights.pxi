# Weights packed for the register tile, partial weight gradients added up, and outputs that no tap reaches.

cdef void pack_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const pack_weight_args *a = <const pack_weight_args *>args
    cdef int64_t blocks = ceil_div(a.k, ROWS)
    cdef int64_t item, first, rows, c, i, j, row
    cdef const real *source
    cdef const real *tap
    cdef real *packed = <real *>a.packed + begin * a.c * a.kh * a.kw * ROWS
    for item in range(begin, end):
        first = item % blocks * ROWS
        rows = min(a.k - first, <int64_t>ROWS)
        source = <const real *>a.w + item // blocks * a.w_g + first * a.w_k
        for c in range(a.c):
            for i in range(a.kh):
                for j in range(a.kw):
                    tap = source + c * a.w_c + i * a.w_h + j * a.w_w
                    for row in range(rows):
                        packed[row] = tap[row * a.w_k]
                    for row in range(rows, ROWS):
                        packed[row] = 0
                    packed += ROWS


cdef void sum_parts(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    # pairwise, so that the rounding error grows with the logarithm of the count; the partial sums are used up
    cdef const sum_parts_args *a = <const sum_parts_args *>args
    cdef real *partial = <real *>a.partial
    cdef real *out = <real *>a.out
    cdef real *left
    cdef const real *right
    cdef int64_t start = begin * 1024, stop = min(end * 1024, a.count), step = 1, pair, i
    while step < a.parts:
        for pair in range(ceil_div(a.parts - step, 2 * step)):
            left = partial + 2 * pair * step * a.count
            right = left + step * a.count
            for i in range(start, stop):
                left[i] += right[i]
        step *= 2
    for i in range(start, stop):
        out[i] = partial[i]


cdef void fill_zero(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const fill_zero_args *a = <const fill_zero_args *>args
    cdef int64_t item, i, j
    cdef real *row
    for item in range(begin, end):
        for i in range(a.oh):
            row = <real *>a.out + item // a.channels * a.out_n + item % a.channels * a.out_k + i * a.out_h
            for j in range(a.ow):
                row[j * a.out_w] = 0
