# What a kernel will read next, fetched while it computes: some of the tiles on the way there, evenly spread, fetch one
# cache line of every channel each. In bursts between the tiles most of it is lost: a CPU waits for few lines at a time.

# Lines of the rows of a channel, and the tiles that share them out.
ctypedef struct upcoming:
    const real *first
    int64_t row_step, lines, count, fetched, tiles, due


cdef inline upcoming fetched_by(
    int64_t tiles, const real *first, int64_t rows, int64_t row_step, int64_t columns
) noexcept nogil:
    """What so many tiles fetch: rows of so many elements."""
    cdef upcoming u
    u.first = first
    u.row_step = row_step
    # rows begin anywhere in a line
    u.lines = columns * <int64_t>sizeof(real) // 64 + 1
    u.count = rows * u.lines
    u.fetched = 0
    u.tiles = tiles
    u.due = 0
    return u


cdef inline const real *next_line(upcoming *u) noexcept nogil:
    """What the next tile fetches of the first channel, or NULL."""
    cdef int64_t row
    u.due += u.count
    if u.due < u.tiles:
        return NULL
    u.due -= u.tiles
    row = u.fetched // u.lines
    u.fetched += 1
    return u.first + row * u.row_step + (u.fetched - 1 - row * u.lines) * (64 // <int64_t>sizeof(real))
