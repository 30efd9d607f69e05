"""Max and average pooling, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from convforge.arguments import pool_problem
from convforge.arrays import check_array, check_types, dtype_name
from convforge.ops.batch import add_batch, batched_out, batched_shape, unbatched
from convforge.ops.device import takes_device_arrays
from convforge.plan_cache import functional_plan
from convforge.problem import PoolProblem

Size = int | tuple[int, ...]
Padding = int | tuple[int, ...] | tuple[tuple[int, int], ...]


@takes_device_arrays
def max_pool2d(
    x: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    algorithm: str = "auto",
    backend: str = "auto",
    out: np.ndarray | None = None,
    stream: Any = None,
) -> Any:
    """Maximum over windows of each channel's plane, as ``torch.nn.functional.max_pool2d``.

    Parameters
    ----------
    x
        Images of shape (n, c, ih, iw), or one of shape (c, ih, iw); float32 or float64. n may be 0.
    kernel_size, stride, dilation
        An int, or one per axis; a stride of None is the kernel size.
    padding
        An int, one per axis, or a (before, after) pair per axis; at most half the window. Padding never wins.
    ceil_mode
        Also take a last window that reaches beyond the padded input, if it starts inside the input or its padding
        before it.
    return_indices
        Also return where each maximum was.
    algorithm, backend
        "auto", or names that :func:`convforge.algorithms` lists.
    out
        Array of the result's shape and dtype to write into; it must not overlap ``x``.
    stream
        For arrays on a GPU and the backend "cuda", as for :func:`convforge.conv2d`.

    Returns
    -------
    ndarray, or (ndarray, indices)
        Maxima of shape (n, c, oh, ow) or (c, oh, ow). A NaN wins over numbers, and the first of equals wins. Indices
        are int64 of the same shape: positions in the flattened plane, ``row * iw + column``.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names it, what it was and what would be right.
    UnsupportedProblem
        The algorithm or backend named does not do this problem.

    Examples
    --------
    >>> import numpy as np, convforge as cf
    >>> cf.max_pool2d(np.arange(16, dtype=np.float32).reshape(1, 4, 4), 2)
    array([[[ 5.,  7.],
            [13., 15.]]], dtype=float32)
    """
    check_types(x=x)
    images = add_batch("x", x, 2)
    single = images is not x
    plan = functional_plan(
        "forward", algorithm, backend, None, pool_problem, "max", images.shape, dtype_name(x), kernel_size, stride,
        padding, dilation, ceil_mode, True, None, return_indices,
    )  # fmt: skip
    result = plan(images, out=batched_out(out, single), stream=stream)
    if not return_indices:
        return unbatched(result, single, out)
    maxima, indices = result
    return unbatched(maxima, single, out), unbatched(indices, single)


@takes_device_arrays
def max_pool2d_backward(
    grad_output: np.ndarray,
    indices: np.ndarray,
    input_shape: tuple[int, ...],
    *,
    backend: str = "auto",
    out: np.ndarray | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Gradient of :func:`max_pool2d` by its input: each output's gradient goes to where its maximum was.

    Parameters
    ----------
    grad_output
        Gradient by the maxima, of their shape (n, c, oh, ow) or (c, oh, ow).
    indices
        What :func:`max_pool2d` returned, int64 of the same shape.
    input_shape
        Shape of the input, (n, c, ih, iw) or (c, ih, iw).
    backend
        "auto", or a backend that :func:`convforge.algorithms` lists.
    out
        Array of shape ``input_shape`` to write into.
    stream
        As for :func:`convforge.conv2d`.

    Returns
    -------
    ndarray
        Of shape ``input_shape``; gradients that meet in one place are added in the order of the outputs.

    Raises
    ------
    TypeError, ValueError, UnsupportedProblem
        As for :func:`max_pool2d`; also for indices outside the input's plane.
    """
    check_types(grad_output=grad_output, indices=indices)
    shape = batched_shape("input_shape", input_shape, 2)
    single = len(input_shape) == 3
    gradient = add_batch("grad_output", grad_output, 2)
    if (gradient is not grad_output) != single or gradient.shape[:2] != shape[:2]:
        raise ValueError(
            f"input_shape {tuple(input_shape)} and grad_output of shape {grad_output.shape} must agree in batch and "
            "channels"
        )
    check_array("indices", indices, grad_output.shape, "int64")
    plan = functional_plan(
        "grad_input", "auto", backend, None, _max_pool_between, shape, gradient.shape, dtype_name(grad_output)
    )
    positions = indices[None] if single else indices
    result = plan.grad_input(gradient, indices=positions, out=batched_out(out, single), stream=stream)
    return unbatched(result, single, out)


