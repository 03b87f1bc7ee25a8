"""Other capture and send programs to compare ours with: what they delivered and what they dropped.

A capture peer is started on an interface, is ready when it says so, and is ended with SIGINT as a user
would end it; the numbers are its own closing statistics.  Each runs with the settings that suit it best.
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
"""The kernel's buffer for tcpdump and dumpcap: at least as large as our pool of (256, 100), 50 MiB per queue."""

DPDK_DRIVERS = ("lib/*/dpdk/pmds-*", "lib*/dpdk/pmds-*", "local/lib/*/dpdk/pmds-*")
"""Where to find DPDK's drivers under /usr: on Debian and Ubuntu, on other distributions, built by hand."""


@dataclass(frozen=True)
class Caught:
    """What a capture peer reports at its end, in packets."""

    delivered: int
    dropped: int
    """Packets that it knows it missed, not counting those that never reached its socket."""
    cpu_s: float
    output: str


class Capture:
    """A capture peer: ``start``, traffic, ``stop``.  Given a file it writes packets, otherwise it counts them."""

    name: ClassVar[str]
    program: ClassVar[str]
    settle_s: ClassVar[float] = 1.5
    """How long the peer needs after the last packet to read them all: libpcap's blocks time out after a second."""
    needs_gro: ClassVar[bool] = True
    """AF_PACKET readers only get frames redirected to a veth if GRO is on there; XDP readers do not need it."""
    terminal: ClassVar[bool] = False
    polls: ClassVar[bool] = False
    """It never sleeps, so that nobody sees when it has read all packets."""
    ready: ClassVar[str]

    def __init__(
        self, interface: str, namespace: str | None = None, file: Path | None = None, cpu: int | None = None,
        buffer_mib: int | None = BUFFER_MIB,
    ) -> None:  # fmt: skip
        """buffer_mib: the kernel's buffer, where the program has an option for it; None is the program's default."""
        self.interface, self.namespace, self.file, self.cpu = interface, namespace, file, cpu
        self.buffer_mib = buffer_mib

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
        if not self.polls:
            self._child.wait_until_idle()
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
        buffer = ["-B", str(self.buffer_mib * 1024)] if self.buffer_mib else []
        return ["tcpdump", "-i", self.interface, "-n", "-Z", "root", *buffer, "-w", target]

    def parse(self, output: str) -> tuple[int, int]:
        return _number(output, r"(\d+) packets? captured"), _number(output, r"(\d+) packets? dropped by kernel")


class Dumpcap(Capture):
    name = program = "dumpcap"
    ready = r"^File: "

    def command(self) -> list[str]:
        target = str(self.file or "/dev/null")
        buffer = ["-B", str(self.buffer_mib)] if self.buffer_mib else []
        return ["dumpcap", "-i", self.interface, "-q", *buffer, "-w", target]

    def parse(self, output: str) -> tuple[int, int]:
        pattern = r"received/dropped on interface .*?: (\d+)/(\d+)"
        return _number(output, pattern), _number(output, pattern, 2)


class Netsniff(Capture):
    name = program = "netsniff-ng"
    ready = r"Hit \^C|Running! "
    settle_s = 0.5

    def command(self) -> list[str]:
        buffer = ["--ring-size", f"{self.buffer_mib}MiB"] if self.buffer_mib else []
        return ["netsniff-ng", "--in", self.interface, "--out", str(self.file or "/dev/null"), "--silent", *buffer]

    def parse(self, output: str) -> tuple[int, int]:
        return _number(output, r"(\d+)\s+packets passed filter"), _number(output, r"(\d+)\s+packets failed filter")


class Dpdk(Capture):
    """testpmd receiving through DPDK's af_xdp driver: one queue, and a forwarding core that polls continually.

    It runs without huge pages if there are none (on a veth the driver copies anyway).  The deep ring and the
    large pool of mbufs are its best settings: the defaults of 512 and 2,048 lose more.
    """

    name = "dpdk"
    program = "dpdk-testpmd"
    ready = r"Press enter to exit"
    settle_s = 0.3
    needs_gro = False
    terminal = True  # it buffers its output on a pipe
    polls = True
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
    """The receive queue; set it before calling ``start``."""

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
    """What tcpreplay reports having sent."""

    packets: int
    failed: int
    truncated: int
    duration_s: float
    rate_pps: float


def tcpreplay(interface: str, file: Path, options: tuple[str, ...] = ("--topspeed",), timeout_s: float = 120.0) -> Sent:
    """Replay a capture file with tcpreplay; ``options`` are for example ``--pps=10000`` or ``--multiplier=1.0``."""
    ended = run(["tcpreplay", "-i", interface, *options, str(file)], timeout_s=timeout_s)
    if ended.status:
        raise WirecapError(f"tcpreplay exited with status {ended.status}: {ended.output.strip()[-200:]}")
    actual = re.search(r"Actual: (\d+) packets .* sent in ([\d.]+) seconds", ended.output)
    if not actual:
        raise WirecapError(f"tcpreplay printed no statistics: {ended.output.strip()[-200:]}")
    packets, duration_s = int(actual[1]), float(actual[2])
    failed, truncated = (_number(ended.output, rf"{word} packets:\s+(\d+)") for word in ("Failed", "Truncated"))
    return Sent(packets, failed, truncated, duration_s, packets / duration_s if duration_s else 0.0)


def dpdk_memory() -> list[str]:
    """Options for huge pages if 1 GiB of them is free, else for ordinary memory."""
    facts = Path("/proc/meminfo").read_text()
    size_kib, free = (_number(facts, rf"{field}:\s+(\d+)") for field in ("Hugepagesize", "HugePages_Free"))
    huge = size_kib * free >= 1024 * 1024
    return ["--in-memory" if huge else "--no-huge", "-m", "1024"]


def _number(text: str, pattern: str, group: int = 1) -> int:
    found = re.search(pattern, text)
    if not found:
        last = " | ".join(text.strip().splitlines()[-4:])
        raise WirecapError(f"the closing statistics do not contain {pattern!r}: {last}")
    return int(found[group])
