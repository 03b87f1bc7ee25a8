"""wirecap.open: chunks of files and of an in-process NIC, as a program sees them."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import wirecap
from rig import counted, leaves_no_thread, time_limit, until
from wirecap.api import _ON_THE_COMMAND_LINE, Capture
from wirecap.cli.capture import command
from wirecap.config.capture import CaptureConfig, CaptureOptions, PoolConfig
from wirecap.config.specs import HandlerSpec, QueueSpec
from wirecap.errors import WirecapError
from wirecap.kernels.base import libc
from wirecap.kernels.pool import pool as k
from wirecap.source.memory import MemorySource
from wirecap.traffic import synthetic

__all__ = ["time_limit"]


def pcap(packets, snapped=0):
    """A pcap file's bytes; timestamps are one microsecond apart."""
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    records = (
        struct.pack("<IIII", 1_700_000_000, i, len(data), len(data) + snapped) + data for i, data in enumerate(packets)
    )
    return header + b"".join(records)


@pytest.fixture
def packets():
    return [counted(i, 60 + i % 40) for i in range(1000)]


@pytest.fixture
def path(tmp_path, packets):
    file = tmp_path / "in.pcap"
    file.write_bytes(pcap(packets, snapped=7))
    return str(file)


class MemoryCapture:
    """A capture on an in-process NIC of two queues, and what is injected into it."""

    def __init__(self, M=8, R=8, **options):
        self.source = MemorySource(2, M * R)
        config = CaptureConfig(sources=(QueueSpec("memory0"),), pool=PoolConfig(M, R), **options)
        self.capture = Capture(config, self.source)

    def arrive(self, queue, packets):
        data = np.frombuffer(b"".join(packets), np.uint8).copy()
        sizes = np.array([len(packet) for packet in packets], np.int64)
        starts = np.cumsum(sizes) - sizes
        self.source.inject(queue, data, starts, sizes, np.full(len(packets), time.time_ns(), np.int64))


def test_take_gives_one_chunk_at_a_time(path, packets):
    """take returns the chunks in order, for the caller to release, and raises StopIteration after the last."""
    found = []
    with wirecap.open(path, M=100) as capture:
        while True:
            try:
                chunk = capture.take(60.0)
            except StopIteration:
                break
            found += [bytes(packet) for packet in chunk]
            chunk.release()
        with pytest.raises(StopIteration):
            capture.take(60.0)
    assert found == packets


def test_chunk_is_views_of_the_file(path, packets):
    """Every attribute of a chunk is what the file has, n elements of the documented types, read-only, no copy."""
    with wirecap.open(path, M=100) as capture:
        seen = 0
        for chunk in capture:
            expected = packets[seen : seen + len(chunk)]
            assert chunk.lengths.dtype == chunk.original_lengths.dtype == np.uint32
            assert (chunk.timestamps.dtype, chunk.offsets.dtype, chunk.arena.dtype) == (np.uint64, np.int64, np.uint8)
            assert chunk.lengths.tolist() == [len(data) for data in expected]
            assert chunk.original_lengths.tolist() == [len(data) + 7 for data in expected]
            base = 1_700_000_000 * 10**9
            assert chunk.timestamps.tolist() == [base + (seen + i) * 1000 for i in range(len(chunk))]
            assert [bytes(packet) for packet in chunk] == expected
            assert bytes(chunk[-1]) == expected[-1]
            assert bytes(chunk.arena[chunk.offsets[0] :][: chunk.lengths[0]]) == expected[0]
            assert (chunk.interface, chunk.queue) == (path, 0)
            for view in (chunk.lengths, chunk.original_lengths, chunk.timestamps, chunk.offsets, chunk.arena):
                assert not view.flags.writeable
                assert not view.flags.owndata
            assert chunk[0].readonly
            for wrong in (len(chunk), -len(chunk) - 1):
                with pytest.raises(IndexError):
                    chunk[wrong]
            seen += len(chunk)
        assert seen == len(packets)


