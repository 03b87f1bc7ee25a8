"""Signals that end a run or ask something of it, and a flag that a signal handler may set."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


class Flag:
    """The part of threading.Event that needs no lock: a signal may arrive while the same thread holds it."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


@contextmanager
def postponed() -> Iterator[None]:
    """A SIGINT or SIGTERM that arrives within is handled at the end: what is begun here is not left half done.

    One that is ignored stays ignored, as a child that is started within would have to inherit that.
    """
    arrived: list[int] = []
    taken = [] if threading.current_thread() is not threading.main_thread() else [signal.SIGINT, signal.SIGTERM]
    taken = [number for number in taken if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)


class Interrupts:
    """SIGINT, SIGTERM and a lost terminal end the capture; a second SIGINT or SIGTERM gives up what is in the pool.
    SIGHUP from elsewhere does too, unless it is one of ``actions``.

    A third one ends the process at once: nothing else can end a handler that never returns.  ``actions`` are what
    other signals ask for; ``act`` carries them out, outside the signal handler.
    """

    def __init__(self, actions: Mapping[int, Callable[[], None]] | None = None) -> None:
        self.asked, self.give_up = Flag(), Flag()
        self._actions: Mapping[int, Callable[[], None]] = actions or {}
        self._noted: list[int] = []

    def __enter__(self) -> Interrupts:
        self._ending = [signal.SIGINT, signal.SIGTERM]
        outlives = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # nohup(1) asks that it be ignored
        self._terminal = not outlives and _has_terminal()
        if not outlives and signal.SIGHUP not in self._actions:
            self._ending.append(signal.SIGHUP)
        handlers = dict.fromkeys(self._ending, self._end) | dict.fromkeys(self._actions, self._note)
        if threading.current_thread() is not threading.main_thread():
            handlers = {}
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def act(self) -> None:
        while self._noted:
            self._actions[self._noted.pop(0)]()

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.asked.is_set() and number != signal.SIGHUP:  # a shell and the kernel may both send that one
            self.give_up.set()
            for ours in self._ending:
                signal.signal(ours, signal.SIG_DFL)
        self.asked.set()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._terminal and not _has_terminal():
            self._end(number, frame)
        else:
            self._noted.append(number)


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
