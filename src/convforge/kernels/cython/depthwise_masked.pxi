# 3x3 kernels that read everything in place, through masks: narrow maps, and wider ones where masked loads cost no more
# than whole ones. The sums of a strip roll down its rows; an
# input row is loaded once and added to all the output rows in flight that see it, of which the oldest is then complete.
# Weights and masks stay in registers.

cdef enum:
    DEPTHWISE_STRIP = 4  # vectors of a strip at most

# How the three taps of a row are loaded: pairs for a stride of 2, even and odd columns of the same vectors, then those
# after the even ones.
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


cdef inline void depthwise_load_3(int load, int vectors, const real *x, const vec_mask *masks, vec *a) noexcept nogil:
    cdef vec lower, upper
    cdef int v, j
    for v in range(vectors):
        if load == DEPTHWISE_MASKED_PAIRS:
            lower = vec_load_masked(x + 2 * v * LANES, masks[4 * v])
            upper = vec_load_masked(x + (2 * v + 1) * LANES, masks[4 * v + 1])
            a[3 * v] = vec_even(lower, upper)
            a[3 * v + 1] = vec_odd(lower, upper)
            lower = vec_load_masked(x + 2 * v * LANES + 2, masks[4 * v + 2])
            upper = vec_load_masked(x + (2 * v + 1) * LANES + 2, masks[4 * v + 3])
            a[3 * v + 2] = vec_even(lower, upper)
        else:
            for j in range(3):
                a[3 * v + j] = vec_load_masked(x + j + v * LANES, masks[3 * v + j])


cdef inline void depthwise_row_3(int u, int vectors, int step, int flight, const vec *scale, const vec *a,
                                 vec *sums) noexcept nogil:
    cdef int i, j, v
    for i in range(flight):
        if i * step + u < 3:
            for j in range(3):
                for v in range(vectors):
                    sums[i * vectors + v] = vec_fma(scale[3 * j + i * step + u], a[3 * v + j], sums[i * vectors + v])


cdef inline void depthwise_roll_3(int load, int vectors, int step, const depthwise_strip *s) noexcept nogil:
    cdef vec sums[3 * DEPTHWISE_STRIP]
    cdef vec a[3 * DEPTHWISE_STRIP]
    cdef vec scale[9]
    cdef vec_mask masks[DEPTHWISE_STRIP]
    cdef vec_mask load_masks[4 * DEPTHWISE_STRIP]
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
            for j in range(4):
                column = s.column + (2 * v + j % 2) * LANES + j // 2 * 2
                load_masks[4 * v + j] = vec_lanes_between(-column, s.iw - column)
    for i in range(flight):
        depthwise_age(flight, vectors, sums)
    for q in range(count + flight - 1):
        depthwise_age(flight, vectors, sums)
        depthwise_load_3(load, vectors, x if 0 <= line < ih else zeros, load_masks, a)
        depthwise_row_3(0, vectors, step, flight, scale, a, sums)
        # the last row that three taps need is an even one
        if step == 2 and q + 2 < count + flight:
            depthwise_load_3(load, vectors, x + x_h if 0 <= line + 1 < ih else zeros, load_masks, a)
            depthwise_row_3(1, vectors, step, flight, scale, a, sums)
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


