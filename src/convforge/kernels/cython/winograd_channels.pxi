# The transforms of Winograd F(m, r) with channels in the lanes: what they read and write is transposed.

# Elements from one tile to the next in v and in p; v's are not a power of two, whose lines compete for few sets
cdef inline int64_t winograd_input_pitch(int64_t c) noexcept nogil:
    return (ceil_div(c, LANES) + 1) * LANES


cdef inline int64_t winograd_product_pitch(int64_t k) noexcept nogil:
    return ceil_div(k, LANES) * LANES


cdef inline void winograd_channels_tile(
    int f, const real *const *rows, int64_t column, int64_t dilation, real *to, int64_t pitch
) noexcept nogil:
    """B^T both ways on a tile of LANES channels, whose columns are ``dilation`` apart."""
    cdef int alpha = winograd_alpha(f)
    cdef vec half[WINOGRAD_ALPHA][WINOGRAD_ALPHA]
    cdef vec d[WINOGRAD_ALPHA]
    cdef vec o[WINOGRAD_ALPHA]
    cdef int i, j
    for j in range(alpha):
        for i in range(alpha):
            d[i] = vec_load(rows[i] + (column + j * dilation) * LANES)
        winograd_input(f, d, o)
        for i in range(alpha):
            half[i][j] = o[i]
    for i in range(alpha):
        winograd_input(f, half[i], o)
        for j in range(alpha):
            vec_store(to + (i * alpha + j) * pitch, o[j])


cdef inline void winograd_channels_input(
    int f, const winograd_args *a, const winograd_block *b, int64_t g, int64_t begin, int64_t end, real *v,
    real *scratch,
) noexcept nogil:
    """Channels ``begin`` to ``end`` of group g, transformed to ``v``; ``begin`` is a multiple of LANES."""
    cdef int step = winograd_step(f), alpha = winograd_alpha(f)
    cdef int64_t th = winograd_high(f, a), tw = winograd_wide(f, a), phases = a.dh * a.dw
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
        to = v + channel
        while done < b.tiles:
            if image // phases != copied:
                copied = image // phases
                first, last = 0, height
                if phases == 1:
                    first = row * step
                    last = (min(th, row + ceil_div(column + b.tiles - done, tw)) - 1) * step + alpha
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
                line = (row * step + i) * a.dh + top
                rows[i] = copy + (line - first) * width * LANES if a.ph <= line < a.ih + a.ph else zeros
            for i in range(column, column + run):
                winograd_channels_tile(f, rows, i * step * a.dw + side, a.dw, to, to_xi)
                to += to_tile
            done += run
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1
        channel += LANES


cdef inline vec winograd_channels_outputs(
    int f, const real *p, int64_t pitch, vec bias, int64_t height, int64_t columns, real *to, int64_t to_row,
    int64_t to_column,
) noexcept nogil:
    """A^T both ways on a tile of LANES channels; the sum of all is NaN or infinite if any output is without a bias."""
    cdef int m = winograd_m(f), alpha = winograd_alpha(f)
    cdef vec half[6][WINOGRAD_ALPHA]
    cdef vec d[WINOGRAD_ALPHA]
    cdef vec o[WINOGRAD_ALPHA]
    cdef vec total = vec_zero()
    cdef int i, j
    for j in range(alpha):
        for i in range(alpha):
            d[i] = vec_load(p + (i * alpha + j) * pitch)
        winograd_output(f, d, o)
        for i in range(m):
            half[i][j] = o[i]
    for i in range(m):
        if i < height:
            winograd_output(f, half[i], d)
            for j in range(m):
                if j < columns:
                    total = total + d[j]
                    vec_store(to + (i * to_row + j * to_column) * LANES, d[j] + bias)
    return total


cdef inline void winograd_channels_output(
    int f, const winograd_args *a, const winograd_block *b, int64_t g, int64_t first_k, const real *p, real *scratch,
) noexcept nogil:
    """The outputs of a block of output channels from their products."""
    cdef int m = winograd_m(f)
    cdef int64_t th = winograd_high(f, a), tw = winograd_wide(f, a), phases = a.dh * a.dw
    cdef int64_t count = min(a.k_block, a.k - first_k)
    cdef int64_t to_tile = winograd_product_pitch(count), to_xi = b.tiles * to_tile + LANES
    cdef int64_t k = first_k, channels, image, whole, row, column, done, run, height, columns, top, left, to_row, t, i
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
        source = p + k - first_k
        image, row, column, done = b.image, b.row, b.column, 0
        while done < b.tiles:
            whole = image // phases
            run = min(tw - column, b.tiles - done)
            # the first output, how many there are, dh and dw apart, and where: in a row of tiles, or a whole image
            top = row * m * a.dh + image % phases // a.dw
            left = column * m * a.dw + image % a.dw
            height = min(ceil_div(a.oh - top, a.dh), <int64_t>m)
            columns = min(ceil_div(a.ow - left, a.dw), run * m)
            to_row = columns if phases == 1 else a.ow
            pixels = scratch if phases == 1 else scratch + (top * a.ow + left) * LANES
            total = vec_zero()
            for t in range(run):
                total = total + winograd_channels_outputs(
                    f, source, to_xi, shift, height, columns - t * m, pixels + t * m * a.dw * LANES, to_row * a.dh, a.dw
                )
                source += to_tile
            sum = vec_sum(total)
            if sum - sum != 0:
                for i in range(channels):
                    winograd_repair(
                        f, a, whole, g, k + i, top, left, height, columns, pixels + i, to_row * a.dh * LANES, a.dw * LANES,
                        biases[i],
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
