# One extension module: every kernel, for the instruction set and dtype that its macros name.
# A kernel never holds the GIL, never raises and reads its arguments from the struct that abi.py describes.
from libc.string cimport memcpy, memset

include "vectors.pxi"

ctypedef void (*kernel_function)(const int64_t *args, char *scratch, int64_t begin, int64_t end) noexcept nogil


cdef size_t address(kernel_function kernel):
    return <size_t>kernel


include "abi.pxi"
include "weights.pxi"
include "phases.pxi"
include "gemm.pxi"
include "channels.pxi"
include "stripes.pxi"
include "taps_source.pxi"
include "im2col_scatter.pxi"
include "im2col.pxi"
include "im2col_pixels.pxi"
include "im2col_dots.pxi"
include "im2col_grad.pxi"
include "im2col_padding.pxi"
include "winograd_blocks.pxi"
include "winograd_input.pxi"
include "winograd_weight.pxi"
include "winograd_output.pxi"
include "winograd_channels.pxi"
include "winograd_products.pxi"
include "winograd.pxi"
include "winograd_grad.pxi"
include "winograd_kernels.pxi"
include "direct.pxi"
include "direct_grad.pxi"
include "depthwise_pack.pxi"
include "depthwise_tiles.pxi"
include "depthwise_masked.pxi"
include "depthwise_in_place.pxi"
include "depthwise_panels.pxi"
include "depthwise_channels.pxi"
include "depthwise_separable.pxi"
include "depthwise.pxi"
include "depthwise_grad.pxi"
include "pooling_blocks.pxi"
include "pooling_vectors.pxi"
include "pooling_windows.pxi"
include "pooling_places.pxi"
include "pooling_max.pxi"
include "pooling_avg.pxi"

FINGERPRINT = ABI_FINGERPRINT.decode()
KERNELS = {
    "pack_weight": address(pack_weight),
    "pack_columns": address(pack_columns),
    "sum_parts": address(sum_parts),
    "fill_zero": address(fill_zero),
    "split_phases": address(split_phases),
    "join_phases": address(join_phases),
    "im2col_forward": address(im2col_forward),
    "im2col_pixels": address(im2col_pixels),
    "im2col_pixels_in_place": address(im2col_pixels_in_place),
    "im2col_pixels_apart": address(im2col_pixels_in_place),
    "im2col_dots": address(im2col_dots),
    "im2col_grad_weight": address(im2col_grad_weight),
    "zero_products": address(zero_products),
    "add_padding": address(add_padding),
    "winograd_products": address(winograd_products),
    "gemm_tile": address(gemm_tile),
    "dot_tile": address(dot_tile),
    "peak": address(peak),
    "direct_forward": address(direct_forward),
    "direct_grad_weight": address(direct_grad_weight),
    "pack_depthwise": address(pack_depthwise),
    "depthwise_3x3": address(depthwise_forward),
    "depthwise_strided_3x3": address(depthwise_forward),
    "depthwise_forward": address(depthwise_forward),
    "depthwise_strided": address(depthwise_forward),
    "depthwise_pair": address(depthwise_forward),
    "depthwise_channels": address(depthwise_channels),
    "depthwise_channels_3": address(depthwise_channels),
    "depthwise_channels_5": address(depthwise_channels),
    "depthwise_channels_7": address(depthwise_channels),
    "depthwise_grad_weight": address(depthwise_grad_weight),
    "depthwise_strided_grad_weight": address(depthwise_grad_weight),
    "max_pool_forward": address(max_pool_forward),
    "max_pool_backward": address(max_pool_backward),
    "avg_pool_forward": address(avg_pool_forward),
    "avg_pool_backward": address(avg_pool_backward),
    **WINOGRAD_KERNELS,
}
