"""Replay onto a veth: every packet arrives, byte for byte and in order, whichever way it is sent."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import wirecap
from replay_rig import Receiver, mixed, replay, write_pcap
from rig import read_pcap, time_limit, until
from wirecap.cli import main
from wirecap.errors import UsageError, WirecapError
from wirecap.kernels.transmit import paced_loop
from wirecap.lab.testbed import Testbed
from wirecap.linux import netlink
from wirecap.sim.workload import recorded
from wirecap.traffic import synthetic
from wirecap.traffic import ways as choose
from wirecap.traffic.recording import LONGER, Recording
from wirecap.traffic.sender import Macs
from wirecap.traffic.session import Outcome, Session
from wirecap.traffic.steering import Recorded, Rss
from wirecap.traffic.timing import Timing

__all__ = ["time_limit"]
Make = Callable[..., Testbed]
WAYS = ("xdp", "packet", "live")


@pytest.mark.live
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("timing", [Timing(), Timing(pps=50_000)], ids=["full speed", "paced"])
def test_every_packet_arrives(testbed: Make, tmp_path: Path, way: str, timing: Timing) -> None:
    """20,000 packets of all sizes arrive byte for byte and in order, and the sender counts just these."""
    bed, packets = testbed(queues=1), mixed(20_000)
    file = write_pcap(tmp_path / "a.pcap", packets)
    with Receiver(bed, len(packets)) as receiver:
        outcome = replay(bed, [file], timing, way)
    assert receiver.packets[0] == packets
    assert (outcome.sent, outcome.attempted, outcome.refused) == (len(packets), len(packets), 0)
    assert outcome.bytes == sum(map(len, packets))
    counts = receiver.summary["packets"]
    assert (counts["received"], counts["dropped"]) == (len(packets), 0)


@pytest.mark.live
@pytest.mark.parametrize("timing", [Timing(), Timing(pps=20_000)], ids=["full speed", "paced"])
def test_packets_that_the_kernel_refuses_do_not_hold_up_the_others(
    testbed: Make, tmp_path: Path, timing: Timing
) -> None:
    """AF_PACKET takes no service tag (802.1ad) beyond the MTU, and says so after the fact: what is behind such packets
    leaves in order, and they are counted as refused."""
    bed, packets = testbed(queues=1), mixed(3000)
    tagged = synthetic.udp(1514)
    tagged = tagged[:12] + b"\x88\xa8\0\7" + tagged[12:]
    sent = [tagged if number % 7 in (0, 5, 6) else packet for number, packet in enumerate(packets)]
    kept = [packet for packet in sent if packet is not tagged]
    with Receiver(bed, len(kept)) as receiver:
        outcome = replay(bed, [write_pcap(tmp_path / "a.pcap", sent)], timing, "packet")
    assert receiver.packets[0] == kept
    assert (outcome.attempted, outcome.sent) == (len(sent), len(kept))
    assert outcome.refused == len(sent) - len(kept)


@pytest.mark.live
def test_full_speed_takes_its_time(testbed: Make, tmp_path: Path) -> None:
    """The time of a run at full speed begins with its first packet: it is never too short for what the wire had.

    A busy machine may hold up what sends or what receives: one of five goes has to be right.
    """
    bed = testbed(queues=1)
    file = write_pcap(tmp_path / "a.pcap", mixed(2000))
    for _ in range(5):
        with Receiver(bed, 2000) as receiver:
            outcome = replay(bed, [file], Timing(), "packet")
        wire_s = (receiver.timestamps[-1] - receiver.timestamps[0]) / 1e9
        if wire_s <= outcome.duration_s < wire_s + 1:
            return
    pytest.fail(f"{outcome.duration_s} s for what took {wire_s} s")


@pytest.mark.live
def test_real_trace_arrives(testbed: Make, mixed_trace: Path) -> None:
    """All real packets that fit the MTU arrive at full speed byte for byte; those that do not are counted by name."""
    bed = testbed(queues=1)
    packets, wanted = [packet.data for packet in read_pcap(mixed_trace)], []
    for packet in packets:
        tag = 4 if packet[12:14] in (b"\x81\x00", b"\x88\xa8") else 0
        if len(packet) <= 1514 + tag:
            wanted.append(packet)
    with Receiver(bed, len(wanted)) as receiver:
        outcome = replay(bed, [mixed_trace], Timing())
    assert receiver.packets[0] == wanted
    assert "live" in outcome.way
    assert outcome.not_sent == {LONGER: len(packets) - len(wanted)}
    assert len(wanted) < len(packets)


@pytest.mark.live
@pytest.mark.parametrize("queues", [(0, 1, 2, 3), (1, 3)])
def test_queues_are_chosen_as_rss_does(testbed: Make, tmp_path: Path, queues: tuple[int, ...]) -> None:
    """Each packet arrives on the queue that hash and indirection table say, in order per queue, none lost."""
    bed, packets = testbed(queues=4), mixed(8000)
    file, rss = write_pcap(tmp_path / "a.pcap", packets), Rss(len(queues))
    data, sizes = np.frombuffer(b"".join(packets), np.uint8).copy(), np.array([len(p) for p in packets], np.uint32)
    chosen = rss.choose(data, (np.cumsum(sizes) - sizes).astype(np.int64), sizes, len(packets)).tolist()
    with Receiver(bed, len(packets)) as receiver:
        outcome = replay(bed, [file], Timing(), queues=queues, steering=rss)
    for place, queue in enumerate(queues):
        wanted = [packet for packet, at in zip(packets, chosen, strict=True) if at == place]
        assert receiver.packets[queue] == wanted
        assert outcome.per_queue[queue] == len(wanted) > len(packets) / len(queues) / 2


def write_pcapng(path: Path, packets: Sequence[tuple[bytes, int, int | None]], order: str) -> Path:
    """Packets with their interface (of two) and epb_queue."""

    def block(kind: int, body: bytes) -> bytes:
        size = struct.pack(order + "I", len(body) + 12)
        return struct.pack(order + "I", kind) + size + body + size

    def packet(data: bytes, interface: int, queue: int | None) -> bytes:
        option = b"" if queue is None else struct.pack(order + "HH4sHHIHH", 1, 3, b"abc", 6, 4, queue, 0, 0)
        head = struct.pack(order + "5I", interface, 0, 0, len(data), len(data))
        return block(6, head + data + bytes(-len(data) % 4) + option)

    section = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    path.write_bytes(
        section + block(1, struct.pack(order + "HHI", 1, 0, 0)) * 2 + b"".join(packet(*p) for p in packets)
    )
    return path


@pytest.mark.kernel
@pytest.mark.parametrize("order", "<>")
def test_recorded_queue_is_the_blocks_or_the_interfaces(tmp_path: Path, order: str) -> None:
    """epb_queue says it, in either byte order and behind other options; without it the interface's number does."""
    given = [(bytes([n]) * (60 + n % 5), n % 2, None if n % 3 == 0 else n % 7) for n in range(50)]
    path = write_pcapng(tmp_path / "a.pcapng", given, order)
    plan = Recording([str(path)], Timing(), 1500, steering=Recorded(4), queues=4)
    found = [
        (batch.arena[at], queue)
        for batch in plan.batches()
        for at, queue in zip(batch.address.tolist(), batch.queue.tolist(), strict=True)
    ]
    assert found == [(n, (interface if queue is None else queue) % 4) for n, (_, interface, queue) in enumerate(given)]


