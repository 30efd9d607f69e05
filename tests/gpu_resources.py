"""What ptxas says of every GPU kernel: registers, shared memory, stack and spills, by compute capability.

``python -m tests.gpu_resources`` writes gpu_resources.json anew, which tests/test_gpu_resources.py compares with; given
words, it measures the kernels that have one of them in their names, and those that are new.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

from convforge.algorithms.cuda import POLICIES
from convforge.launch import Launch
from convforge.operands import operand_shapes
from convforge.problem import parse
from convforge.runtime.gpu import TYPICAL

RECORD = Path(__file__).with_name("gpu_resources.json")
CAPABILITIES = ((7, 5), (8, 0), (9, 0), (10, 0))
#: Programs that together launch every kernel: in each dtype, and in the forms that networks need.
PROGRAMS = [
    ("direct", "n32c3k64i224x224f7x7s2p3"), ("direct", "n32c64k64i56x56f3x3p1g64"),
    ("direct", "n1c128k128i16384f4p3g128"), ("direct", "n8c64k64i56x56f3x3p1g64:float64"),
    ("direct", "n8c64k64i56x56f3x3p1g64:float16"), ("im2col", "n32c3k64i224x224f7x7s2p3"),
    ("im2col", "n32c256k512i28x28f1x1"), ("im2col", "n8c64k64i56x56f3x3p1:float64"),
    ("im2col", "n8c64k64i56x56f3x3p1:float16"), ("winograd_f2", "n32c512k512i7x7f3x3p1"),
    ("winograd_f4", "n32c64k64i56x56f3x3p1"), ("winograd_f4", "n8c64k64i56x56f3x3p1:float64"),
    ("direct", "max:n1c64i112x112f3x3s2p1:indices"), ("direct", "avg:n2c64i7x7f7x7"),
    ("direct", "max:n2c64i7x7f2x2s2:float16"),
]  # fmt: skip


#: Kernels that no program launches: copies of operands, a weight gradient of no images, the bias's gradient.
_INTS = ("int32",)
OTHERS = {
    "copy.strided_copy() float32": (
        Launch("copy", "strided_copy", (), (), (1, 1, 1), (256, 1, 1)),
        ("float32[]", *_INTS * 6, "float32[]", *_INTS * 11),
    ),
    "copy.fill_zero() float32": (Launch("copy", "fill_zero", (), (), (1, 1, 1), (256, 1, 1)), ("float32[]", *_INTS)),
    "direct.grad_bias(float32, 128) float32": (
        Launch("direct", "grad_bias", ("float32", 128), (), (1, 1, 1), (128, 1, 1)),
        ("float32[]", *_INTS * 5, "float32[]", *_INTS * 3),
    ),
}


def ptxas():
    """The wheel's ptxas, or None."""
    found = find_spec("nvidia")
    folders = [] if found is None else list(found.submodule_search_locations)
    paths = [path for folder in folders for path in sorted(Path(folder).glob("*/bin/ptxas"))]
    return paths[-1] if paths else None


def missing():
    """Why nothing can be compiled here, or None."""
    if find_spec("numba_cuda") is None:
        return "numba-cuda is not installed: pip install 'convforge[test]'"
    if ptxas() is None or not list(ptxas().parents[2].glob("cuda_nvrtc/lib/*")):
        return "the toolkit's wheels are not installed: pip install nvidia-cuda-nvcc-cu12 nvidia-cuda-nvrtc-cu12"
    return None


def toolkit():
    """Versions that decide what is compiled."""
    told = subprocess.run([ptxas(), "--version"], capture_output=True, text=True, check=True).stdout
    names = ("numba-cuda", "numba")
    return {
        "ptxas": re.search(r"V([\d.]+)", told)[1],
        **{name: metadata.version(name) for name in names},
    }


def launches():
    """Every kernel of the problems above once: its name, the launch and its argument types."""
    from convforge.kernels.cuda import compile as compiler

    found = dict(OTHERS)
    for name, text in PROGRAMS:
        problem = parse(text)
        for policy in POLICIES:
            if policy.name != name or problem.kind not in policy.kinds:
                continue
            for pass_ in policy.passes:
                if policy.refuses(problem, pass_) is None:
                    program = policy.program(problem, pass_, TYPICAL)
                    names = compiler.dtypes(program, operand_shapes(problem, pass_))
                    for launch in (*program.prepare, *program.launches):
                        types = compiler.signature(launch, program, names)
                        arrays = "/".join(dict.fromkeys(each[:-2] for each in types if each.endswith("[]")))
                        config = ", ".join(map(str, launch.config))
                        found.setdefault(f"{launch.module}.{launch.kernel}({config}) {arrays}", (launch, types))
    return found


def measure(launch, types):
    """By compute capability: registers of a thread; bytes of shared memory, of stack and of spills."""
    from convforge.kernels.cuda import compile as compiler

    found = {}
    for capability, text in zip(CAPABILITIES, compiler.ptx(launch, types, CAPABILITIES), strict=True):
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(text)
            file.flush()
            arch = "sm_{}{}".format(*capability)
            told = subprocess.run(
                [ptxas(), "-v", f"-arch={arch}", "-o", os.devnull, file.name], capture_output=True, text=True,
                check=True,
            ).stderr  # fmt: skip
        spills = _number(r"(\d+) bytes spill stores", told) + _number(r"(\d+) bytes spill loads", told)
        found["{}.{}".format(*capability)] = [
            _number(r"Used (\d+) registers", told), _number(r"(\d+) bytes smem", told),
            _number(r"(\d+) bytes stack frame", told), spills,
        ]  # fmt: skip
    return found


def _number(pattern, text):
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _row(name):
    return measure(*_launches()[name])


_launches = cache(launches)


def table(names=None):
    """What is recorded, of all kernels or those named: by capability, in the order of :func:`measure`."""
    names = list(launches()) if names is None else names
    # two seconds for each kernel: Numba compiles on one core
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        rows = dict(zip(names, pool.map(_row, names), strict=True))
    columns = ["registers", "shared", "stack", "spills"]
    return {"toolkit": toolkit(), "columns": columns, "kernels": rows}


def write(record, path):
    """JSON with a line for each kernel."""
    lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(record["kernels"].items())]
    head = f'{{\n  "toolkit": {json.dumps(record["toolkit"])},\n  "columns": {json.dumps(record["columns"])},\n'
    path.write_text(head + '  "kernels": {\n' + ",\n".join(lines) + "\n  }\n}\n")


def renew(words):
    """Measure again what has one of the words in its name, and what is new; forget what is gone."""
    kept = {} if not words else json.loads(RECORD.read_text())["kernels"]
    stale = [name for name in launches() if name not in kept or any(word in name for word in words)]
    record = table(stale)
    record["kernels"] = {name: record["kernels"].get(name) or kept[name] for name in launches()}
    write(record, RECORD)


if __name__ == "__main__":
    renew(sys.argv[1:])
