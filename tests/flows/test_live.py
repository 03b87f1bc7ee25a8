"""Flows of a live capture: several queues, flows that end while nothing comes, outputs that fail."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

from rig import Rig, check_identity, until
from wirecap.errors import WirecapError
from wirecap.handlers.flows import Flows
from wirecap.handlers.handler import Setting
from wirecap.handlers.pipeline import Pipeline


def datagram(source: int, target: int, ports: tuple[int, int], size: int = 60) -> bytes:
    addresses = struct.pack("!II", 0x0A000000 + source, 0x0A000000 + target)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0, 64, 17, 0) + addresses
    frame = bytes(12) + b"\x08\x00" + ip + struct.pack("!HHHH", *ports, size - 34, 0)
    return frame + bytes(size - len(frame))


def pipeline(path: Path, **options: str) -> Pipeline:
    return Pipeline([Flows.make(options, Setting(to=(f"file:{path}",)))])


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_queues(tmp_path):
    """Each queue's thread has its own flows: a connection over two of them has two records, and the sums are exact."""
    application = pipeline(tmp_path / "f.jsonl")
    with Rig(application, queues=2, M=16, R=16) as rig:
        for number in range(40):
            rig.inject(0, [datagram(1, 2 + number % 4, (5000, 53))])
            rig.inject(1, [datagram(2 + number % 4, 1, (53, 5000), 100)])
            rig.inject(number % 2, [bytes(12) + b"\x08\x06" + bytes(46)])
        rig.done(120)
        rig.stop()
        check_identity(rig.engine, 120)
    found = records(tmp_path / "f.jsonl")
    (row,) = application.results()
    result = row["result"]
    assert len(found) == result["records"] == 8
    assert all(r["packetDeltaCount"] == 10 and r["reversePacketDeltaCount"] == 0 for r in found)
    assert sum(r["sourceIPv4Address"] == "10.0.0.1" for r in found) == 4
    assert result["packets"] == sum(r["packetDeltaCount"] for r in found) == 80
    assert result["without"] == {"not_ip": 40, "malformed": 0, "truncated": 0, "fragment": 0}
    assert result["bytes"] == sum(r["capturedOctets"] for r in found) == 40 * 160


def test_a_flow_ends_while_nothing_comes(tmp_path):
    """The clock goes on without packets: an idle flow has its record while the capture runs."""
    with Rig(pipeline(tmp_path / "f.jsonl", idle="100ms")) as rig:
        rig.inject(0, [datagram(1, 2, (5000, 53))], [time.time_ns()])
        until(lambda: records(tmp_path / "f.jsonl"))
        assert rig.engine.running()
        rig.stop()
    (record,) = records(tmp_path / "f.jsonl")
    assert (record["flowEndReason"], record["packetDeltaCount"]) == (1, 1)


def test_a_full_table(tmp_path):
    """More flows than there is room for: the oldest make room, by name, and no packet is missing."""
    application = pipeline(tmp_path / "f.jsonl", max="16")
    with Rig(application, M=16, R=16) as rig:
        for first in range(0, 100, 10):
            rig.inject(0, [datagram(1, 2 + n, (5000, 53)) for n in range(first, first + 10)])
            rig.done(first + 10)
        rig.stop()
    result = application.results()[0]["result"]
    assert result["ended"] == {"idle": 0, "active": 0, "closed": 0, "at_end": 16, "table_full": 84}
    assert result["most_flows"] == 16
    assert sum(r["packetDeltaCount"] for r in records(tmp_path / "f.jsonl")) == 100


def test_an_output_that_fails_ends_the_capture(tmp_path):
    """The disk is full: the engine stops running, and says why."""
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    rig = Rig(pipeline(tmp_path / "full.jsonl", idle="100ms"))
    with rig:
        rig.inject(0, [datagram(1, 2, (5000, 53))], [time.time_ns()])
        until(lambda: not rig.engine.running())
    failure = rig.engine.failure()
    assert isinstance(failure, WirecapError)
    assert failure.message == f"{tmp_path}/full.jsonl: No space left on device"


def test_an_interface_whose_headers_are_not_known(two_packets, capsys):
    """Radio headers are refused, as by every compiled handler."""
    from wirecap.cli import main

    data = bytearray(two_packets.read_bytes())
    data[20:24] = (127).to_bytes(4, "little")
    two_packets.write_bytes(data)
    assert main.run(["capture", "-r", str(two_packets), "--handler", "flows"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("wirecap: handler flows: unknown headers of link type IEEE802_11_RADIO (802.11 plus")
