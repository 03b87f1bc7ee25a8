"""``wirecap`` under a clock that is set: what it reads of CLOCK_REALTIME is off by so many seconds as a file says.

The machine's clock stays as it is.  Python's ``time`` and the kernels' ``clock_gettime`` are replaced in the process;
what the Linux kernel stamps by a clock that is never set, as AF_XDP's packets, follows by what is measured.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from ctypes import addressof, c_int64
from pathlib import Path
from typing import Any

COMMAND = "import sys; sys.path.insert(0, sys.argv.pop(1)); import stepped_clock; stepped_clock.main()"
SECOND = 1_000_000_000
_kept: list[Any] = []
"""What the replaced functions use for as long as the process runs."""


def command(file: Path) -> list[str]:
    """``wirecap`` with the file's clock; ``set_clock`` writes the file, before and while it runs."""
    return [sys.executable, "-P", "-c", COMMAND, str(Path(__file__).parent), str(file)]


def set_clock(file: Path, seconds: int) -> None:
    """Put the clock forward, or with a negative number back, against the right time."""
    if not file.exists():
        file.write_bytes(bytes(8))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as memory:
        struct.pack_into("=q", memory, 0, seconds)


def main() -> None:
    """Replace the clock, then run ``wirecap`` with the arguments behind the file's name."""
    with Path(sys.argv.pop(1)).open("r+b") as opened:
        memory = mmap.mmap(opened.fileno(), 8)
    shift = c_int64.from_buffer(memory)
    now, now_ns = time.time, time.time_ns
    time.time, time.time_ns = lambda: now() + shift.value, lambda: now_ns() + shift.value * SECOND
    _replace_in_kernels(addressof(shift))
    _kept.append(shift)
    from wirecap.__main__ import main as wirecap

    wirecap()


def _replace_in_kernels(shift: int) -> None:
    from wirecap.kernels.base import image

    real = image._address_of
    replaced = _clock_gettime(real("clock_gettime"), shift)
    image._address_of = lambda name: replaced if name == "clock_gettime" else real(name)  # type: ignore[assignment]


def _clock_gettime(real: int, shift: int) -> int:
    """The address of a function that adds the seconds at an address to what the real one says of CLOCK_REALTIME."""
    import llvmlite.binding as llvm
    from llvmlite import ir

    word, half = ir.IntType(64), ir.IntType(32)
    kind = ir.FunctionType(half, [half, word.as_pointer()])
    module = ir.Module()
    function = ir.Function(module, kind, "set_clock_gettime")
    clock, place = function.args
    b = ir.IRBuilder(function.append_basic_block())
    status = b.call(b.inttoptr(word(real), kind.as_pointer()), [clock, place])
    seconds = b.load(b.inttoptr(word(shift), word.as_pointer()))
    is_real = b.icmp_signed("==", clock, half(time.CLOCK_REALTIME))
    b.store(b.add(b.load(place), b.select(is_real, seconds, word(0))), place)
    b.ret(status)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    _kept.append(engine)
    return engine.get_function_address(function.name)
