"""Plans: a problem bound to its algorithms, chosen once and called many times."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np

from convforge import device_call, registry
from convforge.arrays import check_array, check_indices, check_output
from convforge.device_arrays import describe, on_device, stream_handle
from convforge.operands import operand_shapes
from convforge.prepared_weight import PreparedWeight
from convforge.problem import ConvProblem, Problem
from convforge.reference_warning import warn_of_reference
from convforge.runtime import threads
from convforge.runtime.device_executor import DeviceExecutor
from convforge.runtime.executor import OPERANDS, Operands
from convforge.runtime.machine import machine

_verbose = os.environ.get("CONVFORGE_VERBOSE", "0") not in ("", "0")


class Plan:
    """A problem bound to one algorithm per pass. Made by :func:`plan`; threads may share it, and it pickles.

    Attributes
    ----------
    problem
        The problem it solves.
    passes
        The passes it was planned for; calling another raises ValueError.
    """

    def __init__(
        self,
        problem: Problem,
        passes: tuple[str, ...],
        algorithm: str = "auto",
        backend: str = "auto",
        tolerance: float | None = None,
        mode: str = "prepared",
    ) -> None:
        self.problem = problem
        self.passes = passes
        self._choice = (algorithm, backend, tolerance, mode)
        self._chosen = {p: registry.choose(problem, p, algorithm, backend, tolerance, mode) for p in passes}
        self._executors = {p: chosen.executor(problem, p) for p, chosen in self._chosen.items()}
        self._shapes = {p: operand_shapes(problem, p) for p in passes}
        self._results = {p: shapes["out"] for p, shapes in self._shapes.items()}
        self._with_indices = "indices" in self._shapes.get("forward", ())
        # what the packed layout depends on: a policy packs for a tile alike in every backend
        packers = (
            (p, each.name, each.backend in ("numpy", "cuda") and each.backend) for p, each in self._chosen.items()
        )
        self._weight_key = (problem, machine().isa, *packers)
        # the passes that run on a GPU: all or none, since auto takes none and a name takes its own
        self._on_gpu = {p: each for p, each in self._executors.items() if isinstance(each, DeviceExecutor)}
        if algorithm == backend == "auto" and any(each.name == "reference" for each in self._chosen.values()):
            warn_of_reference(problem)

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan, (self.problem, self.passes, *self._choice)

    def __repr__(self) -> str:
        chosen = ", ".join(f"{p}: {each}" for p, each in self._chosen.items())
        return f"<Plan {self.problem} {chosen}>"

    @property
    def algorithms(self) -> dict[str, tuple[str, str]]:
        """The (algorithm, backend) of each pass."""
        return {p: (each.name, each.backend) for p, each in self._chosen.items()}

    @property
    def workspace_bytes(self) -> int:
        """Bytes that its largest pass takes beyond its arrays, weights not prepared, at the present thread count."""
        workers = threads.get_num_threads()
        return max(each.workspace_bytes(workers, prepared=False) for each in self._executors.values())

    def explain(self) -> str:
        """Why these algorithms: for each pass every candidate with its modelled time, or the reason against it."""
        algorithm, backend, tolerance, mode = self._choice
        lines = [f"{self.problem}  (algorithm={algorithm}, backend={backend}, weights {mode})"]
        for pass_ in self.passes:
            lines.append(f"{pass_}: {self._chosen[pass_]}")
            for each in registry.candidates(self.problem, pass_, algorithm, backend, tolerance, mode):
                verdict = f"refused: {each.reason}" if each.reason else f"{each.cost * 1e6:10.1f} µs modelled"
                lines.append(f"  {each.algorithm!s:22} {verdict}")
        return "\n".join(lines)

    def prepare_weight(self, weight: Any, *, stream: Any = None) -> PreparedWeight:
        """Pack ``weight`` for the plan's forward and input-gradient passes.

        Parameters
        ----------
        weight
            Array of shape ``problem.weight_shape`` and the problem's dtype. With ``backend="cuda"`` it may be on a GPU;
            the snapshot is there in any case.
        stream
            With ``backend="cuda"``, the stream to do it on; as for calling the plan.

        Returns
        -------
        PreparedWeight

        Raises
        ------
        TypeError, ValueError
            ``weight`` has another dtype or shape, or the problem has no weight.
        """
        if not isinstance(self.problem, ConvProblem):
            raise ValueError(f"{self.problem} has no weight to prepare")
        if self._on_gpu and on_device(weight):
            check_array("weight", describe("weight", weight), self.problem.weight_shape, self.problem.dtype)
            reading = {p: each for p, each in self._on_gpu.items() if p != "grad_weight"}
            return PreparedWeight(self._weight_key, None, device_call.snapshot(reading, weight, stream))
        self._check_stream(stream)
        check_array("weight", weight, self.problem.weight_shape, self.problem.dtype)
        snapshot = np.array(weight, weight.dtype.newbyteorder("="), order="C")
        snapshot.flags.writeable = False
        packed: dict[str, Any] = {p: each.pack(snapshot) for p, each in self._executors.items() if p != "grad_weight"}
        return PreparedWeight(self._weight_key, snapshot, packed)

    def __call__(
        self,
        x: np.ndarray,
        weight: np.ndarray | PreparedWeight | None = None,
        bias: np.ndarray | None = None,
        *,
        out: np.ndarray | None = None,
        stream: Any = None,
    ) -> Any:
        """The forward pass.

        Parameters
        ----------
        x
            Input of shape ``problem.input_shape``.
        weight, bias
            Of a convolution: weight (an array or a prepared one) and optional bias of shape (k,). A pool has neither.
        out
            Where to write the result, of shape ``problem.output_shape``.
        stream
            With ``backend="cuda"``, the stream to work on: torch's, CuPy's, Numba's or an address. None is the one that
            the arrays' library works on now, for NumPy arrays the default stream. Results on a GPU are not waited for.

        Returns
        -------
        ndarray, or (ndarray, indices) for a max pool planned with indices
            With ``backend="cuda"`` and arrays on a GPU (torch, CuPy, Numba; anything with ``__cuda_array_interface__``
            or DLPack), arrays of the type of ``x``, on that GPU; nothing is copied.

        Raises
        ------
        TypeError, ValueError
            An array is missing, or of another dtype or shape than the problem's; ``out`` overlaps an input.
        """
        array, packed = self._unpack("forward", weight)
        if self._on_gpu and on_device(x):
            given = {"x": x, "weight": array, "bias": bias, "out": out}
            results = self._run_on_gpu("forward", given, packed, stream)
            return (results["out"], results["indices"]) if "indices" in results else results["out"]
        indices = np.empty(self.problem.output_shape, np.int64) if self._with_indices else None
        if out is None:
            out = self._result("forward")
        result = self._run("forward", out, (x, array, bias, out, None, indices), packed, stream)
        return result if indices is None else (result, indices)

    def grad_input(
        self,
        grad_output: np.ndarray,
        weight: np.ndarray | PreparedWeight | None = None,
        *,
        indices: np.ndarray | None = None,
        out: np.ndarray | None = None,
        stream: Any = None,
    ) -> np.ndarray:
        """The gradient by the input.

        Parameters
        ----------
        grad_output
            Gradient by the output, of shape ``problem.output_shape``.
        weight
            Of a convolution: the weight, an array or a prepared one.
        indices
            Of a max pool: the indices that its forward pass returned.
        out
            Where to write the result, of shape ``problem.input_shape``.
        stream
            As for calling the plan.

        Returns
        -------
        ndarray
            ``out``, or a new array; on a GPU as for calling the plan, of the type of ``grad_output``.

        Raises
        ------
        TypeError, ValueError
            An array is missing, or of another dtype or shape than the problem's; ``out`` overlaps an input.
        """
        array, packed = self._unpack("grad_input", weight)
        if self._on_gpu and on_device(grad_output):
            given = {"grad_output": grad_output, "weight": array, "indices": indices, "out": out}
            gradient: np.ndarray = self._run_on_gpu("grad_input", given, packed, stream)["out"]
            return gradient
        if indices is not None and "indices" in self._shapes.get("grad_input", ()):
            check_indices(indices, self.problem)
        if out is None:
            out = self._result("grad_input")
        return self._run("grad_input", out, (None, array, None, out, grad_output, indices), packed, stream)

    def grad_weight(
        self, x: np.ndarray, grad_output: np.ndarray, *, out: np.ndarray | None = None, stream: Any = None
    ) -> np.ndarray:
        """The gradient by the weight.

        Parameters
        ----------
        x, grad_output
            Input and gradient by the output, of the problem's shapes.
        out
            Where to write the result, of shape ``problem.weight_shape``.
        stream
            As for calling the plan.

        Returns
        -------
        ndarray
            ``out``, or a new array; on a GPU as for calling the plan.

        Raises
        ------
        TypeError, ValueError
            An array is of another dtype or shape than the problem's; ``out`` overlaps an input; a pool has no weight.
        """
        if self._on_gpu and on_device(x):
            given = {"x": x, "grad_output": grad_output, "out": out}
            gradient: np.ndarray = self._run_on_gpu("grad_weight", given, None, stream)["out"]
            return gradient
        if out is None:
            out = self._result("grad_weight")
        return self._run("grad_weight", out, (x, None, None, out, grad_output, None), None, stream)

    def _unpack(self, pass_: str, weight: np.ndarray | PreparedWeight | None) -> tuple[np.ndarray | None, Any]:
        """A weight as an array, and its packed form if it was prepared."""
        if not isinstance(weight, PreparedWeight):
            return weight, None
        if weight.key != self._weight_key or pass_ not in weight.packed:
            raise ValueError(
                f"weight was prepared by a plan of other algorithms or another problem; prepare it with {self!r}"
            )
        return weight.weight, weight.packed[pass_]

    def _result(self, pass_: str) -> np.ndarray:
        """An uninitialised array for the result of a pass."""
        if pass_ not in self._results:
            self._no_pass(pass_)
        return np.empty(*self._results[pass_])

    def _no_pass(self, pass_: str) -> NoReturn:
        registry.check_pass(self.problem, pass_)
        raise ValueError(f"this plan has no {pass_} pass: it was made with passes={self.passes}")

    def _run_on_gpu(self, pass_: str, given: dict[str, Any], packed: Any, stream: Any) -> dict[str, Any]:
        """One pass on arrays of a GPU: its results by name."""
        if pass_ not in self._on_gpu:
            self._no_pass(pass_)
        if packed is not None:
            given["weight"] = None
        return device_call.run(
            self.problem, pass_, self._on_gpu[pass_], self._shapes[pass_], given, packed, stream
        )  # fmt: skip

    def _check_stream(self, stream: Any) -> None:
        if stream is not None and not self._on_gpu:
            raise ValueError(f"stream is for backend='cuda', {self!r} runs on the CPU")

    def _run(self, pass_: str, out: np.ndarray, operands: Operands, packed: Any, stream: Any) -> np.ndarray:
        """One pass: straight to the kernels where every array is plain, else through checks and copies."""
        if pass_ not in self._executors:
            self._no_pass(pass_)
        executor = self._executors[pass_]
        call: Callable[..., None] = executor
        if not executor.plain(operands):
            self._check(pass_, operands, prepared=packed is not None)
            call = executor.call_with_copies
        if stream is not None:
            self._check_stream(stream)
            call = partial(call, stream=stream_handle(stream))
        if not _verbose:
            call(operands, packed)
            return out
        begin = time.perf_counter()
        call(operands, packed)
        seconds = time.perf_counter() - begin
        print(f"convforge: {self.problem} {pass_} {self._chosen[pass_]} {seconds * 1e6:.1f} µs", file=sys.stderr)
        return out

    def _check(self, pass_: str, operands: Operands, *, prepared: bool) -> None:
        """Raise for an operand that is missing, not wanted, or not what the pass takes, and for a bad ``out``."""
        shapes = self._shapes[pass_]
        for name, array in zip(OPERANDS, operands, strict=True):
            if name in shapes:
                # a weight that was prepared was checked, and may be on a GPU alone
                if array is not None or not (name == "bias" or (name == "weight" and prepared)):
                    check_array(name, array, *shapes[name])
            elif array is not None:
                raise ValueError(f"the {pass_} pass of {self.problem} takes no {name}")
        inputs = {name: array for name, array in zip(OPERANDS, operands, strict=True) if name != "out"}
        check_output(operands[OPERANDS.index("out")], *shapes["out"], inputs)


def plan(
    problem: Problem | str,
    *,
    passes: Sequence[str] = ("forward",),
    algorithm: str = "auto",
    backend: str = "auto",
    tolerance: float | None = None,
) -> Plan:
    """Choose algorithms for a problem once, to call them many times.

    Parameters
    ----------
    problem
        A problem, its string (``"n1c64k64i56x56f3x3p1"``) or a layer's name (``"resnet50:conv2_x"``).
    passes
        Which of "forward", "grad_input", "grad_weight" will be called.
    algorithm, backend
        Names, or "auto" for the least modelled cost (with prepared weights) within ``tolerance``.
    tolerance
        Largest admitted error, norm(y - exact) / norm(exact) on standard-normal data; None is 1e-5 for float32 and
        float16 (before the final rounding), 1e-13 for float64.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError, TypeError
        An argument is none of the above.
    UnsupportedProblem
        The algorithm or backend named does not do this problem; the message says why.

    Examples
    --------
    >>> import numpy as np, convforge as cf
    >>> p = cf.plan("n1c64k64i56x56f3x3p1")
    >>> weight = p.prepare_weight(np.ones(p.problem.weight_shape, np.float32))
    >>> p(np.ones(p.problem.input_shape, np.float32), weight).shape
    (1, 64, 56, 56)
    """
    problem = registry.as_problem(problem)
    registry.check_choice(algorithm, backend, tolerance)
    if isinstance(passes, str) or not isinstance(passes, Sequence):
        raise TypeError(f'passes must be a sequence of pass names such as ("forward",), got {passes!r}')
    if not passes:
        raise ValueError(f"passes must name at least one of {', '.join(problem.passes)}, got {passes!r}")
    for each in passes:
        registry.check_pass(problem, each)
    return Plan(problem, tuple(dict.fromkeys(passes)), algorithm, backend, tolerance)
