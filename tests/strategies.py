"""Hypothesis draws problems; a failing one prints as the string that ``convforge compare`` takes."""

from hypothesis import assume
from hypothesis import strategies as st

from convforge.problem import ConvProblem, PoolProblem


@st.composite
def conv_problems(draw, ndims=(1, 2, 3), most=10, channels=5, dtypes=("float32", "float64")):
    """Valid convolutions with at most ``most`` pixels an axis and ``channels`` channels a group."""
    ndim = draw(st.sampled_from(ndims))
    per_axis = _per_axis(ndim)
    groups = draw(st.integers(1, 3))
    kernel, dilation = draw(per_axis(1, 4)), draw(per_axis(1, 3))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * ndim))
    least = [max(1, d * (f - 1) + 1 - sum(p)) for f, d, p in zip(kernel, dilation, padding, strict=True)]
    return ConvProblem(
        n=draw(st.integers(0, 3)),
        c=groups * draw(st.integers(1, channels)),
        k=groups * draw(st.integers(1, channels)),
        input=tuple(draw(st.integers(size, max(size, most))) for size in least),
        kernel=kernel,
        stride=draw(per_axis(1, 4)),
        padding=padding,
        dilation=dilation,
        groups=groups,
        dtype=draw(st.sampled_from(dtypes)),
        bias=draw(st.booleans()),
    )


@st.composite
def pool_problems(draw, ndims=(1, 2, 3), most=10, dtypes=("float32", "float64")):
    """Valid poolings with at most ``most`` pixels an axis."""
    kind = draw(st.sampled_from(("max", "avg")))
    ndim = draw(st.sampled_from(ndims))
    per_axis = _per_axis(ndim)
    kernel = draw(per_axis(1, 5))
    dilation = draw(per_axis(1, 3)) if kind == "max" else (1,) * ndim
    windows = [d * (f - 1) + 1 for f, d in zip(kernel, dilation, strict=True)]
    padding = tuple((draw(st.integers(0, w // 2)), draw(st.integers(0, w // 2))) for w in windows)
    flags = {"indices": draw(st.booleans())}
    if kind == "avg":
        divisor = draw(st.none() | st.integers(1, 9))
        flags = {"count_include_pad": draw(st.booleans()), "divisor_override": divisor}
    try:
        return PoolProblem(
            kind=kind,
            n=draw(st.integers(0, 3)),
            c=draw(st.integers(1, 5)),
            input=draw(per_axis(1, most)),
            kernel=kernel,
            stride=draw(per_axis(1, 4)),
            padding=padding,
            dilation=dilation,
            ceil_mode=draw(st.booleans()),
            dtype=draw(st.sampled_from(dtypes)),
            **flags,
        )
    except ValueError:
        assume(False)


def _per_axis(ndim):
    return lambda low, high: st.tuples(*[st.integers(low, high)] * ndim)
