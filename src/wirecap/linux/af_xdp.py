"""AF_XDP sockets: the UMEM, the rings, binding to a queue.  Source: linux/if_xdp.h, af_xdp.rst."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError
from wirecap.linux import capabilities, holders, syscall

MAP_FIXED, MAP_HUGETLB = 0x10, 0x40000  # asm-generic/mman-common.h, mman.h
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_HUGE_PAGE = 2 << 20

syscall.libc.mmap.restype = ctypes.c_void_p
syscall.libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip


def page_round(size: int, page: int = mmap.PAGESIZE) -> int:
    return -(-size // page) * page


def cells(size_bytes: int) -> NDArray[np.uint8]:
    """Zeroed memory, uint8 (size_bytes,), on huge pages if any are free, else on transparent ones."""
    try:
        area = mmap.mmap(-1, page_round(size_bytes, _HUGE_PAGE), flags=_PRIVATE | MAP_HUGETLB)
    except OSError:
        return transparent(size_bytes)
    return np.frombuffer(area, dtype=np.uint8)[:size_bytes]


def transparent(size_bytes: int) -> NDArray[np.uint8]:
    """Zeroed memory, uint8 (size_bytes,), on transparent huge pages if the kernel has them."""
    area = mmap.mmap(-1, page_round(size_bytes, _HUGE_PAGE), flags=_PRIVATE)
    with contextlib.suppress(OSError):  # a kernel without them
        area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(area, dtype=np.uint8)[:size_bytes]


@dataclass(frozen=True)
class Piece:
    """Memory of a descriptor that is mapped at byte ``at`` of an arena, ``size`` bytes from ``file_offset`` on."""

    fd: int
    at: int
    file_offset: int
    size: int


class SharedMemory:
    """Zeroed memory that other processes can map by its descriptor; ``bytes``: uint8 (size,), whole pages."""

    def __init__(self, size_bytes: int) -> None:
        self.fd = os.memfd_create("wirecap", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, page_round(size_bytes, _HUGE_PAGE))
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW  # or a reader could fault us
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
            self.area = mmap.mmap(self.fd, page_round(size_bytes, _HUGE_PAGE))
        except OSError:
            os.close(self.fd)
            raise
        with contextlib.suppress(OSError):  # a kernel without huge pages for shared memory
            self.area.madvise(mmap.MADV_HUGEPAGE)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self.area, dtype=np.uint8)

    @contextlib.contextmanager
    def reader(self) -> Iterator[int]:
        """A descriptor through which the memory can only be read."""
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the descriptor; the memory stays as long as an array or another process has it."""
        os.close(self.fd)


class Region:
    """One stretch of address space, into which the memory of several descriptors is mapped piece by piece.

    A mapping keeps its socket alive, so ``close`` puts empty memory in its place: a late reader finds zeros
    instead of faulting.
    """

    def __init__(self, size_bytes: int, shared: SharedMemory | None = None) -> None:
        """shared: what lies below the pieces, if other processes are to map the same; it is as large."""
        self._area = shared.area if shared else mmap.mmap(-1, page_round(size_bytes))
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._area, dtype=np.uint8)
        self._used = 0
        self.pieces: list[Piece] = []

    def reserve(self, size_bytes: int) -> int:
        """Reserve the next free, page-aligned piece; returns its offset."""
        at = self._used
        self._used += page_round(size_bytes)
        if self._used > len(self._area):
            raise ValueError("the region is full")
        return at

    @contextlib.contextmanager
    def over(self, at: int) -> Iterator[None]:
        """What is mapped within takes the place of the pieces from offset ``at`` on."""
        used, self._used = self._used, at
        try:
            yield
        finally:
            self._used = used

    @property
    def end(self) -> int:
        """The offset of the next piece."""
        return self._used

    def map(self, fd: int, file_offset: int, size_bytes: int, what: str) -> int:
        """Map a descriptor's memory, shared; returns its offset in the region."""
        at = self.reserve(size_bytes)
        address = self.bytes.ctypes.data + at
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        got = syscall.libc.mmap(address, size_bytes, protection, mmap.MAP_SHARED | MAP_FIXED, fd, file_offset)
        syscall.call(f"cannot map {what}", 0 if got == address else -1)
        self.pieces[:] = [piece for piece in self.pieces if piece.at != at]
        self.pieces.append(Piece(fd, at, file_offset, size_bytes))
        return at

    def close(self) -> None:
        size, protection = len(self._area), mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
        syscall.libc.mmap(self.bytes.ctypes.data, size, protection, flags, -1, 0)


