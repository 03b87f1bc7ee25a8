"""``wirecap forward``: from one interface to another, or to several, through handlers and a filter."""

from __future__ import annotations

from typing import Any

import click

from wirecap import config, forward_config
from wirecap.cli import capture, closing, engine_options
from wirecap.cli.parameters import COUNT, DURATION, PERCENT, SIZE, Command, Parsed, section
from wirecap.config import CaptureConfig, HandlerSpec, QueueSpec
from wirecap.errors import UsageError, WirecapError
from wirecap.forward_config import ForwardConfig
from wirecap.observe import progress

HELP = """Receive on one interface, send on another, from the same memory.

What the FILTER (tcpdump's language) does not want and what a handler drops is not sent. Handlers may
change packets: see docs/forwarding.md. With --to the packets of one interface are spread over several,
each flow to one of them, for tools that read an interface: tcpdump, Zeek, Suricata.

\b
  wirecap forward eth1 eth2 --both
  wirecap forward eth1 eth2 --handler ./my.py:ttl not arp
  wirecap forward eth1 --to v0,v1,v2 --balance flow
"""

where = section("From where to where")
sending = section("How it is sent")
until = section("Until when")
engine = section("How it is received")
output = section("What is shown")


def _pair(text: str) -> tuple[QueueSpec, QueueSpec]:
    first, comma, second = text.partition(",")
    if not comma:
        raise UsageError(f"{text!r} is no pair", "write it as --pair eth3,eth4")
    return QueueSpec.parse(first), QueueSpec.parse(second)


def _several(text: str) -> tuple[QueueSpec, ...]:
    return tuple(QueueSpec.parse(part) for part in text.split(","))


@click.command(cls=Command, help=HELP)
@where("--both", is_flag=True, help="In both directions.")
@where("--pair", "pairs", multiple=True, type=Parsed("IN,OUT", _pair), help="Another pair; repeatable.")
@where("--to", "targets", type=Parsed("OUT,OUT,...", _several), help="Spread over these, in place of one OUT.")
@where("--balance", type=click.Choice(forward_config.OUTPUTS_BY),
       help="By flow and by hosts both directions stay together; packet: by turns.  [default: flow]")  # fmt: skip
@where("-f", "filter_text", metavar="FILTER", help="The filter, as dumpcap takes it.")
@where("--handler", "handlers", multiple=True, type=capture.HANDLER, help="count, pkt_handler:x=300, ./my.py:object")
@where("--netns", metavar="NAME", help="Network namespace of the interfaces.")
@where("--take-over", is_flag=True, help="Take an interface that the host uses: the host loses its packets.")
@where("-p", "--no-promiscuous-mode", "not_promiscuous", is_flag=True, help="Leave promiscuous mode alone.")
@sending("--tx-queue", "queue_by", type=click.Choice(forward_config.QUEUES_BY), default="same", show_default=True,
         help="The transmit queue: that of the receive queue, by the flow's hash, the least loaded.")  # fmt: skip
@sending("--tx-wait", "patience_ns", type=DURATION, default=10_000_000, help="How long a chunk waits for a full TX"
         " ring, before its packets are dropped.  [default: 10ms]")  # fmt: skip
@until("-c", "count", type=COUNT, help="End after so many packets.")
@until("--duration", "duration_ns", type=DURATION, help="End after this time: 30s, 5m.")
@engine("--engine", type=click.Choice(config.ENGINES), default="auto", show_default=True,
        help="xdp, and so auto: AF_XDP. direct: handlers on a bare ring, the paper's Type II.")  # fmt: skip
@engine("--mode", type=click.Choice(config.MODES), default="basic", show_default=True,
        help="advanced: queues in trouble hand chunks to idle ones.")  # fmt: skip
@engine("-M", "M", type=COUNT, default=256, show_default=True, help="Packets of a chunk.")
@engine("-R", "R", type=COUNT, help="Chunks of a queue.  [default: 100]")
@engine("-T", "T", type=PERCENT, default=60, show_default=True, help="Queue length that calls for a buddy, % of R.")
@engine("--buddies", multiple=True, metavar="eth1@0-3+eth2", type=Parsed("GROUP", engine_options.parse_buddies),
        help="A buddy group; repeatable. One of all queues if not given.")  # fmt: skip
@engine("-B", "--buffer-size", type=Parsed("SIZE", engine_options.parse_buffer),
        help="Buffer of a queue, in place of -R: 64MiB, or a number of KiB.")  # fmt: skip
