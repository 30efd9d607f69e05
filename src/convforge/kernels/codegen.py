"""Straight-line programs and shuffles of vectors, as C for the Cython kernels and as Python for the Numba ones.

The programs are products by constant matrices. Those of Winograd's transforms come in pairs: points p and -p give rows
(or columns) that agree but for the signs of every second element. A pair costs little more than one of its rows: the
even part and the odd part are summed once, then added and subtracted. What remains are chains of fused multiply-adds,
arranged so that a coefficient of one starts the chain and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convforge.algorithms.winograd.transforms import Matrix, Transforms

_ONE = Fraction(1)
_LANES = (2, 4, 8, 16)
#: Strides whose phases are parted by shuffles.
_STRIDES = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Step:
    """``name = factor * a + b``; without a ``b`` ``name = factor * a``."""

    name: str
    factor: Fraction
    a: str
    b: str | None


@dataclass(slots=True)
class Straight:
    """Steps that compute ``outputs`` from the inputs d0, d1, ...; an output may be an input, and None is zero."""

    inputs: int
    steps: list[Step] = field(default_factory=list)
    outputs: list[str | None] = field(default_factory=list)

    def step(self, factor: Fraction, a: str, b: str | None) -> str:
        """The name of ``factor * a + b``, which may have been computed before."""
        if b is None and factor == 1:
            return a
        for known in self.steps:
            if (known.factor, known.a, known.b) == (factor, a, b):
                return known.name
        name = f"t{len(self.steps)}"
        self.steps.append(Step(name, factor, a, b))
        return name

    def total(self, terms: Sequence[tuple[Fraction, str]]) -> str | None:
        """The name of the sum of factor * value over ``terms``, None if nothing is left of them."""
        wanted = [(factor, value) for factor, value in terms if factor]
        if not wanted:
            return None
        wanted.sort(key=lambda term: (term[0] != 1, abs(term[0]) == 1))
        result = self.step(*wanted[0], None)
        for factor, value in wanted[1:]:
            result = self.step(factor, value, result)
        return result


def straight(matrix: Matrix) -> Straight:
    """The program of ``matrix @ d``."""
    by_rows, by_columns = _paired_rows(matrix), _paired_columns(matrix)
    return by_rows if len(by_rows.steps) <= len(by_columns.steps) else by_columns


def _paired_rows(matrix: Matrix) -> Straight:
    program = Straight(len(matrix[0]))
    inputs = [f"d{j}" for j in range(program.inputs)]
    outputs: dict[int, str | None] = {}
    for i, row in enumerate(matrix):
        if i in outputs:
            continue
        partner = next((p for p in range(i + 1, len(matrix)) if p not in outputs and _opposite(row, matrix[p])), None)
        if partner is None:
            outputs[i] = program.total(list(zip(row, inputs, strict=True)))
            continue
        pairs = list(zip(row, matrix[partner], inputs, strict=True))
        even = [(a, value) for a, b, value in pairs if a == b]
        odd = [(a, value) for a, b, value in pairs if a != b]
        factor = _common_factor([a for a, _ in odd if a])
        common = program.total([(a / factor, value) for a, value in odd])
        shared = program.total(even)
        assert common is not None
        outputs[i] = program.step(factor, common, shared)
        outputs[partner] = program.step(-factor, common, shared)
    program.outputs = [outputs[i] for i in range(len(matrix))]
    return program


def _paired_columns(matrix: Matrix) -> Straight:
    columns = _transpose(matrix)
    program = Straight(len(columns))
    terms: list[list[tuple[Fraction, str]]] = [[] for _ in matrix]
    done: set[int] = set()
    for j, column in enumerate(columns):
        if j in done:
            continue
        partner = next((p for p in range(j + 1, len(columns)) if p not in done and _opposite(column, columns[p])), None)
        if partner is None:
            for row, factor in zip(terms, column, strict=True):
                row.append((factor, f"d{j}"))
            continue
        done.add(partner)
        total = program.step(_ONE, f"d{j}", f"d{partner}")
        difference = program.step(-_ONE, f"d{partner}", f"d{j}")
        for row, a, b in zip(terms, column, columns[partner], strict=True):
            row.append((a, total if a == b else difference))
    program.outputs = [program.total(row) for row in terms]
    return program


def _common_factor(factors: Sequence[Fraction]) -> Fraction:
    """One of ``factors`` that leaves quotients exact in binary, if there is one."""

    def inexact(divisor: Fraction) -> bool:
        return any((f / divisor).denominator & ((f / divisor).denominator - 1) for f in factors)

    return min(reversed(factors), key=inexact)


def _opposite(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Whether the elements agree but for their signs, and both signs occur."""
    signs = {0 if not p else 1 if p == q else -1 if p == -q else None for p, q in zip(a, b, strict=True)}
    return signs - {0} == {1, -1} and all((p == 0) == (q == 0) for p, q in zip(a, b, strict=True))


