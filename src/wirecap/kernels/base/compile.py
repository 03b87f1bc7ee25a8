"""Compiles kernels: Numba's part of it, the function that Python calls, and the object code.

The one module of base/ that imports Numba: a run that finds all its kernels in the cache never gets here.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import NumbaExperimentalFeatureWarning
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.typing.typeof import typeof_impl
from numba.extending import intrinsic as numba_intrinsic
from numba.np.arrayobj import populate_array

from wirecap.kernels.base.call import ELEMENT_MASK, FAILED, element_word
from wirecap.kernels.base.image import Image
from wirecap.kernels.base.jit import CHECKED, Compiled, Helper, Kernel
from wirecap.kernels.base.kinds import Array, Kind, Record, Scalar, Signature, boolean, none
from wirecap.kernels.base.linker import link

warnings.filterwarnings("ignore", category=NumbaExperimentalFeatureWarning)  # first-class functions

_WORD, _HALF = ir.IntType(64), ir.IntType(32)
_POINTER = _WORD.as_pointer()


def kind_of(kind: Kind) -> Any:
    """Numba's type."""
    if isinstance(kind, Array):
        return types.Array(kind_of(kind.element), kind.dimensions, "C")
    if isinstance(kind, Record):
        return types.BaseTuple.from_types([kind_of(field) for field in kind.fields], kind.make)
    return types.void if kind is none else types.boolean if kind is boolean else getattr(types, kind.name)


def signature_of(signature: Signature) -> Any:
    """Numba's signature."""
    return kind_of(signature.result)(*map(kind_of, signature.arguments))


@typeof_impl.register(Compiled)
def _typeof_compiled(value: Compiled, context: Any) -> Any:
    """What a name in a kernel stands for."""
    return cpu_target.typing_context.resolve_value_type(value.resolve())


@typeof_impl.register(Scalar)
def _typeof_scalar(value: Scalar, context: Any) -> Any:
    """A conversion."""
    return types.NumberClass(kind_of(value))


class _Library(JITCodeLibrary):  # type: ignore[misc]
    """LLVM code of which no machine code is made: helpers are compiled into their callers."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@contextmanager
def _without_machine_code() -> Iterator[None]:
    codegen = cpu_target.target_context.codegen()
    codegen._library_class, codegen.set_env = _Library, lambda name, environment: None
    try:
        yield
    finally:
        del codegen._library_class, codegen.set_env


def dispatcher(function: Any, **options: Any) -> Any:
    """A function for Numba without the wrappers through which Python calls.

    Kernels allocate nothing, so they need no Numba run-time, which would count array references at every call.
    """
    given = {"nopython": True, "nogil": True, "_nrt": False, "boundscheck": CHECKED or None, **options}
    return CPUDispatcher(
        py_func=function, targetoptions={**given, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    )


def callable_from_python(helper: Helper) -> Any:
    """A function that Python calls, and which calls the helper."""
    return numba.njit(lambda *arguments: helper(*arguments), nogil=True, _nrt=False)


def intrinsic(function: Any) -> Any:
    made = numba_intrinsic(function)
    cpu_target.typing_context.refresh()
    return made


def external(name: str, signature: Signature) -> Any:
    return types.ExternalFunction(name, signature_of(signature))


@contextmanager
def _few_collections() -> Iterator[None]:
    """Compiling makes objects by the million and few cycles: looking for cycles less often saves an eighth of it."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def compile_kernel(kernel: Kernel) -> Image:
    """The code of an entry point: "call" is what Python calls (base/call.py), "function" what compiled code does."""
    wanted = signature_of(kernel.signature)
    with global_compiler_lock, _few_collections(), _without_machine_code():
        compiled = kernel.resolve()
        compiled.compile(wanted)
        result = compiled.overloads[wanted.args]
        module = _caller(result).clone()
        module.link_in(result.library._final_module.clone())
    name = result.fndesc.llvm_func_name
    return _image(module, {"call": _CALL, "function": name})


def llvm_code(helper: Helper, signature: Signature) -> tuple[str, str]:
    """The LLVM code of a helper and of all that it calls, and the name of its function there."""
    wanted = signature_of(signature)
    with global_compiler_lock, _few_collections(), _without_machine_code():
        compiled = helper.resolve()
        compiled.compile(wanted)
        result = compiled.overloads[wanted.args]
    return str(result.library._final_module), result.fndesc.llvm_func_name


_CALL = "wirecap_call"


