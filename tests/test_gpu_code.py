"""What the GPU's main loops are compiled to: registers alone, 128-bit loads of shared memory, fused multiply-adds."""

import re

import pytest

pytest.importorskip("numba.cuda.extending")

from convforge.runtime.gpu import simulated

if simulated():
    pytest.skip("the simulator compiles nothing", allow_module_level=True)

from convforge.algorithms.cuda import im2col, winograd
from convforge.kernels.cuda import compile as compiling
from convforge.operands import operand_shapes
from convforge.problem import parse
from convforge.runtime.gpu import TYPICAL


def ptx(policy, problem, pass_, kernel):
    problem = parse(problem)
    program = policy.program(problem, pass_, TYPICAL)
    launch = next(launch for launch in program.launches if launch.kernel == kernel)
    types = compiling.signature(launch, program, compiling.dtypes(program, operand_shapes(problem, pass_)))
    tile = launch.config[1:6]
    (code,) = compiling.ptx(launch, types, [(8, 0)])
    return code, tile


@pytest.mark.parametrize(("policy", "problem", "pass_", "kernel"), [
    (im2col.POLICIES[0], "n1c16k8i4x4f3x3", "forward", "forward"),
    (im2col.POLICIES[0], "n1c16k8i4x4f3x3", "grad_weight", "grad_weight"),
    (im2col.POLICIES[0], "n1c16k8i4x4f3x3:float64", "forward", "forward"),
    (winograd.POLICIES[1], "n1c16k8i4x4f3x3", "forward", "products"),
])  # fmt: skip
def test_main_loop(policy, problem, pass_, kernel):
    code, (_, _, bk, tm, tn) = ptx(policy, problem, pass_, kernel)
    width = 64 if "float64" in problem else 32
    loads = len(re.findall(rf"ld\.shared\.v{128 // width}\.[fb]{width}", code))
    assert ".local" not in code
    assert len(re.findall(rf"fma\.rn\.f{width}", code)) >= bk * tm * tn
    assert loads >= bk * (tm + tn) * width // 128
