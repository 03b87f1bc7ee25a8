"""Where things are: the NUMA node of a NIC, the interrupts of its queues, and the CPUs that get them.

All is read from sysfs and procfs below ``root``, so that trees of other machines can be looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
_QUEUE = re.compile(
    r"(?:tx[-_]?rx|rx[-_]?tx|rx|input|comp|fp|queue|ch|eq)[-_.]?(\d+)(?:@.*)?$|[-.](\d+)(?:@.*)?$", re.IGNORECASE
)
_OTHER = re.compile(
    r"output|config|async|mgm|misc|link|event|ctrl|control|admin|(?<![a-z])(?<!rx[-_])tx(?![-_]?rx)", re.IGNORECASE
)


@dataclass(frozen=True)
class Interrupt:
    """An interrupt of a receive queue, the CPUs that may get it, and the one or more that do."""

    number: int
    queue: int
    allowed: tuple[int, ...]
    effective: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a NIC is: its NUMA node (-1: not known), that node's CPUs, its queues' interrupts by queue."""

    node: int = -1
    cpus: tuple[int, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()
    nodes: int = 1
    """NUMA nodes of the machine."""


def place_of(bus: str, root: Path = ROOT) -> Place:
    """The place of a device on the PCI bus: ``0000:03:00.0``; what cannot be read is not known."""
    device = root / "sys/bus/pci/devices" / bus
    nodes = len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or 1
    if not bus or not device.is_dir():
        return Place(nodes=nodes)
    node = int(_text(device / "numa_node") or -1)
    if node < 0 and nodes == 1:
        node = 0
    cpus = parse_list(_text(root / f"sys/devices/system/node/node{node}/cpulist")) if node >= 0 else ()
    numbers = {int(each.name) for each in (device / "msi_irqs").glob("[0-9]*")}
    if not numbers and (alone := _text(device / "irq")) not in ("", "0"):
        numbers = {int(alone)}
    return Place(node, cpus, tuple(_interrupts(numbers, root)), nodes)


def _interrupts(numbers: set[int], root: Path) -> list[Interrupt]:
    """Those of receive queues, by queue; the first of each."""
    found: dict[int, Interrupt] = {}
    for line in _text(root / "proc/interrupts").splitlines():
        number, colon, rest = line.strip().partition(":")
        if not colon or not number.isdecimal() or int(number) not in numbers:
            continue
        name = rest.split()[-1] if rest.split() else ""
        queue = queue_of(name)
        if queue is None or queue in found:
            continue
        folder = root / "proc/irq" / number
        allowed = parse_list(_text(folder / "smp_affinity_list"))
        effective = parse_list(_text(folder / "effective_affinity_list")) or allowed
        found[queue] = Interrupt(int(number), queue, allowed, effective)
    return [found[queue] for queue in sorted(found)]


def queue_of(name: str) -> int | None:
    """The receive queue that an interrupt is for: ``eth1-TxRx-3``, ``virtio2-input.0``, ``mlx5_comp3@pci:...``."""
    if _OTHER.search(name):
        return None
    match = _QUEUE.search(name)
    return int(match[1] or match[2]) if match else None


def parse_list(text: str) -> tuple[int, ...]:
    """The kernel's lists of CPUs: ``0-3,8``."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if first.isdecimal() and (not dash or last.isdecimal()):
            found += range(int(first), int(last if dash else first) + 1)
    return tuple(found)


def format_list(numbers: tuple[int, ...]) -> str:
    """The reverse: ``0-3,8``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def own_cores(cpus: tuple[int, ...], root: Path = ROOT) -> tuple[int, ...]:
    """The first hardware thread of each core among these CPUs, then the others."""
    first: list[int] = []
    for cpu in cpus:
        siblings = parse_list(_text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        if not set(siblings) & set(first):
            first.append(cpu)
    return (*first, *(cpu for cpu in cpus if cpu not in first))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
