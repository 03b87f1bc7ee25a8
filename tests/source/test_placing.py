"""--cpus auto on machines that are not here (trees of files), and on this one."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "linux"))

from machines import BUS, tree

from wirecap.cli import main
from wirecap.kernels.base.jit import PURE
from wirecap.linux import af_xdp, memory, placement, syscall
from wirecap.source import placing
from wirecap.source.source import SourceQueue

QUEUES = [SourceQueue("eth1", number, 0) for number in range(4)]
EACH = [[queue] for queue in QUEUES]


def known(root, interrupts, **machine):
    return {"eth1": placement.place_of(BUS, tree(root, interrupts, **machine))}


def four(*cpus):
    return {f"eth1-TxRx-{queue}": str(cpu) for queue, cpu in enumerate(cpus)}


def test_on_the_nics_node_and_off_its_interrupts(tmp_path):
    """Of eight CPUs on the NIC's node four take interrupts: capture threads get the others, and so do handlers."""
    found = placing.place(EACH, 4, known(tmp_path, four(8, 9, 10, 11)), range(16), tmp_path)
    assert found.cpus == [(12,), (13,), (14,), (15,)] + [(*range(8, 12), *range(12, 16))] * 4
    assert found.lines[0] == "capture 0 on CPU 12 (eth1 queue 0 interrupts CPU 8)"
    assert found.lines[-1] == "other threads on CPUs 8-15"


def test_handlers_get_what_is_left(tmp_path):
    """Two queues on eight CPUs leave four for the others."""
    found = placing.place(EACH[:2], 2, known(tmp_path, four(8, 9)), range(16), tmp_path)
    assert found.cpus == [(10,), (11,), (12, 13, 14, 15), (12, 13, 14, 15)]


def test_too_few_cpus(tmp_path):
    """Where each CPU takes interrupts, a capture thread runs where its queue interrupts; none goes to another node."""
    found = placing.place(EACH, 1, known(tmp_path, four(11, 10, 9, 8), cpus=4, node=2, nodes=3), range(12), tmp_path)
    assert found.cpus[:4] == [(11,), (10,), (9,), (8,)]
    assert set(found.cpus[4]) == {8, 9, 10, 11}


def test_one_thread_for_several_queues(tmp_path):
    """A thread that serves several queues has the CPU that suits its first."""
    found = placing.place([QUEUES[::2], QUEUES[1::2]], 0, known(tmp_path, four(8, 9, 10, 11)), range(16), tmp_path)
    assert found.cpus == [(12,), (13,)]


def test_only_cpus_that_we_may_use(tmp_path):
    """A container's CPUs bound the choice, even if none of them is on the NIC's node."""
    there = known(tmp_path, four(8, 9, 10, 11))
    assert placing.place(EACH[:1], 1, there, [13, 14], tmp_path).cpus == [(13,), (14,)]
    assert placing.place(EACH[:1], 1, there, [2, 3], tmp_path).cpus == [(2,), (3,)]


def test_a_node_but_no_interrupts(tmp_path):
    """Of a driver whose interrupts have other names, the node counts."""
    found = placing.place(EACH[:2], 1, known(tmp_path, {"fancy": "0"}), range(16), tmp_path)
    assert found.cpus == [(8,), (9,), (10, 11, 12, 13, 14, 15)]


def test_nothing_to_know(tmp_path):
    """A NIC without interrupts on a machine of one node: the scheduler decides, and a line says so."""
    found = placing.place(EACH, 4, {"eth1": placement.Place()}, range(4), tmp_path)
    assert found.cpus == []
    assert "the scheduler" in found.lines[0]


def test_cores_before_their_second_threads(tmp_path):
    """Two hardware threads of one core are not taken while another core is free."""
    there = known(tmp_path, four(8, 9))
    for cpu in range(8, 16):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu & ~1},{cpu | 1}\n")
    assert placing.place(EACH[:2], 0, there, range(16), tmp_path).cpus == [(10,), (12,)]


def test_threads_that_stray_are_told(tmp_path):
    """Where threads may run on another node than the NIC's a line says so; not on the NIC's, and not on one node."""
    there = known(tmp_path / "two", four(8, 9))
    (line,) = placing.astray(there, range(16))
    assert "eth1 is on NUMA node 1 (CPUs 8-15)" in line
    assert placing.astray(there, [9, 10]) == []
    assert placing.astray(known(tmp_path / "one", four(0, 1), node=0, nodes=1), range(8)) == []


