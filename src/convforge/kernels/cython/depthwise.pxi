# Depthwise convolution, and filters of one-channel images: output pixels in the lanes, weights broadcast.
#
# A strip is a few vectors of output columns. The sums of a strip roll down its rows: an input row is loaded once and
# added to all the output rows in flight that see it, of which the oldest is then complete. Loads are the bound, not
# arithmetic; this way there are as few as there can be (measured: twice the speed of blocks of 4 rows).
#
# Kernels of many rows take several passes of at most seven, whose sums wait in a buffer. Dilations of the rows are
# settled by taking outputs that are `apart` rows apart, whose taps then meet at rows that are `dh` apart: from one
# such output to the next are `step` of those.
#
# Borders, strides and dilations of the columns are settled before the sums: the input of a panel of outputs is copied
# into scratch memory, padded with zeros and with its columns split by their phase (column modulo stride), so that
# every tap reads whole vectors of neighbouring columns. Inner columns of wide maps of stride 1 are read in place;
# 3x3 kernels read everything in place where masked loads are cheap.
#
# The input gradient of stride 2 is a pair of convolutions of the same input, whose outputs alternate along the rows:
# what ends in 2 below belongs to the second.

cdef enum:
    DEPTHWISE_STRIP = 4  # vectors of a strip at most
    DEPTHWISE_SUMS = 16  # vectors of sums in flight at most
    DEPTHWISE_TAPS = 3  # kernel columns at a time in the weight gradient, at most

# how the three taps of a row are loaded
cdef enum:
    DEPTHWISE_WHOLE
    DEPTHWISE_MASKED
    DEPTHWISE_MASKED_PAIRS  # stride 2: even and odd columns of the same vectors, then those after the even ones


cdef struct depthwise_input:
    # the planes of one group of one image
    const real *x
    int64_t x_c, x_h, c, ih, iw, oh, ow, kh, kw, sh, sw, ph, pw, dh, dw
    int64_t kw2, pw2, ow2  # ow2 is 0 where there is no second convolution
    int64_t columns  # outputs of a panel at most, a multiple of LANES
    int64_t apart, step
    int64_t reach  # input columns that the taps of one output span
    int64_t width, phases  # columns of one phase of a copied row, and how many phases
    # scratch memory: offsets of the taps' columns in a copied panel and in place
    int64_t *offsets
    int64_t *offsets_in_place
    real *copy


cdef struct depthwise_panel:
    # what the first tap reads for the first of `columns` outputs, and its neighbours
    const real *first
    const int64_t *offsets
    int64_t row, plane, column, columns


