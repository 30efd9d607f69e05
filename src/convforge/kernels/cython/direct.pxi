# Direct convolution: sums taken in place from the input, output pixels of a row in the lanes.
# A segment is LANES neighbouring pixels of one output row. A tile is VECTORS segments, of any rows, times ROWS output
# channels; it steps through the input by a table of taps: where each one reads, and which lanes lie inside the row.

# Fields of an entry in the table of taps; after them lo and hi of each segment: lanes lo <= lane < hi are inside.
cdef enum:
    TAP_OFFSET  # in the input, from the segment's first pixel
    TAP_PLAIN  # every segment may be loaded whole
    TAP_LANES


cdef inline int64_t ceiling(int64_t a, int64_t b) noexcept nogil:
    # a / b rounded up, for any a and b > 0
    return (a + b - 1) // b if a > 0 else -(-a // b)


cdef inline int64_t clamp(int64_t value, int64_t low, int64_t high) noexcept nogil:
    return low if value < low else high if value > high else value


cdef inline vec direct_load(const real *p, int64_t step) noexcept nogil:
    # LANES reals, step apart; a step of 2 reads the one after the last as well
    if step == 1:
        return vec_load(p)
    if step == 2:
        return vec_even(vec_load(p), vec_load(p + LANES))
    return vec_load_strided(p, step, 0, LANES)


cdef inline int64_t direct_reach(int64_t step) noexcept nogil:
    # pixels from the first to the last that direct_load reads
    return step * LANES if step <= 2 else step * (LANES - 1) + 1


cdef inline void direct_store(real *p, vec v, int64_t lanes, int64_t step) noexcept nogil:
    # the first `lanes` lanes, `step` apart
    cdef real values[LANES]
    cdef int64_t i
    if step != 1:
        vec_store(values, v)
        for i in range(min(lanes, <int64_t>LANES)):
            p[i * step] = values[i]
    elif lanes >= LANES:
        vec_store(p, v)
    else:
        vec_store_partial(p, v, lanes)


cdef inline void direct_plan_taps(const direct_forward_args *a, int64_t tile, int64_t segments, int64_t *tap,
                                  const real **sources, const real *x) noexcept nogil:
    # Fill the table of taps for one tile, and each segment's first source pixel.
    cdef int64_t per_row = ceil_div(a.ow, LANES)
    cdef int64_t top[VECTORS]
    cdef int64_t left[VECTORS]
    cdef int64_t i, j, s, segment, column, lo, hi, reach = direct_reach(a.sw)
    cdef bint plain
    for s in range(VECTORS):
        segment = min(tile * VECTORS + s, segments - 1)
        top[s] = segment // per_row * a.sh - a.ph
        left[s] = segment % per_row * LANES * a.sw - a.pw
        sources[s] = x + top[s] * a.x_h + left[s]
    for i in range(a.kh):
        for j in range(a.kw):
            plain = True
            for s in range(VECTORS):
                column = left[s] + j * a.dw
                lo = hi = 0
                if 0 <= top[s] + i * a.dh < a.ih:
                    lo = clamp(ceiling(-column, a.sw), 0, LANES)
                    hi = clamp(ceiling(a.iw - column, a.sw), lo, LANES)
                tap[TAP_LANES + 2 * s] = lo
                tap[TAP_LANES + 2 * s + 1] = hi
                plain = plain and lo == 0 and hi == LANES and column + reach <= a.iw
            tap[TAP_OFFSET] = i * a.dh * a.x_h + j * a.dw
            tap[TAP_PLAIN] = plain
            tap += TAP_LANES + 2 * VECTORS


cdef inline void direct_tile(const direct_forward_args *a, const int64_t *tap, const real **sources,
                             const real *weight, real *tile, int64_t step) noexcept nogil:
    # tile[ROWS][VECTORS][LANES] = weight x input over all channels and taps
    cdef const real *p[VECTORS]
    cdef vec sums[ROWS][VECTORS]
    cdef vec row[VECTORS]
    cdef vec scale
    cdef int64_t c, t
    cdef int i, s
    for s in range(VECTORS):
        p[s] = sources[s]
        for i in range(ROWS):
            sums[i][s] = vec_zero()
    for c in range(a.c):
        for t in range(a.kh * a.kw):
            if tap[TAP_PLAIN]:
                for s in range(VECTORS):
                    row[s] = direct_load(p[s] + tap[TAP_OFFSET], step)
            else:
                for s in range(VECTORS):
                    row[s] = vec_load_strided(
                        p[s] + tap[TAP_OFFSET], step, tap[TAP_LANES + 2 * s], tap[TAP_LANES + 2 * s + 1]
                    )
            for i in range(ROWS):
                scale = vec_broadcast(weight[i])
                for s in range(VECTORS):
                    sums[i][s] = vec_fma(scale, row[s], sums[i][s])
            weight += ROWS
            tap += TAP_LANES + 2 * VECTORS
        tap -= a.kh * a.kw * (TAP_LANES + 2 * VECTORS)
        for s in range(VECTORS):
            p[s] += a.x_c
    for i in range(ROWS):
        for s in range(VECTORS):
            vec_store(tile + (i * VECTORS + s) * LANES, sums[i][s])


