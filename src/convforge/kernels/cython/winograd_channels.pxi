# The transforms of Winograd F(m, r) with channels in the lanes: what they read and write is transposed.

cdef extern from "winograd_tiles.h" nogil:
    void winograd_channels_tile(
        int f, int down, int across, const real *const *rows, int64_t column, int64_t dilation, real *to,
        int64_t pitch,
    )
    vec winograd_channels_outputs(
        int f, int down, int across, const real *p, int64_t pitch, vec bias, int64_t height, int64_t columns, real *to,
        int64_t to_row, int64_t to_column,
    )


# Elements from one tile to the next in v and in p; v's are not a power of two, whose lines compete for few sets
cdef inline int64_t winograd_input_pitch(int64_t c) noexcept nogil:
    return (ceil_div(c, LANES) + 1) * LANES


cdef inline int64_t winograd_product_pitch(int64_t k) noexcept nogil:
    return ceil_div(k, LANES) * LANES


cdef inline void winograd_channels_run(
    int f, int down, int across, const winograd_args *a, const real *const *rows, int64_t column, int64_t tiles,
    real *to, int64_t to_tile, int64_t to_xi,
) noexcept nogil:
    """So many tiles of a row, from a column of the copied input on."""
    cdef int64_t t
    for t in range(tiles):
        winograd_channels_tile(
            f, down, across, rows, column + t * winograd_step(across) * a.dw, a.dw, to + t * to_tile, to_xi
        )


cdef inline void winograd_channels_input(
    int f, const winograd_args *a, const winograd_block *b, int64_t g, int64_t begin, int64_t end, real *v,
    real *scratch,
) noexcept nogil:
    """Channels ``begin`` to ``end`` of group g, transformed to ``v``; ``begin`` is a multiple of LANES."""
    cdef int step = winograd_step(f), alpha = winograd_alpha(f), stride = f % 10, short = winograd_short(f)
    cdef int64_t th = winograd_high(f, a), tw = winograd_wide(f, a), phases = a.dh * a.dw
    cdef int64_t whole_h = th - a.short_h, whole_w = tw - a.short_w
    cdef bint mixed = a.short_h + a.short_w > 0
    cdef int64_t high = th if phases > 1 else min(th, ceil_div(b.tiles - 1, tw) + 1)
    cdef int64_t height = ((high - 1) * step + alpha) * a.dh, width = ((tw - 1) * step + alpha) * a.dw
    cdef int64_t to_tile = winograd_input_pitch(a.c), to_xi = b.tiles * to_tile + LANES
    # columns of the copy, which begins ph and pw before x, that are columns of x
    cdef int64_t left = max(a.pw, <int64_t>0), columns = max(min(width, a.iw + a.pw) - left, <int64_t>0)
    cdef int64_t channel = begin, channels, image, row, column, done, run, first = 0, last, line, copied, top, side, i
    cdef real *copy = scratch  # [height][width][LANES]: of an image, from the block's first row of it on
    cdef real *zeros = copy + height * width * LANES
    cdef const real *planes[LANES]
    cdef const real *rows[WINOGRAD_ALPHA]
    cdef real *to
    for i in range(width):
        vec_store(zeros + i * LANES, vec_zero())
    for line in range(height):
        for i in range(left):
            vec_store(copy + (line * width + i) * LANES, vec_zero())
        for i in range(left + columns, width):
            vec_store(copy + (line * width + i) * LANES, vec_zero())
    while channel < end:
        channels = min(end - channel, <int64_t>LANES)
        image, row, column, done, copied = b.image, b.row, b.column, 0, -1
        while done < b.tiles:
            if image // phases != copied:
                copied = image // phases
                first, last = 0, height
                if phases == 1:
                    first = winograd_before(f, row, whole_h) * stride
                    last = min(th, row + ceil_div(column + b.tiles - done, tw)) - 1
                    last = winograd_before(f, last, whole_h) * stride + alpha
                for i in range(LANES):
                    planes[i] = (
                        <const real *>a.x + copied * a.x_n + (g * a.c + channel + min(i, channels - 1)) * a.x_c
                    )
                for line in range(max(first, a.ph), min(last, a.ih + a.ph)):
                    transpose_in(
                        planes, (line - a.ph) * a.x_h + left - a.pw, columns, min(columns, <int64_t>LANES),
                        copy + ((line - first) * width + left) * LANES,
                    )
            run = min(tw - column, b.tiles - done)
            top = image % phases // a.dw
            side = image % a.dw
            for i in range(alpha):
                line = (winograd_before(f, row, whole_h) * stride + i) * a.dh + top
                rows[i] = copy + (line - first) * width * LANES if a.ph <= line < a.ih + a.ph else zeros
            to = v + channel
            if not mixed:
                winograd_channels_run(
                    f, f, f, a, rows, column * step * a.dw + side, run, to + done * to_tile, to_tile, to_xi
                )
            elif short != f:
                to += winograd_place(a, b, th, tw, image * th + row, 0) * to_tile
                if row < whole_h:
                    winograd_channels_run(f, f, f, a, rows, side, whole_w, to, to_tile, to_xi)
                else:
                    winograd_channels_run(f, short, f, a, rows, side, whole_w, to, to_tile, to_xi)
                to = v + channel + winograd_place(a, b, th, tw, image * th + row, whole_w) * to_tile
                i = whole_w * step * a.dw + side
                if row < whole_h:
                    winograd_channels_run(f, f, short, a, rows, i, a.short_w, to, to_tile, to_xi)
                else:
                    winograd_channels_run(f, short, short, a, rows, i, a.short_w, to, to_tile, to_xi)
            done += run
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1
        channel += LANES


