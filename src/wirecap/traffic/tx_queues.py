"""AF_XDP transmit queues of an interface: a socket, cells and rings for each, as kernels/transmit.py takes them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence

import numpy as np

from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.kernels import send
from wirecap.kernels import transmit as k
from wirecap.linux import memory, netlink, xsk
from wirecap.traffic.sender import Stall

CELL_BYTES = (2048, 4096)
RELEASED_S = 0.5
_RING_PAGES = 8192 * 4
PASSING = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS)  # af_xdp.rst, net/xdp/xsk.c: come again


class TxQueues:
    """The queues ``queues`` of an interface of this thread's namespace, each with ``cells`` cells and ring entries.

    rings, halves: all rings, as int64 and as uint32; umem: uint8; words: int64 (Q, QUEUE_WORDS); free: int64
    (Q, cells), stacks of free cells.  copy: do not take the queue's buffers from the driver (zero-copy does).
    """

    def __init__(
        self, interface: str, queues: Sequence[int], cell_bytes: int, cells: int, *, copy: bool = False
    ) -> None:
        facts = netlink.interface(interface)
        check_queues(facts, queues)
        self.interface = interface
        self._cells, self._cell_bytes, self._copy = cells, cell_bytes, copy
        self.umem = memory.cells(len(queues) * cells * cell_bytes)
        self._region = memory.Region(len(queues) * (_RING_PAGES + cells * 48))
        self.words = np.zeros((len(queues), k.QUEUE_WORDS), np.int64)
        self.free = np.zeros((len(queues), cells), np.int64)
        self._sockets: list[xsk.Socket] = []
        self._stall = Stall()
        try:
            for number, queue in enumerate(queues):
                self._open(number, queue, facts.index)
        except BaseException:
            self.close()
            raise
        self.rings, self.halves = self._region.octets.view(np.int64), self._region.octets.view(np.uint32)

    def _open(self, number: int, queue: int, ifindex: int) -> None:
        size = self._cells * self._cell_bytes
        sender = xsk.Socket(self._region)
        self._sockets.append(sender)
        sender.register(self.umem[number * size : (number + 1) * size], self._cell_bytes)
        sender.ring(xsk.FILL_RING, 64)  # the kernel wants one; it stays empty
        done = sender.ring(xsk.COMPLETION_RING, self._cells)
        tx = sender.ring(xsk.TX_RING, self._cells)
        self._bind(sender, ifindex, queue)
        words = self.words[number]
        words[k.TX_PRODUCER], words[k.TX_DESCRIPTORS] = tx.producer // 4, tx.descriptors // 8
        words[send.TX_CONSUMER] = tx.consumer // 4
        words[k.DONE_PRODUCER], words[k.DONE_CONSUMER] = done.producer // 4, done.consumer // 4
        words[k.DONE_DESCRIPTORS], words[k.MASK] = done.descriptors // 8, self._cells - 1
        words[k.SOCKET], words[k.FREE], words[k.UMEM] = sender.fd, self._cells, number * size
        self.free[number] = np.arange(self._cells)[::-1] * self._cell_bytes

    def _bind(self, sender: xsk.Socket, ifindex: int, queue: int) -> None:
        """The kernel gives a closed socket's queue back a little later: try for a while."""
        end = time.monotonic() + RELEASED_S
        while True:
            try:
                sender.bind(ifindex, queue, xsk.NEED_WAKEUP | (xsk.COPY if self._copy else 0))
                return
            except SystemCallError as error:
                busy = error.errno == errno.EBUSY
                if not busy or time.monotonic() > end:
                    hint = "another AF_XDP socket has the queue: stop its owner" if busy else error.hint
                    where = f"{self.interface} queue {queue}"
                    raise SystemCallError(f"{where}: {error.message}", error.errno, hint) from None
            time.sleep(0.02)

    def zero_copy(self) -> bool:
        return self._sockets[0].zero_copy()

    def restart(self) -> None:
        """Count from 0 again; nothing is under way."""
        self.words[:, [k.SUBMITTED, k.COMPLETED]] = 0
        self._stall = Stall()

    def completed(self) -> int:
        """Frames that the kernel is done with, on all queues."""
        return int(self.words[:, k.COMPLETED].sum())

    def stuck(self) -> int | None:
        """None while frames go on; else the errno with which the kernel refuses, 0 where it says nothing for long."""
        done = self.completed()
        if int(self.words[:, k.SUBMITTED].sum()) == done:
            self._stall.lasts(-2)
            return None
        code = max(sender.send_error() for sender in self._sockets)
        if code in (0, *PASSING):
            return 0 if self._stall.lasts(done) else None
        return code

    def close(self) -> None:
        for sender in self._sockets:
            sender.close()
        self._region.close()


def check_queues(facts: netlink.Interface, queues: Sequence[int]) -> None:
    """UsageError where the interface is down or lacks one of the queues."""
    if not facts.up:
        raise UsageError(f"{facts.name} is down", f"set it up first: ip link set {facts.name} up")
    if max(queues) >= facts.tx_queues:
        last = facts.tx_queues - 1
        there = f"queues 0-{last}" if last else "queue 0 only"
        raise UsageError(f"{facts.name} has no transmit queue {max(queues)}", f"it has {there}")


def cell_for(longest_bytes: int) -> int:
    """The size of a cell that holds such frames; UsageError where none does."""
    for size in CELL_BYTES:
        if longest_bytes <= size:
            return size
    raise UsageError(f"frames of {longest_bytes} bytes", f"AF_XDP takes {CELL_BYTES[-1]} at the most")


def stalled(interface: str, code: int, sent: int) -> WirecapError:
    """The error for a sender whose frames the kernel does not take any more."""
    reason = os.strerror(code) if code else "no frame was completed for a while"
    hint = "set it up and send again" if code == errno.ENETDOWN else ""
    return WirecapError(f"{interface}: {reason.lower()}, after {sent} packets were sent", hint)
