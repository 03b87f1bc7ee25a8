"""The NIC's hash in compiled handlers: what lies in front of a packet where the capture asks for it, else 0."""

from __future__ import annotations

import functools
import struct

import numba
import numpy as np
import pytest

import wirecap
from wirecap.handlers.table import bind

pytestmark = pytest.mark.kernel
FRAME = bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x11" + bytes(40)
KIND = 0x80000022
"""What tells a hash from none: a flag of ours, and how the NIC made it."""
TOLD = [(0x9ABCDEF0, KIND), (7, KIND), (7, 0), (0, KIND), (0xFFFFFFFF, 0), (0xFFFFFFFF, KIND)]
"""(hash, kind) in front of each packet."""


@wirecap.handler(
    state={
        "hashes": (np.int64, len(TOLD)), "protocols": np.int64, "packets": np.int64,
        "counted": wirecap.Counter("nic_hash"),
    }
)  # fmt: skip
def hashes(packet, state):
    state.hashes[state.packets] = packet.nic_hash
    state.packets += 1
    state.protocols += packet.protocol
    state.counted.add(packet)


@wirecap.handler
def retag(packet, state):
    if packet.vlan:
        packet.pop_vlan()
    else:
        packet.push_vlan(5)


@functools.cache
def compiled(user):
    found = bind(user)
    found.compile(lambda name: None)
    return found


def chunk():
    """Packets in one arena, each behind its hash: (arena, addresses, captured, original, times)."""
    data = b"".join(struct.pack("<QII", 0, *told) + FRAME for told in TOLD)
    count, step = len(TOLD), 16 + len(FRAME)
    size = np.full(count, len(FRAME), np.uint32)
    address, times = 16 + step * np.arange(count), np.zeros(count, np.int64)
    return np.frombuffer(data, np.uint8).copy(), address, size, size.copy(), times


def handle(handler, rows, hashed: bool, editable: bool = False) -> object:
    """A thread's life; returns its result."""
    handler.records._bytes.clear()
    handler.connect([1], keep_going=False, editable=editable, hashed=hashed)
    assert handler.process(*rows, len(TOLD), handler.state(0)) == 0
    return handler.result()


WANTED = [hashed if kind else 0 for hashed, kind in TOLD]


def test_a_handler_has_the_nics_hash():
    """A number of 32 bits, 0 for a packet without one; the other fields stay as they are, and counters know it."""
    result = handle(compiled(hashes), chunk(), hashed=True)
    assert result["hashes"].tolist() == WANTED
    assert result["protocols"] == 17 * len(TOLD)
    assert dict(result["counted"]) == {0x9ABCDEF0: 1, 7: 1, 0: 1, 0xFFFFFFFF: 1}
    assert result["counted"].without == 2


def test_nobody_asked():
    """What lies in front of packets is not taken for a hash where the capture does not ask for it."""
    result = handle(compiled(hashes), chunk(), hashed=False)
    assert result["hashes"].tolist() == [0] * len(TOLD)
    assert result["counted"].without == len(TOLD)


def test_a_packet_at_the_arenas_begin():
    """There is nothing in front of it to read."""
    rows = chunk()
    rows[1][0] = 7
    assert handle(compiled(hashes), rows, hashed=True)["hashes"].tolist() == [0, *WANTED[1:]]


def test_behind_a_handler_that_moves_packets():
    """A tag that one handler pushes or pops moves the packet's begin; the next one finds the hash there."""
    rows = chunk()
    for moved in (-4, 0):
        handle(compiled(retag), rows, hashed=True, editable=True)
        assert rows[1][0] == 16 + moved
        assert handle(compiled(hashes), rows, hashed=True, editable=True)["hashes"].tolist() == WANTED


@numba.njit
def spread(packet):
    return packet.nic_hash % 4


@wirecap.handler(state={"to": (np.int64, 4)})
def through_a_function(packet, state):
    state.to[spread(packet)] += 1


@wirecap.handler(state={"counted": wirecap.Counter("nic_hash")})
def in_a_table(packet, state):
    state.counted.add(packet)


@wirecap.handler
def others(packet, state):
    state.packets += packet.protocol != 0


@wirecap.handler
def in_a_comprehension(packet, state):
    state.parts += sum([packet.nic_hash & 1 << bit for bit in range(4)])


@wirecap.handler
def counts_under_its_name(packet, state):
    state.nic_hash += packet.protocol != 0


def test_who_reads_it():
    """Whoever does without asking the NIC gets a line, so it is found in functions that are called, and in tables."""
    reading = (hashes, through_a_function, in_a_table, in_a_comprehension)
    assert [one.reads("nic_hash") for one in (*reading, others, counts_under_its_name)] == [True] * 4 + [False] * 2


def test_in_a_file(tmp_path, caplog):
    """Where there is no NIC, it is 0 in every kind of handler, and a line says so."""
    path = tmp_path / "in.pcap"
    header = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    record = struct.pack("<IIII", 1, KIND, len(FRAME), len(FRAME)) + FRAME
    path.write_bytes(header + record * len(TOLD))
    assert list(wirecap.capture(str(path), hashes).result["hashes"]) == [0] * len(TOLD)
    assert [record.message for record in caplog.records] == [
        "handler hashes reads packet.nic_hash, which is 0 here: files have none"
    ]
    with wirecap.open(str(path)) as capture:
        assert {(packet.nic_hash, packet.field("nic_hash")) for packet in capture.packets()} == {(0, 0)}
    with wirecap.open(str(path)) as capture:
        (fields,) = [chunk.decode("nic_hash") for chunk in capture]
    assert fields.nic_hash.tolist() == [0] * len(TOLD)
    assert fields.nic_hash.dtype == np.uint32
