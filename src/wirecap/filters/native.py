"""Filter programs as native code of this host, compiled in this process by LLVM."""

from __future__ import annotations

import threading
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir

from wirecap.filters.fetch import shared_module
from wirecap.filters.program import Program
from wirecap.filters.scalar import build_match
from wirecap.filters.vector import build_group
from wirecap.kernels import select as kernels
from wirecap.kernels.jit import PURE

VECTOR_LIMIT = 256
"""Instructions up to which a program is compiled for 16 packets at a time; longer ones take long to compile."""

# LLVM's whole pipeline takes five times as long, and the code is no faster.
_PASSES = ("always_inliner", "sroa", "simplify_cfg", "instruction_combine", "new_gvn", "aggressive_dce")

_lock = threading.Lock()


class NativeFilter:
    """A compiled filter: ``process`` (a kernel) with ``state`` (its int64 array).

    ``process(arena, address, captured, original, stamp, n, state)`` brings the descriptors that match to the
    front of the rows, in order, the others behind them, and returns how many match.  The code lives as long
    as this object: keep it while a kernel may run.  ``state`` is only read; threads may share it.
    """

    process = staticmethod(kernels.select)

    def __init__(self, program: Program) -> None:
        self.program = program
        self._engine: Any = None
        test, match = (0, 0) if PURE else self._compile()
        self.state = kernels.new_state(program.instructions, test, match, program.reads)

    def repeated(self, times: int) -> npt.NDArray[np.int64]:
        """A state for the kernel ``repeat``, which applies the filter ``times`` times to each packet."""
        state: npt.NDArray[np.int64] = self.state.copy()
        state[kernels.TIMES] = times
        return state

    def _compile(self) -> tuple[int, int]:
        """The addresses of ``test`` (0 where there is none) and ``match``."""
        module = ir.Module("filter")
        module.triple = llvm.get_process_triple()
        build_match(module, self.program)
        grouped = not self.program.loops and len(self.program) <= VECTOR_LIMIT
        if grouped:
            build_group(module, self.program)
        with _lock:
            code = llvm.parse_assembly(str(module))
            if grouped:
                code.link_in(llvm.parse_assembly(shared_module()))
            machine = _machine()
            builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
            passes = llvm.create_new_module_pass_manager()
            for name in _PASSES:
                getattr(passes, f"add_{name}_pass")()
            passes.run(code, builder)
            self._engine = llvm.create_mcjit_compiler(code, machine)
            self._engine.finalize_object()
            match = self._engine.get_function_address("match")
            return self._engine.get_function_address("test") if grouped else 0, match


def compile_native(program: Program) -> NativeFilter:
    """The program as native code."""
    return NativeFilter(program)


def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True)
