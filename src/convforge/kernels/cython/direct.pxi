# Direct convolution: every output is summed in registers, from the input under a band of output pixels.
#
# The band's input is read in place, or from a copy of all of a group's channels that is padded with zeros and has its
# columns split by their phase within a stride: either way, neighbouring pixels read one piece of memory for each tap.

cdef extern from "direct_tile.h" nogil:
    ctypedef struct tile_segment:
        int64_t source, to, lanes

    void window_rows(
        int64_t depth, const real *a, const real *b, const int64_t *offsets, const tile_segment *segments,
        int64_t count, upcoming *coming, real *out, int64_t out_k, int64_t out_w, const real *bias, int64_t rows,
    )


cdef inline int64_t list_segments(
    int64_t rows, int64_t columns, int64_t row_step, int64_t out_h, int64_t out_w, tile_segment *segments
) noexcept nogil:
    """Cut a band of pixels into segments; returns how many there are."""
    cdef int64_t row, column, count = 0
    # where its rows follow one another in memory, idle lanes are overwritten by the next row
    cdef bint joined = out_w == 1 and out_h == columns
    for row in range(rows):
        column = 0
        while column < columns:
            segments[count].source = row * row_step + column
            segments[count].to = row * out_h + column * out_w
            segments[count].lanes = min(
                <int64_t>LANES, rows * columns - segments[count].to if joined else columns - column
            )
            count += 1
            column += LANES
    return count


# What an item computes: rows and columns of output pixels, for some blocks of output channels.
cdef struct band_item:
    const real *x
    int64_t image, group, split, top, rows, left, columns


cdef inline band_item nth_band(const direct_forward_args *a, int64_t number) noexcept nogil:
    cdef band_item i
    cdef int64_t stacks = ceil_div(a.oh, a.rows), cuts = ceil_div(a.ow, a.columns)
    cdef int64_t rest = number // (stacks * cuts)
    i.split = rest % a.splits
    i.group = rest // a.splits % a.g
    i.image = rest // (a.splits * a.g)
    i.top = a.oh * (number // cuts % stacks) // stacks
    i.rows = a.oh * (number // cuts % stacks + 1) // stacks - i.top
    i.left = number % cuts * a.columns
    i.columns = min(a.columns, a.ow - i.left)
    i.x = <const real *>a.x + i.image * a.x_n + i.group * a.c * a.x_c
    return i


cdef inline upcoming fetched_band(
    const direct_forward_args *a, const band_item *i, int64_t tiles, int64_t steps
) noexcept nogil:
    """What tiles of so many steps fetch of the input of an item, with what is between its rows."""
    cdef int64_t top = max(i.top * a.sh - a.ph, <int64_t>0), left = max(i.left * a.sw - a.pw, <int64_t>0)
    cdef int64_t end = min((i.top + i.rows - 1) * a.sh - a.ph + (a.kh - 1) * a.dh + 1, a.ih)
    return fetched_by(
        tiles, steps, i.x + top * a.x_h + left, a.c, a.x_c, end > top, 0,
        (end - top - 1) * a.x_h + (i.columns - 1) * a.sw + (a.kw - 1) * a.dw + 1,
    )


cdef void direct_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const direct_forward_args *a = <const direct_forward_args *>args
    cdef taps_source t
    open_source(&t, a.x_c, a.x_h, a.ih, a.iw, a.ow, a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw)
    cdef int64_t area = a.kh * a.kw, depth = a.c * area, blocks = ceil_div(a.k, ROWS)
    cdef int64_t items = ceil_div(a.oh, a.rows) * ceil_div(a.ow, a.columns) * a.splits * a.g * a.n
    # scratch: segments[rows * ceil(columns / LANES)], offsets[depth], padded[c][LANES more than a channel's elements]
    cdef tile_segment *segments = <tile_segment *>scratch
    t.offsets = <int64_t *>(segments + a.rows * ceil_div(a.columns, LANES))
    t.striped = <real *>aligned(scratch, t.offsets + depth)
    cdef const real *x
    cdef const real *bias
    cdef real *out
    cdef band_item item, after
    cdef upcoming coming
    cdef int64_t number, first_block, last_block, block, row, planned_top = -1, planned_left = -1, count = 0
    for number in range(begin, end):
        item = nth_band(a, number)
        t.x = item.x
        if item.top != planned_top or item.left != planned_left:
            # idle lanes would read past the end of x
            aim_at(&t, item.top, item.rows, item.left, item.columns, item.columns % LANES == 0)
            repeat_taps(t.offsets, area, a.c, channel_step(&t))
            count = list_segments(item.rows, item.columns, t.row_step, a.out_h, a.out_w, segments)
            planned_top = item.top
            planned_left = item.left
        x = read_channels(&t, 0, a.c)
        first_block = blocks * item.split // a.splits
        last_block = blocks * (item.split + 1) // a.splits
        coming = fetched_by_none()
        if number + 1 < items:
            # the likely next one of this worker
            after = nth_band(a, number + 1)
            coming = fetched_band(a, &after, (last_block - first_block) * ceil_div(count, VECTORS), depth)
        for block in range(first_block, last_block):
            row = item.group * a.k + block * ROWS
            bias = <const real *>a.bias + row if a.bias else NULL
            out = <real *>a.out + item.image * a.out_n + row * a.out_k + item.top * a.out_h + item.left * a.out_w
            window_rows(
                depth, <const real *>a.packed + (item.group * blocks + block) * depth * ROWS, x, t.offsets, segments,
                count, &coming, out, a.out_k, a.out_w, bias, a.k - block * ROWS,
            )
