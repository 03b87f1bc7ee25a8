"""Which engine captures on which interfaces."""

from __future__ import annotations

from wirecap.config import CaptureConfig
from wirecap.linux import capabilities, netlink

ANY = "any"
ETHERNET = 1  # ARPHRD_ETHER, linux/if_arp.h


def engine_of(config: CaptureConfig) -> str:
    """xdp | packet | direct: the one that was asked for, or what ``auto`` takes.

    XDP takes packets away from the host, and sees only what comes in: auto takes it where nobody misses them.
    """
    if config.engine != "auto":
        return config.engine
    if config.direction in ("out", "inout") or config.time_stamps == "adapter_unsynced":
        return "packet"
    if any(spec.interface == ANY for spec in config.sources):
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