def test_memory_of_each_queue_on_its_nics_node(monkeypatch):
    """Queues of NICs on two nodes: each part of the arena prefers its NIC's; one node alone is left as it is."""
    asked = []
    monkeypatch.setattr(memory, "prefer_node", lambda part, node: asked.append((part[0], part.size, node)))
    arena = np.repeat(np.arange(3, dtype=np.uint8), 1000)
    queues = [SourceQueue("eth1", 0, 0), SourceQueue("eth2", 0, 1), SourceQueue("eth2", 1, 1)]
    places = {"eth1": placement.Place(0, nodes=2), "eth2": placement.Place(1, nodes=2)}
    placing.keep_near(arena, queues, places)
    assert asked == [(0, 1000, 0), (1, 2000, 1)]
    placing.keep_near(arena, queues, {"eth1": placement.Place(0), "eth2": placement.Place(0)})
    assert len(asked) == 2


_NODE, _ADDRESS = 1, 2  # MPOL_F_NODE, MPOL_F_ADDR: get_mempolicy(2)


def node_of(arena, offset):
    """The node on which a touched byte lies; -1 if the kernel does not say."""
    node = ctypes.c_int(-1)
    address = ctypes.c_void_p(arena.ctypes.data + offset)
    wanted = _NODE | _ADDRESS
    if syscall.libc.syscall(syscall.number("get_mempolicy"), ctypes.byref(node), None, 0, address, wanted):
        return -1
    return node.value


def policy_of(arena, offset=0):
    """(policy, nodes) of the memory at a byte; (-1, []) if the kernel does not say."""
    mode, mask = ctypes.c_int(-1), (ctypes.c_ulong * (memory._MOST_NODES // 64))()
    result = syscall.libc.syscall(
        syscall.number("get_mempolicy"), ctypes.byref(mode), mask, ctypes.c_ulong(memory._MOST_NODES),
        ctypes.c_void_p(arena.ctypes.data + offset), _ADDRESS,
    )  # fmt: skip
    if result:
        return -1, []
    return mode.value, [64 * word + bit for word, bits in enumerate(mask) for bit in range(64) if bits >> bit & 1]


def test_memory_comes_from_the_node():
    """The kernel keeps the policy of just that memory, and its pages lie where they should."""
    arena = af_xdp.transparent(8 << 20)
    if policy_of(arena)[0] < 0:
        pytest.skip("a kernel without NUMA")
    assert memory.prefer_node(arena[4 << 20 :], 0)
    assert policy_of(arena, 0) == (0, [])
    assert policy_of(arena, 5 << 20) == (memory.PREFERRED, [0])
    arena[:] = 1
    assert node_of(arena, 5 << 20) == 0
    assert not memory.prefer_node(arena, 900)


@pytest.mark.live
@pytest.mark.skipif(PURE, reason="the commands run compiled")
def test_a_capture_says_where_its_threads_are(testbed, capfd):
    """On a veth nothing is known; on pretended interrupts each thread is where the line says."""
    bed = testbed(queues=1)
    line = ["capture", "--netns", bed.name, "-i", bed.nics[0].inside, "--duration", "0.1", "--cpus", "auto"]
    assert main.run(line) == 0
    assert "--cpus auto" in capfd.readouterr().err


@pytest.mark.live
@pytest.mark.skipif(PURE, reason="the commands run compiled")
def test_threads_run_there(testbed, monkeypatch, capfd):
    """The kernel's own word for where a capture thread may run is the CPU that was chosen."""
    bed = testbed(queues=1)
    last = max(os.sched_getaffinity(0))
    place = placement.Place(0, tuple(os.sched_getaffinity(0)), (placement.Interrupt(1, 0, (last,), (last,)),), 1)
    monkeypatch.setattr(placing, "places", lambda names: dict.fromkeys(names, place))
    pinned = {}
    pin = os.sched_setaffinity
    monkeypatch.setattr(os, "sched_setaffinity", lambda task, cpus: (pinned.update({task: cpus}), pin(task, cpus)))
    line = ["capture", "--netns", bed.name, "-i", bed.nics[0].inside, "--duration", "0.1", "--cpus", "auto"]
    assert main.run(line) == 0
    said = re.search(r"capture 0 on CPU (\d+) \(\S+ queue 0 interrupts CPU (\d+)\)", capfd.readouterr().err)
    assert said
    assert int(said[2]) == last
    assert (int(said[1]),) in [tuple(cpus) for cpus in pinned.values()]
