"""Problems: their sizes, their strings, and every way in which arguments are refused."""

import pickle
from dataclasses import FrozenInstanceError, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convforge.arguments import conv_problem, pool_problem
from convforge.checks import LIMIT
from convforge.errors import UnsupportedProblem
from convforge.problem import ConvProblem, PoolProblem, parse
from tests.strategies import conv_problems, pool_problems

STRINGS = {
    "n1c64k64i56x56f3x3p1": ConvProblem(1, 64, 64, (56, 56), (3, 3), padding=((1, 1), (1, 1))),
    "n1c512k128i28x28f1x1": ConvProblem(1, 512, 128, (28, 28), (1, 1)),
    "n2c4k6i9x8f3x2s2x1p1_2x0_1d1x2g2:bias:float64": ConvProblem(
        2, 4, 6, (9, 8), (3, 2), (2, 1), ((1, 2), (0, 1)), (1, 2), 2, "float64", True
    ),
    "n1c2k3i20f5": ConvProblem(1, 2, 3, (20,), (5,)),
    "max:n1c64i112f3s2p1": PoolProblem("max", 1, 64, (112,), (3,), (2,), ((1, 1),)),
    "max:n1c64i112x112f3x3s2p1": PoolProblem("max", 1, 64, (112, 112), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "max:n1c2i5x6x7f2x2x2s2:ceil:indices": PoolProblem("max", 1, 2, (5, 6, 7), (2, 2, 2), ceil_mode=True, indices=True),
    "avg:n1c2i9x9f3x3p1_0:ceil:exclude_pad:divisor=3": PoolProblem(
        "avg", 1, 2, (9, 9), (3, 3), (1, 1), ((1, 0), (1, 0)), (), True, False, 3
    ),
}
SPELLINGS = {
    "conv:n1c64k64i56x56f3p1s1d1g1:float32": "n1c64k64i56x56f3x3p1",
    "g2f3i8x9k4c4n1p1x1": "n1c4k4i8x9f3x3p1g2",
    "n1c4k4i8x9f3p1_1x1_1": "n1c4k4i8x9f3x3p1",
    "max:n1c2i8x8f3s3x3:indices:ceil": "max:n1c2i8x8f3x3s3:ceil:indices",
}


@pytest.mark.parametrize("text", STRINGS)
def test_string_of_a_problem(text):
    assert parse(text) == STRINGS[text]
    assert str(STRINGS[text]) == text


@pytest.mark.parametrize("text", SPELLINGS)
def test_other_spellings(text):
    assert str(parse(text)) == SPELLINGS[text]


@given(conv_problems() | pool_problems())
def test_string_round_trip(problem):
    assert parse(str(problem)) == problem
    assert hash(parse(str(problem))) == hash(problem)


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("", "", "the sizes n, c, k, i, f are missing"),
        ("max", "", "the sizes n, c, i, f are missing"),
        ("n1c1i3f3", "", "the sizes k are missing"),
        ("transposed:n1c1k1i3f3", "at 'transposed'", "not available"),
        ("sum:n1c1i3f3", "at 'sum'", "a kind is one of conv, max, avg"),
        ("n1c1k1i3f3s", "at 's'", "a letter and its sizes"),
        ("n1c1k1i3x3f3 p1", "at ' p1'", "a letter and its sizes"),
        ("n1c1k1i-3f3", "at 'i-3f3'", "a letter and its sizes"),
        ("N1c1k1i3f3", "at 'N1c1k1i3f3'", "a letter and its sizes"),
        ("n1c1k1i3f3n2", "at 'n2'", "n stands twice"),
        ("n1c1k1i3f3q2", "at 'q'", "a letter of conv is one of n, c, k, i, f, s, p, d, g"),
        ("max:n1c1k1i3f3", "at 'k'", "a letter of max is one of"),
        ("n1c1k1i3x3f3x3x3", "at 'f'", "f takes 1 or 2 sizes here, got 3"),
        ("n1c1k1i3f3x3", "at 'f'", "f takes 1 size here, got 2"),
        ("n1x1c1k1i3f3", "at 'n'", "n takes 1 size here, got 2"),
        ("n1c1k1i3x3f1_2", "at 'f'", "only p takes (before, after) pairs"),
        ("n1c1k1i3x3f1p1_2_3", "at '_3'", "a letter and its sizes"),
        ("n1c1k1i1x1x1x1f1", "", "1, 2 or 3 axes, got 4"),
        ("n1c1k1i3f5", "", "the kernel (weight_shape (1, 1, 5)) spans 5 pixels"),
        ("n1c1k1i3f3:", "at ':'", "a flag reads"),
        ("n1c1k1i3f3:fast", "at 'fast'", "a flag of conv is one of bias, float32, float64"),
        ("n1c1k1i3f3:ceil", "at 'ceil'", "a flag of conv is one of"),
        ("avg:n1c1i3f3:divisor", "at 'divisor'", "needs a number"),
        ("avg:n1c1i3f3:divisor=x", "at 'divisor=x'", "a flag reads"),
        ("n1c1k1i3f3:bias=1", "at 'bias=1'", "takes no number"),
        ("n1c1k1i3f3:bias:bias", "at 'bias'", "bias is set twice"),
        ("n1c1k1i3f3:float32:float64", "at 'float64'", "dtype is set twice"),
    ],
)
def test_bad_string(text, where, why):
    with pytest.raises(ValueError, match="an example: n1c64k64i56x56f3x3p1") as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f"problem string {text!r} fails")
    assert why in message
    assert where in message


