"""The headers of capture files, read and written: pcap's global header, pcapng's sections and interfaces.

Functions that read take bytes that are whole and raise FormatError, which knows nothing of files and offsets.
Headers are written little-endian, with times in ns.  Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wirecap.kernels.file import read as at

LINKTYPE_ETHERNET = 1
_MIB = 1 << 20
_LONG_PACKETS = {231: 128 * _MIB, 279: 32 * _MIB} | dict.fromkeys((189, 220, 249, 266, 288, 293, 294, 295), 128 * _MIB)
"""D-Bus, EBHSCR, and USB in all its forms: bytes of the longest packets, Wireshark's WTAP_MAX_PACKET_SIZE_*."""
_OLDEST = {100: 11, 101: 12, 102: 15, 103: 16, 106: 19}
"""LINKTYPE_ numbers and libpcap's DLT_ numbers of the same."""


@dataclass(frozen=True)
class Interface:
    """One interface of a capture file.

    ``resolution`` is if_tsresol's byte: 10**-n seconds, or 2**-n with the high bit set.
    ``snaplen`` is in bytes, 0 for unlimited; ``offset_s`` is added to each time.
    """

    linktype: int = LINKTYPE_ETHERNET
    snaplen: int = 0
    resolution: int = 6
    offset_s: int = 0
    name: str = ""
    description: str = ""
    filter: str = ""
    comment: str = ""

    @property
    def largest(self) -> int:
        """Captured bytes above which a packet of this interface is absurd."""
        return max(at.MAX_CAPTURED, self.snaplen, _LONG_PACKETS.get(self.linktype, 0))

    @cached_property
    def dlt(self) -> int:
        """libpcap's DLT_ number on Linux, which filters are compiled for: it differs for the oldest types."""
        return _OLDEST.get(self.linktype, self.linktype)

    @cached_property
    def link(self) -> int:
        """Which header its packets begin with (kernels/packet/headers.py), -1 if that is not known."""
        from wirecap.kernels.packet.headers import LINK_TYPES

        return LINK_TYPES.get(self.dlt, -1)

    def words(self) -> npt.NDArray[np.int64]:
        """(INTERFACE_WORDS,) int64, as kernels/file/read.py lays them out."""
        exponent, binary = self.resolution & 0x7F, self.resolution >> 7
        offset_ns = self.offset_s * 1_000_000_000
        simple, multiplier = -1, 0
        if at.EARLIEST_NS < offset_ns < at.LATEST_NS and exponent <= (0 if binary else 9):
            multiplier = 10 ** (9 - exponent)
            simple = (at.LATEST_NS - 1 - max(offset_ns, 0)) // multiplier
        out = np.zeros(at.INTERFACE_WORDS, dtype=np.int64)
        out[at.LARGEST] = self.largest
        out[at.SNAPLEN], out[at.LINKTYPE] = self.snaplen, self.linktype
        out[at.EXPONENT], out[at.BINARY], out[at.OFFSET_S] = exponent, binary, self.offset_s
        out[at.MULTIPLIER], out[at.SIMPLE] = multiplier, simple
        out[at.OFFSET_NS] = offset_ns if simple >= 0 else 0
        return out


PCAP_HEADER_BYTES = 24
SECTION_HEADER, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS = 0x0A0D0D0A, 1, 5
NAME_RESOLUTION, DECRYPTION_SECRETS, SYSTEMD_JOURNAL = 4, 10, 9
_SECTION_MAGIC = 0x1A2B3C4D

_PCAP_MAGICS = {  # magic: (if_tsresol, bytes of a record header)
    0xA1B2C3D4: (6, 16),
    0xA1B23C4D: (9, 16),
    0xA1B2CD34: (6, 24),  # Kuznetzov's patch: interface index, protocol and packet type follow the lengths
}

