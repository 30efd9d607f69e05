"""Convolution and pooling kernels for NumPy arrays: direct, im2col, Winograd and depthwise, behind one API.

>>> import numpy as np, convforge as cf
>>> y = cf.conv2d(np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32), padding=1)
"""

from typing import TYPE_CHECKING

from convforge.config import show_config
from convforge.errors import PerformanceWarning, UnsupportedProblem
from convforge.ops.conv import conv2d, conv2d_backward, conv2d_grad_input, conv2d_grad_weight
from convforge.ops.pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from convforge.plan import Plan, plan
from convforge.prepared_weight import PreparedWeight
from convforge.problem import ConvProblem, PoolProblem, parse
from convforge.registry import algorithms
from convforge.runtime.threads import get_num_threads, num_threads, set_num_threads
from convforge.version import __version__

if TYPE_CHECKING:
    from convforge.bench.compare import compare

__all__ = [
    "ConvProblem",
    "PerformanceWarning",
    "Plan",
    "PoolProblem",
    "PreparedWeight",
    "UnsupportedProblem",
    "__version__",
    "algorithms",
    "avg_pool2d",
    "avg_pool2d_backward",
    "compare",
    "conv2d",
    "conv2d_backward",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "get_num_threads",
    "max_pool2d",
    "max_pool2d_backward",
    "num_threads",
    "parse",
    "plan",
    "set_num_threads",
    "show_config",
]


def __getattr__(name: str) -> object:
    if name == "compare":  # the benchmark's machinery is loaded when it is asked for
        from convforge.bench.compare import compare

        return compare
    raise AttributeError(f"module 'convforge' has no attribute {name!r}")
