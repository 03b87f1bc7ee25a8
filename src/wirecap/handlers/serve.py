"""The ``serve`` handler: pcapng to any number of clients, each with a filter and drops of its own (docs/serve.md).

One thread takes chunks from the pool, puts their packets in order of time into pcapng blocks, and gives the chunks
back: it waits for nobody.  Another one does all that clients ask for (handlers/distribution.py).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from wirecap.config.capture import MAX_SNAPLEN
from wirecap.config.serve import ServeConfig
from wirecap.engine.accounting import give_up_merged
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError
from wirecap.filters.metadata import MARKED
from wirecap.handlers.distribution import Distribution
from wirecap.handlers.door import Door
from wirecap.handlers.handler import Follower, Selection, Setting
from wirecap.kernels.base import libc
from wirecap.kernels.file import merge as m
from wirecap.kernels.file.sift import count_interfaces, sift
from wirecap.kernels.file.write import PCAPNG_FLAGS, PCAPNG_NS
from wirecap.kernels.handlers.filter import select
from wirecap.kernels.pool import pool as k
from wirecap.source.source import Source

BLOCK_BYTES = 1 << 20
IDLE_NS = 20_000_000
"""How long packets of a quiet interface may lie before clients get them."""
WHOLE = 1 << 32
ENDLESS = 1 << 62


class Server(Follower):
    """Serves all queues as one stream.  snaplen: bytes of a packet that clients get."""

    name = "serve"
    per_queue = False

    def __init__(self, config: ServeConfig, filter: str, snaplen: int) -> None:
        self.config, self.filter = config, filter
        self.snaplen = snaplen if snaplen < MAX_SNAPLEN else WHOLE
        self.serving = str(config.listen)
        self._door: Door | None = None
        self._distribution: Distribution | None = None

    @classmethod
    def make(cls, options: Mapping[str, str], setting: Setting) -> Server:
        if options:
            raise UsageError(f"handler serve has no option {next(iter(options))!r}", "use those of wirecap serve")
        assert setting.serve
        return cls(setting.serve, setting.filter, setting.snaplen)

    def count(self, queues: int) -> int:
        return 1

    def of_queue(self, queue: int) -> int:
        return 0

    def kernels(self) -> list[Any]:
        return [m.merge_packets, sift, count_interfaces, select]

    def check(self, source: Source) -> None:
        """Listen, in the namespace of this process: before anything is compiled or attached."""
        if not source.live:
            raise UsageError("serve is for interfaces", "name one: wirecap serve eth1")
        self._door = Door(self.config)

    def warnings(self) -> list[str]:
        return [self._door.warning] if self._door and self._door.warning else []

    @property
    def messages(self) -> deque[str]:
        return self._distribution.messages if self._distribution else deque()

    def open(self, engine: Engine, keep_going: bool, editable: bool) -> None:
        assert self._door
        self._engine, source = engine, engine.source
        queues = len(source.queues)
        self._merge = m.new_merge(queues, list(range(queues)), engine.pool.free_slots.shape[1])
        self._layout = PCAPNG_FLAGS if source.mark_directions(engine.pool) else PCAPNG_NS
        links, marked = source.links(), self._layout == PCAPNG_FLAGS
        if marked:
            links = [one if one.direction in ("in", "out") else one._replace(direction=MARKED) for one in links]
        self._distribution = Distribution(
            self._door, source.interfaces, links, marked, self.filter, self.snaplen, self._lost, self._is_aborted
        )

    def run(self, engine: Engine, number: int, consumer: int, selection: Selection, direct: bool) -> None:
        assert self._distribution
        settings, queues = self._merge.settings, len(self._merge.mine)
        settings[m.LAYOUT], settings[m.SNAPLEN] = self._layout, self.snaplen
        settings[m.CONSUMER], settings[m.DIRECT] = consumer, direct
        settings[m.CLOSING] = k.CLOSE if direct else k.FINISH
        settings[m.FILE_END] = settings[m.PACKETS_LEFT] = ENDLESS
        if direct and queues > 1:
            engine.pool.control[k.MERGING] = 1
        self._distribution.start()
        try:
            self._take_all(selection)
        finally:
            if direct:
                give_up_merged(engine.pool, consumer, self._merge)
            self._distribution.end()
        if self._distribution.failure:
            raise self._distribution.failure

    def _take_all(self, selection: Selection) -> None:
        """Put packets into blocks until none comes any more."""
        assert self._distribution
        engine, merge, scratch = self._engine, self._merge, libc.scratch()
        counts, out = merge.counts, np.empty(BLOCK_BYTES, np.uint8)
        while not self._distribution.failure:
            before, counts[m.POSITION] = int(counts[m.WRITTEN]), 0
            merge.settings[m.DEADLINE] = time.time_ns() + IDLE_NS
            reason = m.merge_packets(
                engine.pool, engine.source.rings, selection.address, selection.states, merge, out, scratch
            )
            position = int(counts[m.POSITION])
            if position:
                self._distribution.put(out[:position], int(counts[m.WRITTEN]) - before)
            elif reason == m.FULL:
                out = np.empty(int(counts[m.WANTED]), np.uint8)
            if reason in (m.CLOSED, m.ABORTED):
                return

    def _is_aborted(self) -> bool:
        return bool(self._engine.pool.control[k.PHASE] == k.ABORT)

    def _lost(self) -> list[Mapping[str, int]]:
        """What the capture has lost so far on each interface, by name."""
        source = self._engine.source
        found: list[dict[str, int]] = [{} for _ in source.interfaces]
        for place, counts in zip(source.queues, self._engine.summary().queues, strict=True):
            for name, count in counts.drops.items():
                found[place.interface_id][name] = found[place.interface_id].get(name, 0) + count
        return list(found)

    def report(self, summary: dict[str, Any]) -> None:
        """What became of the packets that were delivered, client by client."""
        if shared := self._distribution:
            with shared.leaving:
                clients = [*shared.past, *(client.row() for client in list(shared.clients) if client.begun)]
            summary["serving"] = {
                "listen": str(self.config.listen), "served": shared.served, "refused": dict(shared.refused),
                "clients": clients,
            }  # fmt: skip

    def serving_now(self) -> dict[str, Any] | None:
        if not (shared := self._distribution):
            return None
        with shared.leaving:
            clients = [client.row() for client in list(shared.clients) if client.begun]
            drops, sent, sent_bytes = Counter(shared.gone_drops), shared.gone_sent, shared.gone_bytes
        for row in clients:
            drops.update(row["drops"])
            sent, sent_bytes = sent + row["sent"], sent_bytes + row["bytes"]
            del row["dropped"]
        return {
            "listen": str(self.config.listen), "served": shared.served, "refused": dict(shared.refused), "sent": sent,
            "bytes": sent_bytes, "drops": dict(drops), "clients": clients,
        }  # fmt: skip

    def close(self) -> None:
        if self._door:
            self._door.close()

    def discard(self) -> None:
        self.close()

    def flush(self) -> None:
        """Clients get packets as soon as no more follow."""

    @property
    def late(self) -> int:
        return int(self._merge.counts[m.LATE]) if self._distribution else 0

    @property
    def notes(self) -> list[str]:
        return []