def test_chunk_is_gone_after_its_turn(path):
    """A chunk of an earlier turn, or a released one, says so; a second release does nothing."""
    with wirecap.open(path, M=100) as capture:
        chunks = iter(capture)
        first = next(chunks)
        second = next(chunks)
        for use in (
            lambda: first[0], lambda: first.lengths, lambda: first.timestamps, lambda: first.arena,
            lambda: list(first),
        ):  # fmt: skip
            with pytest.raises(ValueError, match="released"):
                use()
        second.release()
        second.release()
        with pytest.raises(ValueError, match="released"):
            second.offsets  # noqa: B018
        assert len(next(chunks)) == 100
    assert capture.engine.summary().refused_recycles == 0


def test_chunk_after_the_capture(path):
    """A chunk that is still held when the capture closes is gone too, and so is reading memory that is not there."""
    with wirecap.open(path, M=100) as capture:
        chunks = iter(capture)
        chunk = next(chunks)
    chunks.close()
    with pytest.raises(ValueError, match="released"):
        chunk[0]


def test_early_break(path, packets):
    """Leaving the loop and the block early ends the capture; what was not read of a file does not count."""
    with wirecap.open(path, M=100, R=4) as capture:
        for chunk in capture:
            assert len(chunk) == 100
            break
    summary = capture.summary()
    assert summary["packets"] | {"drops": None} == {
        "received": 100, "delivered": 100, "filtered_out": 0, "pending": 0, "written": 0, "forwarded": 0,
        "offloaded": 0, "dropped": 0, "drops": None,
    }  # fmt: skip
    assert summary["packets"]["drops"] == {}
    assert summary["bytes"]["received"] == sum(map(len, packets[:100]))


def test_summary_while_it_runs_and_after():
    """The summary tells a duration and counts at any time, the identity at the end, also after close."""
    nic = MemoryCapture()
    with nic.capture as capture:
        nic.arrive(0, [counted(i) for i in range(20)])
        found = 0
        for chunk in capture:
            found += len(chunk)
            between = capture.summary()
            assert 0 <= between["duration_s"] < 60
            assert between["packets"]["delivered"] == found
            if found == 20:
                nic.arrive(1, [counted(i) for i in range(10)])
                until(lambda: capture.summary()["packets"]["received"] == 30)
                break
    for _ in range(2):
        packets = capture.summary()["packets"]
        assert (packets["received"], packets["delivered"], packets["drops"]) == (30, 20, {"unread_at_stop": 10})
        capture.close()
    assert capture.summary()["duration_s"] > 0


def test_several_queues_of_a_nic():
    """Chunks tell their queue; each queue's packets come in order; the file's path is an interface's name here."""
    nic = MemoryCapture(R=32)
    sent = {0: [counted(i) for i in range(100)], 1: [counted(1000 + i) for i in range(50)]}
    found = {0: [], 1: []}

    def send():
        for queue in (0, 1):
            for i in range(0, len(sent[queue]), 10):
                nic.arrive(queue, sent[queue][i : i + 10])
                time.sleep(0.01)
        nic.capture.stop()

    sender = threading.Thread(target=send)
    sender.start()
    with nic.capture as capture:
        for chunk in capture:
            assert chunk.interface == "memory0"
            found[chunk.queue].extend(bytes(packet) for packet in chunk)
    sender.join()
    assert found == sent
    summary = capture.summary()
    assert [row["delivered"] for row in summary["per_queue"]] == [100, 50]
    assert summary["duration_s"] >= 0.1


def test_threshold_is_changed_while_running():
    """T can be set during a capture, to a percentage only; the summary has the last one."""
    with MemoryCapture(mode="advanced").capture as capture:
        assert capture.T == 60
        capture.T = 80
        for wrong in (0, 101):
            with pytest.raises(wirecap.UsageError, match=f"T must be 1 to 100, not {wrong} "):
                capture.T = wrong
        assert capture.summary()["T"] == 80


def test_handlers_are_for_capture(path):
    """``wirecap.open`` gives chunks: handlers are refused, not left out in silence."""
    with pytest.raises(wirecap.UsageError, match="no handlers"):
        wirecap.open(path, handlers=(HandlerSpec("count"),))


def test_held_chunk_costs_only_its_room():
    """While a program holds a chunk the capture goes on; what does not fit the pool is pool_exhausted."""
    nic = MemoryCapture(M=8, R=4)
    with nic.capture as capture:
        nic.arrive(0, [counted(i) for i in range(32)])
        chunks = iter(capture)
        first = next(chunks)
        copy = [bytes(packet) for packet in first]
        nic.arrive(0, [counted(i) for i in range(100, 140)])
        assert [bytes(packet) for packet in first] == copy
        capture.stop()
        rest = sum(len(chunk) for chunk in chunks)
        assert len(first) + rest == 32
    assert capture.summary()["packets"]["drops"] == {"pool_exhausted": 40}


