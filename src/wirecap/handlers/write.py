"""The ``write`` handler: writes the packets of all queues in order of time to one file, or to a file per queue."""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.config.bounds import Bounds
from wirecap.config.capture import MAX_SNAPLEN, WriteConfig
from wirecap.engine.accounting import give_up_merged
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError, WirecapError
from wirecap.files import headers, live_index, retention
from wirecap.files.buffers import Buffers
from wirecap.files.finished import STANDARD_ERROR, STANDARD_OUTPUT, FinishedCommands, FinishedNames
from wirecap.files.headers import Interface
from wirecap.files.index import index_path
from wirecap.files.recorded import Recorded
from wirecap.files.retention import UNBOUNDED, Retention
from wirecap.files.rotation import (
    NO_LIMIT,
    Action,
    Rotation,
    compression_of,
    queue_path,
)
from wirecap.files.writer import Sink, check_target
from wirecap.handlers.handler import Follower, Selection, Setting
from wirecap.handlers.printer import Printer
from wirecap.kernels.base import libc
from wirecap.kernels.file import merge as m
from wirecap.kernels.file.capture_loop import UNWANTED_OPTIONS
from wirecap.kernels.file.write import (
    PCAP_NS,
    PCAP_US,
    PCAPNG_COPY,
    PCAPNG_FLAGS,
    PCAPNG_NS,
    whole_records,
)
from wirecap.kernels.pool import pool as k
from wirecap.source.source import Source
from wirecap.version import __version__

IDLE_NS, PRINT_IDLE_NS = 250_000_000, 20_000_000
"""How long a writer without packets waits before it looks after its file, and where somebody watches them."""
WHOLE = 1 << 32
"""Without a snap length packets are not cut, however long a file's are."""
FLUSH_NS = 1_000_000_000
"""How soon packets become visible in the file, even at a low rate."""


