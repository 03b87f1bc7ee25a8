"""The settings of a capture, as validated plain values.  Nothing here looks at the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, TypedDict

from wirecap.config.bounds import NO_BOUNDS, Bounds
from wirecap.config.endpoint import Endpoint
from wirecap.config.handlers import kind_of
from wirecap.config.keep import KeepConfig
from wirecap.config.printing import PrintConfig
from wirecap.config.serve import Remote, ServeConfig
from wirecap.config.sources import AUTO, SOURCES, engine_names
from wirecap.config.specs import MAX_QUEUE, HandlerSpec, QueueSpec
from wirecap.errors import UsageError
from wirecap.units import format_size

MODES = ("basic", "advanced")
TIME_STAMPS = ("host", "host_lowprec", "host_hiprec", "adapter_unsynced")
FANOUTS = ("hash", "cpu", "qm", "rnd")
DIRECTIONS = ("in", "out", "inout")
XDP_MODES = ("auto", "native", "generic")
FORMATS = ("pcapng", "pcap")
CELLS = (2048, 4096)
BESIDE: Literal["auto"] = "auto"
Cpus = tuple[int, ...] | Literal["auto"]

DIRECT_RING = 1024
"""Descriptors of a receive ring, as in the paper's engines."""

MAX_M = 65_536
MAX_R = 1_000_000
MAX_SNAPLEN = 262_144
"""libpcap's MAXIMUM_SNAPLEN, which tcpdump's ``-s 0`` stands for."""


SPOOLED = ("nats", "nats+tls")
"""Targets of flow records that have a spool on disk."""
LEAST_SPOOL = 1 << 20


class Spooling(NamedTuple):
    """Where records wait for a broker, and in how many bytes; None: as flows/nats.py and flows/spool.py have it."""

    folder: str | None = None
    limit: int | None = None

    def check(self, targets: tuple[str, ...]) -> None:
        """Raise UsageError where nothing would be spooled, or next to nothing."""
        if self != Spooling() and not any(map(is_spooled, targets)):
            raise UsageError(
                "--spool is for flow records on their way to a broker",
                "add --handler flows --to nats://HOST/flows.SITE.SENSOR",
            )
        if self.folder == "":
            raise UsageError("--spool: the folder has no name", "write --spool FOLDER")
        if self.limit is not None and self.limit < LEAST_SPOOL:
            raise UsageError(f"--spool-limit {self.limit}: a spool needs at least 1 MiB", "write --spool-limit 1GiB")


