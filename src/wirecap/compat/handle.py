"""What the modules share: a capture file or a live capture as packets one after the other, with a filter."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import length_hint
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap import api
from wirecap.compat.objects import packets
from wirecap.config.capture import MAX_SNAPLEN, CaptureConfig, PoolConfig
from wirecap.config.sources import AUTO
from wirecap.config.specs import QueueSpec
from wirecap.engine.chunk import Chunk
from wirecap.errors import UsageError, WirecapError
from wirecap.files.reader import CaptureFile, Progress, describe_scan_error, open_capture
from wirecap.filters import libpcap
from wirecap.filters.native import NativeFilter
from wirecap.filters.program import Program
from wirecap.kernels.base import jit
from wirecap.kernels.file import read as words
from wirecap.kernels.file.read import scan
from wirecap.kernels.handlers.filter import select

AT_ONCE = 1024
"""Packets of a file that are read together."""

LIVE_M, LIVE_R = 1024, 64
"""The pool of a live capture: in Python a chunk costs as much as a hundred packets, so chunks are long."""

_WAYS, _EITHER_WAY = {"inout": 0, "in": 1, "out": 2}, 3
"""epb_flags of pcapng, which the packet engine puts into the byte before each packet."""

LOOK_S = 0.1
"""How often a wait for a packet without a limit looks at ``stop``."""

DLT_TO_LINKTYPE = {11: 100, 12: 101, 15: 102, 16: 103, 19: 106}


class HandleError(WirecapError):
    """What a module raises as its own exception."""


class Rows:
    """The numbers of some packets, by position; ``timestamps`` in ns since the epoch.

    ``times``, (seconds, microseconds) of each, and ``lengths``, (captured, original), are made by ``list_times`` and
    ``list_lengths`` when they are first asked for; before that they are empty.
    """

    __slots__ = ("captured", "lengths", "original", "times", "timestamps")

    def __init__(self, timestamps: NDArray[np.int64], captured: NDArray[Any], original: NDArray[Any]) -> None:
        self.fill(timestamps, captured, original)

    def fill(self, timestamps: NDArray[np.int64], captured: NDArray[Any], original: NDArray[Any]) -> None:
        self.timestamps, self.captured, self.original = timestamps, captured, original
        self.times: list[tuple[int, int]] = []
        self.lengths: list[tuple[int, int]] = []

    def list_times(self) -> list[tuple[int, int]]:
        seconds, rest = np.divmod(self.timestamps, 1_000_000_000)
        self.times = list(zip(seconds.tolist(), (rest // 1000).tolist(), strict=True))
        return self.times

    def list_lengths(self) -> list[tuple[int, int]]:
        self.lengths = list(zip(self.captured.tolist(), self.original.tolist(), strict=True))
        return self.lengths


class Batch:
    """Packets that were read together."""

    __slots__ = ("address", "arena", "count", "rows")

    def __init__(self, arena: NDArray[np.uint8], address: NDArray[np.int64], rows: Rows) -> None:
        self.arena, self.address, self.rows, self.count = arena, address, rows, len(address)

    def data(self, first: int) -> list[bytes]:
        """The bytes of each packet from number ``first`` on."""
        return packets(self.arena, self.address[first:], self.rows.captured[first:])

    def joined(self, first: int, last: int) -> tuple[bytes, NDArray[np.int64]]:
        """The bytes of some packets, and where each begins in them.

        Those of a file are copied with what lies between them, which takes a fraction of the time.
        """
        address, captured = self.address[first:last], self.rows.captured[first:last]
        begin, end = int(address[0]), int(address[-1]) + int(captured[-1])
        if 0 <= end - begin <= 2 * int(captured.sum()) + 64 * len(address):
            return self.arena[begin:end].tobytes(), address - begin
        return b"".join(packets(self.arena, address, captured)), np.cumsum(captured, dtype=np.int64) - captured


NO_ROWS = np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint32)
_NOTHING = Batch(np.zeros(0, np.uint8), NO_ROWS[0], Rows(*NO_ROWS))


class Handle:
    """Packets from somewhere.

    ``pairs`` gives what is ready of them: (what stands for the header, bytes).  It is one iterator for all who take
    packets, those in a callback included, so each packet goes to one of them, and in order.
    """

    live = False
    dlt = 1
    snaplen = MAX_SNAPLEN
    nonblocking = False

    def __init__(self, values: Callable[[Rows], list[Any]]) -> None:
        """values: makes what stands for the header of each packet, and perhaps more."""
        self.batch = _NOTHING
        self.pairs: Iterator[tuple[Any, bytes]] = iter(())
        self.is_open = True
        self.stop = False
        """Set by ``breakloop``: a wait ends, and whoever called it resets this."""
        self._make_values = values
        self._values: Iterator[Any] = iter(())
        self._data: Iterator[bytes] = iter(())
        self._given = 0
        """Packets of the batch that were put into ``pairs`` or taken otherwise."""
        self._withdrawn = 0
        """Packets that were in ``pairs`` and that nobody got from there."""
        self._lock = threading.RLock()
        """Held while the batch is replaced: threads may share a handle, and one may close it."""
        self._filter: NativeFilter | None = None
        self._rejected = 0
        self._way = 0

    # packets

    def more(self, timeout_s: float | None) -> bool:
        """Have something in ``pairs``; False at the end, or if no packet came in time (None: wait for ever)."""
        for wait_s in self._breaks(timeout_s):
            with self._lock:
                if not self._is_ready(wait_s):
                    if self.ended:
                        return False
                    continue
                if self._given < self.batch.count:
                    self.pairs = iter(())  # the old iterator remembers its last header, which may be used again now
                    values = self._make_values(self.batch.rows)
                    self._values = iter(values[self._given : self.batch.count])
                    self._data = iter(self.batch.data(self._given))
                    self.pairs, self._given = zip(self._values, self._data, strict=False), self.batch.count
                return True
        return False

    def waiting(self, timeout_s: float | None) -> tuple[Batch, int]:
        """The batch, and the number of the first packet in it that nobody has taken; the caller says ``take_to``.

        An empty batch at the end, or if no packet came in time.
        """
        for wait_s in self._breaks(timeout_s):
            with self._lock:
                if self._is_ready(wait_s):
                    self._take_back()
                    return self.batch, self._given
                if self.ended:
                    break
        return _NOTHING, 0

    def take_to(self, last: int) -> None:
        """The packets of the batch before number ``last`` are taken."""
        self._given = last

    def deliver(self, limit: int, callback: Callable[..., Any], more: tuple[Any, ...] = ()) -> int:
        """Call back with up to ``limit`` of the packets in ``pairs`` (0: all), and return how many there were.

        ``callback(value, data, *more)``.  If it raises, or sets ``stop``, its packet was the last one that was taken.
        """
        if more:  # a call with a fixed number of arguments takes half the time
            whole, callback = callback, lambda value, data: whole(value, data, *more)
        if limit <= 0 and not self.breakable:
            ready = length_hint(self._values) + self._withdrawn
            for value, data in self.pairs:
                callback(value, data)
            return ready - self._withdrawn
        done = 0
        for value, data in self.pairs:
            done += 1
            callback(value, data)
            if self.stop or done == limit:
                break
        return done

    breakable = False
    """Whether a callback may set ``stop``."""

    @property
    def ended(self) -> bool:
        """No packet will come any more."""
        return not self.is_open or (self._is_over() and not length_hint(self._values) and self._is_used_up())

    def _is_closed(self) -> bool:
        return not self.is_open

    def _is_used_up(self) -> bool:
        return self._given == self.batch.count

    def _is_over(self) -> bool:
        """Nothing more can be read."""
        raise NotImplementedError

    def _is_ready(self, wait_s: float) -> bool:
        """Whether somebody may take a packet; reads if that must be, and waits so long."""
        if self._is_closed():
            return False
        if length_hint(self._values) or not self._is_used_up():
            return True
        self.batch, self._given = _NOTHING, 0
        self._read(wait_s)
        if self._is_closed():  # by a signal handler
            self._forget()
        return self.batch.count > 0

    def _read(self, wait_s: float) -> None:
        """Have a new batch, if one comes in time.  Raises HandleError."""
        raise NotImplementedError

    def _take_back(self) -> None:
        """Nobody gets what is left in ``pairs``: the packets are those of the batch from number ``_given`` on."""
        left = length_hint(self._values)
        self._given -= left
        self._withdrawn += left
        for rest in (self._values, self._data):
            deque(rest, 0)

    def _forget(self) -> None:
        self._take_back()
        self.batch, self._given = _NOTHING, 0

    def _breaks(self, timeout_s: float | None) -> Iterator[float]:
        """Waits, each with how long it may take, until the time is over or ``stop`` is set."""
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while not self.stop:
            left = until - time.monotonic()
            yield max(0.0, min(left, LOOK_S))
            if left <= LOOK_S and time.monotonic() >= until:
                return

    # settings

    def close(self) -> None:
        with self._lock:
            if self.is_open:
                self.is_open = False
                self._forget()
                self._close()

    def _close(self) -> None:
        raise NotImplementedError

    def send(self, frame: bytes) -> None:
        raise HandleError("Sending packets isn't supported on savefiles")

    def stats(self) -> tuple[int, int, int]:
        """(received and not rejected by the filter so far, dropped, dropped by the interface)"""
        raise HandleError("Statistics aren't available from savefiles")

    def direct(self, direction: str) -> None:
        """'in', 'out' or 'inout'."""
        raise HandleError("Setting direction is not supported on this device")

    def set_nonblocking(self, value: bool) -> None:
        raise HandleError("Savefiles cannot be put into non-blocking mode")

    def set_filter(self, rows: libpcap.Rows) -> None:
        """From the next packet on, hand over only what this program accepts."""
        with self._lock:
            self._filter = _native(tuple(rows), self.dlt)
            self._take_again()

    def _take_again(self) -> None:
        """Make the batch anew of what nobody has taken yet: something else is wanted from now on."""
        self._take_back()
        batch, at = self.batch, self._given
        if at < batch.count:
            old = batch.rows
            rest = old.timestamps[at:].copy(), old.captured[at:].copy(), old.original[at:].copy()
            self._take(batch.arena, batch.address[at:].copy(), *rest)

    def _take(
        self, arena: NDArray[np.uint8], address: NDArray[np.int64], timestamps: NDArray[np.int64],
        captured: NDArray[np.uint32], original: NDArray[np.uint32],
    ) -> None:  # fmt: skip
        """Make a batch of rows that are the batch's own, of those that go the right way and that the filter accepts."""
        if self._way:
            mine = arena[address - 1] & _EITHER_WAY == self._way
            address, timestamps, captured, original = address[mine], timestamps[mine], captured[mine], original[mine]
        if self._filter:
            n = int(select(arena, address, captured, original, timestamps, len(address), self._filter.state))
            self._rejected += len(address) - n
            address, timestamps, captured, original = address[:n], timestamps[:n], captured[:n], original[:n]
        self.batch, self._given = Batch(arena, address, Rows(timestamps, captured, original)), 0


