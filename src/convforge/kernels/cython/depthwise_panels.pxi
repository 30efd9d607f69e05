# What lies between the taps and the input: borders, strides and dilations. The input of a panel of outputs is copied
# into scratch memory, padded with zeros and with its columns split by their phase (column modulo stride), so that
# every tap reads whole vectors of neighbouring columns. (Read in place, the rows of wide images whose width is a power
# of 2 fall on the same few lines of the L1 cache.)

cdef struct depthwise_input:
    # the planes of one group of one image
    const real *x
    int64_t x_c, x_h, c, ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw
    int64_t kw2, pw2
    int64_t columns  # outputs of a panel at most
    int64_t apart, step
    int64_t reach  # input columns that the taps of one output span
    int64_t width, phases  # columns of one phase of a copied row, and how many phases
    # scratch memory: offsets of the taps' columns in a copied panel, and the panel
    int64_t *offsets
    real *copy


cdef struct depthwise_panel:
    # outputs, and how far a row and a channel of their copied input reach
    int64_t column, columns, row, plane


cdef inline int64_t greatest_divisor(int64_t a, int64_t b) noexcept nogil:
    cdef int64_t rest
    while b:
        rest = a % b
        a = b
        b = rest
    return a


cdef inline int64_t aligned(int64_t nbytes) noexcept nogil:
    return ceil_div(nbytes, 64) * 64


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
    return scratch + aligned((d.kw + d.kw2) * sizeof(int64_t))


cdef inline void depthwise_copy_row(const real *x, int64_t lo, int64_t hi, int64_t width, real *target) noexcept nogil:
    # target[lo:hi] = x[lo:hi], zeros beside it. A short row may be followed by a vector of zeros.
    cdef int64_t i
    for i in range(ceil_div(lo, LANES)):
        vec_store(target + i * LANES, vec_zero())
    for i in range(hi // LANES, ceil_div(width, LANES)):
        vec_store(target + i * LANES, vec_zero())
    if hi - lo >= LANES:
        for i in range((hi - lo - 1) // LANES):
            vec_store(target + lo + i * LANES, vec_load(x + lo + i * LANES))
        vec_store(target + hi - LANES, vec_load(x + hi - LANES))
    elif hi > lo:
        vec_store(target + lo, vec_load_partial(x + lo, hi - lo))


cdef inline void depthwise_copy(const depthwise_input *d, int64_t line, int64_t lines, int64_t first,
                                int64_t columns) noexcept nogil:
    # Copy `lines` input rows of every channel from column `first` on, for rows of `columns` outputs.
    cdef int64_t row = d.width * d.phases, top = clamp(-line, 0, lines), bottom = clamp(d.ih - line, top, lines)
    cdef int64_t width = ceil_div(columns + (d.reach - 1) // d.sw, LANES) * LANES
    cdef int64_t c, i, v, phase, column, inner, outer, lo = clamp(-first, 0, width), hi = clamp(d.iw - first, lo, width)
    cdef const real *x
    cdef real *target
    cdef vec a, b
    cdef vec_mask mask, mask2
    for c in range(d.c):
        target = d.copy + c * lines * row
        for i in range(top * row // LANES):
            vec_store(target + i * LANES, vec_zero())
        for i in range(bottom * row // LANES, lines * row // LANES):
            vec_store(target + i * LANES, vec_zero())
        if d.sw == 1:
            for i in range(top, bottom):
                depthwise_copy_row(d.x + c * d.x_c + (line + i) * d.x_h + first, lo, hi, width, target + i * row)
            continue
        inner = outer = 0
        if d.sw == 2 and d.phases == 2:
            # whole vectors inside of the input
            inner = clamp(ceiling(-first, 2 * LANES), 0, width // LANES)
            outer = clamp((d.iw - first) // (2 * LANES), inner, width // LANES)
            for i in range(top, bottom):
                x = d.x + c * d.x_c + (line + i) * d.x_h + first
                for v in range(inner, outer):
                    a = vec_load(x + 2 * v * LANES)
                    b = vec_load(x + (2 * v + 1) * LANES)
                    vec_store(target + i * row + v * LANES, vec_even(a, b))
                    vec_store(target + i * row + d.width + v * LANES, vec_odd(a, b))
        for v in range(width // LANES):
            if inner <= v < outer:
                continue
            target = d.copy + (c * lines + top) * row + v * LANES
            column = first + v * LANES * d.sw
            x = d.x + c * d.x_c + (line + top) * d.x_h + column
            # rows innermost, for they share their masks
            if d.sw == 2 and d.phases == 2:
                mask = vec_lanes_between(-column, d.iw - column)
                mask2 = vec_lanes_between(-column - LANES, d.iw - column - LANES)
                for i in range(bottom - top):
                    a = vec_load_masked(x, mask)
                    b = vec_load_masked(x + LANES, mask2)
                    vec_store(target, vec_even(a, b))
                    vec_store(target + d.width, vec_odd(a, b))
                    x += d.x_h
                    target += row
            else:
                for i in range(bottom - top):
                    for phase in range(d.phases):
                        vec_store(target + phase * d.width, vec_load_strided(
                            x + phase, d.sw, ceiling(-column - phase, d.sw), ceiling(d.iw - column - phase, d.sw)
                        ))
                    x += d.x_h
                    target += row


cdef inline void depthwise_next_panel(const depthwise_input *d, int64_t top, int64_t rows, int64_t column,
                                      depthwise_panel *panel) noexcept nogil:
    # Copy the input of the panel from `column` on, for the output rows from `top` on.
    cdef int64_t lines = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1
    panel.column = column
    panel.columns = min(d.ow - column, d.columns)
    panel.row = d.width * d.phases
    panel.plane = lines * panel.row
    depthwise_copy(d, top * d.sh - d.ph, lines, column * d.sw - d.pw, panel.columns)