class Writer(Follower):
    """All files of a capture.  filter: the expression, for the interface description."""

    name = "write"

    def __init__(self, config: WriteConfig, filter: str = "", application: str = "wirecap") -> None:
        self.config, self.filter, self.application = config, filter, application
        self.per_queue = config.per_queue
        self.files: list[QueueWriter] = []
        self.names: FinishedNames | None = None
        self.retention = None
        self.commands: FinishedCommands | None = None
        self._closed = False

    @classmethod
    def make(cls, options: Mapping[str, str], setting: Setting) -> Writer:
        """The writer for ``-w``; the table ensures that there is such a file."""
        if options:
            raise UsageError(
                f"handler write has no option {next(iter(options))!r}", "use the options of wirecap capture -w"
            )
        assert setting.write
        return cls(setting.write, setting.filter, f"wirecap {__version__}")

    def count(self, queues: int) -> int:
        return queues if self.per_queue else 1

    def of_queue(self, queue: int) -> int:
        """Which writer thread takes a home queue's chunks."""
        return queue if self.per_queue else 0

    def kernels(self) -> list[Any]:
        indexing = live_index.KERNELS if self.config.indexed else []
        return [m.merge_packets, *([whole_records] if self.config.printing else []), *indexing]

    def check(self, source: Source) -> None:
        """Raise UsageError for files that cannot be created, as far as that is known without creating them."""
        compression_of(self.config.path)
        self._check_one_file()
        self._bound(source)
        retention.check_free(self.config, self._paths(source))
        names = self.config.ring_print
        if names and names not in (*STANDARD_OUTPUT, STANDARD_ERROR):
            check_target(names, FinishedNames.HINT)
        for path in self._paths(source):
            path = Rotation(self.config, time.time_ns(), path).path
            check_target(path)
            self.check_link_types(path, source.interfaces)
        if self.config.on_file:
            FinishedCommands.check(self.config.on_file)
        if self.config.printing:
            self.printer = Printer(self.config.printing, waits=not source.live)
            self.printer.choose(source.interfaces)

    def _check_one_file(self) -> None:
        """Raise UsageError where a device or a pipe is to be several files: names beside it would be made."""
        path, config = Path(self.config.path), self.config
        several = (
            config.rotates
            or config.file_for_each
            or config.per_queue
            or config.bounds
            or config.on_file
            or config.ring_print
        )
        try:
            mode, beside = path.stat().st_mode, path.parent.resolve()
        except OSError:  # most often there is no such file yet
            return
        devices = beside == Path("/dev") or beside.is_relative_to("/proc")  # also of a redirected /dev/stdout
        if several and (devices or not stat.S_ISREG(mode)):
            what = "is a folder" if stat.S_ISDIR(mode) else "is not a file on a disk"
            raise UsageError(f"{path}: {what}, and cannot be split or bounded", "give -w the name of a file")

    def _bound(self, source: Source) -> None:
        """Start a file often enough for the bounds on all of them; raise UsageError if they hold less than one file."""
        if self.config.bounds:
            self.config = retention.rotated(self.config, len(self._paths(source)))

    def check_link_types(self, path: str, interfaces: Sequence[Interface]) -> None:
        if self.config.format != "pcapng" and len({interface.linktype for interface in interfaces}) > 1:
            raise UsageError(
                f"{path}: a pcap file has only one link type, but these packets have several", "write pcapng"
            )

    def _paths(self, source: Source) -> list[str]:
        """The name of each writer's files."""
        if not self.per_queue:
            return [self.config.path]
        return [queue_path(self.config.path, place.interface, place.queue) for place in source.queues]

    def open(self, engine: Engine, keep_going: bool, editable: bool) -> None:
        """Create the files, so that a failure to do so shows before the first packet; it leaves nothing running."""
        self._bound(engine.source)
        try:
            self.names = FinishedNames(self.config.ring_print) if self.config.ring_print else None
            if self.config.bounds:
                self.retention = Retention(self.config.bounds, self.config, self._paths(engine.source))
            queues = range(len(engine.source.queues))
            for number, path in enumerate(self._paths(engine.source)):
                self.files.append(self._writer_of(engine, [number] if self.per_queue else list(queues), path))
                self.files[-1].begin()
            if self.config.on_file:
                self.commands = FinishedCommands(self.config.on_file, self.config.on_file_jobs, self.config.path)
        except BaseException:
            self.discard()
            raise

    def bound_by(self, bounds: Bounds) -> Callable[[], None]:
        """What holds the files within other bounds from now on.  Raises UsageError if they cannot be."""
        retention_ = self.retention
        if retention_ is None:
            raise UsageError("the capture began without bounds and cannot get some now", "restart the capture")
        retention.check_change(self.config, bounds, [file.path for file in self.files])
        return lambda: retention_.change(bounds)

    def _writer_of(self, engine: Engine, mine: list[int], path: str) -> QueueWriter:
        return QueueWriter(self, engine, mine, path)

    def discard(self) -> None:
        if self._closed:
            return
        if self.printer:
            self.printer.kill()
        for file in self.files:
            file.discard()
        self.close()

    def run(self, engine: Engine, number: int, consumer: int, selection: Selection, direct: bool) -> None:
        self.files[number].run(consumer, selection, direct)

    def close(self) -> None:
        """Once: a run that fails may ask twice."""
        if self._closed:
            return
        self._closed = True
        if self.names:
            self.names.close()
        if self.retention:
            self.retention.close()
        if self.commands:
            self.commands.close()
        if self.printer:
            self.printer.close()

    def tell_finished(self, path: str) -> None:
        """A file is complete."""
        if self.names:
            self.names.add(path)
        if self.commands:
            self.commands.add(path)

    def flush(self) -> None:
        """Let readers of the files see what has been captured, within a quarter of a second."""
        for file in self.files:
            file.flush_asked = True

    def disk_is_behind(self) -> bool:
        return any(file.disk_is_behind for file in self.files)

    @property
    def packets_written(self) -> int:
        return 0 if self.config.only_printed else sum(file.packets_written for file in self.files)

    @property
    def files_written(self) -> int:
        """How many files were begun, also those that were removed or written over since."""
        return sum(file.files_written for file in self.files)

    @property
    def bytes_written(self) -> int:
        return 0 if self.config.only_printed else sum(file.bytes_written for file in self.files)

    @property
    def notes(self) -> list[str]:
        """What the files could not hold as it was, a sentence for each."""
        if self.config.only_printed:
            return []
        notes = [note for file in self.files for note in file.notes]
        return notes + (self.retention.notes if self.retention else []) + (self.commands.notes if self.commands else [])

    @property
    def late(self) -> int:
        """Packets that came too late for their place in order of time."""
        return sum(int(file.merge.counts[m.LATE]) for file in self.files)


