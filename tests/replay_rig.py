"""Replays between a testbed's two sides: files of packets, a receiver that keeps them, a session that sends them."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import wirecap
from wirecap.lab.testbed import Testbed
from wirecap.linux import netlink
from wirecap.traffic import synthetic
from wirecap.traffic import ways as choose
from wirecap.traffic.recording import Recording
from wirecap.traffic.sender import Macs
from wirecap.traffic.session import Outcome, Session
from wirecap.traffic.timing import Timing


def write_pcap(path: Path, packets: Sequence[bytes], gap_us: int = 100, link: int = 1) -> Path:
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link))
        for number, data in enumerate(packets):
            at = number * gap_us
            file.write(struct.pack("<IIII", 1_700_000_000 + at // 10**6, at % 10**6, len(data), len(data)) + data)
    return path


def mixed(count: int) -> list[bytes]:
    """Packets of many sizes and flows, each with its number."""
    sizes = np.random.default_rng(5).integers(60, 1515, count)
    return [
        synthetic.udp(int(size), source=f"10.1.{number % 200}.7", source_port=1024 + number % 5000)[:42]
        + number.to_bytes(8, "big") + bytes([number % 256]) * (int(size) - 50)
        for number, size in enumerate(sizes)
    ]  # fmt: skip


class Receiver:
    """Takes ``count`` packets from the capture side of a testbed's NIC, by queue, with their timestamps.

    All cells of the pool are attached: none of them is lost while its threads have no CPU.
    """

    def __init__(self, bed: Testbed, count: int, nic: int = 0) -> None:
        inside = bed.nics[nic].inside
        self.capture = wirecap.open(inside, netns=bed.name, count=count, duration_s=100, R=400, ring=400 * 256)
        self.packets: dict[int, list[bytes]] = {}
        self.timestamps: list[int] = []
        self._thread = threading.Thread(target=self._take)

    def _take(self) -> None:
        for chunk in self.capture:
            self.packets.setdefault(chunk.queue, []).extend(bytes(packet) for packet in chunk)
            self.timestamps += chunk.timestamps.tolist()

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self._thread.join()
        self.capture.close()
        self.summary = self.capture.summary()


def replay(
    bed: Testbed, files: Sequence[Path | str], timing: Timing, way: str = "auto", queues: tuple[int, ...] | None = None,
    macs: Macs = choose.KEEP, run: Callable[[Session], Outcome] = Session.run, **options: object,
) -> Outcome:  # fmt: skip
    facts = netlink.interface(bed.nics[0].outside)
    plan = Recording([str(file) for file in files], timing, facts.mtu, queues=len(queues or (0,)), **options)  # type: ignore[arg-type]
    wish = choose.Wish(queues, choose.longest_frame(facts), timing.paced, timing.pps, macs)
    sender, _ = choose.open_sender(facts.name, way, wish)
    try:
        return run(Session(plan, sender))
    finally:
        sender.close()
