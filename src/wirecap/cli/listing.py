"""What ``wirecap capture`` prints instead of capturing: interfaces and what they have, or a filter's program."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace

import click

from wirecap.errors import UsageError
from wirecap.specs import ANY, QueueSpec

TIME_STAMPS = {
    "host": "Host", "host_lowprec": "Host, low precision", "adapter_unsynced": "Adapter, not synced with system time",
}  # fmt: skip


def interfaces(namespace: str | None) -> None:
    """The interfaces with their queues, driver, state, XDP, addresses, and what --engine auto takes on them."""
    from wirecap.linux import netlink, netns, xdp_features
    from wirecap.source import choose

    found = netns.call(namespace, netlink.interfaces)
    features = netns.call(namespace, xdp_features.by_interface)
    rows = [("", "INTERFACE", "QUEUES", "DRIVER", "STATE", "XDP", "ENGINE", "ADDRESSES")]
    for number, facts in enumerate(found, 1):
        able = "?" if features is None else xdp_features.describe(features.get(facts.index, xdp_features.XdpFeature(0)))
        rows.append((
            f"{number}.",
            facts.name,
            str(facts.rx_queues),
            facts.driver or facts.kind or "-",
            facts.state if facts.up else "down",
            f"{able} (a program is attached)" if facts.xdp_mode else able,
            choose.auto_engine(facts),
            " ".join(facts.addresses) or "-",
        ))  # fmt: skip
    rows.append((f"{len(found) + 1}.", ANY, "1", "-", "up", "-", "packet", "all of them"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def by_number(specs: Sequence[QueueSpec], namespace: str | None) -> tuple[QueueSpec, ...]:
    """``-i 2`` is the second interface of the list, unless one is called so."""
    if not any(spec.interface.isdecimal() for spec in specs):
        return tuple(specs)
    from wirecap.linux import netns

    names = [*netns.call(namespace, _names), ANY]
    numbers = {str(number): name for number, name in enumerate(names, 1) if str(number) not in names}
    return tuple(replace(spec, interface=numbers.get(spec.interface, spec.interface)) for spec in specs)


def _names() -> list[str]:
    return [name for _, name in sorted(socket.if_nameindex())]


def link_types(specs: Sequence[QueueSpec], namespace: str | None) -> None:
    """The link types of interfaces, as ``tcpdump -L`` prints them."""
    from wirecap.linux import netns
    from wirecap.source import link_types

    for spec in _given(specs, "-L"):
        name, meaning = link_types.NAMES[netns.call(namespace, link_types.of_interface, spec)]
        click.echo(f"Data link types for {spec.interface} (use option -y to set):\n  {name} ({meaning})")


def time_stamps(specs: Sequence[QueueSpec], namespace: str | None) -> None:
    """What ``-j`` takes on interfaces, as ``tcpdump -J`` prints it."""
    from wirecap.linux import ethtool, netns

    for spec in _given(specs, "-J"):
        click.echo(f"Time stamp types for {spec.interface} (use option -j to set):")
        for name, meaning in TIME_STAMPS.items():
            if name != "adapter_unsynced" or netns.call(namespace, ethtool.stamps_all, spec.interface):
                click.echo(f"  {name} ({meaning})")


def _given(specs: Sequence[QueueSpec], option: str) -> Sequence[QueueSpec]:
    if not specs:
        raise UsageError(f"{option} tells of interfaces, and none is given", "add -i INTERFACE")
    return specs


def program(
    expression: str, times: int, snaplen: int | None, optimise: bool, link_type: str | None, read_file: str | None
) -> None:
    """The classic BPF of a filter, as ``tcpdump -d`` and ``-ddd`` print it; ``-dd`` is its eBPF.

    It is for link_type where that is given, else for the packets of read_file, else for Ethernet.
    """
    from wirecap.filters import dump, ebpf_text
    from wirecap.filters.expression import compile_filter
    from wirecap.source import link_types

    number = link_types.number(link_type) if link_type else link_types.ETHERNET
    if read_file and not link_type:
        from wirecap.files.reader import open_capture

        with open_capture(read_file) as file:
            number = file.interfaces[0].dlt if file.interfaces else number
    compiled = compile_filter(expression, number, snaplen=snaplen or 262144, optimize=optimise)
    if times == 1:
        click.echo(dump.dump(compiled))
    elif times == 2:
        click.echo(ebpf_text.dump_ebpf(compiled))
    else:
        click.echo(dump.dump_decimal(compiled))
