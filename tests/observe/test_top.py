"""``wirecap top``: rates between two looks, the order of queues, what stands on the screen, the terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from rig import Rig, until
from states import counters_of, queue_of
from wirecap.cli import main
from wirecap.observe.counters import DiskCounters, OutputCounters
from wirecap.observe.rates import between, ordered
from wirecap.observe.screen import bar, screen
from wirecap.run.counting import Counting
from wirecap.run.publishing import Publisher


def shown(*captures, notes=(), sort="queue", width=160):
    """What stands on a terminal, which is wide."""
    console = Console(file=io.StringIO(), width=width)
    console.print(screen(captures, notes, sort, keys=False, width=width))
    return console.file.getvalue()


def test_rates_are_what_came_in_a_second():
    early = counters_of(queue_of(received=100, pool_exhausted=1), disk=DiskCounters("x", 0, 1000, 1), time_ns=10**9)
    late = counters_of(queue_of(received=400, pool_exhausted=3), disk=DiskCounters("x", 0, 3000, 1), time_ns=3 * 10**9)
    late.queues[0].offloaded_to, late.queues[0].offloaded = {"1": 50}, 50
    rates = between(early, late)
    [row] = rates.queues
    assert (rates.seconds, row.received, row.bits, row.dropped, row.offloaded) == (2, 150, 150 * 480, 1, 25)
    assert row.to == {1: 25}
    assert rates.written_bytes == 1000
    assert row.depth == 5


def test_another_capture_of_the_same_name_starts_from_nothing():
    """The first look at a capture, and one of a process that took another's place, have no rates."""
    late = counters_of(queue_of(received=400), time_ns=3 * 10**9)
    for early in (None, counters_of(queue_of(received=100), started_ns=7)):
        assert between(early, late).received == 0


def test_queues_are_sorted():
    queues = [queue_of("eth2", 0, 10), queue_of("eth1", 1, 30, pool_exhausted=9), queue_of("eth1", 0, 20)]
    rates = between(counters_of(*(queue_of(q.interface, q.queue) for q in queues), time_ns=0), counters_of(*queues))
    order = {by: [(each.counters.interface, each.counters.queue) for each in ordered(rates.queues, by)]
             for by in ("queue", "rate", "drops")}  # fmt: skip
    assert order["queue"] == [("eth1", 0), ("eth1", 1), ("eth2", 0)]
    assert order["rate"] == [("eth1", 1), ("eth1", 0), ("eth2", 0)]
    assert order["drops"][0] == ("eth1", 1)


@pytest.mark.parametrize(("depth", "T", "looks"), [
    (0, 60, "············│······· 0"), (50, 60, "██████████··│······· 50"), (100, 60, "████████████│███████ 100"),
    (1, 100, "█··················│ 1"),
])  # fmt: skip
def test_the_line_of_T(depth, T, looks):
    assert bar(depth, 100, T).plain == looks
    assert (bar(depth, 100, T).style == "red") == (depth > T)


