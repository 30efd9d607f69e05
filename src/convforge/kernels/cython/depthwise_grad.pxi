# The weight gradient: a vector of sums for each tap. An input row is multiplied by all the rows of grad_output in
# flight whose taps meet it.

cdef enum:
    DEPTHWISE_DOTS = 16  # vectors of sums at most
    DEPTHWISE_TAPS = 3  # kernel columns at a time at most


cdef struct depthwise_dots:
    # `count` rows of LANES outputs, of which `lanes` count
    const real *x
    int64_t row, apart, count, lanes
    const int64_t *offsets
    const real *y
    int64_t y_row
    real *totals  # [kh][kw][LANES], from the first of these taps on
    int64_t kw


cdef inline void depthwise_dot_row(int u, int th, int tw, int step, int flight, bint partial, const depthwise_dots *s,
                                   const real *x, int64_t q, const vec *y, vec *sums) noexcept nogil:
    cdef vec a[DEPTHWISE_TAPS]
    cdef int i, j
    for j in range(tw):
        a[j] = vec_load_partial(x + s.offsets[j], s.lanes) if partial else vec_load(x + s.offsets[j])
    for i in range(flight):
        # x is not multiplied by the zeros beyond grad_output: it may be infinite
        if i * step + u < th and 0 <= q - i < s.count:
            for j in range(tw):
                sums[(i * step + u) * tw + j] = vec_fma(y[i], a[j], sums[(i * step + u) * tw + j])


cdef inline void depthwise_dot_roll(int th, int tw, int step, bint partial, const depthwise_dots *s) noexcept nogil:
    # Add the products of a strip to the totals of th x tw taps. A step of 0 is any that is at least th.
    cdef vec sums[DEPTHWISE_DOTS]
    cdef vec y[8]
    cdef int flight = (th + step - 1) // step if step else 1
    cdef const real *x = s.x
    cdef int64_t q
    cdef int i, j
    for i in range(th):
        for j in range(tw):
            sums[i * tw + j] = vec_load(s.totals + (i * s.kw + j) * LANES)
    for i in range(flight):
        y[i] = vec_zero()
    for q in range(s.count + flight - 1):
        for i in range(flight - 1):
            y[flight - 1 - i] = y[flight - 2 - i]
        if q < s.count:
            y[0] = vec_load_partial(s.y + q * s.y_row, s.lanes) if partial else vec_load(s.y + q * s.y_row)
        depthwise_dot_row(0, th, tw, step, flight, partial, s, x, q, y, sums)
        if (step == 0 and th > 1) or (step == 2 and (th % 2 == 0 or q + 2 < s.count + flight)):
            depthwise_dot_row(1, th, tw, step, flight, partial, s, x + s.row, q, y, sums)
        if step == 0 and th > 2:
            depthwise_dot_row(2, th, tw, step, flight, partial, s, x + 2 * s.row, q, y, sums)
        x += s.apart
    for i in range(th):
        for j in range(tw):
            vec_store(s.totals + (i * s.kw + j) * LANES, sums[i * tw + j])


cdef inline int64_t depthwise_chunk(int64_t rest, int64_t step) noexcept nogil:
    # Kernel rows of the next pass, of those that rest. With a step beyond 2 outputs share no input rows.
    if step <= 2 and rest >= 5:
        return 7 if rest >= 7 else 5
    return min(rest, <int64_t>3)


cdef inline int64_t depthwise_dot_columns(int64_t th, int64_t rest) noexcept nogil:
    # Kernel columns of the next pass of th kernel rows, of those that rest: as many as the registers hold.
    if th <= 3:
        return 3 if rest >= 3 else 1
    return 2 if th == 5 and rest >= 2 else 1


