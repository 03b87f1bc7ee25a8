"""SIGHUP: a capture by a configuration file takes another filter and T, and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rig import Wire, flow_frames, until
from wirecap import signals
from wirecap.kernels.base.jit import PURE

pytestmark = [pytest.mark.live, pytest.mark.skipif(PURE, reason="the command runs compiled")]


class Running:
    """A capture by ``path``, with what it says on standard error."""

    def __init__(self, path: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "wirecap", "capture", "--config", str(path), *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.line("capturing on")

    def line(self, mark: str) -> str:
        """The next line with this in it."""
        for line in self.process.stderr:
            if mark in line:
                return line.strip()
        raise AssertionError(f"no line with {mark!r}")

    def reload(self, mark: str) -> str:
        self.process.send_signal(signal.SIGHUP)
        return self.line(mark)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode


def udp(port: int, count: int) -> list[bytes]:
    """Frames to a port, as ``flow_frames`` makes them with another one."""
    frames = []
    for frame in flow_frames(count):
        frame = bytearray(frame)
        frame[36:38], frame[40:42] = port.to_bytes(2, "big"), bytes(2)
        frames.append(bytes(frame))
    return frames


def test_another_filter_and_threshold(testbed, tmp_path):
    """Each packet is judged by the filter that held when it came, none is lost; a wrong file changes nothing."""
    bed, path, summary = testbed(queues=1), tmp_path / "it.toml", tmp_path / "summary.json"
    base = (
        f'netns = "{bed.name}"\ninterface = "{bed.nics[0].inside}"\n'
        f'engine = "xdp"\nmode = "advanced"\nsummary-json = "{summary}"\n'
    )
    path.write_text(base + 'filter = "udp dst port 7000"\n')
    capture = Running(path)
    try:
        with Wire(bed.nics[0].outside) as wire:

            def send(port, count):
                for frame in udp(port, count):
                    wire.send([frame])

            def judged(delivered, rejected):
                """Whether all that was sent has been judged: SIGUSR1 prints the counters so far."""
                capture.process.send_signal(signal.SIGUSR1)
                lines = [capture.line("captured so far")]
                while "dropped" not in lines[-1]:
                    lines.append(capture.line("packet"))
                return lines[0].startswith(f"{delivered} ") and f"{rejected} packets rejected by filter" in lines

            send(7000, 50)
            send(8000, 30)
            until(lambda: judged(50, 30))
            path.write_text(base + 'filter = "udp dst port 8000"\nthreshold = 80\n')
            assert capture.reload("reloaded") == f"wirecap: {path}: reloaded"
            send(7000, 20)
            send(8000, 40)
            until(lambda: judged(90, 50))
            for text, says in {
                base + 'filter = "udp prt 1"\n': ":6: filter 'udp prt 1': syntax error",
                base + 'filter = "tcp"\nchunks = 7\n': ":7: chunks cannot change while packets are captured",
                base + 'hander = "count"\n': ":6: unknown key 'hander' (did you mean handler?)",
                base + "filter = \n": "invalid value",
            }.items():
                path.write_text(text)
                line = capture.reload("old settings stay")
                assert line.startswith("wirecap: the old settings stay: ")
                assert says in line
            send(8000, 10)
            until(lambda: judged(100, 50))
        assert capture.end() == 0
    finally:
        capture.process.kill()
    found = json.loads(summary.read_text())
    assert found["packets"]["delivered"] == 100
    assert not any(found["packets"]["drops"].values())


@pytest.mark.parametrize("engine", ["xdp", "packet"])
def test_what_cannot_be_changed(engine, testbed, tmp_path):
    """A capture without a filter gets none, and one in the kernel stays: the capture goes on."""
    bed, path = testbed(queues=1), tmp_path / "it.toml"
    base = f'netns = "{bed.name}"\ninterface = "{bed.nics[0].inside}"\nengine = "{engine}"\n'
    path.write_text(base)
    capture = Running(path)
    try:
        path.write_text(base + 'filter = "udp"\n')
        says = "began without a filter" if engine == "xdp" else "the filter runs in the kernel"
        assert says in capture.reload("old settings stay")
        path.unlink()
        assert "no such file" in capture.reload("old settings stay")
        path.write_text(base + "threshold = 90\n")
        assert "reloaded" in capture.reload("it.toml")
        assert capture.end() == 0
    finally:
        capture.process.kill()


def test_a_lost_terminal_still_ends_it(testbed, tmp_path, monkeypatch):
    """SIGHUP because the terminal is gone is no wish for a reload; nohup(1) keeps it from ending the capture."""
    bed, path, ready = testbed(queues=1), tmp_path / "it.toml", tmp_path / "ready"
    path.write_text(f'netns = "{bed.name}"\ninterface = "{bed.nics[0].inside}"\nengine = "packet"\nquiet = true\n')
    leader, terminal = os.forkpty()
    if leader == 0:
        os.execv(sys.executable, [sys.executable, "-m", "wirecap", "capture", "--config", str(path), "--ready-file",
                                  str(ready)])  # fmt: skip
    until(ready.exists, 100)
    os.close(terminal)
    assert os.waitpid(leader, 0)[1] in (0, 1 << 8)  # what it says at the end may have no reader
    with monkeypatch.context() as patched:
        patched.setattr(signals, "_has_terminal", iter([True, False]).__next__)
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            reloaded = []
            with signals.Interrupts({signal.SIGHUP: lambda: reloaded.append(1)}) as interrupts:
                os.kill(os.getpid(), signal.SIGHUP)
                interrupts.act()
            assert (reloaded, interrupts.asked.is_set()) == ([1], False)
        finally:
            signal.signal(signal.SIGHUP, before)
