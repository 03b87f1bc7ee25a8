"""``wirecap-extcap --capture``: a capture into Wireshark's FIFO.

It ends when Wireshark sends SIGTERM, or when nobody reads the FIFO any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wirecap import units
from wirecap.config.capture import CaptureConfig, PoolConfig, WriteConfig
from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError
from wirecap.extcap.arguments import Arguments
from wirecap.extcap.options import OPTIONS
from wirecap.extcap.toolbar import Toolbar
from wirecap.observe.live_line import INTERVAL_S, Progress, Snapshot

_PATIENCE_S = 20.0
"""How long a capture that failed waits for dumpcap to open the FIFO."""

_DEFAULTS = {option.name: option.default for option in OPTIONS}


def capture(asked: Arguments, alone: bool = False) -> None:
    """Capture until Wireshark has enough; raises what ``wirecap capture`` would, and UsageError for wrong values.

    alone: this process captures and does nothing else; it gives up its rights once packets come.
    """
    display = None
    try:
        config, write = configured(asked)
        display = Display(asked)
        if alone:
            os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's would be threads with all rights, and do nothing
        from wirecap import api  # brings in NumPy and Numba
        from wirecap.linux.confinement import Confinement

        confinement = Confinement(config.engine, config.netns is not None, paths=[write.path]) if alone else None
        api.run_capture(config, write, display, None, display.tell, confinement=confinement)
    except Exception as error:
        if getattr(error, "errno", None) == errno.EPIPE:  # Wireshark has closed the FIFO: so it has enough
            return
        if display is None or not display.began:
            _dismiss(asked.values["fifo"])
        raise
    finally:
        if display:
            display.close()


def _dismiss(fifo: str) -> None:
    """Let dumpcap read a capture without packets: else it waits for the FIFO for ever, and Wireshark does with it."""
    from wirecap.files import headers

    end = time.monotonic() + _PATIENCE_S
    with contextlib.suppress(OSError):
        while Path(fifo).is_fifo() and time.monotonic() < end:
            fd = _open_now(fifo)
            if fd >= 0:
                with os.fdopen(fd, "wb") as file:
                    file.write(headers.section_header("wirecap"))
                return
            time.sleep(0.02)


def _open_now(fifo: str) -> int:
    """A descriptor of the FIFO to write to, or -1 if nobody has opened it for reading yet, or any more."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return -1


def configured(asked: Arguments) -> tuple[CaptureConfig, WriteConfig]:
    """The settings of a call."""
    if not asked.interface:
        raise UsageError("no interface is named", "double-click it in Wireshark's list, or add --interface eth1")
    queues = asked.values.get("queues", "").strip()
    snaplen = _number(asked, "snaplen", units.parse_size)
    filters = [asked.values.get(name, "").strip() for name in ("extcap-capture-filter", "filter")]
    config = CaptureConfig(
        sources=(QueueSpec.parse(f"{asked.interface}@{queues}" if queues else asked.interface),),
        netns=asked.netns,
        filter=both([text for text in filters if text]),
        snaplen=snaplen,
        engine=_value(asked, "engine"),
        mode=_value(asked, "mode"),
        time_stamps=_value(asked, "time-stamp-type"),
        T=_number(asked, "t", units.parse_percent),
        pool=PoolConfig(
            _number(asked, "m", units.parse_count),
            _number(asked, "r", units.parse_count),
            _number(asked, "cell", units.parse_size),
        ),
        promiscuous="no-promiscuous-mode" not in asked.flags,
        take_over="take-over" in asked.flags,
    )  # fmt: skip
    return config, WriteConfig(path=asked.values["fifo"], format="pcapng", snaplen=snaplen, packet_buffered=True)


def both(filters: list[str]) -> str:
    """One expression that matches what all of them match."""
    return " and ".join(f"({text})" for text in filters) if len(filters) > 1 else "".join(filters)


def _value(asked: Arguments, name: str) -> str:
    value = asked.values.get(name, "").strip() or _DEFAULTS[name]
    choices = next(option.values for option in OPTIONS if option.name == name)
    if choices and value not in choices:
        raise UsageError(f"--{name}: {value!r} is not one of its values", f"choose from {', '.join(choices)}")
    return value


def _number(asked: Arguments, name: str, parse: Callable[[str], int]) -> int:
    value = _value(asked, name)
    try:
        return parse(value)
    except UsageError as error:
        raise UsageError(f"--{name}: {error.message}", error.hint) from None


class Display(Progress):
    """Tells the toolbar how the capture goes, and ends it once nobody reads the FIFO.

    Standard error gets only what the user must see: Wireshark shows it in a dialog at the end.
    """

    interval_s = INTERVAL_S

    def __init__(self, asked: Arguments) -> None:
        self._path, self._watched, self._abandoned = asked.values["fifo"], -1, False
        self.began = False
        controls = (asked.values.get(f"extcap-control-{way}") for way in ("out", "in"))
        try:
            self._toolbar = Toolbar(*controls)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UsageError(
                f"{error.filename}: {reason}", "the control pipes are FIFOs that Wireshark makes"
            ) from None
        self.ready = self._watch

    def _watch(self) -> None:
        self.began = True
        if Path(self._path).is_fifo():
            self._watched = _open_now(self._path)
            self._abandoned = self._watched < 0  # the writer has opened it, so there was a reader

    def say(self, text: str, event: str = "progress", **fields: Any) -> None:
        self._toolbar.log(text.removeprefix("wirecap: "))

    def show(self, snapshot: Snapshot) -> None:
        self._toolbar.show(snapshot.delivered, snapshot.drops)
        if self._abandoned or self._reader_is_gone():
            self._abandoned = False  # once: a second signal would give up what is in the pool
            self._unwatch()
            signal.raise_signal(signal.SIGTERM)

    def _reader_is_gone(self) -> bool:
        if self._watched < 0:
            return False
        poll = select.poll()
        poll.register(self._watched, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))

    def _unwatch(self) -> None:
        if self._watched >= 0:
            os.close(self._watched)
            self._watched = -1

    def tell(self, summary: dict[str, Any], ended: bool) -> None:
        from wirecap.cli import closing

        lines = closing.counters(summary)
        for line in lines:
            self._toolbar.log(line)
        packets = summary["packets"]
        self._toolbar.show(packets["delivered"], packets["drops"])
        if ended:
            lost = [line for line in lines if " dropped: " in line]
            with contextlib.suppress(OSError):  # nobody reads it any more
                sys.stderr.write("".join(f"wirecap: {line}\n" for line in lost))

    def close(self) -> None:
        self._toolbar.close()
        self._unwatch()
