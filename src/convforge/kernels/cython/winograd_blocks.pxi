# Winograd F(m, r) in two dimensions, with tiles or channels in the lanes.
#
# Tiles are numbered through image, phase of a dilation, tile row and tile column; a block is a run of tiles, of some
# vectors of LANES. From one tile to the next are step = stride * m inputs, and halo = r - stride of a tile's alpha
# inputs belong to the next one too. With xi = 0 .. alpha^2 - 1 and tiles in the lanes:
#
#   v[panel][xi][c][tiles]  transformed input
#   u[k block][xi][part of c][k / GROUP][c][GROUP]
#                           transformed weight, in the order of its use; parts of at most WINOGRAD_DEPTH channels
#   p[panel][k][xi][tiles]  products, of one block of output channels
#
# A block is split into panels of at most VECTORS vectors, the register tile's width. The columns of its tile rows abut
# in *virtual rows*: tile t of the block has its first columns at t * step, and its last ones, the halo, where the next
# tile of the same tile row begins; a dilation is none of theirs. With channels in the lanes, of the same u:
#
#   v[xi][tile][c]          c rounded up to whole vectors, and one more
#   p[xi][tile][k]          k rounded up to whole vectors
#
# There, columns and rows may end with short_h and short_w tiles of a shorter F(m, r) on some of the points, of the
# same u: those of its alpha first but for the last, and infinity, the last one of all. Blocks then are whole rows, and
# their tiles are numbered by size: low and wide ones, whole ones, high and narrow ones, low and narrow ones; so
# those that have products of an xi are neighbours.
#
# LANES idle elements after each xi of v and u, and of this p, spread them over the sets of the caches.
# f is a constant in each kernel, the code of an F(m, r): 100 m + 10 r + stride. The products by its matrices and the
# shuffles come from winograd_transforms.h.

cdef extern from "winograd_transforms.h" nogil:
    enum:
        WINOGRAD_ALPHA

    ctypedef long lane_bits
    void winograd_input(int f, const vec *d, vec *o)
    void winograd_weight(int f, const vec *d, vec *o)
    void winograd_output(int f, const vec *d, vec *o)
    void winograd_grad_output(int f, const vec *d, vec *o)
    void winograd_grad_weight(int f, const vec *d, vec *o)
    vec winograd_merge(vec a, const lane_bits *keep, const real *others)
    const real *winograd_scales(int f)
    int winograd_short(int f)

ctypedef winograd_f2_forward_args winograd_args

cdef enum:
    WINOGRAD_VECTORS = 32  # of a block, at most
    # products summed in one chain: half the error of one long chain of 512, and a panel that stays in the L1 cache
    WINOGRAD_DEPTH = 128


# image, row and column are the first tile's
cdef struct winograd_block:
    int64_t first, tiles, vectors, panels, image, row, column


cdef inline int winograd_m(int f) noexcept nogil:
    return f // 100 % 10


cdef inline int winograd_r(int f) noexcept nogil:
    return f // 10 % 10


cdef inline int winograd_step(int f) noexcept nogil:
    return f % 10 * winograd_m(f)


cdef inline int winograd_halo(int f) noexcept nogil:
    return winograd_r(f) - f % 10


cdef inline int winograd_alpha(int f) noexcept nogil:
    return winograd_step(f) + winograd_halo(f)


cdef inline int winograd_area(int f) noexcept nogil:
    return winograd_alpha(f) * winograd_alpha(f)


# Rows of tiles, and tiles in a row, of an image or of one phase of a dilated one
cdef inline int64_t winograd_high(int f, const winograd_args *a) noexcept nogil:
    return a.short_h + ceil_div(ceil_div(a.oh, a.dh) - a.short_h * winograd_m(winograd_short(f)), winograd_m(f))


cdef inline int64_t winograd_wide(int f, const winograd_args *a) noexcept nogil:
    return a.short_w + ceil_div(ceil_div(a.ow, a.dw) - a.short_w * winograd_m(winograd_short(f)), winograd_m(f))


# Outputs before a row or column of tiles, of which those from ``whole`` on are short
cdef inline int64_t winograd_before(int f, int64_t tile, int64_t whole) noexcept nogil:
    return min(tile, whole) * winograd_m(f) + max(tile - whole, <int64_t>0) * winograd_m(winograd_short(f))


# Rows of whole tiles before a row, through all images
cdef inline int64_t winograd_whole_rows(const winograd_args *a, int64_t high, int64_t row) noexcept nogil:
    cdef int64_t whole = high - a.short_h
    return row // high * whole + min(row % high, whole)


# Rows of whole and of shorter tiles of a block that is whole rows, and how many of them are before a row
cdef struct winograd_sizes:
    int64_t whole, low, whole_before, low_before


cdef inline winograd_sizes winograd_rows_of(
    const winograd_args *a, const winograd_block *b, int64_t high, int64_t wide, int64_t row
) noexcept nogil:
    cdef winograd_sizes s
    cdef int64_t first = b.first // wide, rows = b.tiles // wide, before = winograd_whole_rows(a, high, first)
    s.whole = winograd_whole_rows(a, high, first + rows) - before
    s.low = rows - s.whole
    s.whole_before = winograd_whole_rows(a, high, row) - before
    s.low_before = row - first - s.whole_before
    return s


# The place of a tile among those of a block of whole rows
cdef inline int64_t winograd_place(
    const winograd_args *a, const winograd_block *b, int64_t high, int64_t wide, int64_t row, int64_t column
) noexcept nogil:
    cdef winograd_sizes s = winograd_rows_of(a, b, high, wide, row)
    cdef int64_t whole = wide - a.short_w
    cdef bint low = row % high >= high - a.short_h
    if column < whole:
        return (s.low_before if low else s.low + s.whole_before) * whole + column
    return (s.low + s.whole) * whole + (s.whole + s.low_before if low else s.whole_before) * a.short_w + column - whole


cdef inline winograd_block winograd_nth_block(int f, const winograd_args *a, int64_t number) noexcept nogil:
    cdef winograd_block b
    cdef int64_t th = winograd_high(f, a), tw = winograd_wide(f, a), tiles = a.n * a.dh * a.dw * th * tw
    cdef int64_t vectors = (tiles + LANES - 1) // LANES
    cdef int64_t begin = vectors * number // a.blocks, end = vectors * (number + 1) // a.blocks
    b.first = begin * LANES
    b.tiles = min(tiles, end * LANES) - b.first
    if a.short_h + a.short_w:
        b.first = a.n * th * number // a.blocks * tw
        b.tiles = a.n * th * (number + 1) // a.blocks * tw - b.first
    b.vectors = end - begin
    b.panels = (b.vectors + VECTORS - 1) // VECTORS
    b.image = b.first // (th * tw)
    b.row = b.first // tw % th
    b.column = b.first % tw
    return b


# First vector of a panel
cdef inline int64_t winograd_panel(const winograd_block *b, int64_t panel) noexcept nogil:
    return b.vectors * panel // b.panels


# Length of a virtual row: the last store may reach beyond the last tile
cdef inline int64_t winograd_pitch(int f, const winograd_block *b) noexcept nogil:
    return (b.vectors * winograd_step(f) + 1 + ceil_div(winograd_halo(f), LANES)) * LANES
