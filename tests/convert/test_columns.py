"""Headers as Parquet columns, and files for each flow or interface: as tshark sees the packets."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import capture_bytes as cb
import pytest
from beside_editcap import ours, peer

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

FIELDS = {
    "time": "frame.time_epoch", "captured": "frame.cap_len", "original": "frame.len", "eth_src": "eth.src",
    "eth_dst": "eth.dst", "vlan": "vlan.id", "src_port": "tcp.srcport", "dst_port": "tcp.dstport",
    "tcp_flags": "tcp.flags",
}  # fmt: skip
ADDRESSES = ("ip.src", "ipv6.src", "arp.src.proto_ipv4"), ("ip.dst", "ipv6.dst", "arp.dst.proto_ipv4")


def test_columns_are_tsharks(trace: Path, tmp_path: Path) -> None:
    """Where a packet has only one header of a kind, each column has the number or the text that tshark prints."""
    ours(trace, "-w", tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.metadata[b"wirecap.columns"] == b"1"
    names = [*FIELDS.values(), *ADDRESSES[0], *ADDRESSES[1], "frame.protocols", "ip.version", "ipv6.version"]
    alone = ("tcp.desegment_tcp_streams:FALSE", "ip.defragment:FALSE", "tcp.relative_sequence_numbers:FALSE")
    options = [word for option in alone for word in ("-o", option)]
    told = peer("tshark", "-r", trace, *options, "-T", "fields", *(w for name in names for w in ("-e", name)))
    rows = [dict(zip(names, line.split("\t"), strict=True)) for line in told.splitlines()]
    assert table.num_rows == len(rows) == 6000
    columns = {name: table[name].to_pylist() for name in table.schema.names if name != "time"}
    columns["time"] = table["time"].cast("int64").to_pylist()
    compared: Counter[str] = Counter()
    for i, row in enumerate(rows):
        seconds, _, fraction = row["frame.time_epoch"].partition(".")
        assert columns["time"][i] == int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
        layers = row["frame.protocols"].split(":")
        sound = row["ip.version"] + row["ipv6.version"] in ("4", "6", "") and "malformed" not in layers
        if not sound or "ieee8021ad" in layers or layers.count("eth") > 1:  # tshark has two fields for tags
            continue
        for name, field in FIELDS.items():
            told_value = row[field].split(",")[0]
            mine = columns[name][i]
            if name != "time" and told_value and mine is not None:
                assert str(mine) == told_value or mine == int(told_value, 0), (i, name)
                compared[name] += 1
        for name, fields in zip(("src", "dst"), ADDRESSES, strict=True):
            found = [row[field] for field in fields if row[field]]
            if found and columns[name][i]:
                assert columns[name][i] == found[0]
                compared[name] += 1
    assert min(compared[name] for name in (*FIELDS, "src", "dst") if name != "time") > 30


@pytest.mark.parametrize("suffix", [".pcap", ".pcapng"])
def test_a_file_for_each_flow(trace: Path, tmp_path: Path, suffix: str) -> None:
    """A flow's packets, both directions, are in one file in their order; together the files have all packets."""
    ours(trace, "-w", tmp_path / f"o{suffix}", "--split", "flow", "-f", "tcp port 443")
    files = sorted(tmp_path.iterdir())
    told = peer("tshark", "-r", trace, "-Y", "tcp.port==443 && !icmp && !icmpv6", "-T", "fields", "-e", "tcp.stream")
    found = [cb.read(path) for path in files]
    assert sum(map(len, found)) == int(peer("tcpdump", "-r", trace, "--count", "tcp port 443").split()[0])
    assert all(packet.ns <= later.ns for file in found for packet, later in pairwise(file))
    assert len(files) <= len(set(told.split()))
    ends = [path.stem.removeprefix("o_tcp_").split("_") for path in files]
    whole = [end for end in ends if len(end) == 4]  # the others' ports are cut
    assert len({frozenset([(a, b), (c, d)]) for a, b, c, d in whole}) == len(whole) > 20


@pytest.mark.kernel
def test_a_file_for_each_interface(tmp_path: Path) -> None:
    """Each interface's packets are in a file of its name, which describes all interfaces."""
    names = (b"eth0", b"wlan/1", b"eth0")
    data = cb.section(">") + b"".join(cb.interface(">", options=cb.option(">", 2, name)) for name in names)
    data += b"".join(cb.enhanced(">", n % 3, n, bytes([n]), 1) for n in range(30))
    (tmp_path / "in").write_bytes(data)
    ours(tmp_path / "in", "-w", tmp_path / "o.pcapng", "--split", "interface")
    found = {path.name: [p.data[0] for p in cb.read(path)] for path in tmp_path.glob("o*")}
    assert found == {
        "o_eth0.pcapng": list(range(0, 30, 3)), "o_wlan_1.pcapng": list(range(1, 30, 3)),
        "o_eth0_1.pcapng": list(range(2, 30, 3)),
    }  # fmt: skip
