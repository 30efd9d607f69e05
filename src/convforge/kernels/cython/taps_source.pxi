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


cdef inline void repeat_taps(int64_t *offsets, int64_t area, int64_t channels, int64_t step) noexcept nogil:
    """Go on with the taps of more channels, ``step`` apart."""
    cdef int64_t p
    for p in range(area, channels * area):
        offsets[p] = offsets[p - area] + step


# Where the taps of some output pixels are read, channel by channel: in x itself, or in a stripe filled with it. The
# first of the pixels is in row `first_row` and column `first_column` of the output; from one row of output pixels to
# the next it is `row_step` elements, from one pixel of a row to the next `step`: 1, or else the stride.
ctypedef struct taps_source:
    lowered_input g
    stripe s
    bint inside
    int64_t first_row, first_column, row_step, step
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
    t.step = 1


cdef inline void keep_phases(taps_source *t) noexcept nogil:
    """Leave columns where they are: pixels then are a stride apart."""
    t.s.phases = 1
    t.step = t.g.sw


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
        in_place and g.sw == t.step and s.top >= 0 and s.top + reach_h < g.ih and s.left >= 0
        and s.left + reach_w < g.iw
    )
    if t.inside:
        t.row_step = g.sh * g.x_h
        list_taps(g, g.x_h, 0, 1, t.offsets)
        return
    s.x_h, s.ih, s.iw, s.sw = g.x_h, g.ih, g.iw, g.sw // t.step
    s.rows = reach_h // s.row_step + 1
    s.pitch = ceil_div(reach_w // s.sw + 1, LANES) * LANES
    t.row_step = g.sh // s.row_step * s.phases * s.pitch
    list_taps(g, s.phases * s.pitch, s.pitch, g.sw if s.phases > 1 else 1, t.offsets)


cdef inline void aim(taps_source *t, int64_t pixel, int64_t count) noexcept nogil:
    """Make ``t`` the source of the ``count`` output pixels from ``pixel`` on, in whole rows if there are several."""
    cdef int64_t row = pixel // t.g.ow, rows = (pixel + count - 1) // t.g.ow - row + 1
    if rows == 1:
        aim_at(t, row, 1, pixel - row * t.g.ow, count, True)
    else:
        aim_at(t, row, rows, 0, t.g.ow, True)


cdef inline int64_t read_place(const taps_source *t, int64_t pixel) noexcept nogil:
    """Where an output pixel reads its first tap, in what read_channels gives."""
    cdef int64_t row = pixel // t.g.ow
    return (row - t.first_row) * t.row_step + (pixel - row * t.g.ow - t.first_column) * t.step


cdef inline int64_t channel_step(const taps_source *t) noexcept nogil:
    """From one channel to the next, in x or among stripes."""
    return t.g.x_c if t.inside else padded_channel(&t.s)


cdef inline const real *read_channels(taps_source *t, int64_t channel, int64_t count) noexcept nogil:
    """What the places of pixels and taps of these channels are relative to."""
    cdef const real *x = t.x + channel * t.g.x_c
    cdef int64_t c, step = padded_channel(&t.s)
    if t.inside:
        return x + t.s.top * t.g.x_h + t.s.left
    for c in range(count):
        fill_stripe(&t.s, x + c * t.g.x_c, t.striped + c * step)
    return t.striped
