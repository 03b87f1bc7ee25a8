"""``wirecap simulate``: capture engines on a workload, in virtual time."""

from __future__ import annotations

from typing import Any

import click

from wirecap import config, units
from wirecap.cli import closing
from wirecap.cli.parameters import COUNT, DURATION, OUTPUT, PERCENT, Command, Parsed, section
from wirecap.cli.results import compiling, write_json
from wirecap.errors import UsageError

HELP = """Capture engines on a workload, in virtual time.

The engines are models of PF_RING (Type I), DNA and NETMAP (Type II) and WireCAP, as the paper compares
them; WireCAP's offload decisions and counters are those of a live capture (docs/simulator.md).

\b
  wirecap simulate --engine all --queues 4
  wirecap simulate --workload burst:packets=1M,rate=14.88Mpps -M 256 -R 500
  wirecap simulate --engine wirecap:R=100 --engine wirecap:R=500 --mode advanced --queues 4
  wirecap simulate --engine dna --engine wirecap --nics 2 --workload burst:packets=1M,rate=14.88Mpps --handler count
  wirecap simulate -r trace.pcap --queues 6 --mode advanced --handler pkt_handler:rate=5000
"""

DEFAULT_WORKLOAD = "border-router"

what = section("Engine")
traffic = section("Traffic")
work = section("Handler")
output = section("Output")


ENGINE_HELP = """{}, or all; repeatable. pf_ring:slots=10240,kernel=800ns and wirecap:R=500 have settings of their own.
[default: wirecap]"""


