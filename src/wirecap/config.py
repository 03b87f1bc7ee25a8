"""What a capture is asked to do, as validated plain values.  Nothing here looks at the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from wirecap.errors import UsageError
from wirecap.specs import MAX_QUEUE as MAX_QUEUE
from wirecap.specs import HandlerSpec as HandlerSpec
from wirecap.specs import QueueSpec as QueueSpec
from wirecap.specs import parse_numbers as parse_numbers
from wirecap.units import format_size

ENGINES = ("auto", "xdp", "packet", "direct")
MODES = ("basic", "advanced")
TIME_STAMPS = ("host", "host_lowprec", "adapter_unsynced")
FANOUTS = ("hash", "cpu", "qm", "rnd")
DIRECTIONS = ("in", "out", "inout")
XDP_MODES = ("auto", "native", "generic")
FORMATS = ("pcapng", "pcap")
CELLS = (2048, 4096)

DIRECT_RING = 1024
"""Descriptors of a receive ring, as the paper's engines have them."""

MAX_M = 65_536
MAX_R = 1_000_000
MAX_SNAPLEN = 262_144
"""MAXIMUM_SNAPLEN of libpcap, what tcpdump's ``-s 0`` means."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The ring-buffer pool behind each receive queue: R chunks of M cells of ``cell`` bytes."""

    M: int = 256
    R: int = 100
    cell: int = 2048

    least_chunks: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 1 <= self.M <= MAX_M:
            raise UsageError(
                f"M is {self.M}, outside 1 to {MAX_M}", "M is the packets of a chunk: 64 to 1024 are usual"
            )
        if not self.least_chunks <= self.R <= MAX_R:
            raise UsageError(
                f"R is {self.R}, outside {self.least_chunks} to {MAX_R}",
                "R is the chunks of a queue: 100 to 1000 are usual",
            )
        if self.cell not in CELLS:
            raise UsageError(f"a cell of {self.cell} bytes cannot be", "AF_XDP takes 2048 or 4096")

    def bytes(self, queues: int) -> int:
        """Bytes of packet memory for so many queues."""
        return self.M * self.R * self.cell * queues

    def check_memory(self, queues: int, available_bytes: int) -> None:
        """Raise UsageError where the pools do not fit; the numbers are in the message, what would fit in the hint."""
        wanted = self.bytes(queues)
        if wanted <= available_bytes:
            return
        largest = available_bytes // (self.M * self.cell * queues)
        hint = f"the largest R at this M is {largest}" if largest >= 2 else "take a smaller M and R, or fewer queues"
        raise UsageError(
            f"M x R x cell x queues = {self.M} x {self.R} x {self.cell} x {queues} = {format_size(wanted)},"
            f" this host has {format_size(available_bytes)} free",
            hint,
        )


