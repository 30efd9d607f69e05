# The weight transform of Winograd F(m, r): u[k block][xi][part of c][k / GROUP][c][GROUP].

cdef enum:
    WINOGRAD_CHANNELS = 32  # whose weights are transformed at a time


cdef inline bint winograd_backward(int f, int64_t w_h, int64_t w_w) noexcept nogil:
    """Whether the taps of a channel lie side by side from the last to the first."""
    return w_w == -1 and w_h == -winograd_r(f)


cdef inline void winograd_taps(
    int f, const real *w, int64_t w_k, int64_t w_c, int64_t w_h, int64_t w_w, int64_t channels, int64_t rows,
    real *taps,
) noexcept nogil:
    """taps[c][r^2][GROUP], backward taps from the last to the first; channels past the edge repeat the last one."""
    cdef int side = winograd_r(f), count = side * side, whole = count // LANES * LANES
    cdef bint backward = winograd_backward(f, w_h, w_w), dense = backward or (w_w == 1 and w_h == side)
    cdef vec block[LANES + GROUP]
    cdef const real *sources[GROUP]
    cdef int64_t c, tap, at
    cdef int done, r
    for r in range(GROUP):
        sources[r] = w + min(<int64_t>r, rows - 1) * w_k - (count - 1 if backward else 0)
    for c in range(channels):
        if dense:
            done = 0
            while done < count - 1:  # what is stored past the last tap is overwritten by the next channel
                for r in range(GROUP):
                    if done < whole:
                        block[r] = vec_load(sources[r] + c * w_c + done)
                    else:
                        block[r] = vec_load_partial(sources[r] + c * w_c + done, count - done)
                vec_transpose(GROUP, block)
                for r in range(GROUP):
                    vec_store(taps + done * GROUP + r * LANES, block[r])
                done += LANES
            if count % LANES == 1:
                for r in range(GROUP):
                    taps[(count - 1) * GROUP + r] = sources[r][c * w_c + count - 1]
        else:
            for tap in range(count):
                at = c * w_c + tap // side * w_h + tap % side * w_w
                for r in range(GROUP):
                    taps[tap * GROUP + r] = sources[r][at]
        taps += count * GROUP


cdef inline void winograd_channel(int f, const real *taps, bint backward, real *u, int64_t step) noexcept nogil:
    """G g G^T for a vector of output channels, of taps[r^2][GROUP]."""
    cdef const real *scales = winograd_scales(f)
    cdef int r = winograd_r(f), count = r * r, alpha = winograd_alpha(f), i, j
    cdef vec half[WINOGRAD_ALPHA][5]
    cdef vec d[WINOGRAD_ALPHA]
    cdef vec o[WINOGRAD_ALPHA]
    for j in range(r):
        for i in range(r):
            d[i] = vec_load(taps + (count - 1 - i * r - j if backward else i * r + j) * GROUP)
        winograd_weight(f, d, o)
        for i in range(alpha):
            half[i][j] = o[i]
    for i in range(alpha):
        winograd_weight(f, half[i], o)
        for j in range(alpha):
            vec_store(u + (i * alpha + j) * step, o[j] * vec_broadcast(scales[i * alpha + j]))


cdef inline void winograd_weight_rows(
    int f, const real *w, int64_t w_k, int64_t w_c, int64_t w_h, int64_t w_w, int64_t c, int64_t left, int64_t group,
    int64_t groups, real *u, real *taps,
) noexcept nogil:
    """u of the ``group``-th GROUP of a block of output channels, whose first weight is at ``w``.

    It and those that follow have ``left`` channels.
    """
    cdef int64_t parts = ceil_div(c, WINOGRAD_DEPTH), step = groups * c * GROUP + LANES
    cdef int64_t part, start, depth, first, channels, i, j
    cdef bint backward = winograd_backward(f, w_h, w_w)
    cdef real *to
    for part in range(parts):
        start = c * part // parts
        depth = c * (part + 1) // parts - start
        first = start
        while first < start + depth:
            channels = min(start + depth - first, <int64_t>WINOGRAD_CHANNELS)
            winograd_taps(f, w + first * w_c, w_k, w_c, w_h, w_w, channels, left, taps)
            to = u + (groups * start + group * depth + first - start) * GROUP
            for i in range(channels):
                for j in range(GROUP // LANES):
                    winograd_channel(
                        f, taps + i * winograd_r(f) * winograd_r(f) * GROUP + j * LANES, backward,
                        to + i * GROUP + j * LANES, step,
                    )
            first += channels


cdef inline void winograd_transform_weight(
    int f, const winograd_f2_weight_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t blocks = ceil_div(a.k, GROUP), k_blocks = ceil_div(a.k, a.k_block), area = winograd_area(f)
    cdef int64_t item, g, first, block, groups
    for item in range(begin, end):
        g = item // blocks
        first = item % blocks * GROUP
        block = first // a.k_block
        groups = ceil_div(min(a.k_block, a.k - block * a.k_block), GROUP)
        winograd_every_weight(
            f, <const real *>a.w + g * a.w_g + first * a.w_k, a.w_k, a.w_c, a.w_h, a.w_w, a.c, a.k - first,
            first % a.k_block // GROUP, groups,
            <real *>a.u + (g * k_blocks + block) * area * (a.k_block * a.c + LANES), <real *>scratch,
        )
