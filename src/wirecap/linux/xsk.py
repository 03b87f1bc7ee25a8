"""AF_XDP sockets: the UMEM, its rings, binding to a queue.  Source: linux/if_xdp.h, af_xdp.rst."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError
from wirecap.linux import capabilities, syscall
from wirecap.linux.memory import Region

AF_XDP, SOL_XDP = 44, 283
MMAP_OFFSETS, RX_RING, TX_RING, UMEM_REG, FILL_RING, COMPLETION_RING, STATISTICS, OPTIONS = 1, 2, 3, 4, 5, 6, 7, 8
MAX_TX_BUDGET = 9  # XDP_MAX_TX_SKB_BUDGET, Linux 6.17
SHARED_UMEM, COPY, NEED_WAKEUP = 1, 2, 8
_PAGE_OFFSETS = {RX_RING: 0, TX_RING: 0x80000000, FILL_RING: 0x100000000, COMPLETION_RING: 0x180000000}
_OFFSET_INDEX = {RX_RING: 0, TX_RING: 1, FILL_RING: 2, COMPLETION_RING: 3}
_ENTRY_BYTES = {RX_RING: 16, TX_RING: 16, FILL_RING: 8, COMPLETION_RING: 8}
_NAMES = {
    RX_RING: "the RX ring", TX_RING: "the TX ring", FILL_RING: "the fill ring", COMPLETION_RING: "the completion ring",
}  # fmt: skip
COMPLETION_ENTRIES = 64  # the kernel wants one beside every fill ring, also where nothing is transmitted


@dataclass(frozen=True)
class Ring:
    """Where a ring lies: offsets in bytes into the region."""

    producer: int
    consumer: int
    flags: int
    descriptors: int
    entries: int


@dataclass(frozen=True)
class Statistics:
    """struct xdp_statistics, as far as receiving goes; packets since the socket was made."""

    rx_dropped: int
    rx_ring_full: int
    rx_fill_ring_empty: int


class Socket:
    """An AF_XDP socket: its rings are mapped into ``region``, ``bind`` starts the queue."""

    def __init__(self, region: Region) -> None:
        try:
            self._socket = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        except OSError as error:
            hints = {
                errno.EPERM: capabilities.hint(capabilities.XDP),
                errno.EAFNOSUPPORT: "this kernel was built without CONFIG_XDP_SOCKETS; use --engine packet",
            }
            raise SystemCallError(
                f"opening an AF_XDP socket: {error.strerror}", error.errno or 0, hints.get(error.errno or 0, "")
            ) from None
        self.fd = self._socket.fileno()
        self._region = region

    def register(self, arena: NDArray[np.uint8], cell: int) -> None:
        """Make ``arena`` the UMEM, in cells of ``cell`` bytes; its pages are pinned from now on."""
        hint = ""
        argument = struct.pack("<QQIIII", arena.ctypes.data, arena.size, cell, 0, 0, 0)
        try:
            self._set(UMEM_REG, argument, f"registering {arena.size >> 20} MiB of packet memory")
        except SystemCallError as error:
            if error.errno in (errno.ENOBUFS, errno.ENOMEM, errno.EPERM):
                hint = "lower -R, or raise the locked-memory limit (ulimit -l) or grant CAP_IPC_LOCK"
            raise SystemCallError(error.message, error.errno, hint) from None

    def ring(self, kind: int, entries: int) -> Ring:
        """Make one of the socket's rings (a power of two of entries) and map it."""
        self._set(kind, struct.pack("<I", entries), f"making {_NAMES[kind]} of {entries} entries")
        offsets = struct.unpack("<16Q", self._get(MMAP_OFFSETS, 128))
        producer, consumer, descriptors, flags = offsets[_OFFSET_INDEX[kind] * 4 :][:4]
        size = descriptors + entries * _ENTRY_BYTES[kind]
        at = self._region.map(self.fd, _PAGE_OFFSETS[kind], size, _NAMES[kind])
        return Ring(at + producer, at + consumer, at + flags, at + descriptors, entries)

    def bind(self, ifindex: int, queue: int, flags: int, shared_with: Socket | None = None) -> None:
        """Start receiving from a queue, or sending on it; with ``shared_with`` on that socket's UMEM."""
        fd = shared_with.fd if shared_with else 0
        address = struct.pack("<HHIII", AF_XDP, flags | (SHARED_UMEM if shared_with else 0), ifindex, queue, fd)
        buffer = ctypes.create_string_buffer(address, len(address))
        syscall.call(f"binding to queue {queue}", syscall.libc.bind(self.fd, buffer, len(address)))

    def zero_copy(self) -> bool:
        return bool(struct.unpack("<I", self._get(OPTIONS, 4))[0] & 1)

    def statistics(self) -> Statistics:
        dropped, _, _, full, empty, _ = struct.unpack("<6Q", self._get(STATISTICS, 48))
        return Statistics(dropped, full, empty)

    def prepare_sending(self, frames_per_call: int, buffer_bytes: int) -> None:
        """In copy mode: how many frames a system call takes (where the kernel lets that be chosen), and how many
        bytes the frames under way may have in all; the kernel doubles ``buffer_bytes`` (socket(7)).
        """
        with contextlib.suppress(OSError):
            self._socket.setsockopt(SOL_XDP, MAX_TX_BUDGET, struct.pack("<I", frames_per_call))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)

    @property
    def is_orphan(self) -> bool:
        """True, once, when the interface has gone away (xsk_notifier, net/xdp/xsk.c)."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETDOWN

    def send_error(self) -> int:
        """Ask the kernel to send what is in the TX ring; 0, or the errno with which it refuses."""
        try:
            self._socket.send(b"", socket.MSG_DONTWAIT)
        except OSError as error:
            return error.errno or 0
        return 0

    def close(self) -> None:
        self._socket.close()

    def _set(self, option: int, value: bytes, what: str) -> None:
        try:
            self._socket.setsockopt(SOL_XDP, option, value)
        except OSError as error:
            raise SystemCallError(f"{what}: {os.strerror(error.errno or 0)}", error.errno or 0) from None

    def _get(self, option: int, size: int) -> bytes:
        return self._socket.getsockopt(SOL_XDP, option, size)
