# The input transform of Winograd F(m, 3): v[panel][xi][c][tiles].

cdef inline void winograd_rows(
    int m, const winograd_args *a, const winograd_block *b, const real *x, real *body, real *halo, const real *zeros,
) noexcept nogil:
    """B^T down the columns of a channel: virtual rows to ``body``, what follows the last tile of a run to ``halo``."""
    cdef int64_t th = (a.oh + m - 1) // m, tw = (a.ow + m - 1) // m
    cdef int64_t image = b.first // (th * tw), row = b.first // tw % th, column = b.first % tw
    cdef int64_t pitch = winograd_pitch(m, b), done = 0, run, top, left, q
    cdef const real *rows[8]
    cdef vec d[8]
    cdef vec o[8]
    cdef int i, j
    while done < b.tiles:
        run = min(tw - column, b.tiles - done)
        top = row * m - a.ph
        for i in range(m + 2):
            if 0 <= top + i < a.ih:
                rows[i] = x + image * a.x_n + (top + i) * a.x_h
            else:
                rows[i] = zeros
        left = column * m - a.pw
        q = 0
        while q < run * m + 2:
            if left + q >= 0 and left + q + LANES <= a.iw:
                for i in range(m + 2):
                    d[i] = vec_load(rows[i] + left + q)
                for i in range(m):  # of the next channel
                    vec_prefetch(rows[i] + left + q + a.x_c)
            else:
                for i in range(m + 2):
                    d[i] = vec_load_window(rows[i] + left + q, -(left + q), a.iw - (left + q))
            winograd_input(m, d, o)
            for i in range(m + 2):
                vec_store(body + i * pitch + done * m + q, o[i])
            q += LANES
        done += run
        for i in range(m + 2):
            for j in range(2):
                halo[(2 * i + j) * b.vectors * LANES + done - 1] = body[i * pitch + done * m + j]
        column = 0
        row += 1
        if row == th:
            row = 0
            image += 1


cdef inline void winograd_columns(
    int m, const winograd_args *a, const winograd_block *b, int64_t channel, const real *body, const real *halo,
    const lane_bits *keep, real *v,
) noexcept nogil:
    """B^T along the virtual rows of a channel, tiles into lanes."""
    cdef int64_t pitch = winograd_pitch(m, b), panel, group, first, width, s
    cdef real *target[WINOGRAD_VECTORS]
    cdef int64_t step[WINOGRAD_VECTORS]
    cdef real *t
    cdef vec loaded[8]
    cdef vec d[8]
    cdef vec next[8]
    cdef vec o[8]
    cdef int i, j
    for panel in range(b.panels):
        first = winograd_panel(b, panel)
        width = winograd_panel(b, panel + 1) - first
        for group in range(first, first + width):
            step[group] = (width * a.c + 1) * LANES
            target[group] = v + ((m + 2) * (m + 2) * (a.c * first + panel) + width * channel + group - first) * LANES
    for i in range(m + 2):
        for j in range(m):
            loaded[j] = vec_load(body + j * LANES)
        winograd_deinterleave(m, loaded, next)
        for group in range(b.vectors):
            for j in range(m):
                d[j] = next[j]
            if group + 1 < b.vectors:
                for j in range(m):
                    loaded[j] = vec_load(body + ((group + 1) * m + j) * LANES)
                winograd_deinterleave(m, loaded, next)
            for j in range(2):
                d[m + j] = winograd_merge(
                    winograd_following(d[j], next[j]), keep + group * LANES, halo + (j * b.vectors + group) * LANES
                )
            winograd_input(m, d, o)
            t = target[group]
            s = step[group]
            for j in range(m + 2):
                vec_store(t + j * s, o[j])
            target[group] = t + (m + 2) * s
        body += pitch
        halo += 2 * b.vectors * LANES


cdef inline void winograd_transform_input(
    int m, const winograd_args *a, const winograd_block *b, int64_t g, int64_t begin, int64_t end, real *v,
    real *scratch,
) noexcept nogil:
    """Channels ``begin`` to ``end`` of group g, transformed to ``v``."""
    cdef int64_t tiles = b.vectors * LANES, tw = (a.ow + m - 1) // m, i, channel
    cdef real *body = scratch
    cdef real *halo = body + (m + 2) * winograd_pitch(m, b)
    cdef real *zeros = halo + 2 * (m + 2) * tiles
    cdef lane_bits *keep = <lane_bits *>(zeros + a.iw)
    cdef const real *x
    # lanes past the last tile stay zero, not whatever was there: that could be slow to compute with
    for i in range(keep - <lane_bits *>scratch):
        scratch[i] = 0
    for i in range(tiles):
        keep[i] = 0 if (b.first + i) % tw == tw - 1 or i == b.tiles - 1 else -1
    for channel in range(begin, end):
        x = <const real *>a.x + (g * a.c + channel) * a.x_c
        winograd_rows(m, a, b, x, body, halo, zeros)
        winograd_columns(m, a, b, channel, body, halo, keep, v)
