"""Programs that read a capture and behave badly, or for which there is no room: the capture carries on."""

from __future__ import annotations

import os
import platform
import resource
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rig import LiveRig, Wire, flow_frames, until
from wirecap.compat.libpcap import build, elf
from wirecap.config.capture import PoolConfig
from wirecap.errors import SystemCallError
from wirecap.handlers.share import Reader, Share
from wirecap.kernels.libpcap import layout
from wirecap.lab.process import Child
from wirecap.linux import holders, netns

MOST = 2**64 - 2
"""What an eventfd can count to."""
FOR_A_READER = 5
"""Descriptors that a capture needs to greet one: the channel, the ring, two eventfds, the arena."""


@pytest.fixture
def shared(testbed) -> Iterator[LiveRig]:
    bed = testbed(queues=1)
    with LiveRig(bed, handlers=["share"], engine="xdp", pool=PoolConfig(M=64, R=16)) as rig:
        rig.bed = bed
        yield rig


def send(rig: LiveRig, count: int) -> None:
    with Wire(rig.bed.nics[0].outside) as wire:
        wire.send(flow_frames(count))


def unconnected(rig: LiveRig) -> socket.socket:
    made = netns.call(rig.bed.name, socket.socket, socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.settimeout(60)
    return made


def connect(rig: LiveRig, channel: socket.socket) -> None:
    channel.connect(f"\0{layout.SOCKET_PREFIX}{rig.bed.nics[0].inside}")


@contextmanager
def reading(rig: LiveRig) -> Iterator[list[int]]:
    """The descriptors that a program gets, while it is connected."""
    with unconnected(rig) as channel:
        connect(rig, channel)
        _, fds, _, _ = socket.recv_fds(channel, 8192, 253)
        try:
            yield fds
        finally:
            for fd in fds:
                os.close(fd)


@pytest.fixture
def reader() -> Iterator[Reader]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        yield Reader(here, 0, 16, 0)


def test_a_program_reads_its_own_bell(reader):
    """A bell that its program has read before the capture does is no failure."""
    share = Share()
    share._attend(reader, reader.release, None)
    os.eventfd_write(reader.release, 1)
    share._attend(reader, reader.release, None)
    assert select.select([reader.release], [], [], 0)[0] == []
    reader.close()


def test_a_program_fills_its_doorbell(reader):
    """A doorbell that was rung as often as can be counted: the end is told, and everything closed."""
    os.eventfd_write(reader.doorbell, MOST)
    reader.close()
    assert reader.word(layout.CLOSED) == 1
    for fd in (reader.doorbell, reader.release, reader.ring.fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.live
def test_chunks_are_lent_to_a_full_doorbell(shared):
    """The thread that lends chunks rings a full doorbell, and the capture goes on."""
    with reading(shared) as fds:
        until(lambda: shared.application.writer._readers)
        os.eventfd_write(fds[layout.DOORBELL_FD], MOST)
        send(shared, 10)
        shared.done(10)
    until(lambda: not shared.application.writer._readers)
    assert shared.engine.failure() is None


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process can open so many files and no more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)


@pytest.mark.live
def test_no_descriptors_for_another_reader(shared):
    """Programs for which the capture has no descriptors are let go at once; it says so, and takes later ones."""
    with ExitStack() as stack:
        channels = [stack.enter_context(unconnected(shared)) for _ in range(FOR_A_READER)]
        for left, channel in enumerate(channels):
            with descriptors_left(left):
                connect(shared, channel)
                assert channel.recv(1) == b""
    with reading(shared) as fds:
        assert len(fds) == layout.FIRST_PIECE_FD
    send(shared, 10)
    shared.done(10)
    shared.stop()
    assert shared.application.writer.notes == [f"{FOR_A_READER} programs turned away: too many open files"]


@pytest.mark.skipif(platform.machine() not in elf.MACHINES, reason="no shared objects are made here")
@pytest.mark.live("tcpdump")
def test_what_was_lost_is_told_after_the_end(shared, tmp_path):
    """A program that asks for its counters only when the capture has ended gets the packets that were lost."""
    nic = shared.bed.nics[0].inside
    command = ["env", f"LD_PRELOAD={build.shared_object(print)}", "tcpdump", "-ni", nic, "-w", str(tmp_path / "x.pcap")]
    with Child(command, shared.bed.name) as tcpdump:
        tcpdump.wait_for("listening on")
        os.kill(tcpdump.pid, signal.SIGSTOP)
        send(shared, 4000)
        until(lambda: shared.drops())
        os.kill(tcpdump.pid, signal.SIGCONT)
        shared.done(4000)
        shared.stop()
        ended = tcpdump.end(None)
    lost = sum(shared.drops().values())
    assert f"{4000 - lost} packets captured" in ended.output
    assert f"\n{lost} packets dropped by kernel" in ended.output


@pytest.mark.live
@pytest.mark.parametrize("listens", [True, False])
def test_who_holds_an_interfaces_name(testbed, listens):
    """Where another user's program has taken the name before, the capture says which program and whose."""
    bed = testbed(queues=1)
    name = f"{layout.SOCKET_PREFIX}{bed.nics[0].inside}"
    code = (
        "import os, socket, time; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"s.bind('\\0{name}'); {listens} and s.listen(); print('bound', flush=True); time.sleep(1000)"
    )
    with Child([sys.executable, "-c", code], bed.name) as other:
        other.wait_for("bound")
        with pytest.raises(SystemCallError) as refused:
            LiveRig(bed, handlers=["share"]).__enter__()
        held = f"user 65534 holds the name @{name}, by which programs find a capture: "
        assert held in refused.value.message
        assert refused.value.message.endswith(f"(process {other.pid})")
        assert refused.value.hint == "stop that process"


def test_the_holder_of_a_name():
    """This process is found by a name that it has bound, whether it listens or not, and nobody by another."""
    name = f"wirecap/test/{os.getpid()}"
    assert holders.of_name(name) == ("", -1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bound:
        bound.bind(f"\0{name}")
        for _ in range(2):
            who, user = holders.of_name(name)
            assert who.endswith(f"(process {os.getpid()})")
            assert user == os.geteuid()
            bound.listen()
