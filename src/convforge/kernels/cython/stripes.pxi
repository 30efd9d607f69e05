# One channel of the input under some output pixels, padded with zeros, its columns split by their phase within a
# stride: what neighbouring pixels read for one tap lies in one piece. It has `rows` rows of `phases` pieces of `pitch`
# elements, which are whole vectors; the first is row `top` of x from column `left` on, the next ones are `row_step`
# rows of x apart. (Stores that cross cache lines take twice as long, loads hardly more: it is as well aligned as it
# can be.)

ctypedef struct stripe:
    int64_t x_h, ih, iw, sw, top, left, rows, row_step, phases, pitch


cdef inline void load_group(int sw, const real *row, bint whole, const vec_mask *masks, vec *v) noexcept nogil:
    """v[sw] = the columns that become a vector of each phase; others than the masks' are 0, unless it is whole."""
    cdef int i
    for i in range(sw):
        v[i] = vec_load(row + i * LANES) if whole else vec_load_masked(row + i * LANES, masks[i])


cdef inline void store_group(int sw, const vec *v, int64_t phases, int64_t pitch, real *to) noexcept nogil:
    cdef vec o[4]
    cdef int i
    vec_deinterleave(sw, v, o)
    vec_store(to, o[0])
    if phases > 1:
        for i in range(1, sw):
            vec_store(to + i * pitch, o[i])


cdef inline void fill_groups(int sw, const stripe *s, const real *x, real *to) noexcept nogil:
    """The rows of a stripe, for a stride of 1 to 4."""
    cdef stripe t = s[0]  # which no store can change
    cdef int64_t r, h, q, at, width = sw * LANES, groups = t.pitch // LANES
    # columns of the stripe from first to last are columns of x: a first and a last group are masked
    cdef int64_t first = min(max(-t.left, <int64_t>0), groups * width)
    cdef int64_t last = max(min(t.iw - t.left, groups * width), first)
    cdef int64_t head = first // width, tail = (last - 1) // width
    cdef vec_mask heads[4]
    cdef vec_mask tails[4]
    cdef vec v[4]
    cdef const real *row
    cdef int i
    for i in range(sw):
        at = head * width + i * LANES
        heads[i] = vec_lanes_between(first - at, last - at)
        at = tail * width + i * LANES
        tails[i] = vec_lanes_between(first - at, last - at)
    for r in range(t.rows):
        h = t.top + r * t.row_step
        row = x + h * t.x_h + t.left
        if h < 0 or h >= t.ih or first == last:
            for q in range(t.phases * groups):
                vec_store(to + q * LANES, vec_zero())
            to += t.phases * t.pitch
            continue
        for i in range(sw):
            v[i] = vec_zero()
        for q in range(head):
            store_group(sw, v, t.phases, t.pitch, to + q * LANES)
        for q in range(tail + 1, groups):
            store_group(sw, v, t.phases, t.pitch, to + q * LANES)
        load_group(sw, row + head * width, False, heads, v)
        store_group(sw, v, t.phases, t.pitch, to + head * LANES)
        for q in range(head + 1, tail):
            # copying is faster than the CPU's own prefetching, which stops at each page
            vec_prefetch(row + q * width + 2048 // sizeof(real))
            load_group(sw, row + q * width, True, NULL, v)
            store_group(sw, v, t.phases, t.pitch, to + q * LANES)
        if tail > head:
            load_group(sw, row + tail * width, False, tails, v)
            store_group(sw, v, t.phases, t.pitch, to + tail * LANES)
        to += t.phases * t.pitch


cdef inline void fill_singly(const stripe *s, const real *x, real *to) noexcept nogil:
    """Likewise for any stride, element by element."""
    cdef stripe t = s[0]  # which no store can change
    cdef int64_t r, h, q, i, left, first, last
    cdef const real *row
    for r in range(t.rows):
        h = t.top + r * t.row_step
        for q in range(t.phases):
            i = 0
            while i < t.pitch:
                vec_store(to + i, vec_zero())
                i += LANES
            if 0 <= h < t.ih:
                left = t.left + q
                first = max(ceil_div(-left, t.sw), <int64_t>0)
                last = min(ceil_div(t.iw - left, t.sw), t.pitch)
                row = x + h * t.x_h
                for i in range(first, last):
                    to[i] = row[left + i * t.sw]
            to += t.pitch


cdef inline void fill_narrow(const stripe *s, const real *x, real *to) noexcept nogil:
    """Likewise for a stride of 1 and at least LANES columns of x, of few vectors: zeros, and whole vectors over them.

    That is faster than masks as long as few of the stores cross cache lines.
    """
    cdef stripe t = s[0]  # which no store can change
    cdef int64_t r, h, q, first = max(-t.left, <int64_t>0), last = min(t.iw - t.left, t.pitch)
    cdef const real *row
    for r in range(t.rows):
        h = t.top + r * t.row_step
        row = x + h * t.x_h + t.left
        q = 0
        while q < t.pitch:
            vec_store(to + q, vec_zero())
            q += LANES
        if 0 <= h < t.ih:
            q = first
            while q + LANES <= last:
                vec_store(to + q, vec_load(row + q))
                q += LANES
            vec_store(to + last - LANES, vec_load(row + last - LANES))
        to += t.pitch


cdef inline void fill_vectors(const stripe *s, const real *x, real *to) noexcept nogil:
    """Likewise for a stride of 1 and rows of one vector."""
    cdef stripe t = s[0]  # which no store can change
    cdef vec_mask columns = vec_lanes_between(-t.left, t.iw - t.left)
    cdef int64_t r, h = t.top
    x += t.top * t.x_h + t.left
    for r in range(t.rows):
        vec_store(to, vec_load_masked(x, columns) if 0 <= h < t.ih else vec_zero())
        h += t.row_step
        x += t.row_step * t.x_h
        to += LANES


cdef void fill_stripe(const stripe *s, const real *x, real *to) noexcept nogil:
    """The stripe of the channel at ``x``, at ``to``; after it come LANES zeros."""
    if s.sw == 1 and s.pitch <= 4 * LANES and min(s.iw - s.left, s.pitch) - max(-s.left, <int64_t>0) >= LANES:
        fill_narrow(s, x, to)
    elif s.sw == 1 and s.pitch == LANES:
        fill_vectors(s, x, to)
    elif s.sw == 1:
        fill_groups(1, s, x, to)
    elif s.sw == 2:
        fill_groups(2, s, x, to)
    elif s.sw == 3:
        fill_groups(3, s, x, to)
    elif s.sw == 4:
        fill_groups(4, s, x, to)
    else:
        fill_singly(s, x, to)
    vec_store(to + s.rows * s.phases * s.pitch, vec_zero())


cdef inline int64_t padded_channel(const stripe *s) noexcept nogil:
    """Elements from one channel's stripe to the next, where several are kept: an odd number of cache lines.

    Those of many channels would else compete for the same sets of the cache.
    """
    cdef int64_t line = 64 // sizeof(real)
    return ((s.rows * s.phases * s.pitch + LANES) // line | 1) * line + line
