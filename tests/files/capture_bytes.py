"""pcap and pcapng as the specifications have them, written with struct in either byte order."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wirecap.errors import UsageError
from wirecap.files.reader import CaptureFile, Progress, Streamed, Words, open_capture


@dataclass(frozen=True)
class Packet:
    data: bytes
    original: int
    ns: int
    interface: int = 0


def pcap(packets: list[Packet], order: str = "<", tick_ns: int = 1000, kuznetzov: bool = False, snaplen: int = 65535):
    magic = 0xA1B2CD34 if kuznetzov else {1000: 0xA1B2C3D4, 1: 0xA1B23C4D}[tick_ns]
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, 1)]
    for packet in packets:
        seconds, rest = divmod(packet.ns, 10**9)
        out.append(struct.pack(order + "IIII", seconds, rest // tick_ns, len(packet.data), packet.original))
        if kuznetzov:
            out.append(struct.pack(order + "IHBB", 7, 0x0800, 4, 0))
        out.append(packet.data)
    return b"".join(out)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    total = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + total + body + total


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<", options: bytes = b"") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1) + options)


def interface(order: str = "<", linktype: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, snaplen) + options)


def enhanced(order: str, index: int, ticks: int, data: bytes, original: int, options: bytes = b"") -> bytes:
    head = struct.pack(order + "IIIII", index, ticks >> 32 & 0xFFFFFFFF, ticks & 0xFFFFFFFF, len(data), original)
    return block(order, 6, head + data + bytes(-len(data) % 4) + options)


def obsolete(order: str, index: int, ticks: int, data: bytes, original: int) -> bytes:
    head = struct.pack(order + "HHIIII", index, 0xFFFF, ticks >> 32, ticks & 0xFFFFFFFF, len(data), original)
    return block(order, 2, head + data)


def simple(order: str, data: bytes, original: int) -> bytes:
    return block(order, 3, struct.pack(order + "I", original) + data)


class Rows:
    """A row of a descriptor table, as the engine has them."""

    def __init__(self, limit: int = 5) -> None:
        self.limit = limit
        self.address = np.zeros(limit, dtype=np.int64)
        self.captured = np.zeros(limit, dtype=np.uint32)
        self.original = np.zeros(limit, dtype=np.uint32)
        self.timestamp = np.zeros(limit, dtype=np.int64)

    def fill(self, file: CaptureFile, timeout_s: float | None = None) -> tuple[int, Progress]:
        return file.fill(self.address, self.captured, self.original, self.timestamp, self.limit, timeout_s)

    def packets(self, file: CaptureFile, n: int) -> Iterator[Packet]:
        which = int(file.state[7])
        for k in range(n):
            start = int(self.address[k])
            data = file.arena[start : start + int(self.captured[k])].tobytes()
            yield Packet(data, int(self.original[k]), int(self.timestamp[k]), which)


def take_all(file: CaptureFile, limit: int = 5) -> Iterator[Packet]:
    """Every packet, until the end or the error, which is raised after them."""
    rows = Rows(limit)
    while True:
        n, progress = rows.fill(file)
        if progress is Progress.ENDED:
            return
        yield from rows.packets(file, n)
        file.release(int(rows.address[0]))


def collect(file: CaptureFile, limit: int = 5) -> tuple[list[Packet], UsageError | None]:
    """The packets, and the error that ended them."""
    packets: list[Packet] = []
    try:
        packets.extend(take_all(file, limit))  # extend keeps what came before the error
    except UsageError as error:
        return packets, error
    return packets, None


def read(path: object, limit: int = 5) -> list[Packet]:
    with open_capture(str(path)) as file:
        return list(take_all(file, limit))


class Chopped:
    """A source that gives the bytes in pieces of the given sizes, over and over."""

    damage = ""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes, self.turn = data, sizes, 0

    def read_into(self, view: memoryview, timeout_s: float | None) -> int | None:
        size = min(self.sizes[self.turn % len(self.sizes)], len(view), len(self.data))
        self.turn += 1
        view[:size] = self.data[:size]
        self.data = self.data[size:]
        return size

    def close(self) -> None: ...


class SmallBlocks(Streamed):
    """Blocks that stay as small as they are, so that few packets fill them."""

    def enlarge(self, state: Words, block_bytes: int) -> None:
        pass


def stream(data: bytes, sizes: list[int], block_bytes: int, blocks: int = 3) -> CaptureFile:
    return CaptureFile("stream", SmallBlocks(Chopped(data, sizes), block_bytes, blocks))


def options_of(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """(code, value) of a block's options."""
    found, at = [], 0
    while at < len(data):
        code, length = struct.unpack_from(order + "HH", data, at)
        if code == 0:
            break
        found.append((code, data[at + 4 : at + 4 + length]))
        at += 4 + length + -length % 4
    return found
