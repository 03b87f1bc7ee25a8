"""Captures by a user who is not root: with the capabilities that an engine takes, and without one of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading

import pytest

from rig import Wire, flow_frames
from wirecap.linux import capabilities, netns

pytestmark = pytest.mark.live

NOBODY = 65534
SCRIPT = """
import ctypes, importlib, os, pkgutil, struct, sys
import wirecap
from wirecap.cli import main, warmup
for module in pkgutil.walk_packages(wirecap.__path__, "wirecap."):  # this user may not see where they lie
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import pyroute2
jit = warmup.import_kernels()

from wirecap.kernels.af_packet.capture_loop import packet_loop
from wirecap.kernels.pool import handler_loop, work_queues
from wirecap.kernels.xdp.capture_loop import capture_loop
if '-c' in sys.argv:
    jit.prepare([handler_loop.handler_loop, handler_loop.everything, handler_loop.nothing,
                 work_queues.wake_consumer, packet_loop, capture_loop])
libc = ctypes.CDLL(None, use_errno=True)
held = sum(1 << int(bit) for bit in sys.argv[1].split(',') if bit)
libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
low, high = held & 0xFFFFFFFF, held >> 32
header = struct.pack('II', 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
data = struct.pack('6I', low, low, 0, high, high, 0)
assert libc.capset(header, data) == 0, ctypes.get_errno()
os.environ['HOME'] = '/tmp'
sys.exit(main.run(sys.argv[2:]))
""".replace("{nobody}", str(NOBODY))


def capture_as_nobody(held, *arguments):
    """``wirecap capture`` by a user who has these capabilities only."""
    bits = ",".join(str(capabilities.BITS[name]) for name in held)
    command = [sys.executable, "-c", SCRIPT, bits, "capture", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize(
    ("engine", "held"),
    [
        ("packet", ["CAP_NET_RAW"]),
        ("auto", ["CAP_NET_RAW"]),
        ("xdp", capabilities.XDP),
        ("xdp", [*capabilities.XDP, "CAP_PERFMON"]),
    ],
)
def test_without_root(testbed, engine, held):
    """CAP_NET_RAW is enough for the packet engine, which auto then takes; AF_XDP takes three; every packet comes.

    The three allow filters in the kernel, too, also with sets.  Without CAP_PERFMON as the fourth the clock is read
    for each packet, as a line says.
    """
    unwanted = " or ".join(f"host 1.2.3.{last}" for last in range(200))
    kernel_filter = ["--kernel-filter", "drop", f"udp and not ({unwanted})"] if engine == "xdp" else []
    bed = testbed(queues=1)
    nic = bed.nics[0]
    ended = threading.Event()

    def send():
        """Now and then a packet, until the capture has its hundred."""
        with netns.call(bed.name, Wire, nic.inside) as wire:
            number = 0
            while not ended.wait(0.01):
                wire.send(flow_frames(10, first=number))
                number += 10

    sender = threading.Thread(target=send)
    sender.start()
    try:
        done = capture_as_nobody(
            held, "-i", nic.outside, "--engine", engine, "-R", "8", "-c", "100", "--summary-json", "-", *kernel_filter
        )
    finally:
        ended.set()
        sender.join()
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["engine"] == ("xdp" if engine == "xdp" else "packet")
    assert summary["packets"]["delivered"] == 100
    grouped = "CAP_PERFMON" in held
    assert summary["time_stamps"]["read_for"] == ("group" if grouped else "packet")
    told = [line for line in done.stderr.splitlines() if "without CAP_PERFMON" in line]
    assert len(told) == (engine == "xdp" and not grouped), done.stderr


@pytest.mark.parametrize("engine", ["packet", "xdp", "direct"])
def test_a_missing_capability_is_named(testbed, engine):
    """Without one of them a capture ends in one line: which it is, and how setcap or systemd grant it."""
    bed = testbed(queues=1)
    needed = capabilities.PACKET if engine == "packet" else capabilities.XDP
    for lacking in needed:
        held = [name for name in needed if name != lacking]
        done = capture_as_nobody(held, "-i", bed.nics[0].outside, "--engine", engine)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert re.search(rf"\b{lacking}(, which)? is missing", done.stderr), done.stderr
        assert "setcap" in done.stderr
        assert "AmbientCapabilities=" in done.stderr


def test_what_is_missing_is_what_is_needed(monkeypatch):
    """CAP_SYS_ADMIN stands for CAP_BPF."""
    monkeypatch.setattr(capabilities, "effective", lambda: frozenset({"CAP_NET_RAW", "CAP_SYS_ADMIN"}))
    assert capabilities.missing(capabilities.XDP) == ["CAP_NET_ADMIN"]
    assert capabilities.missing(capabilities.PACKET) == []
