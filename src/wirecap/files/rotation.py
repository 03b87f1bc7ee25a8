"""When a capture goes on in the next file, when it ends, and what the files are called.

Pure policy: sizes, counts and times come in, names and decisions go out.  tcpdump's rules for ``-C -G -W``,
dumpcap's for ``-b`` and ``-a``, as tcpdump 4.99 and dumpcap 4.0 behave.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from pathlib import Path

from wirecap.config.capture import WriteConfig
from wirecap.errors import UsageError

NO_LIMIT = 1 << 62
_NUMBERS = 100_000  # dumpcap's RINGBUFFER_MAX_NUM_FILES: five digits
_SECOND_NS = 1_000_000_000
INDEX_SUFFIX = ".wcidx"
TABLE_SUFFIX = ".wcidx.parquet"
"""What the name of a file's index ends with, behind the file's."""
COMPRESSIONS = (".gz", ".zst", ".lz4", ".xz", ".bz2")
_OTHER_COMPRESSIONS = frozenset(
    ".z .lzma .lz .lzo .lzf .lz5 .lrz .rz .br .zip .7z .rar .zlib .zz .sz .snappy .zpaq .tgz .tzst .txz .tbz .tbz2 .tlz"
    " .gzip .zstd .bz .bzip2 .gzz .xzip .cab .arj .ace .pack .dz .zipx".split()
)
"""What users may mean to be compressed: a name that asks for what is not there must not get something else."""


class Action(enum.Enum):
    GO_ON = "go on"
    NEXT_FILE = "next file"
    STOP = "stop"


def format_of(path: str) -> str:
    """``pcap`` for .pcap, .cap and .dmp, compressed or not; ``pcapng`` for everything else.

    Raises UsageError for a name of Parquet, which has headers only.
    """
    name = Path(path)
    if name.suffix.lower() in COMPRESSIONS:
        name = name.with_suffix("")
    if name.suffix.lower() == ".parquet":
        packed = name.name != Path(path).name
        raise UsageError(
            f"{path}: {'Parquet compresses by itself' if packed else 'packets are not written as Parquet'}",
            "name it FILE.parquet" if packed else f"wirecap convert FILE -w {path} makes it of a capture file",
        )
    return "pcap" if name.suffix.lower() in (".pcap", ".cap", ".dmp") else "pcapng"


def compression_of(path: str) -> str:
    """One of COMPRESSIONS or nothing: what the name given with -w asks for, whatever numbers follow it later.

    Raises UsageError where it asks for one that is not there.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _OTHER_COMPRESSIONS:
        raise UsageError(
            f"{path}: {Path(path).suffix} files cannot be written", f"use {', '.join(COMPRESSIONS)}, or none"
        )
    return suffix if suffix in COMPRESSIONS else ""


def split_name(path: str) -> tuple[str, str]:
    """(path without its suffix, suffix); a compression's suffix belongs to the one before it."""
    name = Path(path)
    suffix = name.suffix
    if suffix.lower() in COMPRESSIONS:
        suffix = name.with_suffix("").suffix + suffix
    return path[: len(path) - len(suffix)], suffix


def queue_path(path: str, interface: str, queue: int) -> str:
    """The name of a queue's own file: ``out.pcapng`` -> ``out_eth1_0.pcapng``."""
    stem, suffix = split_name(path)
    return f"{stem}_{interface}_{queue}{suffix}"


def naming(config: WriteConfig) -> str:
    """What the files are called that dumpcap's rotation makes: ``out_00001_YYYYMMDDhhmmss.pcapng``."""
    stem, suffix = split_name(config.path)
    number, when = "00001", "YYYYMMDDhhmmss"
    return f"{stem}_{when}_{number}{suffix}" if config.ring_name_time_first else f"{stem}_{number}_{when}{suffix}"


