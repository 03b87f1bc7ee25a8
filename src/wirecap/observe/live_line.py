"""The live line on a terminal while a capture runs, with plain lines above it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from wirecap.observe import log
from wirecap.units import format_bit_rate, format_count, format_duration_ns, format_packet_rate


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters since the start of the capture.

    elapsed_s: seconds.  received, delivered, written: packets.  bytes: bytes received.  depths: chunks in
    each capture queue, at most ``R``.  drops: packets by reason.
    """

    elapsed_s: float
    received: int
    delivered: int
    bytes: int
    written: int = 0
    depths: tuple[int, ...] | list[int] = ()
    R: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)


INTERVAL_S = 0.2
"""Seconds between updates: often enough for the eye, and negligible next to the capture."""

_CLEAR = "\r\x1b[K"


Ready = Callable[[], None]


def _nothing() -> None: ...


class Progress(Protocol):
    """What a run needs from a display."""

    interval_s: float
    ready: Ready
    """Called once packets are being captured."""

    def say(self, text: str, event: str = "progress", **fields: Any) -> None:
        """A line; the event and the fields are what a log of JSON objects has of it in addition."""

    def warn(self, text: str) -> None:
        """Tell what the user should know before the first packet."""
        self.say(f"wirecap: {text}", "warning")

    def show(self, snapshot: Snapshot) -> None: ...

    def close(self) -> None: ...


class Quiet(Progress):
    """No live line; ``say`` prints its text unless ``silent``."""

    interval_s = INTERVAL_S

    def __init__(self, stream: TextIO | None = None, silent: bool = False, ready: Ready = _nothing) -> None:
        self._stream = stream or sys.stderr
        self._silent, self.ready = silent, ready

    def say(self, text: str, event: str = "progress", **fields: Any) -> None:
        if not self._silent:
            print(log.shown(text), file=self._stream, flush=True)

    def show(self, snapshot: Snapshot) -> None: ...

    def close(self) -> None: ...


class Objects(Quiet):
    """No live line; each line is a JSON object (observe/log.py)."""

    def say(self, text: str, event: str = "progress", **fields: Any) -> None:
        super().say(log.as_json(text, event, "warning" if event == "warning" else "info", fields))


class LiveLine(Progress):
    """The line that is continually overwritten, at most as wide as the terminal."""

    interval_s = INTERVAL_S

    def __init__(self, stream: TextIO | None = None, ready: Ready = _nothing) -> None:
        self._stream, self.ready = stream or sys.stderr, ready
        self._before: Snapshot | None = None
        self._drawn = False

    def say(self, text: str, event: str = "progress", **fields: Any) -> None:
        self._clear()
        self._stream.write(log.shown(text) + "\n")
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
        """Erase the line: the closing counters say the same and more."""
        self._clear()
        self._stream.flush()

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write(_CLEAR)
            self._drawn = False


def open_display(
    quiet: bool = False, stream: TextIO | None = None, ready: Ready = _nothing, live: bool = True
) -> Progress:  # fmt: skip
    """The live line if the stream is a terminal that can redraw one, otherwise plain lines, or JSON objects if those
    are logged; nothing when quiet.

    ready: what else is to be done once packets are captured.  live: False for plain lines in any case.
    """
    stream = stream or sys.stderr
    if log.is_json():
        return Objects(stream, silent=quiet, ready=ready)
    if quiet:
        return Quiet(stream, silent=True, ready=ready)
    if live and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveLine(stream, ready)
    return Quiet(stream, ready=ready)


def render(now: Snapshot, before: Snapshot | None) -> str:
    """The line for a snapshot; its rates cover the time since ``before``, or since the start."""
    seconds = now.elapsed_s - (before.elapsed_s if before else 0.0)
    packets = now.received - (before.received if before else 0)
    byte_count = now.bytes - (before.bytes if before else 0)
    # At the very start no time has passed to divide by.
    per_second = 1 / seconds if seconds > 0 else 0.0
    parts = [
        _clock(now.elapsed_s),
        format_packet_rate(packets * per_second),
        format_bit_rate(8 * byte_count * per_second),
        f"{format_count(now.received)} received",
    ]
    if now.depths and now.R:
        parts.append(f"queue {100 * max(now.depths) // now.R}%")
    drops = [f"{name.replace('_', ' ')} {format_count(number)}" for name, number in now.drops.items() if number]
    parts.append("dropped: " + ", ".join(drops) if drops else "none dropped")
    # A narrow terminal may cut these off: in a capture that keeps up they follow the first number.
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
