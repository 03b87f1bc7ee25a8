"""Sending through AF_XDP: queues of one's choice, each packet at its time, completions counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wirecap.kernels import pacing as p
from wirecap.kernels import send
from wirecap.kernels import transmit as k
from wirecap.traffic.batch import Batch
from wirecap.traffic.sender import Macs, Run, dropped, queue_list
from wirecap.traffic.tx_queues import TxQueues, cell_for, stalled

CELLS = 1024
LONGEST_BYTES = 4096


class XdpSender:
    """Sends on transmit queues ``queues`` of an interface of this thread's namespace, frames of up to longest bytes."""

    def __init__(
        self, interface: str, queues: Sequence[int], longest: int, paced: bool, macs: Macs, copy: bool = False
    ) -> None:
        self._tx = TxQueues(interface, queues, cell_for(longest), CELLS, copy=copy)
        self._interface, self._queues = interface, list(queues)
        self.run = Run(paced, macs)
        self.control = self.run.control
        self._dropped_before = dropped(interface)
        mode = "zero-copy" if self._tx.zero_copy() else "copy mode"
        self.way = f"AF_XDP transmit ({mode}, {queue_list(queues)})"

    def kernels(self) -> list[Any]:
        return [send.send_xdp, send.finish_xdp]

    def start(self, now_ns: int) -> None:
        self.run.start(now_ns)

    def stage(self, batch: Batch) -> Batch:
        return batch

    def send(self, staged: Batch) -> None:
        tx, run, batch = self._tx, self.run, staged
        run.control[p.POSITION] = 0
        while True:
            run.slice()
            code = send.send_xdp(
                tx.rings, tx.halves, tx.umem, tx.words, tx.free, batch.arena, batch.address, batch.length, batch.due,
                batch.queue, batch.n, run.control, run.addresses, run.scratch,
            )  # fmt: skip
            if code == k.DONE or run.control[p.STOP]:
                return
            self._look()

    def finish(self) -> None:
        code = k.UNFINISHED
        while code != k.DONE:
            self.run.slice()
            tx = self._tx
            code = send.finish_xdp(tx.rings, tx.halves, tx.words, tx.free, self.run.control, self.run.scratch)
            if code != k.DONE:
                self._look()

    def _look(self) -> None:
        """A slice ended: raise if nothing will ever go on."""
        code = self._tx.stuck()
        if code is not None:
            raise stalled(self._interface, code, self.completed() - self.refused())

    def completed(self) -> int:
        return self._tx.completed()

    def per_queue(self) -> dict[int, int]:
        return {queue: int(self._tx.words[i, k.COMPLETED]) for i, queue in enumerate(self._queues)}

    def refused(self) -> int:
        return max(0, dropped(self._interface) - self._dropped_before)  # 0 once the interface is gone

    def close(self) -> None:
        self._tx.close()
