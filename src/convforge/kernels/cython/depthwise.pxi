# Depthwise convolution, and filters of one-channel images: output pixels in the lanes, several output rows at a time,
# weights broadcast.
#
# Borders, strides and dilations of the columns are settled before the sums: the input of a panel of outputs is copied
# into scratch memory, padded with zeros and with its columns split by their phase (column modulo stride), so that
# every tap reads whole vectors of neighbouring columns. Inner columns of wide maps of stride 1 are read in place.
# Dilations of the rows are settled by taking outputs that are `apart` rows apart, whose taps then meet at rows that
# are `dh` apart: from one such output to the next are `step` of those.

cdef enum:
    DEPTHWISE_ROWS = 4  # output rows at a time
    DEPTHWISE_VECTORS = 2  # vectors of output columns at a time
    DEPTHWISE_TAPS = 3  # kernel rows, in the weight gradient columns too, at a time


cdef struct depthwise_input:
    # the planes of one group of one image
    const real *x
    int64_t x_c, x_h, c, ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw
    int64_t columns  # outputs of a panel at most, a multiple of LANES
    int64_t apart, step
    # scratch memory
    int64_t *offsets  # of the taps' columns, in a copied panel
    int64_t *offsets_in_place
    real *values  # of a block of outputs
    real *copy


cdef struct depthwise_panel:
    # what the first tap reads for the first of `columns` outputs, and its neighbours
    const real *first
    const int64_t *offsets
    int64_t row, plane, column, columns


cdef inline int64_t greatest_divisor(int64_t a, int64_t b) noexcept nogil:
    cdef int64_t rest
    while b:
        rest = a % b
        a = b
        b = rest
    return a


cdef inline int64_t aligned(int64_t nbytes) noexcept nogil:
    return ceil_div(nbytes, 64) * 64