AF_XDP, SOL_XDP = 44, 283
MMAP_OFFSETS, RX_RING, TX_RING, UMEM_REG, FILL_RING, COMPLETION_RING, STATISTICS, OPTIONS = 1, 2, 3, 4, 5, 6, 7, 8
MAX_TX_BUDGET = 9  # XDP_MAX_TX_SKB_BUDGET, Linux 6.17
SHARED_UMEM, COPY, ZERO_COPY, NEED_WAKEUP, USE_SG = 1, 2, 4, 8, 16  # the last, for packets of several cells: Linux 6.6
TX_METADATA_LENGTH = 1 << 2  # XDP_UMEM_TX_METADATA_LEN
_PAGE_OFFSETS = {RX_RING: 0, TX_RING: 0x80000000, FILL_RING: 0x100000000, COMPLETION_RING: 0x180000000}
_OFFSET_INDEX = {RX_RING: 0, TX_RING: 1, FILL_RING: 2, COMPLETION_RING: 3}
_ENTRY_BYTES = {RX_RING: 16, TX_RING: 16, FILL_RING: 8, COMPLETION_RING: 8}
_NAMES = {
    RX_RING: "the RX ring", TX_RING: "the TX ring", FILL_RING: "the fill ring", COMPLETION_RING: "the completion ring",
}  # fmt: skip
RELEASE_S = 0.5
"""How long the kernel may take to release a queue after its last socket was closed."""
COMPLETION_ENTRIES = 64  # the kernel requires a completion ring with every fill ring, even if nothing is transmitted


@dataclass(frozen=True)
class Ring:
    """Where a ring lies: byte offsets into the region."""

    producer: int
    consumer: int
    flags: int
    descriptors: int
    entries: int


@dataclass(frozen=True)
class Statistics:
    """The receive part of struct xdp_statistics: packets since the socket was created."""

    rx_dropped: int
    rx_ring_full: int
    rx_fill_ring_empty: int


@functools.cache
def joins_cells() -> bool:
    """Whether the kernel puts a packet that is longer than a cell into several."""
    try:
        with socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as probe:
            address = struct.pack(
                "<HHIII", AF_XDP, USE_SG, 0x7FFFFFFF, 0, 0
            )  # no interface: only the flag is looked at
            syscall.libc.bind(probe.fileno(), address, len(address))
            return ctypes.get_errno() == errno.ENODEV
    except OSError:
        return False


def _occupied() -> str:
    owners = holders.of_sockets()
    who = f", {'one of ' if ', ' in owners else ''}{owners}" if owners else ""
    return f"another AF_XDP socket has the queue: stop its owner{who}"


