"""System calls that Python does not wrap, with errors that say what was asked for."""

from __future__ import annotations

import ctypes
import os
import platform

from wirecap.errors import SystemCallError

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

_NUMBERS = {  # asm/unistd_64.h and asm-generic/unistd.h
    "x86_64": {"bpf": 321, "futex": 202},
    "aarch64": {"bpf": 280, "futex": 98},
}


def number(name: str) -> int:
    """The system call's number on this machine's architecture."""
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise SystemCallError(f"no system call table for {machine}", 38, "x86_64 and aarch64 are supported")
    return _NUMBERS[machine][name]


def call(what: str, result: int, hint: str = "") -> int:
    """``result`` when it is not negative, else SystemCallError naming ``what`` and the errno."""
    if result < 0:
        code = ctypes.get_errno()
        raise SystemCallError(f"{what}: {os.strerror(code)}", code, hint)
    return result
