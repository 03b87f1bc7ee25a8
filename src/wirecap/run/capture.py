"""A capture from its first line of output to its last: signals, the live line, the end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from wirecap.config.capture import CaptureConfig, WriteConfig, is_spooled
from wirecap.config.forward import ForwardConfig
from wirecap.config.keep import trigger_name
from wirecap.engine import decisions
from wirecap.engine.engine import Engine
from wirecap.engine.turning import Turning
from wirecap.errors import UsageError, WirecapError
from wirecap.handlers import table
from wirecap.handlers.pipeline import Pipeline
from wirecap.linux import netns
from wirecap.observe.live_line import Progress, Snapshot
from wirecap.observe.manager import Manager
from wirecap.run import build
from wirecap.run.recording import Recording
from wirecap.run.reload import Reload, Reloading
from wirecap.run.summary import as_dict
from wirecap.run.waiting import Waiting
from wirecap.signals import Interrupts

if TYPE_CHECKING:
    from wirecap.flows.link import Link
    from wirecap.handlers.triggers import Keeps
    from wirecap.linux.confinement import Confinement
    from wirecap.run.publishing import Publisher
    from wirecap.source.source import Source

Tell = Callable[[dict[str, Any], bool], None]
"""Gets the summary object as it is now, and whether the run has ended."""


def run_capture(
    config: CaptureConfig, write: WriteConfig | None, display: Progress, forward: ForwardConfig | None = None,
    tell: Tell | None = None, manager: Manager | None = None, reload: Reload | None = None,
    confinement: Confinement | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Capture, and with ``forward`` also forward, until something ends it; returns the summary object.

    ``tell`` gets it while signals are still handled, even if the run failed half-way, and before that on every
    SIGUSR1; SIGUSR2 then flushes the files, or has kept packets saved.  ``manager`` is told how it goes.  ``reload``
    is called on SIGHUP.  ``confinement`` has this process, which does nothing else, give up its rights once all is set
    up.  A failed run raises its first failure, with the summary in the error's ``summary``.
    """
    table.complete(config.handlers, write, forward, config.to, config.serve)  # check names before opening anything
    recording = Recording(config.html_file)
    source = build.source_of(config, write, forward)
    application: Pipeline | None = None
    manager = manager or Manager({})
    try:
        application = build.application_of(config, write, source, forward, changeable=reload is not None)
        engine = build.engine_of(config, source, application)
        netns.call(config.netns, engine.claim)
        build.prepare(source, application, partial(_say_compiling, display))
        if confinement:
            confinement.begin()
        netns.call(config.netns, engine.open)  # a signal ends this at once: nothing has been captured
        actions = _actions(engine, application, tell)
        if reload:
            actions[signal.SIGHUP] = partial(reload, Reloading(engine, application, config, write))
        with _reached(application, display), Interrupts(actions) as interrupts:
            netns.call(config.netns, engine.start)
            recording.start(engine, application, config, display)
            publisher: Publisher | None = None
            link: Link | None = None
            failed: list[BaseException] = []
            with _kept(failed):
                shortcomings = _shortcomings(source, config)  # before we may not look at other processes any more
                if confinement:
                    confinement.settle()
                serving = application.writer.serving if application.writer else ""
                if source.live:  # who reads that it captures may look at once
                    publisher = _publisher(engine, application, config, write, display)
                    publisher.start()
                display.say(_opening(engine, forward, serving), "started", **_facts(engine))
                for line in engine.placed:
                    display.say(f"wirecap: {line}", "placed")
                if keeping := _keeping(application):
                    display.say(keeping.announcement, "keeping")
                display.ready()
                manager.ready()
                warnings = [*application.warnings(), *_lonely(engine), *shortcomings]
                for warning in warnings:
                    display.warn(warning)
                if publisher:  # nobody waits for this: packets are being captured
                    link = _link(application, config, publisher)
                _watch(engine, application, config, display, interrupts, manager, recording)
            with _kept(failed), _patience(engine, display, interrupts):
                manager.stopping()
                if link:
                    link.end()
                if publisher:
                    publisher.end()
                engine.stop(interrupts.give_up)
            with _kept(failed):
                if publisher:
                    publisher.close()
            with _kept(failed):
                _finish_printing(application, display, interrupts, alone=write is not None and write.only_printed)
            return _closing(engine, application, config.decisions_file, recording, failed, tell)
    finally:
        recording.stop()
        if application and (printer := application.printer):
            printer.kill()
        for handler in application.parts if application else ():
            handler.discard()
        source.close()


