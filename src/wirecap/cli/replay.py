"""``wirecap replay``: capture files onto an interface, as tcpreplay's options have it where it has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wirecap.cli import sending
from wirecap.cli.parameters import COUNT, Command, Parsed, refused, section
from wirecap.errors import UsageError

if TYPE_CHECKING:
    from wirecap.linux.netlink import Interface
    from wirecap.traffic.timing import Timing

HELP = """Replay capture files onto an interface.

FILES are pcap or pcapng, .gz and .zst too, of any size; - is the standard input. Without --speed, --pps, --rate
or --topspeed the packets go out exactly as they were recorded.

\b
  wirecap replay -i eth1 trace.pcap
  wirecap replay -i eth1 --pps 500k --loop 10 trace.pcapng
  wirecap replay -i eth1 --topspeed --queues 0-3 --queue-by symmetric a.pcap b.pcap
"""
QUEUE_BY = ("rss", "symmetric", "recorded")
TIMER = "there is one way to wait: sleep, then watch the clock"


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"{text!r} is no factor", "1.0 is as recorded, 2.0 twice as fast")
    return value


def _milliseconds(text: str) -> int:
    """tcpreplay's --maxsleep and --loopdelay-ms count milliseconds; other units can be written."""
    from wirecap.units import parse_duration_ns

    return parse_duration_ns(f"{text}ms" if text.strip().isdecimal() else text)


def _table(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is no indirection table", "write positions in --queues: 0,1,1,0") from None


def _key(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raise UsageError(f"{text!r} is no RSS key", "write 40 bytes in hex, as ethtool -x prints them") from None


@click.command(cls=Command, help=HELP)
@sending.options
@sending.when("-x", "--speed", "--multiplier", "speed", type=Parsed("FACTOR", _positive),
              help="So many times as fast as recorded.  [default: 1.0]")  # fmt: skip
@sending.when("--max-gap", "--maxsleep", "most_gap_ns", type=Parsed("TIME", _milliseconds),
              help="Shorten longer pauses of the recording to this (ms).")  # fmt: skip
@sending.where(
    "--queue-by",
    type=click.Choice(QUEUE_BY),
    help="Choose as a NIC's RSS does (standard or symmetric key), or the file's own queue.  [default: rss]",
)
@sending.where("--rss-key", type=Parsed("HEX", _key), help="Another key: 40 bytes in hex, as ethtool -x prints them.")
@sending.where("--rss-table", type=Parsed("LIST", _table),
               help="The indirection table: positions in --queues, a power of two of them.")  # fmt: skip
@sending.until("-l", "--loop", "loops", type=COUNT, default=1, show_default=True, help="Times; 0 is for ever.")
@sending.until("--loop-delay", "--loopdelay-ms", "loop_pause_ns", type=Parsed("TIME", _milliseconds), default=0,
               help="Pause between two of them (ms).")  # fmt: skip
@sending.until("-L", "--limit", type=COUNT, help="End after so many packets.")
@sending.frame("--smac", "--enet-smac", "source_mac", type=sending.MAC, help="Source address of every frame.")
@sending.frame("--dmac", "--enet-dmac", "destination_mac", type=sending.MAC, help="Destination address of every frame.")
@section("tcpreplay's, without effect")("-K", "--preload-pcap", is_flag=True, expose_value=False,
                                        help="Files are read ahead in any case.")  # fmt: skip
@refused("-T=", "--timer=", message=TIMER, hint="leave it out")
@refused("-I=", "--intf2=", "-c=", "--cachefile=", message="a replay has one interface", hint="start one for each")
@refused("-o", "--oneatatime", message="packets are not sent by hand", hint="take --pps 1")
@click.argument("files", nargs=-1, metavar="FILES...")
def command(**given: Any) -> None:
    if not given["files"]:
        raise UsageError("no file to replay", "wirecap replay -i INTERFACE FILE")
    timing = sending.timing(given, default_speed=1.0)
    _check(given, timing)

    def make(facts: Interface) -> sending.Opened:
        from wirecap.traffic.choose import Wish, longest_frame
        from wirecap.traffic.recording import Recording
        from wirecap.traffic.sender import Macs
        from wirecap.traffic.steering import KEYS, Recorded, Rss

        queues = given["queues"]
        several = queues is not None and len(queues) > 1
        steering: Rss | Recorded | None = None
        queue_by = given["queue_by"] or "rss"
        if several and queue_by == "recorded":
            steering = Recorded(len(queues))
        elif several:
            steering = Rss(len(queues), given["rss_key"] or KEYS[queue_by], given["rss_table"])
        plan = Recording(
            given["files"], timing, facts.mtu, loops=given["loops"], loop_pause_ns=given["loop_pause_ns"],
            limit=given["limit"], duration_ns=given["duration_ns"] if timing.paced else None, steering=steering,
            queues=len(queues or (0,)),
        )  # fmt: skip
        macs = Macs(given["source_mac"], given["destination_mac"])
        return plan, Wish(queues, longest_frame(facts), timing.paced, _mean_pps(timing), macs)

    sending.send(given, make)


def _check(given: dict[str, Any], timing: Timing) -> None:
    """UsageError for an option that would have no effect."""
    choosing = [name for name in ("queue_by", "rss_key", "rss_table") if given[name] is not None]
    if choosing and len(given["queues"] or ()) < 2:
        raise UsageError(f"{_flag(choosing[0])}: there is no queue to choose", "add --queues 0-3")
    if given["queue_by"] == "recorded" and len(choosing) > 1:
        raise UsageError(f"{_flag(choosing[1])} and --queue-by recorded do not go together", "take one of them")
    if timing.most_gap_ns is not None and timing.speed is None:
        raise UsageError("--max-gap shortens the pauses of a recording", "leave it out, or take --speed")
    if given["loop_pause_ns"] and (given["loops"] == 1 or not timing.paced):
        raise UsageError("--loop-delay: there is no pause at full speed, nor without --loop", "leave it out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _mean_pps(timing: Timing) -> float | None:
    """The mean rate where it is known beforehand; a bit rate is taken for packets of 500 bytes."""
    return timing.pps or (timing.bps / 4000 if timing.bps else None)
