"""What ethtool reads and sets, by its ioctl (linux/ethtool.h): driver, queues, offloads; the kind of a link.

pyroute2's version has no driver names, and fails if any one of the offloads cannot be switched.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from wirecap.errors import SystemCallError

NAME_BYTES = 15  # IFNAMSIZ minus the final zero, linux/if.h
SIOCETHTOOL, SIOCGIFHWADDR, SIOCSHWTSTAMP, SIOCGHWTSTAMP = 0x8946, 0x8927, 0x89B0, 0x89B1  # linux/sockios.h
GSET, GDRVINFO, GCOALESCE, SCOALESCE, GRINGPARAM, SRINGPARAM = 0x01, 0x03, 0x0E, 0x0F, 0x10, 0x11
GSTRINGS, GSTATS, GSSET_INFO, GRXFHINDIR = 0x1B, 0x1D, 0x37, 0x38
GFEATURES, SFEATURES, GCHANNELS, SCHANNELS, GET_TS_INFO = 0x3A, 0x3B, 0x3C, 0x3D, 0x41
RAW_HARDWARE = 1 << 6  # SOF_TIMESTAMPING_: linux/net_tstamp.h, as the next
SENDING_ON, RECEIVING_ALL = 1, 1  # HWTSTAMP_TX_ON, HWTSTAMP_FILTER_ALL
SS_STATS, SS_FEATURES = 1, 4  # enum ethtool_stringset
STRING_BYTES = 32  # ETH_GSTRING_LEN
_MORE_COUNTERS = 8192
"""Room for those of queues that come between two questions: the kernel writes all, however many were asked for."""

SEGMENTS_OFF = "tso off gso off"
"""The command's words for a sender that makes packets of the MTU's size by itself."""

MERGING_LESS = "lower what offloads merge (ip link set INTERFACE gso_max_size 65536 gro_max_size 65536)"
"""For packets that no engine behind XDP takes."""


def _ask(name: str, request: bytes, channel: socket.socket | None = None, call: int = SIOCETHTOOL) -> bytes:
    """Issue one ethtool command, or another call; the kernel overwrites the request with its answer.  Raises OSError.

    channel: any socket of the interface's network namespace; None for the calling thread's.
    """
    buffer = array.array("B", request)
    address, _ = buffer.buffer_info()
    with contextlib.ExitStack() as stack:
        if channel is None:
            channel = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        fcntl.ioctl(channel, call, struct.pack("16sP16x", name.encode(), address))
    return buffer.tobytes()


def driver(name: str) -> str:
    """The driver's name; '' if the interface has none."""
    try:
        answer = _ask(name, struct.pack("I192x", GDRVINFO))
    except OSError:
        return ""
    return answer[4:36].split(b"\0")[0].decode(errors="replace")


def bus(name: str) -> str:
    """Where the device is, as its driver tells: ``0000:03:00.0``, or '' for one that is nowhere."""
    try:
        answer = _ask(name, struct.pack("I192x", GDRVINFO))  # struct ethtool_drvinfo
    except OSError:
        return ""
    found = answer[100:132].split(b"\0")[0].decode(errors="replace")
    return "" if found in ("N/A", "tap", "tun") else found


def speed_bps(name: str) -> int:
    """Bits per second of the link; 0 if the driver does not say."""
    try:
        answer = _ask(name, struct.pack("I40x", GSET))  # struct ethtool_cmd
    except OSError:
        return 0
    low, high = struct.unpack_from("H", answer, 12)[0], struct.unpack_from("H", answer, 28)[0]
    mega = high << 16 | low
    return 0 if mega in (0, 0xFFFF, 0xFFFFFFFF) else mega * 10**6


