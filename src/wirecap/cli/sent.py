"""What ``replay`` and ``generate`` tell of a run: the progress line, the closing lines, the JSON."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from wirecap import units

if TYPE_CHECKING:
    from wirecap.traffic.session import Outcome


@dataclass(frozen=True)
class Mark:
    """What was sent up to a moment of the monotonic clock."""

    at_s: float = field(default_factory=time.monotonic)
    packets: int = 0
    octets: int = 0


class Bar:
    """The progress line: on a terminal drawn again and again; printed every ``every_s`` seconds if that is given."""

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
        now = Mark(time.monotonic(), outcome.sent, outcome.octets)
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
        units.format_packet_rate((now.packets - since.packets) / passed_s),
        units.format_bit_rate(8 * (now.octets - since.octets) / passed_s),
        f"{units.format_count(outcome.sent)} sent",
        units.format_duration_ns(round(outcome.duration_s * 1e9)),
    ]
    return "  ".join(parts)


def mean_pps(outcome: Outcome, duration_s: float, burst: int) -> float:
    """Packets a second: at a rate those before the last burst, as the time ends with that; else all of them."""
    timed = outcome.planned_s is not None
    packets = (outcome.attempted - 1) // burst * burst if timed else outcome.attempted
    return max(0, packets) / duration_s if duration_s else 0.0


def closing_lines(outcome: Outcome, mtu: int, burst: int = 1, verbose: bool = False) -> list[str]:
    """What was sent, how far that is from what was wanted, and what was not sent, by reason."""
    rates, achieved_pps = "", mean_pps(outcome, outcome.duration_s, burst)
    if achieved_pps:
        bits = 8 * outcome.octets / outcome.attempted * achieved_pps
        sent_pps = achieved_pps * outcome.sent / outcome.attempted
        rates = f": {units.format_packet_rate(sent_pps)}, {units.format_bit_rate(bits)}"
    duration = units.format_duration_ns(round(outcome.duration_s * 1e9))
    lines = [f"{_packets(outcome.sent)} sent, {units.format_size(outcome.octets)} in {duration}{rates}"]
    if outcome.planned_s and achieved_pps:
        wanted_pps = mean_pps(outcome, outcome.planned_s, burst)
        wanted, achieved = units.format_packet_rate(wanted_pps), units.format_packet_rate(achieved_pps)
        latest = units.format_duration_ns(outcome.latest_ns)
        off = 100 * (achieved_pps / wanted_pps - 1)
        lines.append(f"wanted {wanted}, achieved {achieved} ({off:+.3f} %); the latest packet was {latest} late")
    for name, count in outcome.not_sent.items():
        detail = f" ({mtu} bytes)" if name.endswith("MTU") else ""
        lines.append(f"{_packets(count)} not sent: {name}{detail}")
    if outcome.refused:
        lines.append(f"{_packets(outcome.refused)} not sent: dropped by the interface")
    if outcome.cut_by_capture:
        lines.append(f"{_packets(outcome.cut_by_capture)} sent as far as the file has them (its snap length)")
    if verbose:
        lines += [f"queue {number}: {_packets(count)} sent" for number, count in outcome.per_queue.items()]
    return lines


def summary(outcome: Outcome, burst: int = 1) -> dict[str, Any]:
    """The outcome as JSON knows it, with the rates."""
    sent_share = outcome.sent / max(1, outcome.attempted)
    wanted_pps = mean_pps(outcome, outcome.planned_s, burst) if outcome.planned_s else None
    rate_pps = mean_pps(outcome, outcome.duration_s, burst) * sent_share
    return {**asdict(outcome), "rate_pps": rate_pps, "wanted_pps": wanted_pps}


def _packets(count: int) -> str:
    return f"{count} packet{'' if count == 1 else 's'}"
