"""One channel of the input under some output pixels, padded with zeros, its columns split by their phase in a stride.

What neighbouring pixels read for one tap then lies in one piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import codegen
from convforge.kernels.numba.generate import define, names, shuffles

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def stripes(target: Target) -> Inner:
    """Make ``fill_stripe(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)``.

    A stripe has ``rows`` rows of ``phases`` pieces of ``pitch`` elements, which are whole vectors; the first is row
    ``top`` of x from column ``left`` on, the next ones are ``row_step`` rows of x apart. After it come LANES zeros.
    """
    v, lanes = target.v, target.lanes

    def make(stride: int) -> Inner:
        width = stride * lanes
        # copying is faster than the CPU's own prefetching, which stops at each page
        ahead = 2048 // v.itemsize

        # copy_group: one vector of each phase; columns outside of lo <= column < hi are 0
        lines = ["def copy_group(row, lo, hi, phases, pitch, to):"]
        for i in range(stride):
            window = f"v.load_window(v.advance(row, {i * lanes}), lo - {i * lanes}, hi - {i * lanes})"
            lines += [f"    d{i} = {window}"]
        lines += [f"    {names('o', stride)} = deinterleave({names('d', stride)})"]
        lines += ["    v.store(to, 0, o0)"]
        lines += ["    if phases > 1:"] if stride > 1 else []
        lines += [f"        v.store(to, {i} * pitch, o{i})" for i in range(1, stride)]
        deinterleave = shuffles(target, codegen.deinterleave(stride, lanes), "deinterleave")
        copy_group = target.jit(define("copy_group", lines, v=v, deinterleave=deinterleave))

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

        return fill_groups

    @target.call
    def fill_singly(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, to):
        for r in range(rows):
            h = top + r * row_step
            for column in range(left, left + phases):
                for i in range(0, pitch, lanes):
                    v.store(to, i, v.zero())
                if 0 <= h < ih:
                    row = v.advance(x, h * x_h)
                    first = max((sw - 1 - column) // sw, 0)
                    last = min((iw - column + sw - 1) // sw, pitch)
                    for i in range(first, last):
                        to[i] = row[column + i * sw]
                to = v.advance(to, pitch)
        v.store(to, 0, v.zero())

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

    @target.call
    def fill_vectors(x, x_h, ih, iw, top, left, rows, row_step, to):
        # stride 1, rows of one vector
        for r in range(rows):
            h = top + r * row_step
            if 0 <= h < ih:
                v.store(to, r * lanes, v.load_window(v.advance(x, h * x_h + left), -left, iw - left))
            else:
                v.store(to, r * lanes, v.zero())
        v.store(to, rows * lanes, v.zero())

    fill1, fill2, fill3, fill4 = make(1), make(2), make(3), make(4)

    @target.jit
    def fill_stripe(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe):
        first, last = max(-left, 0), min(iw - left, pitch)
        if sw == 1 and pitch <= 4 * lanes and last - first >= lanes:
            fill_narrow(x, x_h, ih, first, last, top, left, rows, row_step, pitch, stripe)
        elif sw == 1 and pitch == lanes:
            fill_vectors(x, x_h, ih, iw, top, left, rows, row_step, stripe)
        elif sw == 1:
            fill1(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 2:
            fill2(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 3:
            fill3(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        elif sw == 4:
            fill4(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)
        else:
            fill_singly(sw, x, x_h, ih, iw, top, left, rows, row_step, phases, pitch, stripe)

    return fill_stripe
