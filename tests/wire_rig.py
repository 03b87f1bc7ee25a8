"""A forwarder on the memory NIC: packets in by ``inject``, out by ``transmit``, no kernel in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from rig import Rig, check_identity
from wirecap.config.forward import ForwardConfig
from wirecap.config.specs import QueueSpec
from wirecap.engine.engine import Engine
from wirecap.handlers.forward import Forwarder
from wirecap.handlers.handler import Selection
from wirecap.handlers.pipeline import Pipeline
from wirecap.kernels.pool import pool as k
from wirecap.kernels.transmit import ring as t
from wirecap.run import build
from wirecap.source.memory import MemorySource
from wirecap.source.rings import ATTACHED
from wirecap.source.source import CaptureSettings
from wirecap.source.wires import Output, WireTable

PATIENT_NS = 20_000_000_000
"""Where a full TX ring is not the matter: the thread that plays the kernel may have to wait for its CPU."""


class WireRig(Rig):
    """``queues`` receive queues, sent on to ``outputs`` NICs of ``tx_queues`` transmit queues each."""

    def __init__(
        self, handlers: Sequence[Any] = (), queues: int = 1, outputs: int = 1, tx_queues: int = 1, M: int = 8,
        R: int = 8, tx_entries: int = 64, queue_by: str = "same", output_by: str = "flow",
        patience_ns: int = PATIENT_NS, mtu: int = 1500, selection: Selection | None = None, keep_going: bool = False,
        cell: int = 2048, timeout_ns: int = 100_000, unfinished: bool = False, large: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        nics = [Output(f"out{number}", number, tuple(range(tx_queues)), mtu) for number in range(outputs)]
        table = WireTable(nics, [(0, outputs)] * queues, M * R * cell, unfinished=[unfinished] * queues)
        targets = tuple(QueueSpec(nic.name) for nic in nics)
        config = ForwardConfig(
            fan_out=(QueueSpec("memory0"), targets), queue_by=queue_by, output_by=output_by, patience_ns=patience_ns
        )
        self.source = MemorySource(queues, M * R, cell, wires=table, tx_entries=tx_entries, large=large)
        self.forwarder = Forwarder(table, config)
        self.application = Pipeline(list(handlers), None, selection, keep_going, self.forwarder)
        build.prepare(self.source, self.application)
        self.engine = Engine(
            self.source, self.application, M=M, R=R, settings=CaptureSettings(timeout_ns=timeout_ns), **options
        )
        self._attached = min(M * R, ATTACHED)
        self.sent: list[list[bytes]] = [[] for _ in table.places]
        """The frames that left, by wire."""
        self._stopped = threading.Event()
        self._kernel: threading.Thread | None = None

    def transmit(self, wire: int, count: int = 1 << 30) -> int:
        frames = self.source.transmit(wire, count)
        self.sent[wire] += frames
        return len(frames)

    def run_kernel(self) -> None:
        """Let a thread take frames from all wires until the rig is left."""

        def work() -> None:
            while not self._stopped.is_set():
                if not sum(self.transmit(wire) for wire in range(len(self.sent))):
                    time.sleep(0.0005)

        self._kernel = threading.Thread(target=work)
        self._kernel.start()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._stopped.set()
        if self._kernel:
            self._kernel.join()

    @property
    def packets(self) -> int:
        return sum(map(len, self.sent))

    @property
    def forwarded(self) -> int:
        return self.engine.summary().total("forwarded")

    def check(self, received: int) -> None:
        """The identity holds, forwarded packets are those that left, and every cell is where it can be."""
        check_identity(self.engine, received)
        assert self.forwarded == self.packets
        check_cells(self)


def check_cells(rig: WireRig) -> None:
    """Each cell of a stopped engine is in one place, and in one only."""
    pool, cell = rig.engine.pool, rig.source.cell
    span = pool.free_cells.shape[1]
    found: list[int] = []
    returned = pool.returned.reshape(len(rig.source.queues), -1)
    for queue, lane in enumerate(returned):
        words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
        found += pool.free_cells[queue, : words[k.FREE_CELLS]].tolist()
        found += [address - 1 for address in lane[24:].tolist() if address]  # kernels/pool/work_queues.py: PLACES
        found += attached(rig, queue)
    for wire in rig.source.wires.words.tolist():
        places = range(wire[t.DONE], wire[t.PUT])
        found += [int(rig.source.rings.words[wire[t.TX_DESCRIPTORS] + (n & wire[t.TX_MASK]) * 2]) for n in places]
    for slot in range(pool.meta.size // k.SLOT_WORDS):
        meta = pool.meta[slot * k.SLOT_WORDS : (slot + 1) * k.SLOT_WORDS]
        if meta[k.STATE] & 3 in (k.CAPTURED, k.RECYCLED):
            found += pool.address[slot, : meta[k.COUNT]].tolist()
    cells = sorted(address // cell for address in found)
    assert cells == list(range(span * len(rig.source.queues)))


def attached(rig: WireRig, queue: int) -> list[int]:
    """Cells of a queue in the fill ring that no packet took."""
    from wirecap.kernels.xdp import rings as r

    words = rig.engine.pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
    ring = range(int(words[k.TAKEN]), int(words[r.SUBMITTED]))
    return [int(rig.source.rings.words[words[r.FILL_DESCRIPTORS] + (n & words[r.FILL_MASK])]) for n in ring]
