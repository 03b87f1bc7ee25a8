"""The AF_PACKET source on veth NICs: which packets come, from which queue, and what becomes of the rest."""

from __future__ import annotations

import re
import struct
import subprocess
import threading
import time

import dpkt
import pytest

import wirecap
from rig import LiveRig, Wire, check_identity, flow_frames, number_of, read_pcapng, until
from wirecap.config.capture import PoolConfig, WriteConfig
from wirecap.errors import UsageError
from wirecap.filters import in_socket
from wirecap.kernels.af_packet import blocks as w
from wirecap.kernels.pool import pool as k
from wirecap.linux import netlink, netns
from wirecap.source import af_packet
from wirecap.source.af_packet import SLOTS_RETIRE_MS
from wirecap.traffic import synthetic

pytestmark = pytest.mark.live

MS = 1_000_000


def packet_rig(bed, *sources, path=None, **config):
    write = WriteConfig(path=str(path)) if path else None
    return LiveRig(bed, *sources, write=write, engine="packet", **config)


def test_frames_arrive_whole_and_in_order(testbed, tmp_path):
    """Frames of every size: the same bytes, once each, in order, timestamped when they came."""
    bed = testbed(queues=1, mtu=9000)
    sent = [frame for size in (60, 61, 333, 1514, 9014) for frame in flow_frames(300, size, first=size * 1000)]
    path = tmp_path / "out.pcapng"
    with packet_rig(bed, path=path) as rig, Wire(bed.nics[0].outside) as wire:
        assert rig.source.describe()["xdp_mode"] is None
        before = time.time_ns()
        wire.send(sent)
        rig.done(len(sent))
        after = time.time_ns()
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        assert rig.drops() == {}
        assert rig.engine.summary().total("received_bytes") == sum(map(len, sent))
        assert rig.application.writer.late == 0
    found = read_pcapng(path)
    assert [packet.data for packet in found] == sent
    timestamps = [packet.timestamp for packet in found]
    assert timestamps == sorted(timestamps)
    assert before - MS <= timestamps[0] <= timestamps[-1] <= after + MS


def ip_packet(number: int, data: bytes, offset: int = 0, more: bool = False) -> bytes:
    """A frame with (a part of) the UDP datagram of flow ``number`` (RFC 791)."""
    flags = offset // 8 | (0x2000 if more else 0)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), number, flags, 64, 17, 0) + bytes(
        [10, 0, 0, 1, 10, 0, 0, 2]
    )
    header = header[:10] + dpkt.in_cksum(header).to_bytes(2, "big") + header[12:]
    return bytes(12) + b"\x08\0" + header + data


def test_fragments_stay_with_their_flow(testbed, tmp_path):
    """With --defrag a fragmented datagram comes whole, to the queue of the packets of its flow that are whole."""
    bed = testbed(queues=4)
    write = WriteConfig(path=str(tmp_path / "out.pcapng"), per_queue=True)
    flows = range(40)
    datagrams = [struct.pack("!HHHH", 5000 + flow, 53, 1608, 0) + bytes([flow]) * 1600 for flow in flows]
    short = [struct.pack("!HHHH", 5000 + flow, 53, 9, 0) + bytes([flow]) for flow in flows]
    with LiveRig(bed, write=write, engine="packet", defrag=True) as rig, Wire(bed.nics[0].outside) as wire:
        for flow in flows:
            parts = [(at, datagrams[flow][at : at + 800]) for at in range(0, 1608, 800)]
            wire.send([ip_packet(flow, part, at, more=at < 1600) for at, part in parts])
            wire.send([ip_packet(flow, short[flow])])
        rig.done(2 * len(flows))
        rig.stop()
        check_identity(rig.engine, received=2 * len(flows))
        assert min(queue.received for queue in rig.engine.summary().queues) > 0
    queues = [[packet.data[34:] for packet in read_pcapng(path)] for path in sorted(tmp_path.iterdir())]
    assert sorted(data for queue in queues for data in queue) == sorted([*datagrams, *short])
    for flow in flows:
        assert [queue.count(datagrams[flow]) for queue in queues] == [queue.count(short[flow]) for queue in queues]


