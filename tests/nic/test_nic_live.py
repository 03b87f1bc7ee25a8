"""Captures on a NIC of a virtual machine: every way into the engine, on kernels that are not this machine's."""

from __future__ import annotations

import subprocess
import time

import pytest

from nic_rig import WAYS, capturing, facts_of, send
from rig import LiveRig, Wire, check_identity, flow_frames, read_pcapng, until
from wirecap.config.capture import PoolConfig, WriteConfig
from wirecap.linux import bpf, ethtool, netns, zero_copy

pytestmark = pytest.mark.live


def ours(packets):
    """Without what a machine itself says on a link that has just come up."""
    return [packet for packet in packets if packet.data[12:14] == b"\x08\x00"]


@pytest.mark.parametrize("mode", ["basic", "advanced"])
@pytest.mark.parametrize("way", WAYS)
def test_every_frame_arrives(nic, frames, tmp_path, way, mode):
    """Each byte of each frame, once, with a time of the capture; what others say on the wire is counted as well."""
    path, begun = tmp_path / "out.pcapng", time.time_ns()
    with capturing(nic, way, mode=mode, T=10, write=WriteConfig(path=str(path))) as rig:
        send(nic, rig, frames)
        rig.stop()
        assert rig.drops() == {}
        found = read_pcapng(path)
        check_identity(rig.engine, received=len(found))
    found = ours(found)
    assert sorted(packet.data for packet in found) == sorted(frames)
    assert all(begun < packet.timestamp < time.time_ns() for packet in found)


@pytest.mark.parametrize("way", WAYS)
def test_a_full_pool_is_accounted(nic, frames, way):
    """A handler that is slow: what finds no cell is a drop with its name."""
    with capturing(nic, way, pool=PoolConfig(8, 20), handlers=["pkt_handler:rate=200"]) as rig:
        with Wire(nic.nics[0].outside) as wire:
            wire.send(frames)
        before = until(rig.ended)
        until(lambda: rig.delivered > before or rig.delivered >= 100)
        rig.stop()
        check_identity(rig.engine)
        assert set(rig.drops()) <= {"pool_exhausted", "capture_late", "rx_ring_full", "nic_no_buffer", "unread_at_stop"}


@pytest.mark.parametrize("way", WAYS)
def test_a_filter_in_the_kernel(nic, frames, way):
    """The kernel rejects what does not match."""
    where = {} if way == "packet" else {"kernel_filter": "drop"}  # that engine's always runs there
    with capturing(nic, way, filter="len > 600", **where) as rig:
        send(nic, rig, frames, lambda frame: len(frame) > 600)
        rig.stop()
        check_identity(rig.engine)
        assert rig.delivered == sum(len(frame) > 600 for frame in frames)


@pytest.mark.parametrize("way", WAYS)
def test_again_and_again(nic, frames, way):
    """Queues, hook and memory are given back: the next capture gets them."""
    for _ in range(3):
        with capturing(nic, way) as rig:
            send(nic, rig, frames[:20])
            rig.stop()
            check_identity(rig.engine)
            assert rig.drops() == {}


def test_frames_that_zero_copy_would_break(nic, frames):
    """With cells whose buffers are too short for the MTU there is copy mode, and a line says so: frames stay whole."""
    driver = facts_of(nic).driver
    if driver not in zero_copy.SINCE or not zero_copy.is_there(driver):
        pytest.skip("zero-copy breaks no frames here")
    with LiveRig(nic, pool=PoolConfig(64, 100), engine="xdp", xdp_mode="native") as rig:
        until(lambda: facts_of(nic).state in ("up", "unknown"))
        assert not rig.source.describe()["zero_copy"]
        (line,) = [line for line in netns.call(nic.name, rig.source.warnings) if "copy mode" in line]
        assert "--cell 4096" in line
        send(nic, rig, frames[:100])
        rig.stop()
        check_identity(rig.engine)
        assert rig.drops() == {}


def test_pieces_of_longer_frames(nic):
    """Frames longer than a zero-copy buffer, on a NIC that breaks them: refused by name, and others stay whole."""
    inside, outside = nic.nics[0].inside, nic.nics[0].outside
    if facts_of(nic).driver not in zero_copy.SPLITTING:
        pytest.skip("this driver breaks no frames")
    set_mtu = ["ip", "-n", nic.name, "link", "set", inside, "mtu"]
    subprocess.run([*set_mtu, "2500"], check=True, timeout=20)
    subprocess.run(["ip", "link", "set", outside, "mtu", "9000"], check=True, timeout=20)
    try:
        with capturing(nic, "zero-copy") as rig:
            sizes = [60, 3500, 128, 2400, 4000, 8000, 700]
            frames = [flow_frames(1, size, first=number)[0] for number, size in enumerate(sizes)]
            pieces = sum(-(-size // 3072) for size in sizes if size > 3000)
            with Wire(outside) as wire:
                wire.send(frames)
            until(lambda: rig.delivered >= 4 and rig.drops().get("oversize") == pieces)
            rig.stop()
            check_identity(rig.engine, received=4 + pieces)
    finally:
        subprocess.run([*set_mtu, "1500"], check=True, timeout=20)
        subprocess.run(["ip", "link", "set", outside, "mtu", "1500"], check=True, timeout=20)


def test_queues_that_come_with_a_program(nic, frames):
    """virtio_net with spare queues gives them to a native program, and devices send packets there: auto avoids that."""
    inside = nic.nics[0].inside
    in_use, most, _ = netns.call(nic.name, ethtool.most_channels, inside) or (0, 0, "")
    few = most - bpf.len_possible_cpus()
    if facts_of(nic).driver != "virtio_net" or few < 1:
        pytest.skip("no queues are added here: that is virtio_net's, with spare ones")
    netns.call(nic.name, ethtool.set_channels, inside, "combined", few)
    try:
        with LiveRig(nic, pool=PoolConfig(64, 100), engine="xdp") as rig:
            assert rig.source.describe()["xdp_mode"] == "generic"
            assert any("adds" in line and f"combined {most}" in line for line in rig.source._notes)
            send(nic, rig, frames)
            rig.stop()
            check_identity(rig.engine)
            assert rig.drops() == {}
    finally:
        netns.call(nic.name, ethtool.set_channels, inside, "combined", in_use)