cdef inline void depthwise_dot_pass(int64_t th, int64_t tw, int64_t step, bint partial,
                                    const depthwise_dots *s) noexcept nogil:
    if step == 1 and th == 7:
        depthwise_dot_roll(7, 1, 1, partial, s)
    elif step == 1 and th == 5:
        if tw == 2:
            depthwise_dot_roll(5, 2, 1, partial, s)
        else:
            depthwise_dot_roll(5, 1, 1, partial, s)
    elif step == 1 and tw == 3:
        if th == 3:
            depthwise_dot_roll(3, 3, 1, partial, s)
        elif th == 2:
            depthwise_dot_roll(2, 3, 1, partial, s)
        else:
            depthwise_dot_roll(1, 3, 1, partial, s)
    elif step == 1:
        if th == 3:
            depthwise_dot_roll(3, 1, 1, partial, s)
        elif th == 2:
            depthwise_dot_roll(2, 1, 1, partial, s)
        else:
            depthwise_dot_roll(1, 1, 1, partial, s)
    elif step == 2 and th == 7:
        depthwise_dot_roll(7, 1, 2, partial, s)
    elif step == 2 and th == 5:
        if tw == 2:
            depthwise_dot_roll(5, 2, 2, partial, s)
        else:
            depthwise_dot_roll(5, 1, 2, partial, s)
    elif step == 2 and th == 3:
        if tw == 3:
            depthwise_dot_roll(3, 3, 2, partial, s)
        else:
            depthwise_dot_roll(3, 1, 2, partial, s)
    elif tw == 3:
        if th == 3:
            depthwise_dot_roll(3, 3, 0, partial, s)
        elif th == 2:
            depthwise_dot_roll(2, 3, 0, partial, s)
        else:
            depthwise_dot_roll(1, 3, 0, partial, s)
    else:
        if th == 3:
            depthwise_dot_roll(3, 1, 0, partial, s)
        elif th == 2:
            depthwise_dot_roll(2, 1, 0, partial, s)
        else:
            depthwise_dot_roll(1, 1, 0, partial, s)


cdef void depthwise_dot_panel(const depthwise_input *d, const depthwise_panel *panel, int64_t rows, const real *grad,
                              int64_t y_h, real *totals) noexcept nogil:
    # Add the products of a panel; `grad` is its first element of grad_output.
    cdef depthwise_dots s
    cdef int64_t phase, column, i, j, th, tw
    s.row = d.dh * panel.row
    s.apart = d.apart * d.sh * panel.row
    s.y_row = d.apart * y_h
    s.kw = d.kw
    for phase in range(min(d.apart, rows)):
        s.count = ceil_div(rows - phase, d.apart)
        column = 0
        while column < panel.columns:
            s.lanes = panel.columns - column
            s.y = grad + phase * y_h + column
            i = 0
            while i < d.kh:
                th = depthwise_chunk(d.kh - i, d.step)
                s.x = panel.x + (phase * d.sh + i * d.dh) * panel.row + column
                j = 0
                while j < d.kw:
                    tw = depthwise_dot_columns(th, d.kw - j)
                    s.offsets = d.offsets + j
                    s.totals = totals + (i * d.kw + j) * LANES
                    if MASKED_LOADS or s.lanes < LANES:
                        depthwise_dot_pass(th, tw, d.step, True, &s)
                    else:
                        depthwise_dot_pass(th, tw, d.step, False, &s)
                    j += tw
                i += th
            column += LANES


cdef void depthwise_grad_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const depthwise_grad_weight_args *a = <const depthwise_grad_weight_args *>args
    cdef depthwise_input d
    cdef depthwise_panel panel
    cdef int64_t blocks = ceil_div(a.oh, a.rows), taps = a.kh * a.kw
    cdef int64_t item, group, part, image, unit, top, rows, k, i
    cdef const real *grad
    cdef real *partial
    cdef real *totals
    d.x_c, d.x_h, d.c, d.ih, d.iw, d.oh, d.ow = a.x_c, a.x_h, a.c, a.ih, a.iw, a.oh, a.ow
    d.kh, d.kw, d.sh, d.sw, d.ph, d.pw, d.dh, d.dw = a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    d.kw2 = d.pw2 = 0
    d.columns = a.columns
    d.in_place = d.factors = False
    totals = <real *>depthwise_prepare(&d, scratch)
    d.copy = totals + a.k * taps * LANES
    for item in range(begin, end):
        group = item % a.g
        part = item // a.g
        for i in range(a.k * taps):
            vec_store(totals + i * LANES, vec_zero())
        for unit in range(part * a.n * blocks // a.parts, (part + 1) * a.n * blocks // a.parts):
            image = unit // blocks
            top = unit % blocks * a.rows
            rows = min(a.rows, a.oh - top)
            d.x = <const real *>a.x + image * a.x_n + group * a.x_c
            panel.column = panel.columns = 0
            while panel.column + panel.columns < a.ow:
                depthwise_next_panel(&d, top, rows, panel.column + panel.columns, &panel)
                grad = <const real *>a.y + image * a.y_n + group * a.k * a.y_k + top * a.y_h + panel.column
                for k in range(a.k):
                    depthwise_dot_panel(&d, &panel, rows, grad + k * a.y_k, a.y_h, totals + k * taps * LANES)
        partial = <real *>a.partial + item * a.k * taps
        for i in range(a.k * taps):
            partial[i] = vec_sum(vec_load(totals + i * LANES))
