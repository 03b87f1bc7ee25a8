"""pcapy-ng's module on this engine: ``from wirecap.compat import pcapy``.

docs/compat.md lists what differs.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Sequence
from operator import index
from types import TracebackType
from typing import Any

import cypcap
import numpy as np

from wirecap.compat import classify
from wirecap.compat.dumper import PcapFile
from wirecap.compat.handle import NO_ROWS, Batch, FileHandle, Handle, HandleError, LiveHandle, Rows, compiled
from wirecap.filters import libpcap

DLT_NULL, DLT_EN10MB, DLT_IEEE802, DLT_ARCNET, DLT_SLIP, DLT_PPP, DLT_FDDI = 0, 1, 6, 7, 8, 9, 10
DLT_ATM_RFC1483, DLT_RAW, DLT_PPP_SERIAL, DLT_PPP_ETHER, DLT_C_HDLC, DLT_IEEE802_11 = 11, 12, 50, 51, 104, 105
DLT_LOOP, DLT_LINUX_SLL, DLT_LTALK = 108, 113, 114
PCAP_D_INOUT, PCAP_D_IN, PCAP_D_OUT = 0, 1, 2
PACKET_FANOUT_HASH, PACKET_FANOUT_LB, PACKET_FANOUT_CPU, PACKET_FANOUT_ROLLOVER, PACKET_FANOUT_RND = 0, 1, 2, 3, 4

__all__ = [
    "DLT_ARCNET", "DLT_ATM_RFC1483", "DLT_C_HDLC", "DLT_EN10MB", "DLT_FDDI", "DLT_IEEE802", "DLT_IEEE802_11",
    "DLT_LINUX_SLL", "DLT_LOOP", "DLT_LTALK", "DLT_NULL", "DLT_PPP", "DLT_PPP_ETHER", "DLT_PPP_SERIAL", "DLT_RAW",
    "DLT_SLIP", "PACKET_FANOUT_CPU", "PACKET_FANOUT_HASH", "PACKET_FANOUT_LB", "PACKET_FANOUT_RND",
    "PACKET_FANOUT_ROLLOVER", "PCAP_D_IN", "PCAP_D_INOUT", "PCAP_D_OUT", "BPFError", "BPFProgram", "PcapError",
    "compile", "create", "findalldevs", "lookupdev", "open_live", "open_offline",
]  # fmt: skip

_NOT_ACTIVATED, _ACTIVATED, _NO_DEVICE, _NO_MONITOR, _FAILED = -3, -4, -5, -6, -1  # pcap/pcap.h: PCAP_ERROR_*


class PcapError(Exception):
    """What went wrong, in libpcap's words where it says something."""


class BPFError(Exception):
    """A filter expression that cannot be compiled."""


class Pkthdr:
    """A packet's time and lengths."""

    __slots__ = ("place", "rows")
    place: int
    rows: Rows

    def getts(self) -> tuple[int, int]:
        """(seconds, microseconds) since the epoch."""
        return (self.rows.times or self.rows.list_times())[self.place]

    def getcaplen(self) -> int:
        """Bytes that were captured."""
        return (self.rows.lengths or self.rows.list_lengths())[self.place][0]

    def getlen(self) -> int:
        """Bytes on the wire."""
        return (self.rows.lengths or self.rows.list_lengths())[self.place][1]


class _Headers:
    """Headers for the packets of one batch after the other: the same objects again, but for those that were kept."""

    def __init__(self) -> None:
        self._pool: list[Pkthdr] = []
        self._rows = Rows(*NO_ROWS)

    def of(self, rows: Rows) -> list[Pkthdr]:
        """One for each packet of ``rows``, and perhaps more; the next call uses those again that nobody has kept."""
        pool, mine = self._pool, self._rows
        counts = list(map(sys.getrefcount, pool))
        if counts.count(_ALONE) < len(pool):
            kept = Rows(mine.timestamps, mine.captured, mine.original)
            for place, count in enumerate(counts):
                if count != _ALONE:
                    pool[place].rows = kept
                    pool[place] = _header(place, mine)
        mine.fill(rows.timestamps, rows.captured, rows.original)
        pool += [_header(place, mine) for place in range(len(pool), len(rows.timestamps))]
        return pool


def _header(place: int, rows: Rows) -> Pkthdr:
    header = Pkthdr()
    header.place, header.rows = place, rows
    return header


_ALONE = next(map(sys.getrefcount, [Pkthdr()]))
"""What getrefcount says of an object that only a list has."""


