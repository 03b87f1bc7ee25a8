"""Object code that a wheel brings, for a first run that need not wait for the compiler.

It is made for a level of a processor's features, not for one model, and lies in ``code/DIGEST/LEVEL`` of the package.
The digest is of all that it depends on: the kernels' text, where NumPy's objects have their fields, and how functions
that Numba compiles call each other, because a user's handler is compiled here.  A level is taken if the processor has
its features.  A clone has no such folder: there the kernels that a command needs are compiled.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np

from wirecap.kernels.base.cache import ROOT, TEXT, processor_lines, settings, texts_of
from wirecap.kernels.base.call import element_word

FOLDER = ROOT.parent / "code"
HEAD_BYTES = object.__basicsize__
"""Where an object's own fields begin."""

_V2 = frozenset("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3".split())
_V3 = _V2 | frozenset("abm avx avx2 bmi1 bmi2 f16c fma movbe xsave".split())
_V4 = _V3 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())
LEVELS = {
    "x86_64": {"x86-64-v4": _V4, "x86-64-v3": _V3, "x86-64-v2": _V2},
    "aarch64": {"generic": frozenset(["asimd"])},
}
"""By machine: LLVM's name of each level, the best first, and its features, as /proc/cpuinfo calls them.

The levels of x86-64 are those of the System V ABI's supplement (section 3.1.1).
"""
_CONVENTION = ("core/callconv.py", "core/datamodel/models.py", "core/datamodel/packer.py")
"""Where Numba says how its functions call each other, and how what they are given lies in memory."""


def digest_of(text: bytes) -> str:
    """The digest of kernels, given their ``cache.text_of``, and of what their object code depends on."""
    numpy, _, _ = np.__version__.partition(".")
    words = [element_word(np.dtype(name)) for name in ("u1", "u4", "i8", "u8", "f8")]
    made_for = f"{os.uname().machine} {sys.byteorder} {HEAD_BYTES} {numpy} {words}"
    digest = hashlib.sha256(made_for.encode())
    for part in (*texts_of("numba", *_CONVENTION), text):
        digest.update(part)
    return digest.hexdigest()[:16]


def features() -> frozenset[str]:
    """What the processor can do."""
    line = next((line for line in processor_lines() if line.startswith((b"flags", b"Features"))), b"")
    return frozenset(line.decode().partition(":")[2].split())


@cache
def folder() -> Path | None:
    """Where the package has object code that runs here; None if there is none, or Numba is to make other code."""
    fitting = FOLDER / digest_of(TEXT) if FOLDER.is_dir() and not settings() else None
    if fitting and fitting.is_dir():
        has = features()
        for level, needed in LEVELS.get(os.uname().machine, {}).items():
            if needed <= has and (fitting / level).is_dir():
                return fitting / level
    return None