cdef inline void direct_forward_items(const direct_forward_args *a, char *scratch, int64_t begin, int64_t end,
                                      int64_t step) noexcept nogil:
    cdef const real *sources[VECTORS]
    cdef real *values = <real *>scratch
    cdef int64_t *table = <int64_t *>(values + ROWS * COLUMNS)
    cdef int64_t per_row = ceil_div(a.ow, LANES), segments = a.oh * per_row
    cdef int64_t tiles = ceil_div(segments, VECTORS), blocks = ceil_div(a.k, ROWS), depth = a.c * a.kh * a.kw
    cdef int64_t item, tile, part, group, image, block, segment, column, first, i, s
    cdef const real *bias
    cdef real *out
    cdef vec start
    for item in range(begin, end):
        tile = item % tiles
        part = item // tiles % a.splits
        group = item // tiles // a.splits % a.g
        image = item // tiles // a.splits // a.g
        direct_plan_taps(
            a, tile, segments, table, sources, <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        )
        for block in range(part * blocks // a.splits, (part + 1) * blocks // a.splits):
            direct_tile(
                a, table, sources, <const real *>a.packed + (group * blocks + block) * depth * ROWS, values, step
            )
            first = group * a.k + block * ROWS
            bias = <const real *>a.bias + first if a.bias else NULL
            for s in range(min(<int64_t>VECTORS, segments - tile * VECTORS)):
                segment = tile * VECTORS + s
                column = segment % per_row * LANES
                out = <real *>a.out + image * a.out_n + first * a.out_k + segment // per_row * a.out_h + column * a.out_w
                for i in range(min(<int64_t>ROWS, a.k - block * ROWS)):
                    start = vec_zero() if bias == NULL else vec_broadcast(bias[i])
                    direct_store(
                        out + i * a.out_k, vec_load(values + (i * VECTORS + s) * LANES) + start, a.ow - column, a.out_w
                    )


cdef void direct_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const direct_forward_args *a = <const direct_forward_args *>args
    if a.sw == 1:
        direct_forward_items(a, scratch, begin, end, 1)
    elif a.sw == 2:
        direct_forward_items(a, scratch, begin, end, 2)
    else:
        direct_forward_items(a, scratch, begin, end, a.sw)


# The weight gradient: dot products along the output rows, of ROWS channels of grad_output with VECTORS shifted windows
# of x, one for each of VECTORS neighbouring elements of the flattened (channel, kernel row, kernel column).

# Fields of an entry in the table of a row's segments; after them lo and hi of each window.
cdef enum:
    SEGMENT_LANES  # inside the output row
    SEGMENT_PLAIN
    SEGMENT_WINDOWS


cdef struct direct_windows:
    # VECTORS windows of x, and for each the output rows whose window lies inside x
    const real *first[VECTORS]
    int64_t top[VECTORS]
    int64_t bottom[VECTORS]


cdef inline void direct_plan_windows(const direct_grad_weight_args *a, int64_t group, int64_t first, int64_t *segment,
                                     direct_windows *windows) noexcept nogil:
    # Describe the windows of the elements from `first` on; fill the table of segments, the same for all rows.
    cdef int64_t taps = a.kh * a.kw, reach = direct_reach(a.sw), s, t, element, row, lo, hi
    cdef int64_t column[VECTORS]
    cdef bint plain
    for s in range(VECTORS):
        element = min(first + s, a.c * taps - 1)
        row = element % taps // a.kw * a.dh - a.ph
        column[s] = element % a.kw * a.dw - a.pw
        windows.first[s] = <const real *>a.x + (group * a.c + element // taps) * a.x_c + row * a.x_h + column[s]
        windows.top[s] = ceiling(-row, a.sh)
        windows.bottom[s] = ceiling(a.ih - row, a.sh)
    for t in range(ceil_div(a.ow, LANES)):
        plain = (t + 1) * LANES <= a.ow
        segment[SEGMENT_LANES] = a.ow - t * LANES
        for s in range(VECTORS):
            lo = clamp(ceiling(-column[s], a.sw) - t * LANES, 0, LANES)
            hi = clamp(min(ceiling(a.iw - column[s], a.sw), a.ow) - t * LANES, lo, LANES)
            segment[SEGMENT_WINDOWS + 2 * s] = lo
            segment[SEGMENT_WINDOWS + 2 * s + 1] = hi
            plain = plain and lo == 0 and hi == LANES and column[s] + t * LANES * a.sw + reach <= a.iw
        segment[SEGMENT_PLAIN] = plain
        segment += SEGMENT_WINDOWS + 2 * VECTORS


cdef inline void direct_dots(const direct_grad_weight_args *a, const int64_t *segments, const direct_windows *windows,
                             const real *grad, int64_t rows, int64_t begin, int64_t end, real *dots,
                             int64_t step) noexcept nogil:
    # dots[ROWS][VECTORS][LANES] = sums over the output rows `begin` to `end`, counted through all images
    cdef vec sums[ROWS][VECTORS]
    cdef vec window[VECTORS]
    cdef vec y
    cdef const real *p[VECTORS]
    cdef const real *q[ROWS]
    cdef const int64_t *segment
    cdef int64_t row, line, image, t
    cdef bint plain
    cdef int i, s
    for i in range(ROWS):
        for s in range(VECTORS):
            sums[i][s] = vec_zero()
    for row in range(begin, end):
        image = row // a.oh
        line = row % a.oh
        # rows past the edge repeat the last one, and their sums are dropped
        for i in range(ROWS):
            q[i] = grad + image * a.y_n + line * a.y_h + min(<int64_t>i, rows - 1) * a.y_k
        plain = True
        for s in range(VECTORS):
            p[s] = windows.first[s] + image * a.x_n + line * a.sh * a.x_h
            plain = plain and windows.top[s] <= line < windows.bottom[s]
        segment = segments
        for t in range(ceil_div(a.ow, LANES)):
            if plain and segment[SEGMENT_PLAIN]:
                for s in range(VECTORS):
                    window[s] = direct_load(p[s], step)
                for i in range(ROWS):
                    y = vec_load(q[i] + t * LANES)
                    for s in range(VECTORS):
                        sums[i][s] = vec_fma(y, window[s], sums[i][s])
            else:
                for s in range(VECTORS):
                    window[s] = vec_zero()
                    if windows.top[s] <= line < windows.bottom[s]:
                        window[s] = vec_load_strided(
                            p[s], step, segment[SEGMENT_WINDOWS + 2 * s], segment[SEGMENT_WINDOWS + 2 * s + 1]
                        )
                for i in range(ROWS):
                    y = vec_load_partial(q[i] + t * LANES, segment[SEGMENT_LANES])
                    for s in range(VECTORS):
                        sums[i][s] = vec_fma(y, window[s], sums[i][s])
            segment += SEGMENT_WINDOWS + 2 * VECTORS
            for s in range(VECTORS):
                p[s] += LANES * step
    for i in range(ROWS):
        for s in range(VECTORS):
            vec_store(dots + (i * VECTORS + s) * LANES, sums[i][s])


cdef inline void direct_grad_weight_items(const direct_grad_weight_args *a, char *scratch, int64_t begin, int64_t end,
                                          int64_t step) noexcept nogil:
    cdef real *dots = <real *>scratch
    cdef int64_t *table = <int64_t *>(dots + ROWS * COLUMNS)
    cdef direct_windows windows
    cdef int64_t depth = a.c * a.kh * a.kw, columns = ceil_div(depth, VECTORS), blocks = ceil_div(a.k, ROWS)
    cdef int64_t item, part, group, block, first, channel, i, s
    cdef real *partial
    for item in range(begin, end):
        first = item % columns * VECTORS
        block = item // columns % blocks
        group = item // columns // blocks % a.g
        part = item // columns // blocks // a.g
        channel = group * a.k + block * ROWS
        direct_plan_windows(a, group, first, table, &windows)
        direct_dots(
            a, table, &windows, <const real *>a.y + channel * a.y_k, a.k - block * ROWS,
            part * a.n * a.oh // a.parts, (part + 1) * a.n * a.oh // a.parts, dots, step,
        )
        partial = <real *>a.partial + (part * a.g * a.k + channel) * depth + first
        for i in range(min(<int64_t>ROWS, a.k - block * ROWS)):
            for s in range(min(<int64_t>VECTORS, depth - first)):
                partial[i * depth + s] = vec_sum(vec_load(dots + (i * VECTORS + s) * LANES))


cdef void direct_grad_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const direct_grad_weight_args *a = <const direct_grad_weight_args *>args
    if a.sw == 1:
        direct_grad_weight_items(a, scratch, begin, end, 1)
    elif a.sw == 2:
        direct_grad_weight_items(a, scratch, begin, end, 2)
    else:
        direct_grad_weight_items(a, scratch, begin, end, a.sw)
