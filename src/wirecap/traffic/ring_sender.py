"""Sending through transmit rings, AF_XDP's or AF_PACKET's: each packet at its time, completions counted.

AF_XDP: queues of one's choice, of one interface or of two; what is sent on queue q of a veth arrives on queue q of its
other end, and that end's kernel work runs in the sender's thread.  AF_PACKET: any interface, loopback, raw IP and jumbo
frames too; the kernel chooses the queue.  A frame counts when the kernel has completed it, not when it was handed in.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.kernels.pool.pool import Rings
from wirecap.kernels.transmit import af_packet_ring as slots
from wirecap.kernels.transmit import paced_loop as p
from wirecap.kernels.transmit import ring as t
from wirecap.kernels.transmit import xdp_queues
from wirecap.kernels.transmit.launch_queues import METADATA_BYTES
from wirecap.linux import af_packet, af_xdp, netlink, syscall
from wirecap.source.wires import equip_ring
from wirecap.traffic.batch import Batch
from wirecap.traffic.sender import Links, Macs, Run, Stall, queue_list

CELL_BYTES = (2048, 4096)
CELLS = 1024
"""Cells, and ring entries, of a queue."""
_RING_PAGES = 8192 * 4
WITHOUT_ZERO_COPY = (errno.EOPNOTSUPP, errno.EINVAL)
"""What a driver without zero-copy says to it; virtio-net says the second where it lacks iommu_platform."""

Counts = NDArray[np.int64]


class TransmitRings(Protocol):
    """What a ``RingSender`` sends through, a ring for each place; made in the namespace of the interfaces."""

    way: str
    """For people: what sends, and how."""
    interfaces: list[str]
    places: list[tuple[str, int]]
    """The interface and the transmit queue of each ring; queue -1: the kernel chooses."""
    send: Any
    """The kernel that sends a batch, and the one that waits for what is under way."""
    finish: Any
    arrays: Any
    """What these two work on."""

    def unfinished(self) -> int:
        """Frames that were put into the rings and are not completed."""
        ...

    def completed(self) -> Counts:
        """Frames of each ring that the kernel is done with, sent or not."""
        ...

    def failed(self) -> Counts:
        """How often sending a frame of each ring has failed, whatever became of the frame."""
        ...

    def refused(self, dropped: Sequence[int]) -> Counts:
        """Completed frames of each ring that were not sent.  dropped: by each interface meanwhile, as it says."""
        ...

    def send_error(self) -> int:
        """Ask the kernel to send what is in the rings; 0, or the errno with which it refuses."""
        ...

    def close(self) -> None: ...


class XdpQueues:
    """Transmit queues of interfaces, ``places``, each with ``cells`` cells and ring entries.

    words: int64 (Q, TX_WORDS); umem: uint8 (Q, cells, cell_bytes).  copy: interfaces whose queues' buffers are not to
    be taken from the driver (zero-copy does).  launch: frames carry their launch times, which takes zero-copy, and
    METADATA_BYTES of each cell.
    """

    def __init__(
        self, places: Sequence[tuple[str, int]], cell_bytes: int, cells: int = CELLS, *, copy: Sequence[str] = (),
        launch: bool = False,
    ) -> None:  # fmt: skip
        self.places, self.interfaces = list(places), list(dict.fromkeys(name for name, _ in places))
        facts = {name: netlink.interface(name) for name in self.interfaces}
        for name in self.interfaces:
            check_queues(facts[name], [queue for place, queue in places if place == name])
        self.send, self.finish = (p.send_launch, p.finish_launch) if launch else (p.send_xdp, p.finish_xdp)
        self._metadata_bytes = METADATA_BYTES if launch else 0
        memory = af_xdp.cells(len(places) * cells * cell_bytes)
        self.umem = memory.reshape(len(places), cells, cell_bytes)
        self._region = af_xdp.Region(len(places) * (_RING_PAGES + cells * 48))
        data = self._region.bytes
        rings = Rings(data.view(np.int64), data.view(np.uint32), np.zeros(0, np.int64))
        self.arrays = xdp_arrays(rings, len(places), cells, cell_bytes, memory, self._metadata_bytes)
        self.words = self.arrays.words.reshape(len(places), t.TX_WORDS)
        self._sockets: list[af_xdp.Socket] = []
        try:
            for number, (name, queue) in enumerate(places):
                self._open(number, facts[name], queue, name in copy)
        except BaseException:
            self.close()
            raise
        mode = "zero-copy" if all(sender.zero_copy() for sender in self._sockets) else "copy mode"
        times = ", times kept by the NIC's clock" if launch else ""
        self.way = f"AF_XDP transmit ({mode}, {queue_list(list(dict.fromkeys(queue for _, queue in places)))}{times})"

    def _open(self, number: int, facts: netlink.Interface, queue: int, copy: bool) -> None:
        _, cells, cell_bytes = self.umem.shape
        sender = af_xdp.Socket(self._region)
        self._sockets.append(sender)
        sender.register(self.umem[number].reshape(-1), cell_bytes, self._metadata_bytes)
        sender.ring(af_xdp.FILL_RING, 64)  # the kernel wants one; it stays empty
        done = sender.ring(af_xdp.COMPLETION_RING, cells)
        equip_ring(self.words[number], sender.fd, sender.ring(af_xdp.TX_RING, cells), done)
        mode = af_xdp.COPY if copy else af_xdp.ZERO_COPY if self._metadata_bytes else 0
        try:
            sender.bind(facts.index, queue, af_xdp.NEED_WAKEUP | mode)
        except SystemCallError as error:
            said = error.message
            if mode == af_xdp.ZERO_COPY and error.errno in WITHOUT_ZERO_COPY:
                said = f"zero-copy is refused: {os.strerror(error.errno)}"
            raise SystemCallError(f"{facts.name} queue {queue}: {said}", error.errno, error.hint) from None

    def unfinished(self) -> int:
        words = self.words
        return int((words[:, t.PUT] - words[:, t.DONE] + words[:, xdp_queues.PENDING]).sum())

    def completed(self) -> Counts:
        counts = self.arrays.counts[:, 0]
        return counts[:, t.SENT] + counts[:, t.REFUSED]  # type: ignore[no-any-return]

    def failed(self) -> Counts:
        return self.arrays.counts[:, 0, t.REFUSED].copy()  # type: ignore[no-any-return]

    def refused(self, dropped: Sequence[int]) -> Counts:
        found, completed = self.failed(), self.completed()
        for name, count in zip(self.interfaces, dropped, strict=True):  # older kernels say nothing but this
            own = [number for number, (place, _) in enumerate(self.places) if place == name]
            more = count - int(found[own].sum())
            for number in own:
                taken = min(max(more, 0), int(completed[number] - found[number]))
                found[number] += taken
                more -= taken
        return found

    def send_error(self) -> int:
        return max(syscall.send_error(sender.fd) for sender in self._sockets)

    def close(self) -> None:
        for sender in self._sockets:
            sender.close()
        self._region.close()


def xdp_arrays(
    rings: Rings, queues: int, cells: int, cell_bytes: int, umem: NDArray[np.uint8], metadata_bytes: int = 0
) -> xdp_queues.XdpQueues:  # fmt: skip
    """The arrays of a sender's queues with all their cells free; where their rings are, ``equip_ring`` says.

    metadata_bytes: what lies in front of the frame in each cell.
    """
    words = np.zeros((queues, t.TX_WORDS), np.int64)
    words[:, xdp_queues.UMEM] = np.arange(queues) * cells * cell_bytes
    words[:, xdp_queues.FREE] = cells
    words[:, xdp_queues.NUMBER_AT] = -1
    counts = np.zeros((queues, 1, t.COUNT_WORDS), np.int64)
    free = np.tile(np.arange(cells, dtype=np.int64)[::-1] * cell_bytes + metadata_bytes, (queues, 1))
    return xdp_queues.XdpQueues(rings, words.reshape(-1), counts, free, umem)


class PacketSlots:
    """AF_PACKET transmit rings, one for each interface, for frames of up to ``longest`` bytes."""

    BYTES = 1 << 21
    LONGEST_BYTES = (1 << 17) - af_packet.HEADER_BYTES

    way = "AF_PACKET transmit ring"

    def __init__(self, interfaces: Sequence[str], longest: int) -> None:
        k = slots
        self.interfaces, self.places = list(interfaces), [(name, -1) for name in interfaces]
        self.send, self.finish = p.send_packet, p.finish_packet
        slot_bytes = 1 << (longest + af_packet.HEADER_BYTES - 1).bit_length()
        count = max(16, self.BYTES // slot_bytes)
        self._region = af_xdp.Region(len(interfaces) * count * slot_bytes)
        self._rings: list[af_packet.TransmitRing] = []
        self._words = np.zeros((len(interfaces), k.RING_WORDS), np.int64)
        try:
            for number, name in enumerate(interfaces):
                ring = af_packet.TransmitRing(self._region, netlink.interface(name).index, count, slot_bytes)
                self._rings.append(ring)
                self._words[number, [k.SOCKET, k.SLOTS, k.SLOT_BYTES, k.HEADER, k.BASE]] = (
                    ring.fd, count, slot_bytes, af_packet.HEADER_BYTES, ring.base,
                )  # fmt: skip
        except BaseException:
            self.close()
            raise
        data = self._region.bytes
        self.arrays = k.PacketRings(data.view(np.uint32), data, self._words.reshape(-1))

    def unfinished(self) -> int:
        return int((self._words[:, slots.PUT] - self._words[:, slots.COMPLETED]).sum())

    def completed(self) -> Counts:
        return self._words[:, slots.COMPLETED] + self._words[:, slots.REFUSED]

    def failed(self) -> Counts:
        return self._words[:, slots.REFUSED] + self._words[:, slots.HELD_BACK]

    def refused(self, dropped: Sequence[int]) -> Counts:
        """What the kernel held back for another try was dropped, but is not lost."""
        lost = np.array(dropped) - self._words[:, slots.HELD_BACK]
        return np.clip(lost, 0, self._words[:, slots.COMPLETED]) + self._words[:, slots.REFUSED]

    def send_error(self) -> int:
        codes = [syscall.send_error(ring.fd) for ring in self._rings]
        self._words[:, slots.HELD_BACK] += [code == errno.ENOBUFS for code in codes]
        return max(codes)

    def close(self) -> None:
        for ring in self._rings:
            ring.close()
        self._region.close()


def check_queues(facts: netlink.Interface, queues: Sequence[int]) -> None:
    """UsageError where the interface is down or lacks one of the queues."""
    if not facts.up:
        raise UsageError(f"{facts.name} is down", f"bring it up: ip link set {facts.name} up")
    if max(queues) >= facts.tx_queues:
        last = facts.tx_queues - 1
        there = f"queues 0-{last}" if last else "queue 0 only"
        raise UsageError(f"{facts.name} has no transmit queue {max(queues)}", f"it has {there}")


def cell_for(longest_bytes: int) -> int:
    """The size of a cell that holds such frames; UsageError where none does."""
    for size in CELL_BYTES:
        if longest_bytes <= size:
            return size
    raise UsageError(f"frames are too long: {longest_bytes} bytes", f"an AF_XDP cell holds at most {CELL_BYTES[-1]}")


PASSING = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS)  # af_xdp.rst, net/xdp/xsk.c: come again


class RingSender:
    """Sends through transmit rings; a ``Sender`` (traffic/sender.py)."""

    def __init__(self, ring: TransmitRings, paced: bool, macs: Macs) -> None:
        self.ring, self.way = ring, ring.way
        self.run = Run(paced, macs, len(ring.interfaces), len(ring.places))
        self.control = self.run.control
        self.links = Links(ring.interfaces)
        self._stall = Stall()
        self._failed = 0

    def kernels(self) -> list[Any]:
        return [self.ring.send, self.ring.finish]

    def start(self, now_ns: int) -> None:
        self.run.start(now_ns)

    def stage(self, batch: Batch) -> Batch:
        return batch

    def send(self, staged: Batch) -> None:
        run, arrays, frames = self.run, self.ring.arrays, staged.frames()
        run.control[p.POSITION] = 0
        while True:
            run.slice()
            code = self.ring.send(arrays, frames, staged.n, run.control, run.addresses, run.scratch)
            self._notice()
            if code == p.DONE or run.control[p.STOP]:
                return
            self._look()

    def finish(self) -> None:
        while True:
            self.run.slice()
            code = self.ring.finish(self.ring.arrays, self.control, self.run.scratch)
            self._notice()
            if code == p.DONE:
                return
            self._look()

    def _notice(self) -> None:
        """Raise if frames failed because a link is lost."""
        failed = int(self.ring.failed().sum())
        if failed != self._failed:
            self._failed = failed
            self._raise_lost()

    def _raise_lost(self) -> None:
        lost = self.links.lost(self.completed() - self.refused())
        if lost:
            raise lost

    def _look(self) -> None:
        """A slice ended: raise if nothing will ever go on."""
        if not self.ring.unfinished():
            self._stall.lasts(-2)
            return
        code = self.ring.send_error()
        if code in PASSING:
            code = 0
        if code or self._stall.lasts(self.completed()):
            self._raise_lost()
            reason = os.strerror(code).lower() if code else "no frame was completed for a while"
            sent = self.completed() - self.refused()
            raise WirecapError(f"{' and '.join(self.ring.interfaces)}: {reason}, after {sent} packets were sent")

    def completed(self) -> int:
        return int(self.ring.completed().sum())

    def unfinished(self) -> int:
        return self.ring.unfinished()

    def refused(self) -> int:
        return int(self.ring.refused(self.links.dropped()).sum())

    def _sent(self) -> list[int]:
        return (self.ring.completed() - self.ring.refused(self.links.dropped())).tolist()  # type: ignore[no-any-return]

    def per_queue(self) -> dict[int, int]:
        if len(self.ring.interfaces) > 1 or self.ring.places[0][1] < 0:
            return {}
        return {queue: count for (_, queue), count in zip(self.ring.places, self._sent(), strict=True)}

    def per_interface(self) -> dict[str, int]:
        if len(self.ring.interfaces) == 1:
            return {}
        return {name: count for (name, _), count in zip(self.ring.places, self._sent(), strict=True)}

    def close(self) -> None:
        self.ring.close()
        self.links.close()
