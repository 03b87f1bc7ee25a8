"""``wirecap forward`` as a user runs it, and tcpdump behind it."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dpkt

from rig import read_pcap, until
from wirecap.lab import process
from wirecap.lab.hosts import Hosts
from wirecap.lab.testbed import Testbed
from wirecap.linux import bpf, netlink
from wirecap.linux.asm import assemble

EXAMPLE = Path(__file__).parent.parent / "src" / "wirecap" / "examples" / "router.py"
MTU = 3498
"""The most that a veth takes while its other end has an XDP program."""

LEAVE = ("--checksums", "leave")
"""For traces recorded where packets are made: their unfinished checksums go out as they came."""

AT_REST = ("-R", "300", "--ring", "76800")
"""A queue that holds a whole trace while the forwarder has no CPU."""


class Running:
    """A forwarder as a user runs it; ``end`` is Ctrl-C, and the summary."""

    def __init__(self, bed: Testbed | Hosts, *arguments: str) -> None:
        self.file = Path(f"/tmp/{bed.name}.json")
        command = [sys.executable, "-m", "wirecap", "forward", *arguments]
        self.child = process.Child([*command, "--netns", bed.name, "--summary-json", str(self.file)])
        self.child.wait_for("^wirecap: forwarding", 90)

    def end(self, status: int = 0) -> dict[str, Any]:
        ended = self.child.end(signal.SIGINT, 90)
        assert ended.status == status, ended.output
        summary: dict[str, Any] = json.loads(self.file.read_text())
        packets = summary["packets"]
        assert packets["received"] == packets["delivered"] + packets["filtered_out"] + packets["dropped"]
        assert packets["dropped"] == sum(packets["drops"].values())
        assert packets["forwarded"] == packets["delivered"] == sum(row["forwarded"] for row in summary["outputs"])
        assert "unaccounted" not in packets["drops"]
        return summary

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.end(signal.SIGKILL)
        self.file.unlink(missing_ok=True)


@contextmanager
def tcpdump(interface: str, file: Path) -> Iterator[process.Child]:
    """tcpdump of what comes in on an interface of this namespace; it has it all when it has ended."""
    # Its buffer holds a whole trace while it has no CPU; with --immediate-mode each packet takes the longest one's.
    command = ["tcpdump", "-i", interface, "-Q", "in", "-n", "-B", "131072", "-U", "-Z", "root"]
    with process.Child([*command, "-w", str(file)]) as child:
        child.wait_for("listening on", 60)
        yield child


@contextmanager
def receiving_in_order(interface: str) -> Iterator[None]:
    """A veth with an XDP program receives by queue; without one by the CPU that its other end sends on, and packets of
    a sender that moved to another CPU overtake each other."""
    program = bpf.Program(assemble([("mov_imm", 0, 0, 0, bpf.XDP_PASS), ("exit", 0, 0, 0, 0)]))
    link = program.attach(netlink.interface(interface).index, bpf.XDP_DRV_MODE)
    yield
    link.close()
    program.close()


def caught(child: process.Child, file: Path, wanted: int) -> list[bytes]:
    """Wait until tcpdump's file has so many packets, end it; the packets."""
    until(lambda: file.stat().st_size > 24 and len(whole(file)) >= wanted, 60)
    ended = child.end(signal.SIGINT, 60)
    assert re.search(r"^0 packets dropped by kernel", ended.output, re.MULTILINE), ended.output
    return [packet.data for packet in read_pcap(file)]


def whole(file: Path) -> list[int]:
    """Where the packets of a growing file begin."""
    data, at, found = file.read_bytes(), 24, []
    while at + 16 <= len(data) and (end := at + 16 + int.from_bytes(data[at + 8 : at + 12], "little")) <= len(data):
        found.append(at)
        at = end
    return found


def frames_of(trace: Path, mtu: int = MTU) -> list[bytes]:
    return [packet.data for packet in read_pcap(trace) if len(packet.data) <= mtu + 14]


def replay(interface: str, trace: Path, *options: str) -> None:
    ended = process.run(["tcpreplay", "-i", interface, *(options or ("--mbps=200",)), str(trace)], timeout_s=100)
    assert ended.status == 0, ended.output


def flow_of(frame: bytes, first_fragments: dict[Any, Any], least_bytes: int = 8) -> Any:
    """The connection that a frame belongs to, whichever way it goes: addresses and ports, by dpkt.

    first_fragments: what the first fragments of datagrams said, to be kept from one frame to the next.
    least_bytes: how much there is of a transport header whose ports are read.
    """
    try:
        ip = dpkt.ethernet.Ethernet(frame).data
    except dpkt.UnpackError:  # cut within a header that dpkt wants whole
        ip = None
    if not isinstance(ip, (dpkt.ip.IP, dpkt.ip6.IP6)):
        return frozenset((frame[:6], frame[6:12]))
    if isinstance(ip, dpkt.ip.IP):
        protocol, more, offset, number = ip.p, ip.mf, ip.offset, ip.id
    else:
        protocol = getattr(ip, "p", ip.nxt)  # dpkt takes ESP for an extension header, behind which there is nothing
        head = ip.extension_hdrs.get(ip.nxt) if ip.nxt == dpkt.ip.IP_PROTO_FRAGMENT else None
        more, offset, number = (head.m_flag, head.frag_off, head.id) if head else (0, 0, 0)
    flow = protocol, frozenset((ip.src, ip.dst))
    datagram = (ip.src, ip.dst, protocol, number)
    if offset:
        return first_fragments.get(datagram, flow)
    header = bytes(ip.data)[:least_bytes]
    if protocol in (dpkt.ip.IP_PROTO_TCP, dpkt.ip.IP_PROTO_UDP, dpkt.ip.IP_PROTO_SCTP) and len(header) == least_bytes:
        flow = protocol, frozenset(((ip.src, header[:2]), (ip.dst, header[2:4])))
    if more:
        first_fragments[datagram] = flow
    return flow


def by_flow(frames: list[bytes]) -> dict[Any, list[bytes]]:
    """The frames of each TCP and UDP flow in their order, over IPv4 without VLAN and fragments: the kernel's own hash
    sends those of a flow through one queue, and not the others (it takes in the flow label of IPv6)."""
    flows: dict[Any, list[bytes]] = {}
    for frame in frames:
        ip = dpkt.ethernet.Ethernet(frame).data if frame[12:14] == b"\x08\0" else None
        if isinstance(ip, dpkt.ip.IP) and ip.p in (6, 17) and not ip.mf and not ip.offset:
            flows.setdefault((frame[:12], flow_of(frame, {}, least_bytes=4)), []).append(frame)
    return flows
