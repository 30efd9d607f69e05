"""From a kernel's Python function to object code, by way of Numba's front end and our own run of LLVM's passes.

Numba types the function and writes LLVM IR; :class:`Inner` functions are always inlined. Numba's own back end would
optimise and assemble every one of them by itself, twice, and add wrappers for Python: here the whole kernel is
optimised once and becomes one C function without references to Python. What is left of the time is Numba's front end,
of which a third went into typing the same calls of operators again and again, and a fifth into passes for what kernels
do not have: closures, ``with``, array expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llvmlite import binding as llvm
from llvmlite import ir
from numba.core import codegen, cpu, typed_passes, types, untyped_passes
from numba.core.compiler import CompilerBase, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.datamodel import models
from numba.core.registry import cpu_target
from numba.core.typing.templates import signature
from numba.core.utils import pysignature
from numba.extending import register_model, typeof_impl

from convforge.kernels.numba import simd
from convforge.kernels.numba.simd_emit import kernel_call

if TYPE_CHECKING:
    from convforge.kernels.numba.compile import Cpu
    from convforge.runtime.machine import Tile

#: Makes the Python function of a kernel for a :class:`Target`.
Factory = Callable[..., Callable[..., None]]

# args, scratch (as an address), begin, end
_KERNEL_TYPES = (types.CPointer(types.int64), types.int64, types.int64, types.int64)


@dataclass(frozen=True, slots=True)
class Target:
    """What a factory function makes its kernel for.

    Attributes
    ----------
    dtype
        "float32" or "float64".
    lanes, vectors, rows
        The register tile: ``rows`` x ``vectors`` accumulators of ``lanes`` elements.
    v
        The vector vocabulary for this dtype and these lanes (see :mod:`.simd`).
    """

    dtype: str
    lanes: int
    vectors: int
    rows: int
    v: Any

    @property
    def group(self) -> int:
        """The fewest rows, or lanes, that are both whole vectors and whole tiles."""
        return max(self.lanes, self.rows)

    def jit(self, function: Callable[..., Any]) -> Inner:
        """Decorator: a function that kernels, and other such functions, may call; it is inlined there."""
        return Inner(function, inline=True)

    def call(self, function: Callable[..., Any]) -> Inner:
        """Decorator: the same, but never inlined: for large functions with several callers or precious registers."""
        return Inner(function, inline=False)

    def kernel(self, name: str) -> Any:
        """``kernel(fields, scratch, begin, end)``, which calls the kernel ``name`` with its arguments as a tuple."""
        return kernel_call(name)


class Inner:
    """A Python function that compiled code may call."""

    def __init__(self, function: Callable[..., Any], inline: bool) -> None:
        self.function = function
        self.inline = inline
        self._signatures: dict[tuple[types.Type, ...], Any] = {}
        self._parameters = pysignature(function)

    def signature(self, args: tuple[types.Type, ...], keywords: dict[str, types.Type]) -> Any:
        """Numba's signature for a call with these types; compiles the function for them at the first such call."""
        bound = self._parameters.bind(*args, **keywords)
        if self._parameters.parameters.keys() != bound.arguments.keys():
            raise TypeError(f"{self.function.__name__} takes all of its arguments, and no defaults")
        actual = tuple(types.unliteral(t) for t in bound.args)
        if actual not in self._signatures:
            result = _lower(self.function, actual, None, self.inline)
            if not self.inline:
                _kept_apart.append(result.fndesc.llvm_func_name)
            _context().insert_user_function((self, actual), result.fndesc, [result.library])
            self._signatures[actual] = signature(result.signature.return_type, *actual)
        return self._signatures[actual].replace(pysig=self._parameters)


class _InnerType(types.Callable, types.Dummy):
    def __init__(self, inner: Inner) -> None:
        self.inner = inner
        super().__init__(f"inner({inner.function.__qualname__}, {id(inner)})")

    def get_call_type(self, context: Any, args: Any, kws: Any) -> Any:
        return self.inner.signature(tuple(args), dict(kws))

    def get_call_signatures(self) -> tuple[list[Any], bool]:
        return [], True

    def get_impl_key(self, sig: Any) -> Any:
        return self.inner, sig.args


register_model(_InnerType)(models.OpaqueModel)


@typeof_impl.register(Inner)
def _(value: Inner, context: Any) -> _InnerType:
    return _InnerType(value)


class _Library(codegen.AOTCodeLibrary):
    """LLVM IR that is only collected: the passes run once, over the whole kernel."""

    def _optimize_functions(self, module: llvm.ModuleRef) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass


class _Codegen(codegen.AOTCPUCodegen):
    _library_class = _Library


