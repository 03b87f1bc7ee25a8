"""Columns of fields beside the plain parser: every field of every packet, cut anywhere, of any link type."""

from __future__ import annotations

import struct
import sys

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wirecap
from naive_packet import naive
from wirecap.engine.fields import NAMES, Rows, decode
from wirecap.errors import UsageError
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.packet.decode import RECIPES, UNKNOWN_LINK
from wirecap.kernels.packet.headers import ETHERNET, LINUX_SLL, LINUX_SLL2, RAW_IP

pytestmark = pytest.mark.kernel

ETH, TAGGED = bytes(range(12)), bytes(range(12)) + b"\x81\x00\x60\x07"
V4 = struct.pack("!BBHHHBBH4s4s", 0x45, 0xB9, 40, 7, 0x4000, 63, 6, 0xABCD, b"\xc0\0\2\1", b"\xc6\x33\x64\2")
V6 = struct.pack("!IHBB16s16s", 0x6AB12345, 20, 17, 64, bytes(range(0xF0, 0x100)), bytes(range(0x80, 0x90)))
TCP = struct.pack("!HHIIHHHH", 40000, 443, 0xFFFFFFFE, 5, 0x8012, 512, 0x1234, 3) + bytes(12)
UDP = struct.pack("!HHHH", 5353, 53, 20, 0xBEEF) + bytes(12)
ARP = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, bytes(6), b"\xc0\0\2\1", bytes(6), b"\xc0\0\2\2")
SAMPLES = [
    ETH + b"\x08\x00" + V4 + TCP, TAGGED + b"\x08\x00" + V4 + TCP, ETH + b"\x86\xdd" + V6 + UDP,
    ETH + b"\x08\x06" + ARP, ETH + b"\x08\x00" + V4[:9] + b"\x84" + V4[10:] + TCP, ETH + b"\x88\xcc" + bytes(30),
    TAGGED + b"\x86\xdd" + V6[:6] + b"\x3a" + V6[7:] + UDP, ETH + b"\x08\x00\x46" + V4[1:] + bytes(4) + TCP,
]  # fmt: skip


class Lent:
    """Packets side by side in one array, with 0xFF between them."""

    def __init__(self, packets: list[bytes], link: int = ETHERNET) -> None:
        self.arena = np.frombuffer(b"".join(data + b"\xff" * 64 for data in packets) or b"\xff", np.uint8).copy()
        sizes = np.array([[len(data) for data in packets]], np.int64).reshape(1, -1)
        address = np.cumsum(sizes + 64, axis=1) - sizes - 64
        captured = sizes.astype(np.uint32)
        self.row = (self.arena, address, captured)
        self.there = (0, len(packets), link)
        self.fields = decode(*self.row, captured + np.uint32(9), address + 10**18, *self.there, self)

    def rows(self):
        return Rows(*self.row, *self.there)


def expected(data: bytes) -> dict[str, object]:
    found = {f"{layer}.{name}": value for layer, names in naive(data).items() for name, value in names.items()}
    inner = {name: found.pop(f"packet.{name}", 0) for name in ("protocol", "src_port", "dst_port")}
    layers = [layer for layer in naive(data) if layer != "packet"]
    payload = max((found.get(f"{layer}.payload", 0) for layer in ("tcp", "udp", "sctp", "icmp", "icmp6")), default=0)
    return {**dict.fromkeys(RECIPES, 0), **found, **inner, "payload": payload, "has": set(layers)}


def check(packets: list[bytes]) -> None:
    fields = Lent(packets).fields
    columns = {name: fields[name].tolist() for name in NAMES}
    layers = {layer: fields.has(layer).tolist() for layer in ("eth", "vlan", "arp", "ip", "ip6", "tcp", "udp", "sctp",
                                                              "icmp", "icmp6")}  # fmt: skip
    for i, data in enumerate(packets):
        want = expected(data)
        assert {layer for layer, there in layers.items() if there[i]} == want.pop("has")
        for name, value in want.items():
            found = columns[name][i]
            assert (tuple(found) if isinstance(found, list) else found) == (
                value if value or not isinstance(found, list) else (0, 0)
            ), (name, data.hex())
        assert (columns["captured_length"][i], columns["length"][i]) == (len(data), len(data) + 9)


def test_real_packets(mixed_trace):
    """Every field of the mixed trace's packets is what the plain parser reads, whole and cut to 60 bytes."""
    with mixed_trace.open("rb") as file:
        packets = [data for _, (_, data) in zip(range(300 if PURE else 8_000), dpkt.pcap.Reader(file), strict=False)]
    check(packets)
    check([data[:60] for data in packets[::4]])


@given(st.lists(st.tuples(st.sampled_from(SAMPLES), st.integers(0, 99), st.integers(0, 255), st.integers(0, 99)),
                min_size=1, max_size=20))  # fmt: skip
@settings(max_examples=15 if PURE else 150, deadline=None)
def test_damaged_packets(choices):
    """Packets with a changed byte, cut anywhere, read as the plain parser reads them; nothing behind them is read."""
    packets = []
    for sample, place, value, size in choices:
        data = bytearray(sample)
        data[place % len(data)] = value
        packets.append(bytes(data[:size]))
    check(packets)


