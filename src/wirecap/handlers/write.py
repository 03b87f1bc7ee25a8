"""The ``write`` handler: packets of all queues in time order into one file, or a file per queue."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wirecap.config import MAX_SNAPLEN, WriteConfig
from wirecap.errors import UsageError, WirecapError
from wirecap.files import pcap, pcapng
from wirecap.files.buffers import Buffers
from wirecap.files.interface import Interface
from wirecap.files.names import Names
from wirecap.files.rotation import NO_LIMIT, Action, Rotation, compression_of, queue_path
from wirecap.files.sink import Sink
from wirecap.handlers.base import Selection
from wirecap.kernels import handle as h
from wirecap.kernels import libc
from wirecap.kernels import merge as m
from wirecap.kernels import pool as k
from wirecap.kernels.pcap_write import PCAP_NS, PCAP_US, PCAPNG_NS

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine

IDLE_NS = 250_000_000
"""How long a writer without packets waits before it looks after its file."""
FLUSH_NS = 1_000_000_000
"""Packets are visible in the file this soon, also at a low rate."""


class Writer:
    """All files of a capture.  filter: the expression, for the interface description."""

    def __init__(self, config: WriteConfig, filter: str = "", application: str = "wirecap") -> None:
        self.config, self.filter, self.application = config, filter, application
        self.per_queue = config.per_queue
        self.files: list[QueueWriter] = []
        self.names: Names | None = None

    def count(self, queues: int) -> int:
        return queues if self.per_queue else 1

    def of_queue(self, queue: int) -> int:
        """Which writer thread takes a home queue's chunks."""
        return queue if self.per_queue else 0

    def kernels(self) -> list[Any]:
        return [m.merge_packets]

    def open(self, engine: Engine) -> None:
        """Create the files, so that one that cannot be made is known before the first packet."""
        self.names = Names(self.config.ring_print) if self.config.ring_print else None
        queues = range(len(engine.source.queues))
        if not self.per_queue:
            self.files = [QueueWriter(self, engine, list(queues), self.config.path)]
            return
        for queue in queues:
            place = engine.source.queues[queue]
            path = queue_path(self.config.path, place.interface, place.queue)
            self.files.append(QueueWriter(self, engine, [queue], path))

    def run(self, engine: Engine, number: int, consumer: int, selection: Selection, direct: bool) -> None:
        self.files[number].run(consumer, selection, direct)

    def close(self) -> None:
        if self.names:
            self.names.close()

    def flush(self) -> None:
        """Let readers of the files see what was captured, in the next quarter of a second."""
        for file in self.files:
            file.flush_asked = True

    @property
    def packets_written(self) -> int:
        return sum(file.packets_written for file in self.files)

    @property
    def octets_written(self) -> int:
        return sum(file.octets_written for file in self.files)

    @property
    def late(self) -> int:
        """Packets that came too late for their place in time order."""
        return sum(int(file.merge.counts[m.LATE]) for file in self.files)


