"""From a configuration to an engine: which source, which application, which buddy groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from wirecap import __version__
from wirecap.config import CELLS, CaptureConfig, QueueSpec, WriteConfig
from wirecap.engine.decisions import KEPT_DECISIONS
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError
from wirecap.filters.expression import compile_filter
from wirecap.filters.native import NativeFilter
from wirecap.forward_config import ForwardConfig
from wirecap.handlers import table
from wirecap.handlers.base import Application, Selection
from wirecap.handlers.forward import Forwarder
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.write import Writer
from wirecap.kernels import jit
from wirecap.kernels.lanes import wake_consumer
from wirecap.kernels.rings import HEADROOM_BYTES
from wirecap.linux import capabilities, ethtool, netlink, netns, probes
from wirecap.source import choose
from wirecap.source.base import CaptureSettings, Source
from wirecap.source.file import FileSource
from wirecap.source.ports import packet_source
from wirecap.source.wires import ETHERNET_BYTES, Output, WireTable
from wirecap.source.xdp import Nic, XdpSource


def source_of(
    config: CaptureConfig, write: WriteConfig | None = None, forward: ForwardConfig | None = None
) -> Source:  # fmt: skip
    """Open what the configuration names; nothing is let in yet.  Raises UsageError or SystemCallError."""
    if config.read_file is not None:
        keep_apart = write is not None and write.format == "pcapng"  # there each packet names its interface
        return FileSource(config.read_file, keep_apart)
    return netns.call(config.netns, _live_source, config, forward)


def _live_source(config: CaptureConfig, forward: ForwardConfig | None) -> Source:
    engine = choose.forwarding_engine(config) if forward else choose.engine_of(config)
    if engine == "packet":
        return packet_source(config)
    return _xdp_source(config, forward, engine)


def _xdp_source(config: CaptureConfig, forward: ForwardConfig | None, engine: str) -> Source:
    nics = _nics(config)
    capabilities.require(capabilities.XDP, engine)
    pool = config.pool
    pool.check_memory(sum(len(nic.queues) for nic in nics), probes.available_memory_bytes())
    return XdpSource(
        nics, pool.M * pool.R, pool.cell, config.ring, config.xdp_mode, promiscuous=config.promiscuous,
        use_clock="none" if config.time_stamps == "host_lowprec" else None,
        filter=compile_filter(config.filter) if config.filter and config.kernel_filter else None,
        unwanted=config.kernel_filter or "drop", wires=_wires(nics, config, forward) if forward else None,
        engine=engine,
    )  # fmt: skip


def _wires(nics: list[Nic], config: CaptureConfig, forward: ForwardConfig) -> WireTable:
    """The outgoing NICs of a forwarder, each with the transmit queues that it is to use."""
    outputs: list[Output] = []
    routes = {}
    for source, targets in forward.directions:
        near = netlink.interface(source.interface)
        for queue in source.queues or range(near.rx_queues):
            routes[near.name, queue] = (len(outputs), len(targets))
        outputs += [_output(target, near) for target in targets]
    per_queue = [routes[nic.name, queue] for nic in nics for queue in nic.queues]
    numbers = [queue for nic in nics for queue in nic.queues]
    return WireTable(outputs, per_queue, config.pool.M * config.pool.R * config.pool.cell, numbers)


def warnings(source: Source) -> list[str]:
    """What the source will drop or miss, as far as it is known before the first packet.  In the NICs' namespace."""
    if not isinstance(source, XdpSource):
        return []
    found = (
        shortcoming for interface in source.interfaces for shortcoming in shortcomings(interface.name, source.cell)
    )
    return [f"{what} ({remedy})" for _, what, remedy in found]


def shortcomings(name: str, cell: int) -> list[tuple[str, str, str]]:
    """(subject, what AF_XDP with such cells drops or misses on the interface, how to change it).  In its namespace."""
    found = []
    mtu, room, larger = netlink.interface(name).mtu, cell - HEADROOM_BYTES, max(CELLS)
    if mtu + ETHERNET_BYTES > room:
        fits = mtu + ETHERNET_BYTES <= larger - HEADROOM_BYTES
        remedy = f"--cell {larger} has room for {larger - HEADROOM_BYTES:,}" if fits else "--engine packet takes them"
        found.append((
            "MTU",
            f"{name} has an MTU of {mtu}: frames of more than {room:,} bytes will be dropped as oversize",
            f"{remedy}, or ip link set {name} mtu {room - ETHERNET_BYTES}",
        ))  # fmt: skip
    if ethtool.strips_tags(name):
        found.append((
            "VLAN tags",
            f"{name} takes VLAN tags out of packets before XDP sees them: they will be missing",
            f"ethtool -K {name} rxvlan off rx-vlan-stag-hw-parse off, or --engine packet",
        ))  # fmt: skip
    return found