@pytest.mark.parametrize("fanout", ["hash", "cpu", "qm", "rnd"])
def test_every_fanout_gives_each_packet_to_one_queue(testbed, tmp_path, fanout):
    """The queues of a fanout group share the packets out: none is lost, none comes twice; the file is in time order."""
    bed = testbed(queues=4)
    path = tmp_path / "out.pcapng"
    with packet_rig(bed, path=path, fanout=fanout) as rig, Wire(bed.nics[0].outside) as wire:
        assert len(rig.source.queues) == 4
        wire.send(flow_frames(2000))
        rig.done(2000)
        rig.stop()
        check_identity(rig.engine, received=2000)
        assert rig.drops() == {}
        assert rig.application.writer.late == 0
        if fanout in ("hash", "rnd"):
            assert min(queue.received for queue in rig.engine.summary().queues) > 100
    found = read_pcapng(path)
    assert sorted(number_of(packet.data) for packet in found) == list(range(2000))
    timestamps = [packet.timestamp for packet in found]
    assert timestamps == sorted(timestamps)


def test_a_flow_stays_on_its_queue(testbed):
    """Fanout by hash keeps a flow's packets together."""
    bed = testbed(queues=4)
    with packet_rig(bed) as rig, Wire(bed.nics[0].outside) as wire:
        wire.send([synthetic.udp(60, source_port=4711)] * 200)
        rig.done(200)
        rig.stop()
        assert sorted(queue.received for queue in rig.engine.summary().queues) == [0, 0, 0, 200]


def test_a_filter_that_is_too_long_for_a_socket_runs_in_user_space(testbed, monkeypatch):
    """It wants the same packets, the others are counted as filtered out, and a line says so."""
    for module in (in_socket, af_packet):
        monkeypatch.setattr(module, "LONGEST_PROGRAM", 5)
    bed = testbed(queues=1)
    frames = [synthetic.udp(60, source_port=port) for port in (443, 4711, 443, 80)]
    with packet_rig(bed, filter="udp src port 443") as rig, Wire(bed.nics[0].outside) as wire:
        line = r"the filter has \d+ instructions and a socket takes 5: it runs in user space only"
        assert [bool(re.fullmatch(line, warning)) for warning in rig.source.warnings()] == [True]
        wire.send(frames)
        rig.done(2)
        rig.stop()
        check_identity(rig.engine, received=4)
        assert rig.engine.summary().total("filtered_out") == 2


@pytest.mark.parametrize("mode", ["basic", "advanced"])
def test_a_slow_handler_loses_by_name(testbed, mode):
    """Handlers that are slower than the traffic lose what the ring cannot hold; every packet is accounted for."""
    bed = testbed(queues=2)
    small = PoolConfig(64, 32)
    flows = flow_frames(12_000, 500) if mode == "basic" else [synthetic.udp(500, source_port=4711)] * 12_000
    sent = 0

    def burst():
        nonlocal sent
        wire.send(flows)
        sent += len(flows)
        return "pool_exhausted" in rig.drops()

    with packet_rig(bed, mode=mode, pool=small, handlers=["pkt_handler:rate=2000"]) as rig:
        with Wire(bed.nics[0].outside) as wire:
            until(burst)  # a machine that starves the capture thread all the time makes it late instead
        rig.stop()
        check_identity(rig.engine, received=sent)
        assert set(rig.drops()) <= {"pool_exhausted", "capture_late"}
        assert 0 < rig.delivered < sent
        if mode == "advanced":
            assert rig.engine.summary().total("offloaded") > 0


def test_a_trickle_does_not_use_up_the_ring(testbed):
    """Packets that come one by one do not take a block each, even while no handler takes any: none is lost."""
    bed = testbed(queues=1)
    with packet_rig(bed, pool=PoolConfig(64, 10), handlers=["pkt_handler:rate=1"]) as rig:
        blocks = int(rig.engine.pool.queues[w.BLOCKS])
        with Wire(bed.nics[0].outside) as wire:
            for frame in flow_frames(200):
                taken = int(rig.engine.pool.queues[w.NEXT])
                wire.send([frame])
                until(lambda taken=taken: rig.engine.pool.queues[w.NEXT] > taken)  # the kernel closes a block in time
        until(lambda: rig.engine.summary().total("received") == 200)
        assert rig.engine.pool.queues[w.NEXT] > 10 * blocks
        assert rig.drops() == {}
        rig.stop(give_up=True)
        check_identity(rig.engine, received=200)


