"""Filters where packets have different link types: each is judged as its own link lays it out."""

from __future__ import annotations

import itertools
import json
import os
import struct
import threading
from pathlib import Path

import pytest

import wirecap
from wirecap.config.capture import CaptureConfig
from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.source import af_packet
from wirecap.source.af_packet import Port
from wirecap.traffic import synthetic

pytestmark = pytest.mark.kernel

ETHERNET, RAW, SLL2 = 1, 101, 276


def packet(linktype: int, port: int) -> bytes:
    """A UDP packet to a port, as a link of this type carries it."""
    whole = synthetic.udp(80, destination_port=port)
    if linktype == ETHERNET:
        return whole
    cooked = struct.pack(">HHIHBB8s", 0x0800, 0, 3, 1, 0, 6, bytes(8))
    return (cooked if linktype == SLL2 else b"") + whole[14:]


def block(interface: int, ns: int, data: bytes) -> bytes:
    body = struct.pack("<IIIII", interface, ns >> 32, ns & 0xFFFFFFFF, len(data), len(data))
    body += data + bytes(-len(data) % 4)
    return struct.pack("<II", 6, len(body) + 12) + body + struct.pack("<I", len(body) + 12)


def described(name: str, linktype: int) -> bytes:
    return headers.interface_description(name, 0, linktype)


def found(path: Path | str, expression: str, **options: int) -> list[bytes]:
    with wirecap.open(str(path), filter=expression, **options) as capture:
        packets = [bytes(data) for chunk in capture for data in chunk]
    counts = capture.summary()["packets"]
    assert counts["received"] == counts["delivered"] + counts["filtered_out"]
    return packets


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, list[tuple[int, bytes]]]:
    """A file of four interfaces, two of them Ethernet, whose packets take turns; and (port, bytes) of each."""
    types = [ETHERNET, RAW, SLL2, ETHERNET]
    out = headers.section_header("x") + b"".join(described(f"if{n}", kind) for n, kind in enumerate(types))
    packets = []
    order = [0, 1, 2, 3, 3, 0, 1, 1, 1, 2, 0, 0, 3, 3, 3, 2, 2]
    for number, (interface, port) in enumerate(zip(order * 40, itertools.cycle((53, 80, 443)), strict=False)):
        data = packet(types[interface], port)
        packets.append((port, data))
        out += block(interface, number, data)
    (tmp_path / "mixed.pcapng").write_bytes(out)
    return tmp_path / "mixed.pcapng", packets


@pytest.mark.parametrize("M", [4, 256])
@pytest.mark.parametrize(
    ("expression", "wanted"), [("udp port 53", lambda port: port == 53), ("not udp port 53", lambda port: port != 53)]
)
def test_each_link_type_has_its_own_program(mixed, M, expression, wanted):
    """A file of several link types takes a filter: the packets that match come once and in order."""
    path, packets = mixed
    assert found(path, expression, M=M) == [data for port, data in packets if wanted(port)]


def test_counting_mixes_interfaces(mixed, capsys):
    """Also where chunks mix the interfaces of one link type."""
    from wirecap.cli.main import run

    path, packets = mixed
    assert run(["capture", "-q", "--count", "-r", str(path), "udp port 53"]) == 0
    assert capsys.readouterr().out == f"{sum(port == 53 for port, _ in packets)} packets\n"


def test_what_one_link_type_cannot_have(mixed):
    """ARP is never in raw IP: there nothing matches.  What no link type can have is refused, as by tcpdump."""
    path, packets = mixed
    assert found(path, "arp or udp port 80") == [data for port, data in packets if port == 80]
    assert found(path, "arp") == []
    with pytest.raises(UsageError, match="rejects all"):
        found(path, "tcp and udp")
    with pytest.raises(UsageError, match="syntax error"):
        found(path, "udp and")
    with pytest.raises(UsageError, match="link-layer types supported only on"):
        found(path, "type mgt")


