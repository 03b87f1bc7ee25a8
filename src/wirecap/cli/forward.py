"""``wirecap forward``: from one interface to another, or to several, through handlers and a filter."""

from __future__ import annotations

from typing import Any

import click

from wirecap import config, forward_config
from wirecap.cli import closing, engine_options
from wirecap.cli.parameters import COUNT, DURATION, Command, Parsed, section
from wirecap.config import CaptureConfig, HandlerSpec, QueueSpec
from wirecap.errors import UsageError
from wirecap.forward_config import ForwardConfig

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
engine = section("How it is received")


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
@where(
    "--handler", "handlers", multiple=True, type=engine_options.HANDLER, help="count, pkt_handler:x=300, ./my.py:object"
)
@sending("--tx-queue", "queue_by", type=click.Choice(forward_config.QUEUES_BY), default="same", show_default=True,
         help="The transmit queue: that of the receive queue, by the flow's hash, the least loaded.")  # fmt: skip
@sending("--tx-wait", "patience_ns", type=DURATION, default=10_000_000, help="How long a chunk waits for a full TX"
         " ring, before its packets are dropped.  [default: 10ms]")  # fmt: skip
@engine("--engine", type=click.Choice(config.ENGINES), default="auto", show_default=True,
        help="xdp, and so auto: AF_XDP. direct: handlers on a bare ring, the paper's Type II.")  # fmt: skip
@engine("--ring", "ring_cells", type=COUNT, help="xdp: cells attached to a queue [16384]; direct: descriptors [1024].")
@engine("--keep-going", is_flag=True, help="Count a packet on which a handler fails, and send it as it is.")
@engine_options.options(where, engine)
@click.argument("words", nargs=-1, metavar="IN [OUT] [FILTER]...")
def command(**given: Any) -> None:
    forward, words = _where(given)
    closing.run(given, _config(given, forward, words), forward=forward)


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
    return CaptureConfig(
        sources=forward.sources,
        filter=(given["filter_text"] or " ".join(words)).strip(),
        duration_ns=given["duration_ns"],
        count=given["count"],
        **engine_options.config_of(given),
    )


def _check_handler(spec: HandlerSpec) -> None:
    if spec.name == "write":
        raise UsageError("forward does not write a file", "capture on the outgoing side: wirecap capture -w FILE")