def _publisher(
    engine: Engine, application: Pipeline, config: CaptureConfig, write: WriteConfig | None, display: Progress
) -> Publisher:  # fmt: skip
    """What shows others how it goes."""
    from wirecap.run.counting import Counting
    from wirecap.run.publishing import Publisher

    counting = Counting(engine, write, application.writer, application.forwarder)
    return Publisher(counting, config.metrics, display.warn)


def _link(application: Pipeline, config: CaptureConfig, publisher: Publisher) -> Link | None:
    """The way on which a broker gets counters, and this capture triggers; None where no flows go to a broker."""
    target = next(filter(is_spooled, config.to), None)
    flows = next((part for part in application.parts if part.exports), None)
    if target is None or flows is None:
        return None
    from wirecap.flows.link import Link

    def counters() -> dict[str, Any]:
        return {"counters": publisher.latest, "flows": flows.result()}

    keeping = _keeping(application)
    fire = (lambda name: keeping.triggers.fire(trigger_name(name))) if keeping else None
    link = Link(target, counters, fire)
    link.start()
    return link


@contextlib.contextmanager
def _kept(failed: list[BaseException]) -> Iterator[None]:
    """Keep a failure here from preventing what must be done afterwards."""
    try:
        yield
    except BaseException as error:
        failed.append(error)


def _keeping(application: Pipeline) -> Keeps | None:
    return application.writer.keeping if application.writer else None


@contextlib.contextmanager
def _reached(application: Pipeline, display: Progress) -> Iterator[None]:
    """Let ``wirecap trigger`` reach a capture that keeps packets."""
    keeping = _keeping(application)
    if keeping is None:
        yield
        return
    triggers = keeping.triggers
    from wirecap.observe.trigger_socket import TriggerSocket

    try:
        listener = TriggerSocket(lambda name: triggers.fire(trigger_name(name)))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        display.warn(f"wirecap trigger does not reach this capture: {reason} (kill -USR2 does)")
        yield
        return
    try:
        yield
    finally:
        listener.close()


def _shortcomings(source: Source, config: CaptureConfig) -> list[str]:
    """What the source is known to drop or miss; nothing of an interface that has just gone, which ``_watch`` tells."""
    try:
        return netns.call(config.netns, source.warnings)
    except UsageError:
        return []


PATIENCE_S = 1.0
"""After this time of handling what was captured, a line says so."""


@contextlib.contextmanager
def _patience(engine: Engine, display: Progress, interrupts: Interrupts) -> Iterator[None]:
    """Say once that packets are still handled, and how to leave them, if this takes long."""

    def tell() -> None:
        left = engine.summary().total("pending")
        if left:
            again = "a second Ctrl-C leaves" if interrupts.asked.is_set() else "Ctrl-C twice leaves"
            packets = "1 packet that was" if left == 1 else f"{left} packets that were"
            display.say(f"wirecap: handling {packets} captured ({again} the rest)", "handling_rest", packets=left)

    timer = threading.Timer(PATIENCE_S, tell)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _actions(engine: Engine, application: Pipeline, tell: Tell | None) -> dict[int, Callable[[], None]]:
    """What tcpdump does on these signals; a program that only calls us keeps its own handlers."""
    if tell is None:
        return {}
    keeping = _keeping(application)
    other = partial(keeping.triggers.fire, "SIGUSR2") if keeping else application.flush
    return {signal.SIGUSR1: lambda: tell(_summary(engine, application), False), signal.SIGUSR2: other}


def _say_compiling(display: Progress, name: str) -> None:
    display.say(f"wirecap: compiling {name} (once)", "compiling", kernel=name)


def _opening(engine: Engine, forward: ForwardConfig | None, serving: str) -> str:
    source = engine.source
    names = ", ".join(dict.fromkeys(queue.interface for queue in source.queues))
    if not source.live:
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
    if serving:
        doing = f"serving {names} on {serving}"
    return f"wirecap: {doing}: {len(source.queues)} {queues}, engine {source.name} ({how}), {mode}, {pool}"


def _facts(engine: Engine) -> dict[str, Any]:
    """What the opening line says, for programs."""
    source = engine.source
    names = list(dict.fromkeys(queue.interface for queue in source.queues))
    if not source.live:
        return {"files": names}
    how = {name: value for name, value in source.describe().items() if name != "remedies"}
    mode = "advanced" if engine.advanced else "basic"
    return {"interfaces": names, "queues": len(source.queues), "engine": source.name, **how, "mode": mode,
            "T": engine.T, "M": engine.M, "R": engine.R}  # fmt: skip


