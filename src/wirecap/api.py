"""The Python interface: ``wirecap.open`` for chunks, ``wirecap.capture`` through handlers."""

from __future__ import annotations

import _thread
import inspect
import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from wirecap.config.arguments import buddies_of, checked, names_of, numbers_of, path_of, texts_of
from wirecap.config.capture import CaptureConfig, CaptureOptions, PoolConfig, WriteConfig, check_threshold
from wirecap.config.endpoint import Endpoint, endpoint_of
from wirecap.config.keep import KeepConfig, trigger_name
from wirecap.config.keep import keep as kept_by
from wirecap.config.serve import Remote
from wirecap.config.specs import HandlerSpec, QueueSpec
from wirecap.engine.accounting import QueueCounts, give_up
from wirecap.engine.chunk import Chunk, forget
from wirecap.engine.engine import Engine, ThreadLayout
from wirecap.errors import UsageError, suggest
from wirecap.files.rotation import COMPRESSIONS, format_of
from wirecap.handlers import table
from wirecap.handlers.handler import Follower, Selection, Setting
from wirecap.handlers.handler_thread import Receiver
from wirecap.kernels.base import libc
from wirecap.kernels.pool import handler_loop as h
from wirecap.kernels.pool import pool as k
from wirecap.linux import netns
from wirecap.observe import live_line
from wirecap.run import build
from wirecap.run.capture import run_capture
from wirecap.run.summary import as_dict
from wirecap.source.source import Source

__all__ = ["Capture", "Chunk", "Outcome", "capture", "open", "run_capture"]

if TYPE_CHECKING:
    from wirecap.engine.packet import Packet
    from wirecap.run.publishing import Publisher


Where = str | PathLike[str] | Sequence[str]
"""Interfaces, or a file; a PathLike is always a file."""

LOOK_S = 0.2
"""How often a loop over chunks checks whether the capture can go on."""


_log = logging.getLogger("wirecap")


class _Logged(live_line.Quiet):
    """The display of a program's capture: what its user should know goes to the log, and nothing is printed."""

    def __init__(self) -> None:
        super().__init__(silent=True)

    def warn(self, text: str) -> None:
        _log.warning(text)


class _Caller:
    """The application of a program that takes chunks itself: one consumer, no thread."""

    def __init__(self, selection: Selection, direct: bool, writer: Follower | None = None) -> None:
        """writer: who gets the chunks that the caller has released."""
        self.selection, self.direct, self.writer = selection, direct, writer

    def layout(self, queues: int) -> ThreadLayout:
        writers = self.writer.count(queues) if self.writer else 0
        return ThreadLayout([0] * queues, 1, writers, sharing=False, threads=False)

    def kernels(self) -> list[Any]:
        from wirecap.engine.fields import KERNELS  # a capture from the command line does without

        own = [h.next_chunk, self.selection.kernel, k.give_back, *KERNELS]
        if self.direct:
            from wirecap.kernels.xdp.direct import receive

            own.append(receive)
        return own + ([h.hand_on, *self.writer.kernels()] if self.writer else [])

    def compile(self, tell: Callable[[str], None]) -> None: ...

    def open(self, engine: Engine) -> None:
        if self.writer:
            self.writer.open(engine, keep_going=False, editable=False)

    def run(self, engine: Engine, consumer: int) -> None:
        assert self.writer
        self.writer.run(engine, consumer - 1, consumer, self.selection, direct=False)

    def close(self, engine: Engine) -> None:
        if self.writer:
            self.writer.close()

    def account(self, engine: Engine, queue: int, counts: QueueCounts) -> None: ...


