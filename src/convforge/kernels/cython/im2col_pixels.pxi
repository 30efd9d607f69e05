# The same product as in im2col.pxi with output channels in the lanes and pixels in the rows of the tile: no lane idles
# on a small map. What tiles read is lowered for all panels of channels; or, in place, they read the input itself, or a
# padded copy of all its channels, in which the pixels of a tile are neighbours.

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


cdef inline void copy_plane(
    const real *plane, int64_t row_step, int64_t columns, int64_t pixel, int64_t count, real *to,
) noexcept nogil:
    """to[i] = the pixel + i-th pixel of a plane whose rows lie apart."""
    cdef int64_t row = pixel // columns, column = pixel - row * columns, done = 0, run
    while done < count:
        run = min(columns - column, count - done)
        memcpy(to + done, plane + row * row_step + column, run * sizeof(real))
        done += run
        column = 0
        row += 1


cdef inline void pack_panel(
    const real *w, int64_t pitch, int64_t taps, int64_t channels, real *packed, int64_t width,
) noexcept nogil:
    """packed[taps][width] = w[channel * pitch + tap], zero for channels past the last one."""
    cdef int64_t tap = 0, count, channel
    # taps at a time: the lines that the vectors of a panel share stay in the first cache
    while tap < taps:
        count = min(taps - tap, <int64_t>16 * LANES)
        channel = 0
        while channel < width:
            pack_block(
                LANES, w + channel * pitch + tap, pitch, 1, 1, 1, count, 1, 1, min(channels - channel, <int64_t>LANES),
                packed + tap * width + channel, width,
            )
            channel += LANES
        tap += count


# Of each ``period`` of taps, a tile sums a ``run`` from the ``first`` one on.
cdef struct tap_run:
    int64_t first, run, period


cdef inline tap_run used_taps(const im2col_pixels_args *a, int64_t row) noexcept nogil:
    """Those of a row of output pixels: kernel rows that see padding alone are left out, unless all do."""
    cdef tap_run used
    cdef int64_t top = row * a.sh - a.ph, first = 0, last = a.kh
    while first < last and top + first * a.dh < 0:
        first += 1
    while first < last and top + (last - 1) * a.dh >= a.ih:
        last -= 1
    if first == last:
        first, last = 0, a.kh
    used.first = first * a.kw
    used.run = (last - first) * a.kw
    used.period = a.kh * a.kw
    return used


