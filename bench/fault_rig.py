"""What the faults of bench/faults.py share: a testbed, a capture on it, and what must be true of it afterwards."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
from wirecap.errors import WirecapError
from wirecap.lab import process, testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

PATIENCE_S = 240.0
"""How long a capture may take to begin: kernels are compiled before, and others may use the machine."""


@dataclass(frozen=True)
class Length:
    """How many kills, and how long, in seconds, to stop the process and to overload it; packets for a slow disk."""

    kills: int = 200
    stopped_s: float = 10.0
    overload_s: float = 600.0
    slow_packets: int = 60_000


class ImpossibleError(Exception):
    """What the machine lacks for a fault."""


class BrokenError(Exception):
    """A promise that was not kept."""


@dataclass
class Outcome:
    """received, delivered: packets; lost: by name; said: the line with the reason, if it ended by itself."""

    fault: str
    result: str
    received: int = 0
    delivered: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    said: str = ""


def require(condition: object, what: str) -> None:
    if not condition:
        raise BrokenError(what)


@dataclass
class Setting:
    """Where a fault happens: a testbed with two NICs of two queues, and an empty folder."""

    bed: testbed.Testbed
    folder: Path
    length: Length
    rng: random.Random

    @property
    def inside(self) -> str:
        return self.bed.nics[0].inside

    @property
    def outside(self) -> str:
        return self.bed.nics[0].outside

    @contextmanager
    def capture(
        self, *options: str, queues: str = "", before: Sequence[str] = (), wirecap: Sequence[str] = common.WIRECAP
    ) -> Iterator[process.Child]:
        command = [*before, *wirecap, "capture", "--netns", self.bed.name, "-i", self.inside + queues]
        child = process.Child([*command, "--summary-json", str(self.summary), *options])
        with child:
            child.wait_for(r"capturing on", PATIENCE_S)
            yield child

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    def send(self, count: int, size: int = 60, rate: float = 0, cpu: int | None = None) -> int:
        """Send so many, and wait until they are there; what the veth's own queue had no room for is sent again."""
        before, sent = testbed.received(self.inside, self.bed.name), 0
        while sent < count:
            sent += self._send(count - sent, size, rate, cpu)
        wait(lambda: testbed.received(self.inside, self.bed.name) - before >= sent, "what was sent at the interface")
        return sent

    def _send(self, count: int, size: int, rate: float, cpu: int | None = None) -> int:
        with LiveFrames(self.outside, synthetic.udp(size), cpu=cpu) as sender:
            return sender.send_paced(count, rate) if rate else sender.send(count)

    def send_any(self, count: int, size: int = 60, rate: float = 0) -> None:
        """What may find nobody: the capture is about to end."""
        with contextlib.suppress(WirecapError):
            self._send(count, size, rate)

    def ip(self, *arguments: str, inside: bool = True) -> None:
        tool("ip", *(["-n", self.bed.name] if inside else []), *arguments)

    def told(self, fault: str, ended: process.Ended, goes_on: bool, names: set[str] | None = None) -> Outcome:
        """Check the way it ended and its accounting; names: under which packets may be lost."""
        lines = [line for line in ended.output.splitlines() if line.startswith("wirecap: ")]
        require("Traceback" not in ended.output, f"a traceback: {ended.output[-500:]}")
        require(ended.status == (0 if goes_on else 1), f"status {ended.status}: {ended.output[-500:]}")
        packets = json.loads(self.summary.read_text())["packets"]
        lost = {name: count for name, count in packets["drops"].items() if count}
        rest = packets["received"] - packets["delivered"] - packets["filtered_out"] - packets["dropped"]
        require(rest == 0 and sum(lost.values()) == packets["dropped"], f"the accounting does not add up: {packets}")
        require("unaccounted" not in lost, f"unaccounted packets: {packets}")
        require(set(lost) <= (names or set()), f"lost as {lost}")
        said = "" if goes_on else lines[-1].removeprefix("wirecap: ")
        return Outcome(fault, "goes on" if goes_on else "ends", packets["received"], packets["delivered"], lost, said)


def tool(*command: str) -> str:
    path = process.find(command[0])
    if path is None:
        raise ImpossibleError(f"needs {command[0]}")
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise ImpossibleError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait(condition: Callable[[], Any], what: str, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        require(time.monotonic() < end, f"{what}: not within {timeout_s:g} s")
        time.sleep(0.01)


def whole_packets(path: Path) -> int:
    """Packets of a pcapng file."""
    return len(times(path))


def times(path: Path) -> list[int]:
    """When packets came, in ns, by a pcapng file whose blocks are whole but for the last, which a kill may have cut."""
    data, at, found = path.read_bytes(), 0, list[int]()
    while at + 12 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 0 and not any(data[at:]):
            break  # reserved, and never written
        require(size >= 12 and size % 4 == 0, f"{path.name}: a block of {size} bytes at {at}")
        if at + size > len(data):
            break
        require(struct.unpack_from("<I", data, at + size - 4)[0] == size, f"{path.name}: a broken block at {at}")
        if kind == 6:
            high, low = struct.unpack_from("<II", data, at + 12)
            found.append(high << 32 | low)
        at += size
    return found


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    folder.mkdir()
    tool("mount", *arguments, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], timeout=30, check=True)


@contextmanager
def loop_device(backing: Path, size: int) -> Iterator[str]:
    """A loop device with a file system over a sparse file."""
    with backing.open("wb") as file:
        file.truncate(size)
    device = tool("losetup", "--find", "--show", str(backing))
    try:
        tool("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", "-b", "4096", "-O", "^has_journal", device)
        yield device
    finally:
        subprocess.run([process.find("losetup") or "losetup", "-d", device], timeout=30, check=False)
