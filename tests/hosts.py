"""Two hosts that talk: namespaces with addresses of both families, joined by a veth pair or by what is tested."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from wirecap.errors import UsageError
from wirecap.lab import hosts as lab
from wirecap.linux import ethtool, netns

_serial = itertools.count()
INET, INET6 = socket.AF_INET, socket.AF_INET6
VLAN = 7
AGAIN_S, TRIES = 5.0, 10
"""The kernel drops packets where its queues are full of other tests' packets: what is not answered is sent again."""


@dataclass(frozen=True)
class Host:
    """A namespace with one interface."""

    namespace: str
    interface: str
    number: int
    net: int = 0
    """1 in the VLAN."""

    def address(self, family: int) -> str:
        return f"10.99.{self.net}.{self.number}" if family == INET else f"fd99:{self.net}::{self.number}"

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return netns.call(self.namespace, socket.socket, family, kind, protocol)


def make(name: str, queues: int = 1) -> tuple[Host, Host]:
    from pyroute2 import NetNS

    hosts = Host(f"{name}a", f"{name}a", 1), Host(f"{name}b", f"{name}b", 2)
    for host in hosts:
        netns.create(host.namespace)
    near, far = hosts
    shape = {"num_rx_queues": queues, "num_tx_queues": queues}
    with netns_file(far.namespace) as descriptor, NetNS(near.namespace) as route:
        peer = {"ifname": far.interface, "net_ns_fd": descriptor, **shape}
        route.link("add", ifname=near.interface, kind="veth", peer=peer, **shape)
    for host in hosts:
        with NetNS(host.namespace) as route:
            route.link("set", index=1, state="up")
            (index,) = route.link_lookup(ifname=host.interface)
            route.link("set", index=index, state="up")
            route.addr("add", index=index, address=host.address(INET), prefixlen=24)
            route.addr("add", index=index, address=host.address(INET6), prefixlen=64, flags=2)  # IFA_F_NODAD
    return hosts


@contextlib.contextmanager
def netns_file(name: str) -> Iterator[int]:
    descriptor = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts; removed after the test."""
    name = f"wh{os.getpid()}{next(_serial)}"
    try:
        yield make(name)
    finally:
        for end in "ab":
            with contextlib.suppress(UsageError):
                netns.delete(name + end)


@pytest.fixture
def apart() -> Iterator[tuple[lab.Hosts, Host, Host]]:
    """Two hosts and the namespace between them, for what is to join them; removed after the test."""
    made = lab.up(f"wh{os.getpid()}{next(_serial)}")
    try:
        yield made, *(Host(name, name, number) for number, name in enumerate(made.namespaces, 1))
    finally:
        lab.down(made.name)


def with_vlan(host: Host) -> Host:
    """The host in a VLAN on its interface.  Its tags are in the packets, as AF_XDP would not see them otherwise."""
    from pyroute2 import NetlinkError, NetNS

    netns.call(host.namespace, ethtool.set_features, host.interface, {"tx-vlan-hw-insert": False})
    inner = replace(host, interface=f"{host.interface}.{VLAN}", net=1)
    with NetNS(host.namespace) as route:
        (below,) = route.link_lookup(ifname=host.interface)
        try:
            route.link("add", ifname=inner.interface, kind="vlan", link=below, vlan_id=VLAN)
        except NetlinkError as error:
            pytest.skip(f"needs VLAN interfaces: {error}")
        (index,) = route.link_lookup(ifname=inner.interface)
        route.link("set", index=index, state="up")
        route.addr("add", index=index, address=inner.address(INET), prefixlen=24)
        route.addr("add", index=index, address=inner.address(INET6), prefixlen=64, flags=2)  # IFA_F_NODAD
    return inner


def tcp(client: Host, server: Host, family: int = INET, size: int = 200_000) -> None:
    """A TCP connection: so many bytes there, and the same back."""
    with server.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((server.address(family), 0))
        listener.listen()
        thread = threading.Thread(target=_echo, args=(listener, size))
        thread.start()
        with client.socket(family, socket.SOCK_STREAM) as stream:
            stream.settimeout(60)
            stream.connect((server.address(family), listener.getsockname()[1]))
            payload = os.urandom(size)
            sender = threading.Thread(target=stream.sendall, args=(payload,))
            sender.start()
            assert _read(stream, size) == payload
            sender.join()
        thread.join()


def _echo(listener: socket.socket, size: int) -> None:
    stream, _ = listener.accept()
    with stream:
        stream.settimeout(60)
        done = 0
        while done < size:
            data = stream.recv(65536)
            stream.sendall(data)
            done += len(data)


def _read(stream: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        data = stream.recv(65536)
        assert data
        parts += data
    return parts


def udp(client: Host, server: Host, family: int = INET, count: int = 200, size: int = 300) -> None:
    """Datagrams there, each answered."""
    with server.socket(family, socket.SOCK_DGRAM) as one, client.socket(family, socket.SOCK_DGRAM) as other:
        one.bind((server.address(family), 0))
        one.settimeout(AGAIN_S)
        other.settimeout(AGAIN_S)
        for number in range(count):
            sent = number.to_bytes(4, "big") + bytes(size - 4)
            for _ in range(TRIES):
                other.sendto(sent, one.getsockname()[:2])
                with contextlib.suppress(TimeoutError):
                    data, sender = one.recvfrom(65536)
                    while data != sent:  # one that was sent again, and was only late
                        data, sender = one.recvfrom(65536)
                    one.sendto(data, sender[:2])
                    while other.recv(65536) != sent:
                        pass
                    break
            else:
                raise AssertionError(f"datagram {number} is not answered")


def ping(client: Host, server: Host, family: int = INET, count: int = 20, size: int = 56) -> None:
    """Echo requests, answered by the other host's kernel (RFC 792, RFC 4443)."""
    protocol, request, reply = (1, 8, 0) if family == INET else (58, 128, 129)
    with client.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(AGAIN_S)
        for number in range(count):
            message = struct.pack("!BBHHH", request, 0, 0, os.getpid() & 0xFFFF, number) + bytes(size)
            if family == INET:
                message = message[:2] + _checksum(message) + message[4:]
            answered = False
            for _ in range(TRIES):
                raw.sendto(message, (server.address(family), 0))
                with contextlib.suppress(TimeoutError):
                    while not answered:
                        answer = raw.recv(65536)
                        answer = answer[20:] if family == INET else answer
                        answered = answer[0] == reply and answer[6:8] == message[6:8]
                if answered:
                    break
            assert answered, f"request {number} is not answered"


def _checksum(message: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
