"""bpf(2) through ctypes: maps, programs, links and test runs.  Source: linux/bpf.h, `union bpf_attr`."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError
from wirecap.linux import capabilities, syscall

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD = 0, 1, 2, 5
TEST_RUN, OBJECT_INFO, RAW_TRACEPOINT_OPEN, LINK_CREATE = 10, 15, 17, 28
HASH, ARRAY, PERCPU_ARRAY, XSKMAP = 1, 2, 6, 17
MMAPABLE = 1 << 10
PROG_XDP, PROG_RAW_TRACEPOINT = 6, 17
ATTACH_XDP = 37
XDP_SKB_MODE, XDP_DRV_MODE = 1 << 1, 1 << 2  # linux/if_link.h
LICENCE = "Apache-2.0"
XDP_HAS_FRAGS = 1 << 5  # BPF_F_XDP_HAS_FRAGS, Linux 5.18: the program takes packets that are not in one piece
XDP_BOUND = 1 << 6  # BPF_F_XDP_DEV_BOUND_ONLY, Linux 6.3: it may ask the interface's driver for metadata
LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)
HELPERS = {
    "map_lookup_elem": 1, "ktime_get_ns": 5, "get_smp_processor_id": 8, "redirect": 23, "xdp_adjust_head": 44,
    "redirect_map": 51, "xdp_adjust_meta": 54, "xdp_adjust_tail": 65, "ktime_get_boot_ns": 125, "xdp_get_buff_len": 188,
    "xdp_load_bytes": 189, "xdp_store_bytes": 190, "ktime_get_tai_ns": 208,
}  # fmt: skip

_REFUSALS = (errno.EINVAL, errno.EACCES, errno.EFAULT, errno.E2BIG)
"""How the verifier rejects a program; the last two mean that it is too complex."""


def _bpf(command: int, attributes: bytes, what: str, hint: str = "") -> int:
    buffer = ctypes.create_string_buffer(attributes.ljust(144, b"\0"), 144)
    result = syscall.libc.syscall(syscall.number("bpf"), command, buffer, 144)
    if result < 0 and ctypes.get_errno() in (errno.EPERM, errno.EACCES):
        hint = hint or capabilities.hint(capabilities.XDP)
    return syscall.call(what, result, hint)


class Map:
    """A BPF map; ``close`` or garbage collection drops our reference."""

    def __init__(
        self, kind: int, value_size: int, entries: int, flags: int = 0, name: str = "wirecap", key_size: int = 4
    ) -> None:  # fmt: skip
        """value_size, key_size: in bytes."""
        self.kind, self.value_size, self.entries, self.key_size = kind, value_size, entries, key_size
        attributes = struct.pack("<IIIIIII16s", kind, key_size, value_size, entries, flags, 0, 0, name.encode()[:15])
        self.fd = _bpf(MAP_CREATE, attributes, f"cannot create a BPF map of {entries} entries")
        self._cpus = len_possible_cpus() if kind == PERCPU_ARRAY else 1

    def update(self, key: int, value: bytes) -> None:
        k = ctypes.create_string_buffer(key.to_bytes(self.key_size, "little"), self.key_size)
        v = ctypes.create_string_buffer(value, len(value))
        attributes = struct.pack("<IIQQQ", self.fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0)
        _bpf(MAP_UPDATE, attributes, f"cannot write entry {key} of a BPF map")

    def lookup(self, key: int) -> NDArray[np.uint64]:
        """One entry, uint64: shape (words,), or (possible CPUs, words) for a per-CPU map."""
        size = (self.value_size + 7) // 8 * 8
        value = np.zeros((self._cpus, size // 8), dtype=np.uint64)
        k = ctypes.create_string_buffer(struct.pack("<I", key), 4)
        attributes = struct.pack("<IIQQQ", self.fd, 0, ctypes.addressof(k), value.ctypes.data, 0)
        _bpf(MAP_LOOKUP, attributes, f"cannot read entry {key} of a BPF map")
        return value if self.kind == PERCPU_ARRAY else value[0]

    def mapped(self) -> mmap.mmap:
        """The values of an array made with MMAPABLE, mapped shared."""
        size = -(-((self.value_size + 7) // 8 * 8) * self.entries // mmap.PAGESIZE) * mmap.PAGESIZE
        return mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close


def len_possible_cpus() -> int:
    """How many values an entry of a per-CPU map has: one per possible CPU, online or not."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return int(ranges[-1].split("-")[-1]) + 1


