"""Outputs of a register tile whose pixels do not lie in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convforge.kernels.numba.translate import Inner, Target


def scattering(target: Target) -> Inner:
    """Make ``scatter(sums, rows, out, out_k, out_h, out_w, ow, pixel, count, accumulate)``.

    For pixels not in one piece: out[row, pixel + i] = sums[row][i], plus itself to accumulate.
    """
    v = target.v
    width = target.lanes * target.vectors

    @target.call
    def scatter_run(sums, count, to, accumulate):
        i = 0
        while i < count:
            total = v.load_partial(v.advance(sums, i), count - i)
            if accumulate:
                total = total + v.load_partial(v.advance(to, i), count - i)
            v.store_partial(v.advance(to, i), total, count - i)
            i += v.lanes

    @target.call
    def scatter(sums, rows, out, out_k, out_h, out_w, ow, pixel, count, accumulate):
        h = pixel // ow
        w = pixel - h * ow
        done = 0
        while done < count:
            run = min(ow - w, count - done)
            for row in range(rows):
                read = v.advance(sums, row * width + done)
                to = v.advance(out, row * out_k + h * out_h + w * out_w)
                if out_w == 1:
                    scatter_run(read, run, to, accumulate)
                else:
                    for i in range(run):
                        at = i * out_w
                        to[at] = read[i] + to[at] if accumulate else read[i]
            done += run
            w = 0
            h += 1

    return scatter