@pytest.mark.parametrize("text", [None, 3, b"n1c1k1i3f3"])
def test_a_problem_string_is_a_str(text):
    with pytest.raises(TypeError, match="a problem string must be a str"):
        parse(text)


def test_conv_output_sizes_by_counting():
    for i, f, s, before, after, d in product(range(1, 8), range(1, 5), range(1, 5), range(3), range(3), range(1, 4)):
        window = d * (f - 1) + 1
        starts = [start for start in range(0, i + before + after, s) if start + window <= i + before + after]
        geometry = {"input": (i,), "kernel": (f,), "stride": (s,), "padding": ((before, after),), "dilation": (d,)}
        if starts:
            assert ConvProblem(1, 1, 1, **geometry).output == (len(starts),)
        else:
            with pytest.raises(ValueError, match="more than the"):
                ConvProblem(1, 1, 1, **geometry)


def test_pool_output_sizes_by_counting():
    for i, f, s, before, after, ceil_mode in product(
        range(1, 8), range(1, 5), range(1, 5), range(3), range(3), (False, True)
    ):
        if max(before, after) > f // 2:
            continue
        end = i + before + after
        starts = [start for start in range(0, end, s) if start + f <= end]
        reached = starts[-1] + f if starts else 0
        if ceil_mode and reached < end:
            # one more window, which reaches beyond the end, if it starts inside the input or its padding before
            start = starts[-1] + s if starts else 0
            if start < i + before and start + f - end < s:
                starts.append(start)
        if starts:
            problem = PoolProblem("avg", 1, 1, (i,), (f,), (s,), ((before, after),), ceil_mode=ceil_mode)
            assert problem.output == (len(starts),), problem
        else:
            with pytest.raises(ValueError, match="kernel_size spans"):
                PoolProblem("avg", 1, 1, (i,), (f,), (s,), ((before, after),), ceil_mode=ceil_mode)


def test_shapes_counts_and_bytes():
    problem = parse("n2c4k6i9x8f3x2s2x1p1g2:bias:float64")
    assert (problem.ndim, problem.output) == (2, (5, 9))
    assert problem.input_shape == (2, 4, 9, 8)
    assert problem.weight_shape == (6, 2, 3, 2)
    assert problem.bias_shape == (6,)
    assert problem.output_shape == (2, 6, 5, 9)
    assert problem.passes == ("forward", "grad_input", "grad_weight")
    for pass_ in problem.passes:
        assert problem.flops(pass_) == 2 * (2 * 6 * 5 * 9) * (2 * 3 * 2)
    operands = 2 * 4 * 9 * 8 + 6 * 2 * 3 * 2 + 2 * 6 * 5 * 9
    assert problem.least_bytes("forward") == 8 * (operands + 6)
    assert problem.least_bytes("grad_input") == 8 * operands
    assert problem.input_bytes + problem.weight_bytes + problem.output_bytes == 8 * operands
    with pytest.raises(ValueError, match="pass must be one of"):
        problem.flops("backward")