class Dumper:
    """A pcap file that ``Reader.dump_open`` made."""

    def __init__(self, file: PcapFile) -> None:
        self._file = file

    def dump(self, header: Pkthdr, data: bytes) -> None:
        if not isinstance(header, Pkthdr):
            raise PcapError("Not a pkthdr object")
        if self._file.closed:
            raise PcapError("Dumper is already closed.")
        try:
            self._file.write(*header.getts(), header.getcaplen(), header.getlen(), data)
        except HandleError as error:
            raise PcapError(str(error)) from None

    def close(self) -> None:
        try:
            self._file.close()
        except HandleError as error:
            raise PcapError(str(error)) from None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


class BPFProgram:
    """A compiled filter."""

    def __init__(self, filter: str, linktype: int = DLT_EN10MB) -> None:
        try:
            self._load(compiled(filter, linktype, 1 << 16, False, 0))
        except HandleError:
            raise BPFError("Couldn't compile BPF program") from None

    def _load(self, rows: libpcap.Rows) -> None:
        self._rows = rows
        self._code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in rows))
        self._run = libpcap.library().bpf_filter

    def filter(self, packet: bytes) -> int:
        """0 if the packet does not match."""
        data = bytes(memoryview(packet))
        return int(self._run(self._code, data, len(data), len(data)))

    def get_bpf(self) -> list[tuple[int, int, int, int]]:
        """The instructions: (code, jt, jf, k)."""
        return list(self._rows)


