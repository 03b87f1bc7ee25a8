"""What ``wirecap capture`` can print instead of capturing: interfaces and their features, or a filter's program."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import click

from wirecap.cli.options import write_json
from wirecap.config.specs import ANY, QueueSpec, names_in
from wirecap.errors import UsageError, WirecapError

TIME_STAMPS = {
    "host": "Host", "host_lowprec": "Host, low precision", "host_hiprec": "Host, high precision",
    "adapter_unsynced": "Adapter, not synced with system time",
}  # fmt: skip


def interfaces(namespace: str | None, json_file: str | None = None) -> None:
    """Print the interfaces with their queues, driver, state, XDP, addresses, and the engine that auto would choose."""
    rows = _interfaces(namespace)
    if not _as_json(json_file, [row._asdict() for row in rows]):
        _table(rows)


class Row(NamedTuple):
    """A line of ``-D``."""

    number: int
    interface: str
    queues: int
    driver: str
    state: str
    xdp: str
    engine: str
    addresses: list[str]


def _interfaces(namespace: str | None) -> list[Row]:
    from wirecap.linux import netlink, netns, probes
    from wirecap.source import choose

    found = netns.call(namespace, netlink.interfaces)
    features = netns.call(namespace, probes.xdp_features)
    rows = []
    for number, facts in enumerate(found, 1):
        able = (
            "?" if features is None else probes.describe_xdp_features(features.get(facts.index, probes.XdpFeature(0)))
        )
        rows.append(Row(
            number,
            facts.name,
            facts.rx_queues,
            facts.driver or facts.kind or "-",
            facts.state if facts.up else "down",
            f"{able} (a program is attached)" if facts.xdp_mode else able,
            choose.auto_engine(facts),
            list(facts.addresses),
        ))  # fmt: skip
    return [*rows, Row(len(found) + 1, ANY, 1, "-", "up", "-", "packet", [])]


def _as_json(json_file: str | None, found: Any) -> bool:
    """Write what would be printed as JSON, if that is wanted; whether it took standard output."""
    if json_file:
        write_json(json_file, found)
    return json_file == "-"


def _table(found: Sequence[Row]) -> None:
    rows = [("", *(name.upper() for name in Row._fields[1:]))]
    for row in found:
        addresses = " ".join(row.addresses) or ("all of them" if row.interface == ANY else "-")
        rows.append((f"{row.number}.", *map(str, row[1:-1]), addresses))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for line in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def by_own_name(specs: Sequence[QueueSpec], namespace: str | None, option: str = "") -> tuple[QueueSpec, ...]:
    """The interfaces under the kernel's names: instead of alternative ones, and of numbers from the list (``-i 2``).

    A number that is an interface's name means that interface.  option: which takes one interface, and is repeatable.
    """
    if not specs:
        return ()
    from wirecap.linux import netns

    try:
        names = [*netns.call(namespace, _names), ANY]
    except WirecapError:  # no such namespace: whoever captures in it will say so
        return tuple(specs)
    numbers = {str(number): name for number, name in enumerate(names, 1)}

    def own(name: str) -> str:
        if name in names:
            return name
        from wirecap.linux import netlink

        found = numbers.get(name) or netns.call(namespace, netlink.own_name, name)
        several = names_in(name)
        if option and len(several) > 1 and found == name:
            hint = " ".join(f"{option} {one}" for one in several)
            raise UsageError(f"no interface {name!r}", f"write it as {hint}")
        return found

    return tuple(replace(spec, interface=own(spec.interface)) for spec in specs)


def _names() -> list[str]:
    return [name for _, name in sorted(socket.if_nameindex())]


def link_types(specs: Sequence[QueueSpec], namespace: str | None, json_file: str | None = None) -> None:
    """Print the link types of interfaces in the form of ``tcpdump -L``."""
    from wirecap.linux import netns
    from wirecap.source import link_types

    found = []
    for spec in _given(specs, "-L"):
        name, meaning = link_types.NAMES[netns.call(namespace, link_types.of_interface, spec)]
        found.append({"interface": spec.interface, "name": name, "meaning": meaning})
    if not _as_json(json_file, found):
        for row in found:
            typed = f"  {row['name']} ({row['meaning']})"
            click.echo(f"Data link types for {row['interface']} (use option -y to set):\n{typed}")


def time_stamps(specs: Sequence[QueueSpec], namespace: str | None, json_file: str | None = None) -> None:
    """Print the values of ``-j`` that interfaces support, in the form of ``tcpdump -J``."""
    from wirecap.linux import ethtool, netns

    found = {}
    for spec in _given(specs, "-J"):
        by_nic = netns.call(namespace, ethtool.timestamps_all, spec.interface)
        found[spec.interface] = [name for name in TIME_STAMPS if name != "adapter_unsynced" or by_nic]
    if not _as_json(json_file, [{"interface": name, "names": names} for name, names in found.items()]):
        for interface, names in found.items():
            click.echo(f"Time stamp types for {interface} (use option -j to set):")
            for name in names:
                click.echo(f"  {name} ({TIME_STAMPS[name]})")


def _given(specs: Sequence[QueueSpec], option: str) -> Sequence[QueueSpec]:
    if not specs:
        raise UsageError(f"{option} needs an interface", "add -i INTERFACE")
    return specs


def program(
    expression: str, times: int, snaplen: int | None, optimise: bool, link_type: str | None, read_file: str | None,
    json_file: str | None = None,
) -> None:  # fmt: skip
    """Print a filter as classic BPF, in the form of ``tcpdump -d`` and ``-ddd``, or for ``-dd`` as eBPF.

    The filter is for link_type if that is given, else for the packets of read_file, else for Ethernet.
    """
    from wirecap.filters import dump
    from wirecap.filters.expand import plain
    from wirecap.filters.expression import compile_filter
    from wirecap.filters.metadata import Link, with_constants
    from wirecap.source import link_types

    number = link_types.number(link_type) if link_type else link_types.ETHERNET
    if read_file and not link_type:
        from wirecap.files.reader import open_capture

        with open_capture(read_file) as file:
            number = file.interfaces[0].dlt if file.interfaces else number
    compiled = compile_filter(expression, number, snaplen=snaplen or 262144, optimize=optimise)
    if compiled.note:
        click.echo(f"wirecap: {compiled.note}", err=True)
    if _as_json(json_file, {"filter": expression, "linktype": number, "program": plain(compiled).rows}):
        return
    if times == 1:
        click.echo(dump.dump(compiled))
    elif times == 2:
        click.echo(dump.dump_ebpf(with_constants(compiled, Link(number, direction="in"))))
    else:
        click.echo(dump.dump_decimal(compiled))
