"""The ``share`` handler: programs that use libpcap read the packets where they were captured (docs/libpcap.md).

A program that was started with the shared object of ``wirecap libpcap`` connects to a socket named after the interface
and gets the packet memory, to read, and a ring of its own for the descriptors of chunks.  Every chunk goes to all the
readers of its interface, and home to its pool once the last of them has given it back: a reader that falls behind
leaves its chunks in the pool, as a slow handler does.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wirecap.engine.accounting import give_up
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError
from wirecap.files.headers import Interface
from wirecap.handlers.handler import Follower, Selection, Setting
from wirecap.handlers.handler_thread import Receiver
from wirecap.handlers.reception import Reception
from wirecap.kernels.base import libc
from wirecap.kernels.libpcap import layout as s
from wirecap.kernels.pool import handler_loop as h
from wirecap.kernels.pool import pool as k
from wirecap.linux.af_xdp import SharedMemory
from wirecap.source.source import Source

PLACES = 8
"""Chunks that a reader may hold; more wait in the pool, where they can still be filled up."""
LOOK_S = 0.2
"""How often a thread that waits for readers looks whether the run is given up."""


@dataclass
class Lent:
    """A chunk in the hands of readers."""

    slot: int
    sequence: int
    holders: int


@dataclass
class Reader:
    """A program that reads an interface's packets.  lost_before: what had been lost when it connected.

    It has the other ends, and may have done to them whatever it wants.
    """

    channel: socket.socket
    interface: int
    M: int
    lost_before: int
    head: int = 0
    lent: deque[Lent] = field(default_factory=deque)
    gone: bool = False

    def __post_init__(self) -> None:
        with ExitStack() as opened:
            self.ring = SharedMemory(s.PAGE + PLACES * _place_bytes(self.M))
            opened.callback(self.ring.close)
            self.doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            opened.callback(os.close, self.doorbell)
            self.release = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            opened.callback(os.close, self.release)
            opened.callback(self.channel.close)
            self._opened = opened.pop_all()

    def word(self, offset: int) -> int:
        return int(self.ring.bytes[offset : offset + 8].view(np.int64)[0])

    def set_word(self, offset: int, value: int) -> None:
        self.ring.bytes[offset : offset + 8].view(np.int64)[0] = value

    def put(self, pool: k.Pool, lent: Lent, count: int) -> None:
        """Fill the next place, which is free, and ring the doorbell."""
        at = s.PAGE + (self.head % PLACES) * _place_bytes(self.M)
        self.set_word(at, count)
        at += s.ROWS
        for table in (pool.address, pool.timestamp, pool.captured, pool.original):
            row = table[lent.slot, :count]
            self.ring.bytes[at : at + row.nbytes] = row.view(np.uint8)
            at += self.M * row.itemsize
        self.lent.append(lent)
        self.head += 1
        self.set_word(s.HEAD, self.head)
        self._ring_bell()

    def given_back(self) -> list[Lent]:
        """The chunks that the program has given back since it was last asked."""
        tail = max(self.head - len(self.lent), min(self.word(s.TAIL), self.head))  # it is the program's to write
        return [self.lent.popleft() for _ in range(len(self.lent) - (self.head - tail))]

    def _ring_bell(self) -> None:
        with suppress(BlockingIOError):  # the program has rung it itself, as often as can be counted
            os.eventfd_write(self.doorbell, 1)

    def close(self) -> None:
        """Say that nothing comes any more; what the ring still holds can be read."""
        self.set_word(s.CLOSED, 1)
        self._ring_bell()
        self._opened.close()


def _place_bytes(M: int) -> int:
    return int((s.ROWS + 24 * M + 63) & -64)


class Share(Follower):
    """Lends chunks to other processes."""

    name = "share"
    per_queue = False

    def __init__(self) -> None:
        self._reception: Reception | None = None
        self._readers: list[Reader] = []
        self._turn = threading.Condition()
        """Held by whoever touches readers and what they hold; notified when something was given back."""
        self._consumer = 0
        self._failure: BaseException | None = None
        """What ended the thread that looks after readers."""

    @classmethod
    def make(cls, options: Mapping[str, str], setting: Setting) -> Share:
        if options:
            raise UsageError(f"handler share has no option {next(iter(options))!r}", "leave it out")
        return cls()

    def count(self, queues: int) -> int:
        return 1

    def of_queue(self, queue: int) -> int:
        return 0

    def kernels(self) -> list[Any]:
        return [h.next_chunk, k.give_back]

    def check(self, source: Source) -> None:
        if not source.live:
            raise UsageError("handler share lends packets of an interface, not of a file", "give -i INTERFACE")
        if source.direct or source.shared is None:
            raise UsageError(
                f"handler share does not work with the {source.name} engine, which has no pool behind its rings",
                "use --engine xdp or --engine packet",
            )
        if len(source.pieces) > s.MOST_PIECES:
            raise UsageError(
                f"handler share can lend {s.MOST_PIECES} queues of the packet engine, not {len(source.pieces)}",
                "capture fewer: -i eth1@0-7",
            )

    def open(self, engine: Engine, keep_going: bool, editable: bool) -> None:
        """Take the names of the interfaces, in their network namespace."""
        self._engine = engine
        self._reception = Reception(interface.name for interface in engine.source.interfaces)

    def run(self, engine: Engine, number: int, consumer: int, selection: Selection, direct: bool) -> None:
        self._consumer = consumer
        stop = os.eventfd(0, os.EFD_CLOEXEC)
        keeper = threading.Thread(target=self._keep, args=(stop,), name="share keeper", daemon=True)
        keeper.start()
        try:
            self._lend_all(selection)
            with self._turn:
                while any(reader.lent for reader in self._readers) and not self._given_up:
                    self._turn.wait(LOOK_S)
        finally:
            os.eventfd_write(stop, 1)
            keeper.join()
            os.close(stop)
            for reader in self._readers:
                self._tell_dropped(reader)
                reader.close()
            self.close()
        if self._failure:
            raise self._failure

    @property
    def _given_up(self) -> bool:
        return self._failure is not None or bool(self._engine.pool.control[k.PHASE] == k.ABORT)

    def _lend_all(self, selection: Selection) -> None:
        pool, consumer, scratch = self._engine.pool, self._consumer, libc.scratch()
        select, filters = selection.address, selection.states
        with Receiver(self._engine, consumer) as intake:
            while True:
                code = int(h.next_chunk(pool, consumer, intake, select, filters, h.WAIT_NS, scratch))
                if code == h.CLOSED or self._failure:
                    return
                if code != h.TIMED_OUT:
                    self._lend(code >> 32, code & 0xFFFFFFFF)

    def _lend(self, slot: int, count: int) -> None:
        """Give a chunk to every reader of its interface, each as soon as it has room."""
        pool, at = self._engine.pool, slot * k.SLOT_WORDS
        lent, interface = Lent(slot, int(pool.meta[at + k.STATE]) >> 2, 1), int(pool.meta[at + k.INTERFACE])
        with self._turn:
            missed = False
            for reader in [one for one in self._readers if one.interface == interface] if count else []:
                while len(reader.lent) == PLACES and not reader.gone and not self._given_up:
                    self._turn.wait(LOOK_S)
                if not reader.gone and len(reader.lent) < PLACES:
                    lent.holders += 1
                    reader.put(pool, lent, count)
                else:
                    missed = missed or not reader.gone
            if missed:
                give_up(pool, self._consumer, slot, 0)
            self._take_back(lent)

    def _take_back(self, lent: Lent) -> None:
        lent.holders -= 1
        if lent.holders == 0:
            k.give_back(self._engine.pool, lent.slot, lent.sequence)

    def _keep(self, stop: int) -> None:
        """The life of the thread that looks after readers: new ones, what they give back, their end."""
        try:
            self._look_after(stop)
        except BaseException as error:
            self._failure = error

    def _look_after(self, stop: int) -> None:
        assert self._reception
        with selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            for interface, listener in enumerate(self._reception.listeners):
                selector.register(listener, selectors.EVENT_READ, interface)
            while True:
                for key, _ in selector.select():
                    if key.fd == stop:
                        return
                    if isinstance(key.data, int):
                        channel = self._reception.accept(key.data)
                        if channel:
                            self._admit(channel, key.data, selector)
                    elif not key.data.gone:
                        self._attend(key.data, key.fd, selector)

    def _admit(self, channel: socket.socket, interface: int, selector: selectors.BaseSelector) -> None:
        """Greet a new reader; one that is gone already, or for which there is no room, gets nothing."""
        assert self._reception
        try:
            with ExitStack() as undo:
                undo.callback(channel.close)
                reader = Reader(channel, interface, self._engine.M, self._lost(interface))
                undo.callback(reader.close)
                for watched in (channel, reader.release):
                    selector.register(watched, selectors.EVENT_READ, reader)
                    undo.callback(selector.unregister, watched)
                with self._turn:  # no chunk passes between the greeting, after which the program expects packets
                    self._greet(reader, self._engine.source.interfaces[interface])
                    self._readers.append(reader)
                undo.pop_all()
        except OSError as error:
            self._reception.count(error)

    def _greet(self, reader: Reader, interface: Interface) -> None:
        source = self._engine.source
        assert source.shared
        words = [s.VERSION, interface.dlt, interface.snaplen, source.shared.bytes.size, reader.ring.bytes.size]
        words += [PLACES, reader.M, len(source.pieces)]
        for piece in source.pieces:
            words += [piece.at, piece.file_offset, piece.size]
        with source.shared.reader() as arena:
            passed = [reader.ring.fd, reader.doorbell, reader.release, arena, *(piece.fd for piece in source.pieces)]
            socket.send_fds(reader.channel, [struct.pack(f"<{len(words)}q", *words)], passed)

    def _attend(self, reader: Reader, fd: int, selector: selectors.BaseSelector) -> None:
        """Do what a reader asks for: it has given chunks back, wants counters, or is gone."""
        try:
            stays = self._collect(reader) if fd == reader.release else self._answer(reader)
        except OSError:
            stays = False
        if not stays:
            selector.unregister(reader.channel)
            selector.unregister(reader.release)
            self._dismiss(reader)

    def _collect(self, reader: Reader) -> bool:
        with suppress(BlockingIOError):  # the program has read it by itself
            os.eventfd_read(reader.release)
        with self._turn:
            for lent in reader.given_back():
                self._take_back(lent)
            self._turn.notify_all()
        return True

    def _answer(self, reader: Reader) -> bool:
        """Write the counters as they are now; False if the program is gone."""
        asked = reader.channel.recv(16)
        if asked:
            self._tell_dropped(reader)
            reader.channel.send(asked)
        return bool(asked)

    def _tell_dropped(self, reader: Reader) -> None:
        reader.set_word(s.DROPPED, self._lost(reader.interface) - reader.lost_before)

    def _dismiss(self, reader: Reader) -> None:
        with self._turn:
            reader.gone = True
            self._readers.remove(reader)
            while reader.lent:
                self._take_back(reader.lent.popleft())
            self._turn.notify_all()
        self._tell_dropped(reader)
        reader.close()

    def _lost(self, interface: int) -> int:
        """Packets of an interface that the capture has lost so far."""
        queues = zip(self._engine.source.queues, self._engine.summary().queues, strict=True)
        return sum(counts.dropped for place, counts in queues if place.interface_id == interface)

    def close(self) -> None:
        if self._reception:
            self._reception.close()

    def flush(self) -> None:
        """Readers get each chunk at once."""

    @property
    def notes(self) -> list[str]:
        return self._reception.notes if self._reception else []
