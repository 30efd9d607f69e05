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


# What the pixels of an image are cut into: lines, a row of pixels or all of them, in vectors and panels.
ctypedef struct pixel_lines:
    int64_t line, lines, vectors, panels, blocks


# What an item computes: parts of some lines, panels of pixels each, for some blocks of output channels. All its pixels
# lie among `count` from `pixel` on.
ctypedef struct panel_item:
    const real *x
    int64_t image, group, first_line, last_line, first_part, last_part, first_block, last_block, pixel, count


cdef inline panel_item nth_panels(const im2col_forward_args *a, const pixel_lines *l, int64_t number) noexcept nogil:
    cdef panel_item i
    cdef int64_t cut = number % a.cuts, stack = number // a.cuts % a.stacks, rest = number // (a.cuts * a.stacks), last
    i.group = rest // a.splits % a.g
    i.image = rest // (a.splits * a.g)
    i.first_line = l.lines * stack // a.stacks
    i.last_line = l.lines * (stack + 1) // a.stacks
    i.first_part = l.panels * cut // a.cuts
    i.last_part = l.panels * (cut + 1) // a.cuts
    i.first_block = l.blocks * (rest % a.splits) // a.splits
    i.last_block = l.blocks * (rest % a.splits + 1) // a.splits
    i.x = <const real *>a.x + i.image * a.x_n + i.group * a.c * a.x_c
    i.pixel = i.first_line * l.line + first_pixel(l, i.first_part)
    last = (i.last_line - 1) * l.line + first_pixel(l, i.last_part)
    i.count = last - i.pixel
    return i


