"""The wires of an AF_XDP source: TX rings on the sockets of outgoing NICs, and what kernels need to know about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wirecap.config.capture import CELLS
from wirecap.kernels.forward import wires as k
from wirecap.kernels.forward.route import FRAGMENTS
from wirecap.kernels.pool.large import HEADROOM_BYTES
from wirecap.kernels.transmit import ring as t
from wirecap.linux import af_xdp

TX_ENTRIES = 1024
"""The most frames in transmission on a wire; the completion ring has twice as many entries."""
TX_BUDGET = 256
"""Frames per system call: a whole chunk at M = 256."""
SEND_BUFFER_BYTES = 92_160
"""Half of the bytes that frames in flight in copy mode may take: 240 frames of 768 bytes, the least that the kernel
charges for one (SKB_TRUESIZE of a 512 byte head).  A veth's other end has room for 256 (VETH_RING_SIZE,
drivers/net/veth.c)."""
VLAN_BYTES = 4
MOST_FRAGMENTS = 17
"""Pieces behind the first one of a frame that the kernel copies for sending (MAX_SKB_FRAGS, linux/skbuff.h)."""
_NOWHERE = 1 << 62
ETHERNET_BYTES = 14


@dataclass(frozen=True)
class Output:
    """An interface to send on.  mtu: bytes, without the Ethernet header."""

    name: str
    index: int
    queues: tuple[int, ...]
    mtu: int


class WireTable:
    """The wires of ``outputs``, one for each of their queues; ``routes`` says which outputs each home queue has.

    Outputs that name the same queue of the same interface share its wire.  routes: for each home queue, its first
    output and how many it has.  span: bytes of a queue's cells.  numbers: the home queues' numbers on their NICs.
    unfinished: for each home queue, whether to finish its packets' checksums.
    """

    def __init__(
        self, outputs: list[Output], routes: list[tuple[int, int]], span: int, numbers: Sequence[int] = (),
        unfinished: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        self.outputs = outputs
        self.notes: list[str] = []
        """What the user should know before the first packet."""
        self.places = list(dict.fromkeys((output.name, queue) for output in outputs for queue in output.queues))
        self.words = np.zeros((len(self.places), t.TX_WORDS), np.int64)
        self.words[:, k.SPAN] = span
        self.words[:, k.CELL], self.words[:, k.LARGE_AT], self.words[:, k.LARGE_SPAN] = CELLS[0], _NOWHERE, 1
        self.words[:, k.PATIENT] = 1
        self._lists = np.zeros((len(outputs), 1 + len(self.places)), np.int64)
        own, finish = list(numbers) or list(range(len(routes))), list(unfinished) or [False] * len(routes)
        self._routes = np.array([(*row[0], *row[1:]) for row in zip(routes, own, finish, strict=True)], np.int64)
        for number, output in enumerate(outputs):
            wires = [self.places.index((output.name, queue)) for queue in output.queues]
            self._lists[number, : 1 + len(wires)] = len(wires), *wires
            self.words[wires, k.LONGEST] = output.mtu + ETHERNET_BYTES + VLAN_BYTES

    def lay_out(self, cell: int, large_at: int, large_span: int) -> None:
        """Say where in the arena large packets lie: from ``large_at`` on, ``large_span`` bytes for each home queue."""
        self.words[:, k.CELL], self.words[:, k.LARGE_AT], self.words[:, k.LARGE_SPAN] = cell, large_at, large_span
        first = cell - HEADROOM_BYTES - VLAN_BYTES  # a handler may have taken a tag out
        longest = self.words[:, k.LONGEST]
        np.minimum(longest, first + MOST_FRAGMENTS * cell, out=longest)

    def index_of(self, name: str) -> int:
        """The interface index of an output."""
        return next(output.index for output in self.outputs if output.name == name)

    def targets(self, queue: int) -> list[str]:
        """The interfaces to which a home queue's packets go."""
        first, count = self._routes[queue, :2].tolist()
        return [output.name for output in self.outputs[first : first + count]]

    def put_ring(self, wire: int, fd: int, tx: af_xdp.Ring, done: af_xdp.Ring) -> None:
        """Record where a wire's rings are."""
        equip_ring(self.words[wire], fd, tx, done)

    def arrays(self, queues: int, consumers: int) -> k.Wires:
        """What kernels get; ``words`` is shared with this table."""
        return k.Wires(
            words=self.words.reshape(-1),
            counts=np.zeros((len(self.places), queues, t.COUNT_WORDS), np.int64),
            outputs=self._lists,
            routes=self._routes,
            order=np.zeros(queues, np.int64),
            tallies=np.zeros((consumers, queues, 4), np.int64),
            fragments=np.zeros(FRAGMENTS, np.int64),
        )


def equip_ring(words: NDArray[np.int64], fd: int, tx: af_xdp.Ring, done: af_xdp.Ring) -> None:
    """Put the positions of a TX ring and its completion ring into ``words``, int64 (TX_WORDS,)."""
    words[t.SOCKET] = fd
    words[t.TX_PRODUCER], words[t.TX_FLAGS] = tx.producer // 4, tx.flags // 4
    words[t.TX_DESCRIPTORS], words[t.TX_MASK] = tx.descriptors // 8, tx.entries - 1
    words[t.DONE_PRODUCER], words[t.DONE_CONSUMER] = done.producer // 4, done.consumer // 4
    words[t.DONE_DESCRIPTORS], words[t.DONE_MASK] = done.descriptors // 8, done.entries - 1
