# Weights packed for the register tile, partial weight gradients added up, and outputs that no tap reaches.

cdef inline void pack_block(
    int tile_rows, const real *w, int64_t w_k, int64_t w_c, int64_t w_h, int64_t w_w, int64_t c, int64_t kh, int64_t kw,
    int64_t rows, real *packed, int64_t pitch,
) noexcept nogil:
    """packed[c * kh * kw][pitch], of which tile_rows channels are written: those from ``rows`` on are zero.

    Where there are not LANES of them, they are all that packed holds (``pitch`` is tile_rows).
    """
    cdef vec block[LANES + ROWS]
    cdef real rest[(LANES + ROWS) * LANES]
    cdef int64_t p = 0, taps = c * kh * kw, i, j, channel, row
    cdef int r
    cdef const real *tap
    if (kw == 1 or w_w == 1) and (kh == 1 or w_h == kw) and (c == 1 or w_c == kh * kw):
        # each channel's taps lie in one piece
        while rows >= tile_rows and p + LANES <= taps:
            for r in range(tile_rows):
                block[r] = vec_load(w + r * w_k + p)
            vec_transpose(tile_rows, block)
            for r in range(tile_rows):
                vec_store(packed + r * (pitch if tile_rows == LANES else LANES), block[r])
            packed += LANES * pitch
            p += LANES
        while p < taps:
            for r in range(tile_rows):
                block[r] = vec_load_partial(w + r * w_k + p, taps - p) if r < rows else vec_zero()
            vec_transpose(tile_rows, block)
            for r in range(tile_rows):
                vec_store(rest + r * LANES, block[r])
            for i in range(min(taps - p, <int64_t>LANES)):
                memcpy(packed + i * pitch, rest + i * tile_rows, tile_rows * sizeof(real))
            packed += LANES * pitch
            p += LANES
        return
    for channel in range(c):
        for i in range(kh):
            for j in range(kw):
                tap = w + channel * w_c + i * w_h + j * w_w
                for row in range(rows):
                    packed[row] = tap[row * w_k]
                for row in range(rows, tile_rows):
                    packed[row] = 0
                packed += pitch


cdef void pack_weight(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const pack_weight_args *a = <const pack_weight_args *>args
    cdef int64_t blocks = ceil_div(a.k, ROWS), item, first
    for item in range(begin, end):
        first = item % blocks * ROWS
        pack_block(
            ROWS, <const real *>a.w + item // blocks * a.w_g + first * a.w_k, a.w_k, a.w_c, a.w_h, a.w_w, a.c, a.kh,
            a.kw, min(a.k - first, <int64_t>ROWS), <real *>a.packed + item * a.c * a.kh * a.kw * ROWS, ROWS,
        )


cdef void pack_columns(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const pack_columns_args *a = <const pack_columns_args *>args
    cdef int64_t vectors = ceil_div(a.k, LANES), panels = a.panels, taps = a.c * a.kh * a.kw
    # channels at a time: several vectors share a line of packed weights, which stays in the first cache for all of them
    cdef int64_t step = LANES * max(16 // (a.kh * a.kw), <int64_t>1)
    cdef int64_t item, first, last, panel, vector, channel, i
    cdef const real *w
    cdef real *packed
    cdef vec total
    for item in range(begin, end):
        panel = item % panels
        first = vectors * panel // panels
        last = vectors * (panel + 1) // panels
        channel = 0
        while channel < a.c:
            w = <const real *>a.w + item // panels * a.w_g + channel * a.w_c
            packed = <real *>a.packed + (item // panels * vectors + first) * taps * LANES
            packed += channel * a.kh * a.kw * (last - first) * LANES
            for vector in range(first, last):
                pack_block(
                    LANES, w + vector * LANES * a.w_k, a.w_k, a.w_c, a.w_h, a.w_w, min(a.c - channel, step), a.kh,
                    a.kw, min(a.k - vector * LANES, <int64_t>LANES), packed + (vector - first) * LANES,
                    (last - first) * LANES,
                )
            channel += step
        if a.totals:
            packed = <real *>a.packed + (item // panels * vectors + first) * taps * LANES
            total = vec_zero()
            for i in range(taps * (last - first)):
                total = vec_fma(vec_zero(), vec_load(packed + i * LANES), total)
            (<real *>a.totals)[item] = vec_sum(total)


cdef void sum_parts(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    # pairwise, so that the rounding error grows with the logarithm of the count; the partial sums are used up
    cdef const sum_parts_args *a = <const sum_parts_args *>args
    cdef real *partial = <real *>a.partial
    cdef real *out = <real *>a.out
    cdef real *left
    cdef const real *right
    cdef int64_t start = begin * 1024, stop = min(end * 1024, a.count), step = 1, pair, i
    while step < a.parts:
        for pair in range(ceil_div(a.parts - step, 2 * step)):
            left = partial + 2 * pair * step * a.count
            right = left + step * a.count
            for i in range(start, stop):
                left[i] += right[i]
        step *= 2
    for i in range(start, stop):
        out[i] = partial[i]


cdef void fill_zero(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const fill_zero_args *a = <const fill_zero_args *>args
    cdef int64_t item, i, j
    cdef real *row
    for item in range(begin, end):
        for i in range(a.oh):
            row = <real *>a.out + item // a.channels * a.out_n + item % a.channels * a.out_k + i * a.out_h
            for j in range(a.ow):
                row[j * a.out_w] = 0
