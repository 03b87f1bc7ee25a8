"""Modules that are imported when they are first used: above all Numba and LLVM, which take half a second.

Modules with code for the compiler import these names in place of the packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


class Later:
    """A module that is imported when something in it is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


if TYPE_CHECKING:
    import llvmlite.binding as llvm
    import numba
    from llvmlite import ir
    from numba import extending, types
    from numba.core import cgutils, imputils
else:
    ir, llvm = Later("llvmlite.ir"), Later("llvmlite.binding")
    numba, types, extending = Later("numba"), Later("numba.core.types"), Later("numba.extending")
    cgutils, imputils = Later("numba.core.cgutils"), Later("numba.core.imputils")

__all__ = ["Later", "cgutils", "extending", "imputils", "ir", "llvm", "numba", "types"]
