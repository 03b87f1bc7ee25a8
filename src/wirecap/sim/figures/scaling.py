"""Figure 14: two NICs at wire rate in both directions, until the bus is full."""

from __future__ import annotations

from wirecap.sim import bus, handler_cost, workload
from wirecap.sim.figures.figure import Claim, Figure, Point, Progress, Series, listed, settings_of
from wirecap.sim.handler_cost import LINK_BPS, transmit_ps
from wirecap.sim.models import Dna, Model, WireCap
from wirecap.sim.simulate import simulate
from wirecap.sim.workload import wire_rate_pps

PACKETS = 2_000_000
"""Packets per generator; the paper's 10^9 give the same result, as the traffic is steady (bench/simulate.py)."""
QUEUES = (1, 2, 3, 4, 5, 6)
FRAMES = (64, 100)
ENGINES: tuple[Model, ...] = (Dna(), WireCap(256, 100, 60, True), WireCap(256, 500, 60, True))


def point(model: Model, frame_bytes: int, queues: int, tell: Progress) -> Point:
    """Both NICs with this many queues each: what passes the bus, run through the model."""
    offered = workload.burst(PACKETS, wire_rate_pps(LINK_BPS, frame_bytes), workload.even(queues))
    transmit = transmit_ps(frame_bytes)
    result = simulate(model, offered, handler_cost.filters(0), nics=2, transmit_ps=transmit, tell=tell)
    return Point(queues, result.drop_rate, result.as_dict())


def label(model: Model, frame_bytes: int) -> str:
    """A series' name."""
    return f"{model.label}@{frame_bytes}B"


def figure_14(tell: Progress) -> Figure:
    """Scalability: what more queues and larger pools cost once the bus is full."""
    series = []
    for frame in FRAMES:
        for model in ENGINES:
            points = [point(model, frame, queues, tell) for queues in QUEUES]
            series.append(Series(label(model, frame), points))
    by = {one.label: one for one in series}
    dna, small, large = (by[label(model, 64)] for model in ENGINES)
    calm = max(one.highest for one in series if one.label.endswith("@100B"))
    apart = [small.at(queues) - dna.at(queues) for queues in QUEUES]
    steps = [large.at(queues) - small.at(queues) for queues in QUEUES]
    top = max(one.highest for one in series)
    claims = [
        Claim("no loss with 100-byte frames (20.8 Mp/s)", "text", calm == 0, f"at most {calm:.2f} %"),
        Claim("with 64-byte frames (29.8 Mp/s) the bus is full and both lose", "text",
              min(dna.percents + small.percents) > 5, f"DNA {listed(dna.percents)} %"),
        Claim("WireCAP loses more than DNA at one queue per NIC", "text", apart[0] > 1, f"{apart[0]:.1f} points more"),
        Claim("(256,100) comes close to DNA as queues grow", "text",
              apart == sorted(apart, reverse=True) and apart[-1] <= 1, f"{listed(apart)} points more"),
        Claim("(256,500) does badly only at 5 and 6 queues per NIC", "text",
              max(steps[:4]) <= 0.5 and min(steps[4:]) > 1, f"{listed(steps)} points more than (256,100)"),
        Claim("the highest value is 24-29 %", "derived", 24 <= top <= 29, f"{top:.1f} %"),
    ]  # fmt: skip
    model_bus = bus.Bus()
    config = {
        "nics": 2, "packets_per_nic": PACKETS, "queues_per_nic": QUEUES, "frame_bytes": FRAMES, "link_bps": LINK_BPS,
        "handler": handler_cost.filters(0).name, "bus_budget_pps": model_bus.budget_pps,
        "operations": model_bus.operations,
        "resident_bytes": bus.RESIDENT_BYTES, "per_gib": model_bus.per_gib, "engines": settings_of(ENGINES),
    }  # fmt: skip
    fitted = "the bus model's three constants were fitted to this figure, so its agreement is not independent evidence"
    title = "Two NICs, both directions (x = 0)"
    return Figure(14, title, "receive queues per NIC", series, config, claims, notes=[fitted])
