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


cdef inline vec load_columns(bint whole, const real *row, int64_t lo, int64_t hi) noexcept nogil:
    return vec_load(row) if whole else vec_load_window(row, lo, hi)


cdef inline void fill_vector(
    int64_t sw, bint whole, const real *row, int64_t lo, int64_t hi, int64_t phases, int64_t pitch, int64_t room, real *to
) noexcept nogil:
    """Split the columns lo <= column < hi of ``row``, zero outside, into a vector of each phase."""
    cdef vec v[4]
    cdef vec even, other
    cdef int64_t q, step = sw
    cdef int i
    if sw == 1:
        vec_store_partial(to, load_columns(whole, row, lo, hi), room)
    elif sw == 2:
        for i in range(2):
            v[i] = load_columns(whole, row + i * LANES, lo - i * LANES, hi - i * LANES)
        vec_store_partial(to, vec_even(v[0], v[1]), room)
        if phases > 1:
            vec_store(to + pitch, vec_odd(v[0], v[1]))
    elif sw == 4 and phases > 1:
        for i in range(4):
            v[i] = load_columns(whole, row + i * LANES, lo - i * LANES, hi - i * LANES)
        even = vec_even(v[0], v[1])
        other = vec_even(v[2], v[3])
        vec_store(to, vec_even(even, other))
        vec_store(to + 2 * pitch, vec_odd(even, other))
        even = vec_odd(v[0], v[1])
        other = vec_odd(v[2], v[3])
        vec_store(to + pitch, vec_even(even, other))
        vec_store(to + 3 * pitch, vec_odd(even, other))
    else:
        for q in range(phases):
            vec_store_partial(
                to + q * pitch, vec_load_strided(row + q, step, ceil_div(lo - q, step), ceil_div(hi - q, step)), room
            )


cdef inline void fill_rows(
    int64_t sw, const lowered_input *g, const stripe *s, const real *x, real *to
) noexcept nogil:
    cdef int64_t r, q, t, h, column, step = g.sw
    cdef const real *row
    for r in range(s.rows):
        h = s.top + r * s.row_step
        row = x + h * g.x_h
        for q in range(ceil_div(s.pitch, LANES)):
            t = q * LANES
            column = s.left + t * step
            if h < 0 or h >= g.ih:
                for q in range(s.phases):
                    vec_store_partial(to + q * s.pitch + t, vec_zero(), s.pitch - t)
            elif column >= 0 and column + step * LANES <= g.iw:
                fill_vector(sw, True, row + column, 0, step * LANES, s.phases, s.pitch, s.pitch - t, to + t)
            else:
                fill_vector(sw, False, row + column, -column, g.iw - column, s.phases, s.pitch, s.pitch - t, to + t)
        to += s.phases * s.pitch


cdef void fill_stripe(const lowered_input *g, const stripe *s, const real *x, real *to) noexcept nogil:
    """The stripe of the channel at ``x``, at ``to``."""
    if g.sw == 1:
        fill_rows(1, g, s, x, to)
    elif g.sw == 2:
        fill_rows(2, g, s, x, to)
    elif g.sw == 4 and s.phases > 1:
        fill_rows(4, g, s, x, to)
    else:
        fill_rows(g.sw, g, s, x, to)


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
    taps_source *t, int64_t x_c, int64_t x_h, int64_t ih, int64_t iw, int64_t oh, int64_t ow, int64_t kh, int64_t kw,
    int64_t sh, int64_t sw, int64_t ph, int64_t pw, int64_t dh, int64_t dw,
) noexcept nogil:
    """Make ``t`` a source of channels of this geometry; its arrays and the pixels to aim at are set later."""
    cdef lowered_input *g = &t.g
    g.x_c, g.x_h, g.ih, g.iw, g.ow, g.kh, g.kw = x_c, x_h, ih, iw, ow, kh, kw
    g.sh, g.sw, g.ph, g.pw, g.dh, g.dw = sh, sw, ph, pw, dh, dw
    merge_rows(g, oh)
    t.s.phases = sw if kw > 1 else 1
    t.s.row_step = 1 if kh > 1 else sh


cdef inline void aim(taps_source *t, int64_t pixel, int64_t count) noexcept nogil:
    """Make ``t`` the source of the ``count`` output pixels from ``pixel`` on; its x is set."""
    cdef lowered_input *g = &t.g
    cdef stripe *s = &t.s
    cdef int64_t h = pixel // g.ow, last_h = (pixel + count - 1) // g.ow
    cdef int64_t w = pixel - h * g.ow if h == last_h else 0, width = count if h == last_h else g.ow
    cdef int64_t reach_h = (last_h - h) * g.sh + (g.kh - 1) * g.dh, reach_w = (width - 1) * g.sw + (g.kw - 1) * g.dw
    t.first_row = h
    t.first_column = w
    s.top = h * g.sh - g.ph
    s.left = w * g.sw - g.pw
    t.inside = (
        g.sw == 1 and s.top >= 0 and s.top + reach_h < g.ih and s.left >= 0 and s.left + reach_w < g.iw
    )
    if t.inside:
        t.row_step = g.sh * g.x_h
        list_taps(g, g.x_h, 0, 1, t.offsets)
        return
    s.rows = reach_h // s.row_step + 1
    s.pitch = width + (g.kw - 1) * g.dw // g.sw
    if s.phases > 1:
        s.pitch = ceil_div(s.pitch, LANES) * LANES
    t.row_step = g.sh // s.row_step * s.phases * s.pitch
    list_taps(g, s.phases * s.pitch, s.pitch, g.sw if s.phases > 1 else 1, t.offsets)
    vec_store(t.striped + s.rows * s.phases * s.pitch, vec_zero())


cdef inline const real *read_channel(taps_source *t, int64_t channel) noexcept nogil:
    """What the places of pixels and taps of this channel are relative to."""
    cdef const real *x = t.x + channel * t.g.x_c
    if t.inside:
        return x + t.s.top * t.g.x_h + t.s.left
    fill_stripe(&t.g, &t.s, x, t.striped)
    return t.striped
