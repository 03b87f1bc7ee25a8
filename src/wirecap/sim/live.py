"""Runs the figures' experiments on a testbed, with ``wirecap capture`` and ``forward`` as a user would run them.

A workload is sent to the testbed packet by packet, each on its own queue and at its own time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wirecap.errors import WirecapError
from wirecap.lab import testbed
from wirecap.lab.far_end import FarEnd
from wirecap.lab.process import Child
from wirecap.linux import netns
from wirecap.sim.models import Model, Netmap, PfRing, WireCap
from wirecap.sim.models.model import RING
from wirecap.sim.plan import FCS_BYTES
from wirecap.sim.workload import Workload, times_of
from wirecap.traffic import synthetic
from wirecap.traffic.batch import PACKETS, Batch, NotSent
from wirecap.traffic.live_frames import LiveFrames
from wirecap.traffic.session import Session
from wirecap.traffic.transmitter import Transmitter
from wirecap.traffic.ways import Wish, open_sender


@dataclass(frozen=True)
class Sent:
    """How many packets reached the other end, and how long that took."""

    packets: int
    duration_s: float
    latest_ms: float = 0.0
    """The largest delay of a packet behind its planned time."""

    @property
    def rate_pps(self) -> float:
        return self.packets / self.duration_s if self.duration_s else 0.0


class WorkloadPlan:
    """The packets of a workload in order of time, all copies of one frame (traffic.batch.SendPlan)."""

    paced = counted = True

    def __init__(self, workload: Workload, frame: bytes) -> None:
        self.queues, self.not_sent = len(workload.queues), NotSent()
        times = np.concatenate([times_of(queue) for queue in workload.queues])
        where = np.concatenate([np.full(q.packets, number) for number, q in enumerate(workload.queues)])
        order = np.argsort(times, kind="stable")
        self._due, self._queue = times[order] // 1000, where[order].astype(np.int64)
        self._frame = np.frombuffer(bytearray(frame), np.uint8)
        self._stopped = False

    def kernels(self) -> list[Any]:
        return []

    def batches(self) -> Iterator[Batch]:
        for first in range(0, self._due.size, PACKETS):
            if self._stopped:
                return
            due, queue = self._due[first : first + PACKETS], self._queue[first : first + PACKETS]
            n = due.size
            address, length = np.zeros(n, np.int64), np.full(n, self._frame.size, np.uint32)
            yield Batch(n, self._frame, address, length, due.copy(), queue.copy())

    def left(self) -> int | None:
        return None

    def close(self) -> None:
        self._stopped = True


def send_workload(interface: str, namespace: str | None, workload: Workload) -> Sent:
    """Send every packet of the workload on its transmit queue, at its time."""
    frame = synthetic.udp()
    plan = WorkloadPlan(workload, frame)
    wish = Wish(tuple(range(plan.queues)), len(frame), True, workload.packets / max(workload.duration_s, 1e-9))
    sender, _ = netns.call(namespace, open_sender, interface, "xdp", wish)
    try:
        outcome = netns.call(namespace, Session(plan, sender).run)
    finally:
        sender.close()
    return Sent(outcome.sent, outcome.duration_s, outcome.latest_ns / 1e6)


def send_both(interfaces: list[str], queues: int, packets: int, frame_bytes: int) -> Sent:
    """Send this many packets into each interface at once, over all its queues, as fast as AF_XDP can.

    frame_bytes: including the check sequence, which is not sent.
    """
    frame = synthetic.udp(frame_bytes - FCS_BYTES)
    rates = dict.fromkeys(range(queues), float("inf"))
    with ExitStack() as stack:
        senders = [stack.enter_context(Transmitter(name, frame, range(queues))) for name in interfaces]
        begin = time.monotonic()
        with ThreadPoolExecutor(len(senders)) as threads:
            running = [threads.submit(sender.send, rates, count=packets) for sender in senders]
            completed = sum(sum(one.result().values()) for one in running)
        duration_s = time.monotonic() - begin
        return Sent(completed - sum(sender.refused for sender in senders), duration_s)


def send_burst(interface: str, packets: int, cpu: int) -> Sent:
    """Send this many packets onto one queue, as fast as the kernel makes them."""
    with LiveFrames(interface, synthetic.udp(), sequence_at=42, cpu=cpu) as sender:
        begin = time.monotonic()
        sent = sender.send(packets)
        return Sent(sent, time.monotonic() - begin)


READY = r"^wirecap: (capturing|forwarding)"
SLOTS_OF_CHUNK = 16
"""PF_RING's slots come back one by one, the packet engine's in chunks."""
DNA_BATCH = 32
"""Cells that the direct engine gives back at once, where DNA does so one by one; a chunk wakes a paced handler once."""
READY_S, END_S = 180.0, 240.0


class RefusedError(WirecapError):
    """An engine that this host or this version cannot run."""


def live_engine(model: Model, forward: bool = False) -> str:
    """The engine that stands for a model in a live run; forwarding uses AF_XDP even for PF_RING."""
    if isinstance(model, PfRing):
        return "xdp" if forward else "packet"
    return "xdp" if isinstance(model, WireCap) else "direct"


def as_live(model: Model) -> Model:
    """The model to compare a live run with: on a veth the kernel works on the sender's core, not the handler's."""
    return PfRing(model.ring, model.slots, kernel_ps=1) if isinstance(model, PfRing) else model


def options(model: Model, forward: bool = False) -> list[str]:
    """The options of ``wirecap capture`` or ``forward`` that make the live engine match the model."""
    chosen = ["--engine", live_engine(model, forward)]
    if isinstance(model, WireCap):
        mode = ["--mode", "advanced", "-T", str(model.T)] if model.advanced else ["--mode", "basic"]
        return [*chosen, *mode, "-M", str(model.M), "-R", str(model.R)]
    if isinstance(model, PfRing):
        if forward:  # a pool no larger than PF_RING's slots
            return [*chosen, "--mode", "basic", "-M", "64", "-R", str(max(2, model.slots // 64))]
        chunks = max(2, model.slots // SLOTS_OF_CHUNK)
        small = ["--ring", str(model.slots), "-s", str(synthetic.MINIMUM_BYTES)]
        return [*chosen, "--fanout", "qm", *small, "-M", str(SLOTS_OF_CHUNK), "-R", str(chunks)]
    # The direct engine's cells come back in chunks, NETMAP's slots all at once, as many as lay in the ring.
    ring = getattr(model, "ring", RING)
    batch = ring if isinstance(model, Netmap) else DNA_BATCH
    return [*chosen, "--ring", str(ring), "-M", str(batch)]


@dataclass(frozen=True)
class Trial:
    """A live run: what was sent, and the summary of the capture."""

    sent: Sent
    summary: dict[str, Any]
    duration_s: float = 0.0
    """From before the first packet until all had been handled."""
    arrived: int | None = None
    """If packets were forwarded: how many reached the far end of the wire."""

    @property
    def lost(self) -> float:
        """The share of the sent packets that was not delivered (when forwarding: that did not arrive)."""
        kept = self.summary["packets"]["delivered"] if self.arrived is None else self.arrived
        return 1 - kept / self.sent.packets if self.sent.packets else 0.0


class Bench:
    """A testbed that lasts as long as the experiments."""

    def __init__(self) -> None:
        self.name = f"wf{os.getpid() % 100_000}"
        testbed.remove_orphans("wf")

    def trial(
        self, arguments: Sequence[str], send: Callable[[list[str]], Sent], *, queues: int, forward: bool = False,
        both: bool = False, gro: bool = False,
    ) -> Trial:  # fmt: skip
        """Create the NICs, start the command, send, and stop it once everything is handled.

        send: gets the names of the sending interfaces.  both: forward in both directions.  gro: AF_PACKET needs it to
        see redirected frames.
        """
        bed = testbed.up(self.name, queues=queues, nics=2 if forward else 1, gro=gro)
        inside = ["forward", *(nic.inside for nic in bed.nics)] if forward else ["capture", "-i", bed.nics[0].inside]
        with _file() as summary, ExitStack() as stack:
            command = [
                sys.executable,
                "-P",
                "-m",
                "wirecap",
                *inside,
                "--netns",
                bed.name,
                *(["--both"] if both else []),
            ]
            child = stack.enter_context(Child([*command, *arguments, "--summary-json", str(summary)]))
            self._wait(child)
            ends = (bed.nics if both else bed.nics[1:]) if forward else []
            counters = [stack.enter_context(FarEnd(nic.outside)) for nic in ends]
            begin = time.monotonic()
            sent = send([nic.outside for nic in bed.nics])
            ended = child.end(signal.SIGINT, END_S)
            duration_s = time.monotonic() - begin
            if ended.status:
                raise WirecapError(f"wirecap {inside[0]} exited with status {ended.status}: {_last(ended.output)}")
            arrived = sum(counter.packets for counter in counters) if forward else None
            return Trial(sent, json.loads(summary.read_text()), duration_s, arrived)

    @staticmethod
    def _wait(child: Child) -> None:
        try:
            child.wait_for(READY, READY_S)
        except WirecapError:
            if not child.running and child.end(None).status == 2:
                raise RefusedError(_last(child.output).removeprefix("wirecap: ")) from None
            raise

    def __enter__(self) -> Bench:
        # When we are interrupted, end the measured command and remove the testbed.
        self._before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        testbed.down(self.name)
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wirecap-figure-") as folder:
        yield Path(folder) / "summary.json"


def _last(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
