"""``wirecap capture --keep`` and ``wirecap trigger``: as commands, from outside, while a capture runs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rig import PCAP_HEADER, Wire, flow_frames, packets_so_far, pcap_records, read_pcapng, time_limit, until
from wirecap.cli import main
from wirecap.errors import UsageError, WirecapError
from wirecap.kernels.base.jit import PURE
from wirecap.observe import trigger_socket
from wirecap.observe.trigger_socket import TriggerSocket

__all__ = ["time_limit"]

BAD = {
    ("--keep", "60s"): "there are options for an output file, but no file is named",
    ("--keep", "soon", "-w", "x"): "--keep: 'soon' is neither a time nor a size",
    ("--keep", "0", "-w", "x"): "--keep: 0 is too little to keep",
    ("--keep", "10kB", "-w", "x"): "--keep: 10kB is too little to keep",
    ("--save-on", "tcp", "-w", "x"): "--save-on has no effect without --keep",
    ("--keep-after", "1s", "-w", "x"): "--keep-after has no effect without --keep",
    ("--keep", "1GiB", "--keep-memory", "2GiB", "-w", "x"): "--keep already says how much memory to use",
    ("--keep", "60s", "--keep-memory", "1kB", "-w", "x"): "the memory for kept packets must be 1 MiB or more",
    ("--keep", "900TB", "-w", "x"): "for kept packets are more than this host has free",
    ("--keep", "60s", "--save-on", "tpc", "-w", "x"): "--save-on: ",
    ("--keep", "60s", "--save-on", " ", "-w", "x"): "--save-on: the filter is empty",
    ("--keep", "60s", "--save-on-rate", "fast", "-w", "x"): "--save-on-rate: 'fast' is not a rate",
    ("--keep", "60s", "--save-on-rate", "0", "-w", "x"): "--save-on-rate: a rate of 0 is exceeded by every packet",
    ("--keep", "60s", "--save-on-drops", "0", "-w", "x"): "--save-on-drops 0 would save all the time",
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_what_is_refused(arguments, tmp_path, monkeypatch, capfd):
    """One line, and no file is made."""
    monkeypatch.chdir(tmp_path)
    Path("in.pcap").write_bytes(PCAP_HEADER + pcap_records(1))
    assert main.run(["capture", "-r", "in.pcap", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert BAD[arguments] in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.pcap"]


def test_the_socket_is_for_its_user_alone(tmp_path):
    """Mode 0600 in a folder of mode 0700; bad names are answered with a sentence; nothing is left behind."""
    fired = []

    def fire(name):
        if name == "bad":
            raise UsageError("no such thing", "use another")
        fired.append(name)

    folder = tmp_path / "run"
    listener = TriggerSocket(fire, folder)
    try:
        assert stat.S_IMODE(listener.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        trigger_socket.send(listener.path, "the alarm")
        with pytest.raises(WirecapError, match="no such thing"):
            trigger_socket.send(listener.path, "bad")
        assert fired == ["the alarm"]
    finally:
        listener.close()
    assert not listener.path.exists()
    with pytest.raises(WirecapError, match="does not answer"):
        trigger_socket.send(listener.path, "late")


def test_captures_that_are_gone_are_not_found(tmp_path, monkeypatch, capfd):
    """A socket without a process is removed; with nobody to tell, the command fails with one line."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(trigger_socket, "_folders", lambda: iter([trigger_socket.runtime_folder()]))
    listener = TriggerSocket(lambda name: None)
    left = tmp_path / "99999999.trigger"
    os.link(listener.path, left)
    assert sorted(trigger_socket.running()) == [os.getpid(), 99999999]
    listener.close()
    assert trigger_socket.running() == {}
    assert not left.exists()
    for arguments, status, says in (
        ([], 1, "none of your captures keeps packets"),
        (["--pid", "1"], 1, "process 1 is not a capture of yours that keeps packets"),
        (["--pid", "1", "--all"], 2, "--pid and --all are both given"),
        (["two\nlines"], 2, "a trigger cannot be called"),
    ):
        assert main.run(["trigger", *arguments]) == status
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert says in error


