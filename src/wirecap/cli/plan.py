"""``wirecap plan``: works out M, R, T and memory from rate, burst and handler."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import click

from wirecap import units
from wirecap.cli.options import COUNT, SIZE, Command, Parsed, compiling, json_option, section, write_json
from wirecap.config import capture as config
from wirecap.errors import UsageError

HELP = """Work out how deep the pools must be: rate, burst and handler in; M, R, T and memory out.

The closed form gives the loss of a burst, leaving out the help of buddies; a simulation then checks it.

\b
  wirecap plan --link 10GbE --frame 64 --queues 6 --burst 100k --handler-rate 38844
  wirecap plan --link 100Gbps --frame 800 --queues 16 --worst 20% --burst 2M --handler-rate 1.5M --mean-rate 6M
  wirecap plan --from-summary out.json --burst 500ms
"""

traffic = section("Traffic")
work = section("Handler")
pool = section("Pool, if it is fixed")


def _share(text: str) -> float:
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / 100 if text.strip().endswith("%") else float(number)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"{text!r} is not a share", "write it as 30% or 0.3")
    return share


class Burst(NamedTuple):
    """The length of a burst, in packets or in seconds."""

    packets: int
    seconds: float | None = None


def _burst_of(text: str) -> Burst:
    try:
        return Burst(units.parse_count(text))
    except UsageError as error:
        try:
            return Burst(1, units.parse_duration_ns(text) / 1e9)
        except UsageError:
            raise UsageError(error.message, "write it as 100k (packets) or 500ms (a time)") from None


RATE = Parsed("RATE", units.parse_packet_rate)


@click.command(cls=Command, help=HELP)
@traffic("--link", "link_bps", type=Parsed("RATE", units.parse_link), default="10GbE", show_default=True,
         help="Speed of the link: 10GbE, or a rate from 1Mbps to 400Gbps.")  # fmt: skip
@traffic("--frame", "frame_bytes", type=SIZE, help="Bytes of a frame, check sequence included.  [default: 64]")
@traffic("--queues", type=COUNT, help="Receive queues, 1 to 64.  [default: 1]")
@traffic("--worst", "worst_share", type=Parsed("SHARE", _share), help="The largest share of packets on one queue: 30%.")
@traffic("--burst", type=Parsed("N|TIME", _burst_of), default="100k", show_default=True,
         help="Length of the burst: packets, or a time at its rate (500ms).")  # fmt: skip
@traffic("--burst-rate", "burst_pps", type=RATE, help="Rate of the burst; the link's if not given.")
@traffic("--mean-rate", "mean_pps", type=RATE, help="Long-term rate of the traffic; 0: only bursts matter.")
@work("--handler-rate", "handler_pps", type=RATE, help="Packets per second that one handler thread processes.")
@work("--from-summary", "summary", metavar="FILE", help="Take queues, shares, rates and frames from a summary.")
@work("--drops-ok", is_flag=True, help="Occasional drops are acceptable: choose T for core affinity.")
@pool("--mode", type=click.Choice(("auto", "basic", "advanced")), default="auto", show_default=True)
@pool("-M", "M", type=COUNT, help="Packets per chunk.")
@pool("-R", "R", type=COUNT, help="Chunks per queue.")
@pool("--cell", "cell_bytes", type=SIZE, default=2048, show_default=True, help="Bytes per packet: 2048 or 4096.")
@json_option("Write the plan", "Output")
def command(
    summary: str | None, drops_ok: bool, mode: str, M: int | None, R: int | None, json_file: str | None,
    burst: Burst, **given: Any,
) -> None:  # fmt: skip
    from wirecap.sim.plan import Demand, check, plan

    known = {name: value for name, value in given.items() if value is not None}
    if summary:
        seen = _measured(summary, known)
        known = {**seen, **known}
    if "handler_pps" not in known:
        raise UsageError(
            "the speed of the handler is unknown",
            "add its packets a second, such as --handler-rate 1M, or --from-summary FILE of a capture",
        )
    queues = known.setdefault("queues", 1)
    known.setdefault("frame_bytes", 64)
    known.setdefault("worst_share", 1 / max(1, queues))
    advanced = None if mode == "auto" else mode == "advanced"
    if advanced and queues == 1:
        raise UsageError("--mode advanced needs more than one queue", "add --queues, or leave --mode out")
    demand = Demand(**known, burst_packets=burst.packets, drops_critical=not drops_ok)
    if burst.seconds is not None:
        demand = replace(demand, burst_packets=round(burst.seconds * demand.rate_pps))
    found = plan(demand, advanced=advanced, M=M, R=R)
    simulated = check(found, compiling)
    if json_file != "-":
        if summary:
            click.echo(f"{summary}: {_seen(seen)}")
        _show(found, simulated)
        if summary and seen.get("mean_pps") and given["mean_pps"] is None:
            click.echo(
                "  note: the summary's rates are averages over its whole run; if it was idle for part of that, add"
                " --mean-rate and --handler-rate"
            )
    if json_file:
        write_json(json_file, _as_dict(found, simulated))


def _measured(path: str, known: dict[str, Any]) -> dict[str, Any]:
    """What a summary says about the demand."""
    from wirecap.sim.plan import read_summary

    seen = asdict(read_summary(path))
    if seen["handler_pps"] is None and "handler_pps" not in known:
        raise UsageError(f"{path} does not show how fast a handler is: no queue was overloaded",
                         "add --handler-rate")  # fmt: skip
    return {name: value for name, value in seen.items() if value is not None}


def _seen(seen: dict[str, Any]) -> str:
    queues = "1 queue" if seen["queues"] == 1 else f"{seen['queues']} queues"
    parts = [f"{queues}, the busiest with {100 * seen['worst_share']:.3g} %"]
    if seen["mean_pps"]:
        parts.append(units.format_packet_rate(seen["mean_pps"]))
    if "frame_bytes" in seen:
        parts.append(f"frames of {seen['frame_bytes']} bytes")
    if "handler_pps" in seen:
        parts.append(f"a handler does at least {units.format_packet_rate(seen['handler_pps'])}")
    return ", ".join(parts)


def _as_dict(found: Any, simulated: Any) -> dict[str, Any]:
    endless = math.isinf(found.burst_survived)
    return {
        **asdict(found),
        "mode": "advanced" if found.advanced else "basic",
        "survives": found.survives,
        "burst_survived": None if endless else int(found.burst_survived),
        "burst_survived_s": None if endless else found.burst_survived / found.demand.rate_pps,
        "burst_packets_simulated": simulated.total("received") if simulated else 0,
        "burst_loss_simulated": simulated.drop_rate if simulated else None,
        "offloaded_simulated": simulated.total("offloaded") if simulated else None,
    }


def _show(found: Any, simulated: Any) -> None:
    demand = found.demand
    mode = "advanced" if found.advanced else "basic"
    threshold = f" -T {found.T}" if found.advanced else ""
    cell = "" if demand.cell_bytes == config.CELLS[0] else f" --cell {demand.cell_bytes}"
    size = units.format_size(found.memory_bytes)
    click.echo(f"--mode {mode} -M {found.M} -R {found.R}{threshold}{cell}")
    click.echo(f"  memory          {demand.queues} x {found.R} x {found.M} x {demand.cell_bytes} = {size}"
               " (queues x R x M x cell)")  # fmt: skip
    click.echo(f"  worst queue     {units.format_packet_rate(demand.worst_pps)} of a burst's"
               f" {units.format_packet_rate(demand.rate_pps)} ({100 * demand.worst_share:.3g} %), its handler does"
               f" {units.format_packet_rate(demand.handler_pps)}")  # fmt: skip
    click.echo(f"  burst survived  {_survived(found)}")
    click.echo(f"  burst asked for {_burst(demand, demand.burst_packets)}: {_most(found.burst_loss)} lost"
               f" by the closed form, {_simulated(found, simulated)}")  # fmt: skip
    if demand.mean_pps:
        click.echo(f"  in the long run {_percent(found.mean_loss)} of {units.format_packet_rate(demand.mean_pps)} lost")
    for note in found.notes:
        click.echo(f"  note: {note}")


def _survived(found: Any) -> str:
    if math.isinf(found.burst_survived):
        return "any length: the handlers keep up"
    if not found.burst_survived:
        return "none for certain: chunks fill too fast"
    return f"at least {_burst(found.demand, int(found.burst_survived))}"


def _simulated(found: Any, simulated: Any) -> str:
    """What the simulator says about the burst, or about as much of it as was simulated."""
    if simulated is None:
        return "not simulated: the pools have too many chunks"
    lost, packets = _percent(simulated.drop_rate), simulated.total("received")
    names = ", ".join(name.replace("_", " ") for name in simulated.drops())
    why = f" ({names})" if names else ""
    if packets == found.demand.burst_packets:
        return f"{lost} when simulated{why}"
    return f"{lost} of the first {packets:,} when simulated{why}, by the closed form {_most(found.loss_of(packets))}"


def _burst(demand: Any, packets: int) -> str:
    return f"{packets:,} packets, {units.format_duration_ns(int(packets / demand.rate_pps * 1e9))}"


def _most(share: float) -> str:
    return f"at most {_percent(share)}" if share else _percent(share)


def _percent(share: float) -> str:
    """Two decimals, and a plain 0 only if nothing is lost."""
    if 0 < share < 5e-5:
        return "less than 0.01 %"
    return f"{100 * share:.2f} %" if share else "0 %"
