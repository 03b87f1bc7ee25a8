"""What a driver says it can do with XDP, asked over the kernel's netdev family (6.3 and newer), nothing attached.

The family and its bits: Documentation/netlink/specs/netdev.yaml.
"""

from __future__ import annotations

import enum
from typing import Any


class XdpFeature(enum.IntFlag):
    """enum xdp_act of the specification."""

    BASIC = 1
    REDIRECT = 2
    TRANSMIT = 4
    ZERO_COPY = 8
    OFFLOAD = 16
    RECEIVE_SEGMENTS = 32
    TRANSMIT_SEGMENTS = 64


_DEV_GET = 1  # NETDEV_CMD_DEV_GET
_ATTRIBUTES = (("UNSPEC", "none"), ("IFINDEX", "uint32"), ("PAD", "hex"), ("XDP_FEATURES", "uint64"))


def by_interface() -> dict[int, XdpFeature] | None:
    """Features by interface index, of the calling thread's network namespace; None where the kernel cannot tell."""
    from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.generic import GenericNetlinkSocket

    policy = tuple((number, *attribute) for number, attribute in enumerate(_ATTRIBUTES))
    message_type: Any = type("netdev_message", (genlmsg,), {"nla_map": policy})
    with GenericNetlinkSocket() as socket:
        try:
            socket.bind("netdev", message_type)
            message = message_type()
            message["cmd"], message["version"] = _DEV_GET, 1
            replies = list(socket.nlm_request(message, msg_type=socket.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP))
        except NetlinkError:
            return None
    return {reply.get_attr("IFINDEX"): XdpFeature(reply.get_attr("XDP_FEATURES") or 0) for reply in replies}


def describe(features: XdpFeature) -> str:
    """``native, zero-copy``, ``native`` or ``generic``."""
    if XdpFeature.REDIRECT not in features:
        return "generic"  # AF_XDP needs the redirect; without it the kernel's generic hook is what is left
    return "native, zero-copy" if XdpFeature.ZERO_COPY in features else "native"
