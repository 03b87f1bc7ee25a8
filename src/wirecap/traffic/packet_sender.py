"""Sending through an AF_PACKET transmit ring: any interface, loopback and jumbo frames too; one queue."""

from __future__ import annotations

from typing import Any

import numpy as np

from wirecap.kernels import pacing as p
from wirecap.kernels import send_packet as k
from wirecap.kernels import transmit
from wirecap.linux import netlink, packet_ring
from wirecap.traffic.batch import Batch
from wirecap.traffic.sender import Macs, Run, Stall, dropped
from wirecap.traffic.tx_queues import PASSING, stalled

RING_BYTES = 1 << 21
LONGEST_BYTES = (1 << 17) - packet_ring.HEADER_BYTES


class PacketSender:
    """Sends on an interface of this thread's namespace, frames of up to ``longest`` bytes."""

    def __init__(self, interface: str, longest: int, paced: bool, macs: Macs) -> None:
        slot_bytes = 1 << (longest + packet_ring.HEADER_BYTES - 1).bit_length()
        slots = max(16, RING_BYTES // slot_bytes)
        self._ring = packet_ring.TransmitRing(netlink.interface(interface).index, slots, slot_bytes)
        self._words = np.zeros(k.RING_WORDS, np.int64)
        self._words[[k.SOCKET, k.SLOTS, k.SLOT_BYTES, k.HEADER]] = (
            self._ring.fd, slots, slot_bytes, packet_ring.HEADER_BYTES,
        )  # fmt: skip
        self._halves = self._ring.octets.view(np.uint32)
        self._interface = interface
        self.run = Run(paced, macs)
        self.control = self.run.control
        self._stall = Stall()
        self._dropped_before = dropped(interface)
        self.way = "AF_PACKET transmit ring"

    def kernels(self) -> list[Any]:
        return [k.send_packet, k.finish_packet]

    def start(self, now_ns: int) -> None:
        self.run.start(now_ns)

    def stage(self, batch: Batch) -> Batch:
        return batch

    def send(self, staged: Batch) -> None:
        run, batch = self.run, staged
        run.control[p.POSITION] = 0
        while True:
            run.slice()
            code = k.send_packet(
                self._halves, self._ring.octets, self._words, batch.arena, batch.address, batch.length, batch.due,
                batch.n, run.control, run.addresses, run.scratch,
            )  # fmt: skip
            if code == transmit.DONE or run.control[p.STOP]:
                return
            self._look()

    def finish(self) -> None:
        ring = self._halves, self._ring.octets, self._words
        while True:
            self.run.slice()
            if k.finish_packet(*ring, self.control, self.run.scratch) == transmit.DONE:
                return
            self._look()

    def _look(self) -> None:
        """A slice ended: raise if nothing will ever go on."""
        if self._words[k.SUBMITTED] == self._words[k.COMPLETED]:
            self._stall.lasts(-2)
            return
        code = self._ring.send_error()
        if code in PASSING:
            code = 0
        if code or self._stall.lasts(self.completed()):
            raise stalled(self._interface, code, self.completed() - self.refused())

    def completed(self) -> int:
        return int(self._words[k.COMPLETED] + self._words[k.REFUSED])

    def per_queue(self) -> dict[int, int]:
        return {}

    def refused(self) -> int:
        return max(0, dropped(self._interface) - self._dropped_before) + int(self._words[k.REFUSED])

    def close(self) -> None:
        self._ring.close()
