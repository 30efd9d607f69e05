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
    const im2col_forward_args *a, const real *sums, int64_t rows, real *out, int64_t pixel, int64_t count
) noexcept nogil:
    """out[row, pixel + i] = sums[row][i] for outputs whose pixels do not lie in one piece."""
    cdef int64_t row, i, h, w
    for row in range(rows):
        h = pixel // a.ow
        w = pixel % a.ow
        for i in range(count):
            out[row * a.out_k + h * a.out_h + w * a.out_w] = sums[row * COLUMNS + i]
            w += 1
            if w == a.ow:
                w = 0
                h += 1


cdef void im2col_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const im2col_forward_args *a = <const im2col_forward_args *>args
    cdef lowered_input g
    g.x_c, g.x_h, g.ih, g.iw, g.ow = a.x_c, a.x_h, a.ih, a.iw, a.ow
    g.kh, g.kw, g.sh, g.sw, g.ph, g.pw, g.dh, g.dw = a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    merge_rows(&g, a.oh)
    cdef int64_t pixels = a.oh * a.ow, taps = a.c * a.kh * a.kw
    cdef int64_t vectors = ceil_div(pixels, LANES), panels = ceil_div(vectors, VECTORS), blocks = ceil_div(a.k, ROWS)
    cdef bint flat = a.out_w == 1 and (a.out_h == a.ow or a.oh == 1)
    # scratch: runs[COLUMNS], panel[depth][COLUMNS] and LANES more, sums[rows of a split][COLUMNS]
    cdef run *runs = <run *>scratch
    cdef real *panel = <real *>(runs + COLUMNS)
    cdef real *sums = panel + a.depth * COLUMNS + LANES
    cdef int64_t item, pixel, split, group, image, count, first_block, last_block, block, run_count, first, rows, row
    cdef int64_t target_row = a.out_k if flat else <int64_t>COLUMNS
    cdef const real *x
    cdef const real *weight
    cdef const real *bias
    cdef real *out
    cdef real *target
    for item in range(begin, end):
        # shares of whole vectors: 49 pixels are better done as 32 + 17 than as 48 + 1
        pixel = vectors * (item % panels) // panels * LANES
        split = item // panels % a.splits
        group = item // (panels * a.splits) % a.g
        image = item // (panels * a.splits * a.g)
        count = min(vectors * (item % panels + 1) // panels * LANES, pixels) - pixel
        first_block = blocks * split // a.splits
        last_block = blocks * (split + 1) // a.splits
        x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        out = <real *>a.out + image * a.out_n + (group * a.k + first_block * ROWS) * a.out_k
        target = out + pixel if flat else sums
        bias = <const real *>a.bias + group * a.k if a.bias else NULL
        run_count = cut_runs(&g, pixel, count, runs)
        first = 0
        while first < taps:
            rows = min(a.depth, taps - first)
            lower(&g, x, runs, run_count, first, rows, panel, COLUMNS, count)
            for block in range(first_block, last_block):
                row = block * ROWS
                weight = <const real *>a.packed + ((group * blocks + block) * taps + first) * ROWS
                gemm_rows(
                    rows, weight, panel, COLUMNS, target + (row - first_block * ROWS) * target_row, target_row,
                    bias + row if a.bias else NULL, a.k - row, count, first > 0,
                )
            first += rows
        if not flat:
            scatter_rows(a, sums, min(a.k, last_block * ROWS) - first_block * ROWS, out, pixel, count)


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