def _max_pool_between(input_shape: tuple[int, ...], output_shape: tuple[int, ...], dtype: str) -> PoolProblem:
    """A max pool between these shapes: with the indices given, its gradient does not depend on which one it was.

    The largest stride that gives oh rows is taken, for windows that overlap little: many gradients in one place would
    mean a large modelled error. ih + 1 rows, the most that any pool gives, come from a window of 2 padded by 1.
    """
    kernel, stride, padding = [], [], []
    for axis, (before, after) in enumerate(zip(input_shape[2:], output_shape[2:], strict=True)):
        if not 1 <= after <= before + 1:
            raise ValueError(
                f"grad_output must have between 1 and {before + 1} rows along spatial axis {axis} for an input of "
                f"{before}, got {after}: no max pool gives that"
            )
        stride.append(max(1, before // after))
        kernel.append(2 if after > before else before - (after - 1) * stride[-1])
        padding.append(1 if after > before else 0)
    sizes = (tuple(kernel), tuple(stride), tuple(padding))
    return pool_problem("max", input_shape, dtype, *sizes, name="input_shape")


@takes_device_arrays
def avg_pool2d(
    x: np.ndarray,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: str = "auto",
    backend: str = "auto",
    out: np.ndarray | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Mean over windows of each channel's plane, as ``torch.nn.functional.avg_pool2d``.

    Parameters
    ----------
    x
        Images of shape (n, c, ih, iw), or one of shape (c, ih, iw); float32 or float64. n may be 0.
    kernel_size, stride
        An int, or one per axis; a stride of None is the kernel size.
    padding
        An int, one per axis, or a (before, after) pair per axis; at most half the window.
    ceil_mode
        Also take a last window that reaches beyond the padded input, if it starts inside the input or its padding
        before it.
    count_include_pad
        Whether the divisor counts the padding inside the window.
    divisor_override
        A divisor for every window, in place of its size.
    algorithm, backend
        "auto", or names that :func:`convforge.algorithms` lists.
    out
        Array of the result's shape and dtype to write into; it must not overlap ``x``.
    stream
        For arrays on a GPU and the backend "cuda", as for :func:`convforge.conv2d`.

    Returns
    -------
    ndarray
        Means of shape (n, c, oh, ow) or (c, oh, ow).

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names it, what it was and what would be right.
    UnsupportedProblem
        The algorithm or backend named does not do this problem.

    Examples
    --------
    >>> import numpy as np, convforge as cf
    >>> cf.avg_pool2d(np.arange(16, dtype=np.float32).reshape(1, 4, 4), 2)
    array([[[ 2.5,  4.5],
            [10.5, 12.5]]], dtype=float32)
    """
    check_types(x=x)
    images = add_batch("x", x, 2)
    single = images is not x
    plan = functional_plan(
        "forward", algorithm, backend, None, pool_problem, "avg", images.shape, dtype_name(x), kernel_size, stride,
        padding, 1, ceil_mode, count_include_pad, divisor_override,
    )  # fmt: skip
    return unbatched(plan(images, out=batched_out(out, single), stream=stream), single, out)


@takes_device_arrays
def avg_pool2d_backward(
    grad_output: np.ndarray,
    input_shape: tuple[int, ...],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: str = "auto",
    backend: str = "auto",
    out: np.ndarray | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Gradient of :func:`avg_pool2d` by its input.

    Parameters
    ----------
    grad_output
        Gradient by the means, of their shape.
    input_shape
        Shape of the input, (n, c, ih, iw) or (c, ih, iw).
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, algorithm, backend
        As for :func:`avg_pool2d`.
    out
        Array of shape ``input_shape`` to write into.
    stream
        As for :func:`convforge.conv2d`.

    Returns
    -------
    ndarray
        Of shape ``input_shape``.

    Raises
    ------
    TypeError, ValueError, UnsupportedProblem
        As for :func:`avg_pool2d`.
    """
    check_types(grad_output=grad_output)
    shape = batched_shape("input_shape", input_shape, 2)
    single = len(input_shape) == 3
    plan = functional_plan(
        "grad_input", algorithm, backend, None, pool_problem, "avg", shape, dtype_name(grad_output), kernel_size,
        stride, padding, 1, ceil_mode, count_include_pad, divisor_override, False, "input_shape",
    )  # fmt: skip
    check_array("grad_output", grad_output, plan.problem.output_shape[single:], plan.problem.dtype)
    gradient = grad_output[None] if single else grad_output
    return unbatched(plan.grad_input(gradient, out=batched_out(out, single), stream=stream), single, out)
