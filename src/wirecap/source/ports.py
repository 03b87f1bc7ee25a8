"""From a configuration to the packet engine's ports."""

from __future__ import annotations

from wirecap.config import CaptureConfig, QueueSpec
from wirecap.errors import UsageError
from wirecap.filters.expression import compile_filter
from wirecap.filters.in_socket import WHOLE
from wirecap.linux import capabilities, netlink, packet, probes
from wirecap.source.packet import PacketSource, Port
from wirecap.specs import ANY


def packet_source(config: CaptureConfig) -> PacketSource:
    """The packet engine's source.  In the network namespace of the interfaces."""
    capabilities.require(capabilities.PACKET, "packet")
    if config.kernel_filter:
        raise UsageError(
            "the packet engine takes no packets away from the host, and its filter runs inside the kernel anyway",
            "leave --kernel-filter out, or add --engine xdp",
        )
    ports = [_port(spec) for spec in config.sources]
    for number, port in enumerate(ports):
        if port.index in [other.index for other in ports[:number]]:  # by one of its alternative names
            raise UsageError(f"{port.name} is captured twice", "name each interface once")
    bytes_per_queue = config.ring * config.pool.cell if config.ring else config.pool.bytes(1)
    queues = sum(port.queues for port in ports)
    config.pool.check_memory(queues, probes.available_memory_bytes())
    hardware_stamps = config.time_stamps == "adapter_unsynced"
    for port in ports if hardware_stamps else ():
        if port.index == 0:
            raise UsageError("-j adapter_unsynced: 'any' has no clock", "name the interface")
        packet.switch_on_stamps(port.name)
    linktypes = {port.linktype for port in ports}
    filters = {kind: compile_filter(config.filter, kind) for kind in linktypes} if config.filter.strip() else None
    loopback = netlink.loopback_index() if any(p.index == 0 or p.loopback for p in ports) else 0
    return PacketSource(
        ports, bytes_per_queue, config.fanout or "hash", filters, min(config.snaplen, WHOLE),
        config.direction or "inout", loopback, config.promiscuous, hardware_stamps, config.ring or 0,
    )  # fmt: skip


def _port(spec: QueueSpec) -> Port:
    """What ``eth1@0-3`` asks for: a fanout group of four."""
    members = len(spec.queues) if spec.queues else 0
    if spec.queues and sorted(spec.queues) != list(range(members)):
        raise UsageError(
            f"{spec}: the packet engine's queues are numbered from 0, they are not the NIC's",
            f"{spec.interface}@0-{members - 1} makes {members} of them; --engine xdp takes some queues only",
        )
    if members > packet.MAX_MEMBERS:
        raise UsageError(
            f"{spec.interface}@0-{members - 1}: a fanout group has at most {packet.MAX_MEMBERS} queues",
            f"{spec.interface}@0-{packet.MAX_MEMBERS - 1} makes them",
        )
    if spec.interface == ANY:
        return Port(ANY, 0, members or 1)
    facts = netlink.interface(spec.interface)
    if not facts.up:
        raise UsageError(f"{facts.name} is down", f"set it up first: ip link set {facts.name} up")
    queues = members or min(facts.rx_queues, packet.MAX_MEMBERS)
    return Port(facts.name, facts.index, queues, facts.hardware, facts.loopback)
