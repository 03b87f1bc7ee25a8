from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wirecap.cli import demo, main
from wirecap.lab import peers
from wirecap.linux import netns


def captured(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) captured", text)]


def check(text: str) -> None:
    """The tour's seven lines: what a small ring loses and the pool does not; what one queue loses and four do not; an
    alarm whose traffic is saved as far as it was asked for, and a connection that is found in it."""
    ring, pool, basic, advanced, written, read, alarmed = captured(text)
    assert ring < demo.BURST == pool
    assert basic < int(demo.SKEW_PPS * demo.SKEW_S) == advanced
    assert written == read == demo.FILE_PACKETS
    (saved,) = re.findall(r"saved, the rest was let go: +([\d,]+) packets", text)
    assert demo.ALARM_PPS < int(saved.replace(",", "")) <= alarmed
    assert re.search(rf"tcp port 443': +{demo.CONNECTION} packets, read ", text)


def toured(capsys, *options: str) -> str:
    """What the tour shows; up to five tours, as a machine that stands still for a moment loses what it should keep, and
    one that is slow loses nothing."""
    skew = int(demo.SKEW_PPS * demo.SKEW_S)
    for _ in range(5):
        status, text = main.run(["demo", *options]), capsys.readouterr().out
        ring, pool, basic, advanced, written, *_ = [*captured(text), 0, 0, 0, 0, 0]
        kept = (pool, advanced, written) == (demo.BURST, skew, demo.FILE_PACKETS)
        lost = ring < demo.BURST and basic < skew
        if status == 0 and kept and lost and f"{demo.CONNECTION} packets, read" in text:
            break
    assert status == 0
    return text


def compared(text: str) -> dict[str, tuple[int, int]]:
    """What each program of the last stop received and lost."""
    found = re.findall(r"^   ([\w -]+) -w: +([\d,]+) received, (none|[\d,]+) lost", text, re.MULTILINE)
    numbers = {name: (got.replace(",", ""), lost.replace("none", "0").replace(",", "")) for name, got, lost in found}
    return {name: (int(got), int(lost)) for name, (got, lost) in numbers.items()}


def test_tour_in_memory(capsys):
    """Without a kernel the tour shows the same: the pool holds a burst, buddies hold an uneven load. One line says why
    nothing is compared with it."""
    shown = toured(capsys, "--memory")
    check(shown)
    assert not compared(shown)
    assert shown.count("skipped: tcpdump and dumpcap cannot capture on an in-process NIC") == 1


@pytest.mark.live
def test_tour_on_a_veth(capsys):
    """As root the tour runs over AF_XDP on a NIC of its own, and removes it."""
    shown = toured(capsys)
    assert shown.startswith(f"Capturing on wcdemo{os.getpid()}0, a veth NIC")
    check(shown)
    assert f"wcdemo{os.getpid()}" not in netns.names()
    installed = [name for name in demo.PEERS if not peers.CAPTURES[name].available()]
    rows = compared(shown)
    assert list(rows) == ["wirecap capture", *installed]
    for received, lost in rows.values():
        assert received > 0
        assert received + lost == demo.FLOOD


@pytest.mark.live
def test_a_missing_program_is_one_line(capsys, monkeypatch, tmp_path):
    """Where tcpdump is missing the tour says so in one line, and goes on with dumpcap."""
    monkeypatch.setattr(peers.CAPTURES["tcpdump"], "program", "tcpdump-that-is-not-there")
    monkeypatch.setattr(demo, "FLOOD", 20_000)
    with demo._Interrupts() as interrupts, demo.open_nic(False) as nic:
        demo.Tour(nic, interrupts).flood(tmp_path)
    shown = capsys.readouterr().out
    assert shown.count("\n   tcpdump -w skipped: tcpdump-that-is-not-there is not installed\n") == 1
    assert "\n   dumpcap -w" in shown


@pytest.mark.parametrize("on_path", [True, False])
def test_printed_commands_can_be_typed(on_path, monkeypatch, tmp_path):
    """What the tour suggests runs as it is printed: by name where the PATH has this wirecap, else by its path."""
    script = Path(sys.executable).with_name("wirecap")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin" if on_path else "/usr/bin:/bin")
    rows = demo.next_commands().strip().splitlines()[1:]
    typed = [row.strip().split("   ")[0].removeprefix("sudo ") for row in rows]
    assert len(typed) == 4
    assert shlex.split(typed[0])[0] == ("wirecap" if on_path else str(script))
    for line in typed:
        ran = subprocess.run(f"{line} --help", shell=True, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("Usage: wirecap ")


def test_the_script_of_this_checkout_has_a_short_path(monkeypatch):
    """From the folder that the virtual environment lies in, as after 'make demo', a relative path is enough."""
    script = Path(sys.executable).with_name("wirecap")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(script.parents[2])
    assert f"   {script.relative_to(script.parents[2])} doctor " in demo.next_commands()


@pytest.mark.live
def test_ended_tour_removes_its_nic():
    """SIGTERM in the middle of the tour leaves neither namespace nor interface."""
    endless = "import wirecap.cli.demo as d; d.FILE_PACKETS = 10**9; import wirecap.__main__ as m; m.main()"
    running = subprocess.Popen(
        [sys.executable, "-u", "-P", "-c", endless, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    name = f"wcdemo{running.pid}"
    next(line for line in running.stdout if line.startswith("3. "))  # the stop that does not end
    assert name in netns.names()
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert errors.splitlines()[-1] == "wirecap: interrupted"
    assert name not in netns.names()
    assert not os.path.exists(f"/sys/class/net/{name}0p")  # noqa: PTH110
