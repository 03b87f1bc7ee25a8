"""From a configuration to NICs: which queues to capture, where to forward packets, and what AF_XDP will miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from wirecap.config.capture import CELLS, CaptureConfig
from wirecap.config.forward import ForwardConfig
from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError
from wirecap.filters.expression import ETHERNET
from wirecap.filters.metadata import Link
from wirecap.kernels.pool.large import HEADROOM_BYTES
from wirecap.linux import af_xdp, bpf, ethtool, metadata, netlink, probes, zero_copy
from wirecap.linux.zero_copy import Buffer
from wirecap.source.wires import ETHERNET_BYTES, VLAN_BYTES, Output, WireTable

COPYING = "zero-copy"
"""The subject of a shortcoming that costs time, and no packet."""


@dataclass(frozen=True)
class Nic:
    """One interface to capture on."""

    name: str
    index: int
    rx_queues: int
    queues: tuple[int, ...]
    mtu: int = 1500


def nics_of(config: CaptureConfig) -> list[Nic]:
    """Each NIC once, however many of the sources name queues of it, and by whichever name."""
    nics: dict[int, Nic] = {}
    for spec in config.sources:
        nic = _nic(spec, config.take_over)
        known = nics.get(nic.index)
        if known:
            twice = set(known.queues) & set(nic.queues)
            if twice:
                raise UsageError(f"{nic.name} queue {min(twice)} is captured twice", "name each queue once")
            nic = replace(known, queues=known.queues + nic.queues)
        nics[nic.index] = nic
    return list(nics.values())


def _nic(spec: QueueSpec, take_over: bool) -> Nic:
    facts = netlink.interface(spec.interface)
    reason = netlink.is_in_use(facts)
    if reason and not take_over:
        raise UsageError(
            f"{reason}, and XDP would take its packets away from this host",
            "capture on a port without an address, or add --take-over to do it anyway",
        )
    _check_up(facts)
    if spec.queues and max(spec.queues) >= facts.rx_queues:
        last = facts.rx_queues - 1
        there = f"queues 0-{last}" if last else "only queue 0"
        raise UsageError(f"{spec}: {facts.name} has no queue {max(spec.queues)}", f"it has {there}")
    return Nic(facts.name, facts.index, facts.rx_queues, spec.queues or tuple(range(facts.rx_queues)), facts.mtu)


def is_back(nic: Nic) -> bool:
    """Whether an interface that went away is there again and up.  Raises UsageError if it has lost a captured queue."""
    if not netlink.index_of(nic.name):
        return False
    facts = netlink.interface(nic.name)
    if max(nic.queues) >= facts.rx_queues:
        raise UsageError(
            f"{nic.name} has come back with {facts.rx_queues} queues, and queue {max(nic.queues)} is captured",
            f"give it as many as before: ethtool -L {nic.name}",
        )
    return facts.up


def _check_up(facts: netlink.Interface) -> None:
    if not facts.up:
        raise UsageError(f"{facts.name} is down", f"bring it up: ip link set {facts.name} up")


def whole_mode(nics: list[Nic], mode: str) -> tuple[str, list[str]]:
    """The XDP mode to use where ``mode`` was asked for, and lines on NICs of which a native program misses packets.

    In the NICs' namespace.
    """
    found = {nic.name: drawback for nic in nics if mode != "generic" and (drawback := _drawback(nic.name))}
    if mode != "auto" or not found:
        return mode, [
            f"{name}: {cause}: {loss} ({remedy or 'leave --xdp-mode out'})"
            for name, (cause, loss, remedy) in found.items()
        ]
    notes = [
        f"{name}: generic mode, which is slower: {cause}{f' ({remedy})' if remedy else ''}"
        for name, (cause, _, remedy) in found.items()
    ]
    if others := [nic.name for nic in nics if nic.name not in found]:
        notes.append(f"{' and '.join(others)}: generic mode, too: one capture has one mode")
    return "generic", notes


class _Drawback(NamedTuple):
    """What a driver does to native programs, what is lost if one is used all the same, and what prevents that."""

    cause: str
    loss: str
    remedy: str = ""


def _drawback(name: str) -> _Drawback | None:
    """virtio_net adds receive queues, one for each CPU, if the device has so many.  They are there for sending, but
    devices steer packets to them, and no socket can be bound before they exist (virtnet_xdp_set,
    drivers/net/virtio_net.c).  vmxnet3 makes new rings for another MTU, ring size or state of the link, and hands what
    comes by those to the host: seen on Linux 6.12 to 7.3 with a program that drops everything.
    """
    facts = netlink.interface(name)
    if facts.driver == "vmxnet3" and probes.XdpFeature.REDIRECT in (probes.features_of(facts.index) or ()):
        cause = "vmxnet3 leaves a native XDP program out once its link, its MTU or its rings have changed"
        return _Drawback(cause, "what comes afterwards is missed")
    found = ethtool.most_channels(name) if facts.driver == "virtio_net" else None
    cpus = bpf.len_possible_cpus()
    if not found or found[0] + cpus > found[1]:
        return None
    cause = f"a native XDP program adds {cpus} queues, which cannot be captured"
    remedy = f"ethtool -L {name} combined {found[1]} leaves no room for them"
    return _Drawback(cause, "their packets are missed", remedy)


def spills(nic: Nic, buffer: Buffer | None) -> bool:
    """Whether the NIC's longest frames, with two VLAN tags, are longer than such buffers of zero-copy mode."""
    return buffer is not None and nic.mtu + ETHERNET_BYTES + 2 * VLAN_BYTES > buffer.whole


