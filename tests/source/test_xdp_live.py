"""The AF_XDP source on veth NICs: what arrives, from which queue, when, and what becomes of the rest."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

import wirecap
from rig import LiveRig, Wire, check_identity, flow_frames, number_of, read_pcapng, until
from wirecap.config.capture import WriteConfig
from wirecap.errors import UsageError
from wirecap.files.reader import open_capture
from wirecap.kernels.xdp import rings as r
from wirecap.lab import testbed as lab
from wirecap.linux import af_xdp, asm, bpf, ethtool, netdev, netlink, netns
from wirecap.source import xdp as xdp_source
from wirecap.source.nics import Shortcoming, told
from wirecap.source.xdp import Nic, XdpSource
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

pytestmark = pytest.mark.live

MS = 1_000_000
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


def write_to(path):
    return WriteConfig(path=str(path))


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("threads", [None, 1])
def test_frames_arrive_whole_and_in_order(testbed, tmp_path, mode, threads):
    """Frames of every size and of many flows over four queues: the same bytes, once each, in time order."""
    bed = testbed(queues=4, mtu=1600)
    sent = [frame for size in (60, 61, 333, 1514) for frame in flow_frames(500, size, first=size * 1000)]
    path = tmp_path / "out.pcapng"
    with LiveRig(bed, write=write_to(path), xdp_mode=mode, capture_threads=threads) as rig:
        stamps = {"type": "host", "read_for": "group", "resolution_ns": 5000}
        if mode == "generic":
            stamps |= {"read_for": "packet", "resolution_ns": 1}
        assert rig.source.describe() == {"xdp_mode": mode, "zero_copy": False, "time_stamps": stamps}
        with Wire(bed.nics[0].outside) as wire:
            wire.send(sent)
        rig.done(len(sent))
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        assert rig.drops() == {}
        assert sum(queue.received > 0 for queue in rig.engine.summary().queues) > 1
        assert rig.engine.summary().total("received_bytes") == sum(map(len, sent))
    found = read_pcapng(path)
    assert sorted(packet.data for packet in found) == sorted(sent)
    timestamps = [packet.timestamp for packet in found]
    assert timestamps == sorted(timestamps)
    with open_capture(str(path)) as file:  # as tcpdump's: it refuses a file whose interfaces have several
        assert {interface.snaplen for interface in file.interfaces} == {262_144}


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_stop_in_the_middle_of_traffic(testbed, mode):
    """A stop at full speed, orderly or in haste, accounts for every packet that reached the hook."""
    bed = testbed(queues=2, gro=mode == "generic")
    with LiveFrames(bed.nics[0].outside, synthetic.udp(60)) as sender:
        for give_up in (False, True, False):
            with LiveRig(bed, xdp_mode=mode) as rig:
                thread = threading.Thread(target=sender.send, args=(3_000_000,))
                thread.start()
                until(lambda rig=rig: rig.delivered > 10_000)
                rig.stop(give_up)
                check_identity(rig.engine)
                sender.stop()
                thread.join(30)


@pytest.mark.parametrize("clock", ["tai", "monotonic"])
def test_timestamps_are_utc(testbed, tmp_path, clock):
    """Timestamps by either kernel clock lie between the sending and the receiving, in UTC, in order."""
    check_timestamps(testbed(queues=2), tmp_path / "out.pcapng", clock)


def test_timestamps_after_the_kernel_refused_what_was_admitted(testbed, tmp_path, monkeypatch):
    """Once the kernel refuses a packet that the program let through, the capture thread gives the time."""
    room = xdp_source.HEADROOM_BYTES - 100  # the program believes that 100 bytes more fit a cell
    monkeypatch.setattr(xdp_source, "HEADROOM_BYTES", room)
    monkeypatch.setattr(af_xdp, "joins_cells", lambda: False)
    bed = testbed(queues=1, mtu=3000)
    with LiveRig(bed, write=write_to(tmp_path / "out.pcapng"), engine="xdp") as rig, Wire(bed.nics[0].outside) as wire:
        wire.send(flow_frames(1, 1850))
        until(lambda: rig.engine.source._sockets[0].statistics().rx_dropped == 1)
        rig.engine.source.check()
        before = time.time_ns()
        wire.send(flow_frames(100))
        rig.done(100)
        after = time.time_ns()
        rig.stop()
    assert all(before - 5 * MS <= packet.timestamp <= after + 5 * MS for packet in read_pcapng(tmp_path / "out.pcapng"))


def test_timestamps_by_the_capture_thread(testbed, tmp_path):
    """With no clock in the XDP program all packets that are found together get the capture thread's time."""
    check_timestamps(testbed(queues=2), tmp_path / "out.pcapng", "none", unstamped=True)
    assert len({packet.timestamp for packet in read_pcapng(tmp_path / "out.pcapng")}) < 500


