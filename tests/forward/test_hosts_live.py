"""``wirecap forward`` between two hosts whose kernels leave checksums to their devices, as they do over veth."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from forward_rig import Running
from hosts import INET, INET6, Host, apart, ping, tcp, udp, with_vlan
from rig import until
from wirecap.lab.hosts import Hosts

__all__ = ["apart"]

pytestmark = pytest.mark.live


def forward(between: Hosts, *options: str) -> Running:
    return Running(between, *between.ends, "--both", *options)


def counter(host: Host, name: str) -> int:
    """A counter of a host's kernel (proc_net_snmp)."""
    command = ["ip", "netns", "exec", host.namespace, "cat", "/proc/net/snmp"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    names, values = ([line.split() for line in lines if line.startswith("Udp:")])[:2]
    return int(values[names.index(name)])


def talk(client: Host, server: Host) -> None:
    for family in (INET, INET6):
        ping(client, server, family, count=2)
        udp(client, server, family, count=20, size=301)
        tcp(client, server, family)


@pytest.mark.parametrize("handler", ["", "python"])
def test_hosts_reach_each_other(apart, tmp_path, handler):
    """TCP and UDP over IPv4 and IPv6, with the offloads that the kernel sets."""
    row = []
    if handler:
        (tmp_path / "looks.py").write_text("import wirecap\n@wirecap.chunk_handler\ndef looks(chunk): ...\n")
        row = ["--handler", f"{tmp_path}/looks.py:looks"]
    between, one, other = apart
    with forward(between, *row) as running:
        talk(one, other)
        summary = running.end()
    assert summary["packets"]["drops"] == {}
    assert summary["packets"]["checksums_finished"] > 2 * (2 * 20 + 2 * 200_000 // 1448)


def test_hosts_reach_each_other_in_a_vlan(apart):
    """The same behind VLAN tags."""
    between, one, other = apart
    one, other = with_vlan(one), with_vlan(other)
    with forward(between) as running:
        talk(one, other)
        assert running.end()["packets"]["checksums_finished"] > 2 * 2 * 20


def test_left_alone_they_are_dropped_and_that_is_said(apart):
    """With --checksums leave a datagram arrives as it left, its receiver drops it, and a line says so beforehand."""
    between, one, other = apart
    with forward(between, "--checksums", "leave") as running, one.socket(INET, socket.SOCK_DGRAM) as sender:
        running.child.wait_for("unfinished checksums", 60)
        ping(one, other)
        sender.sendto(bytes(100), (other.address(INET), 9))
        until(lambda: counter(other, "InCsumErrors") == 1)
        assert running.end()["packets"]["checksums_finished"] == 0


def test_doctor_tells_of_unfinished_checksums(apart):
    """A port that gets packets from a stack on this machine is named, with the command for what is not finished."""
    command = [sys.executable, "-m", "wirecap", "doctor", "--netns", apart[0].name]
    shown = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100).stdout
    assert f"{apart[0].ends[0]} checksums" in shown
    assert "ethtool -K INTERFACE tx off" in shown
