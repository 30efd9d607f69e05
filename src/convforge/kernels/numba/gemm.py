"""Register tiles: outer products for forward passes, dot products for weight gradients.

Their accumulators are local variables, one vector each, written out by generated source: LLVM then keeps them in
registers. On Zen 5 outer products run at 97 to 100% of the speed of fused multiply-adds on registers alone, dot
products, whose sums are gathered across lanes in the end, at 62% (depth 256) to 86% (512) in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convforge.kernels import abi, codegen
from convforge.kernels.numba.fetch import fetching
from convforge.kernels.numba.generate import define, shuffles

if TYPE_CHECKING:
    from collections.abc import Callable

    from convforge.kernels.numba.translate import Inner, Target


def _outer_tile(
    target: Target, tile_rows: int, vectors: int, *, copying: bool = False, in_place: bool = False, apart: bool = False
) -> Inner:
    """Make the tile with as many rows and vectors of columns.

    ``copying`` adds an argument ``copy`` after ``ldb``; ``in_place`` makes ``step`` and ``offsets`` of ``lda``, and
    adds ``runs`` and ``skipped`` after ``depth``. Without ``apart`` the step is 1, and there are at least half of ROWS
    rows: one pointer then is enough.
    """
    v = target.v
    rows, columns = range(tile_rows), range(vectors)
    last = vectors - 1

    @target.jit
    def start(c, n, accumulate, bias):
        return v.load_partial(c, n) if accumulate else bias

    copy = "copy, " if copying else ""
    of_a = "depth, runs, skipped, a, step, offsets" if in_place else "depth, a, lda"
    lines = [f"def outer_tile({of_a}, b, ldb, {copy}ahead, ahead_step, c, ldc, bias, rows, columns, accumulate):"]
    if in_place:
        lines += [f"    a{i} = v.advance(a, {f'min({i}, rows - 1) * step' if apart else i})" for i in rows]
    else:
        # rows past the last one repeat it, and their sums are dropped
        lines += [f"    a{i} = v.advance(a, {i} if lda == 0 else min({i}, rows - 1) * lda)" for i in rows]
        lines += [f"    at, step = 0, {target.rows} if lda == 0 else 1"]
    lines += [f"    s{i}_{j} = v.zero()" for i in rows for j in columns]
    step = [fetching(target).step()]
    for j in columns:
        step += [f"b{j} = v.load(b, {j * v.lanes})"]
        if copying:
            step += [f"v.store(copy, p * {target.vectors * v.lanes} + {j * v.lanes}, b{j})"]
    step += ["at = offsets[p]"] if in_place else []
    for i in rows:
        step += [f"scale = v.broadcast(a{i}[at])"]
        step += [f"s{i}_{j} = v.fma(scale, b{j}, s{i}_{j})" for j in columns]
    step += [] if in_place else ["at += step"]
    step += ["b = v.advance(b, ldb)"]
    if in_place:
        lines += ["    for run in range(runs):"]
        lines += ["        for p in range(run * (depth + skipped), run * (depth + skipped) + depth):"]
        lines += [f"            {line}" for line in step]
        lines += ["        b = v.advance(b, skipped * ldb)"]
    else:
        lines += ["    for p in range(depth):"]
        lines += [f"        {line}" for line in step]
    # bias and c are added last: the accumulators would else pass through the stack before the loop too
    lines += ["    biases = v.pointer(bias)"]
    for i in rows:
        lines += [f"    if {i} < rows:"]
        lines += [f"        row = v.advance(c, {i} * ldc)"]
        lines += [f"        init = v.broadcast(biases[{i}]) if bias != 0 else v.zero()"]
        for j in columns:
            lines += [f"        to = v.advance(row, {j * v.lanes})"]
            if j < last:
                lines += [f"        v.store(to, 0, s{i}_{j} + (v.load(to, 0) if accumulate else init))"]
            else:
                lines += [f"        n = columns - {j * v.lanes}"]
                lines += [f"        v.store_partial(to, s{i}_{j} + start(to, n, accumulate, init), n)"]
    return target.call(define("outer_tile", lines, v=v, start=start))


def gemm_ahead(target: Target) -> Inner:
    """Make ``gemm_ahead(depth, a, lda, b, ldb, ahead, ahead_step, c, ldc, bias, rows, columns, accumulate)``.

    c[rows][columns] = sum over p of a[p][row] * b[p][column], plus c itself, or else plus a bias per row. ``a`` is
    [depth][ROWS], whatever ``rows`` is, or where ``lda`` is not 0 rows of as many elements that are read as a[row][p];
    ``b`` is read in whole vectors; ``c`` is touched only where it is named.
    ``columns`` is at most LANES * VECTORS; ``bias`` is an address, 0 for none. What is fetched: see :mod:`.fetch`.
    """
    return _gemm(target, in_place=False)


def gemm_in_place(target: Target, *, apart: bool) -> Inner:
    """Make ``gemm_in_place(depth, runs, skipped, a, step, offsets, b, ...)``: the same but for what is named here.

    It is of ``a[offsets[p] + row * step]``, where the step is 1 but with ``apart``, for half of ROWS to ROWS rows.
    There are so many runs of the depth, after each p that are skipped.
    """
    return _gemm(target, in_place=True, apart=apart)


def _gemm(target: Target, *, in_place: bool, apart: bool = False) -> Inner:
    lanes, vectors = target.lanes, range(1, target.vectors + 1)
    # a tile as low as the rows, down to half of the whole one
    heights = range(target.rows // 2, target.rows + 1)
    names = {
        f"tile{i}_{j}": _outer_tile(target, i, j, in_place=in_place, apart=apart) for i in heights for j in vectors
    }
    of_a = "depth, runs, skipped, a, step, offsets" if in_place else "depth, a, lda"
    arguments = f"{of_a}, b, ldb, ahead, ahead_step, c, ldc, bias, rows, columns, accumulate"
    lines = [f"def gemm({arguments}):"]
    for i in reversed(heights):
        least = 0 if i == heights[0] else i
        for j in reversed(vectors):
            lines += [f"    if rows >= {least} and columns > {(j - 1) * lanes}:"]
            lines += [f"        return tile{i}_{j}({arguments})"]
    return target.jit(define("gemm", lines, **names))


def gemm_rows(target: Target) -> Inner:
    """Make ``gemm_rows(depth, a, lda, b, ldb, c, ldc, bias, rows, columns, accumulate)``: the same of weights."""
    v, tile_rows = target.v, target.rows
    multiply, ahead_step = gemm_ahead(target), tile_rows * fetching(target).pace

    @target.jit
    def gemm_rows(depth, a, lda, b, ldb, c, ldc, bias, rows, columns, accumulate):
        ahead = v.advance(a, tile_rows * (256 if lda == 0 else lda))
        multiply(depth, a, lda, b, ldb, ahead, ahead_step, c, ldc, bias, rows, columns, accumulate)

    return gemm_rows


def gemm_copying(target: Target) -> Inner:
    """Make the same for whole blocks of rows, with an argument ``copy`` after ``ldb``.

    copy[depth][LANES * VECTORS] = b: waiting for far away rows is hidden behind the multiplications.
    """
    lanes, vectors = target.lanes, range(1, target.vectors + 1)
    names = {f"tile{j}": _outer_tile(target, target.rows, j, copying=True) for j in vectors}
    arguments = "depth, a, lda, b, ldb, copy, ahead, ahead_step, c, ldc, bias, rows, columns, accumulate"
    lines = [f"def gemm_copying({arguments}):"]
    for j in reversed(vectors):
        lines += [f"    if columns > {(j - 1) * lanes}:", f"        return tile{j}({arguments})"]
    return target.jit(define("gemm_copying", lines, **names))


def transposed(target: Target, names: list[str]) -> tuple[list[str], list[str], dict[str, Inner]]:
    """Source that transposes the vectors ``names``, rows of LANES; the names of the vectors that hold the result.

    They hold LANES rows of as many elements as there are names: log2 of them perfect shuffles, or cheaper ones for
    LANES rows. The last item are the functions that the source calls.
    """
    if len(names) == target.lanes:
        program = codegen.transpose(target.lanes, 16 // target.v.itemsize)
        turned = [f"turned{i}" for i in range(target.lanes)]
        call = f"{', '.join(turned)} = transpose({', '.join(names)})"
        return [call], turned, {"transpose": shuffles(target, program, "transpose")}
    lines = []
    half = len(names) // 2
    done = 1
    while done < len(names):
        mixed = [f"mixed{done}_{i}" for i in range(len(names))]
        for i in range(half):
            lines += [f"{mixed[2 * i]} = v.low({names[i]}, {names[i + half]})"]
            lines += [f"{mixed[2 * i + 1]} = v.high({names[i]}, {names[i + half]})"]
        names = mixed
        done *= 2
    return lines, names, {}


def pair_sums(target: Target) -> Inner:
    """Make ``pairs(a, b)``: the sums of neighbours, those of ``a`` in the lower half."""
    v = target.v

    @target.jit
    def pairs(a, b):
        return v.even(a, b) + v.odd(a, b)

    return pairs


def lane_sums(names: list[str]) -> str:
    """Source of the vector of the sums over the lanes of LANES vectors, by ``pairs``, pairs of pairs and so on."""
    while len(names) > 1:
        names = [f"pairs({x}, {y})" for x, y in zip(names[::2], names[1::2], strict=True)]
    return names[0]


def dot_tile_rows(target: Target) -> int:
    """Rows of the tile of dot products: with its columns it fills the registers, of which the outer tile tells."""
    return 6 if target.rows == 8 else 3


def dot_products(target: Target) -> Inner:
    """Make ``dot_products(depth, a, lda, b, ldb, c, ldc, rows, columns)`` for any numbers of rows and columns.

    c[row][column] += sum over p of a[row][p] * b[column][p]; nothing else is read or written.
    """
    v = target.v
    lanes = v.lanes
    tile_rows, tile_columns = dot_tile_rows(target), min(4, lanes)
    rows, columns = range(tile_rows), range(tile_columns)
    rows_per_vector = lanes // tile_columns

    def steps(load: str) -> list[str]:
        lines = [f"        a{i} = {load.format(f'a{i}_')}" for i in rows]
        for j in columns:
            lines += [f"        b = {load.format(f'b{j}_')}"]
            lines += [f"        s{i}_{j} = v.fma(a{i}, b, s{i}_{j})" for i in rows]
        return lines

    lines = ["def dot_tile(depth, a, lda, b, ldb, c, ldc, rows, columns):"]
    # rows past the edge repeat the last one, and their sums are dropped
    lines += [f"    a{i}_ = v.advance(a, min({i}, rows - 1) * lda)" for i in rows]
    lines += [f"    b{j}_ = v.advance(b, min({j}, columns - 1) * ldb)" for j in columns]
    lines += [f"    s{i}_{j} = v.zero()" for i in rows for j in columns]
    lines += [f"    whole = depth - depth % {lanes}"]
    lines += [f"    for p in range(0, whole, {lanes}):"]
    lines += steps("v.load({}, p)")
    lines += ["    rest = depth - whole"]
    lines += ["    if rest > 0:"]
    lines += steps("v.load_partial(v.advance({}, whole), rest)")
    # the sums of a few rows at a time are gathered in one vector
    for first in range(0, tile_rows, rows_per_vector):
        gathered = [
            f"s{i}_{j}" if i < tile_rows else "v.zero()"
            for i in range(first, first + rows_per_vector) for j in columns
        ]  # fmt: skip
        lines += [f"    totals = {lane_sums(gathered)}"]
        for i in range(first, min(first + rows_per_vector, tile_rows)):
            lines += [f"    if {i} < rows:"]
            lines += [f"        to = v.advance(c, {i} * ldc)"]
            lines += [f"        n = min(columns, {tile_columns})"]
            lines += [f"        v.store_partial(to, v.load_partial(to, n) + row{i - first}(totals, totals), n)"]
    rotations = {
        f"row{i}": v.shuffle(tuple((lane + i * tile_columns) % lanes for lane in range(lanes)))
        for i in range(rows_per_vector)
    }
    tile = target.call(define("dot_tile", lines, v=v, pairs=pair_sums(target), **rotations))

    def dot_products(depth, a, lda, b, ldb, c, ldc, rows, columns):
        for row in range(0, rows, tile_rows):
            for column in range(0, columns, tile_columns):
                tile(
                    depth, v.advance(a, row * lda), lda, v.advance(b, column * ldb), ldb,
                    v.advance(c, row * ldc + column), ldc, rows - row, columns - column,
                )  # fmt: skip

    return target.jit(dot_products)


def gemm_tile(target: Target) -> Callable[..., None]:
    """Make the outer-product tile on its own, for tests and benchmarks."""
    v = target.v
    f = abi.fields("gemm_tile")
    tile = gemm_rows(target)

    def kernel(args, scratch, begin, end):
        for _ in range(begin, end):
            tile(
                args[f.depth], v.pointer(args[f.a]), args[f.lda], v.pointer(args[f.b]), args[f.ldb],
                v.pointer(args[f.c]), args[f.ldc], args[f.bias], args[f.rows], args[f.columns],
                args[f.accumulate] != 0,
            )  # fmt: skip

    return kernel


def dot_tile(target: Target) -> Callable[..., None]:
    """Make the dot-product tile on its own, for tests and benchmarks."""
    v = target.v
    f = abi.fields("dot_tile")
    products = dot_products(target)

    def kernel(args, scratch, begin, end):
        for _ in range(begin, end):
            products(
                args[f.depth], v.pointer(args[f.a]), args[f.lda], v.pointer(args[f.b]), args[f.ldb],
                v.pointer(args[f.c]), args[f.ldc], args[f.rows], args[f.columns],
            )  # fmt: skip

    return kernel


def peak(target: Target) -> Callable[..., None]:
    """Make fused multiply-adds on registers alone: what the machine can do."""
    v = target.v
    f = abi.fields("peak")
    sums = [f"s{i}" for i in range(target.rows * target.vectors)]
    lines = ["def kernel(args, scratch, begin, end):"]
    lines += ["    out = v.pointer(args[f.out])"]
    lines += ["    x, y = v.broadcast(out[0]), v.broadcast(out[1])"]
    lines += [f"    {s} = v.load(out, {i * v.lanes})" for i, s in enumerate(sums)]
    lines += ["    for _ in range((end - begin) * args[f.depth]):"]
    lines += [f"        {s} = v.fma({s}, x, y)" for s in sums]
    lines += [f"    v.store(out, {i * v.lanes}, {s})" for i, s in enumerate(sums)]
    return define("kernel", lines, v=v, f=f)