def check_timestamps(bed, path, clock, unstamped=False):
    """Each packet's timestamp lies within 5 ms of the time in which it was sent and taken."""
    inside = bed.nics[0].inside
    index = netns.call(bed.name, netlink.interface, inside).index
    source = netns.call(bed.name, XdpSource, [Nic(inside, index, 2, (0, 1))], 25_600, use_clock=clock)
    times = []
    with LiveRig(bed, source=source, write=write_to(path)) as rig, Wire(bed.nics[0].outside) as wire:
        for number in range(5):
            before = time.time_ns()
            wire.send(flow_frames(100, first=number * 100))
            rig.done((number + 1) * 100)
            times.append((before, time.time_ns()))
        rig.stop()
        check_identity(rig.engine, received=500)
        assert rig.engine.pool.queues[r.NO_TIMESTAMPS] == unstamped
        assert rig.application.writer.late == 0
    found = read_pcapng(path)
    assert sorted(number_of(packet.data) for packet in found) == list(range(500))
    for packet in found:
        before, after = times[number_of(packet.data) // 100]
        assert before - 5 * MS <= packet.timestamp <= after + 5 * MS


def test_frames_longer_than_a_cell_are_named(testbed, monkeypatch):
    """Where the kernel does not put a frame into several cells, what does not fit one is dropped as oversize."""
    monkeypatch.setattr(af_xdp, "joins_cells", lambda: False)
    bed = testbed(queues=1, mtu=3000)
    fits, too_long = flow_frames(20, 1792), flow_frames(30, 1793)
    for cell, oversize in ((2048, 30), (4096, 0)):
        with (
            LiveRig(bed, pool=wirecap.config.capture.PoolConfig(64, 10, cell), engine="xdp") as rig,
            Wire(bed.nics[0].outside) as wire,
        ):
            wire.send(fits[:10] + too_long + fits[10:])
            rig.done(50)
            rig.stop()
            check_identity(rig.engine, received=50)
            assert rig.drops() == ({"oversize": oversize} if oversize else {})
            assert rig.delivered == 50 - oversize


def test_two_nics_in_one_capture(testbed, tmp_path):
    """Packets of two NICs go through one pool into one file, each under its interface."""
    bed = testbed(queues=2, nics=2)
    path = tmp_path / "out.pcapng"
    with LiveRig(bed, *(nic.inside for nic in bed.nics), write=write_to(path)) as rig:
        with Wire(bed.nics[0].outside) as one, Wire(bed.nics[1].outside) as two:
            for number in range(200):
                one.send(flow_frames(1, first=number))
                two.send(flow_frames(2, first=1000 + 2 * number))
        rig.done(600)
        rig.stop()
        check_identity(rig.engine, received=600)
        counts = rig.engine.summary().queues
    assert [(q.interface, q.queue) for q in counts] == [(nic.inside, queue) for nic in bed.nics for queue in (0, 1)]
    assert [counts[0].received + counts[1].received, counts[2].received + counts[3].received] == [200, 400]
    found = read_pcapng(path)
    for interface, numbers in ((0, range(200)), (1, range(1000, 1400))):
        assert sorted(number_of(p.data) for p in found if p.interface == interface) == list(numbers)
    timestamps = [packet.timestamp for packet in found]
    assert timestamps == sorted(timestamps)


@pytest.mark.parametrize("kernel_filter", [None, "drop"])
def test_filters_that_ask_for_directions_and_interfaces(testbed, kernel_filter):
    """All packets are incoming ones, and each NIC has its index, in the threads' filter as in the kernel's."""
    bed = testbed(queues=1, nics=2)
    index = netns.call(bed.name, netlink.interface, bed.nics[1].inside).index
    names = [nic.inside for nic in bed.nics]
    wanted = f"inbound and (ifindex {index} or udp src port 443)"
    with LiveRig(bed, *names, filter=wanted, kernel_filter=kernel_filter) as rig:
        for nic in bed.nics:
            with Wire(nic.outside) as wire:
                wire.send([synthetic.udp(60, source_port=port) for port in (443, 80, 80)])
        rig.done(6)
        rig.stop()
        check_identity(rig.engine, received=6)
        assert [queue.delivered for queue in rig.engine.summary().queues] == [1, 3]
    first = netns.call(bed.name, netlink.interface, names[0]).index
    for name, only, hint in (
        (names, "outbound", "AF_XDP sees incoming packets only, --engine packet both"),
        (names[:1], f"ifindex {index}", f"{names[0]} is interface {first}"),
    ):
        with pytest.raises(UsageError, match="matches no packet") as error:
            wirecap.open(name, engine="xdp", netns=bed.name, filter=only, kernel_filter=kernel_filter)
        assert error.value.hint == hint


def test_other_queues_stay_the_hosts(testbed, tmp_path):
    """-i X0@0-1 captures two queues of four; the host gets every packet of the others, and none of these."""
    bed = testbed(queues=4)
    inside = bed.nics[0].inside
    host = netns.call(bed.name, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    host.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)  # Linux 6.1 counts a page for each packet
    host.bind((inside, 0x0800))
    host.setblocking(False)
    path = tmp_path / "out.pcapng"
    with host, LiveRig(bed, f"{inside}@0-1", write=write_to(path)) as rig, Wire(bed.nics[0].outside) as wire:
        seen = []

        def all_are_there():
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen.append(number_of(host.recv(2048)))
            return len(seen) + rig.engine.summary().total("received") == 400

        wire.send(flow_frames(400))
        until(all_are_there)
        rig.stop()
        check_identity(rig.engine, received=400 - len(seen))
    captured = [number_of(packet.data) for packet in read_pcapng(path)]
    assert len(captured) == 400 - len(seen)
    assert min(len(captured), len(seen)) > 50
    assert sorted(captured + seen) == list(range(400))


def test_one_nic_in_two_parts(testbed):
    """Queues of one NIC may be named one by one; a queue that is named twice is refused."""
    bed = testbed(queues=4)
    inside = bed.nics[0].inside
    with LiveRig(bed, f"{inside}@3", f"{inside}@0-1") as rig, Wire(bed.nics[0].outside) as wire:
        assert [place.queue for place in rig.source.queues] == [3, 0, 1]
        wire.send(flow_frames(400))
        until(lambda: min(queue.received for queue in rig.engine.summary().queues) > 20)
        rig.stop()
        check_identity(rig.engine)
    with pytest.raises(wirecap.UsageError, match="twice"):
        LiveRig(bed, f"{inside}@3", f"{inside}@0-3")


def test_tags_that_the_nic_takes_out_are_told(testbed, monkeypatch):
    """Where the interface takes VLAN tags out of packets and tells no program, the capture says so at its start."""
    monkeypatch.setattr(netdev, "features", lambda index: netdev.Features())
    bed = testbed(queues=1)
    inside = bed.nics[0].inside
    for stripping in (False, True):
        netns.call(bed.name, ethtool.set_features, inside, {"rx-vlan-hw-parse": stripping})
        with LiveRig(bed) as rig:
            warned = netns.call(bed.name, rig.source.warnings)
        assert len(warned) == stripping
        assert all("VLAN" in line and inside in line and len(line) < 165 for line in warned)


def test_what_several_interfaces_lack_is_one_line():
    """Two ends of a forwarder that strip VLAN tags alike share a line, and the remedy names neither."""
    stripped = Shortcoming("VLAN tags", "{}: stripped", "ethtool -K {} rxvlan off")
    assert told([("eth1", stripped)]) == ["eth1: stripped (ethtool -K eth1 rxvlan off)"]
    assert told([("eth1", stripped), ("eth2", stripped)]) == [
        "eth1 and eth2: stripped (ethtool -K INTERFACE rxvlan off)"
    ]


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_tags_and_foreign_addresses(testbed, tmp_path, mode):
    """VLAN and double tags stay in the frame; frames for other stations come in, while the capture runs."""
    bed = testbed(queues=2)
    plain = flow_frames(60)
    sent = [
        frame[:12] + tag + frame[12:]
        for frame, tag in zip(plain, [b"\x81\0\0\5", b"\x88\xa8\0\5\x81\0\0\7"] * 30, strict=True)
    ]
    sent += [bytes.fromhex("0200000000ff") + frame[6:] for frame in plain]

    def promiscuity():
        return netns.call(bed.name, netlink.interface, bed.nics[0].inside).promiscuity

    path = tmp_path / "out.pcapng"
    with LiveRig(bed, write=write_to(path), xdp_mode=mode) as rig, Wire(bed.nics[0].outside) as wire:
        assert promiscuity() == 1
        wire.send(sent)
        rig.done(len(sent))
        rig.stop()
        check_identity(rig.engine, received=len(sent))
    assert promiscuity() == 0
    assert sorted(packet.data for packet in read_pcapng(path)) == sorted(sent)


@pytest.mark.parametrize("writing", [False, True])
def test_waiting_costs_next_to_nothing(testbed, tmp_path, writing):
    """Without packets no thread spins: under 2 % of a CPU for the whole capture."""
    bed = testbed(queues=2)
    with LiveRig(bed, write=write_to(tmp_path / "out") if writing else None):
        until(lambda: cpu_share(1) < 0.02)


def cpu_share(seconds):
    """Of this process, of one CPU, in about so long: the machine's own work is counted with it now and then."""
    begun, before = time.monotonic(), time.process_time()
    time.sleep(seconds)
    return (time.process_time() - before) / (time.monotonic() - begun)


def set_link(bed, interface, **change):
    from pyroute2 import IPRoute

    def change_it():
        with IPRoute() as route:
            route.link("del" if change.get("gone") else "set", index=route.link_lookup(ifname=interface)[0],
                       **({} if change.get("gone") else change))  # fmt: skip

    netns.call(bed.name, change_it)


def test_interface_that_goes_down_and_up_again(testbed):
    """Down is silence, not the end: what comes after it is up again is captured too, and all is accounted for."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    with LiveRig(bed) as rig, Wire(bed.nics[0].outside) as wire:
        wire.send(flow_frames(100))
        rig.done(100)
        set_link(bed, inside, state="down")
        assert rig.engine.running()
        set_link(bed, inside, state="up")
        until(lambda: netlink.interface(bed.nics[0].outside).state == "up")
        wire.send(flow_frames(100))
        rig.done(200)
        rig.stop()
        check_identity(rig.engine, received=200)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_interface_that_is_deleted(testbed, tmp_path, mode):
    """The capture ends by itself with one sentence; what was captured before is in the file."""
    bed = testbed(queues=2)
    path = tmp_path / "out.pcapng"
    with LiveRig(bed, write=write_to(path), xdp_mode=mode) as rig, Wire(bed.nics[0].outside) as wire:
        wire.send(flow_frames(100))
        rig.done(100)
        set_link(bed, bed.nics[0].inside, gone=True)
        until(lambda: not rig.engine.running())
        until(lambda: cpu_share(0.3) < 0.6)  # no thread spins
        rig.stop()
        check_identity(rig.engine, received=100)
        assert bed.nics[0].inside in str(rig.engine.failure())
    assert sorted(number_of(packet.data) for packet in read_pcapng(path)) == list(range(100))


@pytest.mark.parametrize(("packets", "whole"), [(25_600, True), (40_000, False)])
def test_burst_at_full_speed_into_a_slow_handler(testbed, packets, whole):
    """(256, 100) and 38,844 packets a second: a burst of R x M is captured whole, of a longer one the rest is named."""
    bed = testbed(queues=1)
    # all cells are attached, so that a capture thread without a CPU loses nothing
    with LiveRig(bed, handlers=["pkt_handler:rate=38844"], ring=25_600) as rig:
        with LiveFrames(bed.nics[0].outside, synthetic.udp(60)) as sender:
            start, sent = time.monotonic(), 0
            while sent < packets:  # what the veth's own queue has no room for is not taken
                sent += sender.send(packets - sent)
            took_s = time.monotonic() - start
        rig.done(packets)
        rig.stop()
        check_identity(rig.engine, received=packets)
        drops = rig.drops()
        if whole:
            assert drops == {}
        else:
            assert set(drops) == {"pool_exhausted"}
            lost = packets - 25_600
            assert lost - 38_844 * took_s - 2 * 256 <= drops["pool_exhausted"] <= lost


def test_queue_that_somebody_has(testbed):
    """A second capture of an interface is refused with the reason; the first goes on."""
    bed = testbed(queues=2)
    with LiveRig(bed) as rig:
        second = LiveRig(bed)
        with pytest.raises(wirecap.UsageError, match="stop its owner") as refused:
            second.__enter__()
        assert bed.nics[0].inside in str(refused.value)
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(50))
        rig.done(50)
        rig.stop()
        check_identity(rig.engine, received=50)
    assert netns.call(bed.name, netlink.interface, bed.nics[0].inside).xdp_mode == ""


@pytest.mark.parametrize("refusal", ["another program", "gone"])
def test_a_refused_start_touches_no_file(testbed, tmp_path, refusal):
    """Where the interface cannot be taken, the file of an earlier capture keeps its bytes; another program stays."""
    bed = testbed(queues=2)
    inside, path = bed.nics[0].inside, tmp_path / "out.pcapng"
    path.write_bytes(b"yesterday")
    rig = LiveRig(bed, write=write_to(path))
    index = netns.call(bed.name, netlink.interface, inside).index
    if refusal == "another program":
        program = bpf.Program(asm.assemble([("mov_imm", 0, 0, 0, bpf.XDP_PASS), ("exit", 0, 0, 0, 0)]), "other")
        link = netns.call(bed.name, program.attach, index, bpf.XDP_SKB_MODE)
    elif refusal == "gone":
        set_link(bed, inside, gone=True)
    reason = {"another program": "another XDP program is already attached", "gone": inside}[refusal]
    with pytest.raises(wirecap.UsageError, match=reason) as refused:
        rig.__enter__()
    assert path.read_bytes() == b"yesterday"
    if refusal == "another program":
        assert "run this as root, outside the container" in refused.value.hint  # it is ours: no other process has it
        assert link.ifindex() == index
        link.close()


def test_interface_by_python(testbed):
    """wirecap.open on two NICs: chunks with their interface and queue, and a summary."""
    bed = testbed(queues=2, nics=2)
    names = [nic.inside for nic in bed.nics]
    found = {name: [] for name in names}
    with wirecap.open([names[0], f"{names[1]}@1"], netns=bed.name, M=16, R=32) as capture:
        with Wire(bed.nics[0].outside) as one, Wire(bed.nics[1].outside) as two:
            one.send(flow_frames(100))
            two.send(flow_frames(100, first=100))
        until(lambda: min(lab.received(name, bed.name) for name in names) == 100)
        capture.stop()
        for chunk in capture:
            assert chunk.interface != names[1] or chunk.queue == 1
            found[chunk.interface].extend(number_of(bytes(packet)) for packet in chunk)
    assert sorted(found[names[0]]) == list(range(100))
    assert 0 < len(found[names[1]]) < 100
    summary = capture.summary()
    assert summary["packets"]["received"] == summary["packets"]["delivered"] == sum(map(len, found.values()))
    assert [(row["interface"], row["queue"]) for row in summary["per_queue"]] == [
        (names[0], 0), (names[0], 1), (names[1], 1),
    ]  # fmt: skip
