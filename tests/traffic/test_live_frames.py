"""Frames sent from inside the kernel: each one counted, numbered, and unchanged at the receiver."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rig import until
from wirecap.errors import SystemCallError, UsageError
from wirecap.lab.testbed import Testbed
from wirecap.linux import asm, bpf, ethtool, netlink, netns
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import FRAME_MAX, LiveFrames

Make = Callable[..., Testbed]
Bed = tuple[Testbed, str, str]


@pytest.fixture
def dropping(testbed: Make) -> Iterator[Bed]:
    """A testbed whose capture side drops every frame in XDP, the fastest receiver there is."""
    bed = testbed(queues=2)
    program = bpf.Program(asm.assemble([("mov_imm", 0, 0, 0, bpf.XDP_DROP), ("exit", 0, 0, 0, 0)]))
    index = netns.call(bed.name, netlink.interface, bed.nics[0].inside).index
    link = netns.call(bed.name, program.attach, index, bpf.XDP_DRV_MODE)
    yield bed, bed.nics[0].outside, bed.nics[0].inside
    link.close()


def received(bed: Testbed, inside: str) -> list[int]:
    """Packets that the XDP hook of each queue saw."""
    counters = netns.call(bed.name, ethtool.statistics, inside)
    return [counters[f"rx_queue_{queue}_xdp_packets"] for queue in range(2)]


def arrived(bed: Testbed, inside: str, wanted: int) -> int:
    """Packets that the hook saw, once it has seen so many."""
    until(lambda: sum(received(bed, inside)) >= wanted)
    return sum(received(bed, inside))


@pytest.mark.live
def test_every_frame_sent_arrives(dropping: Bed) -> None:
    """What send() says was taken is what the receiver's hook saw, at full speed and in several goes."""
    bed, outside, inside = dropping
    with LiveFrames(outside, synthetic.udp()) as sender:
        taken = [sender.send(count) for count in (1, 1000, 300_001)]
    assert sum(taken) == 301_002
    assert arrived(bed, inside, 301_002) == 301_002


@pytest.mark.live
def test_the_sending_cpu_chooses_the_queue(dropping: Bed) -> None:
    """A pinned sender's frames arrive on queue (CPU modulo queues), and its thread is unpinned afterwards."""
    bed, outside, inside = dropping
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    with LiveFrames(outside, synthetic.udp(), cpu=cpu) as sender:
        sender.send(5000)
    assert arrived(bed, inside, 5000) == 5000
    assert received(bed, inside)[cpu % 2] == 5000
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.live
def test_numbers_run_on_without_gap(testbed: Make) -> None:
    """Each copy carries the next number at its offset, from one send() to the next, and nothing else differs."""
    bed = testbed(queues=1, gro=True)
    frame = synthetic.udp(60)
    with netns.call(bed.name, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        reader.bind((bed.nics[0].inside, 3))
        reader.settimeout(60.0)
        with LiveFrames(bed.nics[0].outside, frame, sequence_at=42, first=7) as sender:
            assert sender.send(20) + sender.send(10) == 30
            assert sender.attempted == 30
        got = [reader.recv(2048) for _ in range(30)]
    assert [struct.unpack("!Q", data[42:50])[0] for data in got] == list(range(7, 37))
    assert {data[:42] + bytes(8) + data[50:] for data in got} == {frame}


@pytest.mark.live
def test_pace_is_kept(dropping: Bed) -> None:
    """A paced run is never faster than it was asked to be, and what delays it is made up for: it ends in time, for
    bursts of one and of a millisecond; one of five goes does, as a busy machine may hold up the sender at its end.
    bench/traffic.py measures how exactly."""
    bed, outside, inside = dropping
    sent = 0
    with LiveFrames(outside, synthetic.udp()) as sender:
        for rate, count, burst in ((2000, 1000, 1), (200_000, 100_000, None)):
            for _ in range(5):
                start = time.monotonic()
                assert sender.send_paced(count, rate, burst) == count
                took_s = time.monotonic() - start
                sent += count
                assert took_s > count / rate * 0.98
                if took_s < count / rate + 1:
                    break
            else:
                pytest.fail(f"{took_s} s for {count} packets at {rate} p/s")
    assert arrived(bed, inside, sent) == sent


@pytest.mark.live
def test_stop_ends_a_long_send(dropping: Bed) -> None:
    """stop() from another thread ends a send early, and the count is what was really sent."""
    bed, outside, inside = dropping
    with LiveFrames(outside, synthetic.udp()) as sender:

        def stop() -> None:
            until(lambda: sender.attempted > 100_000)  # before it has begun nothing could be ended
            sender.stop()

        thread = threading.Thread(target=stop)
        thread.start()
        taken = sender.send(2_000_000_000)
        thread.join()
    assert 0 < taken < 2_000_000_000
    assert arrived(bed, inside, taken) == taken


@pytest.mark.live
def test_nobody_takes_them(testbed: Make) -> None:
    """When the other end takes no frame, that is an error that says why, not a count of nothing."""
    bed = testbed(queues=1)
    with LiveFrames(bed.nics[0].outside, synthetic.udp()) as sender, pytest.raises(SystemCallError, match="GRO"):
        sender.send(10)


@pytest.mark.live
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"frame": b"x" * 13}, "13 bytes"),
        ({"frame": b"x" * (FRAME_MAX + 1)}, f"{FRAME_MAX}"),
        ({"sequence_at": 53}, "does not fit at offset 53"),
        ({"sequence_at": -1}, "offset -1"),
        ({"batch": 257}, "unsupported batch size: 257 frames"),
        ({"cpu": 100_000}, "this process cannot use CPU 100000"),
        ({"interface": "nosuch0"}, "no interface"),
    ],
)
def test_bad_arguments(dropping: Bed, arguments: dict[str, object], text: str) -> None:
    """What the kernel would not do is refused with its limit."""
    wanted = {"interface": dropping[1], "frame": synthetic.udp(60), **arguments}
    with pytest.raises(UsageError, match=text):
        LiveFrames(wanted.pop("interface"), wanted.pop("frame"), **wanted)


@pytest.mark.live
def test_the_longest_frame_is_sent(dropping: Bed) -> None:
    """A frame of FRAME_MAX bytes passes, cut short by nothing."""
    bed, outside, inside = dropping
    from wirecap.lab import testbed as lab

    lab.up(bed.name, queues=2, mtu=9000)
    with netns.call(bed.name, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as reader:
        lab.up(bed.name, queues=2, mtu=9000, gro=True)
        reader.bind((inside, 3))
        reader.settimeout(60.0)
        frame = synthetic.udp(FRAME_MAX)
        with LiveFrames(outside, frame) as sender:
            assert sender.send(1) == 1
        assert reader.recv(9000) == frame
