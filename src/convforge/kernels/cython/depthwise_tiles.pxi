# Tiles of depthwise outputs: a few rows times a few vectors of columns, whose sums stay in registers over all taps.
# A row of input is loaded once for all the rows of the tile that see it.

cdef extern from "depthwise_tile.h" nogil:
    enum: DEPTHWISE_VECTORS  # of a tile at most: two or three
    void depthwise_roll_3x3(
        int64_t step, const real *x, int64_t row, const int64_t *offsets, const real *weight, real bias, real *out,
        int64_t out_row, int64_t columns, int64_t count,
    )

cdef extern from "depthwise_row.h" nogil:
    enum: ROW_VECTORS  # of a row at least
    void depthwise_row(
        const real *x, int64_t row, const real *weight, int64_t taps, real bias, real *out, int64_t out_row,
        int64_t columns, int64_t count,
    )

cdef enum:
    DEPTHWISE_ROWS = 4  # of a tile
    DEPTHWISE_NARROW_ROWS = 8  # of a tile of one vector: as many sums as hide the latency of a multiply-add
    DEPTHWISE_SUMS = 12

# How the rows of taps are gone through: unrolled for 1, 2, 3, 5 and 7 of them, and
cdef enum:
    DEPTHWISE_SINGLY = 0  # one by one, each output's input loaded by itself: any step
    DEPTHWISE_MANY = 4  # a step of 1 and at least as many as a tile has rows


cdef struct depthwise_tiles:
    # `count` rows of outputs from the first tap's first input on; `row` from one row of taps to the next
    const real *x
    int64_t row, plane, step, count
    const int64_t *offsets
    int64_t c, kh, kw
    const real *weight  # [c][kw][kh]
    # of a second convolution, whose outputs alternate with those of the first along the rows
    const int64_t *offsets2
    int64_t kw2
    const real *weight2
    real *out
    int64_t out_row, out_w, lanes  # lanes of outputs in a row: more than a vector's but for one narrow vector
    real bias
    bint pair, spill  # rows follow each other: a vector may reach into the next ones, which are stored later


cdef inline void depthwise_meet(int rows, int vectors, int step, int kh, int r, const real *x, int64_t last,
                                const real *weight, vec *sums) noexcept nogil:
    # Add the input row `r` of a tile to those of its outputs that see it.
    cdef vec a[DEPTHWISE_VECTORS]
    cdef vec scale
    cdef int t, v
    for v in range(vectors):
        a[v] = vec_keep(vec_load(x + (last if v == vectors - 1 else <int64_t>(v * LANES))))
    for t in range(rows):
        if 0 <= r - t * step < kh:
            scale = vec_broadcast(weight[r - t * step])
            for v in range(vectors):
                sums[t * vectors + v] = vec_fma(scale, a[v], sums[t * vectors + v])


cdef inline void depthwise_column(int way, int rows, int vectors, int step, int64_t kh, const real *x, int64_t row,
                                  int64_t apart, int64_t last, const real *weight, vec *sums) noexcept nogil:
    # Add one column of taps. `apart` lies between the input rows of a tile's outputs.
    cdef vec scale
    cdef int64_t i
    cdef int r, t, v
    if way == DEPTHWISE_SINGLY:
        for i in range(kh):
            scale = vec_broadcast(weight[i])
            for t in range(rows):
                for v in range(vectors):
                    sums[t * vectors + v] = vec_fma(
                        scale,
                        vec_load(x + t * apart + (last if v == vectors - 1 else <int64_t>(v * LANES))),
                        sums[t * vectors + v],
                    )
            x += row
    elif way == DEPTHWISE_MANY:
        for r in range(rows - 1):
            depthwise_meet(rows, vectors, 1, rows, r, x, last, weight, sums)
            x += row
        weight += rows - 1
        for i in range(kh - rows + 1):
            depthwise_meet(rows, vectors, 1, rows, rows - 1, x, last, weight - (rows - 1), sums)
            x += row
            weight += 1
        for r in range(rows, 2 * rows - 1):
            depthwise_meet(rows, vectors, 1, rows, r, x, last, weight - rows, sums)
            x += row
    else:
        for r in range((rows - 1) * step + way):
            depthwise_meet(rows, vectors, step, way, r, x, last, weight, sums)
            x += row


