"""``wirecap doctor --report``: what helps to understand an issue, without saying whose machine it is."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import os
import platform
import re
import socket
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wirecap.cli import whereabouts
from wirecap.cli.options import write_json
from wirecap.files.shared import write_text
from wirecap.linux import netns as namespaces
from wirecap.version import __version__

if TYPE_CHECKING:
    from wirecap.linux.probes import Finding

LIBRARIES = ("numpy", "numba", "llvmlite", "click", "cypcap", "pyroute2", "lz4", "zstandard")
MAC = re.compile(r"(?<![0-9a-f:])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![0-9a-f:])", re.IGNORECASE)
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9a-f:]*::|(?:[0-9a-f]{1,4}:){7})[0-9a-f:]{2,39}(?:\.\d+){0,3}(?![\w:])", re.IGNORECASE
)


def interfaces(names: Iterable[str] = ()) -> list[dict[str, Any]]:
    """What is known of each interface but its addresses.  In its namespace."""
    from wirecap.linux import ethtool, placement

    found = []
    for facts in whereabouts.chosen(names):
        name, coalescing = facts.name, ethtool.coalescing(facts.name)
        offloads: list[str] = []
        with contextlib.suppress(OSError):
            offloads = [each for each, on in ethtool.features(name).items() if on and ethtool.is_offload(each)]
        place = placement.place_of(ethtool.bus(name))
        found.append({
            "name": name, "kind": facts.kind or "hardware", "driver": facts.driver, "up": facts.up,
            "state": facts.state, "mtu": facts.mtu, "speed_bps": ethtool.speed_bps(name),
            "rx_queues": facts.rx_queues, "tx_queues": facts.tx_queues, "xdp_mode": facts.xdp_mode,
            "descriptors": ethtool.most_descriptors(name), "coalescing": coalescing and asdict(coalescing),
            "rss_queues": len(set(ethtool.indirection(name))), "numa_node": place.node,
            "interrupts": {each.queue: list(each.effective) for each in place.interrupts},
            "offloads": offloads,
            "nonzero_counters": {each: count for each, count in ethtool.statistics(name).items() if count},
        })  # fmt: skip
    return found


def write(
    path: str, findings: list[Finding], names: Iterable[str], netns: str | None, json_file: str | None,
    seen: Iterable[str],
) -> None:  # fmt: skip
    """Write the report as text to ``path``, and as JSON if that is asked for.

    names, netns: which interfaces; seen: the names of all of them before the examination, of which some may be gone.
    """
    nics, hidden = namespaces.call(netns, interfaces, names), names_to_hide(netns, seen)
    report = scrubbed({**_host(), "findings": [asdict(each) for each in findings], "interfaces": nics}, hidden)
    if json_file:
        write_json(json_file, report)
    if json_file == "-":
        return
    text = as_text(report)
    if path == "-":
        click.echo(text, nl=False)
    else:
        write_text(path, text)


def _host() -> dict[str, Any]:
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    information = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", information, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "wirecap": __version__, "python": platform.python_version(), "libc": " ".join(platform.libc_ver()),
        "kernel": os.uname().release, "machine": os.uname().machine, "cpu": model[1] if model else "",
        "cpus": os.cpu_count(), "cpus_allowed": len(os.sched_getaffinity(0)),
        "memory_kib": int(memory[1]) if memory else 0, "root": os.geteuid() == 0, "libraries": versions,
    }  # fmt: skip


def as_text(report: dict[str, Any]) -> str:
    """The report as Markdown, which issues show as it is."""
    host = {name: value for name, value in report.items() if name not in ("findings", "interfaces", "libraries")}
    lines = [
        "### Host",
        *_rows(host),
        f"- libraries: {', '.join(' '.join(each) for each in report['libraries'].items())}",
    ]
    marks = {True: "ok", False: "NO", None: "--"}
    lines += ["", "### Findings"]
    for each in report["findings"]:
        advice = f" -> {each['advice']}" if each["advice"] else ""
        lines.append(f"- {marks[each['good']]} {each['name']}: {each['found']}{advice}")
    for nic in report["interfaces"]:
        lines += ["", f"### {nic['name']}", *_rows({name: value for name, value in nic.items() if name != "name"})]
    return "\n".join(lines) + "\n"


def _rows(values: dict[str, Any]) -> list[str]:
    return [f"- {name}: {value}" for name, value in values.items() if value not in (None, "", [], {})]


def interface_names(netns: str | None = None) -> list[str]:
    """The names of the interfaces here and in a namespace."""
    from wirecap.linux import netlink

    every = [*netlink.interfaces(), *(namespaces.call(netns, netlink.interfaces) if netns else ())]
    return list(dict.fromkeys(interface.name for interface in every))


def names_to_hide(netns: str | None = None, seen: Iterable[str] = ()) -> dict[str, str]:
    """What names this machine, its user, and the interfaces here and in a namespace, and what stands in its place.

    seen: interfaces that there were before, and may be gone.
    """
    hidden: dict[str, str] = {}
    for name in (socket.gethostname(), socket.gethostname().partition(".")[0], os.uname().nodename):
        hidden[name] = "HOST"
    for name in (*namespaces.names(), *([netns] if netns else ())):
        hidden[name] = "NAMESPACE"
    for number, name in enumerate(dict.fromkeys([*seen, *interface_names(netns)])):
        if name != "lo":
            hidden[name] = f"nic{number}"
    with contextlib.suppress(OSError, KeyError, ImportError):
        user = getpass.getuser()
        hidden |= {user: "USER"} if user != "root" else {}
    hidden[str(Path.home())] = "~"
    hidden[sys.prefix] = "PREFIX"
    return {name: word for name, word in hidden.items() if len(name) > 1 and name != "localhost"}


def scrubbed(value: Any, hidden: dict[str, str]) -> Any:
    """The same without names and addresses, however deep they stand."""
    if isinstance(value, dict):
        return {scrubbed(key, hidden): scrubbed(each, hidden) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(each, hidden) for each in value]
    if not isinstance(value, str):
        return value
    for name in sorted(hidden, key=len, reverse=True):
        value = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", hidden[name], value)
    value = IPV6.sub("ADDRESS", MAC.sub("MAC", value))
    return IPV4.sub("ADDRESS", value)
