"""Packets as compiled handlers see them, beside a plain parser, dpkt and tshark."""

from __future__ import annotations

import struct
import subprocess
from collections import Counter
from itertools import islice

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_flows
from naive_packet import TYPES, naive
from wirecap.kernels.base.jit import PURE, inline
from wirecap.kernels.packet import attributes  # noqa: F401  attributes of packets
from wirecap.kernels.packet.fields import LAYER_ATTRIBUTES, PACKET_ATTRIBUTES
from wirecap.kernels.packet.headers import ETHERNET, LINK_TYPES, LINUX_SLL, LINUX_SLL2, at

PATHS = [(layer, name) for layer, names in LAYER_ATTRIBUTES.items() for name in names]
PATHS += [("packet", name) for name in PACKET_ATTRIBUTES]


def _reader(expressions: list[str]):
    """A kernel that reads all the expressions of one packet and returns them."""
    lines = ["packet = at(arena, start, n, 9000, 77, link)", f"return ({', '.join(expressions)},)"]
    text = "\n    ".join(["def read(arena, start, n, link):", *lines])
    scope = {"at": at}
    exec(text, scope)
    return inline(scope["read"])


READ = _reader([f"packet.{name}" if layer == "packet" else f"packet.{layer}.{name}" for layer, name in PATHS])
ABSENT = {**dict.fromkeys(PATHS, 0), ("ip6", "src"): (0, 0), ("ip6", "dst"): (0, 0)}
THERE = _reader([f"bool(packet.{layer})" for layer in LAYER_ATTRIBUTES])


def fields(data: bytes, behind: bytes = b"\xff" * 64, link: int = ETHERNET) -> dict[tuple[str, str], object]:
    arena = np.frombuffer(b"\xee" * 3 + data + behind, np.uint8).copy()
    return dict(zip(PATHS, READ(arena, 3, len(data), link), strict=True))


def there(data: bytes, link: int = ETHERNET) -> set[str]:
    values = THERE(np.frombuffer(data + bytes(64), np.uint8).copy(), 0, len(data), link)
    return {layer for layer, is_there in zip(LAYER_ATTRIBUTES, values, strict=True) if is_there}


def expected(data: bytes, link: int = ETHERNET) -> dict[tuple[str, str], object]:
    found = {(layer, name): value for layer, names in naive(data, link).items() for name, value in names.items()}
    given = {("packet", "length"): 9000, ("packet", "captured_length"): len(data), ("packet", "timestamp"): 77}
    return {**ABSENT, **given, **found}


def check(data: bytes, link: int = ETHERNET) -> None:
    assert fields(data, link=link) == expected(data, link)
    assert there(data, link) == set(naive(data, link)) - {"packet"}


def cooked(data: bytes, link: int) -> bytes:
    """An Ethernet frame's payload behind the header that captures of ``any`` have."""
    if link == LINUX_SLL:
        return struct.pack("!HHH8s", 0, 1, 6, data[6:12]) + data[12:]
    return data[12:14] + struct.pack("!HIHBB8s", 0, 3, 1, 0, 6, data[6:12]) + data[14:]


ETH = bytes.fromhex("020000000001020000000002")
V4 = struct.pack(
    "!BBHHHBBH4s4s", 0x45, 0xB9, 400, 7, 0x4000, 63, 6, 0xABCD, bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
)
V6 = struct.pack("!IHBB16s16s", 0x6AB12345, 60, 17, 64, bytes(range(16)), bytes(range(100, 116)))
TCP = struct.pack("!HHIIHHHH", 40000, 443, 0xFFFFFFFE, 5, 0x8012, 512, 0x1234, 3) + bytes(12)
UDP = struct.pack("!HHHH", 5353, 53, 20, 0xBEEF)
ICMP = struct.pack("!BBHHH", 8, 0, 0xF00D, 99, 3)