def is_spooled(target: str) -> bool:
    return target.partition(":")[0] in SPOOLED


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The ring-buffer pool behind each receive queue: R chunks of M cells of ``cell`` bytes."""

    M: int = 256
    R: int = 100
    cell: int = 2048
    buffer: str = field(default="", compare=False)
    """What -B said, if that set R."""

    least_chunks: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 1 <= self.M <= MAX_M:
            raise UsageError(
                f"M must be 1 to {MAX_M}, not {self.M}", "M is the number of packets in a chunk, usually 64 to 1024"
            )
        if not self.least_chunks <= self.R <= MAX_R:
            raise UsageError(
                f"R must be {self.least_chunks} to {MAX_R}, not {self.R}",
                "R is the number of chunks per queue, usually 100 to 1000",
            )
        if self.cell not in CELLS:
            raise UsageError(f"unsupported cell size: {self.cell} bytes", "use 2048 or 4096")

    def bytes(self, queues: int) -> int:
        """Bytes of packet memory for this many queues."""
        return self.M * self.R * self.cell * queues

    def check_memory(self, queues: int, available_bytes: int) -> None:
        """Raise UsageError if the pools do not fit: the message gives the numbers, the hint says what would fit."""
        wanted = self.bytes(queues)
        if wanted <= available_bytes:
            return
        largest = available_bytes // (self.M * self.cell * queues)
        if self.buffer:
            asked = f"-B {self.buffer} for each of {queues} queues" if queues > 1 else f"-B {self.buffer}"
            raise UsageError(
                f"{asked} takes {format_size(wanted)}, but this host has only {format_size(available_bytes)} free",
                f"use -B {available_bytes // queues >> 20}MiB or less" if largest >= 2 else "use fewer queues",
            )
        hint = f"the largest R at this M is {largest}" if largest >= 2 else "use a smaller M and R, or fewer queues"
        raise UsageError(
            f"the pools need M x R x cell x queues = {self.M} x {self.R} x {self.cell} x {queues} ="
            f" {format_size(wanted)}, but this host has only {format_size(available_bytes)} free",
            hint,
        )


@dataclass(frozen=True, slots=True)
class BareRing(PoolConfig):
    """The cells of a receive ring with no pool behind it: a single chunk may be the whole ring."""

    least_chunks: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """A capture: where from, with which engine, through which handlers, until when.

    One of ``sources``, ``read_file`` and ``remote`` is set.  ``None`` means "whatever the engine finds best".
    Durations are in nanoseconds, lengths in bytes, T in percent of R.
    """

    sources: tuple[QueueSpec, ...] = ()
    read_file: str | None = None
    remote: Remote | None = None
    """A server of pcap over IP to capture from."""
    engine: str = AUTO
    mode: str = "basic"
    xdp_mode: str = "auto"
    pool: PoolConfig = PoolConfig()
    T: int = 60
    handlers: tuple[HandlerSpec, ...] = ()
    filter: str = ""
    optimise: bool = True
    """Let libpcap's optimiser improve the filter."""
    kernel_filter: str | None = None
    """Run the filter in the kernel; packets it rejects are dropped ('drop') or passed to the 'host'."""
    duration_ns: int | None = None
    count: int | None = None
    snaplen: int = MAX_SNAPLEN
    promiscuous: bool = True
    time_stamps: str = "host"
    """'host': the kernel timestamps packets; in the XDP program it reads the clock once for a few of them;
    'host_hiprec': it reads the clock for each; 'host_lowprec': the capture thread takes one timestamp for all the
    packets it finds at once; 'adapter_unsynced': the NIC's own clock."""
    fanout: str | None = None
    """How the packet engine spreads an interface's packets over its queues; None: by hash."""
    defrag: bool = False
    """Let the kernel put IPv4 datagrams together, so that all of a flow comes to one queue; the packet engine only."""
    direction: str | None = None
    """'in', 'out', 'inout'; None: both, if the engine sees both."""
    netns: str | None = None
    take_over: bool = False
    ring: int | None = None
    capture_threads: int | None = None
    cpus: Cpus = ()
    """CPUs to pin threads to, round robin, or 'auto': beside the interrupts of their queues, on the NIC's NUMA node."""
    timeout_ns: int = 1_000_000
    busy_poll: bool = False
    """Let capture threads take packets from the NIC, in place of interrupts; the xdp engine only."""
    nic_hash: bool = False
    """Ask the NIC for its hash of each packet (``packet.nic_hash``, ``chunk.nic_hashes``); AF_XDP only."""
    buddies: tuple[tuple[QueueSpec, ...], ...] = ()
    keep_going: bool = False
    decisions_file: str | None = None
    """The file to keep the last offload decisions in (engine/decisions.py)."""
    html_file: str | None = None
    """The file for a page about the run, with plots (forensics/page.py)."""
    metrics: Endpoint | None = None
    """Where Prometheus is served."""
    to: tuple[str, ...] = ()
    """Where flow records go (flows/targets.py); nowhere: they are only counted."""
    spool: str | None = None
    """The folder in which records wait for a broker; None: among the files that programs keep."""
    spool_limit: int | None = None
    """How many bytes may wait there."""
    serve: ServeConfig | None = None
    """Where clients of the handler serve connect."""

    @property
    def shared(self) -> bool:
        """Whether other processes are to read the packets where they are captured."""
        return any(kind_of(handler).lends for handler in self.handlers)

    @property
    def spooling(self) -> Spooling:
        return Spooling(self.spool, self.spool_limit)

    @property
    def suits_packet_engine(self) -> bool:
        """Whether the packet engine would take this as it is: nothing of XDP is asked for, and no queue is left out."""
        in_order = all(sorted(spec.queues or ()) == list(range(len(spec.queues or ()))) for spec in self.sources)
        return in_order and not self.kernel_filter and self.xdp_mode == "auto"

    def __post_init__(self) -> None:
        self._check_remote()
        if not self.remote and bool(self.sources) == (self.read_file is not None):
            problem = (
                "cannot capture from an interface and a file at once" if self.sources else "nothing to capture from"
            )
            raise UsageError(problem, "give either -i INTERFACE or -r FILE")
        if self.metrics and self.read_file is not None:
            raise UsageError("--metrics is for interfaces: reading a file is not monitored", "leave --metrics out")
        self.spooling.check(self.to)
        _one_of("engine", self.engine, engine_names())
        _one_of("mode", self.mode, MODES)
        _one_of("XDP mode", self.xdp_mode, XDP_MODES)
        _one_of("fanout", self.fanout or "hash", FANOUTS)
        _one_of("direction", self.direction or "in", DIRECTIONS)
        self._check_file()
        self._check_engine()
        self._check_kernel_filter()
        check_threshold(self.T)
        _within("the packet count", self.count, 1, 2**63 - 1, "leave -c out to capture without a limit")
        _within("the duration in ns", self.duration_ns, 1, 2**63 - 1, "write it as 30s or 5m")
        _within("the snap length", self.snaplen, 1, MAX_SNAPLEN, "-s 0 keeps whole packets")
        _within("the ring size", self.ring, 64, MAX_M * MAX_R, "the paper uses 1024 descriptors")
        _within("the number of capture threads", self.capture_threads, 1, MAX_QUEUE + 1, "the default is one per queue")
        _within("the timeout in ns", self.timeout_ns, 1_000, 10**12, "write it as 1ms")
        check_disjoint(self.sources, "captured")
        self._check_buddies()

    def _check_remote(self) -> None:
        """Raise UsageError for what is decided where a server of pcap over IP captures."""
        if self.remote is None:
            return
        if self.sources or self.read_file is not None:
            raise UsageError(
                f"cannot capture from {self.remote} and from anything else at once", "give one -i pcap-over-ip://HOST"
            )
        chosen = {
            "--engine": self.engine != AUTO, "--kernel-filter": self.kernel_filter, "--fanout": self.fanout,
            "--defrag": self.defrag, "-Q": self.direction, "--ring": self.ring, "--buddies": self.buddies,
            "-j": self.time_stamps != "host", "--xdp-mode": self.xdp_mode != "auto", "--take-over": self.take_over,
            "--mode advanced": self.mode == "advanced",
        }  # fmt: skip
        for option in (name for name, asked in chosen.items() if asked):
            raise UsageError(f"{option} is decided where {self.remote} captures", "give it to wirecap serve there")

    def _check_file(self) -> None:
        """Raise UsageError for what only a capture from an interface can do."""
        if self.read_file is None:
            return
        asked = {
            f"--engine {self.engine}": self.engine != AUTO, f"--xdp-mode {self.xdp_mode}": self.xdp_mode != "auto",
            "--fanout": self.fanout, "--defrag": self.defrag, "--take-over": self.take_over,
            "--busy-poll": self.busy_poll,
        }  # fmt: skip
        for option in (name for name, given in asked.items() if given):
            raise UsageError(f"{option} is for interfaces, and -r reads a file", f"leave {option.split()[0]} out")

    def _check_engine(self) -> None:
        """Raise UsageError if the source that ``engine`` names cannot do what is asked for."""
        if self.engine == AUTO:
            return
        kind = SOURCES[self.engine]
        if self.xdp_mode != "auto" and not kind.runs_xdp:
            raise UsageError(
                f"the {self.engine} engine runs no XDP program", "leave --xdp-mode out, or use --engine xdp"
            )
        if self.fanout and not kind.fans_out:
            raise UsageError(
                f"--fanout does not apply to the {self.engine} engine, which uses the NIC's queues",
                "use --engine packet, or leave --fanout out",
            )
        if self.defrag and not kind.fans_out:
            raise UsageError(
                f"--defrag does not apply to the {self.engine} engine, which takes packets as they arrive",
                "use --engine packet, or leave --defrag out",
            )
        if self.busy_poll and not kind.busy_polls:
            raise UsageError(
                f"--busy-poll does not apply to the {self.engine} engine", "use --engine xdp, or leave --busy-poll out"
            )
        if self.nic_hash and not kind.runs_xdp:
            raise UsageError(
                f"--nic-hash does not apply to the {self.engine} engine", "use --engine xdp, or leave --nic-hash out"
            )
        if kind.bare_ring:
            self._take_bare_ring()
        if self.mode == "advanced" and not kind.shares:
            raise UsageError(
                f"the {self.engine} engine has no advanced mode: it has no pool to offload from",
                "use --engine xdp --mode advanced",
            )
        if self.direction in ("out", "inout") and not kind.sees_outgoing:
            raise UsageError(
                f"-Q {self.direction}: the {self.engine} engine sees only incoming packets", "use --engine packet"
            )
        if self.time_stamps == "adapter_unsynced" and not kind.nic_clock:
            raise UsageError(
                f"the {self.engine} engine cannot use the NIC's timestamps", "use --engine packet, or leave -j out"
            )

    def _take_bare_ring(self) -> None:
        """Shape the pool to the ring: its cells are the only ones, and it holds whole chunks."""
        ring = self.ring or DIRECT_RING
        M = min(self.pool.M, ring)
        pool = BareRing(M, ring // M, self.pool.cell)
        object.__setattr__(self, "ring", pool.M * pool.R)
        object.__setattr__(self, "pool", pool)

    def _check_kernel_filter(self) -> None:
        if self.kernel_filter is None:
            return
        _one_of("target for rejected packets", self.kernel_filter, ("drop", "host"))
        if self.read_file is not None:
            raise UsageError("--kernel-filter does not apply to a capture file", "leave --kernel-filter out")
        if not self.filter.strip():
            raise UsageError("--kernel-filter needs a filter to run", "add an expression, such as 'tcp port 443'")

    def _check_buddies(self) -> None:
        if self.buddies and self.mode != "advanced":
            raise UsageError("buddy groups need advanced mode", "add --mode advanced")
        if any(not group for group in self.buddies):
            raise UsageError("a buddy group is empty", "write it as --buddies eth1@0-3 or --buddies eth1+eth2")
        check_disjoint([spec for group in self.buddies for spec in group], "in a buddy group")
        captured = {spec.interface for spec in self.sources}
        for spec in (spec for group in self.buddies for spec in group):
            if spec.interface not in captured:
                raise UsageError(
                    f"{spec.interface} is in a buddy group but is not captured", f"add -i {spec.interface}"
                )


class CaptureOptions(TypedDict, total=False):
    """Fields of CaptureConfig that ``wirecap.open`` and ``wirecap.capture`` take in addition to those they list."""

    engine: str
    xdp_mode: str
    kernel_filter: str | None
    optimise: bool
    snaplen: int
    promiscuous: bool
    time_stamps: str
    fanout: str | None
    defrag: bool
    direction: str | None
    ring: int | None
    capture_threads: int | None
    cpus: Cpus
    timeout_ns: int
    busy_poll: bool
    nic_hash: bool
    buddies: tuple[tuple[QueueSpec, ...], ...]
    keep_going: bool
    decisions_file: str | None
    html_file: str | None
    metrics: Endpoint | str | None
    to: tuple[str, ...]
    spool: str | None
    spool_limit: int | None


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"unknown {what}: {value!r}", f"use one of {', '.join(allowed)}")