cdef inline int64_t depthwise_width(const depthwise_input *d) noexcept nogil:
    # of one phase of a copied row
    return ceil_div(d.columns + (d.kw - 1) * d.dw // d.sw, LANES) * LANES


cdef inline int64_t depthwise_phases(const depthwise_input *d) noexcept nogil:
    return min(d.sw, (d.kw - 1) * d.dw + 1)


cdef inline char *depthwise_prepare(depthwise_input *d, char *scratch) noexcept nogil:
    # Lay the tables out, the same for every item; returns the rest of the scratch memory.
    cdef int64_t j, common = greatest_divisor(d.sh, d.dh)
    d.apart = d.dh // common
    d.step = d.sh // common
    d.offsets = <int64_t *>scratch
    d.offsets_in_place = d.offsets + d.kw
    for j in range(d.kw):
        d.offsets[j] = j * d.dw % d.sw * depthwise_width(d) + j * d.dw // d.sw
        d.offsets_in_place[j] = j * d.dw
    return scratch + aligned(2 * d.kw * sizeof(int64_t))


cdef inline void depthwise_copy_row(const depthwise_input *d, const real *x, int64_t first, real *target) noexcept nogil:
    # One row of a panel from column `first` on; x is that of column 0, or NULL for a row of zeros.
    cdef int64_t width = depthwise_width(d), phases = depthwise_phases(d), phase, i, column
    cdef vec a, b
    if x == NULL:
        for i in range(width * phases // LANES):
            vec_store(target + i * LANES, vec_zero())
    elif d.sw == 1:
        for i in range(width // LANES):
            column = first + i * LANES
            if column >= 0 and column + LANES <= d.iw:
                vec_store(target + i * LANES, vec_load(x + column))
            else:
                vec_store(target + i * LANES, vec_load_window(x + column, -column, d.iw - column))
    elif d.sw == 2 and phases == 2:
        for i in range(width // LANES):
            column = first + 2 * i * LANES
            if column >= 0 and column + 2 * LANES <= d.iw:
                a = vec_load(x + column)
                b = vec_load(x + column + LANES)
            else:
                a = vec_load_window(x + column, -column, d.iw - column)
                b = vec_load_window(x + column + LANES, -column - LANES, d.iw - column - LANES)
            vec_store(target + i * LANES, vec_even(a, b))
            vec_store(target + width + i * LANES, vec_odd(a, b))
    else:
        for phase in range(phases):
            for i in range(width // LANES):
                column = first + phase + i * LANES * d.sw
                vec_store(target + i * LANES, vec_load_strided(
                    x + column, d.sw, ceiling(-column, d.sw), ceiling(d.iw - column, d.sw)
                ))
            target += width


cdef inline void depthwise_next_panel(const depthwise_input *d, int64_t top, int64_t rows,
                                      depthwise_panel *panel) noexcept nogil:
    # The panel after `panel`, for the output rows from `top` on.
    cdef int64_t column = panel.column + panel.columns, first = column * d.sw - d.pw, line = top * d.sh - d.ph
    cdef int64_t lines = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1, c, i
    cdef bint wide = d.sw == 1 and d.ow > d.columns and line >= 0 and line + lines <= d.ih
    cdef const real *x
    cdef real *target
    panel.column = column
    panel.columns = min(d.ow - column, d.columns)
    if wide:
        # as many whole vectors as all taps find inside the row
        panel.columns = min(d.ow - column, (d.iw - (d.kw - 1) * d.dw - first) // LANES * LANES)
        if first >= 0 and panel.columns > 0:
            panel.first = d.x + line * d.x_h + first
            panel.offsets = d.offsets_in_place
            panel.row = d.x_h
            panel.plane = d.x_c
            return
        panel.columns = min(d.ow - column, min(d.columns, <int64_t>(DEPTHWISE_VECTORS * LANES)))
    panel.first = d.copy
    panel.offsets = d.offsets
    panel.row = depthwise_width(d) * depthwise_phases(d)
    panel.plane = lines * panel.row
    target = d.copy
    for c in range(d.c):
        for i in range(line, line + lines):
            x = d.x + c * d.x_c + i * d.x_h if 0 <= i < d.ih else NULL
            depthwise_copy_row(d, x, first, target)
            target += panel.row


cdef inline void depthwise_line(int line, int taps, int rows, int vectors, int step, const real *x, const vec *scale,
                                vec *sums) noexcept nogil:
    # Add one input row, the `line`-th of a block, to the output rows that see it.
    cdef vec value
    cdef int r, v
    for v in range(vectors):
        value = vec_load(x + v * LANES)
        for r in range(rows):
            if 0 <= line - r * step < taps:
                sums[r * vectors + v] = vec_fma(scale[line - r * step], value, sums[r * vectors + v])


cdef inline void depthwise_taps(int taps, int rows, int vectors, int step, const real *x, int64_t row, int64_t apart,
                                const int64_t *offsets, const real *weight, int64_t kw, vec *sums) noexcept nogil:
    # Add `taps` kernel rows. A step of 0 means that output rows, `apart` from each other, share no input rows.
    cdef vec scale[DEPTHWISE_TAPS]
    cdef const real *p
    cdef int64_t j
    cdef int t, r
    for j in range(kw):
        p = x + offsets[j]
        for t in range(taps):
            scale[t] = vec_broadcast(weight[t * kw + j])
        if step == 0:
            for r in range(rows):
                for t in range(taps):
                    depthwise_line(t, taps, 1, vectors, 1, p + r * apart + t * row, scale, sums + r * vectors)
            continue
        # written out: each call specialises on its line
        depthwise_line(0, taps, rows, vectors, step, p, scale, sums)
        if (rows - 1) * step + taps > 1:
            depthwise_line(1, taps, rows, vectors, step, p + row, scale, sums)
        if (rows - 1) * step + taps > 2:
            depthwise_line(2, taps, rows, vectors, step, p + 2 * row, scale, sums)
        if (rows - 1) * step + taps > 3:
            depthwise_line(3, taps, rows, vectors, step, p + 3 * row, scale, sums)
        if (rows - 1) * step + taps > 4:
            depthwise_line(4, taps, rows, vectors, step, p + 4 * row, scale, sums)
        if (rows - 1) * step + taps > 5:
            depthwise_line(5, taps, rows, vectors, step, p + 5 * row, scale, sums)
        if (rows - 1) * step + taps > 6:
            depthwise_line(6, taps, rows, vectors, step, p + 6 * row, scale, sums)
        if (rows - 1) * step + taps > 7:
            depthwise_line(7, taps, rows, vectors, step, p + 7 * row, scale, sums)
        if (rows - 1) * step + taps > 8:
            depthwise_line(8, taps, rows, vectors, step, p + 8 * row, scale, sums)


cdef struct depthwise_target:
    # output rows, `row` apart
    real *out
    int64_t row, step
    real bias


cdef inline void depthwise_block(int rows, int vectors, int step, const depthwise_input *d, const depthwise_panel *panel,
                                 const real *x, const real *weight, const depthwise_target *target, int64_t column,
                                 ) noexcept nogil:
    # `rows` x `vectors` vectors of outputs, from `column` of the panel on; x is what the first tap reads there.
    cdef vec sums[DEPTHWISE_ROWS * DEPTHWISE_VECTORS]
    cdef real *values = d.values
    cdef vec bias = vec_broadcast(target.bias)
    cdef real *out = target.out + (panel.column + column) * target.step
    cdef int64_t row = d.dh * panel.row, apart = d.apart * d.sh * panel.row, lanes = panel.columns - column, c, i
    cdef int r, v
    for r in range(rows * vectors):
        sums[r] = vec_zero()
    x += column
    for c in range(d.c):
        i = 0
        while i + 3 <= d.kh:
            depthwise_taps(3, rows, vectors, step, x + i * row, row, apart, panel.offsets, weight, d.kw, sums)
            weight += 3 * d.kw
            i += 3
        if i + 2 == d.kh:
            depthwise_taps(2, rows, vectors, step, x + i * row, row, apart, panel.offsets, weight, d.kw, sums)
        elif i + 1 == d.kh:
            depthwise_taps(1, rows, vectors, step, x + i * row, row, apart, panel.offsets, weight, d.kw, sums)
        weight += (d.kh - i) * d.kw
        x += panel.plane
    if target.step == 1 and lanes >= vectors * LANES:
        for r in range(rows):
            for v in range(vectors):
                vec_store(out + r * target.row + v * LANES, sums[r * vectors + v] + bias)
        return
    for r in range(rows * vectors):
        vec_store(values + r * LANES, sums[r] + bias)
    for i in range(rows * vectors):
        direct_store(
            out + i // vectors * target.row + i % vectors * LANES * target.step, vec_load(values + i * LANES),
            lanes - i % vectors * LANES, target.step,
        )


cdef inline void depthwise_rows(int rows, int step, const depthwise_input *d, const depthwise_panel *panel, const real *x,
                                const real *weight, const depthwise_target *target) noexcept nogil:
    cdef int64_t column = 0
    while column + DEPTHWISE_VECTORS * LANES < panel.columns + LANES:
        depthwise_block(rows, DEPTHWISE_VECTORS, step, d, panel, x, weight, target, column)
        column += DEPTHWISE_VECTORS * LANES
    while column < panel.columns:
        depthwise_block(rows, 1, step, d, panel, x, weight, target, column)
        column += LANES


cdef inline void depthwise_plane(const depthwise_input *d, const depthwise_panel *panel, int64_t rows,
                                 const real *weight, const depthwise_target *plane) noexcept nogil:
    # All outputs of a panel in one channel.
    cdef depthwise_target target = plane[0]
    cdef int64_t apart = d.apart * d.sh * panel.row, phase, row, count
    cdef const real *x
    target.row = plane.row * d.apart
    for phase in range(min(d.apart, rows)):
        count = ceil_div(rows - phase, d.apart)
        row = 0
        while row < count:
            if count >= DEPTHWISE_ROWS:
                # the last rows are done again where they do not fill a block
                row = min(row, count - DEPTHWISE_ROWS)
            x = panel.first + phase * d.sh * panel.row + row * apart
            target.out = plane.out + phase * plane.row + row * target.row
            if count < DEPTHWISE_ROWS:
                depthwise_rows(1, 1, d, panel, x, weight, &target)
                row += 1
                continue
            if d.step == 1:
                depthwise_rows(DEPTHWISE_ROWS, 1, d, panel, x, weight, &target)
            elif d.step == 2:
                depthwise_rows(DEPTHWISE_ROWS, 2, d, panel, x, weight, &target)
            else:
                depthwise_rows(DEPTHWISE_ROWS, 0, d, panel, x, weight, &target)
            row += DEPTHWISE_ROWS


cdef void depthwise_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const depthwise_forward_args *a = <const depthwise_forward_args *>args
    cdef depthwise_input d
    cdef depthwise_panel panel
    cdef depthwise_target target
    cdef int64_t blocks = ceil_div(a.oh, a.rows), item, top, group, image, channel, rows, k, c, i, j
    cdef const real *w
    cdef real *weights
    cdef real *weight
    d.x_c, d.x_h, d.c, d.ih, d.iw, d.oh, d.ow = a.x_c, a.x_h, a.c, a.ih, a.iw, a.oh, a.ow
    d.kh, d.kw, d.sh, d.sw, d.ph, d.pw, d.dh, d.dw = a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    d.columns = a.columns
    d.values = <real *>depthwise_prepare(&d, scratch)
    weights = d.values + DEPTHWISE_ROWS * DEPTHWISE_VECTORS * LANES
    d.copy = <real *>(<char *>weights + aligned(a.k * a.c * a.kh * a.kw * sizeof(real)))
    for item in range(begin, end):
        top = item % blocks * a.rows
        group = item // blocks % a.g
        image = item // blocks // a.g
        rows = min(a.rows, a.oh - top)
        weight = weights
        for k in range(a.k):
            for c in range(a.c):
                for i in range(a.kh):
                    w = <const real *>a.w + group * a.w_g + k * a.w_k + c * a.w_c + i * a.w_h
                    for j in range(a.kw):
                        weight[0] = w[j * a.w_w]
                        weight += 1
        d.x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        panel.column = panel.columns = 0
        while panel.column + panel.columns < a.ow:
            depthwise_next_panel(&d, top, rows, &panel)
            for k in range(a.k):
                channel = group * a.k + k
                target.out = <real *>a.out + image * a.out_n + channel * a.out_k + top * a.out_h
                target.row = a.out_h
                target.step = a.out_w
                target.bias = (<const real *>a.bias)[channel] if a.bias else 0
                depthwise_plane(&d, &panel, rows, weights + k * a.c * a.kh * a.kw, &target)


# The weight gradient: one vector of sums for each tap, taps by blocks of kernel rows and columns.

cdef inline void depthwise_dot_line(int line, int th, int tw, int rows, int step, const real *x, const int64_t *offsets,
                                    int64_t lanes, const vec *y, vec *sums) noexcept nogil:
    cdef vec value
    cdef int j, r
    for j in range(tw):
        value = vec_load(x + offsets[j]) if lanes == LANES else vec_load_partial(x + offsets[j], lanes)
        for r in range(rows):
            if 0 <= line - r * step < th:
                sums[(line - r * step) * tw + j] = vec_fma(y[r], value, sums[(line - r * step) * tw + j])


cdef inline void depthwise_dot_block(int th, int tw, int rows, int step, const real *x, int64_t row,
                                     const int64_t *offsets, const real *grad, int64_t grad_row, int64_t lanes,
                                     vec *sums) noexcept nogil:
    # Add the products of `rows` rows of LANES outputs.
    cdef vec y[DEPTHWISE_ROWS]
    cdef int r
    for r in range(rows):
        y[r] = vec_load(grad + r * grad_row) if lanes == LANES else vec_load_partial(grad + r * grad_row, lanes)
    depthwise_dot_line(0, th, tw, rows, step, x, offsets, lanes, y, sums)
    if (rows - 1) * step + th > 1:
        depthwise_dot_line(1, th, tw, rows, step, x + row, offsets, lanes, y, sums)
    if (rows - 1) * step + th > 2:
        depthwise_dot_line(2, th, tw, rows, step, x + 2 * row, offsets, lanes, y, sums)
    if (rows - 1) * step + th > 3:
        depthwise_dot_line(3, th, tw, rows, step, x + 3 * row, offsets, lanes, y, sums)
    if (rows - 1) * step + th > 4:
        depthwise_dot_line(4, th, tw, rows, step, x + 4 * row, offsets, lanes, y, sums)
    if (rows - 1) * step + th > 5:
        depthwise_dot_line(5, th, tw, rows, step, x + 5 * row, offsets, lanes, y, sums)
    if (rows - 1) * step + th > 6:
        depthwise_dot_line(6, th, tw, rows, step, x + 6 * row, offsets, lanes, y, sums)
    if (rows - 1) * step + th > 7:
        depthwise_dot_line(7, th, tw, rows, step, x + 7 * row, offsets, lanes, y, sums)
    if (rows - 1) * step + th > 8:
        depthwise_dot_line(8, th, tw, rows, step, x + 8 * row, offsets, lanes, y, sums)


cdef inline void depthwise_dot_taps(int th, int tw, int step, const depthwise_input *d, const depthwise_panel *panel,
                                    int64_t rows, int64_t i, int64_t j, const real *grad, int64_t y_h,
                                    real *totals) noexcept nogil:
    # Add a panel's products to the totals of th x tw taps from (i, j) on; a step of 0: one output row at a time.
    cdef vec sums[DEPTHWISE_TAPS * DEPTHWISE_TAPS]
    cdef int64_t row = d.dh * panel.row, apart = d.apart * d.sh * panel.row, phase, r, count, v
    cdef int64_t column = panel.columns // LANES * LANES
    cdef const int64_t *offsets = panel.offsets + j
    cdef const real *x
    cdef const real *y
    cdef int s, t
    for s in range(th):
        for t in range(tw):
            sums[s * tw + t] = vec_load(totals + (s * d.kw + t) * LANES)
    for phase in range(min(d.apart, rows)):
        count = ceil_div(rows - phase, d.apart)
        x = panel.first + phase * d.sh * panel.row + i * row
        y = grad + phase * y_h
        r = 0
        while r < count:
            if step and r + DEPTHWISE_ROWS <= count:
                for v in range(panel.columns // LANES):
                    depthwise_dot_block(
                        th, tw, DEPTHWISE_ROWS, step, x + v * LANES, row, offsets, y + v * LANES, d.apart * y_h, LANES, sums
                    )
                if column < panel.columns:
                    depthwise_dot_block(
                        th, tw, DEPTHWISE_ROWS, step, x + column, row, offsets, y + column, d.apart * y_h,
                        panel.columns - column, sums,
                    )
                r += DEPTHWISE_ROWS
                x += DEPTHWISE_ROWS * apart
                y += DEPTHWISE_ROWS * d.apart * y_h
                continue
            for v in range(panel.columns // LANES):
                depthwise_dot_block(th, tw, 1, 1, x + v * LANES, row, offsets, y + v * LANES, 0, LANES, sums)
            if column < panel.columns:
                depthwise_dot_block(
                    th, tw, 1, 1, x + column, row, offsets, y + column, 0, panel.columns - column, sums
                )
            r += 1
            x += apart
            y += d.apart * y_h
    for s in range(th):
        for t in range(tw):
            vec_store(totals + (s * d.kw + t) * LANES, sums[s * tw + t])


cdef inline void depthwise_dot_plane(int step, const depthwise_input *d, const depthwise_panel *panel, int64_t rows,
                                     const real *grad, int64_t y_h, real *totals) noexcept nogil:
    cdef int64_t i = 0, j
    while i < d.kh:
        j = 0
        while j < d.kw:
            if i + 3 <= d.kh and j + 3 <= d.kw:
                depthwise_dot_taps(3, 3, step, d, panel, rows, i, j, grad, y_h, totals + (i * d.kw + j) * LANES)
            elif i + 3 <= d.kh:
                depthwise_dot_taps(3, 1, step, d, panel, rows, i, j, grad, y_h, totals + (i * d.kw + j) * LANES)
            elif j + 3 <= d.kw:
                depthwise_dot_taps(1, 3, step, d, panel, rows, i, j, grad, y_h, totals + (i * d.kw + j) * LANES)
            else:
                depthwise_dot_taps(1, 1, step, d, panel, rows, i, j, grad, y_h, totals + (i * d.kw + j) * LANES)
            j += 3 if j + 3 <= d.kw else 1
        i += 3 if i + 3 <= d.kh else 1


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
    d.columns = a.columns
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
                depthwise_next_panel(&d, top, rows, &panel)
                for k in range(a.k):
                    grad = (
                        <const real *>a.y + image * a.y_n + (group * a.k + k) * a.y_k + top * a.y_h + panel.column
                    )
                    if d.step == 1:
                        depthwise_dot_plane(1, &d, &panel, rows, grad, a.y_h, totals + k * taps * LANES)
                    elif d.step == 2:
                        depthwise_dot_plane(2, &d, &panel, rows, grad, a.y_h, totals + k * taps * LANES)
                    else:
                        depthwise_dot_plane(0, &d, &panel, rows, grad, a.y_h, totals + k * taps * LANES)
        partial = <real *>a.partial + item * a.k * taps
        for i in range(a.k * taps):
            partial[i] = vec_sum(vec_load(totals + i * LANES))