_OTHERS = (
    (b"BZh", "a bzip2 file", "decompress it first"),  # these five: inside another compression
    (b"\xfd7zXZ\x00", "an xz file", "decompress it first"),
    (b"\x04\x22\x4d\x18", "an lz4 file", "decompress it first"),
    (b"\x1f\x8b", "a gzip file", "decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "decompress it first"),
    (b"\x02\x21\x4c\x18", "an lz4 file of the legacy format", "lz4 -dc FILE | wirecap capture -r - reads it"),
    (b"\x1f\x9d", "a file of compress(1)", "uncompress -c FILE | wirecap capture -r - reads it"),
    (b"\x5d\0\0", "an lzma file", "xz -dc FILE | wirecap capture -r - reads it"),
    (b"LZIP", "an lzip file", "lzip -dc FILE | wirecap capture -r - reads it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a rar archive", "unpack it first"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"snoop\0\0\0", "a Solaris snoop capture", "convert it with editcap -F pcapng"),
    (b"btsnoop\0", "a btsnoop capture", "convert it with editcap -F pcapng"),
    (b"GMBU", "a Microsoft Network Monitor capture", "convert it with editcap -F pcapng"),
    (b"RTSS", "a Microsoft Network Monitor capture", "convert it with editcap -F pcapng"),
    (b"TRSNIFF data", "a Sniffer capture", "convert it with editcap -F pcapng"),
    (b"XCP\0", "a NetXray or Sniffer capture", "convert it with editcap -F pcapng"),
    (b"PAR1", "a Parquet file", "Parquet has no packets: name the capture file that it was made of"),
    (b"\x7fELF", "a program (ELF)", "name a pcap or pcapng file"),
    (b"%PDF", "a PDF document", "name a pcap or pcapng file"),
    (b"<?xml", "an XML document", "name a pcap or pcapng file"),
)


class FormatError(ValueError):
    """What is wrong with a header; ``hint`` says what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class PcapHeader:
    swapped: bool
    record_header_bytes: int
    lengths: int  # kernels/file/read.py's LENGTHS
    interface: Interface


def is_section_header(start: bytes) -> bool:
    return start[:4] == b"\n\r\r\n"


def is_pcap(start: bytes) -> bool:
    return len(start) >= 4 and any(struct.unpack(e + "I", start[:4])[0] in _PCAP_MAGICS for e in "<>")


def name_format(start: bytes) -> FormatError:
    """The error for a file that starts like this and is neither pcap nor pcapng."""
    for magic, name, hint in _OTHERS:
        if start.startswith(magic):
            return FormatError(f"not a capture file but {name}", hint)
    if start and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start[:16]):
        return FormatError("not a capture file but text", "text2pcap makes a capture file of a hex dump")
    return FormatError(f"not a capture file: unknown magic {start[:4].hex(' ')}", "pcap and pcapng are read")


def read_pcap_header(header: bytes) -> PcapHeader:
    """The 24-byte global header (draft-ietf-opsawg-pcap)."""
    swapped = struct.unpack("<I", header[:4])[0] not in _PCAP_MAGICS
    magic, major, minor, _, _, snaplen, link = struct.unpack(">IHHiIII" if swapped else "<IHHiIII", header)
    resolution, record_header_bytes = _PCAP_MAGICS[magic]
    if (major, minor) != (543, 0) and (major != 2 or minor > 4):  # the first: DG/UX's tcpdump, which libpcap reads too
        raise FormatError(f"pcap version {major}.{minor} is not supported", "versions 2.0 to 2.4 are read")
    lengths = {4: at.CAPTURED_FIRST, 3: at.SMALLER_IS_CAPTURED}.get(minor, at.ORIGINAL_FIRST)
    interface = Interface(linktype=link & 0x03FFFFFF, snaplen=_sane_snaplen(snaplen), resolution=resolution)
    return PcapHeader(swapped, record_header_bytes, lengths, interface)


def _sane_snaplen(snaplen: int) -> int:
    return 0 if snaplen > 0x7FFFFFFF else snaplen  # libpcap: a negative one means unlimited


def section_is_swapped(start: bytes) -> bool:
    """Byte order of the section whose header starts here (12 bytes): True for big-endian."""
    magics = {struct.pack("<I", _SECTION_MAGIC): False, struct.pack(">I", _SECTION_MAGIC): True}
    if start[8:12] not in magics:
        raise FormatError(f"pcapng section header with byte-order magic {start[8:12].hex(' ')}", "the file is damaged")
    return magics[start[8:12]]


def check_section(block: bytes, swapped: bool) -> None:
    """Refuse section headers of a version that is not 1.x (1.2 is the same as 1.0, the draft says)."""
    if len(block) < 28:
        raise FormatError(f"pcapng section header of {len(block)} bytes is too short", "the file is damaged")
    major, minor = struct.unpack(">HH" if swapped else "<HH", block[12:16])
    if major != 1 or minor not in (0, 2):
        raise FormatError(f"pcapng version {major}.{minor} is not supported", "version 1.0 is read")


def _options(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(code, value) until opt_endofopt or the end; what does not fit is left out."""
    position = 0
    while position + 4 <= len(data):
        code, length = struct.unpack_from(order + "HH", data, position)
        position += 4
        if code == 0 or position + length > len(data):
            return
        yield code, data[position : position + length]
        position += (length + 3) & ~3


def read_interface(block: bytes, swapped: bool) -> Interface:
    """An interface description block, with its type and length fields."""
    order = ">" if swapped else "<"
    if len(block) < 20:
        raise FormatError(f"pcapng interface description of {len(block)} bytes is too short", "the file is damaged")
    linktype, _, snaplen = struct.unpack_from(order + "HHI", block, 8)
    name = description = filter_text = ""
    resolution, offset_s = 6, 0
    for code, value in _options(block[16:-4], order):
        if code == 2:
            name = value.rstrip(b"\0").decode("utf-8", "replace")
        elif code == 3:
            description = value.rstrip(b"\0").decode("utf-8", "replace")
        elif code == 9 and len(value) >= 1:
            resolution = value[0]
        elif code == 11 and len(value) >= 2 and value[0] == 0:
            filter_text = value[1:].rstrip(b"\0").decode("utf-8", "replace")
        elif code == 14 and len(value) >= 8:
            offset_s = struct.unpack(order + "q", value[:8])[0]
    return Interface(linktype, _sane_snaplen(snaplen), resolution, offset_s, name, description, filter_text)


MICROSECONDS, NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D


def pcap_header(snaplen: int, linktype: int = LINKTYPE_ETHERNET, nanoseconds: bool = False) -> bytes:
    """24 bytes, little-endian, version 2.4; snaplen in bytes."""
    magic = NANOSECONDS if nanoseconds else MICROSECONDS
    return struct.pack("<IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)


_UNKNOWN_LENGTH = 0xFFFFFFFFFFFFFFFF
_MAX_OPTION = 0xFFFF


def _option(code: int, value: bytes) -> bytes:
    value = value[:_MAX_OPTION]
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _utf8_bytes(text: str) -> bytes:
    """What fits an option, never with half a character at its end."""
    return text.encode()[:_MAX_OPTION].decode(errors="ignore").encode()


def _text(code: int, text: str) -> bytes:
    return _option(code, _utf8_bytes(text)) if text else b""


def _block(kind: int, body: bytes, options: Iterable[bytes]) -> bytes:
    listed = b"".join(options)
    body += listed + struct.pack("<HH", 0, 0) if listed else b""
    total = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + total + body + total


def commented(block: bytes, comment: str) -> bytes:
    """A little-endian enhanced packet block with a comment put before its options."""
    (length,) = struct.unpack_from("<I", block, 20)
    options = 28 + length + -length % 4
    listed = _text(1, comment) + (block[options:-4] or struct.pack("<HH", 0, 0))
    total = struct.pack("<I", options + len(listed) + 4)
    return block[:4] + total + block[8:options] + listed + total


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
    name: str, snaplen: int, linktype: int = LINKTYPE_ETHERNET, filter: str = "", description: str = "",
    comment: str = "",
) -> bytes:  # fmt: skip
    """An interface with ns times (if_tsresol 9); filter is the expression as text (if_filter's code 0)."""
    options = [
        _text(1, comment),
        _text(2, name),
        _text(3, description),
        _option(9, b"\x09"),
        _option(11, b"\0" + filter.encode()) if filter else b"",
        _text(12, operating_system()),
    ]
    return _block(INTERFACE_DESCRIPTION, struct.pack("<HHI", linktype, 0, snaplen), options)


def _replaced(options: bytes, order: str, code: int, values: Iterable[bytes]) -> bytes:
    """The options with all of this code taken out and those with ``values`` put before the end."""
    listed = [(had, value) for had, value in _options(options, order) if had != code]
    listed += [(code, value[:_MAX_OPTION]) for value in values]
    packed = (struct.pack(order + "HH", c, len(v)) + v + bytes(-len(v) % 4) for c, v in listed)
    return b"".join(packed) + struct.pack(order + "HH", 0, 0) if listed else b""


def _reblocked(block: bytes, order: str, body: bytes) -> bytes:
    total = struct.pack(order + "I", len(body) + 12)
    return block[:4] + total + body + total


def copied_section(block: bytes, swapped: bool, comments: Iterable[str] = ()) -> bytes:
    """A section header as it is, of unknown length, with further comments."""
    order, options = ">" if swapped else "<", block[24:-4]
    if added := [_utf8_bytes(comment) for comment in comments]:
        before = [value for code, value in _options(options, order) if code == 1]
        options = _replaced(options, order, 1, before + added)
    return _reblocked(block, order, block[8:16] + struct.pack("<Q", _UNKNOWN_LENGTH) + options)


def copied_interface(block: bytes, swapped: bool, snaplen: int, filter: str) -> bytes:
    """An interface description as it is, with the filter, if not empty, and the snap length if that is less."""
    order, options = ">" if swapped else "<", block[16:-4]
    before = struct.unpack_from(order + "I", block, 12)[0]
    least = min(snaplen, before or snaplen) if snaplen < at.MAX_CAPTURED else before
    if filter:
        options = _replaced(options, order, 11, [b"\0" + _utf8_bytes(filter)])
    return _reblocked(block, order, block[8:12] + struct.pack(order + "I", least) + options)


def statistics_comments(block: bytes, swapped: bool) -> tuple[int, list[str]]:
    """The interface, counted from 0 in its section, and the comments of an interface statistics block."""
    order = ">" if swapped else "<"
    comments = [value.decode("utf-8", "replace") for code, value in _options(block[20:-4], order) if code == 1]
    return struct.unpack_from(order + "I", block, 8)[0], comments


def section_comments(block: bytes, swapped: bool) -> list[str]:
    """The comments of a section header."""
    found = _options(block[24:-4], ">" if swapped else "<")
    return [value.decode("utf-8", "replace") for code, value in found if code == 1]


_TIMES, _COUNTS = (2, 3), (4, 5, 6, 7, 8)  # isb_*: two halves, high first; 64 bits
_OF_BLOCK: dict[int, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    INTERFACE_DESCRIPTION: (8, (), (8, 14)),  # if_speed, if_tsoffset
    INTERFACE_STATISTICS: (12, _TIMES, _COUNTS),
    DECRYPTION_SECRETS: (8, (), ()),
}
"""Bytes of a block's fixed fields, and which of its options are two 32-bit halves, and which are 64 bits."""


def little_endian(kind: int, block: bytes) -> bytes | None:
    """A big-endian block that holds no packet, as a little-endian one; None for those that only their writer knows."""
    body = block[8:-4]
    if kind == SYSTEMD_JOURNAL:
        return _block(kind, body, ())
    if kind == NAME_RESOLUTION:
        return _little_endian_names(body)
    if kind not in _OF_BLOCK or len(body) < _OF_BLOCK[kind][0]:
        return None
    fixed, halves, wholes = _OF_BLOCK[kind]
    if kind == INTERFACE_DESCRIPTION:
        head = struct.pack("<HHI", *struct.unpack_from(">HHI", body))
    else:
        head = struct.pack(f"<{fixed // 4}I", *struct.unpack_from(f">{fixed // 4}I", body))
    if kind == DECRYPTION_SECRETS:
        length = struct.unpack_from(">I", body, 4)[0] + 3 & ~3
        head, fixed = head + body[8 : 8 + length], 8 + length
    options = []
    for code, value in _options(body[fixed:], ">"):
        if len(value) == 8 and code in halves:
            value = struct.pack("<II", *struct.unpack(">II", value))
        elif len(value) == 8 and code in wholes:
            value = value[::-1]
        options.append(_option(code, value))
    return _block(kind, head, options)


def _little_endian_names(body: bytes) -> bytes:
    records, at, kind = b"", 0, 1
    while kind and at + 4 <= len(body):
        kind, length = struct.unpack_from(">HH", body, at)
        padded = length + 3 & ~3
        records += struct.pack("<HH", kind, length) + body[at + 4 : at + 4 + padded]
        at += 4 + padded
    return _block(NAME_RESOLUTION, records, (_option(code, value) for code, value in _options(body[at:], ">")))


def without_addresses(block: bytes, swapped: bool) -> bytes:
    """An interface description without if_IPv4addr, if_IPv6addr, if_MACaddr and if_EUIaddr."""
    order, options = ">" if swapped else "<", block[16:-4]
    for code in (4, 5, 6, 7):
        options = _replaced(options, order, code, ())
    return _reblocked(block, order, block[8:16] + options)


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