def test_the_screen_has_all_that_is_known():
    """NICs, queues, drops by name, offloading, files with their bounds, transmit queues, lines at the end."""
    queues = [queue_of("eth1", 0, 1000), queue_of("eth1", 1, 500, pool_exhausted=1234, capture_late=0)]
    queues[1].offloaded_to, queues[1].offloaded = {"0": 100}, 100
    disk = DiskCounters("x-%H.pcapng", 900, 5 << 20, 3, 1 << 30, 1 << 40, 1 << 31, 6 << 20, 1 << 29, 86_400 * 10**9, 2)
    late = counters_of(*queues, disk=disk, outputs=[OutputCounters("eth2", 3, 700, {"tx_ring_full": 8})], ending=True)
    early = counters_of(queue_of("eth1", 0), queue_of("eth1", 1), time_ns=0,
                        disk=DiskCounters("x", 0, 0, 1), outputs=[OutputCounters("eth2", 3, 0, {})])  # fmt: skip
    text = shown(between(early, late), notes=["a note"])
    for part in (
        f"capture {os.getpid()} on eth1", "xdp, advanced   M 256  R 100  T 60 %", "ending", "1 kp/s", "500 p/s",
        "1,234 pool exhausted", "100 p/s to 0", "eth1: 1.5 kp/s, 720 kbit/s, 1,500 packets received",
        "out eth2 queue 3: 700 p/s, 700 packets sent; dropped: 8 tx ring full",
        "x-%H.pcapng: 5 MiB/s, 5 MiB in 3 files; disk 1 GiB free of 1 TiB",
        "bounds: at most 2 GiB, 6 MiB taken; 512 MiB left free; not older than 24:00:00; 2 files removed",
        "% of a core: capture 12; handler 25 25", "a note",
    ):  # fmt: skip
        assert part in text, part
    assert "capture late" not in text
    assert shown() == "no capture is running\n"


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60])
def test_a_narrow_terminal(width):
    """Nothing is cut off: the bar is short, drops have lines of their own, columns of chunks and bits are left out."""
    names = {"pool_exhausted": 1_234_567, "capture_late": 12, "nic_ring_full": 345_678}
    queues = [queue_of("enp129s0f1np1", 0, 14_880_952, **names), queue_of("enp129s0f1np1", 1, 500)]
    queues[0].offloaded_to, queues[0].offloaded = {"1": 100}, 100
    output = OutputCounters("eth2", 3, 700, {"tx_ring_full": 8, "tx_too_long": 77})
    late = counters_of(*queues, outputs=[output])
    early = counters_of(
        *(queue_of("enp129s0f1np1", n) for n in (0, 1)), time_ns=0, outputs=[OutputCounters("eth2", 3, 0, {})]
    )
    text = shown(between(early, late), width=width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    (heading,) = [line for line in lines if "queue" in line and "depth, T" in line]
    assert "dropped" in heading
    flat = " ".join(text.split())
    for part in (
        "14.9 Mp/s", "1,234,567 pool exhausted, 12 capture late, 345,678 nic ring full", "100 p/s to 1",
        "700 packets sent; dropped: 8 tx ring full, 77 tx too long",
    ):  # fmt: skip
        assert part in flat, part
    assert ("busy" in heading) == (width >= 100)
    assert ("offloading" in heading) == (width == 200)


def test_one_look_as_json(folder, capfd, monkeypatch):
    """The object of each capture: the engine's counts, with rates beside them."""

    def measured():
        """What is shown, once something new is shown within the half second between both looks."""
        assert main.run(["top", "--once", "--json"]) == 0
        [found] = json.loads(capfd.readouterr().out)
        return found["measured_s"] > 0 and found

    with Rig(queues=2) as rig:
        publisher = Publisher(Counting(rig.engine), None, print)
        rig.inject_copies(1, 30)
        rig.done(30)
        publisher.start()
        try:
            found = until(measured)
            assert main.run(["top", "--once", "-i", "none", "--json", "-"]) == 0
            assert json.loads(capfd.readouterr().out) == []
            assert main.run(["top", "--once"]) == 0
            shown = capfd.readouterr().out
            monkeypatch.setenv("FORCE_COLOR", "1")
            assert main.run(["top", "--once"]) == 0
            assert "\x1b[" in capfd.readouterr().out
            monkeypatch.setenv("NO_COLOR", "1")
            assert main.run(["top", "--once"]) == 0
            assert "\x1b[" not in capfd.readouterr().out
        finally:
            publisher.close()
    assert [row["received"] for row in found["queues"]] == [0, 30]
    assert found["queues"][1]["per_second"] == {"received": 0, "bits": 0, "dropped": 0, "offloaded": 0}
    assert found["measured_s"] > 0
    assert f"capture {os.getpid()} on {rig.source.queues[0].interface}" in shown


REFUSED = {
    "--json shows one state (add --once)": ["--json"],
    "wirecap top needs a terminal (use wirecap top --once, with --json for programs)": [],
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_refused(says, folder, capfd):
    assert main.run(["top", *REFUSED[says]]) == 2
    assert capfd.readouterr().err == f"wirecap: {says}\n"


@pytest.mark.parametrize("leave", ["q", signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal(folder, leave):
    """It draws, tells that a capture has ended, changes the order, quits, and leaves the terminal as it was."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 140))
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "wirecap", "top"]
    seen = bytearray()

    def has(text):
        while select.select([ours], [], [], 0)[0]:
            seen.extend(os.read(ours, 65536))
        return text.encode() in seen

    with Rig() as rig:
        publisher = Publisher(Counting(rig.engine), None, print)
        publisher.start()
        environment = os.environ | {"TERM": "xterm"}
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as top:
            try:
                until(lambda: has(f"capture {os.getpid()} on"))
                until(lambda: has("now by queue"))
                os.write(ours, b"s")
                until(lambda: has("now by rate"))
                publisher.close()
                until(lambda: has("has ended"))
                until(lambda: has("no capture is running"))
                os.write(ours, b"q") if leave == "q" else top.send_signal(leave)
                until(lambda: has("\x1b[?1049l"))  # the other screen is left
                assert top.wait(60) == 0
            finally:
                top.kill()
                publisher.close()
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