class QueueWriter:
    """One output, in order of time over the queues ``mine``; a series of files if it is rotated."""

    _WHY_LEFT_OUT = "pcap cannot hold what pcapng does; left out"

    def __init__(self, writer: Writer, engine: Engine, mine: list[int], path: str) -> None:
        self._writer, self._engine, self.config = writer, engine, writer.config
        self.merge = m.new_merge(len(engine.source.queues), mine, engine.pool.free_slots.shape[1])
        self._headed: list[Interface] = []  # whose link type stands in a pcap file's header
        self._recorded: Recorded | None = None
        if recording := engine.source.recording:
            self._recorded = Recorded(recording, self.config.comments, writer.filter, self.config.snaplen)
        self._layout = PCAP_NS if self.config.nanoseconds else PCAP_US
        if self.config.format == "pcapng":
            self._layout = PCAPNG_COPY if self._recorded else PCAPNG_NS
            if engine.source.mark_directions(engine.pool):
                self._layout = PCAPNG_FLAGS
        self._buffers = Buffers()
        self._rotation = Rotation(self.config, time.time_ns(), path)
        self.path = path
        self._path = "standard output" if path == "-" else path
        self._packing = (compression_of(path), self.config.independent_frames)
        self._sinks: list[Sink] = []  # finished files that may not be on disk yet, then the one being written
        self._packets_of_closed = self._bytes_of_closed = 0
        self._unindexed: list[str] = []
        self._cached = False
        self._flushed_ns = 0
        self.flush_asked = False
        self._start_ns = time.time_ns()
        self._printer = writer.printer
        self._idle_ns = PRINT_IDLE_NS if self._printer and engine.source.live else IDLE_NS

    def begin(self) -> None:
        """Create the first file, and start the printer."""
        header = self._header()
        self._open(header)
        if self._printer:
            self._printer.start(header)

    def discard(self) -> None:
        """Close the file, of which nobody is told."""
        for sink in self._sinks:
            with contextlib.suppress(Exception):  # another failure is reported
                sink.close()
        self._sinks.clear()

    def _open(self, header: bytes) -> None:
        self._packets_before = self._packets_put
        path, retention = self._rotation.path, self._writer.retention
        space = retention.begin(path) if retention else UNBOUNDED
        most, indexed = self._rotation.full_bytes, self.config.indexed
        self._sink = Sink(path, header, self._layout, self._buffers, True, *self._packing, space, indexed, most)
        self._sinks.append(self._sink)

    def _header(self, *comments: str) -> bytes:
        """What a file starts with; comments: on it, in addition to those that were asked for."""
        if self._recorded:
            started = b"" if self._recorded.known else b"".join(self._recorded.take())
            self._know(self._recorded)
            if self._layout == PCAPNG_COPY:
                return started or self._recorded.header()
        interfaces = self._meet_interfaces()
        if self._layout in (PCAP_US, PCAP_NS):
            first = interfaces[0] if interfaces else Interface()
            self._headed = [first]
            return headers.pcap_header(self._snaplen(first), first.linktype, self._layout == PCAP_NS)
        described = b"".join(self._describe(interface) for interface in interfaces)
        return headers.section_header(self._writer.application, [*self.config.comments, *comments]) + described

    def _meet_interfaces(self) -> list[Interface]:
        """The interfaces whose packets may be written from now on; a copy, as a file's list grows while it is read."""
        interfaces = list(self._engine.source.interfaces)
        self._writer.check_link_types(self._rotation.path, [*interfaces, *self._headed])
        return interfaces

    def _know(self, recorded: Recorded) -> None:
        """Packets behind what was taken may be written from now on."""
        settings = self.merge.settings
        settings[m.KNOWN], settings[m.SWAPPED] = recorded.known, recorded.swapped

    def _copy_blocks(self, recorded: Recorded, blocks: list[bytes]) -> None:
        """Write what stands between the packets of the file that is read, where the output can hold it."""
        if self._layout == PCAPNG_COPY:
            for block in blocks:
                self._sink.write(block)
                self._show_block(block)
        else:
            self._meet_interfaces()
        self._know(recorded)

    def _show_block(self, block: bytes) -> None:
        if self._printer:
            self._printer.meet(self._engine.source.interfaces)
            self._printer.insert(block)

    def _show(self, records: NDArray[np.uint8], packets: int) -> None:
        if self._printer:
            swapped = bool(self.merge.settings[m.SWAPPED])
            self._printer.offer(self._layout, records, packets, swapped, self._is_aborted)

    def _is_aborted(self) -> bool:
        return bool(self._engine.pool.control[k.PHASE] == k.ABORT)

    def _describe(self, interface: Interface) -> bytes:
        filter = self._writer.filter or interface.filter
        return headers.interface_description(
            interface.name,
            self._snaplen(interface),
            interface.linktype,
            filter,
            interface.description,
            interface.comment,
        )

    def _snaplen(self, interface: Interface) -> int:
        asked = self.config.snaplen if self.config.snaplen < MAX_SNAPLEN else WHOLE
        return min(asked, interface.snaplen or interface.largest)

    @property
    def disk_is_behind(self) -> bool:
        """Every buffer waits to be written."""
        return self._buffers.all_in_use

    @property
    def _packets_put(self) -> int:
        """Packets of all files so far, written or on their way."""
        return int(self.merge.counts[m.WRITTEN])

    @property
    def packets_written(self) -> int:
        return self._packets_of_closed + sum(sink.packets_written for sink in self._sinks)

    @property
    def files_written(self) -> int:
        return self._rotation.begun

    @property
    def bytes_written(self) -> int:
        """Packet bytes after applying the snap length, without the file's own overhead."""
        return self._bytes_of_closed + sum(sink.bytes_written for sink in self._sinks)

    @property
    def notes(self) -> list[str]:
        moved = int(self.merge.counts[m.MOVED])
        notes = list(self._unindexed)
        if moved:
            of = "1 packet was" if moved == 1 else f"{moved} packets were"
            span = "before 1970" if self._layout >= PCAPNG_NS else "before 1970 or after 2106, which pcap cannot hold"
            notes.append(f"{self._path}: {of} from {span}: written with the nearest time")
        if self._cached and self._engine.summary().drops().get("pool_exhausted"):
            notes.append(f"{self._path}: its file system has no direct writes, and writing through the cache is slower")
        if self._recorded:
            unwanted = int(self._engine.pool.queues[UNWANTED_OPTIONS])
            lost, copied = int(self.merge.counts[m.OPTIONS_LOST]), self._layout == PCAPNG_COPY
            if left_out := self._recorded.left_out(unwanted, lost, copied):
                why = "left out" if copied else self._WHY_LEFT_OUT
                notes.append(f"{self._path}: {why}: {left_out}")
        return notes

    def run(self, consumer: int, selection: Selection, direct: bool) -> None:
        """The life of the writer thread: until no more packets will come, or the files are full."""
        settings, scratch = self.merge.settings, libc.scratch()
        settings[m.LAYOUT], settings[m.RECORDED] = self._layout, self._recorded is not None
        settings[m.SNAPLEN] = self.config.snaplen if self.config.snaplen < MAX_SNAPLEN else WHOLE
        settings[m.CONSUMER], settings[m.DIRECT] = consumer, direct
        settings[m.CLOSING] = k.CLOSE if direct else k.FINISH
        settings[m.PACKETS_LEFT] = self._rotation.full_packets
        if direct and len(self.merge.mine) > 1:
            self._engine.pool.control[k.MERGING] = 1
        try:
            try:
                while self._write_some(selection, scratch):
                    pass
            finally:
                if direct:
                    give_up_merged(self._engine.pool, consumer, self.merge)
            self._end_file()
            self._close_ended(0)
        except BaseException:
            self._keep_whole()
            raise

    def _write_some(self, selection: Selection, scratch: NDArray[np.int64]) -> bool:
        """Fill and submit one buffer; False if there is nothing more to write."""
        merge, engine = self.merge, self._engine
        settings, counts = merge.settings, merge.counts
        buffer = self._sink.acquire(0.1)
        if buffer is None:
            return not self._is_aborted()
        before = counts[[m.WRITTEN, m.WRITTEN_BYTES]]
        counts[m.POSITION] = buffer.start
        while True:
            now = time.time_ns()
            over = now >= self._rotation.split_end_ns  # then the next packet starts a file: the merge returns FILE_FULL
            settings[m.FILE_END] = buffer.start + (0 if over else max(0, self._rotation.full_bytes - self._sink.size))
            settings[m.DEADLINE] = self._deadline(now)
            reason = m.merge_packets(
                engine.pool, engine.source.rings, selection.address, selection.states, merge, buffer.bytes, scratch
            )
            if reason == m.FULL and counts[m.POSITION] == buffer.start:
                self._sink.enlarge(buffer, int(counts[m.WANTED]))
                continue
            idle = reason == m.IDLE and counts[m.POSITION] == buffer.start
            due = self._sink.failed or self.flush_asked or len(self._sinks) > 1
            if not idle or due or self._decide(waiting=False) != Action.GO_ON:
                break
        packets, data = (counts[[m.WRITTEN, m.WRITTEN_BYTES]] - before).tolist()
        self._show(buffer.bytes[buffer.start : int(counts[m.POSITION])], packets)
        self._sink.submit(buffer, int(counts[m.POSITION]), packets, data, bool(settings[m.SWAPPED]))
        return self._go_on(reason)

    def _deadline(self, now: int) -> int:
        change_ns = self._rotation.deadline_ns
        return min(now + self._idle_ns, change_ns if now < change_ns else NO_LIMIT)

    def _go_on(self, reason: int) -> bool:
        """Look after the file between two buffers; False if there is nothing more to write."""
        if reason == m.CLOSED and self._recorded:
            self._copy_blocks(self._recorded, self._recorded.take_rest())
        if reason in (m.CLOSED, m.ABORTED):
            return False
        if reason == m.NEW_DESCRIPTION and self._recorded:
            self._copy_blocks(self._recorded, self._recorded.take(int(self.merge.counts[m.WANTED])))
        at_once = reason == m.IDLE or self.config.packet_buffered or self.flush_asked
        if at_once or time.monotonic_ns() - self._flushed_ns > FLUSH_NS:
            self._flushed_ns, self.flush_asked = time.monotonic_ns(), False
            self._sink.flush()
        self._close_ended(keep=len(self._sinks))
        action = self._decide(waiting=reason == m.FILE_FULL)
        if action is Action.STOP:
            return False
        if action is Action.NEXT_FILE:
            self._next_file()
        return True

    def _decide(self, waiting: bool) -> Action:
        packets = self._packets_put - self._packets_before
        return self._rotation.decide(self._sink.size, packets, time.time_ns(), waiting)

    def _next_file(self) -> None:
        self._end_file()
        remove = self._rotation.next_file(time.time_ns())
        taken = {remove, self._rotation.path} & {sink.path for sink in self._sinks}
        self._close_ended(0 if taken else 1)
        if remove is not None:
            with contextlib.suppress(OSError):  # if someone has moved it away, the packets to come matter more
                Path(remove).unlink()
                Path(index_path(remove)).unlink(missing_ok=True)
        header = self._header()
        try:
            self._open(header)
        except UsageError as error:  # the first file could be created, so this is a failed run
            raise WirecapError(error.message, error.hint) from None
        self.merge.settings[m.PACKETS_LEFT] = self._rotation.full_packets

    def _close_ended(self, keep: int) -> None:
        """Close finished files; of those not on disk yet, the last ``keep`` may take their time."""
        while self._sinks and (len(self._sinks) > keep or self._sinks[0].done):
            try:
                self._sinks[0].close()
                if not self._sinks[0].failed:
                    self._writer.tell_finished(self._sinks[0].path)
            finally:
                closed = self._sinks.pop(0)
                self._unindexed += [closed.note] if closed.note else []
                self._cached |= closed.cached
                self._packets_of_closed += closed.packets_written
                self._bytes_of_closed += closed.bytes_written

    def _keep_whole(self) -> None:
        """After a failure, give every file all the records made for it, and name the files that are complete."""
        for sink in self._sinks:
            sink.finish()
        while self._sinks:
            with contextlib.suppress(Exception):  # only the first failure is reported
                self._close_ended(0)

    def _end_file(self) -> None:
        if (
            self._layout in (PCAPNG_NS, PCAPNG_FLAGS) and self._engine.source.live
        ):  # reading from a file, interfaces lose nothing
            for number in sorted({place.interface_id for place in self._engine.source.queues}):
                self._sink.write(self._statistics(number))
        if self._writer.retention:
            self._writer.retention.ending(self._rotation.path)
        self._sink.finish()

    def _statistics(self, number: int) -> bytes:
        summary = self._engine.summary()
        places = self._engine.source.queues
        mine = [q for q, place in zip(summary.queues, places, strict=True) if place.interface_id == number]
        now = time.time_ns()
        counts = headers.Statistics(
            start_ns=self._start_ns, end_ns=now, received=sum(q.received for q in mine),
            accepted=sum(q.received - q.filtered_out for q in mine), dropped_by_os=sum(q.dropped for q in mine),
            delivered=sum(q.delivered for q in mine),
        )  # fmt: skip
        return headers.interface_statistics(number, now, counts)
