"""AF_PACKET sockets: a TPACKET_V3 ring to receive (blocks, fanout, filter, timestamps) and a TPACKET_V2 ring to send.

Source: linux/if_packet.h, packet(7), Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Sequence

from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import capabilities, ethtool
from wirecap.linux.af_xdp import Region

SOL_PACKET, ADD_MEMBERSHIP, MR_PROMISC = 263, 1, 1


class Promiscuous:
    """Keeps an interface promiscuous until ``close`` or the end of the process."""

    def __init__(self, ifindex: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0 receives nothing
        self._socket.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, struct.pack("<iHH8s", ifindex, MR_PROMISC, 0, b""))

    def close(self) -> None:
        self._socket.close()


RX_RING, STATISTICS, VERSION, TIMESTAMP, FANOUT = 5, 6, 10, 17, 18
TPACKET_V3 = 2
FANOUT_MODES = {"hash": 0, "cpu": 2, "rnd": 4, "qm": 5}
"""How a packet's queue is chosen: by its flow, by the CPU that handles it, at random, or by the NIC's own queue."""
FANOUT_UNIQUE_ID, FANOUT_DEFRAG = 0x2000, 0x8000
MAX_MEMBERS = 256  # a group's default limit, net/packet/af_packet.c
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
ETH_P_ALL = 3

REFUSE_ALL = [(0x06, 0, 0, 0)]  # ret #0
Instruction = tuple[int, int, int, int]


class Socket:
    """A packet socket that receives nothing before ``bind``; cooked: packets arrive without a link-layer header."""

    def __init__(self, cooked: bool) -> None:
        kind = socket.SOCK_DGRAM if cooked else socket.SOCK_RAW
        try:
            self._socket = socket.socket(socket.AF_PACKET, kind | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            hint = capabilities.hint(capabilities.PACKET) if error.errno == errno.EPERM else ""
            raise SystemCallError(f"cannot open a packet socket: {error.strerror}", error.errno or 0, hint) from None
        self.fd = self._socket.fileno()

    def ring(self, region: Region, block_bytes: int, blocks: int, retire_ms: int) -> int:
        """Create and map the receive ring; returns its offset in the region.

        retire_ms: a block that holds packets is passed on after this time, however full it is.
        """
        self._set(VERSION, struct.pack("<i", TPACKET_V3), "cannot use TPACKET_V3")
        # This version ignores the frame size, but it must divide the block.
        request = struct.pack("<7I", block_bytes, blocks, block_bytes, blocks, retire_ms, 0, 0)
        size = block_bytes * blocks
        self._set(RX_RING, request, f"cannot create a packet ring of {size >> 20} MiB", "use a smaller -R or -B")
        return region.map(self.fd, 0, size, "the packet ring")

    def bind(self, ifindex: int) -> None:
        """Start receiving what the filter accepts, from one interface or (0) from all."""
        address = struct.pack("<HHiHBB8s", socket.AF_PACKET, socket.htons(ETH_P_ALL), ifindex, 0, 0, 0, b"")
        buffer = ctypes.create_string_buffer(address, len(address))
        if _libc.bind(self.fd, buffer, len(address)):
            code = ctypes.get_errno()
            raise SystemCallError(f"cannot bind a packet socket: {os.strerror(code)}", code)

    def join(self, group: int | None, mode: str, defrag: bool = False) -> int:
        """Share an interface's packets with the sockets of a fanout group (None: a new one); returns the group.

        defrag: the kernel puts IPv4 datagrams together before it chooses a socket.  All members must ask for it.
        """
        kind = FANOUT_MODES[mode] | (FANOUT_UNIQUE_ID if group is None else 0) | (FANOUT_DEFRAG if defrag else 0)
        self._set(FANOUT, struct.pack("<I", (group or 0) | kind << 16), f"cannot join a fanout group by {mode}")
        return int(struct.unpack("<I", self._socket.getsockopt(SOL_PACKET, FANOUT, 4))[0]) & 0xFFFF

    def filter(self, program: Sequence[Instruction] | None) -> None:
        """Accept what a classic BPF program accepts (None: everything); it replaces the previous one at once."""
        if program is None:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
            return
        code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
        buffer = ctypes.create_string_buffer(code, len(code))
        argument = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, argument)
        except OSError as error:
            raise SystemCallError(f"cannot attach the filter: {error.strerror}", error.errno or 0) from None

    def timestamp_by_hardware(self) -> None:
        """Prefer the NIC's own timestamps (its clock is not the host's)."""
        self._set(TIMESTAMP, struct.pack("<i", ethtool.RAW_HARDWARE), "cannot use hardware timestamps")

    def bind_again(self, ifindex: int) -> None:
        """Go on with an interface that has come back; only a socket outside of fanout groups can."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # clears what the loss of the other left
        self.bind(ifindex)

    def is_bound(self) -> bool:
        """False once the interface is gone."""
        return bool(self._socket.getsockname()[0])

    def close(self) -> None:
        """Close the socket; returns once no packet is on its way into it."""
        self._socket.close()

    def _set(self, option: int, value: bytes, what: str, hint: str = "") -> None:
        try:
            self._socket.setsockopt(SOL_PACKET, option, value)
        except OSError as error:
            raise SystemCallError(f"{what}: {os.strerror(error.errno or 0)}", error.errno or 0, hint) from None