@dataclass(frozen=True, slots=True)
class BareRing(PoolConfig):
    """The cells of a receive ring that are all there is: one chunk may be the whole of it."""

    least_chunks: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """A capture: from where, by which engine, through which handlers, until when.

    ``sources`` or ``read_file`` is set, not both.  ``None`` stands for "as the engine finds best".
    Durations are in nanoseconds, lengths in bytes, T in percent of R.
    """

    sources: tuple[QueueSpec, ...] = ()
    read_file: str | None = None
    engine: str = "auto"
    mode: str = "basic"
    xdp_mode: str = "auto"
    pool: PoolConfig = PoolConfig()
    T: int = 60
    handlers: tuple[HandlerSpec, ...] = ()
    filter: str = ""
    kernel_filter: str | None = None
    """Run the filter inside the kernel; what it does not want is dropped ('drop') or goes to the 'host'."""
    duration_ns: int | None = None
    count: int | None = None
    snaplen: int = MAX_SNAPLEN
    promiscuous: bool = True
    time_stamps: str = "host"
    """'host': the kernel's, for each packet; 'host_lowprec': the capture thread's, one for all it finds at once;
    'adapter_unsynced': the NIC's own clock."""
    fanout: str | None = None
    """How the packet engine shares an interface's packets out among its queues; None: by hash."""
    direction: str | None = None
    """'in', 'out', 'inout'; None: both where the engine sees both."""
    netns: str | None = None
    take_over: bool = False
    ring: int | None = None
    capture_threads: int | None = None
    cpus: tuple[int, ...] = ()
    timeout_ns: int = 1_000_000
    buddies: tuple[tuple[QueueSpec, ...], ...] = ()
    keep_going: bool = False
    decisions_file: str | None = None
    """Where to keep the last offload decisions (engine/decisions.py)."""

    def __post_init__(self) -> None:
        if bool(self.sources) == (self.read_file is not None):
            problem = "both an interface and a file to read" if self.sources else "nothing to capture from"
            raise UsageError(problem, "give -i INTERFACE, or -r FILE")
        _one_of("engine", self.engine, ENGINES)
        _one_of("mode", self.mode, MODES)
        _one_of("XDP mode", self.xdp_mode, XDP_MODES)
        _one_of("kind of fanout", self.fanout or "hash", FANOUTS)
        _one_of("direction", self.direction or "in", DIRECTIONS)
        self._check_engine()
        self._check_kernel_filter()
        check_threshold(self.T)
        _within("the packet count", self.count, 1, 2**63 - 1, "leave -c out to capture without end")
        _within("the duration", self.duration_ns, 1, 2**63 - 1, "write it as 30s or 5m")
        _within("the snap length", self.snaplen, 1, MAX_SNAPLEN, "0 is the whole packet")
        _within("the ring", self.ring, 64, MAX_M * MAX_R, "1024 descriptors are the paper's")
        _within("the number of capture threads", self.capture_threads, 1, MAX_QUEUE + 1, "one per queue is the default")
        _within("the timeout", self.timeout_ns, 1_000, 10**12, "write it as 1ms")
        check_disjoint(self.sources, "captured")
        self._check_buddies()

    def _check_engine(self) -> None:
        if self.engine == "packet" and self.xdp_mode != "auto":
            raise UsageError("the packet engine runs no XDP program", "leave --xdp-mode out, or take --engine xdp")
        if self.engine not in ("xdp", "direct"):
            return
        if self.fanout:
            raise UsageError("AF_XDP's queues are the NIC's: nothing fans out", "take --engine packet, or no --fanout")
        if self.engine == "direct":
            self._make_direct()
        if self.engine == "direct" and self.mode == "advanced":
            raise UsageError("the direct engine has nothing to hand to a buddy", "take --engine xdp --mode advanced")
        if self.direction in ("out", "inout"):
            raise UsageError(f"-Q {self.direction}: AF_XDP sees incoming packets only", "take --engine packet")
        if self.time_stamps == "adapter_unsynced":
            raise UsageError("AF_XDP has no stamps of the NIC's", "take --engine packet, or leave -j out")

    def _make_direct(self) -> None:
        """The ring's cells are all there are; it holds whole chunks."""
        ring = self.ring or DIRECT_RING
        M = min(self.pool.M, ring)
        pool = BareRing(M, ring // M, self.pool.cell)
        object.__setattr__(self, "ring", pool.M * pool.R)
        object.__setattr__(self, "pool", pool)

    def _check_kernel_filter(self) -> None:
        if self.kernel_filter is None:
            return
        _one_of("place for unwanted packets", self.kernel_filter, ("drop", "host"))
        if self.read_file is not None:
            raise UsageError("a file's packets do not pass through the kernel", "leave --kernel-filter out")
        if not self.filter.strip():
            raise UsageError("--kernel-filter has no filter to run", "add an expression, e.g. 'tcp port 443'")

    def _check_buddies(self) -> None:
        if self.buddies and self.mode != "advanced":
            raise UsageError("buddy groups need the advanced mode", "add --mode advanced")
        if any(not group for group in self.buddies):
            raise UsageError("a buddy group is empty", "write it as --buddies eth1@0-3 or --buddies eth1+eth2")
        check_disjoint([spec for group in self.buddies for spec in group], "in a buddy group")
        captured = {spec.interface for spec in self.sources}
        for spec in (spec for group in self.buddies for spec in group):
            if spec.interface not in captured:
                raise UsageError(f"buddy group: {spec.interface} is not captured", f"add -i {spec.interface}")


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"there is no {what} {value!r}", f"choose one of {', '.join(allowed)}")