@engine("--cell", type=SIZE, default=2048, show_default=True, help="Bytes for a packet: 2048 or 4096.")
@engine("--ring", "ring_cells", type=COUNT, help="xdp: cells attached to a queue [16384]; direct: descriptors [1024].")
@engine("--xdp-mode", type=click.Choice(config.XDP_MODES), default="auto", show_default=True, help="Where XDP runs.")
@engine("--kernel-filter", type=click.Choice(["drop", "host"]),
        help="Run the filter in the XDP program; what it does not want is dropped, or goes to the host.")  # fmt: skip
@engine("--capture-threads", type=COUNT, help="One for each queue if not given.")
@engine("--cpus", type=Parsed("LIST", engine_options.parse_cpus), default=(), help="CPUs to pin threads to: 0,1.")
@engine("--timeout", "timeout_ns", type=DURATION, default=1_000_000, help="Wait for a full chunk.  [default: 1ms]")
@engine("--keep-going", is_flag=True, help="Count a packet on which a handler fails, and send it as it is.")
@output("-q", "--quiet", is_flag=True, help="No live line; the counters at the end only.")
@output("-v", "verbose", count=True, help="Counters of each queue at the end.")
@output("--summary-json", metavar="FILE", help="Write the summary as JSON; - is the standard output.")
@click.argument("words", nargs=-1, metavar="IN [OUT] [FILTER]...")
def command(**given: Any) -> None:
    forward, words = _where(given)
    capture_config = _config(given, forward, words)

    from wirecap import api  # brings in NumPy and Numba

    display = progress.choose(given["quiet"])
    try:
        summary = api.run_capture(capture_config, None, display, forward)
    except WirecapError as error:
        _close(display, getattr(error, "summary", None), given)
        raise
    finally:
        display.close()
    _close(display, summary, given)


def _where(given: dict[str, Any]) -> tuple[ForwardConfig, tuple[str, ...]]:
    """The forwarding part of a command line, and the words of its filter."""
    words, targets = given["words"], given["targets"]
    shared = {name: given[name] for name in ("queue_by", "patience_ns")}
    if targets is not None:
        if given["both"] or given["pairs"]:
            raise UsageError("--to goes one way, from one interface", "leave --both and --pair out")
        if not words:
            raise UsageError("--to has no interface to receive on", "write wirecap forward eth1 --to v0,v1")
        return ForwardConfig(
            fan_out=(QueueSpec.parse(words[0]), targets), output_by=given["balance"] or "flow", **shared
        ), words[1:]  # fmt: skip
    if given["balance"]:
        raise UsageError("--balance is for several outputs", "name them: wirecap forward eth1 --to v0,v1")
    if len(words) < 2:
        raise UsageError("two interfaces are needed", "write wirecap forward eth1 eth2, or eth1 --to v0,v1")
    pair = QueueSpec.parse(words[0]), QueueSpec.parse(words[1])
    return ForwardConfig(pairs=(pair, *given["pairs"]), both=given["both"], **shared), words[2:]


def _config(given: dict[str, Any], forward: ForwardConfig, words: tuple[str, ...]) -> CaptureConfig:
    for spec in given["handlers"]:
        _check_handler(spec)
    if given["filter_text"] is not None and words:
        raise UsageError("the filter is given in two ways", "take -f or trailing words")
    same = ("engine", "mode", "T", "handlers", "kernel_filter", "duration_ns", "count", "netns", "take_over",
            "capture_threads", "cpus", "timeout_ns", "buddies", "keep_going", "summary_json")  # fmt: skip
    return CaptureConfig(
        sources=forward.sources, pool=engine_options.pool_of(given), xdp_mode=given["xdp_mode"],
        ring=given["ring_cells"],
        filter=(given["filter_text"] or " ".join(words)).strip(), promiscuous=not given["not_promiscuous"],
        **{name: given[name] for name in same},
    )  # fmt: skip


def _check_handler(spec: HandlerSpec) -> None:
    if spec.name == "write":
        raise UsageError("forward does not write a file", "capture on the outgoing side: wirecap capture -w FILE")


def _close(display: progress.Progress, summary: dict[str, Any] | None, given: dict[str, Any]) -> None:
    """Take the live line away and tell what was forwarded, also by a run that failed half-way."""
    display.close()
    if summary is None:
        return
    lines = closing.counters(summary)
    if given["verbose"]:
        lines += closing.per_queue(summary) + closing.outputs(summary)
    for line in lines:
        click.echo(line, err=True)
    if "handlers" in summary:
        from wirecap.handlers.state import plain

        summary = {**summary, "handlers": plain(summary["handlers"])}
        for line in closing.failures(summary) if given["keep_going"] else ():
            click.echo(line, err=True)
        if given["summary_json"] != "-":
            for line in closing.results(summary):
                click.echo(line)
    if given["summary_json"]:
        closing.write_json(summary, given["summary_json"])
