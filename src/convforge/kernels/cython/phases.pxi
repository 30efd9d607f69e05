# A dilation d parts an image into d phases an axis, each a smaller image that sees the kernel without a dilation.

cdef void split_phases(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const split_phases_args *a = <const split_phases_args *>args
    cdef int64_t item, image, channel, phase, i, j, top, left, first, last
    cdef const real *plane
    cdef const real *row
    cdef real *to
    for item in range(begin, end):
        image = item % a.n
        channel = item // a.n
        plane = <const real *>a.x + image * a.x_n + channel * a.x_c
        for phase in range(a.dh * a.dw):
            to = <real *>a.phases + (item * a.dh * a.dw + phase) * a.rows * a.columns
            left = phase % a.dw - a.pw
            # columns inside the image
            first = min(max(ceil_div(-left, a.dw), <int64_t>0), a.columns)
            last = max(min(ceil_div(a.iw - left, a.dw), a.columns), first)
            for i in range(a.rows):
                top = phase // a.dw - a.ph + i * a.dh
                for j in range(a.columns):
                    to[j] = 0
                if 0 <= top < a.ih:
                    row = plane + top * a.x_h
                    for j in range(first, last):
                        to[j] = row[left + j * a.dw]
                to += a.columns


cdef void join_phases(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const join_phases_args *a = <const join_phases_args *>args
    cdef int64_t item, image, channel, row, phase, j
    cdef const real *plane
    cdef const real *source
    cdef real *out
    for item in range(begin, end):
        image = item % a.n
        channel = item // a.n
        for row in range(a.oh):
            out = <real *>a.out + image * a.out_n + channel * a.out_k + row * a.out_h
            plane = <const real *>a.phases + ((item * a.dh + row % a.dh) * a.dw * a.rows + row // a.dh) * a.columns
            for phase in range(a.dw):
                source = plane + phase * a.rows * a.columns
                for j in range(ceil_div(a.ow - phase, a.dw)):
                    out[(phase + j * a.dw) * a.out_w] = source[j]
