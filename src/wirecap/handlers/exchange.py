"""Another filter for a running capture, from one chunk to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wirecap.filters.metadata import Link
from wirecap.kernels.handlers.filter import PROGRAM

if TYPE_CHECKING:
    from wirecap.filters.native import LinkFilters

ROOM = 1000
"""How many filters later the place of one is used again: long after the last thread has read it."""


def with_room(states: NDArray[np.int64]) -> NDArray[np.int64]:
    """A filter's states as ``by_interface`` lays them out, with room behind them for those of others."""
    return np.concatenate([states, np.zeros(ROOM * int(states[0]) * PROGRAM, np.int64)])


class Exchange:
    """Puts filters into ``states``, which handler threads and writers read once for each chunk.

    Each filter gets words that no thread reads yet; then the words are changed that say where an interface's state is.
    So a chunk is judged by the old filter or by the new one as a whole.
    """

    def __init__(self, states: NDArray[np.int64]) -> None:
        self._states, self._interfaces = states, int(states[0])
        self._begin = len(states) - ROOM * self._interfaces * PROGRAM
        self._kept: list[LinkFilters] = []  # a thread may still run their code

    def put(self, filters: LinkFilters, links: Sequence[Link]) -> None:
        """links: of each interface of the source, in their order; ``filters`` has code for all of them."""
        place = self._begin + len(self._kept) % ROOM * self._interfaces * PROGRAM
        self._kept.append(filters)
        places = [place + number * PROGRAM for number in range(self._interfaces)]
        for at, link in zip(places, links, strict=True):
            self._states[at : at + PROGRAM] = filters.by_link[link].state[:PROGRAM]
        for number, at in enumerate(places):
            self._states[1 + 2 * number], self._states[2 + 2 * number] = at, at + PROGRAM
