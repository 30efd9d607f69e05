# Depthwise convolution, and filters of one-channel images: output pixels in the lanes, weights broadcast.
#
# Rows first: tiles of a few rows sweep over the columns of a panel, so that memory is read along its rows and the rows
# of a tile stay in the L1 cache. Dilations of the rows are settled by taking outputs that are `apart` rows apart, whose
# taps then meet at rows that are `dh` apart: from one such output to the next are `step` of those.
#
# Borders, strides and dilations of the columns are settled before the sums: the input of a panel of outputs is copied
# into stripes, so that every tap reads whole vectors of neighbouring columns. Panels of wide planes that are far from
# any border are read in place, and so are most planes by 3x3 kernels.
#
# The input gradient of stride 2 is a pair of convolutions of the same input, whose outputs alternate along the rows:
# what ends in 2 below belongs to the second.

cdef inline void depthwise_panel_rows(const depthwise_input *d, const depthwise_panel *panel, int64_t rows,
                                      int64_t out_h, int64_t ow2, depthwise_tiles *s) noexcept nogil:
    # All outputs of a panel of one channel; `s` has its weights, and where the panel's first output goes.
    cdef int64_t phase
    cdef real *out = s.out
    s.step = d.step
    s.row = d.dh * panel.row
    s.plane = panel.plane
    s.c = d.c
    s.kh = d.kh
    s.kw = d.kw
    s.kw2 = d.kw2
    s.offsets = d.offsets
    s.offsets2 = d.offsets + d.kw
    s.out_row = d.apart * out_h
    s.pair = ow2 > 0
    s.lanes = panel.columns
    if ow2:
        s.lanes = min(2 * panel.columns, d.ow + ow2 - 2 * panel.column)
    s.spill = s.out_row == s.lanes
    for phase in range(min(d.apart, rows)):
        s.count = ceil_div(rows - phase, d.apart)
        s.x = panel.x + phase * d.sh * panel.row
        s.out = out + phase * out_h
        depthwise_roll_rows(s, panel.columns)


cdef void depthwise_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const depthwise_forward_args *a = <const depthwise_forward_args *>args
    # what the kernels do that read in place
    cdef bint in_place = (
        MASK_INSTRUCTIONS and a.kh == 3 and a.kw == 3 and a.c * a.dh * a.dw * a.out_w == 1 and a.ow2 == 0
        and a.sh == a.sw and a.sw <= 2 and a.ow <= a.columns
    )
    # strips walk down parts of long lines, which come slowly from memory; on narrow maps most tiles would lie at a
    # border, where masks cost as much as a copy
    if in_place and a.ow >= 3 * LANES and (not MASKED_LOADS or a.x_h >= depthwise_long):
        depthwise_in_planes(a, scratch, begin, end)
    elif in_place and MASKED_LOADS:
        depthwise_in_strips(a, scratch, begin, end)
    else:
        depthwise_in_panels(a, scratch, begin, end)


cdef void depthwise_in_panels(
    const depthwise_forward_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef depthwise_input d
    cdef depthwise_panel panel
    cdef depthwise_tiles s
    cdef int64_t blocks = ceil_div(a.oh, a.rows), weights = packed_depthwise(a.c, a.kh, a.kw, a.factors)
    cdef int64_t weights2 = packed_depthwise(a.c, a.kh, a.kw2, False), item, group, image, channel, top, rows, k
    cdef const real *weight
    cdef real *halves
    cdef real *out
    d.x_c, d.x_h, d.c, d.ih, d.iw, d.oh, d.ow = a.x_c, a.x_h, a.c, a.ih, a.iw, a.oh, a.ow
    d.kh, d.kw, d.sh, d.sw, d.ph, d.pw, d.dh, d.dw = a.kh, a.kw, a.sh, a.sw, a.ph, a.pw, a.dh, a.dw
    d.kw2, d.pw2 = a.kw2, a.pw2
    d.columns = a.columns
    d.in_place = (
        a.sw == 1 and a.ow2 == 0 and a.ow >= 4 * LANES
        and depthwise_rows_apart(a.kh - 1 + (DEPTHWISE_NARROW_ROWS if a.factors else DEPTHWISE_ROWS), a.x_h)
    )
    d.factors = a.factors
    d.copy = <real *>depthwise_prepare(&d, scratch)
    halves = d.copy
    if a.factors:
        d.copy += DEPTHWISE_NARROW_ROWS * d.width + LANES
    s.out_w = a.out_w
    for item in range(begin, end):
        top = item % blocks * a.rows
        rows = min(a.rows, a.oh - top)
        group = item // blocks % a.g
        image = item // blocks // a.g
        weight = <const real *>a.packed + group * a.k * weights
        out = <real *>a.out + image * a.out_n + group * a.k * a.out_k + top * a.out_h
        d.x = <const real *>a.x + image * a.x_n + group * a.c * a.x_c
        panel.column = panel.columns = panel.row = panel.plane = 0
        panel.x = d.copy
        while panel.column + panel.columns < a.ow:
            # outputs of the last vector may be computed again
            depthwise_next_panel(
                &d, top, rows, min(panel.column + panel.columns, max(a.ow - LANES, <int64_t>0)), &panel
            )
            for k in range(a.k):
                channel = group * a.k + k
                s.weight = weight + k * weights
                s.weight2 = <const real *>a.packed2 + channel * weights2
                s.bias = (<const real *>a.bias)[channel] if a.bias else 0
                s.out = out + k * a.out_k + panel.column * (2 if a.ow2 else a.out_w)
                if a.factors and s.weight[a.kh * a.kw] != 0:
                    separable_rows(&d, &panel, rows, s.weight + a.kh * a.kw + 1, halves, a.out_h, &s)
                else:
                    depthwise_panel_rows(&d, &panel, rows, a.out_h, a.ow2, &s)
