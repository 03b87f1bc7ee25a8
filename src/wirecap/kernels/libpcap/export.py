"""From functions of this folder to the code of a shared object: what it exports, and what it passes on.

Two kinds of functions are exported.  One is written here and compiled by Numba.  The other only passes a call on to
the real libpcap, with the handle that the real one knows in place of the program's.  Neither needs Python, or Numba's
run-time, once it is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wirecap.kernels.base.image import Image
from wirecap.kernels.base.jit import compiler, external, inline
from wirecap.kernels.base.kinds import i64
from wirecap.kernels.base.later import llvm
from wirecap.kernels.base.linker import link

ARGUMENTS = 6
"""No function of libpcap has more; each is an integer or a pointer, which travel in registers of their own."""

_exports: dict[str, tuple[Any, int]] = {}
_called: set[str] = set()


def export(name: str, arguments: int) -> Callable[[Callable[..., Any]], Any]:
    """A function of the shared object, with this many arguments; it returns an int64."""

    def decorate(function: Callable[..., Any]) -> Any:
        _exports[name] = (inline(function), arguments)
        return _exports[name][0]

    return decorate


def real(name: str) -> Any:
    """The real libpcap's function of this name, for the code here; it takes ARGUMENTS arguments."""
    _called.add(name)
    return external(f"real.{name}", i64(*[i64] * ARGUMENTS))


_REAL = """
@slot.{name} = internal global ptr null
@name.{name} = internal constant [{size} x i8] c"{name}\\00"
define internal i64 @real.{name}(i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f) {{
  %known = load atomic ptr, ptr @slot.{name} acquire, align 8
  %is_known = icmp ne ptr %known, null
  br i1 %is_known, label %call, label %find
find:
  %found = call ptr @dlsym(i64 -1, ptr @name.{name})
  store atomic ptr %found, ptr @slot.{name} release, align 8
  %is_found = icmp ne ptr %found, null
  br i1 %is_found, label %call, label %none
call:
  %function = phi ptr [ %known, %0 ], [ %found, %find ]
  %result = tail call i64 %function(i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f)
  ret i64 %result
none:
  ret i64 0
}}
"""  # RTLD_NEXT is -1

_PASSED_ON = """
define i64 @{name}(i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f) {{
  %handle = call i64 @wirecap.known_as(i64 %a)
  %result = tail call i64 @real.{name}(i64 %handle, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f)
  ret i64 %result
}}
"""


def _written(name: str, helper: Any, arguments: int) -> tuple[str, str]:
    """(LLVM IR of the compiled function and what it calls, IR of the C function around it)"""
    code, inner = compiler().llvm_code(helper, i64(*[i64] * arguments))
    given = ", ".join(f"i64 %a{i}" for i in range(arguments))
    wrapper = f"""
declare i32 @{_quoted(inner)}(ptr, ptr{", i64" * arguments})
define i64 @{name}({given}) {{
  %result = alloca i64
  %failure = alloca ptr
  %status = call i32 @{_quoted(inner)}(ptr %result, ptr %failure{", " if given else ""}{given})
  %value = load i64, ptr %result
  ret i64 %value
}}
"""
    return code, wrapper


def _quoted(name: str) -> str:
    return f'"{name}"'


def image(passed_on: list[str], page: int) -> Image:
    """The code for this kind of processor, with the functions that are exported as its entries.

    passed_on: functions whose first argument is a handle.  page: the linker's.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(opt=2, reloc="pic", codemodel="small")
    parts = [_written(name, *what) for name, what in sorted(_exports.items())]
    module = llvm.parse_assembly(parts[0][0])
    for inner, _ in parts[1:]:
        module.link_in(llvm.parse_assembly(inner))
    for _, wrapper in parts:
        module.link_in(_parsed(wrapper, module))
    glue = "declare ptr @dlsym(i64, ptr)\ndeclare i64 @wirecap.known_as(i64)\n"
    glue += "".join(_REAL.format(name=name, size=len(name) + 1) for name in sorted({*passed_on, *_called}))
    glue += "".join(_PASSED_ON.format(name=name) for name in sorted(passed_on))
    # The real functions are called from both sides: external until everything is linked.
    module.link_in(_parsed(glue.replace("define internal i64 @real.", "define i64 @real."), module))
    exported = {*_exports, *passed_on} - {"wirecap.known_as"}
    _hide(module, exported)
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    passes = llvm.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)
    module.triple = target.triple
    return link(machine.emit_object(module), {name: name for name in sorted(exported)}, page)


def _parsed(code: str, like: Any) -> Any:
    module = llvm.parse_assembly(code)
    module.triple, module.data_layout = like.triple, like.data_layout
    return module


def _hide(module: Any, kept: set[str]) -> None:
    """Let nothing but what is exported have a name outside."""
    for one in [*module.functions, *module.global_variables]:
        if not one.is_declaration and one.name not in kept:
            one.linkage = "internal"
            one.visibility = "default"
