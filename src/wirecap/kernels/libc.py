"""The few C library calls that a thread makes without the GIL: wait, wake, sleep, tell the time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import time

import numpy as np
from numba import types

from wirecap.kernels.jit import PURE, inline

FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129  # linux/futex.h
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), 202)
POLLIN = 1
_CLOCK_REALTIME, _CLOCK_MONOTONIC = 0, 1

if PURE:
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.syscall.restype = ctypes.c_long

    def monotonic_ns(scratch):
        return time.monotonic_ns()

    def realtime_ns(scratch):
        return time.time_ns()

    def sleep_ns(duration_ns, scratch):
        time.sleep(duration_ns * 1e-9)

    def futex_wait(words, index, expected, timeout_ns, scratch):
        deadline = time.monotonic_ns() + timeout_ns
        while words[index] == expected and time.monotonic_ns() < deadline:
            time.sleep(0.0001)

    def futex_wake(words, index):
        pass

    def poll_in(fd, timeout_ms, scratch):
        poller = select.poll()
        if fd >= 0:  # as poll(2) does, wait for nothing where there is no descriptor
            poller.register(int(fd), select.POLLIN)
        return len(poller.poll(timeout_ms))

    def epoll_in(fd, timeout_ms, scratch):
        with contextlib.closing(select.epoll.fromfd(os.dup(int(fd)))) as waiter:
            return len(waiter.poll(timeout_ms / 1000, 4))

    def kick(fd):
        _libc.recvfrom(int(fd), None, 0, 0x40, None, None)

    def getsockopt_words(fd, level, option, count, scratch, index):
        size = ctypes.c_uint32(count * 8)
        _libc.getsockopt(int(fd), level, option, ctypes.c_void_p(scratch.ctypes.data), ctypes.byref(size))
        return scratch[index]

else:
    _syscall = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))
    _poll = types.ExternalFunction("poll", types.int32(types.intp, types.uint64, types.int32))
    _epoll_wait = types.ExternalFunction("epoll_wait", types.int32(types.int32, types.intp, types.int32, types.int32))
    _clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
    _nanosleep = types.ExternalFunction("nanosleep", types.int32(types.intp, types.intp))
    _recvfrom = types.ExternalFunction(
        "recvfrom", types.int64(types.int32, types.intp, types.uint64, types.int32, types.intp, types.intp)
    )

    _getsockopt = types.ExternalFunction(
        "getsockopt", types.int32(types.int32, types.int32, types.int32, types.intp, types.intp)
    )

    @inline
    def getsockopt_words(fd, level, option, count, scratch, index):
        """Word ``index`` of an option of ``count`` (at most 8) 64-bit words; uses all of scratch."""
        scratch[8] = count * 8
        _getsockopt(fd, level, option, scratch.ctypes.data, scratch.ctypes.data + 64)
        return scratch[index]

    @inline
    def monotonic_ns(scratch):
        """CLOCK_MONOTONIC in ns; scratch: int64 array of 16 words of the calling thread."""
        _clock_gettime(_CLOCK_MONOTONIC, scratch.ctypes.data)
        return scratch[0] * 1_000_000_000 + scratch[1]

    @inline
    def realtime_ns(scratch):
        """CLOCK_REALTIME in ns since the epoch."""
        _clock_gettime(_CLOCK_REALTIME, scratch.ctypes.data)
        return scratch[0] * 1_000_000_000 + scratch[1]

    @inline
    def sleep_ns(duration_ns, scratch):
        scratch[2] = duration_ns // 1_000_000_000
        scratch[3] = duration_ns % 1_000_000_000
        _nanosleep(scratch.ctypes.data + 16, 0)

    @inline
    def futex_wait(words, index, expected, timeout_ns, scratch):
        """Sleep while the low half of words[index] equals expected, at most timeout_ns; may wake early."""
        scratch[2] = timeout_ns // 1_000_000_000
        scratch[3] = timeout_ns % 1_000_000_000
        _syscall(_FUTEX, words.ctypes.data + index * 8, FUTEX_WAIT_PRIVATE, expected, scratch.ctypes.data + 16, 0, 0)

    @inline
    def futex_wake(words, index):
        _syscall(_FUTEX, words.ctypes.data + index * 8, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0)

    @inline
    def poll_in(fd, timeout_ms, scratch):
        """Wait until fd has something to read; the count of ready descriptors, 0 on timeout, negative on error."""
        scratch[4] = fd | POLLIN << 32  # struct pollfd, little endian
        return _poll(scratch.ctypes.data + 32, 1, timeout_ms)

    @inline
    def epoll_in(fd, timeout_ms, scratch):
        """Wait for events of an epoll descriptor and take up to 4 of them; how many, 0 on timeout."""
        return _epoll_wait(fd, scratch.ctypes.data + 32, 4, timeout_ms)

    @inline
    def kick(fd):
        """Tell the driver that the fill ring has entries (XDP_RING_NEED_WAKEUP); MSG_DONTWAIT = 0x40."""
        _recvfrom(fd, 0, 0, 0x40, 0, 0)


def scratch() -> np.ndarray:
    """The words that the calls above use; one array per thread."""
    return np.zeros(16, dtype=np.int64)
