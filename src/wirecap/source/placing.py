"""``--cpus auto``: capture threads beside their interrupts, the others and the packets on the NIC's NUMA node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wirecap.linux import ethtool, memory, placement
from wirecap.linux.placement import ROOT, Place, format_list
from wirecap.source.source import SourceQueue


@dataclass(frozen=True)
class Placing:
    """The CPUs of each thread, those that take packets first; none to leave all to the scheduler.  lines: in words."""

    cpus: list[tuple[int, ...]]
    lines: list[str]


def places(names: Sequence[str], root: Path = ROOT) -> dict[str, Place]:
    """The place of each interface, in the calling thread's network namespace."""
    return {name: placement.place_of(ethtool.bus(name), root) for name in names}


def place(
    takers: Sequence[Sequence[SourceQueue]], others: int, known: dict[str, Place], allowed: Sequence[int],
    root: Path = ROOT,
) -> Placing:  # fmt: skip
    """Which CPUs the threads get that take packets from these queues, and so many others behind them.

    A taker gets a CPU of its own on the node of its first queue's NIC: one that takes no interrupt of a queue where
    there are enough, so that the kernel's work for a packet and ours go on side by side; else the one of its queue's
    interrupt, where the packet is in the cache.  The others share what is left of the nodes, or all of them.
    """
    interrupts = {cpu for each in known.values() for one in each.interrupts for cpu in one.effective}
    anywhere = placement.own_cores(tuple(sorted(allowed)), root)
    near = {
        name: placement.own_cores(tuple(c for c in each.cpus if c in allowed), root) for name, each in known.items()
    }
    placed, lines, taken = [], [], set[int]()
    for number, queues in enumerate(takers):
        name, queue = queues[0].interface, queues[0].queue
        own = next((one.effective for one in known[name].interrupts if one.queue == queue), ())
        if not own and known[name].nodes == 1:  # nothing is known that the scheduler does not know
            placed.append(anywhere)
            continue
        candidates = near[name] or anywhere
        here = set(own) & set(allowed)
        free = [cpu for cpu in candidates if cpu not in interrupts | taken]
        chosen = free[:1] or sorted(here) or [cpu for cpu in candidates if cpu not in taken][:1] or list(candidates)
        taken |= set(chosen)
        placed.append(tuple(chosen))
        where = f"{name} queue {queue}" + (f" interrupts CPU {format_list(own)}" if own else "")
        lines.append(f"capture {number} on CPU {format_list(tuple(chosen))} ({where})")
    if not lines:
        names = " and ".join(known)
        return Placing(
            [], [f"--cpus auto: {names}: no interrupts of its own on one NUMA node; the scheduler places threads"]
        )
    of_nodes = tuple(dict.fromkeys(cpu for name in known for cpu in near[name])) or anywhere
    left = tuple(cpu for cpu in of_nodes if cpu not in interrupts | taken) or of_nodes
    lines.append(f"other threads on CPU{'s' if len(left) > 1 else ''} {format_list(left)}")
    return Placing([*placed, *[left] * others], lines)


def astray(known: dict[str, Place], cpus: Sequence[int]) -> list[str]:
    """A line for each NIC of a machine with several NUMA nodes whose packets are taken on CPUs of another node, too.

    cpus: those on which threads may run.
    """
    return [
        f"{name} is on NUMA node {each.node} (CPUs {format_list(each.cpus)}), and threads may run on others: each"
        " packet then crosses between nodes (--cpus auto keeps them together)"
        for name, each in known.items()
        if each.nodes > 1 and each.cpus and not set(cpus) <= set(each.cpus)
    ]


def allowed_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def keep_near(arena: NDArray[np.uint8], queues: Sequence[SourceQueue], known: dict[str, Place]) -> None:
    """Let the memory of each queue, an equal part of the arena, come from its NIC's node; before it is touched."""
    if all(each.nodes == 1 for each in known.values()):
        return
    size = len(arena) // len(queues)
    nodes = [known[queue.interface].node for queue in queues]
    first = 0
    for number in range(1, len(nodes) + 1):
        if number == len(nodes) or nodes[number] != nodes[first]:
            if nodes[first] >= 0:
                memory.prefer_node(arena[first * size : number * size], nodes[first])
            first = number