def _caller(result: Any) -> Any:
    """LLVM code of the function that Python calls."""
    context, wanted = cpu_target.target_context, result.signature
    library = context.codegen().create_library(_CALL)
    module = context.create_module(_CALL)
    function = ir.Function(module, ir.FunctionType(_WORD, [_POINTER, _POINTER]), _CALL)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    reader = _Reader(context, builder, *function.args)
    arguments = [reader.read(kind) for kind in wanted.args]
    kind = context.call_conv.get_function_type(wanted.return_type, wanted.args)
    target = cgutils.get_or_insert_function(module, kind, result.fndesc.llvm_func_name)
    status, value = context.call_conv.call_function(builder, target, wanted.return_type, wanted.args, arguments)
    reader.stop_if(status.is_error, builder.ptrtoint(status.excinfoptr, _WORD))
    nothing = wanted.return_type == types.none
    builder.ret(_WORD(0) if nothing else context.cast(builder, value, wanted.return_type, types.int64))
    library.add_ir_module(module)
    return library._final_module


class _Reader:
    """Emits code that reads arguments from a block of words (base/call.py)."""

    def __init__(self, context: Any, builder: Any, words: Any, problem: Any) -> None:
        self.context, self.builder, self.words, self.problem = context, builder, words, problem
        self.taken = 0
        self.arrays = 0
        self.array_class = self._next(_WORD)

    def _next(self, kind: Any) -> Any:
        place = self.builder.gep(self.words, [_WORD(self.taken)])
        self.taken += 1
        return self.builder.load(self.builder.bitcast(place, kind.as_pointer()))

    def stop_if(self, condition: Any, problem: Any) -> None:
        with cgutils.if_unlikely(self.builder, condition):
            self.builder.store(problem, self.problem)
            self.builder.ret(_WORD(FAILED))

    def read(self, kind: Any) -> Any:
        """The next argument, of a Numba type."""
        if isinstance(kind, types.BaseTuple):
            return self.context.make_tuple(self.builder, kind, [self.read(field) for field in kind.types])
        if isinstance(kind, types.Array):
            return self._array(kind)
        if isinstance(kind, types.Float):
            return self._next(ir.DoubleType())
        return self.context.cast(self.builder, self._next(_WORD), types.int64, kind)

    def _array(self, kind: Any) -> Any:
        """An array from the address of its object: PyArrayObject_fields of NumPy's ndarraytypes.h."""
        self.arrays += 1
        b, number, head = self.builder, _WORD(self.arrays), object.__basicsize__
        item = self._next(_WORD)

        def field(at: int, of: Any = _WORD, base: Any = item) -> Any:
            return b.load(b.inttoptr(b.add(base, _WORD(at)), of.as_pointer()))

        self.stop_if(b.icmp_unsigned("!=", field(head - 8), self.array_class), number)  # the object's class
        fits = b.and_(
            b.icmp_unsigned("==", field(head + 8, _HALF), _HALF(kind.ndim)),
            b.icmp_unsigned("==", b.and_(field(head + 48, _HALF), _HALF(_FLAGS)), _HALF(_FLAGS)),
        )
        element = b.and_(field(head + 8, base=field(head + 40)), _WORD(ELEMENT_MASK))
        wanted = _WORD(element_word(np.dtype(str(kind.dtype))))
        fits = b.and_(fits, b.icmp_unsigned("==", element, wanted))
        self.stop_if(b.not_(fits), number)
        made = self.context.make_array(kind)(self.context, b)
        sizes = ir.ArrayType(_WORD, kind.ndim)
        shape, strides = (b.load(b.inttoptr(field(head + at), sizes.as_pointer())) for at in (16, 24))
        data = b.inttoptr(field(head), self.context.get_data_type(kind.dtype).as_pointer())
        populate_array(made, data, shape, strides, _WORD(kind.dtype.bitwidth // 8), None)
        return made._getvalue()


_FLAGS = 0x0001 | 0x0100 | 0x0400  # NPY_ARRAY_C_CONTIGUOUS, _ALIGNED, _WRITEABLE


@cache
def _target() -> Any:
    """What emits object code: for this processor, as Numba's own, but to be put anywhere."""
    codegen = cpu_target.target_context.codegen()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=codegen._get_host_cpu_name(), features=codegen._tm_features, opt=config.OPT, reloc="pic", codemodel="small"
    )


def has_feature(name: str) -> bool:
    """Whether code is made for processors that have a feature, by LLVM's name."""
    return f"+{name}" in cpu_target.target_context.codegen()._tm_features.split(",")


def _image(module: Any, exported: dict[str, str]) -> Image:
    """The machine code of an LLVM module."""
    for function in module.functions:
        if not function.is_declaration and function.name not in exported.values():
            function.linkage = "internal"
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(_target(), llvm.create_pipeline_tuning_options()))
    return link(_target().emit_object(module), exported)
