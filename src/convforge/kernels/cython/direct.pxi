# Direct convolution: every output is summed in registers, from the input under a band of output pixels.
#
# The band's input is read in place, or from a copy of all of a group's channels that is padded with zeros and has its
# columns split by their phase within a stride: either way, neighbouring pixels read one piece of memory for each tap.

cdef extern from "direct_tile.h" nogil:
    ctypedef struct tile_segment:
        int64_t source, to, lanes

    void window_rows(
        int64_t depth, const real *a, const real *b, const int64_t *offsets, const tile_segment *segments,
        int64_t count, real *out, int64_t out_k, int64_t out_w, const real *bias, int64_t rows,
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


cdef void direct_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const direct_forward_args *a = <const direct_forward_args *>args
    cdef taps_source t
    open_source(&t, a.x_c, a.x_h, a.ih, a.iw, a.ow, a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw)
    cdef int64_t area = a.kh * a.kw, depth = a.c * area, blocks = ceil_div(a.k, ROWS)
    cdef int64_t stacks = ceil_div(a.oh, a.rows), cuts = ceil_div(a.ow, a.columns)
    # scratch: segments[rows * ceil(columns / LANES)], offsets[depth], padded[c][LANES more than a channel's elements]
    cdef tile_segment *segments = <tile_segment *>scratch
    t.offsets = <int64_t *>(segments + a.rows * ceil_div(a.columns, LANES))
    t.striped = <real *>aligned(scratch, t.offsets + depth)
    cdef const real *x
    cdef const real *bias
    cdef int64_t item, rest, band, split, group, image, top, left, rows, columns, block, row
    cdef int64_t planned_top = -1, planned_left = -1, count = 0
    for item in range(begin, end):
        rest = item // (stacks * cuts)
        split = rest % a.splits
        group = rest // a.splits % a.g
        image = rest // (a.splits * a.g)
        top = a.oh * (item // cuts % stacks) // stacks
        rows = a.oh * (item // cuts % stacks + 1) // stacks - top
        left = item % cuts * a.columns
        columns = min(a.columns, a.ow - left)
        t.x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        if top != planned_top or left != planned_left:
            # idle lanes would read past the end of x
            aim_at(&t, top, rows, left, columns, columns % LANES == 0)
            repeat_taps(t.offsets, area, a.c, channel_step(&t))
            count = list_segments(rows, columns, t.row_step, a.out_h, a.out_w, segments)
            planned_top = top
            planned_left = left
        x = read_channels(&t, 0, a.c)
        for block in range(blocks * split // a.splits, blocks * (split + 1) // a.splits):
            row = group * a.k + block * ROWS
            bias = <const real *>a.bias + row if a.bias else NULL
            window_rows(
                depth, <const real *>a.packed + (group * blocks + block) * depth * ROWS, x, t.offsets, segments, count,
                <real *>a.out + image * a.out_n + row * a.out_k + top * a.out_h + left * a.out_w, a.out_k, a.out_w,
                bias, a.k - block * ROWS,
            )
