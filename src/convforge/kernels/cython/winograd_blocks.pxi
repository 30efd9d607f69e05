# Winograd F(m, 3) in two dimensions, stride 1, with tiles in the lanes.
#
# Tiles are numbered through image, tile row and tile column; a block is a run of tiles, of some vectors of LANES. The
# columns of a block's tile rows abut in *virtual rows*: tile t of the block has its first m columns at t * m, and its
# last two where the next tile of the same tile row begins. A block is split into panels of at most VECTORS vectors,
# the register tile's width. With alpha = m + 2 and xi = 0 .. alpha^2 - 1:
#
#   v[panel][xi][c][tiles]  transformed input
#   u[k block][xi][part of c][k / ROWS][c][ROWS]
#                           transformed weight, in the order of its use; parts of at most WINOGRAD_DEPTH channels
#   p[panel][k][xi][tiles]  products, of one block of output channels
#
# LANES idle elements after each xi of v and u spread them over the sets of the caches.
# m is a constant in each kernel; the constant products and the shuffles by m come from winograd_transforms.h.

cdef extern from "winograd_transforms.h" nogil:
    ctypedef long lane_bits
    void winograd_input(int m, const vec *d, vec *o)
    void winograd_weight(int m, const vec *d, vec *o)
    void winograd_output(int m, const vec *d, vec *o)
    void winograd_grad_output(int m, const vec *d, vec *o)
    void winograd_grad_weight(int m, const vec *d, vec *o)
    void winograd_deinterleave(int m, const vec *d, vec *o)
    void winograd_interleave(int m, const vec *d, vec *o)
    vec winograd_following(vec a, vec b)
    vec winograd_merge(vec a, const lane_bits *keep, const real *others)
    const real *winograd_scales(int m)

ctypedef winograd_f2_forward_args winograd_args

cdef enum:
    WINOGRAD_VECTORS = 32  # of a block, at most
    # products summed in one chain: half the error of one long chain of 512, and a panel that stays in the L1 cache
    WINOGRAD_DEPTH = 128


cdef struct winograd_block:
    int64_t first, tiles, vectors, panels


cdef inline winograd_block winograd_nth_block(int m, const winograd_args *a, int64_t number) noexcept nogil:
    cdef winograd_block b
    cdef int64_t tiles = a.n * ((a.oh + m - 1) // m) * ((a.ow + m - 1) // m)
    cdef int64_t vectors = (tiles + LANES - 1) // LANES
    cdef int64_t begin = vectors * number // a.blocks, end = vectors * (number + 1) // a.blocks
    b.first = begin * LANES
    b.tiles = min(tiles, end * LANES) - b.first
    b.vectors = end - begin
    b.panels = (b.vectors + VECTORS - 1) // VECTORS
    return b


# First vector of a panel
cdef inline int64_t winograd_panel(const winograd_block *b, int64_t panel) noexcept nogil:
    return b.vectors * panel // b.panels


# Length of a virtual row: the last store may reach beyond the last tile
cdef inline int64_t winograd_pitch(int m, const winograd_block *b) noexcept nogil:
    return (b.vectors * m + 2) * LANES
