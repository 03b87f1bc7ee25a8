"""Options that ``capture`` and ``forward`` share: filter, handlers, buffers, CPUs, buddy groups, what is shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from wirecap import config
from wirecap.cli.parameters import COUNT, DURATION, OUTPUT, PERCENT, SIZE, Parsed, section
from wirecap.config import HandlerSpec, PoolConfig, QueueSpec
from wirecap.errors import UsageError
from wirecap.units import format_size, parse_size

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Section = Callable[..., Callable[[Any], Any]]

until = section("Until when")
output = section("What is shown")


def parse_cpus(text: str) -> tuple[int, ...]:
    cpus = config.parse_numbers(text, text, "0,1 or 0-3", 1 << 16)
    allowed = os.sched_getaffinity(0)
    for cpu in cpus:
        if cpu not in allowed:
            raise UsageError(f"CPU {cpu} is not to be had here", f"choose among {', '.join(map(str, sorted(allowed)))}")
    return cpus


def parse_buddies(text: str) -> tuple[QueueSpec, ...]:
    return tuple(QueueSpec.parse(part) for part in text.split("+"))


def parse_buffer(text: str) -> int:
    return parse_size(f"{text}KiB" if text.strip().isdecimal() else text)


HANDLER = Parsed("NAME[:KEY=VALUE,...]", HandlerSpec.parse)


def pool_of(given: dict[str, Any]) -> PoolConfig:
    M, R, cell = given["M"], given["R"], given["cell"]
    if given["buffer_size"] is None:
        return PoolConfig(M, 100 if R is None else R, cell)
    if R is not None:
        raise UsageError("-R and -B both set the size of the pool", "leave one of them out")
    PoolConfig(M, 2, cell)  # M and cell must be sound before they divide
    R = given["buffer_size"] // (M * cell)
    if R < 2:
        least = format_size(2 * M * cell)
        raise UsageError(
            f"-B {format_size(given['buffer_size'])} is less than two chunks of {M} cells of {cell} bytes",
            f"take {least} or more, or a smaller -M; a number without a unit is KiB, as tcpdump has it",
        )
    return PoolConfig(M, R, cell)


def options(where: Section, engine: Section) -> Callable[[Decorated], Decorated]:
    """The options that both commands have; the sections for what is received, and how."""
    shared = [
        where("-f", "filter_text", metavar="FILTER", help="The filter, as dumpcap takes it."),
        where("-p", "--no-promiscuous-mode", "not_promiscuous", is_flag=True, help="Leave promiscuous mode alone."),
        where("--netns", metavar="NAME", help="Network namespace of the interfaces."),
        where("--take-over", is_flag=True, help="Take an interface that the host uses: the host loses its packets."),
        until("-c", "count", type=COUNT, help="End after so many packets."),
        until("--duration", "duration_ns", type=DURATION, help="End after this time: 30s, 5m."),
        engine("--mode", type=click.Choice(config.MODES), default="basic", show_default=True,
               help="advanced: queues in trouble hand chunks to idle ones."),
        engine("-M", "M", type=COUNT, default=256, show_default=True, help="Packets of a chunk."),
        engine("-R", "R", type=COUNT, help="Chunks of a queue.  [default: 100]"),
        engine("-T", "T", type=PERCENT, default=60, show_default=True,
               help="Queue length that calls for a buddy, % of R."),
        engine("--buddies", multiple=True, metavar="eth1@0-3+eth2", type=Parsed("GROUP", parse_buddies),
               help="A buddy group; repeatable. One of all queues if not given."),
        engine("-B", "--buffer-size", type=Parsed("SIZE", parse_buffer),
               help="Buffer of a queue, in place of -R: 64MiB, or a number of KiB."),
        engine("--cell", type=SIZE, default=2048, show_default=True, help="Bytes for a packet: 2048 or 4096."),
        engine("--xdp-mode", type=click.Choice(config.XDP_MODES), default="auto", show_default=True,
               help="Where XDP runs."),
        engine("--kernel-filter", type=click.Choice(["drop", "host"]),
               help="Run the filter in the XDP program; what it does not want is dropped, or goes to the host."),
        engine("--capture-threads", type=COUNT, help="One for each queue if not given."),
        engine("--cpus", type=Parsed("LIST", parse_cpus), default=(), help="CPUs to pin threads to: 0,1."),
        engine("--timeout", "timeout_ns", type=DURATION, default=1_000_000,
               help="Wait for a full chunk.  [default: 1ms]"),
        output("-q", "--quiet", is_flag=True, help="No live line; the counters at the end only."),
        output("-v", "verbose", count=True, help="Counters of each queue at the end."),
        output("--summary-json", type=OUTPUT, help="Write the summary as JSON; - is the standard output."),
    ]  # fmt: skip

    def decorate(function: Decorated) -> Decorated:
        for option in reversed(shared):
            function = option(function)
        return function

    return decorate


def config_of(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of CaptureConfig that these options, and others of the same names, set."""
    same = ("engine", "mode", "xdp_mode", "T", "handlers", "kernel_filter", "netns", "take_over", "capture_threads",
            "cpus", "timeout_ns", "buddies", "keep_going")  # fmt: skip
    return {name: given[name] for name in same} | {
        "pool": pool_of(given), "ring": given["ring_cells"], "promiscuous": not given["not_promiscuous"],
    }  # fmt: skip