cdef struct depthwise_strip:
    # `count` rows of outputs: what the first tap reads for the first of them, and its neighbours
    const real *x
    int64_t row, apart, count
    const int64_t *offsets
    int64_t kw, kw2
    const real *weight  # [kw][rows of the pass]
    const real *weight2
    # sums of earlier passes, or NULL, and where the new ones go
    const real *start
    real *out
    int64_t out_row, lanes
    real bias
    bint alternate
    # to mask: column of the first output's first tap, and the same for the line; lines further on are `zeros`
    int64_t line, line_step, line_apart, column, ih, iw
    const real *zeros


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
    d.offsets_in_place = d.offsets + d.kw + d.kw2
    for j in range(d.kw + d.kw2):
        d.offsets_in_place[j] = before - d.pw + j * d.dw if j < d.kw else before - d.pw2 + (j - d.kw) * d.dw
        d.reach = max(d.reach, d.offsets_in_place[j] + 1)
    d.pw = before
    d.phases = min(d.sw, d.reach)
    d.width = ceil_div(min(d.columns, d.ow) + (d.reach - 1) // d.sw, LANES) * LANES
    for j in range(d.kw + d.kw2):
        column = d.offsets_in_place[j]
        d.offsets[j] = column % d.sw * d.width + column // d.sw
    return scratch + aligned(2 * (d.kw + d.kw2) * sizeof(int64_t))


cdef inline void depthwise_copy(const depthwise_input *d, int64_t line, int64_t lines, int64_t first) noexcept nogil:
    # Copy `lines` input rows of every channel from column `first` on. Rows innermost, for they share their masks.
    cdef int64_t row = d.width * d.phases, top = clamp(-line, 0, lines), bottom = clamp(d.ih - line, top, lines)
    cdef int64_t c, i, v, phase, column
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
        for v in range(d.width // LANES):
            target = d.copy + (c * lines + top) * row + v * LANES
            column = first + v * LANES * d.sw
            x = d.x + c * d.x_c + (line + top) * d.x_h + column
            if d.sw == 1:
                mask = vec_lanes_between(-column, d.iw - column)
                for i in range(bottom - top):
                    vec_store(target, vec_load_masked(x, mask))
                    x += d.x_h
                    target += row
            elif d.sw == 2 and d.phases == 2:
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


cdef inline void depthwise_next_panel(const depthwise_input *d, int64_t top, int64_t rows,
                                      depthwise_panel *panel) noexcept nogil:
    # The panel after `panel`, for the output rows from `top` on.
    cdef int64_t column = panel.column + panel.columns, first = column * d.sw - d.pw, line = top * d.sh - d.ph
    cdef int64_t lines = (rows - 1) * d.sh + (d.kh - 1) * d.dh + 1
    cdef bint wide = d.sw == 1 and d.ow > d.columns and line >= 0 and line + lines <= d.ih
    panel.column = column
    panel.columns = min(d.ow - column, d.columns)
    if wide:
        # as many whole vectors as all taps find inside the row
        panel.columns = min(d.ow - column, (d.iw - d.reach + 1 - first) // LANES * LANES)
        if first >= 0 and panel.columns > 0:
            panel.first = d.x + line * d.x_h + first
            panel.offsets = d.offsets_in_place
            panel.row = d.x_h
            panel.plane = d.x_c
            return
        panel.columns = min(d.ow - column, min(d.columns, <int64_t>(2 * LANES)))
    depthwise_copy(d, line, lines, first)
    panel.first = d.copy
    panel.offsets = d.offsets
    panel.row = d.width * d.phases
    panel.plane = lines * panel.row


cdef inline int64_t depthwise_chunk(int64_t rest, int64_t step, bint pair) noexcept nogil:
    # Kernel rows of the next pass, of those that rest. With a step beyond 2 outputs share no input rows.
    if step <= 2 and rest >= 5 and not pair:
        return 7 if rest >= 7 else 5
    return min(rest, <int64_t>3)


cdef inline void depthwise_put(real *out, vec value, vec_mask mask, bint whole) noexcept nogil:
    if whole and not MASKED_LOADS:
        vec_store(out, value)
    else:
        vec_store_masked(out, value, mask)


cdef inline void depthwise_finish(int vectors, bint pair, bint alternate, real *out, const vec_mask *masks, bint whole,
                                  vec bias, const vec *sums, const vec *sums2) noexcept nogil:
    # Store a row of outputs that is complete.
    cdef int v
    for v in range(vectors):
        if not pair:
            depthwise_put(out + v * LANES, sums[v] + bias, masks[v], whole)
        elif alternate:
            depthwise_put(out + 2 * v * LANES, vec_low(sums[v], sums2[v]), masks[2 * v], whole)
            depthwise_put(out + (2 * v + 1) * LANES, vec_high(sums[v], sums2[v]), masks[2 * v + 1], whole)
        else:
            vec_store(out + v * LANES, sums[v])
            vec_store(out + (vectors + v) * LANES, sums2[v])


cdef inline void depthwise_start(int vectors, const real *start, vec *sums) noexcept nogil:
    cdef int v
    for v in range(vectors):
        sums[v] = vec_zero() if start == NULL else vec_load(start + v * LANES)


cdef inline void depthwise_age(int flight, int vectors, vec *sums) noexcept nogil:
    # Make room for the next outputs at sums[0].
    cdef int i, v
    for i in range(flight - 1):
        for v in range(vectors):
            sums[(flight - 1 - i) * vectors + v] = sums[(flight - 2 - i) * vectors + v]


cdef inline void depthwise_row(int u, int kh, int vectors, int step, int flight, const real *x, const int64_t *offsets,
                               const real *weight, int64_t kw, vec *sums) noexcept nogil:
    # Add an input row, the `u`-th of a step, to the outputs in flight; sums[0] is the newest.
    cdef vec a[DEPTHWISE_STRIP]
    cdef vec scale
    cdef int64_t j
    cdef int i, v
    for j in range(kw):
        for v in range(vectors):
            a[v] = vec_load(x + offsets[j] + v * LANES)
        for i in range(flight):
            if i * step + u < kh:
                scale = vec_broadcast(weight[i * step + u])
                for v in range(vectors):
                    sums[i * vectors + v] = vec_fma(scale, a[v], sums[i * vectors + v])
        weight += kh


cdef inline void depthwise_roll(int kh, int vectors, int step, bint pair, const depthwise_strip *s) noexcept nogil:
    # One pass of `kh` kernel rows over a strip. A step of 0 is any that is at least kh: one output in flight.
    cdef vec sums[DEPTHWISE_SUMS]
    cdef vec sums2[DEPTHWISE_SUMS]
    cdef vec_mask masks[DEPTHWISE_STRIP]
    cdef vec bias = vec_broadcast(s.bias)
    cdef int flight = (kh + step - 1) // step if step else 1, stores = 2 * vectors if pair else vectors
    cdef const int64_t *offsets = s.offsets
    cdef const real *x = s.x
    cdef const real *start = s.start
    cdef const real *weight = s.weight
    cdef const real *weight2 = s.weight2
    cdef real *out = s.out - (flight - 1) * s.out_row
    cdef int64_t q, kw = s.kw, kw2 = s.kw2, row = s.row, apart = s.apart, count = s.count, out_row = s.out_row
    cdef bint whole = s.lanes >= stores * LANES, alternate = s.alternate
    cdef int i, v
    for v in range(stores):
        masks[v] = vec_lanes_between(0, s.lanes - v * LANES)
    for i in range(flight):
        depthwise_start(vectors, NULL, sums + i * vectors)
        if pair:
            depthwise_start(vectors, NULL, sums2 + i * vectors)
    for q in range(count + flight - 1):
        depthwise_age(flight, vectors, sums)
        depthwise_start(vectors, start if q < count else NULL, sums)
        depthwise_row(0, kh, vectors, step, flight, x, offsets, weight, kw, sums)
        if pair:
            depthwise_age(flight, vectors, sums2)
            depthwise_start(vectors, start + vectors * LANES if start != NULL and q < count else NULL, sums2)
            depthwise_row(0, kh, vectors, step, flight, x, offsets + kw, weight2, kw2, sums2)
        # the last row that an odd number of taps needs is an even one
        if (step == 0 and kh > 1) or (step == 2 and (kh % 2 == 0 or q + 2 < count + flight)):
            depthwise_row(1, kh, vectors, step, flight, x + row, offsets, weight, kw, sums)
        if step == 0 and kh > 2:
            depthwise_row(2, kh, vectors, step, flight, x + 2 * row, offsets, weight, kw, sums)
        if q >= flight - 1:
            depthwise_finish(
                vectors, pair, alternate, out, masks, whole, bias, sums + (flight - 1) * vectors,
                sums2 + (flight - 1) * vectors,
            )
        x += apart
        out += out_row
        if start != NULL:
            start += DEPTHWISE_STRIP * LANES


cdef inline void depthwise_load_3(int load, int vectors, const real *x, const int64_t *offsets, const vec_mask *masks,
                                  vec *a) noexcept nogil:
    cdef vec lower, upper
    cdef int v, j
    for v in range(vectors):
        if load == DEPTHWISE_MASKED_PAIRS:
            lower = vec_load_masked(x + 2 * v * LANES, masks[4 * v])
            upper = vec_load_masked(x + (2 * v + 1) * LANES, masks[4 * v + 1])
            a[3 * v] = vec_even(lower, upper)
            a[3 * v + 1] = vec_odd(lower, upper)
            lower = vec_load_masked(x + 2 * v * LANES + 2, masks[4 * v + 2])
            upper = vec_load_masked(x + (2 * v + 1) * LANES + 2, masks[4 * v + 3])
            a[3 * v + 2] = vec_even(lower, upper)
        else:
            for j in range(3):
                if load == DEPTHWISE_MASKED:
                    a[3 * v + j] = vec_load_masked(x + j + v * LANES, masks[3 * v + j])
                else:
                    a[3 * v + j] = vec_load(x + offsets[j] + v * LANES)


cdef inline void depthwise_row_3(int u, int vectors, int step, int flight, const vec *scale, const vec *a,
                                 vec *sums) noexcept nogil:
    cdef int i, j, v
    for i in range(flight):
        if i * step + u < 3:
            for j in range(3):
                for v in range(vectors):
                    sums[i * vectors + v] = vec_fma(scale[3 * j + i * step + u], a[3 * v + j], sums[i * vectors + v])


cdef inline void depthwise_roll_3(int load, int vectors, int step, const depthwise_strip *s) noexcept nogil:
    # The same for 3x3 kernels: their weights stay in registers, and so do the masks.
    cdef vec sums[DEPTHWISE_SUMS]
    cdef vec a[3 * DEPTHWISE_STRIP]
    cdef vec scale[9]
    cdef vec_mask masks[DEPTHWISE_STRIP]
    cdef vec_mask load_masks[4 * DEPTHWISE_STRIP]
    cdef vec bias = vec_broadcast(s.bias)
    cdef int64_t offsets[3]
    cdef int flight = 3 if step == 1 else 2
    cdef const real *x = s.x
    cdef const real *start = s.start
    cdef const real *zeros = s.zeros
    cdef real *out = s.out - (flight - 1) * s.out_row
    cdef int64_t q, row = s.row, apart = s.apart, count = s.count, out_row = s.out_row
    cdef int64_t line = s.line, line_step = s.line_step, line_apart = s.line_apart, ih = s.ih, column
    cdef bint whole = s.lanes >= vectors * LANES
    cdef int i, j, v
    for i in range(9):
        scale[i] = vec_broadcast(s.weight[i])
    for j in range(3):
        offsets[j] = s.offsets[j]
    for v in range(vectors):
        masks[v] = vec_lanes_between(0, s.lanes - v * LANES)
        if load == DEPTHWISE_MASKED:
            for j in range(3):
                column = s.column + j + v * LANES
                load_masks[3 * v + j] = vec_lanes_between(-column, s.iw - column)
        elif load == DEPTHWISE_MASKED_PAIRS:
            for j in range(4):
                column = s.column + (2 * v + j % 2) * LANES + j // 2 * 2
                load_masks[4 * v + j] = vec_lanes_between(-column, s.iw - column)
    for i in range(flight):
        depthwise_start(vectors, NULL, sums + i * vectors)
    for q in range(count + flight - 1):
        depthwise_age(flight, vectors, sums)
        depthwise_start(vectors, start if q < count else NULL, sums)
        depthwise_load_3(
            load, vectors, x if load == DEPTHWISE_WHOLE or 0 <= line < ih else zeros, offsets, load_masks, a
        )
        depthwise_row_3(0, vectors, step, flight, scale, a, sums)
        if step == 2 and q + 2 < count + flight:
            depthwise_load_3(
                load, vectors, x + row if load == DEPTHWISE_WHOLE or 0 <= line + line_step < ih else zeros, offsets,
                load_masks, a,
            )
            depthwise_row_3(1, vectors, step, flight, scale, a, sums)
        if q >= flight - 1:
            depthwise_finish(vectors, False, False, out, masks, whole, bias, sums + (flight - 1) * vectors, NULL)
        x += apart
        line += line_apart
        out += out_row
        if start != NULL:
            start += DEPTHWISE_STRIP * LANES


cdef void depthwise_pass(int64_t kh, int64_t vectors, int64_t step, bint pair, int load,
                         const depthwise_strip *s) noexcept nogil:
    if load == DEPTHWISE_MASKED:
        if vectors == 4:
            depthwise_roll_3(DEPTHWISE_MASKED, 4, 1, s)
        elif vectors == 2:
            depthwise_roll_3(DEPTHWISE_MASKED, 2, 1, s)
        else:
            depthwise_roll_3(DEPTHWISE_MASKED, 1, 1, s)
    elif load == DEPTHWISE_MASKED_PAIRS:
        if vectors == 2:
            depthwise_roll_3(DEPTHWISE_MASKED_PAIRS, 2, 2, s)
        else:
            depthwise_roll_3(DEPTHWISE_MASKED_PAIRS, 1, 2, s)
    elif pair:
        if vectors == 2:
            if kh == 3:
                depthwise_roll(3, 2, 1, True, s)
            elif kh == 2:
                depthwise_roll(2, 2, 1, True, s)
            else:
                depthwise_roll(1, 2, 1, True, s)
        else:
            if kh == 3:
                depthwise_roll(3, 1, 1, True, s)
            elif kh == 2:
                depthwise_roll(2, 1, 1, True, s)
            else:
                depthwise_roll(1, 1, 1, True, s)
    elif step == 1 and vectors == 2:
        if kh == 7:
            depthwise_roll(7, 2, 1, False, s)
        elif kh == 5:
            depthwise_roll(5, 2, 1, False, s)
        elif kh == 3 and s.kw == 3:
            depthwise_roll_3(DEPTHWISE_WHOLE, 2, 1, s)
        elif kh == 3:
            depthwise_roll(3, 2, 1, False, s)
        elif kh == 2:
            depthwise_roll(2, 2, 1, False, s)
        else:
            depthwise_roll(1, 2, 1, False, s)
    elif step == 1:
        if kh == 7:
            depthwise_roll(7, 1, 1, False, s)
        elif kh == 5:
            depthwise_roll(5, 1, 1, False, s)
        elif kh == 3 and s.kw == 3:
            depthwise_roll_3(DEPTHWISE_WHOLE, 1, 1, s)
        elif kh == 3:
            depthwise_roll(3, 1, 1, False, s)
        elif kh == 2:
            depthwise_roll(2, 1, 1, False, s)
        else:
            depthwise_roll(1, 1, 1, False, s)
    elif step == 2 and kh >= 3 and vectors == 2:
        if kh == 7:
            depthwise_roll(7, 2, 2, False, s)
        elif kh == 5:
            depthwise_roll(5, 2, 2, False, s)
        elif s.kw == 3:
            depthwise_roll_3(DEPTHWISE_WHOLE, 2, 2, s)
        else:
            depthwise_roll(3, 2, 2, False, s)
    elif step == 2 and kh >= 3:
        if kh == 7:
            depthwise_roll(7, 1, 2, False, s)
        elif kh == 5:
            depthwise_roll(5, 1, 2, False, s)
        elif s.kw == 3:
            depthwise_roll_3(DEPTHWISE_WHOLE, 1, 2, s)
        else:
            depthwise_roll(3, 1, 2, False, s)
    elif vectors == 2:
        if kh == 3:
            depthwise_roll(3, 2, 0, False, s)
        elif kh == 2:
            depthwise_roll(2, 2, 0, False, s)
        else:
            depthwise_roll(1, 2, 0, False, s)
    else:
        if kh == 3:
            depthwise_roll(3, 1, 0, False, s)
        elif kh == 2:
            depthwise_roll(2, 1, 0, False, s)
        else:
            depthwise_roll(1, 1, 0, False, s)


cdef struct depthwise_work:
    # what an item's strips share
    const real *weight  # of one output channel: [c][passes][kw][rows of the pass]
    const real *weight2
    real *out  # first row and column
    int64_t out_h, out_w, top, rows
    real bias
    real *buffer  # [rows][DEPTHWISE_STRIP][LANES]
    int load


cdef void depthwise_strip_rows(const depthwise_input *d, const depthwise_panel *panel, const depthwise_work *work,
                               int64_t column, int64_t vectors) noexcept nogil:
    # All rows of a strip of one channel, `column` counted in the panel.
    cdef depthwise_strip s
    cdef bint pair = d.ow2 > 0
    cdef int64_t times = 2 if pair else 1, first = times * (panel.column + column), phase, c, i, j, chunk, lanes
    cdef const real *weight
    cdef const real *weight2
    cdef real *out
    s.row = d.dh * panel.row
    s.apart = d.apart * d.sh * panel.row
    s.offsets = panel.offsets
    s.kw = d.kw
    s.kw2 = d.kw2
    s.column = (panel.column + column) * d.sw - d.pw
    s.ih = d.ih
    s.iw = d.iw
    s.line_step = d.dh
    s.line_apart = d.apart * d.sh
    s.zeros = d.copy
    lanes = min(times * vectors * LANES, d.ow + d.ow2 - first)
    for phase in range(min(d.apart, work.rows)):
        s.count = ceil_div(work.rows - phase, d.apart)
        out = work.out + phase * work.out_h + first * work.out_w
        weight = work.weight
        weight2 = work.weight2
        s.start = NULL
        for c in range(d.c):
            i = 0
            while i < d.kh:
                chunk = depthwise_chunk(d.kh - i, d.step, pair)
                s.x = panel.first + c * panel.plane + (phase * d.sh + i * d.dh) * panel.row
                s.x += column if work.load == DEPTHWISE_WHOLE else column * d.sw
                s.line = (work.top + phase) * d.sh - d.ph + i * d.dh
                s.weight = weight
                s.weight2 = weight2
                weight += chunk * d.kw
                weight2 += chunk * d.kw2
                i += chunk
                if work.out_w == 1 and c + 1 == d.c and i == d.kh:
                    s.out = out
                    s.out_row = d.apart * work.out_h
                    s.lanes = lanes
                    s.bias = work.bias
                    s.alternate = True
                else:
                    s.out = work.buffer
                    s.out_row = DEPTHWISE_STRIP * LANES
                    s.lanes = s.out_row
                    s.bias = 0
                    s.alternate = False
                depthwise_pass(chunk, vectors, d.step, pair, work.load, &s)
                s.start = work.buffer
        if work.out_w != 1:
            for i in range(s.count):
                for j in range(lanes):
                    out[i * d.apart * work.out_h + j * work.out_w] = (
                        work.buffer[i * DEPTHWISE_STRIP * LANES + j] + work.bias
                    )


cdef inline void depthwise_strips(const depthwise_input *d, const depthwise_panel *panel,
                                  const depthwise_work *work) noexcept nogil:
    cdef int64_t column = 0, vectors
    while column < panel.columns:
        vectors = 4 if work.load == DEPTHWISE_MASKED else 2
        while vectors > 1 and column + (vectors - 1) * LANES >= panel.columns:
            vectors //= 2
        depthwise_strip_rows(d, panel, work, column, vectors)
        column += vectors * LANES


cdef inline real *depthwise_gather(const depthwise_input *d, const real *w, int64_t w_k, int64_t w_c, int64_t w_h,
                                   int64_t w_w, int64_t k, int64_t kw, real *weight) noexcept nogil:
    # The weights of a group, [k][c][passes][kw][rows of the pass]; returns their end.
    cdef int64_t m, c, i, j, t, chunk
    for m in range(k):
        for c in range(d.c):
            i = 0
            while i < d.kh:
                chunk = depthwise_chunk(d.kh - i, d.step, d.ow2 > 0)
                for j in range(kw):
                    for t in range(chunk):
                        weight[0] = w[m * w_k + c * w_c + (i + t) * w_h + j * w_w]
                        weight += 1
                i += chunk
    return weight


cdef inline void depthwise_narrow(int load, int planes, int step, const depthwise_forward_args *a, int64_t begin,
                                  int64_t end) noexcept nogil:
    # 3x3 kernels on maps of one vector, or of half a vector: then two planes fill one. Whole planes, nothing is copied:
    # what a plane costs beside its rows is a good part of small maps.
    cdef vec sums[3]
    cdef vec taps[3]
    cdef vec scale[9]
    cdef vec lower, upper
    cdef vec bias = vec_zero()
    cdef vec_mask masks[6]
    cdef vec_mask store_masks[2]
    cdef const real *x[2]
    cdef const real *p[2]
    cdef const real *w[2]
    cdef real *out[2]
    cdef real bias_2[2]
    cdef int64_t part = LANES // planes, item, plane, group, line, q, column
    cdef int flight = 3 if step == 1 else 2, i, j, t
    for i in range(planes):
        # lanes of the plane; a plane of the upper half is read and written from half a vector before it
        store_masks[i] = vec_lanes_between(i * part, i * part + a.ow)
        for j in range(3):
            if load == DEPTHWISE_MASKED:
                column = j - a.pw
                masks[3 * i + j] = vec_lanes_between(
                    i * part + max(-column, <int64_t>0), i * part + min(a.iw - column, part)
                )
    if load == DEPTHWISE_MASKED_PAIRS:
        for j in range(4):
            column = (0 if planes == 2 else j % 2) * LANES + j // 2 * 2 - a.pw
            masks[j] = vec_lanes_between(-column, a.iw - column)
    item = begin
    while item < end:
        for i in range(planes):
            plane = min(item + i, end - 1)
            group = plane % a.g
            x[i] = <const real *>a.x + plane // a.g * a.x_n + group * a.x_c - a.ph * a.x_h - a.pw
            out[i] = <real *>a.out + plane // a.g * a.out_n + group * a.out_k - (flight - 1) * a.out_h
            w[i] = <const real *>a.w + group * a.w_g
            bias_2[i] = (<const real *>a.bias)[group] if a.bias else 0
            if load == DEPTHWISE_MASKED:
                x[i] -= i * part
            out[i] -= i * part
        bias = vec_broadcast(bias_2[0])
        if planes == 2:
            bias = vec_halves(bias, vec_broadcast(bias_2[1]))
        for t in range(3):
            for j in range(3):
                scale[3 * j + t] = vec_broadcast(w[0][t * a.w_h + j * a.w_w])
                if planes == 2:
                    scale[3 * j + t] = vec_halves(scale[3 * j + t], vec_broadcast(w[1][t * a.w_h + j * a.w_w]))
        line = -a.ph
        for i in range(flight):
            sums[i] = vec_zero()
        for q in range(a.oh + flight - 1):
            depthwise_age(flight, 1, sums)
            sums[0] = vec_zero()
            for t in range(step):
                if 0 <= line < a.ih:
                    if load == DEPTHWISE_MASKED:
                        for j in range(3):
                            taps[j] = vec_load_masked(x[0] + j, masks[j])
                            if planes == 2:
                                taps[j] = taps[j] + vec_load_masked(x[1] + j, masks[3 + j])
                    else:
                        # two planes: the even columns of both are those of the two vectors one after the other
                        p[0] = x[0]
                        p[1] = x[1] if planes == 2 else x[0] + LANES
                        lower = vec_load_masked(p[0], masks[0])
                        upper = vec_load_masked(p[1], masks[1])
                        taps[0] = vec_even(lower, upper)
                        taps[1] = vec_odd(lower, upper)
                        lower = vec_load_masked(p[0] + 2, masks[2])
                        upper = vec_load_masked(p[1] + 2, masks[3])
                        taps[2] = vec_even(lower, upper)
                else:
                    for j in range(3):
                        taps[j] = vec_zero()
                depthwise_row_3(t, 1, step, flight, scale, taps, sums)
                for i in range(planes):
                    x[i] += a.x_h
                line += 1
                if t == 0:
                    # an odd number of rows meets the oldest outputs: they are complete
                    if q >= flight - 1:
                        for i in range(planes):
                            if i == 0 or item + 1 < end:
                                vec_store_masked(out[i], sums[flight - 1] + bias, store_masks[i])
                    for i in range(planes):
                        out[i] += a.out_h
        item += planes


cdef void depthwise_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const depthwise_forward_args *a = <const depthwise_forward_args *>args
    cdef depthwise_input d
    cdef depthwise_panel panel
    cdef depthwise_work work
    cdef int64_t blocks = ceil_div(a.oh, a.rows), item, group, image, channel, k, i
    cdef real *weights
    cdef real *weights2
    d.x_c, d.x_h, d.c, d.ih, d.iw, d.oh, d.ow = a.x_c, a.x_h, a.c, a.ih, a.iw, a.oh, a.ow
    d.kh, d.kw, d.sh, d.sw, d.ph, d.pw, d.dh, d.dw = a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    d.kw2, d.pw2, d.ow2 = a.kw2, a.pw2, a.ow2
    d.columns = a.columns
    work.buffer = <real *>depthwise_prepare(&d, scratch)
    weights = work.buffer + a.rows * DEPTHWISE_STRIP * LANES
    weights2 = weights + a.k * a.c * a.kh * a.kw
    d.copy = <real *>(<char *>weights + aligned(a.k * a.c * a.kh * (a.kw + a.kw2) * sizeof(real)))
    work.out_h = a.out_h
    work.out_w = a.out_w
    work.load = DEPTHWISE_WHOLE
    if MASKED_LOADS and d.kh == 3 and d.kw == 3 and d.dw == 1 and d.ow2 == 0:
        if d.step == 1 and d.sw == 1:
            work.load = DEPTHWISE_MASKED
        elif d.step == 2 and d.sw == 2:
            work.load = DEPTHWISE_MASKED_PAIRS
    if work.load != DEPTHWISE_WHOLE and a.c * a.k * a.dh * a.out_w == 1 and a.rows >= a.oh and a.ow <= LANES:
        if a.sw == 1 and 2 * a.ow <= LANES:
            depthwise_narrow(DEPTHWISE_MASKED, 2, 1, a, begin, end)
        elif a.sw == 1:
            depthwise_narrow(DEPTHWISE_MASKED, 1, 1, a, begin, end)
        elif 2 * a.ow <= LANES:
            depthwise_narrow(DEPTHWISE_MASKED_PAIRS, 2, 2, a, begin, end)
        else:
            depthwise_narrow(DEPTHWISE_MASKED_PAIRS, 1, 2, a, begin, end)
        return
    if work.load != DEPTHWISE_WHOLE:
        # lines outside of the input
        for i in range(ceil_div(d.reach, LANES) + DEPTHWISE_STRIP):
            vec_store(d.copy + i * LANES, vec_zero())
    for item in range(begin, end):
        work.top = item % blocks * a.rows
        work.rows = min(a.rows, a.oh - work.top)
        group = item // blocks % a.g
        image = item // blocks // a.g
        depthwise_gather(
            &d, <const real *>a.w + group * a.w_g, a.w_k, a.w_c, a.w_h, a.w_w, a.k, a.kw, weights
        )
        if a.kw2:
            depthwise_gather(
                &d, <const real *>a.w2 + group * a.w_g, a.w_k, a.w_c, a.w_h, a.w_w, a.k, a.kw2, weights2
            )
        d.x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        panel.column = panel.columns = 0
        while panel.column + panel.columns < a.ow:
            if work.load == DEPTHWISE_WHOLE:
                depthwise_next_panel(&d, work.top, work.rows, &panel)
            else:
                panel.first = d.x + (work.top * d.sh - d.ph) * d.x_h - d.pw
                panel.offsets = d.offsets_in_place
                panel.row = d.x_h
                panel.plane = d.x_c
                panel.columns = a.ow
            for k in range(a.k):
                channel = group * a.k + k
                work.out = <real *>a.out + image * a.out_n + channel * a.out_k + work.top * a.out_h
                work.bias = (<const real *>a.bias)[channel] if a.bias else 0
                work.weight = weights + k * a.c * a.kh * a.kw
                work.weight2 = weights2 + k * a.c * a.kh * a.kw2
                depthwise_strips(&d, &panel, &work)


# The weight gradient: a vector of sums for each tap. An input row is multiplied by all the rows of grad_output in
# flight whose taps meet it.

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
    cdef vec sums[DEPTHWISE_SUMS]
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
                th = depthwise_chunk(d.kh - i, d.step, False)
                s.x = panel.first + (phase * d.sh + i * d.dh) * panel.row + column
                j = 0
                while j < d.kw:
                    tw = depthwise_dot_columns(th, d.kw - j)
                    s.offsets = panel.offsets + j
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
    d.kw2 = d.pw2 = d.ow2 = 0
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
                grad = <const real *>a.y + image * a.y_n + group * a.k * a.y_k + top * a.y_h + panel.column
                for k in range(a.k):
                    depthwise_dot_panel(&d, &panel, rows, grad + k * a.y_k, a.y_h, totals + k * taps * LANES)
        partial = <real *>a.partial + item * a.k * taps
        for i in range(a.k * taps):
            partial[i] = vec_sum(vec_load(totals + i * LANES))
