"""The global header of a pcap file that is written (draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import struct

from wirecap.files.interface import LINKTYPE_ETHERNET

MICROSECONDS, NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D


def global_header(snaplen: int, linktype: int = LINKTYPE_ETHERNET, nanoseconds: bool = False) -> bytes:
    """24 bytes, little-endian, version 2.4; snaplen in bytes."""
    magic = NANOSECONDS if nanoseconds else MICROSECONDS
    return struct.pack("<IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)