def test_times_out_of_reach_are_told(tmp_path: Path) -> None:
    """What replays a file, or simulates on it, says of how many packets 64-bit nanoseconds cannot hold the time; once,
    however often the file is sent."""

    def block(kind: int, body: bytes) -> bytes:
        size = struct.pack("<I", len(body) + 12)
        return struct.pack("<I", kind) + size + body + size

    late = block(6, struct.pack("<5I", 0, 4, 0, 60, 60) + bytes(60))  # 2**34 s: the year 2514
    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    path = tmp_path / "a.pcapng"
    path.write_bytes(section + block(1, struct.pack("<HHIHHI", 1, 0, 0, 9, 1, 0)) + late * 2)  # if_tsresol: seconds
    plan = Recording([str(path)], Timing(), 1500, loops=3)
    assert sum(batch.n for batch in plan.batches()) == 6
    assert plan.not_sent.outside == 2
    assert [note.split(":")[0] for note in recorded(str(path), 1).notes] == [
        "2 packets are from before 1677 or after 2262"
    ]


@pytest.mark.live
@pytest.mark.parametrize("way", WAYS)
def test_times_are_those_of_the_recording(testbed: Make, tmp_path: Path, way: str) -> None:
    """1.2 s of traffic, twice as fast: packets come at their times, but for what a busy machine delays.  Sent in one go
    or at another speed, half of them would be 150 ms off; bench/traffic.py measures how exactly.  One of five goes has
    to be on time."""
    bed, packets = testbed(queues=1), mixed(1200)
    file = write_pcap(tmp_path / "a.pcap", packets, gap_us=1000)
    for _ in range(5):
        with Receiver(bed, len(packets)) as receiver:
            outcome = replay(bed, [file], Timing(speed=2.0), way)
        assert outcome.planned_s == pytest.approx(1199 * 0.0005)
        assert outcome.duration_s >= outcome.planned_s
        passed = np.diff(np.array(receiver.timestamps), prepend=receiver.timestamps[0]).cumsum()
        error = passed - np.arange(len(packets)) * 500_000
        if np.median(abs(error - error.min())) < 50_000_000:
            return
    pytest.fail(f"{np.median(abs(error - error.min())) / 1e6} ms off")


