# Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels.
#
# A row of the lowered input is one tap (c, i, j) of the kernel, a column one output pixel (h * ow + w): it holds
# x[c, h * sh - ph + i * dh, w * sw - pw + j * dw], or 0 outside of x.

ctypedef struct lowered_input:
    int64_t x_c, x_h, ih, iw, ow, kh, kw, sh, sw, ph, pw, dh, dw

# A run of at most LANES output pixels of one row: where its first tap reads, and where it stands in the panel.
ctypedef struct run:
    int64_t h, w, lane, count


# Where a panel stands among the output pixels of an image.
ctypedef struct panel_place:
    int64_t pixel, count


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
    int64_t count, bint accumulate,
) noexcept nogil:
    """out[row, pixel + i] = sums[row][i], plus itself to accumulate, for outputs whose pixels are not in one piece."""
    cdef int64_t row, i, h, w
    cdef real *to
    for row in range(rows):
        h = pixel // ow
        w = pixel % ow
        to = out + row * out_k
        for i in range(count):
            to[h * out_h + w * out_w] = sums[row * COLUMNS + i] + (to[h * out_h + w * out_w] if accumulate else 0)
            w += 1
            if w == ow:
                w = 0
                h += 1


# The input under one panel of output pixels, padded with zeros, its columns split by their phase within a stride: what
# neighbouring pixels read for one tap lies in one piece. It has `rows` rows of `phases` pieces of `pitch`
# elements; the first is row `top` of x from column `left` on, the next ones are `row_step` rows of x apart.
ctypedef struct stripe:
    int64_t top, left, rows, row_step, phases, pitch


cdef inline vec load_columns(bint whole, const real *row, int64_t lo, int64_t hi) noexcept nogil:
    return vec_load(row) if whole else vec_load_window(row, lo, hi)


cdef inline void fill_vector(
    int64_t sw, bint whole, const real *row, int64_t lo, int64_t hi, int64_t phases, int64_t pitch, int64_t room, real *to
) noexcept nogil:
    """Split the columns lo <= column < hi of ``row``, zero outside, into a vector of each phase."""
    cdef vec v[4]
    cdef vec even, other
    cdef int64_t q, step = sw
    cdef int i
    if sw == 1:
        vec_store_partial(to, load_columns(whole, row, lo, hi), room)
    elif sw == 2:
        for i in range(2):
            v[i] = load_columns(whole, row + i * LANES, lo - i * LANES, hi - i * LANES)
        vec_store_partial(to, vec_even(v[0], v[1]), room)
        if phases > 1:
            vec_store(to + pitch, vec_odd(v[0], v[1]))
    elif sw == 4 and phases > 1:
        for i in range(4):
            v[i] = load_columns(whole, row + i * LANES, lo - i * LANES, hi - i * LANES)
        even = vec_even(v[0], v[1])
        other = vec_even(v[2], v[3])
        vec_store(to, vec_even(even, other))
        vec_store(to + 2 * pitch, vec_odd(even, other))
        even = vec_odd(v[0], v[1])
        other = vec_odd(v[2], v[3])
        vec_store(to + pitch, vec_even(even, other))
        vec_store(to + 3 * pitch, vec_odd(even, other))
    else:
        for q in range(phases):
            vec_store_partial(
                to + q * pitch, vec_load_strided(row + q, step, ceil_div(lo - q, step), ceil_div(hi - q, step)), room
            )


cdef inline void fill_rows(
    int64_t sw, const lowered_input *g, const stripe *s, const real *x, real *to
) noexcept nogil:
    cdef int64_t r, q, t, h, column, step = g.sw
    cdef const real *row
    for r in range(s.rows):
        h = s.top + r * s.row_step
        row = x + h * g.x_h
        for q in range(ceil_div(s.pitch, LANES)):
            t = q * LANES
            column = s.left + t * step
            if h < 0 or h >= g.ih:
                for q in range(s.phases):
                    vec_store_partial(to + q * s.pitch + t, vec_zero(), s.pitch - t)
            elif column >= 0 and column + step * LANES <= g.iw:
                fill_vector(sw, True, row + column, 0, step * LANES, s.phases, s.pitch, s.pitch - t, to + t)
            else:
                fill_vector(sw, False, row + column, -column, g.iw - column, s.phases, s.pitch, s.pitch - t, to + t)
        to += s.phases * s.pitch


