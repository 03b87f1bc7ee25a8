"""``wirecap demo``: the one-minute tour, on a NIC made for it.

The tour has five stops (``Tour``).  Its NIC is the capture side of a veth testbed, or the in-process NIC where
there are no privileges to make one (``VethNic``, ``MemoryNic``).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import click

from wirecap import units
from wirecap.cli.options import Command, json_option, section, write_json
from wirecap.cli.typed import command_here
from wirecap.config.capture import CaptureConfig, PoolConfig, WriteConfig
from wirecap.config.find import FindConfig
from wirecap.config.keep import KeepConfig, Span
from wirecap.config.specs import HandlerSpec, QueueSpec
from wirecap.errors import WirecapError

if TYPE_CHECKING:
    from wirecap.source.source import Source

QUEUES = 4
RATE_PPS = 38_844
"""The paper's handler: what one thread of 2014 managed with 300 filters a packet."""
BURST, BURST_PPS = 20_000, 1_000_000
SKEW_PPS, SKEW_S = 100_000, 2.0
FILE_PACKETS, FILE_PPS = 100_000, 100_000
ALARM_PPS, KEEP_NS = 50_000, 3_000_000_000
ALARM, CONNECTION = "tcp[tcpflags] & tcp-rst != 0", 20
"""The packet that is the alarm ends a connection of so many."""
CLIENT = "203.0.113.5"
FLOOD = 1_000_000
"""Packets at full speed: about a second of them."""
PEERS = ("tcpdump", "dumpcap")
PIECE_S = 0.001
"""How often the in-process NIC gets packets."""


@click.command(cls=Command)
@section("Options")("--memory", is_flag=True, help="Use the in-process NIC even with privileges for a veth.")
@json_option("Write the numbers", "Options")
def command(memory: bool, json_file: str | None) -> None:
    """The one-minute tour: a burst, a slow handler, nothing lost; an alarm, and what was before it.

    As root it makes a veth NIC with four queues in its own network namespace, sends to it, captures over
    AF_XDP, lets tcpdump and dumpcap capture the same packets, and removes the NIC again. Without
    privileges the same engine runs on an in-process NIC.
    """
    with redirect_stdout(sys.stderr) if json_file == "-" else nullcontext():  # the text makes way for the JSON
        with _Interrupts() as interrupts, open_nic(memory) as nic:
            tour = Tour(nic, interrupts)
            tour.burst()
            tour.skew()
            with tempfile.TemporaryDirectory(prefix="wirecap-demo-") as folder:
                tour.file(Path(folder) / "demo.pcapng")
                tour.flood(Path(folder))
                tour.alarm(Path(folder) / "alarm.pcapng")
        click.echo(next_commands())
    if json_file:
        write_json(json_file, tour.found)


