"""Which engine captures on which interfaces."""

from __future__ import annotations

from wirecap.config import CaptureConfig
from wirecap.errors import UsageError
from wirecap.linux import capabilities, netlink
from wirecap.specs import ANY

ETHERNET = 1  # ARPHRD_ETHER, linux/if_arp.h


def engine_of(config: CaptureConfig) -> str:
    """xdp | packet | direct: the one that was asked for, or what ``auto`` takes.

    XDP takes packets away from the host, and sees only what comes in: auto takes it where nobody misses them.
    """
    any_interface = any(spec.interface == ANY for spec in config.sources)
    if config.engine != "auto":
        if any_interface and config.engine != "packet":
            raise UsageError("AF_XDP captures on interfaces, not on 'any'", "name them, or take --engine packet")
        return config.engine
    if config.direction in ("out", "inout") or config.time_stamps == "adapter_unsynced":
        return "packet"
    if any_interface or config.fanout:
        return "packet"
    facts = [netlink.interface(spec.interface) for spec in config.sources]
    return "packet" if any(auto_engine(one, config.take_over) == "packet" for one in facts) else "xdp"


def auto_engine(facts: netlink.Interface, take_over: bool = False) -> str:
    """What ``auto`` takes on one interface."""
    if netlink.is_in_use(facts) and not take_over:
        return "packet"
    if facts.hardware != ETHERNET and not facts.loopback:
        return "packet"
    if capabilities.missing(capabilities.XDP) and not capabilities.missing(capabilities.PACKET):
        return "packet"
    return "xdp"


def forwarding_engine(config: CaptureConfig) -> str:
    """xdp | direct: packets are sent from the cells that they were received in, which the packet engine has not."""
    if config.engine == "packet":
        raise UsageError(
            "the packet engine does not forward: its packets lie in the kernel's ring, and the host gets them too",
            "take --engine xdp, with --take-over where the host uses the interface",
        )
    return "xdp" if config.engine == "auto" else config.engine
