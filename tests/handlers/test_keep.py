"""--keep: triggers save exactly what a model of them says, and no packet is lost, written twice or unaccounted."""

from __future__ import annotations

import random
import struct
import threading
import time

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import wirecap
from rig import Rig, check_identity, read_pcap, read_pcapng, until
from wirecap.api import _Logged
from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.config.keep import KeepConfig, Rate, Span
from wirecap.errors import UsageError
from wirecap.handlers.keeping import Keeping
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.triggers import Triggers
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.pool import pool as k
from wirecap.run.capture import run_capture

SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND
ALARM, QUIET = 666, 53


def udp(number: int, port: int, size: int = 60) -> bytes:
    """A UDP packet that carries its number."""
    payload = number.to_bytes(8, "big") + bytes(max(0, size - 50))
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, b"\n\0\0\1", b"\n\0\0\2")
    return bytes(12) + b"\x08\0" + ip + struct.pack("!HHHH", 1000, port, 8 + len(payload), 0) + payload


def number_of(data: bytes) -> int:
    return int.from_bytes(data[42:50], "big")


def recording(path, times, ports, size=60):
    """A pcap file with nanoseconds of such packets."""
    records = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)]
    for number, (at, port) in enumerate(zip(times, ports, strict=True)):
        data = udp(number, port, size)
        records.append(struct.pack("<IIII", at // SECOND, at % SECOND, len(data), len(data)) + data)
    path.write_bytes(b"".join(records))
    return path


def commented(data: bytes) -> list[int]:
    """The numbers of the packets in a pcapng file that have a comment."""
    at, found = 0, []
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 6:
            (captured,) = struct.unpack_from("<I", data, at + 20)
            options = data[at + 28 + captured + -captured % 4 : at + size - 4]
            if options[:2] == b"\1\0":
                found.append(number_of(data[at + 28 :]))
        at += size
    return found


def run(source, target, keep, **write):
    """The summary of keeping a recording's packets."""
    config = CaptureConfig(read_file=str(source))
    format = "pcap" if str(target).endswith(".pcap") else "pcapng"
    return run_capture(config, WriteConfig(path=str(target), format=format, keep=keep, **write), _Logged())


def keeping(span_s=None, after_s=1.0, size=None, **triggers):
    span = Span(None if span_s is None else round(span_s * SECOND), size)
    return KeepConfig(span, after_ns=round(after_s * SECOND), **triggers)


def saved(times, alarms, before, after):
    """The numbers of the packets that are to be saved: those around each alarm."""
    return [n for n, at in enumerate(times) if any(alarm - before <= at <= alarm + after for alarm in alarms)]


def accounted(summary):
    """Every packet is in a file, in memory or let go."""
    packets, kept = summary["packets"], summary["kept"]
    assert packets["delivered"] == packets["written"] + kept["packets"] + kept["let_go"]
    assert packets["received"] == packets["delivered"] + packets["filtered_out"] + sum(packets["drops"].values())


@pytest.mark.kernel
@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(1, 600),
    gap_ms=st.sampled_from([0, 1, 40, 900]),
    share=st.sampled_from([0.0, 0.003, 0.05, 1.0]),
    before=st.sampled_from([0.001, 1.0, 30.0]),
    after=st.sampled_from([0.0, 0.5, 20.0]),
    rotated=st.booleans(),
)
@settings(max_examples=5 if PURE else 30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_packet_that_matches_saves_exactly_what_surrounds_it(
    tmp_path_factory, seed, count, gap_ms, share, before, after, rotated
):
    """Also if it is the first packet, if stretches overlap, and if all match; files may change in between."""
    numbers, at, times, ports = random.Random(seed), BEGIN, [], []
    for _ in range(count):
        at += numbers.randrange(gap_ms * 2_000_000 + 1)
        times.append(at)
        ports.append(ALARM if numbers.random() < share else QUIET)
    folder = tmp_path_factory.mktemp("keep")
    source = recording(folder / "in.pcap", times, ports)
    keep = keeping(before, after, on_filter=f"udp dst port {ALARM}")
    summary = run(source, folder / "out.pcapng", keep, **({"ring_packets": 7} if rotated else {}))
    accounted(summary)
    alarms = [at for at, port in zip(times, ports, strict=True) if port == ALARM]
    wanted = saved(times, alarms, round(before * SECOND), round(after * SECOND))
    found = [packet for path in sorted(folder.glob("out*")) for packet in read_pcapng(path)]
    assert [number_of(packet.data) for packet in found] == wanted
    assert [packet.timestamp for packet in found] == [times[number] for number in wanted]
    assert summary["packets"]["written"] == len(wanted)
    assert (summary["kept"]["triggered"] > 0) == bool(alarms)
    assert bool(list(folder.glob("out*"))) == bool(wanted)


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["out.pcapng", "out.pcap"])
def test_memory_that_is_full_lets_the_oldest_go(tmp_path, name):
    """A byte bound keeps the last packets; all that follows the alarm is saved, through files much larger than that."""
    apart = 4 if PURE else 1  # ms: plain Python is slow
    times = [BEGIN + n * apart * 1_000_000 for n in range(12_000 // apart)]
    alarm, end = 6000 // apart, 10_000 // apart
    ports = [ALARM if n == alarm else QUIET for n in range(len(times))]
    source = recording(tmp_path / "in.pcap", times, ports, 1000)
    keep = keeping(size=1 << 20, after_s=4, on_filter=f"udp port {ALARM}")
    summary = run(source, tmp_path / name, keep, nanoseconds=True)
    accounted(summary)
    read = read_pcap if name.endswith(".pcap") else read_pcapng
    found = [number_of(packet.data) for packet in read(tmp_path / name)]
    assert found == list(range(found[0], end + 1))
    assert alarm - (1 << 20) // 1000 <= found[0] <= alarm - (1 << 20) // 1000 * 3 // 4
    assert summary["kept"]["let_go"] > 0
    assert summary["kept"]["bytes"] <= summary["kept"]["memory"] <= 1 << 20


def test_a_time_that_does_not_fit_the_memory_is_said(tmp_path):
    """The note gives what was held, and a memory that holds all; with that, nothing is missing."""
    times = [BEGIN + n * 1_000_000 for n in range(5000)]
    ports = [ALARM if n == 4500 else QUIET for n in range(len(times))]
    source = recording(tmp_path / "in.pcap", times, ports, 1000)
    small = KeepConfig(Span(4 * SECOND), 1 << 20, 0, f"udp port {ALARM}")
    notes = run(source, tmp_path / "out.pcapng", small)["notes"]
    (note,) = notes
    assert "memory was full" in note
    advised = int(note.partition("--keep-memory ")[2].partition("MiB")[0])
    enough = KeepConfig(Span(4 * SECOND), advised << 20, 0, f"udp port {ALARM}")
    summary = run(source, tmp_path / "all.pcapng", enough)
    assert not summary["notes"]
    assert summary["packets"]["written"] == 4001


@pytest.mark.kernel
@given(seed=st.integers(0, 1 << 32), bits=st.booleans(), limit=st.sampled_from([1, 20, 300]))
@settings(max_examples=3 if PURE else 8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_rate_is_what_comes_within_a_second(tmp_path_factory, seed, bits, limit):
    """The tenth of a second at hand and the nine before it together exceed the limit."""
    numbers, at, times = random.Random(seed), BEGIN, []
    for _ in range(800):
        at += numbers.choice([0, 1_000, 5_000_000, 50_000_000, 2 * SECOND])
        times.append(at)
    amount, alarms = (60 - 8 + 8) * 8 if bits else 1, []
    size = len(udp(0, 1)) * 8 if bits else 1
    for number, now in enumerate(times):
        tenth = now // (SECOND // 10)
        within = sum(tenth - 10 < then // (SECOND // 10) for then in times[: number + 1])
        if within * size > limit * amount:
            alarms.append(now)
    folder = tmp_path_factory.mktemp("rate")
    source = recording(folder / "in.pcap", times, [QUIET] * len(times))
    summary = run(source, folder / "out.pcapng", keeping(0.01, 0.02, on_rate=Rate(limit * amount, bits)))
    accounted(summary)
    wanted = saved(times, alarms, SECOND // 100, SECOND // 50)
    found = read_pcapng(folder / "out.pcapng") if wanted else []
    assert [number_of(packet.data) for packet in found] == wanted


def test_files_say_why(tmp_path):
    """The file has a comment on the first reason, and the packet that was the reason has one too."""
    times = [BEGIN + n * SECOND // 10 for n in range(300)]
    ports = [ALARM if n in (100, 101, 250) else QUIET for n in range(300)]
    source = recording(tmp_path / "in.pcap", times, ports)
    run(source, tmp_path / "out.pcapng", keeping(5, 1, on_filter=f"udp port {ALARM}"), comments=("mine",))
    data = (tmp_path / "out.pcapng").read_bytes()
    reason = b"saved by wirecap: --save-on: udp port 666 (2023-11-14T22:13:30.000000Z)"
    assert data.count(reason) == 2
    assert data.index(b"mine") < data.index(reason) < 300
    assert commented(data) == [100, 250]


def test_a_file_for_each_alarm(tmp_path):
    """A name with a time in it and no -G: a file each, told apart within a second, each with its own reason."""
    times = [BEGIN + n * SECOND // 100 for n in range(1000)]
    ports = [ALARM if n in (100, 150, 900) else QUIET for n in range(1000)]
    source = recording(tmp_path / "in.pcap", times, ports)
    keep = keeping(0.1, 0.1, on_filter=f"udp port {ALARM}")
    summary = run(source, tmp_path / "alarm-%s.pcapng", keep, indexed=True)
    accounted(summary)
    names = [f"alarm-{BEGIN // SECOND + 1}.pcapng", f"alarm-{BEGIN // SECOND + 1}_2.pcapng"]
    names.append(f"alarm-{BEGIN // SECOND + 9}.pcapng")
    assert sorted(p.name for p in tmp_path.glob("alarm*.pcapng")) == sorted(names)
    found = [[number_of(p.data) for p in read_pcapng(tmp_path / name)] for name in names]
    assert found == [list(range(90, 111)), list(range(140, 161)), list(range(890, 911))]
    assert all((tmp_path / f"{name}.wcidx").exists() for name in names)
    assert summary["files_written"] == 3


class Kept:
    """A rig whose writer keeps packets, and what it has saved."""

    def __init__(self, path, keep, queues=1, handlers=(), M=8, R=8, **config):
        self.path = path
        self.writer = Keeping(WriteConfig(path=str(path), keep=keep, **config))
        self.rig = Rig(Pipeline(list(handlers), self.writer), queues, M, R)

    @property
    def triggers(self) -> Triggers:
        return self.writer.triggers

    def held(self):
        return self.writer.held()

    def ended(self):
        """Stop in order; the numbers of the packets in the file."""
        self.rig.stop()
        return self.numbers()

    def numbers(self):
        return [number_of(packet.data) for packet in read_pcapng(self.path)] if self.path.exists() else []

    def check(self, received):
        check_identity(self.rig.engine, received=received)
        held = self.held()
        delivered = self.rig.engine.summary().total("delivered")
        assert delivered == self.writer.packets_written + held["packets"] + held["let_go"]


def test_triggers_from_threads_while_it_writes(tmp_path):
    """Triggers that overlap and come while files are written: all is saved once, in order, with every reason."""
    kept = Kept(tmp_path / "out.pcapng", keeping(60, 60), queues=2)
    with kept.rig as rig:
        number = 0
        for round in range(30):
            for queue in range(2):
                until(lambda queue=queue: rig.room(queue) >= 5)
                rig.inject(queue, [udp(number + n, QUIET) for n in range(5)])
                number += 5
            rig.done(number)
            if round % 3 == 0:
                threads = [threading.Thread(target=kept.triggers.fire, args=(f"alarm {round} {n}",)) for n in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        found = kept.ended()
        kept.check(number)
    assert sorted(found) == list(range(number))
    data = kept.path.read_bytes()
    assert kept.triggers.count == 30
    assert all(f"alarm {round} {n} (".encode() in data for round in range(0, 30, 3) for n in range(3))


def test_a_burst_loses_nothing_that_it_would_not_lose_without(tmp_path):
    """R x M packets at once fit, and so does half of that again and again while memory is full and files are written:
    kept packets hold no cells."""
    M, R = 64, 20
    kept = Kept(tmp_path / "out.pcapng", keeping(size=1 << 20, after_s=100), M=M, R=R)
    with kept.rig as rig:
        total, free_slots = 0, rig.engine.pool.queues[k.FREE_SLOTS :]
        for burst in range(40):
            count = M * R // 2 if burst else M * R
            until(lambda count=count: rig.room() >= count)
            rig.inject_copies(0, count, 200)
            total += count
            rig.done(total)
            until(lambda: free_slots[0] == 2 * R)
            if burst == 30:
                assert kept.held()["let_go"] > 0
                kept.triggers.fire("alarm")
        kept.rig.stop()
        kept.check(total)
        assert rig.drops() == {}
        assert kept.writer.packets_written > 9 * M * R // 2


@pytest.mark.kernel
def test_lost_packets_are_a_reason(tmp_path):
    """--save-on-drops: what the hook could not let in has saved what is kept."""
    kept = Kept(tmp_path / "out.pcapng", keeping(60, 60, on_drops=3), M=4, R=4)
    with kept.rig as rig:
        rig.inject(0, [udp(n, QUIET) for n in range(8)])
        rig.done(8)
        until(lambda: kept.held()["packets"] == 8)
        while rig.engine.summary().total("dropped") < 3:
            rig.inject_copies(0, 200)
        until(lambda: kept.triggers.count)
        kept.rig.stop()
    assert kept.numbers()[:8] == list(range(8))
    assert b"--save-on-drops: " in kept.path.read_bytes()


def test_nothing_kept_nothing_written(tmp_path):
    """A trigger before the first packet, with nothing after it, makes no file; later packets of the time are saved."""
    kept = Kept(tmp_path / "out.pcapng", keeping(60, 0.2))
    with kept.rig as rig:
        kept.triggers.fire("early", time.time_ns() - 100 * SECOND)
        rig.inject(0, [udp(n, QUIET) for n in range(3)])
        assert kept.ended() == []
        kept.check(3)
    assert not kept.path.exists()
    kept = Kept(tmp_path / "out.pcapng", keeping(60, 60))
    with kept.rig as rig:
        kept.triggers.fire("early")
        rig.inject(0, [udp(n, QUIET) for n in range(3)])
        assert kept.ended() == [0, 1, 2]
        kept.check(3)


def test_a_file_that_cannot_be_made_ends_the_capture_with_its_name(tmp_path):
    """The folder is gone when the alarm comes."""
    folder = tmp_path / "gone"
    folder.mkdir()
    kept = Kept(folder / "out.pcapng", keeping(60, 60))
    with kept.rig as rig:
        folder.rmdir()
        rig.inject(0, [udp(n, QUIET) for n in range(3)])
        kept.triggers.fire("alarm")
        until(rig.engine.failure)
        assert str(folder) in str(rig.engine.failure())


@wirecap.handler(state={"alarm": wirecap.Trigger(), "seen": np.int64})
def compiled_alarm(packet, state):
    state.seen += 1
    if packet.dst_port == 666:
        state.alarm.fire(packet)


@pytest.mark.kernel
@pytest.mark.parametrize("share", [0.004, 0.5])
def test_a_compiled_handler_has_packets_saved(tmp_path, share):
    """``state.alarm.fire(packet)`` saves exactly what surrounds its packets, few or every other one."""
    numbers, at, times = random.Random(5), BEGIN, []
    for _ in range(3000):
        at += numbers.randrange(40_000_000)
        times.append(at)
    ports = [ALARM if numbers.random() < share else QUIET for _ in times]
    source = recording(tmp_path / "in.pcap", times, ports)
    out = tmp_path / "out.pcapng"
    outcome = wirecap.capture(str(source), compiled_alarm, write=out, keep=wirecap.keep("500ms", after="250ms"))
    accounted(outcome.summary)
    alarms = [at for at, port in zip(times, ports, strict=True) if port == ALARM]
    assert outcome.result == {"alarm": len(alarms), "seen": 3000}
    assert [number_of(packet.data) for packet in read_pcapng(out)] == saved(times, alarms, SECOND // 2, SECOND // 4)
    assert b"compiled_alarm: alarm (" in out.read_bytes()


def test_a_handler_in_python_has_packets_saved(tmp_path):
    """``wirecap.trigger`` within a handler, with the packet's time; without a capture that keeps packets it refuses."""
    times = [BEGIN + n * SECOND // 10 for n in range(100)]
    source = recording(tmp_path / "in.pcap", times, [ALARM if n == 50 else QUIET for n in range(100)])

    def watches(timestamp_ns, data):
        if data[36:38] == ALARM.to_bytes(2, "big"):
            wirecap.trigger("seen in Python", timestamp_ns)

    out = tmp_path / "out.pcapng"
    wirecap.capture(str(source), watches, write=out, keep=wirecap.keep("1s", after="2s"))
    assert [number_of(packet.data) for packet in read_pcapng(out)] == list(range(40, 71))
    for call, says in (
        (lambda: wirecap.trigger("late"), "no capture of this program keeps packets"),
        (lambda: wirecap.trigger("\n"), "a trigger cannot be called"),
        (lambda: wirecap.capture(str(source), keep="60s"), "there is no file to save kept packets in"),
        (lambda: wirecap.keep(60), "span must be text"),
        (lambda: wirecap.keep("60s", save_on_drops=0), "save_on_drops must be a number of packets"),
    ):
        with pytest.raises(UsageError, match=says):
            call()


@pytest.mark.parametrize("left_early", [False, True])
def test_an_open_capture_keeps_what_was_released(tmp_path, left_early):
    """``capture.trigger`` saves released chunks; a loop that is left has those saved, and the rest counts as unread."""
    times = [BEGIN + n * SECOND // 100 for n in range(5000)]
    source = recording(tmp_path / "in.pcap", times, [QUIET] * len(times))
    out, seen = tmp_path / "out.pcapng", 0
    with wirecap.open(str(source), M=50, write=out, keep=wirecap.keep("1s", after="2s")) as capture:
        for chunk in capture:
            seen += len(chunk)
            if seen == 1000:
                capture.trigger("by the program", times[800])
            if left_early and seen >= 1500:
                break
    summary = capture.summary()
    accounted(summary)
    assert [number_of(packet.data) for packet in read_pcapng(out)] == list(range(700, 1001))
    assert summary["packets"]["delivered"] == (seen if left_early else 5000)
    assert b"by the program (" in out.read_bytes()
    with wirecap.open(str(source)) as capture, pytest.raises(UsageError, match="keeps no packets"):
        capture.trigger("alarm")
    with pytest.raises(UsageError, match="writes only what it keeps"):
        wirecap.open(str(source), write=out)


@pytest.mark.kernel
def test_a_file_for_each_queue(tmp_path):
    """A packet of one queue has those of the others saved, also where it is the last one of all."""
    kept = Kept(
        tmp_path / "out.pcapng", keeping(60, 60, on_filter=f"udp port {ALARM}"), queues=3, M=64, R=20, per_queue=True
    )
    kept.writer.check(kept.rig.source)
    with kept.rig as rig:
        for queue in range(3):
            rig.inject(queue, [udp(100 * queue + n, QUIET) for n in range(20)])
        rig.done(60)
        rig.inject(1, [udp(120, ALARM)])
        kept.rig.stop()
        kept.check(61)
    for queue, last in enumerate((20, 21, 20)):
        found = read_pcapng(tmp_path / f"out_memory0_{queue}.pcapng")
        assert [number_of(packet.data) for packet in found] == [100 * queue + n for n in range(last)]


def test_several_writers_hear_a_trigger_once():
    """A program's trigger is one, however many files the capture writes."""
    triggers = Triggers(keeping(60))
    for _ in range(3):
        triggers.attach(None)
        triggers.add_writer()
    wirecap.trigger("alarm")
    assert (triggers.count, len(triggers.listed)) == (1, 1)
    assert [len(triggers.take(number)) for number in range(3)] == [1, 1, 1]
    triggers.close()
    with pytest.raises(UsageError, match="no capture of this program keeps packets"):
        wirecap.trigger("alarm")


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set(tmp_path, hours, monkeypatch):
    """An hour forward or back just before the alarm: what came before that is saved as well."""
    kept = Kept(tmp_path / "out.pcapng", keeping(60, 60))
    step, real = [0], time.time_ns
    with kept.rig as rig:
        rig.inject(0, [udp(n, QUIET) for n in range(5)])
        rig.done(5)
        until(lambda: kept.held()["packets"] == 5)
        clock = kept.writer.files[0]._clock
        monkeypatch.setattr(time, "time_ns", lambda: real() + step[0])
        step[0] = hours * 3600 * SECOND
        rig.inject(0, [udp(n, QUIET) for n in range(5, 9)])
        rig.done(9)
        until(lambda: kept.held()["packets"] == 9)
        until(lambda: abs(kept.writer.files[0]._clock - clock) > SECOND)  # it has looked at the clock
        kept.triggers.fire("alarm")
        assert kept.ended() == list(range(9))
        kept.check(9)


def far(path, time_ns, count):
    """A pcapng file of packets at one time, which pcap may not be able to hold."""
    blocks = [(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))]
    blocks.append((1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HHB3xHH", 9, 1, 9, 0, 0)))
    for number in range(count):
        data = udp(number, ALARM)
        head = struct.pack("<IIIII", 0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), len(data))
        blocks.append((6, head + data + bytes(-len(data) % 4)))
    parts = [
        struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12) for kind, body in blocks
    ]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.kernel
@pytest.mark.parametrize("time_ns", [BEGIN, (1 << 62) + SECOND, (1 << 63) - 1])
@pytest.mark.parametrize("after_s", [1, 9e9])
def test_any_time_that_a_file_can_have(tmp_path, time_ns, after_s):
    """Packets dated into the year 2116 and beyond are saved as others are, and so is what follows for centuries."""
    source = far(tmp_path / "in.pcapng", time_ns, 5)
    summary = run(source, tmp_path / "out.pcapng", keeping(60, after_s, on_filter=f"udp port {ALARM}"))
    accounted(summary)
    assert (summary["packets"]["written"], summary["kept"]["triggered"]) == (5, 1)
