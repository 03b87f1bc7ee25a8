"""A link without carrier, or that loses it half-way: true counts, one line that says what happened, exit status 1."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replay_rig import mixed, replay, write_pcap
from rig import time_limit, until
from wirecap.cli import main
from wirecap.lab import testbed as lab
from wirecap.lab.testbed import Testbed
from wirecap.linux import netlink, netns
from wirecap.traffic import session
from wirecap.traffic.live_frames import LiveFrames
from wirecap.traffic.sender import DOWN, GONE, NO_CARRIER, LinkLostError
from wirecap.traffic.session import Outcome, Session
from wirecap.traffic.synthetic import udp
from wirecap.traffic.timing import Timing
from wirecap.traffic.transmitter import Transmitter

__all__ = ["time_limit"]
Make = Callable[..., Testbed]
N, LOOPS = 20_000, 5
"""Of 5,000 packets a second: 20 s, in which somebody gets round to losing the link."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a plan is counted, however busy the machine is."""
    monkeypatch.setattr(session, "_LEAVE_S", 60.0)
    monkeypatch.setattr(session, "_COUNT_S", 60.0)


def change(interface: str, **what: Any) -> None:
    """Set a link down, or remove it."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        index = netlink.interface(interface).index
        route.link("set", index=index, **what) if what else route.link("del", index=index)


def received(bed: Testbed) -> int:
    """Packets that reached the other end, as its kernel counts them."""
    return lab.received(bed.nics[0].inside, bed.name)


LOSSES: dict[str, tuple[str, Callable[[Testbed], None]]] = {
    "peer down": (NO_CARRIER, lambda bed: netns.call(bed.name, change, bed.nics[0].inside, state="down")),
    "down": (DOWN, lambda bed: change(bed.nics[0].outside, state="down")),
    "removed": (GONE, lambda bed: change(bed.nics[0].outside)),
}


@pytest.mark.live
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", ["xdp", "packet", "live"])
def test_link_that_is_lost_half_way(testbed: Make, tmp_path: Path, way: str, loss: str) -> None:
    """What was sent is what arrived; sent and not sent are what the file has; the rate is that until then."""
    bed = testbed(queues=1, gro=True)
    file = write_pcap(tmp_path / "a.pcap", mixed(N))
    reason, lose = LOSSES[loss]
    lost: list[int] = []
    seen: dict[int, float] = {}
    """When so many packets were first seen to have been sent."""

    def run(sending: Session) -> Outcome:
        def watch(outcome: Outcome) -> None:
            seen.setdefault(outcome.sent, time.monotonic())
            if outcome.sent > 2000 and not lost:
                lost.append(outcome.sent)
                lose(bed)

        return sending.run(watch)

    before, began = received(bed), time.monotonic()
    with pytest.raises(LinkLostError) as raised:
        replay(bed, [file], Timing(pps=5000), way, run=run, loops=LOOPS)
    ended = time.monotonic()
    outcome = raised.value.outcome  # type: ignore[attr-defined]
    assert raised.value.message == f"{bed.nics[0].outside}: {reason}, after {outcome.sent} packets were sent"
    assert (outcome.reason, raised.value.exit_status) == (reason, 1)
    assert lost[0] <= outcome.sent < LOOPS * N
    assert outcome.sent + outcome.refused == LOOPS * N
    assert outcome.sent / outcome.duration_s < 7500
    assert outcome.duration_s <= seen.get(outcome.sent, ended) - began
    if loss != "removed":
        until(lambda: received(bed) - before >= outcome.sent)
        assert outcome.sent == received(bed) - before


@pytest.mark.live
@pytest.mark.parametrize("way", ["xdp", "packet", "live"])
def test_link_without_carrier(testbed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str) -> None:
    """Nothing is sent, and the command says so: every packet counted, by reason; status 1."""
    bed = testbed(queues=1, gro=True)
    LOSSES["peer down"][1](bed)
    file, outside = write_pcap(tmp_path / "a.pcap", mixed(3)), bed.nics[0].outside
    for (command, *rest), asked_for in (
        (["replay", "-t", "--loop", "4", str(file)], 12), (["replay", str(file)], 3),
        (["generate", "--count", "1M"], 10**6), (["generate", "--pps", "10", "--duration", "5s"], 0),
    ):  # fmt: skip
        assert main.run([command, "--summary-json", "-", "-i", outside, "--send", way, *rest]) == 1
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        assert (found["sent"], found["refused"], found["asked_for"]) == (0, asked_for, asked_for)
        assert min(numbers(found)) == 0
        assert "0 packets sent, 0 bytes in 0 ns\n" in printed.err
        assert found["all_counted"] == bool(asked_for)
        rest = f"{asked_for} packets not sent" if asked_for else "the rest was not sent"
        assert f"\n{rest}: no carrier\n" in printed.err
        assert f"\nwirecap: {outside}: no carrier, after 0 packets were sent (" in printed.err
    command = [sys.executable, "-m", "wirecap", "replay", "-i", outside, "--send", way, "-"]
    done = subprocess.run(command, input=file.read_bytes(), capture_output=True, timeout=100)
    assert done.returncode == 1
    assert b"\nthe rest was not sent: no carrier\n" in done.stderr


def numbers(found: Any) -> list[float]:
    """Every number of the JSON."""
    if isinstance(found, dict | list):
        return [one for part in (found.values() if isinstance(found, dict) else found) for one in numbers(part)]
    return [found] if isinstance(found, int | float) else []


@pytest.mark.live
def test_jumbo_frames_and_two_links(testbed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with an MTU of 9000, where only AF_PACKET can send; and where one of two interfaces has no carrier."""
    bed = testbed(queues=1, nics=2, mtu=9000)
    netns.call(bed.name, change, bed.nics[1].inside, state="down")
    file, (good, bad) = write_pcap(tmp_path / "a.pcap", mixed(3)), (nic.outside for nic in bed.nics)
    for arguments in (["-i", bad], ["-i", good, "-I", bad]):
        assert main.run(["replay", *arguments, str(file)]) == 1
        printed = capsys.readouterr().err
        assert "AF_PACKET" in printed
        assert "\n3 packets not sent: no carrier\n" in printed
        assert f"\nwirecap: {bad}: no carrier, after 0 packets were sent (" in printed


