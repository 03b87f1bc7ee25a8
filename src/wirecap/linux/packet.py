"""AF_PACKET sockets with a TPACKET_V3 ring: blocks, fanout, filter, stamps.

Source: linux/if_packet.h, packet(7), Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence

from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import capabilities, ethtool
from wirecap.linux.memory import Region

SOL_PACKET = 263
RX_RING, STATISTICS, VERSION, TIMESTAMP, FANOUT = 5, 6, 10, 17, 18
TPACKET_V3 = 2
FANOUT_MODES = {"hash": 0, "cpu": 2, "rnd": 4, "qm": 5}
"""How a packet finds its queue: by its flow, the CPU that has it, at random, the NIC's own queue."""
FANOUT_UNIQUE_ID = 0x2000
MAX_MEMBERS = 256  # what a group takes where nobody asks for more, net/packet/af_packet.c
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
ETH_P_ALL = 3
SOF_TIMESTAMPING_RAW_HARDWARE, HWTSTAMP_FILTER_ALL = 1 << 6, 1  # linux/net_tstamp.h
SIOCSHWTSTAMP = 0x89B0  # linux/sockios.h
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, linux/bpf_common.h

REFUSE_ALL = [(0x06, 0, 0, 0)]  # ret #0
Instruction = tuple[int, int, int, int]


class Socket:
    """A packet socket that receives nothing before ``bind``; cooked: packets come without a link-layer header."""

    def __init__(self, cooked: bool) -> None:
        kind = socket.SOCK_DGRAM if cooked else socket.SOCK_RAW
        try:
            self._socket = socket.socket(socket.AF_PACKET, kind | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            hint = capabilities.hint(capabilities.PACKET) if error.errno == errno.EPERM else ""
            raise SystemCallError(f"opening a packet socket: {error.strerror}", error.errno or 0, hint) from None
        self.fd = self._socket.fileno()

    def ring(self, region: Region, block_bytes: int, blocks: int, retire_ms: int) -> int:
        """Make the receive ring and map it; its offset in the region.

        retire_ms: a block that holds packets is passed on after it, however full.
        """
        self._set(VERSION, struct.pack("<i", TPACKET_V3), "asking for TPACKET_V3")
        # The frame size means nothing to this version but must divide the block.
        request = struct.pack("<7I", block_bytes, blocks, block_bytes, blocks, retire_ms, 0, 0)
        size = block_bytes * blocks
        self._set(RX_RING, request, f"making a ring of {size >> 20} MiB", "lower -R or -B: the kernel has no room")
        return region.map(self.fd, 0, size, "the packet ring")

    def bind(self, ifindex: int) -> None:
        """Receive from an interface, 0 for all of them; what the filter lets through."""
        address = struct.pack("<HHiHBB8s", socket.AF_PACKET, socket.htons(ETH_P_ALL), ifindex, 0, 0, 0, b"")
        buffer = ctypes.create_string_buffer(address, len(address))
        if _libc.bind(self.fd, buffer, len(address)):
            code = ctypes.get_errno()
            raise SystemCallError(f"binding a packet socket: {os.strerror(code)}", code)

    def join(self, group: int | None, mode: str) -> int:
        """Share an interface's packets with the sockets of a fanout group; None makes a group.  The group."""
        kind = FANOUT_MODES[mode] | (FANOUT_UNIQUE_ID if group is None else 0)
        self._set(FANOUT, struct.pack("<I", (group or 0) | kind << 16), f"joining a fanout group by {mode}")
        return int(struct.unpack("<I", self._socket.getsockopt(SOL_PACKET, FANOUT, 4))[0]) & 0xFFFF

    def filter(self, program: Sequence[Instruction] | None) -> None:
        """Let in what a classic BPF program wants, None for everything; the one before is replaced at once."""
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
            raise SystemCallError(f"attaching the filter: {error.strerror}", error.errno or 0) from None

    def stamp_by_hardware(self) -> None:
        """Prefer the NIC's own stamps (its clock is not the host's)."""
        self._set(TIMESTAMP, struct.pack("<i", SOF_TIMESTAMPING_RAW_HARDWARE), "asking for hardware stamps")

    def is_bound(self) -> bool:
        """False once the interface is gone."""
        return bool(self._socket.getsockname()[0])

    def close(self) -> None:
        """Returns when no packet is under way into the socket."""
        self._socket.close()

    def _set(self, option: int, value: bytes, what: str, hint: str = "") -> None:
        try:
            self._socket.setsockopt(SOL_PACKET, option, value)
        except OSError as error:
            raise SystemCallError(f"{what}: {os.strerror(error.errno or 0)}", error.errno or 0, hint) from None


def switch_on_stamps(name: str) -> None:
    """Let a NIC stamp what it receives; UsageError where it cannot (Documentation/networking/timestamping.rst)."""
    no_clock = UsageError(
        f"{name} has no clock that stamps every packet", f"leave -j out; 'ethtool -T {name}' shows what it has"
    )
    if not ethtool.stamps_all(name):
        raise no_clock
    settings = array.array("i", [0, 0, HWTSTAMP_FILTER_ALL])  # struct hwtstamp_config: flags, sending, receiving
    request = struct.pack("16sP16x", name.encode(), settings.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        try:
            fcntl.ioctl(channel, SIOCSHWTSTAMP, request)
        except OSError as error:
            if error.errno == errno.EPERM:
                needs = capabilities.hint((*capabilities.PACKET, "CAP_NET_ADMIN"))
                raise SystemCallError(
                    f"{name}: switching its stamps on: {error.strerror}", errno.EPERM, needs
                ) from None
            raise no_clock from None


def wait_for_senders() -> None:
    """Return when every packet that was under way into any socket has arrived: closing one waits for that (RCU)."""
    Socket(cooked=False).close()


_libc = ctypes.CDLL(None, use_errno=True)