def _lonely(engine: Engine) -> list[str]:
    """Why advanced mode changes nothing here, if so."""
    if not engine.advanced:
        return []
    if not engine.layout.sharing:
        return ["advanced mode has nobody to offload to: one writer takes the chunks of all queues (leave --mode out)"]
    if max(engine.pool.members[:, 0].tolist()) > 1:
        return []
    alone = "there is only one queue" if len(engine.source.queues) == 1 else "each queue is alone in its buddy group"
    return [f"advanced mode has nobody to offload to: {alone} (leave --mode out)"]


def _watch(
    engine: Engine, application: Pipeline, config: CaptureConfig, display: Progress, interrupts: Interrupts,
    manager: Manager, recording: Recording,
) -> None:  # fmt: skip
    """Sleep until the capture should end; meanwhile show its progress and do what signals ask for."""
    turning, waiting = Turning(engine), Waiting(engine, config, display)
    end = engine.started + config.duration_ns * 1e-9 if config.duration_ns else float("inf")
    printer = application.printer
    while engine.running() and not interrupts.asked.is_set() and not (printer and printer.unwanted):
        left = end - time.monotonic()
        if left <= 0:
            return
        engine.changed.wait(min(display.interval_s, manager.every_s, waiting.every_s, left))
        engine.changed.clear()
        interrupts.act()
        waiting()
        now = snapshot(engine, application)
        display.show(now)
        manager.beat(turning, partial(_status, now))
        _say_messages(application, display)
        recording.say()


def _status(now: Snapshot) -> str:
    """A line for ``systemctl status``."""
    return f"{now.received} packets received, {now.delivered} captured, {sum(now.drops.values())} dropped"


def _say_messages(application: Pipeline, display: Progress) -> None:
    writer = application.writer
    event = "printer" if writer and writer.printer else "client"
    for part in application.parts:
        while messages := part.messages:
            display.say(messages.popleft(), event if part is writer else "broker")


def _finish_printing(application: Pipeline, display: Progress, interrupts: Interrupts, alone: bool) -> None:
    """Wait until everything captured is printed; a second signal ends that.

    alone: no file is written.  Raises WirecapError if the printer failed and nothing else was to be done.
    """
    _say_messages(application, display)
    if printer := application.printer:
        printer.wait(interrupts.give_up)
        _say_messages(application, display)
        if printer.failure and alone and not application.handlers:
            raise WirecapError(f"not every packet was printed: {printer.failure}")


def snapshot(engine: Engine, application: Pipeline) -> Snapshot:
    """The state of the capture now."""
    summary = engine.summary()
    written = application.writer.packets_written if application.writer else 0
    return Snapshot(
        elapsed_s=time.monotonic() - engine.started, received=summary.total("received"),
        delivered=summary.total("delivered"), bytes=summary.total("received_bytes"), written=written,
        depths=engine.depths(), R=engine.R, drops=summary.drops(),
    )  # fmt: skip


def _summary(engine: Engine, application: Pipeline) -> dict[str, Any]:
    writer = application.writer
    summary = as_dict(engine, writer.packets_written, writer.bytes_written) if writer else as_dict(engine)
    if writer:
        summary["packets"]["written_late"] = writer.late
        summary["files_written"] = writer.files_written
        if writer.printer:
            summary["packets"]["printed"] = writer.printer.printed
            summary["packets"]["not_printed"] = dict(writer.printer.not_printed)
        if writer.keeping:
            summary["kept"] = writer.keeping.held()
        summary["notes"] = writer.notes + (
            summary["notes"] if application.handlers else []
        )  # the file's is for handlers
        writer.report(summary)
    summary["notes"] += application.selection.later_notes
    engine.source.report(summary)
    if application.forwarder:
        application.forwarder.report(summary)
    return summary


def _closing(
    engine: Engine, application: Pipeline, decisions_file: str | None, recording: Recording,
    failed: list[BaseException], tell: Tell | None,
) -> dict[str, Any]:  # fmt: skip
    """The summary of a run that has ended, which is reported whatever failed; then raise the first failure."""
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
        recording.report(summary)
    with _kept(failed):
        if tell:
            tell(summary, True)
    if failed:
        vars(failed[0])["summary"] = summary
        raise failed[0]
    return summary
