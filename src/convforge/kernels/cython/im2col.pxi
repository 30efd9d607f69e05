# Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels.
#
# A row of the lowered input is one tap (c, i, j) of the kernel, a column one output pixel (h * ow + w): it holds
# x[c, h * sh - ph + i * dh, w * sw - pw + j * dw], or 0 outside of x.

ctypedef struct lowered_input:
    int64_t x_c, x_h, ih, iw, ow, kh, kw, sh, sw, ph, pw, dh, dw

# A run of at most LANES output pixels of one row: where its first tap reads, and where it stands in the panel.
ctypedef struct run:
    int64_t h, w, lane, count


cdef inline void merge_rows(lowered_input *g, int64_t oh) noexcept nogil:
    """Take the plane for one row where output pixels are input pixels: 1x1 kernels, stride 1, no padding."""
    if (
        g.kh * g.kw * g.sh * g.sw == 1 and g.ph == 0 and g.pw == 0
        and g.ih == oh and g.iw == g.ow and g.x_h == g.iw
    ):
        g.iw *= g.ih
        g.ow = g.iw
        g.ih = 1


cdef inline int64_t cut_runs(const lowered_input *g, int64_t pixel, int64_t count, run *runs) noexcept nogil:
    """The runs that make up the ``count`` output pixels from ``pixel`` on; how many they are."""
    cdef int64_t lane = 0, runs_cut = 0, row, column
    while lane < count:
        row = (pixel + lane) // g.ow
        column = pixel + lane - row * g.ow
        runs[runs_cut].h = row * g.sh - g.ph
        runs[runs_cut].w = column * g.sw - g.pw
        runs[runs_cut].lane = lane
        runs[runs_cut].count = min(min(<int64_t>LANES, g.ow - column), count - lane)
        lane += runs[runs_cut].count
        runs_cut += 1
    return runs_cut


