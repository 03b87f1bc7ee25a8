"""Other programs that capture or send packets, run beside ours: what they delivered and what they dropped.

A capture peer is started on an interface, is ready when it says so, and is ended by SIGINT as a user
would end it; its own closing statistics are read.  Each is given the settings that were best for it.
"""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wirecap.errors import WirecapError
from wirecap.lab.process import Child, find, run

BUFFER_MIB = 64
"""The kernel's buffer for tcpdump and dumpcap: no less than our pool of (256, 100), which is 50 MiB a queue."""

DPDK_DRIVERS = ("lib/*/dpdk/pmds-*", "lib*/dpdk/pmds-*", "local/lib/*/dpdk/pmds-*")
"""Where DPDK's drivers lie under /usr: Debian and Ubuntu, others, built by hand."""


@dataclass(frozen=True)
class Caught:
    """What a capture peer says of itself at its end, in packets."""

    delivered: int
    dropped: int
    """What it knows that it missed; what never reached its socket is not in it."""
    cpu_s: float
    output: str


class Capture:
    """A capture peer: ``start``, traffic, ``stop``.  With a file it writes packets, without it counts them."""

    name: ClassVar[str]
    program: ClassVar[str]
    settle_s: ClassVar[float] = 1.5
    """How long after the last packet until the peer has read all: libpcap's blocks time out after a second."""
    needs_gro: ClassVar[bool] = True
    """AF_PACKET readers get frames redirected to a veth only when GRO is on there; XDP readers without it."""
    terminal: ClassVar[bool] = False
    ready: ClassVar[str]

    def __init__(self, interface: str, namespace: str | None = None, file: Path | None = None, cpu: int | None = None):
        self.interface, self.namespace, self.file, self.cpu = interface, namespace, file, cpu

    @classmethod
    def available(cls) -> str | None:
        """Why the peer cannot run here, or None."""
        return None if find(cls.program) else f"{cls.program} is not installed"

    def command(self) -> list[str]:
        raise NotImplementedError

    def parse(self, output: str) -> tuple[int, int]:
        """(delivered, dropped) from the closing statistics."""
        raise NotImplementedError

    def start(self) -> Capture:
        cpus = None if self.cpu is None else {self.cpu}
        self._child = Child(self.command(), self.namespace, cpus, self.terminal)
        self._child.wait_for(self.ready)
        return self

    def stop(self) -> Caught:
        time.sleep(self.settle_s)
        ended = self._child.end(signal.SIGINT)
        delivered, dropped = self.parse(ended.output)
        return Caught(delivered, dropped, ended.cpu_s, ended.output)

    def __enter__(self) -> Capture:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._child.end(signal.SIGKILL)


class Tcpdump(Capture):
    name = program = "tcpdump"
    ready = r"listening on"

    def command(self) -> list[str]:
        target = str(self.file or "/dev/null")
        return ["tcpdump", "-i", self.interface, "-n", "-Z", "root", "-B", str(BUFFER_MIB * 1024), "-w", target]

    def parse(self, output: str) -> tuple[int, int]:
        return _number(output, r"(\d+) packets? captured"), _number(output, r"(\d+) packets? dropped by kernel")


class Dumpcap(Capture):
    name = program = "dumpcap"
    ready = r"^File: "

    def command(self) -> list[str]:
        target = str(self.file or "/dev/null")
        return ["dumpcap", "-i", self.interface, "-q", "-B", str(BUFFER_MIB), "-w", target]

    def parse(self, output: str) -> tuple[int, int]:
        pattern = r"received/dropped on interface .*?: (\d+)/(\d+)"
        return _number(output, pattern), _number(output, pattern, 2)


class Netsniff(Capture):
    name = program = "netsniff-ng"
    ready = r"Hit \^C|Running! "
    settle_s = 0.5

    def command(self) -> list[str]:
        target = ["--out", str(self.file)] if self.file else ["--out", "/dev/null"]
        return ["netsniff-ng", "--in", self.interface, *target, "--silent", "--ring-size", f"{BUFFER_MIB}MiB"]

    def parse(self, output: str) -> tuple[int, int]:
        return _number(output, r"(\d+)\s+packets passed filter"), _number(output, r"(\d+)\s+packets failed filter")


