"""IPFIX beside other programs: nfcapd collects the same records over UDP, tshark decodes what goes over TCP."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naive_flows import Reckoning, packets_of
from rig import until
from wirecap.cli import main
from wirecap.flows import ipfix
from wirecap.lab.process import find


def flows(trace: Path, *arguments: str) -> None:
    assert main.run(["capture", "-r", str(trace), "--handler", "flows:idle=300ms,active=1s", *arguments]) == 0


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def expected(trace: Path) -> list[dict[str, Any]]:
    return Reckoning(0.3, 1).read(packets_of(trace)).records


def messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        (size,) = struct.unpack("!H", data[2:4])
        found.append(data[:size])
        data = data[size:]
    return found


def test_nfcapd_has_the_same_records(trace, expected, tmp_path, capsys):
    """The real collector of Debian's nfdump, over UDP: the same flows, packets, bytes, ports, flags and times."""
    nfcapd, nfdump = find("nfcapd"), find("nfdump")
    if not nfcapd or not nfdump:
        pytest.skip("needs nfcapd and nfdump")
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        if not _collected_by(nfcapd, trace, folder):  # else it stood still, and the kernel's buffer for it was full
            break
    found = []
    for file in sorted(folder.glob("nfcapd.2*")):  # two, if an hour ended meanwhile
        shown = subprocess.run(
            [nfdump, "-q", "-N", "-r", str(file), "-o", "json"], capture_output=True, text=True, check=True,
            env=os.environ | {"TZ": "UTC"},
        ).stdout.strip()  # fmt: skip
        found += json.loads(shown if shown.startswith("[") else f"[{shown}]")
    assert Counter(map(_of_nfdump, found)) == Counter(map(_as_nfdump, expected))


def _collected_by(nfcapd: str, trace: Path, folder: Path) -> int:
    """Have nfcapd collect a trace's flows in a folder; how many datagrams the kernel dropped before it took them."""
    port = free_port(socket.SOCK_DGRAM)
    command = [nfcapd, "-w", str(folder), "-p", str(port), "-b", "127.0.0.1", "-t", "3600", "-B", "8000000"]
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        hexed = f"0100007F:{port:04X}"
        until(lambda: hexed in Path("/proc/net/udp").read_text() or child.poll() is not None)
        assert child.poll() is None, (folder / "log").read_text()
        flows(trace, "--to", f"ipfix://127.0.0.1:{port}")
        until(lambda: _waiting(port) == 0)
        return int(_socket_row(port)[-1])
    finally:

        def ended() -> bool:  # a signal just before it waits for a datagram is seen after the next one only
            child.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            return child.poll() is not None

        until(ended)


def test_tshark_decodes_a_stream(trace, expected, tmp_path, capsys):
    """What goes over TCP, as tshark reads it: every record, sequence numbers that count them, and no warning."""
    tshark = find("tshark")
    if not tshark:
        pytest.skip("needs tshark")
    sent = collected(lambda port: flows(trace, "--to", f"ipfix+tcp://127.0.0.1:{port}"))
    path = tmp_path / "sent.pcap"
    path.write_bytes(as_pcap(sent))
    names = ["cflow.packets", "cflow.octets", "_ws.expert.severity", "cflow.sequence"]
    command = [tshark, "-r", str(path), "-d", "tcp.port==4739,cflow", "-T", "fields", "-E", "separator=;",
               *(word for name in names for word in ("-e", name))]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split(";") for line in done.stdout.splitlines() if line.strip("; ")]
    packets = [int(one) for row in rows for one in row[0].split(",") if one]
    octets = [int(one) for row in rows for one in row[1].split(",") if one]
    assert sorted(packets) == sorted(n for r in expected for n in (r["packetDeltaCount"], r["reversePacketDeltaCount"]))
    assert sum(octets) == sum(r["octetDeltaCount"] + r["reverseOctetDeltaCount"] for r in expected)
    assert not any(row[2] for row in rows)


def test_sequence_numbers_and_sizes(trace, expected, capsys):
    """A message's number is that of the data records before it; a datagram's message fits into a packet."""
    sent = messages(collected(lambda port: flows(trace, "--to", f"ipfix+tcp://127.0.0.1:{port}")))
    count = 0
    sizes = {number: sum(e.size for e in elements) for number, elements in ipfix.TEMPLATES.items()}
    for message in sent:
        version, length, _, sequence, _ = struct.unpack("!HHIII", message[:16])
        assert (version, length, sequence) == (10, len(message), count)
        kind, size = struct.unpack("!HH", message[16:20])
        assert size == length - 16
        count += 0 if kind == 2 else (size - 4) // sizes[kind]
    assert count == len(expected)