cdef void fill_stripe(const lowered_input *g, const stripe *s, const real *x, real *to) noexcept nogil:
    """The stripe of the channel at ``x``, at ``to``."""
    if g.sw == 1:
        fill_rows(1, g, s, x, to)
    elif g.sw == 2:
        fill_rows(2, g, s, x, to)
    elif g.sw == 4 and s.phases > 1:
        fill_rows(4, g, s, x, to)
    else:
        fill_rows(g.sw, g, s, x, to)


cdef inline void list_taps(
    const lowered_input *g, int64_t row, int64_t phase, int64_t step, int64_t *offsets
) noexcept nogil:
    """offsets[kh * kw] = where a pixel reads each tap of a channel, relative to its first one.

    That is given the distance of rows (of x), of phases, and of the columns of a phase.
    """
    cdef int64_t i, j, at
    for j in range(g.kw):
        at = j * g.dw if step == 1 else j * g.dw % step * phase + j * g.dw // step
        for i in range(g.kh):
            offsets[i * g.kw + j] = i * g.dh * row + at


# Where the taps of some output pixels are read, channel by channel: in x itself, or in a stripe filled with it. The
# first of the pixels is in row `first_row` and column `first_column` of the output; from one row of output pixels to
# the next it is `row_step` elements.
ctypedef struct taps_source:
    lowered_input g
    stripe s
    bint inside
    int64_t first_row, first_column, row_step
    const real *x
    real *striped
    int64_t *offsets


# A run of output pixels of one row: where its first tap is read, and where it stands in the panels.
ctypedef struct pixel_run:
    int64_t start, place, count


cdef inline void open_source(
    taps_source *t, int64_t x_c, int64_t x_h, int64_t ih, int64_t iw, int64_t oh, int64_t ow, int64_t kh, int64_t kw,
    int64_t sh, int64_t sw, int64_t ph, int64_t pw, int64_t dh, int64_t dw,
) noexcept nogil:
    cdef lowered_input *g = &t.g
    g.x_c, g.x_h, g.ih, g.iw, g.ow, g.kh, g.kw = x_c, x_h, ih, iw, ow, kh, kw
    g.sh, g.sw, g.ph, g.pw, g.dh, g.dw = sh, sw, ph, pw, dh, dw
    merge_rows(g, oh)
    t.s.phases = sw if kw > 1 else 1
    t.s.row_step = 1 if kh > 1 else sh


cdef inline void aim(taps_source *t, int64_t pixel, int64_t count) noexcept nogil:
    """Make ``t`` the source of the ``count`` output pixels from ``pixel`` on; its x is set."""
    cdef lowered_input *g = &t.g
    cdef stripe *s = &t.s
    cdef int64_t h = pixel // g.ow, last_h = (pixel + count - 1) // g.ow
    cdef int64_t w = pixel - h * g.ow if h == last_h else 0, width = count if h == last_h else g.ow
    cdef int64_t reach_h = (last_h - h) * g.sh + (g.kh - 1) * g.dh, reach_w = (width - 1) * g.sw + (g.kw - 1) * g.dw
    t.first_row = h
    t.first_column = w
    s.top = h * g.sh - g.ph
    s.left = w * g.sw - g.pw
    t.inside = (
        g.sw == 1 and s.top >= 0 and s.top + reach_h < g.ih and s.left >= 0 and s.left + reach_w < g.iw
    )
    if t.inside:
        t.row_step = g.sh * g.x_h
        list_taps(g, g.x_h, 0, 1, t.offsets)
        return
    s.rows = reach_h // s.row_step + 1
    s.pitch = width + (g.kw - 1) * g.dw // g.sw
    if s.phases > 1:
        s.pitch = ceil_div(s.pitch, LANES) * LANES
    t.row_step = g.sh // s.row_step * s.phases * s.pitch
    list_taps(g, s.phases * s.pitch, s.pitch, g.sw if s.phases > 1 else 1, t.offsets)
    vec_store(t.striped + s.rows * s.phases * s.pitch, vec_zero())