@pytest.mark.parametrize(
    ("slots", "snaplen", "size", "block", "filter"),
    [(4096, 60, 60, 28, ""), (1024, 96, 100, 21, ""), (1024, 300, 1000, 20, "udp"), (512, 262_144, 2000, 62, "")],
)
def test_a_ring_of_so_many_slots(testbed, slots, snaplen, size, block, filter):
    """--ring N has room for N packets as long as -s keeps them, within a block, less what the kernel leaves free of a
    block that it passes on for its age: at most a block for each of its ticks while the ring fills.  Packets are cut to
    that length and no further."""
    bed = testbed(queues=1, mtu=3000)
    pool = PoolConfig(16, slots // 16)
    slow = ["pkt_handler:rate=4"]
    with packet_rig(bed, ring=slots, snaplen=snaplen, pool=pool, filter=filter, handlers=slow) as rig:
        block = block if not filter else 131_072 // 384  # tagged packets come whole, so that blocks have room for one
        frames = flow_frames(2 * slots, size)
        with Wire(bed.nics[0].outside) as wire:
            begin = time.monotonic()
            wire.send(frames[: slots + block])
            ticks = 1 + int(1000 * (time.monotonic() - begin) / SLOTS_RETIRE_MS)
            wire.send(frames[slots + block :])
        until(lambda: rig.engine.summary().total("received") == 2 * slots)
        kept = 2 * slots - sum(rig.drops().values())
        assert slots - ticks * (block - 1) <= kept <= slots + block
        captured = rig.engine.pool.captured
        assert set(captured[captured > 0]) == {min(size, snaplen)}
        rig.stop(give_up=True)
        check_identity(rig.engine, received=2 * slots)


def test_stop_in_the_middle_of_traffic(testbed):
    """A stop at full speed, orderly or in haste, accounts for every packet that reached the socket."""
    from wirecap.traffic.live_frames import LiveFrames

    bed = testbed(queues=2, gro=True)
    with LiveFrames(bed.nics[0].outside, synthetic.udp(60)) as sender:
        for give_up in (False, True, False):
            with packet_rig(bed) as rig:
                thread = threading.Thread(target=sender.send, args=(3_000_000,))
                thread.start()
                until(lambda rig=rig: rig.delivered > 10_000)
                rig.stop(give_up)
                check_identity(rig.engine)
                sender.stop()
                thread.join(30)


def test_a_refused_start_touches_no_file(testbed, tmp_path):
    """Where the interface cannot be bound any more, the file of an earlier capture keeps its bytes."""
    bed, path = testbed(queues=2), tmp_path / "out.pcapng"
    path.write_bytes(b"yesterday")
    rig = packet_rig(bed, path=path)
    subprocess.run(["ip", "-n", bed.name, "link", "del", bed.nics[0].inside], check=True, timeout=60)
    with pytest.raises(UsageError, match=bed.nics[0].inside):
        rig.__enter__()
    assert path.read_bytes() == b"yesterday"


def test_an_interface_that_goes_down_comes_back(testbed):
    """While its interface is down nothing comes; when it is up again the capture goes on."""
    bed = testbed(queues=1)
    nic = bed.nics[0]
    with packet_rig(bed) as rig, Wire(nic.outside) as wire:
        wire.send(flow_frames(100))
        rig.done(100)
        for state in ("down", "up"):
            command = ["ip", "-n", bed.name, "link", "set", nic.inside, state]
            subprocess.run(command, check=True, timeout=60)
            assert rig.engine.running()
        until(lambda: netlink.interface(nic.outside).state == "up")
        wire.send(flow_frames(50, first=100))
        rig.done(150)
        rig.stop()
        check_identity(rig.engine, received=150)


def test_a_deleted_interface_ends_the_capture(testbed):
    """When its interface goes away the capture ends by itself, with an error that names it and all packets kept."""
    bed = testbed(queues=2)
    nic = bed.nics[0]
    with packet_rig(bed) as rig:
        with Wire(nic.outside) as wire:
            wire.send(flow_frames(100))
        rig.done(100)
        subprocess.run(["ip", "link", "del", nic.outside], check=True, timeout=60)
        until(lambda: not rig.engine.running())
        rig.stop()
        check_identity(rig.engine, received=100)
        assert nic.inside in str(rig.engine.failure())


@pytest.mark.parametrize(("direction", "seen"), [("in", range(100)), ("out", range(100, 150)), ("inout", range(150))])
def test_directions(testbed, tmp_path, direction, seen):
    """-Q keeps what comes in, what goes out, or both."""
    bed = testbed(queues=1)
    path = tmp_path / "out.pcapng"
    with packet_rig(bed, path=path, direction=direction) as rig:
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(100))
        rig.done(sum(number < 100 for number in seen))  # what goes out would overtake what has not come in
        with netns.call(bed.name, Wire, bed.nics[0].inside) as wire:
            wire.send(flow_frames(50, first=100))
        rig.done(len(seen))
        rig.stop()
        check_identity(rig.engine, received=len(seen))
    assert [number_of(packet.data) for packet in read_pcapng(path)] == list(seen)


