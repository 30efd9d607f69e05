# The register tiles: outer products for forward passes, dot products for weight gradients.
#
# The accumulators are arrays of vectors whose indices are all constant once the loops are unrolled, so the compiler
# keeps them in registers; a tile's count of vectors (rows, columns) is a constant of each call for that.

cdef inline void outer_tile(
    int vectors, int64_t depth, const real *a, const real *b, int64_t ldb, real *c, int64_t ldc, const real *bias,
    int64_t rows, int64_t columns, bint accumulate,
) noexcept nogil:
    cdef vec sums[ROWS][VECTORS]
    cdef vec row[VECTORS]
    cdef vec scale
    cdef real *target
    cdef int i, j
    cdef int64_t p, tail = columns - (vectors - 1) * LANES
    for i in range(ROWS):
        for j in range(vectors):
            sums[i][j] = vec_zero()
    for p in range(depth):
        # packed weights come from far, and the CPU's own prefetching stops at each page: up to 1.6 times as fast
        vec_prefetch(a + 256 * ROWS)
        for j in range(vectors):
            row[j] = vec_load(b + j * LANES)
        for i in range(ROWS):
            scale = vec_broadcast(a[i])
            for j in range(vectors):
                sums[i][j] = vec_fma(scale, row[j], sums[i][j])
        a += ROWS
        b += ldb
    # bias and c are added last: the accumulators would else pass through the stack before the loop too
    for i in range(ROWS):
        if i < rows:
            target = c + i * ldc
            if accumulate:
                for j in range(vectors - 1):
                    row[j] = vec_load(target + j * LANES)
                row[vectors - 1] = vec_load_partial(target + (vectors - 1) * LANES, tail)
            else:
                scale = vec_zero() if bias == NULL else vec_broadcast(bias[i])
                for j in range(vectors):
                    row[j] = scale
            for j in range(vectors - 1):
                vec_store(target + j * LANES, sums[i][j] + row[j])
            vec_store_partial(target + (vectors - 1) * LANES, sums[i][vectors - 1] + row[vectors - 1], tail)


cdef void gemm_rows(
    int64_t depth, const real *a, const real *b, int64_t ldb, real *c, int64_t ldc, const real *bias,
    int64_t rows, int64_t columns, bint accumulate,
) noexcept nogil:
    """c[rows][columns] = sum over p of a[p][row] * b[p][column], plus c itself, or else plus a bias per row.

    ``a`` is [depth][ROWS], whatever ``rows`` is; ``b`` is read in whole vectors; ``c`` is touched only where it is
    named. ``columns`` is at most COLUMNS.
    """
    if columns > 2 * LANES:
        outer_tile(3, depth, a, b, ldb, c, ldc, bias, rows, columns, accumulate)
    elif columns > LANES:
        outer_tile(2, depth, a, b, ldb, c, ldc, bias, rows, columns, accumulate)
    else:
        outer_tile(1, depth, a, b, ldb, c, ldc, bias, rows, columns, accumulate)


cdef inline void table_tile(
    int tile_rows, int vectors, int64_t depth, const real *a, const real *b, const int64_t *offsets, real *c,
    int64_t ldc, const real *bias, int64_t rows, int64_t columns, bint accumulate,
) noexcept nogil:
    cdef vec sums[ROWS][VECTORS]
    cdef vec row[VECTORS]
    cdef vec scale
    cdef const real *source
    cdef real *target
    cdef int i, j
    cdef int64_t p, tail = columns - (vectors - 1) * LANES
    for i in range(tile_rows):
        for j in range(vectors):
            sums[i][j] = vec_zero()
    for p in range(depth):
        source = b + offsets[p]
        for j in range(vectors):
            row[j] = vec_load(source + j * LANES)
        for i in range(tile_rows):
            scale = vec_broadcast(a[i])
            for j in range(vectors):
                sums[i][j] = vec_fma(scale, row[j], sums[i][j])
        a += ROWS
    if accumulate:
        for i in range(tile_rows):
            if i < rows:
                target = c + i * ldc
                for j in range(vectors - 1):
                    vec_store(target + j * LANES, sums[i][j] + vec_load(target + j * LANES))
                target += (vectors - 1) * LANES
                vec_store_partial(target, sums[i][vectors - 1] + vec_load_partial(target, tail), tail)
        return
    for i in range(tile_rows):
        if i < rows:
            target = c + i * ldc
            scale = vec_zero() if bias == NULL else vec_broadcast(bias[i])
            for j in range(vectors - 1):
                vec_store(target + j * LANES, sums[i][j] + scale)
            vec_store_partial(target + (vectors - 1) * LANES, sums[i][vectors - 1] + scale, tail)