def hardware(name: str) -> int:
    """The kind of link, an ARPHRD_ number (linux/if_arp.h), without rtnetlink.  Raises OSError if it is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        answer = fcntl.ioctl(
            channel, SIOCGIFHWADDR, struct.pack("16s24x", name.encode(errors="surrogateescape")[:NAME_BYTES])
        )
    return int(struct.unpack_from("H", answer, 16)[0])


def channels(name: str, channel: socket.socket | None = None) -> tuple[int, int] | None:
    """Receive and transmit queues in use; None if the driver does not say."""
    try:
        answer = _ask(name, struct.pack("9I", GCHANNELS, *[0] * 8), channel)
    except OSError:
        return None
    _, _, _, _, _, rx, tx, _, combined = struct.unpack("9I", answer)
    return (rx + combined, tx + combined) if rx + combined else None


def most_channels(name: str) -> tuple[int, int, str] | None:
    """Receive queues in use, their maximum, and what ethtool -L calls them; None if the driver does not say."""
    try:
        answer = _ask(name, struct.pack("9I", GCHANNELS, *[0] * 8))
    except OSError:
        return None
    _, most_rx, _, _, most_combined, rx, _, _, combined = struct.unpack("9I", answer)
    if most_combined:
        return combined, most_combined, "combined"
    return (rx, most_rx, "rx") if most_rx else None


def most_descriptors(name: str) -> tuple[int, int] | None:
    """Descriptors of a receive ring now, and at most; None if the driver does not say."""
    try:
        answer = _ask(name, struct.pack("I32x", GRINGPARAM))  # struct ethtool_ringparam
    except OSError:
        return None
    _, most, _, _, _, now, _, _, _ = struct.unpack("9I", answer)
    return (now, most) if most else None


def set_channels(name: str, kind: str, count: int) -> None:
    """Use so many queues of a kind: rx, tx or combined.  Raises OSError."""
    answer = bytearray(_ask(name, struct.pack("9I", GCHANNELS, *[0] * 8)))
    struct.pack_into("I", answer, 0, SCHANNELS)
    struct.pack_into("I", answer, {"rx": 20, "tx": 24, "combined": 32}[kind], count)
    _ask(name, bytes(answer))


def set_descriptors(name: str, count: int) -> None:
    """Make receive rings of so many descriptors; the driver may round.  Raises OSError."""
    answer = bytearray(_ask(name, struct.pack("I32x", GRINGPARAM)))
    struct.pack_into("I", answer, 0, SRINGPARAM)
    struct.pack_into("I", answer, 20, count)
    _ask(name, bytes(answer))


@dataclass(frozen=True)
class Coalescing:
    """When a NIC interrupts: so many us after a packet, or after so many; whether it adapts the time itself."""

    usecs: int
    frames: int
    adaptive: bool


def coalescing(name: str) -> Coalescing | None:
    """Of received packets; None if the driver does not say."""
    try:
        answer = _ask(name, struct.pack("I88x", GCOALESCE))  # struct ethtool_coalesce
    except OSError:
        return None
    words = struct.unpack("23I", answer)
    return Coalescing(words[1], words[2], bool(words[10]))


def set_coalescing(name: str, wanted: Coalescing) -> None:
    """Raises OSError."""
    words = list(struct.unpack("23I", _ask(name, struct.pack("I88x", GCOALESCE))))
    words[0], words[1], words[2], words[10] = SCOALESCE, wanted.usecs, wanted.frames, int(wanted.adaptive)
    _ask(name, struct.pack("23I", *words))


def indirection(name: str) -> tuple[int, ...]:
    """The receive queue for each value of the RSS hash; empty if the driver does not say."""
    try:
        size = struct.unpack_from("I", _ask(name, struct.pack("2I", GRXFHINDIR, 0)), 4)[0]
        answer = _ask(name, struct.pack(f"{2 + size}I", GRXFHINDIR, size, *[0] * size))
    except OSError:
        return ()
    return struct.unpack_from(f"{size}I", answer, 8)


def timestamps_all(name: str) -> bool:
    """Whether the NIC can timestamp every packet that it receives."""
    try:
        answer = _ask(name, struct.pack("I40x", GET_TS_INFO))  # struct ethtool_ts_info
    except OSError:
        return False
    _, timestamping, _, _, _, _, _, receiving = struct.unpack_from("2Ii5I", answer)
    return bool(timestamping & RAW_HARDWARE and receiving & 1 << RECEIVING_ALL)


def set_timestamps(name: str, *, sending: int | None = None, receiving: int | None = None) -> None:
    """Have a NIC timestamp what it sends or receives; None leaves that as it is.  Raises OSError."""
    flags = 0
    if sending is None or receiving is None:
        flags, *now = struct.unpack("3i", _ask(name, bytes(12), call=SIOCGHWTSTAMP))  # struct hwtstamp_config
        sending, receiving = (
            new if new is not None else old for new, old in zip((sending, receiving), now, strict=True)
        )
    _ask(name, struct.pack("3i", flags, sending, receiving), call=SIOCSHWTSTAMP)


def clock(name: str) -> int:
    """The number of the NIC's own clock, /dev/ptpN; -1 if it has none or the driver does not say."""
    try:
        answer = _ask(name, struct.pack("I40x", GET_TS_INFO))
    except OSError:
        return -1
    return int(struct.unpack_from("i", answer, 8)[0])


