"""Timestamps of the AF_XDP source: for which packets the clock is read, that they increase, and what is said of it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rig import LiveRig, Wire, check_identity, flow_frames, read_pcapng, until
from wirecap.config.capture import WriteConfig
from wirecap.errors import SystemCallError
from wirecap.lab.testbed import Testbed
from wirecap.linux import bpf, netns
from wirecap.linux.polls import Polls
from wirecap.linux.xdp_program import GROUP, OFFERED, TIMESTAMPS, Hook, Ledger, best_clock, make_ledger
from wirecap.source import xdp as xdp_source
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

pytestmark = pytest.mark.live

PACKETS, ENTRIES = 5 * GROUP, 128
GET_PROGRAM, GET_LINK = 13, 30  # BPF_PROG_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID
Make = Callable[..., Testbed]


class Program:
    """The program of a hook that is attached nowhere, run on one packet after the other: each one's timestamp."""

    def __init__(self, polls: int | None) -> None:
        self._map = make_ledger(1, ENTRIES)
        self._hook = Hook(1, [0], Ledger(self._map, 0, ENTRIES), 1792, best_clock(), polls=polls)
        self._words = np.frombuffer(self._map.mapped(), np.int64)
        self._words[OFFERED] = ENTRIES
        self._count = 0

    def stamp(self) -> int:
        self._hook.program.run(synthetic.udp(60))
        self._count += 1
        return int(self._words[TIMESTAMPS + self._count - 1])


def test_the_clock_is_read_for_the_first_of_a_poll_and_of_a_group() -> None:
    """Packets of a poll count on from a reading, GROUP of them at most; a poll that ends in between makes the next
    packet read the clock, and a group begins with it."""
    counts = bpf.Map(bpf.PERCPU_ARRAY, 8, 1)  # as Polls.map, but counted by this test alone

    def in_poll(number: int) -> None:
        counts.update(0, struct.pack("<q", number) * bpf.len_possible_cpus())

    in_poll(1)
    program = Program(counts.fd)
    steps = np.diff([program.stamp() for _ in range(PACKETS)])
    numbers = np.arange(1, PACKETS)
    assert (steps[numbers % GROUP != 0] == 1).all()
    assert (steps[numbers % GROUP == 0] > 1).all()
    for number in range(2, 5):
        last = program.stamp()
        assert program.stamp() == last + 1
        in_poll(number)
        first = program.stamp()
        assert first > last + 2
        assert [program.stamp() for _ in range(GROUP - 1)] == [first + 1 + more for more in range(GROUP - 1)]
        assert program.stamp() > first + GROUP


def test_each_packet_is_read_for_without_polls() -> None:
    program = Program(None)
    assert (np.diff([program.stamp() for _ in range(PACKETS)]) > 1).all()


def test_polls_are_counted_apart_on_each_cpu(testbed: Make) -> None:
    """Each CPU's count grows with its polls, from a place where no other one's comes."""
    polls = Polls()
    nic = testbed(queues=1).nics[0]
    before = polls.map.lookup(0)[:, 0].astype(np.int64)
    with Wire(nic.outside) as wire:
        wire.send(flow_frames(100))
    until(lambda: (polls.map.lookup(0)[:, 0].astype(np.int64) > before).any())
    assert len(set((polls.map.lookup(0)[:, 0] >> 40).tolist())) == bpf.len_possible_cpus()
    polls.close()


