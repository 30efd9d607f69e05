# Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels.

# A run of output pixels of one row: where its first tap is read, and where it stands in the panels.
ctypedef struct pixel_run:
    int64_t start, place, count


# Where a panel stands among the output pixels of an image.
ctypedef struct panel_place:
    int64_t pixel, count


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


cdef inline void fetch_rows(const real *x, int64_t step, int64_t first, int64_t last, int64_t count) noexcept nogil:
    """Fetch x[row * step] and what follows, ``count`` elements, for rows ``first`` to ``last``."""
    cdef int64_t row, i
    for row in range(first, last):
        i = 0
        while i < count:
            vec_prefetch(x + row * step + i)
            i += 64 // sizeof(real)


cdef void im2col_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const im2col_forward_args *a = <const im2col_forward_args *>args
    cdef taps_source t
    cdef lowered_input *g = &t.g
    open_source(&t, a.x_c, a.x_h, a.ih, a.iw, a.ow, a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw)
    merge_rows(g, a.oh)
    cdef int64_t pixels = a.oh * a.ow, area = a.kh * a.kw, taps = a.c * area, blocks = ceil_div(a.k, ROWS)
    # a line is what panels divide: a row of pixels, or all of them; an item takes a part of a line, or several lines
    cdef int64_t line = g.ow if a.by_rows else pixels, lines = pixels // line
    cdef int64_t vectors = ceil_div(line, LANES), line_panels = ceil_div(vectors, VECTORS)
    cdef int64_t cuts = ceil_div(line_panels, a.width)
    cdef int64_t stacks = ceil_div(lines, max(a.width // line_panels, <int64_t>1))
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    # scratch: places[width], runs[width * COLUMNS], offsets[area], panels[width][depth * COLUMNS + LANES],
    # sums[ROWS][COLUMNS], stripe
    cdef int64_t panel_step = a.depth * COLUMNS + LANES
    cdef panel_place *places = <panel_place *>scratch
    cdef pixel_run *runs = <pixel_run *>(places + a.width)
    t.offsets = <int64_t *>(runs + a.width * COLUMNS)
    cdef real *packed = <real *>(t.offsets + area)
    cdef real *sums = packed + a.width * panel_step
    t.striped = <real *>aligned(scratch, sums + ROWS * COLUMNS)
    cdef int64_t item, rest, split, group, image, first_block, last_block, block, run_count, first, rows, row, p, count
    cdef int64_t first_line, last_line, first_part, last_part, at, part, pixel, column, panel, panels, channel, tap, q
    cdef int64_t coming, fetched, calls, end_pixel
    cdef const real *next = NULL
    cdef bint copied, single
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
        # whole vectors of x that are panels already are copied by the first of several blocks
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
        end_pixel = places[panels - 1].pixel + places[panels - 1].count
        # one block of output channels has no use for a copy
        single = last_block - first_block == 1
        first = 0
        while first < taps:
            rows = min(a.depth, taps - first)
            channel, tap, p = first // area, first % area, 0
            while p < rows:
                count = min(area - tap, rows - p)
                source = read_channels(&t, channel, 1)
                if t.inside:
                    lower_channel(True, source, t.offsets + tap, count, runs, run_count, packed + p * COLUMNS)
                else:
                    lower_channel(False, source, t.offsets + tap, count, runs, run_count, packed + p * COLUMNS)
                p += count
                channel += 1
                tap = 0
            # rows of x that are read next, in this item or the next one, are fetched in long runs on the way: the CPU
            # does not follow as many streams as a panel has rows
            coming = fetched = calls = 0
            if copied and not single:
                if first + rows < taps:
                    next = t.x + (first + rows) * g.x_c + places[0].pixel
                    coming = min(a.depth, taps - first - rows)
                elif (item + 1) % (stacks * cuts) != 0 and item + 1 < end:
                    next = t.x + end_pixel
                    coming = min(a.depth, taps)
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
                    calls += 1
                    q = coming * calls // (panels * (last_block - first_block))
                    fetch_rows(next, g.x_c, fetched, q, end_pixel - places[0].pixel)
                    fetched = q
                    if copied and single and count % LANES == 0:
                        gemm_rows(
                            rows, weight, t.x + first * g.x_c + pixel, g.x_c, out + pixel, a.out_k, bias, row, count,
                            first > 0,
                        )
                    elif copied and block == first_block and count % LANES == 0:
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
    const real *source, const int64_t *offsets, int64_t taps, const int64_t *starts, int64_t rows, int64_t more,
    real *packed,
) noexcept nogil:
    """packed[taps][ROWS] = what up to ROWS pixels read, the last one repeated where they are fewer.

    ``more`` pixels are listed from ``starts`` on: others may be read in the place of those that are missing.
    """
    cdef int64_t p, i
    cdef int64_t at[ROWS]
    cdef const real *tap
    if more >= ROWS and starts[ROWS - 1] == starts[0] + ROWS - 1:
        source += starts[0]
        for p in range(taps):
            memcpy(packed + p * ROWS, source + offsets[p], ROWS * sizeof(real))
        return
    for i in range(ROWS):
        at[i] = starts[min(i, rows - 1)]
    for p in range(taps):
        tap = source + offsets[p]
        for i in range(ROWS):
            packed[p * ROWS + i] = tap[at[i]]


cdef void store_pixels(
    const im2col_pixels_args *a, const real *sums, int64_t pixel, int64_t count, int64_t channels, real *transposed,
    const real *bias, real *out,
) noexcept nogil:
    """out[channel, pixel + i] = sums[i][channel] + bias[channel] for ``count`` pixels; blocks are ``transposed``."""
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    cdef int64_t channel = 0, row, rows, i
    cdef vec block[LANES]
    cdef real *to
    while channel < channels:
        rows = min(channels - channel, <int64_t>LANES)
        to = out + channel * a.out_k
        row = 0
        while row < count:
            for i in range(LANES):
                block[i] = vec_load(sums + (row + i) * COLUMNS + channel)
            vec_transpose(LANES, block)
            if bias:
                for i in range(LANES):
                    if i < rows:
                        block[i] = block[i] + vec_broadcast(bias[channel + i])
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
            row += LANES
        channel += LANES


cdef void im2col_pixels(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    # output channels in the lanes, pixels in the rows of the tile: no lane idles on a small map
    cdef const im2col_pixels_args *a = <const im2col_pixels_args *>args
    cdef taps_source source
    open_source(&source, a.x_c, a.x_h, a.ih, a.iw, a.ow, a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw)
    merge_rows(&source.g, a.oh)
    cdef int64_t pixels = a.oh * a.ow, area = a.kh * a.kw, taps = a.c * area
    cdef int64_t vectors = ceil_div(a.k, LANES), panels = ceil_div(vectors, VECTORS)
    # a unit is what shares and tiles divide: a row of pixels by rows, or else one, and tiles then divide a share
    cdef int64_t unit = source.g.ow if a.by_rows else 1, units = pixels // unit, row_tiles = ceil_div(unit, ROWS)
    cdef int64_t most = ceil_div(ceil_div(units, a.shares) * unit, LANES) * LANES
    cdef int64_t most_tiles = ceil_div(units, a.shares) * row_tiles if a.by_rows else ceil_div(most, ROWS)
    # scratch: starts[most], tops[tiles + 1], offsets[channels * area], lowered[tiles][depth * ROWS + 2 * LANES],
    # sums[panels of a split, or 1][most][COLUMNS], block[LANES][COLUMNS], stripes of some channels
    cdef int64_t *starts = <int64_t *>scratch
    cdef int64_t *tops = starts + most
    source.offsets = tops + most_tiles + 1
    cdef real *lowered = <real *>(source.offsets + a.channels * area)
    # neighbouring tiles would else compete for the same sets of the cache
    cdef int64_t tile_step = a.depth * ROWS + 2 * LANES
    cdef real *sums = lowered + most_tiles * tile_step
    cdef real *transposed = sums + (ceil_div(panels, a.splits) if a.depth < taps else 1) * most * COLUMNS
    source.striped = <real *>aligned(scratch, transposed + LANES * COLUMNS)
    cdef int64_t item, pixel, split, group, image, count, first_panel, last_panel, panel, first, rows, p, h, w
    cdef int64_t tiles, t, row, vector, width, step, i, channel, tap, listed = a.channels * area
    cdef const real *ahead
    cdef const real *read
    cdef const real *weight
    cdef const real *weights
    cdef real *panel_sums
    for item in range(begin, end):
        # images and shares innermost: they use the same weights
        p = item % a.shares
        pixel = units * p // a.shares * unit
        count = units * (p + 1) // a.shares * unit - pixel
        image = item // a.shares % a.n
        split = item // (a.shares * a.n) % a.splits
        group = item // (a.shares * a.n * a.splits)
        first_panel = panels * split // a.splits
        last_panel = panels * (split + 1) // a.splits
        source.x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        weights = <const real *>a.packed + group * vectors * LANES * taps
        aim(&source, pixel, count)
        repeat_taps(source.offsets, area, a.channels, channel_step(&source))
        h = 0
        w = pixel - source.first_row * source.g.ow
        for p in range(count):
            starts[p] = h * source.row_step + w - source.first_column
            w += 1
            if w == source.g.ow:
                w = 0
                h += 1
        if a.by_rows:
            tiles = count // unit * row_tiles
            for t in range(tiles + 1):
                tops[t] = t // row_tiles * unit + unit * (t % row_tiles) // row_tiles
        else:
            tiles = ceil_div(count, ROWS)
            for t in range(tiles + 1):
                tops[t] = count * t // tiles
        first = 0
        while first < taps:
            rows = min(a.depth, taps - first)
            channel, tap, p = first // area, first % area, 0
            while p < rows:
                i = min(listed - tap, rows - p)
                read = read_channels(&source, channel, ceil_div(tap + i, area))
                for t in range(tiles):
                    lower_pixels(
                        read, source.offsets + tap, i, starts + tops[t], tops[t + 1] - tops[t], count - tops[t],
                        lowered + t * tile_step + p * ROWS,
                    )
                p += i
                channel += a.channels
                tap = 0
            for panel in range(first_panel, last_panel):
                vector = vectors * panel // panels
                width = (vectors * (panel + 1) // panels - vector) * LANES
                weight = weights + vector * LANES * taps + first * width
                panel_sums = sums + (panel - first_panel) * most * COLUMNS if a.depth < taps else sums
                # each tile fetches its share of the next panel's weights
                ahead = weight + taps * width
                step = ceil_div(width, tiles)
                for t in range(tiles):
                    gemm_ahead(
                        rows, lowered + t * tile_step, weight, width, ahead + t * rows * step, step,
                        panel_sums + tops[t] * COLUMNS, COLUMNS, NULL, tops[t + 1] - tops[t], width, first > 0,
                    )
                if first + rows == taps:
                    vector *= LANES
                    store_pixels(
                        a, panel_sums, pixel, count, min(width, a.k - vector), transposed,
                        <const real *>a.bias + group * a.k + vector if a.bias else NULL,
                        <real *>a.out + image * a.out_n + (group * a.k + vector) * a.out_k,
                    )
            first += rows
