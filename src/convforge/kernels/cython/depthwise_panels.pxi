# What lies between the taps and the input: borders, strides and dilations. The input of a panel of outputs is copied
# into stripes, where every tap reads whole vectors of neighbouring columns, or read in place where that is the same.
# (Not where rows would fall on the same few lines of the L1 cache, as those of images whose width is a power of 2 do.)

cdef struct depthwise_input:
    # the planes of one group of one image
    const real *x
    int64_t x_c, x_h, c, ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw
    int64_t kw2, pw2
    int64_t columns  # outputs of a panel at most
    int64_t apart, step
    bint in_place, factors  # whether panels may be read in x; whether kernels may be separable
    int64_t reach  # input columns that the taps of one output span
    int64_t width, phases  # columns of one phase of a copied row, and how many phases
    # scratch memory: offsets of the taps' columns in a copied panel, and the panel
    int64_t *offsets
    real *copy


cdef struct depthwise_panel:
    # outputs, and their input: where it begins, how far a row and a channel reach
    int64_t column, columns
    const real *x
    int64_t row, plane


cdef inline int64_t greatest_divisor(int64_t a, int64_t b) noexcept nogil:
    cdef int64_t rest
    while b:
        rest = a % b
        a = b
        b = rest
    return a


cdef inline bint depthwise_rows_apart(int64_t rows, int64_t x_h) noexcept nogil:
    # Whether that many rows of the input do not fall on the same few lines of the L1 cache.
    return rows <= 4 * (4096 // greatest_divisor(4096, x_h * sizeof(real)))


cdef inline char *depthwise_prepare(depthwise_input *d, char *scratch) noexcept nogil:
    # Derive what is the same for every item, lay the tables out; returns the rest of the scratch memory.
    cdef int64_t before = d.pw if d.kw2 == 0 else d.pw2 if d.kw == 0 else max(d.pw, d.pw2)
    cdef int64_t j, column, common = greatest_divisor(d.sh, d.dh)
    d.apart = d.dh // common
    d.step = d.sh // common
    d.reach = 1
    d.offsets = <int64_t *>scratch
    for j in range(d.kw + d.kw2):
        d.offsets[j] = before - d.pw + j * d.dw if j < d.kw else before - d.pw2 + (j - d.kw) * d.dw
        d.reach = max(d.reach, d.offsets[j] + 1)
    d.pw = before
    d.phases = min(d.sw, d.reach)
    d.width = ceil_div(min(d.columns, d.ow) + (d.reach - 1) // d.sw, LANES) * LANES
    for j in range(d.kw + d.kw2):
        column = d.offsets[j]
        d.offsets[j] = column % d.sw * d.width + column // d.sw
    return aligned(scratch, scratch + (d.kw + d.kw2) * sizeof(int64_t))


cdef inline void depthwise_next_panel(const depthwise_input *d, int64_t top, int64_t rows, int64_t column,
                                      depthwise_panel *panel) noexcept nogil:
    # The panel from `column` on, for the output rows from `top` on: in place where that is far from any border.
    cdef stripe s
    cdef int64_t c, line = top * d.sh - d.ph, below = ceil_div(rows, DEPTHWISE_NARROW_ROWS * d.apart), inside
    below = line + (below * DEPTHWISE_NARROW_ROWS * d.apart - 1) * d.sh + (d.kh - 1) * d.dh + 1
    panel.column = column
    panel.columns = min(d.ow - column, d.columns)
    if d.in_place and line >= 0 and below <= d.ih:
        inside = d.iw - column + d.pw
        if d.factors:
            # the first of two passes takes whole vectors of columns
            inside = inside // LANES * LANES
        inside -= d.reach - 1
        if column >= d.pw and inside >= 2 * LANES:
            panel.columns = min(panel.columns, inside)
            panel.x = d.x + line * d.x_h + column - d.pw
            panel.row = d.x_h
            panel.plane = d.x_c
            return
        if column < d.pw:
            panel.columns = min(panel.columns, ceil_div(d.pw - column, LANES) * LANES)
    s.x_h, s.ih, s.iw, s.sw = d.x_h, d.ih, d.iw, d.sw
    s.top = line
    s.left = column * d.sw - d.pw
    s.rows = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1
    s.row_step = 1
    s.phases = d.phases
    s.pitch = d.width if d.sw > 1 else ceil_div(panel.columns + d.reach - 1, LANES) * LANES
    panel.x = d.copy
    panel.row = s.pitch * d.phases
    panel.plane = s.rows * panel.row
    for c in range(d.c):
        fill_stripe(&s, d.x + c * d.x_c, d.copy + c * panel.plane)
