"""What the GPU policies share: 1-D problems seen as 2-D ones, argument lists of views, shapes of grids."""

from __future__ import annotations

from math import prod

from convforge.launch import Argument, Dim3, Launch, Memory, offset
from convforge.problem import ConvProblem, PoolProblem, Problem
from convforge.program import Slot, View

#: Seconds to send a kernel to a device (Numba's launch and the device's own).
LAUNCH_SECONDS = 1e-5
#: Most blocks along a grid's y and z axes.
MOST_BLOCKS = 65535
_THREADS = 128


def refuses_3d(problem: Problem) -> str | None:
    """Why a kernel for 1-D and 2-D problems does not do this one, or None."""
    return f"its kernels are 1-D and 2-D, the problem is {problem.ndim}-D" if problem.ndim > 2 else None


def pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """One number for each of two axes; a 1-D problem's first axis gets ``missing``."""
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def view_arguments(view: View, spatial: int) -> tuple[Slot | int, ...]:
    """Start and strides of a view whose last ``spatial`` axes are rows and columns; the one row of a 1-D view is 0."""
    leading = len(view.axes) - spatial
    strides: list[Slot | int] = [view.stride(axis) for axis in range(len(view.axes))]
    if spatial == 1:
        strides.insert(leading, 0)
    return (offset(view), *strides)


def operand(name: str, ndim: int) -> tuple[Argument, ...]:
    """Memory, start and strides (n, channel, row, column) of an operand with ``ndim`` spatial axes."""
    return (Memory(name), *view_arguments(View.of(name, ndim + 2), ndim))


def pixels_by_planes(pixels: int, planes: int) -> tuple[Dim3, Dim3]:
    """Grid and block of one thread a pixel: x along the pixels of a plane, y over planes, several to a small block."""
    wide = next((size for size in (8, 16, 32, 64) if size >= pixels), _THREADS)
    tall = min(_THREADS // wide, planes)
    return (-(-pixels // wide), min(-(-planes // tall), MOST_BLOCKS), 1), (wide, tall, 1)


def sum_parts(problem: ConvProblem, parts: int) -> Launch:
    """The launch that adds the ``partial`` weight gradients up, into a contiguous ``out``."""
    count = prod(problem.weight_shape)
    return Launch(
        "direct", "sum_parts", (), (Memory("partial"), parts, count, Memory("out")), (-(-count // _THREADS), 1, 1),
        (_THREADS, 1, 1),
    )  # fmt: skip


def sums(dtype: str) -> str:
    """The dtype that sums over elements of ``dtype`` are taken in."""
    return "float64" if dtype == "float64" else "float32"


def memory_seconds(problem: ConvProblem | PoolProblem, pass_: str, bandwidth: float) -> float:
    """Seconds to move each operand once."""
    return problem.least_bytes(pass_) / bandwidth