class Dpdk(Capture):
    """testpmd receiving through DPDK's af_xdp driver, one queue, a forwarding core that polls without pause.

    Without huge pages where there are none (the driver copies either way on a veth).  The deep ring and
    the large pool of mbufs are its best settings: the defaults of 512 and 2,048 lose more.
    """

    name = "dpdk"
    program = "dpdk-testpmd"
    ready = r"Press enter to exit"
    settle_s = 0.3
    needs_gro = False
    terminal = True  # holds its lines back on a pipe
    ring = 16384
    buffers = 131072
    driver: ClassVar[str] = ""

    @classmethod
    def available(cls) -> str | None:
        missing = super().available()
        if missing:
            return f"{missing} (Debian: dpdk-dev and librte-net-af-xdp)"
        drivers = (path for folder in DPDK_DRIVERS for path in Path("/usr").glob(f"{folder}/librte_net_af_xdp.so*"))
        return None if any(drivers) else "DPDK has no af_xdp driver (Debian: librte-net-af-xdp)"

    def command(self) -> list[str]:
        device = f"net_af_xdp0,iface={self.interface},start_queue={self.queue},queue_count=1{self.driver}"
        cpu = self.cpu or 0
        return [
            "dpdk-testpmd", *dpdk_memory(), "--no-pci", "--no-telemetry", "--file-prefix", self.interface,
            "--lcores", f"0@{cpu},1@{cpu}", "--vdev", device, "--",
            "--forward-mode=rxonly", "--nb-cores=1", "--burst=64", "--stats-period=0",
            f"--total-num-mbufs={self.buffers}", f"--rxd={self.ring}", "--txd=512",
        ]  # fmt: skip

    queue = 0
    """The receive queue; set it before ``start``."""

    def parse(self, output: str) -> tuple[int, int]:
        pattern = r"RX-packets: (\d+)\s+RX-dropped: (\d+)"
        return _number(output, pattern), _number(output, pattern, 2)


class DpdkInterrupts(Dpdk):
    """The same without the driver's preferred busy polling, which is better on some machines."""

    name = "dpdk-nobusy"
    driver = ",busy_budget=0"


CAPTURES: dict[str, type[Capture]] = {peer.name: peer for peer in (Dpdk, DpdkInterrupts, Tcpdump, Dumpcap, Netsniff)}


@dataclass(frozen=True)
class Sent:
    """What tcpreplay says that it sent."""

    packets: int
    failed: int
    truncated: int
    duration_s: float
    rate_pps: float


def tcpreplay(interface: str, file: Path, options: tuple[str, ...] = ("--topspeed",), timeout_s: float = 120.0) -> Sent:
    """Replay a capture file with tcpreplay; ``options`` such as ``--pps=10000`` or ``--multiplier=1.0``."""
    ended = run(["tcpreplay", "-i", interface, *options, str(file)], timeout_s=timeout_s)
    if ended.status:
        raise WirecapError(f"tcpreplay ended with status {ended.status}: {ended.output.strip()[-200:]}")
    actual = re.search(r"Actual: (\d+) packets .* sent in ([\d.]+) seconds", ended.output)
    if not actual:
        raise WirecapError(f"tcpreplay printed no statistics: {ended.output.strip()[-200:]}")
    packets, duration_s = int(actual[1]), float(actual[2])
    failed, truncated = (_number(ended.output, rf"{word} packets:\s+(\d+)") for word in ("Failed", "Truncated"))
    return Sent(packets, failed, truncated, duration_s, packets / duration_s if duration_s else 0.0)


def dpdk_memory() -> list[str]:
    """Huge pages where 1 GiB of them is free, else ordinary memory."""
    facts = Path("/proc/meminfo").read_text()
    size_kib, free = (_number(facts, rf"{field}:\s+(\d+)") for field in ("Hugepagesize", "HugePages_Free"))
    huge = size_kib * free >= 1024 * 1024
    return ["--in-memory" if huge else "--no-huge", "-m", "1024"]


def _number(text: str, pattern: str, group: int = 1) -> int:
    found = re.search(pattern, text)
    if not found:
        last = " | ".join(text.strip().splitlines()[-4:])
        raise WirecapError(f"no {pattern!r} in the closing statistics: {last}")
    return int(found[group])
