"""The writer: packets of all queues in time order, each of them once, in files of every shape."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import struct
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from rig import PCAP_HEADER, Rig, check_identity, pcap_records, read_pcap, read_pcapng, until
from wirecap.api import _Logged
from wirecap.config.bounds import Bounds
from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError
from wirecap.files import writer
from wirecap.files.targets import Plain
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import Paced
from wirecap.handlers.write import Writer
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.file.merge import SLACK_NS, WRITTEN
from wirecap.run.capture import run_capture

pytestmark = pytest.mark.kernel

MS = 1_000_000


def made(queue, number, size):
    """A packet of which every byte depends on where and when it came."""
    return random.Random(f"{queue} {number}").randbytes(size)


def writing(path, handlers=(), **config):
    return Pipeline(list(handlers), Writer(WriteConfig(path=str(path), **config)))


@given(
    queues=st.integers(1, 5),
    M=st.sampled_from([1, 3, 8, 64]),
    handled=st.booleans(),
    advanced=st.booleans(),
    data=st.data(),
)
@settings(max_examples=10 if PURE else 30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_timestamps_come_out_in_time_order(tmp_path_factory, queues, M, handled, advanced, data):
    """Packets of several queues, timestamps drawn at random, some of them equal, are merged in time order."""
    counts = data.draw(st.lists(st.integers(0, 60), min_size=queues, max_size=queues))
    seed = data.draw(st.integers(0, 1 << 32))
    numbers = random.Random(seed)
    path = tmp_path_factory.mktemp("merge") / "out.pcapng"
    R = max(2, -(-60 // M))
    with Rig(writing(path, [Paced(1e6)] if handled else []), queues, M, R, advanced=advanced) as rig:
        soon = time.time_ns() + 900 * MS  # a slow machine injects them before that; one further ahead would not wait
        timestamps = [sorted(soon + numbers.randrange(0, 50) * MS // 10 for _ in range(count)) for count in counts]
        packets = [[made(q, i, numbers.randrange(0, 300)) for i in range(count)] for q, count in enumerate(counts)]
        at = [0] * queues
        while any(at[q] < counts[q] for q in range(queues)):  # in pieces, in any order
            q = numbers.randrange(queues)
            end = min(counts[q], at[q] + numbers.randrange(1, 20))
            rig.inject(q, packets[q][at[q] : end], timestamps[q][at[q] : end])
            at[q] = end
        in_time = time.time_ns() < soon  # else the machine stood still: what came after its time has no order
        rig.stop()
        check_identity(rig.engine, received=sum(counts))
        writer = rig.application.writer
        assert writer.packets_written == rig.delivered == sum(counts)
        assert writer.late == 0 or not in_time
    found = read_pcapng(path)
    written = [packet.timestamp for packet in found]
    assert (written if in_time else sorted(written)) == sorted(itertools.chain(*timestamps))
    for q in range(queues):
        mine = [data for data in packets[q] if len(data) > 8]  # shorter ones are not unique
        assert [p.data for p in found if p.data in mine] == mine
    assert sorted(p.data for p in found) == sorted(itertools.chain(*packets))
    assert all(p.original == len(p.data) for p in found)


@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_clock_that_is_set_holds_nobody_up(tmp_path, ahead_s):
    """A queue's packets from before the clock was set, an hour ahead of it or behind, and those after it are written at
    once, though another queue is silent."""
    path = tmp_path / "out.pcapng"
    with Rig(writing(path), queues=2, M=4, R=8) as rig:
        for number, shift_s in enumerate([ahead_s, ahead_s, 0, 0, ahead_s, 0]):
            rig.inject(0, [made(0, number, 60)] * 2, [time.time_ns() + shift_s * 10**9] * 2)
            until(lambda number=number: rig.application.writer.packets_written == 2 * number + 2, 30)  # without a stop
        rig.stop()
        check_identity(rig.engine, received=12)
    assert [packet.data for packet in read_pcapng(path)] == [made(0, number // 2, 60) for number in range(12)]


@pytest.mark.parametrize("handled", [False, True])
def test_flood_and_trickle(tmp_path, handled):
    """A flood on one queue, single packets on another, silence on a third: time order, and nothing is held back."""
    path = tmp_path / "out.pcapng"
    flood = 300 if PURE else 20_000
    with Rig(writing(path, [Paced(1e6)] if handled else []), queues=3, M=64, R=50) as rig:
        sent = [[], [], []]
        delayed = []  # packets that were visible long after their timestamp: this thread had to wait
        merged = rig.application.writer.files[0].merge.counts

        def are_few():
            """So few are on their way that the merge waits the whole slack: the machine may stand still at any time."""
            return sum(map(len, sent)) - int(merged[WRITTEN]) <= 200

        def send(queue, sizes, pause_s):
            for burst in sizes:
                data = [made(queue, len(sent[queue]) + i, 80) for i in range(burst)]
                until(are_few)
                sent[queue].extend(data)
                timestamp = time.time_ns()
                rig.inject(queue, data, [timestamp] * burst)
                if time.time_ns() - timestamp > SLACK_NS // 2:
                    delayed.extend(data)
                time.sleep(pause_s)

        senders = [
            threading.Thread(target=send, args=(0, [20] * (flood // 20), 0.0005)),
            threading.Thread(target=send, args=(1, [1] * 20, 0.03)),
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        until(lambda: rig.application.writer.packets_written == flood + 20)  # without a stop
        rig.stop()
        check_identity(rig.engine, received=flood + 20)
        assert rig.application.writer.late <= len(delayed)
    found = read_pcapng(path)
    timestamps = [packet.timestamp for packet in found if packet.data not in delayed]
    assert timestamps == sorted(timestamps)
    for queue in range(2):
        mine = set(sent[queue])
        assert [packet.data for packet in found if packet.data in mine] == sent[queue]
    assert len(found) == flood + 20


def test_single_packet_is_soon_in_the_file(tmp_path):
    """At a low rate a packet can be read from the file while the capture runs, though none follows."""
    path = tmp_path / "out.pcapng"
    with Rig(writing(path), queues=4, M=256, R=4) as rig:
        for number in range(1, 4):
            rig.inject(number % 4, [made(0, number, 60)])
            until(lambda number=number: packets_now(path) == number)


def packets_now(path):
    """Whole packets in a file that is being written: it may end within a block, but is right up to there."""
    data, at, count = path.read_bytes(), 0, 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert size >= 12
        assert size % 4 == 0
        if at + size > len(data):
            break
        assert struct.unpack_from("<I", data, at + size - 4)[0] == size
        count += kind == 6
        at += size
    return count


@pytest.mark.parametrize("form", ["pcapng", "pcap"])
def test_snap_length(tmp_path, form):
    """-s keeps the first bytes of each packet and its length on the wire."""
    path = tmp_path / "out"
    packets = [made(0, i, size) for i, size in enumerate([0, 1, 63, 64, 65, 1500])]
    with Rig(writing(path, format=form, snaplen=64), queues=1, M=4) as rig:
        rig.inject(0, packets)
        rig.done(len(packets))
        rig.stop()
        check_identity(rig.engine)
        assert rig.application.writer.bytes_written == 0 + 1 + 63 + 64 * 3
    found = (read_pcap if form == "pcap" else read_pcapng)(path)
    assert [(packet.data, packet.original) for packet in found] == [(data[:64], len(data)) for data in packets]


def test_pcap_timestamps(tmp_path):
    """A pcap file has the same times as the pcapng file, in its own unit."""
    timestamp = time.time_ns() + 200 * MS
    timestamps = [timestamp // 1000 * 1000 + i for i in (0, 1, 999, 1000, 1_999_999_999)]
    for name, form in (("a", "pcap"), ("b", "pcapng")):
        with Rig(writing(tmp_path / name, format=form), queues=1, M=4) as rig:
            rig.inject(0, [made(0, i, 60) for i in range(5)], timestamps)
            rig.stop()
    unit = 1000 if (tmp_path / "a").read_bytes()[:4] == b"\xd4\xc3\xb2\xa1" else 1
    assert [packet.timestamp * unit for packet in read_pcap(tmp_path / "a")] == [s // unit * unit for s in timestamps]
    assert [packet.timestamp for packet in read_pcapng(tmp_path / "b")] == timestamps


@pytest.mark.parametrize("handled", [False, True])
def test_a_file_for_each_queue(tmp_path, handled):
    """--per-queue puts each queue's packets, in order, into its own file."""
    handlers = [Paced(1e6)] if handled else []
    application = writing(tmp_path / "out.pcap", handlers, format="pcap", per_queue=True)
    with Rig(application, queues=3, M=8, advanced=handled, T=1) as rig:
        packets = [[made(q, i, 60) for i in range(50)] for q in range(3)]
        for q in (2, 0, 1):
            rig.inject(q, packets[q][:25])
            rig.inject(q, packets[q][25:])
        rig.done(150)
        rig.stop()
        check_identity(rig.engine, received=150)
        assert rig.application.writer.packets_written == 150
    for q in range(3):
        assert [packet.data for packet in read_pcap(tmp_path / f"out_memory0_{q}.pcap")] == packets[q]


