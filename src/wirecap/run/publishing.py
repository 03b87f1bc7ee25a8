"""A thread that shows how a capture goes: in the file that ``wirecap top`` reads, and as metrics if asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from wirecap.config.endpoint import Endpoint
from wirecap.engine.threads import set_name
from wirecap.observe.counters import Counters
from wirecap.observe.counters_file import CountersFile, folder
from wirecap.run.counting import Counting

if TYPE_CHECKING:
    from wirecap.observe.metrics import MetricsServer

EVERY_S = 0.25
"""Seconds between two states: twice as often as ``wirecap top`` looks."""
RETRY_S = 10.0
"""Seconds until metrics are tried again, where their port was in use."""


class Publisher:
    """Publishes what ``counting`` takes, from ``start`` to ``close``.  say: gets a line about what cannot be done.

    Nothing that fails here ends the capture.
    """

    def __init__(self, counting: Counting, endpoint: Endpoint | None, say: Callable[[str], None]) -> None:
        self._counting, self._endpoint, self._say = counting, endpoint, say
        self._file: CountersFile | None = None
        self._server: MetricsServer | None = None
        self._ending, self._ended = False, threading.Event()
        self._thread = threading.Thread(target=self._run, name="wirecap publisher", daemon=True)
        self._next_try = 0.0
        self.latest: Counters

    def start(self) -> None:
        self.latest = self._counting()
        try:
            self._file = CountersFile(self._counting.started_ns)
        except OSError as error:
            self._say(f"wirecap top will not show this capture: {folder()}: {_reason(error)}")
        self._put(self.latest)
        if self._endpoint and (problem := self._serve(self._endpoint)):
            self._say(f"--metrics {self._endpoint}: {problem}: the capture goes on, and tries again")
        self._thread.start()

    def _serve(self, endpoint: Endpoint) -> str:
        """Serve metrics; returns why not."""
        from wirecap.observe.metrics import MetricsServer

        self._next_try = time.monotonic() + RETRY_S
        try:
            self._server = MetricsServer(endpoint, lambda: self.latest)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
            return _reason(error)
        return ""

    def _serve_late(self, endpoint: Endpoint) -> None:
        if time.monotonic() > self._next_try and not self._serve(endpoint):
            self._say(f"--metrics {endpoint}: served from now on")

    def end(self) -> None:
        """From now on the capture takes what has arrived, and ends."""
        self._ending = True

    def close(self) -> None:
        """Once: whoever calls again, from a signal handler perhaps, does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._server:
            self._server.close()
        if self._file:
            self._file.close()

    def _run(self) -> None:
        set_name("wirecap publisher")
        try:
            while not self._ended.wait(EVERY_S):
                self.latest = self._counting(self._ending)
                self._put(self.latest)
                if self._endpoint and not self._server:
                    self._serve_late(self._endpoint)
        except Exception as error:  # a thread's traceback would be printed, and help nobody
            self._say(f"wirecap top and --metrics stand still: {_reason(error)}: the capture goes on")

    def _put(self, counters: Counters) -> None:
        if self._file is None:
            return
        try:
            self._file.put(counters)
        except OSError as error:
            self._say(f"wirecap top no longer shows this capture: {self._file.path}: {_reason(error)}")
            self._file.close()
            self._file = None


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(reason).lower()
