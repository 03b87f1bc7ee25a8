"""``wirecap demo``: the first-minute tour."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from wirecap.cli.demo_nic import QUEUES, Nic, open_nic
from wirecap.cli.parameters import Command
from wirecap.config import CaptureConfig, HandlerSpec, PoolConfig, QueueSpec, WriteConfig
from wirecap.errors import WirecapError

RATE_PPS = 38_844
"""The paper's handler: what one thread of 2014 managed with 300 filters a packet."""
BURST, BURST_PPS = 20_000, 1_000_000
SKEW_PPS, SKEW_S = 100_000, 2.0
FILE_PACKETS, FILE_PPS = 100_000, 500_000

NEXT = """
Next:  wirecap doctor                            what this host and its NICs can do
       wirecap capture -i eth1 -w out.pcapng     capture on a port of yours
       wirecap testbed up                        a NIC like this one, to play with"""


@click.command(cls=Command)
@click.option("--memory", is_flag=True, help="Take the in-process NIC, also with privileges.")
def command(memory: bool) -> None:
    """The first-minute tour: a burst, a slow handler, nothing lost.

    As root it makes a veth NIC with four queues in a network namespace of its own, sends to it, captures
    over AF_XDP and removes it again. Without privileges the same engine runs on an in-process NIC.
    """
    with _Interrupts() as interrupts, open_nic(memory) as nic:
        tour = Tour(nic, interrupts)
        tour.burst()
        tour.skew()
        with tempfile.TemporaryDirectory(prefix="wirecap-demo-") as folder:
            tour.file(Path(folder) / "demo.pcapng")
    click.echo(NEXT)


class _Interrupts:
    """SIGINT and SIGTERM end the tour between two steps, where nothing is half done and all can be removed."""

    def __init__(self) -> None:
        self._asked = False
        self._stop: Callable[[], None] = lambda: None

    def __enter__(self) -> _Interrupts:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._stop()

    def check(self) -> None:
        if self._asked:
            raise KeyboardInterrupt

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """While something lasts that ``stop`` ends."""
        self._stop = stop
        try:
            self.check()
            yield
            self.check()
        finally:
            self._stop = lambda: None


class Tour:
    """The three stops, on one NIC."""

    def __init__(self, nic: Nic, interrupts: _Interrupts) -> None:
        self.nic, self._interrupts = nic, interrupts

    def burst(self) -> None:
        """A deep pool keeps what a NIC's ring loses."""
        click.echo(f"\n1. A burst of {BURST:,} packets, and an application that handles {RATE_PPS:,} a second.")
        for R, words in ((4, "buffers like a NIC's ring (1,024 packets)"), (100, "WireCAP's pool (25,600 packets)")):
            _tell(words, self._run(self._paced(R), BURST, BURST_PPS))

    def skew(self) -> None:
        """Idle queues keep what one queue cannot."""
        click.echo(f"\n2. {SKEW_PPS:,} packets a second for {SKEW_S:.0f} seconds, all on one of {QUEUES} queues.")
        for mode, words in (
            ("basic", "basic mode, the queue on its own"),
            ("advanced", "advanced mode, idle queues help"),
        ):
            _tell(words, self._run(self._paced(100, mode), int(SKEW_PPS * SKEW_S), SKEW_PPS))

    def file(self, path: Path) -> None:
        """Into a file and out of it."""
        click.echo(f"\n3. {FILE_PACKETS:,} packets into a pcapng file, and back out of it.")
        written = self._run(self._config(), FILE_PACKETS, FILE_PPS, WriteConfig(path=str(path)))
        _tell("written", written)
        back = self._run(CaptureConfig(read_file=str(path), filter="udp"))
        _tell("read back through the filter 'udp'", back)
        if back["packets"]["delivered"] != written["packets"]["written"]:
            raise WirecapError("the file does not hold what was written", "please report it")

    def _paced(self, R: int, mode: str = "basic") -> CaptureConfig:
        handler = HandlerSpec("pkt_handler", {"rate": str(RATE_PPS)})
        return self._config(pool=PoolConfig(256, R), mode=mode, handlers=(handler,))

    def _config(self, **options: Any) -> CaptureConfig:
        return CaptureConfig(sources=(QueueSpec(self.nic.name),), netns=self.nic.namespace, **options)

    def _run(
        self, config: CaptureConfig, count: int = 0, rate_pps: float = 0, write: WriteConfig | None = None
    ) -> dict[str, Any]:
        """Capture while so many packets are sent, or to the end of the file; the summary."""
        from wirecap import assemble
        from wirecap.engine import accounting
        from wirecap.linux import netns

        def tell(name: str) -> None:
            self._interrupts.check()
            click.echo(f"   compiling {name} (once)", err=True)

        source = assemble.source_of(config) if config.read_file else self.nic.source(config)
        try:
            application = assemble.application_of(config, write, source)
            assemble.prepare(source, application, tell)
            engine = assemble.engine_of(config, source, application)
            netns.call(config.netns, engine.start)
            try:
                with self._interrupts.calling(self.nic.stop):
                    if count:
                        self.nic.send(count, rate_pps)
                    while not count and engine.running():
                        engine.changed.wait(0.1)
                        engine.changed.clear()
            finally:
                engine.stop()
            failure = engine.failure()
            if failure:
                raise failure
            writer = application.writer
            written, octets = (writer.packets_written, writer.octets_written) if writer else (0, 0)
            return accounting.as_dict(engine, written, octets)
        finally:
            source.close()


def _tell(words: str, summary: dict[str, Any]) -> None:
    packets = summary["packets"]
    drops = [f"{number:,} dropped ({name.replace('_', ' ')})" for name, number in packets["drops"].items() if number]
    click.echo(f"   {words + ':':<45} {packets['delivered']:>9,} captured, {', '.join(drops) or 'none dropped'}")
    if packets["received"] != packets["delivered"] + packets["filtered_out"] + packets["dropped"]:
        raise WirecapError("the counters do not add up", "please report it")
