# Where a block of a plane lies, which is what a pooling kernel's item is.

cdef struct pool_block:
    int64_t image, channel, row, column


cdef inline pool_block pool_block_of(
    int64_t item, int64_t channels, int64_t height, int64_t width, int64_t rows, int64_t columns
) noexcept nogil:
    # where the item lies, a plane of height x width being cut into blocks of rows x columns
    cdef pool_block b
    cdef int64_t across = ceil_div(width, columns), down = ceil_div(height, rows)
    b.column = item % across * columns
    b.row = item // across % down * rows
    b.channel = item // across // down % channels
    b.image = item // across // down // channels
    return b


cdef inline void pool_advance(
    pool_block *b, int64_t channels, int64_t height, int64_t width, int64_t rows, int64_t columns
) noexcept nogil:
    # to the next item; small planes would else spend their time on divisions
    b.column += columns
    if b.column >= width:
        b.column = 0
        b.row += rows
        if b.row >= height:
            b.row = 0
            b.channel += 1
            if b.channel == channels:
                b.channel = 0
                b.image += 1