class Capture:
    """A running capture: iterate over it for chunks, and close it (or leave its ``with`` block) to end it.

    A damaged file raises an exception after all the chunks that could be read.
    """

    def __init__(self, config: CaptureConfig, source: Source | None = None, write: WriteConfig | None = None) -> None:
        """write: where packets that are kept are saved."""
        if config.handlers:
            raise UsageError(
                "wirecap.open yields chunks and takes no handlers", "use wirecap.capture(source, handler) instead"
            )
        if config.decisions_file:
            raise UsageError(
                "wirecap.open never offloads, so there are no decisions to keep", "leave decisions_file out"
            )
        if config.html_file:
            raise UsageError("wirecap.open makes no page", "use wirecap.capture(source, html_file=...) instead")
        if config.to:
            raise UsageError("wirecap.open makes no flow records", "use wirecap.capture(source, 'flows', to=...)")
        self._source = source or build.source_of(config, write)
        self._writer: Follower | None = None
        self._first = itertools.count()
        """A signal handler may interrupt ``stop`` anywhere and call it again, so it never waits for a lock."""
        self._taking, self._counting = threading.RLock(), threading.RLock()
        """Held while the loop takes a chunk, and while counters are read; a signal handler may do that within both."""
        self._halted = self._ended = False
        self._ending_failure: BaseException | None = None
        self._final: dict[str, Any] | None = None
        self._stream: Generator[Packet] | None = None
        self._publisher: Publisher | None = None
        try:
            if write:
                made = table.make(HandlerSpec("write"), Setting(filter=config.filter, write=write))
                self._writer = made.follower
                made.check(self._source)
            self._application = _Caller(build.select(config, self._source), self._source.direct, self._writer)
            self.engine = build.engine_of(config, self._source, self._application)
            netns.call(config.netns, self.engine.claim)
            build.prepare(self._source, self._application)
            self._start(config)
        except BaseException:
            if self._writer:
                self._writer.discard()
            self._source.close()
            raise
        self._onward = np.array([0, 1, 0, 0], np.int64)  # to the only writer
        self._end = self.engine.started + config.duration_ns * 1e-9 if config.duration_ns else float("inf")
        self._scratch = libc.scratch()
        self._receiver = Receiver(self.engine, 0)
        self._intake = self._receiver.__enter__()
        self._next_look = 0.0

    def _start(self, config: CaptureConfig) -> None:
        """Start, then log what the user should know; if that fails, no thread is left behind."""
        try:
            netns.call(config.netns, self.engine.start)
            warnings = netns.call(config.netns, self._source.warnings)
            for warning in filter(None, (self._application.selection.note, *warnings)):
                _log.warning(warning)
            if self._source.live:
                self._publish(config.metrics)
        except BaseException:
            self.engine.abandon()
            self.engine.stop()
            raise

    def _publish(self, metrics: Endpoint | None) -> None:
        """Show others how it goes."""
        from wirecap.run.counting import Counting
        from wirecap.run.publishing import Publisher

        self._publisher = Publisher(Counting(self.engine), metrics, _log.warning)
        self._publisher.start()

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            try:
                chunk = self.take()
            except StopIteration:
                return
            if chunk is None:
                continue
            try:
                yield chunk
            finally:
                chunk.release()

    def packets(self) -> Iterator[Packet]:
        """The packets one by one, each a copy of its bytes that the caller may keep.

        A loop that is left by ``break`` can be taken up again: the next call of ``packets`` goes on behind the last
        packet that was handed out.  Those of the chunk at hand that nobody asked for until the capture is closed count
        as ``unread_at_stop``, like those behind them.
        """
        if self._stream is None or inspect.getgeneratorstate(self._stream) == inspect.GEN_CLOSED:
            self._stream = self._each()
        return self._stream

    def _each(self) -> Generator[Packet]:
        from wirecap.engine.packet import packets_of

        while True:
            try:
                chunk = self.take()
            except StopIteration:
                return
            if chunk is None:
                continue
            handed_out = 0
            try:
                for packet in packets_of(chunk):
                    handed_out += 1
                    yield packet
            finally:
                if handed_out < len(chunk):
                    give_up(self.engine.pool, 0, chunk.slot, handed_out)
                chunk.release()

    def take(self, timeout_s: float | None = None) -> Chunk | None:
        """The next chunk, to be released by the caller; None if there was none for timeout_s seconds (None: wait).

        Raises StopIteration at the end, or what made the capture fail.
        """
        pool, select, state = self.engine.pool, self._application.selection.address, self._application.selection.states
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            if now >= self._next_look or self.engine.changed.is_set():  # checking takes system calls
                self._next_look = now + LOOK_S
                self.engine.changed.clear()
                if not self.engine.running():
                    self.stop()
            if now >= self._end or self.engine.is_full:
                self.stop()
            wait_ns = min(h.WAIT_NS, max(0, round((until - now) * 1e9))) if timeout_s is not None else h.WAIT_NS
            with self._taking:
                code = int(h.next_chunk(pool, 0, self._intake, select, state, wait_ns, self._scratch))
            if code == h.CLOSED:
                self._finish()
                raise StopIteration
            if code == h.TIMED_OUT:
                if time.monotonic() >= until:
                    return None
                continue
            chunk = self._chunk(code >> 32, code & 0xFFFFFFFF)
            if len(chunk):
                return chunk
            chunk.release()

    def _finish(self) -> None:
        """All chunks were taken: raise what made the capture fail, if anything did."""
        self._join()
        self.engine.finish()
        self.engine.stopped = True
        failure = self.engine.failure() or self._ending_failure
        if failure:
            raise failure

    def _chunk(self, slot: int, count: int) -> Chunk:
        pool = self.engine.pool
        sequence = int(pool.meta[slot * k.SLOT_WORDS + k.STATE]) >> 2
        home = self._source.queues[int(pool.meta[slot * k.SLOT_WORDS + k.HOME])]
        described = self._source.interfaces[int(pool.meta[slot * k.SLOT_WORDS + k.INTERFACE])]
        if self._writer:
            return Chunk(pool, slot, count, home, lambda: h.hand_on(pool, slot, self._onward), described=described)
        return Chunk(pool, slot, count, home, lambda: k.give_back(pool, slot, sequence), described=described)

    def trigger(self, name: str, timestamp_ns: int | None = None) -> None:
        """Save what is kept, and what follows: for a capture that was opened with ``keep``; from any thread.

        name: stands in the file.  timestamp_ns: when it happened, ns since the epoch; now if left out.
        """
        why = trigger_name(name)
        if self._writer is None or self._writer.keeping is None:
            raise UsageError("this capture keeps no packets", 'open it with keep="60s" and write="FILE"')
        self._writer.keeping.triggers.fire(why, None if timestamp_ns is None else int(timestamp_ns))

    def _as_dict(self) -> dict[str, Any]:
        if self._writer is None or self._writer.keeping is None:
            summary = as_dict(self.engine)
        else:
            summary = as_dict(self.engine, self._writer.packets_written, self._writer.bytes_written)
            summary["kept"], summary["files_written"] = self._writer.keeping.held(), self._writer.files_written
            summary["notes"] = self._writer.notes + summary["notes"]
        summary["notes"] += self._application.selection.later_notes
        return summary

    @property
    def T(self) -> int:
        """The capture queue length, in percent of R, above which chunks go to buddies.  It can be set at any time."""
        return self.engine.T

    @T.setter
    def T(self, percent: int) -> None:
        percent = checked({"T": percent})["T"]
        check_threshold(percent)
        self.engine.set_threshold(percent)

    def stop(self) -> None:
        """Let no more packets in; the loop still gets what has been captured, and then ends."""
        # Capture threads may have to wait for the caller to take chunks, so the caller cannot wait for them.
        _thread.start_new_thread(self._stop, ())
        while not self._halted:
            time.sleep(0.0005)

    def _stop(self) -> None:
        """The life of a thread that ends the capture; only the first one does anything."""
        if next(self._first):
            return
        try:
            try:
                self.engine.halt()
            finally:
                self._halted = True
            self.engine.drain(all_taken=False)
        except BaseException as error:
            self._ending_failure = error
        finally:
            self._ended = True

    def _join(self) -> None:
        """Wait until all threads have ended."""
        while not self._ended:
            time.sleep(0.0005)

    def summary(self) -> dict[str, Any]:
        """The summary object (docs/summary.md), at any time and from any thread; final once the capture has ended."""
        with self._counting:
            try:
                return self._final or self._as_dict()
            except Exception:  # a signal handler has closed the capture meanwhile
                if self._final is None:
                    raise
                return self._final

    def close(self) -> None:
        """End the capture; packets that the loop did not take count as ``unread_at_stop``."""
        if self._stream is not None:
            with suppress(ValueError):  # called by a signal handler within the loop, which gives up its own chunk
                self._stream.close()
        self.stop()
        if self._writer:
            self.engine.finish()
        self.engine.abandon()
        self._join()
        if self._publisher:
            self._publisher.close()
        with self._taking, self._counting:
            if self._final is not None:
                return
            self.engine.stopped = True
            self._final = self._as_dict()
            self._receiver.__exit__()
            forget(self.engine.pool)
            self._source.close()
        if self._ending_failure:
            raise self._ending_failure

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(
    source: Where, *, mode: str = "basic", M: int = 256, R: int = 100, T: int = 60,
    filter: str = "", count: int | None = None, duration_s: float | None = None, netns: str | None = None,
    take_over: bool = False, cell: int = 2048, write: str | PathLike[str] | None = None,
    keep: str | KeepConfig | None = None, **options: Unpack[CaptureOptions],
) -> Capture:  # fmt: skip
    """Start capturing from an interface (``eth1``, ``eth1@0-3``), a list of interfaces, or a capture file.

    A string is a path if it names an existing file (or pipe), contains a slash, or ends like a capture file
    (``.pcap``, ``.gz``).  mode, M (packets per chunk), R (chunks per queue), T (percent of R), filter (a tcpdump
    expression), count (packets), duration_s, netns, take_over and cell (bytes) are as in ``wirecap capture``;
    ``options`` are those of wirecap.config.capture.CaptureOptions.  With keep (``"60s"``, or ``wirecap.keep("60s",
    save_on="tcp port 23")``) released chunks are kept in memory, and saved in the file ``write`` when something asks
    for it, such as ``capture.trigger("name")``.  What the command would warn of goes to the log
    ``wirecap`` (logging).  Raises wirecap.UsageError for bad arguments,
    including unknown options, and wirecap.WirecapError if something fails.
    """
    if write is not None and keep is None:
        raise UsageError("wirecap.open writes only what it keeps", 'add keep="60s"; wirecap.write writes chunks')
    return Capture(
        _config(
            source, {"M": M, "R": R, "cell": cell}, duration_s, mode=mode, T=T, filter=filter, count=count, netns=netns,
            take_over=take_over, **_known(options),
        ),
        write=_target(write, keep),
    )  # fmt: skip