@pytest.mark.parametrize(
    ("config", "largest"),
    [
        ({"ring_packets": 7}, 7),
        ({"ring_packets": 1}, 1),
        ({"ring_bytes": 2_000}, 2_000 // 76 + 2),
        ({"split_bytes": 2_000}, 2_000 // 76 + 2),
        ({"split_bytes": 2_000, "split_files": 900}, 2_000 // 76 + 2),
        ({"ring_interval_ns": 50 * MS}, 1000),
        ({"ring_ns": 50 * MS, "ring_packets": 40}, 40),
    ],
)
def test_rotation_keeps_every_packet_once(tmp_path, config, largest):
    """Over a row of files each packet stands once, in order, however the files were divided."""
    count = 100
    handled = "ring_packets" in config
    with Rig(
        writing(tmp_path / "out", [Paced(1e6)] if handled else [], format="pcap", **config), queues=2, M=8, R=16
    ) as rig:
        sent = []
        for i in range(0, count, 10):
            data = [made(0, i + k, 60) for k in range(10)]
            sent.extend(data)
            rig.inject(i // 10 % 2, data)
            rig.done(i + 10)
            time.sleep(0.022)  # longer than what a queue may be behind, so that the order is known
        rig.stop()
        check_identity(rig.engine, received=count)
        assert rig.application.writer.packets_written == count
    files = [read_pcap(path) for path in sorted(tmp_path.iterdir(), key=by_number)]
    assert all(len(file) <= largest for file in files)
    assert [packet.data for file in files for packet in file] == sent
    if "ring_packets" in config and "ring_ns" not in config:
        assert {len(file) for file in files[:-1]} == {largest}


def test_rotation_by_time_alone(tmp_path):
    """-G begins a file with the next second, though no size or number fills the one before."""
    sent = []
    with Rig(writing(tmp_path / "%Y%m%d%H%M%S", format="pcap", split_ns=1_000 * MS), M=8, R=16) as rig:

        def third_file():
            sent.append(made(0, len(sent), 60))
            rig.inject(0, sent[-1:])
            rig.done(len(sent))
            time.sleep(0.075)
            return len(list(tmp_path.iterdir())) >= 3

        until(third_file)
        rig.stop()
        assert rig.application.writer.packets_written == len(sent)
    files = [read_pcap(path) for path in sorted(tmp_path.iterdir())]
    assert len(files) >= 3
    assert [packet.data for file in files for packet in file] == sent


def test_a_quiet_line_ends_files_on_time(tmp_path):
    """-G 1 -W 3 without a packet after the first: each file's name is told when its time is over, and then it ends."""
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        if found := quiet_line(folder):
            break
    files, moments_ns, end_ns = found  # else the machine stood still 20 times while the first packet came
    assert [len(read_pcap(path)) for path in files] == [1, 0, 0]
    assert sorted(folder.glob("f_*")) == sorted(files)
    for number, moment_ns in enumerate(moments_ns):  # a file's time begins with a whole second
        assert moment_ns >= end_ns + number * 1_000 * MS


def quiet_line(folder):
    """The files, when each was over, and when the time of the first was; None if the packet came after that."""
    names = folder / "names"
    config = {"split_ns": 1_000 * MS, "split_files": 3, "ring_print": str(names)}
    with Rig(writing(folder / "f_%S", format="pcap", **config), M=8, R=16) as rig:
        file = rig.application.writer.files[0]
        end_ns = file._rotation.split_end_ns
        rig.inject(0, [made(0, 0, 60)])
        until(lambda: file.merge.counts[WRITTEN] or not rig.engine.running())
        if time.time_ns() >= end_ns:
            return None
        moments_ns = []
        for count in (1, 2):
            until(lambda count=count: len(names.read_text().splitlines()) >= count)
            moments_ns.append(time.time_ns())
        until(lambda: not rig.engine.running())
        moments_ns.append(time.time_ns())
        rig.stop()
    return [Path(line) for line in names.read_text().splitlines()], moments_ns, end_ns


def by_number(path):
    name = path.name.removeprefix("out")
    if name.startswith("_"):
        return int(name.split("_")[1])
    return int(name or 0)


def test_ring_of_files_keeps_the_last(tmp_path):
    """-b packets:10 -b files:3 leaves the last three files, without a gap."""
    with Rig(writing(tmp_path / "out", format="pcap", ring_packets=10, ring_files=3), M=8, R=16) as rig:
        packets = [made(0, i, 60) for i in range(105)]
        rig.inject(0, packets)
        rig.done(105)
        rig.stop()
        assert rig.application.writer.packets_written == 105
    left = [packet.data for path in sorted(tmp_path.iterdir()) for packet in read_pcap(path)]
    assert len(list(tmp_path.iterdir())) == 3
    assert left == packets[80:]


def test_autostop_by_size(tmp_path):
    """-a filesize ends the capture by itself; the file ends there, and the rest is unread_at_stop."""
    with Rig(writing(tmp_path / "out", format="pcap", stop_bytes=5_000), queues=2, M=8, R=16) as rig:
        rig.inject(0, [made(0, i, 84) for i in range(100)])
        until(lambda: not rig.engine.running())
        rig.stop()
        check_identity(rig.engine, received=100)
        assert rig.engine.failure() is None
    assert 5_000 <= (tmp_path / "out").stat().st_size < 5_100
    assert len(read_pcap(tmp_path / "out")) == rig.application.writer.packets_written == rig.delivered == 50


def test_statistics_block_tells_what_was_dropped(tmp_path):
    """The pcapng file ends with a block that has the received and dropped counts of the summary."""
    path = tmp_path / "out.pcapng"
    with Rig(writing(path), queues=1, M=4, R=4) as rig:
        rig.inject(0, [made(0, i, 60) for i in range(40)])
        rig.done(40)
        rig.stop()
        dropped = rig.drops()["pool_exhausted"]
        assert 0 < dropped <= 24
    data, at = path.read_bytes(), 0
    while at < len(data):
        kind, size = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
        last, at = (kind, data[at : at + size]), at + size
    assert last[0] == 5
    options, place = {}, 20
    while True:
        code, length = (int.from_bytes(last[1][place + k : place + k + 2], "little") for k in (0, 2))
        if code == 0:
            break
        options[code] = last[1][place + 4 : place + 4 + length]
        place += 4 + length + -length % 4
    assert int.from_bytes(options[4], "little") == 40  # isb_ifrecv
    assert int.from_bytes(options[7], "little") == dropped  # isb_osdrop


@pytest.mark.parametrize("lost", [True, False])
def test_a_slow_way_to_the_disk_is_told_where_it_cost_packets(tmp_path, monkeypatch, lost):
    """Without direct writes, and with drops because the writer was slow: one line; else none."""

    def cached(path, fd, space, most):
        return Plain(fd, space)

    monkeypatch.setattr(writer, "_open_direct", cached)
    path, application = tmp_path / "out.pcap", writing(tmp_path / "out.pcap")
    with Rig(application, queues=1, M=4, R=4) as rig:
        rig.inject(0, [made(0, i, 60) for i in range(40 if lost else 4)])
        rig.done(40 if lost else 4)
        rig.stop()
        assert ("pool_exhausted" in rig.drops()) == lost
    line = f"{path}: its file system has no direct writes, and writing through the cache is slower"
    assert application.writer.notes == ([line] if lost else [])


def test_a_ring_file_that_was_moved_away(tmp_path):
    """A file of the ring that somebody took away is none that has to be removed: the capture goes on."""
    with Rig(writing(tmp_path / "out", format="pcap", ring_packets=10, ring_files=2), M=8, R=16) as rig:
        packets = [made(0, i, 60) for i in range(45)]
        for first in range(0, 45, 15):
            rig.inject(0, packets[first : first + 15])
            rig.done(first + 15)
            until(
                lambda first=first: rig.application.writer.packets_written == first + 15
            )  # no file changes after that
            sorted(tmp_path.glob("out_*"), key=by_number)[0].rename(tmp_path / f"kept{first}")
        rig.stop()
        check_identity(rig.engine, received=45)
        assert rig.application.writer.packets_written == 45
    assert [p.data for first in range(0, 45, 15) for p in read_pcap(tmp_path / f"kept{first}")][:10] == packets[:10]


@pytest.mark.parametrize("per_queue", [False, True])
def test_names_of_finished_files_are_told(tmp_path, per_queue):
    """-b printname names each file once it is whole, while the capture goes on, and the last one at its end."""
    names = tmp_path / "names"
    config = {"per_queue": per_queue, "ring_packets": 10, "ring_print": str(names)}
    full, last = (4, 2) if per_queue else (5, 1)
    with Rig(writing(tmp_path / "out", format="pcap", **config), queues=2, M=8, R=16) as rig:
        for queue in range(2):
            rig.inject(queue, [made(queue, i, 60) for i in range(25)])
        until(lambda: len(names.read_text().splitlines()) == full)
        for line in names.read_text().splitlines():
            assert len(read_pcap(Path(line))) == 10
        rig.stop()
        check_identity(rig.engine, received=50)
    told = [Path(line) for line in names.read_text().splitlines()]
    assert len(told) == full + last
    assert set(told) == set(tmp_path.glob("out_*"))


def test_files_that_cannot_be_opened_leave_nothing_behind(tmp_path):
    """If the second output is refused, there are no threads, no child and no lock afterwards."""
    before, children = set(threading.enumerate()), own_children()
    bounds = Bounds(max_age_ns=10**12)
    config = {"format": "pcap", "per_queue": True, "bounds": bounds, "ring_packets": 10, "on_file": "true"}
    application = writing(tmp_path / "out.pcap", **config)
    writer = application.writer
    writer._paths = lambda source: [str(tmp_path / "a.pcap"), str(tmp_path / "nowhere" / "b.pcap")]
    with pytest.raises(UsageError, match="No such file"), Rig(application, 2):
        pass
    assert own_children() <= children
    until(lambda: set(threading.enumerate()) <= before)
    written = next(tmp_path.glob("a_*.pcap"))
    with written.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def own_children():
    """The processes that this one started."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread of another test that has ended
            found |= set((task / "children").read_text().split())
    return found


@pytest.mark.parametrize(
    "config",
    [{"bounds": Bounds(max_age_ns=10**12)}, {"ring_packets": 3}, {"split_bytes": 1000}, {"split_ns": 10**9},
     {"per_queue": True}, {"on_file": "true"}],
)  # fmt: skip
def test_a_device_or_a_pipe_is_one_file(tmp_path, config):
    """Files beside it, such as /dev/stdout_00001_..., would not be what was asked for; other files may be split."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/stdout", "/dev/null", str(tmp_path / "pipe"), str(tmp_path)):
        with pytest.raises(UsageError, match="cannot be split or bounded"):
            Writer(WriteConfig(path=path, format="pcap", **config)).check(None)
        Writer(WriteConfig(path=path, format="pcap"))._check_one_file()
    (tmp_path / "out.pcap").touch()
    for name in ("out.pcap", "new.pcap"):
        Writer(WriteConfig(path=str(tmp_path / name), format="pcap", **config))._check_one_file()


def test_a_run_that_does_not_start_leaves_nothing_behind(tmp_path, monkeypatch):
    """What the writer began ends too, although it is not the writer that failed."""

    def refuse(engine):
        raise UsageError("refused", "")

    monkeypatch.setattr(Engine, "start", refuse)
    (tmp_path / "in.pcap").write_bytes(PCAP_HEADER + pcap_records(3))
    before, children = set(threading.enumerate()), own_children()
    write = WriteConfig(
        path=str(tmp_path / "out.pcap"), format="pcap", on_file="true", bounds=Bounds(max_age_ns=10**12)
    )
    with pytest.raises(UsageError, match="refused"):
        run_capture(CaptureConfig(read_file=str(tmp_path / "in.pcap")), write, _Logged())
    assert own_children() <= children
    until(lambda: set(threading.enumerate()) <= before)
