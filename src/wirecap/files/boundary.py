"""Where a record begins, inside a capture file: a place from which many records follow each other.

It is a guess, which packets that carry capture files can mislead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from wirecap.files.reader import CaptureFile
from wirecap.kernels.file import read as at

Bytes = npt.NDArray[np.uint8]
Read = Callable[[int, int], Bytes]
"""Gets two offsets; returns the bytes between them."""

WINDOWS = (1 << 16, 1 << 18, 1 << 21, 1 << 24)
"""Bytes that are looked at, more of them each time."""
ENOUGH, FEW = 64, 4
"""Records that follow each other, and so many if there is no room for more, but for the first window."""
TIME_S = 1 << 25
"""No packet is further from the first one of a pcap file than this, for finding the place."""


def first_record(file: CaptureFile, read: Read, begin: int, end: int, size: int) -> int | None:
    """The offset from begin on, and before end, at which a record most likely begins; None if none is found.

    file: open, with its header read.  size: bytes of the file.
    """
    pcapng = file.kind == "pcapng"
    begin += -begin % 4 if pcapng else 0  # blocks are padded to 32 bits
    first_s = 0 if pcapng else _first_second(file, read)
    for window in WINDOWS:
        stop = min(size, begin + window)
        data = np.ascontiguousarray(read(begin, stop))
        few = ENOUGH if window == WINDOWS[0] else FEW
        found = _block(file, data, stop == size, few) if pcapng else _packet(file, data, stop == size, few, first_s)
        if found is not None:
            return begin + found if begin + found < end else None
        if stop == size:
            return None
    return None


def _order(file: CaptureFile) -> str:
    return ">u4" if file.state[at.SWAPPED] else "<u4"


def _first_second(file: CaptureFile, read: Read) -> int:
    return int.from_bytes(read(24, 28).tobytes(), "big" if file.state[at.SWAPPED] else "little")


def _packet(file: CaptureFile, data: Bytes, whole: bool, few: int, first_s: int) -> int | None:
    """A packet header of pcap; whole: the data go up to the file's end; few: as in FEW."""
    header, count = int(file.state[at.HEADER]), data.size - 15
    if count < 1:
        return None
    words = np.ndarray((data.size - 3,), _order(file), data, strides=(1,)).astype(np.int64)
    second, fraction, length, wire = (words[at_ : at_ + count] for at_ in (0, 4, 8, 12))
    if file.state[at.LENGTHS] != at.CAPTURED_FIRST:
        length, wire = np.minimum(length, wire), np.maximum(length, wire)
    parts = 10 ** int(file.table[at.EXPONENT])
    fits = (np.abs(second - first_s) < TIME_S) & (fraction < parts)
    fits &= (length <= file.table[at.LARGEST]) & (length <= wire)
    return _follow(fits, length + header, data.size, whole, few)


def _block(file: CaptureFile, data: Bytes, whole: bool, few: int) -> int | None:
    """A block of pcapng."""
    words = data[: data.size // 4 * 4].view(_order(file)).astype(np.int64)
    count = words.size - 2
    if count < 1:
        return None
    total = words[1 : count + 1]
    fits = (total >= 12) & (total % 4 == 0) & (total <= file.state[at.LONGEST_BLOCK])
    last = np.arange(count) + total // 4 - 1
    inside = fits & (last < words.size)
    fits[inside] = words[last[inside]] == total[inside]
    fits &= inside | (last >= words.size)
    found = _follow(fits, total // 4, words.size, whole, few)
    return None if found is None else 4 * found


def _follow(fits: npt.NDArray[np.bool_], length: npt.NDArray[np.int64], size: int, whole: bool, few: int) -> int | None:
    """The first place from which fitting records follow each other; length: where the next one is from each."""
    for candidate in np.flatnonzero(fits).tolist():
        place, records = candidate, 0
        while place < fits.size and fits[place] and records < ENOUGH:
            place += int(length[place])
            records += 1
        beyond = place >= fits.size and (not whole or place == size)
        if records == ENOUGH or (beyond and (records >= few or (whole and records > 0))):
            return int(candidate)
    return None
