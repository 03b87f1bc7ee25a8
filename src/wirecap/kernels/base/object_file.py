"""Reads what LLVM emits: relocatable ELF objects of 64 bits, little-endian.

Source: the ELF specification (System V ABI, chapter 4).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

X86_64, AARCH64 = 62, 183  # e_machine
_RELOCATABLE = 1  # e_type
_SYMBOLS, _RELOCATIONS, _NO_BYTES, _UNWINDING = 2, 4, 8, 0x70000001  # sh_type
_WRITTEN, _ALLOCATED, _EXECUTED, _BY_THREAD = 1, 2, 4, 0x400  # sh_flags
_CALLED = (".init_array", ".fini_array", ".ctors", ".dtors")
"""Sections of functions to be called when code is loaded, and when it goes."""
UNDEFINED, COMMON = 0, 0xFFF2  # st_shndx


class Section(NamedTuple):
    """A piece of code or data."""

    name: str
    kind: int
    flags: int
    content: bytes
    """Zeros too, which the file leaves out."""
    alignment: int

    @property
    def kept(self) -> bool:
        """Whether it is in memory when code runs.  Nothing unwinds what is linked here: it returns codes."""
        return bool(self.flags & _ALLOCATED) and self.kind != _UNWINDING and self.name != ".eh_frame"

    @property
    def written(self) -> bool:
        """By the code, or before it runs, as addresses are."""
        return bool(self.flags & _WRITTEN)

    @property
    def executed(self) -> bool:
        return bool(self.flags & _EXECUTED)

    @property
    def special(self) -> bool:
        """Whether it needs more than a place: a copy for each thread, or calls."""
        return bool(self.flags & _BY_THREAD) or self.name.startswith(_CALLED)


class Symbol(NamedTuple):
    name: str
    section: int
    """Its number, or UNDEFINED or COMMON."""
    value: int
    """Where in its section; the alignment of a common symbol."""
    size: int


class Relocation(NamedTuple):
    """A place that depends on where a symbol is."""

    section: int
    offset: int
    kind: int
    symbol: Symbol
    addend: int


class ObjectFile(NamedTuple):
    machine: int
    sections: list[Section]
    symbols: list[Symbol]
    relocations: list[Relocation]


class _Row(NamedTuple):
    """A row of the table of sections."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry: int


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(0, at)].decode()


def read(data: bytes) -> ObjectFile:
    """Raises ValueError for any other file."""
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 16)[0] != _RELOCATABLE:
        raise ValueError("not a relocatable, little-endian ELF object of 64 bits")
    machine, table = struct.unpack_from("<18xH20xQ", data)
    size, count, names_at = struct.unpack_from("<58xHHH", data)
    rows = [_Row(*struct.unpack_from("<IIQQQQIIQQ", data, table + size * i)) for i in range(count)]
    contents = [bytes(row.size) if row.kind == _NO_BYTES else data[row.offset :][: row.size] for row in rows]
    sections = [
        Section(_text(contents[names_at], row.name), row.kind, row.flags, content, max(1, row.alignment))
        for row, content in zip(rows, contents, strict=True)
    ]
    symbols = [
        Symbol(_text(contents[row.link], name), section, value, length)
        for row, content in zip(rows, contents, strict=True)
        if row.kind == _SYMBOLS
        for name, _, section, value, length in struct.iter_unpack("<IHHQQ", content)
    ]
    relocations = [
        Relocation(row.info, offset, kind, symbols[symbol], addend)
        for row, content in zip(rows, contents, strict=True)
        if row.kind == _RELOCATIONS
        for offset, kind, symbol, addend in struct.iter_unpack("<QIIq", content)
    ]
    return ObjectFile(machine, sections, symbols, relocations)
