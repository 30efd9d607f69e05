"""Convolutions (cross-correlations, as deep learning calls them) and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from convforge import device_call
from convforge.arguments import conv_problem
from convforge.arrays import check_array, check_types, dtype_name
from convforge.ops.batch import add_batch, batched_out, batched_shape, unbatched
from convforge.ops.device import takes_device_arrays
from convforge.plan_cache import functional_plan
from convforge.problem import ConvProblem

Size = int | tuple[int, ...]
Padding = int | tuple[int, ...] | tuple[tuple[int, int], ...] | str


@takes_device_arrays
def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    backend: str = "auto",
    tolerance: float | None = None,
    out: np.ndarray | None = None,
    stream: Any = None,
) -> np.ndarray:
    """2-D convolution of a batch of images.

    ``out[n, k, oh, ow] = bias[k] + sum(x[n, c, oh * stride - padding + i * dilation, ...] * weight[k, c, i, j])`` over
    the channels c of k's group and the window i, j. Padding is zeros that take part in the sum, so an infinite weight
    gives NaN at a padded border. The arithmetic is that of ``torch.nn.functional.conv2d``.

    Parameters
    ----------
    x
        Images of shape (n, c, ih, iw), or one of shape (c, ih, iw); float32 or float64, any strides. n may be 0. An
        array on a GPU (torch, CuPy, Numba; anything with ``__cuda_array_interface__`` or DLPack) is convolved there,
        and so must all others be; float16 is taken there too.
    weight
        Filters of shape (k, c / groups, kh, kw).
    bias
        None, or shape (k,).
    stride, dilation
        An int, or one per axis.
    padding
        An int, one per axis, a (before, after) pair per axis, "valid" (none) or "same" (stride 1 only; an odd total
        pads one more after).
    groups
        Divides c and k; group g of the outputs sees group g of the inputs. ``groups=c`` is a depthwise convolution.
    algorithm, backend
        "auto", or names that :func:`convforge.algorithms` lists. The backend "cuda" copies NumPy arrays to the GPU and
        back; "auto" never does, and is "cuda" for arrays that are there.
    tolerance
        Largest error, norm(y - exact) / norm(exact) on standard-normal data before the bias, that "auto" admits;
        None is 1e-5 for float32 and 1e-13 for float64.
    out
        Array of the result's shape and dtype to write into; it must not overlap an input.
    stream
        With the backend "cuda", the stream to work on: torch's, CuPy's, Numba's or an address. None is the one that the
        arrays' library works on now. Results on a GPU are not waited for.

    Returns
    -------
    ndarray
        Of shape (n, k, oh, ow), or (k, oh, ow) for one image; ``out`` if it was given; of the type of ``x``.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names it, what it was and what would be right.
    UnsupportedProblem
        The algorithm or backend named does not do this problem.

    Examples
    --------
    >>> import numpy as np, convforge as cf
    >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    >>> cf.conv2d(x, np.ones((1, 1, 3, 3), np.float32))
    array([[[45., 54.],
            [81., 90.]]], dtype=float32)
    """
    check_types(x=x, weight=weight)
    images = add_batch("x", x, 2)
    plan = functional_plan(
        "forward", algorithm, backend, tolerance, conv_problem, images.shape, weight.shape, dtype_name(x), stride,
        padding, dilation, groups, bias is not None,
    )  # fmt: skip
    single = images is not x
    return unbatched(plan(images, weight, bias, out=batched_out(out, single), stream=stream), single, out)


@takes_device_arrays
def conv2d_grad_input(
    input_shape: tuple[int, ...],
    weight: np.ndarray,
    grad_output: np.ndarray,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    backend: str = "auto",
    tolerance: float | None = None,
    out: np.ndarray | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Gradient of :func:`conv2d` by its input.

    Parameters
    ----------
    input_shape
        Shape of the input, (n, c, ih, iw) or (c, ih, iw).
    weight
        The filters, of shape (k, c / groups, kh, kw).
    grad_output
        Gradient by the output, of the output's shape.
    stride, padding, dilation, groups, algorithm, backend, tolerance, stream
        As for :func:`conv2d`.
    out
        Array of shape ``input_shape`` to write into.

    Returns
    -------
    ndarray
        Of shape ``input_shape``.

    Raises
    ------
    TypeError, ValueError, UnsupportedProblem
        As for :func:`conv2d`.
    """
    check_types(weight=weight, grad_output=grad_output)
    shape = batched_shape("input_shape", input_shape, 2)
    plan = functional_plan(
        "grad_input", algorithm, backend, tolerance, conv_problem, shape, weight.shape, dtype_name(weight), stride,
        padding, dilation, groups, False, "input_shape",
    )  # fmt: skip
    single = len(input_shape) == 3
    check_array("grad_output", grad_output, plan.problem.output_shape[single:], plan.problem.dtype)
    gradient = grad_output[None] if single else grad_output
    return unbatched(plan.grad_input(gradient, weight, out=batched_out(out, single), stream=stream), single, out)


