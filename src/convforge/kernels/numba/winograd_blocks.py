"""Winograd F(m, r) in two dimensions, with tiles or channels in the lanes.

Tiles are numbered through image, phase of a dilation, tile row and tile column; a block is a run of tiles, of some
vectors of lanes. From one tile to the next are step = stride * m inputs, and halo = r - stride of a tile's alpha inputs
belong to the next one too. With xi = 0 .. alpha^2 - 1 and tiles in the lanes:

    v[panel][xi][c][tiles]  transformed input
    u[k block][xi][part of c][k / group][c][group]
                            transformed weight, in the order of its use; parts of at most DEPTH channels
    p[panel][k][xi][tiles]  products, of one block of output channels

A block is split into panels of at most ``vectors`` vectors, the register tile's width. The columns of its tile rows
abut in *virtual rows*: tile t of the block has its first columns at t * step, and its last ones, the halo, where the
next tile of the same tile row begins; a dilation is none of theirs. With channels in the lanes, of the same u:

    v[xi][tile][c]          c rounded up to whole vectors, and one more
    p[xi][tile][k]          k rounded up to whole vectors

``lanes`` idle elements after each xi of v and u, and of this p, spread them over the sets of the caches.
The functions that are unrolled over a tile are generated source; their arithmetic comes from
:mod:`convforge.kernels.codegen`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.algorithms.winograd.transforms import transforms
from convforge.kernels import abi, codegen
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Factory, Inner, Target

#: Products summed in one chain: half the error of one long chain of 512, and a panel that stays in the L1 cache.
DEPTH = 128


def product_by(target: Target, filtering: Filtering, which: str) -> Inner:
    """A product by one of the matrices of F(m, r): vectors in, a tuple of vectors out."""
    source = codegen.python_source(which, codegen.straight(codegen.products(transforms(*filtering))[which]))
    return target.jit(define(which, [source], v=target.v))


def panel_start(target: Target) -> Inner:
    """Make ``panel_start(vectors, panels, panel)``: the first vector of a panel."""
    return target.jit(lambda vectors, panels, panel: vectors * panel // panels)


def pitches(target: Target) -> tuple[Inner, Inner]:
    """Make ``input_pitch(c)`` and ``product_pitch(k)``: elements from tile to tile where channels are in the lanes.

    That of the input is not a power of two, whose lines compete for few sets of the cache.
    """
    lanes = target.lanes
    return (
        target.jit(lambda c: ((c + lanes - 1) // lanes + 1) * lanes),
        target.jit(lambda k: (k + lanes - 1) // lanes * lanes),
    )


class Blocks:
    """What the kernels know of blocks, for one F(m, r); ``f`` are the fields of the kernel's argument list."""

    def __init__(self, target: Target, filtering: Filtering, kernel: str) -> None:
        f: Any = abi.fields(f"winograd_{filtering.name}_{kernel}")
        m, step, area = filtering.m, filtering.step, filtering.alpha**2
        lanes, per_panel, itemsize = target.lanes, target.vectors, target.v.itemsize
        dilated = "dh" in abi.SIGNATURES[f"winograd_{filtering.name}_{kernel}"]

        rest = 1 + -(-filtering.halo // lanes)

        @target.jit
        def phases(args):
            """Of an image with a dilation, down and across."""
            return (args[f.dh], args[f.dw]) if dilated else (1, 1)

        @target.jit
        def size(args):
            """Rows of tiles, and tiles in a row, of an image or of one phase of a dilated one."""
            dh, dw = phases(args)
            return ((args[f.oh] + dh - 1) // dh + m - 1) // m, ((args[f.ow] + dw - 1) // dw + m - 1) // m

        @target.jit
        def block(args, number):
            """(first tile, tiles, vectors, panels) of a block."""
            (dh, dw), (th, tw) = phases(args), size(args)
            tiles = args[f.n] * dh * dw * th * tw
            vectors = (tiles + lanes - 1) // lanes
            begin, end = vectors * number // args[f.blocks], vectors * (number + 1) // args[f.blocks]
            return (
                begin * lanes,
                min(tiles, end * lanes) - begin * lanes,
                end - begin,
                (end - begin + per_panel - 1) // per_panel,
            )

        @target.jit
        def place(args, tile):
            """(image or phase, row, column) of a tile."""
            th, tw = size(args)
            return tile // (th * tw), tile // tw % th, tile % tw

        @target.jit
        def pitch(vectors):
            """Length of a virtual row: the last store may reach beyond the last tile."""
            return (vectors * step + rest) * lanes

        self.f, self.block, self.size, self.place = f, block, size, place
        self.panel_start, self.pitch = panel_start(target), pitch
        if kernel not in ("forward", "output"):
            return

        @target.jit
        def weight_offset(args, g, first_k):
            """Bytes before u of a block of output channels."""
            k_block = args[f.k_block]
            number = g * ((args[f.k] + k_block - 1) // k_block) + first_k // k_block
            return number * area * (k_block * args[f.c] + lanes) * itemsize

        self.weight_offset = weight_offset


def factories(
    make: Callable[[Filtering, Target], Callable[..., None]], stage: str, family: Sequence[Filtering] = abi.WINOGRAD
) -> dict[str, Factory]:
    """The factory functions of one kind of kernel, by name, for each F(m, r) of ``family``."""

    def factory(filtering: Filtering) -> Factory:
        def kernel(target: Target) -> Callable[..., None]:
            return make(filtering, target)

        kernel.__name__ = f"winograd_{filtering.name}_{stage}"
        return kernel

    made = [factory(filtering) for filtering in family]
    return {each.__name__: each for each in made}
