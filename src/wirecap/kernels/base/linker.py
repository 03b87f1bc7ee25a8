"""Turns an object file of LLVM's into an image that needs next to nothing done to be run.

LLVM makes position-independent code of the small code model, so few kinds of relocation occur.  Those within the
object are settled here; what is left for whoever loads the image are words that hold an address: one of the image
itself, or one of another library's function.

Sources: the System V ABI's supplements for x86-64 (section 4.4) and AArch64 (IHI 0056, 5.7).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from wirecap.kernels.base.image import Image
from wirecap.kernels.base.object_file import AARCH64, COMMON, UNDEFINED, X86_64, Relocation, Section, Symbol, read

_STUB_BYTES = 16


class _Machine(NamedTuple):
    """What differs between processors."""

    calls: frozenset[int]
    """Relocations of calls: those of other libraries' functions go through a stub, which jumps to what a slot says."""
    by_slot: frozenset[int]
    """Relocations that refer to a symbol's slot, a word that holds its address."""
    relocate: Callable[[_Linker, int, Relocation], None]
    """Settle a relocation at a place of the image."""
    stub: Callable[[_Linker, int, int], None]
    """Write the stub at a place, for the slot at another."""


class _Linker:
    def __init__(self, code: bytes) -> None:
        found = read(code)
        if found.machine not in _MACHINES:
            raise ValueError(f"an object for a processor that is not known: {found.machine}")
        self._machine = _MACHINES[found.machine]
        self._sections, self._symbols = found.sections, found.symbols
        self._relocations = [one for one in found.relocations if found.sections[one.section].kept]
        self._image = bytearray()
        self._places: dict[int, int] = {}
        """Where sections begin in the image."""
        self._common: dict[str, int] = {}
        """Where symbols are that have no section, by name."""
        self._slots: dict[Symbol, int] = {}
        self._stubs: dict[Symbol, int] = {}
        self._imports: list[tuple[int, str]] = []
        self._relative: list[int] = []
        self._executed = self._written = 0

    def link(self, exported: dict[str, str], page: int) -> Image:
        self._lay_out(page)
        for symbol, slot in self._slots.items():
            self.address(slot, symbol, 0)
        for symbol, stub in self._stubs.items():
            self._machine.stub(self, stub, self._slots[symbol])
        for one in self._relocations:
            self._machine.relocate(self, self._places[one.section] + one.offset, one)
        known = {symbol.name: symbol for symbol in self._symbols if symbol.section != UNDEFINED}
        entries = {short: self._place_of(known[name]) for short, name in exported.items()}
        code = bytes(self._image)
        return Image(entries, self._imports, self._relative, code, self._executed, self._written)

    def _lay_out(self, page: int) -> None:
        """Give everything its place: what is only read, then code, then what is written."""
        calls = [one.symbol for one in self._relocations if one.kind in self._machine.calls]
        stubs = dict.fromkeys(symbol for symbol in calls if symbol.section == UNDEFINED)
        by_slot = (one.symbol for one in self._relocations if one.kind in self._machine.by_slot)
        self._place(section for section in self._kept() if not section[1].written and not section[1].executed)
        self._executed = self._grow(0, page)
        self._place(section for section in self._kept() if section[1].executed)
        self._stubs = {symbol: self._grow(_STUB_BYTES, _STUB_BYTES) for symbol in stubs}
        self._written = self._grow(0, page)
        self._place(section for section in self._kept() if section[1].written)
        self._slots = {symbol: self._grow(8, 8) for symbol in dict.fromkeys([*stubs, *by_slot])}
        for symbol in self._symbols:
            if symbol.section == COMMON:
                self._common[symbol.name] = self._grow(symbol.size, symbol.value)

    def _kept(self) -> Iterable[tuple[int, Section]]:
        """Number and section of those that need a place."""
        for number, section in enumerate(self._sections):
            if section.kept:
                if section.special or (section.written and section.executed):
                    raise ValueError(f"a section of a kind that is not linked: {section.name}")
                yield number, section

    def _place(self, sections: Iterable[tuple[int, Section]]) -> None:
        for number, section in sections:
            self._places[number] = place = self._grow(len(section.content), section.alignment)
            self._image[place:] = section.content

    def _grow(self, size: int, alignment: int) -> int:
        """Room at the image's end; returns where."""
        place = -(-len(self._image) // alignment) * alignment
        self._image += bytes(place + size - len(self._image))
        return place

    def _place_of(self, symbol: Symbol) -> int:
        if symbol.section == UNDEFINED:
            raise ValueError(f"{symbol.name} is data of another library")
        if symbol.section == COMMON:
            return self._common[symbol.name]
        if symbol.section not in self._places:
            raise ValueError(f"{symbol.name} is in no section that is linked")
        return self._places[symbol.section] + symbol.value

    def target(self, one: Relocation) -> int:
        """Where a relocation leads to, which for a function of another library is its stub."""
        called = one.kind in self._machine.calls and one.symbol.section == UNDEFINED
        return (self._stubs[one.symbol] if called else self._place_of(one.symbol)) + one.addend

    def slot(self, symbol: Symbol) -> int:
        """The place of a word that holds the symbol's address."""
        return self._slots[symbol]

    def address(self, place: int, symbol: Symbol, addend: int) -> None:
        """Let the word at ``place`` hold the symbol's address."""
        if place < self._written:
            raise ValueError(f"the address of {symbol.name} is in what is not written")
        if symbol.section != UNDEFINED:
            self._relative.append(place)
            self.put(place, "<Q", self._place_of(symbol) + addend)
        elif addend:
            raise ValueError(f"{symbol.name} is used with an offset")
        else:
            self._imports.append((place, symbol.name))

    def put(self, place: int, layout: str, value: int) -> None:
        struct.pack_into(layout, self._image, place, value)

    def merge(self, place: int, bits: int) -> None:
        """Put bits into an instruction of 32 bits."""
        (instruction,) = struct.unpack_from("<I", self._image, place)
        self.put(place, "<I", instruction | bits)


def _relocate_x86_64(linker: _Linker, place: int, one: Relocation) -> None:
    match one.kind:
        case 1:  # R_X86_64_64
            linker.address(place, one.symbol, one.addend)
        case 2 | 4:  # PC32, PLT32
            linker.put(place, "<i", linker.target(one) - place)
        case 24:  # PC64
            linker.put(place, "<q", linker.target(one) - place)
        case 9 | 41 | 42:  # GOTPCREL, GOTPCRELX, REX_GOTPCRELX
            linker.put(place, "<i", linker.slot(one.symbol) + one.addend - place)
        case _:
            raise ValueError(f"unknown relocation {one.kind} of {one.symbol.name}")


def _stub_x86_64(linker: _Linker, stub: int, slot: int) -> None:
    linker.put(stub, "<H", 0x25FF)  # jmp *slot(%rip)
    linker.put(stub + 2, "<i", slot - (stub + 6))


def _page(target: int, place: int) -> int:
    """The immediate of ADRP."""
    pages = (target >> 12) - (place >> 12)
    return (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5


def _low(target: int, shift: int) -> int:
    """The immediate of an addition (shift 0), or of a load or store of 1 << shift bytes."""
    return (target & 0xFFF) >> shift << 10


_SHIFTS = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}  # ADD_ABS_LO12_NC, LDST8 to LDST128_ABS_LO12_NC


def _relocate_aarch64(linker: _Linker, place: int, one: Relocation) -> None:
    match one.kind:
        case 257:  # ABS64
            linker.address(place, one.symbol, one.addend)
        case 260:  # PREL64
            linker.put(place, "<q", linker.target(one) - place)
        case 261:  # PREL32
            linker.put(place, "<i", linker.target(one) - place)
        case 275:  # ADR_PREL_PG_HI21
            linker.merge(place, _page(linker.target(one), place))
        case 282 | 283:  # JUMP26, CALL26
            linker.merge(place, linker.target(one) - place >> 2 & 0x3FFFFFF)
        case 311:  # ADR_GOT_PAGE
            linker.merge(place, _page(linker.slot(one.symbol), place))
        case 312:  # LD64_GOT_LO12_NC
            linker.merge(place, _low(linker.slot(one.symbol), 3))
        case _ if one.kind in _SHIFTS:
            linker.merge(place, _low(linker.target(one), _SHIFTS[one.kind]))
        case _:
            raise ValueError(f"unknown relocation {one.kind} of {one.symbol.name}")


def _stub_aarch64(linker: _Linker, stub: int, slot: int) -> None:
    linker.put(stub, "<I", 0x90000010 | _page(slot, stub))  # adrp x16, slot
    linker.put(stub + 4, "<I", 0xF9400210 | _low(slot, 3))  # ldr x16, [x16, slot]
    linker.put(stub + 8, "<I", 0xD61F0200)  # br x16


_MACHINES = {
    X86_64: _Machine(frozenset({4}), frozenset({9, 41, 42}), _relocate_x86_64, _stub_x86_64),
    AARCH64: _Machine(frozenset({282, 283}), frozenset({311, 312}), _relocate_aarch64, _stub_aarch64),
}


def link(code: bytes, exported: dict[str, str], page: int = 1) -> Image:
    """The image of an object file.

    exported: names for symbols by which the image's entries are found.  page: the bytes on whose boundaries code and
    what is written begin, if they are to be protected one by one.  Raises ValueError for what is not known here.
    """
    return _Linker(code).link(exported, page)
