"""A capture from its first line to its last: signals, the live line, the end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from wirecap import assemble
from wirecap.config import CaptureConfig, WriteConfig
from wirecap.engine import accounting, decisions
from wirecap.engine.engine import Engine
from wirecap.flag import Flag
from wirecap.forward_config import ForwardConfig
from wirecap.handlers.pipeline import Pipeline
from wirecap.linux import netns
from wirecap.observe.progress import Progress
from wirecap.observe.snapshot import Snapshot

Tell = Callable[[dict[str, Any], bool], None]
"""Gets the summary object as it is, and whether the run has ended."""


class Interrupts:
    """SIGINT, SIGTERM and a lost terminal end the capture; a second SIGINT or SIGTERM gives up what is in the pool.

    A third one ends the process at once: a handler that never returns cannot be ended otherwise.  ``actions`` are
    what other signals ask for; ``act`` does them, outside the signal handler.
    """

    def __init__(self, actions: Mapping[int, Callable[[], None]] | None = None) -> None:
        self.asked, self.give_up = Flag(), Flag()
        self._actions: Mapping[int, Callable[[], None]] = actions or {}
        self._noted: list[int] = []

    def __enter__(self) -> Interrupts:
        self._ending = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup(1) asks that it be ignored
            self._ending.append(signal.SIGHUP)
        handlers = dict.fromkeys(self._ending, self._end) | dict.fromkeys(self._actions, self._note)
        if threading.current_thread() is not threading.main_thread():
            handlers = {}
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def act(self) -> None:
        while self._noted:
            self._actions[self._noted.pop(0)]()

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.asked.is_set() and number != signal.SIGHUP:  # a shell and the kernel may both send that one
            self.give_up.set()
            for ours in self._ending:
                signal.signal(ours, signal.SIG_DFL)
        self.asked.set()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(number)


def run_capture(
    config: CaptureConfig, write: WriteConfig | None, display: Progress, forward: ForwardConfig | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Capture, and with ``forward`` send on, until something ends it; the summary object.

    ``tell`` gets it while signals are still handled, also of a run that failed half-way, and before that whenever
    SIGUSR1 comes; SIGUSR2 then flushes the files.  A run that failed raises what failed first, with the summary in
    the error's ``summary``.
    """
    source = assemble.source_of(config, write, forward)
    try:
        application = assemble.application_of(config, write, source, forward)
        assemble.prepare(source, application, lambda name: display.say(f"wirecap: compiling {name} (once)"))
        engine = assemble.engine_of(config, source, application)
        netns.call(config.netns, engine.open)  # a signal ends this at once: nothing was captured
        with Interrupts(_actions(engine, application, tell)) as interrupts:
            netns.call(config.netns, engine.start)
            failed: list[BaseException] = []
            with _kept(failed):
                display.say(_opening(engine, forward))
                for warning in netns.call(config.netns, assemble.warnings, source):
                    display.say(f"wirecap: {warning}")
                _watch(engine, application, config, display, interrupts)
            with _kept(failed):
                engine.stop(interrupts.give_up)
            return _closing(engine, application, config.decisions_file, failed, tell)
    finally:
        source.close()


@contextlib.contextmanager
def _kept(failed: list[BaseException]) -> Iterator[None]:
    """What fails here keeps nobody from what is to be done after it."""
    try:
        yield
    except BaseException as error:
        failed.append(error)


def _actions(engine: Engine, application: Pipeline, tell: Tell | None) -> dict[int, Callable[[], None]]:
    """What tcpdump does at these signals; a program that only calls us keeps its own."""
    if tell is None:
        return {}
    return {signal.SIGUSR1: lambda: tell(_summary(engine, application), False), signal.SIGUSR2: application.flush}


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
    """Sleep until the capture is to end; show how it goes meanwhile, and do what signals ask for."""
    end = engine.started + config.duration_ns * 1e-9 if config.duration_ns else float("inf")
    while engine.running() and not interrupts.asked.is_set():
        left = end - time.monotonic()
        if left <= 0:
            return
        engine.changed.wait(min(display.interval_s, left))
        engine.changed.clear()
        interrupts.act()
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


def _summary(engine: Engine, application: Pipeline) -> dict[str, Any]:
    writer = application.writer
    if writer is None:
        return accounting.as_dict(engine)
    summary = accounting.as_dict(engine, writer.packets_written, writer.octets_written)
    summary["packets"]["written_late"] = writer.late
    return summary


def _closing(
    engine: Engine, application: Pipeline, decisions_file: str | None, failed: list[BaseException], tell: Tell | None
) -> dict[str, Any]:
    """The summary of a run that has ended, told whatever failed; then the first failure is raised."""
    if failure := engine.failure():
        failed.insert(0, failure)
    summary = _summary(engine, application)
    with _kept(failed):
        if results := application.results(failed):
            summary["handlers"] = results
    with _kept(failed):
        if decisions_file:
            decisions.save(engine, decisions_file)
    with _kept(failed):
        if tell:
            tell(summary, True)
    if failed:
        vars(failed[0])["summary"] = summary
        raise failed[0]
    return summary