class Reader:
    """A capture file or an interface."""

    def __init__(self, handle: Handle | None, net: int = 0, mask: int = 0) -> None:
        self._handle = handle
        self._net, self._mask = net, mask
        self._timeout_s: float | None = None
        self._counts = classify.Counts(0)
        self._closed = False

    # reading

    def next(self) -> tuple[Pkthdr | None, bytes]:
        """(header, bytes) of the next packet; (None, b'') at the end of a file, or if none came in time."""
        handle = self._handle
        while handle:
            for pair in handle.pairs:
                return pair
            if self._closed or not self._more(handle):
                break
        self._check()
        return None, b""

    def dispatch(self, cnt: int, callback: Callable[[Pkthdr, bytes], Any]) -> int:
        """Hand up to cnt packets over: all of a file, or what an interface has ready.

        Returns how many; as in libpcap, 0 if that was the end of a file.
        """
        handle, cnt, done = self._active(), index(cnt), 0
        while cnt <= 0 or done < cnt:
            if not self._more(handle, wait=not done):
                break
            done += handle.deliver(cnt - done if cnt > 0 else 0, callback)
            if handle.live:
                break
        return done if handle.live or done == cnt else 0

    def loop(self, cnt: int, callback: Callable[[Pkthdr, bytes], Any]) -> None:
        """Hand cnt packets over, with cnt <= 0 all: to the end of the file, or for ever."""
        handle, cnt, done = self._active(), index(cnt), 0
        while not handle.ended and (cnt <= 0 or done < cnt):
            if self._more(handle):
                done += handle.deliver(cnt - done if cnt > 0 else 0, callback)

    def next_batch(self, max_n: int) -> tuple[bytes, bytes]:
        """(bytes, records): up to max_n packets; a record is four native uint32: s, us, offset, length."""
        handle, most = self._active(), index(max_n) if max_n > 0 else 256
        parts: list[bytes] = []
        records: list[bytes] = []
        base = done = 0
        while done < most:
            batch, first = self._waiting(handle, wait=not done)
            if first == batch.count:
                break
            last = min(batch.count, first + most - done)
            data, offsets = batch.joined(first, last)
            handle.take_to(last)
            times = batch.rows.timestamps[first:last]
            seconds = times // 1_000_000_000
            record = np.empty((last - first, 4), np.uint32)
            record[:, 0], record[:, 1] = seconds, (times - seconds * 1_000_000_000) // 1000
            record[:, 2], record[:, 3] = offsets + base, batch.rows.captured[first:last]
            records.append(record.tobytes())
            parts.append(data)
            base, done = base + len(data), done + last - first
            if handle.live:
                break
        return b"".join(parts), b"".join(records)

    def loop_filtered(
        self, cnt: int, cb: Callable[[Pkthdr, bytes, int], Any], admit_mask: int = 7, addr_set: bytes = b"",
        flow_cutoff: int = 0, dpi_ports: Sequence[int] | None = None, tls_ports: Sequence[int] | None = None,
        dns_port: int = 53, l2_offset: int = 14, profile: int = 0,
    ) -> tuple[int, ...]:  # fmt: skip
        """As ``loop``, with each packet's class; packets of classes that are not in the mask are dropped."""
        classes = classify.Classes(addr_set, flow_cutoff, dpi_ports, tls_ports, dns_port, l2_offset, profile)
        self._active()
        counts = self._counts = classify.Counts(profile)

        def one(header: Pkthdr, data: bytes) -> None:
            kind = classes.of(data)
            if counts.admit(kind, admit_mask):
                cb(header, data, classes.base + kind)

        if not callable(cb):
            raise TypeError(f"{type(cb).__name__!r} object is not callable")
        self.loop(cnt, one)
        return counts.all()

    def filtered_stats(self) -> tuple[int, ...]:
        """The counts of the ``loop_filtered`` that runs or ran last."""
        return self._counts.all()

    def loop_to_buffer(
        self, cnt: int, writable_buf: Any, admit_mask: int = 7, addr_set: bytes = b"", flow_cutoff: int = 0,
        dpi_ports: Sequence[int] | None = None, tls_ports: Sequence[int] | None = None, dns_port: int = 53,
        l2_offset: int = 14, profile: int = 0,
    ) -> tuple[int, ...]:  # fmt: skip
        """As ``loop_filtered``, into a buffer: a packet is its length (uint32, little-endian), its class, its bytes."""
        classes = classify.Classes(addr_set, flow_cutoff, dpi_ports, tls_ports, dns_port, l2_offset, profile)
        self._active()
        counts, room, used, overflow = classify.Counts(profile), memoryview(writable_buf).cast("B"), 0, 0
        if room.readonly:
            raise TypeError("the buffer is read-only")

        def one(header: Pkthdr, data: bytes) -> None:
            nonlocal used, overflow
            kind = classes.of(data)
            if not counts.admit(kind, admit_mask):
                return
            end = used + 5 + len(data)
            if end > len(room):
                overflow += 1
                return
            room[used:end] = struct.pack("<IB", len(data), classes.base + kind) + data
            used = end

        self.loop(cnt, one)
        admitted, dropped, *of_class = counts.all()
        return admitted - overflow, dropped, overflow, used, *of_class

    # settings

    def setfilter(self, filter: str) -> None:
        """Hand over only what the expression matches, from the next packet on."""
        handle = self._active()
        try:
            handle.set_filter(compiled(filter, handle.dlt, handle.snaplen, True, self._mask))
        except HandleError as error:
            raise PcapError(error.message) from None

    def setdirection(self, direction: int) -> None:
        """PCAP_D_IN, PCAP_D_OUT or PCAP_D_INOUT."""
        handle = self._active()
        try:
            handle.direct({PCAP_D_INOUT: "inout", PCAP_D_IN: "in", PCAP_D_OUT: "out"}[direction])
        except (HandleError, KeyError):
            raise PcapError("Failed setting direction") from None

    def setnonblock(self, state: int) -> None:
        try:
            self._active().set_nonblocking(bool(state))
        except HandleError as error:
            raise PcapError(error.message) from None

    def getnonblock(self) -> int:
        return int(self._active().nonblocking)

    def set_snaplen(self, snaplen: int) -> int:
        return self._set("snaplen", snaplen)

    def set_promisc(self, promisc: int) -> int:
        return self._set("promiscuous", bool(promisc))

    def set_timeout(self, to_ms: int) -> int:
        return self._set("to_ms", to_ms)

    def set_buffer_size(self, buffer_size: int) -> int:
        return self._set("buffer_bytes", buffer_size)

    def set_rfmon(self, rfmon: int) -> int:
        return self._set("rfmon", bool(rfmon))

    def _set(self, name: str, value: Any) -> int:
        """0, or libpcap's number for a handle that is active already."""
        self._check()
        return _ACTIVATED

    def activate(self) -> int:
        """0, or libpcap's number for what is wrong."""
        self._check()
        return _ACTIVATED

    def set_fanout(self, group_id: int, fanout_type: int = PACKET_FANOUT_HASH) -> None:
        """Refused: the engine spreads packets over its queues by itself."""
        if not self._active().live:
            raise PcapError(
                "no socket fd for this capture (PACKET_FANOUT needs a live AF_PACKET capture, not an offline pcap)"
            )
        raise PcapError("a capture here has no socket of its own: open one queue in each process, such as eth1@0")

    # facts

    def getnet(self) -> str:
        self._check()
        return _dotted(self._net)

    def getmask(self) -> str:
        self._check()
        return _dotted(self._mask)

    def datalink(self) -> int:
        self._check()
        return self._handle.dlt if self._handle else _NOT_ACTIVATED

    def stats(self) -> tuple[int, int, int]:
        """(received, dropped, dropped by the interface)"""
        try:
            return self._active().stats()
        except HandleError as error:
            raise PcapError(error.message) from None

    def getfd(self) -> int:
        """Refused on an interface: packets are in the engine's memory, not behind a descriptor."""
        if self._active().live:
            raise PcapError("no descriptor to wait on: call dispatch with a timeout, or setnonblock(1)")
        return -1

    # writing

    def dump_open(self, filename: str) -> Dumper:
        """A new pcap file for packets of this reader."""
        handle = self._active()
        try:
            return Dumper(PcapFile(filename, handle.dlt, handle.snaplen))
        except HandleError as error:
            raise PcapError(error.message) from None

    def sendpacket(self, packet: bytes) -> None:
        try:
            self._active().send(packet)
        except HandleError as error:
            raise PcapError(str(error)) from None

    def close(self) -> None:
        self._closed = True
        if self._handle:
            self._handle.close()

    def __enter__(self) -> Reader:
        self._check()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and getattr(self, "_handle", None):  # at exit no thread can help to end a capture
            self.close()

    def _check(self) -> None:
        if self._closed:
            raise ValueError("pcap is closed")

    def _active(self) -> Handle:
        self._check()
        if self._handle is None:
            raise PcapError("This handle hasn't been activated yet")
        return self._handle

    def _more(self, handle: Handle, wait: bool = True) -> bool:
        try:
            return handle.more(self._timeout_s if wait else 0.0)
        except HandleError as error:
            raise PcapError(str(error)) from None

    def _waiting(self, handle: Handle, wait: bool) -> tuple[Batch, int]:
        try:
            return handle.waiting(self._timeout_s if wait else 0.0)
        except HandleError as error:
            raise PcapError(str(error)) from None