cdef inline void depthwise_store(int rows, int vectors, const depthwise_tiles *s, real *out, int64_t count,
                                 int64_t last, const vec *sums) noexcept nogil:
    cdef vec bias = vec_broadcast(s.bias)
    cdef int t, v
    for t in range(rows):
        if t < count:
            if vectors > 1 or s.lanes >= LANES or (s.spill and (count - t) * s.lanes >= LANES):
                for v in range(vectors):
                    vec_store(
                        out + (last if v == vectors - 1 else <int64_t>(v * LANES)), sums[t * vectors + v] + bias
                    )
            else:
                vec_store_partial(out, sums[t] + bias, s.lanes)
            out += s.out_row


cdef inline void depthwise_store_apart(int rows, const depthwise_tiles *s, real *out, int64_t count, int64_t lanes,
                                       const vec *sums) noexcept nogil:
    # Outputs of one vector that do not lie side by side.
    cdef real values[LANES]
    cdef int64_t lane
    cdef int t
    for t in range(rows):
        if t < count:
            vec_store(values, sums[t] + vec_broadcast(s.bias))
            for lane in range(min(lanes, <int64_t>LANES)):
                out[lane * s.out_w] = values[lane]
            out += s.out_row


cdef inline void depthwise_store_pair(int rows, const depthwise_tiles *s, real *out, int64_t count, int64_t lanes,
                                      const vec *sums, const vec *sums2) noexcept nogil:
    cdef int t
    for t in range(rows):
        if t < count:
            if lanes >= 2 * LANES:
                vec_store(out, vec_low(sums[t], sums2[t]))
                vec_store(out + LANES, vec_high(sums[t], sums2[t]))
            else:
                vec_store_partial(out, vec_low(sums[t], sums2[t]), lanes)
                vec_store_partial(out + LANES, vec_high(sums[t], sums2[t]), lanes - LANES)
            out += s.out_row


cdef inline void depthwise_roll(int way, int step, int rows, int vectors, const depthwise_tiles *s, int64_t first,
                                int64_t strips, int64_t last) noexcept nogil:
    # All rows, `strips` tiles at a time from column `first` on; the last vector of each begins `last` columns after it.
    cdef vec sums[DEPTHWISE_SUMS]
    cdef const real *x
    cdef const real *weight
    cdef int64_t apart = s.row * (step if step else s.step), top = 0, strip, column, c, j
    cdef int i
    while top < s.count:
        for strip in range(strips):
            column = first + strip * vectors * LANES
            for i in range(rows * vectors):
                sums[i] = vec_zero()
            weight = s.weight
            for c in range(s.c):
                x = s.x + c * s.plane + top * apart + column
                for j in range(s.kw):
                    depthwise_column(
                        way, rows, vectors, step, s.kh, x + s.offsets[j], s.row, apart, last, weight, sums
                    )
                    weight += s.kh
            depthwise_store(rows, vectors, s, s.out + top * s.out_row + column, s.count - top, last, sums)
        top += rows


cdef inline void depthwise_roll_pair(const depthwise_tiles *s, int64_t columns) noexcept nogil:
    cdef vec sums[DEPTHWISE_ROWS]
    cdef vec sums2[DEPTHWISE_ROWS]
    cdef const real *x
    cdef const real *weight
    cdef const real *weight2
    cdef int64_t apart = s.row * s.step, tile, vector, top, column, c, j
    cdef int i
    for tile in range(ceil_div(s.count, DEPTHWISE_ROWS)):
        top = tile * DEPTHWISE_ROWS
        for vector in range(ceil_div(columns, LANES)):
            column = vector * LANES
            for i in range(DEPTHWISE_ROWS):
                sums[i] = vec_zero()
                sums2[i] = vec_zero()
            weight = s.weight
            weight2 = s.weight2
            for c in range(s.c):
                x = s.x + c * s.plane + top * apart + column
                for j in range(s.kw):
                    depthwise_column(
                        DEPTHWISE_SINGLY, DEPTHWISE_ROWS, 1, 0, s.kh, x + s.offsets[j], s.row, apart, 0, weight, sums
                    )
                    weight += s.kh
                for j in range(s.kw2):
                    depthwise_column(
                        DEPTHWISE_SINGLY, DEPTHWISE_ROWS, 1, 0, s.kh, x + s.offsets2[j], s.row, apart, 0, weight2, sums2
                    )
                    weight2 += s.kh
            if s.pair:
                depthwise_store_pair(
                    DEPTHWISE_ROWS, s, s.out + top * s.out_row + 2 * column, s.count - top, s.lanes - 2 * column, sums,
                    sums2,
                )
            else:
                depthwise_store_apart(
                    DEPTHWISE_ROWS, s, s.out + top * s.out_row + column * s.out_w, s.count - top, s.lanes - column, sums
                )