def all_copied(nics: list[Nic], wires: WireTable | None) -> list[str]:
    """A line where the driver of one NIC has zero-copy and that of another has none: sockets that share cells have all
    the same mode, or the kernel refuses them (xp_assign_dev_shared, net/xdp/xsk_buff_pool.c).  In the NICs' namespace.
    """
    names = list(dict.fromkeys([nic.name for nic in nics] + [name for name, _ in (wires.places if wires else ())]))
    facts = {name: netlink.interface(name) for name in names}
    if len({one.driver for one in facts.values()}) == 1:
        return []
    features = {name: probes.features_of(one.index) for name, one in facts.items()}
    if None in features.values():
        why = "before Linux 6.3 a kernel does not tell which drivers have zero-copy, and one capture has one mode"
        return [f"{' and '.join(names)}: copy mode, which is slower: {why}"]
    having = {name: probes.XdpFeature.ZERO_COPY in (each or ()) for name, each in features.items()}
    if len(set(having.values())) == 1:
        return []
    able, unable = ([name for name in names if having[name] == there] for there in (True, False))
    apart = "" if wires else f" (capture {' and '.join(able)} apart)"
    why = f"the driver of {' and '.join(unable)} has no zero-copy, and one capture has one mode{apart}"
    return [f"{' and '.join(able)}: copy mode, which is slower: {why}"]


def wires_of(nics: list[Nic], config: CaptureConfig, forward: ForwardConfig) -> WireTable:
    """The outgoing NICs of a forwarder, each with the transmit queues to use."""
    outputs: list[Output] = []
    routes: dict[tuple[str, int], tuple[int, int]] = {}
    finishes: dict[str, bool] = {}
    notes: list[str] = []
    for source, targets in forward.directions:
        near = netlink.interface(source.interface)
        virtual = netlink.is_virtual(near)
        finishes[near.name] = forward.checksums == "finish" or (forward.checksums == "auto" and virtual)
        if forward.checksums == "leave" and virtual:
            notes.append(
                f"what this machine sends to {near.name} keeps its unfinished checksums, and receivers drop it"
                " (leave --checksums out, or at the sender: ethtool -K INTERFACE tx off)"
            )
        for queue in source.queues or range(near.rx_queues):
            routes[near.name, queue] = (len(outputs), len(targets))
        outputs += [_output(target, near) for target in targets]
    per_queue = [routes[nic.name, queue] for nic in nics for queue in nic.queues]
    numbers = [queue for nic in nics for queue in nic.queues]
    unfinished = [finishes[nic.name] for nic in nics for _ in nic.queues]
    table = WireTable(outputs, per_queue, config.pool.M * config.pool.R * config.pool.cell, numbers, unfinished)
    table.notes = notes
    return table


def _output(target: QueueSpec, source: netlink.Interface) -> Output:
    facts = netlink.interface(target.interface)
    if facts.index == source.index:
        raise UsageError(f"{facts.name} cannot forward to itself", "name two different interfaces")
    _check_up(facts)
    queues = target.queues or tuple(range(facts.tx_queues))
    if max(queues) >= facts.tx_queues:
        hint = f"it has {facts.tx_queues}, numbered from 0"
        raise UsageError(f"{target}: {facts.name} has no transmit queue {max(queues)}", hint)
    return Output(facts.name, facts.index, queues, facts.mtu)


@dataclass(frozen=True)
class Choices:
    """What else a command line would take as it is: the packet engine, or the largest cell."""

    packet_engine: bool = True
    larger_cell: bool = True


def choices_of(config: CaptureConfig, forward: ForwardConfig | None, queues: int, available_bytes: int) -> Choices:
    """available_bytes: free memory, before the pools are made."""
    fits = config.pool.bytes(queues) * max(CELLS) // config.pool.cell <= available_bytes
    return Choices(packet_engine=not forward and config.suits_packet_engine, larger_cell=fits)


