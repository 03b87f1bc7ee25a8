"""A run's recorder: when it looks, and what of it goes into the summary and onto the page."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from wirecap.config.capture import CaptureConfig
from wirecap.engine.engine import Engine
from wirecap.handlers.pipeline import Pipeline
from wirecap.observe.live_line import Progress

if TYPE_CHECKING:
    from wirecap.forensics.losses import Loss
    from wirecap.forensics.recorder import Recorder


TOLD_EVERY_S = 60.0
"""Seconds between two losses that a running capture tells of; in the end they are all explained."""


class Recording:
    """Live captures are recorded, files only for a page.

    html_file: where the page goes.  Raises WirecapError if that could not be made.
    """

    def __init__(self, html_file: str | None) -> None:
        self._html_file = html_file
        self._recorder: Recorder | None = None
        self._told: deque[str] = deque()
        self._next_told = 0.0
        if html_file:
            from wirecap.forensics import page

            page.check()

    def start(self, engine: Engine, application: Pipeline, config: CaptureConfig, display: Progress) -> None:
        """Begin, once the engine runs."""
        if not (engine.source.live or self._html_file):
            return
        from wirecap.forensics.recorder import Recorder

        self._config, self._display = config, display
        writer = application.writer
        self._recorder = Recorder(engine, writer.disk_is_behind if writer else lambda: False, self._tell)
        self._recorder.start()

    def _tell(self, loss: Loss) -> None:
        """A loss is over, and the capture goes on."""
        from wirecap.forensics import explain

        assert self._recorder
        if time.monotonic() >= self._next_told:
            self._next_told = time.monotonic() + TOLD_EVERY_S
            self._told.extend(explain.at_once(self._recorder.engine, loss))

    def say(self) -> None:
        """Warn of the losses that were over since the last call, of a few in a minute."""
        while self._told:
            self._display.warn(self._told.popleft())

    def stop(self) -> None:
        """Look no more: the source is about to be closed."""
        if self._recorder:
            self._recorder.stop()

    def report(self, summary: dict[str, Any]) -> None:
        """Add the ``losses`` to the summary of a run that has ended, and write the page."""
        if not self._recorder:
            return
        self._recorder.stop()
        losses = self._recorder.losses
        if self._recorder.engine.source.live:
            summary["losses"] = self._explained() if losses.all() else []
            summary["losses_left_out"] = losses.left_out
        if self._html_file:
            from wirecap.forensics import page

            page.write(self._html_file, self._recorder, summary)

    def _explained(self) -> list[dict[str, Any]]:
        from wirecap.forensics.explain import explain

        assert self._recorder
        say = self._display.say
        return explain(
            self._recorder, self._config.ring, self._config.pool.cell,
            lambda name: say(f"wirecap: compiling {name} (once)"),
        )  # fmt: skip
