# Winograd F(m, 3) in two dimensions, stride 1, with tiles in the lanes.
#
# Tiles are numbered through image, tile row and tile column; a block is a run of tiles, of some vectors of LANES. The
# columns of a block's tile rows abut in *virtual rows*: tile t of the block has its first m columns at t * m, and its
# last two where the next tile of the same tile row begins. A block is split into panels of at most VECTORS vectors,
# the register tile's width. With alpha = m + 2 and xi = 0 .. alpha^2 - 1:
#
#   v[panel][xi][c][tiles]  transformed input
#   u[k block][xi][part of c][k / ROWS][c][ROWS]
#                           transformed weight, in the order of its use; parts of at most WINOGRAD_DEPTH channels
#   p[panel][k][xi][tiles]  products, of one block of output channels
#
# LANES idle elements after each xi of v and u spread them over the sets of the caches.
# m is a constant in each kernel; the constant products and the shuffles by m come from winograd_transforms.h.

cdef extern from "winograd_transforms.h" nogil:
    ctypedef long lane_bits
    void winograd_input(int m, const vec *d, vec *o)
    void winograd_weight(int m, const vec *d, vec *o)
    void winograd_output(int m, const vec *d, vec *o)
    void winograd_grad_output(int m, const vec *d, vec *o)
    void winograd_grad_weight(int m, const vec *d, vec *o)
    void winograd_deinterleave(int m, const vec *d, vec *o)
    void winograd_interleave(int m, const vec *d, vec *o)
    vec winograd_following(vec a, vec b)
    vec winograd_merge(vec a, const lane_bits *keep, const real *others)
    const real *winograd_scales(int m)

ctypedef winograd_f2_forward_args winograd_args
ctypedef winograd_f2_grad_weight_args winograd_grad_args

cdef enum:
    WINOGRAD_VECTORS = 32  # of a block, at most
    # products summed in one chain: half the error of one long chain of 512, and a panel that stays in the L1 cache
    WINOGRAD_DEPTH = 128
    WINOGRAD_CHANNELS = 32  # whose weights are transformed at a time


cdef struct winograd_block:
    int64_t first, tiles, vectors, panels