@pytest.mark.parametrize("source", [None, "any"])
def test_a_packets_direction_is_in_the_file(testbed, tmp_path, source):
    """epb_flags tell what came in, to this host, to all, to a group or to another host, and what went out."""
    bed = testbed(queues=1)
    path, sent = tmp_path / "out.pcapng", flow_frames(5)
    mine = netns.call(bed.name, netlink.interface, bed.nics[0].inside).mac
    kinds = [bytes.fromhex(text.replace(":", "")) for text in (mine, "ff" * 6, "01005e000001", "020000000099")]
    with packet_rig(bed, *([source] if source else []), path=path) as rig:
        with Wire(bed.nics[0].outside) as wire:
            wire.send(kind + frame[6:] for kind, frame in zip(kinds, sent[:4], strict=True))
        rig.done(4)
        with netns.call(bed.name, Wire, bed.nics[0].inside) as wire:
            wire.send(sent[4:])
        rig.done(5)
        rig.stop()
    command = ["tshark", "-r", str(path), "-T", "fields", "-e", "frame.packet_flags"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    expected = [0b00101, 0b01101, 0b01001, 0b10001, 0b00010]
    assert [int(flags, 16) for flags in told] == expected


@pytest.mark.parametrize(
    ("expression", "seen"),
    [
        ("inbound", range(100)),
        ("outbound and udp", range(100, 150)),
        ("ifindex {} and not inbound", range(100, 150)),
        ("ifindex {}", range(150)),
        ("(inbound and ether[49] & 1 = 0) or (outbound and ether[49] >= 140)", [*range(0, 100, 2), *range(140, 150)]),
    ],
)
def test_filters_that_ask_for_directions_and_interfaces(testbed, tmp_path, expression, seen):
    """They select the same packets, as -Q does for directions."""
    bed = testbed(queues=1)
    path = tmp_path / "out.pcapng"
    index = netns.call(bed.name, netlink.interface, bed.nics[0].inside).index
    with packet_rig(bed, path=path, filter=expression.format(index)) as rig:
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(100))
        rig.done(sum(number < 100 for number in seen))  # what goes out would overtake what has not come in
        with netns.call(bed.name, Wire, bed.nics[0].inside) as wire:
            wire.send(flow_frames(50, first=100))
        rig.done(len(seen))
        rig.stop()
        check_identity(rig.engine, received=len(seen))
    assert [number_of(packet.data) for packet in read_pcapng(path)] == list(seen)


def test_hints_for_filters_that_match_nothing(testbed):
    """The hint names -Q where that leaves nothing, and the interface where the filter names another."""
    bed = testbed(queues=1)
    nic = bed.nics[0].inside
    index = netns.call(bed.name, netlink.interface, nic).index
    for direction, expression, hint in (
        ("in", "outbound", "without -Q both directions are captured"),
        ("out", "inbound", "without -Q both directions are captured"),
        ("in", f"ifindex {index + 1000}", f"{nic} is interface {index}"),
        (None, f"ifindex {index + 1000} and inbound", f"{nic} is interface {index}"),
    ):
        with pytest.raises(UsageError, match="matches no packet") as error:
            wirecap.open(nic, engine="packet", netns=bed.name, direction=direction, filter=expression)
        assert error.value.hint == hint


