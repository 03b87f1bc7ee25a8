"""``flows``: flow records while capturing.  ``flows:idle=30s,active=2m,max=1000000``; docs/flows.md."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.config.capture import Spooling
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError, WirecapError
from wirecap.flows import targets
from wirecap.flows.exporter import Exporter
from wirecap.flows.interfaces import Interfaces, interfaces_of, ways_of
from wirecap.flows.memory import KERNELS, Table
from wirecap.flows.records import Records
from wirecap.handlers.handler import Handler, Setting, link_of
from wirecap.kernels.base import jit
from wirecap.kernels.flows import layout as f
from wirecap.kernels.flows.origin import UNKNOWN
from wirecap.kernels.flows.process import process
from wirecap.source.source import Source
from wirecap.units import parse_count, parse_duration_ns

IDLE_NS, ACTIVE_NS, LINGER_NS = 30_000_000_000, 120_000_000_000, 2_000_000_000
"""After this time without a packet a flow ends; after this time there is a record of it; this long after its end a TCP
connection may have stragglers."""
LONGEST_NS = 86_400_000_000_000
FLOWS, MOST_FLOWS = 1_000_000, 200_000_000
REASONS = {f.IDLE: "idle", f.ACTIVE: "active", f.END: "closed", f.FORCED: "at_end", f.EVICTED: "table_full"}


Part = tuple[NDArray[np.int64], NDArray[np.int64], Interfaces]


class Flows(Handler):
    """A table of flows in each handler thread, and a thread that takes finished records away."""

    name = "flows"
    process = staticmethod(process)
    has_result = True
    exports = True
    divides = False  # a flow's packets may be anywhere in a file

    def __init__(
        self, to: tuple[str, ...], spooling: Spooling, idle_ns: int, active_ns: int, capacity: int, inner: bool
    ) -> None:
        self._inner, self._spooling = inner, spooling
        self._to, self._idle_ns, self._active_ns, self._capacity = to, idle_ns, active_ns, capacity
        self._tables: list[Table] = []
        self._exporter: Exporter | None = None
        self._engine: Engine | None = None
        self._link, self._ways = 0, [UNKNOWN]
        self._kept: Kept | None = None

    @classmethod
    def make(cls, options: Mapping[str, str], setting: Setting) -> Flows:
        unknown = set(options) - {"idle", "active", "max", "tunnel"}
        if unknown:
            known = "its options are idle, active, max and tunnel"
            raise UsageError(f"handler flows has no option {min(unknown)!r}", known)
        tunnel = options.get("tunnel", "outer")
        if tunnel not in ("outer", "inner"):
            raise UsageError(f"handler flows: tunnel is outer or inner, not {tunnel!r}", "write flows:tunnel=inner")
        idle_ns, active_ns = (
            _time(name, options.get(name), default) for name, default in (("idle", IDLE_NS), ("active", ACTIVE_NS))
        )
        capacity = parse_count(options["max"]) if "max" in options else FLOWS
        if not 1 <= capacity <= MOST_FLOWS:
            raise UsageError(
                f"handler flows: max must be 1 to {MOST_FLOWS}, not {capacity}", "it is how many flows a table holds"
            )
        for target in setting.to:
            targets.check(target)
        return cls(setting.to, setting.spooling, idle_ns, active_ns, capacity, tunnel == "inner")

    def check(self, source: Source) -> None:
        link_of(self.name, (interface.dlt for interface in source.interfaces))

    def compile(self, tell: Callable[[str], None]) -> None:
        jit.prepare(KERNELS, tell)

    def open(self, engine: Engine, keep_going: bool, editable: bool) -> None:
        self._engine = engine
        self._link = link_of(self.name, (interface.dlt for interface in engine.source.interfaces))
        self._ways = ways_of(engine, self._link)
        self._exporter = Exporter(
            self._to, self._tables, self._interfaces, self._ended, engine.source.live, self._spooling
        )
        if self._kept:
            self._exporter.outputs.append(self._kept)
        engine.assist("flow exporter", self._exporter.run)

    def _interfaces(self) -> Interfaces:
        assert self._engine
        return interfaces_of(self._engine.source)

    def _ended(self) -> bool:
        assert self._engine
        return self._engine.all_handled

    @property
    def messages(self) -> deque[str]:
        outputs = self._exporter.outputs if self._exporter else []
        return next((output.messages for output in outputs if output.messages), deque())

    def discard(self) -> None:
        if self._exporter:
            self._exporter.discard()

    def state(self, consumer: int) -> NDArray[np.int64]:
        assert self._engine
        waits = not self._engine.source.live
        try:
            table = Table(
                self._capacity,
                self._idle_ns,
                self._active_ns,
                LINGER_NS,
                self._link,
                waits,
                self._inner,
                ways=self._ways,
            )
        except (OSError, MemoryError):
            raise WirecapError(
                f"handler flows: not enough memory for max={self._capacity} flows", "write a smaller flows:max="
            ) from None
        self._tables.append(table)
        return table.state(self._engine.pool.control.ctypes.data)

    def result(self) -> dict[str, Any]:
        """Packets and captured bytes in flows and without one, records by why they ended and by where they went."""
        return _sums(self._counted(), self._exporter.outputs if self._exporter else [])

    def _counted(self) -> NDArray[np.int64]:
        return sum((table.control for table in self._tables), np.zeros(f.CONTROL_WORDS, np.int64))

    def keep_parts(self) -> None:
        self._kept = Kept()

    def part(self) -> Part:
        """The control words, and the records in order of time, with their interfaces."""
        assert self._kept
        return self._counted(), self._kept.words(), self._interfaces()

    def fold(self) -> FlowFold:
        return FlowFold(self._to)


def _sums(words: NDArray[np.int64], outputs: Sequence[targets.Output]) -> dict[str, Any]:
    made = {name: int(words[f.MADE + reason]) for reason, name in REASONS.items()}
    records, dropped = sum(made.values()), Counter({"export_full": int(words[f.LOST])})
    for output in outputs:
        dropped.update(output.lost)
        if left := records - int(words[f.LOST]) - output.stored - sum(output.lost.values()):
            dropped["not_written"] += left  # the run failed
    sums: dict[str, Any] = {
        "records": records,
        "ended": made,
        "packets": int(words[f.FLOW_PACKETS]),
        "bytes": int(words[f.FLOW_BYTES]),
        "without": {name: int(words[f.OTHERS + kind]) for kind, name in f.KINDS.items()},
        "without_bytes": {name: int(words[f.OTHER_BYTES + kind]) for kind, name in f.KINDS.items()},
        "most_flows": int(words[f.MOST_HELD]),
        "stored": {output.target: output.stored for output in outputs},
        "dropped": dict(dropped),
        "dropped_packets": int(words[f.LOST_PACKETS]),
        "dropped_bytes": int(words[f.LOST_BYTES]),
    }
    if ways := {output.target: output.way for output in outputs if output.way}:
        sums["brokers"] = ways
    return sums


class Kept(targets.Output):
    """The records of one file, in memory."""

    def __init__(self) -> None:
        super().__init__("memory")
        self._words: list[NDArray[np.int64]] = []

    def write(self, records: Records) -> None:
        self._words.append(records.words)
        self.stored += len(records)

    def words(self) -> NDArray[np.int64]:
        """int64 (n, ENTRY_WORDS), in an order that the records alone decide."""
        words = np.concatenate([np.zeros((0, f.ENTRY_WORDS), np.int64), *self._words])
        columns = (f.KEY, f.B_LOW, f.B_HIGH, f.A_LOW, f.A_HIGH, f.LAST, f.FIRST)
        return words[np.lexsort([words[:, column] for column in columns])]

    def close(self) -> None: ...


class FlowFold:
    """Takes the records of file after file to the targets."""

    def __init__(self, to: Sequence[str]) -> None:
        self._outputs = [targets.open_output(target) for target in to]
        self._words = np.zeros(f.CONTROL_WORDS, np.int64)

    def add(self, part: Part) -> None:
        words, records, interfaces = part
        most = max(int(self._words[f.MOST_HELD]), int(words[f.MOST_HELD]))
        self._words = self._words + words
        self._words[f.MOST_HELD] = most
        for output in self._outputs if len(records) else ():
            output.write(Records(records, interfaces))

    def result(self) -> dict[str, Any]:
        for output in self._outputs:
            output.close()
        return _sums(self._words, self._outputs)


def _time(name: str, text: str | None, default: int) -> int:
    """A timeout in ns."""
    if text is None:
        return default
    try:
        time_ns = parse_duration_ns(text)
    except UsageError as error:
        raise UsageError(f"handler flows: {name}: {error.message}", error.hint) from None
    if not 1_000_000 <= time_ns <= LONGEST_NS:
        raise UsageError(f"handler flows: {name} must be 1ms to 24h, not {text}", f"write flows:{name}=30s")
    return time_ns
