"""The index beside a capture file: making it, while the file is written or later, and reading it.

docs/find.md has the format.  A file ``x.pcapng`` has its index in ``x.pcapng.wcidx``.  What follows the last indexed
block, and what is no packet, is always read.  An index without its end is none: whoever made it did not finish.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import secrets
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.files.reader import CaptureFile, Progress
from wirecap.files.rotation import INDEX_SUFFIX
from wirecap.files.shared import open_for_writing
from wirecap.kernels.file import index as k
from wirecap.kernels.file import read as at
from wirecap.version import __version__

VERSION = 1
MAGIC, END_MAGIC = b"wirecap index\r\n\0", b"WCIDXEND"
SEGMENT_BLOCKS = 1024
FEWEST_WORDS, FULLEST = 4, 0.25
"""Of a block's terms: the least words, and the share of bits that may be set: one block in 250 then seems to have a
term that it has not."""
SAMPLE_BYTES = 4096
"""Of the capture file's start and of its end, by which an index knows its file."""
MOST_ALWAYS = 1000
MOST_COVERED = 1 << 62
CHANGED = "its index is of another file, or the file was changed"
_OF_SEGMENT = ("at", "blocks", "words", "crc")

Ranges = list[tuple[int, int]]


def index_path(path: str) -> str:
    return path + INDEX_SUFFIX


def sample(fd: int, size: int) -> dict[str, Any]:
    """By what an index knows its file."""
    head, tail = ends_of(lambda begin, end: os.pread(fd, end - begin, begin), size)
    return {"size": size, "head": head, "tail": tail}


def identity_of(fd: int) -> dict[str, Any]:
    """What an index says of its file, an open one."""
    status = os.fstat(fd)
    return {**sample(fd, status.st_size), "mtime_ns": status.st_mtime_ns}


def ends_of(read: Callable[[int, int], bytes], size: int) -> tuple[str, str]:
    """(head, tail): what the first and the last bytes are known by.  read: gets the bytes between two offsets."""
    places = (0, min(SAMPLE_BYTES, size)), (max(0, size - SAMPLE_BYTES), size)
    head, tail = (blake2b(read(begin, end), digest_size=8).hexdigest() for begin, end in places)
    return head, tail


