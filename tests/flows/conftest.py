from __future__ import annotations

import struct
from pathlib import Path

import pytest

from certificates import certificates
from rig import time_limit
from wirecap.flows import broker, nats

__all__ = ["certificates", "time_limit"]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker may take its time."""
    monkeypatch.setattr(broker, "CONNECT_S", 30)
    monkeypatch.setattr(nats, "ACKNOWLEDGE_S", 30.0)
    monkeypatch.setattr(nats, "LAST_S", 60.0)


@pytest.fixture
def two_packets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datagram and its answer, in a pcap file."""
    frames = []
    for number, (one, other) in enumerate((("0a000001", "0a000002"), ("0a000002", "0a000001"))):
        ports = (5000, 53) if number == 0 else (53, 5000)
        ip = bytes.fromhex("4500001c0000000040110000") + bytes.fromhex(one + other)
        frame = bytes(12) + b"\x08\x00" + ip + struct.pack("!HHHH", *ports, 8, 0)
        frames.append(struct.pack("<IIII", 1_700_000_000, number, len(frame), len(frame)) + frame)
    path = tmp_path_factory.mktemp("flows") / "two.pcap"
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(frames))
    return path


@pytest.fixture(scope="session")
def trace(mixed_trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first packets of mixed traffic: about five seconds."""
    data, at = mixed_trace.read_bytes(), 24
    for _ in range(10_000):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    path = tmp_path_factory.mktemp("flows") / "trace.pcap"
    path.write_bytes(data[:at])
    return path
