# Winograd F(m, r), forward: everything for a block of tiles at a time, and the same in two stages; with tiles in the
# lanes or with channels.

# Elements of u of a block of output channels
cdef inline int64_t winograd_weight_size(int f, const winograd_args *a) noexcept nogil:
    return winograd_area(f) * (a.k_block * a.c + LANES)


# Where u of a block of output channels begins
cdef inline const real *winograd_nth_weight(int f, const winograd_args *a, int64_t g, int64_t first_k) noexcept nogil:
    return <const real *>a.u + (g * ceil_div(a.k, a.k_block) + first_k // a.k_block) * winograd_weight_size(f, a)


cdef inline void winograd_multiply(
    int f, bint channels, const winograd_args *a, const winograd_block *b, int64_t first_k, const real *u,
    const real *v, real *p,
) noexcept nogil:
    """The products of a block of output channels."""
    cdef winograd_products_args of
    of.u, of.v, of.p, of.area = <int64_t>u, <int64_t>v, <int64_t>p, winograd_area(f)
    of.c, of.k, of.tiles, of.vectors = a.c, min(a.k_block, a.k - first_k), b.tiles, b.vectors
    of.by_channels = channels
    cdef int64_t tw = winograd_wide(f, a)
    cdef winograd_sizes rows
    of.kept = winograd_alpha(winograd_short(f))
    of.before, of.middle, of.after = 0, b.tiles, 0
    if a.short_h + a.short_w:
        rows = winograd_rows_of(a, b, winograd_high(f, a), tw, 0)
        of.before = rows.low * (tw - a.short_w)
        of.middle = rows.whole * (tw - a.short_w)
        of.after = rows.whole * a.short_w
    winograd_products(<const int64_t *>&of, NULL, 0, winograd_area(f))


# Elements of v of a block
cdef inline int64_t winograd_input_size(
    int f, bint channels, const winograd_args *a, const winograd_block *b
) noexcept nogil:
    if channels:
        return winograd_area(f) * (b.tiles * winograd_input_pitch(a.c) + LANES)
    return winograd_area(f) * (a.c * b.vectors + b.panels) * LANES


# Elements of p of a block of output channels
cdef inline int64_t winograd_products_size(
    int f, bint channels, const winograd_args *a, const winograd_block *b
) noexcept nogil:
    if channels:
        return winograd_area(f) * (b.tiles * winograd_product_pitch(a.k_block) + LANES)
    return winograd_area(f) * a.k_block * b.vectors * LANES


# Where a block's v begins among all of them
cdef inline real *winograd_nth_input(int f, const winograd_args *a, int64_t g, int64_t block) noexcept nogil:
    return <real *>a.v + (g * a.blocks + block) * a.v_step


cdef inline void winograd_forward(
    int f, bint channels, const winograd_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef real *v = <real *>scratch
    cdef real *p
    cdef real *rest
    cdef winograd_block b
    cdef int64_t item, k
    for item in range(begin, end):
        b = winograd_nth_block(f, a, item % a.blocks)
        p = v + winograd_input_size(f, channels, a, &b)
        rest = p + winograd_products_size(f, channels, a, &b)
        winograd_every_input(f, channels, a, &b, item // a.blocks, 0, a.c, v, rest)
        k = 0
        while k < a.k:
            winograd_multiply(f, channels, a, &b, k, winograd_nth_weight(f, a, item // a.blocks, k), v, p)
            winograd_every_output(f, channels, a, &b, item // a.blocks, k, p, rest)
            k += a.k_block


cdef inline void winograd_only_input(
    int f, bint channels, const winograd_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t parts = (a.c + a.c_block - 1) // a.c_block, item, g, block, c
    cdef winograd_block b
    for item in range(begin, end):
        g = item // (a.blocks * parts)
        block = item // parts % a.blocks
        c = item % parts * a.c_block
        b = winograd_nth_block(f, a, block)
        winograd_every_input(
            f, channels, a, &b, g, c, min(c + a.c_block, a.c), winograd_nth_input(f, a, g, block), <real *>scratch
        )


cdef inline void winograd_only_output(
    int f, bint channels, const winograd_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t parts = ceil_div(a.k, a.k_block), item, g, block, k, group, groups
    cdef real *own = <real *>scratch
    cdef real *p = own
    cdef real *rest
    cdef const real *u
    cdef winograd_block b
    if a.u == 0:
        p += winograd_weight_size(f, a)
    for item in range(begin, end):
        g = item // (a.blocks * parts)
        block = item % a.blocks
        k = item // a.blocks % parts * a.k_block
        if a.u:
            u = winograd_nth_weight(f, a, g, k)
        else:
            u = own
            if item == begin or block == 0:
                groups = ceil_div(min(a.k_block, a.k - k), GROUP)
                for group in range(groups):
                    winograd_every_weight(
                        f, <const real *>a.w + g * a.w_g + (k + group * GROUP) * a.w_k, a.w_k, a.w_c, a.w_h, a.w_w,
                        a.c, a.k - k - group * GROUP, group, groups, own, p,
                    )
        b = winograd_nth_block(f, a, block)
        rest = p + winograd_products_size(f, channels, a, &b)
        winograd_multiply(f, channels, a, &b, k, u, winograd_nth_input(f, a, g, block), p)
        winograd_every_output(f, channels, a, &b, g, k, p, rest)
