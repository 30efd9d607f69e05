# The weight transform of Winograd F(m, r): u[k block][xi][part of c][k / ROWS][c][ROWS].

cdef enum:
    WINOGRAD_CHANNELS = 32  # whose weights are transformed at a time


cdef inline bint winograd_backward(int f, int64_t w_h, int64_t w_w) noexcept nogil:
    """Whether the taps of a channel lie side by side from the last to the first."""
    return w_w == -1 and w_h == -winograd_r(f)


cdef inline void winograd_taps(
    int f, const real *w, int64_t w_k, int64_t w_c, int64_t w_h, int64_t w_w, int64_t channels, int64_t rows,
    real *taps,
) noexcept nogil:
    """taps[c][r^2][ROWS], backward taps from the last to the first; rows past the edge repeat the last one."""
    cdef int side = winograd_r(f), count = side * side, whole = count // LANES * LANES
    cdef bint backward = winograd_backward(f, w_h, w_w), dense = backward or (w_w == 1 and w_h == side)
    cdef vec block[LANES + ROWS]
    cdef const real *sources[ROWS]
    cdef int64_t c, tap, at
    cdef int done, r
    for r in range(ROWS):
        sources[r] = w + min(<int64_t>r, rows - 1) * w_k - (count - 1 if backward else 0)
    for c in range(channels):
        if dense:
            done = 0
            while done < count - 1:  # what is stored past the last tap is overwritten by the next channel
                for r in range(ROWS):
                    if done < whole:
                        block[r] = vec_load(sources[r] + c * w_c + done)
                    else:
                        block[r] = vec_load_partial(sources[r] + c * w_c + done, count - done)
                vec_transpose(ROWS, block)
                for r in range(ROWS):
                    vec_store(taps + done * ROWS + r * LANES, block[r])
                done += LANES
            if count % LANES == 1:
                for r in range(ROWS):
                    taps[(count - 1) * ROWS + r] = sources[r][c * w_c + count - 1]
        else:
            for tap in range(count):
                at = c * w_c + tap // side * w_h + tap % side * w_w
                for r in range(ROWS):
                    taps[tap * ROWS + r] = sources[r][at]
        taps += count * ROWS


