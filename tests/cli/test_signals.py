"""``wirecap capture`` as a process that gets signals and meets failures: what it still tells."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rig import PCAP_HEADER, pcap_records, read_pcap, time_limit, until

__all__ = ["time_limit"]

WIRECAP = [sys.executable, "-m", "wirecap", "capture"]


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught[1], 16) >> number - 1 & 1)


MODULE = """
import time
from pathlib import Path
import numpy as np
import wirecap

here = Path(__file__).parent

def slow(threads):
    (here / "merging").touch()
    while not (here / "go on").exists():
        time.sleep(0.01)
    return len(threads)

@wirecap.chunk_handler(state={"n": np.int64}, merge=slow)
def patient(chunk, state):
    state.n += len(chunk)

def broken(threads):
    raise KeyError("nothing here")

@wirecap.chunk_handler(state={"n": np.int64}, merge=broken)
def unlucky(chunk, state):
    state.n += len(chunk)

@wirecap.chunk_handler(state={"n": np.int64}, merge=abs)
def built_in(chunk, state):
    state.n += len(chunk)

@wirecap.chunk_handler
def lucky(chunk, state):
    state.n += len(chunk)

class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def odd(timestamp_ns, data):
    raise Odd

def show(timestamp_ns, data):
    print("seen " * 20)
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    return str(tmp_path / "mine.py")


@pytest.fixture
def trace(tmp_path):
    (tmp_path / "in.pcap").write_bytes(PCAP_HEADER + pcap_records(2000))
    return str(tmp_path / "in.pcap")