class Tour:
    """The five stops, on one NIC."""

    def __init__(self, nic: TourNic, interrupts: _Interrupts) -> None:
        self.nic, self._interrupts = nic, interrupts
        self._sent = Sent(0, 0.0)
        self.found: list[dict[str, Any]] = []
        """What each line of the tour tells: ``stop``, ``what``, and the packets by where they ended or the rate."""

    def burst(self) -> None:
        """A deep pool keeps what a NIC's ring loses."""
        click.echo(f"\n1. A burst of {BURST:,} packets, and an application that handles {RATE_PPS:,} a second.")
        for R, words in ((4, "buffers like a NIC's ring (1,024 packets)"), (100, "WireCAP's pool (25,600 packets)")):
            self._tell(1, words, self._run(self._paced(R), BURST, BURST_PPS))

    def skew(self) -> None:
        """Idle queues keep what one queue cannot."""
        click.echo(f"\n2. {SKEW_PPS:,} packets a second for {SKEW_S:.0f} seconds, all on one of {QUEUES} queues.")
        for mode, words in (
            ("basic", "basic mode: the queue is on its own"),
            ("advanced", "advanced: idle queues help"),
        ):
            self._tell(2, words, self._run(self._paced(100, mode), int(SKEW_PPS * SKEW_S), SKEW_PPS))

    def file(self, path: Path) -> None:
        """Into a file and out of it."""
        click.echo(f"\n3. {FILE_PACKETS:,} packets into a pcapng file, and back out of it.")
        written = self._run(self._config(), FILE_PACKETS, FILE_PPS, WriteConfig(path=str(path)))
        self._tell(3, "written", written)
        back = self._run(CaptureConfig(read_file=str(path), filter="udp"))
        self._tell(3, "read back through the filter 'udp'", back)
        if back["packets"]["delivered"] != written["packets"]["written"]:
            raise WirecapError("the file does not hold what was written", "please report it")

    def flood(self, folder: Path) -> None:
        """The same packets into what the reader uses today."""
        click.echo(
            f"\n4. {FLOOD:,} packets at full speed, on one queue, into a file; default settings for every program."
        )
        if self.nic.private:
            click.echo(f"   skipped: tcpdump and dumpcap cannot capture on {self.nic.private}")
            return
        file = folder / "wirecap.pcapng"
        written = self._run(self._config((self.nic.queue,)), FLOOD, None, WriteConfig(path=str(file)))
        self._compare("wirecap capture -w", self._sent, written["packets"]["written"])
        for name in PEERS:
            file.unlink(missing_ok=True)
            file = folder / f"{name}.pcap"
            try:
                with self._interrupts.calling(self.nic.stop):
                    sent, received = self.nic.send_to_peer(name, file, FLOOD)
            except WirecapError as error:
                click.echo(f"   {name} -w skipped: {error.message}")
            else:
                self._compare(f"{name} -w", sent, received)
        click.echo("   A larger buffer helps each of them: -R for wirecap, -B for the others.")

    def alarm(self, path: Path) -> None:
        """What was before an alarm is on disk, and a connection is found in it."""
        pps, before = units.format_count(ALARM_PPS), units.format_duration_ns(KEEP_NS)
        click.echo(f"\n5. {pps} packets a second, kept in memory. An alarm has the {before} before it saved.")
        connection = _connection()

        def send() -> None:
            """Traffic, a connection in it, and a little later the reset that is the alarm."""
            self.nic.send(3 * ALARM_PPS, ALARM_PPS)
            for frame in connection:
                self.nic.send(ALARM_PPS // 4 if frame is connection[-1] else ALARM_PPS // 100, ALARM_PPS)
                self.nic.put(frame)
            self.nic.send(ALARM_PPS // 2, ALARM_PPS)

        keep = KeepConfig(Span(ns=KEEP_NS), after_ns=KEEP_NS // 10, on_filter=ALARM)
        summary = self._run(self._config(), send=send, write=WriteConfig(path=str(path), keep=keep, indexed=True))
        self._tell(5, f"alarm: a packet with '{ALARM}'", summary)
        saved = summary["packets"]["written"]
        click.echo(
            f"   {'saved, the rest was let go:':<45} {saved:>9,} packets, {units.format_size(path.stat().st_size)}"
        )
        from wirecap.find.find import find

        expression = f"host {CLIENT} and tcp port 443"
        found = find(FindConfig(paths=[str(path)], filter=expression), self._compiling)
        share = 100 * found.bytes_read / found.bytes
        again = f"found again: '{expression}':"
        click.echo(f"   {again:<45} {found.packets:>9,} packets, read {share:.1f} % of the file")
        self.found.append({"stop": 5, "what": expression, "packets": found.packets, "saved": saved, "read": share})
        if found.packets != CONNECTION and not summary["packets"]["dropped"]:
            raise WirecapError("the connection is not whole", "please report it")

    def _tell(self, stop: int, words: str, summary: dict[str, Any]) -> None:
        _tell(words, summary)
        self.found.append({"stop": stop, "what": words, "packets": summary["packets"]})

    def _compare(self, words: str, sent: Sent, received: int) -> None:
        _compare(words, sent, received)
        rate = {"sent": sent.packets, "received": received, "sent_pps": sent.packets / sent.duration_s}
        self.found.append({"stop": 4, "what": words, **rate})

    def _paced(self, R: int, mode: str = "basic") -> CaptureConfig:
        handler = HandlerSpec("pkt_handler", {"rate": str(RATE_PPS)})
        return self._config(pool=PoolConfig(256, R), mode=mode, handlers=(handler,))

    def _config(self, queues: tuple[int, ...] | None = None, **options: Any) -> CaptureConfig:
        return CaptureConfig(sources=(QueueSpec(self.nic.name, queues),), netns=self.nic.namespace, **options)

    def _compiling(self, name: str) -> None:
        self._interrupts.check()
        click.echo(f"   compiling {name} (once)", err=True)

    def _run(
        self, config: CaptureConfig, count: int = 0, rate_pps: float | None = None, write: WriteConfig | None = None,
        send: Callable[[], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Capture while so many packets are sent, or what ``send`` sends, or to the end of the file; the summary."""
        from wirecap.linux import netns
        from wirecap.run import build
        from wirecap.run.summary import as_dict

        source = build.source_of(config) if config.read_file else self.nic.source(config)
        try:
            application = build.application_of(config, write, source)
            engine = build.engine_of(config, source, application)
            netns.call(config.netns, engine.claim)
            build.prepare(source, application, self._compiling)
            netns.call(config.netns, engine.start)
            try:
                with self._interrupts.calling(self.nic.stop):
                    if send:
                        send()
                    elif count:
                        self._sent = self.nic.send(count, rate_pps)
                    while config.read_file and engine.running():
                        engine.changed.wait(0.1)
                        engine.changed.clear()
            finally:
                engine.stop()
            failure = engine.failure()
            if failure:
                raise failure
            writer = application.writer
            written, byte_count = (writer.packets_written, writer.bytes_written) if writer else (0, 0)
            return as_dict(engine, written, byte_count)
        finally:
            source.close()


def _connection() -> list[bytes]:
    """A connection that a reset ends: its client's packets."""
    from wirecap.traffic.synthetic import tcp

    flags = [2, *[16] * (CONNECTION - 2), 4]  # SYN, ACK, RST
    return [tcp(CLIENT, "198.51.100.7", (40_000, 443), flag, 100 * n, bytes(100)) for n, flag in enumerate(flags)]


def _tell(words: str, summary: dict[str, Any]) -> None:
    packets = summary["packets"]
    drops = [f"{number:,} dropped ({name.replace('_', ' ')})" for name, number in packets["drops"].items() if number]
    click.echo(f"   {words + ':':<45} {packets['delivered']:>9,} captured, {', '.join(drops) or 'none dropped'}")
    if packets["received"] != packets["delivered"] + packets["filtered_out"] + packets["dropped"]:
        raise WirecapError("the counters do not add up", "please report it")


def _compare(words: str, sent: Sent, received: int) -> None:
    """On a veth the receiver's kernel work slows the sender down, so that the speed differs from row to row."""
    lost = sent.packets - received
    share = f"{lost:,} lost ({100 * lost / sent.packets:.1f} %)" if lost else "none lost"
    rate = units.format_packet_rate(sent.packets / sent.duration_s)
    click.echo(f"   {words + ':':<45} {received:>9,} received, {share}, sent at {rate}")


def next_commands() -> str:
    """What to try next, as it can be typed here: by path where the PATH does not have this wirecap, as root or with
    sudo."""
    root = os.geteuid() == 0
    plain = command_here(on_path=True)
    privileged = plain if root else f"sudo {command_here(on_path=False)}"  # sudo has a PATH of its own
    rows = [
        (f"{plain} doctor", "what this host and its NICs can do"),
        (f"{plain} capture -D", "its interfaces, and how each is captured on"),
        (f"{privileged} capture -i any -w out.pcapng", "this host's own traffic, until Ctrl-C"),
        (f"{privileged} testbed up", "a NIC like the one above, to play with"),
    ]
    width = max(len(typed) for typed, _ in rows)
    return "\nNext:\n" + "\n".join(f"   {typed:<{width}}   {what}" for typed, what in rows)


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


class Sent(NamedTuple):
    """What a NIC was sent."""

    packets: int
    duration_s: float


class TourNic(Protocol):
    """Something to capture on, and to send packets to: all of them reach one of its queues."""

    name: str
    namespace: str | None
    private: str
    """What it is, where no other program can capture on it; else empty."""
    queue: int
    """The receive queue that gets the packets."""

    def source(self, config: CaptureConfig) -> Source: ...

    def send(self, count: int, rate_pps: float | None) -> Sent:
        """Send so many packets, without a rate at full speed; returns early after ``stop``."""
        ...

    def put(self, frame: bytes) -> None:
        """Send one packet of the caller's."""
        ...

    def send_to_peer(self, name: str, file: Path, count: int) -> tuple[Sent, int]:
        """Send at full speed while another program captures into ``file``; also how many packets it received.

        WirecapError where it is not installed, or fails.
        """
        ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


class VethNic:
    """The capture side of a testbed, fed by frames from inside the kernel."""

    private = ""

    def __init__(self, bed: str) -> None:
        from wirecap.traffic import synthetic
        from wirecap.traffic.live_frames import LiveFrames

        self.name = f"{bed}0"
        self.namespace: str | None = bed
        self._bed = bed
        cpu = min(os.sched_getaffinity(0))  # the sending CPU chooses the receiving queue
        self.queue = cpu % QUEUES
        self._sender = LiveFrames(f"{bed}0p", synthetic.udp(60), sequence_at=42, cpu=cpu)

    def source(self, config: CaptureConfig) -> Source:
        from wirecap.run import build

        return build.source_of(config)

    def send(self, count: int, rate_pps: float | None) -> Sent:
        start = time.monotonic()
        sent = self._sender.send_paced(count, rate_pps) if rate_pps else self._sender.send(count)
        return Sent(sent, time.monotonic() - start)

    def put(self, frame: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((f"{self._bed}0p", 0))
            sender.send(frame)

    def send_to_peer(self, name: str, file: Path, count: int) -> tuple[Sent, int]:
        from wirecap.lab import peers, testbed

        kind = peers.CAPTURES[name]
        missing = kind.available()
        if missing:
            raise WirecapError(missing)
        testbed.up(self._bed, QUEUES, gro=kind.needs_gro)
        with kind(self.name, self.namespace, file, buffer_mib=None) as peer:
            sent = self.send(count, None)
            return sent, peer.stop().delivered

    def stop(self) -> None:
        self._sender.stop()

    def close(self) -> None:
        self._sender.close()


class MemoryNic:
    """The in-process NIC: the same rings and the same engine, without a kernel.

    Nothing wakes its capture thread, which looks ten times a second while no packets arrive: the sender waits for it.
    """

    name = "memory0"
    namespace: str | None = None
    private = "an in-process NIC (a veth NIC needs root)"
    queue = 0
    _stopped = False

    def source(self, config: CaptureConfig) -> Source:
        from wirecap.source.memory import MemorySource

        self._source = MemorySource(QUEUES, config.pool.M * config.pool.R, config.pool.cell)
        return self._source

    def send(self, count: int, rate_pps: float | None) -> Sent:
        import numpy as np

        from wirecap.traffic import synthetic

        frame = np.frombuffer(bytearray(synthetic.udp(60)), dtype=np.uint8)
        start, sent = time.monotonic(), 0
        while sent < count and not self._stopped:
            allowed = int(rate_pps * (time.monotonic() - start)) if rate_pps else count
            due = min(count, sent + self._source.room(self.queue), allowed)
            if due > sent:
                starts, sizes = np.zeros(due - sent, np.int64), np.full(due - sent, frame.size, np.int64)
                self._source.inject(0, frame, starts, sizes, np.full(due - sent, time.time_ns(), np.int64))
                sent = due
            time.sleep(PIECE_S)
        return Sent(sent, time.monotonic() - start)

    def put(self, frame: bytes) -> None:
        import numpy as np

        while not self._source.room(self.queue) and not self._stopped:
            time.sleep(PIECE_S)
        data, one = np.frombuffer(bytearray(frame), np.uint8), np.zeros(1, np.int64)
        self._source.inject(0, data, one, one + data.size, one + time.time_ns())

    def send_to_peer(self, name: str, file: Path, count: int) -> tuple[Sent, int]:
        raise WirecapError(f"{name} cannot capture on {self.private}")

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None: ...


@contextmanager
def open_nic(memory: bool) -> Iterator[TourNic]:
    """The best NIC available here; a line says which one, and nothing is left of it afterwards."""
    from wirecap.lab import testbed

    bed = f"wcdemo{os.getpid()}"
    try:
        nic = _in_memory("--memory") if memory else _veth(bed)
        try:
            yield nic
        finally:
            nic.close()
    finally:
        if not memory and os.geteuid() == 0:
            testbed.down(bed)


def _veth(bed: str) -> TourNic:
    from wirecap.lab import testbed

    try:
        testbed.up(bed, QUEUES)
        nic = VethNic(bed)
    except WirecapError as error:
        return _in_memory(error.message)
    click.echo(f"Capturing on {nic.name}, a veth NIC with {QUEUES} receive queues, made for this tour.")
    return nic


def _in_memory(why: str) -> TourNic:
    click.echo(f"Capturing on an in-process NIC with {QUEUES} receive queues, without the kernel ({why}).")
    return MemoryNic()