@pytest.mark.parametrize("limit", [1, 8, 13])
def test_count(limit):
    """count= ends the loop after exactly so many packets."""
    nic = MemoryCapture(count=limit)
    with nic.capture as capture:
        nic.arrive(0, [counted(i) for i in range(20)])
        found = [bytes(packet) for chunk in capture for packet in chunk]
    assert found == [counted(i) for i in range(limit)]
    assert capture.summary()["packets"]["drops"] == {"unread_at_stop": 20 - limit}


def test_duration_without_packets():
    """duration_s= ends the loop also where nothing comes."""
    nic = MemoryCapture(duration_ns=300_000_000)
    start = time.monotonic()
    with nic.capture as capture:
        assert list(capture) == []
    assert time.monotonic() - start > 0.2


def test_stop_from_another_thread():
    """stop() by another thread ends the loop."""
    nic = MemoryCapture()
    with nic.capture as capture:
        timer = threading.Timer(0.3, capture.stop)
        timer.start()
        assert list(capture) == []
        timer.join()


def test_filter_of_an_interface():
    """Of a NIC's packets those that filter= wants come whole, each with its own length, in order."""
    nic = MemoryCapture(M=64, filter="ether[7] & 1 = 1")
    sent = [counted(i, 60 + i * 7 % 90) for i in range(200)]
    with nic.capture as capture:
        nic.arrive(0, sent)
        capture.stop()
        found = [bytes(packet) for chunk in capture for packet in chunk]
    assert found == sent[1::2]


def test_filter(path, packets):
    """filter= delivers what tcpdump's expression wants, in order; chunks without such packets are not seen."""
    with wirecap.open(path, filter="ether[7] & 1 = 1 and ether[7] < 0x80", M=16) as capture:
        found = [bytes(packet) for chunk in capture if len(chunk) or pytest.fail("an empty chunk") for packet in chunk]
    assert found == [data for data in packets if data[7] & 1 and data[7] < 0x80]
    counts = capture.summary()["packets"]
    assert counts["filtered_out"] == 1000 - len(found)
    assert counts["received"] == 1000


def test_damaged_file_keeps_what_was_whole(tmp_path, packets):
    """All whole packets come, then an error that tells the offset; the summary counts them."""
    file = tmp_path / "cut.pcap"
    data = pcap(packets)
    file.write_bytes(data[:-5])
    found = []
    capture = wirecap.open(str(file), M=64)
    with capture, pytest.raises(wirecap.UsageError, match=str(len(data) - 16 - len(packets[-1]))):  # noqa: PT012
        for chunk in capture:
            found.extend(bytes(packet) for packet in chunk)
    assert found == packets[:-1]
    counts = capture.summary()["packets"]
    assert counts["received"] == counts["delivered"] == 999


def test_error_in_the_loop_ends_the_capture(path):
    """A program's own exception passes through, and the threads are gone."""
    with leaves_no_thread():
        with pytest.raises(ZeroDivisionError), wirecap.open(path) as capture:  # noqa: PT012
            for chunk in capture:
                len(chunk) // 0
        assert capture.engine.stopped


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([],), "nothing to capture"),
        (("/nonexistent/x.pcap",), "/nonexistent/x.pcap"),
        (("nosuch.pcap.xz",), "nosuch.pcap.xz: No such file"),
        (("nosuch.LZ4",), "nosuch.LZ4: No such file"),
        (("nosuch0",), "nosuch0"),
        (("lo@9-3",), "lo@9-3"),
    ],
)
def test_what_cannot_be_opened(arguments, says):
    """What cannot be captured raises UsageError with the name of it."""
    with pytest.raises(wirecap.UsageError, match=says.replace("/", "/")):
        wirecap.open(*arguments)


