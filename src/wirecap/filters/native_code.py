"""Makes machine code of a filter program, by LLVM; imported only for programs whose code is not kept."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from wirecap.filters import opcodes as op
from wirecap.filters.metadata import asks_for
from wirecap.filters.native_scalar import build_match
from wirecap.filters.native_vector import build_group, shared_module
from wirecap.filters.program import Program
from wirecap.kernels.base.image import Image
from wirecap.kernels.base.linker import link

VECTOR_LIMIT = 256
"""Instructions up to which a program is compiled for 16 packets at a time; longer ones take long to compile."""

LONG = 4096
"""Instructions from which on a program is compiled in haste, in a time that grows with its length only: the code is
slower, and still several times faster than libpcap's interpreter."""

# LLVM's whole pipeline takes five times as long, and the code is no faster.
_PASSES = ("always_inliner", "sroa", "simplify_cfg", "instruction_combine", "new_gvn", "aggressive_dce")
_HASTY_PASSES = ("sroa",)


def compile_program(program: Program) -> Image:
    """The code of ``match`` and, where packets can be tested by 16, ``test``; it imports table0, table1, ..."""
    module = ir.Module("filter")
    module.triple = llvm.get_process_triple()
    build_match(module, program)
    by_lanes = not (program.loops or program.sets or asks_for(program, op.PACKET_TYPE))
    grouped = by_lanes and len(program) <= VECTOR_LIMIT
    if grouped:
        build_group(module, program)
    code = llvm.parse_assembly(str(module))
    if grouped:
        code.link_in(llvm.parse_assembly(shared_module()))
    hasty = len(program) > LONG
    target = machine(0 if hasty else 2)
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=2))
    passes = llvm.create_new_module_pass_manager()
    for name in _HASTY_PASSES if hasty else _PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(code, builder)
    return link(target.emit_object(code), {name: name for name in (("match", "test") if grouped else ("match",))})


def machine(optimise: int = 2) -> Any:
    """What LLVM makes code for: this host, at any place.  optimise: the level of code generation, 0 to 3."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=optimise, reloc="pic", codemodel="small"
    )
