"""One live line on a terminal while a capture runs, and plain lines above it."""

from __future__ import annotations

import os
import sys
from typing import Protocol, TextIO

from wirecap.observe.snapshot import Snapshot
from wirecap.units import format_bit_rate, format_count, format_duration_ns, format_packet_rate

INTERVAL_S = 0.2
"""Seconds between two lines: quick enough for an eye, and nothing beside the capture."""

_CLEAR = "\r\x1b[K"


class Progress(Protocol):
    """What a run needs of a display."""

    interval_s: float

    def say(self, text: str) -> None: ...

    def show(self, snapshot: Snapshot) -> None: ...

    def close(self) -> None: ...


class Quiet:
    """No live line; ``say`` prints unless even that is unwanted."""

    interval_s = INTERVAL_S

    def __init__(self, stream: TextIO | None = None, silent: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._silent = silent

    def say(self, text: str) -> None:
        if not self._silent:
            print(text, file=self._stream, flush=True)

    def show(self, snapshot: Snapshot) -> None: ...

    def close(self) -> None: ...


class LiveLine:
    """The line that is written over again and again; as wide as the terminal at the most."""

    interval_s = INTERVAL_S

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._before: Snapshot | None = None
        self._drawn = False

    def say(self, text: str) -> None:
        self._clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def show(self, snapshot: Snapshot) -> None:
        if self._before and snapshot.elapsed_s - self._before.elapsed_s < self.interval_s / 2:
            return
        line = render(snapshot, self._before)
        self._before = snapshot
        self._stream.write(_CLEAR + line[: _width(self._stream) - 1])
        self._stream.flush()
        self._drawn = True

    def close(self) -> None:
        """Take the line away: the closing counters say the same and more."""
        self._clear()
        self._stream.flush()

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write(_CLEAR)
            self._drawn = False


def choose(quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """The live line where the stream is a terminal that can redraw one, else plain lines; nothing when quiet."""
    stream = stream or sys.stderr
    if quiet:
        return Quiet(stream, silent=True)
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveLine(stream)
    return Quiet(stream)


def render(now: Snapshot, before: Snapshot | None) -> str:
    """The line for a snapshot; rates are over the time since ``before``, else since the start."""
    seconds = now.elapsed_s - (before.elapsed_s if before else 0.0)
    packets = now.received - (before.received if before else 0)
    octets = now.bytes - (before.bytes if before else 0)
    # A first line right at the start has no time to divide by.
    per_second = 1 / seconds if seconds > 0 else 0.0
    parts = [
        _clock(now.elapsed_s),
        format_packet_rate(packets * per_second),
        format_bit_rate(8 * octets * per_second),
        f"{format_count(now.received)} received",
    ]
    if now.depths and now.R:
        parts.append(f"queue {100 * max(now.depths) // now.R}%")
    drops = [f"{name.replace('_', ' ')} {format_count(number)}" for name, number in now.drops.items() if number]
    parts.append("dropped: " + ", ".join(drops) if drops else "none dropped")
    # What a narrow terminal cuts off: in a capture that keeps up these follow the first number.
    parts.append(f"{format_count(now.delivered)} captured")
    if now.written:
        parts.append(f"{format_count(now.written)} written")
    return "  ".join(parts)


def _clock(elapsed_s: float) -> str:
    return format_duration_ns(int(elapsed_s) * 10**9) if elapsed_s >= 60 else f"0:{int(elapsed_s):02}"


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # 0: a terminal that does not know its size
    except (OSError, ValueError, AttributeError):
        return 80
