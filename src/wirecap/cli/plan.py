"""``wirecap plan``: from rate, burst and handler to M, R, T and memory."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import click

from wirecap import units
from wirecap.cli.parameters import COUNT, SIZE, Command, Parsed, section
from wirecap.errors import UsageError

HELP = """How deep the pools have to be: rate, burst and handler in; M, R, T and memory out.

The result is reckoned by the closed form and checked by simulating the burst.

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
@traffic("--mean-rate", "mean_pps", type=RATE, help="Of the traffic over a long time.")
@work("--handler-rate", "handler_pps", type=RATE, help="Packets a second that one handler thread does.")
@work("--from-summary", "summary", metavar="FILE", help="Take queues, shares and rates from a capture's summary.")
@work("--drops-ok", is_flag=True, help="A drop now and then is no harm: T for core affinity instead.")
@pool("--mode", type=click.Choice(("auto", "basic", "advanced")), default="auto", show_default=True)
@pool("-M", "M", type=COUNT, help="Packets of a chunk.")
@pool("-R", "R", type=COUNT, help="Chunks of a queue.")
@pool("--cell", "cell_bytes", type=SIZE, default=2048, show_default=True, help="Bytes for a packet: 2048 or 4096.")
@output("--json", "json_file", metavar="FILE", help="Write the plan as JSON; - is stdout.")
def command(
    summary: str | None, drops_ok: bool, mode: str, M: int | None, R: int | None, json_file: str | None, **given: Any
) -> None:
    from wirecap.cli.simulate import write_json
    from wirecap.sim.plan import Demand, check, plan

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
    found = plan(Demand(**known, drops_critical=not drops_ok), advanced=advanced, M=M, R=R)
    simulated = check(found)
    if json_file != "-":
        if summary:
            click.echo(f"{summary}: {_seen(seen)}")
        _show(found, simulated)
    if json_file:
        write_json(json_file, _as_dict(found, simulated))


def _measured(path: str, known: dict[str, Any]) -> dict[str, Any]:
    from wirecap.sim.measured import read

    seen = read(path)
    if seen.handler_pps is None and "handler_pps" not in known:
        raise UsageError(f"{path}: no queue was overloaded, so that it does not tell how fast a handler is",
                         "add --handler-rate")  # fmt: skip
    found = {"queues": seen.queues, "worst_share": seen.worst_share, "mean_pps": seen.mean_pps,
             "frame_bytes": seen.frame_bytes}  # fmt: skip
    return found if seen.handler_pps is None else {**found, "handler_pps": seen.handler_pps}


def _seen(seen: dict[str, Any]) -> str:
    rate = seen.get("handler_pps")
    handler = f", a handler at least {units.format_packet_rate(rate)}" if rate else ""
    return (
        f"{seen['queues']} queues, {units.format_packet_rate(seen['mean_pps'])} of {seen['frame_bytes']} bytes,"
        f" the worst queue {100 * seen['worst_share']:.3g} %{handler}"
    )


def _as_dict(found: Any, simulated: Any) -> dict[str, Any]:
    survived = None if math.isinf(found.burst_survived) else int(found.burst_survived)
    return {
        **asdict(found),
        "mode": "advanced" if found.advanced else "basic",
        "burst_survived": survived,
        "burst_loss_simulated": simulated.drop_rate,
        "offloaded_simulated": simulated.total("offloaded"),
    }


def _show(found: Any, simulated: Any) -> None:
    demand = found.demand
    mode = "advanced" if found.advanced else "basic"
    threshold = f" -T {found.T}" if found.advanced else ""
    size = units.format_size(found.memory_bytes)
    cell = f" x {demand.cell_bytes}"
    survived = found.burst_survived
    length = "any length" if math.isinf(survived) else f"{int(survived):,} packets"
    least = " at least" if found.advanced else ""
    click.echo(f"--mode {mode} -M {found.M} -R {found.R}{threshold}")
    click.echo(f"  memory          {demand.queues} x {found.R} x {found.M}{cell} = {size}")
    click.echo(f"  burst survived  {length}{least}, at {units.format_packet_rate(demand.rate_pps)}"
               f" with {100 * demand.worst_share:.3g} % on the worst queue")  # fmt: skip
    click.echo(f"  burst asked for {demand.burst_packets:,} packets: {100 * found.burst_loss:.2f} % lost by the closed"
               f" form, {100 * simulated.drop_rate:.2f} % when simulated")  # fmt: skip
    if demand.mean_pps:
        click.echo(
            f"  in the long run {100 * found.mean_loss:.2f} % of {units.format_packet_rate(demand.mean_pps)} lost"
        )
    for note in found.notes:
        click.echo(f"  note: {note}")
