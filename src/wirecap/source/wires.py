"""The wires of an AF_XDP source: TX rings on the sockets of outgoing NICs, and what kernels need to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wirecap.kernels import wires as k
from wirecap.kernels.balance import FRAGMENTS
from wirecap.linux import xsk

TX_ENTRIES = 1024
"""Frames in transmission on a wire at the most; the completion ring has twice as many entries."""
TX_BUDGET = 256
"""Frames of one system call, a whole chunk's at M = 256."""
SEND_BUFFER_BYTES = 92_160
"""Half of what frames under way in copy mode may take: 240 frames of 768 bytes, the least that the kernel books
for one (SKB_TRUESIZE of a 512 byte head).  A veth's other end has room for 256 (VETH_RING_SIZE, drivers/net/veth.c)."""
VLAN_BYTES = 4
ETHERNET_BYTES = 14


@dataclass(frozen=True)
class Output:
    """An interface that is sent on.  mtu: bytes, without the Ethernet header."""

    name: str
    index: int
    queues: tuple[int, ...]
    mtu: int


class WireTable:
    """Wires of ``outputs``, a wire for each of their queues; ``routes`` says which outputs each home queue has.

    Outputs that name the same queue of the same interface share its wire.  routes: for each home queue the first of
    its outputs, and how many they are.  span: bytes of a queue's cells.  numbers: of the home queues on their NICs.
    """

    def __init__(
        self, outputs: list[Output], routes: list[tuple[int, int]], span: int, numbers: Sequence[int] = ()
    ) -> None:  # fmt: skip
        self.outputs = outputs
        self.places = list(dict.fromkeys((output.name, queue) for output in outputs for queue in output.queues))
        self.words = np.zeros((len(self.places), k.WIRE_WORDS), np.int64)
        self.words[:, k.SPAN] = span
        self.words[:, k.PATIENT] = 1
        self._lists = np.zeros((len(outputs), 1 + len(self.places)), np.int64)
        own = list(numbers) or list(range(len(routes)))
        self._routes = np.array([(*route, number) for route, number in zip(routes, own, strict=True)], np.int64)
        for number, output in enumerate(outputs):
            wires = [self.places.index((output.name, queue)) for queue in output.queues]
            self._lists[number, : 1 + len(wires)] = len(wires), *wires
            self.words[wires, k.LONGEST] = output.mtu + ETHERNET_BYTES + VLAN_BYTES

    def index_of(self, name: str) -> int:
        """The interface index of an output."""
        return next(output.index for output in self.outputs if output.name == name)

    def equip(self, wire: int, fd: int, tx: xsk.Ring, done: xsk.Ring) -> None:
        """Where a wire's rings are."""
        words: NDArray[np.int64] = self.words[wire]
        words[k.SOCKET] = fd
        words[k.TX_PRODUCER], words[k.TX_FLAGS] = tx.producer // 4, tx.flags // 4
        words[k.TX_DESCRIPTORS], words[k.TX_MASK] = tx.descriptors // 8, tx.entries - 1
        words[k.DONE_PRODUCER], words[k.DONE_CONSUMER] = done.producer // 4, done.consumer // 4
        words[k.DONE_DESCRIPTORS], words[k.DONE_MASK] = done.descriptors // 8, done.entries - 1

    def arrays(self, queues: int, consumers: int) -> k.Wires:
        """What kernels get; ``words`` is shared with this table."""
        return k.Wires(
            words=self.words.reshape(-1),
            counts=np.zeros((len(self.places), queues, k.COUNT_WORDS), np.int64),
            outputs=self._lists,
            routes=self._routes,
            order=np.zeros(queues, np.int64),
            tallies=np.zeros((consumers, queues, 4), np.int64),
            fragments=np.zeros(FRAGMENTS, np.int64),
        )
