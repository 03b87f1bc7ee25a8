"""What a NIC's driver tells of a packet beside its bytes: VLAN tags that were taken out, and the NIC's own time."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import wirecap
from rig import LiveRig, Wire, check_identity, flow_frames, read_pcapng, until
from wirecap.config.capture import WriteConfig
from wirecap.config.specs import QueueSpec
from wirecap.engine.chunk import Chunk
from wirecap.errors import SystemCallError, UsageError
from wirecap.handlers.state import plain
from wirecap.lab.testbed import Testbed
from wirecap.linux import bpf, ethtool, metadata, netlink, netns
from wirecap.linux.asm import Insn, assemble
from wirecap.linux.metadata import HASH, TAG, TIME, Metadata
from wirecap.source import choose
from wirecap.source.nics import Nic
from wirecap.source.xdp import XdpSource
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

pytestmark = pytest.mark.live
Make = Callable[..., Testbed]
TAGS = {0x8100: b"\x81\x00\x60\x05", 0x88A8: b"\x88\xa8\x60\x05"}
"""Priority 3, number 5."""
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SCHED_CLS, TCX_EGRESS, SKB_VLAN_PUSH = 3, 47, 18  # linux/bpf.h


@contextmanager
def tagging(interface: str, kind: int) -> Iterator[None]:
    """What is sent meanwhile gets a tag, which is left to the device: as a VLAN interface does it."""
    code: list[Insn] = [
        ("mov_imm", 2, 0, 0, socket.htons(kind)),
        ("mov_imm", 3, 0, 0, 0x6005),
        ("call", 0, 0, 0, SKB_VLAN_PUSH),
        ("mov_imm", 0, 0, 0, -1),
        ("exit", 0, 0, 0, 0),
    ]
    program = bpf.Program(assemble(code), kind=SCHED_CLS)
    attributes = struct.pack("<IIII", program.fd, netlink.index_of(interface), TCX_EGRESS, 0)
    link = bpf.Link(bpf._bpf(bpf.LINK_CREATE, attributes, "cannot attach the program"))
    try:
        yield
    finally:
        link.close()
        program.close()


@pytest.fixture
def tagged(testbed: Make) -> Callable[..., Testbed]:
    """A testbed whose sender leaves tags to its device."""

    def make(**shape: int) -> Testbed:
        bed = testbed(**shape)
        outside, inside = bed.nics[0].outside, bed.nics[0].inside
        if not needed(bed, TAG):
            pytest.skip("this kernel's veth tells no program of tags")
        ethtool.set_features(outside, {"tx-vlan-hw-insert": True, "tx-vlan-stag-hw-insert": True})
        netns.call(bed.name, ethtool.set_features, inside, {"rx-vlan-hw-parse": True, "rx-vlan-stag-hw-parse": True})
        return bed

    return make


def needed(bed: Testbed, name: str) -> bool:
    """Whether the testbed's NICs tell it, and the kernel lets programs ask."""

    def offered() -> bool:
        there = name in metadata.offered(netlink.index_of(bed.nics[0].inside))
        return there and bool(metadata.metadata(True, True, True))

    return bool(netns.call(bed.name, offered))


def send(bed: Testbed, frames: list[bytes]) -> list[bytes]:
    """Send them with each tag, and without one; returns what must arrive."""
    outside = bed.nics[0].outside
    expected = list(frames)
    with Wire(outside) as wire:
        wire.send(frames)
    for kind, tag in TAGS.items():
        with tagging(outside, kind), Wire(outside) as wire:
            wire.send(frames)
        expected += [frame[:12] + tag + frame[12:] for frame in frames]
    return sorted(expected)


@pytest.mark.parametrize("engine", ["xdp", "direct", "packet"])
def test_tags_are_put_back(tagged: Make, tmp_path: Path, engine: str) -> None:
    """Frames of every size have the bytes that they had on the wire, whichever engine captures them."""
    bed, path = tagged(queues=2), tmp_path / "out.pcapng"
    frames = [frame for size in (60, 61, 1500, 1514) for frame in flow_frames(50, size)]
    with LiveRig(bed, write=WriteConfig(path=str(path)), engine=engine) as rig:
        assert netns.call(bed.name, rig.source.warnings) == []
        expected = send(bed, frames)
        rig.done(len(expected))
        rig.stop()
        check_identity(rig.engine, received=len(expected))
        if engine != "packet":  # which counts what its filter let in, in the kernel's lengths
            assert rig.engine.summary().total("received_bytes") == sum(map(len, expected))
    assert sorted(packet.data for packet in read_pcapng(path)) == expected


