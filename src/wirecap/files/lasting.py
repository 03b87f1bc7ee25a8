"""A stream that outlasts its connection: where that ends, another one may go on in its place, from its beginning."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from wirecap.errors import WirecapError
from wirecap.files.headers import PCAP_HEADER_BYTES
from wirecap.files.reader import Progress, Streamed
from wirecap.files.remote import Stream, unreachable
from wirecap.kernels.file import read as at

if TYPE_CHECKING:
    from wirecap.config.serve import Remote
    from wirecap.files.reader import Words

CONNECT_S = 2.0
"""How long a connection may take that is tried while others wait."""
HEAD_S = 30.0
"""How long a server may take until it has said how its stream begins: filters are compiled first."""
RETRY_S = 1.0


class Lasting(Streamed):
    """lasts: from now on a connection that ends is no end; the packet in which it broke off is left out."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.lasts = self.away = False
        self.ended = 0
        """How many connections have ended so far."""
        self._next: Stream | None = None

    def join(self, stream: Stream) -> None:
        """Go on with another stream, from the next ``refill`` on."""
        self._next = stream
        self.away = False

    def refill(self, state: Words, timeout_s: float | None) -> Progress:
        if self._next:
            self._source, self._next = self._next, None
        elif self.away:
            time.sleep(timeout_s or 0)
            return Progress.IDLE
        try:
            progress = super().refill(state, timeout_s)
        except OSError:
            if not self.lasts:
                raise
            return self._leave(state)
        return self._leave(state) if self.lasts and state[at.FINAL] else progress

    def _leave(self, state: Words) -> Progress:
        self._source.close()
        self._skip = 0
        state[at.END], state[at.FINAL] = state[at.POSITION], 0  # whole records have been scanned before this
        self.ended += 1
        self.away = True
        return Progress.IDLE

    def close(self) -> None:
        super().close()
        if self._next:
            self._next.close()


class Return:
    """Looks for a server that went away.  head: how its stream began before; filter: what was asked for."""

    def __init__(self, remote: Remote, filter: str, head: bytes) -> None:
        self._remote, self._filter, self._head = remote, filter, head
        self._stream: Stream | None = None
        self._try_at = self._begun = 0.0

    def look(self) -> Stream | None:
        """A stream that has begun, if there is one by now.  Raises WirecapError if there is none to be had yet."""
        now = time.monotonic()
        if now < self._try_at:
            return None
        try:
            if self._stream is None:
                self._stream, self._begun = Stream(self._remote, self._filter, CONNECT_S), now
            if not self._stream.has(PCAP_HEADER_BYTES):
                if now - self._begun > HEAD_S:
                    raise TimeoutError
                return None
            self._check(self._stream)
        except OSError as error:
            self._give_up()
            raise unreachable(self._remote, error) from None
        except WirecapError:
            self._give_up()
            raise
        stream, self._stream = self._stream, None
        return stream

    def _check(self, stream: Stream) -> None:
        """A section of pcapng describes itself; a pcap file goes on if it is of the same kind."""
        pcapng = self._head[:4] == b"\n\r\r\n"
        if self._head[:4] != stream.first[:4] or not (pcapng or self._head[20:] == stream.first[20:PCAP_HEADER_BYTES]):
            raise WirecapError(f"{self._remote}: it sends another format than before", "begin a new capture")
        if not pcapng:
            del stream.first[:PCAP_HEADER_BYTES]

    def _give_up(self) -> None:
        self.close()
        self._try_at = time.monotonic() + RETRY_S

    def close(self) -> None:
        if self._stream:
            self._stream.close()
        self._stream = None


def head_of(arena: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bytes:
    """How the stream began that has just been opened."""
    return arena[:PCAP_HEADER_BYTES].tobytes()