def with_protocol(header: bytes, number: int) -> bytes:
    at = 6 if header[0] >> 4 == 6 else 9
    return header[:at] + bytes([number]) + header[at + 1 :]


def extension(following: int, data: int) -> bytes:
    return bytes([following, data // 8 - 1]) + bytes(data - 2)


SAMPLES = {
    "tcp": ETH + b"\x08\x00" + V4 + TCP,
    "options": ETH + b"\x08\x00" + bytes([0x47]) + V4[1:] + bytes(8) + TCP,
    "udp": ETH + b"\x08\x00" + with_protocol(V4, 17) + UDP + b"payload",
    "icmp": ETH + b"\x08\x00" + with_protocol(V4, 1) + ICMP,
    "sctp": ETH + b"\x08\x00" + with_protocol(V4, 132) + UDP + bytes.fromhex("cafebabe"),
    "later fragment": ETH + b"\x08\x00" + V4[:6] + b"\x00\x10" + V4[8:] + TCP,
    "first fragment": ETH + b"\x08\x00" + V4[:6] + b"\x20\x00" + V4[8:] + TCP,
    "udp6": ETH + b"\x86\xdd" + V6 + UDP + bytes(30),
    "icmp6": ETH + b"\x86\xdd" + with_protocol(V6, 58) + ICMP,
    "extensions": ETH + b"\x86\xdd" + with_protocol(V6, 0) + extension(60, 8) + extension(43, 16)
    + extension(6, 24) + TCP,
    "fragment6": ETH + b"\x86\xdd" + with_protocol(V6, 44) + bytes([17, 0, 0, 1, 0, 0, 0, 5]) + UDP + bytes(9),
    "later fragment6": ETH + b"\x86\xdd" + with_protocol(V6, 44) + bytes([17, 0, 1, 0, 0, 0, 0, 5]) + UDP + bytes(9),
    "authentication": ETH + b"\x86\xdd" + with_protocol(V6, 51) + bytes([6, 4]) + bytes(22) + TCP,
    "endless": ETH + b"\x86\xdd" + with_protocol(V6, 0) + extension(0, 8) * 80 + extension(6, 8) + TCP,
    "vlan": ETH + bytes.fromhex("8100b064") + b"\x08\x00" + V4 + TCP,
    "qinq": ETH + bytes.fromhex("88a8200a81000fff") + b"\x86\xdd" + V6 + UDP + bytes(8),
    "tags": ETH + bytes.fromhex("81000001") * 6 + b"\x08\x00" + V4 + TCP,
    "arp": ETH + bytes.fromhex("0806000108000604000102000000000ac0000201000000000000c0000202"),
    "version": ETH + b"\x08\x00" + b"\x65" + V4[1:] + TCP,
    "short header": ETH + b"\x08\x00" + b"\x44" + V4[1:] + TCP,
    "length field": ETH + b"\x00\x26" + bytes(46),
}  # fmt: skip


def test_fields_of_a_tcp_packet():
    """Each field of a packet made by hand has the value that it was made with."""
    found = fields(SAMPLES["tcp"])
    assert there(SAMPLES["tcp"]) == {"eth", "ip", "tcp"}
    assert found["eth", "dst"] == 0x020000000001
    assert found["ip", "src"] == 0xC0000201
    assert found["ip", "dscp"] == 46
    assert found["ip", "ecn"] == 1
    assert found["ip", "ttl"] == 63
    assert found["ip", "dont_fragment"] == 1
    assert found["tcp", "src_port"] == found["packet", "src_port"] == 40000
    assert found["tcp", "seq"] == 0xFFFFFFFE
    assert found["tcp", "syn"] == found["tcp", "ack_flag"] == 1
    assert found["tcp", "fin"] == 0
    assert found["tcp", "header_length"] == 32
    assert found["tcp", "payload"] == 14 + 20 + 32
    assert found["udp", "dst_port"] == 0


def test_transport_behind_extension_headers():
    """IPv6 extension headers are walked to the transport header; a later fragment has none; a chain ends."""
    assert fields(SAMPLES["extensions"])["tcp", "dst_port"] == 443
    assert fields(SAMPLES["extensions"])["packet", "protocol"] == 6
    assert fields(SAMPLES["authentication"])["tcp", "dst_port"] == 443
    assert fields(SAMPLES["fragment6"])["udp", "dst_port"] == 53
    assert "udp" not in there(SAMPLES["later fragment6"])
    assert there(SAMPLES["endless"]) == {"eth", "ip6"}


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_anywhere(name):
    """A packet cut at any byte reads as the plain parser reads it, whatever lies behind the cut."""
    data = SAMPLES[name]
    for size in range(len(data) + 1):
        check(data[:size])
        assert fields(data[:size], behind=bytes(64)) == fields(data[:size], behind=data[size:] + b"\x45" * 64)


@settings(max_examples=50 if PURE else 300, deadline=None)
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.integers(0, 130),
)
def test_changed_anywhere(name, changes, size):
    """A packet with changed bytes, cut anywhere, reads as the plain parser reads it."""
    data = bytearray(SAMPLES[name])
    for place, value in changes:
        if place < len(data):
            data[place] = value
    check(bytes(data[:size]))


@pytest.mark.parametrize(
    ("link", "header"),
    [
        (101, b""),
        (12, b""),
        (0, bytes.fromhex("02000000")),
        (113, bytes(14) + b"\x08\x00"),
        (276, b"\x08\x00" + bytes(18)),
    ],
)
def test_other_link_types(link, header):
    """Without Ethernet the network header is found where the link type says."""
    data = header + V4 + TCP
    assert there(data, LINK_TYPES[link]) == {"ip", "tcp"}
    assert fields(data, link=LINK_TYPES[link])["tcp", "dst_port"] == 443
    for size in range(len(data)):
        found = fields(data[:size], link=LINK_TYPES[link])
        assert found == fields(data[:size], behind=bytes(64), link=LINK_TYPES[link])
        assert found["tcp", "dst_port"] == (443 if size >= len(header) + 40 else 0)


@pytest.mark.parametrize("link", [LINUX_SLL, LINUX_SLL2])
@pytest.mark.parametrize("name", ["tcp", "arp", "vlan", "qinq", "tags", "tagged other"])
def test_tags_behind_cooked_headers(link, name):
    """VLAN tags behind a cooked header are walked as behind an Ethernet header, wherever the packet is cut."""
    data = cooked({**SAMPLES, "tagged other": ETH + bytes.fromhex("8100b06488cc") + bytes(46)}[name], link)
    for size in range(len(data) + 1):
        check(data[:size], link)
        assert fields(data[:size], bytes(64), link) == fields(data[:size], data[size:] + b"\x45" * 64, link)


def test_bytes_and_numbers():
    """packet[i] is a byte as of bytes; u8, u16 and u32 are big-endian, and 0 where they would leave the packet."""
    read = _reader(["packet[0]", "packet[-1]", "len(packet)", "packet.u8(2)", "packet.u16(1)", "packet.u32(0)",
                    "packet.u32(1)", "packet.u16(-1)", "packet.u8(4)"])  # fmt: skip
    arena = np.array([1, 2, 3, 200, 9, 9, 9, 9], np.uint8)
    assert tuple(map(int, read(arena, 0, 4, ETHERNET))) == (1, 200, 4, 3, 0x0203, 0x010203C8, 0, 0, 0)
    for index in (4, -5):
        with pytest.raises(IndexError):
            _reader([f"packet[{index}]"])(arena, 0, 4, ETHERNET)


def test_layers_as_conditions():
    """A layer is true where it is there, also under ``not`` and in conditions."""
    read = _reader(["1 if packet.tcp else 0", "1 if not packet.udp else 0", "1 if packet.ip and packet.tcp else 0"])
    assert read(np.frombuffer(SAMPLES["tcp"], np.uint8).copy(), 0, len(SAMPLES["tcp"]), ETHERNET) == (1, 1, 1)
    assert read(np.frombuffer(SAMPLES["udp"], np.uint8).copy(), 0, len(SAMPLES["udp"]), ETHERNET) == (0, 0, 0)


def write_pcap(path, records, link: int) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link))
        for data, size in records:
            file.write(struct.pack("<IIII", 1, 0, len(data), size) + data)


