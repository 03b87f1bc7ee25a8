"""Mutated packets, files, flows and texts: bench/fuzz.py in short, with the kernels as they are, in every build."""

from __future__ import annotations

import numpy as np
import pytest

import hostile_calls
import hostile_files
import hostile_filters
import hostile_packets
import hostile_peers
import hostile_python
from hostile_dice import CASES, KIND, new_cases, next_cases
from wirecap.kernels.base.jit import CHECKED, PURE, kernel
from wirecap.kernels.base.kinds import byte_array, i64
from wirecap.kernels.file import read as at
from wirecap.kernels.file.index import ROW, index_records, new_blocks
from wirecap.kernels.file.read import scan
from wirecap.kernels.packet.headers import ETHERNET, load32
from wirecap.kernels.packet.headers import at as packet_at

SOME = 1 if PURE else 40
CHUNK = hostile_packets.CHUNK


@pytest.mark.kernel
def test_flows_of_mutated_packets():
    from wirecap.flows.memory import Table
    from wirecap.kernels.flows import layout as f
    from wirecap.kernels.flows.process import process

    cases = new_cases(hostile_packets.seeds(60), hostile_packets.ROOM, seed=5)
    table = Table(100, 30 * 10**9, 120 * 10**9, 2 * 10**9, ETHERNET, waits=False, inner=True, seed=5)
    phase = np.zeros(64, np.int64)
    state = table.state(phase.ctypes.data)
    arena = np.zeros(CHUNK * hostile_packets.ROOM, np.uint8)
    address, captured = np.zeros(CHUNK, np.int64), np.zeros(CHUNK, np.uint32)
    times = np.arange(CHUNK, dtype=np.int64)
    for number in range(10 * SOME):
        end = next_cases(cases, arena, address, captured, CHUNK)
        process(arena[:end], address, captured, captured, times + number * 10**9, CHUNK, state)
        table.take()
    counted = int(table.control[f.FLOW_PACKETS]) + sum(int(table.control[f.OTHERS + kind]) for kind in f.KINDS)
    assert counted == cases.run[CASES] == 10 * SOME * CHUNK
    assert 0 < table.control[f.FLOW_PACKETS] < counted


@pytest.mark.kernel
def test_records_of_mutated_files():
    cases = new_cases(hostile_files.seeds(), hostile_files.ROOM, seed=6)
    known = hostile_files.interfaces()
    row = np.zeros(ROW, np.int64), np.zeros(ROW, np.uint32), np.zeros(ROW, np.uint32), np.zeros(ROW, np.int64)
    arena = np.zeros(hostile_files.ROOM, np.uint8)
    address, captured = np.zeros(1, np.int64), np.zeros(1, np.uint32)
    stops, index = set(), new_blocks(64, size=256)
    for number in range(100 * SOME):
        size = next_cases(cases, arena, address, captured, 1)
        kind = int(cases.run[KIND])
        for reads in (scan, index_records):
            state = np.zeros(at.STATE_WORDS, np.int64)
            state[[at.FORMAT, at.SWAPPED, at.END, at.FINAL]] = kind >> 1 & 1, kind & 1, size, number % 4 > 0
            state[[at.HEADER, at.KNOWN, at.LONGEST_BLOCK]] = 16, hostile_files.INTERFACES, at.MAX_BLOCK
            if reads is scan:
                n = scan(arena[:size], state, known[number % len(known)], *row, ROW)
                assert (row[0][:n] + row[1][:n] <= size).all()
                assert (row[0][:n] >= 0).all()
            else:
                index.counts[:3] = 0, 256, 1
                index.start[0] = 0
                index_records(arena[:size], state, known[number % len(known)], *row, index)
            assert 0 <= state[at.POSITION] <= size
            stops.add((int(state[at.FORMAT]), int(state[at.STOP]), int(state[at.ERROR])))
    assert len(stops) >= (6 if PURE else 10), "the cases reach few of the ways in which a scan can end"


@kernel(i64(byte_array, i64))
def reads_behind(arena, size):
    """What no kernel may do."""
    return load32(packet_at(arena, 0, size, size, 0, ETHERNET), size - 3)


@pytest.mark.kernel
@pytest.mark.skipif(not CHECKED, reason="loads are checked under NUMBA_BOUNDSCHECK=1 and NUMBA_DISABLE_JIT=1")
def test_a_load_behind_the_packet_is_caught():
    with pytest.raises(IndexError, match="outside the packet"):
        reads_behind(np.zeros(64, np.uint8), 20)


@pytest.mark.kernel
def test_filters_on_mutated_packets(monkeypatch: pytest.MonkeyPatch):
    """libpcap's interpreter, native code and, where it can be asked, the Linux kernel agree on each packet."""
    from wirecap.kernels.base import cache

    monkeypatch.setattr(cache, "CACHE_DIR", cache.CACHE_DIR)  # which the target forgets
    target = hostile_filters.Filters(seed=9)
    target.run(6 * hostile_filters.PACKETS)
    assert target.counts()[0] == 6 * hostile_filters.PACKETS
    assert target.by_kernel > 0 or not target.loads


CASES_OF = {"texts": 1500, "captures": 300, "indexes": 150, "calls": 300, "wireshark": 1000, "messages": 500}


@pytest.mark.parametrize("name", CASES_OF)
def test_what_python_reads(name: str):
    target = (hostile_python.TARGETS | hostile_calls.TARGETS | hostile_peers.TARGETS)[name](seed=8)
    try:
        target.run(CASES_OF[name])
    finally:
        target.close()
    tried, said = target.counts()
    assert said > (2 if name == "messages" else tried // 50)


def test_servers_outlive_whatever_clients_say():
    target = hostile_peers.Servers(seed=8)
    try:
        target.run(50)
    finally:
        target.close()