@pytest.mark.live
def test_copies_of_a_frame_without_carrier(testbed: Make) -> None:
    """Both senders of copies say it too: before, and when it is lost on the way."""
    bed = testbed(queues=1, gro=True)
    outside, lose = bed.nics[0].outside, LOSSES["peer down"][1]
    for name in ("live", "xdp"):
        lab.up(bed.name, queues=1, gro=True)
        if name == "live":
            sender = LiveFrames(outside, udp(60))
            send = functools.partial(sender.send_paced, 10**6, 5000)
        else:
            sender = Transmitter(outside, udp(60), [0])
            send = functools.partial(sender.send, {0: 5000}, count=10**6)
        with sender:
            before = received(bed)

            def lose_it(before: int = before) -> None:
                until(lambda: received(bed) > before + 1000)
                lose(bed)

            thread = threading.Thread(target=lose_it)
            thread.start()
            with pytest.raises(LinkLostError, match=r"no carrier, after [1-9]\d* packets") as raised:
                send()
            thread.join()
            sent = int(re.search(r"after (\d+) packets", raised.value.message)[1])  # type: ignore[index]
            until(lambda before=before, sent=sent: received(bed) - before >= sent)  # type: ignore[misc]
            assert received(bed) - before == sent
            with pytest.raises(LinkLostError, match="no carrier, after 0 packets were sent"):
                send()


@pytest.mark.live
def test_nothing_to_send_is_no_success(testbed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file, and one of which all packets are left out: 0 sent, the reason, status 1."""
    outside = testbed(queues=1).nics[0].outside
    for packets, why in (
        ([], "there are none to send"),
        ([bytes(1600)] * 2, "all 2 were left out: longer than the MTU"),
    ):
        assert main.run(["replay", "-i", outside, str(write_pcap(tmp_path / "a.pcap", packets))]) == 1
        printed = capsys.readouterr().err
        assert "\n0 packets sent, " in printed
        assert printed.endswith(f"wirecap: {outside}: no packet was sent: {why}\n")
