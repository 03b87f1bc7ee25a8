"""Packets that take several cells, on veth NICs: they arrive whole, as one packet each."""

from __future__ import annotations

import random
import socket
import struct
import subprocess

import pytest

import wirecap
from rig import LiveRig, Wire, check_identity, flow_frames, on_one_cpu, read_pcap, read_pcapng
from wirecap.config.capture import PoolConfig, WriteConfig
from wirecap.linux import af_xdp, ethtool

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not af_xdp.joins_cells(), reason="this kernel has no packets of several cells (Linux 6.6)"),
]


def write_to(path):
    return WriteConfig(path=str(path))


def large_frames(count, most, seed=1):
    """Frames of all lengths up to ``most``, short ones among them, with random payload."""
    lengths = random.Random(seed)
    frames = []
    for number in range(count):
        size = lengths.choice([60, 1514, 1792, 1793, 3584, 3585, lengths.randrange(60, most), most])
        frames.append(flow_frames(1, min(size, most), first=number)[0][:50] + lengths.randbytes(min(size, most) - 50))
    return frames


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("cell", [2048, 4096])
def test_jumbo_frames_arrive_whole(testbed, tmp_path, mode, cell):
    """Each byte of each frame, once, in order of time, over several queues."""
    bed = testbed(queues=2, mtu=9000)
    sent = large_frames(600, 9014)
    path = tmp_path / "out.pcapng"
    with LiveRig(bed, write=write_to(path), xdp_mode=mode, pool=PoolConfig(64, 40, cell)) as rig:
        with Wire(bed.nics[0].outside) as wire:
            wire.send(sent)
        rig.done(len(sent))
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        assert rig.drops() == {}
        assert rig.engine.summary().total("received_bytes") == sum(map(len, sent))
        assert rig.source.describe()["xdp_mode"] == mode
    found = read_pcapng(path)
    assert sorted(packet.data for packet in found) == sorted(sent)
    timestamps = [packet.timestamp for packet in found]
    assert timestamps == sorted(timestamps) or rig.application.writer.late


def test_a_larger_mtu_later(testbed):
    """What an interface lets in after its MTU was raised arrives whole, too."""
    bed = testbed(queues=1)
    nic = bed.nics[0]
    with LiveRig(bed) as rig, Wire(nic.outside) as wire:
        wire.send(large_frames(10, 1514))
        for place, end in ([], nic.outside), (["-n", bed.name], nic.inside):
            subprocess.run(["ip", *place, "link", "set", end, "mtu", "3400"], check=True, timeout=60)
        wire.send(large_frames(200, 3414))
        rig.done(210)
        rig.stop()
        check_identity(rig.engine, received=210)
        assert rig.drops() == {}


PACKET_VNET_HDR = 15  # linux/if_packet.h


def send_segment(interface, payload, mss=1448):
    """Send one TCP segment that is left to the device to cut, as a local stack does; returns its frame."""
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 1, 0, 64, 6, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    )
    tcp = struct.pack(">HHIIBBHHH", 4000, 5000, 1, 1, 0x50, 0x18, 65535, 0, 0)
    frame = b"\x02\0\0\0\0\1\x02\0\0\0\0\2\x08\0" + ip + tcp + payload
    needs_checksum, tcp4 = 1, 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4
    header = struct.pack("<BBHHHH", needs_checksum, tcp4, 54, mss, 34, 16)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.setsockopt(263, PACKET_VNET_HDR, 1)
        sender.bind((interface, 0))
        sender.send(header + frame)
    return frame


@pytest.mark.parametrize("cell", [2048, 4096])
def test_merged_segments_arrive_whole(testbed, tmp_path, cell):
    """The generic hook gets segments of 64 KiB that a local sender leaves to its device, at any MTU."""
    bed = testbed(queues=1)
    offloads = ("tx-scatter-gather", "tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-generic-segmentation")
    ethtool.set_features(bed.nics[0].outside, dict.fromkeys(offloads, True))
    path = tmp_path / "out.pcapng"
    with LiveRig(bed, write=write_to(path), xdp_mode="generic", pool=PoolConfig(64, 40, cell)) as rig:
        bytes_of = random.Random(5).randbytes
        with on_one_cpu():
            sent = [send_segment(bed.nics[0].outside, bytes_of(size)) for size in (65_000, 100, 5000, 1448, 40_000) * 4]
        rig.done(len(sent))
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        assert rig.drops() == {}
    assert [packet.data for packet in read_pcapng(path)] == sent


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("len > 4000", lambda frame: len(frame) > 4000),
        ("ether[5000:4] & 1 = 1", lambda frame: len(frame) >= 5004 and frame[5003] & 1),
        ("ether[3510:2] > 0x7fff and udp", lambda frame: len(frame) >= 3512 and frame[3510] > 0x7F),
        ("udp port 1030", lambda frame: frame[34:36] == (1030).to_bytes(2, "big")),
    ],
)
def test_filters_in_the_kernel_see_all_of_a_packet(testbed, mode, expression, wanted):
    """A filter inside the XDP program reads behind a packet's first fragment, and knows its whole length."""
    bed = testbed(queues=1, mtu=9000)
    sent = large_frames(300, 9014)
    with LiveRig(bed, xdp_mode=mode, filter=expression, kernel_filter="drop") as rig:
        with Wire(bed.nics[0].outside) as wire:
            wire.send(sent)
        rig.done(len(sent))
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        assert rig.delivered == sum(1 for frame in sent if wanted(frame)) > 0
        assert rig.drops() == {}


@pytest.mark.parametrize("engine", ["xdp", "direct"])
def test_filtered_cut_and_offloaded(testbed, tmp_path, engine):
    """User-space filters, ``-s`` and buddies treat a large packet as any other."""
    bed = testbed(queues=2, mtu=9000)
    sent = large_frames(400, 9014)
    wanted = sorted(frame for frame in sent if len(frame) > 1514)
    path = tmp_path / "out.pcap"
    write = WriteConfig(path=str(path), format="pcap", snaplen=3000)
    shape = {"mode": "advanced", "T": 1, "pool": PoolConfig(8, 100)} if engine == "xdp" else {"ring": 1024}
    with LiveRig(bed, write=write, engine=engine, filter="greater 1515", **shape) as rig:
        with Wire(bed.nics[0].outside) as wire:
            for frame in sent:
                wire.send([frame])
                rig.done(1)
        rig.done(len(sent))
        rig.stop()
        check_identity(rig.engine, received=len(sent))
        assert rig.drops() == {}
    found = read_pcap(path)
    assert sorted(packet.data for packet in found) == sorted(frame[:3000] for frame in wanted)
    assert sorted(packet.original for packet in found) == sorted(map(len, wanted))


def test_chunks_in_python_have_whole_packets(testbed):
    """The Python interface shows each packet in one piece, by views and by its arrays."""
    bed = testbed(queues=1, mtu=9000)
    sent, found, lengths = large_frames(50, 9014), [], []
    with wirecap.open(bed.nics[0].inside, netns=bed.name, count=len(sent)) as capture:
        with Wire(bed.nics[0].outside) as wire:
            wire.send(sent)
        for chunk in capture:
            found += [bytes(packet) for packet in chunk]
            lengths += chunk.original_lengths.tolist()
            places = zip(chunk.offsets, chunk.lengths, strict=True)
            assert [bytes(chunk.arena[at : at + length]) for at, length in places] == [bytes(one) for one in chunk]
    assert found == sent
    assert lengths == list(map(len, sent))
