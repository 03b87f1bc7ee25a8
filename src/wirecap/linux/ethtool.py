"""What ethtool tells and sets, by its ioctl (linux/ethtool.h): driver, queues, offloads.

pyroute2's counterpart has no driver names, and fails where one of the offloads to switch cannot be.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct

from wirecap.errors import SystemCallError

NAME_BYTES = 15  # IFNAMSIZ less the final zero, linux/if.h
SIOCETHTOOL = 0x8946  # linux/sockios.h
GDRVINFO, GRINGPARAM, GSTRINGS, GSTATS, GSSET_INFO = 0x03, 0x10, 0x1B, 0x1D, 0x37
GFEATURES, SFEATURES, GCHANNELS, GET_TS_INFO = 0x3A, 0x3B, 0x3C, 0x41
RAW_HARDWARE, FILTER_ALL = 1 << 6, 1 << 1  # SOF_TIMESTAMPING_, 1 << HWTSTAMP_FILTER_: linux/net_tstamp.h
SS_STATS, SS_FEATURES = 1, 4  # enum ethtool_stringset
STRING_BYTES = 32  # ETH_GSTRING_LEN


def _ask(name: str, request: bytes) -> bytes:
    """One ethtool command; the kernel answers in the place of the request.  Raises OSError."""
    buffer = array.array("B", request)
    address, _ = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        fcntl.ioctl(channel, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    return buffer.tobytes()


def driver(name: str) -> str:
    """The driver's name; '' where the interface has none."""
    try:
        answer = _ask(name, struct.pack("I192x", GDRVINFO))
    except OSError:
        return ""
    return answer[4:36].split(b"\0")[0].decode(errors="replace")


def channels(name: str) -> tuple[int, int] | None:
    """Receive and transmit queues in use; None where the driver does not say."""
    try:
        answer = _ask(name, struct.pack("9I", GCHANNELS, *[0] * 8))
    except OSError:
        return None
    _, _, _, _, _, rx, tx, _, combined = struct.unpack("9I", answer)
    return (rx + combined, tx + combined) if rx + combined else None


def most_channels(name: str) -> tuple[int, int, str] | None:
    """Receive queues in use, as many as there can be, and what ethtool -L calls them; None where it is not told."""
    try:
        answer = _ask(name, struct.pack("9I", GCHANNELS, *[0] * 8))
    except OSError:
        return None
    _, most_rx, _, _, most_combined, rx, _, _, combined = struct.unpack("9I", answer)
    if most_combined:
        return combined, most_combined, "combined"
    return (rx, most_rx, "rx") if most_rx else None


def most_descriptors(name: str) -> tuple[int, int] | None:
    """Descriptors of a receive ring, and the most that it can have; None where the driver does not say."""
    try:
        answer = _ask(name, struct.pack("I32x", GRINGPARAM))  # struct ethtool_ringparam
    except OSError:
        return None
    _, most, _, _, _, now, _, _, _ = struct.unpack("9I", answer)
    return (now, most) if most else None


def stamps_all(name: str) -> bool:
    """Whether the NIC can stamp every packet that it receives."""
    try:
        answer = _ask(name, struct.pack("I40x", GET_TS_INFO))  # struct ethtool_ts_info
    except OSError:
        return False
    _, stamping, _, _, _, _, _, receiving = struct.unpack_from("2Ii5I", answer)
    return bool(stamping & RAW_HARDWARE and receiving & FILTER_ALL)


def statistics(name: str) -> dict[str, int]:
    """The driver's own counters by name; empty where it has none."""
    try:
        names = _strings(name, SS_STATS)
        answer = _ask(name, struct.pack("2I", GSTATS, len(names)) + bytes(8 * len(names)))
    except OSError:
        return {}
    return dict(zip(names, struct.unpack_from(f"{len(names)}Q", answer, 8), strict=True))


def features(name: str) -> dict[str, bool]:
    """Every offload by the kernel's name (``rx-gro``, ``tx-checksum-ip-generic``, ...): is it on?"""
    names = _strings(name, SS_FEATURES)
    blocks = _feature_blocks(name, len(names))
    return {text: bool(blocks[bit // 32][2] >> bit % 32 & 1) for bit, text in enumerate(names) if text}


def strips_tags(name: str) -> bool:
    """Whether VLAN tags may be taken out of packets and kept beside them, where XDP does not see them."""
    try:
        on = features(name)
    except OSError:
        return False
    return any(on.get(feature, False) for feature in ("rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"))


def set_features(name: str, wanted: dict[str, bool]) -> None:
    """Switch offloads on or off; those that the interface lacks or cannot change are left alone."""
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
    """Does this feature merge, split or rewrite frames between the wire and a socket?"""
    parts = ("checksum", "segmentation", "gro", "gso", "lro", "vlan-hw", "stag-hw", "scatter-gather")
    return any(part in feature for part in parts) and "filter" not in feature


def _strings(name: str, kind: int) -> list[str]:
    answer = _ask(name, struct.pack("2IQI", GSSET_INFO, 0, 1 << kind, 0))
    count = struct.unpack_from("I", answer, 16)[0]
    answer = _ask(name, struct.pack("3I", GSTRINGS, kind, count) + bytes(count * STRING_BYTES))
    texts = (answer[12 + i * STRING_BYTES : 12 + (i + 1) * STRING_BYTES] for i in range(count))
    return [text.split(b"\0")[0].decode(errors="replace") for text in texts]


def _feature_blocks(name: str, count: int) -> list[tuple[int, int, int, int]]:
    """(available, requested, active, never changed) bits, 32 features at a time."""
    size = (count + 31) // 32
    answer = _ask(name, struct.pack("2I", GFEATURES, size) + bytes(16 * size))
    return [struct.unpack_from("4I", answer, 8 + 16 * i) for i in range(size)]
