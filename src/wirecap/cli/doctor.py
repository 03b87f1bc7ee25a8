"""``wirecap doctor``: what this host, its NICs and its kernel can do, and what to change."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from wirecap import units
from wirecap.cli import listing, whereabouts
from wirecap.cli.options import DURATION, OUTPUT, Command, Parsed, json_option, section, write_json
from wirecap.cli.typed import as_typed
from wirecap.config.capture import PoolConfig
from wirecap.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from wirecap.linux.probes import Finding
    from wirecap.linux.tuning import Change


TOOLS = {
    "tcpdump": "tcpdump",
    "dumpcap": "wireshark-common",
    "tshark": "tshark",
    "tcpreplay": "tcpreplay",
    "netsniff-ng": "netsniff-ng",
    "dpdk-testpmd": "dpdk-dev",
}
"""Programs that tests and benchmarks compare against, and their Debian packages; captures do not need them."""


CELL = PoolConfig().cell


where, disk, fix, report = section("Options"), section("A disk"), section("Changes"), section("For an issue")


@click.command(cls=Command)
@where("-i", "--interface", "names", multiple=True, metavar="INTERFACE", help="Check this interface instead of every"
       " capture port; repeatable.")  # fmt: skip
@where("--netns", metavar="NAME", help="Check the interfaces of this network namespace.")
@json_option("Write the findings", "Options")
@disk("--disk", "folder", metavar="FOLDER", help="Measure whether a folder takes a full link's packets, by writing"
      " them as a capture does.")  # fmt: skip
@disk("--rate", "rate_bps", type=Parsed("RATE", units.parse_link), help="The link's rate: 10Gbps."
      "  [default: that of the interfaces of -i]")  # fmt: skip
@disk("--duration", "duration_ns", type=DURATION, help="How long to write.  [default: 1m]")
@fix("--fix", "fixing", is_flag=True, help="Make safe changes, after asking: queues, ring sizes, coalescing, offloads,"
     " interrupts' CPUs, huge pages.")  # fmt: skip
@fix("--yes", is_flag=True, help="With --fix: do not ask.")
@report("--report", "report_file", is_flag=False, flag_value="-", type=OUTPUT, metavar="[FILE]", help="Write a"
        " report for an issue, without addresses, names or packets.")  # fmt: skip
def command(
    names: tuple[str, ...], netns: str | None, json_file: str | None, folder: str | None, rate_bps: int | None,
    duration_ns: int | None, fixing: bool, yes: bool, report_file: str | None,
) -> None:  # fmt: skip
    """Check what this host, its NICs and its kernel can do, and what to change.

    The exit status is 1 if AF_XDP capture cannot work here, or if something would lose packets; the packet
    engine and captures from files may still work.

    \b
      wirecap doctor -i eth1
      wirecap doctor --disk /var/captures -i eth1
      sudo wirecap doctor -i eth1 --fix
      wirecap doctor --report > report.txt
    """
    from wirecap.linux import netns as namespaces

    _check(folder, rate_bps, duration_ns, fixing, yes, report_file)
    if fixing:
        from wirecap.cli import fixing as fixes

        fixes.run(namespaces.call(netns, changes, names), netns, yes, json_file)
        return
    findings: list[Finding] = []
    seen: list[str] = []
    if report_file:
        from wirecap.cli import report  # only then: it takes 16 ms

        seen = report.interface_names(netns)
    if folder is None or report_file:
        findings = [*examine(), *namespaces.call(netns, ports, names)]
    if folder is not None:
        from wirecap.cli import disk

        findings.append(disk.finding(folder, names, netns, rate_bps, duration_ns))
    if report_file:
        report.write(report_file, findings, names, netns, json_file, seen)
    elif json_file:
        write_json(json_file, [asdict(finding) for finding in findings])
    if "-" not in (json_file, report_file):
        _show(findings)
        if folder is None:
            click.echo()
            listing.interfaces(netns)
    if any(finding.good is False and (finding.essential or finding.loses) for finding in findings):
        raise SystemExit(1)


def _check(
    folder: str | None, rate_bps: int | None, duration_ns: int | None, fixing: bool, yes: bool, report_file: str | None
) -> None:
    """Raise UsageError for options that do not go together."""
    if folder is None and (rate_bps is not None or duration_ns is not None):
        raise UsageError("--rate and --duration are for a disk", "add --disk FOLDER")
    if duration_ns == 0:
        raise UsageError("--duration 0 leaves no time to write", "measure a disk for a minute or longer: 1m")
    if yes and not fixing:
        raise UsageError("--yes has no effect without --fix", "add --fix")
    if fixing and (folder is not None or report_file):
        raise UsageError("--fix cannot be combined with --disk or --report", "use only one of them")


def examine() -> Iterator[Finding]:
    """Every check, the most important first."""
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


def changes(names: Iterable[str] = ()) -> list[Change]:
    """What can safely be changed on these interfaces and on the host, in the calling thread's namespace.

    Raises UsageError for an interface that the host or a capture uses; those that are not named are passed over.
    """
    from wirecap.linux import ethtool, netlink, placement, tuning

    found = list(tuning.huge_pages())
    for facts in whereabouts.chosen(names):
        used = netlink.is_in_use(facts)
        if not used and facts.xdp_mode:
            used = f"{facts.name} is being captured on"
        if used and names:
            raise UsageError(f"{used}: --fix leaves it alone", "name a capture port on which no capture runs")
        if not used:
            place = placement.place_of(ethtool.bus(facts.name))
            found += tuning.of_interface(facts.name, facts.kind == "veth", place)
    return found


def ports(names: Iterable[str] = ()) -> list[Finding]:
    """What to change on each interface, in the calling thread's namespace."""
    from wirecap.config.sources import SOURCES
    from wirecap.linux import ethtool, netlink, placement, tuning
    from wirecap.linux.probes import Finding
    from wirecap.source import choose
    from wirecap.source.nics import COPYING, shortcomings

    found = []
    for facts in whereabouts.chosen(names):
        name, by_xdp = facts.name, SOURCES[choose.auto_engine(facts)].runs_xdp
        with contextlib.suppress(UsageError):  # the interface has just gone away
            found += [
                Finding(
                    f"{name} {row.subject}",
                    None if row.subject == COPYING else False,
                    *row.on([name]),
                    loses=row.subject == "MTU",
                )
                for row in (shortcomings(name, CELL) if by_xdp else ())
            ]
        told = {finding.name for finding in found}
        place = placement.place_of(ethtool.bus(name))
        for change in tuning.of_interface(name, facts.kind == "veth" or not by_xdp, place):
            if change.subject not in told:
                good = False if change.loses else None
                found.append(Finding(change.subject, good, change.said, change.command, loses=change.loses))
        found += whereabouts.findings(name, place)
        if by_xdp and netlink.is_virtual(facts):
            said = f"what this machine sends to {name} has unfinished checksums; forward finishes those of TCP and UDP"
            remedy = "for other protocols, captures and --xdp-mode generic, at the sender: ethtool -K INTERFACE tx off"
            found.append(Finding(f"{name} checksums", None, said, remedy))
    return found