class _Created(Reader):
    """What ``create`` returns: an interface that is captured from ``activate`` on."""

    def __init__(self, device: str) -> None:
        super().__init__(None, *_network(device))
        self._device = device
        self._settings: dict[str, Any] = {"snaplen": 0, "promiscuous": False, "to_ms": 0, "rfmon": False}

    def _set(self, name: str, value: Any) -> int:
        self._check()
        if self._handle:
            return _ACTIVATED
        self._settings[name] = value
        return 0

    def activate(self) -> int:
        self._check()
        if self._handle:
            return _ACTIVATED
        settings = dict(self._settings)
        if settings.pop("rfmon"):
            return _NO_MONITOR
        self._timeout_s = _timeout(settings.pop("to_ms"))
        if not os.path.exists(f"/sys/class/net/{self._device.partition('@')[0]}") and self._device != "any":  # noqa: PTH110
            return _NO_DEVICE
        try:
            self._handle = LiveHandle(self._device, _Headers().of, **settings)
        except HandleError:
            return _FAILED
        return 0


def open_live(device: str, snaplen: int, promisc: int, to_ms: int) -> Reader:
    """Capture on an interface.  to_ms: how long ``next`` and ``dispatch`` wait for a packet, 0 for ever."""
    try:
        handle = LiveHandle(device, _Headers().of, snaplen=snaplen, promiscuous=bool(promisc))
    except HandleError as error:
        raise PcapError(str(error)) from None
    reader = Reader(handle, *_network(device))
    reader._timeout_s = _timeout(to_ms)
    return reader


def create(device: str) -> Reader:
    """An interface that is captured once ``activate`` is called."""
    return _Created(device)


def open_offline(filename: str) -> Reader:
    """Read a capture file, compressed or not; ``-`` is the standard input."""
    if not isinstance(filename, str):
        raise TypeError(f"argument 1 must be str, not {type(filename).__name__}")
    try:
        return Reader(FileHandle(filename, _Headers().of))
    except HandleError as error:
        raise PcapError(error.message) from None


def lookupdev() -> str:
    """An interface to capture on."""
    return findalldevs()[0]


def findalldevs() -> list[str]:
    """The names of the interfaces that libpcap finds."""
    found = [device.name for device in cypcap.findalldevs()]
    if not found:
        raise PcapError("No valid interfaces to open")
    return found


def compile(linktype: int, snaplen: int, filter: str, optimize: int, netmask: int) -> BPFProgram:
    """A filter for packets of a link type, which returns snaplen for those that match."""
    program = BPFProgram.__new__(BPFProgram)
    try:
        program._load(compiled(filter, linktype, snaplen, bool(optimize), netmask))
    except HandleError as error:
        raise PcapError(error.message) from None
    return program


def _timeout(to_ms: int) -> float | None:
    return to_ms / 1000 if to_ms > 0 else None


def _network(device: str) -> tuple[int, int]:
    """The interface's IPv4 network and netmask as libpcap has them, (0, 0) where there are none."""
    try:
        net, mask = cypcap.lookupnet(device.partition("@")[0])
    except cypcap.Error:
        return 0, 0
    return int(net), int(mask)


def _dotted(address: int) -> str:
    return ".".join(str(byte) for byte in address.to_bytes(4, "little"))