class _Typing:
    """Numba's rules of types; what they made of a call of an operator or an intrinsic is not worked out again."""

    def __init__(self, rules: Any) -> None:
        self._rules = rules
        self._resolved: dict[tuple[Any, tuple[types.Type, ...]], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rules, name)

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        # a type that is not a plain function may answer otherwise next time
        if kws or (isinstance(func, types.Type) and not isinstance(func, types.Function)):
            return self._rules.resolve_function_type(func, args, kws)
        found = self._resolved.get((func, args))
        if found is None:
            found = self._rules.resolve_function_type(func, args, kws)
            self._resolved[func, args] = found
        return found


class _Compiler(CompilerBase):
    """Numba's front end, without passes for what kernels do not have."""

    def define_pipelines(self) -> list[PassManager]:
        passes = PassManager("kernel")
        for each in (
            untyped_passes.TranslateByteCode,
            untyped_passes.FixupArgs,
            untyped_passes.IRProcessing,
            untyped_passes.RewriteSemanticConstants,
            untyped_passes.DeadBranchPrune,
            untyped_passes.GenericRewrites,
            untyped_passes.ReconstructSSA,
            typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis,
            typed_passes.IRLegalization,
            typed_passes.AnnotateTypes,
            typed_passes.NativeLowering,
            typed_passes.NoPythonBackend,
        ):
            passes.add_pass(each, each.__name__)
        passes.finalize()
        return [passes]


_typing = _Typing(cpu_target.typing_context)

# Of the compilation in progress; Numba's compiler lock is held
_contexts: list[Any] = []
_kept_apart: list[str] = []


def _context() -> Any:
    return _contexts[-1]


def _lower(function: Callable[..., Any], args: tuple[types.Type, ...], result: types.Type | None, inline: bool) -> Any:
    flags = Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.forceinline = inline
    flags.error_model = "numpy"
    flags.fastmath = cpu.FastMathOptions({"contract"})
    return compile_extra(_typing, _context(), function, args, result, flags, {}, pipeline_class=_Compiler)


@global_compiler_lock
def object_code(factory: Factory, dtype: str, tile: Tile, target: Cpu) -> bytes:
    """Compile the kernel that ``factory`` makes for a dtype, a register tile and a CPU; the symbol is its name."""
    module = _module(factory, dtype, tile)
    machine = _machine(target)
    return bytes(machine.emit_object(_optimised(module, machine)))


@global_compiler_lock
def assembly(factory: Factory, dtype: str, tile: Tile, target: Cpu) -> str:
    """The same as text, to look for spilled registers."""
    module = _module(factory, dtype, tile)
    machine = _machine(target)
    return str(machine.emit_assembly(_optimised(module, machine)))


def _module(factory: Factory, dtype: str, tile: Tile) -> llvm.ModuleRef:
    """LLVM IR of a kernel and of all that it calls."""
    kernel = factory.__name__
    made = factory(Target(dtype, tile.lanes, tile.vectors, tile.rows, simd.vectors(dtype, tile.lanes)))
    base = cpu_target.target_context
    base.refresh()
    _typing.refresh()
    _contexts.append(base.subtarget(_internal_codegen=_Codegen(kernel), aot_mode=True))
    _kept_apart.clear()
    try:
        compiled = _lower(made, _KERNEL_TYPES, types.void, True)
        library = compiled.library
        library.add_ir_module(_entry(kernel, compiled, library))
        library.finalize()
    finally:
        _contexts.pop()
    module = library._final_module
    for function in module.functions:
        if not function.is_declaration and function.name != kernel:
            function.linkage = "internal"
            if function.name in _kept_apart:
                function.add_function_attribute("noinline")
    return module


def _entry(kernel: str, compiled: Any, library: Any) -> ir.Module:
    """The C function: calls the compiled one, and drops its status, which is always "returned"."""
    context = _context()
    module = library.create_ir_module(f"{kernel}.entry")
    i64 = ir.IntType(64)
    c_type = ir.FunctionType(ir.VoidType(), [i64.as_pointer(), ir.IntType(8).as_pointer(), i64, i64])
    function = ir.Function(module, c_type, kernel)
    builder = ir.IRBuilder(function.append_basic_block())
    args, scratch, begin, end = function.args
    callee = context.declare_function(module, compiled.fndesc)
    context.call_conv.call_function(
        builder, callee, types.void, _KERNEL_TYPES, [args, builder.ptrtoint(scratch, i64), begin, end]
    )
    builder.ret_void()
    return module


def _machine(target: Cpu) -> llvm.TargetMachine:
    triple = llvm.Target.from_triple(llvm.get_process_triple())
    return triple.create_target_machine(target.name, target.features, opt=3, reloc="pic", codemodel="default")


def _optimised(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    # Kernels are written in vectors: LLVM's loop vectoriser would only unroll their edges, at ten times the cost
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = False
    tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return module