def test_directions_of_tagged_packets(testbed, tmp_path):
    """A packet whose VLAN tag the kernel keeps apart has its direction all the same."""
    bed = testbed(queues=1)
    path = tmp_path / "out.pcapng"
    tagged = [frame[:12] + b"\x81\x00\x00\x05" + frame[12:] for frame in flow_frames(4)]
    with packet_rig(bed, path=path, filter="vlan 5 and (inbound or ether[53] = 3)") as rig:
        with netns.call(bed.name, Wire, bed.nics[0].inside) as wire:
            wire.send(tagged[2:])
        with Wire(bed.nics[0].outside) as wire:
            wire.send(tagged[:2])
        rig.done(3)
        rig.stop()
    assert {packet.data for packet in read_pcapng(path)} == {tagged[0], tagged[1], tagged[3]}


def test_links_of_several_types_take_a_filter(testbed):
    """Ethernet beside the cooked packets of 'any': the filter is compiled for each."""
    bed = testbed(queues=1)
    with packet_rig(bed, bed.nics[0].inside, "any", filter="udp src port 443") as rig:
        with Wire(bed.nics[0].outside) as wire:
            wire.send([synthetic.udp(60, source_port=port) for port in (443, 80, 443, 443)])
        rig.done(6)
        rig.stop()
        assert [queue.delivered for queue in rig.engine.summary().queues] == [3, 3]


def test_queues_are_not_the_nics(testbed):
    """A selection of the NIC's queues is refused, in words that say what can be had."""
    bed = testbed(queues=4)
    with pytest.raises(UsageError, match="queues are not the NIC's, and are numbered from 0") as refusal:
        packet_rig(bed, f"{bed.nics[0].inside}@1-2")
    assert "@0-1" in refusal.value.hint


def test_captures_side_by_side(testbed):
    """Two captures on one interface, each with a fanout group: both have every packet."""
    bed = testbed(queues=2)
    with packet_rig(bed) as one, packet_rig(bed) as other, Wire(bed.nics[0].outside) as wire:
        wire.send(flow_frames(500))
        for rig in (one, other):
            rig.done(500)
            rig.stop()
            check_identity(rig.engine, received=500)


@pytest.mark.parametrize("promiscuous", [True, False])
def test_promiscuous_mode(testbed, promiscuous):
    """An interface is promiscuous as long as the capture runs; -p leaves it as it is."""
    bed = testbed(queues=1)

    def users():
        return netns.call(bed.name, netlink.interface, bed.nics[0].inside).promiscuity

    with packet_rig(bed, promiscuous=promiscuous):
        assert users() == promiscuous
    assert users() == 0


@pytest.mark.parametrize(("config", "says"), [({"engine": "xdp"}, "'any'"), ({"engine": "packet"}, "at most 256")])
def test_any_and_large_groups(testbed, config, says):
    """AF_XDP has no interface 'any'; a fanout group has no more members than the kernel lets it have."""
    with pytest.raises(UsageError, match=says):
        LiveRig(testbed(queues=1), "any@0-299", **config)


def test_a_nic_without_a_clock_is_refused(testbed):
    """-j adapter_unsynced takes a NIC that timestamps packets; a veth cannot."""
    bed = testbed(queues=1)
    with pytest.raises(UsageError, match="cannot timestamp every packet") as refusal:
        packet_rig(bed, time_stamps="adapter_unsynced")
    assert "ethtool -T" in refusal.value.hint


@pytest.mark.parametrize("orderly", [False, True])
def test_a_program_that_is_behind_can_end(testbed, orderly):
    """With every slot in the program's hands close() and stop() come back; what stop() leaves the loop still gets."""
    bed = testbed(queues=1)
    nic = bed.nics[0]
    with (
        Wire(nic.outside) as wire,
        wirecap.open(nic.inside, engine="packet", netns=bed.name, M=16, R=8) as capture,
    ):
        wire.send(flow_frames(1))
        chunks = iter(capture)
        found = len(next(chunks))
        wire.send(flow_frames(3000, first=1))
        until(lambda: capture.engine.pool.queues[k.FREE_SLOTS] == 0)
        if orderly:
            capture.stop()
            found += sum(len(chunk) for chunk in chunks)
    packets = capture.summary()["packets"]
    assert packets["delivered"] == found
    assert packets["received"] == found + packets["dropped"]
    assert "unaccounted" not in packets["drops"]
    assert ("unread_at_stop" in packets["drops"]) != orderly