@pytest.mark.live
@pytest.mark.parametrize("way", WAYS)
def test_run_that_is_ended_early_counts_what_left(testbed: Make, tmp_path: Path, way: str) -> None:
    """Ended in the middle of a batch: bytes, wanted time and progress are those of the packets that were sent."""
    bed, packets, asked, shares = testbed(queues=1), mixed(8000), threading.Event(), []  # one batch of 16 s
    file = write_pcap(tmp_path / "a.pcap", packets)

    def run(session: Session) -> Outcome:
        def watch(outcome: Outcome) -> None:
            shares.append(outcome.share)
            if outcome.sent > 600:
                asked.set()

        return session.run(watch, asked)

    with wirecap.open(bed.nics[0].inside, netns=bed.name, duration_s=100):
        began = time.monotonic()
        outcome = replay(bed, [file], Timing(pps=500), way, run=run)
        took_s = time.monotonic() - began
    assert outcome.interrupted
    assert 600 < outcome.sent == outcome.attempted < len(packets)
    assert outcome.bytes == sum(map(len, packets[: outcome.sent]))
    assert outcome.planned_s == pytest.approx((outcome.sent - 1) / 500)
    assert outcome.planned_s <= outcome.duration_s < took_s
    assert outcome.share == pytest.approx(outcome.sent / len(packets))
    assert 0 < shares[-1] <= outcome.share
    assert shares == sorted(shares)


@pytest.mark.live
@pytest.mark.parametrize("way", WAYS)
def test_addresses_are_rewritten_and_nothing_else(testbed: Make, tmp_path: Path, way: str) -> None:
    """With a destination address given, bytes 6 on are untouched; with both, bytes 12 on."""
    bed, packets, other = testbed(queues=1), mixed(300), bytes.fromhex("0200000000aa")
    file = write_pcap(tmp_path / "a.pcap", packets)
    for macs, kept in ((Macs(destination=other), 6), (Macs(source=other, destination=other), 12)):
        with Receiver(bed, len(packets)) as receiver:
            replay(bed, [file], Timing(pps=100_000), way, macs=macs)
        assert receiver.packets[0] == [(other * 2)[:kept] + packet[kept:] for packet in packets]


@pytest.mark.live
def test_several_files_again_and_again(testbed: Make, tmp_path: Path) -> None:
    """Two files, three times, in turn; with a limit just so many packets."""
    bed, packets = testbed(queues=1), mixed(500)
    files = [write_pcap(tmp_path / "a.pcap", packets[:200]), write_pcap(tmp_path / "b.pcap", packets[200:])]
    with Receiver(bed, 1500) as receiver:
        assert replay(bed, files, Timing(), loops=3).sent == 1500
    assert receiver.packets[0] == packets * 3
    with Receiver(bed, 1234) as receiver:
        assert replay(bed, files[:1], Timing(), loops=0, limit=1234).sent == 1234
    assert receiver.packets[0] == (packets[:200] * 7)[:1234]


