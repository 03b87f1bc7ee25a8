"""Which engine captures on which interfaces."""

from __future__ import annotations

from wirecap.config.capture import CELLS, CaptureConfig
from wirecap.config.sources import AUTO, SOURCES
from wirecap.config.specs import ANY
from wirecap.errors import UsageError
from wirecap.kernels.pool.large import HEADROOM_BYTES
from wirecap.linux import af_xdp, capabilities, ethtool, metadata, netlink
from wirecap.source.wires import ETHERNET_BYTES

ETHERNET = 1  # ARPHRD_ETHER, linux/if_arp.h


def engine_of(config: CaptureConfig) -> str:
    """xdp | packet | direct: the engine that was asked for, or the one that ``auto`` chooses.

    XDP takes packets away from the host, and sees only incoming ones: auto chooses it where nobody misses them.
    """
    any_interface = any(spec.interface == ANY for spec in config.sources)
    if config.engine != AUTO:
        if any_interface and not SOURCES[config.engine].captures_any:
            raise UsageError(
                f"the {config.engine} engine cannot capture on 'any'", "name the interfaces, or use --engine packet"
            )
        return config.engine
    if config.direction in ("out", "inout"):
        return "packet"
    if any_interface or config.fanout or config.defrag:
        return "packet"
    facts = [netlink.interface(spec.interface) for spec in config.sources]
    if config.time_stamps == "adapter_unsynced" and not all(map(_tells_time, facts)):
        return "packet"
    cell = config.pool.cell if config.suits_packet_engine else None
    return "packet" if any(auto_engine(one, config.take_over, cell) == "packet" for one in facts) else "xdp"


def _tells_time(facts: netlink.Interface) -> bool:
    """Whether an XDP program gets the NIC's own time of every packet."""
    return ethtool.timestamps_all(facts.name) and metadata.TIME in metadata.offered(facts.index)


def auto_engine(facts: netlink.Interface, take_over: bool = False, cell: int | None = CELLS[0]) -> str:
    """The engine that ``auto`` chooses for one interface; cell: None if the length of its frames does not matter."""
    if netlink.is_in_use(facts) and not take_over:
        return "packet"
    if facts.hardware != ETHERNET and not facts.loopback:
        return "packet"
    if capabilities.missing(capabilities.XDP) and not capabilities.missing(capabilities.PACKET):
        return "packet"
    return "packet" if cell and outgrows(facts, cell) else "xdp"


def outgrows(facts: netlink.Interface, cell: int) -> bool:
    """Whether AF_XDP would drop the interface's longest frames: they fit no cell, and the kernel uses one for each."""
    return facts.mtu + ETHERNET_BYTES > cell - HEADROOM_BYTES and not facts.loopback and not af_xdp.joins_cells()


def declined(config: CaptureConfig) -> list[str]:
    """Why ``auto`` did not choose AF_XDP, if that is only because of the length of frames: a line for an interface."""
    asked = config.engine != AUTO or config.fanout or config.defrag or config.direction in ("out", "inout")
    if asked or config.time_stamps == "adapter_unsynced" or any(spec.interface == ANY for spec in config.sources):
        return []
    found = {facts.name: facts for facts in (netlink.interface(spec.interface) for spec in config.sources)}
    room = config.pool.cell - HEADROOM_BYTES
    return [
        f"{name}: --engine packet, because AF_XDP takes frames of up to {room:,} bytes on this kernel, and the MTU is"
        f" {facts.mtu} (longer ones need Linux 6.6)"
        for name, facts in found.items()
        if outgrows(facts, config.pool.cell) and auto_engine(facts, config.take_over, None) == "xdp"
    ]


def forwarding_engine(config: CaptureConfig) -> str:
    """The engine of a forwarder, which must send packets from the cells that they were received in."""
    if config.engine != AUTO and not SOURCES[config.engine].forwards:
        raise UsageError(
            f"the {config.engine} engine cannot forward: its packets are not in cells that can be sent from",
            "use --engine xdp, with --take-over if the host uses the interface",
        )
    return "xdp" if config.engine == AUTO else config.engine