def _within(what: str, value: int | None, lowest: int, highest: int, hint: str) -> None:
    if value is not None and not lowest <= value <= highest:
        raise UsageError(f"{what} must be {lowest} to {highest}, not {value}", hint)


def check_threshold(T: int) -> None:
    """Raise UsageError unless T is a percentage."""
    _within("T", T, 1, 100, "T is the capture queue length, in percent of R, that calls for a buddy: usually 50 to 80")


def check_disjoint(specs: list[QueueSpec] | tuple[QueueSpec, ...], where: str) -> None:
    """Raise UsageError if two of the specs name the same queue."""
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
    """An output file: its format, when to start the next file, and when to stop.

    The first group of limits is tcpdump's (``-C -G -W``), the second dumpcap's (``-b``), the third what
    ends the capture (dumpcap's ``-a``; CaptureConfig has its packet count and duration).  Sizes are in bytes,
    times in nanoseconds; ``None`` means no limit.
    """

    path: str
    format: str = "pcapng"
    per_queue: bool = False
    snaplen: int = MAX_SNAPLEN
    packet_buffered: bool = False
    nanoseconds: bool = False
    """Whether a pcap file's timestamps are in nanoseconds; pcapng's always are."""
    comments: tuple[str, ...] = ()
    """Comments on the whole file; pcapng only."""
    independent_frames: bool = False
    """Whether each block of a compressed file can be unpacked by itself, also where one frame for all would do."""
    indexed: bool = False
    """Whether each file gets an index beside it."""
    printing: PrintConfig | None = None
    """How packets are printed, beside being written; None: they are not."""
    only_printed: bool = False
    """Whether no file is kept: ``path`` is then one that takes everything."""

    split_bytes: int | None = None
    split_ns: int | None = None
    split_files: int | None = None

    ring_bytes: int | None = None
    ring_ns: int | None = None
    ring_interval_ns: int | None = None
    ring_packets: int | None = None
    ring_files: int | None = None
    ring_print: str | None = None
    """Where to print the name of each file once it is closed, whatever starts the next one: a path, '-', 'stderr'."""
    ring_name_time_first: bool = False

    stop_bytes: int | None = None
    stop_files: int | None = None

    bounds: Bounds = NO_BOUNDS
    on_file: str | None = None
    """A command to run for each file that is complete, with the file's name behind it or in place of {}."""
    on_file_jobs: int = 1
    """How many of these run at once."""
    keep: KeepConfig | None = None
    """What is kept in memory, to be written when something has it saved; None: all is written at once."""

    def __post_init__(self) -> None:
        _one_of("file format", self.format, FORMATS)
        if not self.path:
            raise UsageError("the output file has no name", "give -w FILE, or -w - for standard output")
        if self.printing and self.per_queue:
            raise UsageError(
                "--print shows packets in one order, and --per-queue has a file for each queue",
                "leave one of them out; wirecap capture -r FILE --print shows one of the files",
            )
        if self.comments and self.format != "pcapng":
            raise UsageError("a pcap file cannot hold comments", "write pcapng: leave -P out, or name the file .pcapng")
        if self.split_ns == 0:
            raise UsageError("-G 0 would start a new file for every packet", "write it as -G 3600 or -G 1h")
        tcpdump = self.split_bytes or self.split_ns or self.split_files
        if tcpdump and self.rings:
            raise UsageError(
                "tcpdump's -C, -G and -W cannot be combined with dumpcap's -b", "choose one way to rotate files"
            )
        if self.path == "-" and (self.split_bytes or self.split_ns or self.rings or self.per_queue):
            raise UsageError("standard output cannot be split into files", "give -w a file name")
        if self.path == "-" and (self.bounds or self.on_file):
            what = "--on-file" if self.on_file else "--limit, --max-age and --min-free"
            raise UsageError(f"{what}: standard output is not a file", "give -w a file name")
        if self.bounds and (self.split_ns or self.file_for_each) and "%" in str(Path(self.path).parent):
            raise UsageError(
                f"{self.path}: files in folders that change with time cannot be bounded", "put them into one folder"
            )
        _within("the number of commands at once", self.on_file_jobs, 1, 1000, "the default is 1")
        if self.path == "-" and self.ring_print:
            raise UsageError("-b printname: standard output has no file name", "give -w a file name")
        if self.path == "-" and self.indexed:
            raise UsageError("--index: there is no index beside standard output", "give -w a file name")
        if self.split_files and not (self.split_bytes or self.split_ns):
            raise UsageError("-W: nothing starts the next file", "add -C SIZE or -G SECONDS")
        starts = self.ring_bytes or self.ring_ns or self.ring_interval_ns or self.ring_packets
        if self.ring_files and not (starts or self.stop_bytes):  # with -b, dumpcap's -a filesize starts a file too
            raise UsageError("-b files: nothing starts the next file", "add -b filesize:KB, duration:S or packets:N")
        if self.stop_files and not self.rings:
            raise UsageError("-a files: nothing starts the next file", "add -b filesize:KB, duration:S or packets:N")

    @property
    def rotates(self) -> bool:
        """Whether one capture may fill several files, one after the other."""
        return bool(self.rings or self.split_bytes or self.split_ns)

    @property
    def file_for_each(self) -> bool:
        """Whether each time that kept packets are saved has a file, whose name has the time: ``%`` without ``-G``."""
        return self.keep is not None and not (self.rings or self.split_ns) and "%" in self.path

    @property
    def rings(self) -> bool:
        """Whether any of dumpcap's ``-b`` limits is set."""
        limits = (self.ring_bytes, self.ring_ns, self.ring_interval_ns, self.ring_packets, self.ring_files)
        return any(limit is not None for limit in limits)
