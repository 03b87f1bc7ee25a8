"""On which of two interfaces a recorded packet goes: by tcpprep's cache file, by direction, interface or flow."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.files.reader import CaptureFile
from wirecap.kernels.file import read as at
from wirecap.kernels.transmit import split as k
from wirecap.traffic.conversion import Rows

Words = NDArray[np.int64]
FIRST, SECOND, UNDECIDED = k.FIRST, k.SECOND, k.UNDECIDED
SKIPPED = -2
"""What a packet's place is if it is not sent; ``Split.skipped`` says why."""


class Split(Protocol):
    """A rule.  Places are FIRST for ``-i``, SECOND for ``-I``."""

    skipped: str
    """Why a packet is SKIPPED."""
    one_sided: str
    """What to note if all packets have the same place; '' if there is nothing to say."""

    def kernels(self) -> list[Any]: ...

    def begin(self, path: str) -> None:
        """A file begins."""
        ...

    def by_block(self, file: CaptureFile, rows: Rows) -> Words:
        """The places of packets, int64 (n,), by what the file says of them; may be UNDECIDED."""
        ...

    def by_frame(self, rows: Rows, link: int) -> None:
        """Decide those that are UNDECIDED, by their bytes, of link type 1 or 101."""
        ...


_MAGIC, _VERSION = b"tcpprep\0", b"04"
_HEADER = struct.Struct("!8s4sQHH")  # magic, version, packets, packets in a byte, bytes of the comment
_HINT = "tcpprep -i FILE -o CACHE makes one"


class ByCache:
    """tcpprep's cache file: two bits for each packet, from the lowest on: to the primary interface, and to send it."""

    skipped, one_sided = "left out by the cache file", ""

    def __init__(self, path: str) -> None:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}", _HINT) from None
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise UsageError(f"{path}: not a cache file of tcpprep", _HINT)
        _, version, packets, per_byte, comment = _HEADER.unpack_from(data)
        if version.rstrip(b"\0") != _VERSION or per_byte != 4:
            raise UsageError(f"{path}: a cache file of version {version.rstrip(bytes(1)).decode('ascii', 'replace')}",
                             "version 04 is read, as tcpprep 4 writes it")  # fmt: skip
        bits = np.frombuffer(data, np.uint8)[_HEADER.size + comment :]
        if bits.size * per_byte < packets:
            raise UsageError(f"{path}: cut off: {bits.size * per_byte} of {packets} packets", _HINT)
        pairs = (bits[:, None] >> np.arange(0, 8, 2) & 3).reshape(-1)[:packets]
        self._places = np.where(pairs & 2, np.where(pairs & 1, FIRST, SECOND), SKIPPED).astype(np.int64)
        self._path, self._done = path, 0

    def kernels(self) -> list[Any]:
        return []

    def begin(self, path: str) -> None:
        self._done = 0

    def by_block(self, file: CaptureFile, rows: Rows) -> Words:
        first, self._done = self._done, self._done + rows.n
        if self._done > len(self._places):
            raise UsageError(
                f"{self._path} has {len(self._places)} packets, and {file.path} has more",
                "tcpprep has to be given the same file",
            )
        return self._places[first : self._done].copy()

    def by_frame(self, rows: Rows, link: int) -> None: ...


class ByInterface:
    """The interface that recorded it: the file's first one to ``-i``, its second one to ``-I``."""

    skipped = "of a third interface in the file"
    one_sided = "on one side: there are none of another interface in the file"

    def kernels(self) -> list[Any]:
        return [k.by_interface]

    def begin(self, path: str) -> None: ...

    def by_block(self, file: CaptureFile, rows: Rows) -> Words:
        if file.kind != "pcapng":
            raise UsageError(f"{file.path}: only pcapng files say which interface recorded a packet",
                             "use --split-by flow")  # fmt: skip
        places = np.zeros(rows.n, np.int64)
        k.by_interface(rows.arena, rows.address, rows.captured, rows.n, file.state[at.SWAPPED], places)
        return np.where(places > SECOND, SKIPPED, places)

    def by_frame(self, rows: Rows, link: int) -> None: ...


class ByDirection:
    """The recorded direction, of pcapng's epb_flags or a cooked header: incoming to ``-i``, outgoing to ``-I``."""

    skipped, one_sided = "without a direction in the file", ""

    def kernels(self) -> list[Any]:
        return [k.by_direction]

    def begin(self, path: str) -> None: ...

    def by_block(self, file: CaptureFile, rows: Rows) -> Words:
        places = _directions(file, rows)
        return np.where(places == UNDECIDED, SKIPPED, places)

    def by_frame(self, rows: Rows, link: int) -> None: ...


class ByFlow:
    """Packets from the client of their flow to ``-i``, those from its server to ``-I``, what is not IP to ``-i``.

    The client is who sent the flow's first packet in the file; with TCP, who sent the last SYN.  directions: a packet
    whose direction is recorded goes by that.
    """

    skipped = one_sided = ""
    FIRST_ENTRIES = 1 << 14

    def __init__(self, directions: bool = False) -> None:
        self._directions = directions
        self.begin("")

    def kernels(self) -> list[Any]:
        return [k.by_flow, k.regrow, *([k.by_direction] if self._directions else [])]

    def begin(self, path: str) -> None:
        self._table, self._used = np.zeros(self.FIRST_ENTRIES, np.int64), np.zeros(1, np.int64)

    def by_block(self, file: CaptureFile, rows: Rows) -> Words:
        return _directions(file, rows) if self._directions else np.full(rows.n, UNDECIDED, np.int64)

    def by_frame(self, rows: Rows, link: int) -> None:
        done = 0
        while done < rows.n:
            done = int(k.by_flow(rows.arena, rows.address, rows.captured, done, rows.n, link, self._table, self._used,
                                 rows.queue))  # fmt: skip
            if done < rows.n:
                larger = np.zeros(4 * len(self._table), np.int64)
                k.regrow(self._table, larger)
                self._table = larger


def _directions(file: CaptureFile, rows: Rows) -> Words:
    places = np.empty(rows.n, np.int64)
    link = file.interfaces[int(file.state[at.INTERFACE])].linktype
    k.by_direction(
        rows.arena, rows.address, rows.captured, rows.n, file.kind == "pcapng", file.state[at.SWAPPED], link, places
    )
    return places


RULES = ("direction", "flow", "interface")


def rule(name: str | None, cache: str | None) -> Split:
    """The rule of this name; None: the recorded direction, and the flow where there is none."""
    if cache:
        return ByCache(cache)
    if name == "interface":
        return ByInterface()
    return ByDirection() if name == "direction" else ByFlow(directions=name is None)
