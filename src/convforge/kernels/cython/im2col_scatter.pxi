# Outputs of a register tile whose pixels do not lie in one piece.

cdef inline void scatter_run(const real *sums, int64_t count, real *to, bint accumulate) noexcept nogil:
    """to[i] = sums[i], plus itself to accumulate."""
    cdef int64_t i = 0
    cdef vec total
    while i < count:
        total = vec_load_partial(sums + i, count - i)
        if accumulate:
            total = total + vec_load_partial(to + i, count - i)
        vec_store_partial(to + i, total, count - i)
        i += LANES


cdef void scatter_rows(
    int64_t ow, int64_t out_k, int64_t out_h, int64_t out_w, const real *sums, int64_t rows, real *out, int64_t pixel,
    int64_t count, bint accumulate,
) noexcept nogil:
    """out[row, pixel + i] = sums[row][i], plus itself to accumulate, for outputs whose pixels are not in one piece."""
    cdef int64_t h = pixel // ow, w = pixel % ow, done = 0, run, row, i
    cdef const real *read
    cdef real *to
    while done < count:
        run = min(ow - w, count - done)
        for row in range(rows):
            read = sums + row * COLUMNS + done
            to = out + row * out_k + h * out_h + w * out_w
            if out_w == 1:
                scatter_run(read, run, to, accumulate)
            else:
                for i in range(run):
                    to[i * out_w] = read[i] + (to[i * out_w] if accumulate else 0)
        done += run
        w = 0
        h += 1
