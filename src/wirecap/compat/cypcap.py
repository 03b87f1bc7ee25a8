"""cypcap's module on this engine: ``from wirecap.compat import cypcap``.

Filters, link types, errors and devices are cypcap's own; captures and files are WireCAP's.  docs/compat.md lists what
differs.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any

import cypcap
from cypcap import (
    NETMASK_UNKNOWN,
    BpfDumpType,
    BpfProgram,
    DatalinkType,
    Direction,
    Error,
    ErrorCode,
    NotSupportedError,
    PcapAddr,
    PcapIf,
    PcapIfFlags,
    PcapType,
    TstampPrecision,
    TstampType,
    Warning,
    compile,
    findalldevs,
    lib_version,
    lookupnet,
)

from wirecap.compat.dumper import PcapFile
from wirecap.compat.handle import FileHandle, Handle, HandleError, LiveHandle

__all__ = [
    "NETMASK_UNKNOWN", "BpfDumpType", "BpfProgram", "DatalinkType", "Direction", "Dumper", "Error", "ErrorCode",
    "NotSupportedError", "Pcap", "PcapAddr", "PcapIf", "PcapIfFlags", "PcapType", "Pkthdr", "Stat", "TstampPrecision",
    "TstampType", "Warning", "compile", "create", "findalldevs", "lib_version", "lookupnet", "open_dead", "open_live",
    "open_offline",
]  # fmt: skip

_BILLION = 1_000_000_000
_WAYS = {Direction.INOUT: "inout", Direction.IN: "in", Direction.OUT: "out"}


class Pkthdr(cypcap.Pkthdr):  # type: ignore[misc]
    """A packet's time and lengths.  ``ns``: ns since the epoch where the packet came from a capture, else None."""

    ns: int | None = None


@dataclass(frozen=True)
class Stat:
    """Packets received, dropped, and dropped by the interface."""

    recv: int
    drop: int
    ifdrop: int


