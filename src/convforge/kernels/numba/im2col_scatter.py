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
    def scatter(sums, rows, out, out_k, out_h, out_w, ow, pixel, count, accumulate):
        first_h = pixel // ow
        first_w = pixel - first_h * ow
        for row in range(rows):
            to = v.advance(out, row * out_k)
            h, w = first_h, first_w
            for i in range(count):
                at = h * out_h + w * out_w
                to[at] = sums[row * width + i] + to[at] if accumulate else sums[row * width + i]
                w += 1
                if w == ow:
                    w = 0
                    h += 1

    return scatter