cdef inline void depthwise_narrow(int load, int planes, int step, const depthwise_forward_args *a, int64_t begin,
                                  int64_t end) noexcept nogil:
    # 3x3 kernels on maps of one vector, or of half a vector: then two planes fill one. Whole planes, nothing is copied:
    # what a plane costs beside its rows is a good part of small maps.
    cdef vec sums[3]
    cdef vec taps[3]
    cdef vec scale[9]
    cdef vec lower, upper
    cdef vec bias = vec_zero()
    cdef vec_mask masks[6]
    cdef vec_mask store_masks[2]
    cdef const real *x[2]
    cdef const real *p[2]
    cdef const real *w[2]
    cdef real *out[2]
    cdef real bias_2[2]
    cdef int64_t part = LANES // planes, item, plane, group, line, q, column
    cdef int flight = 3 if step == 1 else 2, i, j, t
    for i in range(planes):
        # lanes of the plane; a plane of the upper half is read and written from half a vector before it
        store_masks[i] = vec_lanes_between(i * part, i * part + a.ow)
        for j in range(3):
            if load == DEPTHWISE_MASKED:
                column = j - a.pw
                masks[3 * i + j] = vec_lanes_between(
                    i * part + max(-column, <int64_t>0), i * part + min(a.iw - column, part)
                )
    if load == DEPTHWISE_MASKED_PAIRS:
        for j in range(4):
            column = (0 if planes == 2 else j % 2) * LANES + j // 2 * 2 - a.pw
            masks[j] = vec_lanes_between(-column, a.iw - column)
    item = begin
    while item < end:
        for i in range(planes):
            plane = min(item + i, end - 1)
            group = plane % a.g
            x[i] = <const real *>a.x + plane // a.g * a.x_n + group * a.x_c - a.ph * a.x_h - a.pw
            out[i] = <real *>a.out + plane // a.g * a.out_n + group * a.out_k - (flight - 1) * a.out_h
            w[i] = <const real *>a.packed + 9 * group
            bias_2[i] = (<const real *>a.bias)[group] if a.bias else 0
            if load == DEPTHWISE_MASKED:
                x[i] -= i * part
            out[i] -= i * part
        bias = vec_broadcast(bias_2[0])
        if planes == 2:
            bias = vec_halves(bias, vec_broadcast(bias_2[1]))
        for i in range(9):
            scale[i] = vec_broadcast(w[0][i])
            if planes == 2:
                scale[i] = vec_halves(scale[i], vec_broadcast(w[1][i]))
        line = -a.ph
        for i in range(flight):
            sums[i] = vec_zero()
        for q in range(a.oh + flight - 1):
            depthwise_age(flight, 1, sums)
            for t in range(step):
                if 0 <= line < a.ih:
                    if load == DEPTHWISE_MASKED:
                        for j in range(3):
                            taps[j] = vec_load_masked(x[0] + j, masks[j])
                            if planes == 2:
                                taps[j] = taps[j] + vec_load_masked(x[1] + j, masks[3 + j])
                    else:
                        # two planes: the even columns of both are those of the two vectors one after the other
                        p[0] = x[0]
                        p[1] = x[1] if planes == 2 else x[0] + LANES
                        lower = vec_load_masked(p[0], masks[0])
                        upper = vec_load_masked(p[1], masks[1])
                        taps[0] = vec_even(lower, upper)
                        taps[1] = vec_odd(lower, upper)
                        lower = vec_load_masked(p[0] + 2, masks[2])
                        upper = vec_load_masked(p[1] + 2, masks[3])
                        taps[2] = vec_even(lower, upper)
                else:
                    for j in range(3):
                        taps[j] = vec_zero()
                depthwise_row_3(t, 1, step, flight, scale, taps, sums)
                for i in range(planes):
                    x[i] += a.x_h
                line += 1
                if t == 0:
                    # an odd number of rows meets the oldest outputs: they are complete
                    if q >= flight - 1:
                        for i in range(planes):
                            # whole vectors are faster, where what they reach into is stored later
                            if planes == 1 and a.out_h == a.ow and (a.oh + flight - 1 - q) * a.ow >= LANES:
                                vec_store(out[0], sums[flight - 1] + bias)
                            elif i == 0 or item + 1 < end:
                                vec_store_masked(out[i], sums[flight - 1] + bias, store_masks[i])
                    for i in range(planes):
                        out[i] += a.out_h
        item += planes


cdef void depthwise_narrow_3(const depthwise_forward_args *a, int64_t begin, int64_t end) noexcept nogil:
    if a.sw == 1 and 2 * a.ow <= LANES:
        depthwise_narrow(DEPTHWISE_MASKED, 2, 1, a, begin, end)
    elif a.sw == 1:
        depthwise_narrow(DEPTHWISE_MASKED, 1, 1, a, begin, end)
    elif 2 * a.ow <= LANES:
        depthwise_narrow(DEPTHWISE_MASKED_PAIRS, 2, 2, a, begin, end)
    else:
        depthwise_narrow(DEPTHWISE_MASKED_PAIRS, 1, 2, a, begin, end)
