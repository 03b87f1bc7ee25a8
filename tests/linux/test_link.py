"""The state of a link, where the kernel's answers come late or not at all."""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import closing

import pytest

from wirecap.errors import SystemCallError
from wirecap.linux.link import Link

UNKNOWN = struct.pack("IHHII BxHiII", 32, 18, 1, 0xFFFFFF, 0, 0, 0, 2**31 - 1, 0, 0)
"""RTM_GETLINK for an interface that is not there."""


def test_answer_that_came_too_late_is_skipped() -> None:
    """An answer to an earlier question says nothing of the one that was asked now."""
    with closing(Link("lo")) as link:
        link._socket.send(UNKNOWN)
        state = link.state()
        assert state
        assert state.carrier == state.up


def test_kernel_that_does_not_answer() -> None:
    """A receive buffer that is full, and a closed socket: an error that names the interface."""
    with closing(Link("lo")) as link:
        link._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(20):
            link._socket.send(UNKNOWN)
        with pytest.raises(SystemCallError, match="netlink: lo: No buffer space available") as raised:
            link.state()
        assert raised.value.errno == errno.ENOBUFS
    with pytest.raises(SystemCallError, match="netlink: lo: Bad file descriptor"):
        link.state()
