"""The few C library calls that a thread makes without the GIL: wait, wake, sleep, read the clock."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import time

import numpy as np

from wirecap.kernels.base.jit import PURE, external, inline, intrinsic
from wirecap.kernels.base.kinds import i32, i64, u32, u64
from wirecap.kernels.base.later import ir, types

FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129  # linux/futex.h
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
"""The number of futex(2) on this processor (asm/unistd.h); None where it is not known: a capture refuses to start."""
POLLIN = 1
_CLOCK_REALTIME, _CLOCK_MONOTONIC, _TIMER_ABSTIME = 0, 1, 1  # linux/time.h
_DONTWAIT = 0x40  # MSG_DONTWAIT

if PURE:
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.syscall.restype = ctypes.c_long

    def monotonic_ns(scratch):
        return time.monotonic_ns()

    def realtime_ns(scratch):
        return time.time_ns()

    def sleep_ns(duration_ns, scratch):
        time.sleep(duration_ns * 1e-9)

    def sleep_until(moment_ns, scratch):
        time.sleep(max(0, moment_ns - time.monotonic_ns()) * 1e-9)

    def futex_wait(words, index, expected, timeout_ns, scratch):
        deadline = time.monotonic_ns() + timeout_ns
        while words[index] == expected and time.monotonic_ns() < deadline:
            time.sleep(0.0001)

    def futex_wake(words, index):
        pass

    def poll_in(fd, timeout_ns, scratch):
        poller = select.poll()
        if fd >= 0:  # like poll(2), ignore a negative descriptor
            poller.register(int(fd), select.POLLIN)
        return len(poller.poll(timeout_ns * 1e-6))

    def epoll_in(fd, timeout_ms, scratch):
        with contextlib.closing(select.epoll.fromfd(os.dup(int(fd)))) as waiter:
            return len(waiter.poll(timeout_ms / 1000, 4))

    def kick(fd):
        _libc.recvfrom(int(fd), None, 0, _DONTWAIT, None, None)

    def sendto(fd):
        return ctypes.get_errno() if _libc.sendto(int(fd), None, 0, _DONTWAIT, None, 0) < 0 else 0

    def getsockopt_words(fd, level, option, count, scratch, index):
        size = ctypes.c_uint32(count * 8)
        _libc.getsockopt(int(fd), level, option, ctypes.c_void_p(scratch.ctypes.data), ctypes.byref(size))
        return scratch[index]

else:
    _syscall = external("syscall", i64(*[i64] * 7))
    _ppoll = external("ppoll", i32(i64, u64, i64, i64))
    _epoll_wait = external("epoll_wait", i32(i32, i64, i32, i32))
    _clock_gettime = external("clock_gettime", i32(i32, i64))
    _nanosleep = external("nanosleep", i32(i64, i64))
    _clock_nanosleep = external("clock_nanosleep", i32(i32, i32, i64, i64))
    _recvfrom = external("recvfrom", i64(i32, i64, u64, i32, i64, i64))
    _sendto = external("sendto", i64(i32, i64, u64, i32, i64, u32))
    _errno_location = external("__errno_location", i64())
    _getsockopt = external("getsockopt", i32(i32, i32, i32, i64, i64))

    @intrinsic
    def _int32_at(typing, address):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):
            half, word = ir.IntType(32), ir.IntType(64)
            return builder.sext(builder.load(builder.inttoptr(arguments[0], half.as_pointer())), word)

        return types.int64(types.intp), generate

    @inline
    def getsockopt_words(fd, level, option, count, scratch, index):
        """Word ``index`` of a socket option of ``count`` (at most 8) 64-bit words; overwrites scratch."""
        scratch[8] = count * 8
        _getsockopt(fd, level, option, scratch.ctypes.data, scratch.ctypes.data + 64)
        return scratch[index]

    @inline
    def monotonic_ns(scratch):
        """CLOCK_MONOTONIC in ns; scratch: the calling thread's int64 array of 16 words."""
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
    def sleep_until(moment_ns, scratch):
        """Sleep until a moment of CLOCK_MONOTONIC; absolute, so that no delay adds up."""
        scratch[2] = moment_ns // 1_000_000_000
        scratch[3] = moment_ns % 1_000_000_000
        _clock_nanosleep(_CLOCK_MONOTONIC, _TIMER_ABSTIME, scratch.ctypes.data + 16, 0)

    @inline
    def futex_wait(words, index, expected, timeout_ns, scratch):
        """Sleep while the low half of words[index] equals expected, for at most timeout_ns; may wake early."""
        scratch[2] = timeout_ns // 1_000_000_000
        scratch[3] = timeout_ns % 1_000_000_000
        _syscall(FUTEX, words.ctypes.data + index * 8, FUTEX_WAIT_PRIVATE, expected, scratch.ctypes.data + 16, 0, 0)

    @inline
    def futex_wake(words, index):
        _syscall(FUTEX, words.ctypes.data + index * 8, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0)

    @inline
    def poll_in(fd, timeout_ns, scratch):
        """Wait until fd is readable; returns the number of ready descriptors, 0 on timeout, negative on error."""
        scratch[2] = timeout_ns // 1_000_000_000
        scratch[3] = timeout_ns % 1_000_000_000
        scratch[4] = fd | POLLIN << 32  # struct pollfd, little endian
        return _ppoll(scratch.ctypes.data + 32, 1, scratch.ctypes.data + 16, 0)

    @inline
    def epoll_in(fd, timeout_ms, scratch):
        """Wait for events on an epoll descriptor and take up to 4; returns how many, 0 on timeout."""
        return _epoll_wait(fd, scratch.ctypes.data + 32, 4, timeout_ms)

    @inline
    def kick(fd):
        """Tell the driver that the fill ring has entries (XDP_RING_NEED_WAKEUP)."""
        _recvfrom(fd, 0, 0, _DONTWAIT, 0, 0)

    @inline
    def sendto(fd):
        """Let the kernel take frames from a transmit ring, now and on this CPU; 0 or the errno."""
        if _sendto(fd, 0, 0, _DONTWAIT, 0, 0) < 0:
            return _int32_at(_errno_location())
        return 0


def scratch() -> np.ndarray:
    """The words that the calls above use; one array per thread."""
    return np.zeros(16, dtype=np.int64)