def _target(write: str | PathLike[str] | None, keep: str | KeepConfig | None) -> WriteConfig | None:
    """The file to write.  Raises UsageError."""
    if write is None:
        if keep is not None:
            raise UsageError("there is no file to save kept packets in", 'add write="alarm.pcapng"')
        return None
    path = path_of("write", write)
    return WriteConfig(path=path, format=format_of(path), keep=kept_by(keep) if isinstance(keep, str) else keep)


@dataclass(frozen=True)
class Outcome:
    """What came of a capture.  summary: the summary object; results: each handler's result, in order."""

    summary: dict[str, Any]
    results: list[Any]

    @property
    def result(self) -> Any:
        """The first handler's result."""
        return self.results[0]


def capture(
    source: Where, *handlers: Any, write: str | PathLike[str] | None = None, keep: str | KeepConfig | None = None,
    mode: str = "basic", M: int = 256, R: int = 100, T: int = 60, filter: str = "", count: int | None = None,
    duration_s: float | None = None, netns: str | None = None, take_over: bool = False, cell: int = 2048,
    **options: Unpack[CaptureOptions],
) -> Outcome:  # fmt: skip
    """Capture through handlers until the file ends, the time or count is reached, or Ctrl-C; returns the results.

    handlers: functions, decorated (``wirecap.handler``) or not, and strings as for ``--handler``
    (``"pkt_handler:x=300"``); a string's result is None unless it names a function.  write: a file for the packets.
    keep: hold the last packets in memory (``"60s"``, or ``wirecap.keep("60s", save_on="tcp port 23")``), and write
    them only when something has them saved, such as ``wirecap.trigger("name")``.
    The other arguments and the errors are those of ``open``.
    """
    specs = tuple(_spec(handler) for handler in handlers)
    config = _config(
        source, {"M": M, "R": R, "cell": cell}, duration_s, mode=mode, T=T, filter=filter, count=count, netns=netns,
        take_over=take_over, handlers=specs, **_known(options),
    )  # fmt: skip
    summary = run_capture(config, _target(write, keep), _Logged())
    results = iter(summary.get("handlers", ()))
    return Outcome(summary, [next(results)["result"] if table.has_result(spec) else None for spec in specs])


