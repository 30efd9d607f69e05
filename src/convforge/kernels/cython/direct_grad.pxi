# The weight gradient: dot products along the output rows, of ROWS channels of grad_output with VECTORS shifted windows
# of x, one for each of VECTORS neighbouring elements of the flattened (channel, kernel row, kernel column).
# The input is read in place, through masks at its borders.

cdef struct direct_window:
    # Which lanes of a vector read inside a row: lo <= lane < hi, and the same as masks of the one or two vectors that
    # a step of 1 or 2 loads. Masks are made once for all channels.
    int64_t lo, hi
    vec_mask lower, upper


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


cdef inline vec direct_load_window(const real *p, int64_t step, const direct_window *window) noexcept nogil:
    # the same for the lanes of the window, others are 0
    if step == 1:
        return vec_load_masked(p, window.lower)
    if step == 2:
        return vec_even(vec_load_masked(p, window.lower), vec_load_masked(p + LANES, window.upper))
    return vec_load_strided(p, step, window.lo, window.hi)


cdef inline bint direct_set_window(direct_window *window, int64_t column, int64_t iw, int64_t lanes,
                                   int64_t step) noexcept nogil:
    # For `lanes` lanes from `column` on of a row of iw pixels; whether a whole vector may be loaded as well.
    cdef int64_t lo = clamp(ceiling(-column, step), 0, LANES)
    cdef int64_t hi = clamp(min(ceiling(iw - column, step), lanes), lo, LANES)
    window.lo = lo
    window.hi = hi
    if step == 2:
        lo = 2 * lo
        hi = 2 * hi - 1
    window.lower = vec_lanes_between(lo, hi)
    window.upper = vec_lanes_between(lo - LANES, hi - LANES)
    return window.lo == 0 and window.hi == LANES and column + (2 * LANES if step == 2 else 0) <= iw


cdef struct direct_segment:
    bint plain
    vec_mask inside  # the output row
    direct_window windows[VECTORS]


cdef struct direct_windows:
    # VECTORS windows of x, and for each the output rows whose window lies inside x
    const real *first[VECTORS]
    int64_t top[VECTORS]
    int64_t bottom[VECTORS]


cdef inline void direct_plan_windows(const direct_grad_weight_args *a, int64_t group, int64_t first,
                                     direct_segment *segment, direct_windows *windows) noexcept nogil:
    # Describe the windows of the elements from `first` on; fill the table of segments, the same for all rows.
    cdef int64_t taps = a.kh * a.kw, s, t, element, row, column, lanes
    cdef bint plain
    for s in range(VECTORS):
        element = min(first + s, a.c * taps - 1)
        row = element % taps // a.kw * a.dh - a.ph
        column = element % a.kw * a.dw - a.pw
        windows.first[s] = <const real *>a.x + (group * a.c + element // taps) * a.x_c + row * a.x_h + column
        windows.top[s] = ceiling(-row, a.sh)
        windows.bottom[s] = ceiling(a.ih - row, a.sh)
        for t in range(ceil_div(a.ow, LANES)):
            lanes = a.ow - t * LANES
            plain = direct_set_window(&segment[t].windows[s], column + t * LANES * a.sw, a.iw, lanes, a.sw)
            segment[t].plain = plain and lanes >= LANES and (s == 0 or segment[t].plain)
            segment[t].inside = vec_lanes_between(0, lanes)


cdef inline void direct_dots(const direct_grad_weight_args *a, const direct_segment *segments,
                             const direct_windows *windows,
                             const real *grad, int64_t rows, int64_t begin, int64_t end, real *dots,
                             int64_t step) noexcept nogil:
    # dots[ROWS][VECTORS][LANES] = sums over the output rows `begin` to `end`, counted through all images
    cdef vec sums[ROWS][VECTORS]
    cdef vec window[VECTORS]
    cdef vec y
    cdef const real *p[VECTORS]
    cdef const real *q[ROWS]
    cdef const direct_segment *segment
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
            if plain and segment.plain:
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
                        window[s] = direct_load_window(p[s], step, &segment.windows[s])
                for i in range(ROWS):
                    y = vec_load_masked(q[i] + t * LANES, segment.inside)
                    for s in range(VECTORS):
                        sums[i][s] = vec_fma(y, window[s], sums[i][s])
            segment += 1
            for s in range(VECTORS):
                p[s] += LANES * step
    for i in range(ROWS):
        for s in range(VECTORS):
            vec_store(dots + (i * VECTORS + s) * LANES, sums[i][s])


cdef inline void direct_grad_weight_items(const direct_grad_weight_args *a, char *scratch, int64_t begin, int64_t end,
                                          int64_t step) noexcept nogil:
    cdef real *dots = <real *>scratch
    cdef direct_segment *table = <direct_segment *>(dots + ROWS * COLUMNS)
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
