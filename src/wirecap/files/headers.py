"""Read the headers of pcap and pcapng: the global header, section headers, interface descriptions.

Every function takes bytes that are whole and raises FormatError, which knows nothing of files and offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from wirecap.files.interface import Interface

PCAP_HEADER_BYTES = 24
SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
_SECTION_MAGIC = 0x1A2B3C4D

_PCAP_MAGICS = {  # magic: (if_tsresol, bytes of a record header)
    0xA1B2C3D4: (6, 16),
    0xA1B23C4D: (9, 16),
    0xA1B2CD34: (6, 24),  # Kuznetzov's patch: interface index, protocol and packet type follow the lengths
}

_OTHERS = (
    (b"BZh", "a bzip2 file", "decompress it first"),
    (b"\xfd7zXZ\x00", "an xz file", "decompress it first"),
    (b"\x04\x22\x4d\x18", "an lz4 file", "decompress it first"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"snoop\0\0\0", "a Solaris snoop capture", "convert it with editcap -F pcapng"),
    (b"btsnoop\0", "a btsnoop capture", "convert it with editcap -F pcapng"),
    (b"GMBU", "a Microsoft Network Monitor capture", "convert it with editcap -F pcapng"),
    (b"RTSS", "a Microsoft Network Monitor capture", "convert it with editcap -F pcapng"),
    (b"TRSNIFF data", "a Sniffer capture", "convert it with editcap -F pcapng"),
    (b"XCP\0", "a NetXray or Sniffer capture", "convert it with editcap -F pcapng"),
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
    if major != 2 or minor not in (3, 4):
        raise FormatError(f"pcap version {major}.{minor} is not supported", "versions 2.3 and 2.4 are read")
    interface = Interface(linktype=link & 0x03FFFFFF, snaplen=_sane_snaplen(snaplen), resolution=resolution)
    return PcapHeader(swapped, record_header_bytes, interface)


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
