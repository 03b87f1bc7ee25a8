"""Wireshark's toolbar for a capture: counters, and a log, over the control pipes of extcap(4).

A message to Wireshark is ``T``, the length of the rest in 3 bytes (big-endian), the control's number, a command, and
text. Nobody has to read them: what does not fit into the pipe is left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

CONTROLS: tuple[Mapping[str, str], ...] = (
    {"type": "string", "display": "Captured", "tooltip": "Packets that were captured"},
    {"type": "string", "display": "Dropped", "tooltip": "Packets that were dropped, by reason"},
    {"type": "button", "role": "logger", "display": "Log", "tooltip": "What WireCAP says: engine, warnings, drops"},
)
"""Their fields in the list of interfaces; they are numbered from 0."""
CAPTURED, DROPPED, LOG = range(3)
_SET, _ADD, _DISABLE = 1, 2, 5
_MOST = 4000
"""Bytes of text in a message, so that the kernel writes all of it or nothing (PIPE_BUF)."""


def message(control: int, command: int, text: str) -> bytes:
    data = bytes((control, command)) + text.encode(errors="replace")[:_MOST]
    return b"T" + len(data).to_bytes(3, "big") + data


class Toolbar:
    """Both pipes; without paths, nothing is shown.

    Opening them never waits for Wireshark, which opens them when it likes: what is written waits in the pipe.
    """

    def __init__(self, to_wireshark: str | None, from_wireshark: str | None) -> None:
        self._shown: dict[int, str] = {}
        self._out = os.open(to_wireshark, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) if to_wireshark else -1
        self._in = -1
        try:
            self._in = os.open(from_wireshark, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if from_wireshark else -1
        except OSError:
            self.close()
            raise
        for control in (CAPTURED, DROPPED):
            self._send(control, _DISABLE)  # they are shown, not typed into

    def show(self, received: int, drops: Mapping[str, int]) -> None:
        """received: packets.  drops: packets by reason."""
        lost = [f"{name.replace('_', ' ')} {number:,}" for name, number in drops.items() if number]
        self._set(CAPTURED, f"{received:,}")
        self._set(DROPPED, ", ".join(lost) or "0")
        self._drain()

    def log(self, text: str) -> None:
        self._send(LOG, _ADD, text + "\n")

    def close(self) -> None:
        for fd in (self._out, self._in):
            if fd >= 0:
                os.close(fd)
        self._out = self._in = -1

    def _set(self, control: int, text: str) -> None:
        if self._shown.get(control) != text and self._send(control, _SET, text):
            self._shown[control] = text

    def _send(self, control: int, command: int, text: str = "") -> bool:
        if self._out < 0:
            return False
        try:
            os.write(self._out, message(control, command, text))
        except OSError:  # full, as Wireshark is busy
            return False
        return True

    def _drain(self) -> None:
        """What Wireshark says of its side: nothing in it is of use here, but its pipe must not fill up."""
        with contextlib.suppress(OSError):
            while self._in >= 0 and os.read(self._in, 4096):
                pass
