# Max pooling: maxima, with their indices where these have an address, and gradients added where the maxima were.
from libc.math cimport INFINITY


cdef void max_pool_forward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const max_pool_forward_args *a = <const max_pool_forward_args *>args
    cdef real *spare_values = <real *>scratch
    cdef real *spare_places = spare_values + a.width
    cdef real *values = spare_places + a.width
    cdef real *places = values + a.batch * a.width
    cdef int64_t item, i, row, top, columns, left, first, last, batch, low = 0, high = 0, known = -1
    cdef const real *x
    cdef real *out
    cdef int64_t *indices
    cdef pool_block b = pool_block_of(begin, a.c, a.oh, a.ow, a.rows, a.columns)
    for item in range(begin, end):
        columns = min(a.columns, a.ow - b.column)
        left = b.column * a.sw - a.pw
        if b.column != known:
            known = b.column
            low = max(<int64_t>0, -left)
            high = min(a.iw - left, (columns - 1) * a.sw + (a.kw - 1) * a.dw + 1)
            pool_fill(values, -INFINITY, a.batch * a.width)
            if a.indices:
                pool_fill(places, INFINITY, a.batch * a.width)
        row = b.row
        while row < min(b.row + a.rows, a.oh):
            batch = min(a.batch, a.oh - row, b.row + a.rows - row)
            for i in range(batch):
                top = (row + i) * a.sh - a.ph
                first = 0 if top >= 0 else ceil_div(-top, a.dh)
                last = a.kh if top + (a.kh - 1) * a.dh < a.ih else ceil_div(a.ih - top, a.dh)
                x = (
                    <const real *>a.x + b.image * a.x_n + b.channel * a.x_c + (top + first * a.dh) * a.x_h + left + low
                )
                if a.indices:
                    pool_rows_places(
                        last - first, x, a.dh * a.x_h, first * a.dh * a.iw, a.dh * a.iw, values + i * a.width + low,
                        places + i * a.width + low, high - low,
                    )
                else:
                    pool_rows(False, last - first, x, a.dh * a.x_h, values + i * a.width + low, high - low)
            for i in range(batch):
                out = <real *>a.out + b.image * a.out_n + b.channel * a.out_k + (row + i) * a.out_h + b.column
                if a.indices:
                    indices = (
                        <int64_t *>a.indices + b.image * a.indices_n + b.channel * a.indices_c + (row + i) * a.indices_h
                        + b.column
                    )
                    pool_columns_places(
                        a.kw, a.dw, a.sw, values + i * a.width, places + i * a.width, spare_values, spare_places, out,
                        indices, ((row + i) * a.sh - a.ph) * a.iw + left, columns,
                    )
                else:
                    pool_columns(
                        False, a.kw, a.dw, a.sw, values + i * a.width, spare_values, out, columns, NULL, 1
                    )
            row += batch
        pool_advance(&b, a.c, a.oh, a.ow, a.rows, a.columns)


cdef void max_pool_backward(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const max_pool_backward_args *a = <const max_pool_backward_args *>args
    cdef int64_t item, i, j, index
    cdef real *out
    cdef const real *y
    cdef const int64_t *indices
    for item in range(begin, end):
        out = <real *>a.out + item // a.c * a.out_n + item % a.c * a.out_k
        y = <const real *>a.y + item // a.c * a.y_n + item % a.c * a.y_k
        indices = <const int64_t *>a.indices + item // a.c * a.indices_n + item % a.c * a.indices_c
        for i in range(a.ih):
            for j in range(a.iw):
                out[i * a.out_h + j] = 0
        for i in range(a.oh):
            if a.out_h == a.iw:
                for j in range(a.ow):
                    out[indices[j]] += y[j]
            else:
                for j in range(a.ow):
                    index = indices[j]
                    out[index // a.iw * a.out_h + index % a.iw] += y[j]
            y += a.y_h
            indices += a.indices_h
