"""The linker: what it makes of LLVM's objects runs, and what it does not know is refused."""

from __future__ import annotations

import ctypes
import struct

import llvmlite.binding as llvm
import pytest

from wirecap.kernels.base.image import Code
from wirecap.kernels.base.linker import link

PAGE = 4096


def object_of(code: str) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    module = llvm.parse_assembly(code)
    module.triple = target.triple
    return target.create_target_machine(reloc="pic", codemodel="small").emit_object(module)


CODE = """
@text = internal constant [8 x i8] c"capture\\00"
@table = constant [1 x ptr] [ptr @text]
declare i64 @strlen(ptr)
define i64 @length() {
  %text = load ptr, ptr @table
  %length = call i64 @strlen(ptr %text)
  ret i64 %length
}
"""


@pytest.mark.parametrize("page", [1, PAGE])
def test_an_image_runs(page):
    """Code, constants, a table of addresses and a call into the C library, with its parts close together or apart."""
    image = link(object_of(CODE), {"entry": "length"}, page)
    assert image.executed <= image.entries["entry"] < image.written < len(image.code)
    assert image.executed % page == image.written % page == 0
    assert [name for _, name in image.imports] == ["strlen"]
    assert all(place >= image.written for place in [*image.relative, *(place for place, _ in image.imports)])
    code = Code(image)
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code.addresses["entry"])() == len("capture")


AT_START = """
@llvm.global_ctors = appending global [1 x {i32, ptr, ptr}] [{i32, ptr, ptr} {i32 1, ptr @f, ptr null}]
define void @f() { ret void }
"""


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("@x = thread_local global i64 1\ndefine ptr @f() { ret ptr @x }", "a kind that is not linked: .tdata"),
        (AT_START, "a kind that is not linked: .ctors"),
        ("@x = external global i64\n@y = global ptr getelementptr (i64, ptr @x, i64 1)", "x is used with an offset"),
        ("@x = external hidden global i64\ndefine ptr @f() { ret ptr @x }", "x is data of another library"),
        ("@x = alias i64, inttoptr (i64 7 to ptr)\ndefine ptr @f() { ret ptr @x }", "x is in no section"),
    ],
)  # fmt: skip
def test_what_it_does_not_know_is_refused(code, why):
    """An object with anything else is refused by name, and not linked wrongly."""
    with pytest.raises(ValueError, match=why):
        link(object_of(code), {})


def test_addresses_are_in_what_is_written():
    """Whoever loads an image writes addresses into its last part only."""
    made = bytearray(object_of(CODE))
    table, size, count = struct.unpack_from("<Q", made, 40)[0], *struct.unpack_from("<HH", made, 58)
    for flags in range(table + 8, table + 8 + size * count, size):
        made[flags] &= ~1  # SHF_WRITE
    with pytest.raises(ValueError, match="is in what is not written"):
        link(bytes(made), {})


def test_other_files_are_refused():
    """Only relocatable objects are linked, of the processors that are known."""
    made = bytearray(object_of(CODE))
    with pytest.raises(ValueError, match="a processor that is not known: 243"):
        link(bytes(made[:18] + b"\xf3\0" + made[20:]), {})
    with pytest.raises(ValueError, match="not a relocatable"):
        link(bytes(made[:16] + b"\x03\0" + made[18:]), {})
    with pytest.raises(ValueError, match="not a relocatable"):
        link(b"\x7fELF\x01" + bytes(made[5:]), {})