def test_a_folder_is_no_file_a_pipe_is(tmp_path, monkeypatch):
    """A folder with the name of an interface does not hide that; a pipe is read, whatever its name is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nosuch0").mkdir()
    with pytest.raises(wirecap.UsageError, match="no interface 'nosuch0'"):
        wirecap.open("nosuch0")
    os.mkfifo("nosuch1")
    feeding = threading.Thread(target=(tmp_path / "nosuch1").write_bytes, args=(pcap([counted(7)]),))
    feeding.start()
    with wirecap.open("nosuch1") as capture:
        assert [bytes(packet) for chunk in capture for packet in chunk] == [counted(7)]
    feeding.join()


def test_options_without_effect_are_refused(path, tmp_path):
    """A caller who takes every chunk itself makes no offload decision: a log of them would stay empty."""
    with pytest.raises(wirecap.UsageError, match="there are no decisions to keep"):
        wirecap.open(path, decisions_file=str(tmp_path / "log.npz"))
    with pytest.raises(wirecap.UsageError, match="makes no page"):
        wirecap.open(path, html_file=str(tmp_path / "page.html"))


@pytest.mark.parametrize("shape", [{"M": 0}, {"R": 1}, {"T": 0}, {"T": 101}, {"mode": "fast"}, {"cell": 3000}])
def test_shapes_that_cannot_be(path, shape):
    """M, R, T, mode and cell outside their ranges raise UsageError."""
    with pytest.raises(wirecap.UsageError):
        wirecap.open(path, **shape)


def test_program_ends_without_closing(path):
    """A script that neither closes nor drains a capture ends by itself, in silence."""
    script = f"import wirecap\nc = wirecap.open({path!r}, M=4, R=2)\nnext(iter(c))\nprint('end')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.parametrize("failure", [WirecapError("memory0 is gone"), KeyboardInterrupt()])
def test_what_fails_after_the_start_leaves_no_thread(failure, monkeypatch):
    """An interface that goes away, or Ctrl-C, while warnings are collected: the threads end before the error."""

    def fail(source):
        assert [thread for thread in threading.enumerate() if thread.name.startswith("wirecap")]
        raise failure

    monkeypatch.setattr(MemorySource, "warnings", fail)
    with pytest.raises(type(failure)):
        MemoryCapture()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("wirecap")]


def test_end_follows_the_stop_at_once():
    """After stop() the loop gets what was captured and ends without waiting for a timeout of its own."""

    def ends_at_once():
        """It may be the machine that takes its time, but not again and again."""
        nic = MemoryCapture()
        nic.arrive(0, [counted(i) for i in range(20)])
        nic.capture.stop()
        start = time.monotonic()
        assert sum(len(chunk) for chunk in nic.capture) == 20
        took_s = time.monotonic() - start
        nic.capture.close()
        return took_s < 1

    until(ends_at_once)


def test_the_command_lines_names_of_options_are_known():
    """Each is a long name of ``capture``, and stands for an option that Python calls otherwise."""
    listed = {*inspect.signature(wirecap.open).parameters, *CaptureOptions.__annotations__}
    long_names = {name for option in command.params for name in option.opts}
    for theirs, ours in _ON_THE_COMMAND_LINE.items():
        assert f"--{theirs.replace('_', '-')}" in long_names
        assert theirs not in listed
        assert ours in listed


def test_options_are_those_of_a_capture():
    """What ``open`` lists and CaptureOptions add up to a capture's fields, but for those that open makes itself."""
    listed = set(inspect.signature(wirecap.open).parameters) | set(CaptureOptions.__annotations__)
    made = {"sources", "read_file", "remote", "serve", "pool", "handlers", "duration_ns"}
    given = {"source", "M", "R", "cell", "duration_s", "write", "keep", "options"}
    assert listed - given == {field.name for field in dataclasses.fields(CaptureConfig)} - made


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("engin", "did you mean engine?"),
        ("nonesuch", "the options are mode, M, R"),
        ("filtre", "filter"),
        ("chunks", "did you mean R?"),
        ("threshold", "did you mean T?"),
        ("duration", "did you mean duration_s?"),
    ],
)
@pytest.mark.parametrize("call", [wirecap.open, wirecap.capture])
def test_an_option_that_there_is_not(call, name, says):
    """A misspelt option of ``open`` or ``capture`` is a UsageError that names the right one."""
    with pytest.raises(wirecap.UsageError, match=f"unknown option '{name}'") as refused:
        call("eth1", **{name: 1})
    assert says in refused.value.hint