def test_tags_of_long_frames(tagged: Make, tmp_path: Path) -> None:
    """A frame of several cells gets its tag back before it is measured: it may take one more."""
    bed, path = tagged(queues=2, mtu=9000), tmp_path / "out.pcapng"
    frames = [frame for size in (60, 1788, 1790, 1792, 3584, 9014) for frame in flow_frames(20, size)]
    with LiveRig(bed, write=WriteConfig(path=str(path)), engine="xdp") as rig:
        expected = send(bed, frames)
        rig.done(len(expected))
        rig.stop()
        check_identity(rig.engine, received=len(expected))
    assert sorted(packet.data for packet in read_pcapng(path)) == expected


def test_a_filter_in_the_kernel_sees_tags(tagged: Make, tmp_path: Path) -> None:
    """It accepts by them; the host gets what it rejects as it came, with the tag beside the frame and not twice."""
    bed, path = tagged(queues=2), tmp_path / "out.pcapng"
    frames = flow_frames(50, 100)
    with LiveRig(
        bed, write=WriteConfig(path=str(path)), engine="xdp", filter="ether proto 0x8100", kernel_filter="host"
    ) as rig:
        host = netns.call(bed.name, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        with host:
            host.bind((bed.nics[0].inside, 3))
            host.settimeout(30)
            host.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
            expected = send(bed, frames)
            passed = sorted(host.recv(2048) for _ in range(2 * len(frames)))
        rig.done(len(frames))
        rig.stop()
        check_identity(rig.engine, received=len(expected))
    assert passed == sorted(frames * 2)
    assert sorted(packet.data for packet in read_pcapng(path)) == [f[:12] + TAGS[0x8100] + f[12:] for f in frames]


def refuse(code: bytes, *arguments: object, **more: object) -> bpf.Program:
    raise SystemCallError("cannot load the XDP program", 22)


@pytest.mark.parametrize("lack", ["function", "driver", "program"])
def test_what_the_kernel_lacks_costs_tags_only(tagged: Make, monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    """Without the function, its driver's word or the leave for such a program: a line, and the capture goes on."""
    bed = tagged(queues=1)
    if lack == "function":
        monkeypatch.setattr(metadata.btf, "of_kernel", lambda names: {})
    elif lack == "driver":
        monkeypatch.setattr(metadata.netdev, "features", lambda index: metadata.netdev.Features())
    else:
        monkeypatch.setattr(metadata.btf, "of_kernel", lambda names: dict.fromkeys(names, 1))  # a number of no function
    with LiveRig(bed, engine="xdp") as rig:
        (line,) = netns.call(bed.name, rig.source.warnings)
        assert "offloaded VLAN tags will be missing" in line
        rig.done(len(send(bed, flow_frames(20))))
        rig.stop()
        check_identity(rig.engine)


def test_generic_mode_says_what_it_misses(tagged: Make) -> None:
    bed = tagged(queues=1)
    with LiveRig(bed, engine="xdp", xdp_mode="generic") as rig:
        (line,) = netns.call(bed.name, rig.source.warnings)
        assert "offloaded VLAN tags will be missing" in line


def by_nic(bed: Testbed) -> XdpSource:
    def make() -> XdpSource:
        facts = netlink.interface(bed.nics[0].inside)
        return XdpSource([Nic(facts.name, facts.index, 2, (0, 1))], 4096, by_nic=True)

    return netns.call(bed.name, make)


def test_packets_without_a_time_of_the_nic_have_the_hosts(testbed: Make, tmp_path: Path) -> None:
    """A veth stamps nothing: its packets have the host's time, in UTC."""
    bed, path = testbed(queues=2), tmp_path / "out.pcapng"
    if not needed(bed, TIME):
        pytest.skip("this kernel's veth tells no program of times")
    with LiveRig(bed, write=WriteConfig(path=str(path)), source=by_nic(bed), time_stamps="adapter_unsynced") as rig:
        assert rig.source.describe()["time_stamps"] == {
            "type": "adapter_unsynced", "read_for": "packet", "resolution_ns": 1,
        }  # fmt: skip
        before = time.time_ns()
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(200))
        rig.done(200)
        after = time.time_ns()
        rig.stop()
        check_identity(rig.engine, received=200)
    times = [packet.timestamp for packet in read_pcapng(path)]
    assert len(times) == 200
    assert before - 1_000_000 <= min(times)
    assert max(times) <= after + 1_000_000


def test_who_asks_for_the_time_of_the_nic_gets_it_or_a_refusal(testbed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever is lacking; ``auto`` takes AF_XDP only for a NIC that stamps all packets and tells programs so."""
    bed = testbed(queues=1)
    settings = {"engine": "xdp", "time_stamps": "adapter_unsynced"}
    with pytest.raises(UsageError, match="in generic mode nothing tells the NIC's time"):
        LiveRig(bed, **settings, xdp_mode="generic")
    if needed(bed, TIME):
        with pytest.raises(UsageError, match="cannot timestamp every packet"):
            LiveRig(bed, **settings)
    specs = (QueueSpec.parse(bed.nics[0].inside),)
    config = choose.CaptureConfig(sources=specs, netns=bed.name, time_stamps="adapter_unsynced")
    assert netns.call(bed.name, choose.engine_of, config) == "packet"
    monkeypatch.setattr(choose.ethtool, "timestamps_all", lambda name: True)
    if needed(bed, TIME):
        assert netns.call(bed.name, choose.engine_of, config) == "xdp"
    monkeypatch.setattr(metadata.netdev, "features", lambda index: metadata.netdev.Features(received=6))
    assert netns.call(bed.name, choose.engine_of, config) == "packet"
    with pytest.raises(UsageError, match="does not tell XDP programs its time"):
        LiveRig(bed, **settings)


def test_what_a_veth_tells(testbed: Make) -> None:
    """The kernel's list for a veth is that of its driver; an interface that is not there tells nothing."""
    bed = testbed(queues=1)
    told = netns.call(bed.name, metadata.offered, netlink.index_of("lo"))
    assert told == frozenset()
    assert metadata.offered(0x7FFFFFFF) == frozenset()
    there = netns.call(bed.name, lambda: metadata.offered(netlink.index_of(bed.nics[0].inside)))
    assert there <= {TIME, HASH, TAG}
    assert metadata.metadata() == Metadata()


def hashes_of(bed: Testbed, frames: list[bytes], **config: object) -> dict[bytes, int]:
    """The NIC's hash of each frame, as ``chunk.nic_hashes`` has it."""
    found: dict[bytes, int] = {}
    with (
        Wire(bed.nics[0].outside) as wire,
        wirecap.open(bed.nics[0].inside, netns=bed.name, engine="xdp", nic_hash=True, **config) as capture,  # type: ignore[arg-type]
    ):
        wire.send(frames)
        left = len(frames)
        for chunk in capture:
            assert chunk.nic_hashes.dtype == np.uint32
            found |= {bytes(packet): int(told) for packet, told in zip(chunk, chunk.nic_hashes, strict=True)}
            left -= len(chunk)
            if not left:
                break
    return found


@pytest.mark.parametrize("size", [60, 1514, 5000])
def test_hashes_of_the_nic(testbed: Make, size: int) -> None:
    """Packets of a flow have the same, those of different flows nearly all another; also frames of several cells."""
    bed = testbed(queues=2, mtu=9000)
    if not needed(bed, HASH):
        pytest.skip("this kernel's veth tells no program of hashes")
    flows = flow_frames(100, size)
    again = [frame[:42] + bytes(8) + frame[50:] for frame in flows]
    found = hashes_of(bed, flows + again)
    assert len(set(found.values()) - {0}) > 95
    assert all(found[one] == found[other] for one, other in zip(flows, again, strict=True))


def test_packets_keep_the_hash(testbed: Make) -> None:
    """A packet has what its chunk has, also when it was read again from its own bytes."""
    bed, frames = testbed(queues=2), flow_frames(100)
    if not needed(bed, HASH):
        pytest.skip("this kernel's veth tells no program of hashes")
    expected, found = hashes_of(bed, frames), {}
    with (
        Wire(bed.nics[0].outside) as wire,
        wirecap.open(bed.nics[0].inside, netns=bed.name, engine="xdp", nic_hash=True) as capture,
    ):
        wire.send(frames)
        for packet in capture.packets():
            assert packet.ip.ttl > 0
            found[packet.data] = packet.nic_hash
            assert packet.field("nic_hash") == packet.nic_hash
            if len(found) == len(frames):
                break
    assert found == expected


HANDLERS = """
import numpy as np
import wirecap

@wirecap.handler(state={"hashes": (np.int64, 100), "packets": np.int64})
def compiled(packet, state):
    state.hashes[packet.u32(46)] = packet.nic_hash
    state.packets += 1

@wirecap.chunk_handler(state={"hashes": (np.int64, 100), "same": np.int64})
def plain(chunk, state):
    told = chunk.nic_hashes
    state.same += int((chunk.decode().nic_hash == told).sum())
    for packet, one in zip(chunk, told):
        state.hashes[int.from_bytes(packet[46:50], "big")] = one
"""


@pytest.mark.parametrize("size", [60, 5000])
@pytest.mark.parametrize("engine", ["xdp", "direct", "packet"])
def test_hashes_in_compiled_handlers(testbed: Make, tmp_path: Path, engine: str, size: int) -> None:
    """A compiled handler has the same of each packet as chunks have; 0 from an engine that cannot ask the NIC."""
    bed, file, asked = testbed(queues=2, mtu=9000), tmp_path / "mine.py", engine != "packet"
    if asked and not needed(bed, HASH):
        pytest.skip("this kernel's veth tells no program of hashes")
    file.write_text(HANDLERS)
    names = [f"{file}:compiled", *([f"{file}:plain"] if asked else [])]
    with LiveRig(bed, engine=engine, handlers=names, nic_hash=asked) as rig:
        warned = rig.application.warnings()
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(100, size))
        rig.done(100)
        rig.stop()
        check_identity(rig.engine, received=100)
    ours, *theirs = (plain(handler.result()) for handler in rig.application.handlers)
    assert ours["packets"] == 100
    assert theirs == ([{"hashes": ours["hashes"], "same": 100}] if asked else [])
    assert len(set(ours["hashes"]) - {0}) > 95 if asked else not any(ours["hashes"])
    assert ["--nic-hash asks the NIC" in line for line in warned] == ([] if asked else [True])


def test_a_packet_without_a_hash_has_0(testbed: Make) -> None:
    """Frames that an XDP program sent come without."""
    bed = testbed(queues=1)
    if not needed(bed, HASH):
        pytest.skip("this kernel's veth tells no program of hashes")
    with (
        wirecap.open(bed.nics[0].inside, netns=bed.name, engine="xdp", nic_hash=True) as capture,
        LiveFrames(bed.nics[0].outside, synthetic.udp(60)) as sender,
    ):
        left = sender.send(500)  # less what the veth's own queue had no room for
        for chunk in capture:
            assert not chunk.nic_hashes.any()
            left -= len(chunk)
            if not left:
                break


def test_who_asks_for_hashes_gets_them_or_a_refusal(testbed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bed = testbed(queues=1)
    for settings, said in (
        ({"xdp_mode": "generic", "engine": "xdp"}, "in generic mode nothing tells the NIC's hash"),
        ({"engine": "packet"}, "does not apply to the packet engine"),
        ({"direction": "inout"}, "would be captured by the packet engine"),
    ):
        with pytest.raises(UsageError, match=said):
            LiveRig(bed, nic_hash=True, **settings)
    with LiveRig(bed, handlers=["count"]) as rig:
        chunk = Chunk(rig.engine.pool, 0, 0, rig.source.queues[0], lambda: None)
        with pytest.raises(UsageError, match="does not ask for the NIC's hashes"):
            chunk.nic_hashes  # noqa: B018
    with LiveRig(bed, nic_hash=True) as rig:
        monkeypatch.setattr(rig.source._hooks[0], "unhashed", lambda queue: 1)
        until(lambda: not rig.engine.running())
        assert "leaves no room for the NIC's hash" in str(rig.engine.failure())
    monkeypatch.setattr(metadata.netdev, "features", lambda index: metadata.netdev.Features(received=5))
    with pytest.raises(UsageError, match="does not tell XDP programs its hash"):
        LiveRig(bed, nic_hash=True)