def test_dtypes_and_absent_fields():
    """A field's dtype is the smallest that holds it; a packet without it has 0, in whatever dtype."""
    fields = Lent([SAMPLES[2], SAMPLES[0], b""]).fields
    kinds = {"ip.src": "uint32", "ip6.src": "uint64", "src_port": "uint16", "protocol": "uint8", "tcp.seq": "uint32",
             "tcp.syn": "uint8", "eth.src": "uint64", "ip.fragment_offset": "uint16", "tcp.payload": "uint16",
             "ip.header_length": "uint8", "ip6.flow_label": "uint32", "timestamp": "uint64"}  # fmt: skip
    assert {name: str(fields[name].dtype) for name in kinds} == kinds
    assert fields.ip.src.tolist() == [0, 0xC0000201, 0]
    assert fields.src.tolist() == [[0xF0F1F2F3F4F5F6F7, 0xF8F9FAFBFCFDFEFF], [0, 0xFFFFC0000201], [0, 0]]
    assert fields.tcp.there.tolist() == [False, True, False]
    assert fields.timestamp.tolist()[0] == 10**18
    assert len(Lent([]).fields.src) == 0


@pytest.mark.parametrize(("link", "header"), [(RAW_IP, b""), (LINUX_SLL, bytes(14) + b"\x08\x00")])
def test_other_link_types(link, header):
    """Headers begin where the link type says; of an unknown one no field is there."""
    fields = Lent([header + V4 + TCP], link).fields
    assert (fields.dst_port[0], fields.ip.dst[0], fields.eth.there[0]) == (443, 0xC6336402, False)
    unknown = Lent([header + V4 + TCP], UNKNOWN_LINK).fields
    assert (unknown.layers[0], unknown.src_port[0], unknown.captured_length[0]) == (0, 0, len(header) + 52)


@pytest.mark.parametrize(("link", "header"), [
    (LINUX_SLL, bytes(14) + b"\x81\x00"), (LINUX_SLL2, b"\x81\x00" + bytes(18)),
])  # fmt: skip
def test_a_tag_behind_a_cooked_header(link, header):
    """A VLAN tag behind a Linux cooked header is read, and what it carries."""
    fields = Lent([header + b"\x60\x07\x08\x00" + V4 + TCP], link).fields
    assert (fields.vlan.id[0], fields.vlan.priority[0], fields.vlan.offset[0]) == (7, 3, len(header))
    assert (fields.dst_port[0], fields.ip.dst[0], fields.eth.there[0]) == (443, 0xC6336402, False)


@pytest.fixture
def chunk_path(tmp_path):
    with (tmp_path / "some.pcap").open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for sample in SAMPLES:
            writer.writepkt(sample, ts=1)
    return str(tmp_path / "some.pcap")


def test_columns_outlive_the_chunk(chunk_path):
    """What was decoded stays as it is; a field that was not read in time is an error, and so is an unknown one."""
    with wirecap.open(chunk_path) as capture:
        (fields,) = [chunk.decode("ip.ttl") for chunk in capture]
    assert (fields.src_port[0], fields.ip.ttl[0], fields.vlan.id[1]) == (40000, 63, 7)
    with pytest.raises(ValueError, match=r"chunk\.decode\('ip\.id'\)"):
        _ = fields.ip.id
    with pytest.raises(AttributeError, match="did you mean tcp"):
        _ = fields.tpc
    with pytest.raises(AttributeError, match="did you mean flags"):
        _ = fields.tcp.flag
    with pytest.raises(UsageError, match=r"unknown field 'ip\.tll' \(did you mean ip\.ttl"):
        fields["ip.tll"]
    with pytest.raises(ValueError, match="read-only"):
        fields.src_port[0] = 1


def test_in_a_chunk_handler(chunk_path):
    """A chunk handler decodes, too."""

    def ports(chunk, state):
        state.https += int((chunk.decode().dst_port == 443).sum())

    assert wirecap.capture(chunk_path, ports).result == {"https": 4}


def test_arrow_and_pandas(chunk_path):
    """A table has null where a packet has no such field, addresses are text, and times are times."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    with wirecap.open(chunk_path) as capture:
        (fields,) = [chunk.decode("ip.ttl", "nic_hash") for chunk in capture]
    table = fields.to_arrow().slice(0, 4).to_pydict()
    assert table["src"] == ["192.0.2.1", "192.0.2.1", "f0f1:f2f3:f4f5:f6f7:f8f9:fafb:fcfd:feff", None]
    assert table["src_port"] == [40000, 40000, 5353, None]
    assert table["tcp.flags"] == [0x12, 0x12, None, None]
    assert table["vlan.id"] == [None, 7, None, None]
    assert table["ip.ttl"] == [63, 63, None, None]
    assert table["nic_hash"] == [None] * 4
    assert table["eth.src"][0] == "06:07:08:09:0a:0b"
    frame = fields.to_pandas()
    assert frame["dst_port"].sum() == 443 * 4 + 53
    assert str(frame["dst_port"].dtype) == "UInt16"
    assert frame["timestamp"][0].year == 1970


@pytest.mark.parametrize(("library", "method"), [("pyarrow", "to_arrow"), ("pandas", "to_pandas")])
def test_without_the_library(monkeypatch, library, method):
    """Where an optional library is missing, one line says how to get it."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf"{method} needs {library}, .*pip install 'wirecap\["):
        getattr(Lent(SAMPLES).fields, method)()
