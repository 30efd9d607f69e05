# The weight gradient as dot products of grad_output's rows with rows of the lowered input, a panel of pixels at a time.

# A run of at most LANES output pixels of one row: where its first tap reads, and where it stands in the panel.
ctypedef struct run:
    int64_t h, w, lane, count


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
