"""From a configuration to an engine: which source, which application, which buddy groups."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from wirecap.config.capture import BESIDE, CaptureConfig, WriteConfig
from wirecap.config.forward import ForwardConfig
from wirecap.config.sources import SOURCES
from wirecap.config.specs import QueueSpec
from wirecap.engine.decisions import KEPT_DECISIONS
from wirecap.engine.engine import Application, Engine
from wirecap.errors import UsageError, WirecapError
from wirecap.handlers import table
from wirecap.handlers.exchange import with_room
from wirecap.handlers.handler import Selection, Setting
from wirecap.handlers.pipeline import Pipeline
from wirecap.kernels.base import jit, libc
from wirecap.kernels.pool.work_queues import wake_consumer
from wirecap.linux import netns
from wirecap.source.source import CaptureSettings, Source

if TYPE_CHECKING:
    from wirecap.handlers.forward import Forwarder


def source_of(
    config: CaptureConfig, write: WriteConfig | None = None, forward: ForwardConfig | None = None
) -> Source:  # fmt: skip
    """Open what the configuration names; no packets are let in yet.  Raises UsageError or SystemCallError."""
    if config.read_file is not None:
        from wirecap.source.file import FileSource

        keep_apart = write is not None and write.format == "pcapng"  # in pcapng each packet names its interface
        return FileSource(config.read_file, keep_apart)
    if config.remote is not None:
        from wirecap.source.remote import RemoteSource

        return netns.call(config.netns, RemoteSource, config.remote, config.filter, lasts=config.keep_going)
    return netns.call(config.netns, _live_source, config, forward)


def _live_source(config: CaptureConfig, forward: ForwardConfig | None) -> Source:
    from wirecap.source import choose

    engine = choose.forwarding_engine(config) if forward else choose.engine_of(config)
    if config.busy_poll and not SOURCES[engine].busy_polls:
        raise UsageError(
            f"--busy-poll is for AF_XDP, and this would be captured by the {engine} engine",
            "leave --busy-poll out, or use --engine xdp",
        )
    if config.nic_hash and not SOURCES[engine].runs_xdp:
        raise UsageError(
            f"--nic-hash is for AF_XDP, and this would be captured by the {engine} engine",
            "leave --nic-hash out, or use --engine xdp",
        )
    module, _, name = SOURCES[engine].home.partition(":")
    source: Source = getattr(import_module(module), name).from_config(config, forward)
    return source


def application_of(
    config: CaptureConfig, write: WriteConfig | None, source: Source, forward: ForwardConfig | None = None,
    changeable: bool = False,
) -> Pipeline:  # fmt: skip
    """The handlers, the writer and the filter that the configuration names; UsageError if the source's packets or the
    places of the files do not allow them.  changeable: the filter may be exchanged later."""
    selection = Selection() if config.kernel_filter else select(config, source)
    if changeable and selection.kernel is not Selection.kernel:
        selection = replace(selection, states=with_room(selection.states), changeable=True)
    specs = table.complete(config.handlers, write, forward, config.to, config.serve)
    setting = Setting(selection, config.filter, write, config.to, config.serve, config.snaplen, config.spooling)
    handlers = [table.make(spec, setting) for spec in specs]
    row = [handler for handler in handlers if handler.in_row]
    writer = next((handler.follower for handler in handlers if handler.follower), None)
    forwarder = _forwarder(source, forward) if forward else None
    pipeline = Pipeline(row, writer, selection, config.keep_going, forwarder, source.direct)
    pipeline.check(source)
    return pipeline


def _forwarder(source: Source, forward: ForwardConfig) -> Forwarder | None:
    from wirecap.handlers.forward import Forwarder

    return Forwarder(source.wires, forward) if source.wires else None


def select(config: CaptureConfig, source: Source) -> Selection:
    """The filter in the form that threads apply."""
    if not config.filter.strip() or source.filtered:
        return Selection()
    from wirecap.filters.native import LinkFilters, NativeFilter

    filters = LinkFilters(config.filter, source.links(), config.optimise)
    if source.filter_by(filters):
        return Selection(owner=filters, note=filters.note)
    return Selection(NativeFilter.process, filters.states(source.links()), filters, filters.note)


def engine_of(config: CaptureConfig, source: Source, application: Application) -> Engine:
    """The engine, ready to be started."""
    lazy = isinstance(application, Pipeline) and application.forwarder is None
    engine = Engine(
        source, application, M=config.pool.M, R=config.pool.R, T=config.T, advanced=config.mode == "advanced",
        groups=_groups(config, source), capture_threads=config.capture_threads,
        cpus=[] if config.cpus == BESIDE else [(cpu,) for cpu in config.cpus],
        settings=CaptureSettings(timeout_ns=config.timeout_ns, busy_poll=config.busy_poll, lazy=lazy),
        limit=config.count or 0,
        decisions=KEPT_DECISIONS if config.decisions_file else 0,
    )  # fmt: skip
    if source.live:
        netns.call(config.netns, _place, engine, config)
    return engine


def _place(engine: Engine, config: CaptureConfig) -> None:
    """Choose the CPUs of the engine's threads if that is asked for, else say what is wrong with where they run.

    In the interfaces' namespace.
    """
    from wirecap.source import placing

    queues, layout, takers = engine.source.queues, engine.layout, engine.takers()
    known = placing.places(list(dict.fromkeys(queue.interface for queue in queues)))
    if config.cpus != BESIDE:
        engine.placed = placing.astray(known, config.cpus or placing.allowed_cpus())
        return
    others = layout.writers + (0 if engine.source.direct else layout.handlers)
    found = placing.place([[queues[q] for q in mine] for mine in takers], others, known, placing.allowed_cpus())
    engine.cpus, engine.placed = found.cpus, found.lines


def _groups(config: CaptureConfig, source: Source) -> list[list[int]] | None:
    """Buddy groups as lists of home queues; a queue that no group names is alone.  None: all in one group."""
    if not config.buddies:
        return None
    there = {(place.interface, place.queue) for place in source.queues}
    names = sorted({name for name, _ in there})
    wanted = [[_by_own_name(spec, config.netns) for spec in group] for group in config.buddies]
    for spec in (spec for group in wanted for spec in group):
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
        for group in wanted
    ]
    named = {number for group in groups for number in group}
    return groups + [[number] for number in range(len(source.queues)) if number not in named]


def _by_own_name(spec: QueueSpec, namespace: str | None) -> QueueSpec:
    from wirecap.linux import netlink

    return replace(spec, interface=netns.call(namespace, netlink.own_name, spec.interface))


def prepare(source: Source, application: Application, tell: Callable[[str], None] | None = None) -> None:
    """Compile what the engine will call, before the first packet; ``tell`` gets the name of what is being compiled.

    The user's own handlers come first, as they may fail to compile.
    """
    if libc.FUTEX is None:
        raise WirecapError(f"WireCAP does not run on a {platform.machine()} processor", "it runs on x86-64 and arm64")
    application.compile(tell or (lambda name: None))
    jit.prepare([wake_consumer, *source.kernels(), *application.kernels()], tell)
