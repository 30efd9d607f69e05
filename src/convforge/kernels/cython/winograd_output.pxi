# The output transform of Winograd F(m, r) with tiles in the lanes, and what it does about outputs that are not finite.

cdef inline vec winograd_tiles(int f, const real *p, int64_t step, real *rows, int64_t pitch) noexcept nogil:
    """A^T both ways on LANES tiles: m virtual rows; the sum of all is NaN or infinite if any output is."""
    cdef int m = winograd_m(f), alpha = winograd_alpha(f)
    cdef vec half[6][WINOGRAD_ALPHA]
    cdef vec d[WINOGRAD_ALPHA]
    cdef vec o[WINOGRAD_ALPHA]
    cdef vec total = vec_zero()
    cdef int i, j
    for j in range(alpha):
        for i in range(alpha):
            d[i] = vec_load(p + (i * alpha + j) * step)
        winograd_output(f, d, o)
        for i in range(m):
            half[i][j] = o[i]
    for i in range(m):
        winograd_output(f, half[i], d)
        for j in range(m):
            total = total + d[j]
        vec_interleave(m, d, o)
        for j in range(m):
            vec_store(rows + i * pitch + j * LANES, o[j])
    return total


cdef real winograd_exact(
    int r, const winograd_args *a, int64_t image, int64_t g, int64_t k, int64_t top, int64_t left
) noexcept nogil:
    """One output by the definition."""
    cdef const real *x = <const real *>a.x + image * a.x_n + g * a.c * a.x_c
    cdef const real *w = <const real *>a.w + g * a.w_g + k * a.w_k
    cdef real total = 0, value
    cdef int64_t c, i, j
    for c in range(a.c):
        for i in range(r):
            for j in range(r):
                value = 0  # padding times an infinite weight is NaN
                if 0 <= top + i * a.dh < a.ih and 0 <= left + j * a.dw < a.iw:
                    value = x[(top + i * a.dh) * a.x_h + left + j * a.dw]
                total += value * w[c * a.w_c + i * a.w_h + j * a.w_w]
        x += a.x_c
    return total


cdef void winograd_repair(
    int f, const winograd_args *a, int64_t image, int64_t g, int64_t k, int64_t top, int64_t left, int64_t height,
    int64_t width, real *rows, int64_t pitch, int64_t step, real bias,
) noexcept nogil:
    """Outputs that are not finite, again by the definition: only those stay that the definition makes so.

    They are every dh-th from the row ``top`` on, and every dw-th from the column ``left``.
    """
    cdef int64_t i, j, stride = f % 10
    cdef real *at
    for i in range(height):
        for j in range(width):
            at = rows + i * pitch + j * step
            if at[0] - at[0] != 0:
                at[0] = bias + winograd_exact(
                    winograd_r(f), a, image, g, k, (top + i * a.dh) * stride - a.ph, (left + j * a.dw) * stride - a.pw
                )


cdef inline void winograd_transform_output(
    int f, bint channels, const winograd_args *a, const winograd_block *b, int64_t g, int64_t first_k, const real *p,
    real *rows,
) noexcept nogil:
    """The outputs of a block of output channels from their products; ``rows`` is scratch of m virtual rows."""
    if channels and LANES * sizeof(real) >= 32:
        winograd_channels_output(f, a, b, g, first_k, p, rows)
        return
    cdef int m = winograd_m(f)
    cdef int64_t th = ceil_div(a.oh, m), tw = ceil_div(a.ow, m), area = winograd_area(f)
    cdef int64_t image, row, column, done, run, height, columns, k, panel, group, first, width, i, q
    cdef int64_t count = min(a.k_block, a.k - first_k), pitch = b.vectors * m * LANES
    cdef int64_t padded = (count + ROWS - 1) // ROWS * ROWS
    cdef const real *products
    cdef const real *source
    cdef real *out
    cdef real bias, sum
    cdef vec total, shift
    for k in range(first_k, first_k + count):
        total = vec_zero()
        first = 0
        for panel in range(b.panels):
            width = winograd_panel(b, panel + 1) - first
            products = p + area * (padded * first + (k - first_k) * width) * LANES
            for group in range(width):
                source = products + group * LANES
                out = rows + (first + group) * m * LANES
                if width == 1:
                    total = total + winograd_tiles(f, source, LANES, out, pitch)
                elif width == 2:
                    total = total + winograd_tiles(f, source, 2 * LANES, out, pitch)
                else:
                    total = total + winograd_tiles(f, source, 3 * LANES, out, pitch)
            first += width
        sum = vec_sum(total)
        bias = (<const real *>a.bias)[g * a.k + k] if a.bias else 0
        shift = vec_broadcast(bias)
        image = b.image
        row = b.row
        column = b.column
        done = 0
        while done < b.tiles:
            run = min(tw - column, b.tiles - done)
            height = min(<int64_t>m, a.oh - row * m)
            columns = min(run * m, a.ow - column * m)
            if sum - sum != 0:
                winograd_repair(
                    f, a, image, g, k, row * m, column * m, height, columns, rows + done * m, pitch, 1, 0
                )
            source = rows + done * m
            out = <real *>a.out + image * a.out_n + (g * a.k + k) * a.out_k + row * m * a.out_h + column * m
            for i in range(height):
                q = 0
                while q + LANES <= columns:
                    vec_store(out + q, vec_load(source + q) + shift)
                    vec_prefetch(out + q + a.out_k)
                    q += LANES
                if q < columns and columns >= LANES:  # some once more: masked stores take tens of cycles on AMD's AVX2
                    vec_store(out + columns - LANES, vec_load(source + columns - LANES) + shift)
                elif q < columns:  # of scratch all lanes may be read
                    vec_store_partial(out + q, vec_load(source + q) + shift, columns - q)
                source += pitch
                out += a.out_h
            done += run
            column = 0
            row += 1
            if row == th:
                row = 0
                image += 1
