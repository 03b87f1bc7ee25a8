"""A source and a handler that are not the package's own, as somebody outside would write them."""

from __future__ import annotations

import numpy as np

from wirecap.handlers.handler import Handler
from wirecap.kernels.base.atomics import fetch_add
from wirecap.kernels.base.jit import kernel
from wirecap.kernels.pool.handler_loop import PROCESS_SIGNATURE
from wirecap.source.memory import MemorySource

PACKETS, BYTES = 10, 60


class ToySource(MemorySource):
    """Ten packets on queue 0, as soon as it starts."""

    name = "toy"

    @classmethod
    def from_config(cls, config, forward):
        return cls(1, config.pool.M * config.pool.R, config.pool.cell, interface=config.sources[0].interface)

    def start(self):
        super().start()
        arena = np.zeros(PACKETS * BYTES, np.uint8)
        starts = np.arange(PACKETS, dtype=np.int64) * BYTES
        self.inject(0, arena, starts, np.full(PACKETS, BYTES, np.int64), np.arange(PACKETS, dtype=np.int64))


@kernel(PROCESS_SIGNATURE)
def add_up(arena, address, captured, original, timestamp, n, state):
    for i in range(n):
        fetch_add(state, 0, np.int64(captured[i]))
    return 0


class ToyHandler(Handler):
    """Adds up captured bytes."""

    name = "toy"
    process = staticmethod(add_up)
    has_result = True

    def __init__(self):
        self._states = []

    def open(self, engine, keep_going, editable):
        self._application = engine.application

    def result(self):
        return int(sum(states[0, 0] for states in self._application.states))