def _compiled_kernels() -> Finding:
    from wirecap.kernels.base import cache, shipped
    from wirecap.linux.probes import Finding

    folder = cache.FILLED or cache.CACHE_DIR
    there, brought = _compiled_in(folder), _compiled_in(shipped.folder()) - _compiled_in(folder)
    if cache.CACHE_NOTE and not (cache.FILLED and there):
        return Finding("kernels", False, cache.CACHE_NOTE, cache.CACHE_HINT)
    parts = [f"{len(there)} compiled, in {folder}"] if there else []
    if brought:
        parts.append(f"{len(brought)} from the package's object code, for any {getattr(shipped.folder(), 'name', '')}")
    if not parts:
        return Finding(
            "kernels", None, "not compiled yet", "'wirecap warmup' compiles them; otherwise the first capture does"
        )
    missing = Counter(
        _USES.get(room := name.partition(".")[0], room) for name in _kernels() if name not in there | brought
    )
    if missing:
        of = ", ".join(f"{number} of {use}" for use, number in sorted(missing.items()))
        advice = "'wirecap warmup' compiles them; otherwise the first use does"
        return Finding("kernels", None, f"{', '.join(parts)}; not yet: {of}", advice)
    advice = "'wirecap warmup' compiles them for this processor, which is a little faster" if brought else ""
    return Finding("kernels", True, ", ".join(parts), advice)


def _compiled_in(folder: Path | None) -> set[str]:
    """The names of the kernels that are kept in a folder."""
    files = (name for _, _, names in os.walk(folder or "") for name in names)
    return {name.removesuffix(".code") for name in files if ".code" in name}


_USES = {
    "xdp": "--engine xdp", "af_packet": "--engine packet", "file": "capture files", "transmit": "replay and generate",
    "sim": "simulate", "packet": "handlers", "pool": "capture",
}  # fmt: skip
"""What the kernels of a folder are for, where its name does not say it."""


def _kernels() -> list[str]:
    """The names of all kernels."""
    from wirecap.cli.warmup import import_kernels

    names: list[str] = import_kernels().entry_points()
    return names


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
    shown: dict[str, str] = {}  # advice: the finding that had it first
    marks = {True: ("ok", "green"), False: ("NO", "red"), None: ("--", "yellow")}
    for finding in findings:
        mark, colour = marks[finding.good]
        click.echo(f"{click.style(mark, fg=colour)}  {finding.name:<{width}}  {finding.found}")
        if finding.advice:
            first = shown.setdefault(finding.advice, finding.name)
            advice = as_typed(finding.advice) if first == finding.name else f"as for {first}"
            click.echo(f"    {'':<{width}}  -> {advice}")