cdef inline vec winograd_channels_row(
    int f, int down, int across, const winograd_args *a, const real *p, int64_t to_tile, int64_t to_xi, vec bias,
    int64_t tiles, int64_t height, int64_t columns, real *to, int64_t to_row,
) noexcept nogil:
    """The outputs of so many tiles of a row, and their total."""
    cdef vec total = vec_zero()
    cdef int64_t t, m = winograd_m(across)
    for t in range(tiles):
        total = total + winograd_channels_outputs(
            f, down, across, p + t * to_tile, to_xi, bias, height, columns - t * m, to + t * m * a.dw * LANES,
            to_row * a.dh, a.dw,
        )
    return total


cdef inline void winograd_channels_output(
    int f, const winograd_args *a, const winograd_block *b, int64_t g, int64_t first_k, const real *p, real *scratch,
) noexcept nogil:
    """The outputs of a block of output channels from their products."""
    cdef int short = winograd_short(f)
    cdef int64_t th = winograd_high(f, a), tw = winograd_wide(f, a), phases = a.dh * a.dw
    cdef int64_t whole_h = th - a.short_h, whole_w = tw - a.short_w
    cdef bint mixed = a.short_h + a.short_w > 0
    cdef int64_t count = min(a.k_block, a.k - first_k)
    cdef int64_t to_tile = winograd_product_pitch(count), to_xi = b.tiles * to_tile + LANES
    cdef int64_t k = first_k, channels, image, whole, row, column, done, run, height, columns, top, left, to_row
    cdef int64_t more, rest, i
    cdef const real *bias = <const real *>a.bias
    cdef const real *source
    cdef real *pixels
    cdef real *out
    cdef real sum
    cdef real biases[LANES]
    cdef vec total, shift
    while k < first_k + count:
        channels = min(first_k + count - k, <int64_t>LANES)
        shift = vec_load_partial(bias + g * a.k + k, channels) if a.bias else vec_zero()
        vec_store(biases, shift)
        image, row, column, done = b.image, b.row, b.column, 0
        while done < b.tiles:
            whole = image // phases
            run = min(tw - column, b.tiles - done)
            # the first output, how many there are, dh and dw apart, and where: in a row of tiles, or a whole image
            top = winograd_before(f, row, whole_h) * a.dh + image % phases // a.dw
            left = winograd_before(f, column, whole_w) * a.dw + image % a.dw
            height = winograd_before(f, row + 1, whole_h) - winograd_before(f, row, whole_h)
            height = min(ceil_div(a.oh - top, a.dh), height)
            columns = winograd_before(f, column + run, whole_w) - winograd_before(f, column, whole_w)
            columns = min(ceil_div(a.ow - left, a.dw), columns)
            to_row = columns if phases == 1 else a.ow
            pixels = scratch if phases == 1 else scratch + (top * a.ow + left) * LANES
            source = p + k - first_k
            total = vec_zero()
            if not mixed:
                total = winograd_channels_row(
                    f, f, f, a, source + done * to_tile, to_tile, to_xi, shift, run, height, columns, pixels, to_row
                )
            elif short != f:
                i = winograd_place(a, b, th, tw, image * th + row, 0) * to_tile
                more = winograd_place(a, b, th, tw, image * th + row, whole_w) * to_tile
                out = pixels + whole_w * winograd_m(f) * a.dw * LANES
                rest = columns - whole_w * winograd_m(f)
                if row < whole_h:
                    total = winograd_channels_row(
                        f, f, f, a, source + i, to_tile, to_xi, shift, whole_w, height, columns, pixels, to_row
                    ) + winograd_channels_row(
                        f, f, short, a, source + more, to_tile, to_xi, shift, a.short_w, height, rest, out, to_row
                    )
                else:
                    total = winograd_channels_row(
                        f, short, f, a, source + i, to_tile, to_xi, shift, whole_w, height, columns, pixels, to_row
                    ) + winograd_channels_row(
                        f, short, short, a, source + more, to_tile, to_xi, shift, a.short_w, height, rest, out, to_row
                    )
            sum = vec_sum(total)
            if sum - sum != 0:
                for i in range(channels):
                    winograd_repair(
                        f, a, whole, g, k + i, top, left, height, columns, pixels + i, to_row * a.dh * LANES,
                        a.dw * LANES, biases[i],
                    )
            done += run
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1
            if phases > 1:
                if image // phases == whole:
                    continue
                top, left, height, columns = 0, 0, a.oh, a.ow
            out = <real *>a.out + whole * a.out_n + (g * a.k + k) * a.out_k + top * a.out_h + left
            if columns == a.out_h:
                transpose_out(scratch, height * columns, channels, out, a.out_k)
            else:
                for i in range(height):
                    transpose_out(scratch + i * columns * LANES, columns, channels, out + i * a.out_h, a.out_k)
        k += LANES