def _within(what: str, value: int | None, lowest: int, highest: int, hint: str) -> None:
    if value is not None and not lowest <= value <= highest:
        raise UsageError(f"{what} is {value}, outside {lowest} to {highest}", hint)


def check_threshold(T: int) -> None:
    """Refuse what is no percentage."""
    _within("T", T, 1, 100, "T is the percent of R from which chunks go to a buddy: 50 to 80 are usual")


def check_disjoint(specs: list[QueueSpec] | tuple[QueueSpec, ...], where: str) -> None:
    """Raise UsageError when a queue stands in two of the specs."""
    seen: dict[str, set[int] | None] = {}
    for spec in specs:
        mine = None if spec.queues is None else set(spec.queues)
        if spec.interface in seen:
            theirs = seen[spec.interface]
            common = mine if theirs is None else theirs if mine is None else theirs & mine
            if common is None or common:
                queue = "" if common is None else f" queue {min(common)}"
                raise UsageError(f"{spec.interface}{queue} is {where} twice", "name each queue once")
            mine = (theirs or set()) | (mine or set())
        seen[spec.interface] = mine


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConfig:
    """A file to write: its form, when to start the next file and when to stop.

    The first group of limits is tcpdump's (``-C -G -W``), the second dumpcap's (``-b``), the third what
    ends the capture (dumpcap's ``-a``; its packets and duration are CaptureConfig's).  Sizes in bytes,
    times in nanoseconds, ``None`` is no limit.
    """

    path: str
    format: str = "pcapng"
    per_queue: bool = False
    snaplen: int = MAX_SNAPLEN
    packet_buffered: bool = False
    nanoseconds: bool = False
    """Times of a pcap file; pcapng always has nanoseconds."""
    comments: tuple[str, ...] = ()
    """About the file as a whole; pcapng only."""

    split_bytes: int | None = None
    split_ns: int | None = None
    split_files: int | None = None

    ring_bytes: int | None = None
    ring_ns: int | None = None
    ring_interval_ns: int | None = None
    ring_packets: int | None = None
    ring_files: int | None = None
    ring_print: str | None = None
    """Where the name of each file is told once it is closed, however files follow each other: a path, '-', 'stderr'."""
    ring_name_time_first: bool = False

    stop_bytes: int | None = None
    stop_files: int | None = None

    def __post_init__(self) -> None:
        _one_of("file format", self.format, FORMATS)
        if not self.path:
            raise UsageError("the file to write has no name", "give -w FILE, or -w - for the standard output")
        if self.comments and self.format != "pcapng":
            raise UsageError("a pcap file has no place for comments", "write pcapng: leave -P out, or name it .pcapng")
        if self.split_ns == 0:
            raise UsageError("-G 0: every packet would begin a file", "write it as -G 3600 or -G 1h")
        tcpdump = self.split_bytes or self.split_ns or self.split_files
        if tcpdump and self.rings:
            raise UsageError("-C, -G, -W (tcpdump's) and -b (dumpcap's) do not go together", "choose one way to rotate")
        if self.path == "-" and (self.split_bytes or self.split_ns or self.rings or self.per_queue):
            raise UsageError("the standard output cannot be split into files", "give -w a file's name")
        if self.path == "-" and self.ring_print:
            raise UsageError("-b printname: the standard output has no name", "give -w a file's name")
        if self.split_files and not (self.split_bytes or self.split_ns):
            raise UsageError("-W counts files, but nothing starts the next one", "add -C SIZE or -G SECONDS")
        starts = self.ring_bytes or self.ring_ns or self.ring_interval_ns or self.ring_packets
        if self.ring_files and not (starts or self.stop_bytes):  # with -b, dumpcap's -a filesize starts a file too
            raise UsageError("-b files: nothing starts the next file", "add -b filesize:KB, duration:S or packets:N")
        if self.stop_files and not self.rings:
            raise UsageError("-a files: the capture makes one file only", "add -b filesize:KB, duration:S or packets:N")

    @property
    def rings(self) -> bool:
        """Whether any of dumpcap's ``-b`` limits is set."""
        limits = (self.ring_bytes, self.ring_ns, self.ring_interval_ns, self.ring_packets, self.ring_files)
        return any(limit is not None for limit in limits)
