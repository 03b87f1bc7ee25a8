"""``wirecap simulate``: run models of capture engines on a workload, in virtual time."""

from __future__ import annotations

from typing import Any

import click

from wirecap import units
from wirecap.cli import closing
from wirecap.cli.options import (
    COUNT,
    DURATION,
    PERCENT,
    Command,
    Parsed,
    compiling,
    json_option,
    section,
    write_json,
)
from wirecap.config import capture as config
from wirecap.config.sources import MODELS
from wirecap.errors import UsageError

HELP = """Run models of capture engines on a workload, in virtual time.

There are models of PF_RING (Type I), DNA and NETMAP (Type II) and WireCAP, the engines that the paper
compares. The model of WireCAP makes the same offload decisions, and has the same counters, as a live
capture (docs/simulator.md).

\b
  wirecap simulate --engine all --queues 4
  wirecap simulate --workload burst:packets=1M,rate=14.88Mpps -M 256 -R 500
  wirecap simulate --engine wirecap:R=100 --engine wirecap:R=500 --mode advanced --queues 4
  wirecap simulate --engine dna --engine wirecap --nics 2 --workload burst:packets=1M,rate=14.88Mpps --handler count
  wirecap simulate -r trace.pcap --queues 6 --mode advanced --handler pkt_handler:rate=5000
"""

DEFAULT_WORKLOAD = "border-router"
CANNOT_FORWARD = "{} cannot forward: its sync calls do not work per queue"

what = section("Engine")
traffic = section("Traffic")
work = section("Handler")
output = section("Output")


ENGINE_HELP = """{}, or all (WireCAP in both modes); repeatable. A model's own settings follow its
name: pf_ring:slots=10240,kernel=800ns, wirecap:R=500.  [default: wirecap]"""


