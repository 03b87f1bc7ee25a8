"""What the benchmarks share: our command as a user runs it, rounds with peers, ratios with their spread.

One generator (live frames, from inside the kernel) and one veth serve all programs; every round runs each program
once, in rotating order, so that disturbances of the machine affect all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wirecap.errors import WirecapError
from wirecap.lab import peers, process, testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

WIRECAP = [sys.executable, "-P", "-m", "wirecap"]
READY = r"^wirecap: capturing on"
PREFIX = "wb"
NAME = f"{PREFIX}{os.getpid()}b"
"""Two benchmarks at once spoil each other's figures, but not each other's testbeds."""
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
DISTURBED = 0.05
"""A sender that waited for its CPU for this share of its time had to share it: the round means little."""


def mixed_trace() -> Path:
    """The mixed trace: real traffic where WIRECAP_TRACES or ../shared/traces beside the checkout has it, else made."""
    here = Path(__file__).parent
    real = Path(os.environ.get("WIRECAP_TRACES") or here.parents[1] / "shared" / "traces") / "mixed-30s.pcap"
    if real.exists():
        return real
    made = Path(tempfile.gettempdir()) / f"wirecap-{os.getuid()}" / real.name
    made.parent.mkdir(mode=0o700, exist_ok=True)
    subprocess.run([sys.executable, str(here.parent / "tests" / "mixed_trace.py"), str(made)], check=True)
    return made


@dataclass
class Run:
    """One program's run in one round, in packets."""

    tool: str
    round: int
    sent: int
    duration_s: float
    """How long the generator sent."""
    delivered: int
    dropped: int
    """Packets sent but not delivered, whoever dropped them."""
    drops: dict[str, int] = field(default_factory=dict)
    """Drops as the program itself reports them."""
    cpu_s: float = 0.0
    waited: float = 0.0
    """Share of the time that the sender waited for its CPU."""
    faults: list[str] = field(default_factory=list)
    """Numbers that contradict each other; empty in a good run."""

    @property
    def rate_pps(self) -> float:
        return self.delivered / self.duration_s


class Ours:
    """``wirecap capture`` with its summary, used like a peer."""

    settle_s = 0.3

    def __init__(self, interface: str, namespace: str, options: Iterable[str] = (), cpu: int | None = None) -> None:
        descriptor, name = tempfile.mkstemp(suffix=".json")
        os.close(descriptor)
        self.summary_file = Path(name)
        fixed = ["capture", "--netns", namespace, "-i", interface, "--summary-json", name]
        self.command = [*WIRECAP, *fixed, *options]
        self.cpus = None if cpu is None else {cpu}
        self.ready_s = 0.0

    def start(self) -> Ours:
        begin = time.monotonic()
        self.child = process.Child(self.command, cpus=self.cpus)
        self.child.wait_for(READY, timeout_s=180)
        self.ready_s = time.monotonic() - begin
        return self

    def stop(self) -> tuple[dict[str, Any], float]:
        """The summary and the CPU time in seconds."""
        time.sleep(self.settle_s)
        ended = self.child.end(signal.SIGINT, timeout_s=120)
        if ended.status:
            raise WirecapError(f"wirecap exited with status {ended.status}: {ended.output.strip()[-400:]}")
        return json.loads(self.summary_file.read_text()), ended.cpu_s

    def __enter__(self) -> Ours:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.child.end(signal.SIGKILL)
        self.summary_file.unlink(missing_ok=True)


def settle(interface: str, namespace: str) -> None:
    """Wait until nothing more arrives: the kernel may still have some of what was sent."""
    before = -1
    while (now := testbed.received(interface, namespace)) != before:
        before = now
        time.sleep(0.5)


def contradictions(summary: dict[str, Any], sent: int) -> list[str]:
    """Where the summary's numbers do not add up, or do not match the generator's."""
    packets = summary["packets"]
    checks = {
        "received = delivered + filtered_out + dropped": (
            packets["received"],
            packets["delivered"] + packets["filtered_out"] + packets["dropped"],
        ),
        "dropped = sum of drops": (packets["dropped"], sum(packets["drops"].values())),
        "received = sum over queues": (packets["received"], sum(q["received"] for q in summary["per_queue"])),
        "received = sent": (packets["received"], sent),
    }
    return [f"{what}: {left} and {right}" for what, (left, right) in checks.items() if left != right]


Send = Callable[[LiveFrames], int]


def measure(
    tool: str, number: int, send: Send, args: argparse.Namespace, ours: Iterable[str] = (), file: Path | None = None,
    gro: bool = False,
) -> Run:  # fmt: skip
    """One round of one program: start it, send, stop it.  gro: our program reads through AF_PACKET, too."""
    peer_type = peers.CAPTURES.get(tool)
    gro = peer_type.needs_gro if peer_type else gro
    nic = testbed.up(NAME, queues=1, gro=gro).nics[0]
    frame = synthetic.udp(args.size)
    if peer_type:
        with peer_type(nic.inside, NAME, file, args.peer_cpu) as peer, _sender(nic.outside, frame, args) as sender:
            sent, duration_s, waited = _timed(send, sender)
            caught = peer.stop()
        drops = {"own count": caught.dropped}
        missed = sent - caught.delivered
        return Run(tool, number, sent, duration_s, caught.delivered, missed, drops, caught.cpu_s, waited)
    options = [*ours, *(["-w", str(file)] if file else [])]
    with Ours(nic.inside, NAME, options, args.peer_cpu) as capture, _sender(nic.outside, frame, args) as sender:
        sent, duration_s, waited = _timed(send, sender)
        summary, cpu_s = capture.stop()
    packets = summary["packets"]
    faults = contradictions(summary, sent)
    drops = {name: count for name, count in packets["drops"].items() if count}
    delivered = packets["written"] if file else packets["delivered"]
    return Run(tool, number, sent, duration_s, delivered, sent - delivered, drops, cpu_s, waited, faults)


