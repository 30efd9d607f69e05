# The register tiles: outer products for forward passes (tile.h), dot products for weight gradients.
#
# The accumulators are arrays of vectors whose indices are all constant once the loops are unrolled, so the compiler
# keeps them in registers.

cdef extern from "fetch.h" nogil:
    ctypedef struct tile_fetch:
        const real *at

    ctypedef struct upcoming:
        int64_t wanted

    tile_fetch fetch_along(const real *first, int64_t elements)
    tile_fetch fetch_weights(const real *a, int64_t lda)
    tile_fetch next_fetch(upcoming *coming, tile_fetch otherwise)
    upcoming fetched_by(
        int64_t tiles, int64_t steps, const real *first, int64_t channels, int64_t x_c, int64_t rows, int64_t row_step,
        int64_t elements,
    )
    upcoming fetched_by_none()


cdef extern from "tile.h" nogil:
    void gemm_rows(
        int64_t depth, const real *a, int64_t lda, const real *b, int64_t ldb, const tile_fetch *ahead, real *c,
        int64_t ldc, const real *bias, int64_t rows, int64_t columns, bint accumulate,
    )
    void gemm_ahead(
        int64_t depth, const real *a, const real *b, int64_t ldb, const tile_fetch *ahead, real *c, int64_t ldc,
        const real *bias, int64_t rows, int64_t columns, bint accumulate,
    )
    void gemm_in_place(
        int64_t depth, int64_t runs, int64_t skipped, const real *a, int64_t apart, const int64_t *offsets,
        const real *b, int64_t ldb, const tile_fetch *ahead, real *c, int64_t ldc, int64_t rows, int64_t columns,
        bint accumulate,
    )
    void gemm_apart(
        int64_t depth, const real *a, int64_t lda, const real *b, const tile_fetch *ahead, real *c, int64_t ldc,
        int64_t rows, int64_t columns, bint accumulate,
    )
    void gemm_sweep(
        int64_t columns, int64_t depth, int64_t blocks, const real *a, const real *b, real *c, int64_t ldc,
        bint accumulate,
    )
    void gemm_copying(
        int64_t depth, const real *a, int64_t lda, const real *b, int64_t ldb, real *copy, const tile_fetch *ahead,
        real *c, int64_t ldc, const real *bias, int64_t rows, int64_t columns, bint accumulate,
    )


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
    cdef tile_fetch ahead = fetch_weights(<const real *>a.a, a.lda)
    cdef int64_t item
    for item in range(begin, end):
        gemm_rows(
            a.depth, <const real *>a.a, a.lda, <const real *>a.b, a.ldb, &ahead, <real *>a.c, a.ldc,
            <const real *>a.bias, a.rows, a.columns, a.accumulate,
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