@takes_device_arrays
def conv2d_grad_weight(
    x: np.ndarray,
    weight_shape: tuple[int, ...],
    grad_output: np.ndarray,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    backend: str = "auto",
    tolerance: float | None = None,
    out: np.ndarray | None = None,
    stream: Any = None,
) -> np.ndarray:
    """Gradient of :func:`conv2d` by its weight, summed over the batch.

    Parameters
    ----------
    x
        The input, of shape (n, c, ih, iw) or (c, ih, iw).
    weight_shape
        Shape of the weight, (k, c / groups, kh, kw).
    grad_output
        Gradient by the output, of the output's shape.
    stride, padding, dilation, groups, algorithm, backend, tolerance, stream
        As for :func:`conv2d`.
    out
        Array of shape ``weight_shape`` to write into.

    Returns
    -------
    ndarray
        Of shape ``weight_shape``.

    Raises
    ------
    TypeError, ValueError, UnsupportedProblem
        As for :func:`conv2d`.
    """
    check_types(x=x, grad_output=grad_output)
    images = add_batch("x", x, 2)
    plan = functional_plan(
        "grad_weight", algorithm, backend, tolerance, conv_problem, images.shape, weight_shape, dtype_name(x), stride,
        padding, dilation, groups, False, "x", "weight_shape",
    )  # fmt: skip
    single = images is not x
    check_array("grad_output", grad_output, plan.problem.output_shape[single:], plan.problem.dtype)
    return plan.grad_weight(images, grad_output[None] if single else grad_output, out=out, stream=stream)


@takes_device_arrays
def conv2d_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    needs: tuple[bool, bool, bool] = (True, True, True),
    algorithm: str = "auto",
    backend: str = "auto",
    tolerance: float | None = None,
    stream: Any = None,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """All gradients of :func:`conv2d`.

    Parameters
    ----------
    grad_output
        Gradient by the output, of the output's shape.
    x, weight
        The input and the filters of the forward pass.
    stride, padding, dilation, groups, algorithm, backend, tolerance, stream
        As for :func:`conv2d`; a named algorithm does both array gradients.
    needs
        Which of the gradients by input, weight and bias are wanted.

    Returns
    -------
    (grad_input, grad_weight, grad_bias)
        None for those not needed. The bias's is the sum over images and pixels, accumulated in float64.

    Raises
    ------
    TypeError, ValueError, UnsupportedProblem
        As for :func:`conv2d`.
    """
    check_types(grad_output=grad_output, x=x, weight=weight)
    if not isinstance(needs, (tuple, list)) or [type(need) for need in needs] != [bool] * 3:
        raise TypeError(f"needs must be three bools, for (grad_input, grad_weight, grad_bias), got {needs!r}")
    images = add_batch("x", x, 2)
    arguments = (images.shape, weight.shape, dtype_name(x), stride, padding, dilation, groups)
    choice = (algorithm, backend, tolerance, conv_problem, *arguments)
    plans = {
        pass_: functional_plan(pass_, *choice)
        for pass_, needed in zip(("grad_input", "grad_weight"), needs, strict=False)
        if needed
    }
    problem = next(iter(plans.values())).problem if plans else conv_problem(*arguments)
    assert isinstance(problem, ConvProblem)
    single = images is not x
    check_array("weight", weight, problem.weight_shape, problem.dtype)
    check_array("grad_output", grad_output, problem.output_shape[single:], problem.dtype)
    gradient = grad_output[None] if single else grad_output
    grad_input = grad_weight = grad_bias = None
    if needs[0]:
        grad_input = unbatched(plans["grad_input"].grad_input(gradient, weight, stream=stream), single)
    if needs[1]:
        grad_weight = plans["grad_weight"].grad_weight(images, gradient, stream=stream)
    if needs[2]:
        grad_bias = device_call.bias_gradient(gradient, stream)
    return grad_input, grad_weight, grad_bias
