"""Interfaces of a testbed that are unplugged and come back, and what a user is told of them."""

from __future__ import annotations

import subprocess
from typing import Any

from wirecap.lab.testbed import Testbed


class Told:
    """A display that keeps what it is told."""

    interval_s = 1.0

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str, event: str = "", **fields: Any) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=60)


def unplug(bed: Testbed, nic: int = 0) -> None:
    ip("link", "del", bed.nics[nic].outside)


def plug_in(bed: Testbed, nic: int = 0, queues: int = 2) -> None:
    """An interface of the same name, in the same place; its packets come from a peer of the same name."""
    one = bed.nics[nic]
    ends = ["numrxqueues", str(queues), "numtxqueues", str(queues)]
    ip("link", "add", one.outside, *ends, "type", "veth", "peer", "name", one.inside, *ends, "netns", bed.name)
    for end in (["-n", bed.name], one.inside), ([], one.outside):
        ip(*end[0], "link", "set", end[1], "addrgenmode", "none", "up", "promisc", "on")
