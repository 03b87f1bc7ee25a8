"""Links, addresses and routes as the kernel tells them over rtnetlink, in the calling thread's network namespace.

Only questions, and only what ``netlink`` asks: pyroute2, which can do everything, takes 0.3 s to import, and a capture
would wait for it.  Sources: rtnetlink(7), linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

from wirecap.errors import SystemCallError

_ERROR, _DONE = 2, 3  # nlmsg_type
_REQUEST, _DUMP = 0x001, 0x300  # nlmsg_flags
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_HEADER, _ATTRIBUTE, _LINK, _ADDRESS, _ROUTE, _QDISC = (
    struct.Struct(layout) for layout in ("=IHHII", "=HH", "=BxHiII", "=BBBBI", "=BBBBBBBBI", "=BxxxiIII")
)
_GET_LINK, _GET_ADDRESS, _GET_ROUTE, _GET_QDISC = 18, 22, 26, 38  # RTM_GETLINK and so on
_MOST_BYTES = 1 << 17
_NESTED = 0x3FFF  # NLA_TYPE_MASK: the others of an attribute's type are flags

# attributes of a link (IFLA_...), and those within two of them
MAC, NAME, MTU, BELOW, MASTER, STATE, INFO, PROMISCUITY, TX_QUEUES, RX_QUEUES, XDP = (
    1,
    3,
    4,
    5,
    10,
    16,
    18,
    30,
    31,
    32,
    43,
)
_EXTENSIONS, _SKIP_STATISTICS, _OTHER_NAME = 29, 8, 53
INFO_KIND = 1
XDP_NATIVE, XDP_GENERIC, XDP_OFFLOAD = 5, 6, 7
STATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")  # RFC 2863
_IFA_ADDRESS, _RTA_DST, _RTA_OIF, _TCA_KIND, _TCA_OPTIONS = 1, 1, 4, 1, 2


class Attributes(dict[int, bytes]):
    """Attributes by number, with the accessors for what may be in them."""

    @classmethod
    def of(cls, content: bytes) -> Self:
        found, at = cls(), 0
        while at + _ATTRIBUTE.size <= len(content):
            size, number = _ATTRIBUTE.unpack_from(content, at)
            if size < _ATTRIBUTE.size:
                break
            found[number & _NESTED] = content[at + _ATTRIBUTE.size : at + size]
            at += size + 3 & ~3
        return found

    def number(self, key: int) -> int:
        """A number of any size; 0 where it is missing."""
        return int.from_bytes(self.get(key, b""), "little")

    def text(self, key: int) -> str:
        return self.get(key, b"").rstrip(b"\0").decode(errors="replace")

    def inner(self, key: int) -> Attributes:
        return Attributes.of(self.get(key, b""))


class Link(NamedTuple):
    hardware: int
    """An ARPHRD_ number."""
    number: int
    """Its index."""
    flags: int
    """IFF_ flags."""
    attributes: Attributes


class Route(NamedTuple):
    kind: int
    """An RTN_ number."""
    destination: str
    """A network with its prefix length; "" for the default route."""


class Qdisc(NamedTuple):
    parent: int
    """The handle of the class that it is in; its lower half counts transmit queues from 1 below mqprio and taprio."""
    kind: str
    options: Attributes


class Netlink:
    """A socket for questions to one of netlink's families; a context manager.

    Its methods raise SystemCallError with the kernel's errno.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, kind: int, body: bytes, flags: int) -> Iterator[bytes]:
        """The bodies of the answers."""
        self._sequence += 1
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, _REQUEST | flags, self._sequence, 0) + body)
        while True:
            content = self._socket.recv(_MOST_BYTES)
            at = 0
            while at + _HEADER.size <= len(content):
                size, kind, _, sequence, _ = _HEADER.unpack_from(content, at)
                answer = content[at + _HEADER.size : at + size]
                at += size + 3 & ~3
                if sequence != self._sequence:
                    continue  # what is left of an earlier answer
                if kind == _ERROR or (kind == _DONE and len(answer) >= 4):
                    _check(answer)
                if kind in (_ERROR, _DONE):
                    return
                yield answer
                if not flags & _DUMP:
                    return


class Rtnetlink(Netlink):
    """Questions about links, addresses and routes."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)
        # The kernel filters addresses and routes by interface, so we need not.
        self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)

    def link(self, index: int = 0, name: str = "") -> Link:
        """One link, by its index or by an alternative name."""
        wanted = attribute(_OTHER_NAME, name.encode() + b"\0") if name else b""
        asked = _LINK.pack(0, 0, index, 0, 0) + _without_statistics() + wanted
        return next(map(_link, self.ask(_GET_LINK, asked, 0)))

    def links(self) -> list[Link]:
        return [_link(body) for body in self.ask(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0) + _without_statistics(), _DUMP)]

    def addresses(self, index: int) -> list[str]:
        """The addresses of an interface, with prefix length."""
        found = []
        for body in self.ask(_GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, index), _DUMP):
            family, prefix, *_ = _ADDRESS.unpack_from(body)
            attributes = Attributes.of(body[_ADDRESS.size :])
            if _IFA_ADDRESS in attributes:
                found.append(f"{socket.inet_ntop(family, attributes[_IFA_ADDRESS])}/{prefix}")
        return found

    def routes(self, index: int) -> list[Route]:
        """The routes that lead out of an interface."""
        asked = _ROUTE.pack(*[0] * 9) + attribute(_RTA_OIF, struct.pack("=I", index))
        found = []
        for body in self.ask(_GET_ROUTE, asked, _DUMP):
            family, prefix, *_, kind, _flags = _ROUTE.unpack_from(body)
            destination = Attributes.of(body[_ROUTE.size :]).get(_RTA_DST)
            if family in (socket.AF_INET, socket.AF_INET6):
                found.append(Route(kind, f"{socket.inet_ntop(family, destination)}/{prefix}" if destination else ""))
        return found

    def qdiscs(self, index: int) -> list[Qdisc]:
        """The queueing disciplines of an interface."""
        found = []
        for body in self.ask(_GET_QDISC, _QDISC.pack(0, index, 0, 0, 0), _DUMP):
            _, number, _, parent, _ = _QDISC.unpack_from(body)
            attributes = Attributes.of(body[_QDISC.size :])
            if number == index:
                found.append(Qdisc(parent, attributes.text(_TCA_KIND), attributes.inner(_TCA_OPTIONS)))
        return found


def _check(answer: bytes) -> None:
    code = -struct.unpack_from("=i", answer)[0]
    if code > 0:
        raise SystemCallError(f"netlink: {os.strerror(code)}", code)


def attribute(number: int, content: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(content)
    return _ATTRIBUTE.pack(size, number) + content + bytes(-size % 4)


def _without_statistics() -> bytes:
    return attribute(_EXTENSIONS, struct.pack("=I", _SKIP_STATISTICS))


def _link(body: bytes) -> Link:
    _, hardware, number, flags, _ = _LINK.unpack_from(body)
    return Link(hardware, number, flags, Attributes.of(body[_LINK.size :]))
