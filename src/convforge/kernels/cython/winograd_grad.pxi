# Winograd's gradient by the weight of 3x3 kernels with a stride of 1 is F(3, m): a tile of x times a tile of
# grad_output, transformed by A, is summed over all tiles before one inverse transform. v[g][xi][c][tiles] and
# w[g][xi][k][tiles] hold one block: its panel is the block.

ctypedef winograd_f2_grad_weight_args winograd_grad_args


cdef inline winograd_block winograd_grad_block(int f, const winograd_grad_args *a, winograd_args *shape) noexcept nogil:
    """The block at work, and what the input transform needs to know."""
    cdef winograd_block b
    shape.n, shape.c, shape.blocks, shape.dh, shape.dw = a.n, a.c, a.blocks, 1, 1
    shape.short_h, shape.short_w = 0, 0
    shape.ih, shape.iw, shape.oh, shape.ow, shape.ph, shape.pw = a.ih, a.iw, a.oh, a.ow, a.ph, a.pw
    shape.x, shape.x_n, shape.x_c, shape.x_h = a.x, a.x_n, a.x_c, a.x_h
    b = winograd_nth_block(f, shape, a.block)
    b.panels = 1
    return b


cdef inline int64_t winograd_grad_step(const winograd_block *b, int64_t channels) noexcept nogil:
    return (b.vectors * channels + 1) * LANES


# Elements of s between one xi and the next: LANES are idle
cdef inline int64_t winograd_sums_step(const winograd_grad_args *a) noexcept nogil:
    return a.k * a.c + LANES


cdef inline void winograd_transform_grad_output(
    int f, const winograd_grad_args *a, const winograd_block *b, const real *y, real *w, int64_t step, real *scratch,
) noexcept nogil:
    """One channel of grad_output: A both ways."""
    cdef int m = winograd_m(f), alpha = winograd_alpha(f)
    cdef int64_t th = ceil_div(a.oh, m), tw = ceil_div(a.ow, m)
    cdef int64_t image = b.image, row = b.row, column = b.column
    cdef int64_t pitch = winograd_pitch(f, b), done = 0, run, left, q, group
    cdef real *body = scratch
    cdef const real *zeros = body + alpha * pitch
    cdef const real *rows[6]
    cdef vec d[8]
    cdef vec o[8]
    cdef int i, j
    while done < b.tiles:
        run = min(tw - column, b.tiles - done)
        for i in range(m):
            rows[i] = y + image * a.y_n + (row * m + i) * a.y_h if row * m + i < a.oh else zeros
        q = 0
        while q < run * m:
            left = column * m + q
            for i in range(m):
                d[i] = vec_load_partial(rows[i] + left, a.ow - left)
                vec_prefetch(rows[i] + left + a.y_k)
            winograd_grad_output(f, d, o)
            for i in range(alpha):
                vec_store(body + i * pitch + done * m + q, o[i])
            q += LANES
        done += run
        column = 0
        row += 1
        if row == th:
            row = 0
            image += 1
    for i in range(alpha):
        for group in range(b.vectors):
            for j in range(m):
                o[j] = vec_load(body + i * pitch + (group * m + j) * LANES)
            vec_deinterleave(m, o, d)
            winograd_grad_output(f, d, o)
            for j in range(alpha):
                vec_store(w + (i * alpha + j) * step + group * LANES, o[j])