def test_a_stop_inside_a_stop(path):
    """A signal handler that stops a capture may interrupt a stop, and a close, anywhere: none of them waits for it."""
    for line in range(40):
        with wirecap.open(path) as capture:
            steps = itertools.count()

            def interrupt(frame, event, argument, steps=steps, line=line, capture=capture):
                if frame.f_globals.get("__name__") != "wirecap.api":
                    return None
                if event == "line" and next(steps) == line:
                    capture.stop()
                return interrupt

            sys.settrace(interrupt)
            try:
                capture.stop()
                capture.close()
            finally:
                sys.settrace(None)
        packets = capture.summary()["packets"]
        assert packets["received"] == packets["delivered"] + packets["dropped"]


def test_an_abort_is_never_lost():
    """An ABORT that comes while another phase is being stored stays, at whatever moment it comes."""
    for line in range(12):
        memory = MemoryCapture()
        engine = memory.capture.engine
        steps = itertools.count()

        def interrupt(frame, event, argument, steps=steps, line=line, engine=engine):
            if frame.f_code.co_name != "_set_phase":
                return None
            if event in ("line", "return") and next(steps) == line:
                sys.settrace(None)
                engine.abandon()
            return interrupt

        sys.settrace(interrupt)
        try:
            engine._set_phase(k.CLOSE)
        finally:
            sys.settrace(None)
        if next(steps) > line:
            assert engine.pool.control[k.PHASE] == k.ABORT
        memory.capture.close()


def test_a_processor_without_a_known_futex_is_refused(path, monkeypatch):
    """On other processors than x86-64 and arm64 a capture refuses to start, in one line."""
    monkeypatch.setattr(libc, "FUTEX", None)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(wirecap.WirecapError, match="does not run on a riscv64 processor"):
        wirecap.open(path)


def test_packets_one_by_one(path, packets):
    """packets() yields every packet once, with its own bytes, lengths and time; after a break it goes on behind it."""
    kept = []
    with wirecap.open(path, M=100) as capture:
        for packet in capture.packets():
            kept.append(packet)
            if len(kept) == 150:
                break
        kept += capture.packets()
        assert list(capture.packets()) == []
    assert [bytes(packet) for packet in kept] == packets
    assert [packet.length for packet in kept] == [len(data) + 7 for data in packets]
    assert [packet.timestamp for packet in kept[:2]] == [1_700_000_000 * 10**9, 1_700_000_000 * 10**9 + 1000]
    assert kept[3].interface == path
    assert capture.summary()["packets"]["delivered"] == len(packets)


def test_packets_that_nobody_asked_for():
    """What is left of the chunk at hand when a capture is closed is unread, like the chunks behind it."""
    rig = MemoryCapture()
    rig.arrive(0, [counted(i) for i in range(20)])
    with rig.capture as capture:
        stream = capture.packets()
        assert [packet[:] for packet in itertools.islice(stream, 3)] == [counted(i) for i in range(3)]
    totals = capture.summary()["packets"]
    assert (totals["received"], totals["delivered"], totals["drops"]) == (20, 3, {"unread_at_stop": 17})
    assert list(capture.packets()) == []


def test_fields_of_a_packet(tmp_path):
    """A packet has compiled handlers' fields, also ones read after its chunk is gone, and addresses as such."""
    udp, arp = synthetic.udp(60), bytes(12) + b"\x08\x06" + bytes(46)
    (tmp_path / "in.pcap").write_bytes(pcap([udp, arp]))
    with wirecap.open(str(tmp_path / "in.pcap")) as capture:
        first, second = capture.packets()
    assert first.udp
    assert not first.tcp
    assert repr(first.udp).startswith("<udp of <packet of 60 bytes")
    assert repr(first.tcp).startswith("<tcp, which is not there, of <packet")
    assert (first.protocol, first.ip.ttl, first.udp.payload) == (17, udp[22], 42)
    assert first.src_port == int.from_bytes(udp[34:36], "big") == first.field("src_port")
    assert str(first.src) == ".".join(map(str, udp[26:30]))
    assert (second.src, second.src_port, second.ip.ttl, second.ip6.dst) == (None, 0, 0, (0, 0))
    with pytest.raises(AttributeError, match="did you mean src_port"):
        _ = first.srcport
    with pytest.raises(AttributeError, match="it has"):
        _ = first.udp.nothing