cdef inline upcoming fetched_after(
    const im2col_pixels_args *a, const taps_source *t, int64_t channel, int64_t item, int64_t end, int64_t steps
) noexcept nogil:
    """What tiles of so many steps fetch: the channels from one on of an item's input, or past the last the next item's.

    That is nothing where the next item reads the same input.
    """
    cdef int64_t next = item if channel < a.c else item + 1, planes = a.n * a.splits, share = next % a.shares
    cdef int64_t image = next // a.shares % a.n, group = next // a.shares // planes, pixels = a.oh * a.ow
    cdef int64_t first = 0 if next > item else channel
    cdef int64_t row = pixels * share // a.shares // t.g.ow, column = 0
    cdef int64_t last = (pixels * (share + 1) // a.shares - 1) // t.g.ow
    cdef int64_t top = max(row * a.sh - a.ph, <int64_t>0)
    cdef int64_t elements = (min(last * a.sh - a.ph + (a.kh - 1) * a.dh + 1, t.g.ih) - top) * a.x_h
    if next == end or (
        next > item and share == item % a.shares and image == item // a.shares % a.n
        and group == item // a.shares // planes
    ):
        return fetched_by_none()
    if t.g.ow == pixels:  # one row
        column = pixels * share // a.shares
        elements = pixels * (share + 1) // a.shares - column
    return fetched_by(
        1, steps, <const real *>a.x + image * a.x_n + (group * a.c + first) * a.x_c + top * a.x_h + column,
        min(a.channels, a.c - first), a.x_c, 1, 0, elements,
    )


cdef inline void im2col_pixels_of(
    bint in_place, const int64_t *args, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef const im2col_pixels_args *a = <const im2col_pixels_args *>args
    cdef taps_source source
    open_source(&source, a.x_c, a.x_h, a.ih, a.iw, a.ow, a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw)
    merge_rows(&source.g, a.oh)
    if in_place:
        keep_phases(&source)
    # whether tiles do not end with the rows though these lie apart
    cdef bint copied = in_place and not a.by_rows and source.g.ow < a.oh * a.ow
    cdef int64_t pixels = a.oh * a.ow, area = a.kh * a.kw, taps = a.c * area
    cdef int64_t vectors = ceil_div(a.k, LANES), panels = a.panels
    # a unit is what shares and tiles divide: a row of pixels by rows, or else one, and tiles then divide a share
    cdef int64_t unit = source.g.ow if a.by_rows else 1, units = pixels // unit, row_tiles = ceil_div(unit, ROWS)
    cdef int64_t most = ceil_div(ceil_div(units, a.shares) * unit, LANES) * LANES
    cdef int64_t most_tiles = ceil_div(units, a.shares) * row_tiles if a.by_rows else ceil_div(most, ROWS)
    # scratch: starts[most], tops[tiles + 1], offsets[channels * area], lowered[tiles][depth * ROWS + 2 * LANES] or, in
    # place, for tiles that do not end with the rows [depth][most + LANES], and else nothing, sums[panels of a split, or
    # 1][most][COLUMNS], block[LANES][COLUMNS], where weights are not packed panel[depth][COLUMNS], stripes of channels
    cdef int64_t *starts = <int64_t *>scratch
    cdef int64_t *tops = starts + most
    source.offsets = tops + most_tiles + 1
    cdef real *lowered = <real *>(source.offsets + a.channels * area)
    # neighbouring tiles would else compete for the same sets of the cache
    cdef int64_t tile_step = a.depth * ROWS + 2 * LANES
    cdef int64_t pitch = most + LANES
    cdef real *sums = lowered + (most_tiles * tile_step if not in_place else 0 if a.by_rows else a.depth * pitch)
    cdef real *transposed = sums + (ceil_div(panels, a.splits) if a.depth < taps else 1) * most * COLUMNS
    cdef real *packed = transposed + LANES * COLUMNS
    source.striped = <real *>aligned(scratch, packed + (a.depth * COLUMNS if a.unpacked else 0))
    cdef int64_t item, pixel, split, group, image, count, first_panel, last_panel, panel, first, rows, p, h, w
    cdef int64_t tiles, t, row, vector, width, step, i, channel, tap, listed = a.channels * area
    cdef const int64_t *offsets
    cdef const real *ahead
    cdef tile_fetch fetched
    cdef tap_run used, whole
    cdef bint skips
    cdef upcoming coming
    cdef int64_t channels, sharing
    whole.first = 0
    cdef const real *read = NULL
    cdef const real *weight
    cdef const real *weights
    cdef int64_t group_weights = (a.k if a.unpacked else vectors * LANES) * taps
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
        weights = <const real *>a.packed + group * group_weights
        aim(&source, pixel, count)
        repeat_taps(source.offsets, area, a.channels, pitch if copied else channel_step(&source))
        h = 0
        w = pixel - source.first_row * source.g.ow
        for p in range(count):
            starts[p] = p if copied else h * source.row_step + (w - source.first_column) * source.step
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
            if copied:
                for p in range(rows):
                    copy_plane(source.x + (first + p) * a.x_c, a.x_h, a.ow, pixel, count, lowered + p * pitch)
                read = lowered
            elif in_place and (first == 0 or a.channels < a.c):
                read = read_channels(&source, first // area, min(a.channels, a.c - first // area))
            offsets = source.offsets + (first if a.channels == a.c else 0)
            whole.run = whole.period = rows
            channels = rows // area
            channel, tap, p = first // area, first % area, 0
            while not in_place and p < rows:
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
                weight = weights + vector * LANES * taps + (first if a.unpacked else first * width)
                panel_sums = sums + (panel - first_panel) * most * COLUMNS if a.depth < taps else sums
                skips = a.totals != 0 and (<const real *>a.totals)[group * panels + panel] == 0
                # each tile fetches its share of the next panel's weights, or some the channels that are read next
                coming = fetched_by_none()
                if in_place and panel + 1 == last_panel:
                    coming = fetched_after(a, &source, (first + rows) // area, item, end, rows)
                    if tiles - coming.wanted < width // LANES:
                        coming = fetched_by_none()
                sharing = tiles - coming.wanted
                ahead = weight + taps * width
                step = ceil_div(width, sharing)
                if a.unpacked:
                    pack_panel(weight, taps, rows, min(width, a.k - vector * LANES), packed, width)
                    weight = packed
                for t in range(tiles):
                    fetched = fetch_along(ahead + t * rows * step, step)
                    if t >= sharing:
                        fetched = next_fetch(&coming, fetched)
                    if in_place:
                        used = used_taps(a, pixel // unit + t // row_tiles) if skips else whole
                        gemm_in_place(
                            used.run, channels if skips else 1, used.period - used.run, read + starts[tops[t]],
                            source.step, offsets + used.first, weight + used.first * width, width, &fetched,
                            panel_sums + tops[t] * COLUMNS, COLUMNS, tops[t + 1] - tops[t], width, first > 0,
                        )
                        continue
                    gemm_ahead(
                        rows, lowered + t * tile_step, weight, width, &fetched, panel_sums + tops[t] * COLUMNS,
                        COLUMNS, NULL, tops[t + 1] - tops[t], width, first > 0,
                    )
                if first + rows == taps:
                    vector *= LANES
                    store_pixels(
                        a, panel_sums, pixel, count, min(width, a.k - vector), transposed,
                        <const real *>a.bias + group * a.k + vector if a.bias else NULL,
                        <real *>a.out + image * a.out_n + (group * a.k + vector) * a.out_k,
                    )
            first += rows


cdef void im2col_pixels(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    im2col_pixels_of(False, args, scratch, begin, end)


cdef void im2col_pixels_in_place(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    im2col_pixels_of(True, args, scratch, begin, end)
