"""Promiscuous mode for as long as a socket is open.  Source: packet(7), PACKET_ADD_MEMBERSHIP."""

from __future__ import annotations

import socket
import struct

SOL_PACKET, ADD_MEMBERSHIP, MR_PROMISC = 263, 1, 1


class Promiscuous:
    """Keeps an interface promiscuous until ``close``, or the end of the process."""

    def __init__(self, ifindex: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0 receives nothing
        self._socket.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, struct.pack("<iHH8s", ifindex, MR_PROMISC, 0, b""))

    def close(self) -> None:
        self._socket.close()
