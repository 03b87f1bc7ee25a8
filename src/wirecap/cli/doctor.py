"""``wirecap doctor``: what this host, its NICs and kernel can do, and what to change."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from wirecap.cli import listing
from wirecap.cli.parameters import Command
from wirecap.config import PoolConfig

if TYPE_CHECKING:
    from wirecap.linux.probes import Finding

TOOLS = {
    "tcpdump": "tcpdump",
    "dumpcap": "wireshark-common",
    "tshark": "tshark",
    "tcpreplay": "tcpreplay",
    "netsniff-ng": "netsniff-ng",
    "dpdk-testpmd": "dpdk-dev",
}
"""Programs that tests and benchmarks compare with, and their Debian packages; a capture needs none of them."""


CELL = PoolConfig().cell


@click.command(cls=Command)
@click.option("--netns", metavar="NAME", help="Look at the interfaces of this network namespace.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON list.")
def command(netns: str | None, as_json: bool) -> None:
    """Tell what this host, its NICs and kernel can do, and what to change.

    Exit status 1 where an AF_XDP capture cannot work; captures by the packet engine, and from files, may then
    still do.
    """
    from wirecap.linux import netns as namespaces

    findings = [*examine(), *namespaces.call(netns, ports)]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        _show(findings)
        click.echo()
        listing.interfaces(netns)
    if any(finding.essential and finding.good is False for finding in findings):
        raise SystemExit(1)


def examine() -> Iterator[Finding]:
    """Everything that is looked at, in the order in which it matters."""
    from wirecap.linux import probes

    yield probes.check_kernel()
    yield probes.check_privileges()
    yield probes.check_bpf()
    yield probes.check_af_xdp()
    yield probes.check_packet_rings()
    yield probes.check_processors()
    yield probes.check_memory(PoolConfig().bytes(1))
    yield probes.check_huge_pages()
    yield _compiled_kernels()
    yield _tools()


def ports() -> list[Finding]:
    """What to change on each interface that ``--engine auto`` takes AF_XDP for, in the calling thread's namespace."""
    from wirecap import assemble
    from wirecap.errors import UsageError
    from wirecap.linux import netlink
    from wirecap.linux.probes import Finding
    from wirecap.source import choose

    found = []
    for name in (facts.name for facts in netlink.interfaces() if choose.auto_engine(facts) == "xdp"):
        with contextlib.suppress(UsageError):  # it has just gone away
            found += [Finding(f"{name} {row[0]}", False, *row[1:]) for row in assemble.shortcomings(name, CELL)]
        found += [Finding(f"{name} {row[0]}", None, *row[1:]) for row in _spare(name)]
    return found


def _spare(name: str) -> Iterator[tuple[str, str, str]]:
    """(subject, what a NIC has less of than it could have, how to change that)."""
    from wirecap.linux import ethtool

    now, most, kind = ethtool.most_channels(name) or (0, 0, "")
    useful = min(most, len(os.sched_getaffinity(0)))
    if now < useful:
        yield "queues", f"{name} uses {now} of {most} receive queues", f"ethtool -L {name} {kind} {useful}"
    now, most = ethtool.most_descriptors(name) or (0, 0)
    if now < most:
        said = (
            f"{name} has receive rings of {now} descriptors and could have {most}: a longer one bridges a longer burst"
        )
        yield "rings", said, f"ethtool -G {name} rx {most}"


def _compiled_kernels() -> Finding:
    from wirecap.kernels.jit import CACHE_DIR
    from wirecap.linux.probes import Finding

    number = sum(name.endswith(".nbc") for _, _, names in os.walk(CACHE_DIR) for name in names)
    if number:
        return Finding("kernels", True, f"{number} compiled, in {CACHE_DIR}")
    # Not Path.exists: it raises where a folder on the way must not be searched.
    nearest = next(place for place in (CACHE_DIR, *CACHE_DIR.parents) if os.path.exists(place))  # noqa: PTH110
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding("kernels", False, f"{CACHE_DIR} cannot be written", "set WIRECAP_CACHE_DIR to a folder of yours")
    return Finding("kernels", None, "not compiled yet", "wirecap warmup compiles them, else the first capture does")


def _tools() -> Finding:
    from wirecap.linux.probes import Finding

    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = {tool: package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)}
    found = ", ".join(tool for tool in TOOLS if tool not in missing) or "none"
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        return Finding("other tools", None, found, f"for tests and benchmarks: apt-get install {packages}")
    return Finding("other tools", True, found)


def _show(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    marks = {True: ("ok", "green"), False: ("NO", "red"), None: ("--", "yellow")}
    for finding in findings:
        mark, colour = marks[finding.good]
        click.echo(f"{click.style(mark, fg=colour)}  {finding.name:<{width}}  {finding.found}")
        if finding.advice:
            click.echo(f"    {'':<{width}}  -> {finding.advice}")
