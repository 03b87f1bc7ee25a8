"""pypcap's module on this engine: ``from wirecap.compat import pcap``.

docs/compat.md lists what differs.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator
from operator import index
from typing import Any

import cypcap
import numpy as np

from wirecap.compat.handle import FileHandle, Handle, HandleError, LiveHandle, Rows, compiled
from wirecap.compat.pcapy import BPFProgram

DLT_NULL, DLT_EN10MB, DLT_EN3MB, DLT_AX25, DLT_PRONET, DLT_CHAOS, DLT_IEEE802, DLT_ARCNET = 0, 1, 2, 3, 4, 5, 6, 7
DLT_SLIP, DLT_PPP, DLT_FDDI, DLT_RAW, DLT_PFSYNC, DLT_LOOP, DLT_LINUX_SLL, DLT_PFLOG = 8, 9, 10, 12, 18, 108, 113, 117
PCAP_D_INOUT, PCAP_D_IN, PCAP_D_OUT = 0, 1, 2
PCAP_TSTAMP_PRECISION_MICRO, PCAP_TSTAMP_PRECISION_NANO = 0, 1

__all__ = [
    "DLT_ARCNET", "DLT_AX25", "DLT_CHAOS", "DLT_EN3MB", "DLT_EN10MB", "DLT_FDDI", "DLT_IEEE802", "DLT_LINUX_SLL",
    "DLT_LOOP", "DLT_NULL", "DLT_PFLOG", "DLT_PFSYNC", "DLT_PPP", "DLT_PRONET", "DLT_RAW", "DLT_SLIP", "PCAP_D_IN",
    "PCAP_D_INOUT", "PCAP_D_OUT", "PCAP_TSTAMP_PRECISION_MICRO", "PCAP_TSTAMP_PRECISION_NANO", "bpf", "dltoff",
    "ex_name", "findalldevs", "lookupdev", "lookupnet", "pcap",
]  # fmt: skip

dltoff = {
    DLT_NULL: 4, DLT_EN10MB: 14, DLT_IEEE802: 22, DLT_ARCNET: 6, DLT_SLIP: 16, DLT_PPP: 4, DLT_FDDI: 21, DLT_PFLOG: 48,
    DLT_PFSYNC: 4, DLT_LOOP: 4, DLT_RAW: 0, DLT_LINUX_SLL: 16,
}  # fmt: skip

Packet = tuple[float, bytes]


class bpf:  # noqa: N801
    """A compiled filter."""

    def __init__(self, filter: bytes, dlt: int = DLT_RAW) -> None:
        text = filter.decode(errors="replace") if isinstance(filter, bytes) else filter
        self._program = BPFProgram.__new__(BPFProgram)
        try:
            self._program._load(compiled(text, dlt, 65535, True, 0))
        except HandleError:
            raise OSError("bad filter") from None

    def filter(self, buf: bytes) -> bool:
        """Whether it matches these bytes."""
        return self._program.filter(buf) != 0


class pcap:  # noqa: N801
    """A capture file or an interface; iterating gives (time, bytes)."""

    def __init__(
        self, name: str | None = None, snaplen: int = 65535, promisc: bool = True, timeout_ms: int = 0,
        immediate: bool = False, rfmon: bool = False, timestamp_in_ns: bool = False, buffer_size: int = 0,
    ) -> None:  # fmt: skip
        self.name = name or lookupdev()
        self.filter = ""
        self.timestamp_in_ns = bool(timestamp_in_ns)
        self.precision = PCAP_TSTAMP_PRECISION_NANO
        self._timeout_s = timeout_ms / 1000 if timeout_ms and timeout_ms > 0 else None
        self._error = b""
        self._handle: Handle | None = None
        try:
            self._handle = self._open(snaplen, promisc, rfmon, buffer_size)
        except HandleError as error:
            raise OSError(str(error)) from None

    def _open(self, snaplen: int, promisc: bool, rfmon: bool, buffer_size: int) -> Handle:
        if self.name == "-" or os.path.exists(self.name):  # noqa: PTH110 - no file is called so, if the name is too long
            return FileHandle(self.name, self._times)
        if rfmon:
            raise HandleError(f"{self.name}: monitor mode is not supported", "set it with iw, then capture")
        return LiveHandle(self.name, self._times, snaplen=snaplen, promiscuous=bool(promisc), buffer_bytes=buffer_size)

    @property
    def snaplen(self) -> int:
        """Bytes that are kept of a packet."""
        return self._active().snaplen

    @property
    def dloff(self) -> int:
        """Bytes before the network header, as far as the link type says; else 0."""
        return dltoff.get(self._active().dlt, 0)

    @property
    def fd(self) -> int:
        return self.fileno()

    def fileno(self) -> int:
        """Refused on an interface: packets are in the engine's memory, not behind a descriptor."""
        self._active()
        raise OSError("no descriptor to wait on: call dispatch with timeout_ms set, or setnonblock()")

    def close(self) -> None:
        if self._handle:
            handle, self._handle = self._handle, None
            handle.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "_handle"):  # at exit no thread can help to end a capture
            self.close()

    def setfilter(self, value: str, optimize: int = 1) -> None:
        """Hand over only what the expression matches, from the next packet on."""
        handle = self._active()
        self.filter = value
        try:
            handle.set_filter(compiled(value, handle.dlt, handle.snaplen, bool(optimize), 0))
        except HandleError as error:
            raise self._failed(error) from None

    def setdirection(self, direction: int) -> bool:
        try:
            self._active().direct({PCAP_D_INOUT: "inout", PCAP_D_IN: "in", PCAP_D_OUT: "out"}[direction])
        except (HandleError, KeyError):
            return False
        return True

    def setnonblock(self, nonblock: bool = True) -> None:
        handle = self._active()
        if handle.live:
            handle.set_nonblocking(bool(nonblock))

    def getnonblock(self) -> bool:
        return self._active().nonblocking

    def datalink(self) -> int:
        return self._active().dlt

    def readpkts(self) -> list[Packet]:
        """(time, bytes) of the packets that are ready: all of a file."""
        packets: list[Packet] = []
        self.dispatch(-1, lambda time, data: packets.append((time, data)))
        return packets

    def dispatch(self, cnt: int, callback: Callable[..., Any], *args: Any) -> int:
        """Hand up to cnt packets over: all of a file, or what an interface has ready.

        Returns how many; as in libpcap, 0 if that was the end of a file.
        """
        handle, cnt, done = self._active(), index(cnt), 0
        while cnt <= 0 or done < cnt:
            if not self._more(handle, 0.0 if done else self._timeout_s):
                break
            done += handle.deliver(cnt - done if cnt > 0 else 0, callback, args)
            if handle.live:
                break
        return done if handle.live or done == cnt else 0

    def loop(self, cnt: int, callback: Callable[..., Any], *args: Any) -> None:
        """Hand cnt packets over, with cnt <= 0 all: to the end of the file, or for ever."""
        handle, cnt, done = self._active(), index(cnt), 0
        while not handle.ended and (cnt <= 0 or done < cnt):
            if self._more(handle, None):
                done += handle.deliver(cnt - done if cnt > 0 else 0, callback, args)

    def sendpacket(self, buf: bytes) -> int:
        """Send a frame; returns its length."""
        try:
            self._active().send(bytes(buf))
        except HandleError as error:
            raise self._failed(error) from None
        return len(buf)

    def geterr(self) -> bytes:
        """What went wrong last."""
        return self._error

    def stats(self) -> tuple[int, int, int]:
        """(received, dropped, dropped by the interface)"""
        try:
            return self._active().stats()
        except HandleError as error:
            raise self._failed(error) from None

    def __iter__(self) -> Iterator[Packet]:
        return self

    def __next__(self) -> Packet:
        handle = self._active()
        while True:
            for packet in handle.pairs:
                return packet
            if not self._more(handle, None) and handle.ended:
                raise StopIteration

    def _times(self, rows: Rows) -> list[Any]:
        """The times as the user wants them."""
        if self.timestamp_in_ns:
            return rows.timestamps.tolist()  # type: ignore[no-any-return]
        seconds, rest = np.divmod(rows.timestamps, 1_000_000_000)
        return (seconds + rest * 1e-9).tolist()  # type: ignore[no-any-return]

    def _active(self) -> Handle:
        if self._handle is None:
            raise ValueError("pcap is closed")
        return self._handle

    def _more(self, handle: Handle, timeout_s: float | None) -> bool:
        try:
            return handle.more(timeout_s)
        except HandleError as error:
            failed = self._failed(error)
            if handle.live:
                raise failed from None
            return False  # a damaged file ends as if it were whole; ``geterr`` says what is wrong

    def _failed(self, error: HandleError) -> OSError:
        self._error = str(error).encode()
        return OSError(str(error))


def ex_name(foo: bytes) -> bytes:
    return foo


def lookupdev() -> str:
    """An interface to capture on."""
    names = findalldevs()
    if not names:
        raise OSError("no suitable device found")
    return names[0]


def findalldevs() -> list[str]:
    """The names of the interfaces that libpcap finds."""
    return [device.name for device in cypcap.findalldevs()]


def lookupnet(dev: bytes) -> tuple[bytes, bytes]:
    """The IPv4 network and netmask of an interface, 4 bytes each."""
    try:
        net, mask = cypcap.lookupnet(dev.decode() if isinstance(dev, bytes) else dev)
    except cypcap.Error as error:
        raise OSError(str(error)) from None
    return struct.pack("I", net), struct.pack("I", mask)
