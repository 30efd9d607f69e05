"""The kernels in Numba: ordinary Python loops over vectors, compiled to the same C functions as the Cython ones.

A module holds a factory function for each of its kernels, named like the kernel; :mod:`.simd` is their vocabulary.
Importing this package imports neither Numba nor llvmlite.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from convforge.kernels.abi import WINOGRAD, WINOGRAD_STAGES

#: The module of each kernel's factory function.
MODULES = {
    "peak": "gemm",
    "gemm_tile": "gemm",
    "dot_tile": "gemm",
    "pack_weight": "weights",
    "pack_columns": "weights",
    "sum_parts": "weights",
    "fill_zero": "weights",
    "split_phases": "phases",
    "join_phases": "phases",
    "im2col_forward": "im2col",
    "im2col_pixels": "im2col_pixels",
    "im2col_pixels_in_place": "im2col_pixels",
    "im2col_pixels_apart": "im2col_pixels",
    "im2col_dots": "im2col_dots",
    "im2col_grad_weight": "im2col_grad",
    "zero_products": "im2col_padding",
    "add_padding": "im2col_padding",
    "direct_forward": "direct",
    "direct_grad_weight": "direct_grad",
    "pack_depthwise": "depthwise_pack",
    "depthwise_3x3": "depthwise",
    "depthwise_strided_3x3": "depthwise",
    "depthwise_forward": "depthwise",
    "depthwise_strided": "depthwise",
    "depthwise_pair": "depthwise",
    "depthwise_channels": "depthwise_channels",
    "depthwise_channels_3": "depthwise_channels",
    "depthwise_channels_5": "depthwise_channels",
    "depthwise_channels_7": "depthwise_channels",
    "depthwise_grad_weight": "depthwise_grad",
    "depthwise_strided_grad_weight": "depthwise_grad",
    "max_pool_forward": "pooling_max",
    "max_pool_backward": "pooling_max",
    "avg_pool_forward": "pooling_avg",
    "avg_pool_backward": "pooling_avg",
    "winograd_products": "winograd_products",
    **{
        f"winograd_{filtering.name}_{stage}": module
        for module, stages in (
            ("winograd", WINOGRAD_STAGES),
            ("winograd_weight", ("weight",)),
            ("winograd_grad", ("grad_transform", "grad_multiply", "grad_weight")),
        )
        for filtering in WINOGRAD
        for stage in stages
        if module != "winograd_grad" or filtering.has_weight_gradient
    },
}

#: Kernels that others call.
CALLED = {
    f"winograd_{filtering.name}_{lanes}{stage}": tuple(each.format(filtering.name, lanes) for each in called)
    for filtering in WINOGRAD
    for lanes in ("", "channels_")
    for stage, called in (
        ("forward", ("winograd_{}_{}input", "winograd_{}_{}output")),
        ("output", ("winograd_products", "winograd_{}_weight")),
    )
}


def available() -> str | None:
    """None, or the reason why this backend is missing."""
    absent = [name for name in ("numba", "llvmlite") if find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set"
    return None


def lookup(kernel: str, dtype: str) -> int:
    """Address of the C function of ``kernel`` for ``dtype``; the first use in a process loads or compiles it.

    Raises
    ------
    ImportError
        If Numba is not installed; see :func:`available`.
    KeyError
        If there is no such kernel.
    """
    from convforge.kernels.numba.compile import lookup

    return lookup(kernel, dtype)