def switch_on_timestamps(name: str) -> None:
    """Have a NIC timestamp what it receives; UsageError if it cannot (Documentation/networking/timestamping.rst)."""
    no_clock = UsageError(
        f"{name} cannot timestamp every packet", f"leave -j out; 'ethtool -T {name}' shows what it can timestamp"
    )
    if not ethtool.timestamps_all(name):
        raise no_clock
    try:
        ethtool.set_timestamps(name, sending=0, receiving=ethtool.RECEIVING_ALL)
    except OSError as error:
        if error.errno == errno.EPERM:
            needs = capabilities.hint((*capabilities.PACKET, "CAP_NET_ADMIN"))
            raise SystemCallError(
                f"{name}: cannot switch on timestamps: {error.strerror}", errno.EPERM, needs
            ) from None
        raise no_clock from None


def wait_for_senders() -> None:
    """Return once every packet on its way into any socket has arrived: closing a socket waits for that (RCU)."""
    Socket(cooked=False).close()


_libc = ctypes.CDLL(None, use_errno=True)


PACKET_TX_RING, PACKET_VERSION, PACKET_QDISC_BYPASS = 13, 10, 20
TPACKET_V2 = 1
HEADER_BYTES = 32
"""sizeof(struct tpacket2_hdr), aligned; the frame's bytes follow (TPACKET2_HDRLEN minus struct sockaddr_ll)."""


class TransmitRing:
    """A ring of ``slots`` frames of ``slot_bytes`` (powers of two) for an interface, mapped into ``region``.

    A slot is a struct tpacket2_hdr (status, length: uint32 each) with the frame at offset HEADER_BYTES; the first one
    is at byte ``base`` of the region.
    """

    def __init__(self, region: Region, ifindex: int, slots: int, slot_bytes: int) -> None:
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # receives nothing
        except OSError as error:
            hint = "run as root, or grant CAP_NET_RAW" if error.errno == errno.EPERM else ""
            raise SystemCallError(
                f"cannot open a packet socket: {os.strerror(error.errno or 0)}", error.errno or 0, hint
            ) from None
        self.fd = self._socket.fileno()
        try:
            self.base = self._create(region, ifindex, slots, slot_bytes)
        except (OSError, SystemCallError) as error:
            self._socket.close()
            raise SystemCallError(
                f"cannot create a transmit ring of {slots} frames: {os.strerror(error.errno or 0)}", error.errno or 0
            ) from None

    def _create(self, region: Region, ifindex: int, slots: int, slot_bytes: int) -> int:
        self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)  # a queueing discipline drops silently
        block = max(slot_bytes, 1 << 16)
        request = struct.pack("4I", block, slots * slot_bytes // block, slot_bytes, slots)
        self._socket.setsockopt(SOL_PACKET, PACKET_TX_RING, request)
        base = region.map(self.fd, 0, slots * slot_bytes, "the transmit ring")
        self._socket.bind((socket.if_indextoname(ifindex), 0))  # by index: the interface may have been renamed
        return base

    def close(self) -> None:
        self._socket.close()