cdef inline void lower_by(
    int64_t sw, const lowered_input *g, const real *x, const run *runs, int64_t run_count, int64_t first, int64_t rows,
    real *panel, int64_t panel_row, int64_t columns,
) noexcept nogil:
    cdef int64_t ih = g.ih, iw = g.iw, kh = g.kh, kw = g.kw, dh = g.dh, dw = g.dw, x_c = g.x_c, x_h = g.x_h
    cdef int64_t c = first // (kh * kw), i = first // kw % kh, j = first % kw
    cdef int64_t row, q, h, w, lo, hi
    cdef const real *plane = x + c * x_c
    cdef vec pixels
    for row in range(rows):
        if columns % LANES:
            vec_store(panel + columns // LANES * LANES, vec_zero())
        for q in range(run_count):
            h = runs[q].h + i * dh
            w = runs[q].w + j * dw
            pixels = vec_zero()
            if h >= 0 and h < ih and w < iw:
                lo = 0 if w >= 0 else (sw - 1 - w) // sw
                hi = min(runs[q].count, (iw - w + sw - 1) // sw)
                pixels = vec_load_strided(plane + h * x_h + w, sw, lo, hi)
            # lanes past the run are written by the next run, or by the next row
            vec_store(panel + runs[q].lane, pixels)
        panel += panel_row
        j += 1
        if j == kw:
            j = 0
            i += 1
            if i == kh:
                i = 0
                plane += x_c


cdef void lower(
    const lowered_input *g, const real *x, const run *runs, int64_t run_count, int64_t first, int64_t rows,
    real *panel, int64_t panel_row, int64_t columns,
) noexcept nogil:
    """panel[rows][columns] = the rows of the lowered input from ``first`` on, for the pixels of ``runs``.

    The columns up to the next multiple of LANES are zero; up to LANES elements past the panel's end are written.
    """
    if g.sw == 1:
        lower_by(1, g, x, runs, run_count, first, rows, panel, panel_row, columns)
    elif g.sw == 2:
        lower_by(2, g, x, runs, run_count, first, rows, panel, panel_row, columns)
    else:
        lower_by(g.sw, g, x, runs, run_count, first, rows, panel, panel_row, columns)


cdef void scatter_rows(
    int64_t ow, int64_t out_k, int64_t out_h, int64_t out_w, const real *sums, int64_t rows, real *out, int64_t pixel,
    int64_t count,
) noexcept nogil:
    """out[row, pixel + i] = sums[row][i] for outputs whose pixels do not lie in one piece."""
    cdef int64_t row, i, h, w
    for row in range(rows):
        h = pixel // ow
        w = pixel % ow
        for i in range(count):
            out[row * out_k + h * out_h + w * out_w] = sums[row * COLUMNS + i]
            w += 1
            if w == ow:
                w = 0
                h += 1


# The input under one panel of output pixels, padded with zeros, its columns split by their phase within a stride: what
# neighbouring pixels read for one tap lies in one piece. A channel has `rows` rows of `phases` pieces of `pitch`
# elements; the first is row `top` of x from column `left` on, the next ones are `row_step` rows of x apart.
ctypedef struct stripe:
    int64_t top, left, rows, row_step, phases, pitch, channel


cdef inline void fill_columns(
    int64_t sw, const lowered_input *g, const stripe *s, const real *x, int64_t channels, real *to
) noexcept nogil:
    cdef int64_t t = 0, c, r, h, q, lo, hi, at, room, column = s.left, pitch = s.pitch, step = s.phases * s.pitch
    cdef const real *row
    cdef real *piece
    cdef vec_mask masks[4]
    cdef vec v[4]
    cdef vec even, other
    cdef int i
    while t < pitch:
        # column by column of vectors, as their edges are the same in all rows
        for i in range(4):
            if i < sw:
                masks[i] = vec_lanes_between(-column - i * LANES, g.iw - column - i * LANES)
        room = pitch - t
        piece = to + t
        for c in range(channels):
            for r in range(s.rows):
                h = s.top + r * s.row_step
                row = x + c * g.x_c + h * g.x_h + column
                if h < 0 or h >= g.ih:
                    for q in range(s.phases):
                        vec_store_partial(piece + q * pitch, vec_zero(), room)
                elif sw == 1:
                    vec_store_partial(piece, vec_load_masked(row, masks[0]), room)
                elif sw == 2:
                    v[0] = vec_load_masked(row, masks[0])
                    v[1] = vec_load_masked(row + LANES, masks[1])
                    vec_store_partial(piece, vec_even(v[0], v[1]), room)
                    if s.phases > 1:
                        vec_store(piece + pitch, vec_odd(v[0], v[1]))
                elif sw == 4 and s.phases > 1:
                    for i in range(4):
                        v[i] = vec_load_masked(row + i * LANES, masks[i])
                    even = vec_even(v[0], v[1])
                    other = vec_even(v[2], v[3])
                    vec_store(piece, vec_even(even, other))
                    vec_store(piece + 2 * pitch, vec_odd(even, other))
                    even = vec_odd(v[0], v[1])
                    other = vec_odd(v[2], v[3])
                    vec_store(piece + pitch, vec_even(even, other))
                    vec_store(piece + 3 * pitch, vec_odd(even, other))
                else:
                    for q in range(s.phases):
                        at = column + q
                        lo = 0 if at >= 0 else (g.sw - 1 - at) // g.sw
                        hi = 0 if at >= g.iw else (g.iw - at + g.sw - 1) // g.sw
                        vec_store_partial(piece + q * pitch, vec_load_strided(row + q, g.sw, lo, hi), room)
                piece += step
        column += g.sw * LANES
        t += LANES


cdef void fill_stripe(
    const lowered_input *g, const stripe *s, const real *x, int64_t channels, real *to
) noexcept nogil:
    """to[channels][s.channel] = the stripe, from ``x`` at its first channel."""
    if g.sw == 1:
        fill_columns(1, g, s, x, channels, to)
    elif g.sw == 2:
        fill_columns(2, g, s, x, channels, to)
    elif g.sw == 4:
        fill_columns(4, g, s, x, channels, to)
    else:
        fill_columns(0, g, s, x, channels, to)


cdef inline void list_taps(
    const lowered_input *g, int64_t first, int64_t rows, int64_t channel, int64_t row, int64_t phase, int64_t step,
    int64_t *offsets,
) noexcept nogil:
    """offsets[rows] = where the first pixel reads the rows of the lowered input from ``first`` on.

    That is relative to what it reads of the first row's channel at tap (0, 0), given the distance of channels and of
    rows (of x), of phases, and of the columns of a phase.
    """
    cdef int64_t area = g.kh * g.kw, i = first // g.kw % g.kh, j = first % g.kw, start = 0, p
    for p in range(min(rows, area)):
        offsets[p] = start + i * g.dh * row + j * g.dw % step * phase + j * g.dw // step
        j += 1
        if j == g.kw:
            j = 0
            i += 1
            if i == g.kh:
                i = 0
                start += channel
    for p in range(area, rows):
        offsets[p] = offsets[p - area] + channel


cdef inline void lower_stripe(
    const real *source, const int64_t *offsets, int64_t rows, const int64_t *starts, const run *runs, int64_t run_count,
    real *panel,
) noexcept nogil:
    # lanes past a run are overwritten by the next one
    cdef int64_t p, q
    for p in range(rows):
        for q in range(run_count):
            vec_store(panel + runs[q].lane, vec_load(source + offsets[p] + starts[q]))
        panel += COLUMNS


cdef void im2col_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const im2col_forward_args *a = <const im2col_forward_args *>args
    cdef lowered_input g
    g.x_c, g.x_h, g.ih, g.iw, g.ow = a.x_c, a.x_h, a.ih, a.iw, a.ow
    g.kh, g.kw, g.sh, g.sw, g.ph, g.pw, g.dh, g.dw = a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    merge_rows(&g, a.oh)
    cdef int64_t pixels = a.oh * a.ow, area = a.kh * a.kw, taps = a.c * area, blocks = ceil_div(a.k, ROWS)
    # a line is what panels divide: a row of pixels, or all of them
    cdef int64_t line = g.ow if a.by_rows else pixels, lines = pixels // line
    cdef int64_t vectors = ceil_div(line, LANES), line_panels = ceil_div(vectors, VECTORS), panels = lines * line_panels
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    # scratch: runs[COLUMNS], starts[COLUMNS], offsets[depth], panel[depth][COLUMNS] and LANES more,
    # sums[rows of a split][COLUMNS], stripe
    cdef run *runs = <run *>scratch
    cdef int64_t *starts = <int64_t *>(runs + COLUMNS)
    cdef int64_t *offsets = starts + COLUMNS
    cdef real *panel = <real *>(offsets + a.depth)
    cdef real *sums = panel + a.depth * COLUMNS + LANES
    cdef real *striped = sums + ceil_div(blocks, a.splits) * ROWS * COLUMNS
    cdef int64_t item, pixel, split, group, image, count, first_block, last_block, block, run_count, first, rows, row, p
    cdef int64_t target_row = a.out_k if flat else <int64_t>COLUMNS, part, h, w, last_h, reach_h, reach_w
    cdef stripe s
    cdef bint inside, joined, listed
    cdef const real *x
    cdef const real *source
    cdef const real *weight
    cdef const real *bias
    cdef real *out
    cdef real *target
    s.phases = g.sw if g.kw > 1 else 1
    s.row_step = 1 if g.kh > 1 else g.sh
    for item in range(begin, end):
        # shares of whole vectors: 49 pixels are better done as 32 + 17 than as 48 + 1
        part = item % line_panels
        pixel = vectors * part // line_panels * LANES
        count = min(vectors * (part + 1) // line_panels * LANES, line) - pixel
        pixel += item % panels // line_panels * line
        split = item // panels % a.splits
        group = item // (panels * a.splits) % a.g
        image = item // (panels * a.splits * a.g)
        first_block = blocks * split // a.splits
        last_block = blocks * (split + 1) // a.splits
        x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        out = <real *>a.out + image * a.out_n + (group * a.k + first_block * ROWS) * a.out_k
        target = out + pixel if flat else sums
        bias = <const real *>a.bias + group * a.k if a.bias else NULL
        h = pixel // g.ow
        w = pixel % g.ow
        last_h = (pixel + count - 1) // g.ow
        # rows and columns of x from the first pixel's first tap to the last one's last tap, in whole vectors
        reach_h = (last_h - h) * g.sh + (g.kh - 1) * g.dh
        reach_w = (g.kw - 1) * g.dw + ceil_div(count, LANES) * LANES
        s.top = h * g.sh - g.ph
        s.left = (w if h == last_h else 0) * g.sw - g.pw
        inside = (
            g.sw == 1 and h == last_h and s.top >= 0 and s.top + reach_h < g.ih and s.left >= 0
            and s.left + reach_w <= g.iw
        )
        s.rows = reach_h // s.row_step + 1
        s.pitch = (count if h == last_h else g.ow) + (g.kw - 1) * g.dw // g.sw
        if s.phases > 1:
            s.pitch = ceil_div(s.pitch, LANES) * LANES
        s.channel = s.rows * s.phases * s.pitch
        joined, run_count = True, 0
        if not inside:
            run_count = cut_runs(&g, pixel, count, runs)
            for p in range(run_count):
                starts[p] = (runs[p].h - runs[0].h) // s.row_step * s.phases * s.pitch + (runs[p].w - s.left) // g.sw
                joined = joined and starts[p] == starts[0] + runs[p].lane
        first = 0
        while first < taps:
            rows = min(a.depth, taps - first)
            # whole channels at a time use the same table
            listed = first > 0 and joined and a.depth % area == 0
            if inside:
                source = x + first // area * g.x_c + s.top * g.x_h + s.left
                if not listed:
                    list_taps(&g, first, rows, g.x_c, g.x_h, 0, 1, offsets)
            else:
                fill_stripe(&g, &s, x + first // area * g.x_c, (first + rows - 1) // area + 1 - first // area, striped)
                if not listed:
                    list_taps(
                        &g, first, rows, s.channel, s.phases * s.pitch, s.pitch, g.sw if s.phases > 1 else 1, offsets
                    )
                source = striped + starts[0]
                if not joined:
                    lower_stripe(striped, offsets, rows, starts, runs, run_count, panel)
                    source = panel
                    for p in range(rows):
                        offsets[p] = p * COLUMNS
            for block in range(first_block, last_block):
                row = block * ROWS
                weight = <const real *>a.packed + ((group * blocks + block) * taps + first) * ROWS
                gemm_table(
                    rows, weight, source, offsets, target + (row - first_block * ROWS) * target_row, target_row,
                    bias + row if a.bias else NULL, a.k - row, count, first > 0,
                )
            first += rows
        if not flat:
            rows = min(a.k, last_block * ROWS) - first_block * ROWS
            scatter_rows(a.ow, a.out_k, a.out_h, a.out_w, sums, rows, out, pixel, count)


cdef void im2col_pixels(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    # output channels in the lanes, pixels one by one: no lane idles on a small map, and weights are read once an item
    cdef const im2col_pixels_args *a = <const im2col_pixels_args *>args
    cdef lowered_input g
    g.x_c, g.x_h, g.ih, g.iw, g.ow = a.x_c, a.x_h, a.ih, a.iw, a.ow
    # pixels are read one by one: nothing is gained from splitting columns by phase
    g.kh, g.kw, g.sh, g.sw, g.ph, g.pw, g.dh, g.dw = a.kh, a.kw, a.sh, 1, a.ph, a.pw, a.dh, a.dw
    cdef int64_t pixels = a.oh * a.ow, area = a.kh * a.kw, taps = a.c * area
    cdef int64_t vectors = ceil_div(a.k, LANES), panels = ceil_div(vectors, VECTORS)
    cdef int64_t most = ceil_div(ceil_div(pixels, a.shares), LANES) * LANES
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    # scratch: starts[most], offsets[depth], sums[panels of a split][most][COLUMNS], stripe
    cdef int64_t *starts = <int64_t *>scratch
    cdef int64_t *offsets = starts + most
    cdef real *sums = <real *>(offsets + a.depth)
    cdef real *striped = sums + ceil_div(panels, a.splits) * most * COLUMNS
    cdef int64_t item, pixel, split, group, image, count, first_panel, last_panel, panel, first, rows, p, h, w, last_h
    cdef int64_t tiles, t, row, vector, width, i
    cdef stripe s
    cdef bint inside
    cdef const real *x
    cdef const real *source
    cdef const real *packed
    cdef vec block[LANES]
    cdef real *out
    cdef real *to
    cdef vec bias
    s.phases = s.row_step = 1
    for item in range(begin, end):
        # images and shares innermost: they use the same weights
        p = item % a.shares
        pixel = pixels * p // a.shares
        count = pixels * (p + 1) // a.shares - pixel
        image = item // a.shares % a.n
        split = item // (a.shares * a.n) % a.splits
        group = item // (a.shares * a.n * a.splits)
        first_panel = panels * split // a.splits
        last_panel = panels * (split + 1) // a.splits
        x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        packed = <const real *>a.packed + group * vectors * LANES * taps
        h = pixel // a.ow
        last_h = (pixel + count - 1) // a.ow
        s.top = h * a.sh - a.ph
        s.left = -a.pw
        s.rows = (last_h - h) * a.sh + (a.kh - 1) * a.dh + 1
        s.pitch = (a.ow - 1) * a.sw + (a.kw - 1) * a.dw + 1
        s.channel = s.rows * s.pitch
        inside = s.top >= 0 and s.top + s.rows <= a.ih and s.left >= 0 and s.left + s.pitch <= a.iw
        w = pixel % a.ow
        h = 0
        for p in range(count):
            starts[p] = h * a.sh * (a.x_h if inside else s.pitch) + w * a.sw
            w += 1
            if w == a.ow:
                w = 0
                h += 1
        tiles = ceil_div(count, ROWS)
        first = 0
        while first < taps:
            rows = min(a.depth, taps - first)
            source = x + first // area * a.x_c + s.top * a.x_h + s.left
            if first == 0 or a.depth % area > 0:
                list_taps(
                    &g, first, rows, a.x_c if inside else s.channel, a.x_h if inside else s.pitch, 0, 1, offsets
                )
            if not inside:
                fill_stripe(&g, &s, x + first // area * a.x_c, (first + rows - 1) // area + 1 - first // area, striped)
                source = striped
            for panel in range(first_panel, last_panel):
                vector = vectors * panel // panels
                width = vectors * (panel + 1) // panels - vector
                for t in range(tiles):
                    row = count * t // tiles
                    gemm_pixels(
                        width, rows, source, starts + row, offsets, packed + (vector * taps + first * width) * LANES,
                        sums + ((panel - first_panel) * most + row) * COLUMNS, count * (t + 1) // tiles - row, first > 0,
                    )
            first += rows
        out = <real *>a.out + image * a.out_n + group * a.k * a.out_k
        for panel in range(first_panel, last_panel):
            for vector in range(vectors * panel // panels, vectors * (panel + 1) // panels):
                for row in range(ceil_div(count, LANES)):
                    source = (
                        sums + ((panel - first_panel) * most + row * LANES) * COLUMNS
                        + (vector - vectors * panel // panels) * LANES
                    )
                    for i in range(LANES):
                        block[i] = vec_load(source + i * COLUMNS)
                    transpose(LANES, block)
                    rows = min(a.k - vector * LANES, <int64_t>LANES)
                    if a.bias:
                        for i in range(LANES):
                            if i < rows:
                                block[i] = block[i] + vec_broadcast(
                                    (<const real *>a.bias)[group * a.k + vector * LANES + i]
                                )
                    to = out + vector * LANES * a.out_k
                    if flat:
                        to += pixel + row * LANES
                        for i in range(LANES):
                            if i < rows:
                                vec_store_partial(to + i * a.out_k, block[i], count - row * LANES)
                    else:
                        for i in range(LANES):
                            vec_store(striped + i * COLUMNS, block[i])
                        scatter_rows(
                            a.ow, a.out_k, a.out_h, a.out_w, striped, rows, to, pixel + row * LANES,
                            min(count - row * LANES, <int64_t>LANES),
                        )


cdef void im2col_grad_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const im2col_grad_weight_args *a = <const im2col_grad_weight_args *>args
    cdef lowered_input g
    g.x_c, g.x_h, g.ih, g.iw, g.ow = a.x_c, a.x_h, a.ih, a.iw, a.ow
    g.kh, g.kw, g.sh, g.sw, g.ph, g.pw, g.dh, g.dw = a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    cdef bint flat = a.y_h == a.ow or a.oh == 1
    cdef int64_t pixels = a.oh * a.ow, taps = a.c * a.kh * a.kw
    cdef int64_t panels = ceil_div(pixels, a.panel), pairs = a.n * panels, blocks = ceil_div(taps, a.columns)
    merge_rows(&g, a.oh)
    # scratch: runs[panel], lowered[columns][panel] and LANES more, grad_output rows [DOT_ROWS][panel]
    cdef run *runs = <run *>scratch
    cdef real *lowered = <real *>(runs + a.panel)
    cdef real *copied = lowered + a.columns * a.panel + LANES
    cdef int64_t item, first, columns, group, part, pair, image, pixel, count, run_count, row, i, rows
    cdef const real *x
    cdef const real *y
    cdef real *sums
    for item in range(begin, end):
        first = item % blocks * a.columns
        group = item // blocks % a.g
        part = item // (blocks * a.g)
        columns = min(a.columns, taps - first)
        sums = <real *>a.partial + (part * a.g + group) * a.k * taps + first
        for row in range(a.k):
            for i in range(columns):
                sums[row * taps + i] = 0
        for pair in range(pairs * part // a.parts, pairs * (part + 1) // a.parts):
            image = pair // panels
            pixel = pair % panels * a.panel
            count = min(a.panel, pixels - pixel)
            x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
            y = <const real *>a.y + image * a.y_n + group * a.k * a.y_k
            run_count = cut_runs(&g, pixel, count, runs)
            lower(&g, x, runs, run_count, first, columns, lowered, a.panel, count)
            if flat:
                dot_products(count, y + pixel, a.y_k, lowered, a.panel, sums, taps, a.k, columns)
                continue
            for i in range(ceil_div(a.k, DOT_ROWS)):
                row = i * DOT_ROWS
                rows = min(<int64_t>DOT_ROWS, a.k - row)
                copy_pixels(a, y + row * a.y_k, rows, pixel, count, copied)
                dot_products(count, copied, a.panel, lowered, a.panel, sums + row * taps, taps, rows, columns)


cdef void copy_pixels(
    const im2col_grad_weight_args *a, const real *y, int64_t rows, int64_t pixel, int64_t count, real *copied
) noexcept nogil:
    """copied[rows][panel] = the ``count`` pixels from ``pixel`` on, of as many channels of ``y``."""
    cdef int64_t row, i, h, w
    for row in range(rows):
        h = pixel // a.ow
        w = pixel % a.ow
        for i in range(count):
            copied[row * a.panel + i] = y[row * a.y_k + h * a.y_h + w]
            w += 1
            if w == a.ow:
                w = 0
                h += 1
