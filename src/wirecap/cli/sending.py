"""What ``replay`` and ``generate`` share: options, and the run from its first line to its last."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wirecap import config, units
from wirecap.cli import closing
from wirecap.cli.parameters import COUNT, DURATION, OUTPUT, Parsed, section
from wirecap.cli.sent import Bar, closing_lines, summary
from wirecap.errors import UsageError, WirecapError

if TYPE_CHECKING:
    from wirecap.traffic.batch import Plan
    from wirecap.traffic.choose import Wish
    from wirecap.traffic.sender import Sender
    from wirecap.traffic.session import Outcome
    from wirecap.traffic.timing import Timing

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

WAYS = ("auto", "xdp", "packet", "live")
PACKET_RATE = Parsed("RATE", units.parse_mean_rate)
BIT_RATE = Parsed("RATE", units.parse_bit_rate)

where = section("Where to")
when = section("How fast")
until = section("Until when")
frame = section("What is changed")
how = section("How")
output = section("What is shown")


def parse_mac(text: str) -> bytes:
    """Six bytes of ``02:00:00:00:00:01`` (or with dashes)."""
    if not re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", text):
        raise UsageError(f"{text!r} is no Ethernet address", "write it as 02:00:00:00:00:01")
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def parse_queues(text: str) -> tuple[int, ...]:
    return config.parse_numbers(text, text, "0-3 or 0,2", config.MAX_QUEUE)


def parse_mbps(text: str) -> int:
    """Bits a second of a number of Mbit/s, as tcpreplay's --mbps has it."""
    return units.parse_bit_rate(text if re.search(r"[A-Za-z]", text) else f"{text}M")


MAC = Parsed("MAC", parse_mac)
_OPTIONS = [
    where("-i", "--intf1", "--interface", "interface", metavar="INTERFACE", help="Interface to send on."),
    where("--netns", metavar="NAME", help="Network namespace of the interface."),
    where("--queues", type=Parsed("LIST", parse_queues), help="Transmit queues: 0-3 or 0,2. Any one if not given."),
    when("-p", "--pps", type=PACKET_RATE, help="So many packets a second: 0.25, 10k, 2.5Mpps."),
    when("--rate", "bps", type=BIT_RATE, help="So many bits a second: 100Mbps, 10G."),
    when("-M", "--mbps", "mbps", type=Parsed("MBPS", parse_mbps), help="The same in Mbit/s, as tcpreplay has it."),
    when("-t", "--topspeed", is_flag=True, help="As fast as possible."),
    when("--burst", "--pps-multi", "burst", type=COUNT, default=1, show_default=True,
         help="So many packets at once, at the same mean rate."),
    until("--duration", "duration_ns", type=DURATION, help="End after this time: 30s, 5m."),
    how("--send", "way", type=click.Choice(WAYS), default="auto", show_default=True,
        help="AF_XDP, an AF_PACKET ring, or live frames."),
    output("-q", "--quiet", is_flag=True, help="No progress bar, no closing lines."),
    output("--stats", "every_s", type=click.IntRange(min=1), metavar="SECONDS",
           help="A line of the state so far, so often."),
    output("-v", "verbose", count=True, help="Packets of each queue at the end."),
    output("--summary-json", type=OUTPUT, help="Write the summary as JSON; - is the standard output."),
]  # fmt: skip


def options(function: Decorated) -> Decorated:
    """The options that both commands have."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def timing(given: dict[str, Any], default_speed: float | None) -> Timing:
    """The Timing of the options; without any, ``default_speed`` times as recorded (None: at full speed)."""
    from wirecap.traffic.timing import Timing

    chosen = [name for name in ("speed", "pps", "bps", "mbps", "topspeed") if given.get(name)]
    if len(chosen) > 1:
        flags = " and ".join({"bps": "--rate"}.get(name, f"--{name}") for name in chosen)
        raise UsageError(f"{flags} do not go together", "take one of them")
    for name in ("speed", "pps", "bps", "mbps"):
        if given.get(name) == 0:
            raise UsageError(f"--{name} 0: nothing would be sent", "--topspeed is as fast as possible")
    speed = given.get("speed") if chosen else default_speed
    if given["burst"] > 1 and not {"pps", "bps", "mbps"} & set(chosen):
        raise UsageError("--burst without a rate", "add --pps or --rate")
    return Timing(
        speed=speed, pps=given["pps"], bps=given["bps"] or given["mbps"], burst=given["burst"],
        overhead_bytes=given.get("overhead_bytes", 0), most_gap_ns=given.get("most_gap_ns"),
    )  # fmt: skip


Opened = tuple["Plan", "Wish"]


def send(given: dict[str, Any], make: Callable[[Any], Opened]) -> None:
    """Open, send, tell.  ``make`` gets the interface's facts and returns the plan and what it asks of a sender."""
    if not given["interface"]:
        raise UsageError("no interface to send on", "add -i INTERFACE; wirecap capture -D lists interfaces")
    if given["duration_ns"] == 0:
        raise UsageError("--duration 0: nothing would be sent", "leave it out to send without end")
    from wirecap.kernels import jit
    from wirecap.linux import netns
    from wirecap.run import Interrupts
    from wirecap.traffic.session import Session

    plan, sender, opening, mtu = netns.call(given["netns"], _open, given, make)
    bar = Bar(given["quiet"], given["every_s"])
    try:
        jit.prepare([*plan.kernels(), *sender.kernels()], lambda name: bar.say(f"wirecap: compiling {name} (once)"))
        bar.say(opening)
        session = Session(plan, sender, given["duration_ns"])
        with Interrupts() as interrupts:  # until here Ctrl-C ends the process: nothing was sent
            try:
                outcome = netns.call(given["netns"], session.run, bar.show, interrupts.asked)
            except WirecapError as error:
                _close(bar, getattr(error, "outcome", None), given, mtu)
                raise
            _close(bar, outcome, given, mtu)
    finally:
        bar.close()
        plan.close()
        sender.close()


def _open(given: dict[str, Any], make: Callable[[Any], Opened]) -> tuple[Plan, Sender, str, int]:
    """The plan, what sends it, the line that says so, and the interface's MTU; in the interface's namespace."""
    from wirecap.linux import netlink
    from wirecap.traffic.choose import open_sender

    facts = netlink.interface(given["interface"])
    plan, wish = make(facts)
    sender, why = open_sender(facts.name, given["way"], wish)
    opening = f"wirecap: sending on {facts.name} by {sender.way}" + (f" ({why})" if why else "")
    return plan, sender, opening, facts.mtu


def _close(bar: Bar, outcome: Outcome | None, given: dict[str, Any], mtu: int) -> None:
    bar.close()
    if outcome is None:
        return
    if not given["quiet"]:
        for line in closing_lines(outcome, mtu, given["burst"], bool(given["verbose"])):
            click.echo(line, err=True)
    if given["summary_json"]:
        closing.write_json(summary(outcome, given["burst"]), given["summary_json"])