@pytest.mark.parametrize(
    ("kind", "xdp_mode", "read_for"),
    [("host", "native", "group"), ("host", "generic", "packet"), ("host_hiprec", "native", "packet"),
     ("host_lowprec", "native", "turn")],
)  # fmt: skip
def test_timestamps_of_a_queue_increase(testbed: Make, tmp_path: Path, kind: str, xdp_mode: str, read_for: str) -> None:
    """At full speed no two packets have the same time, whichever way; summary and file say how exact it is."""
    path = tmp_path / "out.pcapng"
    bed = testbed(queues=1, nics=2, gro=xdp_mode == "generic")
    names = [nic.inside for nic in bed.nics]
    options = {"time_stamps": kind, "xdp_mode": xdp_mode}
    with LiveRig(bed, *names, write=WriteConfig(path=str(path)), **options) as rig:
        assert rig.source.describe()["time_stamps"]["read_for"] == read_for
        sent = 0
        for nic in bed.nics:
            with LiveFrames(nic.outside, synthetic.udp(60)) as sender:
                sent += sender.send(4096)
        rig.done(sent)
        rig.stop()
        check_identity(rig.engine, received=sent)
    assert (b"timestamps are within" in path.read_bytes()) == (read_for != "packet")
    found = read_pcapng(path)
    for interface in range(2):
        steps = np.diff([packet.timestamp for packet in found if packet.interface == interface])
        assert (steps >= (0 if read_for == "turn" else 1)).all()


@pytest.mark.parametrize("why", ["EPERM", "ENOENT", "driver"])
def test_where_polls_cannot_be_told_each_packet_is_read_for(
    testbed: Make, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """One line says so, with the way out; of a driver that has no polls there is nothing to say."""

    def refuse() -> None:
        raise SystemCallError("cannot trace napi_poll", getattr(errno, why))

    if why == "driver":
        monkeypatch.setattr(xdp_source, "_POLLS_NOT", ("veth",))
    else:
        monkeypatch.setattr(xdp_source, "Polls", refuse)
        monkeypatch.setattr(
            xdp_source.capabilities, "missing", lambda needed: needed if "CAP_PERFMON" in needed else []
        )
    bed = testbed(queues=1)
    with LiveRig(bed) as rig:
        assert rig.source.describe()["time_stamps"] == {"type": "host", "read_for": "packet", "resolution_ns": 1}
        told = [line for line in netns.call(bed.name, rig.source.warnings) if line.startswith("timestamps: ")]
        reason = {"EPERM": ["without CAP_PERFMON"], "ENOENT": ["cannot trace napi_poll"], "driver": []}[why]
        assert len(told) == len(reason)
        assert all(word in line and "-j host_hiprec" in line for word, line in zip(reason, told, strict=True))


def test_nothing_is_left_after_sigkill(testbed: Make) -> None:
    """Programs and links of a capture that is killed are gone, that on the tracepoint too; another one's stay."""
    bed = testbed(queues=1, nics=2)
    running = [start(bed.name, nic.inside) for nic in bed.nics]
    try:
        mine, other = map(held, (child.pid for child in running))
        assert sum(what == GET_PROGRAM for what, _ in mine) == 2
        running[0].send_signal(signal.SIGKILL)
        running[0].wait(30)
        until(lambda: not any(exists(*one) for one in mine - other))
        assert all(exists(*one) for one in other)
    finally:
        for child in running:
            child.kill()
            child.communicate()


def start(namespace: str, interface: str) -> subprocess.Popen[str]:
    """``wirecap capture``, once it captures."""
    command = [sys.executable, "-P", "-m", "wirecap", "capture", "--netns", namespace, "-i", interface, "-R", "8"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert child.stderr
    for line in child.stderr:
        if line.startswith("wirecap: capturing on"):
            return child
    pytest.fail(f"the capture ended with status {child.wait()}")


def held(process: int) -> set[tuple[int, int]]:
    """(command that finds one, id) of the programs and links that a process has descriptors of."""
    found = set()
    for path in Path(f"/proc/{process}/fdinfo").iterdir():
        try:
            words = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        except FileNotFoundError:  # closed meanwhile
            continue
        found |= {(GET_LINK, int(words["link_id"]))} if "link_id" in words else set()
        found |= {(GET_PROGRAM, int(words["prog_id"]))} if "prog_id" in words else set()
    return found


def exists(command: int, number: int) -> bool:
    with contextlib.suppress(SystemCallError):
        os.close(bpf._bpf(command, struct.pack("<I", number), "gone"))
        return True
    return False
