"""The Python interface: ``wirecap.open`` for chunks, ``wirecap.capture`` through handlers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wirecap import assemble
from wirecap.chunk import Chunk
from wirecap.config import CaptureConfig, HandlerSpec, PoolConfig, QueueSpec, WriteConfig, check_threshold
from wirecap.engine import accounting
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError
from wirecap.files.rotation import format_of
from wirecap.handlers.base import Layout, Selection
from wirecap.handlers.direct import Receiver
from wirecap.handlers.table import WITH_RESULT
from wirecap.kernels import handle as h
from wirecap.kernels import libc
from wirecap.kernels import pool as k
from wirecap.kernels.direct import receive_chunk
from wirecap.linux import netns
from wirecap.observe import progress
from wirecap.run import run_capture
from wirecap.source.base import Source

__all__ = ["Capture", "Chunk", "Outcome", "capture", "open", "run_capture"]


class _Caller:
    """The application of a program that takes chunks itself: one consumer, no thread."""

    def __init__(self, selection: Selection, direct: bool) -> None:
        self.selection, self.direct = selection, direct

    def layout(self, queues: int) -> Layout:
        return Layout([0] * queues, 1, sharing=False, threads=False)

    def kernels(self) -> list[Any]:
        return [receive_chunk if self.direct else h.next_chunk, self.selection.kernel, k.give_back]

    def open(self, engine: Engine) -> None: ...

    def run(self, engine: Engine, consumer: int) -> None: ...

    def close(self, engine: Engine) -> None: ...


class Capture:
    """A running capture: iterate over it for chunks, close it (or leave its ``with`` block) to end it.

    An exception from a damaged file comes after all chunks that could be read.
    """

    def __init__(self, config: CaptureConfig, source: Source | None = None) -> None:
        if config.handlers:
            raise UsageError("wirecap.open gives chunks and takes no handlers", "take wirecap.capture(source, handler)")
        if config.decisions_file:
            raise UsageError("wirecap.open hands no chunk to a buddy: there is no decision to keep", "leave it out")
        self._source = source or assemble.source_of(config)
        self._ending: threading.Thread | None = None
        self._lock = threading.Lock()
        self._final: dict[str, Any] | None = None
        try:
            self._application = _Caller(assemble.select(config.filter, self._source), self._source.engine == "direct")
            assemble.prepare(self._source, self._application)
            self.engine = assemble.engine_of(config, self._source, self._application)
            netns.call(config.netns, self.engine.start)
        except BaseException:
            self._source.close()
            raise
        self._end = self.engine.started + config.duration_ns * 1e-9 if config.duration_ns else float("inf")
        self._scratch = libc.scratch()

    def __iter__(self) -> Iterator[Chunk]:
        pool, selection = self.engine.pool, self._application.selection
        select = h.address_of(selection.kernel)
        receiver = Receiver(self.engine, 0) if self.engine.direct else None
        while True:
            if time.monotonic() >= self._end or not self.engine.running():
                self.stop()
            if receiver:
                code = receiver.next_chunk(select, selection.state, h.WAIT_NS)
            else:
                code = int(h.next_chunk(pool, 0, select, selection.state, h.WAIT_NS, self._scratch))
            if code == h.CLOSED:
                break
            if code == h.TIMED_OUT:
                continue
            chunk = self._chunk(code >> 32, code & 0xFFFFFFFF)
            try:
                if len(chunk):
                    yield chunk
            finally:
                chunk.release()
        self._join()
        failure = self.engine.failure()
        if failure:
            raise failure

    def _chunk(self, slot: int, count: int) -> Chunk:
        pool = self.engine.pool
        sequence = int(pool.meta[slot * k.SLOT_WORDS + k.STATE]) >> 2
        home = self._source.queues[int(pool.meta[slot * k.SLOT_WORDS + k.HOME])]
        return Chunk(pool, slot, count, home, lambda: k.give_back(pool, slot, sequence))

    @property
    def T(self) -> int:
        """Length of a capture queue, in percent of R, from which chunks go to buddies.  It may be set at any time."""
        return self.engine.T

    @T.setter
    def T(self, percent: int) -> None:
        check_threshold(percent)
        self.engine.set_threshold(percent)

    def stop(self) -> None:
        """Let no more packets in; the loop still gets what has been captured, and then ends."""
        with self._lock:
            if self._ending is None:
                self.engine.halt()
                # Capture threads may have to wait for the caller, who is to take the chunks and cannot wait for them.
                self._ending = threading.Thread(target=self.engine.drain, name="wirecap end", daemon=True)
                self._ending.start()

    def _join(self) -> None:
        """Wait until all threads have ended."""
        if self._ending:
            self._ending.join()

    def summary(self) -> dict[str, Any]:
        """The summary object (docs/summary.md); exact once the capture has ended."""
        return self._final or accounting.as_dict(self.engine)

    def close(self) -> None:
        """End the capture; what the loop did not take counts as ``unread_at_stop``."""
        self.stop()
        self.engine.abandon()
        self._join()
        if self._final is None:
            self._final = accounting.as_dict(self.engine)
            self._source.close()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(
    source: str | Sequence[str], *, mode: str = "basic", M: int = 256, R: int = 100, T: int = 60,
    filter: str = "", count: int | None = None, duration_s: float | None = None, netns: str | None = None,
    take_over: bool = False, cell: int = 2048, **options: Any,
) -> Capture:  # fmt: skip
    """Start to capture from an interface (``eth1``, ``eth1@0-3``), a list of them, or a capture file's path.

    A text that names an existing file (or pipe), has a slash in it, or ends as capture files do (``.pcap``, ``.gz``)
    is a path.  mode, M (packets a chunk), R (chunks a queue), T (percent of R), filter (tcpdump's language), count
    (packets), duration_s, netns, take_over and cell (bytes) are as ``wirecap capture`` has them; ``options`` are
    further fields of wirecap.config.CaptureConfig.  Raises wirecap.UsageError for what cannot be, wirecap.WirecapError
    for what failed.
    """
    return Capture(
        _config(
            source, PoolConfig(M, R, cell), duration_s, mode=mode, T=T, filter=filter, count=count, netns=netns,
            take_over=take_over, **options,
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a capture came to.  summary: the summary object; results: of each handler, in their order."""

    summary: dict[str, Any]
    results: list[Any]

    @property
    def result(self) -> Any:
        """The first handler's result."""
        return self.results[0]


def capture(
    source: str | Sequence[str], *handlers: Any, write: str | None = None, mode: str = "basic", M: int = 256,
    R: int = 100, T: int = 60, filter: str = "", count: int | None = None, duration_s: float | None = None,
    netns: str | None = None, take_over: bool = False, cell: int = 2048, **options: Any,
) -> Outcome:  # fmt: skip
    """Capture through handlers until the file, the time or the count ends, or Ctrl-C; what they came to.

    handlers: functions, decorated (``wirecap.handler``) or not, and texts as ``--handler`` takes them
    (``"pkt_handler:x=300"``); a text's result is None unless it names a function.  write: a file for the packets.
    The other arguments, and the errors, are those of ``open``.
    """
    specs = tuple(_spec(handler) for handler in handlers)
    config = _config(
        source, PoolConfig(M, R, cell), duration_s, mode=mode, T=T, filter=filter, count=count, netns=netns,
        take_over=take_over, handlers=specs, **options,
    )  # fmt: skip
    target = None if write is None else WriteConfig(path=write, format=format_of(write))
    summary = run_capture(config, target, progress.choose(quiet=True))
    results = iter(summary.get("handlers", ()))
    users = [spec.given is not None or ":" in spec.name or spec.name in WITH_RESULT for spec in specs]
    return Outcome(summary, [next(results)["result"] if user else None for user in users])


def _spec(handler: Any) -> HandlerSpec:
    if isinstance(handler, str):
        return HandlerSpec.parse(handler)
    return HandlerSpec(str(getattr(handler, "__name__", "handler")), given=handler)


def _config(source: str | Sequence[str], pool: PoolConfig, duration_s: float | None, **options: Any) -> CaptureConfig:
    names = [source] if isinstance(source, str) else list(source)
    is_file = len(names) == 1 and _is_path(names[0])
    if not names:
        raise UsageError("nothing to capture from", "give an interface or a file")
    return CaptureConfig(
        sources=() if is_file else tuple(QueueSpec.parse(name) for name in names),
        read_file=names[0] if is_file else None,
        pool=pool, duration_ns=None if duration_s is None else round(duration_s * 1e9), **options,
    )  # fmt: skip


_SUFFIXES = (".pcap", ".pcapng", ".cap", ".dmp", ".gz", ".zst")


def _is_path(name: str) -> bool:
    """A folder may have the name of an interface: only its path, with a slash, is one."""
    return "/" in name or name.endswith(_SUFFIXES) or (Path(name).exists() and not Path(name).is_dir())
