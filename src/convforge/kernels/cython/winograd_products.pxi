# The products of Winograd's transforms, for a block of tiles and one of output channels: winograd_blocks.pxi says how
# they lie.

cdef inline winograd_block winograd_products_block(const winograd_products_args *a) noexcept nogil:
    """The block's tiles, vectors and panels alone."""
    cdef winograd_block b
    memset(&b, 0, sizeof(b))
    b.tiles = a.tiles
    b.vectors = a.vectors
    b.panels = ceil_div(a.vectors, VECTORS)
    return b


# Elements of u of an xi
cdef inline int64_t winograd_weight_step(const winograd_products_args *a) noexcept nogil:
    return ceil_div(a.k, GROUP) * GROUP * a.c + LANES


# Where a panel of v begins that is so wide
cdef inline const real *winograd_panel_input(
    const winograd_products_args *a, int64_t xi, int64_t panel, int64_t first, int64_t width
) noexcept nogil:
    return <const real *>a.v + a.area * (a.c * first + panel) * LANES + xi * (width * a.c + LANES)


# Where its products go
cdef inline real *winograd_panel_products(
    const winograd_products_args *a, int64_t xi, int64_t first, int64_t width
) noexcept nogil:
    return <real *>a.p + a.area * ceil_div(a.k, ROWS) * ROWS * first * LANES + xi * width


cdef inline void winograd_by_tiles(
    const winograd_products_args *a, const winograd_block *b, int64_t xi
) noexcept nogil:
    """The products of an xi, tiles in the lanes."""
    cdef const real *u = <const real *>a.u + xi * winograd_weight_step(a)
    cdef int64_t rows = ceil_div(a.k, ROWS), padded = ceil_div(a.k, GROUP) * GROUP
    cdef int64_t parts = ceil_div(a.c, WINOGRAD_DEPTH), part, channel, depth, panel, first, width
    cdef const real *v
    cdef real *p
    for panel in range(b.panels):
        first = winograd_panel(b, panel)
        width = (winograd_panel(b, panel + 1) - first) * LANES
        v = winograd_panel_input(a, xi, panel, first, width)
        p = winograd_panel_products(a, xi, first, width)
        for part in range(parts):
            channel = a.c * part // parts
            depth = a.c * (part + 1) // parts - channel
            gemm_sweep(width, depth, rows, u + padded * channel, v + channel * width, p, a.area * width, part > 0)


# Some of a block's tiles
cdef struct winograd_range:
    int64_t first, tiles


cdef inline winograd_range winograd_of_xi(const winograd_products_args *a, int64_t xi) noexcept nogil:
    """Those that have products of an xi, which the shorter ones do not all have."""
    cdef winograd_range r
    cdef int64_t side = a.kept, row, column
    while side * side < a.area:
        side += 1
    row = xi // side
    column = xi % side
    r.first = 0
    r.tiles = a.tiles
    if a.kept - 1 <= row < side - 1:  # whole in height
        r.first = a.before
        r.tiles = a.middle if a.kept - 1 <= column < side - 1 else a.middle + a.after
    elif a.kept - 1 <= column < side - 1:  # whole in width
        r.tiles = a.before + a.middle
    return r


cdef inline void winograd_by_channels(const winograd_products_args *a, int64_t xi) noexcept nogil:
    """The same with output channels in the lanes, of which GROUP are."""
    cdef winograd_range of = winograd_of_xi(a, xi)
    cdef const real *u = <const real *>a.u + xi * winograd_weight_step(a)
    cdef int64_t lda = winograd_input_pitch(a.c), ldc = winograd_product_pitch(a.k)
    cdef const real *v = <const real *>a.v + xi * (a.tiles * lda + LANES) + of.first * lda
    cdef real *p = <real *>a.p + xi * (a.tiles * ldc + LANES) + of.first * ldc
    cdef int64_t vectors = ceil_div(a.k, LANES), sweeps = ceil_div(vectors, VECTORS), sweep, vector, more
    cdef int64_t parts = ceil_div(a.c, WINOGRAD_DEPTH), part, channel, depth
    cdef int64_t steps = ceil_div(of.tiles, ROWS), step, top, share, i
    cdef const real *weight
    cdef tile_fetch ahead
    for sweep in range(sweeps):
        vector = vectors * sweep // sweeps
        more = vectors * (sweep + 1) // sweeps - vector
        # each tile of the product fetches its share of the next weights: of the next part, sweep or xi
        share = ceil_div(more * LANES, max(steps, <int64_t>1))
        for part in range(parts):
            channel = a.c * part // parts
            depth = a.c * (part + 1) // parts - channel
            weight = u + (vectors * channel + vector * depth) * LANES
            if part + 1 < parts:
                i = a.c * (part + 2) // parts - channel - depth
                ahead = fetch_along(weight + ((vectors - vector) * depth + vector * i) * LANES, share)
            elif sweep + 1 < sweeps:
                ahead = fetch_along(u + (vector + more) * (a.c // parts) * LANES, share)
            else:
                ahead = fetch_along(u + winograd_weight_step(a), share)
            for step in range(steps):
                top = of.tiles * step // steps
                gemm_apart(
                    depth, v + top * lda + channel, lda, weight, &ahead, p + top * ldc + vector * LANES, ldc,
                    of.tiles * (step + 1) // steps - top, more * LANES, part > 0,
                )
                ahead.at += share * depth


cdef void winograd_products(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const winograd_products_args *a = <const winograd_products_args *>args
    cdef winograd_block b = winograd_products_block(a)
    cdef int64_t xi
    for xi in range(begin, end):
        if a.by_channels:
            winograd_by_channels(a, xi)
        else:
            winograd_by_tiles(a, &b, xi)
