"""What ``replay`` and ``generate`` share: options, the run, the progress line, the closing lines and the JSON."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wirecap import units
from wirecap.cli import closing
from wirecap.cli.options import COUNT, DURATION, OUTPUT, Parsed, section
from wirecap.config.specs import MAX_QUEUE, parse_numbers
from wirecap.errors import UsageError, WirecapError

if TYPE_CHECKING:
    from wirecap.linux.netlink import Interface
    from wirecap.traffic.batch import SendPlan
    from wirecap.traffic.sender import Sender
    from wirecap.traffic.session import Outcome
    from wirecap.traffic.timing import Timing
    from wirecap.traffic.ways import Wish


@dataclass(frozen=True)
class Mark:
    """What was sent up to a moment on the monotonic clock."""

    at_s: float = field(default_factory=time.monotonic)
    packets: int = 0
    bytes: int = 0


class Bar:
    """The progress line: redrawn on a terminal; with ``every_s``, also printed every so many seconds."""

    def __init__(self, quiet: bool, every_s: int | None = None) -> None:
        self._quiet, self._every_s = quiet, every_s
        self._live = not quiet and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._drawn = False
        self._drawn_at = self._printed_at = Mark()

    def say(self, text: str) -> None:
        if not self._quiet:
            self.close()
            click.echo(text, err=True)

    def show(self, outcome: Outcome) -> None:
        now = Mark(time.monotonic(), outcome.sent, outcome.bytes)
        if self._every_s and now.at_s - self._printed_at.at_s > self._every_s - 0.05:
            self.close()
            click.echo(render(outcome, now, self._printed_at), err=True)
            self._printed_at = now
        if self._live and now.at_s - self._drawn_at.at_s > 0.2:
            line = render(outcome, now, self._drawn_at)
            sys.stderr.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            sys.stderr.flush()
            self._drawn, self._drawn_at = True, now

    def close(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False


def render(outcome: Outcome, now: Mark, since: Mark) -> str:
    """The progress line, with the rates between two moments."""
    parts = []
    if outcome.share is not None:
        filled = round(20 * min(outcome.share, 1.0))
        parts.append(f"[{'=' * filled}{' ' * (20 - filled)}] {100 * outcome.share:3.0f}%")
    passed_s = now.at_s - since.at_s
    parts += [
        units.format_packet_rate(max(0, now.packets - since.packets) / passed_s),  # drops may be told late
        units.format_bit_rate(8 * max(0, now.bytes - since.bytes) / passed_s),
        f"{units.format_count(outcome.sent)} sent",
        units.format_duration_ns(round(outcome.duration_s * 1e9)),
    ]
    return "  ".join(parts)


def mean_pps(outcome: Outcome, packets: int, duration_s: float, burst: int) -> float:
    """Packets per second; if paced, without the last burst, because the time ends when that begins."""
    if outcome.planned_s is not None:
        packets = (packets - 1) // burst * burst
    return max(0, packets) / duration_s if duration_s else 0.0


def reached_pps(outcome: Outcome, burst: int) -> float:
    """The rate at which packets were handed over, or were sent until a link was lost."""
    packets = outcome.sent if outcome.reason else outcome.attempted
    return mean_pps(outcome, packets, outcome.duration_s, burst)


def sent_share(outcome: Outcome) -> float:
    """The share of the packets in ``reached_pps`` that was sent."""
    return 1.0 if outcome.reason else outcome.sent / max(1, outcome.attempted)


def closing_lines(outcome: Outcome, mtu: int | str, burst: int = 1, verbose: bool = False) -> list[str]:
    """What was sent, how close that is to what was asked for, and what was not sent, by reason."""
    from wirecap.files.reader import note_of_times

    rates, achieved_pps = "", reached_pps(outcome, burst)
    if achieved_pps:
        sent_pps = achieved_pps * sent_share(outcome)
        bits = 8 * outcome.bytes / max(1, outcome.sent) * sent_pps
        rates = f": {units.format_packet_rate(sent_pps)}, {units.format_bit_rate(bits)}"
    duration = units.format_duration_ns(round(outcome.duration_s * 1e9))
    lines = [f"{_packets(outcome.sent)} sent, {units.format_size(outcome.bytes)} in {duration}{rates}"]
    if outcome.planned_s and achieved_pps:
        wanted_pps = mean_pps(outcome, outcome.attempted, outcome.planned_s, burst)
        wanted, achieved = units.format_packet_rate(wanted_pps), units.format_packet_rate(achieved_pps)
        off = 100 * (achieved_pps / wanted_pps - 1)
        lines.append(f"wanted {wanted}, achieved {achieved} ({off:+.3f} %); {lateness(outcome)}")
    lines += [f"{_packets(count)} not sent: {why}" for why, count in _reasons(outcome, mtu).items()]
    if outcome.refused:
        rest = "" if outcome.all_counted else " and the rest"
        lines.append(f"{_packets(outcome.refused)}{rest} not sent: {outcome.reason or DROPPED}")
    elif not outcome.all_counted:
        lines.append(f"the rest was not sent: {outcome.reason}")
    if outcome.cut_by_capture:
        lines.append(f"{_packets(outcome.cut_by_capture)} sent truncated, as in the file (its snap length)")
    lines += [f"{_packets(count)} sent {how}" for how, count in outcome.notes.items()]
    lines += [f"{name}: {_packets(count)} sent" for name, count in outcome.per_interface.items()]
    if verbose:
        lines += [f"queue {number}: {_packets(count)} sent" for number, count in outcome.per_queue.items()]
    return lines + note_of_times(outcome.outside)


def _reasons(outcome: Outcome, mtu: int | str) -> dict[str, int]:
    """Packets that were left out, by reason."""
    return {
        f"{name} ({mtu} bytes)" if name.endswith("MTU") else name: count for name, count in outcome.not_sent.items()
    }


def left_out(outcome: Outcome, mtu: int | str) -> str:
    """What was left out, in one line: --quiet does not hide it."""
    reasons = _reasons(outcome, mtu)
    numbers = [f"{count} {why}" for why, count in reasons.items()] if len(reasons) > 1 else list(reasons)
    return f"{_packets(sum(reasons.values()))} not sent: {', '.join(numbers)}"


def lateness(outcome: Outcome) -> str:
    """How exact the times were, and who says so."""
    latest = units.format_duration_ns(outcome.latest_ns)
    nic = outcome.nic
    if nic is None:
        return f"the latest packet was {latest} late"
    if not nic.stamped:
        return f"the NIC stamped none of them; the latest packet was handed to it {latest} late"
    first, mean, last = (_after(ns) for ns in (nic.earliest_ns, nic.mean_ns, nic.latest_ns))
    of = f" of {_packets(nic.stamped)}" if nic.stamped < outcome.attempted else ""
    return f"by the NIC's own stamps{of} {mean} on average, between {first} and {last}"


def _after(ns: int) -> str:
    return f"{units.format_duration_ns(abs(ns))} {'early' if ns < 0 else 'late'}"


def summary(outcome: Outcome, burst: int = 1) -> dict[str, Any]:
    """The outcome for JSON, with the rates."""
    wanted_pps = mean_pps(outcome, outcome.attempted, outcome.planned_s, burst) if outcome.planned_s else None
    rate_pps = reached_pps(outcome, burst) * sent_share(outcome)
    asked_for = outcome.sent + outcome.refused
    return {**asdict(outcome), "asked_for": asked_for, "rate_pps": rate_pps, "wanted_pps": wanted_pps}


def failure(outcome: Outcome, interfaces: str) -> WirecapError | None:
    """The error of a run that ended by itself and left packets unsent, or sent none."""
    if outcome.refused:
        return WirecapError(
            f"{interfaces}: {DROPPED}: {outcome.refused} of {_packets(outcome.sent + outcome.refused)}",
            "use a lower rate; 'ip -s link' shows its drops",
        )
    if outcome.sent or outcome.interrupted:
        return None
    left_out = sum(outcome.not_sent.values())
    why = f"all {left_out} were left out: {', '.join(outcome.not_sent)}" if left_out else "there are none to send"
    return WirecapError(f"{interfaces}: no packet was sent: {why}")


def _packets(count: int) -> str:
    return f"{count} packet{'' if count == 1 else 's'}"


DROPPED = "dropped by the interface"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

WAYS = ("auto", "xdp", "packet", "live")
LAUNCH = ("auto", "on", "off")
PACKET_RATE = Parsed("RATE", units.parse_mean_rate)
BIT_RATE = Parsed("RATE", units.parse_bit_rate)

where = section("Where to")
when = section("How fast")
until = section("When to stop")
frame = section("What to change")
how = section("How")
output = section("What to show")


def parse_mac(text: str) -> bytes:
    """The six bytes of ``02:00:00:00:00:01`` (also with dashes)."""
    if not re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", text):
        raise UsageError(f"{text!r} is not an Ethernet address", "write it as 02:00:00:00:00:01")
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def parse_queues(text: str) -> tuple[int, ...]:
    return parse_numbers(text, text, "0-3 or 0,2", MAX_QUEUE)


def parse_mbps(text: str) -> int:
    """Bits per second, from a number of Mbit/s as in tcpreplay's --mbps."""
    return units.parse_bit_rate(text if re.search(r"[A-Za-z]", text) else f"{text}M")


