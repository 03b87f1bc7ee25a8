"""The figures' experiments on a testbed: ``wirecap capture`` and ``forward`` as a user would run them."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirecap.errors import WirecapError
from wirecap.lab import testbed
from wirecap.lab.far_end import FarEnd
from wirecap.lab.process import Child
from wirecap.sim.engines import Engine, Netmap, PfRing, WireCap
from wirecap.sim.engines.base import RING
from wirecap.sim.live_traffic import Sent
from wirecap.traffic import frames

READY = r"^wirecap: (capturing|forwarding)"
SLOTS_OF_CHUNK = 16
"""PF_RING's slots come back one by one, the packet engine's by chunks."""
DNA_BATCH = 32
"""Cells that the direct engine gives back at once where DNA gives back each; every chunk wakes a paced handler once."""
READY_S, END_S = 180.0, 240.0


class RefusedError(WirecapError):
    """An engine that this host, or this version, does not run."""


def live_engine(engine: Engine, forward: bool = False) -> str:
    """This project's engine that stands for a simulated one; forwarding is AF_XDP, also where PF_RING is meant."""
    if isinstance(engine, PfRing):
        return "xdp" if forward else "packet"
    return "xdp" if isinstance(engine, WireCap) else "direct"


def as_live(engine: Engine) -> Engine:
    """The model to compare a live run with: on a veth the kernel's work is on the sender's core, not the handler's."""
    return PfRing(engine.ring, engine.slots, kernel_ps=1) if isinstance(engine, PfRing) else engine


def options(engine: Engine, forward: bool = False) -> list[str]:
    """The options of ``wirecap capture`` or ``forward`` that make the live engine what the simulated one is."""
    chosen = ["--engine", live_engine(engine, forward)]
    if isinstance(engine, WireCap):
        mode = ["--mode", "advanced", "-T", str(engine.T)] if engine.advanced else ["--mode", "basic"]
        return [*chosen, *mode, "-M", str(engine.M), "-R", str(engine.R)]
    if isinstance(engine, PfRing):
        if forward:  # a pool that is no larger than its slots
            return [*chosen, "--mode", "basic", "-M", "64", "-R", str(max(2, engine.slots // 64))]
        chunks = max(2, engine.slots // SLOTS_OF_CHUNK)
        small = ["--ring", str(engine.slots), "-s", str(frames.MINIMUM_BYTES)]
        return [*chosen, "--fanout", "qm", *small, "-M", str(SLOTS_OF_CHUNK), "-R", str(chunks)]
    # The direct engine's cells come back by chunks, NETMAP's slots by all that lay in the ring.
    ring = getattr(engine, "ring", RING)
    batch = ring if isinstance(engine, Netmap) else DNA_BATCH
    return [*chosen, "--ring", str(ring), "-M", str(batch)]


@dataclass(frozen=True)
class Trial:
    """A live run: what was sent, and the capture's summary."""

    sent: Sent
    summary: dict[str, Any]
    duration_s: float = 0.0
    """From before the first packet until all were handled."""
    arrived: int | None = None
    """Where packets were forwarded: how many came to the other end of the wire."""

    @property
    def lost(self) -> float:
        """The share of the sent packets that was not delivered (did not arrive, where packets were forwarded)."""
        kept = self.summary["packets"]["delivered"] if self.arrived is None else self.arrived
        return 1 - kept / self.sent.packets if self.sent.packets else 0.0


class Bench:
    """A testbed of our own while the experiments last."""

    def __init__(self) -> None:
        self.name = f"wf{os.getpid() % 100_000}"
        testbed.remove_orphans("wf")

    def trial(
        self, arguments: Sequence[str], send: Callable[[list[str]], Sent], *, queues: int, forward: bool = False,
        both: bool = False, gro: bool = False,
    ) -> Trial:  # fmt: skip
        """Make the NICs, start the command, send, stop it when all is handled.

        send: gets the names of the sending interfaces.  both: forward in both directions.  gro: what AF_PACKET needs
        to see redirected frames.
        """
        bed = testbed.up(self.name, queues=queues, nics=2 if forward else 1, gro=gro)
        inside = ["forward", *(nic.inside for nic in bed.nics)] if forward else ["capture", "-i", bed.nics[0].inside]
        with _file() as summary, ExitStack() as stack:
            command = [sys.executable, "-m", "wirecap", *inside, "--netns", bed.name, *(["--both"] if both else [])]
            child = stack.enter_context(Child([*command, *arguments, "--summary-json", str(summary)]))
            self._wait(child)
            ends = (bed.nics if both else bed.nics[1:]) if forward else []
            counters = [stack.enter_context(FarEnd(nic.outside)) for nic in ends]
            begin = time.monotonic()
            sent = send([nic.outside for nic in bed.nics])
            ended = child.end(signal.SIGINT, END_S)
            duration_s = time.monotonic() - begin
            if ended.status:
                raise WirecapError(f"{inside[0]} ended with status {ended.status}: {_last(ended.output)}")
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
        # The command that is measured ends with us, and the testbed goes.
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
    return lines[-1] if lines else "nothing was printed"
