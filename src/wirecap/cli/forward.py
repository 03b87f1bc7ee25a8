"""``wirecap forward``: from one interface to another, or to several, by way of handlers and a filter."""

from __future__ import annotations

from typing import Any

import click

from wirecap.cli import closing, config_file, options
from wirecap.cli.config_file import Configurable
from wirecap.cli.options import COUNT, DURATION, PRINTING, WRITING, Parsed, refused, section
from wirecap.config import forward as forward_config
from wirecap.config.capture import CaptureConfig
from wirecap.config.forward import ForwardConfig
from wirecap.config.sources import engine_names
from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError

HELP = """Receive on one interface and send on another, without copying.

Packets that the FILTER (a tcpdump expression) rejects or a handler drops are not sent. Handlers may
change packets: see docs/forwarding.md. With --to, the packets of one interface are spread over several,
each flow to one of them, for tools that read from an interface: tcpdump, Zeek, Suricata.

\b
  wirecap forward eth1 eth2 --both
  wirecap forward eth1 eth2 --handler ./my.py:ttl not arp
  wirecap forward eth1 --to v0,v1,v2 --balance flow
"""

where = section("Where from and where to")
sending = section("How to send")
engine = section("How to receive")


def _pair(text: str) -> tuple[QueueSpec, QueueSpec]:
    first, comma, second = text.partition(",")
    if not comma:
        raise UsageError(f"{text!r} is not a pair of interfaces", "write it as --pair eth3,eth4")
    return QueueSpec.parse(first), QueueSpec.parse(second)


def _several(text: str) -> tuple[QueueSpec, ...]:
    return tuple(QueueSpec.parse(part) for part in text.split(","))


def _checks(given: dict[str, Any]) -> CaptureConfig:
    """What the options say, checked as far as that takes no capture.  Raises UsageError."""
    from wirecap.handlers import table

    forward, words = _where(given)
    config = _config(given, forward, words)
    table.complete(config.handlers, None, forward)
    return config


@click.command(cls=Configurable, checks=_checks, help=HELP)
@where("--both", is_flag=True, help="Forward in both directions.")
@where("--pair", "pairs", multiple=True, type=Parsed("IN,OUT", _pair), help="Another pair; repeatable.")
@where("--to", "targets", type=Parsed("OUT,OUT,...", _several), help="Spread over these instead of one OUT.")
@where("--balance", type=click.Choice(forward_config.OUTPUTS_BY),
       help="flow, hosts: both directions stay together; packet: in turn; nic: by the NIC's hash."
       "  [default: flow]")  # fmt: skip
@where("--handler", "handlers", multiple=True, type=options.HANDLER, help="count, pkt_handler:x=300, ./my.py:object")
@sending("--tx-queue", "queue_by", type=click.Choice(forward_config.QUEUES_BY), default="same", show_default=True,
         help="Transmit queue: the receive queue's number, by flow hash, or the least loaded.")  # fmt: skip
@sending("--tx-wait", "patience_ns", type=DURATION, default=10_000_000, help="How long a chunk waits while the TX ring"
         " is full before its packets are dropped.  [default: 10ms]")  # fmt: skip
@sending("--checksums", type=click.Choice(forward_config.CHECKSUMS), default="auto", show_default=True,
         help="Finish checksums that a local stack left to its device; auto: from veth, tap, virtio.")  # fmt: skip
@engine("--engine", type=click.Choice(engine_names()), default="auto", show_default=True,
        help="xdp (and auto): AF_XDP. direct: handlers on a bare ring, the paper's Type II.")  # fmt: skip
@engine("--ring", "ring_cells", type=COUNT, help="xdp: cells attached to a queue [16384]; direct: descriptors [1024].")
@engine("--keep-going", is_flag=True, help="Count packets on which a handler fails, and send them unchanged.")
@options.options(where, engine)
@refused(*WRITING, message="forward writes no file",
         hint="capture at the other end of the wire: wirecap capture -i INTERFACE -w FILE")  # fmt: skip
@refused(*PRINTING, message="forward shows no packets",
         hint="capture at the other end of the wire: wirecap capture -i INTERFACE --print")  # fmt: skip
@refused("-i=", "--interface=", message="interfaces are named without it", hint="wirecap forward eth1 eth2")
@refused(
    "-r=", "--read=", message="forward sends what it receives", hint="wirecap replay -i INTERFACE FILE sends a file"
)
@config_file.options(where, section("Instead of forwarding"))
@options.argument("words", nargs=-1, metavar="IN [OUT] [FILTER]...")
def command(**given: Any) -> None:
    if config_file.check_is_asked(given):
        config_file.tell_checked(given, _checks(given).filter)
        return
    forward, words = _where(given)
    closing.run(given, _config(given, forward, words), forward=forward)


def _where(given: dict[str, Any]) -> tuple[ForwardConfig, tuple[str, ...]]:
    """The forwarding part of the command line, and the words of the filter."""
    words, targets = given["words"], given["targets"]
    shared = {name: given[name] for name in ("queue_by", "patience_ns", "checksums")}
    if targets is not None:
        if given["both"] or given["pairs"]:
            raise UsageError("--to forwards one way, from one interface", "leave --both and --pair out")
        if not words:
            raise UsageError("--to needs an interface to receive on", "use 'wirecap forward eth1 --to v0,v1'")
        return ForwardConfig(
            fan_out=(QueueSpec.parse(words[0]), targets), output_by=given["balance"] or "flow", **shared
        ), words[1:]  # fmt: skip
    if given["balance"]:
        raise UsageError("--balance needs several outputs", "name them: 'wirecap forward eth1 --to v0,v1'")
    if len(words) < 2:
        raise UsageError(
            "forwarding needs two interfaces", "use 'wirecap forward eth1 eth2' or 'wirecap forward eth1 --to v0,v1'"
        )
    pair = QueueSpec.parse(words[0]), QueueSpec.parse(words[1])
    return ForwardConfig(pairs=(pair, *given["pairs"]), both=given["both"], **shared), words[2:]


def _config(given: dict[str, Any], forward: ForwardConfig, words: tuple[str, ...]) -> CaptureConfig:
    if given["filter_text"] is not None and words:
        raise UsageError("the filter is given twice", "use either -f or trailing words")
    return CaptureConfig(
        sources=forward.sources,
        filter=(given["filter_text"] or " ".join(words)).strip(),
        duration_ns=given["duration_ns"],
        count=given["count"],
        **options.config_of(given),
    )