def parse_macs(text: str) -> bytes:
    """One address, or two with a comma between them: 6 or 12 bytes."""
    found = [parse_mac(part) for part in text.split(",")]
    if len(found) > 2:
        raise UsageError(f"{text!r} is more than two addresses", "give one, or one for -i and one for -I")
    return b"".join(found)


MACS = Parsed("MAC[,MAC]", parse_macs)
_OPTIONS = [
    where("-i", "--intf1", "--interface", "interface", metavar="INTERFACE", help="Interface to send on."),
    where("--netns", metavar="NAME", help="Network namespace of the interface."),
    where("--queues", type=Parsed("LIST", parse_queues), help="Transmit queues: 0-3 or 0,2.  [default: any one]"),
    when("-p", "--pps", type=PACKET_RATE, help="Packets per second: 0.25, 10k, 2.5Mpps."),
    when("--rate", "bps", type=BIT_RATE, help="Bits per second: 100Mbps, 10G."),
    when("-M", "--mbps", "mbps", type=Parsed("MBPS", parse_mbps), help="The same in Mbit/s, as in tcpreplay."),
    when("-t", "--topspeed", is_flag=True, help="As fast as possible."),
    when("--burst", "--pps-multi", "burst", type=COUNT, default=1, show_default=True,
         help="Send this many packets at once, at the same mean rate."),
    until("--duration", "duration_ns", type=DURATION, help="Stop after this time: 30s, 5m."),
    how("--send", "way", type=click.Choice(WAYS), default="auto", show_default=True,
        help="AF_XDP, an AF_PACKET ring, or live frames."),
    how("--launch-time", "launch", type=click.Choice(LAUNCH), default="auto", show_default=True,
        help="Let the NIC's own clock keep the times, where it can."),
    output("-q", "--quiet", is_flag=True, help="No progress bar and no closing lines but for packets left out."),
    output("--stats", "every_s", type=click.IntRange(min=1), metavar="SECONDS",
           help="Print a line of progress this often."),
    output("-v", "--verbose", "verbose", count=True, help="Print the packets of each queue at the end."),
    output("--summary-json", "--json", type=OUTPUT, help="Write the summary as JSON; - is standard output."),
]  # fmt: skip