class FileHandle(Handle):
    """A capture file."""

    def __init__(self, path: str, values: Callable[[Rows], list[Any]]) -> None:
        super().__init__(values)
        try:
            self._file: CaptureFile = open_capture(path)
        except UsageError as error:
            raise HandleError(error.message, error.hint) from None
        self._file.state[words.MIXED] = 1
        jit.prepare([scan])
        self._first = next(iter(self._file.interfaces), None)
        if self._first:
            self.dlt, self.snaplen = self._first.dlt, self._first.snaplen or self._first.largest
        self._held = -1
        self._ended = False

    def _is_over(self) -> bool:
        return self._ended

    @property
    def swapped(self) -> bool:
        return bool(self._file.state[words.SWAPPED])

    def _read(self, wait_s: float) -> None:
        while not self._ended and self.is_open and not self.batch.count:
            if self._held >= 0:
                self._file.release(self._held)
                self._held = -1
            address, timestamps = np.empty((2, AT_ONCE), np.int64)
            captured, original = np.empty((2, AT_ONCE), np.uint32)
            try:
                n, progress = self._file.fill(address, captured, original, timestamps, AT_ONCE, wait_s)
            except UsageError as error:
                self._ended = True  # it is told once
                raise HandleError(self._described(error)) from None
            if progress is not Progress.READY:
                self._ended = progress is Progress.ENDED
                return
            self._held = int(address[0])
            self._check_link()
            self._take(self._file.arena, address[:n], timestamps[:n], captured[:n], original[:n])

    def _described(self, error: UsageError) -> str:
        """As libpcap says it: without the path and the place."""
        return describe_scan_error(self._file.state)[0] if self._file.is_over else error.message

    def _check_link(self) -> None:
        interface = self._file.interfaces[int(self._file.state[words.INTERFACE])]
        if self._first is None:
            self._first, self.dlt, self.snaplen = interface, interface.dlt, interface.snaplen or interface.largest
        if interface.linktype != self._first.linktype:
            self._ended = True
            raise HandleError(
                f"an interface has a type {interface.linktype} different from the type of the first interface"
            )

    def _close(self) -> None:
        self._file.close()


