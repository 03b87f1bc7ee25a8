"""Which NICs doctor looks at, and what it tells of where they, their interrupts and their packets are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from wirecap.linux.netlink import Interface
    from wirecap.linux.placement import Place
    from wirecap.linux.probes import Finding


def chosen(names: Iterable[str] = ()) -> list[Interface]:
    """The interfaces to look at: the named ones, else those where ``--engine auto`` would use AF_XDP.  In their
    namespace."""
    from wirecap.config.sources import SOURCES
    from wirecap.linux import netlink
    from wirecap.source import choose

    if names:
        return [netlink.interface(name) for name in names]
    return [facts for facts in netlink.interfaces() if SOURCES[choose.auto_engine(facts)].runs_xdp]


def findings(name: str, place: Place) -> list[Finding]:
    """In the interface's network namespace."""
    from wirecap.linux import ethtool, nic_losses
    from wirecap.linux.probes import Finding

    found = [Finding(f"{name} placement", None, sentence(name, place))] if place.node >= 0 or place.interrupts else []
    if place.interrupts and (helper := balancer()):
        said = f"{helper} runs, and moves the interrupts that are placed by hand"
        found.append(Finding(f"{name} {helper}", None, said, f"systemctl stop {helper}, or ban them in its options"))
    queues = (ethtool.channels(name) or (0, 0))[0]
    used = len(set(ethtool.indirection(name)))
    if 0 < used < queues:
        said = f"RSS spreads packets over {used} of the {queues} queues of {name}"
        found.append(Finding(f"{name} RSS", None, said, f"ethtool -X {name} equal {queues}"))
    found += _polling(name) + _launch_time(name)
    if lost := nic_losses.counted(ethtool.statistics(name)):
        counters = ", ".join(f"{each} {count}" for each, count in sorted(lost.items()))
        said = f"the NIC itself has lost packets since it came up ({nic_losses.NO_BUFFER}): {counters}"
        found.append(Finding(f"{name} losses", None, said, "longer rings (ethtool -G), more queues (ethtool -L)"))
    return found


def _polling(name: str) -> list[Finding]:
    """Where the kernel does not poll the NIC's queues in the way it does by default."""
    from wirecap.linux import busy_poll, netlink
    from wirecap.linux.probes import Finding

    state = busy_poll.state(name)
    found = []
    if state.get("threaded"):
        said = f"threaded NAPI: threads of the kernel (napi/{name}-*) poll the queues of {name}, not interrupts"
        found.append(
            Finding(f"{name} NAPI", None, said, f"place them with taskset; echo 0 > /sys/class/net/{name}/threaded")
        )
    put_off = [f"{file} {state[file]}" for file in busy_poll.WANTED if state.get(file)]
    if put_off and not netlink.interface(name).xdp_mode:
        said = f"{name} puts off its interrupts, and no capture polls it: {', '.join(put_off)}"
        help = "; ".join(f"echo 0 > /sys/class/net/{name}/{file}" for file in busy_poll.WANTED if state.get(file))
        found.append(Finding(f"{name} polling", None, said, help))
    return found


def _launch_time(name: str) -> list[Finding]:
    """Where the driver can send by the NIC's clock: whether that is switched on."""
    from wirecap.linux import launch_time, netdev, netlink
    from wirecap.linux.probes import Finding
    from wirecap.traffic.sender import queue_list

    index = netlink.index_of(name)
    if not netdev.features(index).sent & netdev.LAUNCH_TIME:
        return []
    on = sorted(launch_time.switched_on(index))
    lack = launch_time.lack(name, index, on or (0,))
    if lack:
        said = f"replay and generate could leave their times to the NIC's clock: {lack.reason}"
        return [Finding(f"{name} launch time", None, said, lack.way_out)]
    said = f"the NIC's clock keeps the times of what is sent on {queue_list(on)}"
    return [Finding(f"{name} launch time", True, said)]


def sentence(name: str, place: Place) -> str:
    """``NUMA node 0 (CPUs 0-15), interrupts: queue 0 on CPU 3, ...``."""
    from wirecap.linux.placement import format_list

    cpus = f" (CPUs {format_list(place.cpus)})" if place.cpus else ""
    parts = [f"NUMA node {place.node}{cpus} of {place.nodes}" if place.node >= 0 else "NUMA node not known"]
    if place.interrupts:
        where = ", ".join(f"queue {each.queue} on CPU {format_list(each.effective)}" for each in place.interrupts)
        parts.append(f"interrupts: {where}")
    return "; ".join(parts)


def balancer(root: Path | None = None) -> str:
    """``irqbalance`` if it runs."""
    from pathlib import Path

    for comm in ((root or Path("/")) / "proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == "irqbalance":
                return "irqbalance"
        except OSError:  # it has ended
            continue
    return ""
