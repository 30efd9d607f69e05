# 3x3 kernels of stride 1 or 2 that read planes in place: narrow ones in strips through masks, where masked loads cost
# no more than whole ones, others in tiles, of which those at the borders go through masks.

cdef extern from "depthwise_plane.h" nogil:
    const int64_t depthwise_long
    ctypedef struct depthwise_plane:
        const real *x
        const real *zeros
        int64_t row, first, end, first_column, end_column
    void depthwise_plane_3x3(
        int64_t stride, const depthwise_plane *plane, const real *weight, real bias, real *out, int64_t out_row,
        int64_t columns, int64_t count,
    )


cdef inline void depthwise_zero_line(real *zeros, int64_t columns) noexcept nogil:
    cdef int64_t i
    for i in range(ceil_div(columns, LANES)):
        vec_store(zeros + i * LANES, vec_zero())


cdef void depthwise_in_strips(
    const depthwise_forward_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef depthwise_strip strip
    cdef real *zeros = <real *>aligned(scratch, scratch)
    cdef int64_t blocks = ceil_div(a.oh, a.rows), item, group, image, channel, top
    depthwise_zero_line(zeros, 3 + DEPTHWISE_STRIP * LANES)
    for item in range(begin, end):
        top = item % blocks * a.rows
        group = item // blocks % a.g
        image = item // blocks // a.g
        for channel in range(group * a.k, (group + 1) * a.k):
            strip.line = top * a.sh - a.ph
            strip.column = -a.pw
            strip.x = <const real *>a.x + image * a.x_n + group * a.x_c + strip.line * a.x_h - a.pw
            strip.x_h, strip.ih, strip.iw, strip.zeros = a.x_h, a.ih, a.iw, zeros
            strip.count, strip.out_row = min(a.rows, a.oh - top), a.out_h
            strip.weight = <const real *>a.packed + channel * 9
            strip.bias = (<const real *>a.bias)[channel] if a.bias else 0
            strip.out = <real *>a.out + image * a.out_n + channel * a.out_k + top * a.out_h
            depthwise_strips_3(a.sw, a.ow, &strip)


cdef void depthwise_in_planes(
    const depthwise_forward_args *a, char *scratch, int64_t begin, int64_t end
) noexcept nogil:
    cdef depthwise_plane plane
    cdef real *zeros = <real *>aligned(scratch, scratch)
    cdef int64_t blocks = ceil_div(a.oh, a.rows), item, group, image, channel, top
    depthwise_zero_line(zeros, a.iw)
    plane.row, plane.zeros = a.x_h, zeros - a.pw
    plane.first_column, plane.end_column = a.pw, a.pw + a.iw
    for item in range(begin, end):
        top = item % blocks * a.rows
        group = item // blocks % a.g
        image = item // blocks // a.g
        plane.x = <const real *>a.x + image * a.x_n + group * a.x_c + (top * a.sh - a.ph) * a.x_h - a.pw
        plane.first = a.ph - top * a.sh
        plane.end = plane.first + a.ih
        for channel in range(group * a.k, (group + 1) * a.k):
            depthwise_plane_3x3(
                a.sw, &plane, <const real *>a.packed + channel * 9,
                (<const real *>a.bias)[channel] if a.bias else 0,
                <real *>a.out + image * a.out_n + channel * a.out_k + top * a.out_h, a.out_h, a.ow,
                min(a.rows, a.oh - top),
            )