def test_what_only_some_link_types_take(mixed, caplog):
    """VLAN tags and Ethernet addresses are Ethernet's: the others' packets never match, and a line says so."""
    path, packets = mixed
    frames = [(port, data) for port, data in packets if len(data) == len(packet(ETHERNET, port))]
    assert found(path, "udp port 80 and not vlan") == [data for port, data in frames if port == 80]
    assert "no VLAN support for" in caplog.text
    assert "packets of link type RAW (Raw IP) never match" in caplog.text
    assert "packets of link type LINUX_SLL2 (Linux cooked v2) never match" in caplog.text
    address = frames[0][1][:6].hex(":")
    assert found(path, f"ether dst {address}") == [data for _, data in frames]


@pytest.mark.parametrize(
    ("expression", "what", "wanted"),
    [
        ("inbound and udp port 80", "direction", 80), ("outbound", "direction", 0), ("ifindex 3", "interface", None),
        ("ifindex 4", "interface", 0), ("not outbound and ifindex 3 and udp port 53", "direction", 53),
    ],
)  # fmt: skip
def test_what_only_cooked_headers_hold(mixed, caplog, expression, what, wanted):
    """Direction and interface are in cooked headers only: the others' packets never match, and a line each says so."""
    path, packets = mixed
    cooked = [(port, data) for port, data in packets if len(data) == len(packet(SLL2, port))]
    assert found(path, expression) == [data for port, data in cooked if wanted in (port, None)]
    for name in ("EN10MB (Ethernet)", "RAW (Raw IP)"):
        line = f"filter '{expression}' needs the packet's {what}, which is not known here: packets of link type {name}"
        assert caplog.text.count(f"{line} never match") == 1


def test_a_conversion_says_what_only_some_link_types_take(mixed, tmp_path, capfd):
    """As a capture does, also in its summary."""
    from wirecap.cli.main import run

    out, summary = tmp_path / "out.pcapng", tmp_path / "summary.json"
    line = ["convert", str(mixed[0]), "-w", str(out), "-f", "udp and not vlan", "--json", str(summary)]
    assert run(line) == 0
    said = capfd.readouterr().err
    for note in (notes := json.loads(summary.read_text())["notes"]):
        assert note in said
    assert [note.partition("packets of ")[2] for note in notes] == [
        "link type RAW (Raw IP) never match", "link type LINUX_SLL2 (Linux cooked v2) never match",
    ]  # fmt: skip


def test_a_port_whose_link_type_does_not_take_the_filter():
    """It is no reason to refuse the others'; whether any takes it is seen later."""
    port = Port("tun9", 9, 1, hardware=65534)
    assert port.linktype != ETHERNET
    config = CaptureConfig(sources=(QueueSpec("tun9"),), filter="vlan")
    assert af_packet._link(port, config).linktype == port.linktype


@pytest.mark.parametrize(
    ("expression", "later", "filtered", "said"),
    [
        ("udp port 53", [RAW, RAW, SLL2, SLL2, RAW, RAW], 3, []),
        ("udp port 53 and not vlan", [], 9, ["RAW (Raw IP)", "LINUX_SLL2 (Linux cooked v2)"]),
    ],
)
def test_link_types_that_come_later(tmp_path, expression, later, filtered, said):
    """An interface may be described at any place: a filter is compiled for its link type then, or a line says at the
    end that this does not take it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    written = threading.Event()

    def write() -> None:
        with fifo.open("wb", buffering=0) as pipe:
            pipe.write(headers.section_header("x") + described("a", ETHERNET) + block(0, 1, packet(ETHERNET, 53)))
            written.wait(20)
            for number, kind in enumerate([RAW, SLL2, RAW], 1):
                pipe.write(described(f"b{number}", kind))
                for port in (53, 80, 53):
                    pipe.write(block(number, 1, packet(kind, port)))

    thread = threading.Thread(target=write)
    thread.start()
    with wirecap.open(str(fifo), filter=expression) as capture:
        chunks = iter(capture)
        packets = [bytes(data) for data in next(chunks)]
        written.set()
        packets += [bytes(data) for chunk in chunks for data in chunk]
    thread.join()
    assert packets == [packet(kind, 53) for kind in (ETHERNET, *later)]
    assert capture.summary()["packets"]["filtered_out"] == filtered
    assert [note.partition("packets of ")[2] for note in capture.summary()["notes"]] == [
        f"link type {name} never match" for name in said
    ]