def _spec(handler: Any) -> HandlerSpec:
    if isinstance(handler, str):
        return HandlerSpec.parse(handler)
    return HandlerSpec(str(getattr(handler, "__name__", "handler")), given=handler)


_ON_THE_COMMAND_LINE = {
    "buffer_size": "R", "chunk_size": "M", "chunks": "R", "duration": "duration_s", "packets": "count",
    "snapshot_length": "snaplen", "threshold": "T", "time_stamp_type": "time_stamps", "timeout": "timeout_ns",
}  # fmt: skip
"""Options by the long names of the command line, where Python's are others."""


def _known(options: CaptureOptions) -> CaptureOptions:
    """Raise UsageError for an unknown option, for which Python itself would raise TypeError."""
    if "handlers" in options:
        raise UsageError(
            "wirecap.open yields chunks and takes no handlers", "use wirecap.capture(source, handler) instead"
        )
    for name in options.keys() - CaptureOptions.__annotations__.keys():
        known = [*list(inspect.signature(open).parameters)[1:-1], *CaptureOptions.__annotations__]
        ours = _ON_THE_COMMAND_LINE.get(name)
        meant = f"did you mean {ours}?" if ours else suggest(name, known)
        raise UsageError(f"unknown option {name!r}", meant or f"the options are {', '.join(known)}")
    return options


