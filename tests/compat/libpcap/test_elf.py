"""Shared objects: what the linker makes of LLVM's objects, as files that the dynamic loader takes."""

from __future__ import annotations

import ctypes
import platform
import shutil
import struct
import subprocess
from itertools import pairwise

import llvmlite.binding as llvm
import pytest

from wirecap.compat.libpcap import elf
from wirecap.kernels.base.linker import link

HERE = platform.machine()
runs = pytest.mark.skipif(HERE not in elf.MACHINES, reason=f"no shared objects for {HERE}")
each = pytest.mark.parametrize("machine", elf.MACHINES)
FUNCTIONS = ("seven", "word_length", "distance", "count", "through_a_table", "shared_word")
RELATIVE, IMPORTED = {"x86_64": 8, "aarch64": 1027}, {"x86_64": 6, "aarch64": 1025}
READ, EXECUTE, WRITE = 4, 1, 2

CODE = """
@word = internal constant [8 x i8] c"capture\\00"
@table = constant [3 x ptr] [ptr @word, ptr @seven, ptr @abs]
@counter = internal global i64 0
@large = internal global [100000 x i8] zeroinitializer
@shared = common global i64 0, align 8
declare i64 @strlen(ptr)
declare i32 @abs(i32) nonlazybind
define i64 @seven() { ret i64 7 }
define i64 @word_length() {
  %text = load ptr, ptr @table
  %length = call i64 @strlen(ptr %text)
  ret i64 %length
}
define i32 @distance(i32 %a) {
  %b = call i32 @abs(i32 %a) nonlazybind
  ret i32 %b
}
define i64 @count() {
  %before = load i64, ptr @counter
  %after = add i64 %before, 1
  store i64 %after, ptr @counter
  %at = getelementptr i8, ptr @large, i64 99999
  store i8 1, ptr %at
  ret i64 %after
}
define i64 @through_a_table() {
  %slot = getelementptr ptr, ptr @table, i64 1
  %function = load ptr, ptr %slot
  %result = call i64 %function()
  ret i64 %result
}
define ptr @shared_word() { ret ptr @shared }
"""


def object_for(machine: str) -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = f"{machine}-unknown-linux-gnu"
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this LLVM makes no code for {machine}")
    module = llvm.parse_assembly(CODE)
    module.triple = triple
    return target.create_target_machine(reloc="pic", codemodel="small").emit_object(module)


def made_for(machine: str) -> bytes:
    image = link(object_for(machine), {name: name for name in FUNCTIONS}, elf.PAGE)
    return elf.shared_object(image, "made.so", machine)


