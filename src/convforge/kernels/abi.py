"""The kernels' arguments: one list for every backend.

Every kernel is a C function ``void kernel(const int64_t *args, char *scratch, int64_t begin, int64_t end)``.
``args`` holds, in this order, the 64-bit fields named here: addresses in bytes, strides and sizes in elements.
It works on the items ``begin <= i < end`` of its stage, may use ``scratch`` (64-byte aligned, its worker's own), and
cannot raise. The build writes this table as a C header; the Numba kernels index ``args`` by it.
"""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from typing import NamedTuple

INPUT = ("x", "x_n", "x_c", "x_h")  # the last axis has unit stride
OUTPUT = ("out", "out_n", "out_k", "out_h", "out_w")
GRAD_OUTPUT = ("y", "y_n", "y_k", "y_h")  # the last axis has unit stride
WEIGHT = ("w", "w_g", "w_k", "w_c", "w_h", "w_w")
# c and k count the channels of one group; ph and pw pad before and may be negative (a crop)
GEOMETRY = ("n", "g", "c", "k", "ih", "iw", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw")
_IM2COL = (*INPUT, "packed", "unpacked", "bias", *OUTPUT, *GEOMETRY, "depth", "splits")
# u: transformed weight; v: transformed input, a block's every v_step elements; blocks: of tiles; c_block, k_block:
# channels at a time, k_block a multiple of GROUP, the greater of LANES and ROWS
_WINOGRAD = (
    *INPUT, *WEIGHT, "u", "bias", *OUTPUT, "v", "n", "g", "c", "k", "ih", "iw", "oh", "ow", "ph", "pw", "dh", "dw",
    "short_h", "short_w", "blocks", "v_step", "c_block", "k_block",
)  # fmt: skip
# of the gradient by the weight. v, w: transformed x and grad_output of one block; s[g][xi][k][c]: sums of their
# products, with LANES idle elements after each xi
_WINOGRAD_GRAD = (
    *INPUT, *GRAD_OUTPUT, "v", "w", "s", "out", "out_k", "out_c", "out_h", "out_w", "n", "g", "c", "k", "ih", "iw",
    "oh", "ow", "ph", "pw", "blocks", "block", "channels",
)  # fmt: skip
# int64, flat within a plane; the last axis has unit stride
INDICES = ("indices", "indices_n", "indices_c", "indices_h")
# rows and columns: of a block of outputs; width: elements of a row of scratch, a multiple of LANES; batch: rows of a
# block that are joined vertically before any is joined horizontally. A kernel takes 2 + 2 * batch rows of scratch
POOL = (
    "c", "ih", "iw", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw", "rows", "columns", "width", "batch",
)  # fmt: skip
# pixels from first to end count in a divisor; a divisor that is not 0 is every window's
DIVISOR = ("h_first", "h_end", "w_first", "w_end", "divisor")
DEPTHWISE = (
    *INPUT, "packed", "packed2", "bias", *OUTPUT, *GEOMETRY, "kw2", "pw2", "ow2", "factors", "rows", "columns",
)  # fmt: skip
DEPTHWISE_GRAD_WEIGHT = (*INPUT, *GRAD_OUTPUT, "partial", *GEOMETRY, "rows", "columns", "parts")


class Filtering(NamedTuple):
    """Winograd's minimal filtering F(m x m, r x r), with a stride."""

    m: int
    r: int
    stride: int

    @property
    def name(self) -> str:
        """What the kernels' names say: m, and what is not a 3x3 kernel with a stride of 1."""
        kernel = "" if self.r == 3 else f"_{self.r}x{self.r}"
        return f"f{self.m}{kernel}" + (f"_s{self.stride}" if self.stride > 1 else "")

    @property
    def step(self) -> int:
        """Inputs from one tile to the next, per axis."""
        return self.stride * self.m

    @property
    def halo(self) -> int:
        """Inputs of a tile that belong to the next one too, per axis; the kernels want no more than ``step``."""
        return self.r - self.stride

    @property
    def alpha(self) -> int:
        """Inputs of a tile, and multiplications, per axis."""
        return self.step + self.halo

    @property
    def short(self) -> int:
        """The m of the shorter tiles that may end a row or a column, of the same weights; 0 if there are none."""
        return _SHORT.get(self, 0)

    @property
    def has_weight_gradient(self) -> bool:
        """Whether there are kernels for the gradient by the weight, too: of the sizes that serve most maps."""
        return (self.r, self.stride) == (3, 1) and self.m != 3


_SHORT: dict[tuple[int, ...], int] = {(6, 3, 1): 4, (4, 3, 1): 3}
_SIZES = ((2, 3, 1), (3, 3, 1), (4, 3, 1), (6, 3, 1), (4, 5, 1), (2, 3, 2), (4, 3, 2))
#: The kernels of a correlation by each, beside that of its weights.
WINOGRAD_STAGES = ("forward", "input", "output", "channels_forward", "channels_input", "channels_output")
#: Those that have kernels.
WINOGRAD = tuple(Filtering(*each) for each in _SIZES)

SIGNATURES: dict[str, tuple[str, ...]] = {
    # weight view -> packed[g][ceil(k / ROWS)][c * kh * kw][ROWS], rows past k zero; items: g * ceil(k / ROWS)
    "pack_weight": (*WEIGHT, "packed", "g", "k", "c", "kh", "kw"),
    # weight view -> packed[g][panels][c * kh * kw][panel's channels]: ceil(k / LANES) vectors of channels in equal
    # panels, each of 1 to VECTORS, channels past k zero; totals[g][panels], unless it is 0: sums of 0 * weight, which
    # are not 0 where a weight is not finite; items: g * panels
    "pack_columns": (*WEIGHT, "packed", "totals", "g", "k", "c", "kh", "kw", "panels"),
    # out[i] = partial[0][i] + ... + partial[parts - 1][i], pairwise; items: ceil(count / 1024) blocks
    "sum_parts": ("partial", "out", "parts", "count"),
    # out = 0 through its strides; items: n * channels
    "fill_zero": (*OUTPUT, "n", "channels", "oh", "ow"),
    # phases[channels][n][dh][dw][rows][columns], each with its padding: x at the rows dh * i + a phase - ph, zero
    # outside; items: n * channels
    "split_phases": (*INPUT, "phases", "n", "ih", "iw", "ph", "pw", "dh", "dw", "rows", "columns"),
    # likewise without padding, and back: what is past the edge of out is left out; items: n * channels
    "join_phases": ("phases", *OUTPUT, "n", "oh", "ow", "dh", "dw", "rows", "columns"),
    # sums[g][k][kh * kw] = sum over c of 0 * weight: not 0 where a weight is not finite; items: g * k
    "zero_products": (*WEIGHT, "sums", "g", "k", "c", "kh", "kw"),
    # out += these for the taps that an output reads outside of x; items: n * g * k
    "add_padding": ("sums", *OUTPUT, *GEOMETRY),
    # panels of LANES * VECTORS pixels cover all pixels, or each row of them by itself (by_rows); an item takes one of
    # cuts of such a line and one of stacks of the lines. items: n * g * splits of the k rows * those; depth: rows of
    # lowered input at a time; unpacked: weights are not from pack_weight but [g][k][c * kh * kw]; accumulate: the
    # sums are added to out
    "im2col_forward": (*_IM2COL, "by_rows", "cuts", "stacks", "accumulate"),
    # the same with output channels in the lanes, of weights from pack_columns, and pixels in the tile's rows: tiles end
    # with the rows of pixels (by_rows) or not. items: g * splits of the panels of channels * n * shares of the pixels;
    # channels: lowered at a time. In place, tiles read the input or a padded copy of a panel's channels, or of all;
    # totals: 0, or from pack_columns where depths are whole channels and tiles end with the rows: these then leave out
    # kernel rows that see padding alone, with panels whose total is 0. apart: in place with a stride along the rows
    **dict.fromkeys(
        ("im2col_pixels", "im2col_pixels_in_place", "im2col_pixels_apart"),
        (*_IM2COL, "shares", "by_rows", "channels", "panels", "totals"),
    ),
    # the same as dot products, for one output pixel an image: w is [g][k][c * kh * kw]; items: g * splits of the k
    # channels * ceil(n / 4)
    "im2col_dots": (*INPUT, "w", "bias", *OUTPUT, *GEOMETRY, "splits"),
    # partial[parts][g][k][c * kh * kw]; items: parts * g * ceil(c * kh * kw / columns); panel: pixels lowered at a time
    "im2col_grad_weight": (*INPUT, *GRAD_OUTPUT, "partial", *GEOMETRY, "parts", "columns", "panel"),
    # the register tiles on their own, done once an item. c[rows][columns] = bias per row, 0 without, or c itself to
    # accumulate; plus a[depth][ROWS], or a[rows][lda] transposed where lda is not 0, times b[depth][ldb], which is read
    # in whole vectors; columns <= LANES * VECTORS
    "gemm_tile": ("a", "lda", "b", "ldb", "c", "ldc", "bias", "depth", "rows", "columns", "accumulate"),
    # c[rows][columns] += a[rows][depth] times b[columns][depth] transposed, any numbers of rows and columns
    "dot_tile": ("a", "lda", "b", "ldb", "c", "ldc", "depth", "rows", "columns"),
    # depth rounds of ROWS * VECTORS fused multiply-adds in registers, s = s * out[0] + out[1]; out: as many vectors
    "peak": ("out", "depth"),
    # items: n * g * splits of the k rows * ceil(oh / rows) * ceil(ow / columns); columns: a multiple of LANES, or all
    "direct_forward": (*INPUT, "packed", "bias", *OUTPUT, *GEOMETRY, "splits", "rows", "columns"),
    # partial[parts][g][k][c * kh * kw]; items: parts * g * ceil(k / ROWS) * ceil(c * kh * kw / VECTORS)
    "direct_grad_weight": (*INPUT, *GRAD_OUTPUT, "partial", *GEOMETRY, "parts"),
    # weight view -> packed[g][k], each [c][kw][kh] and, with factors (of c = 1), a flag and u[kh], v[kw]: it is their
    # outer product if the flag is not 0; items: g
    "pack_depthwise": (*WEIGHT, "packed", "g", "k", "c", "kh", "kw", "factors"),
    # c or k is 1; items: n * g * ceil(oh / rows); columns: output columns at a time; factors: whether the weights have
    # some, of a c, strides and dilations of 1. With step the rows' stride over its common divisor with their dilation,
    # 3x3 is for steps and column strides of 1, strided_3x3 for those of 2, both without a dilation of the columns;
    # forward is for steps of 1, strided for others, pair for outputs that are not side by side and for two convolutions
    # of the same input with other columns of taps, whose outputs alternate along the rows; ow2 is 0 but for those
    **dict.fromkeys(
        ("depthwise_3x3", "depthwise_strided_3x3", "depthwise_forward", "depthwise_strided", "depthwise_pair"),
        DEPTHWISE,
    ),
    # c and k are 1; channels in the lanes, of weights from pack_columns; items: n * panels of channels. 3, 5 and 7 are
    # for as many taps in a row, neighbours, and column strides of 1 and 2
    **dict.fromkeys(
        ("depthwise_channels", "depthwise_channels_3", "depthwise_channels_5", "depthwise_channels_7"),
        (*INPUT, "packed", "bias", *OUTPUT, *GEOMETRY),
    ),
    # of a block of tiles, and of k output channels, for the other kernels of Winograd: p from u and v; area: alpha^2;
    # vectors: of the block. items: area
    "winograd_products": (
        "u",
        "v",
        "p",
        "c",
        "k",
        "area",
        "tiles",
        "vectors",
        "by_channels",
        "kept",
        "before",
        "middle",
        "after",
    ),
    # c is 1; partial[parts][g][k][kh * kw]; items: parts * g, a part some of the n * ceil(oh / rows) blocks of rows
    **dict.fromkeys(("depthwise_grad_weight", "depthwise_strided_grad_weight"), DEPTHWISE_GRAD_WEIGHT),
    # items: n * c * ceil(oh / rows) * ceil(ow / columns) blocks, columns innermost; without an address no indices are
    # written, else those of a window must span less than what the dtype counts exactly
    "max_pool_forward": (*INPUT, *OUTPUT[:4], *INDICES, *POOL),
    # out is filled with 0, then y added at the indices, in their order; items: n * c
    "max_pool_backward": (*GRAD_OUTPUT, *INDICES, *OUTPUT[:4], "c", "ih", "iw", "oh", "ow"),
    # items as for max_pool_forward; dh and dw are 1
    "avg_pool_forward": (*INPUT, *OUTPUT[:4], *POOL, *DIVISOR),
    # items: n * c * ceil(ih / rows) * ceil(iw / columns) blocks of the input, columns innermost
    "avg_pool_backward": (*GRAD_OUTPUT, *OUTPUT[:4], *POOL, *DIVISOR),
}
for _f in WINOGRAD:
    # weight view -> u; items: g * ceil(k / GROUP)
    SIGNATURES[f"winograd_{_f.name}_weight"] = (*WEIGHT, "u", "g", "k", "c", "k_block")
    # forward's items: g * blocks; the same in two stages, input's: g * blocks * ceil(c / c_block), and output's:
    # g * ceil(k / k_block) * blocks. channels: are in the lanes, not tiles; only where GROUP is LANES and these
    # 32 bytes or more, dilated images in one block
    SIGNATURES |= {f"winograd_{_f.name}_{_stage}": _WINOGRAD for _stage in WINOGRAD_STAGES}
    if not _f.has_weight_gradient:
        continue
    # F(3, m), block after block. items: g * ceil((c + k) / channels), channels of x first, then of grad_output
    SIGNATURES[f"winograd_{_f.name}_grad_transform"] = _WINOGRAD_GRAD
    # items: g * alpha^2; block 0 sets s, the others add to it
    SIGNATURES[f"winograd_{_f.name}_grad_multiply"] = _WINOGRAD_GRAD
    # items: g * k
    SIGNATURES[f"winograd_{_f.name}_grad_weight"] = _WINOGRAD_GRAD


def fingerprint() -> str:
    """A hash of the argument lists: compiled modules carry it, so that stale ones are found out and not called."""
    from hashlib import sha256  # 3 ms, which importing the package need not take

    return sha256(repr(SIGNATURES).encode()).hexdigest()[:16]


@cache
def fields(kernel: str) -> tuple[int, ...]:
    """A named tuple that maps each of ``kernel``'s fields to its index."""
    names = SIGNATURES[kernel]
    return namedtuple(f"{kernel}_fields", names)(*range(len(names)))