@pytest.mark.skipif(PURE, reason="the command runs compiled")
def test_triggers_from_outside(tmp_path, monkeypatch, capfd):
    """SIGUSR2 and ``wirecap trigger`` save what a running capture keeps, and then what follows."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(trigger_socket, "_folders", lambda: iter([trigger_socket.runtime_folder()]))
    out, summary = tmp_path / "out.pcapng", tmp_path / "summary.json"
    command = [sys.executable, "-P", "-m", "wirecap", "capture", "-r", "-", "--keep", "3s", "--keep-after", "2s"]
    command += ["-w", str(out), "--summary-json", str(summary)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:

        def send(first, count):
            process.stdin.write(pcap_records(count, first))
            process.stdin.flush()

        process.stdin.write(PCAP_HEADER)
        send(0, 10)
        until(lambda: b"reading" in process.stderr.readline())

        assert b"keeping the last 3 s of packets, in at most " in process.stderr.readline()

        def keeps(number):
            """Whether SIGUSR1 tells that so many packets have come and are not saved."""
            process.send_signal(signal.SIGUSR1)
            lines = [b""]
            while b"dropped" not in lines[-1]:
                lines.append(process.stderr.readline())
                assert lines[-1], lines
            return b"%d packets still kept, and not saved\n" % number in lines

        until(lambda: keeps(10))
        process.send_signal(signal.SIGUSR2)
        until(lambda: packets_so_far(out) == 4)
        send(10, 10)
        until(lambda: packets_so_far(out) == 6)
        until(lambda: keeps(14))
        assert main.run(["trigger", "by hand"]) == 0
        assert capfd.readouterr().out == f"capture {process.pid} saves what it keeps\n"
        until(lambda: packets_so_far(out) == 10)
        process.stdin.close()
        error = process.stderr.read().decode()
        assert process.wait(60) == 0
    assert "10 packets saved (2 triggers)\n10 packets still kept, and not saved\n" in error
    found = json.loads(summary.read_text())["kept"]
    assert [trigger["why"] for trigger in found["triggers"]] == ["SIGUSR2", "by hand"]
    assert [p.timestamp // 10**9 - 1_700_000_000 for p in read_pcapng(out)] == [*range(6, 12), *range(16, 20)]
    data = out.read_bytes()
    assert b"saved by wirecap: SIGUSR2 (" in data
    assert b"saved by wirecap: by hand (" in data
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.live
@pytest.mark.skipif(PURE, reason="the command runs compiled")
def test_sighup_changes_triggers_and_bounds(testbed, tmp_path, monkeypatch):
    """Another --save-on and other bounds hold from then on; what cannot be applied leaves both as they were."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    bed, path, summary = testbed(queues=1), tmp_path / "it.toml", tmp_path / "summary.json"
    base = (
        f'netns = "{bed.name}"\ninterface = "{bed.nics[0].inside}"\nengine = "xdp"\nkeep = "60s"\n'
        f'write = "{tmp_path}/out.pcapng"\nfile-size = "1MiB"\nsummary-json = "{summary}"\n'
    )
    path.write_text(base + 'save-on = "tcp"\nlimit = "10MiB"\n')
    command = [sys.executable, "-P", "-m", "wirecap", "capture", "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:

        def line(mark):
            return next(line.strip() for line in process.stderr if mark in line)

        def reload(text, mark):
            path.write_text(base + text)
            process.send_signal(signal.SIGHUP)
            return line(mark)

        def received(number):
            process.send_signal(signal.SIGUSR1)
            return line("captured so far").startswith(f"{number} packets")

        try:
            line("capturing on")
            with Wire(bed.nics[0].outside) as wire:
                wire.send(flow_frames(5))
                until(lambda: received(5))
                for text, says in {
                    'save-on = "upd"\nlimit = "20MiB"\n': "--save-on: ",
                    'save-on = "udp"\nlimit = "1MiB"\n': "--limit: 1 MiB is too little for files of 1 MiB",
                    'save-on = "udp"\nlimit = "10MiB"\nkeep-memory = "2MiB"\n': "keep-memory cannot change",
                }.items():
                    assert says in reload(text, "the old settings stay")
                wire.send(flow_frames(5))
                until(lambda: received(10))
                assert not (tmp_path / "out.pcapng").exists()
                assert reload('save-on = "udp"\nlimit = "20MiB"\nmin-free = "1"\n', "reloaded")
                wire.send(flow_frames(5))
                until(lambda: packets_so_far(tmp_path / "out.pcapng") == 15)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    found = json.loads(summary.read_text())
    assert found["packets"]["written"] == found["packets"]["received"] == 15
    assert found["kept"]["triggered"] == 1