class Simulate(Command):
    """Its help names the engines of the table, which is not loaded before."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from wirecap.sim.engines import TABLE

        for param in self.params:
            if isinstance(param, click.Option) and param.name == "engines":
                param.help = ENGINE_HELP.format(", ".join(TABLE))
        super().format_options(ctx, formatter)


@click.command(cls=Simulate, help=HELP)
@what("--engine", "engines", multiple=True, metavar="NAME[:KEY=VALUE,...]", help=ENGINE_HELP)
@what("--mode", type=click.Choice(config.MODES), default="basic", show_default=True,
      help="advanced: queues in trouble hand chunks to idle ones.")  # fmt: skip
@what("-M", "M", type=COUNT, default=256, show_default=True, help="Packets of a chunk.")
@what("-R", "R", type=COUNT, default=100, show_default=True, help="Chunks of a queue.")
@what("-T", "T", type=PERCENT, default=60, show_default=True, help="Queue length that calls for a buddy, % of R.")
@what("--timeout", "timeout_ns", type=DURATION, default="1ms", show_default=True, help="For a partial chunk.")
@what("--ring", type=COUNT, default=1024, show_default=True, help="Descriptors of a receive ring.")
@traffic("--workload", "workload_text", metavar="NAME[:KEY=VALUE,...]",
         help="burst:packets=1M,rate=14.88Mpps; poisson:packets=1M,rate=100kpps;"
         " onoff:rate=200kpps,on=10ms,off=90ms,duration=10s; border-router.  [default: border-router]")  # fmt: skip
@traffic("-r", "trace", metavar="FILE", help="The packets of a pcap or pcapng file, through RSS onto the queues.")
@traffic("--speed", type=float, help="With -r: times as fast as recorded.  [default: 1]")
@traffic("--queues", type=COUNT, help="Receive queues.  [default: 6 for the border router, else 1]")
@traffic("--share", metavar="A,B,...", help="What part of the packets each queue gets; evenly if not given.")
@traffic("--nics", type=COUNT, default=1, show_default=True, help="So many NICs with this traffic each, on one bus.")
@traffic("--bus", "bus_pps", type=Parsed("RATE", units.parse_packet_rate),
         help="With --nics: packets a second that the bus moves.  [default: 23.8Mpps]")  # fmt: skip
@work("--handler", default="pkt_handler:x=300", show_default=True, metavar="NAME:KEY=VALUE",
      help="count, pkt_handler:x=300, pkt_handler:rate=38844, exponential:rate=R, lognormal:rate=R,sigma=S,"
      " costs:file=F (a cost in ns on each line).")  # fmt: skip
@work("--forward", is_flag=True, help="Send handled packets on, as 64 bytes through a NIC of 10 Gbit/s.")
@work("--seed", type=COUNT, default=1, show_default=True, help="Of a handler's random costs.")
@output("--json", "json_file", type=OUTPUT, help="Write the results as JSON; - is stdout.")
@output("-v", "--verbose", is_flag=True, help="Each queue too.")
def command(
    engines: tuple[str, ...], workload_text: str | None, trace: str | None, speed: float | None, queues: int | None,
    share: str | None, nics: int, bus_pps: int | None, handler: str, forward: bool, seed: int, json_file: str | None,
    verbose: bool, **settings: Any,
) -> None:  # fmt: skip
    from wirecap.sim import bus, load
    from wirecap.sim.simulate import compare

    if not 0 <= seed < 1 << 31:
        raise UsageError(f"a seed of {seed}", "it is below 2147483648")
    if nics < 1:
        raise UsageError(f"{nics} NICs", "there is one, or 2 to 16 on a bus")
    if bus_pps is not None and nics == 1:
        raise UsageError("--bus is what several NICs share", "add --nics 2")
    chosen = _engines(engines, settings, forward)
    cost = load.parse(handler)
    packets = _workload(workload_text, trace, speed, queues, share)
    found = compare(
        list(chosen), packets, cost, seed=seed, forward=forward, nics=nics,
        bus=None if bus_pps is None else bus.Bus(bus_pps), tell=compiling,
    )  # fmt: skip
    if json_file != "-":
        _show(found, list(chosen.values()), verbose)
        if forward and "all" in engines:
            click.echo("  NETMAP does not forward: its sync calls do not work per queue")
    if json_file:
        write_json(json_file, found)


def _engines(texts: tuple[str, ...], settings: dict[str, Any], forward: bool) -> dict[Any, str]:
    """The engines, and how the user wrote them."""
    from wirecap.sim.engines import TABLE, spec

    shared = {
        **{name: settings[name] for name in ("M", "R", "T", "ring")},
        "advanced": settings["mode"] == "advanced",
        "timeout_ps": settings["timeout_ns"] * 1000,
    }
    found: dict[Any, str] = {}
    for text in dict.fromkeys(texts or ("wirecap",)):
        engines = [spec.parse(name, shared) for name in (TABLE if text == "all" else [text])]
        if forward and text != "all" and not engines[0].forwards:
            raise UsageError(f"{engines[0].label} does not forward: its sync calls do not work per queue",
                             f"leave out --engine {text}")  # fmt: skip
        found |= {engine: text for engine in engines if engine.forwards or not forward}
    return found


def _workload(text: str | None, trace: str | None, speed: float | None, queues: int | None, share: str | None) -> Any:
    from wirecap.sim import workload_spec
    from wirecap.sim.workload import even

    if text and trace:
        raise UsageError("both a workload and a file", "give --workload or -r")
    if queues is not None and not 1 <= queues <= workload_spec.SHARES_MOST:
        raise UsageError(f"{queues} queues", f"a NIC has 1 to {workload_spec.SHARES_MOST}")
    if trace:
        from wirecap.sim.trace import read

        if share:
            raise UsageError("a file's packets have their queues from RSS", "leave --share out, give --queues")
        return read(trace, queues or 1, 1.0 if speed is None else speed, compiling)
    if speed is not None:
        raise UsageError("--speed is a recorded file's", "add -r FILE")
    text = text or DEFAULT_WORKLOAD
    shares = workload_spec.parse_shares(share) if share else even(queues or (6 if text == DEFAULT_WORKLOAD else 1))
    if queues is not None and len(shares) != queues:
        raise UsageError(f"{queues} queues and {len(shares)} shares", "give each queue a share")
    return workload_spec.parse(text, shares)


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
