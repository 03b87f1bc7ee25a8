"""System calls that Python does not wrap, with errors that say what was attempted."""

from __future__ import annotations

import ctypes
import os
import platform

from wirecap.errors import SystemCallError

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = libc.sendto.restype = ctypes.c_long
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

_NUMBERS = {  # asm/unistd_64.h and asm-generic/unistd.h
    "x86_64": {"bpf": 321, "futex": 202, "mbind": 237, "get_mempolicy": 239},
    "aarch64": {"bpf": 280, "futex": 98, "mbind": 235, "get_mempolicy": 236},
}


def number(name: str) -> int:
    """The system call's number on this machine's architecture."""
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise SystemCallError(f"unsupported machine: {machine}", 38, "wirecap runs on x86_64 and aarch64")
    return _NUMBERS[machine][name]


def call(what: str, result: int, hint: str = "") -> int:
    """Return ``result`` unless it is negative; then raise SystemCallError with ``what`` and the errno."""
    if result < 0:
        code = ctypes.get_errno()
        raise SystemCallError(f"{what}: {os.strerror(code)}", code, hint)
    return result


_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h


def reserve_blocks(fd: int, offset: int, length: int) -> None:
    """Give a file blocks for these bytes; its length stays as it is.  Raises OSError."""
    if libc.fallocate(fd, _KEEP_SIZE, offset, length) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_DONTWAIT = 0x40  # MSG_DONTWAIT, linux/socket.h


def send_error(fd: int) -> int:
    """Ask the kernel to send what is in a socket's transmit ring; returns 0, or the errno of its refusal."""
    return ctypes.get_errno() if libc.sendto(fd, None, ctypes.c_size_t(0), _DONTWAIT, None, 0) < 0 else 0
