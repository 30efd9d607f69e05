# Depthwise convolution of small maps, with channels in the lanes: neither borders nor strides nor widths that fill no
# vector cost anything then, but each plane is transposed twice.

cdef extern from "depthwise_pixels.h" nogil:
    enum: DEPTHWISE_PIXELS  # of a tile at most
    ctypedef struct depthwise_pixel_taps:
        int64_t kh, kw, step, row, column, pitch
    void depthwise_sum_pixels(
        int64_t pixels, const depthwise_pixel_taps *taps, const real *x, const real *weight, const real *bias, real *to
    )


cdef void depthwise_channels(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil:
    cdef const depthwise_channels_args *a = <const depthwise_channels_args *>args
    cdef int64_t vectors = ceil_div(a.g, LANES), panels = ceil_div(vectors, VECTORS)
    cdef int64_t height = (a.oh - 1) * a.sh + (a.kh - 1) * a.dh + 1, width = (a.ow - 1) * a.sw + (a.kw - 1) * a.dw + 1
    # columns of the copy, which begins ph and pw before x, that are columns of x
    cdef int64_t left = max(a.pw, <int64_t>0), columns = min(width, a.iw + a.pw) - left
    cdef int64_t count = min(columns, <int64_t>LANES), tiles = ceil_div(a.ow, DEPTHWISE_PIXELS)
    # tiles in equal shares: the first ones have a pixel more
    cdef int64_t fewest = a.ow // max(tiles, <int64_t>1), longer = a.ow - fewest * tiles
    cdef int64_t item, image, panel, first, last, vector, channel, channels, line, row, tile, pixel, pixels, i
    cdef bint flat = a.out_h == a.ow or a.oh == 1
    cdef const real *planes[LANES]
    cdef real *copy = <real *>scratch  # [height][width][LANES], then sums[oh][ow][LANES]
    cdef real *sums = copy + height * width * LANES
    cdef const real *weight
    cdef const real *x
    cdef real *out
    cdef real bias[LANES]
    cdef depthwise_pixel_taps taps
    taps.kh, taps.kw, taps.step, taps.row, taps.column = a.kh, a.kw, a.sw, a.dh * width, a.dw
    for i in range(height * width):
        vec_store(copy + i * LANES, vec_zero())
    for item in range(begin, end):
        image = item // panels
        panel = item % panels
        first = vectors * panel // panels
        last = vectors * (panel + 1) // panels
        for vector in range(first, last):
            channel = vector * LANES
            channels = min(a.g - channel, <int64_t>LANES)
            for i in range(LANES):
                planes[i] = <const real *>a.x + image * a.x_n + (channel + min(i, channels - 1)) * a.x_c
            for line in range(max(a.ph, <int64_t>0), min(height, a.ih + a.ph)):
                transpose_in(
                    planes, (line - a.ph) * a.x_h + left - a.pw, columns, count, copy + (line * width + left) * LANES
                )
            weight = <const real *>a.packed + (first * a.kh * a.kw + vector - first) * LANES
            taps.pitch = last - first
            vec_store(bias, vec_load_partial(<const real *>a.bias + channel, channels) if a.bias else vec_zero())
            for row in range(a.oh):
                pixel = 0
                for tile in range(tiles):
                    pixels = fewest + 1 if tile < longer else fewest
                    x = copy + (row * a.sh * width + pixel * a.sw) * LANES
                    out = sums + (row * a.ow + pixel) * LANES
                    depthwise_sum_pixels(pixels, &taps, x, weight, bias, out)
                    pixel += pixels
            out = <real *>a.out + image * a.out_n + channel * a.out_k
            if flat:
                transpose_out(sums, a.oh * a.ow, channels, out, a.out_k)
            else:
                for row in range(a.oh):
                    transpose_out(sums + row * a.ow * LANES, a.ow, channels, out + row * a.out_h, a.out_k)
