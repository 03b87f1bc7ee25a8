"""Capture files that conversions are tried on."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "files")]

from beside_editcap import peer  # noqa: E402


@pytest.fixture(scope="session")
def trace(mixed_trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 6,000 packets of mixed traffic, in pcap."""
    path = tmp_path_factory.mktemp("convert") / "trace.pcap"
    peer("editcap", "-F", "pcap", "-r", mixed_trace, path, "1-6000")
    return path


@pytest.fixture(scope="session")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 packets, many of which repeat others, some out of order, some at the same time."""
    dice = random.Random(5)
    bodies = [bytes([n]) * dice.choice((0, 1, 7, 8, 9, 64, 65, 200)) for n in range(60)]
    out, now = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)], 1_700_000_000_000_000
    for _ in range(3000):
        now += dice.choice((0, 1, 10, 100, -50))
        body = dice.choice(bodies)
        out.append(struct.pack("<IIII", now // 10**6, now % 10**6, len(body), len(body)) + body)
    path = tmp_path_factory.mktemp("convert") / "repeating.pcap"
    path.write_bytes(b"".join(out))
    return path