class Socket:
    """An AF_XDP socket: its rings are mapped into ``region``, and ``bind`` starts the queue."""

    def __init__(self, region: Region) -> None:
        try:
            self._socket = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        except OSError as error:
            hints = {
                errno.EPERM: capabilities.hint(capabilities.XDP),
                errno.EAFNOSUPPORT: "this kernel was built without CONFIG_XDP_SOCKETS; the packet engine works without",
            }
            raise SystemCallError(
                f"cannot open an AF_XDP socket: {error.strerror}", error.errno or 0, hints.get(error.errno or 0, "")
            ) from None
        self.fd = self._socket.fileno()
        self._region = region

    def register(self, arena: NDArray[np.uint8], cell: int, metadata_bytes: int = 0) -> None:
        """Register ``arena`` as the UMEM, in cells of ``cell`` bytes; its pages stay pinned from then on.

        metadata_bytes: of a struct xsk_tx_metadata in front of frames that are sent (Linux 6.11).
        """
        hint, flags = "", TX_METADATA_LENGTH if metadata_bytes else 0
        argument = struct.pack("<QQIIII", arena.ctypes.data, arena.size, cell, 0, flags, metadata_bytes)
        try:
            self._set(UMEM_REG, argument, f"cannot register {arena.size >> 20} MiB of packet memory")
        except SystemCallError as error:
            if error.errno in (errno.ENOBUFS, errno.ENOMEM, errno.EPERM):
                hint = "use a smaller -R, raise the locked-memory limit (ulimit -l), or grant CAP_IPC_LOCK"
            raise SystemCallError(error.message, error.errno, hint) from None

    def ring(self, kind: int, entries: int) -> Ring:
        """Create and map one of the socket's rings; ``entries`` is a power of two."""
        self._set(kind, struct.pack("<I", entries), f"cannot create {_NAMES[kind]} with {entries} entries")
        offsets = struct.unpack("<16Q", self._get(MMAP_OFFSETS, 128))
        producer, consumer, descriptors, flags = offsets[_OFFSET_INDEX[kind] * 4 :][:4]
        size = descriptors + entries * _ENTRY_BYTES[kind]
        at = self._region.map(self.fd, _PAGE_OFFSETS[kind], size, _NAMES[kind])
        return Ring(at + producer, at + consumer, at + flags, at + descriptors, entries)

    def bind(self, ifindex: int, queue: int, flags: int, shared_with: Socket | None = None) -> None:
        """Start receiving from a queue, or sending on it; ``shared_with`` is the socket whose UMEM to share.

        The kernel releases a queue in the background, a moment after its last owner closed it: that is waited for.
        """
        fd = shared_with.fd if shared_with else 0
        address = struct.pack("<HHIII", AF_XDP, flags | (SHARED_UMEM if shared_with else 0), ifindex, queue, fd)
        buffer = ctypes.create_string_buffer(address, len(address))
        end = time.monotonic() + RELEASE_S
        while syscall.libc.bind(self.fd, buffer, len(address)):
            code = ctypes.get_errno()
            if code != errno.EBUSY or time.monotonic() >= end:
                hint = _occupied() if code == errno.EBUSY else ""
                raise SystemCallError(f"cannot bind to queue {queue}: {os.strerror(code)}", code, hint)
            time.sleep(0.01)

    def zero_copy(self) -> bool:
        return bool(struct.unpack("<I", self._get(OPTIONS, 4))[0] & 1)

    def statistics(self) -> Statistics:
        dropped, _, _, full, empty, _ = struct.unpack("<6Q", self._get(STATISTICS, 48))
        return Statistics(dropped, full, empty)

    def prepare_sending(self, frames_per_call: int, buffer_bytes: int) -> None:
        """Set, for copy mode, how many frames a system call sends (if the kernel lets us choose) and how many bytes of
        frames may be in flight; the kernel doubles ``buffer_bytes`` (socket(7)).
        """
        with contextlib.suppress(OSError):
            self._socket.setsockopt(SOL_XDP, MAX_TX_BUDGET, struct.pack("<I", frames_per_call))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)

    @property
    def is_orphan(self) -> bool:
        """True, once, when the interface has gone away (xsk_notifier, net/xdp/xsk.c)."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETDOWN

    def close(self) -> None:
        self._socket.close()

    def _set(self, option: int, value: bytes, what: str) -> None:
        try:
            self._socket.setsockopt(SOL_XDP, option, value)
        except OSError as error:
            raise SystemCallError(f"{what}: {os.strerror(error.errno or 0)}", error.errno or 0) from None

    def _get(self, option: int, size: int) -> bytes:
        return self._socket.getsockopt(SOL_XDP, option, size)
