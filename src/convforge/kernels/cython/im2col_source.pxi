# Where the lowered input of a convolution is read: in the input itself, or in a padded copy of a part of one channel.
#
# A row of the lowered input is one tap (c, i, j) of the kernel, a column one output pixel (h * ow + w): it holds
# x[c, h * sh - ph + i * dh, w * sw - pw + j * dw], or 0 outside of x.

ctypedef struct lowered_input:
    int64_t x_c, x_h, ih, iw, ow, kh, kw, sh, sw, ph, pw, dh, dw

cdef inline void merge_rows(lowered_input *g, int64_t oh) noexcept nogil:
    """Take the plane for one row where output pixels are input pixels: 1x1 kernels, stride 1, no padding."""
    if (
        g.kh * g.kw * g.sh * g.sw == 1 and g.ph == 0 and g.pw == 0
        and g.ih == oh and g.iw == g.ow and g.x_h == g.iw
    ):
        g.iw *= g.ih
        g.ow = g.iw
        g.ih = 1


# One channel of the input under some output pixels, padded with zeros, its columns split by their phase within a stride:
# what neighbouring pixels read for one tap lies in one piece. It has `rows` rows of `phases` pieces of `pitch` elements;
# the first is row `top` of x from column `left` on, the next ones are `row_step` rows of x apart.
ctypedef struct stripe:
    int64_t top, left, rows, row_step, phases, pitch


cdef inline void zero_gaps(real *to, int64_t head, int64_t tail, int64_t size) noexcept nogil:
    """Zeros in to[:head] and to[tail:size], in whole vectors."""
    cdef int64_t p = 0
    while p < head:
        vec_store(to + p, vec_zero())
        p += LANES
    p = tail
    while p < size:
        vec_store(to + p, vec_zero())
        p += LANES


cdef inline void copy_row(const real *row, int64_t n, real *to) noexcept nogil:
    """to[:n] = row[:n], or a vector if that is more."""
    cdef int64_t p = 0
    if n < LANES:
        vec_store(to, vec_load_partial(row, n))
        return
    while p + LANES <= n:
        vec_store(to + p, vec_load(row + p))
        p += LANES
    vec_store(to + n - LANES, vec_load(row + n - LANES))


