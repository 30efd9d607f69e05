# The input transform of Winograd F(m, r) with tiles in the lanes: v[panel][xi][c][tiles].

# Where a vector of tiles of a channel goes: between one xi and the next are pitch elements, to the next channel step.
cdef struct winograd_target:
    real *to
    int64_t pitch, step


cdef inline void winograd_rows(
    int f, const winograd_args *a, const winograd_block *b, const real *x, real *body, real *halo, const real *zeros,
) noexcept nogil:
    """B^T down the columns of a channel: virtual rows to ``body``, what follows the last tile of a run to ``halo``."""
    cdef int m = winograd_m(f), step = winograd_step(f), halo_size = winograd_halo(f), alpha = winograd_alpha(f)
    cdef int64_t th = ceil_div(a.oh, m), tw = ceil_div(a.ow, m)
    cdef int64_t image = b.image, row = b.row, column = b.column
    cdef int64_t pitch = winograd_pitch(f, b), done = 0, run, top, left, columns, q
    # of the last tile of a row, where padding is all that it has in the halo
    cdef int64_t last_halo = halo_size if tw * step - a.pw < a.iw else 0
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
        columns = run * step + (last_halo if column + run == tw else halo_size)
        q = 0
        while q < columns:
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
        if columns > run * step:
            for i in range(alpha):
                for j in range(halo_size):
                    halo[(halo_size * i + j) * b.vectors * LANES + done - 1] = body[i * pitch + done * step + j]
        column = 0
        row += 1
        if row == th:
            row = 0
            image += 1


cdef inline void winograd_columns(
    int f, const winograd_block *b, winograd_target *targets, const real *body, const real *halo, const lane_bits *keep,
) noexcept nogil:
    """B^T along the virtual rows of a channel, tiles into lanes; the targets become those of the next channel."""
    cdef int step = winograd_step(f), halo_size = winograd_halo(f), alpha = winograd_alpha(f)
    cdef int64_t pitch = winograd_pitch(f, b), group
    cdef winograd_target *target
    cdef vec loaded[WINOGRAD_ALPHA]
    cdef vec d[WINOGRAD_ALPHA]
    cdef vec next[WINOGRAD_ALPHA]
    cdef vec o[WINOGRAD_ALPHA]
    cdef int i, j
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
                    vec_following(d[j], next[j]), keep + group * LANES, halo + (j * b.vectors + group) * LANES
                )
            winograd_input(f, d, o)
            target = targets + group
            for j in range(alpha):
                vec_store(target.to + (i * alpha + j) * target.pitch, o[j])
        body += pitch
        halo += halo_size * b.vectors * LANES
    for group in range(b.vectors):
        targets[group].to += targets[group].step


cdef inline void winograd_transform_input(
    int f, bint channels, const winograd_args *a, const winograd_block *b, int64_t g, int64_t begin, int64_t end,
    real *v, real *scratch,
) noexcept nogil:
    """Channels ``begin`` to ``end`` of group g, transformed to ``v``."""
    if channels and LANES * sizeof(real) >= 32:  # which the kernels below are compiled for
        winograd_channels_input(f, a, b, g, begin, end, v, scratch)
        return
    cdef int alpha = winograd_alpha(f)
    cdef int64_t tiles = b.vectors * LANES, tw = ceil_div(a.ow, winograd_m(f)), i, panel, first, width, channel
    cdef winograd_target targets[WINOGRAD_VECTORS]
    cdef real *body = scratch
    cdef real *halo = body + alpha * winograd_pitch(f, b)
    cdef real *zeros = halo + winograd_halo(f) * alpha * tiles
    cdef lane_bits *keep = <lane_bits *>(zeros + a.iw)
    # lanes past the last tile stay zero, not whatever was there: that could be slow to compute with
    for i in range(keep - <lane_bits *>scratch):
        scratch[i] = 0
    for i in range(tiles):
        keep[i] = 0 if (b.first + i) % tw == tw - 1 or i == b.tiles - 1 else -1
    for panel in range(b.panels):
        first = winograd_panel(b, panel)
        width = winograd_panel(b, panel + 1) - first
        for i in range(first, first + width):
            targets[i].to = v + (winograd_area(f) * (a.c * first + panel) + width * begin + i - first) * LANES
            targets[i].pitch = (width * a.c + 1) * LANES
            targets[i].step = width * LANES
    for channel in range(begin, end):
        winograd_rows(f, a, b, <const real *>a.x + (g * a.c + channel) * a.x_c, body, halo, zeros)
        winograd_columns(f, b, targets, body, halo, keep)
