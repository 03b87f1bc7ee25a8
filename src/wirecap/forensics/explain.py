"""From recorded losses to what the summary says of them: who was slow, which flows, and what would have held them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from wirecap.engine.engine import Engine
from wirecap.forensics.advice import Advice, Setting, advise, peak
from wirecap.forensics.losses import Loss
from wirecap.forensics.recorder import Recorder
from wirecap.linux import probes
from wirecap.sim.plan import UNSURE_CHUNKS
from wirecap.sim.simulate import Tell
from wirecap.units import format_packet_rate, format_size

ADVICE_S = 30.0
"""After this time no further loss is simulated: whoever ended the capture waits."""
FLOWS_SHOWN = 5
LINES_MOST = 3
"""Losses that the closing lines explain; the summary has them all."""
ROUGHLY = 0.1
"""A share of the packets of a loss by which the simulator may be wrong about it."""
_NOBODY = "nobody"
_SLOW = {
    "capture_late": "capture thread", "rx_ring_full": "capture thread", "handler_failed": "handler",
    "oversize": _NOBODY, "tx_ring_full": "outgoing interface", "tx_refused": "outgoing interface",
    "tx_too_long": _NOBODY, "tx_unfinished": "outgoing interface",
}  # fmt: skip
"""Who was slow, by the name of the drop; for others it is whoever had the chunks."""


def explain(
    recorder: Recorder, ring: int | None = None, cell: int = 2048, tell: Tell | None = None
) -> list[dict[str, Any]]:
    """The ``losses`` of the summary (docs/summary.md); ring: the cells that were asked to be kept attached.

    tell: called for each kernel that has to be compiled.
    """
    losses, end = recorder.losses.all(), time.monotonic() + ADVICE_S
    found = {}
    for loss in sorted(losses, key=lambda one: -one.packets):
        found[id(loss)] = _explained(recorder.engine, loss, ring, cell, tell, time.monotonic() < end)
    return [found[id(loss)] for loss in losses]


def at_once(engine: Engine, loss: Loss) -> list[str]:
    """A loss in sentences, for a capture that goes on: what is simulated in the end is only estimated."""
    lines = sentences(_row(engine, loss))
    rate = loss.rates_pps[loss.queue] if loss.rates_pps else 0.0
    if "pool_exhausted" in loss.drops and loss.since_start and rate:
        R = -(-peak(loss.arrivals[loss.queue], rate) // engine.M) + UNSURE_CHUNKS
        lines.append(f"  would have held them: -R {R} or so (the end of the capture says exactly)")
    return [lines[0], *(line.strip() for line in lines[1:])]


def _explained(
    engine: Engine, loss: Loss, ring: int | None, cell: int, tell: Tell | None, in_time: bool
) -> dict[str, Any]:  # fmt: skip
    advised, note = _advice(engine, loss, ring, tell) if in_time else ([], "larger losses took the simulator's time")
    rough = _is_rough(engine, loss, advised)
    return {
        **_row(engine, loss),
        "advice": [_as_dict(one, engine, cell, rough) for one in advised],
        "advice_note": note,
    }


def _is_rough(engine: Engine, loss: Loss, advised: Sequence[Advice]) -> bool:
    """Whether the simulator loses another number of packets with the pools as they were than the capture did.

    Handlers do not always take the same time, other queues may lose packets too, and the packet engine has the kernel's
    ring in front of its pool.
    """
    same = [one for one in advised if one.setting.advanced == (engine.advanced and engine.layout.sharing)]
    return any(abs(one.lost_as_it_was - loss.packets) > ROUGHLY * loss.packets for one in same)


def _row(engine: Engine, loss: Loss) -> dict[str, Any]:
    """A loss as the summary has it, without advice."""
    place = engine.source.queues[loss.queue]
    main = loss.drops.most_common(1)[0][0]
    first_ns = min(loss.first_ns, loss.last_ns)
    return {
        "interface": place.interface,
        "queue": place.queue,
        "packets": loss.packets,
        "drops": dict(loss.drops.most_common()),
        "first_ns": first_ns,
        "last_ns": loss.last_ns,
        "times_of": "packets" if loss.exact else "counters",
        "slow": _SLOW.get(main) or _holder(loss),
        "arrived_pps": round(_arrived_pps(loss, (loss.last_ns - first_ns) // 1_000_000), 1),
        "handled_pps": round(loss.rates_pps[loss.queue] if loss.rates_pps else 0.0, 1),
        "flows": _flows(loss),
        "flows_note": None if loss.sampled else _no_flows(engine, main),
        "advice": [],
        "advice_note": None,
    }


def _arrived_pps(loss: Loss, span_ms: int) -> float:
    """How fast packets came while the queue lost some: over the loss itself, or at least its busiest millisecond."""
    row = loss.arrivals[loss.queue] if loss.arrivals.size else loss.arrivals.reshape(-1)
    if not row.size:
        return 0.0
    window = max(1, min(int(span_ms), row.size))
    sums = row.astype(int).cumsum()
    sums[window:] = sums[window:] - sums[:-window]
    return float(sums[window - 1 :].max()) * 1000 / window


def _flows(loss: Loss) -> list[dict[str, Any]]:
    if not loss.sampled:
        return []
    return [
        {"flow": name, "packets": packets, "share": round(packets / loss.sampled, 4)}
        for name, packets in loss.flows.most(FLOWS_SHOWN)
    ]


def _no_flows(engine: Engine, name: str) -> str:
    return engine.source.unsampled or f"packets lost as {name} are counted, not sampled"


def _advice(engine: Engine, loss: Loss, ring: int | None, tell: Tell | None) -> tuple[list[Advice], str | None]:
    """What would have held a loss, in the mode that ran and in advanced mode if that might help; or why nothing."""
    if "ring_full" in loss.drops:
        return [], "a bare ring has no pool behind it: --engine xdp has, and says which R is enough"
    if "pool_exhausted" not in loss.drops:
        return [], "a larger pool would not have held these"
    if not loss.since_start:
        return [], "the queue had been filling up for longer than is recorded: no pool holds a lasting overload"
    queues = len(engine.source.queues)
    own = Setting(engine.M, engine.R, engine.T, engine.advanced and engine.layout.sharing, ring)
    found = []
    if not own.advanced:
        alone = loss.arrivals[loss.queue : loss.queue + 1]
        found.append(advise(own, alone, loss.rates_pps[loss.queue], tell))
    if queues > 1 and engine.layout.sharing:
        found.append(advise(replace(own, advanced=True), loss.arrivals, loss.handler_pps, tell))
    known = [one for one in found if one and one.lost_as_it_was]
    if known:
        return known, None
    if any(found):
        return [], (
            f"at the rate of the {_holder(loss)} nothing would have been lost: it stood still for a while;"
            f" -R {engine.R + -(-loss.packets // engine.M) + 1} is certainly enough for that"
        )
    return [], "the recording is too long, or too little was handled, to be simulated"


def _holder(loss: Loss) -> str:
    """Who had the chunks most of the time."""
    return (loss.held.most_common(1) or [("handler", 0)])[0][0]


def _as_dict(advice: Advice, engine: Engine, cell: int, rough: bool) -> dict[str, Any]:
    setting = advice.setting
    size = setting.M * setting.R * cell * len(engine.source.queues)
    room = probes.available_memory_bytes() + int(engine.source.arena.nbytes)
    return {
        "mode": "advanced" if setting.advanced else "basic",
        "R": setting.R,
        "T": setting.T if setting.advanced else None,
        "pool_bytes": size,
        "fits": size <= room,
        "peak_packets": advice.peak,
        "rough": rough,
        "simulated": {
            "lost": 0, "less_R": advice.less, "lost_with_less": advice.lost_with_less,
            "lost_as_it_was": advice.lost_as_it_was,
        },
    }  # fmt: skip


def lines(losses: Sequence[Mapping[str, Any]], left_out: int = 0) -> list[str]:
    """The losses of a summary in sentences: the largest ones, in order of time."""
    largest = sorted(losses, key=lambda row: -row["packets"])[:LINES_MOST]
    found = [line for row in losses if any(row is one for one in largest) for line in sentences(row)]
    others = len(losses) - len(largest) + left_out
    return [*found, *([f"and {others} more losses (--summary-json, --html)"] if others else [])]


def sentences(row: Mapping[str, Any]) -> list[str]:
    """One loss: when and why; the flows; what would have held it."""
    named = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in row["drops"].items())
    where = f"{row['interface']} queue {row['queue']} lost {row['packets']} packets {_span(row)} ({named})"
    found = [f"{where}: {_why(row)}"]
    if row["flows"]:
        shown = ", ".join(f"{one['flow']} ({100 * one['share']:.0f} %)" for one in row["flows"][:3])
        found.append(f"  most of them: {shown}")
    held = [advice_text(one) for one in row["advice"]]
    if held:
        found.append(f"  would have held them: {'; or '.join(held)}")
    elif row["advice_note"] and row["slow"] != _NOBODY:
        found.append(f"  {row['advice_note']}")
    return found


def advice_text(one: Mapping[str, Any]) -> str:
    """``-R 158 (...)``."""
    mode = f"--mode advanced -R {one['R']} -T {one['T']}" if one["mode"] == "advanced" else f"-R {one['R']}"
    simulated = one["simulated"]
    shown = "simulated: 0 lost"
    if simulated["lost_with_less"]:
        shown += f", {simulated['lost_with_less']} with -R {simulated['less_R']}"
    about = "roughly; " if one["rough"] else ""
    large = "" if one["fits"] else f"; {format_size(one['pool_bytes'])}, more than is free"
    return f"{mode} ({about}{shown}{large})"


def _why(row: Mapping[str, Any]) -> str:
    slow = row["slow"]
    if slow == _NOBODY:
        return "nobody was slow"
    if slow == "capture thread":
        return "the capture thread got no CPU in time"
    rates = ""
    if row["arrived_pps"] and row["handled_pps"]:
        rates = (
            f": {format_packet_rate(row['arrived_pps'])} came, {format_packet_rate(row['handled_pps'])} were handled"
        )
    return f"the {slow} was slow{rates}"


def _span(row: Mapping[str, Any]) -> str:
    first, last = (datetime.fromtimestamp(row[name] / 1e9) for name in ("first_ns", "last_ns"))
    length_ms = (row["last_ns"] - row["first_ns"]) / 1e6
    of = f"{length_ms:.1f} ms" if length_ms < 1000 else f"{length_ms / 1000:.1f} s"
    return f"from {_clock(first)} to {_clock(last)} ({of})"


def _clock(at: datetime) -> str:
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