cdef inline const real *read_channel(taps_source *t, int64_t channel) noexcept nogil:
    """What the places of pixels and taps of this channel are relative to."""
    cdef const real *x = t.x + channel * t.g.x_c
    if t.inside:
        return x + t.s.top * t.g.x_h + t.s.left
    fill_stripe(&t.g, &t.s, x, t.striped)
    return t.striped


cdef inline void lower_channel(
    bint inside, const real *source, const int64_t *offsets, int64_t taps, const pixel_run *runs, int64_t run_count,
    real *panels,
) noexcept nogil:
    # lanes past a run are overwritten by the next one, those of the last run of a row by the next row
    cdef int64_t p, q, i
    cdef const real *tap
    cdef const real *read
    cdef real *to
    for p in range(taps):
        tap = source + offsets[p]
        for q in range(run_count):
            read = tap + runs[q].start
            to = panels + runs[q].place
            for i in range(runs[q].count // LANES):
                vec_store(to, vec_load(read))
                read += LANES
                to += LANES
            i = runs[q].count % LANES
            if i > 0:
                # a stripe goes on past its last run, x may not
                vec_store(to, vec_load_partial(read, i) if inside else vec_load(read))
        panels += COLUMNS


cdef void im2col_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const im2col_forward_args *a = <const im2col_forward_args *>args
    cdef taps_source t
    cdef lowered_input *g = &t.g
    open_source(
        &t, a.x_c, a.x_h, a.ih, a.iw, a.oh, a.ow, a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    )
    cdef int64_t pixels = a.oh * a.ow, area = a.kh * a.kw, taps = a.c * area, blocks = ceil_div(a.k, ROWS)
    # a line is what panels divide: a row of pixels, or all of them; an item takes a part of a line, or several lines
    cdef int64_t line = g.ow if a.by_rows else pixels, lines = pixels // line
    cdef int64_t vectors = ceil_div(line, LANES), line_panels = ceil_div(vectors, VECTORS)
    cdef int64_t cuts = ceil_div(line_panels, a.width), stacks = ceil_div(lines, max(a.width // line_panels, <int64_t>1))
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    # scratch: places[width], runs[width * COLUMNS], offsets[area], panels[width][depth * COLUMNS + LANES],
    # sums[ROWS][COLUMNS], stripe
    cdef int64_t panel_step = a.depth * COLUMNS + LANES
    cdef panel_place *places = <panel_place *>scratch
    cdef pixel_run *runs = <pixel_run *>(places + a.width)
    t.offsets = <int64_t *>(runs + a.width * COLUMNS)
    cdef real *packed = <real *>(t.offsets + area)
    cdef real *sums = packed + a.width * panel_step
    t.striped = sums + ROWS * COLUMNS
    cdef int64_t item, rest, split, group, image, first_block, last_block, block, run_count, first, rows, row, p, count
    cdef int64_t first_line, last_line, first_part, last_part, at, part, pixel, column, panel, panels, channel, tap, q
    cdef bint copied
    cdef const real *source
    cdef const real *weight
    cdef const real *bias
    cdef real *out
    for item in range(begin, end):
        rest = item // (stacks * cuts)
        split = rest % a.splits
        group = rest // a.splits % a.g
        image = rest // (a.splits * a.g)
        first_line = lines * (item // cuts % stacks) // stacks
        last_line = lines * (item // cuts % stacks + 1) // stacks
        first_part = line_panels * (item % cuts) // cuts
        last_part = line_panels * (item % cuts + 1) // cuts
        first_block = blocks * split // a.splits
        last_block = blocks * (split + 1) // a.splits
        t.x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        pixel = first_line * line + vectors * first_part // line_panels * LANES
        aim(&t, pixel, (last_line - 1) * line + min(vectors * last_part // line_panels * LANES, line) - pixel)
        # whole vectors of x that are panels already are copied by the first block
        copied = t.inside and area == 1 and g.ih == 1 and flat
        run_count = panel = 0
        for at in range(first_line, last_line):
            pixel = vectors * first_part // line_panels * LANES
            row = at if a.by_rows else pixel // g.ow
            column = pixel if a.by_rows else pixel - row * g.ow
            for part in range(first_part, last_part):
                # shares of whole vectors: 49 pixels are better done as 32 + 17 than as 48 + 1
                count = min(vectors * (part + 1) // line_panels * LANES, line) - pixel
                places[panel].pixel = at * line + pixel
                places[panel].count = count
                pixel += count
                p = 0
                if copied and count % LANES == 0:
                    p = count
                    column += count
                while p < count:
                    runs[run_count].start = (row - t.first_row) * t.row_step + column - t.first_column
                    runs[run_count].place = panel * panel_step + p
                    runs[run_count].count = q = min(g.ow - column, count - p)
                    run_count += 1
                    p += q
                    column += q
                    if column == g.ow:
                        column = 0
                        row += 1
                panel += 1
        panels = panel
        first = 0
        while first < taps:
            rows = min(a.depth, taps - first)
            channel, tap, p = first // area, first % area, 0
            while p < rows:
                count = min(area - tap, rows - p)
                source = read_channel(&t, channel)
                if t.inside:
                    lower_channel(True, source, t.offsets + tap, count, runs, run_count, packed + p * COLUMNS)
                else:
                    lower_channel(False, source, t.offsets + tap, count, runs, run_count, packed + p * COLUMNS)
                p += count
                channel += 1
                tap = 0
            for block in range(first_block, last_block):
                row = group * a.k + block * ROWS
                weight = <const real *>a.packed + ((group * blocks + block) * taps + first) * ROWS
                bias = <const real *>a.bias + row if a.bias else NULL
                out = <real *>a.out + image * a.out_n + row * a.out_k
                row = a.k - block * ROWS
                for panel in range(panels):
                    pixel = places[panel].pixel
                    count = places[panel].count
                    source = packed + panel * panel_step
                    if copied and block == first_block and count % LANES == 0:
                        gemm_copying(
                            rows, weight, t.x + first * g.x_c + pixel, g.x_c, packed + panel * panel_step, out + pixel,
                            a.out_k, bias, row, count, first > 0,
                        )
                    elif flat:
                        gemm_rows(rows, weight, source, COLUMNS, out + pixel, a.out_k, bias, row, count, first > 0)
                    else:
                        gemm_rows(
                            rows, weight, source, COLUMNS, sums, COLUMNS, bias if first == 0 else NULL, row, count,
                            False,
                        )
                        scatter_rows(
                            a.ow, a.out_k, a.out_h, a.out_w, sums, min(row, <int64_t>ROWS), out, pixel, count,
                            first > 0,
                        )
            first += rows


cdef inline void lower_pixels(
    const real *source, const int64_t *offsets, int64_t taps, const int64_t *starts, int64_t rows, real *packed
) noexcept nogil:
    """packed[taps][ROWS] = what up to ROWS pixels read, the last one repeated where they are fewer."""
    cdef int64_t p, i
    cdef const real *tap
    if rows == ROWS and starts[ROWS - 1] == starts[0] + ROWS - 1:
        for p in range(taps):
            memcpy(packed + p * ROWS, source + starts[0] + offsets[p], ROWS * sizeof(real))
        return
    for p in range(taps):
        tap = source + offsets[p]
        for i in range(ROWS):
            packed[p * ROWS + i] = tap[starts[min(i, rows - 1)]]


cdef void im2col_pixels(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    # output channels in the lanes, pixels in the rows of the tile: no lane idles on a small map
    cdef const im2col_pixels_args *a = <const im2col_pixels_args *>args
    cdef taps_source source
    open_source(
        &source, a.x_c, a.x_h, a.ih, a.iw, a.oh, a.ow, a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    )
    cdef int64_t pixels = a.oh * a.ow, area = a.kh * a.kw, taps = a.c * area
    cdef int64_t vectors = ceil_div(a.k, LANES), panels = ceil_div(vectors, VECTORS)
    cdef int64_t most = ceil_div(ceil_div(pixels, a.shares), LANES) * LANES
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    # scratch: starts[most], tops[tiles + 1], offsets[area], lowered[tiles][depth * ROWS + LANES], sums[panels of a split][most][COLUMNS],
    # block[LANES][COLUMNS], stripe
    cdef int64_t *starts = <int64_t *>scratch
    cdef int64_t *tops = starts + most
    source.offsets = tops + ceil_div(most, ROWS) + 1
    cdef real *lowered = <real *>(source.offsets + area)
    # neighbouring tiles would else compete for the same sets of the cache
    cdef int64_t tile_step = a.depth * ROWS + 2 * LANES
    cdef real *sums = lowered + ceil_div(most, ROWS) * tile_step
    cdef real *transposed = sums + ceil_div(panels, a.splits) * most * COLUMNS
    source.striped = transposed + LANES * COLUMNS
    cdef int64_t item, pixel, split, group, image, count, first_panel, last_panel, panel, first, rows, p, h, w
    cdef int64_t tiles, t, row, vector, width, i, channel, tap
    cdef const real *read
    cdef const real *weight
    cdef const real *weights
    cdef vec block[LANES]
    cdef real *out
    cdef real *to
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
        source.x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        weights = <const real *>a.packed + group * vectors * LANES * taps
        aim(&source, pixel, count)
        h = 0
        w = pixel - source.first_row * source.g.ow
        for p in range(count):
            starts[p] = h * source.row_step + w - source.first_column
            w += 1
            if w == source.g.ow:
                w = 0
                h += 1
        tiles = ceil_div(count, ROWS)
        for t in range(tiles + 1):
            tops[t] = count * t // tiles
        first = 0
        while first < taps:
            rows = min(a.depth, taps - first)
            channel, tap, p = first // area, first % area, 0
            while p < rows:
                i = min(area - tap, rows - p)
                read = read_channel(&source, channel)
                for t in range(tiles):
                    lower_pixels(
                        read, source.offsets + tap, i, starts + tops[t], tops[t + 1] - tops[t],
                        lowered + t * tile_step + p * ROWS,
                    )
                p += i
                channel += 1
                tap = 0
            for panel in range(first_panel, last_panel):
                vector = vectors * panel // panels
                width = (vectors * (panel + 1) // panels - vector) * LANES
                weight = weights + vector * LANES * taps + first * width
                for t in range(tiles):
                    gemm_rows(
                        rows, lowered + t * tile_step, weight, width,
                        sums + ((panel - first_panel) * most + tops[t]) * COLUMNS, COLUMNS, NULL,
                        tops[t + 1] - tops[t], width, first > 0,
                    )
            first += rows
        out = <real *>a.out + image * a.out_n + group * a.k * a.out_k
        for panel in range(first_panel, last_panel):
            for vector in range(vectors * panel // panels, vectors * (panel + 1) // panels):
                for t in range(ceil_div(count, LANES)):
                    row = t * LANES
                    read = (
                        sums + ((panel - first_panel) * most + row) * COLUMNS
                        + (vector - vectors * panel // panels) * LANES
                    )
                    for i in range(LANES):
                        block[i] = vec_load(read + i * COLUMNS)
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
                        for i in range(LANES):
                            if i < rows:
                                vec_store_partial(to + pixel + row + i * a.out_k, block[i], count - row)
                    else:
                        for i in range(LANES):
                            vec_store(transposed + i * COLUMNS, block[i])
                        scatter_rows(
                            a.ow, a.out_k, a.out_h, a.out_w, transposed, rows, to, pixel + row,
                            min(count - row, <int64_t>LANES), False,
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
