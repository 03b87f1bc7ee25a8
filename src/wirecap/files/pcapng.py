"""The pcapng blocks around the packets that are written (draft-ietf-opsawg-pcapng), as bytes.

All little-endian, times in ns.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wirecap.files.interface import LINKTYPE_ETHERNET

SECTION_HEADER, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS = 0x0A0D0D0A, 1, 5
_UNKNOWN_LENGTH = 0xFFFFFFFFFFFFFFFF
_MAX_OPTION = 0xFFFF


def _option(code: int, value: bytes) -> bytes:
    value = value[:_MAX_OPTION]
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    value = text.encode()[:_MAX_OPTION]
    return _option(code, value.decode(errors="ignore").encode()) if text else b""  # never half a character


def _block(kind: int, body: bytes, options: Iterable[bytes]) -> bytes:
    listed = b"".join(options)
    body += listed + struct.pack("<HH", 0, 0) if listed else b""
    total = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + total + body + total


def hardware() -> str:
    """The processor as the kernel names it, or the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def operating_system() -> str:
    return f"{platform.system()} {platform.release()}"


def section_header(
    application: str, comments: Iterable[str] = (), os_name: str | None = None, cpu: str | None = None
) -> bytes:
    """A section of unknown length, with shb_hardware, shb_os, shb_userappl, and an opt_comment for each comment."""
    body = struct.pack("<IHHQ", 0x1A2B3C4D, 1, 0, _UNKNOWN_LENGTH)
    options = [
        *(_text(1, comment) for comment in comments),
        _text(2, hardware() if cpu is None else cpu),
        _text(3, operating_system() if os_name is None else os_name),
        _text(4, application),
    ]
    return _block(SECTION_HEADER, body, options)


def interface_description(
    name: str, snaplen: int, linktype: int = LINKTYPE_ETHERNET, filter: str = "", description: str = ""
) -> bytes:
    """An interface with ns times (if_tsresol 9); filter is the expression as text (if_filter's code 0)."""
    options = [
        _text(2, name),
        _text(3, description),
        _option(9, b"\x09"),
        _option(11, b"\0" + filter.encode()) if filter else b"",
        _text(12, operating_system()),
    ]
    return _block(INTERFACE_DESCRIPTION, struct.pack("<HHI", linktype, 0, snaplen), options)


@dataclass(frozen=True)
class Statistics:
    """What an interface statistics block tells; None is left out.  Times in ns since the epoch."""

    start_ns: int | None = None
    end_ns: int | None = None
    received: int | None = None  # isb_ifrecv: by the interface
    dropped_by_interface: int | None = None  # isb_ifdrop
    accepted: int | None = None  # isb_filteraccept
    dropped_by_os: int | None = None  # isb_osdrop
    delivered: int | None = None  # isb_usrdeliv


def interface_statistics(interface: int, now_ns: int, statistics: Statistics, comment: str = "") -> bytes:
    """The counters of interface (from 0) as they were at now_ns."""

    def time(code: int, ns: int | None) -> bytes:
        return b"" if ns is None else _option(code, struct.pack("<II", ns >> 32 & 0xFFFFFFFF, ns & 0xFFFFFFFF))

    def count(code: int, value: int | None) -> bytes:
        return b"" if value is None else _option(code, struct.pack("<Q", value))

    options = [
        _text(1, comment),
        time(2, statistics.start_ns),
        time(3, statistics.end_ns),
        count(4, statistics.received),
        count(5, statistics.dropped_by_interface),
        count(6, statistics.accepted),
        count(7, statistics.dropped_by_os),
        count(8, statistics.delivered),
    ]
    body = struct.pack("<III", interface, now_ns >> 32 & 0xFFFFFFFF, now_ns & 0xFFFFFFFF)
    return _block(INTERFACE_STATISTICS, body, options)