cdef void gemm_table(
    int64_t depth, const real *a, const real *b, const int64_t *offsets, real *c, int64_t ldc, const real *bias,
    int64_t rows, int64_t columns, bint accumulate,
) noexcept nogil:
    """The same, row p of the right-hand side being at b + offsets[p]; few rows take a tile of half as many."""
    if rows > ROWS // 2:
        if columns > 2 * LANES:
            table_tile(ROWS, 3, depth, a, b, offsets, c, ldc, bias, rows, columns, accumulate)
        elif columns > LANES:
            table_tile(ROWS, 2, depth, a, b, offsets, c, ldc, bias, rows, columns, accumulate)
        else:
            table_tile(ROWS, 1, depth, a, b, offsets, c, ldc, bias, rows, columns, accumulate)
    elif columns > 2 * LANES:
        table_tile(ROWS // 2, 3, depth, a, b, offsets, c, ldc, bias, rows, columns, accumulate)
    elif columns > LANES:
        table_tile(ROWS // 2, 2, depth, a, b, offsets, c, ldc, bias, rows, columns, accumulate)
    else:
        table_tile(ROWS // 2, 1, depth, a, b, offsets, c, ldc, bias, rows, columns, accumulate)


cdef inline void pixel_tile(
    int tile_rows, int vectors, int64_t depth, const real *a, const int64_t *starts, const int64_t *offsets,
    const real *b, real *c, int64_t rows, bint accumulate,
) noexcept nogil:
    cdef vec sums[ROWS][VECTORS]
    cdef vec row[VECTORS]
    cdef const real *sources[ROWS]
    cdef vec scale
    cdef int i, j
    cdef int64_t p, offset
    # rows past the edge repeat the last one, and their sums are dropped
    for i in range(tile_rows):
        sources[i] = a + starts[min(<int64_t>i, rows - 1)]
        for j in range(vectors):
            sums[i][j] = vec_zero()
    for p in range(depth):
        offset = offsets[p]
        for j in range(vectors):
            row[j] = vec_load(b + j * LANES)
        for i in range(tile_rows):
            scale = vec_broadcast(sources[i][offset])
            for j in range(vectors):
                sums[i][j] = vec_fma(scale, row[j], sums[i][j])
        b += vectors * LANES
    for i in range(tile_rows):
        if i < rows:
            for j in range(vectors):
                vec_store(
                    c + i * COLUMNS + j * LANES,
                    sums[i][j] + vec_load(c + i * COLUMNS + j * LANES) if accumulate else sums[i][j],
                )


cdef inline void pixel_tile_by_rows(
    int vectors, int64_t depth, const real *a, const int64_t *starts, const int64_t *offsets, const real *b, real *c,
    int64_t rows, bint accumulate,
) noexcept nogil:
    if rows >= ROWS:
        pixel_tile(ROWS, vectors, depth, a, starts, offsets, b, c, rows, accumulate)
    elif rows == ROWS - 1:
        pixel_tile(ROWS - 1, vectors, depth, a, starts, offsets, b, c, rows, accumulate)
    elif ROWS > 4 and rows == 6:
        pixel_tile(6 if ROWS > 4 else ROWS, vectors, depth, a, starts, offsets, b, c, rows, accumulate)
    elif ROWS > 4 and rows == 5:
        pixel_tile(5 if ROWS > 4 else ROWS, vectors, depth, a, starts, offsets, b, c, rows, accumulate)
    else:
        pixel_tile(ROWS // 2, vectors, depth, a, starts, offsets, b, c, rows, accumulate)


cdef void gemm_pixels(
    int64_t vectors, int64_t depth, const real *a, const int64_t *starts, const int64_t *offsets, const real *b,
    real *c, int64_t rows, bint accumulate,
) noexcept nogil:
    """c[rows][COLUMNS] = sum over p of a[starts[row] + offsets[p]] * b[p][column], plus c itself to accumulate.

    ``b`` is [depth][vectors * LANES], and as many columns of c are written; ``rows`` is at most ROWS.
    """
    if vectors == 3:
        pixel_tile_by_rows(3, depth, a, starts, offsets, b, c, rows, accumulate)
    elif vectors == 2:
        pixel_tile_by_rows(2, depth, a, starts, offsets, b, c, rows, accumulate)
    else:
        pixel_tile_by_rows(1, depth, a, starts, offsets, b, c, rows, accumulate)


cdef inline void dot_block(
    int64_t depth, const real *a, int64_t lda, const real *b, int64_t ldb, real *c, int64_t ldc, int64_t rows,
    int64_t columns,
) noexcept nogil:
    cdef vec sums[DOT_ROWS][DOT_COLUMNS]
    cdef vec left[DOT_ROWS]
    cdef vec group[LANES]
    cdef vec right
    cdef real totals[DOT_GROUPS * LANES]
    cdef const real *a_rows[DOT_ROWS]
    cdef const real *b_rows[DOT_COLUMNS]
    cdef int i, j, which
    cdef int64_t p = 0
    # rows past the edge repeat the last one, and their sums are dropped
    for i in range(DOT_ROWS):
        a_rows[i] = a + min(<int64_t>i, rows - 1) * lda
    for j in range(DOT_COLUMNS):
        b_rows[j] = b + min(<int64_t>j, columns - 1) * ldb
    for i in range(DOT_ROWS):
        for j in range(DOT_COLUMNS):
            sums[i][j] = vec_zero()
    while p + LANES <= depth:
        for i in range(DOT_ROWS):
            left[i] = vec_load(a_rows[i] + p)
        for j in range(DOT_COLUMNS):
            right = vec_load(b_rows[j] + p)
            for i in range(DOT_ROWS):
                sums[i][j] = vec_fma(left[i], right, sums[i][j])
        p += LANES
    if p < depth:
        for i in range(DOT_ROWS):
            left[i] = vec_load_partial(a_rows[i] + p, depth - p)
        for j in range(DOT_COLUMNS):
            right = vec_load_partial(b_rows[j] + p, depth - p)
            for i in range(DOT_ROWS):
                sums[i][j] = vec_fma(left[i], right, sums[i][j])
    for i in range(DOT_GROUPS):
        for j in range(LANES):
            which = i * LANES + j
            group[j] = sums[which // DOT_COLUMNS][which % DOT_COLUMNS] if which < DOT_ROWS * DOT_COLUMNS else vec_zero()
        vec_store(totals + i * LANES, vec_sums(group))
    if rows >= DOT_ROWS and columns >= DOT_COLUMNS:
        for i in range(DOT_ROWS):
            for j in range(DOT_COLUMNS):
                c[i * ldc + j] += totals[i * DOT_COLUMNS + j]
        return
    for i in range(min(rows, <int64_t>DOT_ROWS)):
        for j in range(min(columns, <int64_t>DOT_COLUMNS)):
            c[i * ldc + j] += totals[i * DOT_COLUMNS + j]


cdef void dot_products(
    int64_t depth, const real *a, int64_t lda, const real *b, int64_t ldb, real *c, int64_t ldc, int64_t rows,
    int64_t columns,
) noexcept nogil:
    """c[row][column] += sum over p of a[row][p] * b[column][p], for any numbers of rows and columns."""
    cdef int64_t i, j, row, column
    for i in range(ceil_div(rows, DOT_ROWS)):
        row = i * DOT_ROWS
        for j in range(ceil_div(columns, DOT_COLUMNS)):
            column = j * DOT_COLUMNS
            dot_block(
                depth, a + row * lda, lda, b + column * ldb, ldb, c + row * ldc + column, ldc,
                rows - row, columns - column,
            )


cdef void dot_tile(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const dot_tile_args *a = <const dot_tile_args *>args
    cdef int64_t item
    for item in range(begin, end):
        dot_products(
            a.depth, <const real *>a.a, a.lda, <const real *>a.b, a.ldb, <real *>a.c, a.ldc, a.rows, a.columns
        )


cdef void gemm_tile(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const gemm_tile_args *a = <const gemm_tile_args *>args
    cdef int64_t item
    for item in range(begin, end):
        gemm_rows(
            a.depth, <const real *>a.a, <const real *>a.b, a.ldb, <real *>a.c, a.ldc, <const real *>a.bias,
            a.rows, a.columns, a.accumulate,
        )


cdef void peak(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const peak_args *a = <const peak_args *>args
    cdef vec sums[ROWS][VECTORS]
    cdef real *out = <real *>a.out
    cdef vec x = vec_broadcast(out[0]), y = vec_broadcast(out[1])
    cdef int i, j
    cdef int64_t item, p
    for i in range(ROWS):
        for j in range(VECTORS):
            sums[i][j] = vec_load(out + (i * VECTORS + j) * LANES)
    for item in range(begin, end):
        for p in range(a.depth):
            for i in range(ROWS):
                for j in range(VECTORS):
                    sums[i][j] = vec_fma(sums[i][j], x, y)
    for i in range(ROWS):
        for j in range(VECTORS):
            vec_store(out + (i * VECTORS + j) * LANES, sums[i][j])
