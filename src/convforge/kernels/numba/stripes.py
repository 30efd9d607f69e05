"""One channel of the input under some output pixels, padded with zeros, its columns split by their phase in a stride.

What neighbouring pixels read for one tap then lies in one piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def stripes(target: Target) -> Inner:
    """Make ``fill_stripe(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)``.

    A stripe has ``rows`` rows of ``phases`` pieces of ``pitch`` elements, which are whole vectors; the first is row
    ``top`` of x from column ``left`` on, the next ones are ``row_step`` rows of x apart. After it come LANES zeros.
    """
    v, lanes = target.v, target.lanes

    def make(stride: int) -> Inner:
        # a stride of 0 is any; 4 has all its phases
        width = stride * lanes
        # copying is faster than the CPU's own prefetching, which stops at each page
        ahead = 2048 // v.itemsize

        @target.jit
        def copy_group(row, lo, hi, phases, pitch, to):
            # one vector of each phase; columns outside of lo <= column < hi are 0
            if stride == 1:
                v.store(to, 0, v.load_window(row, lo, hi))
            elif stride == 2:
                a, b = v.load_window(row, lo, hi), v.load_window(v.advance(row, lanes), lo - lanes, hi - lanes)
                v.store(to, 0, v.even(a, b))
                if phases > 1:
                    v.store(to, pitch, v.odd(a, b))
            else:
                a, b = v.load_window(row, lo, hi), v.load_window(v.advance(row, lanes), lo - lanes, hi - lanes)
                c = v.load_window(v.advance(row, 2 * lanes), lo - 2 * lanes, hi - 2 * lanes)
                d = v.load_window(v.advance(row, 3 * lanes), lo - 3 * lanes, hi - 3 * lanes)
                ab, cd = v.even(a, b), v.even(c, d)
                v.store(to, 0, v.even(ab, cd))
                v.store(to, 2 * pitch, v.odd(ab, cd))
                ab, cd = v.odd(a, b), v.odd(c, d)
                v.store(to, pitch, v.even(ab, cd))
                v.store(to, 3 * pitch, v.odd(ab, cd))

        @target.call
        def fill_groups(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, to):
            # columns of the stripe from first to last are columns of x: a first and a last group are masked
            groups = pitch // lanes
            first = min(max(-left, 0), groups * width)
            last = max(min(iw - left, groups * width), first)
            head, tail = first // width, (last - 1) // width
            for r in range(rows):
                h = top + r * row_step
                row = v.advance(x, h * x_h + left)
                if h < 0 or h >= ih or first == last:
                    for q in range(0, phases * pitch, lanes):
                        v.store(to, q, v.zero())
                else:
                    for phase in range(phases):
                        for q in range(head):
                            v.store(to, phase * pitch + q * lanes, v.zero())
                        for q in range(tail + 1, groups):
                            v.store(to, phase * pitch + q * lanes, v.zero())
                    at = head * width
                    copy_group(v.advance(row, at), first - at, last - at, phases, pitch, v.advance(to, head * lanes))
                    for q in range(head + 1, tail):
                        v.prefetch(row, q * width + ahead)
                        copy_group(v.advance(row, q * width), 0, width, phases, pitch, v.advance(to, q * lanes))
                    if tail > head:
                        at = tail * width
                        copy_group(
                            v.advance(row, at), first - at, last - at, phases, pitch, v.advance(to, tail * lanes)
                        )
                to = v.advance(to, phases * pitch)
            v.store(to, 0, v.zero())

        @target.call
        def fill_singly(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, to):
            for r in range(rows):
                h = top + r * row_step
                for phase in range(phases):
                    for t in range(0, pitch, lanes):
                        column = left + t * sw + phase
                        lo, hi = (sw - 1 - column) // sw, (iw - column + sw - 1) // sw
                        if h < 0 or h >= ih:
                            hi = lo
                        v.store(to, 0, v.load_strided(v.advance(x, h * x_h + column), sw, lo, hi))
                        to = v.advance(to, lanes)
            v.store(to, 0, v.zero())

        return fill_groups if stride > 0 else fill_singly

    @target.call
    def fill_narrow(x, x_h, ih, first, last, top, left, rows, row_step, pitch, to):
        # stride 1, at least LANES columns of x: zeros, and whole vectors over them, which is faster than masks as long
        # as few of the stores cross cache lines
        for r in range(rows):
            h = top + r * row_step
            row = v.advance(x, h * x_h + left)
            for q in range(0, pitch, lanes):
                v.store(to, q, v.zero())
            if 0 <= h < ih:
                for q in range(first, last - lanes, lanes):
                    v.store(to, q, v.load(row, q))
                v.store(to, last - lanes, v.load(row, last - lanes))
            to = v.advance(to, pitch)
        v.store(to, 0, v.zero())

    fill1, fill2, fill4, fill_any = make(1), make(2), make(4), make(0)

    @target.jit
    def fill_stripe(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe):
        first, last = max(-left, 0), min(iw - left, pitch)
        if sw == 1 and pitch <= 4 * lanes and last - first >= lanes:
            fill_narrow(x, x_h, ih, first, last, top, left, rows, row_step, pitch, stripe)
        elif sw == 1:
            fill1(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 2:
            fill2(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 4 and phases == 4:
            fill4(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        else:
            fill_any(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)

    return fill_stripe