cdef inline winograd_block winograd_nth_block(int m, const winograd_args *a, int64_t number) noexcept nogil:
    cdef winograd_block b
    cdef int64_t tiles = a.n * ((a.oh + m - 1) // m) * ((a.ow + m - 1) // m)
    cdef int64_t vectors = (tiles + LANES - 1) // LANES
    cdef int64_t begin = vectors * number // a.blocks, end = vectors * (number + 1) // a.blocks
    b.first = begin * LANES
    b.tiles = min(tiles, end * LANES) - b.first
    b.vectors = end - begin
    b.panels = (b.vectors + VECTORS - 1) // VECTORS
    return b


# First vector of a panel
cdef inline int64_t winograd_panel(const winograd_block *b, int64_t panel) noexcept nogil:
    return b.vectors * panel // b.panels


# Length of a virtual row: the last store may reach beyond the last tile
cdef inline int64_t winograd_pitch(int m, const winograd_block *b) noexcept nogil:
    return (b.vectors * m + 2) * LANES


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


cdef inline void winograd_multiply(
    int m, const winograd_args *a, const winograd_block *b, int64_t g, int64_t first_k, const real *v, real *p,
) noexcept nogil:
    """The products of a block of output channels."""
    cdef int64_t area = (m + 2) * (m + 2), blocks = (a.k + a.k_block - 1) // a.k_block
    cdef int64_t rows = (min(a.k_block, a.k - first_k) + ROWS - 1) // ROWS, xi, panel, row, first, width
    cdef int64_t parts = (a.c + WINOGRAD_DEPTH - 1) // WINOGRAD_DEPTH, part, channel, depth
    cdef const real *u = <const real *>a.u + (g * blocks + first_k // a.k_block) * area * (a.k_block * a.c + LANES)
    cdef const real *columns
    cdef real *c
    for xi in range(area):
        for panel in range(b.panels):
            first = winograd_panel(b, panel)
            width = (winograd_panel(b, panel + 1) - first) * LANES
            columns = v + area * (a.c * first + panel) * LANES + xi * (width * a.c + LANES)
            c = p + area * rows * ROWS * first * LANES + xi * width
            for part in range(parts):
                channel = a.c * part // parts
                depth = a.c * (part + 1) // parts - channel
                for row in range(rows):
                    gemm_rows(
                        depth, u + (rows * channel + row * depth) * ROWS, columns + channel * width, width,
                        c + row * ROWS * area * width, area * width, NULL, ROWS, width, part > 0,
                    )
        u += rows * a.c * ROWS + LANES


cdef inline vec winograd_tiles(int m, const real *p, int64_t step, real *rows, int64_t pitch) noexcept nogil:
    """A^T both ways on LANES tiles: m virtual rows; the sum of all is NaN or infinite if any output is."""
    cdef vec half[6][8]
    cdef vec d[8]
    cdef vec o[8]
    cdef vec total = vec_zero()
    cdef int i, j
    for j in range(m + 2):
        for i in range(m + 2):
            d[i] = vec_load(p + (i * (m + 2) + j) * step)
        winograd_output(m, d, o)
        for i in range(m):
            half[i][j] = o[i]
    for i in range(m):
        winograd_output(m, half[i], d)
        for j in range(m):
            total = total + d[j]
        winograd_interleave(m, d, o)
        for j in range(m):
            vec_store(rows + i * pitch + j * LANES, o[j])
    return total


cdef real winograd_exact(
    const winograd_args *a, int64_t image, int64_t g, int64_t k, int64_t top, int64_t left
) noexcept nogil:
    """One output by the definition."""
    cdef const real *x
    cdef const real *w = <const real *>a.w + (g * ((a.k + ROWS - 1) // ROWS) + k // ROWS) * 9 * a.c * ROWS + k % ROWS
    cdef real total = 0, value
    cdef int64_t c, i, j
    for c in range(a.c):
        x = <const real *>a.x + image * a.x_n + (g * a.c + c) * a.x_c
        for i in range(3):
            for j in range(3):
                value = 0  # padding times an infinite weight is NaN
                if 0 <= top + i < a.ih and 0 <= left + j < a.iw:
                    value = x[(top + i) * a.x_h + left + j]
                total += value * w[((i * 3 + j) * a.c + c) * ROWS]
    return total


cdef void winograd_repair(
    int m, const winograd_args *a, int64_t image, int64_t g, int64_t k, int64_t top, int64_t left, int64_t height,
    int64_t width, real *rows, int64_t pitch,
) noexcept nogil:
    """Outputs that are not finite, again by the definition: only those stay that the definition makes so."""
    cdef int64_t i, j
    for i in range(height):
        for j in range(width):
            if rows[i * pitch + j] - rows[i * pitch + j] != 0:
                rows[i * pitch + j] = winograd_exact(a, image, g, k, top + i - a.ph, left + j - a.pw)


cdef inline void winograd_transform_output(
    int m, const winograd_args *a, const winograd_block *b, int64_t g, int64_t first_k, const real *p, real *rows,
) noexcept nogil:
    """The outputs of a block of output channels from their products; ``rows`` is scratch of m virtual rows."""
    cdef int64_t th = (a.oh + m - 1) // m, tw = (a.ow + m - 1) // m, area = (m + 2) * (m + 2)
    cdef int64_t image, row, column, done, run, height, columns, k, panel, group, first, width, i, q
    cdef int64_t count = min(a.k_block, a.k - first_k), pitch = b.vectors * m * LANES
    cdef int64_t padded = (count + ROWS - 1) // ROWS * ROWS
    cdef const real *products
    cdef const real *source
    cdef real *out
    cdef real bias, sum
    cdef vec total, shift
    for k in range(first_k, first_k + count):
        total = vec_zero()
        for panel in range(b.panels):
            first = winograd_panel(b, panel)
            width = winograd_panel(b, panel + 1) - first
            products = p + area * (padded * first + (k - first_k) * width) * LANES
            for group in range(width):
                total = total + winograd_tiles(
                    m, products + group * LANES, width * LANES, rows + (first + group) * m * LANES, pitch
                )
        sum = vec_sum(total)
        bias = (<const real *>a.bias)[g * a.k + k] if a.bias else 0
        shift = vec_broadcast(bias)
        image = b.first // (th * tw)
        row = b.first // tw % th
        column = b.first % tw
        done = 0
        while done < b.tiles:
            run = min(tw - column, b.tiles - done)
            height = min(<int64_t>m, a.oh - row * m)
            columns = min(run * m, a.ow - column * m)
            if sum - sum != 0:
                winograd_repair(
                    m, a, image, g, k, row * m, column * m, height, columns, rows + done * m, pitch
                )
            for i in range(height):
                source = rows + i * pitch + done * m
                out = <real *>a.out + image * a.out_n + (g * a.k + k) * a.out_k + (row * m + i) * a.out_h + column * m
                q = 0
                while q + LANES <= columns:
                    vec_store(out + q, vec_load(source + q) + shift)
                    vec_prefetch(out + q + a.out_k)
                    q += LANES
                if q < columns:
                    vec_store_partial(out + q, vec_load_partial(source + q, columns - q) + shift, columns - q)
            done += run
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1


# Elements of v of a block
cdef inline int64_t winograd_input_size(int m, const winograd_args *a, const winograd_block *b) noexcept nogil:
    return (m + 2) * (m + 2) * (a.c * b.vectors + b.panels) * LANES


# Where a block's v begins among all of them
cdef inline real *winograd_nth_input(int m, const winograd_args *a, int64_t g, int64_t block) noexcept nogil:
    return <real *>a.v + (g * a.blocks + block) * a.v_step


cdef inline void winograd_forward(
    int m, const winograd_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef real *v = <real *>scratch
    cdef real *p
    cdef real *rest
    cdef winograd_block b
    cdef int64_t item, k
    for item in range(begin, end):
        b = winograd_nth_block(m, a, item % a.blocks)
        p = v + winograd_input_size(m, a, &b)
        rest = p + (m + 2) * (m + 2) * a.k_block * b.vectors * LANES
        winograd_transform_input(m, a, &b, item // a.blocks, 0, a.c, v, rest)
        k = 0
        while k < a.k:
            winograd_multiply(m, a, &b, item // a.blocks, k, v, p)
            winograd_transform_output(m, a, &b, item // a.blocks, k, p, rest)
            k += a.k_block


cdef inline void winograd_only_input(
    int m, const winograd_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t parts = (a.c + a.c_block - 1) // a.c_block, item, g, block, c
    cdef winograd_block b
    for item in range(begin, end):
        g = item // (a.blocks * parts)
        block = item // parts % a.blocks
        c = item % parts * a.c_block
        b = winograd_nth_block(m, a, block)
        winograd_transform_input(
            m, a, &b, g, c, min(c + a.c_block, a.c), winograd_nth_input(m, a, g, block), <real *>scratch
        )


cdef inline void winograd_only_output(
    int m, const winograd_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t parts = (a.k + a.k_block - 1) // a.k_block, item, g, block, k
    cdef real *p = <real *>scratch
    cdef real *rows
    cdef winograd_block b
    for item in range(begin, end):
        g = item // (a.blocks * parts)
        block = item % a.blocks
        k = item // a.blocks % parts * a.k_block
        b = winograd_nth_block(m, a, block)
        rows = p + (m + 2) * (m + 2) * a.k_block * b.vectors * LANES
        winograd_multiply(m, a, &b, g, k, winograd_nth_input(m, a, g, block), p)
        winograd_transform_output(m, a, &b, g, k, p, rows)


cdef inline void winograd_gather(
    const winograd_f2_weight_args *a, int64_t g, int64_t first, int64_t first_c, int64_t channels, real *raw,
    real *scratch,
) noexcept nogil:
    """raw[tap][c][ROWS] for some channels; where taps lie side by side, in either order, by vectors of channels."""
    cdef int64_t rows = min(a.k - first, <int64_t>ROWS), c, row, tap, count
    cdef const real *w = <const real *>a.w + g * a.w_g + first * a.w_k + first_c * a.w_c
    cdef bint backward = a.w_w == -1 and a.w_h == -3
    cdef bint dense = backward or (a.w_w == 1 and a.w_h == 3)
    cdef real *to
    cdef vec d[9]
    cdef vec o[9]
    cdef int i
    if dense and backward:
        w -= 8
    if dense and a.w_c == 9:
        c = 0
        while c < channels:
            count = min(channels - c, <int64_t>LANES)
            for row in range(ROWS):
                for i in range(9):
                    d[i] = vec_zero()
                    if row < rows:
                        d[i] = vec_load_partial(w + row * a.w_k + c * 9 + i * LANES, count * 9 - i * LANES)
                winograd_deinterleave(9, d, o)
                for i in range(9):
                    vec_store(scratch + (i * ROWS + row) * LANES, o[i])
            for tap in range(9):
                to = raw + ((8 - tap if backward else tap) * a.c + first_c + c) * ROWS
                for i in range(ROWS):
                    d[i] = vec_load(scratch + (tap * ROWS + i) * LANES)
                winograd_interleave(ROWS, d, o)
                for i in range(ROWS):
                    vec_store_partial(to + i * LANES, o[i], count * ROWS - i * LANES)
            c += LANES
    elif dense and a.w_k == 9:
        for c in range(channels):
            row = 0
            while row < ROWS:
                for i in range(9):
                    d[i] = vec_load_partial(w + c * a.w_c + row * 9 + i * LANES, (rows - row) * 9 - i * LANES)
                winograd_deinterleave(9, d, o)
                to = raw + (first_c + c) * ROWS + row
                for i in range(9):
                    vec_store_partial(to + (8 - i if backward else i) * a.c * ROWS, o[i], ROWS - row)
                row += LANES
    else:
        for tap in range(9):
            for c in range(channels):
                to = raw + (tap * a.c + first_c + c) * ROWS
                for row in range(ROWS):
                    to[row] = 0
                    if row < rows:
                        to[row] = w[row * a.w_k + c * a.w_c + tap // 3 * a.w_h + tap % 3 * a.w_w]


cdef inline void winograd_transform_weight(
    int m, const winograd_f2_weight_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    # G over the elements [c][ROWS] as they lie in raw and u, whatever LANES is
    cdef int64_t blocks = (a.k + ROWS - 1) // ROWS, area = (m + 2) * (m + 2)
    cdef int64_t parts = (a.c + WINOGRAD_DEPTH - 1) // WINOGRAD_DEPTH
    cdef int64_t k_blocks = (a.k + a.k_block - 1) // a.k_block
    cdef int64_t item, first, in_block, part, start, depth, c, channels, e, size
    cdef real *raw
    cdef real *u
    cdef const real *scales = winograd_scales(m)
    cdef vec half[8][3]
    cdef vec d[8]
    cdef vec o[8]
    cdef int i, j
    for item in range(begin, end):
        first = item % blocks * ROWS
        in_block = min(a.k_block, a.k - first // a.k_block * a.k_block)
        in_block = (in_block + ROWS - 1) // ROWS
        raw = <real *>a.raw + item * 9 * a.c * ROWS
        for part in range(parts):
            start = a.c * part // parts
            depth = a.c * (part + 1) // parts - start
            c = start
            while c < start + depth:
                channels = min(start + depth - c, <int64_t>WINOGRAD_CHANNELS)
                winograd_gather(a, item // blocks, first, c, channels, raw, <real *>scratch)
                u = <real *>a.u + (item // blocks * k_blocks + first // a.k_block) * area * (a.k_block * a.c + LANES)
                u += (in_block * start + first % a.k_block // ROWS * depth + c - start) * ROWS
                size = channels * ROWS
                e = 0
                while e < size:
                    for j in range(3):
                        for i in range(3):
                            d[i] = vec_load_partial(raw + ((i * 3 + j) * a.c + c) * ROWS + e, size - e)
                        winograd_weight(m, d, o)
                        for i in range(m + 2):
                            half[i][j] = o[i]
                    for i in range(m + 2):
                        winograd_weight(m, half[i], o)
                        for j in range(m + 2):
                            vec_store_partial(
                                u + (i * (m + 2) + j) * (in_block * a.c * ROWS + LANES) + e,
                                o[j] * vec_broadcast(scales[i * (m + 2) + j]), size - e,
                            )
                    e += LANES
                c += channels


# The gradient by the weight is F(3, m): a tile of x times a tile of grad_output, transformed by A, is summed over all
# tiles before one inverse transform. v[g][xi][c][tiles] and w[g][xi][k][tiles] hold one block: its panel is the block.

cdef inline winograd_block winograd_grad_block(int m, const winograd_grad_args *a, winograd_args *shape) noexcept nogil:
    """The block at work, and what the input transform needs to know."""
    cdef winograd_block b
    shape.n, shape.c, shape.blocks = a.n, a.c, a.blocks
    shape.ih, shape.iw, shape.oh, shape.ow, shape.ph, shape.pw = a.ih, a.iw, a.oh, a.ow, a.ph, a.pw
    shape.x, shape.x_n, shape.x_c, shape.x_h = a.x, a.x_n, a.x_c, a.x_h
    b = winograd_nth_block(m, shape, a.block)
    b.panels = 1
    return b


cdef inline int64_t winograd_grad_step(const winograd_block *b, int64_t channels) noexcept nogil:
    return (b.vectors * channels + 1) * LANES


# Elements of s between one xi and the next: LANES are idle
cdef inline int64_t winograd_sums_step(const winograd_grad_args *a) noexcept nogil:
    return a.k * a.c + LANES


cdef inline void winograd_transform_grad_output(
    int m, const winograd_grad_args *a, const winograd_block *b, const real *y, real *w, int64_t step, real *scratch,
) noexcept nogil:
    """One channel of grad_output: A both ways."""
    cdef int64_t th = (a.oh + m - 1) // m, tw = (a.ow + m - 1) // m
    cdef int64_t image = b.first // (th * tw), row = b.first // tw % th, column = b.first % tw
    cdef int64_t pitch = winograd_pitch(m, b), done = 0, run, left, q, group
    cdef real *body = scratch
    cdef const real *zeros = body + (m + 2) * pitch
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
            winograd_grad_output(m, d, o)
            for i in range(m + 2):
                vec_store(body + i * pitch + done * m + q, o[i])
            q += LANES
        done += run
        column = 0
        row += 1
        if row == th:
            row = 0
            image += 1
    for i in range(m + 2):
        for group in range(b.vectors):
            for j in range(m):
                o[j] = vec_load(body + i * pitch + (group * m + j) * LANES)
            winograd_deinterleave(m, o, d)
            winograd_grad_output(m, d, o)
            for j in range(m + 2):
                vec_store(w + (i * (m + 2) + j) * step + group * LANES, o[j])


cdef inline void winograd_grad_transform(
    int m, const winograd_grad_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef winograd_args shape
    cdef winograd_block b = winograd_grad_block(m, a, &shape)
    cdef int64_t parts = (a.c + a.k + a.channels - 1) // a.channels, area = (m + 2) * (m + 2)
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
            winograd_transform_input(m, &shape, &b, g, first, min(last, a.c), v, <real *>scratch)
        if last > a.c:
            for i in range((m + 2) * winograd_pitch(m, &b) + a.ow):
                (<real *>scratch)[i] = 0
            for channel in range(max(first - a.c, <int64_t>0), last - a.c):
                winograd_transform_grad_output(
                    m, a, &b, <const real *>a.y + (g * a.k + channel) * a.y_k, w + channel * b.vectors * LANES, step,
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
        winograd_interleave(size, d, o)
        for i in range(size):
            vec_store(to + (group * LANES + i * LANES // size) * width + i * LANES % size, o[i])


cdef inline void winograd_grad_multiply(
    int m, const winograd_grad_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef winograd_args shape
    cdef winograd_block b = winograd_grad_block(m, a, &shape)
    cdef int64_t pitch = b.vectors * LANES, groups = (a.c + LANES - 1) // LANES
    cdef int64_t panels = (groups + VECTORS - 1) // VECTORS, item, panel, first, width, group, row
    cdef int64_t parts = (b.tiles + WINOGRAD_DEPTH - 1) // WINOGRAD_DEPTH, part, tile, depth
    cdef real *packed_w = <real *>scratch
    cdef real *packed_v = packed_w + (a.k + ROWS - 1) // ROWS * ROWS * pitch
    cdef real *s
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
                    gemm_rows(
                        depth, packed_w + row * pitch + tile * ROWS, packed_v + tile * width, width,
                        s + row * a.c + first, a.c, NULL, min(a.k - row, <int64_t>ROWS), min(width, a.c - first),
                        a.block + part > 0,
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
    int m, const winograd_grad_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t area = (m + 2) * (m + 2), step = winograd_sums_step(a), item, g, k, c, lane, tap
    cdef bint whole, contiguous = a.out_w == 1 and a.out_h == 3 and a.out_c == 9
    cdef const real *s
    cdef const real *scales = winograd_scales(m)
    cdef real *out
    cdef real *taps
    cdef real value
    cdef vec total
    cdef vec half[3][8]
    cdef vec d[9]
    cdef vec o[9]
    cdef int i, j
    for item in range(begin, end):
        g = item // a.k
        k = item % a.k
        c = 0
        while c < a.c:
            s = <const real *>a.s + g * area * step + k * a.c + c
            for j in range(m + 2):
                for i in range(m + 2):
                    d[i] = vec_load_partial(s + (i * (m + 2) + j) * step, a.c - c)
                    d[i] = d[i] * vec_broadcast(scales[i * (m + 2) + j])
                winograd_grad_weight(m, d, o)
                for i in range(3):
                    half[i][j] = o[i]
            for i in range(3):
                winograd_grad_weight(m, half[i], d + 3 * i)
            total = vec_zero()
            for i in range(9):
                total = total + d[i]
            winograd_interleave(9, d, o)
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


cdef void winograd_f2_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_forward(2, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f4_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_forward(4, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f6_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_forward(6, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f2_input(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_only_input(2, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f4_input(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_only_input(4, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f6_input(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_only_input(6, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f2_output(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_only_output(2, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f4_output(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_only_output(4, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f6_output(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_only_output(6, <const winograd_args *>args, scratch, begin, end)

cdef void winograd_f2_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(2, <const winograd_f2_weight_args *>args, scratch, begin, end)

cdef void winograd_f4_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(4, <const winograd_f2_weight_args *>args, scratch, begin, end)

cdef void winograd_f6_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_transform_weight(6, <const winograd_f2_weight_args *>args, scratch, begin, end)

cdef void winograd_f2_grad_transform(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_grad_transform(2, <const winograd_grad_args *>args, scratch, begin, end)

cdef void winograd_f4_grad_transform(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_grad_transform(4, <const winograd_grad_args *>args, scratch, begin, end)

cdef void winograd_f6_grad_transform(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_grad_transform(6, <const winograd_grad_args *>args, scratch, begin, end)

cdef void winograd_f2_grad_multiply(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_grad_multiply(2, <const winograd_grad_args *>args, scratch, begin, end)

cdef void winograd_f4_grad_multiply(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_grad_multiply(4, <const winograd_grad_args *>args, scratch, begin, end)

cdef void winograd_f6_grad_multiply(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_grad_multiply(6, <const winograd_grad_args *>args, scratch, begin, end)

cdef void winograd_f2_grad_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_inverse_grad(2, <const winograd_grad_args *>args, scratch, begin, end)

cdef void winograd_f4_grad_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_inverse_grad(4, <const winograd_grad_args *>args, scratch, begin, end)

cdef void winograd_f6_grad_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    winograd_inverse_grad(6, <const winograd_grad_args *>args, scratch, begin, end)