class Shortcoming(NamedTuple):
    """What AF_XDP will miss on an interface, whose name belongs where {} stands."""

    subject: str
    said: str
    remedy: str

    def on(self, names: Sequence[str]) -> tuple[str, str]:
        """(what will be missed on these interfaces, how to change that)."""
        return self.said.format(" and ".join(names)), self.remedy.format(names[0] if len(names) == 1 else "INTERFACE")


def shortcomings(
    name: str, cell: int, choices: Choices | None = None, tags: bool | None = None
) -> list[Shortcoming]:  # fmt: skip
    """What AF_XDP with such cells will miss on the interface.  In its namespace.

    tags: whether VLAN tags that it takes out are put back; None: as a native program can.
    """
    found = []
    choices = choices or Choices()
    facts = netlink.interface(name)
    mtu, room, larger = facts.mtu, cell - HEADROOM_BYTES, max(CELLS)
    if mtu + ETHERNET_BYTES > room and not af_xdp.joins_cells():
        helps = []
        if mtu + ETHERNET_BYTES <= larger - HEADROOM_BYTES and choices.larger_cell:
            helps.append(f"use --cell {larger} for up to {larger - HEADROOM_BYTES:,}")
        elif choices.packet_engine:
            helps.append("use --engine packet")
        found.append(Shortcoming(
            "MTU",
            f"{{}}: MTU {mtu}: frames of more than {room:,} bytes will be dropped as oversize",
            ", or ".join([*helps, f"ip link set {{}} mtu {room - ETHERNET_BYTES}"]),
        ))  # fmt: skip
    found += _copied(Nic(facts.name, facts.index, facts.rx_queues, (), mtu), room, choices)
    if tags is None:
        tags = metadata.TAG in metadata.offered(facts.index)
    if tags or not ethtool.strips_tags(name):
        return found
    other_engine = ", or use --engine packet" if choices.packet_engine else ""
    if facts.kind == "veth":  # a tag that the sender leaves to its device is in no byte
        change = "at the other end: ethtool -K INTERFACE txvlan off tx-vlan-stag-hw-insert off"
        found.append(
            Shortcoming("VLAN tags", "{}: senders' offloaded VLAN tags will be missing", change + other_engine)
        )
    else:
        change = "ethtool -K {} rxvlan off rx-vlan-stag-hw-parse off"
        found.append(Shortcoming("VLAN tags", "{}: VLAN tags are stripped and will be missing", change + other_engine))
    return found


def _copied(nic: Nic, room: int, choices: Choices) -> list[Shortcoming]:
    """Why there is no zero-copy, where the driver has it."""
    buffer = zero_copy.buffer_of(nic.name, room)
    if buffer is None or not spills(nic, buffer) or not zero_copy.is_there(buffer.driver):
        return []
    larger = max(CELLS)
    helps = choices.larger_cell and not spills(nic, zero_copy.buffer_of(nic.name, larger - HEADROOM_BYTES))
    return [Shortcoming(
        COPYING,
        f"{{}}: copy mode, which is slower: in zero-copy mode {buffer.driver} {'breaks' if buffer.splits else 'drops'}"
        f" frames of more than {buffer.size:,} bytes",
        f"--cell {larger} leaves room for them" if helps else "a smaller MTU leaves room for them",
    )]  # fmt: skip


def told(found: Sequence[tuple[str, Shortcoming]]) -> list[str]:
    """A line for each shortcoming, however many interfaces have it: (interface, what it has)."""
    having: dict[Shortcoming, list[str]] = {}
    for name, shortcoming in found:
        having.setdefault(shortcoming, []).append(name)
    return [f"{shortcoming.on(names)[0]} ({shortcoming.on(names)[1]})" for shortcoming, names in having.items()]


def spread_further(nic: Nic, now: int) -> str:
    """What is missed where a NIC has more receive queues than at the start."""
    return (
        f"{nic.name} has {now} receive queues now, and had {nic.rx_queues} when the capture began: packets of the"
        " others are missed (ethtool -L sets how many there are; start the capture again to have all)"
    )


def merged(generic: Sequence[str], joins: bool) -> list[str]:
    """Lines on interfaces in generic mode where a forwarder gets the segments that a local stack leaves to its device.

    joins: a packet may take several cells.
    """
    return [
        f"{name} is captured in generic mode: local senders' segments of up to 64 KiB are dropped as"
        f" {'tx_too_long where the outgoing MTU is smaller' if joins else 'oversize'}"
        f" (at the sender: ethtool -K INTERFACE {ethtool.SEGMENTS_OFF})"
        for name in generic
        if netlink.is_virtual(netlink.interface(name))
    ]


def link_of(nic: Nic) -> Link:
    """What a filter can know of its packets."""
    return Link(ETHERNET, nic.index, "in", nic.name, "AF_XDP sees incoming packets only, --engine packet both")
