"""An image as an ELF shared object, which the dynamic loader reads.

It has what the loader needs and nothing else: no section headers, symbol versions, or debug information.  First come
the loader's tables, then the image on a page's boundary, then what the loader writes down for itself.  Three segments,
each on pages of its own: what is only read, code, and what is written.  The file is what memory will be, zeros too.
Sources: System V ABI, chapter 5; its supplements for x86-64 (4.4) and AArch64 (IHI 0056, 5.7).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from wirecap.kernels.base.image import Image

PAGE = 1 << 16
"""The largest page of the processors here; those of x86-64 have 4096 bytes."""

_SHARED = 3  # e_type
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551  # p_type
_READ, _EXECUTE, _WRITE = 4, 1, 2  # p_flags
_FUNCTION, _HERE = 0x12, 1  # st_info: global, of code; st_shndx: any section but the undefined one
_HASH, _STRINGS, _SYMBOLS, _RELOCATIONS, _RELOCATIONS_BYTES, _RELOCATION_BYTES = 4, 5, 6, 7, 8, 9  # d_tag
_STRINGS_BYTES, _SYMBOL_BYTES, _SONAME = 10, 11, 14
_HEADERS_BYTES = 64 + 5 * 56


class _Machine(NamedTuple):
    number: int
    """e_machine."""
    imported: int
    """The relocation of a word that holds a symbol's address (GLOB_DAT)."""
    relative: int
    """The relocation of a word that holds an address of the shared object itself."""


MACHINES = {"x86_64": _Machine(62, 6, 8), "aarch64": _Machine(183, 1025, 1027)}
"""By their names in uname(2)."""


def _round(value: int, to: int) -> int:
    return -(-value // to) * to


def _hash(name: bytes) -> int:
    """The hash function of the System V ABI."""
    value = 0
    for letter in name:
        value = (value << 4) + letter
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


def _hash_table(names: list[str]) -> bytes:
    """DT_HASH with one bucket for every second symbol; names: the symbol table's, the empty one first."""
    buckets, chains = [0] * max(1, len(names) // 2), [0] * len(names)
    for number, name in enumerate(names[1:], 1):
        bucket = _hash(name.encode()) % len(buckets)
        chains[number], buckets[bucket] = buckets[bucket], number
    return struct.pack(f"<{2 + len(buckets) + len(chains)}I", len(buckets), len(chains), *buckets, *chains)


def shared_object(image: Image, soname: str, machine: str) -> bytes:
    """The file.  It exports the image's entries, as functions; what the image imports is left to the loader.

    image: linked for pages of PAGE bytes.  machine: a key of MACHINES.
    """
    return _Writer(image, soname, MACHINES[machine]).file()


class _Writer:
    def __init__(self, image: Image, soname: str, machine: _Machine) -> None:
        self._image, self._machine = image, machine
        self._imported = sorted({name for _, name in image.imports})
        names = ["", *self._imported, *image.entries]
        self._hash = _hash_table(names)
        self._strings, self._name_at = b"", {}
        for name in [*names, soname]:
            self._name_at[name] = len(self._strings)
            self._strings += name.encode() + b"\0"
        self._soname = soname
        self._hash_at = _HEADERS_BYTES
        self._symbols_at = _round(self._hash_at + len(self._hash), 8)
        self._strings_at = self._symbols_at + 24 * len(names)
        self._relocations_at = _round(self._strings_at + len(self._strings), 8)
        self._relocations_bytes = 24 * (len(image.imports) + len(image.relative))
        self._image_at = _round(self._relocations_at + self._relocations_bytes, PAGE)
        self._dynamic_at = _round(self._image_at + len(image.code), 8)

    def file(self) -> bytes:
        dynamic = self._dynamic()
        made = bytearray(self._dynamic_at + len(dynamic))
        for at, piece in (
            (0, self._headers(len(made))), (self._hash_at, self._hash), (self._symbols_at, self._symbols()),
            (self._strings_at, self._strings), (self._relocations_at, self._relocations()),
            (self._image_at, self._image.code), (self._dynamic_at, dynamic),
        ):  # fmt: skip
            made[at : at + len(piece)] = piece
        return bytes(made)

    def _headers(self, end: int) -> bytes:
        header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        header += struct.pack("<HHIQQQIHHHHHH", _SHARED, self._machine.number, 1, 0, 64, 0, 0, 64, 56, 5, 64, 0, 0)
        code, written = self._image_at + self._image.executed, self._image_at + self._image.written
        segments = [
            (_LOAD, _READ, 0, code, PAGE),
            (_LOAD, _READ | _EXECUTE, code, written, PAGE),
            (_LOAD, _READ | _WRITE, written, end, PAGE),
            (_DYNAMIC, _READ | _WRITE, self._dynamic_at, end, 8),
            (_STACK, _READ | _WRITE, 0, 0, 16),
        ]
        rows = [(kind, flags, at, at, at, to - at, to - at, align) for kind, flags, at, to, align in segments]
        return header + b"".join(struct.pack("<IIQQQQQQ", *row) for row in rows)

    def _symbols(self) -> bytes:
        rows = [(0, 0, 0, 0, 0, 0)]
        rows += [(self._name_at[name], _FUNCTION, 0, 0, 0, 0) for name in self._imported]
        for name, offset in self._image.entries.items():
            rows.append((self._name_at[name], _FUNCTION, 0, _HERE, self._image_at + offset, 0))
        return b"".join(struct.pack("<IBBHQQ", *row) for row in rows)

    def _relocations(self) -> bytes:
        number = {name: i for i, name in enumerate(self._imported, 1)}
        rows = [(at, self._machine.imported, number[name], 0) for at, name in self._image.imports]
        for at in self._image.relative:
            (offset,) = struct.unpack_from("<Q", self._image.code, at)
            rows.append((at, self._machine.relative, 0, self._image_at + offset))
        return b"".join(struct.pack("<QIIq", self._image_at + at, *row) for at, *row in rows)

    def _dynamic(self) -> bytes:
        rows = [
            (_SONAME, self._name_at[self._soname]), (_HASH, self._hash_at), (_STRINGS, self._strings_at),
            (_SYMBOLS, self._symbols_at), (_STRINGS_BYTES, len(self._strings)), (_SYMBOL_BYTES, 24),
            (_RELOCATIONS, self._relocations_at), (_RELOCATIONS_BYTES, self._relocations_bytes),
            (_RELOCATION_BYTES, 24), (0, 0),
        ]  # fmt: skip
        return b"".join(struct.pack("<QQ", *row) for row in rows)