class Parsed:
    """What a dynamic loader sees of a file whose places are those in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.kind, self.machine = struct.unpack_from("<HH", data, 16)
        at, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
        self.segments = [struct.unpack_from("<IIQQQQQQ", data, at + i * size) for i in range(count)]
        start, length = next((row[2], row[5]) for row in self.segments if row[0] == 2)  # PT_DYNAMIC
        self.dynamic = dict(struct.iter_unpack("<QQ", data[start : start + length]))
        table, size = self.dynamic[7], self.dynamic[8]
        self.relocations = list(struct.iter_unpack("<QIIq", data[table : table + size]))

    def text(self, at: int) -> str:
        start = self.dynamic[5] + at
        return self.data[start : self.data.index(0, start)].decode()

    def symbol(self, number: int) -> tuple[str, int, int]:
        """(name, section, address)"""
        name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", self.data, self.dynamic[6] + 24 * number)
        return self.text(name), section, value

    def find(self, name: str) -> tuple[int, int]:
        """(section, address) of a symbol, found by DT_HASH."""
        value = 0
        for letter in name.encode():
            value = (value << 4) + letter
            value = (value ^ (value >> 24 & 0xF0)) & 0xFFFFFFF
        at = self.dynamic[4]
        buckets, _ = struct.unpack_from("<II", self.data, at)
        (number,) = struct.unpack_from("<I", self.data, at + 8 + 4 * (value % buckets))
        while number and self.symbol(number)[0] != name:
            (number,) = struct.unpack_from("<I", self.data, at + 8 + 4 * (buckets + number))
        return self.symbol(number)[1:]

    def protection(self, address: int) -> int:
        return next(row[1] for row in self.segments if row[0] == 1 and row[3] <= address < row[3] + row[6])


@runs
def test_a_linked_object_loads_and_runs(tmp_path):
    """Code, constants, tables of addresses, zeroed and common memory and calls into the C library work."""
    path = tmp_path / "made.so"
    path.write_bytes(made_for(HERE))
    made = ctypes.CDLL(str(path))
    made.shared_word.restype = ctypes.POINTER(ctypes.c_int64)
    assert made.seven() == 7
    assert made.word_length() == len("capture")
    assert made.distance(-5) == 5
    assert made.through_a_table() == 7
    assert [made.count() for _ in range(3)] == [1, 2, 3]
    made.shared_word()[0] = 9
    assert made.shared_word()[0] == 9
    assert not hasattr(made, "missing")


@each
def test_code_is_not_writable(machine):
    """No page is both written and executed, and the stack is not executed."""
    parsed = Parsed(made_for(machine))
    loaded = [row for row in parsed.segments if row[0] == 1]
    assert [row[1] for row in loaded] == [READ, READ | EXECUTE, READ | WRITE]
    assert all(row[3] % elf.PAGE == 0 and row[7] == elf.PAGE for row in loaded)
    assert all(before[3] + before[6] <= after[3] for before, after in pairwise(loaded))
    assert [row[1] for row in parsed.segments if row[0] == 0x6474E551] == [READ | WRITE]


@each
def test_what_the_loader_finds(machine):
    """Each function by its hash, in code; every word that it fills in is of a known kind, and in what is written."""
    parsed = Parsed(made_for(machine))
    assert (parsed.kind, parsed.machine) == (3, {"x86_64": 62, "aarch64": 183}[machine])
    assert parsed.text(parsed.dynamic[14]) == "made.so"
    for name in FUNCTIONS:
        section, address = parsed.find(name)
        assert section
        assert parsed.protection(address) == READ | EXECUTE
    assert parsed.find("missing") == (0, 0)
    assert parsed.find("strlen") == parsed.find("abs") == (0, 0)
    imported = {parsed.symbol(number)[0] for _, kind, number, _ in parsed.relocations if kind == IMPORTED[machine]}
    own = [addend for _, kind, number, addend in parsed.relocations if (kind, number) == (RELATIVE[machine], 0)]
    assert imported == {"strlen", "abs"}
    assert parsed.find("seven")[1] in own
    assert any(parsed.data[at : at + 8] == b"capture\0" for at in own)
    assert {kind for _, kind, *_ in parsed.relocations} == {RELATIVE[machine], IMPORTED[machine]}
    assert all(parsed.protection(place) == READ | WRITE for place, *_ in parsed.relocations)


def test_stubs_for_aarch64():
    """A stub loads the word that gets the function's address, and jumps there."""
    parsed = Parsed(made_for("aarch64"))
    place = next(
        place for place, kind, number, _ in parsed.relocations if kind == 1025 and parsed.symbol(number)[0] == "strlen"
    )
    code = next(row for row in parsed.segments if row[1] == READ | EXECUTE)
    found = []
    for at in range(code[3], code[3] + code[6] - 8, 4):
        page, load, jump = struct.unpack_from("<III", parsed.data, at)
        if page & 0x9F00001F == 0x90000010 and load & 0xFFC003FF == 0xF9400210 and jump == 0xD61F0200:
            pages = (page >> 5 & 0x7FFFF) << 2 | (page >> 29 & 3)
            found.append((at & ~0xFFF) + (pages << 12) + (load >> 10 & 0xFFF) * 8)
    assert place in found


@each
def test_readelf_understands_it(machine, tmp_path):
    """Another reader of such files sees the same in it, and warns of nothing."""
    if not shutil.which("readelf"):
        pytest.skip("readelf (binutils) is not installed")
    path = tmp_path / "made.so"
    path.write_bytes(made_for(machine))
    done = subprocess.run(
        ["readelf", "-hldDrW", path], capture_output=True, text=True, timeout=60, check=True, env={"LC_ALL": "C"}
    )
    kinds = {
        "x86_64": ("R_X86_64_GLOB_DAT", "R_X86_64_RELATIVE"),
        "aarch64": ("R_AARCH64_GLOB_DAT", "R_AARCH64_RELATIV"),
    }
    assert done.stderr == ""
    assert "Library soname: [made.so]" in done.stdout
    assert all(kind in done.stdout for kind in kinds[machine])
