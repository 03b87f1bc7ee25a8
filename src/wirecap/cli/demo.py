"""``wirecap demo``: the first-minute tour on a NIC of its own, or in memory where there are no privileges."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import click

from wirecap.cli.parameters import Command
from wirecap.config import CaptureConfig, HandlerSpec, PoolConfig, QueueSpec, WriteConfig
from wirecap.errors import WirecapError

if TYPE_CHECKING:
    from wirecap.source.base import Source

QUEUES = 4
RATE_PPS = 38_844
"""The paper's handler: what one thread of 2014 managed with 300 filters a packet."""
BURST, BURST_PPS = 20_000, 1_000_000
SKEW_PPS, SKEW_S = 100_000, 2.0
FILE_PACKETS, FILE_PPS = 100_000, 500_000
PIECE_S = 0.001
MEMORY_PPS = 120_000
"""Most that the in-process NIC gets: its capture thread looks ten times a second while nothing arrives."""


class Nic(Protocol):
    """Something to capture on, and to send packets to: all of them reach one of its queues."""

    name: str
    namespace: str | None

    def source(self, config: CaptureConfig) -> Source: ...

    def send(self, count: int, rate_pps: float) -> None: ...

    def close(self) -> None: ...


class VethNic:
    """The capture side of a testbed, fed by frames from inside the kernel."""

    def __init__(self, bed: str) -> None:
        from wirecap.traffic import frames
        from wirecap.traffic.liveframes import LiveFrames

        self.name = f"{bed}0"
        self.namespace: str | None = bed
        cpu = min(os.sched_getaffinity(0))  # the sending CPU chooses the receiving queue
        self._sender = LiveFrames(f"{bed}0p", frames.udp(60), sequence_at=42, cpu=cpu)

    def source(self, config: CaptureConfig) -> Source:
        from wirecap import assemble

        return assemble.source_of(config)

    def send(self, count: int, rate_pps: float) -> None:
        self._sender.send_paced(count, rate_pps)

    def close(self) -> None:
        self._sender.close()


class MemoryNic:
    """The in-process NIC: the same rings and the same engine, without a kernel."""

    name = "memory0"
    namespace: str | None = None

    def source(self, config: CaptureConfig) -> Source:
        from wirecap.source.memory import MemorySource

        self._source = MemorySource(QUEUES, config.pool.M * config.pool.R, config.pool.cell)
        return self._source

    def send(self, count: int, rate_pps: float) -> None:
        import numpy as np

        from wirecap.traffic import frames

        frame = np.frombuffer(bytearray(frames.udp(60)), dtype=np.uint8)
        start, sent = time.monotonic(), 0
        while sent < count:
            due = min(count, int(min(rate_pps, MEMORY_PPS) * (time.monotonic() - start)))
            if due > sent:
                starts, sizes = np.zeros(due - sent, np.int64), np.full(due - sent, frame.size, np.int64)
                self._source.inject(0, frame, starts, sizes, np.full(due - sent, time.time_ns(), np.int64))
                sent = due
            time.sleep(PIECE_S)

    def close(self) -> None: ...


@click.command(cls=Command)
@click.option("--memory", is_flag=True, help="Take the in-process NIC, also with privileges.")
def command(memory: bool) -> None:
    """The first-minute tour: a burst, a slow handler, nothing lost.

    As root it makes a veth NIC with four queues in a network namespace of its own, sends to it, captures
    over AF_XDP and removes it again. Without privileges the same engine runs on an in-process NIC.
    """
    with _terminable(), _nic(memory) as nic, tempfile.TemporaryDirectory(prefix="wirecap-demo-") as folder:
        _burst(nic)
        _skew(nic)
        _file(nic, Path(folder) / "demo.pcapng")
    click.echo("\nNext:  wirecap doctor                            what this host and its NICs can do")
    click.echo("       wirecap capture -i eth1 -w out.pcapng     capture on a port of yours")
    click.echo("       wirecap testbed up                        a NIC like this one, to play with")


@contextmanager
def _nic(memory: bool) -> Iterator[Nic]:
    from wirecap.lab import testbed

    bed = f"wcdemo{os.getpid()}"
    try:
        nic = _in_memory("as you wished") if memory else _veth(bed)
        try:
            yield nic
        finally:
            nic.close()
    finally:
        if not memory and os.geteuid() == 0:
            testbed.down(bed)