def options(function: Decorated) -> Decorated:
    """The options of both commands."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def timing(given: dict[str, Any], default_speed: float | None) -> Timing:
    """The Timing that the options ask for; without any, ``default_speed`` times as recorded (None: full speed)."""
    from wirecap.traffic.timing import Timing

    chosen = [name for name in ("speed", "pps", "bps", "mbps", "topspeed") if given.get(name)]
    if len(chosen) > 1:
        flags = " and ".join({"bps": "--rate"}.get(name, f"--{name}") for name in chosen)
        raise UsageError(f"{flags} cannot be combined", "use only one of them")
    for name in ("speed", "pps", "bps", "mbps"):
        if given.get(name) == 0:
            raise UsageError(f"--{name} 0 would send nothing", "use --topspeed to send as fast as possible")
    speed = given.get("speed") if chosen else default_speed
    if given["burst"] > 1 and not {"pps", "bps", "mbps"} & set(chosen):
        raise UsageError("--burst needs a rate", "add --pps or --rate")
    return Timing(
        speed=speed, pps=given["pps"], bps=given["bps"] or given["mbps"], burst=given["burst"],
        overhead_bytes=given.get("overhead_bytes", 0), most_gap_ns=given.get("most_gap_ns"),
    )  # fmt: skip


Opened = tuple["SendPlan", "Wish"]


def send(given: dict[str, Any], make: Callable[[list[Interface]], Opened]) -> None:
    """Open, send, report.  ``make`` gets the interfaces' facts; it returns the plan and what that needs of a sender.

    Raises WirecapError, after the closing lines, where packets that were asked for were not sent.
    """
    if not given["interface"]:
        raise UsageError("no interface to send on", "add -i INTERFACE; wirecap capture -D lists interfaces")
    if given["duration_ns"] == 0:
        raise UsageError("--duration 0 would send nothing", "leave it out to send until Ctrl-C")
    for name in ("limit", "count"):
        if given.get(name) == 0:
            raise UsageError(f"--{name} 0 would send nothing", "leave it out to send without a limit")
    from wirecap.kernels.base import jit
    from wirecap.linux import netns
    from wirecap.signals import Interrupts
    from wirecap.traffic.session import Session

    plan, sender, names, mtu, why = netns.call(given["netns"], _open, given, make)
    bar = Bar(given["quiet"], given["every_s"])
    try:
        jit.prepare([*plan.kernels(), *sender.kernels()], lambda name: bar.say(f"wirecap: compiling {name} (once)"))
        session = Session(plan, sender, given["duration_ns"])
        with Interrupts() as interrupts:  # before this, Ctrl-C ends the process: nothing has been sent
            bar.say(f"wirecap: sending on {names} by {sender.way}" + (f" ({why})" if why else ""))
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
    failed = failure(outcome, names)
    if failed:
        raise failed


def _open(given: dict[str, Any], make: Callable[[list[Interface]], Opened]) -> tuple[SendPlan, Sender, str, str, str]:
    """The plan, its sender, the interfaces and their MTUs for people, and why it is that sender."""
    from wirecap.linux import netlink
    from wirecap.traffic.ways import open_sender

    facts = [netlink.interface(name) for name in (given["interface"], given.get("second")) if name]
    if len({one.index for one in facts}) < len(facts):
        raise UsageError(f"-i and -I are both {facts[0].name}", "name two interfaces, or leave -I out")
    plan, wish = make(facts)
    sender, why = open_sender([one.name for one in facts], given["way"], replace(wish, launch=given["launch"]))
    mtus = " and ".join(dict.fromkeys(str(one.mtu) for one in facts))
    return plan, sender, " and ".join(one.name for one in facts), mtus, why


def _close(bar: Bar, outcome: Outcome | None, given: dict[str, Any], mtu: str) -> None:
    bar.close()
    if outcome is None:
        return
    if not given["quiet"]:
        for line in closing_lines(outcome, mtu, given["burst"], bool(given["verbose"])):
            click.echo(line, err=True)
    elif outcome.not_sent and outcome.sent:  # if none was sent, the error says why
        click.echo(f"wirecap: {left_out(outcome, mtu)}", err=True)
    if given["summary_json"]:
        closing.write_json(summary(outcome, given["burst"]), given["summary_json"])
