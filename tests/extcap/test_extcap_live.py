"""Wireshark's own programs list and capture through ``wirecap-extcap``; calls as Wireshark makes them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_messages import messages

from rig import Wire, flow_frames, read_pcapng, until
from wirecap.cli.main import run
from wirecap.extcap.arguments import parse
from wirecap.extcap.capture import Display
from wirecap.extcap.toolbar import CAPTURED, DROPPED, LOG
from wirecap.kernels.base.cache import cache_root
from wirecap.linux import capabilities, netlink, netns
from wirecap.observe.live_line import Snapshot
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

EXTCAP = [sys.executable, "-m", "wirecap.extcap"]
NOTHING = Snapshot(0, 0, 0, 0)
STARTED: list[subprocess.Popen[str]] = []
FRAMES = flow_frames(3000)


@pytest.fixture
def home(tmp_path, monkeypatch, capsys) -> Path:
    """A user's home with the extcap installed in it, for the tshark of this machine."""
    monkeypatch.setenv("WIRECAP_CACHE_DIR", str(cache_root()))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert run(["wireshark", "install", "--user"]) == 0
    capsys.readouterr()
    return tmp_path


@pytest.fixture
def fifo(tmp_path) -> Iterator[Path]:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # lets go what waits for the other end


def start(*command: object, namespace: str | None = None, **options: object) -> subprocess.Popen[str]:
    words = [str(word) for word in command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    STARTED.append(netns.call(namespace, subprocess.Popen, words, **pipes))
    return STARTED[-1]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test that fails leaves no process behind."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            if process.poll() is None:
                process.kill()


def captures(bed, process: subprocess.Popen[str]) -> bool:
    """Wait until the XDP program is there: from then on no packet is missed."""
    return until(
        lambda: process.poll() is not None or netns.call(bed.name, netlink.interface, bed.nics[0].inside).xdp_mode, 100
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status, and what it said on standard error."""
    said = process.communicate(timeout=100)[1]
    return process.returncode, said


@pytest.mark.live("tshark", "dumpcap")
def test_tshark_lists_and_captures(testbed, home):
    """tshark lists the interface with its link type; from another namespace it captures exactly what its preferences
    and its own filter ask for, until it has as many packets as it wants."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    listed, _ = start("tshark", "-D", namespace=bed.name).communicate(timeout=100)
    assert f"wirecap-{inside} (WireCAP: {inside})" in listed
    types, _ = start("tshark", "-L", "-i", f"wirecap-{inside}", namespace=bed.name).communicate(timeout=100)
    assert "EN10MB (Ethernet)" in types
    out = home / "out.pcapng"
    values = {"netns": bed.name, "interface": inside, "queues": "0-1", "engine": "xdp", "filter": "dst port 9"}
    values |= {"m": 64, "r": 200, "snaplen": 50, "cell": 4096}
    preferences = [word for name, value in values.items() for word in ("-o", f"extcap.wirecap.{name}:{value}")]
    capture = start("tshark", "-i", "wirecap", "-w", out, "-c", 1000, "-f", "udp", *preferences)
    captures(bed, capture)
    with Wire(bed.nics[0].outside) as wire:
        wire.send([bytes(12) + b"\x88\xb5" + bytes(46)] * 10)  # not UDP
        wire.send([synthetic.udp(60, destination_port=10)] * 10)
        wire.send(FRAMES[:1000])
    status, said = end(capture)
    assert status == 0, said
    assert "Error" not in said
    found = read_pcapng(out)
    assert sorted(packet.data for packet in found) == sorted(frame[:50] for frame in FRAMES[:1000])
    assert {packet.original for packet in found} == {60}


@pytest.mark.live("tshark", "dumpcap")
def test_tshark_shows_what_is_wrong(testbed, home):
    """A capture that cannot be is over at once, and tshark prints the line that says why."""
    bed = testbed(queues=2)
    preferences = ["-o", f"extcap.wirecap.netns:{bed.name}", "-o", f"extcap.wirecap.interface:{bed.nics[0].inside}"]
    refused = start("tshark", "-i", "wirecap", *preferences, "-o", "extcap.wirecap.queues:7", "-w", home / "out")
    status, said = end(refused)
    assert "no queue 7" in said
    assert "Traceback" not in said
    assert status in (0, 1, 2)  # tshark's own


@pytest.mark.live("dumpcap")
def test_a_call_as_wireshark_makes_it(testbed, tmp_path, fifo):
    """Into a FIFO that dumpcap reads, with the toolbar's pipes; it gives up its rights as ``wirecap capture`` does, and
    SIGTERM ends it with every packet delivered."""
    bed = testbed(queues=2)
    out, pipes = tmp_path / "out.pcapng", [tmp_path / "to", tmp_path / "back"]
    for path in pipes:
        os.mkfifo(path)
    reader = os.open(pipes[0], os.O_RDONLY | os.O_NONBLOCK)
    dumpcap = start("dumpcap", "-q", "-i", fifo, "-w", out)
    capture = start(*EXTCAP, "--capture", "--extcap-interface", f"wirecap-{bed.nics[0].inside}", "--fifo", fifo,
                    "--extcap-control-out", pipes[0], "--extcap-control-in", pipes[1], "--netns", bed.name,
                    "--engine", "xdp", "--mode", "basic", "--m", "64", "--r", "100", "--t", "60", "--cell", "4096",
                    "--extcap-version=4.0", "--take-over", "--extcap-capture-filter", "udp or arp")  # fmt: skip
    assert captures(bed, capture)
    until(lambda: rights(capture.pid) == OTHERS_HAVE_NONE)
    with Wire(bed.nics[0].outside) as wire:
        wire.send(FRAMES)
    said: list[tuple[int, int, str]] = []

    def shown() -> bool:
        with contextlib.suppress(BlockingIOError):
            said.extend(messages(os.read(reader, 1 << 20)))
        return (CAPTURED, 1, "3,000") in said

    until(shown, 60)
    capture.send_signal(signal.SIGTERM)
    assert end(capture) == (0, "")
    assert end(dumpcap)[0] == 0
    shown()
    os.close(reader)
    assert sorted(packet.data for packet in read_pcapng(out)) == sorted(FRAMES)
    log = "".join(text for control, command, text in said if (control, command) == (LOG, 2))
    assert re.search(r"^capturing on .*: 2 queues, engine xdp .*, M 64, R 100$", log, re.MULTILINE)
    assert "3000 packets captured\n" in log
    assert [text for control, _, text in said if control == DROPPED] == ["", "0"]


KEPT = {"CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_IPC_LOCK", "CAP_SYS_ADMIN"}
OTHERS_HAVE_NONE = (True, {0}, {"1"})


def rights(pid: int) -> tuple[bool, set[int], set[str]]:
    """Whether the main thread has no more than KEPT, what capabilities the others have, and who gains nothing new."""
    mask, others, settled = sum(1 << capabilities.BITS[name] for name in KEPT), set(), set()
    main = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (task / "status").read_text()
        except OSError:  # it has just ended
            continue
        found = int(re.search(r"CapPrm:\s*(\w+)", text)[1], 16)
        settled.add(re.search(r"NoNewPrivs:\s*(\d)", text)[1])
        if int(task.name) == pid:
            main = found
        else:
            others.add(found)
    return main & ~mask == 0, others, settled


@pytest.mark.live
@pytest.mark.parametrize("traffic", [False, True])
def test_a_closed_fifo_ends_the_capture(testbed, fifo, traffic):
    """Nobody reads any more: the capture ends with status 0, also where no packet comes that would find out."""
    bed = testbed(queues=1)
    capture = start(*EXTCAP, "--capture", "--extcap-interface", f"wirecap-{bed.nics[0].inside}", "--fifo", fifo,
                    "--netns", bed.name)  # fmt: skip
    with fifo.open("rb") as reader:
        assert reader.read(4) == b"\n\r\r\n"
        assert captures(bed, capture)
    with Wire(bed.nics[0].outside) as wire:
        wire.send(FRAMES if traffic else [])
    assert end(capture) == (0, "")
    assert netns.call(bed.name, netlink.interface, bed.nics[0].inside).xdp_mode == ""


def test_a_fifo_that_was_closed_early(fifo, monkeypatch):
    """A reader that has gone before the first packet, or goes later, is noticed once."""
    ended: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", ended.append)
    asked = parse(["--capture", "--extcap-interface", "wirecap-lo", "--fifo", str(fifo)])
    for reads in (False, True):
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) if reads else -1
        display = Display(asked)
        display.ready()
        if reads:
            display.show(NOTHING)
            assert not ended
            os.close(reader)
        for _ in range(3):
            display.show(NOTHING)
        assert ended == [signal.SIGTERM]
        ended.clear()
        display.close()


@pytest.mark.live
def test_stopped_before_it_began(fifo):
    """SIGTERM while nobody has opened the FIFO: status 0, and not a word."""
    capture = start(*EXTCAP, "--capture", "--extcap-interface", "wirecap-lo", "--fifo", fifo, "--engine", "packet")
    until(lambda: handles(capture.pid, signal.SIGTERM), 60)
    capture.send_signal(signal.SIGTERM)
    assert end(capture) == (0, "")


def handles(pid: int, number: int) -> bool:
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.live
def test_drops_are_told(testbed, fifo):
    """What the reader is too slow for is counted, and told on standard error, which Wireshark shows."""
    bed = testbed(queues=1)
    capture = start(*EXTCAP, "--capture", "--extcap-interface", f"wirecap-{bed.nics[0].inside}", "--fifo", fifo,
                    "--netns", bed.name, "--m", "2", "--r", "2", "--engine", "xdp")  # fmt: skip
    with fifo.open("rb") as reader:
        assert reader.read(4) == b"\n\r\r\n"
        assert captures(bed, capture)
        with LiveFrames(bed.nics[0].outside, synthetic.udp(60)) as sender:
            sender.send(20_000)
        capture.send_signal(signal.SIGTERM)
        reader.read()
    status, said = end(capture)
    assert status == 0
    assert " dropped: " in said