class LiveHandle(Handle):
    """An interface, captured from now on."""

    live = True

    def __init__(
        self, interface: str, values: Callable[[Rows], list[Any]], *, snaplen: int = MAX_SNAPLEN,
        promiscuous: bool = True, buffer_bytes: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(values)
        self.interface = interface
        self.snaplen = snaplen if 0 < snaplen <= MAX_SNAPLEN else MAX_SNAPLEN
        self._promiscuous, self._engine = promiscuous, AUTO
        self._R = max(LIVE_R, -(-buffer_bytes // (LIVE_M * PoolConfig().cell)))
        self._socket: socket.socket | None = None
        self._chunk: Chunk | None = None
        self._capture: api.Capture | None = None
        self._start()

    def _start(self) -> None:
        try:
            self._capture = api.Capture(
                CaptureConfig(
                    sources=(QueueSpec.parse(self.interface),), pool=PoolConfig(LIVE_M, self._R), engine=self._engine,
                    snaplen=self.snaplen, promiscuous=self._promiscuous,
                )
            )  # fmt: skip
        except WirecapError as error:
            raise HandleError(error.message, error.hint) from None
        engine = self._capture.engine
        self.dlt = engine.source.links()[0].linktype
        self._marks = engine.source.mark_directions(engine.pool)

    def _is_over(self) -> bool:
        return False

    def more(self, timeout_s: float | None) -> bool:
        return super().more(0.0 if self.nonblocking else timeout_s)

    def waiting(self, timeout_s: float | None) -> tuple[Batch, int]:
        return super().waiting(0.0 if self.nonblocking else timeout_s)

    def _read(self, wait_s: float) -> None:
        self._let_go()
        capture = self._capture
        assert capture
        try:
            chunk = capture.take(wait_s)
        except StopIteration:
            raise HandleError(f"{self.interface}: the capture has ended", "the interface went away") from None
        except WirecapError as error:
            raise HandleError(error.message, error.hint) from None
        if chunk is None:
            return
        self._chunk = chunk
        captured = np.minimum(chunk.lengths, np.uint32(self.snaplen))
        times = chunk.timestamps.astype(np.int64)
        self._take(capture.engine.pool.arena, chunk.offsets.copy(), times, captured, chunk.original_lengths.copy())

    def _let_go(self) -> None:
        if self._chunk:
            chunk, self._chunk = self._chunk, None
            chunk.release()

    def send(self, frame: bytes) -> None:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: it receives nothing
                self._socket.bind((self.interface.partition("@")[0], 0))
            self._socket.send(frame)
        except OSError as error:
            raise HandleError(f"send: {error.strerror}") from None

    def stats(self) -> tuple[int, int, int]:
        with self._lock:
            if not self._capture:
                raise HandleError("the capture is closed")
            packets = self._capture.summary()["packets"]
        return packets["received"] - self._rejected, packets["dropped"], 0

    def direct(self, direction: str) -> None:
        """AF_XDP sees no outgoing packets: asked for them, it is AF_PACKET that captures from now on."""
        with self._lock:
            if not self._marks and direction == "out":
                self._end()
                self._engine = "packet"
                self._start()
            self._way = _WAYS[direction] if self._marks else 0
            self._take_again()

    def set_nonblocking(self, value: bool) -> None:
        self.nonblocking = value

    def _end(self) -> None:
        self._forget()
        self._let_go()
        if self._capture:
            capture, self._capture = self._capture, None
            capture.close()

    def _close(self) -> None:
        self._end()
        if self._socket:
            self._socket.close()


def compiled(text: str, dlt: int, snaplen: int, optimise: bool, netmask: int) -> libpcap.Rows:
    """The instructions of a filter expression.  Raises HandleError with libpcap's words."""
    if not isinstance(text, str):
        raise TypeError(f"a filter must be str, not {type(text).__name__}")
    rows, message, _ = libpcap.compile(text, dlt, snaplen, optimise, netmask)
    if message:
        raise HandleError(message)
    return rows


@lru_cache(32)  # LLVM takes 50 ms
def _native(rows: tuple[tuple[int, int, int, int], ...], dlt: int) -> NativeFilter:
    jit.prepare([select])
    return NativeFilter(Program.of(rows, linktype=dlt))
