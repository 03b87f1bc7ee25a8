"""What a NIC's driver can do for XDP beside packets, as the kernel tells it over generic netlink (family ``netdev``).

Sources: linux/netdev.h, linux/genetlink.h, Documentation/netlink/specs/netdev.yaml.  Linux 6.7 and later.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from wirecap.errors import SystemCallError
from wirecap.linux import rtnetlink
from wirecap.linux.rtnetlink import Attributes

TIMESTAMP, HASH, VLAN_TAG = 1, 2, 4
"""What programs may ask of each received packet: NETDEV_XDP_RX_METADATA_..."""
SENT_TIMESTAMP, SENT_CHECKSUM, LAUNCH_TIME = 1, 2, 4
"""What sockets may ask for each packet that they send: NETDEV_XSK_FLAGS_TX_..."""
_NETLINK_GENERIC = 16  # linux/netlink.h
_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2  # GENL_ID_CTRL and its command and attributes
_GET_DEVICE, _INDEX, _RECEIVED, _SENT = 1, 1, 5, 6  # NETDEV_CMD_DEV_GET, NETDEV_A_DEV_...
_GENERIC = struct.Struct("=BBxx")


class Features(NamedTuple):
    received: int = 0
    """TIMESTAMP, HASH, VLAN_TAG."""
    sent: int = 0
    """SENT_TIMESTAMP, SENT_CHECKSUM, LAUNCH_TIME: with AF_XDP in zero-copy mode."""


def features(ifindex: int) -> Features:
    """Of an interface in the thread's network namespace; none where the kernel does not say."""
    try:
        with rtnetlink.Netlink(_NETLINK_GENERIC) as netlink:
            wanted = rtnetlink.attribute(_FAMILY_NAME, b"netdev\0")
            family = _one(netlink, _CONTROL, _GET_FAMILY, wanted).number(_FAMILY_ID)
            device = _one(netlink, family, _GET_DEVICE, rtnetlink.attribute(_INDEX, struct.pack("=I", ifindex)))
    except (SystemCallError, OSError):
        return Features()
    return Features(device.number(_RECEIVED), device.number(_SENT))


def _one(netlink: rtnetlink.Netlink, kind: int, command: int, attributes: bytes) -> Attributes:
    body = next(netlink.ask(kind, _GENERIC.pack(command, 1) + attributes, 0))
    return Attributes.of(body[_GENERIC.size :])