def packets_of(trace, limit: int) -> list[bytes]:
    with trace.open("rb") as file:
        return [data for _, (_, data) in zip(range(limit), dpkt.pcap.Reader(file), strict=False)]


def test_real_packets(mixed_trace):
    """Every packet of the mixed trace reads as the plain parser reads it, whole and snapped to 60 bytes."""
    for data in packets_of(mixed_trace, 1500 if PURE else 70_000):
        assert fields(data) == expected(data)
    for data in packets_of(mixed_trace, 500 if PURE else 10_000):
        assert fields(data[:60]) == expected(data[:60])


def records_of(trace, limit: int, link: int) -> list[tuple[bytes, int]]:
    """(bytes, original length) of packets of a trace, as they would be on this link type."""
    records = [(packet.data, packet.size) for packet in islice(naive_flows.packets_of(trace), limit)]
    if link == ETHERNET:
        return records
    more = TYPES[link][1] - 14
    return [(cooked(data, link), size + more) for data, size in records if len(data) >= 14]


@pytest.mark.live("tshark")
@pytest.mark.parametrize("link", [ETHERNET, LINUX_SLL, LINUX_SLL2])
def test_real_packets_as_tshark_reads_them(mixed_trace, tmp_path, link):
    """Addresses, ports and flags of the mixed trace are those that tshark shows for the outermost headers, also behind
    cooked headers."""
    names = {
        "eth.type": ("eth", "type"),
        "vlan.id": ("vlan", "id"),
        "ieee8021ad.id": ("vlan", "id"),
        "ip.ttl": ("ip", "ttl"),
        "ip.len": ("ip", "total_length"),
        "ipv6.hlim": ("ip6", "hop_limit"),
        "tcp.srcport": ("tcp", "src_port"),
        "tcp.dstport": ("tcp", "dst_port"),
        "udp.srcport": ("udp", "src_port"),
        "udp.dstport": ("udp", "dst_port"),
    }
    if link != ETHERNET:
        del names["eth.type"]
    count = 500 if PURE else 10_000
    records, path = records_of(mixed_trace, count, link), tmp_path / "some.pcap"
    write_pcap(path, records, link)
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=f",
               "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-o", "ip.tso_support:FALSE"]  # fmt: skip
    for name in ("frame.protocols", "frame.len", "frame.cap_len", "_ws.expert.message", *names):
        command += ["-e", name]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout.splitlines()
    compared: Counter[str] = Counter()
    for (data, _), line in zip(records, lines, strict=True):
        layers, length, captured, doubts, *values = line.split("\t")
        protocols = layers.split(":")
        if protocols.count("ip") + protocols.count("ipv6") != 1 or not {"mpls", "pppoes"}.isdisjoint(protocols):
            continue  # tunnels, where tshark also shows what is inside
        shorter = "exceeds packet length" in doubts or "exceeds framing length" in doubts  # IPv4's words, IPv6's
        if "_ws.malformed" in protocols or length != captured or shorter:
            continue  # packets whose headers it doubts, and cut ones, of which it reads what there is of a header
        found = fields(data, link=link)
        for (name, place), value in zip(names.items(), values, strict=True):
            if value and not (name == "vlan.id" and "ieee8021ad" in protocols):  # the outermost tag
                assert int(value, 0) == found[place], (name, line)
                compared[name] += 1
    assert compared.total() > count
    assert compared["vlan.id"] > 0
