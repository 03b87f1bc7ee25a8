"""wirecap.compat beside the packages whose interfaces it has, live: the same frames to one after the other."""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from compat_peers import FRAMES

from rig import send_one
from wirecap.linux import netns

PROGRAM = Path(__file__).with_name("compat_peers.py")
LIMIT_S = 100
LOOK_S = 5
"""After this time a frame is taken for lost, as a kernel loses one whose backlog is full of other tests' packets."""


def udp(number: int) -> bytes:
    """A datagram to port 7 or 8."""
    body = struct.pack("!Q", number) + bytes(number)
    segment = struct.pack("!HHHH", 1000 + number, 7 + number % 2, 8 + len(body), 0) + body
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), number, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return bytes.fromhex("020000000002020000000001") + b"\x08\0" + ip + segment


class Link:
    """A NIC in a namespace, with the socket at its other end."""

    def __init__(self, testbed: Any) -> None:
        made = testbed(queues=1, gro=True)
        self.namespace, self.inside = made.name, made.nics[0].inside
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((made.nics[0].outside, 0x88B5))
        self.socket.settimeout(LIMIT_S)

    def send(self) -> None:
        for number in range(FRAMES):
            send_one(self.socket, udp(number))

    def arrives(self, timeout_s: float = LOOK_S) -> bytes | None:
        """The next frame from inside."""
        self.socket.settimeout(timeout_s)
        try:
            return self.socket.recv(2000)
        except TimeoutError:
            return None

    def facts(self, whose: str, name: str) -> Any:
        """What the program in the namespace found, with the frame that it sent."""
        for _ in range(5):
            found = self._facts(whose, name)
            if found[1]:
                break
        return found

    def _facts(self, whose: str, name: str) -> Any:
        command = ["ip", "netns", "exec", self.namespace, sys.executable, str(PROGRAM), whose, name, self.inside]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ) as child:
            watch = threading.Timer(LIMIT_S, child.kill)
            watch.start()
            assert child.stdout
            try:
                for line in child.stdout:
                    if line.startswith("RESULT"):
                        return json.loads(line[7:]), self.arrives()
                    self.send()
            finally:
                watch.cancel()
                child.kill()
        pytest.fail(f"{whose} ended early")


@pytest.fixture
def link(testbed: Any) -> Any:
    made = Link(testbed)
    yield made
    made.socket.close()


@pytest.mark.live
@pytest.mark.parametrize(("name", "package"), [("pcapy", "pcapy-ng"), ("pcap", "pypcap")])
def test_live_captures_give_the_same(link: Link, name: str, package: str) -> None:
    """Packets, snap length, filter, settings, errors, counters and sent frames are those of the package."""
    pytest.importorskip(name, reason=f"needs {package}: pip install {package}")
    assert link.facts("ours", name) == link.facts("theirs", name)


@pytest.mark.live
def test_scapy_sniffs_and_sends(link: Link) -> None:
    """sniff, sendp and srp1 use the engine after use_wirecap(), and get what was sent."""
    pytest.importorskip("scapy", reason="needs scapy: pip install scapy")
    logging.getLogger("scapy").setLevel(logging.ERROR)
    netns.call(link.namespace, _sniff_and_send, link)


def _sniff_and_send(link: Link) -> None:
    from scapy.config import conf
    from scapy.layers.l2 import ARP, Ether
    from scapy.sendrecv import sendp, sniff, srp1

    from wirecap.compat.scapy import WirecapListenSocket, use_wirecap

    conf.ifaces.reload()
    use_wirecap()
    try:
        assert conf.L2listen is WirecapListenSocket
        found = sniff(iface=link.inside, count=FRAMES // 2, timeout=LIMIT_S, filter="udp port 8", quiet=True,
                      started_callback=link.send)  # fmt: skip
        assert [bytes(one) for one in found] == [udp(number) for number in range(1, FRAMES, 2)]
        assert all(abs(first.time - second.time) < LIMIT_S for first, second in itertools.pairwise(found))
        near, far = "02:00:00:00:00:02", "02:00:00:00:00:01"
        hello = Ether(src=near, dst=far, type=0x88B5) / b"hello"
        for _ in range(5):
            sendp(hello, iface=link.inside, verbose=0)
            if arrived := link.arrives():
                break
        assert arrived == bytes(hello)

        answered = threading.Event()

        def answer() -> None:
            told = ARP(op=2, hwsrc=far, psrc="10.0.0.9")
            while not answered.is_set():  # scapy asks again where a frame got lost
                if asked := link.arrives(0.1):
                    send_one(link.socket, bytes(Ether(dst=Ether(asked).src, src=far) / told))

        link.socket.bind((link.socket.getsockname()[0], 0x0806))
        answering = threading.Thread(target=answer)
        answering.start()
        question = Ether(src=near, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=near, psrc="10.0.0.2", pdst="10.0.0.9")
        try:
            told = srp1(question, iface=link.inside, timeout=LOOK_S, retry=5, verbose=0)
        finally:
            answered.set()
            answering.join()
        assert told is not None
        assert told[ARP].psrc == "10.0.0.9"
    finally:
        use_wirecap(False)


@pytest.mark.live
@pytest.mark.parametrize(
    "opened", ["pcapy as m; p = m.open_live(n, 65535, 1, 100)", "pcap as m; p = m.pcap(n, timeout_ms=100)"]
)
def test_a_handle_that_is_open_at_the_end_does_not_keep_the_program(link: Link, opened: str) -> None:
    """Programs leave their handle in a global variable: they end as with the package itself, and say nothing."""
    program = f"import sys; n = sys.argv[1]; from wirecap.compat import {opened}"
    command = ["ip", "netns", "exec", link.namespace, sys.executable, "-c", program, link.inside]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.live
def test_an_interface_that_goes_away_ends_the_loop(link: Link) -> None:
    """The callback has had a packet; then the loop raises PcapError, and so does whoever asks afterwards."""
    program = """
import subprocess, sys
from wirecap.compat import pcapy
reader, name = pcapy.open_live(sys.argv[1], 65535, 1, 100), sys.argv[1]
print("READY", flush=True)
try:
    reader.loop(-1, lambda header, data: subprocess.run(["ip", "link", "del", name]))
except pcapy.PcapError as error:
    print(error)
try:
    while reader.next():
        pass
except pcapy.PcapError as error:
    print(error)
reader.close()
"""
    command = ["ip", "netns", "exec", link.namespace, sys.executable, "-c", program, link.inside]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        watch = threading.Timer(LIMIT_S, child.kill)
        watch.start()
        assert child.stdout
        assert child.stdout.readline() == "READY\n"
        send_one(link.socket, udp(0))
        told = child.stdout.read().splitlines()
        watch.cancel()
    assert [line.partition(" (")[0] for line in told] == [f"{link.inside} is gone"] * 2
