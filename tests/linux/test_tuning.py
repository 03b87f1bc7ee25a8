"""What is to be changed, on NICs and machines that are not here (a kernel's answers, trees of files), and on a tap."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from machines import BUS, huge_pages, tree

from wirecap.errors import SystemCallError
from wirecap.linux import ethtool, netns, placement, tuning
from wirecap.linux.ethtool import Coalescing


class Kernel:
    """Answers ethtool's ioctl for a NIC with these settings; ``rounds``: what it makes of a ring size."""

    def __init__(self, **settings):
        self.ring, self.most = settings.get("ring", 512), settings.get("most", 4096)
        self.usecs, self.frames, self.adaptive = settings.get("coalescing", (30, 0, 0))
        self.speed, self.queues = settings.get("speed", 10_000), settings.get("queues", 4)
        self.features = settings.get("features", {})
        self.rounds = settings.get("rounds", lambda size: size)
        self.refused = settings.get("refused", ())
        self.set = []

    def ask(self, name, request, channel=None):
        (command,) = struct.unpack_from("I", request)
        if command in self.refused:
            raise PermissionError(1, "Operation not permitted")
        words = list(struct.unpack(f"{len(request) // 4}I", request[: len(request) // 4 * 4]))
        match command:
            case ethtool.GRINGPARAM:
                words[1], words[5] = self.most, self.ring
            case ethtool.SRINGPARAM:
                assert words[1:5] == [self.most, 0, 0, 0]  # what was read goes back
                self.ring = self.rounds(words[5])
            case ethtool.GCOALESCE:
                words[1], words[2], words[10], words[5] = self.usecs, self.frames, self.adaptive, 77
            case ethtool.SCOALESCE:
                assert words[5] == 77  # what is said of sending stays
                self.usecs, self.frames, self.adaptive = words[1], words[2], words[10]
            case ethtool.GSET:
                words[3], words[7] = self.speed & 0xFFFF, self.speed >> 16
            case ethtool.GCHANNELS:
                words[4], words[8] = 4, self.queues
            case _:
                raise OSError(95, "Operation not supported")
        return struct.pack(f"{len(words)}I", *words)


@pytest.fixture
def kernel(monkeypatch):
    def make(**settings):
        made = Kernel(**settings)
        monkeypatch.setattr(ethtool, "_ask", made.ask)
        monkeypatch.setattr(ethtool, "features", lambda name: dict(made.features))
        monkeypatch.setattr(ethtool, "set_features", lambda name, wanted: made.features.update(wanted))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
        return made

    return make


def changes(place=None, root=Path("/nonesuch")):
    return {each.subject: each for each in tuning.of_interface("eth1", False, place or placement.Place(), root)}


def there_and_back(change, before):
    """It takes effect; what undoes it is the command with what there was before."""
    assert not change.took()
    assert before in change.undo
    change.apply()
    assert change.took()


def test_a_nic_that_is_well_set_up(kernel):
    """Nothing is to be changed where rings are long, coalescing is adaptive and offloads are off."""
    kernel(ring=4096, coalescing=(0, 0, 1), features={"rx-lro": False, "rx-gro": True})
    assert changes() == {}


def test_short_rings(kernel):
    """Rings become as long as they can be; a driver that rounds down still took it, one that ignores it did not."""
    nic = kernel(ring=512, most=4096)
    change = changes()["eth1 rings"]
    assert (change.command, change.undo) == ("ethtool -G eth1 rx 4096", "ethtool -G eth1 rx 512")
    there_and_back(change, "512")
    assert (nic.ring, change.state()) == (4096, "4096 descriptors")
    kernel(rounds=lambda size: 2048)
    there_and_back(changes()["eth1 rings"], "512")
    kernel(rounds=lambda size: 512)
    change = changes()["eth1 rings"]
    change.apply()
    assert not change.took()


@pytest.mark.parametrize(
    ("coalescing", "ring", "wanted", "loses"),
    [
        ((0, 0, 0), 4096, 50, False),  # an interrupt a packet
        ((0, 1, 0), 4096, 50, False),
        ((250, 0, 0), 512, 68, True),  # 10 Gbit/s bring 929 of the shortest frames into each of four queues
        ((250, 0, 0), 4096, None, False),
        ((250, 256, 0), 512, None, False),  # but it interrupts after 256 packets at the latest
        ((0, 0, 1), 512, None, False),
        ((30, 0, 0), 4096, None, False),
    ],
)
def test_coalescing(kernel, coalescing, ring, wanted, loses):
    """An interrupt for each packet wastes the CPU; so long a wait that a ring overflows in it loses packets."""
    nic = kernel(coalescing=coalescing, ring=ring, most=ring)
    found = changes()
    if wanted is None:
        assert found == {}
        return
    change = found["eth1 coalescing"]
    assert change.loses == loses
    assert change.command == f"ethtool -C eth1 rx-usecs {wanted}"
    there_and_back(change, f"rx-usecs {coalescing[0]}")
    assert (nic.usecs, nic.frames) == (wanted, coalescing[1])


def test_what_a_capture_says_of_it(kernel):
    """A capture says what loses packets, with the command that mends it, and leaves the rest to doctor."""
    kernel(coalescing=(250, 0, 0), ring=512, most=4096)
    (line,) = tuning.losing(["eth1"])
    assert line.startswith("eth1 waits 250 us")
    assert line.endswith("(ethtool -C eth1 rx-usecs 68)")
    kernel(coalescing=(0, 0, 0), ring=512, most=4096)
    assert tuning.losing(["eth1"]) == []


def test_idle_queues_and_offloads(kernel):
    """Queues that lie idle are used, what merges frames or takes tags out is switched off; each by itself."""
    nic = kernel(queues=1, ring=1, most=1, coalescing=(9, 0, 1), features={
        "rx-lro": True, "rx-vlan-hw-parse": True, "rx-vlan-stag-hw-parse": False})  # fmt: skip
    found = changes()
    assert found["eth1 queues"].command == "ethtool -L eth1 combined 4"
    there_and_back(found["eth1 merging"], "rx-lro on")
    assert nic.features == {"rx-lro": False, "rx-vlan-hw-parse": True, "rx-vlan-stag-hw-parse": False}
    there_and_back(found["eth1 VLAN tags"], "rx-vlan-hw-parse on")
    assert "stag" not in found["eth1 VLAN tags"].command


def test_refused(kernel):
    """What the kernel refuses is an error with its reason."""
    kernel(refused=(ethtool.SRINGPARAM,))
    with pytest.raises(PermissionError):
        changes()["eth1 rings"].apply()


def spread(root, interrupts, **machine):
    place = placement.place_of(BUS, tree(root, interrupts, **machine))
    return [each for each in tuning.of_interface("eth1", True, place, root) if "interrupt" in each.subject]


def test_interrupts_on_one_cpu_are_spread(tmp_path):
    """Four queues that interrupt one CPU get one each of the NIC's node; the commands write what apply writes."""
    found = spread(tmp_path, {f"eth1-TxRx-{queue}": "8-15" for queue in range(4)})
    assert [each.command for each in found] == [
        f"echo {8 + q} > /proc/irq/{120 + q}/smp_affinity_list" for q in range(4)
    ]
    assert found[0].undo == "echo 8-15 > /proc/irq/120/smp_affinity_list"
    for each in found:
        there_and_back(each, "8-15")
    assert (tmp_path / "proc/irq/123/smp_affinity_list").read_text() == "11"


def test_interrupts_on_another_node_come_home(tmp_path):
    """Interrupts on CPUs of the other node go to the NIC's; those that are well placed are left alone."""
    found = spread(tmp_path, {"eth1-TxRx-0": "8", "eth1-TxRx-1": "2"})
    assert [each.command for each in found] == ["echo 9 > /proc/irq/121/smp_affinity_list"]
    assert "NUMA node 1" in found[0].said


def test_interrupts_that_are_well_placed(tmp_path):
    """One CPU each on the NIC's node: nothing to change; nor where only one queue interrupts or nothing is known."""
    assert not spread(tmp_path / "a", {"eth1-TxRx-0": "9", "eth1-TxRx-1": "8"})
    assert not spread(tmp_path / "b", {"eth1-TxRx-0": "2"})
    assert not spread(tmp_path / "c", {"eth1-TxRx-0": "2", "eth1-TxRx-1": "2"}, node=-1)
    assert not spread(tmp_path / "d", {"eth1-TxRx-0": "0", "eth1-TxRx-1": "0"}, nodes=1, node=0, cpus=1)


@pytest.mark.parametrize(
    ("modes", "reserved", "wanted"),
    [("always madvise [never]", 0, True), ("always [madvise] never", 0, False), ("always madvise [never]", 64, False)],
)
def test_huge_pages(tmp_path, modes, reserved, wanted):
    """Where there are no huge pages at all, those who ask get transparent ones."""
    found = list(tuning.huge_pages(huge_pages(tmp_path, modes, reserved)))
    assert [each.command for each in found] == ["echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"] * wanted
    for each in found:
        each.apply()
        assert (tmp_path / "sys/kernel/mm/transparent_hugepage/enabled").read_text() == "madvise"


@pytest.mark.live
def test_coalescing_of_a_real_device(testbed):
    """The kernel takes what is set, keeps the rest, and tells it again: of a tap, which has no other setting."""
    bed = testbed(queues=1)
    make = ["ip", "netns", "exec", bed.name, "ip", "tuntap", "add", "dev", "tap0", "mode", "tap"]
    if subprocess.run(make, capture_output=True, timeout=20, check=False).returncode:
        pytest.skip("no tap devices")
    assert netns.call(bed.name, ethtool.coalescing, "tap0") == Coalescing(0, 0, False)
    netns.call(bed.name, ethtool.set_coalescing, "tap0", Coalescing(0, 32, False))
    assert netns.call(bed.name, ethtool.coalescing, "tap0") == Coalescing(0, 32, False)
    with pytest.raises((OSError, SystemCallError)):
        netns.call(bed.name, ethtool.set_coalescing, "tap0", Coalescing(50, 32, False))


@pytest.mark.live
def test_what_a_real_device_does_not_have(testbed):
    """A veth has no rings and no coalescing, which is no error; its speed and its queues are known."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    assert netns.call(bed.name, ethtool.coalescing, inside) is None
    assert netns.call(bed.name, ethtool.speed_bps, inside) == 10**10
    assert netns.call(bed.name, ethtool.bus, inside) == ""
    found = netns.call(bed.name, lambda: list(tuning.of_interface(inside, True, placement.Place())))
    assert not [each for each in found if "queues" not in each.subject]