def _veth(bed: str) -> Nic:
    from wirecap.lab import testbed

    try:
        testbed.up(bed, QUEUES)
        nic = VethNic(bed)
    except WirecapError as error:
        return _in_memory(error.message)
    click.echo(f"A veth NIC of our own, {nic.name}, with {QUEUES} receive queues.")
    return nic


def _in_memory(why: str) -> Nic:
    click.echo(f"An in-process NIC with {QUEUES} receive queues, no kernel in between ({why}).")
    return MemoryNic()


def _burst(nic: Nic) -> None:
    click.echo(f"\n1. A burst of {BURST:,} packets, and an application that handles {RATE_PPS:,} a second.")
    for R, words in ((4, "buffers like a NIC's ring (1,024 packets)"), (100, "WireCAP's pool (25,600 packets)")):
        config = _config(nic, R=R, handlers=(HandlerSpec("pkt_handler", {"rate": str(RATE_PPS)}),))
        _tell(words, _run(nic, config, None, lambda: nic.send(BURST, BURST_PPS)))


def _skew(nic: Nic) -> None:
    click.echo(f"\n2. {SKEW_PPS:,} packets a second for {SKEW_S:.0f} seconds, all on one of {QUEUES} queues.")
    for mode, words in (("basic", "basic mode, the queue on its own"), ("advanced", "advanced mode, idle queues help")):
        handlers = (HandlerSpec("pkt_handler", {"rate": str(RATE_PPS)}),)
        config = _config(nic, R=100, handlers=handlers, mode=mode)
        _tell(words, _run(nic, config, None, lambda: nic.send(int(SKEW_PPS * SKEW_S), SKEW_PPS)))


def _file(nic: Nic, path: Path) -> None:
    click.echo(f"\n3. {FILE_PACKETS:,} packets into a pcapng file, and back out of it.")
    written = _run(nic, _config(nic, R=100), WriteConfig(path=str(path)), lambda: nic.send(FILE_PACKETS, FILE_PPS))
    _tell("written", written)
    back = _run(None, CaptureConfig(read_file=str(path), filter="udp"), None, None)
    _tell("read back through the filter 'udp'", back)
    if back["packets"]["delivered"] != written["packets"]["written"]:
        raise WirecapError("the file does not hold what was written", "please report it")


def _config(nic: Nic, R: int, **options: Any) -> CaptureConfig:
    return CaptureConfig(sources=(QueueSpec(nic.name),), netns=nic.namespace, pool=PoolConfig(256, R), **options)


def _run(
    nic: Nic | None, config: CaptureConfig, write: WriteConfig | None, send: Callable[[], None] | None
) -> dict[str, Any]:
    """Capture while ``send`` sends, or to the end of the file; the summary."""
    from wirecap import assemble
    from wirecap.engine import accounting
    from wirecap.linux import netns

    source = nic.source(config) if nic else assemble.source_of(config)
    try:
        application = assemble.application_of(config, write, source)
        assemble.prepare(source, application, lambda name: click.echo(f"   compiling {name} (once)", err=True))
        engine = assemble.engine_of(config, source, application)
        netns.call(config.netns, engine.start)
        try:
            if send:
                send()
            while not send and engine.running():
                engine.changed.wait(0.1)
                engine.changed.clear()
        finally:
            engine.stop()
        failure = engine.failure()
        if failure:
            raise failure
        writer = application.writer
        return accounting.as_dict(
            engine, writer.packets_written if writer else 0, writer.octets_written if writer else 0
        )
    finally:
        source.close()


def _tell(words: str, summary: dict[str, Any]) -> None:
    packets = summary["packets"]
    drops = [f"{number:,} dropped ({name.replace('_', ' ')})" for name, number in packets["drops"].items() if number]
    click.echo(f"   {words + ':':<45} {packets['delivered']:>9,} captured, {', '.join(drops) or 'none dropped'}")
    if packets["received"] != packets["delivered"] + packets["filtered_out"] + packets["dropped"]:
        raise WirecapError("the counters do not add up", "please report it")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that the NIC is removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.stdout.flush()
