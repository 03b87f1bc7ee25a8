"""``wirecap plan``: from rate, burst and handler to M, R, T and memory."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import click

from wirecap import config, units
from wirecap.cli.parameters import COUNT, OUTPUT, SIZE, Command, Parsed, section
from wirecap.cli.results import compiling, write_json
from wirecap.errors import UsageError

HELP = """How deep the pools have to be: rate, burst and handler in; M, R, T and memory out.

The burst is reckoned by the closed form, which leaves out what buddies do, and checked by simulating it.

\b
  wirecap plan --link 10Gbps --frame 64 --queues 6 --burst 100k --handler-rate 38844
  wirecap plan --link 100Gbps --frame 800 --queues 16 --worst 20% --burst 2M --handler-rate 1.5M --mean-rate 6M
  wirecap plan --from-summary out.json --burst 500k
"""

traffic = section("Traffic")
work = section("Handler")
pool = section("Pool, where it is given")
output = section("Output")


def _share(text: str) -> float:
    number = text.strip().removesuffix("%")
    try:
        return float(number) / 100 if text.strip().endswith("%") else float(number)
    except ValueError:
        raise UsageError(f"{text!r} is not a share", "write it as 30% or 0.3") from None


RATE = Parsed("RATE", units.parse_packet_rate)


@click.command(cls=Command, help=HELP)
@traffic("--link", "link_bps", type=Parsed("RATE", units.parse_bit_rate), default="10Gbps", show_default=True,
         help="Speed of the link: 1Gbps to 400Gbps.")  # fmt: skip
@traffic("--frame", "frame_bytes", type=SIZE, help="Bytes of a frame, check sequence included.  [default: 64]")
@traffic("--queues", type=COUNT, help="Receive queues, 1 to 64.  [default: 1]")
@traffic("--worst", "worst_share", type=Parsed("SHARE", _share), help="Largest part of the packets on one queue: 30%.")
@traffic("--burst", "burst_packets", type=COUNT, default="100k", show_default=True, help="Packets of the burst.")
@traffic("--burst-rate", "burst_pps", type=RATE, help="Its rate; the link's if not given.")
@traffic("--mean-rate", "mean_pps", type=RATE, help="Of the traffic over a long time; 0: only bursts matter.")
@work("--handler-rate", "handler_pps", type=RATE, help="Packets a second that one handler thread does.")
@work("--from-summary", "summary", metavar="FILE", help="Take queues, shares, rates and frames from a summary.")
@work("--drops-ok", is_flag=True, help="A drop now and then is no harm: T for core affinity instead.")
@pool("--mode", type=click.Choice(("auto", "basic", "advanced")), default="auto", show_default=True)
@pool("-M", "M", type=COUNT, help="Packets of a chunk.")
@pool("-R", "R", type=COUNT, help="Chunks of a queue.")
@pool("--cell", "cell_bytes", type=SIZE, default=2048, show_default=True, help="Bytes for a packet: 2048 or 4096.")
@output("--json", "json_file", type=OUTPUT, metavar="FILE", help="Write the plan as JSON; - is stdout.")
def command(
    summary: str | None, drops_ok: bool, mode: str, M: int | None, R: int | None, json_file: str | None, **given: Any
) -> None:
    from wirecap.sim.demand import Demand
    from wirecap.sim.plan import check, plan

    known = {name: value for name, value in given.items() if value is not None}
    if summary:
        seen = _measured(summary, known)
        known = {**seen, **known}
    if "handler_pps" not in known:
        raise UsageError("how fast is the handler?", "give --handler-rate 38844, or --from-summary FILE")
    queues = known.setdefault("queues", 1)
    known.setdefault("frame_bytes", 64)
    known.setdefault("worst_share", 1 / max(1, queues))
    advanced = None if mode == "auto" else mode == "advanced"
    if advanced and queues == 1:
        raise UsageError("--mode advanced with one queue: there is no buddy", "leave it out, or give --queues")
    found = plan(Demand(**known, drops_critical=not drops_ok), advanced=advanced, M=M, R=R)
    simulated = check(found, compiling)
    if json_file != "-":
        if summary:
            click.echo(f"{summary}: {_seen(seen)}")
        _show(found, simulated)
        if summary and seen.get("mean_pps") and given["mean_pps"] is None:
            click.echo(
                "  note: the summary's rates are over its whole run: give --mean-rate, --handler-rate if it idled"
            )
    if json_file:
        write_json(json_file, _as_dict(found, simulated))


def _measured(path: str, known: dict[str, Any]) -> dict[str, Any]:
    """What a summary says of a demand."""
    from wirecap.sim.measured import read

    seen = asdict(read(path))
    if seen["handler_pps"] is None and "handler_pps" not in known:
        raise UsageError(f"{path}: no queue was overloaded, so that it does not tell how fast a handler is",
                         "add --handler-rate")  # fmt: skip
    return {name: value for name, value in seen.items() if value is not None}


def _seen(seen: dict[str, Any]) -> str:
    queues = "1 queue" if seen["queues"] == 1 else f"{seen['queues']} queues"
    parts = [f"{queues}, the worst with {100 * seen['worst_share']:.3g} %"]
    if seen["mean_pps"]:
        parts.append(units.format_packet_rate(seen["mean_pps"]))
    if "frame_bytes" in seen:
        parts.append(f"frames of {seen['frame_bytes']} bytes")
    if "handler_pps" in seen:
        parts.append(f"a handler at least {units.format_packet_rate(seen['handler_pps'])}")
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
        return "of any length: handlers keep up"
    if not found.burst_survived:
        return "none for certain: chunks come too fast"
    return f"at least {_burst(found.demand, int(found.burst_survived))}"


def _simulated(found: Any, simulated: Any) -> str:
    """What the simulator says of the burst, or of as much of it as it was given."""
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
    """Two digits, and a plain 0 only where nothing is lost."""
    if 0 < share < 5e-5:
        return "less than 0.01 %"
    return f"{100 * share:.2f} %" if share else "0 %"
