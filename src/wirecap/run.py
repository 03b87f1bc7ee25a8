"""A capture from its first line to its last: signals, the live line, the end."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from wirecap import assemble
from wirecap.config import CaptureConfig, WriteConfig
from wirecap.engine import accounting, decisions
from wirecap.engine.engine import Engine
from wirecap.errors import WirecapError
from wirecap.forward_config import ForwardConfig
from wirecap.handlers.pipeline import Pipeline
from wirecap.linux import netns
from wirecap.observe.progress import Progress
from wirecap.observe.snapshot import Snapshot


class Interrupts:
    """SIGINT, SIGTERM and a lost terminal end the capture; a second SIGINT or SIGTERM gives up what is in the pool.

    A third one ends the process at once: a handler that never returns cannot be ended otherwise.
    """

    def __init__(self, wake: threading.Event) -> None:
        self.asked, self.give_up, self._wake = threading.Event(), threading.Event(), wake

    def __enter__(self) -> Interrupts:
        ours = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup(1) asks that it be ignored
            ours.append(signal.SIGHUP)
        if threading.current_thread() is not threading.main_thread():
            ours = []
        self._before = {number: signal.signal(number, self._handle) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked.is_set() and number != signal.SIGHUP:  # a shell and the kernel may both send that one
            self.give_up.set()
            for ours in self._before:
                signal.signal(ours, signal.SIG_DFL)
        self.asked.set()
        self._wake.set()


def run_capture(
    config: CaptureConfig, write: WriteConfig | None, display: Progress, forward: ForwardConfig | None = None
) -> dict[str, Any]:
    """Capture, and with ``forward`` send on, until something ends it; the summary object.

    A run that fails half-way raises, with the summary so far in the error's ``summary``.
    """
    source = assemble.source_of(config, write, forward)
    try:
        application = assemble.application_of(config, write, source, forward)
        assemble.prepare(source, application, lambda name: display.say(f"wirecap: compiling {name} (once)"))
        engine = assemble.engine_of(config, source, application)
        with Interrupts(engine.changed) as interrupts:
            netns.call(config.netns, engine.start)
            try:
                display.say(_opening(engine, forward))
                for warning in netns.call(config.netns, assemble.warnings, source):
                    display.say(f"wirecap: {warning}")
                _watch(engine, application, config, display, interrupts)
            finally:
                engine.stop(interrupts.give_up)
        return _closing(engine, application, config.decisions_file)
    finally:
        source.close()


def _opening(engine: Engine, forward: ForwardConfig | None) -> str:
    source = engine.source
    names = ", ".join(dict.fromkeys(queue.interface for queue in source.queues))
    if source.engine == "file":
        return f"wirecap: reading {names}"
    facts = source.describe()
    copy = "zero-copy" if facts["zero_copy"] else "copy mode"
    queues = "queue" if len(source.queues) == 1 else "queues"
    mode = f"advanced mode (T {engine.T} %)" if engine.advanced else "basic mode"
    pool = f"M {engine.M}, R {engine.R}"
    how = facts.get("how") or f"{facts['xdp_mode']}, {copy}"
    doing = f"capturing on {names}"
    if forward:
        ways = (f"{one} -> {', '.join(map(str, targets))}" for one, targets in forward.directions)
        doing = f"forwarding {', '.join(ways)}"
    return f"wirecap: {doing}: {len(source.queues)} {queues}, engine {source.engine} ({how}), {mode}, {pool}"


def _watch(
    engine: Engine, application: Pipeline, config: CaptureConfig, display: Progress, interrupts: Interrupts
) -> None:
    """Sleep until the capture is to end; show how it goes meanwhile."""
    end = engine.started + config.duration_ns * 1e-9 if config.duration_ns else float("inf")
    while engine.running() and not interrupts.asked.is_set():
        left = end - time.monotonic()
        if left <= 0:
            return
        engine.changed.wait(min(display.interval_s, left))
        engine.changed.clear()
        display.show(snapshot(engine, application))


def snapshot(engine: Engine, application: Pipeline) -> Snapshot:
    """How the capture stands now."""
    summary = engine.summary()
    written = application.writer.packets_written if application.writer else 0
    return Snapshot(
        elapsed_s=time.monotonic() - engine.started, received=summary.total("received"),
        delivered=summary.total("delivered"), bytes=summary.total("received_octets"), written=written,
        depths=engine.depths(), R=engine.R, drops=summary.drops(),
    )  # fmt: skip


def _closing(engine: Engine, application: Pipeline, decisions_file: str | None) -> dict[str, Any]:
    writer = application.writer
    written, octets = (writer.packets_written, writer.octets_written) if writer else (0, 0)
    summary = accounting.as_dict(engine, written, octets)
    failure = engine.failure()
    try:
        if decisions_file:
            decisions.save(engine, decisions_file)
        results = application.results()
        if results:
            summary["handlers"] = results
    except WirecapError as error:
        failure = failure or error
    if failure is None:
        return summary
    if isinstance(failure, WirecapError):
        failure.summary = summary  # type: ignore[attr-defined]
    raise failure