class Piped:
    """A capture that reads packets from this test, as they are sent."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*WIRECAP, "-r", "-", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.send(PCAP_HEADER + pcap_records(10))
        while "reading" not in self.line():  # kernels may be compiled before
            assert self.process.poll() is None

    def send(self, data: bytes) -> None:
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def line(self) -> str:
        return self.process.stderr.readline().decode().strip()

    def counters_if_any(self, packets: int = 10) -> list[str] | None:
        """What SIGUSR1 prints, once so many packets were read, and none of them waits any more."""
        self.process.send_signal(signal.SIGUSR1)
        lines: list[str] = []
        while not lines or "dropped" not in lines[-1]:
            lines.append(self.line())
            assert lines[-1], lines
        return lines if lines[0].startswith(f"{packets} ") and len(lines) == 3 else None

    def end(self) -> list[str]:
        _, errors = self.process.communicate(timeout=60)
        lines = errors.decode().splitlines()
        return [line for line in lines if "wirecap: handling " not in line]  # where the end takes a second


def packets_now(path: Path) -> int:
    try:
        return len(read_pcap(path))
    except Exception:  # being written
        return -1


def test_counts_so_far_and_a_flush(tmp_path):
    """SIGUSR1 prints the counters and SIGUSR2 makes the file whole, as tcpdump does; the capture goes on after both."""
    out = tmp_path / "out.pcap"
    capture = Piped("-w", str(out))
    assert until(capture.counters_if_any) == [
        "10 packets read so far",
        "10 packets received by filter",
        "0 packets dropped",
    ]
    capture.send(pcap_records(10, 10))
    until(lambda: capture.counters_if_any(20))
    capture.process.send_signal(signal.SIGUSR2)
    until(lambda: packets_now(out) == 20)
    capture.send(pcap_records(10, 20))
    assert capture.end() == ["30 packets read", "30 packets received by filter", "0 packets dropped"]
    assert capture.process.returncode == 0
    assert [packet.data[0] for packet in read_pcap(out)] == list(range(30))


def test_ctrl_c_while_a_pipe_has_no_reader(tmp_path):
    """A capture that waits for somebody to read its output ends at the first Ctrl-C."""
    pipe, record = tmp_path / "pipe", tmp_path / "in.pcap"
    os.mkfifo(pipe)
    record.write_bytes(PCAP_HEADER + pcap_records(10))
    command = [*WIRECAP, "-r", str(record), "-w", str(pipe)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        until(lambda: waits_for_a_reader(process.pid), 100)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.endswith(b"wirecap: interrupted\n")


def waits_for_a_reader(pid: int) -> bool:
    """Whether a thread of the process sleeps in the open of a pipe."""
    try:
        return any("wait_for_partner" in path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/wchan"))
    except OSError:  # a thread has just ended
        return False


def test_signals_as_fast_as_they_come(tmp_path):
    """Hundreds of signals, many of them while another one is handled, end nothing and block nothing."""
    capture = Piped("-w", str(tmp_path / "out.pcap"))
    for number in range(600):
        capture.process.send_signal((signal.SIGUSR1, signal.SIGUSR2)[number % 2])
    capture.send(pcap_records(10, 10))
    assert capture.end()[-3:] == ["20 packets read", "20 packets received by filter", "0 packets dropped"]
    assert capture.process.returncode == 0


def test_signals_while_results_are_merged(mine, tmp_path):
    """A signal that comes when the capture has ended, while a merge still works, loses neither counters nor JSON."""
    summary = tmp_path / "summary.json"
    capture = Piped("--handler", f"{mine}:patient", "--summary-json", str(summary))
    capture.process.send_signal(signal.SIGTERM)
    until((tmp_path / "merging").exists)
    capture.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert capture.process.poll() is None
    (tmp_path / "go on").touch()
    assert "packets read" in capture.end()[0]
    assert capture.process.returncode == 0
    assert json.loads(summary.read_text())["handlers"] == [{"name": "patient", "result": 1, "failures": 0}]


def test_third_signal_ends_a_merge_that_does_not(mine, tmp_path):
    """A process that is stuck in a merge is ended by the third signal."""
    capture = Piped("--handler", f"{mine}:patient")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        capture.process.send_signal(number)
        until((tmp_path / "merging").exists)
        time.sleep(0.1)
    capture.end()
    assert capture.process.returncode == -signal.SIGTERM


def test_reader_that_goes_away_still_leaves_the_summary(mine, trace, tmp_path):
    """When nobody reads a handler's output any more, the run fails, and counters and summary are there."""
    summary = tmp_path / "summary.json"
    command = " ".join([*WIRECAP, "-r", trace, "--handler", f"{mine}:show", "--summary-json", str(summary)])
    done = subprocess.run(["/bin/sh", "-c", f"{command} | head -1"], capture_output=True, text=True, timeout=60)
    assert " read\n" in done.stderr
    assert done.stderr.splitlines()[-1] == "wirecap: broken pipe: nothing reads the output any more"
    packets = json.loads(summary.read_text())["packets"]
    assert packets["received"] == packets["delivered"] + packets["filtered_out"] + packets["dropped"] > 0


def test_text_that_nobody_reads_to_its_end_is_no_trouble():
    """Help, lists and scripts end quietly when their reader has enough (``| head -1``)."""
    for words in (["completion", "bash"], ["metrics", "dashboard"]):
        command = f"{sys.executable} -m wirecap {' '.join(words)} | true"
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60)
        assert done.stderr == ""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WIRECAP, *arguments], capture_output=True, text=True, timeout=60)


def test_one_merge_that_fails_leaves_the_others(mine, trace, tmp_path):
    """Handlers whose merge works have their results, whatever another's raised; the run has failed with its line."""
    summary = tmp_path / "summary.json"
    handlers = [part for name in ("unlucky", "lucky", "built_in") for part in ("--handler", f"{mine}:{name}")]
    done = run("-r", trace, *handlers, "--summary-json", str(summary))
    assert done.returncode == 1
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"lucky": {"n": 2000}}]
    assert "2000 packets read" in done.stderr
    assert "unlucky: its merge failed: KeyError: 'nothing here'" in done.stderr.splitlines()[-1]
    rows = json.loads(summary.read_text())["handlers"]
    assert [(row["name"], row["result"]) for row in rows] == [
        ("unlucky", None), ("lucky", {"n": 2000}), ("built_in", None),
    ]  # fmt: skip