def test_pool_counts_and_bytes():
    problem = parse("max:n1c2i8x8f3x3s2p1:indices")
    assert problem.passes == ("forward", "grad_input")
    assert problem.output_shape == (1, 2, 4, 4)
    assert problem.flops() == 32 * 9
    assert problem.flops("grad_input") == 32
    assert problem.least_bytes() == 4 * (128 + 32) + 8 * 32
    assert replace(problem, indices=False).least_bytes() == 4 * (128 + 32)
    assert replace(problem, indices=False).least_bytes("grad_input") == 4 * (128 + 32) + 8 * 32
    average = parse("avg:n1c2i8x8f3x3s2p1")
    assert average.flops("grad_input") == 32 * 9
    assert average.least_bytes("grad_input") == 4 * (128 + 32)
    with pytest.raises(ValueError, match="pass must be one of forward, grad_input"):
        problem.least_bytes("grad_weight")


def test_problems_are_values():
    problem = parse("n1c4k4i8x8f3x3p1")
    twin = pickle.loads(pickle.dumps(problem))
    assert twin == problem
    assert hash(twin) == hash(problem)
    assert twin.output == problem.output
    assert replace(problem, stride=(2, 2)).output == (4, 4)
    assert len({problem, twin, replace(problem, n=2)}) == 2
    with pytest.raises(FrozenInstanceError):
        problem.n = 3


def test_fields_become_plain():
    problem = ConvProblem(
        np.int32(1),
        np.int64(2),
        np.uint8(2),
        [np.int64(5), 6],
        np.array([3, 3]),
        (),
        [(1, 1), [0, 1]],
        dtype=np.float64,
    )
    assert problem == ConvProblem(1, 2, 2, (5, 6), (3, 3), (1, 1), ((1, 1), (0, 1)), (1, 1), 1, "float64")
    assert type(problem.n) is type(problem.input[0]) is type(problem.kernel[0]) is int
    assert type(problem.dtype) is str
    assert PoolProblem("max", 1, 1, (6, 6), (2, 3)).stride == (2, 3)


def test_user_arguments():
    wanted = ConvProblem(1, 4, 6, (8, 9), (3, 3), (2, 2), ((1, 1), (2, 2)), (1, 1), 2, "float32", True)
    assert conv_problem((1, 4, 8, 9), (6, 2, 3, 3), "float32", 2, (1, 2), 1, 2, bias=True) == wanted
    assert (
        conv_problem((1, 4, 8, 9), (6, 2, 3, 3), np.float32, [2, 2], [1, np.int64(2)], (1, 1), 2, bias=True) == wanted
    )
    assert conv_problem((1, 1, 8, 9), (1, 1, 3, 3), padding=((1, 2), (0, 1))).padding == ((1, 2), (0, 1))
    assert conv_problem((1, 1, 8, 9), (1, 1, 3, 3), padding="valid").padding == ((0, 0), (0, 0))
    assert conv_problem((1, 1, 8), (1, 1, 3), padding=((1, 2),)).padding == ((1, 2),)
    assert pool_problem("max", (1, 2, 8, 9), "float32", (2, 3)).stride == (2, 3)
    assert pool_problem("avg", (1, 2, 8, 9), "float32", 2, 3, divisor_override=np.int8(2)).divisor_override == 2
    assert pool_problem("max", (1, 2, 8), "float64", 3, 1, "same", 2).padding == ((2, 2),)


