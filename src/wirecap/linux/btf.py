"""The kernel's functions by number, as its BTF has them: what programs call kfuncs by.

Source: Documentation/bpf/btf.rst.  Types lie one behind the other, each as long as its kind says, and a type's number
is its place among them; so they are walked, which takes some 30 ms.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from pathlib import Path

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_HEADER = struct.Struct("=HBBIIIII")
_MAGIC, _FUNCTION = 0xEB9F, 12
_FIXED = {1: 1, 3: 3, 14: 1, 17: 1}
"""32-bit words behind the three that each type has: of an integer, an array, a variable, a tag of a declaration."""
_EACH = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}
"""Words for each member of a structure, union, enumeration, prototype, section or wide enumeration."""


def functions(names: Iterable[str], btf: bytes) -> dict[str, int]:
    """The numbers of those of the functions that are there; none of what is no BTF of this machine's byte order."""
    if len(btf) < _HEADER.size:
        return {}
    magic, _, _, header, types_at, types_size, strings_at, strings_size = _HEADER.unpack_from(btf)
    strings = header + strings_at
    if magic != _MAGIC or strings + strings_size > len(btf):
        return {}
    wanted = {}
    for name in names:
        at = btf.find(b"\0" + name.encode() + b"\0", strings, strings + strings_size)
        if at >= 0:
            wanted[at + 1 - strings] = name
    words = memoryview(btf)[header + types_at : header + types_at + types_size // 4 * 4].cast("I")
    fixed = [3 + _FIXED.get(kind & 31, 0) for kind in range(256)]
    each = [_EACH.get(kind & 31, 0) for kind in range(256)]
    found: dict[str, int] = {}
    at, number, end = 0, 1, len(words) - 2
    while at < end and len(found) < len(wanted):
        info = words[at + 1]
        kind = info >> 24
        if kind == _FUNCTION and words[at] in wanted:
            found[wanted[words[at]]] = number
        at += fixed[kind] + each[kind] * (info & 0xFFFF)
        number += 1
    return found


@functools.cache
def of_kernel(names: tuple[str, ...]) -> dict[str, int]:
    """``functions`` of the kernel that runs; none where it does not show its BTF."""
    try:
        return functions(names, VMLINUX.read_bytes())
    except OSError:
        return {}
