"""The state of a link, asked for often while packets are sent: one rtnetlink request of a few microseconds.

Source: linux/rtnetlink.h, linux/if_link.h.  (pyroute2, which linux/netlink.py uses, takes milliseconds.)
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import threading
from dataclasses import dataclass

from wirecap.errors import SystemCallError
from wirecap.linux import netlink

_GET_LINK, _ERROR, _REQUEST = 18, 2, 1  # RTM_GETLINK, NLMSG_ERROR, NLM_F_REQUEST
_STATS64, _TX_DROPPED = 23, 7 * 8  # IFLA_STATS64, and where tx_dropped stands in struct rtnl_link_stats64
_UP, _LOWER_UP = 1, 1 << 16  # IFF_UP, IFF_LOWER_UP
_HEADERS = 32  # struct nlmsghdr and struct ifinfomsg


@dataclass(frozen=True)
class State:
    """up: set up by its administrator; carrier: the other end is there; dropped: packets that it did not send."""

    up: bool
    carrier: bool
    dropped: int


class Link:
    """The link of an interface of the caller's namespace, by its index: it may be renamed.  Any thread may ask."""

    def __init__(self, interface: str) -> None:
        try:
            self._index = socket.if_nametoindex(interface)
        except OSError:
            raise netlink.unknown(interface) from None
        self.interface = interface
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(5.0)
        self._asking, self._numbers = threading.Lock(), itertools.count(1)

    def state(self) -> State | None:
        """How it is now; None once the interface is gone.  Raises SystemCallError where the kernel does not say it."""
        with self._asking:
            try:
                answer = self._ask(next(self._numbers) & 0xFFFFFFFF)
            except OSError as error:
                code = error.errno or errno.ETIMEDOUT
                raise SystemCallError(f"netlink: {self.interface}: {os.strerror(code)}", code) from None
        if struct.unpack_from("H", answer, 4)[0] == _ERROR:
            code = -struct.unpack_from("i", answer, 16)[0]
            if code == errno.ENODEV:
                return None
            raise SystemCallError(f"netlink: {self.interface}: {os.strerror(code)}", code)
        flags = struct.unpack_from("I", answer, 24)[0]
        return State(bool(flags & _UP), bool(flags & _LOWER_UP), _dropped(answer))

    def _ask(self, number: int) -> bytes:
        header = struct.pack("IHHII", _HEADERS, _GET_LINK, _REQUEST, number, 0)
        self._socket.send(header + struct.pack("BxHiII", 0, 0, self._index, 0, 0))
        while True:
            answer = self._socket.recv(1 << 16)
            if struct.unpack_from("I", answer, 8)[0] == number:  # not one that came too late for its question
                return answer

    def close(self) -> None:
        self._socket.close()


def _dropped(answer: bytes) -> int:
    at = _HEADERS
    while at + 4 <= len(answer):
        size, kind = struct.unpack_from("HH", answer, at)
        if kind == _STATS64:
            return int(struct.unpack_from("Q", answer, at + 4 + _TX_DROPPED)[0])
        at += max(4, size + 3 & ~3)
    return 0