class QueueWriter:
    """One output in time order over ``mine``, as a row of files where it is rotated."""

    def __init__(self, writer: Writer, engine: Engine, mine: list[int], path: str) -> None:
        self._writer, self._engine, self.config = writer, engine, writer.config
        self.merge = m.new_merge(len(engine.source.queues), mine, engine.pool.free_slots.shape[1])
        pcapng_format = self.config.format == "pcapng"
        self._layout = PCAPNG_NS if pcapng_format else PCAP_NS if self.config.nanoseconds else PCAP_US
        self._buffers = Buffers()
        self._rotation = Rotation(self.config, time.time_ns(), path)
        self._compression = compression_of(path)
        self._sinks: list[Sink] = []  # the file being written, last, and finished ones that may not be on disk yet
        self._packets_of_closed = self._octets_of_closed = 0
        self._flushed_ns = 0
        self.flush_asked = False
        self._start_ns = time.time_ns()
        self._open(self._header())

    def _open(self, header: bytes) -> None:
        self._packets_before = int(self.merge.counts[m.WRITTEN])
        self._sink = Sink(self._rotation.path, header, self._layout, self._buffers, True, self._compression)
        self._sinks.append(self._sink)

    def _header(self) -> bytes:
        interfaces = self._meet_interfaces()
        if self._layout != PCAPNG_NS:
            first = interfaces[0] if interfaces else Interface()
            return pcap.global_header(self._snaplen(first), first.linktype, self._layout == PCAP_NS)
        described = b"".join(self._describe(interface) for interface in interfaces)
        return pcapng.section_header(self._writer.application, self.config.comments) + described

    def _meet_interfaces(self) -> list[Interface]:
        """The interfaces whose packets may be written from now on: a copy, as a file's grow while it is read."""
        interfaces = list(self._engine.source.interfaces)
        if self._layout != PCAPNG_NS and len({interface.linktype for interface in interfaces}) > 1:
            raise UsageError(
                f"{self._rotation.path}: a pcap file has one link type, these packets have several", "write pcapng"
            )
        self.merge.settings[m.INTERFACES] = len(interfaces)
        return interfaces

    def _describe(self, interface: Interface) -> bytes:
        filter = self._writer.filter or interface.filter
        return pcapng.interface_description(
            interface.name, self._snaplen(interface), interface.linktype, filter, interface.description
        )

    def _snaplen(self, interface: Interface) -> int:
        return min(self.config.snaplen, interface.snaplen or MAX_SNAPLEN)

    @property
    def packets_written(self) -> int:
        return self._packets_of_closed + sum(sink.packets_written for sink in self._sinks)

    @property
    def octets_written(self) -> int:
        """Packet bytes after the snap length, without the file's own."""
        return self._octets_of_closed + sum(sink.octets_written for sink in self._sinks)

    def run(self, consumer: int, selection: Selection, direct: bool) -> None:
        """The writer thread: until no packet will come, or the files are full."""
        settings, scratch = self.merge.settings, libc.scratch()
        settings[m.LAYOUT], settings[m.SNAPLEN] = self._layout, self.config.snaplen
        settings[m.CONSUMER], settings[m.DIRECT] = consumer, direct
        settings[m.CLOSING] = k.CLOSE if direct else k.FINISH
        settings[m.PACKETS_LEFT] = self._rotation.full_packets
        try:
            try:
                while self._write_some(selection, scratch):
                    pass
            finally:
                self._surrender(consumer, direct)
            self._end_file()
            self._close_ended(0)
        except BaseException:
            self._keep_whole()
            raise

    def _write_some(self, selection: Selection, scratch: NDArray[np.int64]) -> bool:
        """Fill and submit one buffer; False when nothing more is to be written."""
        merge, engine = self.merge, self._engine
        settings, counts = merge.settings, merge.counts
        buffer = self._sink.acquire(0.1)
        if buffer is None:
            return bool(engine.pool.control[k.PHASE] != k.ABORT)
        before = counts[[m.WRITTEN, m.WRITTEN_OCTETS]]
        counts[m.POSITION] = buffer.start
        while True:
            now = time.time_ns()
            over = now >= self._rotation.split_end_ns  # then the next packet begins a file: it comes back FILE_FULL
            settings[m.FILE_END] = buffer.start + (0 if over else max(0, self._rotation.full_bytes - self._sink.size))
            settings[m.DEADLINE] = self._deadline(now)
            reason = m.merge_packets(
                engine.pool, engine.source.rings, selection.kernel, selection.state, merge, buffer.octets, scratch
            )
            idle = reason == m.IDLE and counts[m.POSITION] == buffer.start
            due = self._sink.failed or self.flush_asked or len(self._sinks) > 1
            if not idle or due or self._decide(waiting=False) != Action.GO_ON:
                break
        packets, octets = (counts[[m.WRITTEN, m.WRITTEN_OCTETS]] - before).tolist()
        self._sink.submit(buffer, int(counts[m.POSITION]), packets, octets)
        return self._go_on(reason)

    def _deadline(self, now: int) -> int:
        split_end_ns = self._rotation.split_end_ns
        change_ns = min(self._rotation.deadline_ns, split_end_ns if now < split_end_ns else NO_LIMIT)
        return min(now + IDLE_NS, max(change_ns, now))

    def _go_on(self, reason: int) -> bool:
        """Look after the file between two buffers; False when nothing more is to be written."""
        if reason in (m.CLOSED, m.ABORTED):
            return False
        if reason == m.NEW_INTERFACE:
            known = int(self.merge.settings[m.INTERFACES])
            new = self._meet_interfaces()[known:]
            for interface in new if self._layout == PCAPNG_NS else ():
                self._sink.write(self._describe(interface))
        at_once = reason == m.IDLE or self.config.packet_buffered or self.flush_asked
        if at_once or time.time_ns() - self._flushed_ns > FLUSH_NS:
            self._flushed_ns, self.flush_asked = time.time_ns(), False
            self._sink.flush()
        self._close_ended(keep=len(self._sinks))
        action = self._decide(waiting=reason == m.FILE_FULL)
        if action is Action.STOP:
            return False
        if action is Action.NEXT_FILE:
            self._next_file()
        return True

    def _decide(self, waiting: bool) -> Action:
        packets = int(self.merge.counts[m.WRITTEN]) - self._packets_before
        return self._rotation.decide(self._sink.size, packets, time.time_ns(), waiting)

    def _next_file(self) -> None:
        self._end_file()
        remove = self._rotation.next_file(time.time_ns())
        taken = {remove, self._rotation.path} & {sink.path for sink in self._sinks}
        self._close_ended(0 if taken else 1)
        if remove is not None:
            with contextlib.suppress(OSError):  # somebody moved it away: the packets that come matter more
                Path(remove).unlink()
        header = self._header()
        try:
            self._open(header)
        except UsageError as error:  # the first file could be made: it is the run that fails
            raise WirecapError(error.message, error.hint) from None
        self.merge.settings[m.PACKETS_LEFT] = self._rotation.full_packets

    def _close_ended(self, keep: int) -> None:
        """Close ended files; of those that are not on disk yet the last ``keep`` may take their time."""
        while self._sinks and (len(self._sinks) > keep or self._sinks[0].done):
            try:
                self._sinks[0].close()
                if self._writer.names and not self._sinks[0].failed:
                    self._writer.names.add(self._sinks[0].path)
            finally:
                closed = self._sinks.pop(0)
                self._packets_of_closed += closed.packets_written
                self._octets_of_closed += closed.octets_written

    def _keep_whole(self) -> None:
        """After a failure: every file has all records that were made for it, and those that are whole are named."""
        for sink in self._sinks:
            sink.finish()
        while self._sinks:
            with contextlib.suppress(Exception):  # the first failure is the one to tell
                self._close_ended(0)

    def _end_file(self) -> None:
        if self._layout == PCAPNG_NS and self._engine.source.engine != "file":  # a file's interfaces lost nothing here
            for number in sorted({place.interface_id for place in self._engine.source.queues}):
                self._sink.write(self._statistics(number))
        self._sink.finish()

    def _statistics(self, number: int) -> bytes:
        summary = self._engine.summary()
        places = self._engine.source.queues
        mine = [q for q, place in zip(summary.queues, places, strict=True) if place.interface_id == number]
        now = time.time_ns()
        counts = pcapng.Statistics(
            start_ns=self._start_ns, end_ns=now, received=sum(q.received for q in mine),
            accepted=sum(q.received - q.filtered_out for q in mine), dropped_by_os=sum(q.dropped for q in mine),
            delivered=sum(q.delivered for q in mine),
        )  # fmt: skip
        return pcapng.interface_statistics(number, now, counts)

    def _surrender(self, consumer: int, direct: bool) -> None:
        """What this writer admitted and will not write was not delivered: it counts as unread at the stop."""
        pool, merge = self._engine.pool, self.merge
        if not direct:
            return
        for queue in merge.mine.tolist():
            rest = [(slot - 1, 0) for slot in merge.pending[queue].tolist() if slot]
            if merge.head[queue] >= 0:
                rest.append((int(merge.head[queue]), int(merge.cursor[queue])))
            tally = pool.tallies[consumer, queue]
            for slot, first in rest:
                kept = int(pool.meta[slot * k.SLOT_WORDS + k.KEPT])
                octets = int(pool.captured[slot, first:kept].sum())
                tally[h.DELIVERED] -= kept - first
                tally[h.DELIVERED_OCTETS] -= octets
                tally[h.UNREAD] += kept - first
                tally[h.UNREAD_OCTETS] += octets