cdef inline vec winograd_tap(int count, const real *taps, int64_t e, int tap) noexcept nogil:
    """LANES elements of [c][ROWS], from element ``e`` on, of one of so many taps: LANES is 2 * ROWS, or divides it."""
    cdef const real *p = taps + (e // ROWS * count + tap) * ROWS + e % ROWS
    if LANES > ROWS:
        return vec_halves(vec_load(p), vec_load(p + count * ROWS - ROWS))
    return vec_load(p)


cdef inline void winograd_elements(
    int f, bint whole, const real *taps, bint backward, int64_t e, int64_t size, real *u, int64_t step
) noexcept nogil:
    """G g G^T for LANES elements of [c][ROWS], or for what is left of ``size``."""
    cdef const real *scales = winograd_scales(f)
    cdef int r = winograd_r(f), count = r * r, alpha = winograd_alpha(f), i, j
    cdef vec half[WINOGRAD_ALPHA][5]
    cdef vec d[WINOGRAD_ALPHA]
    cdef vec o[WINOGRAD_ALPHA]
    for j in range(r):
        for i in range(r):
            d[i] = winograd_tap(count, taps, e, count - 1 - i * r - j if backward else i * r + j)
        winograd_weight(f, d, o)
        for i in range(alpha):
            half[i][j] = o[i]
    for i in range(alpha):
        winograd_weight(f, half[i], o)
        for j in range(alpha):
            o[j] = o[j] * vec_broadcast(scales[i * alpha + j])
            if whole:
                vec_store(u + (i * alpha + j) * step + e, o[j])
            else:
                vec_store_partial(u + (i * alpha + j) * step + e, o[j], size - e)


cdef inline void winograd_weight_rows(
    int f, const real *w, int64_t w_k, int64_t w_c, int64_t w_h, int64_t w_w, int64_t c, int64_t left, int64_t row,
    int64_t rows, real *u, real *taps,
) noexcept nogil:
    """u of the ``row``-th ROWS of a block of output channels, whose first weight is at ``w``.

    That row and those that follow are ``left``.
    """
    cdef int64_t parts = ceil_div(c, WINOGRAD_DEPTH), step = rows * c * ROWS + LANES
    cdef int64_t part, start, depth, first, channels, e, size, i
    cdef bint backward = winograd_backward(f, w_h, w_w)
    cdef real *to
    for i in range((WINOGRAD_CHANNELS + 1) * winograd_r(f) * winograd_r(f) * ROWS):
        taps[i] = 0  # past an odd number of channels
    for part in range(parts):
        start = c * part // parts
        depth = c * (part + 1) // parts - start
        first = start
        while first < start + depth:
            channels = min(start + depth - first, <int64_t>WINOGRAD_CHANNELS)
            winograd_taps(f, w + first * w_c, w_k, w_c, w_h, w_w, channels, left, taps)
            to = u + (rows * start + row * depth + first - start) * ROWS
            size = channels * ROWS
            e = 0
            while e + LANES <= size:
                winograd_elements(f, True, taps, backward, e, size, to, step)
                e += LANES
            if e < size:
                winograd_elements(f, False, taps, backward, e, size, to, step)
            first += channels


# The same as of the input transform.
cdef void winograd_every_weight(
    int f, const real *w, int64_t w_k, int64_t w_c, int64_t w_h, int64_t w_w, int64_t c, int64_t left, int64_t row,
    int64_t rows, real *u, real *taps,
) noexcept nogil:
    if f == 231:
        winograd_weight_rows(231, w, w_k, w_c, w_h, w_w, c, left, row, rows, u, taps)
    elif f == 431:
        winograd_weight_rows(431, w, w_k, w_c, w_h, w_w, c, left, row, rows, u, taps)
    elif f == 631:
        winograd_weight_rows(631, w, w_k, w_c, w_h, w_w, c, left, row, rows, u, taps)
    elif f == 451:
        winograd_weight_rows(451, w, w_k, w_c, w_h, w_w, c, left, row, rows, u, taps)
    elif f == 232:
        winograd_weight_rows(232, w, w_k, w_c, w_h, w_w, c, left, row, rows, u, taps)
    elif f == 432:
        winograd_weight_rows(432, w, w_k, w_c, w_h, w_w, c, left, row, rows, u, taps)


cdef inline void winograd_transform_weight(
    int f, const winograd_f2_weight_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t blocks = ceil_div(a.k, ROWS), k_blocks = ceil_div(a.k, a.k_block), area = winograd_area(f)
    cdef int64_t item, g, first, block, rows
    for item in range(begin, end):
        g = item // blocks
        first = item % blocks * ROWS
        block = first // a.k_block
        rows = ceil_div(min(a.k_block, a.k - block * a.k_block), ROWS)
        winograd_every_weight(
            f, <const real *>a.w + g * a.w_g + first * a.w_k, a.w_k, a.w_c, a.w_h, a.w_w, a.c, a.k - first,
            first % a.k_block // ROWS, rows,
            <real *>a.u + (g * k_blocks + block) * area * (a.k_block * a.c + LANES), <real *>scratch,
        )


cdef void winograd_f2_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(231, <const winograd_f2_weight_args *>args, scratch, begin, end)

cdef void winograd_f4_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(431, <const winograd_f2_weight_args *>args, scratch, begin, end)

cdef void winograd_f6_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(631, <const winograd_f2_weight_args *>args, scratch, begin, end)

cdef void winograd_f4_5x5_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(451, <const winograd_f2_weight_args *>args, scratch, begin, end)

cdef void winograd_f2_s2_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(232, <const winograd_f2_weight_args *>args, scratch, begin, end)

cdef void winograd_f4_s2_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(432, <const winograd_f2_weight_args *>args, scratch, begin, end)
