"""What a service manager is told: readiness, pings while capture threads turn, a line about the state, the end."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rig import until
from wirecap.engine.turning import Turning
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.pool import pool as k
from wirecap.observe.manager import Manager

WIRECAP = [sys.executable, "-m", "wirecap"]
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207  # linux/ptrace.h
WALL = 0x40000000  # __WALL of linux/wait.h: threads too


@pytest.fixture
def notified(tmp_path):
    """The manager's end of a NOTIFY_SOCKET, bound to tmp_path / "notify"."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(tmp_path / "notify"))
        ours.settimeout(100)
        yield ours


def engine_of(threads, live=True):
    """What Turning asks of an engine: one home queue for each thread."""
    queues = np.zeros(len(threads) * k.QUEUE_WORDS, np.int64)
    taking = [(thread.native_id, [number]) for number, thread in enumerate(threads)]
    return SimpleNamespace(
        pool=SimpleNamespace(queues=queues), source=SimpleNamespace(live=live), taking=lambda: taking
    )


def test_a_thread_that_waits_for_packets_turns_and_one_that_hangs_does_not():
    """A thread that hangs is seen beside one that is well; the packets that a busy one takes say that it turns."""
    ended, (empty, full) = threading.Event(), os.pipe()

    def idle():
        while not ended.is_set():
            time.sleep(0.001)

    well, hanging = threading.Thread(target=idle), threading.Thread(target=os.read, args=(empty, 1))
    try:
        for thread in (well, hanging):
            thread.start()
        inside = Path(f"/proc/self/task/{hanging.native_id}/syscall")
        until(lambda: inside.read_text().split()[1:2] == [hex(empty)])
        both = engine_of([well, hanging])
        alone, turning = Turning(engine_of([well])), Turning(both)
        for _ in range(3):
            until(alone)
            assert not turning()
        both.pool.queues[k.QUEUE_WORDS + k.TAKEN] += 1
        alone()
        until(alone)
        assert turning()
        assert Turning(engine_of([hanging], live=False))()
    finally:
        ended.set()
        os.write(full, b"x")
        well.join()
        hanging.join()
        os.close(empty)
        os.close(full)


def test_what_is_sent(notified, tmp_path):
    """Pings only while threads turn, and only if they are expected of this process; nothing without a socket."""
    place = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    watched = Manager(place | {"WATCHDOG_USEC": "4", "WATCHDOG_PID": str(os.getpid())})
    assert watched.every_s == 1e-6
    watched.ready()
    time.sleep(watched.every_s)
    watched.beat(lambda: True, lambda: "all is well")
    time.sleep(watched.every_s)
    watched.beat(lambda: False, lambda: "all is well")
    watched.stopping("ends")
    others = Manager(place | {"WATCHDOG_USEC": "4", "WATCHDOG_PID": "1"})
    assert others.every_s == 10
    others.beat(lambda: True, lambda: "unwatched")
    assert [notified.recv(100) for _ in range(5)] == [
        b"READY=1", b"STATUS=all is well\nWATCHDOG=1", b"STATUS=A capture thread hangs.", b"STOPPING=1\nSTATUS=ends",
        b"STATUS=unwatched",
    ]  # fmt: skip
    notified.close()
    others.stopping()  # nobody is there any more
    Manager({}).beat(lambda: True, lambda: "nobody")


@pytest.mark.live
@pytest.mark.skipif(PURE, reason="the command runs compiled")
def test_a_capture_is_watched(testbed, notified, tmp_path):
    """READY, pings, none while a capture thread is held, pings again once it is let go, STOPPING."""
    bed = testbed(queues=1)
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
    command = [*WIRECAP, "capture", "-q", "--netns", bed.name, "-i", bed.nics[0].inside, "--engine", "packet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as capture:
        try:
            assert notified.recv(200) == b"READY=1"
            ping = heard(notified, "WATCHDOG=1")
            assert re.match(r"STATUS=\d+ packets received, \d+ captured, 0 dropped\n", ping)
            thread = capture_thread(capture.pid)
            if held := hold(thread):
                while "hangs" not in heard(notified, "") or "hangs" not in heard(notified, ""):
                    pass  # what was told before it was held, and a thread that stood still just then
                for _ in range(2):
                    assert "WATCHDOG" not in notified.recv(200).decode()
                let_go(thread)
                heard(notified, "WATCHDOG=1")
            capture.send_signal(signal.SIGTERM)
            heard(notified, "STOPPING=1")
            assert capture.wait(60) == 0
            if not held:
                pytest.skip("the rest holds; this process may not stop a thread of another one")
        finally:
            capture.kill()


def heard(notified, mark):
    """The next message with this in it."""
    while mark not in (message := notified.recv(200).decode()):
        pass
    return message


def capture_thread(pid):
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith("wirecap-capture"):
            return int(task.name)
    raise AssertionError("no capture thread")


def hold(thread):
    """Stop one thread of another process; False if this may not trace it."""
    if ptrace(PTRACE_SEIZE, thread):
        return False
    assert ptrace(PTRACE_INTERRUPT, thread) == 0
    os.waitpid(thread, WALL)
    return True


def let_go(thread):
    assert ptrace(PTRACE_DETACH, thread) == 0


def ptrace(request, thread):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes, libc.ptrace.restype = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p], int
    return libc.ptrace(request, thread, None, None)
