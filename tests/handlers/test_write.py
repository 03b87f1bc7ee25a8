"""The writer: packets of all queues in time order, each of them once, in files of every shape."""

from __future__ import annotations

import itertools
import random
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from rig import Rig, check_identity, read_pcap, read_pcapng, until
from wirecap.config import WriteConfig
from wirecap.files.interface import Interface
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import Paced
from wirecap.handlers.write import Writer
from wirecap.kernels.jit import PURE
from wirecap.kernels.merge import INTERFACES, SLACK_NS

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
def test_random_stamps_come_out_in_time_order(tmp_path_factory, queues, M, handled, advanced, data):
    """Packets of several queues, stamps drawn at random and equal ones among them, are merged by their stamps."""
    counts = data.draw(st.lists(st.integers(0, 60), min_size=queues, max_size=queues))
    seed = data.draw(st.integers(0, 1 << 32))
    numbers = random.Random(seed)
    path = tmp_path_factory.mktemp("merge") / "out.pcapng"
    R = max(2, -(-60 // M))
    with Rig(writing(path, [Paced(1e6)] if handled else []), queues, M, R, advanced=advanced) as rig:
        soon = time.time_ns() + 200 * MS
        stamps = [sorted(soon + numbers.randrange(0, 50) * MS // 10 for _ in range(count)) for count in counts]
        packets = [[made(q, i, numbers.randrange(0, 300)) for i in range(count)] for q, count in enumerate(counts)]
        at = [0] * queues
        while any(at[q] < counts[q] for q in range(queues)):  # in pieces, in any order
            q = numbers.randrange(queues)
            end = min(counts[q], at[q] + numbers.randrange(1, 20))
            rig.inject(q, packets[q][at[q] : end], stamps[q][at[q] : end])
            at[q] = end
        rig.stop()
        check_identity(rig.engine, received=sum(counts))
        writer = rig.application.writer
        assert writer.packets_written == rig.delivered == sum(counts)
        assert writer.late == 0
    found = read_pcapng(path)
    assert [packet.stamp for packet in found] == sorted(itertools.chain(*stamps))
    for q in range(queues):
        mine = [data for data in packets[q] if len(data) > 8]  # shorter ones are not unique
        assert [p.data for p in found if p.data in mine] == mine
    assert sorted(p.data for p in found) == sorted(itertools.chain(*packets))
    assert all(p.original == len(p.data) for p in found)


@pytest.mark.parametrize("handled", [False, True])
def test_flood_and_trickle(tmp_path, handled):
    """A flood on one queue, single packets on another, silence on a third: time order, and nothing is held back."""
    path = tmp_path / "out.pcapng"
    flood = 300 if PURE else 20_000
    with Rig(writing(path, [Paced(1e6)] if handled else []), queues=3, M=64, R=50) as rig:
        sent = [[], [], []]
        delayed = []  # packets that were visible long after their stamp: this thread had to wait

        def send(queue, sizes, pause_s):
            for burst in sizes:
                data = [made(queue, len(sent[queue]) + i, 80) for i in range(burst)]
                sent[queue].extend(data)
                stamp = time.time_ns()
                rig.inject(queue, data, [stamp] * burst)
                if time.time_ns() - stamp > SLACK_NS // 2:
                    delayed.extend(data)
                time.sleep(pause_s)

        senders = [
            threading.Thread(target=send, args=(0, [20] * (flood // 20), 0.0005)),
            threading.Thread(target=send, args=(1, [1] * 20, 0.03)),
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(60)
        until(lambda: rig.application.writer.packets_written == flood + 20, 5)  # without a stop
        rig.stop()
        check_identity(rig.engine, received=flood + 20)
        assert rig.application.writer.late <= len(delayed)
    found = read_pcapng(path)
    stamps = [packet.stamp for packet in found if packet.data not in delayed]
    assert stamps == sorted(stamps)
    for queue in range(2):
        mine = set(sent[queue])
        assert [packet.data for packet in found if packet.data in mine] == sent[queue]
    assert len(found) == flood + 20


def test_single_packet_is_soon_in_the_file(tmp_path):
    """At a low rate a packet can be read from the file within a few seconds, while the capture runs."""
    path = tmp_path / "out.pcapng"
    with Rig(writing(path), queues=4, M=256, R=4) as rig:
        for number in range(1, 4):
            rig.inject(number % 4, [made(0, number, 60)])
            until(lambda number=number: packets_now(path) == number, 4)


def packets_now(path):
    try:
        return len(read_pcapng(path))
    except (AssertionError, Exception):  # being written
        return -1


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
        assert rig.application.writer.octets_written == 0 + 1 + 63 + 64 * 3
    found = (read_pcap if form == "pcap" else read_pcapng)(path)
    assert [(packet.data, packet.original) for packet in found] == [(data[:64], len(data)) for data in packets]


def test_pcap_stamps(tmp_path):
    """A pcap file has the same times as the pcapng file, in its own unit."""
    stamp = time.time_ns() + 200 * MS
    stamps = [stamp // 1000 * 1000 + i for i in (0, 1, 999, 1000, 1_999_999_999)]
    for name, form in (("a", "pcap"), ("b", "pcapng")):
        with Rig(writing(tmp_path / name, format=form), queues=1, M=4) as rig:
            rig.inject(0, [made(0, i, 60) for i in range(5)], stamps)
            rig.stop()
    unit = 1000 if (tmp_path / "a").read_bytes()[:4] == b"\xd4\xc3\xb2\xa1" else 1
    assert [packet.stamp * unit for packet in read_pcap(tmp_path / "a")] == [s // unit * unit for s in stamps]
    assert [packet.stamp for packet in read_pcapng(tmp_path / "b")] == stamps


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
    """-G begins a file with the first packet of the next second, though no size or number fills the one before."""
    with Rig(writing(tmp_path / "%H%M%S", format="pcap", split_ns=1_000 * MS), M=8, R=16) as rig:
        sent = [made(0, i, 60) for i in range(30)]
        for i, data in enumerate(sent):
            rig.inject(0, [data])
            rig.done(i + 1)
            time.sleep(0.075)
        rig.stop()
        assert rig.application.writer.packets_written == 30
    files = [read_pcap(path) for path in sorted(tmp_path.iterdir())]
    assert len(files) >= 3
    assert all(files)
    assert [packet.data for file in files for packet in file] == sent


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
    octets, at = path.read_bytes(), 0
    while at < len(octets):
        kind, size = int.from_bytes(octets[at : at + 4], "little"), int.from_bytes(octets[at + 4 : at + 8], "little")
        last, at = (kind, octets[at : at + size]), at + size
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


def test_a_ring_file_that_was_moved_away(tmp_path):
    """A file of the ring that somebody took away is none that has to be removed: the capture goes on."""
    with Rig(writing(tmp_path / "out", format="pcap", ring_packets=10, ring_files=2), M=8, R=16) as rig:
        packets = [made(0, i, 60) for i in range(45)]
        for first in range(0, 45, 15):
            rig.inject(0, packets[first : first + 15])
            rig.done(first + 15)
            until(lambda first=first: rig.application.writer.packets_written >= first + 10)
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


class Growing(list):
    """Interfaces of a file that is read meanwhile: one more is there after each look at their number."""

    def __len__(self):
        size = super().__len__()
        if size < 200:
            self.append(Interface(name=str(size)))
        return size


def test_interfaces_that_are_found_while_the_file_is_written(tmp_path):
    """In every file exactly those interfaces are described that its packets may name, while more are found."""
    with Rig(writing(tmp_path / "out.pcapng", ring_packets=2), M=8, R=16) as rig:
        rig.source.interfaces = Growing([Interface(name="0")])
        for i in range(20):
            rig.inject(0, [made(0, i, 60)])
            rig.done(i + 1)
        until(lambda: rig.application.writer.packets_written == 20)
        rig.stop()
        known = int(rig.application.writer.files[0].merge.settings[INTERFACES])
    later = [descriptions(path) for path in sorted(tmp_path.iterdir())[1:]]  # the first began before there were more
    assert all(names == [str(number) for number in range(len(names))] for names in later)
    assert len(later[-1]) == known > len(later[0]) > 1


def descriptions(path):
    """The names in the interface description blocks of a pcapng file."""
    octets, at, names = path.read_bytes(), 0, []
    while at < len(octets):
        kind, size = int.from_bytes(octets[at : at + 4], "little"), int.from_bytes(octets[at + 4 : at + 8], "little")
        if kind == 1:
            length = int.from_bytes(octets[at + 18 : at + 20], "little")
            names.append(octets[at + 20 : at + 20 + length].decode())
        at += size
    return names
