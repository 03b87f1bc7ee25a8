"""A pcap file that is written packet by packet."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from wirecap.compat.handle import DLT_TO_LINKTYPE, HandleError
from wirecap.errors import UsageError
from wirecap.files.headers import pcap_header
from wirecap.files.targets import Plain, Target
from wirecap.files.writer import open_target

AT_ONCE = 1 << 20
"""Bytes that are written together."""

_RECORD = struct.Struct("<IIII")


class PcapFile:
    """A new pcap file, or (``append``) what follows in one.  Raises HandleError where something fails."""

    def __init__(
        self, path: str, dlt: int, snaplen: int, nanoseconds: bool = False, append: bool = False
    ) -> None:  # fmt: skip
        self.path, self.tick_ns = path, 1 if nanoseconds else 1000
        header = pcap_header(snaplen, DLT_TO_LINKTYPE.get(dlt, dlt), nanoseconds)
        self._target: Target
        try:
            if append and Path(path).exists() and Path(path).stat().st_size:
                self._target, header = _behind(path, header), b""
            else:
                self._target = open_target(path, direct=False)
        except UsageError as error:
            raise HandleError(error.message, error.hint) from None
        self._waiting = bytearray(header)
        self._failure = ""
        self.closed = False

    def write(self, seconds: int, fraction: int, captured: int, original: int, data: bytes) -> None:
        """A record of ``captured`` bytes, of fewer if ``data`` has no more; fraction: in the file's unit."""
        self._check()
        data = data[:captured]
        self._waiting += _RECORD.pack(seconds & 0xFFFFFFFF, fraction, len(data), original)
        self._waiting += data
        if len(self._waiting) > AT_ONCE:
            self.flush()

    def flush(self) -> None:
        self._check()
        waiting, self._waiting = self._waiting, bytearray()
        try:
            self._target.write(memoryview(waiting))
        except OSError as error:
            self._failure = f"{self.path}: {error.strerror}"
            self._check()

    def _check(self) -> None:
        """Nothing goes behind a record that is cut: what follows could not be read."""
        if self._failure:
            raise HandleError(self._failure)

    @property
    def size(self) -> int:
        """Bytes so far, written or not."""
        return self._target.written + len(self._waiting)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            try:
                if not self._failure:  # which was told
                    self.flush()
            finally:
                self._target.close()


def _behind(path: str, header: bytes) -> Target:
    """The end of a file that begins with this header."""
    with Path(path).open("rb") as file:
        if file.read(len(header)) != header:
            raise HandleError(f"{path}: not a pcap file of this link type, snap length and precision")
    target = Plain(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
    target.written = Path(path).stat().st_size
    return target