class Rotation:
    """The files of one capture, one after the other.  All times are wall-clock ns since the epoch.

    ``path`` is the file to write now.  No packet is put into it once it has ``full_bytes`` or
    ``full_packets``: the writer stops after the packet that gets it there, and asks ``decide``.
    """

    def __init__(self, config: WriteConfig, now_ns: int, path: str | None = None) -> None:
        self._config = config
        self._named_by_time = config.split_ns is not None or config.file_for_each
        self._base = config.path if path is None else path
        self._same, self._anew = 0, False  # of the files that ``name_anew`` names
        self._files = 1  # begun
        self._number = 0  # tcpdump's, of the -C files
        self._start_ns = now_ns
        self._kept: deque[str] = deque()
        limits = [config.ring_bytes, config.stop_bytes, config.split_bytes and config.split_bytes + 1]
        self.full_bytes = min((limit for limit in limits if limit), default=NO_LIMIT)
        self.full_packets = config.ring_packets or NO_LIMIT
        self._aim_at_interval(now_ns)
        self.path = self._name(now_ns)
        self._kept.append(self.path)

    @property
    def deadline_ns(self) -> int:
        """When ``decide`` may answer otherwise although no packet came; NO_LIMIT if it never will."""
        config, times = self._config, [self._interval_ns]
        if config.ring_ns:
            times.append(self._start_ns + config.ring_ns)
        return min(*times, self.split_end_ns)

    def decide(self, size: int, packets: int, now_ns: int, waiting: bool) -> Action:
        """What to do with a file that has so many bytes and packets; waiting: another packet is to be written.

        A file whose time is over is ended, packets or none; one that is full, with tcpdump's -C, when a packet waits.
        """
        config = self._config
        if config.rings:
            if now_ns < self._start_ns:  # the clock was set back: a file's time begins anew, and not when it is right
                self._start_ns = now_ns
                self._aim_at_interval(now_ns)
            limits = (config.ring_bytes, config.stop_bytes)
            full = any(limit is not None and size >= limit for limit in limits) or packets >= self.full_packets
            over = config.ring_ns is not None and now_ns - self._start_ns >= config.ring_ns
            if not (full or over or now_ns >= self._interval_ns):
                return Action.GO_ON
            return Action.STOP if config.stop_files and self._files >= config.stop_files else Action.NEXT_FILE
        if config.stop_bytes and size >= config.stop_bytes:
            return Action.STOP
        if self._split_is_over(now_ns):
            if self._last_of_split:
                return Action.STOP
            fresh = self._stem(now_ns) != self._stem(self._start_ns)  # else the next file would empty this one
            return Action.NEXT_FILE if waiting or fresh else Action.GO_ON
        if config.split_bytes and size > config.split_bytes and waiting:
            return Action.NEXT_FILE
        return Action.GO_ON

    def next_file(self, now_ns: int) -> str | None:
        """Go on to the next file, ``path``; the name of the file that leaves the ring and is to be removed."""
        config = self._config
        if config.rings:
            self._start_ns = now_ns
            self._aim_at_interval(now_ns)
        elif self._split_is_over(now_ns):
            self._start_ns = now_ns
            self._number = 0
        else:
            self._number += 1
            if config.split_files and self._number >= config.split_files:
                self._number = 0
        self._files += 1
        self.path = self._name(now_ns)
        if not config.rings:
            return None
        self._kept.append(self.path)
        return self._kept.popleft() if config.ring_files and len(self._kept) > config.ring_files else None

    def name_anew(self, now_ns: int) -> None:
        """Go on to a file that is named by this time, as it would be with -G; never to one that it named before."""
        before, self._start_ns, self._number = self._stem(self._start_ns), now_ns, 0
        self._same = self._same + 1 if self._stem(now_ns) == before and self._anew else 0
        self._anew = True
        self._files += 1
        self.path = self._name(now_ns)

    @property
    def begun(self) -> int:
        """How many files there were so far."""
        return self._files

    @property
    def _last_of_split(self) -> bool:
        """tcpdump's -W without -C counts the files of -G, and ends the capture after the last."""
        config = self._config
        return bool(config.split_files and not config.split_bytes and self._files >= config.split_files)

    @property
    def split_end_ns(self) -> int:
        """The first moment of which tcpdump's -G puts a packet into the next file; NO_LIMIT without -G."""
        split_ns = self._config.split_ns
        if not split_ns:
            return NO_LIMIT
        grain = 1 if split_ns % _SECOND_NS else _SECOND_NS  # tcpdump's clock ticks in seconds, its names too
        return self._start_ns - self._start_ns % grain + split_ns

    def _split_is_over(self, now_ns: int) -> bool:
        return now_ns >= self.split_end_ns

    def _aim_at_interval(self, now_ns: int) -> None:
        interval_ns = self._config.ring_interval_ns
        self._interval_ns = now_ns - now_ns % interval_ns + interval_ns if interval_ns else NO_LIMIT

    def _stem(self, start_ns: int) -> str:
        """tcpdump's name of the files that begin at this time, before -C's number."""
        when = time.localtime(start_ns // _SECOND_NS)
        return time.strftime(self._base, when) if self._named_by_time else self._base

    def _numbered(self, name: str) -> str:
        """Told apart from those of the same time."""
        stem, suffix = split_name(name)
        return f"{stem}_{self._same + 1}{suffix}" if self._same else name

    def _name(self, now_ns: int) -> str:
        config = self._config
        if config.rings:
            stem, suffix = split_name(self._base)
            number = f"{self._files % _NUMBERS:05}"
            when = time.strftime("%Y%m%d%H%M%S", time.localtime(now_ns // _SECOND_NS))
            parts = (when, number) if config.ring_name_time_first else (number, when)
            return f"{stem}_{parts[0]}_{parts[1]}{suffix}"
        name = self._numbered(self._stem(self._start_ns))
        if not name:
            raise UsageError(f"{self._base}: the time format gives an empty name", "see strftime(3)")
        if not config.split_bytes:
            return name
        if config.split_files:
            digits = len(str(config.split_files - 1)) if config.split_files > 1 else 0
            return f"{name}{self._number:0{digits}}" if digits else name
        return f"{name}{self._number}" if self._number else name