cdef inline int64_t first_pixel(const pixel_lines *l, int64_t part) noexcept nogil:
    """Where a panel of a line begins. Shares of whole vectors: 49 pixels are better done as 32 + 17 than as 48 + 1."""
    return min(l.vectors * part // l.panels * LANES, l.line)


cdef inline upcoming fetched_panels(
    const lowered_input *g, const panel_item *i, int64_t channel, int64_t channels, int64_t tiles, int64_t steps
) noexcept nogil:
    """What tiles of so many steps fetch of some channels, which an item will read."""
    cdef int64_t row = i.pixel // g.ow, rows = (i.pixel + i.count - 1) // g.ow - row + 1
    cdef int64_t column = i.pixel - row * g.ow if rows == 1 else 0, columns = i.count if rows == 1 else g.ow
    cdef int64_t top = max(row * g.sh - g.ph, <int64_t>0), left = max(column * g.sw - g.pw, <int64_t>0)
    cdef int64_t end = min((row + rows - 1) * g.sh - g.ph + (g.kh - 1) * g.dh + 1, g.ih)
    cdef const real *first = i.x + channel * g.x_c + top * g.x_h + left
    if g.kh == 1 and rows > 1 and g.sh > 1:
        return fetched_by(tiles, steps, first, channels, g.x_c, rows, g.sh * g.x_h, g.iw)
    columns = (columns - 1) * g.sw + (g.kw - 1) * g.dw + 1
    return fetched_by(tiles, steps, first, channels, g.x_c, end > top, 0, (end - top - 1) * g.x_h + columns)


cdef void im2col_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const im2col_forward_args *a = <const im2col_forward_args *>args
    cdef taps_source t
    cdef lowered_input *g = &t.g
    open_source(&t, a.x_c, a.x_h, a.ih, a.iw, a.ow, a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw)
    merge_rows(g, a.oh)
    cdef int64_t pixels = a.oh * a.ow, area = a.kh * a.kw, taps = a.c * area
    cdef pixel_lines l
    l.line = g.ow if a.by_rows else pixels
    l.lines = pixels // l.line
    l.vectors = ceil_div(l.line, LANES)
    l.panels = ceil_div(l.vectors, VECTORS)
    l.blocks = ceil_div(a.k, ROWS)
    cdef int64_t width = ceil_div(l.panels, a.cuts) * ceil_div(l.lines, a.stacks)
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    # weights that are not packed are rows of taps
    cdef int64_t lda = taps if a.unpacked else 0, group_weights = (a.k if a.unpacked else l.blocks * ROWS) * taps
    # scratch: places[width], runs[width * COLUMNS], offsets[area], panels[width][depth * COLUMNS + LANES],
    # sums[ROWS][COLUMNS], stripe
    cdef int64_t panel_step = a.depth * COLUMNS + LANES
    cdef panel_place *places = <panel_place *>scratch
    cdef pixel_run *runs = <pixel_run *>(places + width)
    t.offsets = <int64_t *>(runs + width * COLUMNS)
    cdef real *packed = <real *>(t.offsets + area)
    cdef real *sums = packed + width * panel_step
    t.striped = <real *>aligned(scratch, sums + ROWS * COLUMNS)
    cdef int64_t number, items = a.n * a.g * a.splits * a.cuts * a.stacks
    cdef int64_t block, run_count, tiles, first, rows, row, p, q, count, at, part, pixel, column, panel, panels, channel
    cdef int64_t tap
    cdef panel_item item, after
    cdef upcoming coming
    cdef bint copied, single, more
    cdef tile_fetch fetched
    cdef const real *source
    cdef const real *weight
    cdef const real *bias
    cdef real *out
    for number in range(begin, end):
        item = nth_panels(a, &l, number)
        t.x = item.x
        aim(&t, item.pixel, item.count)
        # whole vectors of x that are panels already are copied by the first of several blocks
        copied = t.inside and area == 1 and g.ih == 1 and flat
        run_count = panel = 0
        for at in range(item.first_line, item.last_line):
            pixel = first_pixel(&l, item.first_part)
            row = at if a.by_rows else pixel // g.ow
            column = pixel if a.by_rows else pixel - row * g.ow
            for part in range(item.first_part, item.last_part):
                count = first_pixel(&l, part + 1) - pixel
                places[panel].pixel = at * l.line + pixel
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
        # one block of output channels has no use for a copy
        single = item.last_block - item.first_block == 1
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
            tiles = panels * (item.last_block - item.first_block)
            coming = fetched_by_none()
            if not single:
                channel = (first + rows) // area
                if channel < a.c:
                    coming = fetched_panels(g, &item, channel, min(a.c - channel, ceil_div(rows, area)), tiles, rows)
                elif number + 1 < items:
                    # the likely next one of this worker
                    after = nth_panels(a, &l, number + 1)
                    if after.x != item.x or after.pixel != item.pixel:
                        coming = fetched_panels(g, &after, 0, min(a.c, ceil_div(a.depth, area)), tiles, rows)
            for block in range(item.first_block, item.last_block):
                row = item.group * a.k + block * ROWS
                weight = <const real *>a.packed + item.group * group_weights + block * ROWS * taps
                weight += first if a.unpacked else first * ROWS
                bias = <const real *>a.bias + row if a.bias else NULL
                out = <real *>a.out + item.image * a.out_n + row * a.out_k
                row = a.k - block * ROWS
                for panel in range(panels):
                    pixel = places[panel].pixel
                    count = places[panel].count
                    source = packed + panel * panel_step
                    fetched = next_fetch(&coming, fetch_weights(weight, lda))
                    if copied and single and count % LANES == 0:
                        gemm_rows(
                            rows, weight, lda, t.x + first * g.x_c + pixel, g.x_c, &fetched, out + pixel,
                            a.out_k, bias, row, count, more,
                        )
                    elif copied and block == item.first_block and count % LANES == 0:
                        gemm_copying(
                            rows, weight, lda, t.x + first * g.x_c + pixel, g.x_c, packed + panel * panel_step,
                            &fetched, out + pixel, a.out_k, bias, row, count, more,
                        )
                    elif flat:
                        gemm_rows(
                            rows, weight, lda, source, COLUMNS, &fetched, out + pixel, a.out_k, bias, row,
                            count, more,
                        )
                    else:
                        gemm_rows(
                            rows, weight, lda, source, COLUMNS, &fetched, sums, COLUMNS,
                            bias if first == 0 else NULL, row, count, False,
                        )
                        scatter_rows(
                            a.ow, a.out_k, a.out_h, a.out_w, sums, min(row, <int64_t>ROWS), out, pixel, count,
                            more,
                        )
            first += rows
