"""--shift by centuries: the exact time where the file can hold it, else the nearest, and a line that says so."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from beside_editcap import ours

DAY, LATEST = 86_400_000_000_000, (1 << 63) - 1
BEGIN = 1_700_000_000_000_000_000


def pcapng(path: Path, *ticks: int) -> Path:
    """Packets at so many ns, unsigned."""
    blocks = [(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))]
    blocks.append((1, struct.pack("<HHIHHB3xHH", 1, 0, 0, 9, 1, 9, 0, 0)))
    blocks += [(6, struct.pack("<IIIII", 0, at >> 32, at & 0xFFFFFFFF, 60, 60) + bytes(60)) for at in ticks]
    size = struct.Struct("<I").pack
    path.write_bytes(b"".join(size(kind) + size(len(b) + 12) + b + size(len(b) + 12) for kind, b in blocks))
    return path


def times(path: Path) -> list[int]:
    """Of the packets in a little-endian pcapng file, in its ticks."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 6:
            high, low = struct.unpack_from("<II", data, at + 12)
            found.append(high << 32 | low)
        at += size
    return found


@pytest.mark.parametrize(
    ("before", "days", "after", "moved"),
    [
        (BEGIN, 100_000, BEGIN + 100_000 * DAY, False),  # beyond 2262, which the file's unsigned ticks can hold
        (BEGIN, -30_000, 0, True),
        (LATEST, -30_000, LATEST - 30_000 * DAY, False),
        ((1 << 64) - 5, 1, (1 << 64) - 1, True),
    ],
)
def test_ticks(tmp_path, capsys, before, days, after, moved):
    ours(pcapng(tmp_path / "in.pcapng", before), "-w", tmp_path / "out.pcapng", f"--shift={days}d")
    assert times(tmp_path / "out.pcapng") == [after]
    assert ("written with the nearest" in capsys.readouterr().err) == moved


def test_records(tmp_path, capsys):
    """From pcap to pcapng, and to Parquet, whose times end in 2262."""
    source = tmp_path / "in.pcap"
    head = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)
    source.write_bytes(head + struct.pack("<IIII", 4_000_000_000, 0, 60, 60) + bytes(60))
    for name in ("out.pcapng", "out.parquet"):
        ours(source, "-w", tmp_path / name, "--shift=90000d")
    assert times(tmp_path / "out.pcapng") == [LATEST]
    assert "1 packet has a time that the file cannot hold" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "out.parquet")["time"].cast("int64").to_pylist() == [LATEST]
