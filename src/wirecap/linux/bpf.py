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
TEST_RUN, OBJECT_INFO, LINK_CREATE = 10, 15, 28
ARRAY, PERCPU_ARRAY, XSKMAP = 2, 6, 17
MMAPABLE = 1 << 10
PROG_XDP = 6
ATTACH_XDP = 37
XDP_SKB_MODE, XDP_DRV_MODE = 1 << 1, 1 << 2  # linux/if_link.h
LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)
HELPERS = {
    "map_lookup_elem": 1, "ktime_get_ns": 5, "get_smp_processor_id": 8, "redirect": 23, "redirect_map": 51,
    "xdp_adjust_meta": 54, "xdp_adjust_tail": 65, "ktime_get_boot_ns": 125, "xdp_get_buff_len": 188,
    "xdp_store_bytes": 190, "ktime_get_tai_ns": 208,
}  # fmt: skip

_REFUSALS = (errno.EINVAL, errno.EACCES, errno.EFAULT, errno.E2BIG)
"""How the verifier says no; the last two to programs that are too complex for it."""


def _bpf(command: int, attributes: bytes, what: str, hint: str = "") -> int:
    buffer = ctypes.create_string_buffer(attributes.ljust(144, b"\0"), 144)
    result = syscall.libc.syscall(syscall.number("bpf"), command, buffer, 144)
    if result < 0 and ctypes.get_errno() in (errno.EPERM, errno.EACCES):
        hint = hint or capabilities.hint(capabilities.XDP)
    return syscall.call(what, result, hint)


class Map:
    """A BPF map; ``close`` or garbage collection drops our reference."""

    def __init__(self, kind: int, value_size: int, entries: int, flags: int = 0, name: str = "wirecap") -> None:
        self.kind, self.value_size, self.entries = kind, value_size, entries
        attributes = struct.pack("<IIIIIII16s", kind, 4, value_size, entries, flags, 0, 0, name.encode()[:15])
        self.fd = _bpf(MAP_CREATE, attributes, f"creating a BPF map of {entries} entries")
        self._cpus = len_possible_cpus() if kind == PERCPU_ARRAY else 1

    def update(self, key: int, value: bytes) -> None:
        k, v = ctypes.create_string_buffer(struct.pack("<I", key), 4), ctypes.create_string_buffer(value, len(value))
        attributes = struct.pack("<IIQQQ", self.fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0)
        _bpf(MAP_UPDATE, attributes, f"writing entry {key} of a BPF map")

    def lookup(self, key: int) -> NDArray[np.uint64]:
        """One entry: shape (words,) uint64; for a per-CPU map (possible CPUs, words)."""
        size = (self.value_size + 7) // 8 * 8
        value = np.zeros((self._cpus, size // 8), dtype=np.uint64)
        k = ctypes.create_string_buffer(struct.pack("<I", key), 4)
        attributes = struct.pack("<IIQQQ", self.fd, 0, ctypes.addressof(k), value.ctypes.data, 0)
        _bpf(MAP_LOOKUP, attributes, f"reading entry {key} of a BPF map")
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
    """How many values a per-CPU map's entry has: all possible CPUs, online or not."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return int(ranges[-1].split("-")[-1]) + 1


class Program:
    """A loaded XDP program.  A program that the verifier refuses raises with the verifier's last lines."""

    def __init__(self, code: bytes, name: str = "wirecap") -> None:
        self.fd = -1
        try:
            self.fd = self._load(code, name, None)
        except SystemCallError as error:
            if error.errno not in _REFUSALS:
                raise
            log = ctypes.create_string_buffer(1 << 20)
            try:
                self.fd = self._load(code, name, log)
            except SystemCallError as again:
                tail = log.value.decode(errors="replace").strip().splitlines()[-3:]
                raise SystemCallError(f"{again.message}: {' | '.join(tail)}", again.errno, again.hint) from None

    @staticmethod
    def _load(code: bytes, name: str, log: ctypes.Array[ctypes.c_char] | None) -> int:
        program = ctypes.create_string_buffer(code, len(code))
        licence = ctypes.create_string_buffer(b"Apache-2.0")
        log_arguments = (1, len(log), ctypes.addressof(log)) if log is not None else (0, 0, 0)
        attributes = struct.pack(
            "<IIQQIIQII16sII", PROG_XDP, len(code) // 8, ctypes.addressof(program), ctypes.addressof(licence),
            *log_arguments, 0, 0, name.encode()[:15], 0, ATTACH_XDP,
        )  # fmt: skip
        return _bpf(PROG_LOAD, attributes, "loading the XDP program")

    def attach(self, ifindex: int, mode: int) -> Link:
        """Attach by a link, in XDP_DRV_MODE (native) or XDP_SKB_MODE (generic).

        The kernel detaches the program when the link's last descriptor is closed, also by the end of the process.
        """
        attributes = struct.pack("<IIII", self.fd, ifindex, ATTACH_XDP, mode)
        return Link(_bpf(LINK_CREATE, attributes, "attaching the XDP program"))

    def run(self, packet: bytes, repeat: int = 1) -> tuple[int, bytes]:
        """Run on one packet, not attached: (return code, packet afterwards)."""
        data_in = ctypes.create_string_buffer(packet, len(packet))
        data_out = ctypes.create_string_buffer(len(packet) + 256)
        attributes = bytearray(
            struct.pack("<IIIIQQII", self.fd, 0, len(packet), len(data_out),
                        ctypes.addressof(data_in), ctypes.addressof(data_out), repeat, 0).ljust(144, b"\0")
        )  # fmt: skip
        buffer = (ctypes.c_char * 144).from_buffer(attributes)
        syscall.call("running a BPF program", syscall.libc.syscall(syscall.number("bpf"), TEST_RUN, buffer, 144))
        code, _, size = struct.unpack_from("<III", attributes, 4)
        return code, data_out.raw[:size]

    def run_live(self, frame: bytes, repeat: int, batch: int = 64, ingress_ifindex: int = 0) -> None:
        """Run ``repeat`` times on frames that are then really redirected; blocks until done (no GIL is held).

        A signal ends it early with SystemCallError of EINTR.
        """
        data_in = ctypes.create_string_buffer(frame, len(frame))
        context = ctypes.create_string_buffer(struct.pack("<6I", 0, len(frame), 0, ingress_ifindex, 0, 0), 24)
        attributes = struct.pack(
            "<IIIIQQIIIIQQIII", self.fd, 0, len(frame), 0, ctypes.addressof(data_in), 0, repeat, 0,
            24, 0, ctypes.addressof(context), 0, LIVE_FRAMES, 0, batch,
        )  # fmt: skip
        _bpf(TEST_RUN, attributes, "sending live frames")

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
        """The interface that it is attached to, 0 once that is gone."""
        info = ctypes.create_string_buffer(64)
        _bpf(OBJECT_INFO, struct.pack("<IIQ", self.fd, len(info), ctypes.addressof(info)), "reading a BPF link")
        return int(struct.unpack_from("<I", info, 16)[0])  # bpf_link_info.xdp.ifindex

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close
