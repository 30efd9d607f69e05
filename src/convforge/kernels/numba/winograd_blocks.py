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

There, columns and rows may end with short_h and short_w tiles of a shorter F(m, r) on some of the points, of the same
u: those of its alpha first but for the last, and infinity, the last one of all. Blocks then are whole rows, and their
tiles are numbered by size: low and wide ones, whole ones, high and narrow ones, low and narrow ones; so those that have
products of an xi are neighbours.

``lanes`` idle elements after each xi of v and u, and of this p, spread them over the sets of the caches.
The functions that are unrolled over a tile are generated source; their arithmetic comes from
:mod:`convforge.kernels.codegen`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convforge.algorithms.winograd.transforms import shortened, transforms
from convforge.kernels import abi, codegen
from convforge.kernels.numba.generate import define

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convforge.kernels.abi import Filtering
    from convforge.kernels.numba.translate import Factory, Inner, Target

#: Products summed in one chain: half the error of one long chain of 512, and a panel that stays in the L1 cache.
DEPTH = 128


def product_by(target: Target, filtering: Filtering, which: str, *, short: bool = False) -> Inner:
    """A product by one of the matrices of F(m, r), or of its shorter tile: vectors in, a tuple of vectors out."""
    matrices = transforms(*filtering)
    if short:
        matrices = shortened(filtering.short, matrices)
    source = codegen.python_source(which, codegen.straight(codegen.products(matrices)[which]))
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
        short_m = filtering.short

        @target.jit
        def phases(args):
            """Of an image with a dilation, down and across."""
            return (args[f.dh], args[f.dw]) if dilated else (1, 1)

        @target.jit
        def shorter(args):
            """Shorter tiles that end a column and a row."""
            return (args[f.short_h], args[f.short_w]) if dilated else (0, 0)

        @target.jit
        def size(args):
            """Rows of tiles, and tiles in a row, of an image or of one phase of a dilated one."""
            (dh, dw), (few_h, few_w) = phases(args), shorter(args)
            high = (args[f.oh] + dh - 1) // dh - few_h * short_m
            wide = (args[f.ow] + dw - 1) // dw - few_w * short_m
            return few_h + (high + m - 1) // m, few_w + (wide + m - 1) // m

        @target.jit
        def block(args, number):
            """(first tile, tiles, vectors, panels) of a block."""
            (dh, dw), (th, tw) = phases(args), size(args)
            tiles = args[f.n] * dh * dw * th * tw
            vectors = (tiles + lanes - 1) // lanes
            begin, end = vectors * number // args[f.blocks], vectors * (number + 1) // args[f.blocks]
            first, last = begin * lanes, min(tiles, end * lanes)
            if shorter(args) != (0, 0):  # whole rows
                first = args[f.n] * th * number // args[f.blocks] * tw
                last = args[f.n] * th * (number + 1) // args[f.blocks] * tw
            return (
                first,
                last - first,
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

        @target.jit
        def before(tile, whole):
            """Outputs before a row or column of tiles, of which those from ``whole`` on are short."""
            return min(tile, whole) * m + max(tile - whole, 0) * short_m

        @target.jit
        def whole_rows(args, row):
            """Rows of whole tiles before a row, through all images."""
            (th, _), (few_h, _) = size(args), shorter(args)
            return row // th * (th - few_h) + min(row % th, th - few_h)

        @target.jit
        def rows_of(args, first, tiles, row):
            """Rows of whole and of shorter tiles of a block that is whole rows, and how many are before a row."""
            _, tw = size(args)
            start, rows = first // tw, tiles // tw
            skipped = whole_rows(args, start)
            whole, before_row = whole_rows(args, start + rows) - skipped, whole_rows(args, row) - skipped
            return whole, rows - whole, before_row, row - start - before_row

        @target.jit
        def number_of(args, first, tiles, row, column):
            """The place of a tile among those of a block of whole rows: those of each size are together."""
            (th, tw), (few_h, few_w) = size(args), shorter(args)
            whole, low, whole_before, low_before = rows_of(args, first, tiles, row)
            is_low, whole_w = row % th >= th - few_h, tw - few_w
            if column < whole_w:
                return (low_before if is_low else low + whole_before) * whole_w + column
            rest = (whole + low_before if is_low else whole_before) * few_w
            return (low + whole) * whole_w + rest + column - whole_w

        self.f, self.block, self.size, self.place = f, block, size, place
        self.shorter, self.before, self.rows_of, self.number_of = shorter, before, rows_of, number_of
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
