# 3x3 kernels that read everything in place, through masks, where masked loads cost no more than whole ones. The sums of
# a strip roll down its rows; an input row is loaded once and added to all the output rows in flight that see it, of
# which the oldest is then complete. Weights and masks stay in registers.

cdef enum:
    DEPTHWISE_STRIP = 4  # vectors of a strip at most

# How the three taps of a row are loaded: pairs for a stride of 2, even and odd columns of the same vectors, and those
# after the even ones are the next even ones.
cdef enum:
    DEPTHWISE_MASKED
    DEPTHWISE_MASKED_PAIRS


cdef struct depthwise_strip:
    # `count` rows of outputs: what the first tap reads for the first of them, and that tap's line and column
    const real *x
    int64_t x_h, count, line, column, ih, iw
    const real *weight  # [3][3], columns first
    real *out
    int64_t out_row, lanes
    real bias
    const real *zeros  # instead of a line outside of the input


cdef inline void depthwise_age(int flight, int vectors, vec *sums) noexcept nogil:
    # Make room for the next outputs at sums[0].
    cdef int i, v
    for i in range(flight - 1):
        for v in range(vectors):
            sums[(flight - 1 - i) * vectors + v] = sums[(flight - 2 - i) * vectors + v]
    for v in range(vectors):
        sums[v] = vec_zero()


cdef inline void depthwise_load_pairs(int vectors, const real *x, const vec_mask *masks, vec *a) noexcept nogil:
    cdef vec lower, upper
    cdef int v
    for v in range(vectors):
        lower = vec_load_masked(x + 2 * v * LANES, masks[2 * v])
        upper = vec_load_masked(x + (2 * v + 1) * LANES, masks[2 * v + 1])
        a[3 * v] = vec_even(lower, upper)
        a[3 * v + 1] = vec_odd(lower, upper)
    lower = vec_load_masked(x + 2 * vectors * LANES, masks[2 * vectors])
    for v in range(vectors):
        a[3 * v + 2] = vec_following(a[3 * v], a[3 * v + 3] if v < vectors - 1 else lower)


cdef inline void depthwise_meet_3(int u, int first, int last, int vectors, int step, int flight, const vec *scale,
                                  const vec *a, vec *sums) noexcept nogil:
    # Add the taps of vectors `first` to `last` to the sums that see them.
    cdef int i, j, v
    for j in range(3):
        for i in range(flight):
            if i * step + u < 3:
                for v in range(first, last):
                    sums[i * vectors + v] = vec_fma(scale[3 * j + i * step + u], a[3 * v + j], sums[i * vectors + v])


cdef inline void depthwise_row_3(int load, int u, int vectors, int step, int flight, const real *x,
                                 const vec_mask *masks, const vec *scale, vec *sums) noexcept nogil:
    # Add the input row `u` of a step. Masked, vector after vector: registers suffice for the taps of one.
    cdef vec a[3 * DEPTHWISE_STRIP]
    cdef int j, v
    if load == DEPTHWISE_MASKED_PAIRS:
        depthwise_load_pairs(vectors, x, masks, a)
        depthwise_meet_3(u, 0, vectors, vectors, step, flight, scale, a, sums)
        return
    for v in range(vectors):
        for j in range(3):
            a[3 * v + j] = vec_load_masked(x + j + v * LANES, masks[3 * v + j])
        depthwise_meet_3(u, v, v + 1, vectors, step, flight, scale, a, sums)


cdef inline void depthwise_roll_3(int load, int vectors, int step, const depthwise_strip *s) noexcept nogil:
    cdef vec sums[3 * DEPTHWISE_STRIP]
    cdef vec scale[9]
    cdef vec_mask masks[DEPTHWISE_STRIP]
    cdef vec_mask load_masks[3 * DEPTHWISE_STRIP]
    cdef vec bias = vec_broadcast(s.bias)
    cdef int flight = 3 if step == 1 else 2
    cdef const real *x = s.x
    cdef const real *zeros = s.zeros
    cdef real *out = s.out - (flight - 1) * s.out_row
    cdef int64_t q, x_h = s.x_h, count = s.count, out_row = s.out_row, line = s.line, ih = s.ih, column
    cdef int i, j, v
    for i in range(9):
        scale[i] = vec_broadcast(s.weight[i])
    for v in range(vectors):
        masks[v] = vec_lanes_between(0, s.lanes - v * LANES)
        if load == DEPTHWISE_MASKED:
            for j in range(3):
                column = s.column + j + v * LANES
                load_masks[3 * v + j] = vec_lanes_between(-column, s.iw - column)
        else:
            for j in range(2):
                column = s.column + (2 * v + j) * LANES
                load_masks[2 * v + j] = vec_lanes_between(-column, s.iw - column)
    if load == DEPTHWISE_MASKED_PAIRS:  # of what follows the last vector, one is read
        column = s.column + 2 * vectors * LANES
        load_masks[2 * vectors] = vec_lanes_between(-column, min(s.iw - column, <int64_t>1))
    for i in range(flight):
        depthwise_age(flight, vectors, sums)
    for q in range(count + flight - 1):
        depthwise_age(flight, vectors, sums)
        depthwise_row_3(
            load, 0, vectors, step, flight, x if 0 <= line < ih else zeros, load_masks, scale, sums
        )
        # the last row that three taps need is an even one
        if step == 2 and q + 2 < count + flight:
            depthwise_row_3(
                load, 1, vectors, step, flight, x + x_h if 0 <= line + 1 < ih else zeros, load_masks, scale, sums
            )
        if q >= flight - 1:
            for v in range(vectors):
                vec_store_masked(out + v * LANES, sums[(flight - 1) * vectors + v] + bias, masks[v])
        x += step * x_h
        line += step
        out += out_row


cdef void depthwise_strips_3(int64_t step, int64_t columns, depthwise_strip *s) noexcept nogil:
    """Rows of ``columns`` outputs; ``s.lanes`` is set here."""
    cdef int64_t rest = columns, vectors
    while rest > 0:
        s.lanes = rest
        if step == 1 and rest > 3 * LANES:
            vectors = 4
            depthwise_roll_3(DEPTHWISE_MASKED, 4, 1, s)
        elif step == 1 and rest > LANES:
            vectors = 2
            depthwise_roll_3(DEPTHWISE_MASKED, 2, 1, s)
        elif step == 1:
            vectors = 1
            depthwise_roll_3(DEPTHWISE_MASKED, 1, 1, s)
        elif rest > LANES:
            vectors = 2
            depthwise_roll_3(DEPTHWISE_MASKED_PAIRS, 2, 2, s)
        else:
            vectors = 1
            depthwise_roll_3(DEPTHWISE_MASKED_PAIRS, 1, 2, s)
        rest -= vectors * LANES
        s.x += vectors * LANES * step
        s.column += vectors * LANES * step
        s.out += vectors * LANES
