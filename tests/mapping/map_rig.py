"""What the tests of mapping share: small files, and where the handlers are."""

from __future__ import annotations

import struct
from pathlib import Path

HANDLERS = Path(__file__).parent / "handlers_to_map.py"


def pcap(path: Path, packets: list[bytes]) -> Path:
    rows = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)]
    for number, packet in enumerate(packets):
        rows += [struct.pack("<IIII", 1_700_000_000 + number // 1000, number % 1000, len(packet), len(packet)), packet]
    path.write_bytes(b"".join(rows))
    return path


def frame(size: int, number: int = 0) -> bytes:
    """A UDP packet of so many bytes."""
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size - 14, 0, 0, 64, 17, 0, bytes([10, 0, 0, number % 7]), bytes(4))
    return (bytes(12) + b"\x08\x00" + ip + struct.pack(">HHHH", 1000, number % 50, size - 34, 0)).ljust(size, b"\x01")
