"""An AF_PACKET transmit ring, TPACKET_V2.  Source: linux/if_packet.h, Documentation/networking/packet_mmap.rst."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError

SOL_PACKET = 263
PACKET_TX_RING, PACKET_VERSION, PACKET_QDISC_BYPASS = 13, 10, 20
TPACKET_V2 = 1
HEADER_BYTES = 32
"""sizeof(struct tpacket2_hdr), aligned: a frame's octets follow (TPACKET2_HDRLEN less struct sockaddr_ll)."""


class TransmitRing:
    """``slots`` frames of ``slot_bytes`` (powers of two) for an interface: ``octets`` is uint8, mapped shared.

    A slot is struct tpacket2_hdr (status, length: uint32 each) and, HEADER_BYTES on, the frame.
    """

    def __init__(self, ifindex: int, slots: int, slot_bytes: int) -> None:
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # receives nothing
        except OSError as error:
            hint = "run as root, or grant CAP_NET_RAW" if error.errno == errno.EPERM else ""
            raise SystemCallError(
                f"opening a packet socket: {os.strerror(error.errno or 0)}", error.errno or 0, hint
            ) from None
        try:
            self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)  # a queueing discipline drops without a word
            block = max(slot_bytes, 1 << 16)
            request = struct.pack("4I", block, slots * slot_bytes // block, slot_bytes, slots)
            self._socket.setsockopt(SOL_PACKET, PACKET_TX_RING, request)
            self._area = mmap.mmap(self._socket.fileno(), slots * slot_bytes, mmap.MAP_SHARED)
            self._bind(ifindex)
        except OSError as error:
            self._socket.close()
            raise SystemCallError(
                f"making a transmit ring of {slots} frames: {os.strerror(error.errno or 0)}", error.errno or 0
            ) from None
        self.octets: NDArray[np.uint8] = np.frombuffer(self._area, np.uint8)
        self.fd = self._socket.fileno()

    def _bind(self, ifindex: int) -> None:
        """By index: the interface may have been renamed."""
        self._socket.bind((socket.if_indextoname(ifindex), 0))

    def send_error(self) -> int:
        """Ask the kernel to send what is in the ring; 0, or the errno with which it refuses."""
        try:
            self._socket.send(b"", socket.MSG_DONTWAIT)
        except OSError as error:
            return error.errno or 0
        return 0

    def close(self) -> None:
        self._socket.close()
