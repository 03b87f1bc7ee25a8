from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from wirecap.cli import demo, main
from wirecap.linux import netns


def captured(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) captured", text)]


def check(text: str) -> None:
    """The tour's six lines: what a small ring loses and the pool does not; what one queue loses and four do not."""
    ring, pool, basic, advanced, written, read = captured(text)
    assert ring < demo.BURST == pool
    assert basic < int(demo.SKEW_PPS * demo.SKEW_S) == advanced
    assert written == read == demo.FILE_PACKETS


def test_tour_in_memory(capsys):
    """Without a kernel the tour shows the same: the pool holds a burst, buddies hold an uneven load."""
    assert main.run(["demo", "--memory"]) == 0
    check(capsys.readouterr().out)


@pytest.mark.live
def test_tour_on_a_veth(capsys):
    """As root the tour runs over AF_XDP on a NIC of its own, and removes it."""
    assert main.run(["demo"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"A veth NIC of our own, wcdemo{os.getpid()}0")
    check(shown)
    assert f"wcdemo{os.getpid()}" not in netns.names()


@pytest.mark.live
def test_ended_tour_removes_its_nic():
    """SIGTERM in the middle of the tour leaves neither namespace nor interface."""
    running = subprocess.Popen(
        [sys.executable, "-m", "wirecap", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    name = f"wcdemo{running.pid}"
    deadline = time.monotonic() + 30
    while name not in netns.names() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert name in netns.names()
    time.sleep(0.5)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert errors.splitlines()[-1] == "wirecap: interrupted"
    assert name not in netns.names()
    assert not os.path.exists(f"/sys/class/net/{name}0p")  # noqa: PTH110
