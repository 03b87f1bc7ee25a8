"""Whether a folder takes packets at a rate: they are written as a capture writes them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.files.buffers import Buffers
from wirecap.files.writer import Sink
from wirecap.kernels.file.write import PCAPNG_NS
from wirecap.units import format_size

PACKET_BYTES = 500
"""The packets' length, without frame check sequence: about the mean of the traffic of backbones."""
WIRE_BYTES, BLOCK_BYTES = PACKET_BYTES + 24, PACKET_BYTES + 32
"""What each takes on an Ethernet wire, with preamble, frame check sequence and gap; and in a pcapng file."""
FILE_BYTES, LEAST_FILE_BYTES = 1 << 30, 32 << 20
STEP_S = 0.05


@dataclass(frozen=True)
class DiskSpeed:
    """What came of it.

    wanted: bytes per second of a file at the link's rate, 0 for as fast as the folder takes them.  written, lost:
    bytes.  backlog: the most bytes that waited at once.  wait_s: the longest time without a free buffer.
    """

    wanted: int
    seconds: float
    written: int
    lost: int
    backlog: int
    wait_s: float

    @property
    def per_second(self) -> int:
        return int(self.written / self.seconds) if self.seconds else 0


def file_rate(rate_bps: int) -> int:
    """Bytes per second of a file that a full link of this rate makes."""
    return rate_bps * BLOCK_BYTES // (8 * WIRE_BYTES)


def link_rate(per_second: int) -> int:
    """The reverse: bits per second of a link whose packets make so many bytes per second."""
    return per_second * 8 * WIRE_BYTES // BLOCK_BYTES


def measure(
    folder: Path, wanted: int, seconds: float, pool_bytes: int, tell: Callable[[float, int], None] = lambda s, n: None
) -> DiskSpeed:
    """Write files into the folder for so many seconds, and remove them; two of them are there at once.

    wanted: bytes per second, 0 for as fast as it goes.  pool_bytes: what a capture's pool holds while a disk is slow;
    what is behind by more is lost.  tell gets the seconds gone and the bytes written.  Raises UsageError if the folder
    cannot be written to or has no room, SinkError if writing fails.
    """
    files = _Files(folder, seconds * wanted)
    try:
        return _write(files, wanted, seconds, pool_bytes, tell)
    finally:
        files.remove()


class _Files:
    """The files, each followed by the next when it is full, while the one before it goes."""

    def __init__(self, folder: Path, expected: float) -> None:
        self._folder, self._number = folder, 0
        self._paths: list[tuple[Path, Sink]] = []
        self.buffers = Buffers()
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise UsageError(f"{folder}: {reason}", "name a folder that exists") from None
        if not folder.is_dir():
            raise UsageError(f"{folder}: not a folder", "name the folder into which captures are written")
        self._size = min(FILE_BYTES, free // 4)
        if self._size < LEAST_FILE_BYTES and expected + self.buffers.size > free:
            raise UsageError(
                f"{folder}: only {format_size(free)} free", f"make room for {format_size(4 * LEAST_FILE_BYTES)}"
            )

    def sink(self) -> Sink:
        """What is to be written to now."""
        if not self._paths or self._paths[-1][1].size >= self._size:
            self._next()
        return self._paths[-1][1]

    def _next(self) -> None:
        if self._paths:
            self._paths[-1][1].finish()
        while len(self._paths) > 1:
            path, sink = self._paths.pop(0)
            sink.close()
            path.unlink()
        path = self._folder / f".wirecap-doctor-{os.getpid()}-{self._number}.pcapng"
        self._number += 1
        if os.path.lexists(path):
            raise UsageError(f"{path} already exists", "remove it")
        header = headers.section_header("wirecap doctor") + headers.interface_description("", PACKET_BYTES)
        self._paths.append((path, Sink(str(path), header, PCAPNG_NS, self.buffers)))

    def close(self) -> None:
        for _, sink in self._paths:
            sink.close()

    def remove(self) -> None:
        for path, sink in self._paths:
            with suppress(Exception):  # what it says was said by the call that failed
                sink.close()
            with suppress(OSError):
                path.unlink()


def _packets(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """As many packets as fit, as they stand in a file, of bytes that nothing compresses."""
    blocks = size // BLOCK_BYTES
    data = np.random.default_rng(1).integers(0, 256, (blocks, BLOCK_BYTES), dtype=np.uint8)
    first = np.array([6, BLOCK_BYTES, 0, 0, 0, PACKET_BYTES, PACKET_BYTES], np.uint32)
    data[:, :28] = first.view(np.uint8)
    data[:, -4:] = first[1:2].view(np.uint8)
    return data.reshape(-1)


def _write(
    files: _Files, wanted: int, seconds: float, pool_bytes: int, tell: Callable[[float, int], None]
) -> DiskSpeed:
    block = _packets(files.buffers.size - (64 << 10))
    sent = lost = most = 0
    longest = 0.0
    begun = told = time.monotonic()
    end = begun + seconds
    files.sink()
    while (now := time.monotonic()) < end:
        if now - told > 1:
            told = now
            tell(now - begun, sent)
        behind = int((now - begun) * wanted) - sent - lost
        most = max(most, behind)
        if behind > pool_bytes + len(block):
            lost += behind - pool_bytes - len(block)
        elif wanted and behind < len(block):
            time.sleep(min((len(block) - behind) / wanted, STEP_S, end - now))
            continue
        sink = files.sink()
        buffer = sink.acquire(STEP_S)
        waited = time.monotonic() - now
        while buffer is None and time.monotonic() < end:
            buffer = sink.acquire(STEP_S)
            waited = time.monotonic() - now
        longest = max(longest, waited)
        if buffer is None:
            break
        buffer.bytes[buffer.start : buffer.start + len(block)] = block
        sink.submit(buffer, buffer.start + len(block), len(block) // BLOCK_BYTES)
        sent += len(block)
    files.close()
    gone = time.monotonic() - begun
    behind = int(seconds * wanted) - sent - lost
    if behind > pool_bytes + len(block):
        lost += behind - pool_bytes - len(block)
    return DiskSpeed(wanted, gone, sent, lost, most, longest)
