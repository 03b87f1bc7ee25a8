"""Figures 8, 9 and 10: bursts at wire rate onto one queue, in basic mode."""

from __future__ import annotations

from collections.abc import Sequence

from wirecap.sim import closed_form, handler_cost, workload
from wirecap.sim.figures.figure import CLOSED_FORM, Claim, Figure, Point, Progress, Series, falls, settings_of
from wirecap.sim.handler_cost import HandlerCost
from wirecap.sim.models import Dna, Model, Netmap, PfRing, WireCap
from wirecap.sim.simulate import simulate

LINK_BPS = 10e9
FRAME_BYTES = 64
RATE_PPS = workload.wire_rate_pps(LINK_BPS, FRAME_BYTES)
BURSTS = (*(base * 10**power for power in range(2, 6) for base in (10, 15, 20, 30, 50, 70)), 10**7)
FIGURE_8_PACKETS = 10**7
FIGURE_9 = ((256, 100), (256, 200), (256, 300), (256, 500))
"""The paper varied (M,R) here; only the first and the last values are known [recalled]."""
FIGURE_10 = ((64, 400), (128, 200), (256, 100))


def burst_series(model: Model, cost: HandlerCost, packets: Sequence[int], rate_pps: float, tell: Progress) -> Series:
    """An engine's loss against the length of a burst on one queue."""
    points = []
    for count in packets:
        result = simulate(model, workload.burst(count, rate_pps), cost, tell=tell)
        points.append(Point(count, result.drop_rate, result.as_dict()))
    return Series(model.label, points)


def closed_series(label: str, buffered: int, cost: HandlerCost, packets: Sequence[int], rate_pps: float) -> Series:
    """The closed form for this many buffered packets."""
    points = [Point(n, closed_form.burst_drop(n, buffered, cost.rate_pps, rate_pps)) for n in packets]
    return Series(label, points, CLOSED_FORM)


def configuration(cost: HandlerCost, models: Sequence[Model], packets: object) -> dict[str, object]:
    return {
        "queues": 1, "packets": packets, "rate_pps": RATE_PPS, "frame_bytes": FRAME_BYTES, "handler": cost.name,
        "handler_pps": cost.rate_pps, "engines": settings_of(models),
    }  # fmt: skip


def figure_8(tell: Progress) -> Figure:
    """Capture without a load: which engines keep up with 64-byte frames at 10 Gbit/s."""
    cost = handler_cost.filters(0)
    models: list[Model] = [PfRing(), Dna(), Netmap(), WireCap(256, 100)]
    series = [burst_series(model, cost, [FIGURE_8_PACKETS], RATE_PPS, tell) for model in models]
    lossless = {one.label: one.highest for one in series if one.label != "PF_RING"}
    type_1 = series[0].highest
    claims = [
        Claim("DNA, NETMAP and WireCAP-B lose almost nothing", "recalled", max(lossless.values()) <= 0.1,
              ", ".join(f"{name} {value:.2f} %" for name, value in lossless.items())),
        Claim("PF_RING loses much", "recalled", type_1 >= 30, f"{type_1:.2f} %"),
    ]  # fmt: skip
    config = configuration(cost, models, FIGURE_8_PACKETS)
    names = {float(FIGURE_8_PACKETS): "10,000,000 packets"}
    return Figure(8, "Capture without a load (x = 0)", "", series, config, claims, bars=True, x_names=names)


def figure_9(tell: Progress) -> Figure:
    """A deeper pool survives a longer burst."""
    cost = handler_cost.filters(300)
    pools = [WireCap(M, R) for M, R in FIGURE_9]
    others: list[Model] = [PfRing(), Dna(), Netmap()]
    series = [burst_series(model, cost, BURSTS, RATE_PPS, tell) for model in [*others, *pools]]
    deep = series[len(others) :]
    sizes = {pool.label: pool.M * pool.R for pool in pools}
    series += [closed_series(label, size, cost, BURSTS, RATE_PPS) for label, size in sizes.items()]
    series.append(closed_series("DNA", 1024, cost, BURSTS, RATE_PPS))
    onsets = [max(int(p.x) for p in one.points if p.drop == 0) for one in deep]
    errors = errors_in_chunks(deep, series, 256)
    claims = [
        Claim("a larger R*M moves the first loss to longer bursts", "recalled", onsets == sorted(set(onsets)),
              "longest burst without loss on the grid: " + ", ".join(f"{onset:,}" for onset in onsets)),
        Claim("every point agrees with the closed form to within one chunk", "derived", errors <= 1,
              f"largest difference {errors:.2f} chunks"),
    ]  # fmt: skip
    config = configuration(cost, [*others, *pools], BURSTS)
    return Figure(9, "Bursts of P packets (x = 300), (M,R) varied", "packets P", series, config, claims, log_x=True)


def errors_in_chunks(simulated: Sequence[Series], series: Sequence[Series], M: int) -> float:
    """The largest difference from the closed form of the same label, in chunks of M packets."""
    closed = {one.label: one for one in series if one.kind == CLOSED_FORM}
    return max(
        abs(ours.drop - theirs.drop) * ours.x / M
        for one in simulated
        for ours, theirs in zip(one.points, closed[one.label].points, strict=True)
    )


def figure_10(tell: Progress) -> Figure:
    """Only the product R*M matters."""
    cost = handler_cost.filters(300)
    pools = [WireCap(M, R) for M, R in FIGURE_10]
    series = [burst_series(pool, cost, BURSTS, RATE_PPS, tell) for pool in pools]
    apart = max(
        abs(ours.drop - theirs.drop) * ours.x
        for one in series[1:]
        for ours, theirs in zip(one.points, series[0].points, strict=True)
    )
    drops = series[0].percents
    last = series[-1].at(10**7)
    claims = [
        Claim("the three curves coincide", "text", apart <= 256, f"at most {apart:.0f} packets apart"),
        Claim("no loss up to 25,600 packets, then rising loss", "derived",
              series[0].at(20_000) == 0 and falls(drops[::-1]) and drops[-1] > 99,
              ", ".join(f"{series[0].at(x):.1f} % at {x:,}" for x in (20_000, 30_000, 100_000, 1_000_000))),
        Claim("at 10^7 packets almost everything is lost", "derived", 99 <= last <= 100, f"{last:.2f} %"),
    ]  # fmt: skip
    config = configuration(cost, pools, BURSTS)
    title = "Bursts of P packets (x = 300), R*M fixed"
    return Figure(10, title, "packets P", series, config, claims, log_x=True)
