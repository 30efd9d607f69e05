# The product of im2col where an image has one output pixel, as dot products: weights, which are most of what is read,
# are read once for several images, and as they lie.

cdef extern from "dots.h" nogil:
    enum: DOT_IMAGES
    enum: DOT_SUMS
    enum: DOT_SUM_GROUPS
    void dot_taps(
        int images, int64_t taps, const real *w, int64_t rows, const real *x, int64_t pitch, real *totals,
    )


cdef inline void dot_taps_of(
    int64_t images, int64_t taps, const real *w, int64_t rows, const real *x, int64_t pitch, real *totals,
) noexcept nogil:
    if images == 1:
        dot_taps(1, taps, w, rows, x, pitch, totals)
    elif images == 2:
        dot_taps(2, taps, w, rows, x, pitch, totals)
    else:
        dot_taps(4, taps, w, rows, x, pitch, totals)


cdef void lower_image(const im2col_dots_args *a, const real *x, real *lowered) noexcept nogil:
    """The taps of an image's output pixel, zeros where they see padding."""
    cdef int64_t channel, i, j, row, column
    for channel in range(a.c):
        for i in range(a.kh):
            row = i * a.dh - a.ph
            for j in range(a.kw):
                column = j * a.dw - a.pw
                if 0 <= row < a.ih and 0 <= column < a.iw:
                    lowered[0] = x[row * a.x_h + column]
                else:
                    lowered[0] = 0
                lowered += 1
        x += a.x_c


cdef void im2col_dots(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const im2col_dots_args *a = <const im2col_dots_args *>args
    cdef int64_t area = a.kh * a.kw, taps = a.c * area, parts = ceil_div(a.n, DOT_IMAGES)
    # a kernel of the size of an image without gaps: its taps are what they read
    cdef bint lies = a.ph == 0 and a.pw == 0 and a.kh == a.ih and a.kw == a.iw and (a.kh == 1 or a.dh == 1)
    lies = lies and (a.kw == 1 or a.dw == 1) and (a.ih == 1 or a.x_h == a.iw) and (a.c == 1 or a.x_c == area)
    cdef real *lowered = <real *>scratch  # [DOT_IMAGES][taps]
    cdef real totals[DOT_SUM_GROUPS * LANES]
    cdef int64_t item, split, group, first, count, places, height, pitch, row, last, i, j
    cdef const real *x
    cdef real *out
    cdef real bias
    for item in range(begin, end):
        first = item % parts * DOT_IMAGES
        count = min(a.n - first, <int64_t>DOT_IMAGES)
        split = item // parts % a.splits
        group = item // (parts * a.splits)
        # places for 1, 2 or 4 images; those without one repeat the last
        places = 4 if count == 3 else count
        height = DOT_SUMS // places
        x = <const real *>a.x + first * a.x_n + group * a.c * a.x_c
        pitch = a.x_n
        if not lies or places != count:
            for i in range(places):
                lower_image(a, x + min(i, count - 1) * a.x_n, lowered + i * taps)
            x = lowered
            pitch = taps
        row = a.k * split // a.splits
        last = a.k * (split + 1) // a.splits
        while row < last:
            dot_taps_of(places, taps, <const real *>a.w + (group * a.k + row) * taps, last - row, x, pitch, totals)
            for i in range(min(height, last - row)):
                bias = (<const real *>a.bias)[group * a.k + row + i] if a.bias else 0
                out = <real *>a.out + first * a.out_n + (group * a.k + row + i) * a.out_k
                for j in range(count):
                    out[j * a.out_n] = totals[i * places + j] + bias
            row += height
