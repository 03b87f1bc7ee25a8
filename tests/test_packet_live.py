"""The packet engine beside tcpdump: the same exchange, the same packets, in both files."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections import Counter

import pytest

from hosts import INET, INET6, hosts, ping, tcp, udp
from live import missing
from rig import read_pcap, read_pcapng, time_limit, until
from wirecap.lab import process

__all__ = ["hosts", "time_limit"]
pytestmark = pytest.mark.live("tcpdump")

WIRECAP = [sys.executable, "-m", "wirecap", "capture"]
OURS = "tcp or udp or icmp or (icmp6 and ip6[40] < 130)"
"""Hosts also look for their neighbours, whenever they like; what is compared is what the test says."""


class Both:
    """tcpdump and wirecap on one interface; what each of them has in its file."""

    def __init__(self, namespace, interface, folder, *options, queues=""):
        self.out, self.reference, self.json = folder / "out.pcapng", folder / "ref.pcap", folder / "summary.json"
        self.ours = process.Child([
            *WIRECAP, "--netns", namespace, "-i", interface + queues, "-w", str(self.out), "--summary-json",
            str(self.json), *options,
        ])  # fmt: skip
        command = ["tcpdump", "-i", interface, "-n", "-B", "65536", "-U", "-Z", "root", "-w", str(self.reference)]
        command += options
        self.theirs = process.Child(command, namespace)

    def __enter__(self):
        self.ours.wait_for("engine packet", 120)
        self.theirs.wait_for("listening on")
        return self

    def __exit__(self, *_):
        self.ours.end(signal.SIGKILL)
        self.theirs.end(signal.SIGKILL)

    def packets(self):
        """(our packets, tcpdump's), in the order of the files."""
        time.sleep(1.3)  # the last acknowledgements are on their way
        ended = self.ours.end(signal.SIGINT)
        assert ended.status == 0, ended.output
        self.summary = json.loads(self.json.read_text())
        counted = self.summary["packets"]
        assert counted["received"] == counted["delivered"] + counted["filtered_out"] + counted["dropped"]
        assert counted["drops"] == {}
        ours = read_pcapng(self.out)
        bytes_due = 24 + sum(16 + len(packet.data) for packet in ours)
        with contextlib.suppress(pytest.fail.Exception):  # libpcap's blocks time out after a second; alike() tells more
            until(lambda: self.reference.stat().st_size >= bytes_due)
        ended = self.theirs.end(signal.SIGINT)
        assert "\n0 packets dropped by kernel" in ended.output
        theirs = read_pcap(self.reference)
        timestamps = [packet.timestamp for packet in ours]
        assert timestamps == sorted(timestamps)
        return ours, theirs


def alike(ours, theirs):
    """The same packets, cut to the same length; those that differ are printed."""
    first, second = (Counter((p.data, p.original) for p in packets) for packets in (ours, theirs))
    for name, rest in (("ours", first - second), ("tcpdump's", second - first)):
        for (data, original), count in list(rest.items())[:5]:
            sys.stdout.write(f"only {name}: {count} x {original} bytes: {data[:64].hex()}\n")
    return first == second


def talk(a, b):
    for family in (INET, INET6):
        tcp(a, b, family)
        udp(a, b, family)
        ping(a, b, family)


def send_tagged(host, count):
    """Frames with one tag and with two."""
    import socket

    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((host.interface, 0))
        for number in range(count):
            for tags in (b"\x81\x00\x20\x07", b"\x88\xa8\x20\x09\x81\x00\x00\x05"):
                raw.send(b"\xff" * 6 + b"\x02" * 6 + tags + b"\x08\x00\x45\x00" + number.to_bytes(4, "big") + bytes(60))


@pytest.mark.parametrize("queues", ["", "@0-3"])
def test_a_hosts_own_traffic(hosts, tmp_path, queues):
    """TCP, UDP and ping of both families through the captured interface, and tagged frames: tcpdump's packets."""
    a, b = hosts
    with Both(a.namespace, a.interface, tmp_path, OURS + " or vlan", queues=queues) as both:
        talk(a, b)
        send_tagged(b, 50)  # the receiving kernel strips their tags
        send_tagged(a, 50)
        ours, theirs = both.packets()
    assert len(ours) > 1000
    assert sum(packet.data[12:14] in (b"\x81\x00", b"\x88\xa8") for packet in ours) == 200
    assert alike(ours, theirs)
    assert len(both.summary["per_queue"]) == (4 if queues else 1)


def test_loopback(hosts, tmp_path):
    """On loopback each packet comes once, as tcpdump has it."""
    (a, _) = hosts
    with Both(a.namespace, "lo", tmp_path) as both:
        talk(a, a)
        ours, theirs = both.packets()
    assert len(ours) > 800
    assert alike(ours, theirs)


@pytest.mark.parametrize(("queues", "length"), [("", "262144"), ("@0-3", "60")])
def test_any(hosts, tmp_path, queues, length):
    """-i any has the packets of all interfaces under tcpdump's cooked headers, loopback's once."""
    a, b = hosts
    with Both(a.namespace, "any", tmp_path, "-s", length, OURS, queues=queues) as both:
        talk(a, b)
        talk(a, a)
        ours, theirs = both.packets()
    interfaces = {int.from_bytes(packet.data[4:8], "big") for packet in ours}
    assert len(interfaces) == 2
    assert both.summary["packets"]["filtered_out"] == 0  # the kernel's filter decided already
    assert alike([tidy(packet) for packet in ours], [tidy(packet) for packet in theirs])
    assert self_described(both.out, 276)


def tidy(packet):
    """A cooked packet without what libpcap leaves behind a short link-layer address."""
    length = packet.data[11]
    return packet._replace(data=packet.data[: 12 + length] + bytes(8 - length) + packet.data[20:])


def self_described(path, linktype):
    """The interface description of a pcapng file says the link type."""
    data = path.read_bytes()
    first = int.from_bytes(data[4:8], "little")
    return int.from_bytes(data[first + 8 : first + 10], "little") == linktype


@pytest.mark.parametrize("expression", ["tcp and ip", "icmp or vlan", "vlan 7 and ip", "udp and ip6 and greater 200"])
@pytest.mark.parametrize("length", ["262144", "40"])
def test_filter_and_snap_length(hosts, tmp_path, expression, length):
    """A filter inside the kernel lets in what tcpdump's does, also where packets are cut; long ones are kept whole."""
    a, b = hosts
    with Both(a.namespace, a.interface, tmp_path, "-s", length, expression) as both:
        talk(a, b)
        send_tagged(b, 20)
        ours, theirs = both.packets()
    assert ours
    assert alike(ours, theirs)
    assert max(len(packet.data) for packet in ours) <= int(length)
    assert both.summary["packets"]["received"] <= len(ours) + 40  # those with tags; the rest never left the kernel


def test_the_host_keeps_its_connections(hosts, tmp_path):
    """Capturing an interface with an address by --engine auto takes nothing away: the host talks on, undisturbed."""
    a, b = hosts
    out = tmp_path / "out.pcapng"
    with process.Child([*WIRECAP, "--netns", a.namespace, "-i", a.interface, "-w", str(out)]) as child:
        child.wait_for("engine packet", 120)
        for family in (INET, INET6):
            tcp(a, b, family, 3_000_000)
            tcp(b, a, family, 3_000_000)
        ended = child.end(signal.SIGINT)
    assert ended.status == 0, ended.output
    assert "0 packets dropped" in ended.output
    assert sum(packet.original for packet in read_pcapng(out)) > 12_000_000


@pytest.mark.skipif(bool(missing("iperf3")), reason="needs iperf3")
@pytest.mark.parametrize("where", ["veth", "loopback"])
def test_iperf3(hosts, tmp_path, where):
    """iperf3's streams, TCP and UDP, of both families, are packet for packet what tcpdump has, and lose none."""
    a, b = hosts if where == "veth" else (hosts[0], hosts[0])
    interface = a.interface if where == "veth" else "lo"
    with Both(a.namespace, interface, tmp_path, "-B", "65536", OURS) as both:
        for family, kind in ((INET, "-4"), (INET6, "-6")):
            for transport in ([], ["-u", "-l", "1200"]):
                with process.Child(["iperf3", kind, "-s", "-1", "--forceflush"], b.namespace) as server:
                    server.wait_for("Server listening")
                    client = ["iperf3", kind, "-c", b.address(family), "-n", "3M", "-b", "200M", *transport]
                    ended = process.run(client, a.namespace)
                    assert ended.status == 0, ended.output
        ours, theirs = both.packets()
    assert len(ours) > 5000
    assert alike(ours, theirs)


@pytest.mark.skipif(bool(missing("curl")), reason="needs curl")
def test_a_curl_download(hosts, tmp_path):
    """A file that curl fetches is in the capture, packet for packet as tcpdump has it."""
    a, b = hosts
    served = tmp_path / "served"
    served.mkdir()
    (served / "file").write_bytes(bytes(range(256)) * 4000)
    server = process.Child([sys.executable, "-u", "-m", "http.server", "8000", "-d", str(served)], b.namespace)
    with server, Both(a.namespace, a.interface, tmp_path, OURS) as both:
        server.wait_for("Serving HTTP")
        url = f"http://{b.address(INET)}:8000/file"
        assert process.run(["curl", "-sf", "-o", str(tmp_path / "got"), url], a.namespace).status == 0
        ours, theirs = both.packets()
    assert (tmp_path / "got").read_bytes() == (served / "file").read_bytes()
    assert len(ours) > 20
    assert alike(ours, theirs)
