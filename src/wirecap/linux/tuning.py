"""What of a NIC and of the host can safely be changed for capture, with the commands that do and undo it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wirecap.linux import ethtool, metadata, netlink, placement
from wirecap.linux.ethtool import Coalescing
from wirecap.linux.placement import ROOT, Place

WIRE_BYTES = 84
"""The shortest frame on an Ethernet wire, with preamble and gap."""
SETTLED_USECS = 50
"""Between interrupts, where the NIC cannot adapt it: 744 of the shortest frames of a 10 Gbit/s link."""
MERGING = ("rx-lro", "rx-gro-hw")
"""Offloads with which a NIC makes one long frame of several."""
_TRANSPARENT = "sys/kernel/mm/transparent_hugepage/enabled"


@dataclass(frozen=True)
class Change:
    """One thing to change: ``command`` as a shell would do it, ``undo`` back to how it is now."""

    subject: str
    said: str
    command: str
    undo: str
    apply: Callable[[], object]
    """Raises OSError or SystemCallError if it is refused."""
    state: Callable[[], str]
    """How it is now, in words."""
    took: Callable[[], bool]
    """Whether it is as it should be."""
    loses: bool = False
    """Whether packets are lost as it is."""


def of_interface(name: str, virtual: bool, place: Place, root: Path = ROOT) -> Iterator[Change]:
    """What to change on one interface, in the calling thread's network namespace.

    virtual: leave its offloads: those of one end of a pair are the other end's, and the packet engine minds none.
    """
    yield from _queues(name)
    yield from _rings(name)
    yield from _coalescing(name)
    if not virtual:
        yield from _offloads(name)
    yield from _interrupts(name, place, root)


def losing(names: Iterable[str]) -> list[str]:
    """What loses packets on these interfaces, as a capture says it; in their network namespace."""
    return [f"{change.said} ({change.command})" for name in names for change in _coalescing(name) if change.loses]


def _queues(name: str) -> Iterator[Change]:
    now, most, kind = ethtool.most_channels(name) or (0, 0, "")
    useful = min(most, len(os.sched_getaffinity(0)))
    if 0 < now < useful:
        yield Change(
            f"{name} queues", f"{name} uses only {now} of its {most} receive queues",
            f"ethtool -L {name} {kind} {useful}", f"ethtool -L {name} {kind} {now}",
            partial(ethtool.set_channels, name, kind, useful),
            lambda: f"{(ethtool.most_channels(name) or (0,))[0]} queues",
            lambda: (ethtool.most_channels(name) or (0,))[0] == useful,
        )  # fmt: skip


def _rings(name: str) -> Iterator[Change]:
    now, most = ethtool.most_descriptors(name) or (0, 0)
    if 0 < now < most:
        yield Change(
            f"{name} rings",
            f"{name} has receive rings of {now} descriptors, of at most {most}: longer rings absorb longer bursts",
            f"ethtool -G {name} rx {most}", f"ethtool -G {name} rx {now}",
            partial(ethtool.set_descriptors, name, most),
            lambda: f"{(ethtool.most_descriptors(name) or (0,))[0]} descriptors",
            lambda: (ethtool.most_descriptors(name) or (0,))[0] > now,
        )  # fmt: skip


def _coalescing(name: str) -> Iterator[Change]:
    now = ethtool.coalescing(name)
    descriptors, _ = ethtool.most_descriptors(name) or (0, 0)
    if now is None or now.adaptive:
        return
    queues = (ethtool.channels(name) or (1, 1))[0]
    per_us = ethtool.speed_bps(name) / (8 * WIRE_BYTES * 10**6) / max(queues, 1)
    arriving = int(now.usecs * per_us)
    if 0 < descriptors < arriving and not 0 < now.frames < descriptors:
        wanted = Coalescing(max(1, int(descriptors / 2 / per_us)), now.frames, False)
        said = (
            f"{name} waits {now.usecs} us before it interrupts: {arriving} of the shortest frames arrive in each queue,"
            f" which holds {descriptors}"
        )
        yield _coalesced(name, now, wanted, said, loses=True)
    elif not now.usecs and now.frames <= 1 and per_us:
        said = f"{name} interrupts for each packet, which takes the CPU from the capture"
        settled = SETTLED_USECS if not descriptors else min(SETTLED_USECS, max(1, int(descriptors / 2 / per_us)))
        yield _coalesced(name, now, Coalescing(settled, now.frames, False), said, loses=False)


def _coalesced(name: str, now: Coalescing, wanted: Coalescing, said: str, loses: bool) -> Change:
    def took() -> bool:
        found = ethtool.coalescing(name)
        return found is not None and (found.adaptive or found.usecs not in (0, now.usecs))

    return Change(
        f"{name} coalescing", said, f"ethtool -C {name} rx-usecs {wanted.usecs}",
        f"ethtool -C {name} rx-usecs {now.usecs}", partial(ethtool.set_coalescing, name, wanted),
        lambda: f"rx-usecs {getattr(ethtool.coalescing(name), 'usecs', 'unknown')}", took, loses,
    )  # fmt: skip


def _offloads(name: str) -> Iterator[Change]:
    try:
        on = ethtool.features(name)
    except OSError:
        return
    merging = [feature for feature in MERGING if on.get(feature)]
    stripping = [feature for feature in ("rx-vlan-hw-parse", "rx-vlan-stag-hw-parse") if on.get(feature)]
    if stripping and metadata.TAG in metadata.offered(netlink.index_of(name)):
        stripping = []  # a program puts them back
    for subject, features, said in (
        ("merging", merging, f"{name} may make long frames of several, which are longer than a cell"),
        ("VLAN tags", stripping, f"{name}: VLAN tags are stripped and will be missing"),
    ):
        if features:
            yield _switched(f"{name} {subject}", name, features, said)


def _switched(subject: str, name: str, features: list[str], said: str) -> Change:
    def left() -> list[str]:
        on = ethtool.features(name)
        return [feature for feature in features if on.get(feature)]

    def words(state: str) -> str:
        return f"ethtool -K {name} {' '.join(f'{feature} {state}' for feature in features)}"

    return Change(
        subject, said, words("off"), words("on"),
        partial(ethtool.set_features, name, dict.fromkeys(features, False)),
        lambda: f"{', '.join(left())} on" if left() else "off", lambda: not left(),
    )  # fmt: skip


def _interrupts(name: str, place: Place, root: Path) -> Iterator[Change]:
    """Interrupts of several queues on one CPU, or on CPUs of another node: spread over the node's."""
    known = [each for each in place.interrupts if each.effective]
    cpus = placement.own_cores(place.cpus, root)
    if len(known) < 2 or len(cpus) < 2:
        return
    used = {each.effective for each in known}
    far = [each for each in known if not set(each.effective) <= set(place.cpus)]
    crowded = len(used) < min(len(known), len(cpus))
    if not far and not crowded:
        return
    why = f"{len(known)} queues of {name} interrupt {len(used)} CPU{'' if len(used) == 1 else 's'}" if crowded else (
        f"queues of {name} interrupt CPUs that are not on its NUMA node {place.node}"
    )  # fmt: skip
    for number, each in enumerate(known):
        wanted = (cpus[number % len(cpus)],)
        if each.effective == wanted and each.allowed == wanted:
            continue
        file = f"/proc/irq/{each.number}/smp_affinity_list"
        yield _written(
            f"{name} interrupt {each.queue}",
            f"{why}: queue {each.queue} has CPU {placement.format_list(each.effective)}", file,
            placement.format_list(wanted), placement.format_list(each.allowed), root,
        )  # fmt: skip


def _written(subject: str, said: str, file: str, wanted: str, now: str, root: Path, found: str = "") -> Change:
    """A change by writing a word into a file; found: how it reads then, if not as it was written."""
    path = root / file.lstrip("/")
    return Change(
        subject, said, f"echo {wanted} > {file}", f"echo {now} > {file}", partial(_write, path, wanted),
        lambda: path.read_text().strip(), lambda: (found or wanted) in path.read_text().split(),
    )  # fmt: skip


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def huge_pages(root: Path = ROOT) -> Iterator[Change]:
    """Transparent huge pages for those who ask, where there are none: neither reserved nor transparent."""
    try:
        modes = (root / _TRANSPARENT).read_text()
        reserved = (root / "proc/sys/vm/nr_hugepages").read_text().strip()
    except OSError:
        return
    if "[never]" in modes and reserved == "0":
        said = "packets lie on small pages, which makes each a miss in the TLB"
        yield _written("huge pages", said, f"/{_TRANSPARENT}", "madvise", "never", root, "[madvise]")