def _output(target: QueueSpec, source: netlink.Interface) -> Output:
    facts = netlink.interface(target.interface)
    if facts.index == source.index:
        raise UsageError(f"{facts.name} would be sent its own packets", "name two interfaces")
    if not facts.up:
        raise UsageError(f"{facts.name} is down", f"set it up first: ip link set {facts.name} up")
    queues = target.queues or tuple(range(facts.tx_queues))
    if max(queues) >= facts.tx_queues:
        hint = f"it has {facts.tx_queues}, counted from 0"
        raise UsageError(f"{facts.name} has no transmit queue {max(queues)}", hint)
    return Output(facts.name, facts.index, queues, facts.mtu)


def _nics(config: CaptureConfig) -> list[Nic]:
    """Each NIC once, however many of the sources, by whichever name, are queues of it."""
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
            "capture on a port without an address, or add --take-over to do it all the same",
        )
    if not facts.up:
        raise UsageError(f"{facts.name} is down", f"set it up first: ip link set {facts.name} up")
    if spec.queues and max(spec.queues) >= facts.rx_queues:
        last = facts.rx_queues - 1
        there = f"queues 0-{last}" if last else "queue 0 only"
        raise UsageError(f"{facts.name} has no queue {max(spec.queues)}", f"it has {there}")
    return Nic(facts.name, facts.index, facts.rx_queues, spec.queues or tuple(range(facts.rx_queues)))


def application_of(
    config: CaptureConfig, write: WriteConfig | None, source: Source, forward: ForwardConfig | None = None
) -> Pipeline:
    """The handlers, the writer and the filter that the configuration names."""
    selection = Selection() if config.kernel_filter else select(config.filter, source)
    handlers = [table.make(spec, selection) for spec in config.handlers if spec.name != "write"]
    writer = Writer(write, config.filter, f"wirecap {__version__}") if write else None
    forwarder = Forwarder(source.wires, forward) if forward and isinstance(source, XdpSource) and source.wires else None
    found = [h for h in handlers if h is not None]
    return Pipeline(found, writer, selection, config.keep_going, forwarder, source.engine == "direct")


def select(expression: str, source: Source) -> Selection:
    """The filter as threads apply it."""
    if not expression.strip():
        return Selection()
    link_types = {interface.dlt for interface in source.interfaces} or {1}
    if len(link_types) > 1:
        raise UsageError("the interfaces have different link types", "a filter fits one of them: capture each alone")
    native = NativeFilter(compile_filter(expression, link_types.pop()))
    if isinstance(source, FileSource):
        source.filter_by(native.process, native.state)
        return Selection(owner=native)
    return Selection(native.process, native.state, native)


def engine_of(config: CaptureConfig, source: Source, application: Application) -> Engine:
    """The engine, ready to be started."""
    return Engine(
        source, application, M=config.pool.M, R=config.pool.R, T=config.T, advanced=config.mode == "advanced",
        groups=_groups(config, source), capture_threads=config.capture_threads, cpus=config.cpus,
        settings=CaptureSettings(timeout_ns=config.timeout_ns), limit=config.count or 0,
        decisions=KEPT_DECISIONS if config.decisions_file else 0,
    )  # fmt: skip


def _groups(config: CaptureConfig, source: Source) -> list[list[int]] | None:
    """Buddy groups as lists of home queues; a queue that no group names is alone.  None: all in one."""
    if not config.buddies:
        return None
    there = {(place.interface, place.queue) for place in source.queues}
    names = sorted({name for name, _ in there})
    for spec in (spec for group in config.buddies for spec in group):
        if spec.interface not in names:
            raise UsageError(f"buddy group {spec}: {spec.interface} is not captured", f"name {' or '.join(names)}")
        missing = [queue for queue in spec.queues or () if (spec.interface, queue) not in there]
        if missing:
            raise UsageError(
                f"buddy group {spec}: {spec.interface} queue {missing[0]} is not captured",
                f"its queues are {', '.join(str(queue) for name, queue in sorted(there) if name == spec.interface)}",
            )
    groups = [
        [
            number
            for number, place in enumerate(source.queues)
            if any(s.interface == place.interface and (s.queues is None or place.queue in s.queues) for s in group)
        ]
        for group in config.buddies
    ]
    named = {number for group in groups for number in group}
    return groups + [[number] for number in range(len(source.queues)) if number not in named]


def prepare(source: Source, application: Application, tell: Callable[[str], None] | None = None) -> None:
    """Compile what the engine will call, before the first packet; ``tell`` gets the name of what is compiled."""
    jit.prepare([wake_consumer, *source.kernels(), *application.kernels()], tell)
    if isinstance(application, Pipeline):
        application.compile(tell or (lambda name: None))
