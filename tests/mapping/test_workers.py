"""The processes of a map: copies of the command's own process where that is safe, else new interpreters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from map_rig import HANDLERS, frame, pcap

WAIT_S = 300


def lines(*words):
    command = [sys.executable, "-P", "-m", "wirecap", "map", *map(str, words), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize("threads", [False, True])
def test_copies(tmp_path, threads):
    """The command's workers are copies of it, unless what the handler's file imports has started a thread; what a
    handler prints is seen."""
    path = pcap(tmp_path / "x.pcap", [frame(300, n) for n in range(400)])
    handlers = HANDLERS
    if threads:
        (handlers := tmp_path / "mine.py").write_text(
            HANDLERS.read_text() + "\nimport threading, time\n"
            "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        )
    *printed, result = lines(f"{handlers}:in_copies", path, "--workers", "2", "--part", "64KiB")
    assert json.loads(result) == {"in_copies": {"interpreter" if threads else "copy": 400}}
    assert printed == ["300"] * 400


def test_a_copy_is_killed(tmp_path):
    """It is replaced, and nothing is lost."""
    path = pcap(tmp_path / "x.pcap", [frame(999 if n == 150 else 500, n) for n in range(400)])
    (tmp_path / "mark").mkdir()
    result = lines(f"{HANDLERS}:deadly:mark={tmp_path}/mark", path, "--workers", "2", "--part", "64KiB")
    assert json.loads(result[0]) == {"deadly": {"500": 399, "999": 1}}


def test_nobody_is_left(tmp_path):
    """Where the command is killed, its workers end by themselves, each of them."""
    path = pcap(tmp_path / "x.pcap", [frame(300, n) for n in range(1000)])
    (tmp_path / "mark").mkdir()
    words = [f"{HANDLERS}:waiting:mark={tmp_path}/mark", str(path), "--workers", "3", "--part", "64KiB"]
    running = subprocess.Popen([sys.executable, "-P", "-m", "wirecap", "map", *words])
    give_up = time.monotonic() + WAIT_S
    while len(found := list((tmp_path / "mark").iterdir())) < 3 and time.monotonic() < give_up:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    (tmp_path / "go").touch()
    left = [int(mark.name) for mark in found]
    assert len(left) == 3
    while left and time.monotonic() < give_up:
        left = [pid for pid in left if _is_there(pid)]
        time.sleep(0.05)
    assert left == []


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