class Builder:
    """Indexes the packets of ``file`` into a new file, which gets its name, ``path``, when it is complete.

    What has that name until then stays as it is, and nothing is written to what a link of that name points to.
    """

    def __init__(self, file: CaptureFile, path: str, block_bytes: int = k.BLOCK_BYTES) -> None:
        """Raises OSError if the file cannot be made."""
        self.file, self.path = file, path
        file.keep_blocks()
        file.descriptions.clear()
        file.state[at.MIXED] = 1
        self._blocks = k.new_blocks(SEGMENT_BLOCKS, file.offset, block_bytes)
        self._row = (
            np.zeros(k.ROW, np.int64), np.zeros(k.ROW, np.uint32), np.zeros(k.ROW, np.uint32), np.zeros(k.ROW, np.int64)
        )  # fmt: skip
        self._always: Ranges = []
        self._segments: list[dict[str, int]] = []
        self._bounds: list[tuple[int, int]] = []
        self.packets = 0
        self._unfinished, self._out = _new_file(path)
        self._out.write(MAGIC)

    def take(self, timeout_s: float | None = 0) -> Progress:
        """Index what can be read now.  Raises UsageError where the file is damaged, and OSError."""
        file, blocks = self.file, self._blocks
        while True:
            done = int(k.index_records(file.arena, file.state, file.table, *self._row, blocks))
            if done == SEGMENT_BLOCKS:
                self._end_segment(done)
                continue
            described = file.state[at.STOP] == at.DESCRIPTION
            begin = file.offset
            progress = file.advance(timeout_s)
            if described and file.offset > begin:
                file.descriptions.clear()
                self._read_always(begin, file.offset)
            if progress is not Progress.READY:
                return progress

    def _read_always(self, begin: int, end: int) -> None:
        if self._always and (self._always[-1][1] == begin or len(self._always) >= MOST_ALWAYS):
            begin = self._always.pop()[0]
        self._always.append((begin, end))

    def _end_segment(self, count: int) -> None:
        """Write the blocks that are complete, column by column."""
        blocks = self._blocks
        terms = folded(blocks.terms[:count].view(np.uint64))
        columns = [blocks.start[: count + 1], *(c[:count] for c in (blocks.first_ns, blocks.last_ns, blocks.packets))]
        rows = [row.tobytes() for row in terms.T]
        head = b"".join(column.tobytes() for column in columns)
        head += np.array([zlib.crc32(row) for row in rows], np.uint32).tobytes()
        place = self._out.tell()
        self._segments.append(
            {"at": place, "blocks": count, "words": terms.shape[1], "crc": zlib.crc32(head)}
        )  # fmt: skip
        self._out.write(b"".join([head, *rows]))
        self._bounds.append((int(blocks.first_ns[:count].min()), int(blocks.last_ns[:count].max())))
        self.packets += int(blocks.packets[:count].sum())
        blocks.start[0] = blocks.start[count]
        blocks.first_ns[:], blocks.last_ns[:], blocks.packets[:], blocks.terms[:] = at.LATEST_NS, -at.LATEST_NS, 0, 0
        blocks.counts[k.CURRENT] = 0

    def finish(self, identity: dict[str, Any], frames: Ranges | None = None) -> None:
        """Write the end.  identity: the file's; frames: (offset in the stream, in the file) of what can be decompressed
        by itself.

        Raises OSError; then there is to be no index.
        """
        covered = self.file.offset
        if count := int(k.end_early(self._blocks, covered)):
            self._end_segment(count)
        first = min((first for first, _ in self._bounds), default=at.LATEST_NS)
        last = max((last for _, last in self._bounds), default=-at.LATEST_NS)
        described = {
            "version": VERSION, "wirecap": __version__, **identity,
            "covered": covered, "packets": self.packets, "first_ns": first, "last_ns": last,
            "linktypes": sorted({interface.dlt for interface in self.file.interfaces}),
            "always": self._always, "frames": frames or [], "segments": self._segments,
        }  # fmt: skip
        end = json.dumps(described, separators=(",", ":")).encode()
        sizes = np.array([len(end), zlib.crc32(end)], np.uint32).tobytes()
        self._out.write(end + sizes + END_MAGIC)
        try:
            self._out.close()
            self._unfinished.replace(self.path)
        except OSError as error:
            error.filename = self.path
            raise

    def abandon(self) -> None:
        """There will be no index of this making."""
        for end in (self._out.close, self._unfinished.unlink):
            with contextlib.suppress(OSError):  # a full disk; one that was never there
                end()


def _new_file(path: str) -> tuple[Path, BinaryIO]:
    """A file beside path that nobody else has, and its name, which folders of capture files do not show either.

    Raises OSError with path for its name.
    """
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        beside = Path(f"{path.removesuffix(INDEX_SUFFIX)}.{secrets.token_hex(4)}{INDEX_SUFFIX}")
        fd = open_for_writing(beside, os.O_EXCL | os.O_NOFOLLOW)
    except OSError as error:
        error.filename = path
        raise
    return beside, os.fdopen(fd, "wb")