cdef inline int64_t depthwise_roll_way(int way, int step, const depthwise_tiles *s, int64_t columns) noexcept nogil:
    # Whole strips, then one of as many vectors as are left: whole vectors, of which the last two may overlap. Returns
    # how many columns are done: a last vector is left.
    cdef int64_t strips = columns // (DEPTHWISE_VECTORS * LANES), first = strips * DEPTHWISE_VECTORS * LANES
    cdef int64_t rest = columns - first
    if strips:
        depthwise_roll(way, step, DEPTHWISE_ROWS, DEPTHWISE_VECTORS, s, 0, strips, (DEPTHWISE_VECTORS - 1) * LANES)
    if DEPTHWISE_VECTORS > 2 and rest > 2 * LANES:
        depthwise_roll(way, step, DEPTHWISE_ROWS, DEPTHWISE_VECTORS, s, first, 1, rest - LANES)
    elif rest > LANES:
        depthwise_roll(way, step, DEPTHWISE_ROWS, 2, s, first, 1, rest - LANES)
    else:
        return first
    return columns


cdef int64_t depthwise_roll_1(const depthwise_tiles *s, int64_t columns) noexcept nogil:
    if s.kh == 1:
        return depthwise_roll_way(1, 1, s, columns)
    elif s.kh == 2:
        return depthwise_roll_way(2, 1, s, columns)
    elif s.kh == 3:
        return depthwise_roll_way(3, 1, s, columns)
    elif s.kh == 5:
        return depthwise_roll_way(5, 1, s, columns)
    elif s.kh == 7:
        return depthwise_roll_way(7, 1, s, columns)
    return depthwise_roll_way(DEPTHWISE_MANY, 1, s, columns)


cdef int64_t depthwise_roll_2(const depthwise_tiles *s, int64_t columns) noexcept nogil:
    if s.kh == 3:
        return depthwise_roll_way(3, 2, s, columns)
    elif s.kh == 5:
        return depthwise_roll_way(5, 2, s, columns)
    return depthwise_roll_way(7, 2, s, columns)


cdef int64_t depthwise_roll_any(const depthwise_tiles *s, int64_t columns) noexcept nogil:
    return depthwise_roll_way(DEPTHWISE_SINGLY, 0, s, columns)


cdef void depthwise_roll_last(const depthwise_tiles *s, int64_t column) noexcept nogil:
    if s.step == 1 and s.kh == 7:
        depthwise_roll(7, 1, DEPTHWISE_NARROW_ROWS, 1, s, column, 1, 0)
    else:
        depthwise_roll(DEPTHWISE_SINGLY, 0, DEPTHWISE_NARROW_ROWS, 1, s, column, 1, 0)


cdef inline void depthwise_roll_rows(const depthwise_tiles *s, int64_t columns) noexcept nogil:
    """All rows of `columns` outputs. It reads whole vectors, and the rows of whole tiles."""
    cdef int64_t done
    if s.out_w != 1 or s.pair:
        depthwise_roll_pair(s, columns)
        return
    if s.kh == 3 and s.kw == 3 and s.c == 1 and s.step <= 2 and columns >= LANES:
        depthwise_roll_3x3(
            s.step, s.x, s.row, s.offsets, s.weight, s.bias, s.out, s.out_row, columns, s.count
        )
        return
    if s.kh == 1 and s.c == 1 and s.step == 1 and s.offsets[s.kw - 1] < s.kw and columns >= ROW_VECTORS * LANES:
        depthwise_row(s.x, s.row, s.weight, s.kw, s.bias, s.out, s.out_row, columns, s.count)
        return
    if s.step == 1:
        done = depthwise_roll_1(s, columns)
    elif s.step == 2 and (s.kh == 3 or s.kh == 5 or s.kh == 7):
        done = depthwise_roll_2(s, columns)
    else:
        done = depthwise_roll_any(s, columns)
    if done < columns:
        depthwise_roll_last(s, max(columns - LANES, <int64_t>0))
