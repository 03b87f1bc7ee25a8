"""The bytes objects for the packets of a batch, made by native code: a loop in Python takes more than twice as long.

The function is no kernel: it is called with the GIL, and asks CPython for memory.  It calls functions of the stable
ABI, and knows nothing of how objects lie in memory.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from wirecap.filters.native_code import machine
from wirecap.kernels.base.image import Code
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.base.linker import link

_I8, _I32, _I64, _POINTER = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.PointerType()
_NULL = ir.Constant(_POINTER, None)
_OBJECT, _ADDRESS, _SIZE = ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t


def packets(arena: NDArray[np.uint8], address: NDArray[np.int64], captured: NDArray[np.uint32]) -> list[bytes]:
    """The bytes of each packet, arena[address[i] : address[i] + captured[i]]; the arrays are contiguous."""
    if PURE:
        pairs = zip(address.tolist(), captured.tolist(), strict=True)
        return [arena[start : start + length].tobytes() for start, length in pairs]
    make = ctypes.PYFUNCTYPE(_OBJECT, _ADDRESS, _ADDRESS, _ADDRESS, _SIZE)(_native().packets)
    found: list[bytes] = make(arena.ctypes.data, address.ctypes.data, captured.ctypes.data, len(address))
    return found


class _Native:
    """The addresses of the functions, as long as this lives."""

    def __init__(self) -> None:
        module = ir.Module("objects")
        module.triple = llvm.get_process_triple()
        _build_packets(module)
        code = machine().emit_object(llvm.parse_assembly(str(module)))
        self._code = Code(link(code, {"packets": "packets"}))
        self.packets = self._code.addresses["packets"]


@cache
def _native() -> _Native:
    return _Native()


def _api(module: ir.Module, name: str, result: Any, *arguments: Any) -> ir.Function:
    """A function of CPython's C API."""
    known = module.globals.get(name)
    return known or ir.Function(module, ir.FunctionType(result, arguments), name)


class _List:
    """A new list of n items: one pass of the body makes one of them."""

    def __init__(self, module: ir.Module, function: ir.Function, n: Any) -> None:
        names = ("begin", "test", "body", "fail", "end")
        begin, self._test, body, self._fail, self._end = (function.append_basic_block(name) for name in names)
        self._function, self._module, self.builder = function, module, ir.IRBuilder(begin)
        b = self.builder
        self._list = b.call(_api(module, "PyList_New", _POINTER, _I64), [n])
        b.cbranch(b.icmp_unsigned("==", self._list, _NULL), self._end, self._test)
        b.position_at_end(self._test)
        self.i = b.phi(_I64)
        self.i.add_incoming(ir.Constant(_I64, 0), begin)
        b.cbranch(b.icmp_signed("<", self.i, n), body, self._end)
        b.position_at_end(body)
        self._begin = begin

    def check(self, item: Any) -> None:
        """Go on if there is an item; else there is no memory, and the list is given up."""
        there = self._function.append_basic_block("there")
        self.builder.cbranch(self.builder.icmp_unsigned("==", item, _NULL), self._fail, there)
        self.builder.position_at_end(there)

    def put(self, item: Any) -> None:
        """Let the list have the item, whose reference it takes over, and return the list after the last one."""
        b = self.builder
        b.call(_api(self._module, "PyList_SetItem", _I32, _POINTER, _I64, _POINTER), [self._list, self.i, item])
        self.i.add_incoming(b.add(self.i, ir.Constant(_I64, 1)), b.block)
        b.branch(self._test)
        b.position_at_end(self._fail)
        b.call(_api(self._module, "Py_DecRef", ir.VoidType(), _POINTER), [self._list])
        b.branch(self._end)
        b.position_at_end(self._end)
        result = b.phi(_POINTER)
        for value, block in ((self._list, self._begin), (self._list, self._test), (_NULL, self._fail)):
            result.add_incoming(value, block)
        b.ret(result)


def _new_bytes(module: ir.Module, b: ir.IRBuilder, arena: Any, address: Any, captured: Any, i: Any) -> Any:
    start = b.load(b.gep(address, [i], source_etype=_I64), typ=_I64)
    length = b.zext(b.load(b.gep(captured, [i], source_etype=_I32), typ=_I32), _I64)
    place = b.gep(arena, [start], source_etype=_I8)
    return b.call(_api(module, "PyBytes_FromStringAndSize", _POINTER, _POINTER, _I64), [place, length])


def _build_packets(module: ir.Module) -> None:
    """packets(arena, address, captured, n) -> a list of bytes, or NULL with MemoryError set."""
    function = _api(module, "packets", _POINTER, _POINTER, _POINTER, _POINTER, _I64)
    arena, address, captured, n = function.args
    made = _List(module, function, n)
    packet = _new_bytes(module, made.builder, arena, address, captured, made.i)
    made.check(packet)
    made.put(packet)