def test_datagrams_fit_into_a_packet(trace, expected, capsys):
    """Templates come first, and no message is longer than what Ethernet carries."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        collector.bind(("127.0.0.1", 0))
        flows(trace, "--to", f"ipfix://127.0.0.1:{collector.getsockname()[1]}", "-c", "500")
        collector.setblocking(False)
        sent = []
        try:
            while True:
                sent.append(collector.recv(65536))
        except BlockingIOError:
            pass
    assert struct.unpack("!H", sent[0][16:18]) == (2,)
    assert 1000 < max(map(len, sent)) <= 1452
    assert len(sent) > 3


def test_a_collector_that_is_not_there(trace, capsys):
    """Over TCP nobody listens: one line, before anything is read."""
    port = free_port(socket.SOCK_STREAM)
    assert main.run(["capture", "-r", str(trace), "--handler", "flows", "--to", f"ipfix+tcp://127.0.0.1:{port}"]) == 1
    expected = f"wirecap: --to ipfix+tcp://127.0.0.1:{port}: Connection refused (start the collector first)"
    assert capsys.readouterr().err.splitlines()[-1] == expected


def test_a_datagram_that_nobody_takes_is_counted(trace, capsys):
    """Over UDP the host says that nobody listens: the records are counted as refused."""
    port = free_port(socket.SOCK_DGRAM)
    flows(trace, "--to", f"ipfix://127.0.0.1:{port}")
    written = capsys.readouterr()
    result = json.loads(written.out)["flows"]
    lost = sum(result["dropped"].values())
    assert 0 < lost <= result["records"]
    assert result["stored"][f"ipfix://127.0.0.1:{port}"] == result["records"] - lost
    assert f"{lost} flow records dropped: " in written.err


@pytest.mark.parametrize(
    "target", ["ipfix://", "ipfix://h:99999", "ipfix://h:x", "ipfix://h/path", "ipfix:h", "ipfix://a..b"]
)
def test_what_is_no_collector(trace, target, capsys):
    """A line with the target and how it is written."""
    assert main.run(["capture", "-r", str(trace), "--handler", "flows", "--to", target]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert target in line
    assert "write it as ipfix://HOST" in line


def collected(send) -> bytes:
    """What a program sends to a TCP port."""
    found = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    found.extend(data)

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        send(server.getsockname()[1])
        thread.join(60)
        assert not thread.is_alive()
    return bytes(found)


def as_pcap(data: bytes) -> bytes:
    """A TCP connection to port 4739 that carries the data, in raw IP packets."""
    parts, sequence = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)], 1
    for first in range(0, len(data), 1400):
        piece = data[first : first + 1400]
        head = struct.pack("!HHIIBBHHH", 50000, 4739, sequence, 1, 0x50, 0x18, 65535, 0, 0)
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(piece), 0, 0, 64, 6, 0) + addresses
        frame = ip + head + piece
        parts += [struct.pack("<IIII", 1_700_000_000, first % 10**6, len(frame), len(frame)), frame]
        sequence += len(piece)
    return b"".join(parts)


def _socket_row(port: int) -> list[str]:
    """What the kernel says of a UDP socket of loopback."""
    rows = (line.split() for line in Path("/proc/net/udp").read_text().splitlines())
    return next(row for row in rows if row[1] == f"0100007F:{port:04X}")


def _waiting(port: int) -> int:
    """Bytes in a UDP socket's queue."""
    return int(_socket_row(port)[4].split(":")[1], 16)


def _of_nfdump(row: dict[str, Any]) -> tuple[Any, ...]:
    """What nfdump shows of a record, as ``_as_nfdump`` has it."""
    ends = [row.get(f"{end}4_addr") or str(IPv6Address(row[f"{end}6_addr"])) for end in ("src", "dst")]
    ports = [row.get(name, 0) for name in ("src_port", "dst_port")]
    if row["proto"] in (1, 58):
        ports = [row["icmp_type"], row["icmp_code"]]
    names = ("first", "last", "proto", "in_packets", "in_bytes", "out_packets", "out_bytes", "src_vlan", "src_tos")
    return (*ends, *ports, row.get("tcp_flags", "........"), *(row[name] for name in names))


def _as_nfdump(record: dict[str, Any]) -> tuple[Any, ...]:
    """A record with what nfdump keeps of it: times in ms, eight TCP flags of the source's direction."""
    version, protocol = record["ipVersion"], record["protocolIdentifier"]
    ends = [record[f"{end}IPv{version}Address"] for end in ("source", "destination")]
    ports = [record.get(f"{end}TransportPort", 0) for end in ("source", "destination")]
    if (protocol, version) in ((1, 4), (58, 6)):
        ports = list(divmod(record.get(f"icmpTypeCodeIPv{version}", 0), 256))
    flags = record.get("tcpControlBits", 0)
    letters = "".join(letter if flags >> 7 - n & 1 else "." for n, letter in enumerate("CEUAPRSF"))
    times = (str(np.datetime64(record[f"flow{end}Nanoseconds"] // 10**6, "ms")) for end in ("Start", "End"))
    names = ("packetDeltaCount", "octetDeltaCount", "reversePacketDeltaCount", "reverseOctetDeltaCount")
    counts = (record[name] for name in names)
    return (*ends, *ports, letters, *times, protocol, *counts, record.get("vlanId", 0), record["ipClassOfService"])
