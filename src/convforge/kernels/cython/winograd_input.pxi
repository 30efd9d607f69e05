# The input transform of Winograd F(m, r): v[panel][xi][c][tiles].

cdef inline void winograd_rows(
    int f, const winograd_args *a, const winograd_block *b, const real *x, real *body, real *halo, const real *zeros,
) noexcept nogil:
    """B^T down the columns of a channel: virtual rows to ``body``, what follows the last tile of a run to ``halo``."""
    cdef int m = winograd_m(f), step = winograd_step(f), halo_size = winograd_halo(f), alpha = winograd_alpha(f)
    cdef int64_t th = ceil_div(a.oh, m), tw = ceil_div(a.ow, m)
    cdef int64_t image = b.first // (th * tw), row = b.first // tw % th, column = b.first % tw
    cdef int64_t pitch = winograd_pitch(f, b), done = 0, run, top, left, q
    cdef const real *rows[WINOGRAD_ALPHA]
    cdef vec d[WINOGRAD_ALPHA]
    cdef vec o[WINOGRAD_ALPHA]
    cdef int i, j
    while done < b.tiles:
        run = min(tw - column, b.tiles - done)
        top = row * step - a.ph
        for i in range(alpha):
            if 0 <= top + i < a.ih:
                rows[i] = x + image * a.x_n + (top + i) * a.x_h
            else:
                rows[i] = zeros
        left = column * step - a.pw
        q = 0
        while q < run * step + halo_size:
            if left + q >= 0 and left + q + LANES <= a.iw:
                for i in range(alpha):
                    d[i] = vec_load(rows[i] + left + q)
                for i in range(step):  # of the next channel
                    vec_prefetch(rows[i] + left + q + a.x_c)
            else:
                for i in range(alpha):
                    d[i] = vec_load_window(rows[i] + left + q, -(left + q), a.iw - (left + q))
            winograd_input(f, d, o)
            for i in range(alpha):
                vec_store(body + i * pitch + done * step + q, o[i])
            q += LANES
        done += run
        for i in range(alpha):
            for j in range(halo_size):
                halo[(halo_size * i + j) * b.vectors * LANES + done - 1] = body[i * pitch + done * step + j]
        column = 0
        row += 1
        if row == th:
            row = 0
            image += 1


cdef inline void winograd_columns(
    int f, const winograd_args *a, const winograd_block *b, int64_t channel, const real *body, const real *halo,
    const lane_bits *keep, real *v,
) noexcept nogil:
    """B^T along the virtual rows of a channel, tiles into lanes."""
    cdef int step = winograd_step(f), halo_size = winograd_halo(f), alpha = winograd_alpha(f)
    cdef int64_t pitch = winograd_pitch(f, b), panel, group, first, width, s
    cdef real *target[WINOGRAD_VECTORS]
    cdef int64_t pitches[WINOGRAD_VECTORS]
    cdef real *t
    cdef vec loaded[WINOGRAD_ALPHA]
    cdef vec d[WINOGRAD_ALPHA]
    cdef vec next[WINOGRAD_ALPHA]
    cdef vec o[WINOGRAD_ALPHA]
    cdef int i, j
    for panel in range(b.panels):
        first = winograd_panel(b, panel)
        width = winograd_panel(b, panel + 1) - first
        for group in range(first, first + width):
            pitches[group] = (width * a.c + 1) * LANES
            target[group] = v + (winograd_area(f) * (a.c * first + panel) + width * channel + group - first) * LANES
    for i in range(alpha):
        for j in range(step):
            loaded[j] = vec_load(body + j * LANES)
        vec_deinterleave(step, loaded, next)
        for group in range(b.vectors):
            for j in range(step):
                d[j] = next[j]
            if group + 1 < b.vectors:
                for j in range(step):
                    loaded[j] = vec_load(body + ((group + 1) * step + j) * LANES)
                vec_deinterleave(step, loaded, next)
            for j in range(halo_size):
                d[step + j] = winograd_merge(
                    winograd_following(d[j], next[j]), keep + group * LANES, halo + (j * b.vectors + group) * LANES
                )
            winograd_input(f, d, o)
            t = target[group]
            s = pitches[group]
            for j in range(alpha):
                vec_store(t + j * s, o[j])
            target[group] = t + alpha * s
        body += pitch
        halo += halo_size * b.vectors * LANES


cdef inline void winograd_transform_input(
    int f, const winograd_args *a, const winograd_block *b, int64_t g, int64_t begin, int64_t end, real *v,
    real *scratch,
) noexcept nogil:
    """Channels ``begin`` to ``end`` of group g, transformed to ``v``."""
    cdef int alpha = winograd_alpha(f)
    cdef int64_t tiles = b.vectors * LANES, tw = ceil_div(a.ow, winograd_m(f)), i, channel
    cdef real *body = scratch
    cdef real *halo = body + alpha * winograd_pitch(f, b)
    cdef real *zeros = halo + winograd_halo(f) * alpha * tiles
    cdef lane_bits *keep = <lane_bits *>(zeros + a.iw)
    cdef const real *x
    # lanes past the last tile stay zero, not whatever was there: that could be slow to compute with
    for i in range(keep - <lane_bits *>scratch):
        scratch[i] = 0
    for i in range(tiles):
        keep[i] = 0 if (b.first + i) % tw == tw - 1 or i == b.tiles - 1 else -1
    for channel in range(begin, end):
        x = <const real *>a.x + (g * a.c + channel) * a.x_c
        winograd_rows(f, a, b, x, body, halo, zeros)
        winograd_columns(f, a, b, channel, body, halo, keep, v)
