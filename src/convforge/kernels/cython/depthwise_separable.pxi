# A kernel that is an outer product takes two passes: over the columns of the input, then over the rows of the result,
# a few rows at a time that never leave the L1 cache.

cdef void separable_rows(const depthwise_input *d, const depthwise_panel *panel, int64_t rows, const real *factors,
                         real *halves, int64_t out_h, const depthwise_tiles *outputs) noexcept nogil:
    """All outputs of a panel of a kernel with a stride and a dilation of 1; ``halves`` holds rows of its width."""
    cdef depthwise_tiles s = outputs[0]
    cdef int64_t tile, row, width = panel.columns + d.kw - 1
    s.step = s.c = 1
    s.pair = s.spill = False
    s.offsets = d.offsets  # the first is 0
    for tile in range(ceil_div(rows, DEPTHWISE_NARROW_ROWS)):
        row = tile * DEPTHWISE_NARROW_ROWS
        s.count = min(rows - row, <int64_t>DEPTHWISE_NARROW_ROWS)
        s.x = panel.x + row * panel.row
        s.row = panel.row
        s.kh = d.kh
        s.kw = 1
        s.weight = factors
        s.bias = 0
        s.out = halves
        s.out_row = d.width
        s.lanes = ceil_div(width, LANES) * LANES
        depthwise_roll_rows(&s, s.lanes)
        s.x = halves
        s.row = d.width
        s.kh = 1
        s.kw = d.kw
        s.weight = factors + d.kh
        s.bias = outputs.bias
        s.out = outputs.out + row * out_h
        s.out_row = out_h
        s.lanes = panel.columns
        depthwise_roll_rows(&s, panel.columns)
