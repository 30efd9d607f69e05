# Outputs of a register tile whose pixels do not lie in one piece.

cdef void scatter_rows(
    int64_t ow, int64_t out_k, int64_t out_h, int64_t out_w, const real *sums, int64_t rows, real *out, int64_t pixel,
    int64_t count, bint accumulate,
) noexcept nogil:
    """out[row, pixel + i] = sums[row][i], plus itself to accumulate, for outputs whose pixels are not in one piece."""
    cdef int64_t row, i, h, w
    cdef real *to
    for row in range(rows):
        h = pixel // ow
        w = pixel % ow
        to = out + row * out_k
        for i in range(count):
            to[h * out_h + w * out_w] = sums[row * COLUMNS + i] + (to[h * out_h + w * out_w] if accumulate else 0)
            w += 1
            if w == ow:
                w = 0
                h += 1
