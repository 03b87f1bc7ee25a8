"""What happens to interfaces and servers under a capture: what is said of it, and taking back those that went away."""

from __future__ import annotations

import math
import time

from wirecap.config.capture import CaptureConfig
from wirecap.engine.engine import Engine
from wirecap.errors import WirecapError
from wirecap.linux import netns
from wirecap.observe.live_line import Progress

LOOK_S = 0.1
"""How often to look whether an interface is there again."""
NEWS_S = 1.0
"""How often to look what was changed on interfaces."""


class Waiting:
    """Asked now and then, takes back what is there again; each change, and each reason against it, is said once."""

    def __init__(self, engine: Engine, config: CaptureConfig, display: Progress) -> None:
        self._engine, self._config, self._display = engine, config, display
        self._away: list[str] = []
        self._said = ""
        self._next = 0.0
        self._live = engine.source.live

    @property
    def every_s(self) -> float:
        return LOOK_S if self._away else NEWS_S if self._live else math.inf

    def __call__(self) -> None:
        away = self._engine.source.away()
        if gone := [name for name in away if name not in self._away]:
            are, them = ("is", "it") if len(gone) == 1 else ("are", "them")
            waits = f"waiting for {them} to come back (Ctrl-C ends the capture)"
            self._display.warn(f"{' and '.join(gone)} {are} gone: {waits}")
        self._away = away
        if self._live and time.monotonic() >= self._next:
            self._next = time.monotonic() + NEWS_S
            for line in self._engine.source.news():
                self._display.warn(line)
        if not away:
            return
        try:
            if back := netns.call(self._config.netns, self._engine.source.returned):
                netns.call(self._config.netns, self._engine.rejoin, back)
        except WirecapError as error:
            if str(error) != self._said:
                self._said = str(error)
                self._display.warn(f"not captured yet: {error}")
        self._away = self._engine.source.away()
        for name in away:
            if name not in self._away:
                self._said = ""
                self._display.say(f"wirecap: {name} is back: capturing on it again", "back", interface=name)