def folded(terms: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Terms (n, words) in as few words as leave them room: halves are laid over each other."""
    while terms.shape[1] > FEWEST_WORDS:
        half: NDArray[np.uint64] = terms[:, 0::2] | terms[:, 1::2]
        if np.bitwise_count(half).sum() > FULLEST * 64 * half.size:
            break
        terms = half
    return terms


class StaleError(Exception):
    """An index that is not to be used; the message says why, behind the name of its file."""

    remedy = "makes a new one"
    """What 'wirecap index' does about it, "": nothing."""


class UnreadableError(StaleError):
    """An index is there, and cannot be read."""

    remedy = ""


class UnfinishedError(StaleError):
    """An index without its end."""

    remedy = "makes a new one, once nothing writes the file"


@dataclass(frozen=True)
class Segment:
    """Blocks in a row: ``start`` int64 (n + 1,), offsets in the stream, ``first_ns`` and ``last_ns`` int64 (n,)."""

    start: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    packets: NDArray[np.int64]
    sums: NDArray[np.uint32]
    """CRC-32 of each row of terms."""
    place: int
    """Where in the index the terms are, uint64 (words, n): word by word, so that looking for a term reads one row."""


def is_rising(places: list[int], most: int) -> bool:
    """Whether none is less than the one before it, nor negative, nor more than ``most``."""
    return all(one <= other for one, other in pairwise([0, *places, most]))


class Pages(Protocol):
    """The bytes of an index."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: slice, /) -> bytes: ...


class Index:
    """The index of a capture file; ``bytes_read`` of it so far."""

    def __init__(self, path: str, pages: Pages | None = None, size: int = 0) -> None:
        """path: of the capture file.  pages: of its index, if the file is behind a URL and has ``size`` bytes; whoever
        reads that compares ``ends``.

        Raises FileNotFoundError without one, StaleError for one that is of no use.
        """
        self.path = path
        self.pages = _pages_of(index_path(path)) if pages is None else pages
        self.bytes_read = 0
        self.size = len(self.pages)
        end = self._end()
        try:
            if pages is None:
                self._check(end)
            elif end["size"] != size:
                raise StaleError(CHANGED)
            self.ends = str(end["head"]), str(end["tail"])
            self.mtime_ns = int(end["mtime_ns"])
            self.covered, self.packets = int(end["covered"]), int(end["packets"])
            self.first_ns, self.last_ns = int(end["first_ns"]), int(end["last_ns"])
            self.linktypes: list[int] = [int(one) for one in end["linktypes"]]
            self.always: Ranges = [(int(begin), int(until)) for begin, until in end["always"]]
            self.frames: Ranges = [(int(one), int(other)) for one, other in end["frames"]]
            self.capture_bytes = int(end["size"])
            self._described = [{name: int(one[name]) for name in _OF_SEGMENT} for one in end["segments"]]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StaleError("its index is damaged") from None
        self._check_places()

    def _check_places(self) -> None:
        """Raise StaleError for places that no file can have: sums show damage, and not who made the index."""
        streams, files = (list(column) for column in zip(*self.frames, strict=True)) if self.frames else ([], [])
        always = [place for stretch in self.always for place in stretch]
        fits = self.covered <= MOST_COVERED and is_rising(always, self.covered) and is_rising(streams, self.covered)
        fits = fits and is_rising(files, self.capture_bytes) and streams[:1] in ([], [0])
        if not fits or not all(0 <= one < 1 << 32 for one in self.linktypes):
            raise StaleError("its index is damaged")

    def _take(self, begin: int, size: int) -> bytes:
        self.bytes_read += size
        return bytes(self.pages[begin : begin + size])

    def _end(self) -> dict[str, Any]:
        tail = self._take(max(0, self.size - 16), 16)
        if len(tail) < 16 or not tail.endswith(END_MAGIC):
            if MAGIC.startswith(self._take(0, 16)):
                raise UnfinishedError("its index is not complete: its writer is still at work, or was killed")
            raise StaleError("its index is damaged")
        length, crc = np.frombuffer(tail[:8], np.uint32).tolist()
        data = self._take(max(0, self.size - 16 - length), length)
        if zlib.crc32(data) != crc:
            raise StaleError("its index is damaged")
        try:
            end = json.loads(data)
            version = end["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise StaleError("its index is damaged") from None
        if version != VERSION:
            raise StaleError(f"its index has version {version}, and this wirecap reads {VERSION}")
        return end  # type: ignore[no-any-return]

    def _check(self, end: dict[str, Any]) -> None:
        """Whether it is the file's, as it was when the index was made."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            now = sample(fd, status.st_size)
        finally:
            os.close(fd)
        if any(end[name] != value for name, value in now.items()):
            raise StaleError(CHANGED)
        if status.st_mtime_ns != end["mtime_ns"]:
            raise StaleError("the file was changed since its index was made, or copied without its time")

    def segments(self) -> list[Segment]:
        """All of them; terms stay in the file until they are looked at.  Raises StaleError for damage."""
        found = []
        for one in self._described:
            place, n, words, crc = one["at"], one["blocks"], one["words"], one["crc"]
            size = 8 * (4 * n + 1) + 4 * words
            if place < 0 or n < 0 or not 1 <= words <= k.FILTER_WORDS:
                raise StaleError("its index is damaged")
            head = self._take(place, size)
            if len(head) != size or zlib.crc32(head) != crc or place + size + 8 * n * words > self.size:
                raise StaleError("its index is damaged")
            numbers = np.frombuffer(head, np.int64, 4 * n + 1)
            start, first, last, packets = np.split(numbers, [n + 1, 2 * n + 1, 3 * n + 1])
            if start[0] < 0 or start[-1] > self.covered or (np.diff(start) < 0).any():
                raise StaleError("its index is damaged")
            sums = np.frombuffer(head, np.uint32, words, 8 * (4 * n + 1))
            found.append(Segment(start, first, last, packets, sums, place + size))
        return found

    def has(self, segment: Segment, hashed: int) -> NDArray[np.bool_]:
        """Which of the blocks may have the term of a hash.  Raises StaleError for damage."""
        words = len(segment.sums)
        word = (hashed >> 24) * words // k.FILTER_WORDS
        row = self._row(segment, word)
        bits = 0
        for shift in (0, 6, 12, 18):
            bits |= 1 << (hashed >> shift & 63)
        wanted = np.uint64(bits)
        found: NDArray[np.bool_] = row & wanted == wanted
        return found

    def _row(self, segment: Segment, word: int) -> NDArray[np.uint64]:
        size = 8 * len(segment.packets)
        row = self._take(segment.place + word * size, size)
        if len(row) != size or zlib.crc32(row) != segment.sums[word]:
            raise StaleError("its index is damaged")
        return np.frombuffer(row, np.uint64)

    def terms(self, segment: Segment) -> NDArray[np.uint64]:
        """Those of each block, (n, words).  Raises StaleError for damage."""
        return np.stack([self._row(segment, word) for word in range(len(segment.sums))], axis=1)


def _pages_of(path: str) -> mmap.mmap | bytes:
    """An index file's bytes.  Raises FileNotFoundError without one, UnreadableError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnreadableError(f"its index {path} is not a file")
            return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        except ValueError:
            return b""
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(f"its index {path} cannot be read: {os.strerror(error.errno or 0)}") from None


def make_index(file: CaptureFile, path: str, block_bytes: int = k.BLOCK_BYTES) -> tuple[int, str]:
    """Index an opened capture file, path; returns the number of packets, and what is damaged behind them, or "".

    That is left out: whoever looks for packets reads it, and is told.
    Raises OSError if the index cannot be written.
    """

    def identity() -> dict[str, Any]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return identity_of(fd)
        finally:
            os.close(fd)

    return index_into(index_path(path), file, identity, block_bytes)


def index_into(
    target: str, file: CaptureFile, identity: Callable[[], dict[str, Any]], block_bytes: int = k.BLOCK_BYTES
) -> tuple[int, str]:
    """As ``make_index``, into any file.  identity: what is said of the capture file, as ``identity_of`` has it."""
    builder, damage = Builder(file, target, block_bytes), ""
    try:
        try:
            while builder.take(None) is not Progress.ENDED:
                pass
        except UsageError as error:
            damage = error.message
        builder.finish(identity())
    except BaseException:
        builder.abandon()
        raise
    return builder.packets, damage
