from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from machines import BUS, tree

from wirecap.linux import ethtool, netlink, placement


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("eth1-TxRx-3", 3), ("i40e-eth1-TxRx-11", 11), ("ice-ens1f0-TxRx-7", 7), ("eth0-Tx-Rx-2", 2), ("eth1-rx-4", 4),
        ("virtio2-input.5", 5), ("mlx5_comp6@pci:0000:81:00.0", 6), ("eth3-rxtx-1", 1), ("bnxt_en-eth1-9", 9),
        ("eth2-fp-8", 8), ("eth1-tx-4", None), ("virtio2-output.5", None), ("virtio2-config", None),
        ("mlx5_async0@pci:0000:81:00.0", None), ("ena-mgmnt@pci:0000:00:05.0", None), ("eth1", None),
        ("ice-ens1f0:misc", None), ("i40e-0000:81:00.0:misc", None),
    ],
)  # fmt: skip
def test_queues_by_the_names_of_drivers(name, queue):
    """Each driver's name for a receive queue's interrupt gives the queue; what else it interrupts for gives none."""
    assert placement.queue_of(name) == queue


def test_a_nic_on_the_second_node(tmp_path):
    """The node, its CPUs and each queue's interrupt are found; those for other things, and other devices', are not."""
    root = tree(tmp_path, {"eth1": "8", "eth1-TxRx-0": "9", "eth1-TxRx-1": "8-15", "eth1-tx-5": "3"})
    place = placement.place_of(BUS, root)
    assert (place.node, place.nodes, place.cpus) == (1, 2, tuple(range(8, 16)))
    assert [(each.number, each.queue, each.effective) for each in place.interrupts] == [(121, 0, (9,)), (122, 1, (8,))]
    assert place.interrupts[1].allowed == tuple(range(8, 16))


def test_what_is_not_known(tmp_path):
    """No bus, no device, no node: nothing is known, and nothing fails; the only node of a machine is the NIC's."""
    assert placement.place_of("", tmp_path) == placement.Place()
    assert placement.place_of("0000:00:99.0", tmp_path).interrupts == ()
    assert placement.place_of(BUS, tree(tmp_path / "a", {}, node=-1)).node == -1
    alone = placement.place_of(BUS, tree(tmp_path / "b", {}, node=-1, nodes=1))
    assert (alone.node, alone.cpus) == (0, tuple(range(8)))


@given(st.sets(st.integers(0, 300)))
def test_lists_of_cpus_there_and_back(numbers):
    """What the kernel writes as 0-3,8 is read, and written the same."""
    text = placement.format_list(tuple(numbers))
    assert set(placement.parse_list(text)) == numbers


def test_one_hardware_thread_of_each_core_first(tmp_path):
    """CPUs whose core is taken come last."""
    for cpu in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert placement.own_cores((0, 1, 4, 5, 6), tmp_path) == (0, 1, 6, 4, 5)


def test_this_machine():
    """A NIC that is on the PCI bus here has CPUs of its node, and interrupts on CPUs that there are."""
    there = [(facts.name, ethtool.bus(facts.name)) for facts in netlink.interfaces()]
    placed = [placement.place_of(bus) for _, bus in there if (Path("/sys/bus/pci/devices") / (bus or "none")).is_dir()]
    if not placed:
        pytest.skip("no NIC on a PCI bus")
    online = set(placement.parse_list(Path("/sys/devices/system/cpu/online").read_text()))
    for place in placed:
        assert set(place.cpus) <= set(placement.parse_list(Path("/sys/devices/system/cpu/possible").read_text()))
        for each in place.interrupts:
            assert set(each.effective) <= online