def test_same_padding_puts_the_odd_pixel_after():
    for f, d in product(range(1, 6), range(1, 4)):
        problem = conv_problem((1, 1, 20), (1, 1, f), padding="same", dilation=d)
        (before, after), total = problem.padding[0], d * (f - 1)
        assert problem.output == problem.input
        assert (before, after) == (total // 2, (total + 1) // 2)


X, W = (2, 4, 8, 9), (6, 2, 3, 3)
BAD_CONVS = [
    ({"x_shape": (4, 8)}, ValueError, r"x must have shape \(n, channels, spatial...\).*got \(4, 8\)"),
    ({"x_shape": (1, 4, 8, 8, 8, 8)}, ValueError, "x must have shape"),
    ({"x_shape": (2, 4, 0, 9)}, ValueError, "x must have no empty axis but the first"),
    ({"x_shape": (2, 0, 8, 9)}, ValueError, "x must have no empty axis but the first"),
    ({"x_shape": (2, 4.0, 8, 9)}, TypeError, r"x\[1\] must be an int, got 4.0 of type float"),
    ({"x_shape": 5}, TypeError, "x must be a shape"),
    ({"weight_shape": (6, 2, 3)}, ValueError, "weight must have 4 axes"),
    ({"weight_shape": (6, 2, 0, 3)}, ValueError, "weight must have no empty axis"),
    ({"weight_shape": (0, 2, 3, 3)}, ValueError, "weight must have no empty axis"),
    ({"weight_shape": (6, 4, 3, 3)}, ValueError, r"4 input channels \(its axis 1\) in each of 2 group.*has 4"),
    ({"weight_shape": (5, 2, 3, 3)}, ValueError, "groups must divide the 5 output channels of weight, got 2"),
    ({"weight_shape": (6, 2, 9, 3)}, ValueError, r"weight_shape \(6, 2, 9, 3\)\) spans 9 pixels on spatial axis 0"),
    ({"dtype": "int32"}, TypeError, r"dtype must be float32 or float64, got int32: cast the arrays"),
    ({"dtype": "float128"}, TypeError, "got float128"),
    ({"dtype": "no dtype"}, TypeError, "got 'no dtype'"),
    ({"dtype": None}, TypeError, "got None"),
    ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ({"stride": (1, -2)}, ValueError, r"stride\[1\] must be at least 1, got -2"),
    ({"stride": 1.0}, TypeError, "stride must be an int, got 1.0 of type float"),
    ({"stride": (1, True)}, TypeError, r"stride\[1\] must be an int, got the bool True"),
    ({"stride": np.True_}, TypeError, "stride must be an int, got the bool"),
    ({"stride": "2"}, TypeError, "stride must be an int, got '2' of type str"),
    ({"stride": (1, 1, 1)}, ValueError, r"stride must be an int or one int per axis \(2\), got 3 values"),
    ({"stride": ()}, ValueError, "stride must be an int or one int per axis"),
    ({"stride": LIMIT + 1}, ValueError, "stride must be at most"),
    ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
    ({"dilation": 9}, ValueError, "spans 19 pixels"),
    ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    ({"padding": 1.5}, TypeError, "padding must be an int"),
    ({"padding": "full"}, ValueError, "padding must be 'same', 'valid', an int"),
    ({"padding": (1, 1, 1)}, ValueError, r"padding must be .* such as \(\(1, 2\), \(1, 2\)\), got 3 values"),
    ({"padding": ((1, 2), 1)}, TypeError, "padding must hold either ints or"),
    ({"padding": ((1, 2), (1, 2, 3))}, ValueError, r"padding\[1\] must be a \(before, after\) pair, got \(1, 2, 3\)"),
    ({"padding": ((1, 2), (1, -2))}, ValueError, r"padding\[1\]\[1\] must be at least 0, got -2"),
    ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs stride 1"),
    ({"padding": LIMIT}, ValueError, "more than 64 bits count"),
    ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    ({"groups": 2.0}, TypeError, "groups must be an int"),
    ({"groups": 3}, ValueError, "weight of shape"),
    ({"bias": 1}, TypeError, "bias must be True or False, got 1 of type int"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_CONVS)
def test_bad_conv_argument(change, error, message):
    arguments = {"x_shape": X, "weight_shape": W, "groups": 2} | change
    for _ in range(2):
        with pytest.raises(error, match=message) as caught:
            conv_problem(**arguments)
        assert not isinstance(caught.value, UnsupportedProblem)
        # a right call of equal hash must not make the wrong one pass
        conv_problem(X, W, "float32", (1, 1), 1, 1, 2)


BAD_POOLS = [
    ({"kind": "min"}, ValueError, "kind must be 'max' or 'avg', got 'min'"),
    ({"x_shape": (8, 9)}, ValueError, "x must have shape"),
    ({"x_shape": (1, 2, 0, 9)}, ValueError, "x must have no empty axis"),
    ({"kernel_size": None}, TypeError, "kernel_size must be an int, got None"),
    ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1"),
    ({"kernel_size": (3, 3, 3)}, ValueError, "kernel_size must be an int or one int per axis"),
    ({"kernel_size": 9}, ValueError, "kernel_size spans 9 pixels on spatial axis 0"),
    ({"stride": 0}, ValueError, "stride must be at least 1"),
    ({"padding": 2}, ValueError, "padding must be at most half the window, 1 for the 3 pixels"),
    ({"padding": ((0, 0), (0, 2))}, ValueError, r"on axis 1, got \(0, 2\)"),
    ({"dilation": 2, "kind": "avg"}, ValueError, r"dilation is for max pooling, an average takes 1, got \(2, 2\)"),
    ({"indices": True, "kind": "avg"}, ValueError, "indices are for max pooling"),
    ({"count_include_pad": False}, ValueError, "count_include_pad is for average pooling"),
    ({"divisor_override": 2}, ValueError, "divisor_override is for average pooling"),
    ({"divisor_override": 0, "kind": "avg"}, ValueError, "divisor_override must be at least 1, got 0"),
    ({"divisor_override": 2.0, "kind": "avg"}, TypeError, "divisor_override must be an int"),
    ({"indices": 1}, TypeError, "return_indices must be True or False"),
    ({"ceil_mode": 1}, TypeError, "ceil_mode must be True or False"),
    ({"count_include_pad": "no"}, TypeError, "count_include_pad must be True or False"),
    ({"dtype": "int64"}, TypeError, "dtype must be float32 or float64"),
    ({"x_shape": (1, 1, 1, 9), "kernel_size": 2, "dilation": 3, "padding": 2}, ValueError, "step over all 1 pixels"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_POOLS)
def test_bad_pool_argument(change, error, message):
    arguments = {"kind": "max", "x_shape": (1, 2, 8, 9), "dtype": "float32", "kernel_size": 3} | change
    with pytest.raises(error, match=message):
        pool_problem(**arguments)


def test_groups_divide_the_channels():
    for c, k in ((4, 3), (3, 4)):
        with pytest.raises(ValueError, match=f"groups must divide the {c} input channels of x and the {k} output"):
            ConvProblem(1, c, k, (5,), (3,), groups=2)


def test_errors_use_the_words_of_the_call():
    with pytest.raises(ValueError, match="input_shape must have no empty axis"):
        conv_problem((1, 2, 0), (1, 2, 1), x_name="input_shape")
    with pytest.raises(ValueError, match="input_shape must have no empty axis"):
        pool_problem("max", (1, 2, 0), kernel_size=1, name="input_shape")


def test_dilated_windows_that_see_no_pixel_are_refused():
    for i, f, s, d, before, after in product(range(1, 5), range(1, 4), range(1, 4), range(1, 6), range(3), range(3)):
        window = d * (f - 1) + 1
        if max(before, after) > window // 2 or window > i + before + after:
            continue
        outputs = (i + before + after - window) // s + 1
        empty = any(not any(0 <= o * s - before + t * d < i for t in range(f)) for o in range(outputs))
        if empty:
            with pytest.raises(ValueError, match="step over all"):
                PoolProblem("max", 1, 1, (i,), (f,), (s,), ((before, after),), (d,))
        else:
            PoolProblem("max", 1, 1, (i,), (f,), (s,), ((before, after),), (d,))


@given(st.integers(1, LIMIT), st.integers(1, LIMIT), st.integers(1, LIMIT))
def test_sizes_beyond_64_bits_are_refused(n, c, size):
    if 4 * n * c * size < 2**63:
        assert ConvProblem(n, c, 1, (size,), (1,)).input_bytes == 4 * n * c * size
    else:
        with pytest.raises(ValueError, match="more than 64 bits count"):
            ConvProblem(n, c, 1, (size,), (1,))