class Dumper:
    """A pcap file that ``Pcap.dump_open`` made."""

    _file: PcapFile | None

    def __init__(self) -> None:
        raise TypeError(f"cannot create '{type(self).__name__}' instances")

    def dump(self, pkt_header: cypcap.Pkthdr, pkt_data: bytes) -> None:
        """Write a packet."""
        file = self._open()
        ns = getattr(pkt_header, "ns", None)
        if ns is None:
            ns = round(pkt_header.ts * 1_000_000) * 1000
        seconds, rest = divmod(ns, _BILLION)
        with _errors():
            file.write(seconds, rest // file.tick_ns, pkt_header.caplen, pkt_header.len, pkt_data)

    def flush(self) -> int:
        with _errors():
            self._open().flush()
        return 0

    def ftell(self) -> int:
        """Bytes so far."""
        return self._open().size

    def close(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file:
            with _errors():
                file.close()

    def _open(self) -> PcapFile:
        if self._file is None:
            raise ValueError("Operation on closed Dumper")
        return self._file

    def __enter__(self) -> Dumper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and getattr(self, "_file", None):
            warnings.warn(f"unclosed Dumper {self!r}", ResourceWarning, source=self, stacklevel=1)
            self.close()


class _errors:  # noqa: N801
    """Turns a HandleError into cypcap's Error."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HandleError):
            raise Error(ErrorCode.ERROR, str(error)) from None


class Pcap:
    """A capture file, an interface, or neither; iterating gives (header, bytes), (None, None) after the timeout."""

    type: PcapType
    source: str | None
    _handle: Handle | None
    _libpcap: Any
    """libpcap's handle, which is never activated: it checks settings, and after that it compiles filters."""

    def __init__(self) -> None:
        raise TypeError(f"cannot create '{type(self).__name__}' instances")

    @classmethod
    def _of(cls, kind: PcapType, source: str | None, libpcap: Any) -> Pcap:
        made = cls.__new__(cls)
        made.type, made.source, made._handle, made._libpcap = kind, source, None, libpcap
        made._timeout_s, made._nanoseconds, made._closed = None, False, False
        made._settings = {"promiscuous": False}
        return made

    _timeout_s: float | None
    _nanoseconds: bool
    _closed: bool
    _settings: dict[str, Any]

    # before it is active

    def set_snaplen(self, snaplen: int) -> None:
        self._set("snaplen", snaplen).set_snaplen(snaplen)

    def set_promisc(self, promisc: bool) -> None:
        self._set("promiscuous", bool(promisc)).set_promisc(promisc)

    def set_buffer_size(self, buffer_size: int) -> None:
        self._set("buffer_bytes", buffer_size).set_buffer_size(buffer_size)

    def set_timeout(self, timeout: float) -> None:
        self._inactive().set_timeout(timeout)
        self._timeout_s = timeout if timeout > 0 else None

    def set_rfmon(self, rfmon: bool) -> None:
        if rfmon:
            raise Error(ErrorCode.RFMON_NOTSUP, "monitor mode is not supported: set it with iw, then capture")
        self._inactive()

    def set_immediate_mode(self, immediate_mode: bool) -> None:
        self._inactive().set_immediate_mode(immediate_mode)

    def set_tstamp_type(self, tstamp_type: TstampType) -> None:
        self._inactive().set_tstamp_type(tstamp_type)

    def set_tstamp_precision(self, tstamp_precision: TstampPrecision) -> None:
        self._inactive().set_tstamp_precision(tstamp_precision)
        self._nanoseconds = tstamp_precision == TstampPrecision.NANO

    def set_protocol_linux(self, protocol: int) -> None:
        self._inactive()
        raise NotSupportedError("a capture has all protocols: use a filter")

    def set_pre_config(self, **settings: Any) -> None:
        """What the ``set_`` methods set, by name."""
        for name, value in settings.items():
            if value is not None:
                getattr(self, f"set_{name}")(value)

    def can_set_rfmon(self) -> bool:
        self._check()
        return False

    def list_tstamp_types(self) -> list[TstampType]:
        self._check()
        return [TstampType.HOST]

    def activate(self) -> None:
        """Start capturing."""
        self._inactive()
        assert self.source
        if self.source not in {device.name for device in findalldevs()} and "@" not in self.source:
            raise Error(ErrorCode.NO_SUCH_DEVICE, f"{self.source}: No such device exists")
        with _errors():
            self._use(LiveHandle(self.source, _headers, **self._settings))

    def _set(self, name: str, value: Any) -> Any:
        libpcap = self._inactive()
        self._settings[name] = value
        return libpcap

    def _use(self, handle: Handle) -> None:
        self._handle, handle.breakable = handle, True
        if self._libpcap:
            self._libpcap.close()
        self._libpcap = cypcap.open_dead(handle.dlt, handle.snaplen)

    # packets

    def __iter__(self) -> Pcap:
        return self

    def __next__(self) -> tuple[Pkthdr | None, bytes | None]:
        handle = self._active()
        while True:
            for packet in handle.pairs:
                return packet
            if not self._more(handle, self._timeout_s):
                break
        if handle.ended or handle.stop:
            handle.stop = False
            raise StopIteration
        return None, None

    def loop(self, cnt: int, callback: Callable[[Pkthdr, bytes], Any]) -> None:
        """Hand cnt packets over, with cnt <= 0 all: to the end of the file, or for ever."""
        handle, cnt, done = self._active(), index(cnt), 0
        while not handle.ended and (cnt <= 0 or done < cnt) and not handle.stop:
            if self._more(handle, None):
                done += handle.deliver(cnt - done if cnt > 0 else 0, callback)
        self._told_to_stop(handle)

    def dispatch(self, cnt: int, callback: Callable[[Pkthdr, bytes], Any]) -> None:
        """Hand up to cnt packets over: all of a file, or what an interface has ready."""
        handle, cnt, done = self._active(), index(cnt), 0
        while (cnt <= 0 or done < cnt) and not handle.stop:
            if not self._more(handle, 0.0 if done else self._timeout_s):
                break
            done += handle.deliver(cnt - done if cnt > 0 else 0, callback)
            if handle.live:
                break
        self._told_to_stop(handle)

    def breakloop(self) -> None:
        """End ``loop`` or ``dispatch`` after the packet that it is at."""
        self._active().stop = True

    def _told_to_stop(self, handle: Handle) -> None:
        if handle.stop:
            handle.stop = False
            raise Error(ErrorCode.BREAK, "")

    def _more(self, handle: Handle, timeout_s: float | None) -> bool:
        with _errors():
            return handle.more(timeout_s)

    # settings of an active one

    def getnonblock(self) -> bool:
        return self._active().nonblocking

    def setnonblock(self, nonblock: bool) -> None:
        with _errors():
            self._active().set_nonblocking(bool(nonblock))

    def compile(self, filter_: str, optimize: bool = True, netmask: int | None = None) -> BpfProgram:
        """A filter for packets of this link."""
        self._check()
        if netmask is None and self.type == PcapType.LIVE and self.source:
            try:
                netmask = lookupnet(self.source)[1]
            except Error:
                netmask = NETMASK_UNKNOWN
        return self._libpcap.compile(filter_, optimize, netmask)

    def setfilter(self, filter: BpfProgram | str, *, optimize: bool = True, netmask: int | None = None) -> None:
        """Hand over only what it accepts, from the next packet on."""
        program = self.compile(filter, optimize, netmask) if isinstance(filter, str) else filter
        self._active().set_filter(list(program))

    def setdirection(self, d: Direction) -> None:
        with _errors():
            self._active().direct(_WAYS[Direction(d)])

    def set_datalink(self, datalink: DatalinkType) -> int:
        if datalink != self.datalink():
            raise Error(ErrorCode.ERROR, f"{int(datalink)} is not one of the DLTs supported by this device")
        return 0

    def set_config(
        self, *, filter: BpfProgram | str | None = None, direction: Direction | None = None,
        datalink: DatalinkType | None = None, nonblock: bool | None = None,
    ) -> None:  # fmt: skip
        """What the methods above set."""
        if filter is not None:
            self.setfilter(filter)
        if direction is not None:
            self.setdirection(direction)
        if datalink is not None:
            self.set_datalink(datalink)
        if nonblock is not None:
            self.setnonblock(nonblock)

    # facts

    def datalink(self) -> DatalinkType | int:
        self._check()
        return self._libpcap.datalink()

    def list_datalinks(self) -> list[DatalinkType | int]:
        return [self.datalink()]

    def snapshot(self) -> int:
        return self._active().snaplen

    def is_swapped(self) -> bool:
        handle = self._active()
        return isinstance(handle, FileHandle) and handle.swapped

    def get_tstamp_precision(self) -> TstampPrecision:
        self._check()
        return TstampPrecision.NANO if self._nanoseconds else TstampPrecision.MICRO

    def stats(self) -> Stat:
        with _errors():
            return Stat(*self._active().stats())

    def get_selectable_fd(self) -> int:
        """-1: packets are in the engine's memory, not behind a descriptor."""
        self._active()
        return -1

    def get_required_select_timeout(self) -> float | None:
        self._active()
        return None

    def getevent(self) -> int:
        raise NotSupportedError

    # writing

    def dump_open(self, fname: str | os.PathLike[str]) -> Dumper:
        """A new pcap file for packets of this capture."""
        return self._dump(fname, append=False)

    def dump_open_append(self, fname: str | os.PathLike[str]) -> Dumper:
        """The same, behind the packets of a file that is like the one that would be written."""
        return self._dump(fname, append=True)

    def _dump(self, fname: str | os.PathLike[str], append: bool) -> Dumper:
        handle, made = self._active(), Dumper.__new__(Dumper)
        with _errors():
            made._file = PcapFile(os.fspath(fname), handle.dlt, handle.snaplen, self._nanoseconds, append)
        return made

    def inject(self, buf: bytes) -> int:
        """Send a frame; returns its length."""
        self.sendpacket(buf)
        return len(buf)

    def sendpacket(self, buf: bytes) -> None:
        with _errors():
            self._active().send(bytes(buf))

    # its life

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._handle:
                self._handle.close()
            self._libpcap.close()

    def __enter__(self) -> Pcap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and not getattr(self, "_closed", True):  # at exit no thread can help to end it
            warnings.warn(f"unclosed Pcap {self!r}", ResourceWarning, source=self, stacklevel=1)
            self.close()

    def __repr__(self) -> str:
        return f"<Pcap {self.type.name}{f' on {self.source!r}' if self.source is not None else ''}>"

    def _check(self) -> None:
        if self._closed:
            raise ValueError("Operation on closed Pcap")

    def _active(self) -> Handle:
        self._check()
        if self._handle is None:
            raise Error(ErrorCode.NOT_ACTIVATED, "This handle hasn't been activated yet")
        return self._handle

    def _inactive(self) -> Any:
        self._check()
        if self._handle:
            raise Error(ErrorCode.ACTIVATED, "The pcap_t has already been activated")
        return self._libpcap


def _headers(rows: Any) -> list[Pkthdr]:
    made = []
    columns = (column.tolist() for column in (rows.timestamps, rows.captured, rows.original))
    for ns, captured, original in zip(*columns, strict=True):
        # Half a microsecond more: cypcap cuts a time off at the microsecond, and a float may lie just below it.
        header = Pkthdr((ns // 1000 * 1000 + 300) / 1e9, captured, original)
        header.ns = ns
        made.append(header)
    return made


def create(source: str | PcapIf) -> Pcap:
    """An interface that is captured once ``activate`` is called."""
    name = source.name if isinstance(source, PcapIf) else source
    return Pcap._of(PcapType.LIVE, name, cypcap.create(name))


def open_live(device: str | PcapIf, snaplen: int, promisc: bool, to_ms: float) -> Pcap:
    """Capture on an interface.  to_ms: how long iterating waits for a packet, in seconds, as cypcap has it."""
    made = create(device)
    try:
        made.set_pre_config(snaplen=snaplen, promisc=promisc, timeout=to_ms)
        made.activate()
    except BaseException:
        made.close()
        raise
    return made


def open_dead(linktype: DatalinkType, snaplen: int) -> Pcap:
    """No packets: to compile filters with."""
    return Pcap._of(PcapType.DEAD, None, cypcap.open_dead(linktype, snaplen))


def open_offline(fname: str | os.PathLike[str], precision: TstampPrecision = TstampPrecision.MICRO) -> Pcap:
    """Read a capture file, compressed or not."""
    made = Pcap._of(PcapType.OFFLINE, os.fspath(fname), None)
    made._closed = True  # until it is open
    with _errors():
        made._use(FileHandle(os.fspath(fname), _headers))
    made._closed, made._nanoseconds = False, precision == TstampPrecision.NANO
    return made