cdef inline void winograd_grad_transform(
    int f, const winograd_grad_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef winograd_args shape
    cdef winograd_block b = winograd_grad_block(f, a, &shape)
    cdef int64_t parts = (a.c + a.k + a.channels - 1) // a.channels, area = winograd_area(f)
    cdef int64_t item, g, first, last, channel, step = winograd_grad_step(&b, a.k), i
    cdef real *v
    cdef real *w
    for item in range(begin, end):
        g = item // parts
        first = item % parts * a.channels
        last = min(first + a.channels, a.c + a.k)
        v = <real *>a.v + g * area * winograd_grad_step(&b, a.c)
        w = <real *>a.w + g * area * step
        if first < a.c:
            winograd_every_input(f, False, &shape, &b, g, first, min(last, a.c), v, <real *>scratch)
        if last > a.c:
            for i in range(winograd_alpha(f) * winograd_pitch(f, &b) + a.ow):
                (<real *>scratch)[i] = 0
            for channel in range(max(first - a.c, <int64_t>0), last - a.c):
                winograd_transform_grad_output(
                    f, a, &b, <const real *>a.y + (g * a.k + channel) * a.y_k, w + channel * b.vectors * LANES, step,
                    <real *>scratch,
                )


cdef inline void winograd_pack(
    int size, const real *source, int64_t pitch, int64_t vectors, int64_t rows, real *to, int64_t width
) noexcept nogil:
    """to[tile][row] = source[row][tile] for ``size`` rows, zero past ``rows``.

    ``width`` is the pitch of ``to``: ``size`` itself unless that is LANES.
    """
    cdef vec d[16]
    cdef vec o[16]
    cdef int64_t group
    cdef int i
    for group in range(vectors):
        for i in range(size):
            d[i] = vec_load(source + i * pitch + group * LANES) if i < rows else vec_zero()
        vec_interleave(size, d, o)
        for i in range(size):
            vec_store(to + (group * LANES + i * LANES // size) * width + i * LANES % size, o[i])


cdef inline void winograd_grad_multiply(
    int f, const winograd_grad_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef winograd_args shape
    cdef winograd_block b = winograd_grad_block(f, a, &shape)
    cdef int64_t pitch = b.vectors * LANES, groups = (a.c + LANES - 1) // LANES
    cdef int64_t panels = (groups + VECTORS - 1) // VECTORS, item, panel, first, width, group, row
    cdef int64_t parts = (b.tiles + WINOGRAD_DEPTH - 1) // WINOGRAD_DEPTH, part, tile, depth
    cdef real *packed_w = <real *>scratch
    cdef real *packed_v = packed_w + (a.k + ROWS - 1) // ROWS * ROWS * pitch
    cdef real *s
    cdef const real *left
    cdef tile_fetch ahead
    cdef const real *v
    cdef const real *w
    for item in range(begin, end):
        s = <real *>a.s + item * winograd_sums_step(a)
        v = <const real *>a.v + item * winograd_grad_step(&b, a.c)
        w = <const real *>a.w + item * winograd_grad_step(&b, a.k)
        row = 0
        while row < a.k:
            winograd_pack(ROWS, w + row * pitch, pitch, b.vectors, a.k - row, packed_w + row * pitch, ROWS)
            row += ROWS
        for panel in range(panels):
            first = groups * panel // panels * LANES
            width = groups * (panel + 1) // panels * LANES - first
            group = first
            while group < first + width:
                winograd_pack(
                    LANES, v + group * pitch, pitch, b.vectors, a.c - group, packed_v + group - first, width
                )
                group += LANES
            for part in range(parts):
                tile = b.tiles * part // parts
                depth = b.tiles * (part + 1) // parts - tile
                row = 0
                while row < a.k:
                    left = packed_w + row * pitch + tile * ROWS
                    ahead = fetch_weights(left, 0)
                    gemm_rows(
                        depth, left, 0, packed_v + tile * width, width, &ahead, s + row * a.c + first,
                        a.c, NULL, min(a.k - row, <int64_t>ROWS), min(width, a.c - first), a.block + part > 0,
                    )
                    row += ROWS


cdef real winograd_exact_grad(
    const winograd_grad_args *a, int64_t g, int64_t k, int64_t c, int64_t i, int64_t j
) noexcept nogil:
    """One element of the gradient by the definition."""
    cdef const real *x
    cdef const real *y
    cdef real total = 0, value
    cdef int64_t image, row, column, top, left
    for image in range(a.n):
        x = <const real *>a.x + image * a.x_n + (g * a.c + c) * a.x_c
        y = <const real *>a.y + image * a.y_n + (g * a.k + k) * a.y_k
        for row in range(a.oh):
            for column in range(a.ow):
                top = row + i - a.ph
                left = column + j - a.pw
                value = x[top * a.x_h + left] if 0 <= top < a.ih and 0 <= left < a.iw else 0
                total += value * y[row * a.y_h + column]
    return total


cdef inline void winograd_inverse_grad(
    int f, const winograd_grad_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef int alpha = winograd_alpha(f)
    cdef int64_t area = winograd_area(f), step = winograd_sums_step(a), item, g, k, c, lane, tap
    cdef bint whole, contiguous = a.out_w == 1 and a.out_h == 3 and a.out_c == 9
    cdef const real *s
    cdef const real *scales = winograd_scales(f)
    cdef real *out
    cdef real *taps
    cdef real value
    cdef vec total
    cdef vec half[3][WINOGRAD_ALPHA]
    cdef vec d[9]
    cdef vec o[9]
    cdef int i, j
    for item in range(begin, end):
        g = item // a.k
        k = item % a.k
        c = 0
        while c < a.c:
            s = <const real *>a.s + g * area * step + k * a.c + c
            for j in range(alpha):
                for i in range(alpha):
                    d[i] = vec_load_partial(s + (i * alpha + j) * step, a.c - c)
                    d[i] = d[i] * vec_broadcast(scales[i * alpha + j])
                winograd_grad_weight(f, d, o)
                for i in range(3):
                    half[i][j] = o[i]
            for i in range(3):
                winograd_grad_weight(f, half[i], d + 3 * i)
            total = vec_zero()
            for i in range(9):
                total = total + d[i]
            vec_interleave(9, d, o)
            out = <real *>a.out + item * a.out_k + c * a.out_c
            whole = contiguous and a.c - c >= LANES
            taps = out if whole else <real *>scratch
            for i in range(9):
                vec_store(taps + i * LANES, o[i])
            value = vec_sum(total)
            if not whole or value - value != 0:
                for lane in range(min(<int64_t>LANES, a.c - c)):
                    for tap in range(9):
                        value = taps[lane * 9 + tap]
                        if value - value != 0:
                            value = winograd_exact_grad(a, g, k, c + lane, tap // 3, tap % 3)
                        out[lane * a.out_c + tap // 3 * a.out_h + tap % 3 * a.out_w] = value
            c += LANES
