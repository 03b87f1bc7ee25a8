"""What ``wirecap capture`` prints instead of capturing: the interfaces, or a filter's program."""

from __future__ import annotations

import click


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
    rows.append((f"{len(found) + 1}.", choose.ANY, "1", "-", "up", "-", "packet", "all of them"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def program(expression: str, times: int, snaplen: int | None, optimise: bool) -> None:
    """The classic BPF of a filter, as ``tcpdump -d`` and ``-ddd`` print it; ``-dd`` is its eBPF."""
    from wirecap.filters import dump, ebpf_text
    from wirecap.filters.expression import compile_filter

    compiled = compile_filter(expression, snaplen=snaplen or 262144, optimize=optimise)
    if times == 1:
        click.echo(dump.dump(compiled))
    elif times == 2:
        click.echo(ebpf_text.dump_ebpf(compiled))
    else:
        click.echo(dump.dump_decimal(compiled))