cdef inline void split_row(const real *row, int64_t n, real *even, real *odd) noexcept nogil:
    """The even and the odd columns of row[:n], or a vector of each if that is more; ``odd`` may be NULL."""
    cdef int64_t p = 0
    cdef vec a, b
    while p + 2 * LANES <= n:
        a = vec_load(row + p)
        b = vec_load(row + p + LANES)
        vec_store(even + p // 2, vec_even(a, b))
        if odd != NULL:
            vec_store(odd + p // 2, vec_odd(a, b))
        p += 2 * LANES
    if p == n:
        return
    if p > 0:
        p = n - 2 * LANES
        a = vec_load(row + p)
        b = vec_load(row + p + LANES)
        if p % 2:
            a, b = vec_odd(a, b), vec_even(a, b)
        else:
            a, b = vec_even(a, b), vec_odd(a, b)
    else:
        a = vec_load_partial(row, n)
        b = vec_load_partial(row + LANES, n - LANES)
        a, b = vec_even(a, b), vec_odd(a, b)
    vec_store(even + (p + 1) // 2, a)
    if odd != NULL:
        vec_store(odd + p // 2, b)


cdef inline void gather_row(
    int64_t sw, const real *row, int64_t left, int64_t iw, int64_t phases, int64_t pitch, real *to
) noexcept nogil:
    """What the columns of all phases hold, from column ``left`` of ``row`` on, zero outside."""
    cdef vec v[4]
    cdef vec even, other
    cdef int64_t t = 0, q, column
    cdef int i
    while t < pitch:
        column = left + t * sw
        if sw == 4 and phases > 1:
            for i in range(4):
                q = column + i * LANES
                v[i] = vec_load(row + q) if q >= 0 and q + LANES <= iw else vec_load_window(row + q, -q, iw - q)
            even = vec_even(v[0], v[1])
            other = vec_even(v[2], v[3])
            vec_store(to + t, vec_even(even, other))
            vec_store(to + t + 2 * pitch, vec_odd(even, other))
            even = vec_odd(v[0], v[1])
            other = vec_odd(v[2], v[3])
            vec_store(to + t + pitch, vec_even(even, other))
            vec_store(to + t + 3 * pitch, vec_odd(even, other))
        else:
            for q in range(phases):
                vec_store(
                    to + t + q * pitch,
                    vec_load_strided(row + column + q, sw, ceil_div(-column - q, sw), ceil_div(iw - column - q, sw)),
                )
        t += LANES


cdef inline void fill_rows(
    int64_t sw, const lowered_input *g, const stripe *s, const real *x, real *to
) noexcept nogil:
    # vectors go past the ends of pieces, and are overwritten by the next one
    cdef int64_t r, h, q, pitch = s.pitch, width = sw * pitch
    # the columns of the stripe from first to last are columns of x
    cdef int64_t first = min(max(-s.left, <int64_t>0), width), last = max(min(g.iw - s.left, width), first)
    cdef const real *row
    for r in range(s.rows):
        h = s.top + r * s.row_step
        row = x + h * g.x_h
        if h < 0 or h >= g.ih or first == last:
            zero_gaps(to, 0, 0, s.phases * pitch)
        elif sw == 1:
            zero_gaps(to, first, last, pitch)
            copy_row(row + s.left + first, last - first, to + first)
        elif sw == 2:
            for q in range(s.phases):
                zero_gaps(to + q * pitch, (first + 1 - q) // 2, (last + 1 - q) // 2, pitch)
            # a first column of the odd ones by itself: the rest begins with an even one
            q = (first + 1) // 2
            split_row(
                row + s.left + 2 * q, last - 2 * q, to + q, to + pitch + q if s.phases > 1 else <real *>NULL
            )
            if s.phases > 1 and 2 * q > first:
                to[pitch + first // 2] = row[s.left + first]
        else:
            gather_row(sw, row, s.left, g.iw, s.phases, pitch, to)
        to += s.phases * pitch


cdef void fill_stripe(const lowered_input *g, const stripe *s, const real *x, real *to) noexcept nogil:
    """The stripe of the channel at ``x``, at ``to``; after it come LANES zeros."""
    if g.sw == 1:
        fill_rows(1, g, s, x, to)
    elif g.sw == 2:
        fill_rows(2, g, s, x, to)
    elif g.sw == 4 and s.phases > 1:
        fill_rows(4, g, s, x, to)
    else:
        fill_rows(g.sw, g, s, x, to)
    vec_store(to + s.rows * s.phases * s.pitch, vec_zero())


cdef inline void list_taps(
    const lowered_input *g, int64_t row, int64_t phase, int64_t step, int64_t *offsets
) noexcept nogil:
    """offsets[kh * kw] = where a pixel reads each tap of a channel, relative to its first one.

    That is given the distance of rows (of x), of phases, and of the columns of a phase.
    """
    cdef int64_t i, j, at
    for j in range(g.kw):
        at = j * g.dw if step == 1 else j * g.dw % step * phase + j * g.dw // step
        for i in range(g.kh):
            offsets[i * g.kw + j] = i * g.dh * row + at


# Where the taps of some output pixels are read, channel by channel: in x itself, or in a stripe filled with it. The
# first of the pixels is in row `first_row` and column `first_column` of the output; from one row of output pixels to
# the next it is `row_step` elements.
ctypedef struct taps_source:
    lowered_input g
    stripe s
    bint inside
    int64_t first_row, first_column, row_step
    const real *x
    real *striped
    int64_t *offsets


cdef inline void open_source(
    taps_source *t, int64_t x_c, int64_t x_h, int64_t ih, int64_t iw, int64_t ow, int64_t kh, int64_t kw, int64_t sh,
    int64_t sw, int64_t ph, int64_t pw, int64_t dh, int64_t dw,
) noexcept nogil:
    """Make ``t`` a source of channels of this geometry; its arrays and the pixels to aim at are set later."""
    cdef lowered_input *g = &t.g
    g.x_c, g.x_h, g.ih, g.iw, g.ow, g.kh, g.kw = x_c, x_h, ih, iw, ow, kh, kw
    g.sh, g.sw, g.ph, g.pw, g.dh, g.dw = sh, sw, ph, pw, dh, dw
    t.s.phases = sw if kw > 1 else 1
    t.s.row_step = 1 if kh > 1 else sh


cdef inline void aim_at(
    taps_source *t, int64_t row, int64_t rows, int64_t column, int64_t columns, bint in_place
) noexcept nogil:
    """Make ``t`` the source of a block of output pixels; its x is set, and may be read ``in_place`` or not."""
    cdef lowered_input *g = &t.g
    cdef stripe *s = &t.s
    cdef int64_t reach_h = (rows - 1) * g.sh + (g.kh - 1) * g.dh, reach_w = (columns - 1) * g.sw + (g.kw - 1) * g.dw
    t.first_row = row
    t.first_column = column
    s.top = row * g.sh - g.ph
    s.left = column * g.sw - g.pw
    t.inside = (
        in_place and g.sw == 1 and s.top >= 0 and s.top + reach_h < g.ih and s.left >= 0 and s.left + reach_w < g.iw
    )
    if t.inside:
        t.row_step = g.sh * g.x_h
        list_taps(g, g.x_h, 0, 1, t.offsets)
        return
    s.rows = reach_h // s.row_step + 1
    s.pitch = columns + (g.kw - 1) * g.dw // g.sw
    if s.phases > 1:
        s.pitch = ceil_div(s.pitch, LANES) * LANES
    t.row_step = g.sh // s.row_step * s.phases * s.pitch
    list_taps(g, s.phases * s.pitch, s.pitch, g.sw if s.phases > 1 else 1, t.offsets)


cdef inline void aim(taps_source *t, int64_t pixel, int64_t count) noexcept nogil:
    """Make ``t`` the source of the ``count`` output pixels from ``pixel`` on, in whole rows if there are several."""
    cdef int64_t row = pixel // t.g.ow, rows = (pixel + count - 1) // t.g.ow - row + 1
    if rows == 1:
        aim_at(t, row, 1, pixel - row * t.g.ow, count, True)
    else:
        aim_at(t, row, rows, 0, t.g.ow, True)


cdef inline int64_t padded_channel(const stripe *s) noexcept nogil:
    """Elements from one channel's stripe to the next, where several are kept: an odd number of cache lines.

    Those of many channels would else compete for the same sets of the cache.
    """
    cdef int64_t line = 64 // sizeof(real)
    return ((s.rows * s.phases * s.pitch + LANES) // line | 1) * line + line


cdef inline const real *read_channel(taps_source *t, int64_t channel) noexcept nogil:
    """What the places of pixels and taps of this channel are relative to."""
    cdef const real *x = t.x + channel * t.g.x_c
    if t.inside:
        return x + t.s.top * t.g.x_h + t.s.left
    fill_stripe(&t.g, &t.s, x, t.striped)
    return t.striped