@pytest.mark.live
def test_quiet_tells_what_was_left_out(
    testbed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """-q hides progress and closing lines, but not that packets of the file were not sent."""
    outside = testbed(queues=1).nics[0].outside
    command = ["replay", "-q", "-t", "-i", outside, "-l", "2"]
    file = write_pcap(tmp_path / "a.pcap", [synthetic.udp(100), synthetic.udp(3000), synthetic.udp(200)])
    assert main.run([*command, str(file)]) == 0
    assert capsys.readouterr().err == f"wirecap: 2 packets not sent: {LONGER} (1500 bytes)\n"
    assert main.run([*command, str(write_pcap(tmp_path / "b.pcap", [synthetic.udp(100)]))]) == 0
    assert capsys.readouterr().err == ""
    assert main.run([*command, str(write_pcap(tmp_path / "c.pcap", [synthetic.udp(3000)]))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"wirecap: {outside}: no packet was sent: all 1 were left out: {LONGER}")


@pytest.mark.live
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("files", [1, 2])
def test_pause_between_loops_at_full_speed(testbed: Make, tmp_path: Path, way: str, files: int) -> None:
    """As with tcpreplay, a pass begins so long after the last packet of the one before; its packets follow at once."""
    bed, packets = testbed(queues=1), mixed(400)
    paths = [write_pcap(tmp_path / f"{number}.pcap", packets[number::files]) for number in range(files)]
    with Receiver(bed, 1200) as receiver:
        outcome = replay(bed, paths, Timing(), way, loops=3, loop_pause_ns=300_000_000)
    assert outcome.sent == 1200
    assert receiver.packets[0] == [packet for number in range(files) for packet in packets[number::files]] * 3
    gaps = np.diff(np.array(receiver.timestamps))
    assert set(np.flatnonzero(gaps > 250_000_000).tolist()) >= {399, 799}
    assert outcome.duration_s >= 0.6


def test_a_pass_at_full_speed_has_its_pause(tmp_path: Path) -> None:
    """Of a file that is kept in memory, too, each pass is a batch of its own, and all but the first have the pause."""
    file = write_pcap(tmp_path / "a.pcap", mixed(10))
    plan = Recording([str(file)], Timing(), 1500, loops=4, loop_pause_ns=5)
    assert [(batch.n, batch.pause_ns) for batch in plan.batches()] == [(10, 0), (10, 5), (10, 5), (10, 5)]
    paced = Recording([str(file)], Timing(pps=1000), 1500, loops=4, loop_pause_ns=5)
    assert {batch.pause_ns for batch in paced.batches()} == {0}


@pytest.mark.live
def test_file_larger_than_memory_for_it_is_streamed(testbed: Make, tmp_path: Path) -> None:
    """60 MB through a pipe, read in a ring of blocks while it is sent: all of it arrives, in order."""
    bed, packets = testbed(queues=1), mixed(2000)
    file = write_pcap(tmp_path / "a.pcap", packets)
    body = file.read_bytes()
    read_end, write_end = os.pipe()

    def feed() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(body[:24])
            for _ in range(38):
                pipe.write(body[24:])

    kept = os.dup(0)
    os.dup2(read_end, 0)
    os.close(read_end)
    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with Receiver(bed, 38 * len(packets)) as receiver:
            outcome = replay(bed, ["-"], Timing(pps=150_000))
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        thread.join()
    assert outcome.sent == 38 * len(packets)
    assert receiver.packets[0] == packets * 38


@pytest.mark.live
def test_damaged_file_stops_with_its_offset(testbed: Make, tmp_path: Path) -> None:
    """A file that is cut in a packet is an error with the offset, after all that was whole has been sent."""
    bed, packets = testbed(queues=1), mixed(1000)
    file = write_pcap(tmp_path / "a.pcap", packets)
    whole = file.stat().st_size
    file.write_bytes(file.read_bytes()[: whole - 10])
    offset = whole - len(packets[-1]) - 16
    with Receiver(bed, 999) as receiver, pytest.raises(UsageError, match=f"offset {offset}") as raised:
        replay(bed, [file], Timing())
    receiver._thread.join()
    assert receiver.packets[0] == packets[:999]
    assert raised.value.outcome.sent == 999  # type: ignore[attr-defined]


@pytest.mark.live
@pytest.mark.parametrize("way", WAYS)
def test_interface_that_goes_down_is_reported_with_the_count(testbed: Make, tmp_path: Path, way: str) -> None:
    """When the interface is set down on the way, the run ends within seconds with an error that has the count."""
    bed = testbed(queues=1)
    file = write_pcap(tmp_path / "a.pcap", mixed(2000))
    outside = bed.nics[0].outside
    down: list[int] = []

    def run(session: Session) -> Outcome:
        def watch(outcome: Outcome) -> None:
            if outcome.sent > 10_000 and not down:
                down.append(outcome.sent)
                set_down(outside)

        return session.run(watch)

    with wirecap.open(bed.nics[0].inside, netns=bed.name, duration_s=100) as capture:
        with pytest.raises(WirecapError, match=r"network is down, after [1-9]") as raised:
            replay(bed, [file], Timing(pps=20_000), way, loops=0, run=run)
        sent = raised.value.outcome.sent  # type: ignore[attr-defined]
        assert f"after {sent} packets" in raised.value.message
        until(lambda: sent <= capture.summary()["packets"]["received"] + 64)
    assert raised.value.exit_status == 1
    assert sent > 10_000


def set_down(name: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("set", index=netlink.interface(name).index, state="down")


@pytest.mark.live
def test_way_is_chosen_by_what_the_interface_can(testbed: Make) -> None:
    """Fast or as recorded: live frames, if the other end has an XDP program or GRO; else AF_XDP; a ring on loopback."""
    bed = testbed(queues=2)
    fast, slow = choose.Wish(None, 1518, False, None), choose.Wish(None, 1518, True, 1000.0)
    outside = bed.nics[0].outside

    def way(interface: str, wish: choose.Wish) -> tuple[str, str]:
        sender, why = choose.open_sender(interface, "auto", wish)
        sender.close()
        return sender.way, why

    assert way(outside, fast)[0].startswith("AF_XDP")
    assert "GRO" in way(outside, fast)[1]
    with wirecap.open(bed.nics[0].inside, netns=bed.name, duration_s=100):
        until(lambda: way(outside, fast)[0].startswith("in-kernel"))
        assert way(outside, choose.Wish(None, 1518, True, None))[0].startswith("in-kernel")
        assert way(outside, slow)[0].startswith("AF_XDP")
        assert way(outside, choose.Wish((0, 1), 1518, False, None))[0].endswith("queues 0, 1)")
    assert way("lo", slow)[0].startswith("AF_PACKET")
    with pytest.raises(UsageError, match="queue of their CPU"):
        choose.open_sender(outside, "live", choose.Wish((0, 1), 1518, False, None))
    for interface, ways in ((outside, ["auto", *WAYS]), ("lo", ["auto", "packet"])):
        for name in ways:
            with pytest.raises(UsageError, match=f"{interface} has no transmit queue 7"):
                choose.open_sender(interface, name, choose.Wish((7,), 1518, False, None))


@pytest.mark.live
def test_command_tells_what_it_did(testbed: Make, tmp_path: Path) -> None:
    """The command names the way, counts what was sent, and says how far the rate was off; SIGINT ends it cleanly."""
    bed, packets = testbed(queues=1), mixed(3000)
    file = write_pcap(tmp_path / "a.pcap", [*packets, bytes(1600)])
    command = [sys.executable, "-m", "wirecap", "replay", "-i", bed.nics[0].outside, "--pps", "10k"]
    ended = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=100, check=True)
    assert "AF_XDP transmit" in ended.stderr
    assert "3000 packets sent" in ended.stderr
    assert "wanted 10 kp/s, achieved" in ended.stderr
    assert "1 packet not sent: longer than the MTU (1500 bytes)" in ended.stderr
    command += ["--loop", "0", "--stats", "1", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr
        assert any(re.search(r"p/s .* [1-9][0-9,]* sent", line) for line in child.stderr)  # a line each second
        child.send_signal(2)
        rest = child.stderr.read()
    assert child.returncode == 0
    assert re.search(r"^\d+ packets sent.*\nwanted 10 kp/s, achieved", rest, re.MULTILINE)
    assert "Traceback" not in rest


@pytest.mark.live
def test_interrupt_before_the_first_packet(testbed: Make, tmp_path: Path) -> None:
    """Ctrl-C while kernels are compiled ends the command there: exit status 1, one word, nothing sent."""
    bed = testbed(queues=1)
    file = write_pcap(tmp_path / "a.pcap", mixed(10))
    command = [sys.executable, "-m", "wirecap", "replay", "-i", bed.nics[0].outside, "-t", str(file)]
    for number in range(5):  # where this process was held up, all may be compiled and sent before the signal
        cold = os.environ | {"WIRECAP_CACHE_DIR": str(tmp_path / f"cache{number}")}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=cold) as child:
            assert child.stderr
            assert "compiling" in child.stderr.readline()
            child.send_signal(2)
            rest = child.stderr.read()
        if "10 packets sent" not in rest:
            break
    assert child.returncode == 1
    assert rest.endswith("wirecap: interrupted\n")
    assert "sent" not in rest


def test_margin_follows_late_wake_ups() -> None:
    """The margin grows at once to what a sleep was late by, stays in its bounds, and shrinks slowly."""
    assert paced_loop.adapt_margin(50_000, 90_000) == 100_000
    assert paced_loop.adapt_margin(50_000, 10**9) == paced_loop.MOST_MARGIN_NS
    assert 49_000 < paced_loop.adapt_margin(50_000, 0) < 50_000
    margin = 400_000
    for _ in range(2000):
        margin = paced_loop.adapt_margin(margin, 0)
    assert margin < paced_loop.LEAST_MARGIN_NS + 100