def _transpose(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


@dataclass(frozen=True, slots=True)
class Shuffle:
    """``name`` = lanes of the concatenation of ``a`` and ``b``, picked by ``indices``."""

    name: str
    a: str
    b: str
    indices: tuple[int, ...]


@dataclass(slots=True)
class Shuffles:
    """Shuffles of the vectors d0, d1, ... into ``outputs``."""

    lanes: int
    steps: list[Shuffle] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def step(self, a: str, b: str, indices: Sequence[int]) -> str:
        """The name of a new shuffle."""
        self.steps.append(Shuffle(f"t{len(self.steps)}", a, b, tuple(indices)))
        return self.steps[-1].name

    def pick(self, vectors: Sequence[str], wanted: Sequence[int]) -> str:
        """A vector of the elements ``wanted`` of the concatenation of two or more vectors."""
        lanes = self.lanes
        result = self.step(vectors[0], vectors[1], [i if i < 2 * lanes else 0 for i in wanted])
        for number, vector in enumerate(vectors[2:], 2):
            base = number * lanes
            chosen = [lanes + i - base if base <= i < base + lanes else lane for lane, i in enumerate(wanted)]
            result = self.step(result, vector, chosen)
        return result

    def blend(self, vectors: Sequence[str], sources: Sequence[int]) -> str:
        """A vector whose lane l is that lane of the vector ``sources[l]``."""
        result = vectors[0]
        for number, vector in enumerate(vectors[1:], 1):
            chosen = [lane + self.lanes * (source == number) for lane, source in enumerate(sources)]
            result = self.step(result, vector, chosen)
        return result

    def doubled(self, program: Shuffles, vectors: Sequence[str]) -> list[str]:
        """The outputs of a program of half as many lanes, done in the lower and the upper halves of ``vectors``."""
        half = program.lanes
        names = {f"d{j}": vector for j, vector in enumerate(vectors)}
        for s in program.steps:
            lower = [i + half if i >= half else i for i in s.indices]
            names[s.name] = self.step(names[s.a], names[s.b], lower + [i + half for i in lower])
        return [names[name] for name in program.outputs]


#: Lanes of AVX2's float32: its shuffles within halves are cheaper than those across, and there is no permutation of
#: two vectors at all, but AVX-512 has one.
_HALVED = 8
_PERMUTES_TWO = 16


def deinterleave(m: int, lanes: int) -> Shuffles:
    """Element l of output j is element ``l * m + j`` of the concatenation of m vectors."""
    program = Shuffles(lanes)
    vectors = [f"d{j}" for j in range(m)]
    if lanes != _HALVED or m == 1:
        program.outputs = _deinterleave(program, vectors)
        return program
    half = lanes // 2
    halves = [(vectors[i // 2], i % 2 * half) for i in range(2 * m)]
    regrouped = [
        program.step(a, b, [*range(i, i + half), *range(lanes + j, lanes + j + half)])
        for (a, i), (b, j) in zip(halves[:m], halves[m:], strict=True)
    ]
    program.outputs = program.doubled(deinterleave(m, half), regrouped)
    return program


def _deinterleave(program: Shuffles, vectors: list[str]) -> list[str]:
    m, lanes = len(vectors), program.lanes
    if m == 1:
        return vectors
    if m % 2:
        places = [range(j, m * lanes, m) for j in range(m)]
        if lanes == _PERMUTES_TWO:
            return [program.pick(vectors, wanted) for wanted in places]
        result = []
        for wanted in places:  # no two of these are in the same lane
            source = {place % lanes: place // lanes for place in wanted}
            mixed = program.blend(vectors, [source[lane] for lane in range(lanes)])
            result.append(program.step(mixed, mixed, [place % lanes for place in wanted]))
        return result
    result = [""] * m
    for parity in range(2):
        chosen = range(parity, 2 * lanes, 2)
        halves = [program.step(a, b, chosen) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        result[parity::2] = _deinterleave(program, halves)
    return result


def interleave(m: int, lanes: int) -> Shuffles:
    """The inverse of :func:`deinterleave`."""
    program = Shuffles(lanes)
    vectors = [f"d{j}" for j in range(m)]
    if lanes != _HALVED or m == 1:
        program.outputs = _interleave(program, vectors)
        return program
    half = lanes // 2
    mixed = program.doubled(interleave(m, half), vectors)
    for i in range(0, 2 * m, 2):
        first, second = (range(j // m * half, j // m * half + half) for j in (i, i + 1))
        indices = [*first, *(lanes + lane for lane in second)]
        program.outputs.append(program.step(mixed[i % m], mixed[(i + 1) % m], indices))
    return program


def _interleave(program: Shuffles, phases: list[str]) -> list[str]:
    m, lanes = len(phases), program.lanes
    if m == 1:
        return phases
    if m % 2:
        order = [i % m * lanes + i // m for i in range(m * lanes)]
        if lanes == _PERMUTES_TWO:
            return [program.pick(phases, order[j * lanes : (j + 1) * lanes]) for j in range(m)]
        placed = []
        for j, phase in enumerate(phases):  # element i of phase j goes to lane (i * m + j) % lanes
            source = {(i * m + j) % lanes: i for i in range(lanes)}
            placed.append(program.step(phase, phase, [source[lane] for lane in range(lanes)]))
        return [program.blend(placed, [(j * lanes + lane) % m for lane in range(lanes)]) for j in range(m)]
    result = []
    for even, odd in zip(_interleave(program, phases[0::2]), _interleave(program, phases[1::2]), strict=True):
        for half in range(2):
            first = half * lanes // 2
            indices = [i for lane in range(first, first + lanes // 2) for i in (lane, lanes + lane)]
            result.append(program.step(even, odd, indices))
    return result


def transpose(lanes: int, part: int) -> Shuffles:
    """Element j of output i is element i of vector j, for ``lanes`` vectors: ``part`` lanes make 128 bits.

    Squares of such parts are transposed in place, where one instruction mixes two vectors, then the parts themselves.
    """
    program = Shuffles(lanes)
    vectors = [f"d{j}" for j in range(lanes)]
    done = 1
    while done < lanes:
        mixed = list(vectors)
        for i in (i for i in range(lanes) if not i & done):
            a, b = vectors[i], vectors[i | done]
            if done == 1 and part == 4:  # pairs side by side, of which the next step takes whole ones
                low = [lane + lanes * (at % 2) for at, lane in enumerate(_each_twice(lanes, 0))]
                high = [lane + lanes * (at % 2) for at, lane in enumerate(_each_twice(lanes, 2))]
            elif done == 2 and part == 4:
                continue
            else:
                low = [lane if not lane & done else lanes + lane - done for lane in range(lanes)]
                high = [lane + done if not lane & done else lanes + lane for lane in range(lanes)]
            mixed[i], mixed[i | done] = program.step(a, b, low), program.step(a, b, high)
        if done == 2 and part == 4:
            for i in range(0, lanes, 4):
                for k in range(2):  # pairs of rows i and i + 1, then of the next two
                    a, b = vectors[i + k], vectors[i + k + 2]
                    for half in range(2):
                        picked = [at // 4 * 4 + 2 * half + at % 2 + lanes * (at % 4 // 2) for at in range(lanes)]
                        mixed[i + 2 * k + half] = program.step(a, b, picked)
        vectors = mixed
        done *= 2
    program.outputs = vectors
    return program


def _each_twice(lanes: int, first: int) -> list[int]:
    """Lanes ``first`` and the next one of each four, twice each."""
    return [at // 4 * 4 + first + at % 4 // 2 for at in range(lanes)]


def products(t: Transforms) -> dict[str, Matrix]:
    """The matrices the kernels multiply by, by name."""
    return {
        "input": t.input,
        "weight": t.weight,
        "output": t.output,
        # of the gradient by the weight: A and G^T
        "grad_output": _transpose(t.output),
        "grad_weight": _transpose(t.weight),
    }


def scales(t: Transforms) -> list[float]:
    """What G g G^T is multiplied by once the row factors are left out, row by row."""
    return [float(a * b) for a in t.scale for b in t.scale]


def python_source(name: str, program: Straight | Shuffles) -> str:
    """A function from vectors to a tuple of vectors that uses ``v``, the vocabulary, or ``i0, i1...``, the shuffles."""
    if isinstance(program, Straight):
        inputs = program.inputs
        lines = [f"    {step.name} = {_python(step)}" for step in program.steps]
    else:
        inputs = len(program.outputs)
        lines = [f"    {s.name} = i{number}({s.a}, {s.b})" for number, s in enumerate(program.steps)]
    arguments = ", ".join(f"d{j}" for j in range(inputs))
    returned = ", ".join(map(str, program.outputs))
    return "\n".join([f"def {name}({arguments}):", *lines, f"    return {returned}", ""])


def _python(step: Step) -> str:
    if step.b is None:
        return f"v.mul(v.broadcast({float(step.factor)!r}), {step.a})"
    if abs(step.factor) == 1:
        return f"v.add({step.a}, {step.b})" if step.factor > 0 else f"v.sub({step.b}, {step.a})"
    return f"v.fma(v.broadcast({float(step.factor)!r}), {step.a}, {step.b})"


def c_header(family: Sequence[Transforms], short: Sequence[Transforms]) -> str:
    """The C header winograd_transforms.h: the products of each F(m, r) of ``family``, and (de)interleaving.

    Of ``short``, which are within some of the family, there are those of the input and the output.

    Each function takes a constant first, the code of an F(m, r) or the number of vectors to (de)interleave, and works
    on arrays whose indices are all constant, so that the compiler keeps them in registers.
    """
    most = max(t.alpha for t in family)
    # Cython copies headers that lie beside its sources: to clang, two of them are not the same file
    parts = ["#ifndef CF_WINOGRAD_TRANSFORMS", "#define CF_WINOGRAD_TRANSFORMS", '#include "vectors.h"', ""]
    parts += [f"enum {{ WINOGRAD_ALPHA = {most} }}; /* at most */", ""]
    for name in products(family[0]):
        every = [*family, *short] if name in ("input", "output") else family
        cases = {t.code: _c_straight(straight(products(t)[name])) for t in every}
        parts.append(_c_function(f"winograd_{name}", cases))
    sizes = sorted({t.m for t in family} | {t.stride * t.m for t in family} | {*_LANES, *_STRIDES, 9})
    for make in (deinterleave, interleave):
        for lanes in _LANES:
            cases = {m: _c_shuffles(make(m, lanes)) for m in sizes}
            parts += [f"#if CF_LANES == {lanes}", _c_function(f"vec_{make.__name__}", cases), "#endif"]
    parts += [
        "/* Lanes of a where the bits of keep are set; others, whose bits are clear there, elsewhere. */",
        "VEC_FUNCTION vec winograd_merge(vec a, const lane_bits *keep, const real *others) {",
        "    return (vec)(((vec_bits)a & (vec_bits)vec_load((const real *)keep)) | (vec_bits)vec_load(others));",
        "}",
        "",
    ]
    for t in family:
        values = ", ".join(f"(real){scale!r}" for scale in scales(t))
        parts.append(f"static const real winograd_scales_{t.code}[{t.alpha**2}] = {{{values}}};")
    choice = "".join(f"code == {t.code} ? winograd_scales_{t.code} : " for t in family)
    parts += [f"VEC_FUNCTION const real *winograd_scales(int code) {{ return {choice}0; }}", ""]
    within = "".join(f"code % 1000 / 100 == {t.within} && code % 100 == {t.code % 100} ? {t.code} : " for t in short)
    parts += ["/* The shorter tile's F(m, r), of the same weights; or the same. */"]
    parts += [f"VEC_FUNCTION int winograd_short(int code) {{ return {within}code; }}", "#endif", ""]
    return "\n".join(parts)


def _c_function(name: str, cases: dict[int, list[str]]) -> str:
    lines = [f"VEC_FUNCTION void {name}(int which, const vec *d, vec *o) {{", "    switch (which) {"]
    for which, body in cases.items():
        lines += [f"    case {which}: {{", *(f"        {line}" for line in body), "        break;", "    }"]
    return "\n".join([*lines, "    }", "}", ""])


def _c_straight(program: Straight) -> list[str]:
    steps = [f"vec {step.name} = {_c(step)};" for step in program.steps]
    return [*steps, *(f"o[{i}] = {_c_name(name)};" for i, name in enumerate(program.outputs) if name)]


def _c(step: Step) -> str:
    a, factor = _c_name(step.a), f"(real){float(step.factor)!r}"
    if step.b is None:
        return f"{factor} * {a}"
    b = _c_name(step.b)
    if abs(step.factor) == 1:
        return f"{a} + {b}" if step.factor > 0 else f"{b} - {a}"
    return f"{factor} * {a} + {b}"


def _c_shuffles(program: Shuffles) -> list[str]:
    steps = []
    for s in program.steps:
        indices = ", ".join(map(str, s.indices))
        steps.append(f"vec {s.name} = VEC_SHUFFLE({_c_name(s.a)}, {_c_name(s.b)}, {indices});")
    return [*steps, *(f"o[{i}] = {_c_name(name)};" for i, name in enumerate(program.outputs))]


def _c_name(name: str) -> str:
    return f"d[{name[1:]}]" if name.startswith("d") else name