def test_what_failed_first_is_told(mine, trace):
    """A summary that cannot be written hides neither the counters nor the failure before it; alone it fails the run."""
    done = run("-r", trace, "--handler", f"{mine}:unlucky", "--summary-json", "/dev/full")
    assert done.returncode == 1
    assert "2000 packets read" in done.stderr
    assert "merge failed" in done.stderr.splitlines()[-1]
    done = run("-r", trace, "--summary-json", "/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "wirecap: /dev/full: no space left on device (free some space, or write to another disk)"
    )


def test_an_exception_that_cannot_say_what_it_is(mine, trace):
    """A handler's own exception without a text is told by its class and line."""
    done = run("-r", trace, "--handler", f"{mine}:odd")
    assert done.returncode == 1
    assert ": Odd (" in done.stderr.splitlines()[-1]
    assert "0 packets read" in done.stderr.splitlines()  # it failed on the first


@pytest.mark.parametrize(
    ("ignored", "sent", "status"),
    [
        ((), signal.SIGTERM, -signal.SIGTERM),
        ((), signal.SIGHUP, -signal.SIGHUP),
        ((signal.SIGINT,), signal.SIGTERM, -signal.SIGTERM),
        ((signal.SIGINT, signal.SIGHUP), signal.SIGINT, 0),
        ((signal.SIGINT, signal.SIGHUP), signal.SIGHUP, 0),
        ((), signal.SIGUSR2, 0),
    ],
)
def test_signal_before_the_first_packet(trace, tmp_path, ignored, sent, status):
    """A signal ends the command while it sets itself up, unless ignored at the start, as by nohup; not SIGUSR2."""
    command = [*WIRECAP, "-q", "-r", "-", "-w", str(tmp_path / "out.pcap")]

    def ignore() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    running = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=ignore)
    until(lambda: catches(running.pid, signal.SIGTERM), 60)  # nothing comes so far, so that setting up does not end
    running.send_signal(sent)
    if status == 0:
        running.stdin.write(Path(trace).read_bytes())
        running.stdin.close()
    errors = running.stderr.read().decode()
    running.wait(60)
    for pipe in (running.stdin, running.stderr):
        pipe.close()
    assert running.returncode == status
    assert errors.splitlines()[0] == ("2000 packets read" if status == 0 else "wirecap: interrupted")


@pytest.mark.live("unshare")
def test_signal_before_the_first_packet_in_a_container():
    """The first process of a PID namespace, too, which has no default actions, is ended by SIGTERM."""
    command = ["unshare", "--pid", "--fork", *WIRECAP, "-q", "-r", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        inner = int(until(children.read_text))
        until(lambda: catches(inner, signal.SIGTERM), 60)
        os.kill(inner, signal.SIGTERM)
        errors = running.stderr.read()
        running.wait(60)
    assert errors == "wirecap: interrupted\n"
    assert running.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(("asked", "how"), [(True, "a second Ctrl-C"), (False, "Ctrl-C twice")])
def test_a_long_end_is_announced_once(monkeypatch, asked, how):
    """While captured packets wait for a slow handler, a line says how many, and how to leave them."""
    from types import SimpleNamespace

    from wirecap.run import capture

    monkeypatch.setattr(capture, "PATIENCE_S", 0.01)
    said: list[str] = []
    engine = SimpleNamespace(summary=lambda: SimpleNamespace(total=lambda what: 25600))
    interrupts = SimpleNamespace(asked=SimpleNamespace(is_set=lambda: asked))
    display = SimpleNamespace(say=lambda text, event, **fields: said.append(text))
    with capture._patience(engine, display, interrupts):
        until(lambda: said)
    assert said == [f"wirecap: handling 25600 packets that were captured ({how} leaves the rest)"]