class Program:
    """A loaded program, of PROG_XDP or PROG_RAW_TRACEPOINT.

    If the verifier rejects it, SystemCallError has the last lines of the verifier's log.
    """

    def __init__(
        self, code: bytes, name: str = "wirecap", kind: int = PROG_XDP, flags: int = 0, licence: str = LICENCE,
        ifindex: int = 0,
    ) -> None:  # fmt: skip
        """ifindex: the interface that an XDP_BOUND program is for."""
        self.fd, self._kind, self._licence, self._ifindex = -1, kind, licence, ifindex
        try:
            self.fd = self._load(code, name, flags, None)
        except SystemCallError as error:
            if error.errno not in _REFUSALS:
                raise
            log = ctypes.create_string_buffer(1 << 20)
            try:
                self.fd = self._load(code, name, flags, log)
            except SystemCallError as again:
                tail = log.value.decode(errors="replace").strip().splitlines()[-3:]
                raise SystemCallError(f"{again.message}: {' | '.join(tail)}", again.errno, again.hint) from None

    def _load(self, code: bytes, name: str, flags: int, log: ctypes.Array[ctypes.c_char] | None) -> int:
        program = ctypes.create_string_buffer(code, len(code))
        licence = ctypes.create_string_buffer(self._licence.encode())
        log_arguments = (1, len(log), ctypes.addressof(log)) if log is not None else (0, 0, 0)
        attributes = struct.pack(
            "<IIQQIIQII16sII", self._kind, len(code) // 8, ctypes.addressof(program), ctypes.addressof(licence),
            *log_arguments, 0, flags, name.encode()[:15],
            self._ifindex, ATTACH_XDP if self._kind == PROG_XDP else 0,
        )  # fmt: skip
        what = "XDP" if self._kind == PROG_XDP else "tracepoint"
        return _bpf(PROG_LOAD, attributes, f"cannot load the {what} program")

    def attach(self, ifindex: int, mode: int) -> Link:
        """Attach with a link, in XDP_DRV_MODE (native) or XDP_SKB_MODE (generic).

        The kernel detaches the program when the link's last descriptor is closed, at the latest when the process ends.
        """
        attributes = struct.pack("<IIII", self.fd, ifindex, ATTACH_XDP, mode)
        return Link(_bpf(LINK_CREATE, attributes, "cannot attach the XDP program"))

    def trace(self, tracepoint: str) -> Link:
        """Run at a tracepoint of the kernel from now on, until the link's last descriptor is closed."""
        name = ctypes.create_string_buffer(tracepoint.encode())
        attributes = struct.pack("<QI", ctypes.addressof(name), self.fd)
        return Link(_bpf(RAW_TRACEPOINT_OPEN, attributes, f"cannot trace {tracepoint}"))

    def run(self, packet: bytes, repeat: int = 1) -> tuple[int, bytes]:
        """Run on one packet, without attaching: (return code, packet afterwards)."""
        code, after, _ = self._run(packet, repeat)
        return code, after

    def cost_ns(self, packet: bytes, repeat: int) -> int:
        """How long a run on one packet takes, in ns, the mean of ``repeat`` runs as the kernel measures it."""
        return self._run(packet, repeat)[2]

    def _run(self, packet: bytes, repeat: int) -> tuple[int, bytes, int]:
        data_in = ctypes.create_string_buffer(packet, len(packet))
        data_out = ctypes.create_string_buffer(len(packet) + 256)
        attributes = bytearray(
            struct.pack("<IIIIQQII", self.fd, 0, len(packet), len(data_out),
                        ctypes.addressof(data_in), ctypes.addressof(data_out), repeat, 0).ljust(144, b"\0")
        )  # fmt: skip
        buffer = (ctypes.c_char * 144).from_buffer(attributes)
        syscall.call("cannot run a BPF program", syscall.libc.syscall(syscall.number("bpf"), TEST_RUN, buffer, 144))
        code, _, size = struct.unpack_from("<III", attributes, 4)
        duration_ns = struct.unpack_from("<I", attributes, 36)[0]
        return code, data_out.raw[:size], duration_ns

    def run_live(self, frame: bytes, repeat: int, batch: int = 64, ingress_ifindex: int = 0) -> None:
        """Run ``repeat`` times on frames that are then really redirected; blocks until done, without the GIL.

        A signal ends it early: SystemCallError with EINTR.
        """
        data_in = ctypes.create_string_buffer(frame, len(frame))
        context = ctypes.create_string_buffer(struct.pack("<6I", 0, len(frame), 0, ingress_ifindex, 0, 0), 24)
        attributes = struct.pack(
            "<IIIIQQIIIIQQIII", self.fd, 0, len(frame), 0, ctypes.addressof(data_in), 0, repeat, 0,
            24, 0, ctypes.addressof(context), 0, LIVE_FRAMES, 0, batch,
        )  # fmt: skip
        _bpf(TEST_RUN, attributes, "cannot send live frames")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close


class Link:
    """A program's attachment; closing it detaches."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def ifindex(self) -> int:
        """The index of the interface that the program is attached to, 0 once that is gone."""
        info = ctypes.create_string_buffer(64)
        _bpf(OBJECT_INFO, struct.pack("<IIQ", self.fd, len(info), ctypes.addressof(info)), "cannot read a BPF link")
        return int(struct.unpack_from("<I", info, 16)[0])  # bpf_link_info.xdp.ifindex

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close
