# Convolution as a matrix product whose right-hand side, the lowered input, only ever exists as small panels: with
# output pixels in the lanes.

# A run of output pixels of one row: where its first tap is read, and where it stands in the panels.
ctypedef struct pixel_run:
    int64_t start, place, count


# Where a panel stands among the output pixels of an image.
ctypedef struct panel_place:
    int64_t pixel, count


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


cdef inline void fetch_row(const real *row, int64_t count) noexcept nogil:
    cdef int64_t i = 0
    while i < count:
        vec_prefetch(row + i)
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
    cdef int64_t cuts = a.cuts, stacks = a.stacks, width = ceil_div(line_panels, cuts) * ceil_div(lines, stacks)
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    # weights that are not packed are rows of taps
    cdef int64_t lda = taps if a.unpacked else 0, group_weights = (a.k if a.unpacked else blocks * ROWS) * taps
    # scratch: places[width], runs[width * COLUMNS], offsets[area], panels[width][depth * COLUMNS + LANES],
    # sums[ROWS][COLUMNS], stripe
    cdef int64_t panel_step = a.depth * COLUMNS + LANES
    cdef panel_place *places = <panel_place *>scratch
    cdef pixel_run *runs = <pixel_run *>(places + width)
    t.offsets = <int64_t *>(runs + width * COLUMNS)
    cdef real *packed = <real *>(t.offsets + area)
    cdef real *sums = packed + width * panel_step
    t.striped = <real *>aligned(scratch, sums + ROWS * COLUMNS)
    cdef int64_t item, rest, split, group, image, first_block, last_block, block, run_count, first, rows, row, p, count
    cdef int64_t first_line, last_line, first_part, last_part, at, part, pixel, column, panel, panels, channel, tap, q
    cdef int64_t coming, due, fetched, tiles, first_read, end_read
    cdef const real *next = NULL
    cdef bint followed, copied, single, more
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
        followed = t.inside and area == 1
        copied = followed and g.ih == 1 and flat
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
                    runs[run_count].start = read_place(&t, row * g.ow + column)
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
        pixel = places[panels - 1].pixel + places[panels - 1].count - 1
        first_read = read_place(&t, places[0].pixel)
        end_read = read_place(&t, pixel) + 1
        # one block of output channels has no use for a copy
        single = last_block - first_block == 1
        first = 0
        while first < taps:
            rows = min(a.depth, taps - first)
            more = first > 0 or a.accumulate
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
            coming = due = fetched = 0
            tiles = panels * (last_block - first_block)
            if followed and not single:
                if first + rows < taps:
                    next = read_channels(&t, first + rows, 1) + first_read
                    coming = min(a.depth, taps - first - rows)
                elif (item + 1) % (stacks * cuts) != 0 and item + 1 < end:
                    next = read_channels(&t, 0, 1) + end_read
                    coming = min(a.depth, taps)
            for block in range(first_block, last_block):
                row = group * a.k + block * ROWS
                weight = <const real *>a.packed + group * group_weights + block * ROWS * taps
                weight += first if a.unpacked else first * ROWS
                bias = <const real *>a.bias + row if a.bias else NULL
                out = <real *>a.out + image * a.out_n + row * a.out_k
                row = a.k - block * ROWS
                for panel in range(panels):
                    pixel = places[panel].pixel
                    count = places[panel].count
                    source = packed + panel * panel_step
                    due += coming
                    while due >= tiles:
                        due -= tiles
                        fetch_row(next + fetched * g.x_c, end_read - first_read)
                        fetched += 1
                    if copied and single and count % LANES == 0:
                        gemm_rows(
                            rows, weight, lda, t.x + first * g.x_c + pixel, g.x_c, out + pixel, a.out_k, bias, row,
                            count, more,
                        )
                    elif copied and block == first_block and count % LANES == 0:
                        gemm_copying(
                            rows, weight, lda, t.x + first * g.x_c + pixel, g.x_c, packed + panel * panel_step,
                            out + pixel, a.out_k, bias, row, count, more,
                        )
                    elif flat:
                        gemm_rows(
                            rows, weight, lda, source, COLUMNS, out + pixel, a.out_k, bias, row, count, more,
                        )
                    else:
                        gemm_rows(
                            rows, weight, lda, source, COLUMNS, sums, COLUMNS, bias if first == 0 else NULL, row,
                            count, False,
                        )
                        scatter_rows(
                            a.ow, a.out_k, a.out_h, a.out_w, sums, min(row, <int64_t>ROWS), out, pixel, count,
                            more,
                        )
            first += rows