def statistics(name: str, channel: socket.socket | None = None) -> dict[str, int]:
    """The driver's own counters by name, added up where queues have the same; empty if it has none."""
    try:
        names = _strings(name, SS_STATS, channel)
        room = len(names) + _MORE_COUNTERS
        answer = _ask(name, struct.pack("2I", GSTATS, len(names)) + bytes(8 * room), channel)
    except OSError:
        return {}
    if struct.unpack_from("I", answer, 4)[0] != len(names):
        return {}
    counters: dict[str, int] = {}
    for text, count in zip(names, struct.unpack_from(f"{len(names)}Q", answer, 8), strict=True):
        counters[text] = counters.get(text, 0) + count
    return counters


def features(name: str) -> dict[str, bool]:
    """Whether each offload is on, by the kernel's name for it (``rx-gro``, ``tx-checksum-ip-generic``, ...)."""
    names = _strings(name, SS_FEATURES)
    blocks = _feature_blocks(name, len(names))
    return {text: bool(blocks[bit // 32][2] >> bit % 32 & 1) for bit, text in enumerate(names) if text}


def strips_tags(name: str) -> bool:
    """Whether the NIC may strip VLAN tags from packets and pass them separately, where XDP does not see them."""
    try:
        on = features(name)
    except OSError:
        return False
    return any(on.get(feature, False) for feature in ("rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"))


def set_features(name: str, wanted: dict[str, bool]) -> None:
    """Switch offloads on or off; ones that the interface lacks or cannot change are left alone."""
    names = _strings(name, SS_FEATURES)
    blocks = _feature_blocks(name, len(names))
    masks = [[0, 0] for _ in blocks]  # (bits to change, their values)
    for bit, text in enumerate(names):
        available, _, active, never = blocks[bit // 32]
        flag = 1 << bit % 32
        if text in wanted and available & flag and not never & flag and bool(active & flag) != wanted[text]:
            masks[bit // 32][0] |= flag
            masks[bit // 32][1] |= flag if wanted[text] else 0
    if not any(changed for changed, _ in masks):
        return
    packed = b"".join(struct.pack("2I", *mask) for mask in masks)
    try:
        _ask(name, struct.pack("2I", SFEATURES, len(masks)) + packed)
    except OSError as error:
        hint = "this needs CAP_NET_ADMIN: run as root" if error.errno == errno.EPERM else ""
        message = f"{name}: cannot switch offloads: {os.strerror(error.errno or 0)}"
        raise SystemCallError(message, error.errno or 0, hint) from None


def is_offload(feature: str) -> bool:
    """Whether the feature merges, splits or rewrites frames between the wire and a socket."""
    parts = ("checksum", "segmentation", "gro", "gso", "lro", "vlan-hw", "stag-hw", "scatter-gather")
    return any(part in feature for part in parts) and "filter" not in feature


def _strings(name: str, kind: int, channel: socket.socket | None = None) -> list[str]:
    answer = _ask(name, struct.pack("2IQI", GSSET_INFO, 0, 1 << kind, 0), channel)
    count = struct.unpack_from("I", answer, 16)[0]
    answer = _ask(name, struct.pack("3I", GSTRINGS, kind, count) + bytes(count * STRING_BYTES), channel)
    texts = (answer[12 + i * STRING_BYTES : 12 + (i + 1) * STRING_BYTES] for i in range(count))
    return [text.split(b"\0")[0].decode(errors="replace") for text in texts]


def _feature_blocks(name: str, count: int) -> list[tuple[int, int, int, int]]:
    """(available, requested, active, never changed) bits, for 32 features at a time."""
    size = (count + 31) // 32
    answer = _ask(name, struct.pack("2I", GFEATURES, size) + bytes(16 * size))
    return [struct.unpack_from("4I", answer, 8 + 16 * i) for i in range(size)]