class Simulate(Command):
    """Its help lists the models in the table, which is loaded only when somebody asks for help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from wirecap.sim.models import TABLE

        for param in self.params:
            if isinstance(param, click.Option) and param.name == "engines":
                param.help = ENGINE_HELP.format(", ".join(TABLE))
        super().format_options(ctx, formatter)


@click.command(cls=Simulate, help=HELP)
@what("--engine", "engines", multiple=True, metavar="NAME[:KEY=VALUE,...]",
      help=ENGINE_HELP.format(", ".join(MODELS)))  # fmt: skip
@what("--mode", type=click.Choice(config.MODES), default="basic", show_default=True,
      help="advanced: a queue that falls behind hands chunks to idle ones.")  # fmt: skip
@what("-M", "M", type=COUNT, default=256, show_default=True, help="Packets per chunk.")
@what("-R", "R", type=COUNT, default=100, show_default=True, help="Chunks per queue.")
@what("-T", "T", type=PERCENT, default=60, show_default=True, help="A queue longer than this % of R offloads.")
@what(
    "--timeout", "timeout_ns", type=DURATION, default="1ms", show_default=True, help="A partial chunk waits this long."
)
@what("--ring", type=COUNT, default=1024, show_default=True, help="Descriptors in a receive ring.")
@traffic("--workload", "workload_text", metavar="NAME[:KEY=VALUE,...]",
         help="burst:packets=1M,rate=14.88Mpps; poisson:packets=1M,rate=100kpps;"
         " onoff:rate=200kpps,on=10ms,off=90ms,duration=10s; border-router.  [default: border-router]")  # fmt: skip
@traffic("-r", "trace", metavar="FILE", help="The packets of a pcap or pcapng file; RSS spreads them over the queues.")
@traffic("--speed", type=float, help="With -r: 2 replays the file twice as fast as it was recorded.  [default: 1]")
@traffic("--queues", type=COUNT, help="Receive queues.  [default: 6 for the border router, else 1]")
@traffic("--share", metavar="A,B,...", help="The share of the packets that each queue gets.  [default: equal shares]")
@traffic("--nics", type=COUNT, default=1, show_default=True, help="NICs that share one bus, each with this traffic.")
@traffic("--bus", "bus_pps", type=Parsed("RATE", units.parse_packet_rate),
         help="With --nics: how many packets a second the bus can move.  [default: 23.8Mpps]")  # fmt: skip
@work("--handler", default="pkt_handler:x=300", show_default=True, metavar="NAME:KEY=VALUE",
      help="count, pkt_handler:x=300, pkt_handler:rate=38844, exponential:rate=R, lognormal:rate=R,sigma=S,"
      " costs:file=F (one cost in ns per line).")  # fmt: skip
@work("--forward", is_flag=True, help="Forward every handled packet, as 64 bytes on a 10 Gbit/s NIC.")
@work("--seed", type=COUNT, default=1, show_default=True, help="Seed for a handler's random costs.")
@json_option("Write the results", "Output")
@output("-v", "--verbose", is_flag=True, help="Show each queue too.")
def command(
    engines: tuple[str, ...], workload_text: str | None, trace: str | None, speed: float | None, queues: int | None,
    share: str | None, nics: int, bus_pps: int | None, handler: str, forward: bool, seed: int, json_file: str | None,
    verbose: bool, **settings: Any,
) -> None:  # fmt: skip
    from wirecap.sim import bus, handler_cost
    from wirecap.sim.simulate import compare

    if not 0 <= seed < 1 << 31:
        raise UsageError(f"--seed {seed} is too large", "the largest is 2147483647")
    if nics < 1:
        raise UsageError(f"--nics {nics} is too small", "use 1, or 2 to 16 for several NICs on one bus")
    if bus_pps is not None and nics == 1:
        raise UsageError("--bus makes no difference to a single NIC", "add --nics 2")
    chosen = _engines(engines, settings, forward)
    cost = handler_cost.parse_handler_cost(handler)
    packets = _workload(workload_text, trace, speed, queues, share)
    for note in packets.notes:
        click.echo(note, err=True)
    found = compare(
        list(chosen), packets, cost, seed=seed, forward=forward, nics=nics,
        bus=None if bus_pps is None else bus.Bus(bus_pps), tell=compiling,
    )  # fmt: skip
    if json_file != "-":
        _show(found, list(chosen.values()), verbose)
        if forward and "all" in engines:
            click.echo(f"  left out: {CANNOT_FORWARD.format('NETMAP')}")
    if json_file:
        write_json(json_file, found)


def _engines(texts: tuple[str, ...], settings: dict[str, Any], forward: bool) -> dict[Any, str]:
    """The models to run, each with the text that asked for it."""
    from wirecap.sim.models.table import TABLE, parse_model

    shared = {
        **{name: settings[name] for name in ("M", "R", "T", "ring")},
        "advanced": settings["mode"] == "advanced",
        "timeout_ps": settings["timeout_ns"] * 1000,
    }
    found: dict[Any, str] = {}
    for text in dict.fromkeys(texts or ("wirecap",)):
        if text == "all":
            engines = [parse_model(name, {**shared, **own}) for name, kind in TABLE.items() for own in kind.variants]
        else:
            engines = [parse_model(text, shared)]
        if forward and text != "all" and not engines[0].forwards:
            raise UsageError(CANNOT_FORWARD.format(engines[0].label), f"leave out --engine {text}")
        found |= {engine: text for engine in engines if engine.forwards or not forward}
    return found


def _workload(text: str | None, trace: str | None, speed: float | None, queues: int | None, share: str | None) -> Any:
    from wirecap.sim import workload
    from wirecap.sim.workload import even

    if text and trace:
        raise UsageError("--workload and -r both say which packets arrive", "use one of them")
    if queues is not None and not 1 <= queues <= workload.SHARES_MOST:
        raise UsageError(f"unsupported number of queues: {queues}", f"use 1 to {workload.SHARES_MOST}")
    if trace:
        from wirecap.sim.workload import recorded

        if share:
            raise UsageError("--share does not apply to a file: RSS chooses its packets' queues", "use --queues")
        return recorded(trace, queues or 1, 1.0 if speed is None else speed, compiling)
    if speed is not None:
        raise UsageError("--speed applies only to a recorded file", "add -r FILE")
    text = text or DEFAULT_WORKLOAD
    shares = workload.parse_shares(share) if share else even(queues or (6 if text == DEFAULT_WORKLOAD else 1))
    if queues is not None and len(shares) != queues:
        raise UsageError(f"--queues {queues} does not match the {len(shares)} shares of --share", "give each queue one")
    return workload.parse_workload(text, shares)


def _show(found: dict[str, Any], texts: list[str], verbose: bool) -> None:
    labels = [result["label"] for result in found["results"]]
    several = f"{found['nics']} NICs, each " if found["nics"] > 1 else ""
    click.echo(
        f"{several}{found['workload']}: {found['packets']:,} packets in {found['workload_s']:.6g} s,"
        f" handler {found['handler']} ({units.format_packet_rate(found['handler_pps'])} a thread)"
    )
    for result, text in zip(found["results"], texts, strict=True):
        packets = result["packets"]
        label = result["label"] if labels.count(result["label"]) == 1 else f"{result['label']} ({text})"
        drops = [f"{number:,} {name.replace('_', ' ')}" for name, number in packets["drops"].items()]
        offloaded = f", {packets['offloaded']:,} handed to a buddy" if packets["offloaded"] else ""
        click.echo(
            f"  {label:<25} {packets['delivered']:>13,} captured{offloaded},"
            f" {100 * result['drop_rate']:.2f} % dropped" + (f" ({', '.join(drops)})" if drops else "")
        )
        if verbose:
            for line in closing.per_queue(result):
                click.echo(f"    {line}")