def _path_if_given(name: str, given: Any) -> str | None:
    return None if given is None else path_of(name, given)


def _config(source: Where, pool: Mapping[str, int], duration_s: float | None, **options: Any) -> CaptureConfig:
    options = checked({"duration_s": duration_s, **options})
    duration_s = options.pop("duration_s")
    converted: dict[str, Callable[[Any], Any]] = {
        "cpus": lambda given: given if given == "auto" else numbers_of("cpus", given), "buddies": buddies_of,
        "to": texts_of,
        "metrics": endpoint_of,
    }  # fmt: skip
    for name in ("decisions_file", "html_file"):
        converted[name] = partial(_path_if_given, name)
    options |= {name: convert(options[name]) for name, convert in converted.items() if name in options}
    names = names_of(source)
    remote = Remote.parse(names[0]) if len(names) == 1 and "://" in names[0] else None
    is_file = isinstance(source, PathLike) or (len(names) == 1 and _is_path(names[0]))
    if not names:
        raise UsageError("nothing to capture from", "give an interface or a file")
    return CaptureConfig(
        sources=() if is_file or remote else tuple(QueueSpec.parse(name) for name in names),
        read_file=names[0] if is_file and not remote else None,
        remote=remote,
        pool=PoolConfig(**checked(pool)),
        duration_ns=None if duration_s is None else round(duration_s * 1e9), **options,
    )  # fmt: skip


_SUFFIXES = (".pcap", ".pcapng", ".cap", ".dmp", *COMPRESSIONS)


def _is_path(name: str) -> bool:
    """Whether the name is a path.  A folder named like an interface is one only if written with a slash."""
    return "/" in name or name.lower().endswith(_SUFFIXES) or (Path(name).exists() and not Path(name).is_dir())