def _sender(interface: str, frame: bytes, args: argparse.Namespace) -> LiveFrames:
    number_at = 42 if args.size >= 50 else None
    return LiveFrames(interface, frame, sequence_at=number_at, cpu=args.sender_cpu)


def _timed(send: Send, sender: LiveFrames) -> tuple[int, float, float]:
    """Packets sent, seconds, and the share of those that this thread waited for a CPU (proc_pid_schedstat)."""
    schedule = Path("/proc/thread-self/schedstat")
    begin, before = time.monotonic(), int(schedule.read_text().split()[1])
    sent = send(sender)
    duration_s = time.monotonic() - begin
    return sent, duration_s, (int(schedule.read_text().split()[1]) - before) / 1e9 / duration_s


def present(wanted: str, programs: Mapping[str, Any] = peers.CAPTURES) -> list[str]:
    """The peers of a comma-separated list that are installed; for the others, prints why they are left out."""
    found = []
    for name in filter(None, wanted.split(",")):
        if name not in programs:
            raise WirecapError(f"unknown peer {name!r}", f"use one of {', '.join(programs)}")
        reason = programs[name].available()
        if reason:
            console.print(f"left out: {name}: {reason}")
        else:
            found.append(name)
    return found


def turned(tools: list[str], number: int) -> list[str]:
    """The order of a round, rotated so that each program gets to be first."""
    shift = number % len(tools)
    return tools[shift:] + tools[:shift]


def spread(values: Iterable[float], form: str = "{:.2f}") -> str:
    """``median (minimum-maximum)``."""
    known = sorted(values)
    low, middle, high = known[0], statistics.median(known), known[-1]
    return f"{form.format(middle)} ({form.format(low)}-{form.format(high)})"


def ratios(runs: list[Run], ours: str, peer: str) -> list[float]:
    """Packets delivered per second, ours divided by the peer's, round by round."""
    by_round = {(r.tool, r.round): r.rate_pps for r in runs}
    rounds = sorted({r.round for r in runs if r.tool == peer})
    return [by_round[ours, n] / by_round[peer, n] for n in rounds if by_round.get((ours, n)) and by_round[peer, n]]


def show(title: str, runs: list[Run], ours: str = "wirecap") -> dict[str, list[float]]:
    """The table of a comparison; returns the ratios to each peer."""
    table = Table(title=title, title_justify="left")
    for heading in ("program", "delivered Mp/s", "dropped %", "sent Mp/s", "CPU s", "ours / it"):
        table.add_column(heading, justify="left" if heading == "program" else "right", no_wrap=True)
    against = {}
    for tool in dict.fromkeys(run.tool for run in runs):
        own = [run for run in runs if run.tool == tool]
        if tool != ours:
            against[tool] = ratios(runs, ours, tool)
        table.add_row(
            tool,
            spread(run.rate_pps / 1e6 for run in own),
            spread((100 * run.dropped / run.sent for run in own), "{:.3f}"),
            spread(run.sent / run.duration_s / 1e6 for run in own),
            spread((run.cpu_s for run in own), "{:.1f}"),
            spread(against[tool]) if against.get(tool) else "",
        )
    console.print(table)
    console.print("median (minimum-maximum) over the rounds; dropped: share of those sent; ratios are within a round")
    disturbed = [f"{one.tool} {one.round + 1}: {one.waited:.0%}" for one in runs if one.waited > DISTURBED]
    if disturbed:
        console.print(f"disturbed: the sender waited for its CPU: {', '.join(disturbed)} of its time")
    for run in runs:
        if run.drops:
            named = ", ".join(f"{name} {count}" for name, count in run.drops.items() if count)
            if named:
                console.print(f"  round {run.round + 1}, {run.tool}: dropped: {named}")
        for fault in run.faults:
            console.print(f"  round {run.round + 1}, {run.tool}: CONTRADICTION: {fault}")
    return against


def options(description: str, packets: int, rounds: int, peer_names: str = "") -> argparse.ArgumentParser:
    """The options of all benchmarks."""
    cpus = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--packets", type=int, default=packets, help="packets per run")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--size", type=int, default=synthetic.MINIMUM_BYTES, help="bytes per frame")
    parser.add_argument("--sender-cpu", type=int, default=cpus[0], help="CPU of the generator")
    parser.add_argument("--peer-cpu", type=int, default=cpus[-1], help="CPU of the capturing program")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    if peer_names:
        parser.add_argument("--peers", default=peer_names, help="programs to compare with")
    return parser


def main(body: Callable[[argparse.Namespace], dict[str, Any]], parser: argparse.ArgumentParser) -> None:
    """Compile ahead, run, remove the testbed, write the JSON; the exit status is 1 if numbers are contradictory."""
    args = parser.parse_args()
    try:
        testbed.remove_orphans(PREFIX)
        process.run([*WIRECAP, "warmup"], timeout_s=300)
        found = body(args)
    except (WirecapError, KeyboardInterrupt) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error or 'interrupted'}")
    finally:
        testbed.down(NAME)
    machine = {"kernel": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()}
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items()}
        args.json.write_text(json.dumps({"machine": machine, "settings": settings, **found}, indent=1) + "\n")
    if found.get("failed"):
        sys.exit("; ".join(found["failed"]))


def as_dicts(runs: list[Run]) -> list[dict[str, Any]]:
    return [{**asdict(run), "rate_pps": run.rate_pps} for run in runs]


def faults(runs: list[Run]) -> list[str]:
    return [f"{run.tool}, round {run.round + 1}: {fault}" for run in runs for fault in run.faults]
